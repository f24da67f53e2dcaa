"""The store alone: without Flask, with each kind of client, and one slot per user (law 7)."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import time
import typing as t
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from importlib.resources import files

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from redis.crc import key_slot

import flask_kvsession as kvs
from flask_kvsession.connection.embedded import find_binary
from flask_kvsession.store.clock import ServerClock
from flask_kvsession.store.maintenance import Maintenance
from flask_kvsession.store.server import SCRIPTS, load_script

from .support.apps import MakeApp, add_views, store_of
from .support.browsers import browser_with, may_enter, token_of
from .support.clock import Clock
from .support.commands import Commands
from .support.exercise import exercise

CLIENTS: dict[str, dict[str, t.Any]] = {
    "plain": {},
    "decoding": {"decode_responses": True},
    "RESP2": {"protocol": 2},
    "RESP2, decoding": {"protocol": 2, "decode_responses": True},
    "RESP3": {"protocol": 3},
    "RESP3, decoding": {"protocol": 3, "decode_responses": True},
}


@pytest.mark.parametrize("options", CLIENTS.values(), ids=CLIENTS)
def test_store_works_with_each_kind_of_client(
    socket_path: str, prefix: str, options: dict[str, t.Any]
) -> None:
    """The store works with a client of either protocol, decoding or not."""
    with redis.Redis(unix_socket_path=socket_path, **options) as client:
        exercise(kvs.SessionStore(client, kvs.Settings(key_prefix=prefix, max_sessions_per_user=2)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.RedisCluster]:
    """A cluster of one node, which has all slots and refuses what crosses two."""
    folder = tmp_path_factory.mktemp("cluster")
    port = secrets.choice(range(20_000, 30_000))
    command = [find_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--cluster-enabled", "yes", "--daemonize", "no"]
    node = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    with redis.Redis(port=port) as direct:
        direct.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383) if wait_for(direct) else None
        while b"cluster_state:ok" not in t.cast(bytes, raw(direct, "CLUSTER", "INFO")):
            pass
    client = redis.RedisCluster(host="127.0.0.1", port=port)
    yield client
    client.close()
    node.kill()
    node.wait()


def wait_for(client: redis.Redis) -> bool:
    for _ in range(500):
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            subprocess.run(["sleep", "0.02"], check=True)
    return False


def raw(client: redis.Redis, *command: str) -> t.Any:
    return client.execute_command(*command, NEVER_DECODE=True)  # type: ignore[no-untyped-call]


def test_store_works_on_a_redis_cluster(cluster: redis.RedisCluster, prefix: str) -> None:
    """The store works with a client of a Redis Cluster."""
    exercise(kvs.SessionStore(cluster, kvs.Settings(key_prefix=prefix, max_sessions_per_user=2)))


def test_app_works_with_a_cluster_client(cluster: redis.RedisCluster, prefix: str) -> None:
    """An app with a cluster client can log in, replace, list and revoke sessions."""
    app = Flask("clustered")
    app.config.update(TESTING=True, KVSESSION_KEY_PREFIX=prefix)
    kvs.KVSession(app, redis=cluster)
    add_views(app)
    client = app.test_client()
    client.post("/data", json={"cart": 1})
    client.post("/login/ada")
    assert client.get("/me").get_json()["data"] == {"cart": 1}
    with app.app_context():
        assert len(kvs.list_sessions("ada")) == 1
        assert kvs.revoke_all_sessions("ada") == 1
    assert client.get("/me").status_code == 401


def test_all_keys_of_one_command_are_in_one_slot(
    make_app: MakeApp, count_commands: Callable[[], AbstractContextManager[Commands]]
) -> None:
    """All keys of one command are in one slot."""
    store = store_of(make_app(max_sessions_per_user=2))
    with count_commands() as commands:
        exercise(store)
    checked = 0
    for line in commands.sent:
        words = line.split()
        keys = words[1:] if words[0] == "MGET" else words[1:2]
        if words[0] in ("EVALSHA", "EVAL"):
            keys = words[3 : 3 + int(words[2])]
        if words[0] != "TIME" and keys:
            assert len({key_slot(key.encode()) for key in keys}) == 1
            checked += 1
    assert checked > 10


WITHOUT_FLASK = """
import sys, redis, flask
from flask_kvsession import SessionStore, Settings
flask.Flask = None
store = SessionStore(redis.Redis(unix_socket_path=sys.argv[1]), Settings(key_prefix=sys.argv[2]))
print(len(store.sessions_of("ada")), len(store.revoke_all("ada")))
"""


def test_worker_without_an_app_can_list_and_revoke(
    client: FlaskClient, socket_path: str, prefix: str
) -> None:
    """A script without a Flask app can list and revoke the sessions of an app."""
    client.post("/login/ada")
    command = [sys.executable, "-c", WITHOUT_FLASK, socket_path, prefix]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
    assert client.get("/me").status_code == 401


# One .lua file, one act, one method


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_is_a_method_of_the_store(name: str) -> None:
    """Each script has the name of the method that runs it, of the store or of its maintenance."""
    owners = (kvs.SessionStore, Maintenance)
    assert sum(callable(getattr(owner, name, None)) for owner in owners) == 1


def lua_of(name: str) -> str:
    return (files("flask_kvsession.store") / "lua" / f"{name}.lua").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_header_names_the_keys_and_arguments_passed(
    make_app: MakeApp,
    count_commands: Callable[[], AbstractContextManager[Commands]],
    name: str,
) -> None:
    """The header of each script names the KEYS and ARGV that are passed and used."""
    store = store_of(make_app(max_sessions_per_user=2))
    with count_commands() as commands:
        exercise(store)
    header, _, body = lua_of(name).partition("\n\n")
    digest = load_script(name).digest
    calls = [line.split() for line in commands.sent if digest in line]
    assert calls
    for kind, offset in (("KEYS", 3), ("ARGV", None)):
        named = [int(n) for n in re.findall(rf"^-- {kind}\[(\d+)", header, re.M)]
        is_open = re.search(rf"^-- {kind}\[{named[-1]}\.\.\.\]", header, re.M)
        assert named == list(range(1, len(named) + 1))
        for words in calls:
            keys = int(words[2])
            passed = keys if offset else len(words) - 3 - keys
            assert passed >= len(named) - 1 if is_open else passed <= len(named)
        used = {int(n) for n in re.findall(rf"{kind}\[(\d+)\]", body)}
        assert used <= set(named)


PARAMETERS = {"key", "index"}
"""The parameters of the functions in `common.lua` that name a key."""


@pytest.mark.parametrize("name", ["common", *SCRIPTS])
def test_script_uses_only_passed_keys_and_encodes_no_json(name: str) -> None:
    """A script uses only keys that are passed and encodes no JSON: cjson turns [] into {}."""
    code = re.sub(r"--.*", "", lua_of(name))
    calls = re.findall(r"redis\.p?call\(\s*'(\w+)'\s*(?:,\s*([^,)]+))?", code)
    functions = "read|read_head|replace_by_tombstone|write_session|(?:remove_from|enter_in)_index"
    calls += re.findall(rf"(?<!function )\b({functions})\(([^,)]+)", code)
    keys = {key for command, key in calls if command != "TIME"}
    assert keys
    assert all(key.startswith("KEYS[") for key in keys - PARAMETERS)
    assert name == "common" or not keys & PARAMETERS
    assert ".." not in code.replace("...", "")  # no key is put together
    # Redis 7.2.0 to 7.2.4 writes the Lua number 100000000 as 1e+8, and SET refuses that.
    lifetimes = re.findall(r"'PX', ([^)]+\)?)\)", code)
    assert set(lifetimes) <= {"lifetime", "string.format('%d', lifetime)"}
    assert not re.search(r"write_session\([^\n]*tonumber", code)
    assert "cjson.encode" not in code


# Times in the store (law 6)


def test_keys_expire_with_the_idle_timeout(
    make_app: MakeApp, redis_client: redis.Redis, keys: Callable[[], set[str]]
) -> None:
    """A record, its index and a tombstone expire with the idle timeout."""
    app = make_app(idle_timeout=timedelta(hours=2), absolute_timeout=timedelta(hours=5))
    app.test_client().post("/login/ada")
    store = store_of(app)
    for step in range(2):
        lives = {key: redis_client.pttl(key) for key in keys()}
        assert len(lives) == 2 - step
        assert all(7_190_000 < ms <= 7_200_000 for ms in lives.values())
        store.revoke_all("ada")


def test_no_key_is_left_without_an_expiry(
    make_app: MakeApp, redis_client: redis.Redis, keys: Callable[[], set[str]], clock: Clock
) -> None:
    """After logins, writes, renewals and revocations, each key has an expiry."""
    app = make_app(max_sessions_per_user=2)
    exercise(store_of(app))
    browsers = [app.test_client() for _ in range(4)]
    for browser in browsers:
        browser.post("/data", json={"x": 1})
        browser.post("/login/ada")
        clock.advance(minutes=6)
        browser.get("/me")
    assert keys()
    assert all(redis_client.pttl(key) > 0 for key in keys())


def test_evicted_index_is_restored_by_the_next_renewal(
    app: Flask, redis_client: redis.Redis, keys: Callable[[], set[str]], clock: Clock
) -> None:
    """If the index was evicted, the next renewal lists the session again."""
    client = app.test_client()
    client.post("/login/ada")
    (index,) = [key for key in keys() if ":u:" in key]
    redis_client.delete(index)
    assert store_of(app).sessions_of("ada") == []
    clock.advance(minutes=6)
    client.get("/me")
    assert len(store_of(app).sessions_of("ada")) == 1


def test_expired_index_entry_is_removed_by_the_next_write(
    app: Flask, redis_client: redis.Redis, keys: Callable[[], set[str]]
) -> None:
    """An expired index entry is not listed, and the next write removes it."""
    app.test_client().post("/login/ada")
    (index,) = [key for key in keys() if ":u:" in key]
    redis_client.zadd(index, {"AbC0123456789abcdef": 1})
    assert len(store_of(app).sessions_of("ada")) == 1
    app.test_client().post("/login/ada")
    assert redis_client.zcard(index) == 2


def test_index_of_a_user_lives_as_long_as_the_session_that_ends_last(
    app: Flask, redis_client: redis.Redis, keys: Callable[[], set[str]]
) -> None:
    """The index of a user's sessions expires with the session that ends last, also if a session
    that ends earlier is written after it."""
    for remember in (True, False):
        app.test_client().post("/login/ada", json={"remember": remember})
    (index,) = [key for key in keys() if ":u:" in key]
    last = max(stored.id for stored in store_of(app).sessions_of("ada") if stored.record.remembered)
    (record,) = [key for key in keys() if key.endswith(last[3:])]
    assert abs(redis_client.pttl(index) - redis_client.pttl(record)) < 5_000


@pytest.mark.parametrize(
    ("told", "followed"), [(60, 0), (-60, 0), (2_000, 2_000), (-2_000, -2_000)], ids=str
)
def test_clock_ignores_jitter_and_follows_a_corrected_server_time(
    monkeypatch: pytest.MonkeyPatch, told: int, followed: int
) -> None:
    """A worker's clock ignores differences under 100 ms and follows larger ones, forwards and
    backwards."""
    monkeypatch.setattr("flask_kvsession.store.clock.monotonic_ns", lambda: 7_000 * 1_000_000)
    clock = ServerClock()
    clock.learn(1_000_000)
    clock.learn(1_000_000 + told)
    assert clock.now() == 1_000_000 + followed


def test_each_act_tells_a_worker_the_servers_time(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose own clock has stood still learns the server's time from its next act."""
    store = store_of(app)
    right = store.now()
    late = time.monotonic_ns() - 3_600_000 * 1_000_000
    monkeypatch.setattr("flask_kvsession.store.clock.monotonic_ns", lambda: late)
    assert store.now() < right
    client.post("/login/ada")
    assert 0 <= store.now() - right < 60_000


@pytest.mark.parametrize("wall_clock", [0.0, 4e9], ids=["1970", "2096"])
def test_worker_with_a_wrong_wall_clock_harms_no_session(
    make_app: MakeApp, app: Flask, monkeypatch: pytest.MonkeyPatch, wall_clock: float
) -> None:
    """A worker whose wall clock is wrong signs nobody out early and creates sessions that other
    workers accept."""
    browsers = [app.test_client(), app.test_client()]
    browsers[0].post("/login/ada")
    monkeypatch.setattr("time.time", lambda: wall_clock)
    monkeypatch.setattr("time.time_ns", lambda: int(wall_clock * 1e9))
    wrong = make_app("wrong", idle_timeout=timedelta(minutes=30))
    other = wrong.test_client()
    other.post("/login/ada")
    browsers[1].set_cookie("kvsession", token_of(other) or "")
    seen_by_wrong = [other, browser_with(wrong, token_of(browsers[0]))]
    assert may_enter(*seen_by_wrong, *browsers) == [True] * 4
    for each in (wrong, app):
        assert len(store_of(each).sessions_of("ada")) == 2
