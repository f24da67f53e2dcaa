"""Guards: they refuse requests, and redirect browsers to the sign-in page.

A refusal is a Werkzeug exception with a prebuilt response. So every error handler of the app takes
precedence, and the extension registers none.
"""

from __future__ import annotations

import logging
import re
import typing as t
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from urllib.parse import quote, urlsplit

from flask import current_app, jsonify, redirect, request, url_for
from werkzeug.exceptions import Forbidden
from werkzeug.routing import BuildError

from . import decorator_order, errors
from .api import current_session
from .app_state import app_state
from .current import request_session
from .errors import (
    BoundDeviceRequired,
    ConfigurationError,
    FreshLoginRequired,
    LoginRequired,
    RoleRequired,
)
from .settings import Settings, config_key

P = t.ParamSpec("P")
R = t.TypeVar("R")
F = t.TypeVar("F", bound=Callable[..., t.Any])

_MAX_NEXT_CHARS = 2048
_SAFE_IN_PATH = "!$&'()*+,/:;=@"


def _without_parentheses(decorator: F) -> F:
    """Gives a decorator that takes a view a clear error for `@decorator()` and other mistakes."""

    @wraps(decorator)
    def checked(*args: t.Any, **kwargs: t.Any) -> t.Any:
        if len(args) != 1 or kwargs or not callable(args[0]):
            name = decorator.__name__
            raise TypeError(f"{name} takes a view and nothing else: write @{name}, without ().")
        return decorator(*args)

    return t.cast(F, checked)


@_without_parentheses
def login_required(view: Callable[P, R]) -> Callable[P, R]:
    """Lets only signed-in users call a view, sync or async; others get `LoginRequired`.

    A browser that asks for a page is redirected to `KVSESSION_LOGIN_VIEW`; any other request gets
    401. For a whole blueprint, put it over a `@bp.before_request` function.
    """
    return _guarded(view, require_login)


@_without_parentheses
def fresh_login_required(view: Callable[P, R]) -> Callable[P, R]:
    """Lets only users with a fresh login call a view: they authenticated within
    `KVSESSION_FRESH_FOR`.

    Others are redirected to `KVSESSION_CONFIRM_VIEW`, or get 401; see `confirm_login` (OWASP ASVS
    5.0, 7.5.1).
    """
    return _guarded(view, require_fresh_login)


@_without_parentheses
def bound_device_required(view: Callable[P, R]) -> Callable[P, R]:
    """Lets a view be called only from a device that has proved that the session is bound to it.

    A user whose browser has not bound the session gets 401, `BoundDeviceRequired`: its own error,
    because signing in again does not help in a browser that cannot do it. Right after a login the
    browser needs a moment. Raises `ConfigurationError` if `KVSESSION_DEVICE_BOUND` is False.
    """
    return _guarded(view, _require_bound_device)


def roles_required(*roles: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets only users with any of these roles call a view; other users get 403.

    A user's roles are in the session's data, under `"role"` (one) or `"roles"` (several).
    """
    if not roles or not all(isinstance(role, str) for role in roles):
        raise TypeError('roles_required takes names of roles, as in @roles_required("admin").')

    def check() -> None:
        _require_role(frozenset(roles))

    return lambda view: _guarded(view, check)


def next_url(default: str) -> str:
    """The URL to go to after the login: the `next` of the form, or else of the query, if it is a
    path within this site. Otherwise it is `default` (OWASP ASVS 5.0, 3.7.2)."""
    for wanted in (request.form.get("next"), request.args.get("next")):
        if wanted is not None:
            return wanted if _is_within_site(wanted) else default
    return default


def cross_origin_guard() -> None:
    """Refuses posts from other sites' pages with 403: `app.before_request(cross_origin_guard)`.

    Browsers send the origin of a request. A request without an origin does not come from a browser
    and passes. Requests from `KVSESSION_TRUSTED_ORIGINS` pass too. The algorithm is that of Go's
    `http.CrossOriginProtection` (OWASP ASVS 5.0, 3.5.1). Exception: an OPTIONS request passes only
    if Flask answers it, because a view that handles OPTIONS itself may change something.
    """
    if request.method in ("GET", "HEAD") or _is_automatic_options():
        return
    site = request.headers.get("Sec-Fetch-Site")
    if site in ("same-origin", "none"):
        return
    if not site and _origin_is_host():
        return
    origin = request.headers.get("Origin")
    if origin in app_state().settings.trusted_origins:
        return
    if origin and not site:  # an app behind a proxy may refuse its own pages
        app_state().warn_of_other_host(origin, request.host)
    refusal = _other_site()
    request_session().events.log_refusal(refusal, logging.WARNING)
    raise refusal


def _other_site() -> Forbidden:
    refusal = Forbidden("This request was sent by another site.")
    if not wants_page():
        refusal.response = jsonify(error="Forbidden")
        refusal.response.status_code = 403
    return refusal


def guard_protected_paths(settings: Settings) -> None:
    """Lets only signed-in users request `KVSESSION_PROTECTED_PATHS`."""
    if request.endpoint is not None and request.endpoint == settings.login_view:
        return  # otherwise nobody could sign in
    if settings.is_protected(request.path):
        _check_unless_automatic_options(require_login)


def require_login(back_to: str | None = None) -> None:
    """Raises `LoginRequired` if nobody is signed in.

    After the login the browser returns to `back_to`, or else to the requested page. A redirected
    post is not repeated, so the guard of a post passes the page with the form as `back_to`.
    """
    current = request_session()
    try:
        current.require_user()
    except LoginRequired as refusal:
        if refusal.can_sign_in:
            _redirect_browser("login_view", refusal, back_to)
        raise
    current.is_guarded = True


def require_fresh_login(back_to: str | None = None) -> None:
    """Raises `LoginRequired` as `require_login` does, and `FreshLoginRequired` if the user
    authenticated too long ago. Both are decided by what Redis has, not by the near cache."""
    request_session().use_newest()
    require_login(back_to)
    if not current_session.is_fresh:
        refusal = FreshLoginRequired()
        request_session().events.log_refusal(refusal)
        _redirect_browser("confirm_view", refusal, back_to)
        raise refusal


def _require_bound_device() -> None:
    if not app_state().settings.device_bound:
        raise ConfigurationError(
            f'bound_device_required needs {config_key("device_bound")} = "offer", because no'
            " session is bound otherwise; set it, or remove the decorator."
        )
    require_login()
    current = request_session()
    if not current.shows_bound_device():
        refusal = BoundDeviceRequired()
        current.events.log_refusal(refusal)
        raise refusal


def wants_page() -> bool:
    """Whether a browser asks for a page: `Accept` names text/html."""
    return errors.wants_page(request.environ)


def url_of_view(setting: str, **query: t.Any) -> str | None:
    """The URL of the app's view that this setting names; None if the setting is None."""
    endpoint = getattr(app_state().settings, setting)
    if endpoint is None:
        return None
    try:
        return url_for(endpoint, **query)
    except BuildError:
        raise ConfigurationError(_no_url_message(setting, endpoint)) from None


def _no_url_message(setting: str, endpoint: str) -> str:
    key = f"{config_key(setting)} is {endpoint!r}"
    rules = [rule for rule in current_app.url_map.iter_rules() if rule.endpoint == endpoint]
    if not rules:
        return (
            f"{key}, and the app has no such endpoint; give the name of a view, such as"
            " 'auth.login', not its URL."
        )
    values = ", ".join(sorted(rules[0].arguments - (rules[0].defaults or {}).keys()))
    return (
        f"{key}, and the URL {rules[0].rule} needs a value for {values}; give a view whose URL"
        " needs none, or supply the value by a function of app.url_defaults."
    )


def _guarded(view: Callable[P, R], check: Callable[[], object]) -> Callable[P, R]:
    """The view behind a check. A coroutine function stays one, so that other decorators and Flask
    recognise it."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        _check_unless_automatic_options(check)
        return view(*args, **kwargs)

    @wraps(view)
    async def guarded_coroutine(*args: P.args, **kwargs: P.kwargs) -> t.Any:
        _check_unless_automatic_options(check)
        return await t.cast(t.Any, view)(*args, **kwargs)

    is_coroutine = iscoroutinefunction(view)
    result = t.cast("Callable[P, R]", guarded_coroutine) if is_coroutine else guarded
    decorator_order.note(view, result)
    return result


def _check_unless_automatic_options(check: Callable[[], object]) -> None:
    # With OPTIONS a browser asks, without cookies, whether it may send the real request.
    if not _is_automatic_options():
        check()


def _is_automatic_options() -> bool:
    """Whether Flask itself answers this OPTIONS request, without a call of the view."""
    # A rule that was not made by `add_url_rule` does not have the attribute.
    is_automatic = getattr(request.url_rule, "provide_automatic_options", False)
    return request.method == "OPTIONS" and bool(is_automatic)


def _require_role(roles: frozenset[str]) -> None:
    require_login()
    several = current_session.get("roles")
    user_roles = [current_session.get("role")]
    user_roles += several if isinstance(several, list | tuple | set) else []
    if not any(isinstance(role, str) and role in roles for role in user_roles):
        refusal = RoleRequired()
        request_session().events.log_refusal(refusal, logging.WARNING)
        raise refusal


def _redirect_browser(
    setting: str, refusal: LoginRequired | FreshLoginRequired, back_to: str | None
) -> None:
    """If a browser asks for a page, makes the refusal a redirect to the view of this setting.

    HTMX asks for a part of a page, and would put the sign-in page into it. It loads the URL in
    `HX-Redirect` as a page, whatever the status is.
    """
    is_htmx = request.headers.get("HX-Request") == "true"
    if not (is_htmx or wants_page()):
        return
    here = _url_of_htmx_page() if is_htmx else _this_url() if request.method == "GET" else None
    target = url_of_view(setting, next=back_to or here)
    if target is None:
        return
    response = refusal.get_response(request.environ) if is_htmx else redirect(target, 302)
    if is_htmx:
        response.headers["HX-Redirect"] = target
    response.vary.update(("Accept", "Cookie"))
    response.headers["Cache-Control"] = "no-store"
    refusal.response = response


def _this_url() -> str | None:
    """The requested path and query, as a safe `next`. It never uses the Host header."""
    path = quote(request.root_path + request.path, safe=_SAFE_IN_PATH)
    query = quote(request.query_string, safe=_SAFE_IN_PATH + "?%[]")
    url = f"{path}?{query}" if query else path
    return url if _is_within_site(url) else None


def _url_of_htmx_page() -> str | None:
    """The path and query of the page that HTMX is in, as a safe `next`. None if the browser says
    that the page is on another host."""
    try:
        page = urlsplit(request.headers.get("HX-Current-URL", ""))
    except ValueError:
        return None
    url = f"{page.path}?{page.query}" if page.query else page.path
    return url if page.netloc == request.host and _is_within_site(url) else None


def _is_within_site(url: str) -> bool:
    # Browsers read "\" as "/" and drop tabs and line ends, so "/\evil" leaves the site.
    return (
        len(url) <= _MAX_NEXT_CHARS
        and url.startswith("/")
        and not url.startswith("//")
        and "\\" not in url
        and not any(char < " " or char == "\x7f" for char in url)
        and not _path_in_browser(url).startswith("//")
    )


def _path_in_browser(url: str) -> str:
    """The path that a browser makes of the URL, without dot segments (WHATWG URL, 4.4).

    A script that reads `location.pathname` of "/.//evil.com" gets "//evil.com", another site.
    """
    path: list[str] = []
    _, *segments = re.split(r"[?#]", url.rstrip(" "), maxsplit=1)[0].split("/")
    for number, segment in enumerate(segments, 1):
        dots = segment.lower().replace("%2e", ".")
        if dots == "..":
            del path[-1:]
        if dots not in (".", ".."):
            path.append(segment)
        elif number == len(segments):
            path.append("")  # "/a/.." is "/", and "/a/." is "/a/"
    return "/" + "/".join(path)


def _origin_is_host() -> bool:
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme != "" and parts.netloc != "" and parts.netloc == request.host
