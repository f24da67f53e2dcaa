"""Flask-SocketIO with `manage_session=False`: events share `flask.session` with the pages."""

from __future__ import annotations

import gc
import typing as t

import pytest
from flask import Flask, g, session
from flask.testing import FlaskClient
from flask_socketio import SocketIO  # type: ignore[import-untyped]

import flask_kvsession as kvs

from ..support.apps import Install, MakeApp
from ..support.commands import Keys
from ..support.flask_sessions import browser_of, sign_out_elsewhere


@pytest.fixture
def app(install: Install) -> Flask:
    app = Flask("live")
    app.config.update(TESTING=True, SECRET_KEY="only for tests")
    install(app, "user_id")
    socketio = SocketIO(app, manage_session=False)

    @app.post("/login/<user>")
    def login(user: str) -> t.Any:
        session["user_id"] = user
        return {}

    @app.get("/")
    def index() -> t.Any:
        return dict(session)

    def read() -> t.Any:
        return dict(session), kvs.current_session.user_id

    @kvs.login_required
    def guarded() -> t.Any:
        return "done"

    def add(item: str) -> None:
        session.setdefault("items", []).append(item)

    def logout() -> None:
        session.clear()

    def answer(error: Exception) -> t.Any:
        return type(error).__name__

    for handler in (read, guarded, add, logout):
        socketio.on_event(handler.__name__, handler)
    socketio.on_error_default(answer)
    return app


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    browser = browser_of(app)
    browser.post("/login/ada")
    return browser


def connect(browser: FlaskClient) -> t.Callable[..., t.Any]:
    """Opens a connection; the function emits an event and returns its answer."""
    app = browser.application
    connection = app.extensions["socketio"].test_client(app, flask_test_client=browser)
    return lambda *args: connection.emit(*args, callback=True)


def test_events_share_the_session_with_pages(browser: FlaskClient) -> None:
    """A change by an event, also inside a list, is read by pages and by the next event."""
    emit = connect(browser)
    emit("add", "a")
    emit("add", "b")
    held = {"user_id": "ada", "items": ["a", "b"]}
    assert browser.get("/").get_json() == held
    assert emit("read") == [held, "ada"]


def test_a_revoked_session_ends_in_open_connections(browser: FlaskClient) -> None:
    """After the revocation of a session, the next event of its open connection is anonymous and
    refused."""
    phone = browser_of(browser.application, "phone")
    phone.post("/login/ada")
    emit = connect(browser)
    assert emit("guarded") == "done"
    sign_out_elsewhere(phone, browser)
    assert emit("read") == [{}, None]
    assert emit("guarded") == "LoginRequired"


def test_a_logout_in_an_event_signs_the_browser_out(browser: FlaskClient, keys: Keys) -> None:
    """An event that clears the session signs the browser out and leaves no key in Redis."""
    emit = connect(browser)
    emit("logout")
    assert browser.get("/").get_json() == {}
    assert emit("guarded") == "LoginRequired"
    assert keys() == set()


def test_change_of_plain_g_session_in_an_event_is_reported_as_lost(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """In an app that uses plain `g.session`, an event can read it; a change is not saved, and one
    warning says so."""
    app = make_app()
    socketio = SocketIO(app, manage_session=False)
    socketio.on_event("read", lambda: g.session.user_id)
    socketio.on_event("add", lambda: g.session.update(x=1))
    browser = app.test_client()
    browser.post("/login/ada")
    emit = connect(browser)
    assert emit("read") == "ada"
    emit("add")
    gc.collect()  # Flask-SocketIO's context is in a reference cycle
    assert browser.get("/data").get_json() == {}
    assert caplog.text.count("Changes to the session were lost") == 1
