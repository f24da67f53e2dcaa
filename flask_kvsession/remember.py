"""Flask-Login's "remember me", kept in the session instead of in a second cookie.

Flask-Login's remember cookie signs its user in again whenever the session is gone. It is kept
nowhere but in the browser, so no revocation reaches it.
"""

from __future__ import annotations

import typing as t
from contextlib import suppress

from flask import after_this_request, current_app, request
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import HTTPException

from .api import current_session
from .errors import ConfigurationError
from .request import is_current
from .settings import FLASK_LOGIN_FRESH_KEY, FLASK_LOGIN_USER_KEY, RememberCookie
from .state import app_state

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Response

    from .session import Session

# What Flask-Login leaves in the session for its own hook at the end of the request, which takes it
# out, and sets the cookie or clears it.
_WISH, _SECONDS, _SET, _CLEAR, _NEITHER = "_remember", "_remember_seconds", "set", "clear", "kept"


def remember_in_session(app: Flask) -> None:
    """Makes Flask-Login's `login_user(user, remember=True)` a permanent session, which is listed
    and can be revoked, in place of its remember cookie.

    Call it once, after `KVSession(app)`. A session is remembered for `PERMANENT_SESSION_LIFETIME`;
    a `duration` given to `login_user` is not kept. Remember cookies from before are cleared and
    sign nobody in. As long as `KVSESSION_MIGRATE_COOKIE_SESSION` is on, one does so that comes from
    a browser without a session, into a permanent session that is not fresh.

    Raises `ConfigurationError` unless Flask-Login's users are known to this package.
    """
    state = app_state(app)
    if not state.given.as_flask_session or state.given.user_id_key != FLASK_LOGIN_USER_KEY:
        raise ConfigurationError(
            "remember_in_session is for Flask-Login's users; set KVSESSION_AS_FLASK_SESSION = True"
            f' and KVSESSION_USER_ID_KEY = "{FLASK_LOGIN_USER_KEY}".'
        )
    from flask_login import user_logged_in  # type: ignore[import-untyped]

    state.arrivals.append(_meet_cookie)
    user_logged_in.connect(_keep_wish, app)


def _meet_cookie(session: Session, is_new: bool) -> None:
    """Before anything else sees the session: Flask-Login asks it first, and then the cookie, which
    it must not find: it would believe it wherever the session is empty, by a revocation too."""
    if not is_current(session):
        return  # session_transaction() of a test client
    cookie = RememberCookie.from_config(current_app.config)
    value = request.cookies.get(cookie.name)
    if value is None:
        if cookie.refresh_each_request and session.is_authenticated:
            session[_WISH] = _NEITHER
    elif hasattr(current_app, "login_manager"):
        _hide(cookie)
        if is_new:
            _carry_over(session, value)
        session[_WISH] = _CLEAR
        after_this_request(_after)


def _hide(cookie: RememberCookie) -> None:
    others = [item for item in request.cookies.items(multi=True) if item[0] != cookie.name]
    request.cookies = ImmutableMultiDict(others)


def _after(response: Response) -> Response:
    """A view that clears the session, or ends it, takes the wish away, too. And with the wish in it
    Flask-Login takes a visitor's session for somebody's, and notes that it is not fresh."""
    session = current_session
    if session.failure:
        return response
    if not session.is_authenticated:
        session.pop(FLASK_LOGIN_FRESH_KEY, None)
    if session.get(_WISH) != _CLEAR:
        session[_WISH] = _CLEAR
    return response


def _carry_over(session: Session, cookie: str) -> None:
    from flask_login import decode_cookie

    user_id = decode_cookie(cookie) if cookie.isascii() else None
    if user_id is None:
        return
    if session.user_id is None:
        session.take_over({FLASK_LOGIN_USER_KEY: user_id, FLASK_LOGIN_FRESH_KEY: False})
        is_known = False
        try:
            is_known = _is_known(user_id)
        finally:
            if not is_known:  # by the app, any more
                session.pop(FLASK_LOGIN_USER_KEY, None)
                session.pop(FLASK_LOGIN_FRESH_KEY, None)
    if str(session.user_id) == user_id:
        session.permanent = True


def _is_known(user_id: str) -> bool:
    from flask_login import current_user

    with suppress(HTTPException):  # a loader that looks users up by `get_or_404`
        return current_user.is_authenticated and str(current_user.get_id()) == user_id
    return False


def _keep_wish(sender: Flask, **extra: t.Any) -> None:
    session = current_session
    if session.get(_WISH) == _SET:
        session.pop(_SECONDS, None)
        session.permanent = True
    session[_WISH] = _NEITHER
