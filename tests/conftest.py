"""Fixtures: a real server, apps with a key prefix of their own, and a clock that can be advanced.

The server is the embedded one; `KVSESSION_EMBEDDED_SERVER` names another binary for a second lane.
With `KVSESSION_TEST_REQUIRE` set, a test that lacks a part fails instead of being skipped.
"""

from __future__ import annotations

import os
import secrets
import typing as t
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import redis
from flask import Flask, Response, g, jsonify, request
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession.connection import EmbeddedServer
from flask_kvsession.settings import to_ms
from flask_kvsession.state import AppState
from flask_kvsession.store import ACTS, ServerClock, load_script

Config = dict[str, t.Any]
MakeApp = Callable[..., Flask]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> t.Any:
    """Where every part is required, a skipped test is a failed one."""
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and os.environ.get("KVSESSION_TEST_REQUIRE")
    ):
        report.outcome = "failed"
        report.longrepr = f"a required part is missing: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One real server for all tests of this process."""
    server = EmbeddedServer(tmp_path_factory.mktemp("server"), ephemeral=True)
    with redis.Redis(unix_socket_path=server.socket_path) as client:
        for name in ACTS:  # so that the first use of a script does not cost one test a round trip
            client.script_load(load_script(name).source)
    yield server
    server.close()


@pytest.fixture
def socket_path(server: EmbeddedServer) -> str:
    return server.socket_path


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test uses, so that nothing needs to be flushed."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def redis_client(socket_path: str) -> Iterator[redis.Redis]:
    """A plain client, to look at what is really in the store."""
    client = redis.Redis(unix_socket_path=socket_path)
    yield client
    client.close()


@pytest.fixture
def make_app(socket_path: str, prefix: str) -> Iterator[MakeApp]:
    """Makes an app with sessions and a few views; keyword arguments are settings without their
    prefix. Two apps of one test share their keys, as two workers do."""

    made: list[Flask] = []

    def make(name: str = "app", *, views: bool = True, **settings: t.Any) -> Flask:
        app = Flask(name)
        app.config.update(TESTING=True, KVSESSION_KEY_PREFIX=prefix)
        app.config["KVSESSION_REDIS_URL"] = f"unix://{socket_path}"
        app.config.update({f"KVSESSION_{key.upper()}": value for key, value in settings.items()})
        kvs.KVSession(app)
        if views:
            add_views(app)
        made.append(app)
        return app

    yield make
    for app in made:
        close(app)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def add_views(app: Flask) -> None:
    """The views that most tests need; a test adds those that only it needs."""

    @app.post("/login/<user>")
    def login(user: str) -> t.Any:
        body = request.get_json(silent=True) or {}
        session = kvs.login_user(user, body.get("data"), remember=body.get("remember", True))
        return {"id": session.id}

    @app.post("/logout")
    def logout() -> t.Any:
        kvs.logout_user()
        return {}

    @app.get("/me")
    @kvs.login_required
    def me() -> t.Any:
        return {"id": g.session.id, "user": g.session.user_id, "data": dict(g.session)}

    @app.get("/data")
    def data() -> t.Any:
        return jsonify(dict(g.session))

    @app.post("/data")
    def set_data() -> t.Any:
        g.session.update(request.get_json())
        return {}

    @app.get("/untouched")
    def untouched() -> t.Any:
        return {}


def close(app: Flask) -> None:
    """Closes an app's connections, if it has made any."""
    store = vars(state_of(app)).get("_store")
    if store is not None:
        store.close()


def state_of(app: Flask) -> AppState:
    return t.cast(AppState, app.extensions["kvsession"])


def store_of(app: Flask) -> kvs.SessionStore:
    return state_of(app).store


def token_of(client: FlaskClient, name: str = "kvsession") -> str | None:
    """The token in the client's cookie jar."""
    cookie = client.get_cookie(name)
    return cookie.value if cookie else None


class Clock:
    """Moves the time that every store tells; the server's own expiry goes on as it was."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def advance(self, duration: timedelta | None = None, **parts: float) -> None:
        self.ahead += duration or timedelta(**parts)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock, real = Clock(), ServerClock.now
    monkeypatch.setattr(ServerClock, "now", lambda self: real(self) + to_ms(clock.ahead))
    return clock


class Commands:
    """What clients have sent to the server: names and arguments, one entry for each round trip."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def __len__(self) -> int:
        return len(self.sent)

    @property
    def names(self) -> list[str]:
        return [line.split()[0] for line in self.sent]


_HANDSHAKE = ("HELLO", "CLIENT", "SELECT", "AUTH", "PING")


@pytest.fixture
def count_commands(redis_client: redis.Redis) -> Callable[[], t.ContextManager[Commands]]:
    """`with count_commands() as commands:` counts on the server (MONITOR) what clients send in the
    block; commands that a script calls, and the handshake of a connection, are no round trips."""

    @contextmanager
    def count() -> Iterator[Commands]:
        commands = Commands()
        with redis_client.monitor() as monitor:  # type: ignore[no-untyped-call]
            yield commands
            marker = secrets.token_hex(8)
            redis_client.echo(marker)
            for entry in monitor.listen():
                if marker in entry["command"]:
                    break
                name = entry["command"].split()[0].upper()
                if entry["client_type"] != "lua" and name not in _HANDSHAKE:
                    commands.sent.append(entry["command"])

    return count


@pytest.fixture
def keys(redis_client: redis.Redis, prefix: str) -> Callable[[], set[str]]:
    """The keys that this test has made so far."""
    return lambda: {key.decode() for key in redis_client.scan_iter(f"{prefix}:*", count=1000)}


class Do(t.Protocol):
    """What `do` is, for type checkers."""

    def __call__(
        self, browser: FlaskClient, act: Callable[[], t.Any], **kwargs: t.Any
    ) -> TestResponse: ...


@pytest.fixture
def do(app: Flask) -> Do:
    """`do(browser, act)` posts to a view that calls `act` and answers with what it returns, if that
    can be answered with, else with an empty object."""
    acts: list[Callable[[], t.Any]] = []

    @app.post("/do")
    def view() -> t.Any:
        result = acts[-1]()
        return result if isinstance(result, Response | dict | str) else {}

    def do(browser: FlaskClient, act: Callable[[], t.Any], **kwargs: t.Any) -> TestResponse:
        acts.append(act)
        try:
            return browser.post("/do", **kwargs)
        finally:
            acts.pop()

    return do


SignIn = Callable[..., FlaskClient]


@pytest.fixture
def sign_in() -> SignIn:
    """Makes a browser that has signed in; keyword arguments are what the login view takes."""

    def sign_in(app: Flask, user: str = "ada", **login: t.Any) -> FlaskClient:
        browser = app.test_client()
        assert browser.post(f"/login/{user}", json=login).status_code == 200
        return browser

    return sign_in


def browser_with(app: Flask, token: str | None) -> FlaskClient:
    """Another browser, which sends this token."""
    browser = app.test_client()
    if token is not None:
        browser.set_cookie("kvsession", token)
    return browser


def cookies_of(response: TestResponse) -> list[str]:
    """The Set-Cookie headers of the session cookie."""
    lines = response.headers.getlist("Set-Cookie")
    return [line for line in lines if line.startswith(("kvsession=", "__Host-kvsession="))]


def is_clearing(cookie: str) -> bool:
    """Whether this Set-Cookie takes the cookie away."""
    return cookie.startswith("kvsession=;") and "Max-Age=0" in cookie


def attributes_of(cookie: str) -> set[str]:
    """The attributes of a Set-Cookie, but for Expires, which only repeats Max-Age."""
    return {part for part in cookie.split("; ")[1:] if not part.startswith("Expires=")}


Keys = Callable[[], set[str]]
CountCommands = Callable[[], t.ContextManager[Commands]]
