"""A server that may evict keys loses indexes first. Every living session is found all the same."""

from __future__ import annotations

import logging
import time
import typing as t
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.errors import StoreUnavailable
from flask_kvsession.store import eviction

from .support.apps import MakeApp, store_of
from .support.browsers import SignIn, id_of, may_enter
from .support.clock import Clock
from .support.commands import CountCommands, Keys


@pytest.fixture
def evicting(redis_client: redis.Redis) -> Iterator[None]:
    """The server has the policy of many managed offers. Nothing is evicted: its memory is not
    limited. A test deletes the index itself."""
    redis_client.config_set("maxmemory-policy", "volatile-lru")
    yield
    redis_client.config_set("maxmemory-policy", "noeviction")


@pytest.fixture
def evict_indexes(redis_client: redis.Redis, keys: Keys) -> Callable[[], None]:
    def evict() -> None:
        for key in keys():
            if ":u:" in key:
                redis_client.delete(key)

    return evict


@pytest.fixture
def browsers(
    app: Flask, sign_in: SignIn, evicting: None, evict_indexes: Callable[[], None]
) -> list[FlaskClient]:
    """Three browsers of ada and one of bob, whose indexes were evicted."""
    browsers = [*(sign_in(app) for _ in range(3)), sign_in(app, "bob")]
    evict_indexes()
    return browsers


def test_the_list_finds_the_sessions(app: Flask, browsers: list[FlaskClient]) -> None:
    """The list has all sessions of the user and no other user's."""
    listed = [stored.id for stored in store_of(app).sessions_of("ada")]
    assert sorted(listed) == sorted(map(id_of, browsers[:3]))


def test_revoke_all_ends_the_sessions(app: Flask, browsers: list[FlaskClient]) -> None:
    """ "Sign out everywhere" ends all sessions of the user and no other user's."""
    assert len(store_of(app).revoke_all("ada")) == 3
    assert may_enter(*browsers) == [False, False, False, True]


def test_revoke_ends_one_session(app: Flask, browsers: list[FlaskClient]) -> None:
    """One session can be revoked."""
    assert store_of(app).revoke_one("ada", id_of(browsers[0]))
    assert may_enter(*browsers) == [False, True, True, True]


def test_update_all_changes_the_sessions(app: Flask, browsers: list[FlaskClient]) -> None:
    """A role that is taken away is gone in all sessions of the user."""
    assert store_of(app).update_all("ada", {"role": "reader"}) == 3
    assert [b.get("/data").get_json() for b in browsers] == [{"role": "reader"}] * 3 + [{}]


def test_the_limit_ends_the_least_recently_used(
    make_app: MakeApp,
    sign_in: SignIn,
    evicting: None,
    evict_indexes: Callable[[], None],
    clock: Clock,
) -> None:
    """A login beyond the limit ends the least recently used session, which the index had lost."""
    app = make_app(max_sessions_per_user=2)
    first, second = sign_in(app), sign_in(app)
    clock.advance(minutes=6)
    first.get("/me")
    evict_indexes()
    third = sign_in(app)
    assert may_enter(first, second, third) == [True, False, True]


def test_a_session_of_another_user_in_the_same_shard_is_left_alone(
    make_app: MakeApp,
    sign_in: SignIn,
    evicting: None,
    evict_indexes: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If two users share a shard, what one of them does ends no session of the other."""
    for module in ("flask_kvsession.token", "flask_kvsession.store.session_store"):
        monkeypatch.setattr(f"{module}.user_hash", lambda user: f"AbC{user:x<19}")
    monkeypatch.setattr("flask_kvsession.request.user_hash", lambda user: f"AbC{user:x<19}")
    monkeypatch.setattr("flask_kvsession.record.user_hash", lambda user: f"AbC{user:x<19}")
    app = make_app(max_sessions_per_user=1)
    ada, bob = sign_in(app), sign_in(app, "bob")
    assert id_of(ada)[:3] == id_of(bob)[:3]
    evict_indexes()
    assert may_enter(sign_in(app), bob) == [True, True]
    assert len(store_of(app).revoke_all("ada")) == 1
    assert may_enter(bob) == [True]


def test_a_session_that_its_index_has_lost_is_entered_again_when_it_is_renewed(
    app: Flask,
    browsers: list[FlaskClient],
    clock: Clock,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A renewal heals the index. That is logged once."""
    redis_client.config_set("maxmemory-policy", "noeviction")
    clock.advance(minutes=6)
    with caplog.at_level(logging.WARNING, "flask_kvsession"):
        assert may_enter(*browsers) == [True] * 4
    assert len(store_of(app).sessions_of("ada")) == 3
    assert [r.message.count("had lost a session") for r in caplog.records] == [1]


def test_one_warning_names_the_policy_and_the_remedy(
    app: Flask, browsers: list[FlaskClient], caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the policy, and is logged once."""
    with caplog.at_level(logging.WARNING, "flask_kvsession"):
        for _ in range(3):
            kvs.SessionStore(
                redis.Redis(unix_socket_path=_socket_of(app)),
                kvs.Settings(key_prefix=app.config["KVSESSION_KEY_PREFIX"]),
            ).sessions_of("ada")
            store_of(app).sessions_of("ada")
    warnings = [r.message for r in caplog.records if "maxmemory-policy: volatile-lru" in r.message]
    assert len(warnings) == 3  # one for each store; the app's came with its first login
    assert "noeviction" in warnings[0]


def _socket_of(app: Flask) -> str:
    return t.cast(str, app.config["KVSESSION_REDIS_URL"]).rpartition("@")[2]


def test_the_policy_is_asked_once_in_five_minutes(
    app: Flask,
    sign_in: SignIn,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    count_commands: CountCommands,
    evict_indexes: Callable[[], None],
) -> None:
    """After 5 minutes a changed policy is noticed. On a server that evicts nothing there is no
    walk."""
    elapsed = 0.0
    real = time.monotonic
    monkeypatch.setattr(f"{eviction.__name__}.time.monotonic", lambda: real() + elapsed)
    sign_in(app)
    with count_commands() as commands:
        store_of(app).sessions_of("ada")
    assert "SCAN" not in commands.names
    try:
        redis_client.config_set("maxmemory-policy", "allkeys-lru")
        evict_indexes()
        assert store_of(app).sessions_of("ada") == []
        elapsed = 301.0
        assert len(store_of(app).sessions_of("ada")) == 1
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")


RULES = {
    "INFO": "~* +@all -info",
    "INFO and SCAN": "~* +@all -info -scan",
}


@pytest.mark.parametrize(("forbidden", "rules"), RULES.items(), ids=RULES)
def test_a_server_that_forbids_info_is_taken_for_one_that_evicts(
    make_app: MakeApp,
    redis_client: redis.Redis,
    socket_path: str,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    evict_indexes: Callable[[], None],
    forbidden: str,
    rules: str,
) -> None:
    """Without INFO the shard is walked. Without SCAN too, the index alone is used and a warning
    says so. The log does not call that an outage."""
    redis_client.execute_command("ACL", "SETUSER", prefix, "on", ">pw", *rules.split())  # type: ignore[no-untyped-call]
    try:
        app = make_app(redis_url=f"unix://{prefix}:pw@{socket_path}")
        with caplog.at_level(logging.WARNING, "flask_kvsession"):
            app.test_client().post("/login/ada")
            evict_indexes()
            found = store_of(app).sessions_of("ada")
        assert len(found) == (1 if forbidden == "INFO" else 0)
        assert ("forbids SCAN" in caplog.text) == (forbidden != "INFO")
        assert "unavailable" not in caplog.text
    finally:
        redis_client.acl_deluser(prefix)


def test_a_login_does_not_fail_because_the_server_has_too_many_keys(
    make_app: MakeApp,
    evicting: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the walk takes too long, a login counts the sessions in the index, and a warning says so.
    A list fails: it would be incomplete."""
    app = make_app()
    monkeypatch.setattr("flask_kvsession.store.server.Server.ids_in_shard", out_of_time)
    client = app.test_client()
    assert client.post("/login/ada").status_code == 200
    assert "look through all keys" in caplog.text
    with pytest.raises(StoreUnavailable):
        store_of(app).sessions_of("ada")


def out_of_time(self: object, user: str) -> list[str]:
    raise StoreUnavailable
