"""Guards: who may come in, where they are sent otherwise, and where they go back to afterwards.

A refusal is a Werkzeug exception that brings its response along, so any error handler of the app
has its say and none is registered here.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from urllib.parse import quote, urlsplit

from flask import jsonify, redirect, request, url_for
from werkzeug.exceptions import Forbidden
from werkzeug.routing import BuildError

from .api import current_session
from .errors import ConfigurationError, FreshLoginRequired, LoginRequired, RoleRequired
from .request import request_state
from .settings import config_key
from .state import app_state

P = t.ParamSpec("P")
R = t.TypeVar("R")

_MAX_NEXT_CHARS = 2048
_SAFE_IN_PATH = "!$&'()*+,/:;=@"


def login_required(view: Callable[P, R]) -> Callable[P, R]:
    """Lets only signed-in users into a view, sync or async; see `LoginRequired`.

    A browser asking for a page is sent to `KVSESSION_LOGIN_VIEW`; anything else gets 401. For a
    whole blueprint, put it over a `@bp.before_request` function.
    """
    return _guarded(view, require_login)


def fresh_login_required(view: Callable[P, R]) -> Callable[P, R]:
    """Lets in only users who proved who they are within `KVSESSION_FRESH_FOR`.

    Others are sent to `KVSESSION_CONFIRM_VIEW`, or get 401; see `confirm_login`
    (OWASP ASVS 5.0, 7.5.1).
    """
    return _guarded(view, require_fresh_login)


def roles_required(*roles: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets in only users who have any of these roles; others get 403.

    The roles are what the session's data has under `"role"` (one) or `"roles"` (several).
    """
    if not roles or not all(isinstance(role, str) for role in roles):
        raise TypeError('roles_required takes names of roles: @roles_required("admin").')

    def check() -> None:
        _require_role(frozenset(roles))

    return lambda view: _guarded(view, check)


def next_url(default: str) -> str:
    """Where to go after the login: this request's `next`, from the form or else the query, if it
    is a path within this site; otherwise `default` (OWASP ASVS 5.0, 3.7.2)."""
    for wanted in (request.form.get("next"), request.args.get("next")):
        if wanted is not None:
            return wanted if _is_within_site(wanted) else default
    return default


def cross_origin_guard() -> None:
    """Refuses posts from other sites' pages with 403: `app.before_request(cross_origin_guard)`.

    Browsers say where a request comes from; requests that say nothing are not from a browser and
    pass, and so do `KVSESSION_TRUSTED_ORIGINS`. The algorithm is that of Go's
    `http.CrossOriginProtection` (OWASP ASVS 5.0, 3.5.1).
    """
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    site = request.headers.get("Sec-Fetch-Site")
    if site in ("same-origin", "none"):
        return
    if not site and _origin_is_host():
        return
    if request.headers.get("Origin") in app_state().settings.trusted_origins:
        return
    raise _other_site()


def _other_site() -> Forbidden:
    refusal = Forbidden("This request was sent by another site.")
    if not wants_page():
        refusal.response = jsonify(error="Forbidden")
        refusal.response.status_code = 403
    return refusal


def guard_paths() -> None:
    """Lets only signed-in users into `KVSESSION_PROTECTED_PATHS`."""
    settings = app_state().settings
    if request.endpoint is not None and request.endpoint == settings.login_view:
        return  # or nobody could ever sign in
    if any(_covers(pattern, request.path) for pattern in settings.protected_paths):
        _let_in(require_login)


def require_login(back_to: str | None = None) -> None:
    """Raises `LoginRequired` for a visitor. A browser comes back to `back_to` afterwards, or to
    the page it asked for: a post cannot be repeated, so one names the page that its form is on."""
    try:
        request_state().require_user()
    except LoginRequired as refusal:
        _send_to("login_view", refusal, back_to)
        raise


def require_fresh_login(back_to: str | None = None) -> None:
    """Raises `FreshLoginRequired` too, where the user proved who they are too long ago."""
    require_login(back_to)
    if not current_session.is_fresh:
        refusal = FreshLoginRequired()
        _send_to("confirm_view", refusal, back_to)
        raise refusal


def wants_page() -> bool:
    """Whether a browser asks for a page, rather than a program for JSON."""
    return any(
        kind.partition(";")[0].strip().lower() == "text/html" and quality > 0
        for kind, quality in request.accept_mimetypes
    )


def url_of_view(setting: str, **query: t.Any) -> str | None:
    """The URL of the app's view that this setting names; None where it names none."""
    endpoint = getattr(app_state().settings, setting)
    if endpoint is None:
        return None
    try:
        return url_for(endpoint, **query)
    except BuildError:
        raise ConfigurationError(
            f"{config_key(setting)} is {endpoint!r}, and the app has no such endpoint; give the"
            " name of a view, such as 'auth.login', not its URL."
        ) from None


def _guarded(view: Callable[P, R], check: Callable[[], object]) -> Callable[P, R]:
    """What other decorators see is a coroutine function again where it was one before."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        _let_in(check)
        return view(*args, **kwargs)

    @wraps(view)
    async def guarded_coroutine(*args: P.args, **kwargs: P.kwargs) -> t.Any:
        _let_in(check)
        return await t.cast(t.Any, view)(*args, **kwargs)

    is_coroutine = iscoroutinefunction(view)
    return t.cast("Callable[P, R]", guarded_coroutine) if is_coroutine else guarded


def _let_in(check: Callable[[], object]) -> None:
    # A browser asks with OPTIONS, and without cookies, whether it may send the real request.
    if request.method != "OPTIONS":
        check()


def _require_role(roles: frozenset[str]) -> None:
    require_login()
    several = current_session.get("roles")
    held = [current_session.get("role")]
    held += several if isinstance(several, list | tuple | set) else []
    if not any(isinstance(role, str) and role in roles for role in held):
        raise RoleRequired


def _send_to(
    setting: str, refusal: LoginRequired | FreshLoginRequired, back_to: str | None
) -> None:
    """Makes the refusal a redirect, for a browser that asks for a page."""
    if not wants_page():
        return
    here = back_to or (_this_url() if request.method == "GET" else None)
    target = url_of_view(setting, next=here)
    if target is None:
        return
    refusal.response = redirect(target)
    refusal.response.vary.update(("Accept", "Cookie"))
    refusal.response.headers["Cache-Control"] = "no-store"


def _this_url() -> str | None:
    """The path and query that were asked for, as a safe `next`; never the Host header's word."""
    path = quote(request.root_path + request.path, safe=_SAFE_IN_PATH)
    query = quote(request.query_string, safe=_SAFE_IN_PATH + "?%[]")
    url = f"{path}?{query}" if query else path
    return url if _is_within_site(url) else None


def _is_within_site(url: str) -> bool:
    # Browsers read "\" as "/" and skip tabs and line ends, so "/\evil" leaves the site.
    return (
        len(url) <= _MAX_NEXT_CHARS
        and url.startswith("/")
        and not url.startswith("//")
        and "\\" not in url
        and not any(char < " " or char == "\x7f" for char in url)
    )


def _covers(pattern: str, path: str) -> bool:
    stem = pattern.removesuffix("/*").rstrip("/")
    # A route may answer with and without a slash at the end.
    return path.rstrip("/") == stem or (pattern.endswith("/*") and path.startswith(f"{stem}/"))


def _origin_is_host() -> bool:
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    return host != "" and host == request.host
