"""The views of the devices pages. They use the same functions as an app's own views.

Every view answers with a page or with JSON, as the request's `Accept` asks. A request that ends
sessions is a POST or a DELETE and must not come from another site. A browser is then redirected to
the list, which names the ended sessions once (`notice`). `flash()` is not used for that, because it
needs a `flask.session`, which an app may not have.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Callable, Sequence
from functools import wraps

from flask import Blueprint, current_app, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask.wrappers import Response
from werkzeug.exceptions import Conflict, NotFound

from ..api import current_session, list_sessions, revoke_many, revoke_one
from ..app_state import app_state
from ..current import request_session
from ..errors import FreshLoginRequired
from ..guards import (
    cross_origin_guard,
    login_required,
    require_fresh_login,
    require_login,
    url_of_view,
    wants_page,
)
from ..record import SessionInfo, from_ms
from ..token import user_hash
from .notice import delete_notice, notice_of, received_notice, send_notice
from .rows import Locator, Row, as_json
from .texts import language, ntranslate, translate

PER_PAGE = 20
"""How many of the other sessions one page shows."""

PER_JSON_PAGE = 100
"""How many of the other sessions one JSON response has: all of them, with the default limit.

Each session costs a response up to 2 ms, because its user agent must be parsed."""

# Sent with our own base page only: an app's layout may need what this policy forbids. It has no
# form-action, because browsers also apply form-action to the redirect after a form, and an app's
# sign-in page may be on another site.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)

# Sent with every response, also in an app's layout: no other page may show these pages in a frame
# and trick a user into a click.
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}

USER_FIELD = "kvs-user"
"""The hidden field of each form that says which user the page was made for."""

P = t.ParamSpec("P")

sessions_blueprint: Blueprint = Blueprint(
    "kvsession",
    __name__,
    static_folder="static",
    # Not "/static": with an empty prefix, that is the URL of the app's own static files.
    static_url_path="/kvsession-static",
    template_folder="templates",
)


# Before and after every view

sessions_blueprint.before_request(cross_origin_guard)


@sessions_blueprint.after_request
def add_headers(response: Response) -> Response:
    """Forbid caching, frames, and embedding by other sites (OWASP ASVS 5.0, 3.4.5, 3.4.6, 3.5.8
    and 14.3.2)."""
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if not str(request.endpoint).endswith(".static"):
        response.headers["Cache-Control"] = "no-store"
        response.vary.update(("Accept", "Cookie"))
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
    return response


def revocation_guard(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Require a login, and with `KVSESSION_FRESH_TO_REVOKE` a fresh one.

    After signing in or confirming, a browser returns to the list, where the same question is open
    again, and the user has to answer it: the browser does not repeat the POST.
    """

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        url_of_view("login_view")  # raises for an unknown endpoint, before anything is ended
        back_to = _list_url(open=kwargs.get("session_id") or view.__name__.removeprefix("revoke_"))
        require_login(back_to)
        _require_form_of_this_user()
        if app_state().settings.fresh_to_revoke:
            _require_fresh_login(back_to)
        return view(*args, **kwargs)

    return guarded


def _require_form_of_this_user() -> None:
    """Raise `Conflict` if the form is on a page that was made for another user.

    Users share a browser: the page of one user may still be open when another user has signed in.
    A request without the field, such as a program's, is not refused.
    """
    if not wants_page() or not current_session.is_authenticated:
        return
    if request.form.get(USER_FIELD, _form_user()) != _form_user():
        response = _render_page("other_user.html", back_to=_list_url())
        response.status_code = 409
        refusal = Conflict("This page was made for another user.", response)
        request_session().events.log_refusal(refusal)
        raise refusal


def _form_user() -> str | None:
    """The value of USER_FIELD in the current user's forms: a hash of the user id."""
    user_id = current_session.user_id
    return None if user_id is None else user_hash(user_id)


def _require_fresh_login(back_to: str) -> None:
    try:
        require_fresh_login(back_to)
    except FreshLoginRequired as refusal:
        if wants_page() and not _has_confirm_view():
            refusal.response = _render_page("stale.html", back_to=_list_url())
            refusal.response.status_code = 401
        raise


def _has_confirm_view() -> bool:
    return app_state().settings.confirm_view is not None


# Views


@sessions_blueprint.get("/")
@login_required
def index() -> ResponseReturnValue:
    """List the user's sessions: the current one first, the others by last activity. Only the first
    page has the current one."""
    sessions = list_sessions()
    current = [session for session in sessions if session.is_current] or _current_session_info()
    others = [session for session in sessions if not session.is_current]
    per_page = PER_PAGE if wants_page() else PER_JSON_PAGE
    pages = max(1, -(-len(others) // per_page))
    page = min(_number_in_query("page") or 1, pages)
    current = current if page == 1 else []
    shown = others[(page - 1) * per_page : page * per_page]
    locate = Locator()
    if not wants_page():
        rows = [as_json(session, locate) for session in current + shown]
        return {"sessions": rows, "page": page, "pages": pages}

    now, must_confirm = from_ms(app_state().now()), app_state().settings.fresh_to_revoke
    response = _render_page(
        "sessions.html",
        current=[Row.of(session, locate, now) for session in current],
        others=[Row.of(session, locate, now) for session in shown],
        others_count=len(others),
        page=page,
        pages=pages,
        now=now,
        notice=received_notice(),
        opened=request.args.get("open"),
        user_field=USER_FIELD,
        form_user=_form_user(),
        asks_password=must_confirm and not current_session.is_fresh,
        is_confirmed=must_confirm and current_session.is_fresh,
        can_confirm=_has_confirm_view(),
    )
    delete_notice(response)
    return response


@sessions_blueprint.post("/<session_id>/revoke")
@sessions_blueprint.delete("/<session_id>", endpoint="delete")
@revocation_guard
def revoke(session_id: str) -> ResponseReturnValue:
    """End one of the user's sessions. 404 for another user's session and for an unknown id."""
    ended = revoke_one(session_id)
    if ended is None:
        raise _not_found()
    return _ended_response([ended])


@sessions_blueprint.post("/revoke-others")
@revocation_guard
def revoke_others() -> ResponseReturnValue:
    """End all of the user's sessions except the current one."""
    return _ended_response(revoke_many(except_current=True))


@sessions_blueprint.post("/revoke-all")
@revocation_guard
def revoke_all() -> ResponseReturnValue:
    """End all of the user's sessions, including the current one.

    If the user's index was lost, `revoke_many` does not find the current session, so it is ended
    explicitly.
    """
    ended = revoke_many()
    if not current_session.is_authenticated:
        return _ended_response(ended)
    request_session().log_out()
    return _signed_out_response(len(ended) + 1)


@sessions_blueprint.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """End the current session. Needs no login: the cookie is deleted in any case."""
    url_of_view("login_view")
    _require_form_of_this_user()
    # Not `logout_user`: it refuses in an app that signs users in and out by itself.
    return _signed_out_response(int(request_session().log_out()))


# Responses


def _ended_response(ended: Sequence[SessionInfo]) -> ResponseReturnValue:
    """The response of a view that has ended these sessions."""
    if not current_session.is_authenticated:
        return _signed_out_response(len(ended))
    if not wants_page():
        return {"revoked": len(ended)}
    response = redirect(_list_url(), 303)
    send_notice(response, notice_of(ended))
    return response


def _signed_out_response(count: int) -> ResponseReturnValue:
    """The response of a view that has ended `count` sessions, the current one too."""
    if not wants_page():
        return {"revoked": count}
    login_url = url_of_view("login_view", ended=count)
    return redirect(login_url, 303) if login_url else _render_page("signed_out.html", ended=count)


def _not_found() -> NotFound:
    """A 404 with our page or JSON, logged as a refusal: it may be an attempt to end another user's
    session. An error handler of the app replaces it."""
    if wants_page():
        response = _render_page("not_found.html", back_to=_list_url())
    else:
        response = make_response({"error": "NotFound"})
    response.status_code = 404
    refusal = NotFound("There is no such session.", response)
    request_session().events.log_refusal(refusal)
    return refusal


def _render_page(template: str, **values: t.Any) -> Response:
    headers = {}

    def send_policy() -> str:
        """Called by our base page only: a base page of the app may need what POLICY forbids."""
        headers["Content-Security-Policy"] = POLICY
        return ""

    values |= {"send_policy": send_policy, "translate": translate, "ntranslate": ntranslate}
    values |= {"language": language, "home_url": _home_url()}
    response = make_response(render_template(f"kvsession/{template}", **values))
    response.headers.update(headers)
    return response


def _home_url() -> str | None:
    """The URL of the app's start page. None if the app answers no GET there."""
    adapter = current_app.create_url_adapter(request)
    has_home = adapter is not None and adapter.test("/", method="GET")
    return f"{request.script_root}/" if has_home else None


def _list_url(**query: t.Any) -> str:
    """The URL of the list, with the page number that the request came from."""
    page = _number_in_query("page")
    return url_for(".index", page=page if page and page > 1 else None, **query)


def _number_in_query(name: str) -> int | None:
    """A number of up to four digits from the query. None for anything else."""
    text = request.args.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) else None


def _current_session_info() -> list[SessionInfo]:
    """The current session from its record. Used if the user's index was lost."""
    info = current_session.info()
    return [info] if info else []
