"""Fixtures: a real server, apps with a key prefix for each test, and a clock that tests advance.

The server is the embedded server; the environment variable `KVSESSION_EMBEDDED_SERVER` names its
program. If `KVSESSION_TEST_REQUIRE` is set and a part that a test needs is missing, the test fails
and is not skipped. If `KVSESSION_TEST_NEAR_CACHE` is set, the apps have a near cache.
"""

from __future__ import annotations

import os
import secrets
import typing as t
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask, Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession.connection import EmbeddedServer
from flask_kvsession.store.near_cache import NearCache
from flask_kvsession.store.server import SCRIPTS, load_script
from flask_kvsession.testing import movable_clock

from .support import near_cache
from .support.apps import Do, MakeApp, add_views, close
from .support.browsers import SignIn
from .support.clock import Clock
from .support.commands import CountCommands, Keys, commands_sent
from .support.races import Stage
from .support.rights import allow, url_of


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> t.Any:
    """If `KVSESSION_TEST_REQUIRE` is set, reports a skipped test as failed."""
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and os.environ.get("KVSESSION_TEST_REQUIRE")
    ):
        report.outcome = "failed"
        report.longrepr = f"a required part is missing: {report.longrepr}"
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With the near cache, leaves out the tests that state what holds only without it."""
    if near_cache.IS_ON:
        left_out = [item for item in items if item.get_closest_marker("without_near_cache")]
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One real server for all tests of this process."""
    server = EmbeddedServer(tmp_path_factory.mktemp("server"), ephemeral=True)
    with redis.Redis(unix_socket_path=server.socket_path) as client:
        for name in SCRIPTS:  # otherwise the first use of a script needs one more round trip
            client.script_load(load_script(name).source)
        allow(client)
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
    """A plain Redis client, with which a test inspects the keys."""
    client = redis.Redis(unix_socket_path=socket_path)
    yield client
    client.close()


@pytest.fixture
def make_app(socket_path: str, prefix: str) -> Iterator[MakeApp]:
    """Makes an app with sessions and a few views; keyword arguments are settings without their
    prefix. Two apps of one test share their keys, as two workers do."""

    made: list[Flask] = []

    def make(
        name: str = "app",
        *,
        views: bool = True,
        flask_class: type[Flask] = Flask,
        **settings: t.Any,
    ) -> Flask:
        app = flask_class(name)
        app.config.update(TESTING=True, KVSESSION_KEY_PREFIX=prefix)
        app.config["KVSESSION_REDIS_URL"] = url_of(socket_path)
        app.config["KVSESSION_STORE_TIMEOUT"] = 10  # for a busy machine
        if near_cache.IS_ON:
            app.config["KVSESSION_NEAR_CACHE"] = True
        app.config.update({f"KVSESSION_{key.upper()}": value for key, value in settings.items()})
        kvs.KVSession(app)
        if views:
            add_views(app)
        made.append(app)
        return app

    yield make
    for app in made:
        close(app)


@pytest.fixture(autouse=near_cache.IS_ON)
def _near_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NearCache, "get", near_cache.get_when_told)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app()


@pytest.fixture
def stage(app: Flask) -> Iterator[Stage]:
    """Requests that run in parallel, each parked where the test says."""
    stage = Stage(app)
    yield stage
    stage.pool.shutdown()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def clock() -> Iterator[Clock]:
    with movable_clock() as clock:
        yield clock


@pytest.fixture
def count_commands(redis_client: redis.Redis) -> CountCommands:
    """`with count_commands() as commands:` counts the commands that clients send in the block."""
    return lambda: commands_sent(redis_client)


@pytest.fixture
def keys(redis_client: redis.Redis, prefix: str) -> Keys:
    """The keys that this test has made."""

    def keys() -> set[str]:
        found = {key.decode() for key in redis_client.scan_iter(f"{prefix}:*", count=1000)}
        return {key for key in found if near_cache.MARK not in key}

    return keys


@pytest.fixture
def do(app: Flask) -> Do:
    """`do(browser, act)` posts to a view that calls `act`. If the result of `act` can be a
    response, the view returns it. Otherwise the view returns an empty object."""
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


@pytest.fixture
def sign_in() -> SignIn:
    """Makes a browser that has signed in. The keyword arguments are sent to the login view as
    JSON."""

    def sign_in(app: Flask, user: str = "ada", **login: t.Any) -> FlaskClient:
        browser = app.test_client()
        assert browser.post(f"/login/{user}", json=login).status_code == 200
        return browser

    return sign_in
