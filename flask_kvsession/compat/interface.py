"""What Flask calls to open and save `flask.session`."""

from __future__ import annotations

import typing as t
from functools import partial

from flask.sessions import SecureCookieSessionInterface, SessionInterface, SessionMixin

from .. import renamed
from ..cookie import SessionCookie
from ..current import request_session, request_session_of
from ..errors import ConfigurationError
from ..settings import FLASK_LOGIN_USER_KEY
from . import current_user
from .flask_cookie import require_possible_cookie
from .request import FlaskRequestSession
from .session import FlaskSession

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Request, Response

    from ..app_state import AppState

SessionMixin.register(FlaskSession)


class KVSessionInterface(SessionInterface):
    """Opens and saves the session of a request.

    The getters that read `SESSION_COOKIE_*` are Flask's own. A subclass may override them, as in
    any session interface.
    """

    def open_session(self, app: Flask, request: Request) -> SessionMixin:
        """The request's session, not loaded yet: for an exception in this method, Flask would not
        call the app's error handlers."""
        return t.cast(SessionMixin, request_session_of(app, request).session)

    if not t.TYPE_CHECKING:  # with it, a type checker would accept any name

        def __getattr__(self, name):
            """Raises `AttributeError`; for a name of Flask-Session it names the new one."""
            renamed.raise_renamed_attribute(self, name)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Commits. Flask calls it after all `after_request` functions."""
        request_session().finish(response)


def install(app: Flask, state: AppState) -> None:
    """Makes `flask.session` this package's session.

    Raises `ConfigurationError` if the app's session interface is not Flask's own.
    """
    kind = type(app.session_interface)
    if kind is not SecureCookieSessionInterface:
        raise ConfigurationError(
            "KVSESSION_AS_FLASK_SESSION replaces app.session_interface, but this app's interface is"
            f" already a {kind.__module__}.{kind.__qualname__}; remove the code that sets it, such"
            " as Flask-Session's Session(app), or remove KVSESSION_AS_FLASK_SESSION."
        )
    app.session_interface = KVSessionInterface()
    state.request_session_class = FlaskRequestSession
    one_name = state.configured.has_one_cookie_name
    state.flask_cookie = partial(SessionCookie.from_flask_app, one_name=one_name)
    state.first_use_checks += [_require_own_interface, require_possible_cookie]
    if state.configured.user_id_key == FLASK_LOGIN_USER_KEY:
        current_user.follow(app)


def _require_own_interface(state: AppState) -> None:
    """Raises `ConfigurationError` if the app has another session interface now, because that would
    save no change of the session."""
    if not isinstance(state.app.session_interface, KVSessionInterface):
        kind = type(state.app.session_interface)
        raise ConfigurationError(
            f"A {kind.__module__}.{kind.__qualname__} has replaced the session interface of"
            " Flask-KVSession-Redis; remove the code that sets it, such as Flask-Session's"
            " Session(app), or remove KVSESSION_AS_FLASK_SESSION."
        )
