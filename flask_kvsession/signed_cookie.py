"""What Flask's own session has left in the browser: its signed cookie, read for the move."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from flask.sessions import SecureCookieSessionInterface

from .errors import ConfigurationError

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Request

_flasks = SecureCookieSessionInterface()


def read(app: Flask, request: Request) -> Mapping[str, t.Any]:
    """The data of a valid signed cookie that is no older than `PERMANENT_SESSION_LIFETIME`; empty
    without one. Raises `ConfigurationError` where the app has no key to check it with."""
    session = _flasks.open_session(app, request)
    if session is None:
        raise ConfigurationError(
            "KVSESSION_MIGRATE_COOKIE_SESSION needs the SECRET_KEY that the cookies were signed"
            " with; set it, or remove the setting when all have moved."
        )
    return session
