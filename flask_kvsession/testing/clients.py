"""Sessions of Flask's test clients."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from flask import Flask
from flask.testing import FlaskClient

from .. import binding, signals
from ..app_state import app_state
from ..cookie import SessionCookie
from ..current import request_session
from ..errors import ConfigurationError, LoginRequired
from ..settings import FLASK_LOGIN_USER_KEY, config_key

if t.TYPE_CHECKING:
    from flask.wrappers import Response
    from werkzeug.wrappers import Request

    from ..record import Stored
    from ..session import Session
    from ..token import UserId


_NO_KEY = "the key of a test client"
"""What a record keeps as the public key of a test client, which signs nothing."""


def authenticated_client(
    app: Flask,
    user_id: UserId,
    data: Mapping[str, t.Any] | None = None,
    *,
    remember: bool | None = None,
    base_url: str | None = None,
) -> FlaskClient:
    """A new test client of the app, signed in by `login_as`. Each client is a device of its own."""
    client = app.test_client()
    login_as(client, user_id, data, remember=remember, base_url=base_url)
    return client


def login_as(
    client: FlaskClient,
    user_id: UserId,
    data: Mapping[str, t.Any] | None = None,
    *,
    remember: bool | None = None,
    base_url: str | None = None,
) -> Session:
    """Signs the user in on this client, without the app's sign-in form, and returns the session.

    The login is a real one: it ends the client's previous session, sends the signals and applies
    the limit of sessions. `data` are the session's data, such as `{"role": "admin"}`.

    In an app with `KVSESSION_USER_ID_KEY` the user id is put under that key. In an app with
    Flask-Login it is the id that the user loader takes, and Flask-Login's own `login_user` is
    called.

    `remember` is that of `login_user`; in an app with `KVSESSION_USER_ID_KEY` it is the value of
    `session.permanent`, and None leaves that as it is. `base_url` is that of the client's requests,
    if the tests pass one to them.

    The returned session can be read, but no longer changed: see `session_transaction`. Raises what
    `login_user` raises, and `ConfigurationError` if Flask-Login refuses the user or if the client
    would not send the cookie.
    """
    with _request_of(client, base_url) as session:
        _sign_in(client.application, user_id, data or {}, remember)
    return session


def bind_device(client: FlaskClient, *, base_url: str | None = None) -> None:
    """Binds the session of this client to its device, as a browser does that can do it. Then a view
    behind `bound_device_required` lets the client in. After `KVSESSION_DEVICE_BOUND_LIFETIME` the
    client is not signed in any more, unless this function was called again before.

    Raises `ConfigurationError` if `KVSESSION_DEVICE_BOUND` is False, and `LoginRequired` if nobody
    is signed in.
    """
    app = client.application
    state = app_state(app)
    _require_cookies(client)
    if not state.settings.device_bound:
        raise ConfigurationError(
            f'bind_device needs {config_key("device_bound")} = "offer" in the app that is tested.'
        )
    context, response = _context_of(client, state.cookie, base_url), app.response_class()
    with context:
        current = request_session()
        current.require_user()
        stored = t.cast("Stored", current.session.stored)
        bind = partial(binding.with_device, device=binding.to_key(_NO_KEY, state.now()))
        bound = state.store.update(stored, bind).stored
        current.close()
        if bound is None:
            raise LoginRequired
        state.send_signal(signals.device_bound, state.store.info(bound))
        state.write_short_cookie(response, bound)
    _keep_cookies(client, context.request, response)


@contextmanager
def session_transaction(client: FlaskClient, *, base_url: str | None = None) -> Iterator[Session]:
    """The session of this client, to read and to change. It is saved at the end of the block.

    In the block the session is also `current_session`, so that functions such as `confirm_login`
    and `list_sessions` work. The block is no activity of the app: no view and no hook of the app is
    called. If the block raises, its changes are not saved. Raises `StoreUnavailable` if the session
    cannot be loaded or saved.
    """
    with _request_of(client, base_url) as session:
        yield session


@contextmanager
def _request_of(client: FlaskClient, base_url: str | None) -> Iterator[Session]:
    """A request of the client, of which only the session is used."""
    _require_cookies(client)
    app, cookie = client.application, app_state(client.application).cookie
    context = _context_of(client, cookie, base_url)
    with context:
        current = request_session()
        try:
            yield current.session
        except BaseException:
            current.close()
            raise
        response = current.finish(app.response_class())
        if current.session.failure:
            raise current.session.failure
    _keep_cookies(client, context.request, response)
    _require_cookie(client, current.session, cookie, context.request)


def _require_cookies(client: FlaskClient) -> None:
    if client._cookies is None:
        raise TypeError("This client keeps no cookies; create it with use_cookies=True.")


def _keep_cookies(client: FlaskClient, request: Request, response: Response) -> None:
    """Gives the cookies to the client, as Flask's own session_transaction does."""
    client._update_cookies_from_response(
        _host_of(request), request.path, response.headers.getlist("Set-Cookie")
    )


def _context_of(client: FlaskClient, cookie: SessionCookie, base_url: str | None) -> t.Any:
    """The context of a request to the cookie's path, with the client's cookies, address and user
    agent. It is https if the cookie is Secure."""
    context = client.application.test_request_context(
        cookie.path,
        base_url=base_url,
        url_scheme="https" if cookie.secure and base_url is None else None,
        environ_base=client.environ_base,
    )
    client._add_cookies_to_wsgi(context.request.environ)
    return context


def _sign_in(app: Flask, user_id: UserId, data: Mapping[str, t.Any], remember: bool | None) -> None:
    current, key = request_session(), app_state(app).settings.user_id_key
    if key is None:
        current.log_in(user_id, data, remember is not False)
        return
    session: t.Any = current.session  # a flask.session
    if remember is not None:
        session.permanent = remember
    if key == FLASK_LOGIN_USER_KEY and hasattr(app, "login_manager"):
        _sign_in_by_flask_login(app.login_manager, user_id)
    else:
        session[key] = user_id
    session.update(data)  # after the key: what is in the session before it is not this user's


def _sign_in_by_flask_login(manager: t.Any, user_id: UserId) -> None:
    from flask_login import login_user  # type: ignore[import-untyped]

    user = manager._user_callback(str(user_id))
    if user is None:
        raise ConfigurationError(
            f"login_as: the user loader of Flask-Login returns no user for the id {user_id!r}; pass"
            " what get_id() of the user returns, and store the user first."
        )
    if not login_user(user):
        raise ConfigurationError(
            f"login_as: Flask-Login refuses the user with the id {user_id!r}, because is_active is"
            " false; activate the user first."
        )


def _require_cookie(
    client: FlaskClient, session: Session, cookie: SessionCookie, request: Request
) -> None:
    """Raises `ConfigurationError` if the client would not send its session's cookie."""
    if session.id is None:
        return
    client._add_cookies_to_wsgi(request.environ)
    tokens = cookie.tokens_in(request)
    if session.id in [token.session_id for token in (*tokens.user, *tokens.anonymous)]:
        return
    raise ConfigurationError(
        f"The client does not send the session cookie to {_host_of(request)}, because"
        f" {cookie.keys.domain} is {cookie.domain!r}; set SERVER_NAME to a host of that domain, or"
        " pass base_url with such a host, here and to the client's requests."
    )


def _host_of(request: Request) -> str:
    return request.host.partition(":")[0]
