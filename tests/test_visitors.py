"""Sessions without a user: made by the first write, carried into the login."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Callable

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs

from .support.apps import Do, MakeApp, store_of
from .support.browsers import browser_with, cookies_of, id_of, is_clearing, token_of
from .support.clock import Clock
from .support.commands import Keys
from .support.signals import recorded_signals

READS: dict[str, Callable[[], object]] = {
    "get": lambda: g.session.get("x"),
    "in": lambda: "x" in g.session,
    "len": lambda: len(g.session),
    "iter": lambda: list(g.session),
    "clear": lambda: g.session.clear(),
    "pop": lambda: g.session.pop("x", None),
    "id": lambda: g.session.id,
    "new": lambda: g.session.new,
    "rotate": lambda: kvs.rotate_token(),
    "logout": lambda: kvs.logout_user(),
    "set and deleted": lambda: (g.session.update(x=1), g.session.pop("x")),
    "update_all": lambda: kvs.update_all_sessions("ada", {"x": 1}),
}


@pytest.mark.parametrize("act", READS.values(), ids=READS)
def test_only_a_write_makes_a_session(
    client: FlaskClient, do: Do, keys: Keys, act: Callable[[], object]
) -> None:
    """Reading, and clearing what is empty, makes no key and sets no cookie."""
    response = do(client, act)
    assert response.status_code == 200
    assert not cookies_of(response)
    assert keys() == set()


def test_the_first_write_makes_a_session(client: FlaskClient, keys: Keys) -> None:
    """A visitor's first write makes one key, no index, and its data are there on the next visit."""
    assert len(cookies_of(client.post("/data", json={"cart": [1]}))) == 1
    (key,) = keys()
    assert ":s:" in key
    assert client.get("/data").get_json() == {"cart": [1]}


def test_later_writes_send_no_cookie(client: FlaskClient) -> None:
    """A visitor's session keeps its token as it is written again."""
    client.post("/data", json={"a": 1})
    token = token_of(client)
    assert not cookies_of(client.post("/data", json={"b": 2}))
    assert token_of(client) == token
    assert client.get("/data").get_json() == {"a": 1, "b": 2}


def test_emptied_it_ends(client: FlaskClient, do: Do, keys: Keys) -> None:
    """A visitor's session that is emptied again is gone, and its cookie too."""
    client.post("/data", json={"a": 1})
    [cookie] = cookies_of(do(client, lambda: g.session.clear()))
    assert is_clearing(cookie)
    assert keys() == set()
    assert client.get("/data").get_json() == {}


def test_a_visitor_is_nobody(client: FlaskClient) -> None:
    """A visitor's session opens no guarded view, whatever it holds."""
    client.post("/data", json={"user_id": "ada", "role": "admin", "_user_id": "ada", "user": "ada"})
    assert client.get("/me").status_code == 401


def test_the_facts_of_a_visitors_session(client: FlaskClient, do: Do) -> None:
    """A visitor's session has an id and times, but nobody signed in."""
    client.post("/data", json={"x": 1})
    seen: list[t.Any] = []

    def act() -> None:
        s = g.session
        seen.append((s.id, s.new, s.user_id, s.is_authenticated, s.is_fresh, s.authenticated_at))
        assert s.created_at and s.last_seen_at and s.expires_at
        assert (s.expires_at - s.created_at).total_seconds() == 86_400

    do(client, act)
    assert seen == [(id_of(client), False, None, False, False, None)]


def test_new_until_the_next_request(client: FlaskClient, do: Do) -> None:
    """A session is `new` in the request that makes it, also after the write, and never again."""
    seen: list[bool] = []

    def act() -> None:
        seen.append(g.session.new)
        g.session["n"] = len(seen)
        seen.append(g.session.new)

    for _ in range(2):
        do(client, act)
    assert seen == [True, True, False, False]


class TestIdleTimeout:
    """A visitor's session has an idle timeout of its own."""

    @pytest.mark.parametrize(("ahead", "there"), [(-1, True), (1, False)])
    def test_it_is_a_day(self, client: FlaskClient, clock: Clock, ahead: int, there: bool) -> None:
        """A visitor's data are there for a day without activity, and no longer."""
        client.post("/data", json={"x": 1})
        clock.advance(days=1, seconds=ahead)
        assert bool(client.get("/data").get_json()) is there

    def test_it_is_that_of_the_key(
        self, make_app: MakeApp, keys: Keys, redis_client: redis.Redis
    ) -> None:
        """`KVSESSION_ANONYMOUS_TIMEOUT` is the lifetime of the visitor's key."""
        make_app(anonymous_timeout=1000).test_client().post("/data", json={"x": 1})
        (key,) = keys()
        assert 990_000 < redis_client.pttl(key) <= 1_000_000

    def test_activity_extends_it(self, client: FlaskClient, clock: Clock) -> None:
        """A visitor who comes back each half day keeps the session."""
        client.post("/data", json={"x": 1})
        for _ in range(3):
            clock.advance(hours=12)
            assert client.get("/data").get_json() == {"x": 1}

    def test_a_login_has_the_users(self, client: FlaskClient, do: Do, clock: Clock) -> None:
        """After the login it is the user's idle timeout that counts."""
        client.post("/data", json={"x": 1})
        client.post("/login/ada")
        clock.advance(days=2)
        assert client.get("/me").get_json()["data"] == {"x": 1}


class TestLogin:
    """A visitor signs in."""

    def test_the_data_are_carried(self, client: FlaskClient) -> None:
        """A visitor's data are the user's after the login, with the login's own data on top."""
        client.post("/data", json={"cart": [1], "role": "visitor"})
        client.post("/login/ada", json={"data": {"role": "user"}})
        assert client.get("/me").get_json()["data"] == {"cart": [1], "role": "user"}

    @pytest.mark.parametrize("stored", [True, False], ids=["over a record", "without one"])
    def test_pending_changes_are_carried(self, client: FlaskClient, do: Do, stored: bool) -> None:
        """What the request itself changed before the login is carried too, deletions included."""
        if stored:
            client.post("/data", json={"kept": 1, "deleted": 1, "list": [1]})

        def act() -> None:
            g.session["set"] = 1
            if stored:
                del g.session["deleted"]
                g.session["list"].append(2)
            kvs.login_user("ada", {"given": 1})

        do(client, act)
        expected = {"set": 1, "given": 1} | ({"kept": 1, "list": [1, 2]} if stored else {})
        assert client.get("/me").get_json()["data"] == expected

    def test_a_list_taken_out_before_is_still_the_sessions(
        self, client: FlaskClient, do: Do
    ) -> None:
        """A list that the view took out before the login is the one in the session after it."""
        client.post("/data", json={"cart": [1]})

        def act() -> None:
            cart = g.session["cart"]
            kvs.login_user("ada")
            cart.append(2)
            assert g.session["cart"] is cart

        do(client, act)
        assert client.get("/me").get_json()["data"] == {"cart": [1, 2]}

    def test_the_old_token_is_dead(self, app: Flask, client: FlaskClient, keys: Keys) -> None:
        """The visitor's token is worth nothing after the login, and its key is gone."""
        client.post("/data", json={"x": 1})
        (old_key,) = keys()
        old = token_of(client)
        client.post("/login/ada")
        assert browser_with(app, old).get("/data").get_json() == {}
        assert browser_with(app, old).get("/me").status_code == 401
        assert old_key not in keys()
        assert (token_of(client) or "")[3:] != (old or "")[3:]

    def test_the_old_token_writes_nowhere(self, app: Flask, client: FlaskClient) -> None:
        """Who kept the visitor's token cannot write into the login."""
        client.post("/data", json={"x": 1})
        thief = browser_with(app, token_of(client))
        client.post("/login/ada")
        thief.post("/data", json={"x": "evil"})
        assert client.get("/me").get_json()["data"] == {"x": 1}

    def test_a_write_under_way_is_not_lost(self, app: Flask, client: FlaskClient, do: Do) -> None:
        """What another request writes into the visitor's session during the login is carried."""
        client.post("/data", json={"a": 1})
        parallel = browser_with(app, token_of(client))

        def act() -> None:
            assert g.session["a"] == 1
            parallel.post("/data", json={"b": 2})
            kvs.login_user("ada", {"c": 3})

        do(client, act)
        assert client.get("/me").get_json()["data"] == {"a": 1, "b": 2, "c": 3}

    def test_it_is_no_session_of_the_user_before(self, app: Flask, client: FlaskClient) -> None:
        """A visitor's session is in nobody's list; the login's is."""
        client.post("/data", json={"x": 1})
        assert store_of(app).sessions_of("ada") == []
        client.post("/login/ada")
        assert len(store_of(app).sessions_of("ada")) == 1

    def test_visitors_are_announced_to_nobody(self, app: Flask, client: FlaskClient) -> None:
        """The end of a visitor's session, by login or logout, is no `user_logged_out`."""
        with recorded_signals(app, "user_logged_out") as recorder:
            for end in ("/login/ada", "/logout"):
                client.delete_cookie("kvsession")
                client.post("/data", json={"x": 1})
                client.post(end)
        assert recorder.received == []


def test_a_record_of_a_visitor_names_nobody(
    client: FlaskClient, keys: Keys, redis_client: redis.Redis
) -> None:
    """The record of a visitor has no user and no time of authentication."""
    client.post("/data", json={"x": 1})
    record = json.loads(t.cast(bytes, redis_client.get(keys().pop())))
    assert record["user"] is None
    assert record["authenticated"] is None
