"""What Flask calls to open and save `flask.session`."""

from __future__ import annotations

import typing as t
from functools import partial

from flask.sessions import SecureCookieSessionInterface, SessionInterface, SessionMixin

from ..cookie import SessionCookie
from ..errors import ConfigurationError
from ..request import request_session, request_session_of
from .request import FlaskRequestSession
from .session import FlaskSession

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Request, Response

    from ..app_state import AppState

SessionMixin.register(FlaskSession)


class KVSessionInterface(SessionInterface):
    """Gives a request its session, and saves it.

    The getters, which read `SESSION_COOKIE_*`, are Flask's own. A subclass may override them as
    with any session interface.
    """

    def open_session(self, app: Flask, request: Request) -> SessionMixin:
        """The request's session, not loaded yet: if this method fails, Flask does not call the
        app's error handlers."""
        return t.cast(SessionMixin, request_session_of(app, request).session)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Commits. Flask calls it after all `after_request` functions."""
        request_session().finish(response)


def install(app: Flask, state: AppState) -> None:
    """Makes `flask.session` this package's session.

    Raises `ConfigurationError` if another extension has replaced `flask.session` already.
    """
    kind = type(app.session_interface)
    if kind is not SecureCookieSessionInterface:
        raise ConfigurationError(
            f"KVSESSION_AS_FLASK_SESSION needs flask.session for itself, and this app has a"
            f" {kind.__module__}.{kind.__qualname__} for it already; remove what has put it there,"
            " such as Flask-Session's Session(app), or remove the setting."
        )
    app.session_interface = KVSessionInterface()
    state.request_session_class = FlaskRequestSession
    one_name = state.configured.has_one_cookie_name
    state.flask_cookie = partial(SessionCookie.from_flask_app, one_name=one_name)
    state.first_use_checks.append(_require_own_interface)


def _require_own_interface(state: AppState) -> None:
    """Another interface that was put in place of ours would not save any change."""
    if not isinstance(state.app.session_interface, KVSessionInterface):
        kind = type(state.app.session_interface)
        raise ConfigurationError(
            f"A {kind.__module__}.{kind.__qualname__} was put in place of Flask-KVSession-Redis's"
            " session interface; remove what has put it there, such as Flask-Session's"
            " Session(app), or remove KVSESSION_AS_FLASK_SESSION."
        )
