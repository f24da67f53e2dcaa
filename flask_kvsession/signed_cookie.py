"""What Flask's own session has left in the browser: its signed cookie, read for the move."""

from __future__ import annotations

import typing as t

from flask.sessions import SecureCookieSessionInterface

from .errors import ConfigurationError
from .settings import FLASK_LOGIN_FRESH_KEY

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Request

_flasks = SecureCookieSessionInterface()


def read(app: Flask, request: Request) -> dict[str, t.Any]:
    """The data of a valid signed cookie that is no older than `PERMANENT_SESSION_LIFETIME`; empty
    without one. A cookie proves nothing, so Flask-Login is not told that a password was given.
    Raises `ConfigurationError` where the app has no key to check it with."""
    session = _flasks.open_session(app, request)
    if session is None:
        raise ConfigurationError(
            "KVSESSION_MIGRATE_COOKIE_SESSION needs the SECRET_KEY that the cookies were signed"
            " with; set it, or remove the setting when all have moved."
        )
    data = dict(session)
    if FLASK_LOGIN_FRESH_KEY in data:
        data[FLASK_LOGIN_FRESH_KEY] = False
    return data
