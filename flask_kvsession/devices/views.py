"""The requests of the devices pages. They speak the thin verbs that any app's views speak.

Every answer is a page or JSON, as `Accept` asks. What changes something is a post (or DELETE),
comes from no other site, and leads back to the list with the number of ended sessions in the URL:
`flash()` would need a `flask.session`, which an app may not have.
"""

from __future__ import annotations

import logging
import re
import time
import typing as t
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask.wrappers import Response
from werkzeug.exceptions import NotFound

from ..api import (
    current_session,
    list_sessions,
    revoke_all_sessions,
    revoke_session,
)
from ..errors import FreshLoginRequired
from ..guards import (
    cross_origin_guard,
    login_required,
    require_fresh_login,
    require_login,
    url_of_view,
    wants_page,
)
from ..record import SessionInfo
from ..request import request_state
from ..state import app_state
from .describe import Device, ago, describe
from .texts import ntranslate, translate

log = logging.getLogger("flask_kvsession")

PER_PAGE = 20
"""How many other sessions a page shows; the JSON has them all."""

# It goes with our own base page only: an app's layout may need what this forbids. No form-action:
# browsers hold it against the redirect too, and the app may sign in on another site.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)

LOCATE_SECONDS = 1.0
"""How long one answer may wait for the names of places."""

P = t.ParamSpec("P")

sessions_blueprint = Blueprint(
    "kvsession",
    __name__,
    static_folder="static",
    static_url_path="/kvsession-static",  # below "" or "/" too, where the app's own is "/static"
    template_folder="templates",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One session as the pages show it."""

    session: SessionInfo
    device: Device
    place: str | None
    ago: str | None


# Around every view

sessions_blueprint.before_request(cross_origin_guard)


@sessions_blueprint.after_request
def add_headers(response: Response) -> Response:
    """No cache keeps a page, and no other site embeds one (OWASP ASVS 5.0, 3.5.8 and 14.3.2)."""
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if not str(request.endpoint).endswith(".static"):
        response.headers["Cache-Control"] = "no-store"
        response.vary.update(("Accept", "Cookie"))
    return response


def may_revoke(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Lets in who is signed in, and with `KVSESSION_FRESH_TO_REVOKE` has lately proved it; a
    browser comes back to the list, where the form was, and is told to choose again."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        url_of_view("login_view")  # one that is not there is an error before anything has ended
        if app_state().settings.fresh_to_revoke:
            _require_fresh_login()
        else:
            require_login(back_to=_list_url())
        return view(*args, **kwargs)

    return guarded


def _require_fresh_login() -> None:
    try:
        require_fresh_login(back_to=_list_url(confirmed=1))
    except FreshLoginRequired as refusal:
        if wants_page() and not _can_confirm():
            refusal.response = _page("stale.html", back_to=_list_url())
            refusal.response.status_code = 401
        raise


def _can_confirm() -> bool:
    return app_state().settings.confirm_view is not None


# Views


@sessions_blueprint.get("/")
@login_required
def index() -> ResponseReturnValue:
    """Where the user is signed in: the current session first, the rest by last activity."""
    sessions = list_sessions()
    current = [session for session in sessions if session.is_current] or [_current()]
    others = [session for session in sessions if not session.is_current]
    locate = _Locator()
    if not wants_page():
        return {"sessions": [_as_json(session, locate) for session in current + others]}

    pages = max(1, -(-len(others) // PER_PAGE))
    page = min(_number("page") or 1, pages)
    shown = others[(page - 1) * PER_PAGE : page * PER_PAGE]
    return _page(
        "sessions.html",
        current=[_row(session, locate) for session in current] if page == 1 else [],
        others=[_row(session, locate) for session in shown],
        others_count=len(others),
        page=page,
        pages=pages,
        ended=_number("ended"),
        confirmed=_number("confirmed"),
        asks_password=app_state().settings.fresh_to_revoke and not current_session.is_fresh,
        can_confirm=_can_confirm(),
    )


@sessions_blueprint.post("/<session_id>/revoke")
@sessions_blueprint.delete("/<session_id>", endpoint="delete")
@may_revoke
def revoke(session_id: str) -> ResponseReturnValue:
    """Ends one of the user's sessions; 404 for any other, be it another user's or nobody's."""
    if not revoke_session(session_id):
        raise _not_found()
    return _ended(1)


@sessions_blueprint.post("/revoke-others")
@may_revoke
def revoke_others() -> ResponseReturnValue:
    """Ends all of the user's sessions but this one."""
    return _ended(revoke_all_sessions(except_current=True))


@sessions_blueprint.post("/revoke-all")
@may_revoke
def revoke_all() -> ResponseReturnValue:
    """Ends all of the user's sessions, this one too, even where no list shows it."""
    count = revoke_all_sessions()
    if current_session.is_authenticated:
        request_state().logout()
        count += 1
    return _ended(count)


@sessions_blueprint.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Ends this session. It needs no fresh login, and none at all: the cookie goes in any case."""
    url_of_view("login_view")
    was_signed_in = current_session.is_authenticated
    request_state().logout()  # also in an app that signs users in and out by itself
    return _ended(int(was_signed_in))


# Answers


def _ended(count: int) -> ResponseReturnValue:
    """What a view says that has ended this many sessions."""
    if not wants_page():
        return {"revoked": count}
    if current_session.is_authenticated:
        return redirect(_list_url(ended=count), 303)
    login_url = url_of_view("login_view", ended=count)
    return redirect(login_url, 303) if login_url else _page("signed_out.html", ended=count)


def _not_found() -> NotFound:
    """404 with our page or JSON, unless a handler of the app says it better."""
    if wants_page():
        response = _page("not_found.html", back_to=_list_url())
    else:
        response = make_response({"error": "NotFound"})
    response.status_code = 404
    return NotFound("There is no such session.", response)


def _page(template: str, **values: t.Any) -> Response:
    headers = {}

    def send_policy() -> str:
        """Called by our own base page, and so not by an app's."""
        headers["Content-Security-Policy"] = POLICY
        headers["Referrer-Policy"] = "same-origin"
        return ""

    values |= {"send_policy": send_policy, "translate": translate, "ntranslate": ntranslate}
    response = make_response(render_template(f"kvsession/{template}", **values))
    response.headers.update(headers)
    return response


def _list_url(**query: t.Any) -> str:
    """The list, on the page that the form was on."""
    page = _number("page")
    return url_for(".index", page=page if page and page > 1 else None, **query)


def _number(name: str) -> int | None:
    """A small number of the query; None for anything else, which is never shown."""
    text = request.args.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) else None


def _current() -> SessionInfo:
    """The current session, where the user's index has been lost."""
    stored = request_state().session.stored
    assert stored is not None, "nobody looks at the list who is not signed in"
    return app_state().store.info(stored, is_current=True)


def _as_json(session: SessionInfo, locate: _Locator) -> dict[str, t.Any]:
    return {
        "id": session.id,
        "current": session.is_current,
        "device": describe(session.user_agent).name,
        "ip_address": session.ip_address,
        "location": locate(session.ip_address),
        "created_at": _iso(session.created_at),
        "last_seen_at": _iso(session.last_seen_at),
        "expires_at": _iso(session.expires_at),
    }


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _row(session: SessionInfo, locate: _Locator) -> Row:
    return Row(
        session=session,
        device=describe(session.user_agent),
        place=locate(session.ip_address),
        ago=ago(session.last_seen_at),
    )


class _Locator:
    """Asks `KVSESSION_LOCATE`, once for each address of an answer. After a failure, or when it has
    taken too long, it asks no more: places are a help, and who looks for an intruder must not be
    kept from it by them."""

    def __init__(self) -> None:
        self._hook = app_state().settings.locate
        self._deadline = time.monotonic() + LOCATE_SECONDS
        self._known: dict[str, str | None] = {}

    def __call__(self, ip_address: str | None) -> str | None:
        if ip_address is None or self._hook is None:
            return None
        if ip_address not in self._known and time.monotonic() < self._deadline:
            self._known[ip_address] = self._ask(self._hook, ip_address)
        return self._known.get(ip_address)

    def _ask(self, hook: Callable[[str], str | None], ip_address: str) -> str | None:
        try:
            place = hook(ip_address)
        except Exception:
            log.exception("KVSESSION_LOCATE failed; this list goes without places")
            self._hook = None
            return None
        return str(place) if isinstance(place, str) and place else None
