"""What Flask-Login says about the user of a `flask.session`.

Flask-Login knows more than the session does: its user loader may know no such user any more, and
an account may be deactivated. So a session whose user Flask-Login does not accept is not signed in.
Flask-Login can only refuse the session's user here; it cannot name another one.

Flask-Login also reports each login and confirmation. A mere assignment of the same keys, as in a
copy of the session, is none.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from flask import current_app
from werkzeug.exceptions import HTTPException

from ..api import current_session
from ..current import is_current
from ..errors import KVSessionError
from ..settings import FLASK_LOGIN_USER_KEY
from .session import FlaskSession

if t.TYPE_CHECKING:
    from flask import Flask

_asking: ContextVar[FlaskSession | None] = ContextVar("_asking", default=None)
"""The session about whose user Flask-Login is being asked: its user loader may read it."""


def decides(app: Flask, user_id_key: str | None) -> bool:
    """Whether Flask-Login decides who is signed in: the app has it, and the user is under its
    key."""
    return user_id_key == FLASK_LOGIN_USER_KEY and hasattr(app, "login_manager")


def accepts_user_of(app: Flask, session: FlaskSession) -> bool:
    """Whether Flask-Login's `current_user` is signed in and is the session's user.

    Flask-Login loads the user at most once in a request. If the session has none, it looks for its
    remember cookie, and puts that user into the session. A user loader that aborts knows no user;
    any other exception, and a 5xx, is raised. While Flask-Login loads the user, and outside the
    session's own request, the session alone decides.
    """
    if _asking.get() is session or not is_current(session):
        return True
    token = _asking.set(session)
    try:
        with _context_of(app):
            user_id = _id_of_current_user()
            return user_id is not None and user_id == str(session.user_id_by_key)
    except HTTPException as refusal:
        if (refusal.code or 0) >= 500:
            raise
    except KVSessionError:
        # After the commit Flask-Login cannot mark the session of a changed client any more.
        if not session.is_closed:
            raise
    finally:
        _asking.reset(token)
    return False


def knows_somebody(app: Flask) -> bool:
    """Whether Flask-Login knows a user, whoever it is."""
    try:
        with _context_of(app):
            return _id_of_current_user() is not None
    except HTTPException:
        return False


def confirm(app: Flask) -> None:
    """Calls Flask-Login's `confirm_login`."""
    from flask_login import confirm_login  # type: ignore[import-untyped]

    with _context_of(app):
        confirm_login()


def follow(app: Flask) -> None:
    """Follows from now on the logins, confirmations and logouts that Flask-Login reports."""
    try:
        from flask_login import user_logged_in, user_logged_out, user_login_confirmed
    except ImportError:
        return
    user_logged_in.connect(_note_login, app)
    user_login_confirmed.connect(_note_login, app)
    user_logged_out.connect(_note_logout, app)


def _note_login(sender: Flask, **extra: t.Any) -> None:
    t.cast(FlaskSession, current_session).note_login()


def _note_logout(sender: Flask, **extra: t.Any) -> None:
    t.cast(FlaskSession, current_session).note_logout()


def _id_of_current_user() -> str | None:
    """The id of Flask-Login's `current_user`; None if nobody is signed in."""
    from flask_login import current_user

    user = current_user._get_current_object()
    if user is None or not user.is_authenticated:
        return None
    id_attribute = t.cast(t.Any, current_app).login_manager.id_attribute
    return str(getattr(user, id_attribute)())


@contextmanager
def _context_of(app: Flask) -> Iterator[None]:
    """Makes the app of the request the current one, as Flask-Login needs it."""
    if current_app._get_current_object() is app:  # type: ignore[attr-defined]
        yield
        return
    with app.app_context():
        yield
