"""Flask-Login's "remember me", kept in the session instead of in a second cookie.

Flask-Login's remember cookie signs its user in again whenever the session is gone. Only the browser
stores this cookie, so it cannot be revoked.
"""

from __future__ import annotations

import typing as t
from contextlib import suppress

from flask import after_this_request, current_app, request
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import HTTPException

from ..api import current_session
from ..app_state import app_state
from ..current import is_current
from ..errors import ConfigurationError
from ..session import Session
from ..settings import (
    FLASK_LOGIN_FRESH_KEY,
    FLASK_LOGIN_REMEMBER_KEY,
    FLASK_LOGIN_SECONDS_KEY,
    FLASK_LOGIN_USER_KEY,
    RememberCookie,
    config_key,
)
from .session import FlaskSession

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Response

# During the request, Flask-Login writes "set" or "clear" into the session, for its remember cookie.
# At the end of the request, its hook removes that value, and sets or clears the cookie.
_SET, _CLEAR, _IGNORE = "set", "clear", "kept"


def remember_in_session(app: Flask) -> None:
    """Makes Flask-Login's `login_user(user, remember=True)` start a permanent session, which is
    listed and can be revoked, instead of setting its remember cookie.

    Call it once, after `KVSession(app)`. A session is remembered for `PERMANENT_SESSION_LIFETIME`;
    a `duration` given to `login_user` is ignored. Existing remember cookies are cleared and sign no
    user in. Exception: while `KVSESSION_MIGRATE_COOKIE_SESSION` is on, the remember cookie of a
    browser without a session signs its user in, into a permanent session that is not fresh.

    Raises `ConfigurationError` unless `KVSESSION_USER_ID_KEY` is Flask-Login's key.
    """
    state = app_state(app)
    settings = state.configured
    if not settings.as_flask_session or settings.user_id_key != FLASK_LOGIN_USER_KEY:
        raise ConfigurationError(
            "remember_in_session needs Flask-Login's user id in flask.session; set"
            f" {config_key('as_flask_session')} = True and"
            f' {config_key("user_id_key")} = "{FLASK_LOGIN_USER_KEY}".'
        )
    from flask_login import user_logged_in  # type: ignore[import-untyped]

    state.load_hooks.append(_on_load)
    user_logged_in.connect(_on_login, app)


def _on_load(session: Session, may_import: bool) -> None:
    """Hides the remember cookie from Flask-Login, before any code reads the session. Otherwise
    Flask-Login would accept the cookie whenever the session is empty, also after a revocation."""
    if not is_current(session):
        return  # session_transaction() of a test client
    session = t.cast(FlaskSession, session)
    cookie = RememberCookie.from_config(current_app.config)
    value = request.cookies.get(cookie.name)
    if value is None:
        if cookie.refresh_each_request and session.user_id_by_key is not None:
            session[FLASK_LOGIN_REMEMBER_KEY] = _IGNORE
    elif hasattr(current_app, "login_manager"):
        _hide(cookie)
        if may_import:
            _import_user(session, value)
        session[FLASK_LOGIN_REMEMBER_KEY] = _CLEAR
        after_this_request(_clear_cookie)


def _hide(cookie: RememberCookie) -> None:
    others = [item for item in request.cookies.items(multi=True) if item[0] != cookie.name]
    request.cookies = ImmutableMultiDict(others)


def _clear_cookie(response: Response) -> Response:
    """Tells Flask-Login again to clear the cookie: a view that clears the session has removed that
    value. Without a user, Flask-Login must not see the mark of a login that is not fresh."""
    session = t.cast(FlaskSession, current_session)
    if session.failure:
        return response
    if session.user_id_by_key is None:
        session.pop(FLASK_LOGIN_FRESH_KEY, None)
    if session.get(FLASK_LOGIN_REMEMBER_KEY) != _CLEAR:
        session[FLASK_LOGIN_REMEMBER_KEY] = _CLEAR
    return response


def _import_user(session: FlaskSession, cookie: str) -> None:
    """Signs the cookie's user in, if the app knows this user and no other user is signed in."""
    from flask_login import decode_cookie

    user_id = decode_cookie(cookie) if cookie.isascii() else None
    if user_id is None:
        return
    if session.user_id_by_key is None:
        session.import_data({FLASK_LOGIN_USER_KEY: user_id, FLASK_LOGIN_FRESH_KEY: False})
        # Flask-Login's strong session protection would refuse a session that is not permanent,
        # because it has no mark of the client yet.
        session.permanent, was_permanent, is_known = True, session.permanent, False
        try:
            is_known = _is_known(user_id)
        finally:
            if not is_known:
                session.permanent = was_permanent
                session.pop(FLASK_LOGIN_USER_KEY, None)
                session.pop(FLASK_LOGIN_FRESH_KEY, None)
    if str(session.user_id_by_key) == user_id:
        session.permanent = True


def _is_known(user_id: str) -> bool:
    from flask_login import current_user

    with suppress(HTTPException):  # a loader that looks users up by `get_or_404`
        return current_user.is_authenticated and str(current_user.get_id()) == user_id
    return False


def _on_login(sender: Flask, **extra: t.Any) -> None:
    session = t.cast(FlaskSession, current_session)
    if session.get(FLASK_LOGIN_REMEMBER_KEY) == _SET:
        session.pop(FLASK_LOGIN_SECONDS_KEY, None)
        session.permanent = True
    session[FLASK_LOGIN_REMEMBER_KEY] = _IGNORE
