"""`flask.session` as the same object as `g.session`, for `KVSESSION_AS_FLASK_SESSION`."""

from __future__ import annotations

import typing as t

from flask import current_app
from flask.sessions import SecureCookieSessionInterface, SessionInterface, SessionMixin

from .errors import ConfigurationError
from .request import request_state, state_of
from .session import Session

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Request, Response

SessionMixin.register(Session)


class KVSessionInterface(SessionInterface):
    """What Flask asks for a request's session, and to save it. Its getters, which read
    `SESSION_COOKIE_*`, are Flask's own and may be overridden as with any session interface."""

    def open_session(self, app: Flask, request: Request) -> SessionMixin:
        """The request's session, not loaded yet: what failed here could not be handled by the
        app's error handlers."""
        return t.cast(SessionMixin, state_of(app, request).session)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Commits, after all functions that the app has registered for the end of a request."""
        request_state().finish(response)


def install(app: Flask) -> None:
    """Makes `flask.session` ours; raises `ConfigurationError` if it is somebody else's already."""
    kind = type(app.session_interface)
    if kind is not SecureCookieSessionInterface:
        raise ConfigurationError(
            f"KVSESSION_AS_FLASK_SESSION needs flask.session for itself, and this app has a"
            f" {kind.__module__}.{kind.__qualname__} for it already; remove what has put it there,"
            " such as Flask-Session's Session(app), or the setting."
        )
    app.session_interface = KVSessionInterface()
    app.url_value_preprocessors.setdefault(None, []).insert(0, _require_ours)


def _require_ours(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
    """Another interface, put in place of ours afterwards, would save nothing of what is written."""
    if not isinstance(current_app.session_interface, KVSessionInterface):
        kind = type(current_app.session_interface)
        raise ConfigurationError(
            f"A {kind.__module__}.{kind.__qualname__} was put in place of Flask-KVSession-Redis's"
            " session interface; remove what has put it there, such as Flask-Session's"
            " Session(app), or KVSESSION_AS_FLASK_SESSION."
        )
