"""Law 2: the round trips to Redis, counted on the server."""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.record import Client, Stored, new_record
from flask_kvsession.token import Token, new_session_id, user_hash

from .support.apps import MakeApp, store_of
from .support.clock import Clock
from .support.commands import Commands

Count = Callable[[], AbstractContextManager[Commands]]
Act = Callable[[], object]


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app()
    app.config["act"] = lambda: None

    @app.post("/act")
    def act() -> t.Any:
        app.config["act"]()
        return {}

    store_of(app).now()  # the server's time is asked for once in a worker's life
    return app


def names_of(app: Flask, client: FlaskClient, count: Count, act: Act) -> list[str]:
    app.config["act"] = act
    with count() as commands:
        assert client.post("/act").status_code == 200
    return commands.names


def test_request_that_does_not_touch_the_session_costs_nothing(
    client: FlaskClient, count_commands: Count
) -> None:
    """A request that does not touch the session sends no command."""
    client.post("/login/ada")
    with count_commands() as commands:
        client.get("/untouched")
    assert commands.names == []


ANONYMOUS: dict[str, tuple[Act, list[str]]] = {
    "read": (lambda: g.session.get("x"), []),
    "first write": (lambda: g.session.update(x=1), ["EVALSHA"]),
    "atomic change": (lambda: kvs.change_session(lambda data: data.update(x=1)), ["EVALSHA"]),
    "login": (lambda: kvs.login_user("ada"), ["EVALSHA"]),
    "logout": (kvs.logout_user, []),
}

USER: dict[str, tuple[Act, list[str]]] = {
    "read": (lambda: (g.session.get("x"), g.session.user_id, len(g.session)), ["GET"]),
    "atomic change": (
        lambda: kvs.change_session(lambda data: data.update(x=2)),
        ["GET", "EVALSHA"],
    ),
    "write": (lambda: g.session.update(x=2, y=3), ["GET", "EVALSHA"]),
    "the same value": (lambda: g.session.update(x=1), ["GET"]),
    "login over a session": (lambda: kvs.login_user("ada"), ["GET", "EVALSHA", "EVALSHA"]),
    "logout": (kvs.logout_user, ["GET", "EVALSHA"]),
    "rotation": (kvs.rotate_token, ["GET", "EVALSHA"]),
    "rotation and write": (
        lambda: g.session.update(x=2) or kvs.rotate_token(),  # type: ignore[func-returns-value]
        ["GET", "EVALSHA"],
    ),
    "confirmation": (kvs.confirm_login, ["GET", "EVALSHA"]),
    "list": (kvs.list_sessions, ["GET", "ZRANGEBYSCORE", "MGET"]),
    "revoke all": (kvs.revoke_all_sessions, ["GET", "ZRANGEBYSCORE", "EVALSHA"]),
    "revoke one": (lambda: kvs.revoke_session(g.session.id or ""), ["GET", "MGET", "EVALSHA"]),
}


@pytest.mark.parametrize(("act", "expected"), ANONYMOUS.values(), ids=ANONYMOUS)
def test_each_act_of_an_anonymous_browser_costs_these_commands(
    app: Flask, client: FlaskClient, count_commands: Count, act: Act, expected: list[str]
) -> None:
    """For a browser without a cookie, nothing is read and a write or a login is one round trip."""
    assert names_of(app, client, count_commands, act) == expected


@pytest.mark.parametrize(("act", "expected"), USER.values(), ids=USER)
def test_each_act_of_a_signed_in_browser_costs_these_commands(
    app: Flask, client: FlaskClient, count_commands: Count, act: Act, expected: list[str]
) -> None:
    """For a signed-in browser, each act costs the round trips that law 2 names."""
    client.post("/login/ada", json={"data": {"x": 1}})
    assert names_of(app, client, count_commands, act) == expected


def test_due_renewal_costs_one_write_per_interval(
    app: Flask, client: FlaskClient, count_commands: Count, clock: Clock
) -> None:
    """A read with a due renewal costs one write; the next read costs none."""
    client.post("/login/ada")
    clock.advance(minutes=6)
    look = lambda: g.session.get("x")  # noqa: E731
    assert names_of(app, client, count_commands, look) == ["GET", "EVALSHA"]
    assert names_of(app, client, count_commands, look) == ["GET"]


def test_commit_with_a_conflict_costs_one_more_round_trip(
    app: Flask, client: FlaskClient, count_commands: Count
) -> None:
    """A commit that conflicts with a parallel commit costs one more round trip."""
    client.post("/login/ada")

    def change_twice() -> None:
        g.session["mine"] = 1
        store = store_of(app)
        stored = kvs.current_session.stored
        assert stored
        store.commit(stored, stored.record.with_data({"theirs": b"1"}))

    expected = ["GET", "EVALSHA", "EVALSHA", "EVALSHA"]
    assert names_of(app, client, count_commands, change_twice) == expected
    assert client.get("/data").get_json() == {"mine": 1, "theirs": 1}


def test_atomic_change_with_a_conflict_costs_one_more_round_trip(
    app: Flask, client: FlaskClient, count_commands: Count
) -> None:
    """An atomic change that conflicts with a parallel commit costs one more round trip."""
    client.post("/login/ada")

    def change() -> None:
        stored = kvs.current_session.stored
        assert stored
        store_of(app).commit(stored, stored.record.with_data({"theirs": b"1"}))
        kvs.change_session(lambda data: data.update(mine=1))

    expected = ["GET", "EVALSHA", "EVALSHA", "EVALSHA"]
    assert names_of(app, client, count_commands, change) == expected
    assert client.get("/data").get_json() == {"mine": 1, "theirs": 1}


def test_login_over_the_limit_costs_one_more_round_trip(
    make_app: MakeApp, count_commands: Count
) -> None:
    """A login over the limit costs one more round trip than a login within the limit."""
    app = make_app(max_sessions_per_user=2)
    sent = []
    for _ in range(3):
        with count_commands() as commands:
            app.test_client().post("/login/ada")
        sent.append(commands.names.count("EVALSHA"))
    assert sent == [1, 1, 2]


def test_login_over_the_browsers_own_session_does_not_check_the_limit(
    make_app: MakeApp, count_commands: Count
) -> None:
    """The session that a login replaces makes room for it, so the limit costs nothing more."""
    app = make_app(max_sessions_per_user=2)
    here, there = app.test_client(), app.test_client()
    there.post("/login/ada")
    here.post("/login/ada")
    with count_commands() as commands:
        here.post("/login/ada")
    assert commands.names == ["GET", "EVALSHA", "EVALSHA"]
    assert there.get("/me").status_code == 200


def add_sessions(store: kvs.SessionStore, user_id: str, count: int) -> None:
    for _ in range(count):
        token = Token.for_session(new_session_id(user_hash(user_id)))
        record = new_record(token, now=store.now(), client=Client(), user_id=user_id, data={})
        store.create(Stored.of(token.session_id, record))


@pytest.mark.parametrize(("sessions", "round_trips"), [(1000, 2), (1001, 3)])
def test_revoke_all_costs_two_round_trips_for_a_thousand_sessions(
    app: Flask, count_commands: Count, sessions: int, round_trips: int
) -> None:
    """A thousand sessions end in two round trips, and each further thousand in one more."""
    add_sessions(store_of(app), "ada", sessions)
    with count_commands() as commands, app.app_context():
        assert kvs.revoke_all_sessions("ada") == sessions
    assert len(commands) == round_trips


def test_server_time_is_asked_for_once_per_worker(make_app: MakeApp, count_commands: Count) -> None:
    """A worker asks for the server's time only at its first use."""
    app = make_app()
    with count_commands() as commands:
        for _ in range(3):
            app.test_client().post("/login/ada")
    assert commands.names == ["TIME", "EVALSHA", "EVALSHA", "EVALSHA"]


def test_scripts_that_the_server_lost_are_sent_again(
    app: Flask, client: FlaskClient, count_commands: Count, redis_client: redis.Redis
) -> None:
    """If the server has lost its scripts, they are sent again and the request succeeds."""
    redis_client.script_flush()
    with count_commands() as commands:
        assert client.post("/login/ada").status_code == 200
        client.delete_cookie("kvsession")
        assert client.post("/login/ada").status_code == 200
    assert commands.names == ["EVALSHA", "EVAL", "EVALSHA"]
