"""Anonymous sessions: the first write creates one, and a login carries its data over."""

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
def test_request_without_a_write_creates_no_session(
    client: FlaskClient, do: Do, keys: Keys, act: Callable[[], object]
) -> None:
    """A request that writes nothing makes no key and sends no cookie."""
    response = do(client, act)
    assert response.status_code == 200
    assert not cookies_of(response)
    assert keys() == set()


def test_first_write_creates_an_anonymous_session(client: FlaskClient, keys: Keys) -> None:
    """The first write of an anonymous browser creates one session and no index."""
    assert len(cookies_of(client.post("/data", json={"cart": [1]}))) == 1
    (key,) = keys()
    assert ":s:" in key
    assert client.get("/data").get_json() == {"cart": [1]}


def test_later_writes_keep_the_token_and_send_no_cookie(client: FlaskClient) -> None:
    """Later writes keep the token of an anonymous session and send no cookie."""
    client.post("/data", json={"a": 1})
    token = token_of(client)
    assert not cookies_of(client.post("/data", json={"b": 2}))
    assert token_of(client) == token
    assert client.get("/data").get_json() == {"a": 1, "b": 2}


def test_emptied_anonymous_session_is_deleted_with_its_cookie(
    client: FlaskClient, do: Do, keys: Keys
) -> None:
    """An anonymous session that becomes empty is deleted, and its cookie is cleared."""
    client.post("/data", json={"a": 1})
    [cookie] = cookies_of(do(client, lambda: g.session.clear()))
    assert is_clearing(cookie)
    assert keys() == set()
    assert client.get("/data").get_json() == {}


def test_anonymous_session_opens_no_guarded_view(client: FlaskClient) -> None:
    """An anonymous session with any data opens no guarded view."""
    client.post("/data", json={"user_id": "ada", "role": "admin", "_user_id": "ada", "user": "ada"})
    assert client.get("/me").status_code == 401


def test_anonymous_session_has_an_id_and_times_but_no_user(client: FlaskClient, do: Do) -> None:
    """An anonymous session has an id and times but no user."""
    client.post("/data", json={"x": 1})
    seen: list[t.Any] = []

    def act() -> None:
        s = g.session
        seen.append((s.id, s.new, s.user_id, s.is_authenticated, s.is_fresh, s.authenticated_at))
        assert s.created_at and s.last_seen_at and s.expires_at
        assert (s.expires_at - s.created_at).total_seconds() == 86_400

    do(client, act)
    assert seen == [(id_of(client), False, None, False, False, None)]


def test_session_is_new_only_in_the_request_that_creates_it(client: FlaskClient, do: Do) -> None:
    """`new` is true only in the request that creates the session."""
    seen: list[bool] = []

    def act() -> None:
        seen.append(g.session.new)
        g.session["n"] = len(seen)
        seen.append(g.session.new)

    for _ in range(2):
        do(client, act)
    assert seen == [True, True, False, False]


class TestIdleTimeout:
    """An anonymous session has its own idle timeout."""

    @pytest.mark.parametrize(("ahead", "there"), [(-1, True), (1, False)])
    def test_anonymous_session_ends_after_one_day(
        self, client: FlaskClient, clock: Clock, ahead: int, there: bool
    ) -> None:
        """An anonymous session without activity ends after one day and not before."""
        client.post("/data", json={"x": 1})
        clock.advance(days=1, seconds=ahead)
        assert bool(client.get("/data").get_json()) is there

    def test_key_expires_after_the_anonymous_timeout(
        self, make_app: MakeApp, keys: Keys, redis_client: redis.Redis
    ) -> None:
        """The key of an anonymous session expires after `KVSESSION_ANONYMOUS_TIMEOUT`."""
        make_app(anonymous_timeout=1000).test_client().post("/data", json={"x": 1})
        (key,) = keys()
        assert 990_000 < redis_client.pttl(key) <= 1_000_000

    def test_activity_restarts_the_anonymous_timeout(
        self, client: FlaskClient, clock: Clock
    ) -> None:
        """Activity restarts the idle timeout of an anonymous session."""
        client.post("/data", json={"x": 1})
        for _ in range(3):
            clock.advance(hours=12)
            assert client.get("/data").get_json() == {"x": 1}

    def test_session_after_a_login_has_the_users_idle_timeout(
        self, client: FlaskClient, do: Do, clock: Clock
    ) -> None:
        """After a login, the session has the idle timeout of a user's session."""
        client.post("/data", json={"x": 1})
        client.post("/login/ada")
        clock.advance(days=2)
        assert client.get("/me").get_json()["data"] == {"x": 1}


class TestLogin:
    """A login over an anonymous session."""

    def test_login_over_an_anonymous_session_keeps_its_data(self, client: FlaskClient) -> None:
        """A login carries over the anonymous session's data, and the login's own data take
        precedence."""
        client.post("/data", json={"cart": [1], "role": "guest"})
        client.post("/login/ada", json={"data": {"role": "user"}})
        assert client.get("/me").get_json()["data"] == {"cart": [1], "role": "user"}

    @pytest.mark.parametrize("stored", [True, False], ids=["stored session", "no stored session"])
    def test_login_carries_over_pending_changes_and_deletions(
        self, client: FlaskClient, do: Do, stored: bool
    ) -> None:
        """A login carries over the request's pending changes, deletions included."""
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

    def test_roles_and_csrf_tokens_of_an_anonymous_browser_are_not_carried_over(
        self, client: FlaskClient
    ) -> None:
        """A login carries over neither a role nor a CSRF token that an anonymous browser has."""
        planted = {"role": "admin", "roles": ["admin"], "csrf_token": "x", "_csrf_token": "x"}
        client.post("/data", json={"cart": [1], **planted})
        client.post("/login/ada")
        assert client.get("/me").get_json()["data"] == {"cart": [1]}

    @pytest.mark.parametrize("planted", [{}, {"role": "admin"}])
    def test_role_set_by_the_login_request_is_carried_over(
        self, client: FlaskClient, do: Do, planted: dict[str, str]
    ) -> None:
        """A role that the request of the login sets, before the login, is kept."""
        client.post("/data", json=planted)
        do(client, lambda: (g.session.update(role="user", csrf_token="x"), kvs.login_user("ada")))
        assert client.get("/me").get_json()["data"] == {"role": "user"}

    @pytest.mark.parametrize(
        "act",
        [
            lambda: g.session.update(role=g.session["role"]),
            lambda: g.session["roles"].append("user"),
        ],
        ids=["assigned again", "changed in place"],
    )
    def test_planted_role_that_the_login_request_assigns_again_is_dropped(
        self, client: FlaskClient, do: Do, act: Callable[[], object]
    ) -> None:
        """A planted role is not carried over because the request of the login assigns an equal
        value or changes a list in place."""
        client.post("/data", json={"role": "admin", "roles": ["admin"]})
        do(client, lambda: (act(), kvs.login_user("ada")))
        assert client.get("/me").get_json()["data"] == {}

    def test_role_planted_during_the_login_is_dropped(
        self, app: Flask, client: FlaskClient, do: Do
    ) -> None:
        """A role that a parallel request writes to the anonymous session is not carried over."""
        client.post("/data", json={"a": 1})
        parallel = browser_with(app, token_of(client))

        def act() -> None:
            g.session["role"] = "user"
            parallel.post("/data", json={"role": "admin", "roles": ["admin"]})
            kvs.login_user("ada")

        do(client, act)
        assert client.get("/me").get_json()["data"] == {"a": 1, "role": "user"}

    @pytest.mark.parametrize("act", [lambda: kvs.login_user("ada"), kvs.logout_user])
    def test_csrf_token_in_g_is_removed_by_login_and_logout(
        self, client: FlaskClient, do: Do, act: Callable[[], object]
    ) -> None:
        """A login and a logout remove the CSRF token that an extension keeps in `g`."""
        seen: list[object] = []

        def end() -> None:
            g.csrf_token = "x"
            act()
            seen.append(g.get("csrf_token"))

        do(client, end)
        assert seen == [None]

    def test_list_read_before_the_login_is_still_tracked(self, client: FlaskClient, do: Do) -> None:
        """If a list was read before a login, its changes after the login are kept."""
        client.post("/data", json={"cart": [1]})

        def act() -> None:
            cart = g.session["cart"]
            kvs.login_user("ada")
            cart.append(2)
            assert g.session["cart"] is cart

        do(client, act)
        assert client.get("/me").get_json()["data"] == {"cart": [1, 2]}

    def test_anonymous_token_is_invalid_after_the_login(
        self, app: Flask, client: FlaskClient, keys: Keys
    ) -> None:
        """After a login, the token of the anonymous session opens nothing and its key is gone."""
        client.post("/data", json={"x": 1})
        (old_key,) = keys()
        old = token_of(client)
        client.post("/login/ada")
        assert browser_with(app, old).get("/data").get_json() == {}
        assert browser_with(app, old).get("/me").status_code == 401
        assert old_key not in keys()
        assert (token_of(client) or "")[3:] != (old or "")[3:]

    def test_write_with_the_anonymous_token_does_not_reach_the_login(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """After a login, a write with the token of the anonymous session does not reach the user's
        session."""
        client.post("/data", json={"x": 1})
        thief = browser_with(app, token_of(client))
        client.post("/login/ada")
        thief.post("/data", json={"x": "evil"})
        assert client.get("/me").get_json()["data"] == {"x": 1}

    def test_parallel_write_to_the_anonymous_session_is_carried_over(
        self, app: Flask, client: FlaskClient, do: Do
    ) -> None:
        """A login carries over a parallel request's write to the anonymous session."""
        client.post("/data", json={"a": 1})
        parallel = browser_with(app, token_of(client))

        def act() -> None:
            assert g.session["a"] == 1
            parallel.post("/data", json={"b": 2})
            kvs.login_user("ada", {"c": 3})

        do(client, act)
        assert client.get("/me").get_json()["data"] == {"a": 1, "b": 2, "c": 3}

    def test_anonymous_session_is_in_no_users_list(self, app: Flask, client: FlaskClient) -> None:
        """An anonymous session is in no user's list before the login."""
        client.post("/data", json={"x": 1})
        assert store_of(app).sessions_of("ada") == []
        client.post("/login/ada")
        assert len(store_of(app).sessions_of("ada")) == 1

    def test_end_of_an_anonymous_session_sends_no_user_logged_out(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """The end of an anonymous session, by login or logout, sends no `user_logged_out`."""
        with recorded_signals(app, "user_logged_out") as recorder:
            for end in ("/login/ada", "/logout"):
                client.delete_cookie("kvsession")
                client.post("/data", json={"x": 1})
                client.post(end)
        assert recorder.received == []


def test_record_of_an_anonymous_session_has_no_user(
    client: FlaskClient, keys: Keys, redis_client: redis.Redis
) -> None:
    """The record of an anonymous session has no user and no time of authentication."""
    client.post("/data", json={"x": 1})
    record = json.loads(t.cast(bytes, redis_client.get(keys().pop())))
    assert record.keys() & {"user", "authenticated"} == set()
