"""Flask-SocketIO: with `manage_session=False`, events share `flask.session` with the pages; and
`watch_socketio` disconnects the clients of a session that ends."""

from __future__ import annotations

import gc
import threading
import typing as t

import pytest
from flask import Flask, g, session
from flask.testing import FlaskClient
from flask_socketio import SocketIO  # type: ignore[import-untyped]

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError

from ..support.apps import Install, MakeApp, store_of
from ..support.browsers import SignIn
from ..support.clock import Clock
from ..support.commands import Keys
from ..support.flask_sessions import browser_of, sign_out_elsewhere
from ..support.servers import wait_until


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


# watch_socketio


class Site:
    """An app of plain `g.session` whose Socket.IO clients are watched, and another worker."""

    def __init__(self, make_app: MakeApp, **settings: t.Any) -> None:
        self.app = make_app(**settings)
        self.other = make_app("other", **settings)
        self.left: list[t.Any] = []
        self.socketio = SocketIO(self.app, async_mode="threading", manage_session=False)
        self.socketio.on_event("whoami", lambda: g.session.user_id)
        self.socketio.on_event("whoami", lambda: g.session.user_id, namespace="/chat")
        self.socketio.on_event(
            "disconnect", lambda: self.left.append((g.session.user_id, g.session.ended))
        )
        kvs.watch_socketio(self.socketio)

    def connect(self, browser: FlaskClient, namespace: str | None = None) -> t.Any:
        return self.socketio.test_client(self.app, namespace, flask_test_client=browser)

    def revoke(self, user: str = "ada") -> None:
        store_of(self.other).revoke_all(user)

    @property
    def watched(self) -> int:
        return len(store_of(self.app)._watcher._entries)


@pytest.fixture
def site(make_app: MakeApp) -> Site:
    return Site(make_app)


def test_clients_of_a_session_that_ends_are_disconnected(site: Site, sign_in: SignIn) -> None:
    """A revocation by another worker disconnects all clients of the session, in every namespace,
    and no other. The app's handlers need no change; its handler of the disconnection finds nobody
    signed in, and the reason."""
    ada, bob = sign_in(site.app), sign_in(site.app, "bob")
    first, second, other = site.connect(ada), site.connect(ada), site.connect(bob)
    first.connect("/chat")
    assert [first.emit("whoami", callback=True), other.emit("whoami", callback=True)] == [
        "ada",
        "bob",
    ]
    site.revoke()
    wait_until(lambda: not (first.is_connected() or first.is_connected("/chat")))
    wait_until(lambda: not second.is_connected())
    assert other.emit("whoami", callback=True) == "bob"
    wait_until(lambda: site.left == [(None, "revoked")] * 2)
    wait_until(lambda: site.watched == 1)


@pytest.mark.parametrize("path", ["/logout", "/login/bob"])
def test_a_logout_in_the_page_disconnects_its_clients(
    site: Site, sign_in: SignIn, path: str
) -> None:
    """So does a login over the session: the client has to connect again as the new user."""
    browser = sign_in(site.app)
    client = site.connect(browser)
    browser.post(path)
    wait_until(lambda: not client.is_connected())


def test_clients_without_a_session_stay_connected(site: Site, sign_in: SignIn) -> None:
    """There is nothing that could end."""
    client = site.connect(site.app.test_client())
    sign_in(site.app)
    site.revoke()
    assert client.emit("whoami", callback=True) == []
    assert client.is_connected()
    assert site.watched == 0
    client.disconnect()


def test_a_client_that_leaves_or_is_refused_is_not_watched(site: Site, sign_in: SignIn) -> None:
    """The session is watched only while a client is connected."""
    client = site.connect(sign_in(site.app))
    assert site.watched == 1
    client.disconnect()
    assert site.watched == 0
    site.socketio.on_event("connect", lambda: False)
    assert not site.connect(sign_in(site.app)).is_connected()
    assert site.watched == 0


def test_revocation_while_a_client_connects_disconnects_it(site: Site, sign_in: SignIn) -> None:
    """The app's handler has loaded the session and accepts the client; then the session ends
    before the client is connected."""

    def accept() -> None:
        assert g.session.user_id == "ada"
        site.revoke()
        wait_until(lambda: site.watched == 0)
        wait_until(lambda: "kvsession-on-end" not in [th.name for th in threading.enumerate()])

    site.socketio.on_event("connect", accept)
    site.connect(sign_in(site.app))
    wait_until(lambda: site.left == [(None, "revoked")])


def test_rotations_by_pages_end_no_watched_connection(
    make_app: MakeApp, sign_in: SignIn, clock: Clock
) -> None:
    """The secret of the handshake is judged when the client connects, so later events are no
    theft, although no handler has used the session before."""
    site = Site(make_app, rotation_interval=3600, rotation_grace=60)
    browser = sign_in(site.app)
    client = site.connect(browser)
    for _ in range(2):
        clock.advance(hours=2)
        browser.get("/me")
        browser.get("/me")
        clock.advance(minutes=2)
    assert client.emit("whoami", callback=True) == "ada"
    assert browser.get("/me").status_code == 200
    assert client.is_connected()
    client.disconnect()


def test_watching_needs_a_server(make_app: MakeApp) -> None:
    """The message says when to call `watch_socketio`."""
    with pytest.raises(ConfigurationError, match=r"call it after\s+SocketIO\(app\)"):
        kvs.watch_socketio(SocketIO())
