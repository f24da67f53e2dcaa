"""Flask-Login's "remember me", kept in the session instead of in a second cookie.

Flask-Login's remember cookie signs its user in again whenever the session is gone. It is kept
nowhere but in the browser, so no revocation reaches it.
"""

from __future__ import annotations

import typing as t

from flask import after_this_request, current_app

from .api import current_session
from .errors import ConfigurationError
from .state import app_state

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Response

# What Flask-Login leaves in the session for its own hook at the end of the request, which takes it
# out, and sets the cookie or clears it. As long as it says "clear", the cookie is not believed.
_WISH, _SECONDS, _SET, _CLEAR, _NEITHER = "_remember", "_remember_seconds", "set", "clear", "kept"


def remember_in_session(app: Flask) -> None:
    """Makes Flask-Login's `login_user(user, remember=True)` a permanent session, which is listed
    and can be revoked, in place of its remember cookie.

    Call it once, after `KVSession(app)`. A session is remembered for `PERMANENT_SESSION_LIFETIME`;
    a `duration` given to `login_user` is not kept. Remember cookies from before are cleared and
    sign nobody in. As long as `KVSESSION_MIGRATE_COOKIE_SESSION` is on, each does so once more,
    into a permanent session that is not fresh.

    Raises `ConfigurationError` unless Flask-Login's users are known to this package.
    """
    settings = app_state(app).given
    if not settings.as_flask_session or settings.user_id_key != "_user_id":
        raise ConfigurationError(
            "remember_in_session is for Flask-Login's users; set KVSESSION_AS_FLASK_SESSION = True"
            ' and KVSESSION_USER_ID_KEY = "_user_id".'
        )
    from flask_login import user_loaded_from_cookie, user_logged_in  # type: ignore[import-untyped]

    app.before_request_funcs.setdefault(None, []).insert(0, _before)
    user_logged_in.connect(_keep_wish, app)
    user_loaded_from_cookie.connect(_move_cookie, app)


def _before() -> None:
    """Before anything can ask Flask-Login who the user is."""
    from flask_login import login_remembered

    after_this_request(_after)
    if login_remembered() and not _may_move():
        current_session[_WISH] = _CLEAR


def _after(response: Response) -> Response:
    """Before Flask-Login's own hook, which else would set a cookie in every response where
    `REMEMBER_COOKIE_REFRESH_EACH_REQUEST` is on."""
    if current_session.failure or not hasattr(current_app, "login_manager"):
        return response
    if current_session.get(_WISH) != _CLEAR:
        current_session[_WISH] = _NEITHER
    elif not current_session.is_authenticated:
        # Flask-Login took the wish itself for somebody's session, and noted that it is not fresh.
        current_session.pop("_fresh", None)
    return response


def _may_move() -> bool:
    """Whether a remember cookie may sign in once more. One whose session was revoked may not."""
    is_visitor = not current_session.is_authenticated and current_session.ended is None
    return is_visitor and app_state().settings.migrate_cookie_session


def _keep_wish(sender: Flask, **extra: t.Any) -> None:
    if current_session.get(_WISH) == _SET:
        current_session.pop(_WISH)
        current_session.pop(_SECONDS, None)
        current_session.permanent = True


def _move_cookie(sender: Flask, **extra: t.Any) -> None:
    current_session.permanent = True
    current_session[_WISH] = _CLEAR
