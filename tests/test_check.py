"""`flask kvsession check`: what it says of servers, rights, prefixes and cookies."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from flask import Flask

import flask_kvsession as kvs
from flask_kvsession.cli import checks
from flask_kvsession.cli.checks import Level
from flask_kvsession.store import ServerFacts, inspection
from flask_kvsession.store.rights import LISTENING, NEEDED

from .support.apps import MakeApp, store_of
from .support.browsers import SignIn
from .support.rights import PASSWORD, USER, allow, url_of
from .support.servers import Server

WITH_ANOTHER_WAY = {"evalsha", "eval", "ping", "info", "scan"}

Check = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture(scope="module")
def server_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s"), "--appendonly", "yes")
    yield server
    server.kill()


@pytest.fixture
def own_server(server_of_module: Server) -> Server:
    """A server whose rights and settings a test may change, as it should be for sessions."""
    with server_of_module.client() as client:
        allow(client)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "0")
    return server_of_module


@pytest.fixture
def app(make_app: MakeApp, own_server: Server) -> Flask:
    app = make_app(redis_url=url_of(own_server.path))
    app.testing = False  # the cookie is that of production
    return app


def run(app: Flask, *options: str) -> tuple[int, list[dict[str, str]]]:
    """The exit code of `flask kvsession check`, and its results."""
    result = app.test_cli_runner().invoke(args=["kvsession", "check", "--json", *options])
    return result.exit_code, json.loads(result.stdout)


def faults(app: Flask) -> list[tuple[str, str]]:
    """The name and the level of each result that is not ok."""
    return [(each["name"], each["level"]) for each in run(app)[1] if each["level"] != "ok"]


def found(app: Flask, name: str) -> str:
    """What the results of this name have found, and what to do."""
    return " ".join(
        f"{each['found']} {each['remedy']}" for each in run(app)[1] if each["name"] == name
    )


def test_all_is_well_on_a_server_for_sessions(app: Flask, own_server: Server, prefix: str) -> None:
    """With the documented settings and rights each result is ok, and no key is left."""
    code, results = run(app, "--strict")
    assert {each["level"] for each in results} == {"ok"}
    assert {each["name"] for each in results} == {
        *("connection", "rights", "server", "persistence", "eviction"),
        *("clock", "scripts", "prefix", "cookie"),
    }
    assert (code, own_server.run("KEYS", f"{prefix}:*")) == (0, [])


def test_each_fault_says_what_to_do(make_app: MakeApp, own_server: Server) -> None:
    """Each warning and each error has a remedy."""
    with own_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        allow(client, "zadd", "scan")
        app = make_app(redis_url=url_of(own_server.path), cookie_secure=False)
        results = [each for each in run(app)[1] if each["level"] != "ok"]
    assert len(results) >= 4
    assert [each["found"] for each in results if not each["remedy"]] == []


def test_a_warning_fails_only_a_strict_check(app: Flask, own_server: Server) -> None:
    """The exit code is 0 for a warning, and 1 with `--strict`, for CI."""
    with own_server.client() as client:
        client.config_set("maxmemory-policy", "volatile-lru")
        assert faults(app) == [("eviction", "warning")]
        assert (run(app)[0], run(app, "--strict")[0]) == (0, 1)
        assert "volatile-lru" in found(app, "eviction")
        assert "noeviction" in found(app, "eviction")


def test_a_table_of_results_names_the_levels(app: Flask) -> None:
    """In a pipe each result is one line: level, name, what was found, what to do."""
    result = app.test_cli_runner().invoke(args=["kvsession", "check"])
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert {line[0] for line in lines} == {"ok"}
    assert lines[0][1] == "connection"


class TestRights:
    @pytest.mark.parametrize("command", sorted(set(NEEDED) - WITH_ANOTHER_WAY))
    def test_a_missing_right_is_an_error(
        self, app: Flask, own_server: Server, command: str
    ) -> None:
        """The error names the command, and the rule that allows it. The exit code is 1."""
        with own_server.client() as client:
            allow(client, command)
            assert ("rights", "error") in faults(app)
            assert run(app)[0] == 1
            assert f"forbids {command.upper()} " in found(app, "rights")
            assert f"+{command}" in found(app, "rights")

    @pytest.mark.parametrize("command", sorted(WITH_ANOTHER_WAY))
    def test_a_right_that_has_another_way_is_a_warning(
        self, app: Flask, own_server: Server, command: str
    ) -> None:
        """Sessions work without it, so the exit code is 0."""
        with own_server.client() as client:
            allow(client, command)
            code, results = run(app)
        rights = [each for each in results if each["name"] == "rights"]
        assert [each["level"] for each in rights] == ["warning"]
        assert f"forbids {command.upper()}: " in rights[0]["found"]
        assert code == 0

    @pytest.mark.parametrize("command", LISTENING)
    def test_rights_for_the_near_cache_are_judged_if_there_is_one(
        self, make_app: MakeApp, own_server: Server, command: str
    ) -> None:
        """The user of an app without a near cache does not need them."""
        with own_server.client() as client:
            allow(client, command)
            levels = {}
            for near_cache in (False, True):
                app = make_app(redis_url=url_of(own_server.path), near_cache=near_cache)
                app.testing = False
                levels[near_cache] = faults(app)
        assert levels == {False: [], True: [("rights", "warning")]}

    def test_no_scripts_at_all_is_an_error(self, app: Flask, own_server: Server) -> None:
        """A server that forbids both `EVALSHA` and `EVAL` cannot keep sessions."""
        with own_server.client() as client:
            allow(client, "eval", "evalsha")
            assert {("rights", "error"), ("scripts", "error")} <= set(faults(app))

    def test_rights_on_other_keys_only_are_an_error(self, app: Flask, own_server: Server) -> None:
        """The user may send the commands, but not on keys with this prefix."""
        with own_server.client() as client:
            client.acl_setuser(
                USER,
                enabled=True,
                reset=True,
                passwords=[f"+{PASSWORD}"],
                keys=["kvs:*"],
                commands=[f"+{name}" for name in NEEDED],
            )
            assert ("rights", "error") in faults(app)
            assert "KVSESSION_KEY_PREFIX" in found(app, "rights")
            assert "forbids" not in found(app, "rights")

    def test_a_full_memory_is_an_error(self, app: Flask, own_server: Server) -> None:
        """A server that refuses writes cannot keep sessions."""
        with own_server.client() as client:
            client.config_set("maxmemory", "1")
            assert {("rights", "error"), ("memory", "warning"), ("scripts", "error")} <= set(
                faults(app)
            )
            assert "memory of the Redis server is full" in found(app, "scripts")


class TestConnection:
    def test_a_wrong_password_is_named(self, make_app: MakeApp, own_server: Server) -> None:
        """The one error of the connection says so, and does not contain the password."""
        app = make_app(redis_url=url_of(own_server.path).replace(PASSWORD, "guessed"))
        app.testing = False
        code, results = run(app)
        assert (code, faults(app)) == (1, [("connection", "error")])
        assert "refuses the user name or the password" in results[0]["found"]
        assert "guessed" not in json.dumps(results)

    def test_a_missing_password_is_named(
        self, make_app: MakeApp, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """A server that wants a password, and a URL without one."""
        server = Server(tmp_path_factory.mktemp("p"), "--requirepass", "s3cr3t", password="s3cr3t")
        try:
            app = make_app(redis_url=f"unix://{server.path}")
            assert "refuses the user name or the password" in found(app, "connection")
        finally:
            server.kill()

    def test_an_unreachable_server_leaves_the_other_checks(
        self, make_app: MakeApp, tmp_path: Path
    ) -> None:
        """The connection is an error, and the cookie is checked nevertheless."""
        app = make_app(redis_url=f"unix://{tmp_path}/nothing", cookie_domain="example.com")
        app.testing = False
        assert faults(app) == [("connection", "error"), ("cookie", "warning")]

    def test_a_missing_url_is_named(self) -> None:
        """Without a URL there is no server to check."""
        app = Flask("plain")
        kvs.KVSession(app)
        code, results = run(app)
        assert (code, results[0]["name"]) == (1, "connection")
        assert results[0]["found"].startswith("KVSESSION_REDIS_URL is not set")

    def test_a_replica_is_an_error(self, app: Flask, own_server: Server, make_app: MakeApp) -> None:
        """A replica refuses writes, so it cannot keep sessions."""
        with own_server.client() as client:
            client.replicaof("127.0.0.1", 1)  # nobody is there
            try:
                assert {("rights", "error"), ("scripts", "error")} <= set(faults(app))
                assert "replica" in found(app, "scripts")
            finally:
                client.replicaof("NO", "ONE")


class TestPrefix:
    @pytest.mark.parametrize(
        ("key", "is_strange"),
        [("cache:1", True), ("{AbC}:s:short", True), ("b:{AbC}:s:" + "x" * 16, False)],
        ids=["another program", "another shape", "a longer prefix"],
    )
    def test_keys_of_another_program_are_a_warning(
        self, app: Flask, own_server: Server, prefix: str, key: str, is_strange: bool
    ) -> None:
        """The warning names one of the keys. Another app with a longer prefix is no problem."""
        with own_server.client() as client:
            client.set(f"{prefix}:{key}", "x", px=60_000)
            expected = [("prefix", "warning")] if is_strange else []
            assert faults(app) == expected
            assert (f"{prefix}:{key}" in found(app, "prefix")) is is_strange
            client.delete(f"{prefix}:{key}")

    def test_the_check_looks_at_a_part_of_many_keys(
        self, app: Flask, own_server: Server, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It stops after a number of keys and of sessions, and a record that cannot be read does
        not count."""
        monkeypatch.setattr(inspection, "_KEYS_LOOKED_AT", 1)
        monkeypatch.setattr(inspection, "_SESSIONS_LOOKED_AT", 1)
        sign_in(app)
        with own_server.client() as client:
            corrupt = store_of(app)._server.record_key("AbC" + "x" * 16)
            client.set(corrupt, "{", px=60_000)
            assert faults(app) == []
            client.delete(corrupt)

    def test_another_app_with_other_timeouts_is_a_warning(
        self, app: Flask, make_app: MakeApp, own_server: Server, sign_in: SignIn
    ) -> None:
        """Sessions of this app are no reason for it. One of another app with the prefix is: it
        expires at another time than this app gives it."""
        sign_in(app)
        app.test_client().post("/data", json={"x": 1})
        app.test_client().post("/login/ada", json={"remember": False})
        assert faults(app) == []
        other = make_app(redis_url=url_of(own_server.path), idle_timeout=3600)
        sign_in(other)
        assert faults(app) == [("prefix", "warning")]
        assert "1 of 4 sessions have other timeouts" in found(app, "prefix")

    def test_the_default_prefix_is_named(self, make_app: MakeApp, own_server: Server) -> None:
        """A second app would share the sessions of the first, so the result says so."""
        app = make_app(redis_url=url_of(own_server.path), key_prefix="kvs")
        assert "the default: a second app on this server needs another one" in found(app, "prefix")


class TestCookie:
    @pytest.mark.parametrize(
        ("settings", "level", "text"),
        [
            ({"cookie_secure": False}, "error", "KVSESSION_COOKIE_SECURE = True"),
            ({"cookie_domain": "example.com"}, "warning", "Remove KVSESSION_COOKIE_DOMAIN"),
            ({"cookie_path": "/app"}, "warning", "KVSESSION_COOKIE_PATH"),
            ({"cookie_samesite": "None"}, "warning", "SameSite=None"),
            ({"cookie_samesite": "Strict"}, None, "Strict"),
        ],
        ids=["plain http", "domain", "path", "cross-site", "strict"],
    )
    def test_weak_attributes_are_named(
        self,
        make_app: MakeApp,
        own_server: Server,
        settings: dict[str, t.Any],
        level: str | None,
        text: str,
    ) -> None:
        """The result names the setting and the requirement of OWASP ASVS."""
        app = make_app(redis_url=url_of(own_server.path), **settings)
        app.testing = False
        assert faults(app) == ([("cookie", level)] if level else [])
        assert text in found(app, "cookie")
        assert ("ASVS 3.3." in found(app, "cookie")) is bool(level)

    def test_testing_mode_is_a_warning(self, app: Flask) -> None:
        """In debug and testing mode the cookie is not Secure, which says nothing of production."""
        app.testing = True
        assert faults(app) == [("cookie", "warning")]
        assert "without debug and testing mode" in found(app, "cookie")

    def test_the_cookie_of_flask_session_is_judged_by_flasks_settings(
        self, make_app: MakeApp, own_server: Server
    ) -> None:
        """Flask's own cookie is not Secure and has no prefix by default."""
        app = make_app(redis_url=url_of(own_server.path), as_flask_session=True)
        app.testing = False
        assert "SESSION_COOKIE_SECURE = True" in found(app, "cookie")
        app.config["SESSION_COOKIE_SECURE"] = True
        assert '"__Host-session"' in found(app, "cookie")
        app.config.update(SESSION_COOKIE_NAME="__Host-session", SESSION_COOKIE_SAMESITE="Lax")
        assert faults(app) == []
        app.config["SESSION_COOKIE_HTTPONLY"] = False
        assert faults(app) == [("cookie", "error")]


# What a test cannot make a server do


def facts(*, milliseconds: float = 0.1, clock_ahead: float = 0.0) -> ServerFacts:
    return ServerFacts("s", milliseconds, clock_ahead)


@pytest.mark.parametrize(
    ("aheads", "levels"),
    [
        ([0.02], [Level.OK]),
        ([-3.0], [Level.WARNING]),
        ([3.0], [Level.WARNING]),
        ([0.0, 0.3], [Level.WARNING, Level.OK]),
        ([0.0, 0.05], [Level.OK]),
    ],
)
def test_clocks_are_compared_with_each_other_and_with_this_machine(
    aheads: list[float], levels: list[Level]
) -> None:
    """A second of difference to this machine is a warning, and 100 ms between two servers."""
    results = checks.check_clocks([facts(clock_ahead=ahead) for ahead in aheads])
    assert [result.level for result in results] == levels


def test_a_slow_server_is_a_warning() -> None:
    """An answer should take less than a tenth of `KVSESSION_STORE_TIMEOUT`."""
    levels = [
        checks.check_connection(facts(milliseconds=ms), kvs.Settings()).level for ms in (99, 101)
    ]
    assert levels == [Level.OK, Level.WARNING]


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"redis_version": "6.2.14"}, Level.OK),
        ({"redis_version": "8.0.0"}, Level.OK),
        ({"redis_version": "6.0.9"}, Level.ERROR),
        ({"redis_version": "5.0"}, Level.ERROR),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.1"}, Level.OK),
        ({}, Level.ERROR),
    ],
)
def test_old_servers_are_an_error(info: dict[str, str], level: Level) -> None:
    """Redis 6.2 is the oldest server that works; each Valkey works."""
    assert checks.check_version(info).level is level


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"aof_enabled": "1", "aof_last_write_status": "ok"}, Level.OK),
        ({"aof_enabled": "1", "aof_last_write_status": "err"}, Level.ERROR),
        ({"aof_enabled": "0"}, Level.WARNING),
    ],
)
def test_persistence_is_judged_by_the_append_only_file(info: dict[str, str], level: Level) -> None:
    """Without an append-only file a restart undoes revocations; one that cannot be written is an
    error."""
    assert [result.level for result in checks.check_persistence(info)] == [level]


def test_the_facts_of_a_real_server_are_those_of_its_info(
    app: Flask, own_server: Server, redis_client: redis.Redis
) -> None:
    """The version is that of the server's `INFO`."""
    info = own_server.info("server")
    version = info.get("valkey_version") or info["redis_version"]
    assert version in found(app, "server")
    assert own_server.path in found(app, "connection")
