"""Reads Flask's own signed session cookie, so that its data can be imported."""

from __future__ import annotations

import typing as t

from flask.sessions import SecureCookieSessionInterface

from ..errors import ConfigurationError
from ..settings import FLASK_LOGIN_FRESH_KEY

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Request

_interface = SecureCookieSessionInterface()


def read(app: Flask, request: Request) -> dict[str, t.Any]:
    """The data of a valid signed cookie that is not older than `PERMANENT_SESSION_LIFETIME`; empty
    without such a cookie.

    A signed cookie is no authentication, so Flask-Login's mark of a fresh login becomes False.
    Raises `ConfigurationError` if the app has no `SECRET_KEY` to verify the cookie.
    """
    session = _interface.open_session(app, request)
    if session is None:
        raise ConfigurationError(
            "KVSESSION_MIGRATE_COOKIE_SESSION needs the SECRET_KEY that signed the cookies; set"
            " SECRET_KEY, or remove KVSESSION_MIGRATE_COOKIE_SESSION when no signed cookie is valid"
            " any more."
        )
    data = dict(session)
    if FLASK_LOGIN_FRESH_KEY in data:
        data[FLASK_LOGIN_FRESH_KEY] = False
    return data
