"""Ending and changing sessions from outside: by their user elsewhere, an admin or a worker."""

from __future__ import annotations

import dataclasses
import json
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.errors import LoginRequired, StoreUnavailable, UnstorableValue

from .support.apps import Do, MakeApp
from .support.browsers import (
    SignIn,
    browser_with,
    cookies_of,
    id_of,
    is_clearing,
    may_enter,
    token_of,
)
from .support.clock import Clock
from .support.commands import CountCommands, Keys

BY_ID: dict[str, Callable[[], t.Any]] = {
    "revoke_session": lambda: kvs.revoke_session(g.session.id),
    "revoke_session of a named user": lambda: kvs.revoke_session(g.session.id, "ada"),
    "revoke_all_sessions": lambda: kvs.revoke_all_sessions(),
    "revoke_all_sessions of a named user": lambda: kvs.revoke_all_sessions("ada"),
}
FOR_ANY_USER: dict[str, Callable[[t.Any], object]] = {
    "list": lambda user_id: kvs.list_sessions(user_id),
    "revoke": lambda user_id: kvs.revoke_session("A" * 19, user_id),
    "revoke_all": lambda user_id: kvs.revoke_all_sessions(user_id),
    "update_all": lambda user_id: kvs.update_all_sessions(user_id, {"x": 1}),
}


class TestList:
    def test_shows_the_users_sessions(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """Left out, the user is who is signed in; other users' sessions are not in the list."""
        browsers = [sign_in(app, user) for user in ("ada", "ada", "bob")]
        seen: list[str] = []
        do(browsers[0], lambda: seen.extend(info.id for info in kvs.list_sessions()))
        assert sorted(seen) == sorted(map(id_of, browsers[:2]))

    def test_newest_activity_comes_first(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """The order is that of the last use, not of the logins."""
        browsers = []
        for _ in range(3):
            browsers.append(sign_in(app))
            clock.advance(minutes=10)
        browsers[0].get("/me")
        with app.app_context():
            ids = [info.id for info in kvs.list_sessions("ada")]
        assert ids == [id_of(browsers[i]) for i in (0, 2, 1)]

    def test_tells_which_one_is_current(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """`is_current` is true for the session of the request and no other."""
        browsers = [sign_in(app) for _ in range(3)]
        seen: list[str] = []

        def act() -> None:
            seen.extend(info.id for info in kvs.list_sessions() if info.is_current)

        do(browsers[1], act)
        assert seen == [id_of(browsers[1])]

    def test_outside_a_request_none_is_current(self, app: Flask, sign_in: SignIn) -> None:
        """In an app context without a request no session is the current one."""
        sign_in(app)
        with app.app_context():
            assert [info.is_current for info in kvs.list_sessions("ada")] == [False]

    def test_one_made_in_this_request_is_in_it(self, client: FlaskClient, do: Do) -> None:
        """A list made right after the login shows it, as the current one."""
        seen: list[t.Any] = []

        def act() -> None:
            kvs.login_user("ada")
            seen.extend((info.id == g.session.id, info.is_current) for info in kvs.list_sessions())

        do(client, act)
        assert seen == [(True, True)]

    def test_tells_where_and_when(self, app: Flask, do: Do) -> None:
        """An entry has the facts that `current_session` has, and no data and no secret."""
        browser = app.test_client()
        browser.environ_base.update(REMOTE_ADDR="192.0.2.7", HTTP_USER_AGENT="Agent")
        browser.post("/login/ada", json={"remember": False, "data": {"x": "datum"}})
        seen: list[tuple[kvs.SessionInfo, dict[str, t.Any]]] = []

        def act() -> None:
            (info,) = kvs.list_sessions()
            names = [f.name for f in dataclasses.fields(info) if f.name != "is_current"]
            seen.append((info, {name: getattr(g.session, name) for name in names}))

        do(browser, act)
        ((info, facts),) = seen
        assert facts | {"is_current": True} == dataclasses.asdict(info)
        assert (info.ip_address, info.user_agent) == ("192.0.2.7", "Agent")
        assert (info.user_id, info.remembered) == ("ada", False)
        assert "datum" not in repr(info)

    def test_of_nobody_is_empty(self, app: Flask) -> None:
        """A user without sessions has an empty list."""
        with app.app_context():
            assert kvs.list_sessions("nobody") == []

    def test_costs_two_round_trips(
        self, app: Flask, sign_in: SignIn, do: Do, count_commands: CountCommands
    ) -> None:
        """A list costs two round trips beyond the read of the current session."""
        browser, _ = sign_in(app), sign_in(app)
        with count_commands() as commands:
            do(browser, kvs.list_sessions)
        assert commands.names == ["GET", "ZRANGEBYSCORE", "MGET"]


class TestRevokeOne:
    def test_ends_that_session(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """The session named ends, is said to have, and the user's others stay."""
        here, there, third = (sign_in(app) for _ in range(3))
        seen: list[bool] = []
        do(here, lambda: seen.append(kvs.revoke_session(id_of(there))))
        assert seen == [True]
        assert may_enter(here, there, third) == [True, False, True]

    def test_twice_is_once(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """A session that has ended already is none."""
        here, there = sign_in(app), sign_in(app)
        seen: list[bool] = []
        for _ in range(2):
            do(here, lambda: seen.append(kvs.revoke_session(id_of(there))))
        assert seen == [True, False]

    @pytest.mark.parametrize(
        "session_id",
        ["", "x", "A" * 19, "A" * 20, "*" * 19, "../../../etc/passwd", "A" * 18 + "\n", "é" * 19],
    )
    def test_of_an_unknown_id_is_false(
        self, app: Flask, sign_in: SignIn, do: Do, keys: Keys, session_id: str
    ) -> None:
        """An id that is no session's, of whatever shape, gives False and does nothing."""
        here = sign_in(app)
        before = keys()
        seen: list[bool] = []
        do(here, lambda: seen.append(kvs.revoke_session(session_id)))
        assert seen == [False]
        assert keys() == before
        assert may_enter(here) == [True]

    def test_of_anothers_is_that_of_an_unknown_one(
        self, app: Flask, sign_in: SignIn, do: Do, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """Another user's session id gives the same answer as an unknown one, and no key changes."""
        ada, bob = sign_in(app, "ada"), sign_in(app, "bob")
        dumps = {key: redis_client.dump(key) for key in keys()}
        seen: list[bool] = []
        do(bob, lambda: seen.append(kvs.revoke_session(id_of(ada))))
        assert seen == [False]
        assert {key: redis_client.dump(key) for key in keys()} == dumps
        assert may_enter(ada, bob) == [True, True]

    def test_of_a_visitors_is_that_of_an_unknown_one(
        self, app: Flask, sign_in: SignIn, client: FlaskClient, do: Do
    ) -> None:
        """A visitor's session is no user's, so nobody can revoke it."""
        client.post("/data", json={"x": 1})
        seen: list[bool] = []
        do(sign_in(app), lambda: seen.append(kvs.revoke_session(id_of(client))))
        assert seen == [False]
        assert client.get("/data").get_json() == {"x": 1}

    def test_by_an_admin_names_the_user(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """With a user id one may end that user's session, and only with the right one."""
        admin, ada = sign_in(app, "admin"), sign_in(app, "ada")
        seen: list[bool] = []

        def act() -> None:
            seen.append(kvs.revoke_session(id_of(ada), "bob"))
            seen.append(kvs.revoke_session(id_of(ada), "ada"))

        do(admin, act)
        assert seen == [False, True]
        assert may_enter(admin, ada) == [True, False]

    def test_of_an_evicted_record_is_false(
        self, app: Flask, sign_in: SignIn, do: Do, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """A session that Redis has dropped is none, though the index may still name it."""
        here, there = sign_in(app), sign_in(app)
        redis_client.delete(*[key for key in keys() if key.endswith(id_of(there)[3:])])
        seen: list[bool] = []
        do(here, lambda: seen.append(kvs.revoke_session(id_of(there))))
        assert seen == [False]


class TestRevokeAll:
    def test_ends_all_and_counts_them(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """All sessions of who is signed in end, the current one too, and nobody else's."""
        ada, bob = [sign_in(app) for _ in range(3)], sign_in(app, "bob")
        seen: list[int] = []
        do(ada[0], lambda: seen.append(kvs.revoke_all_sessions()))
        assert seen == [3]
        assert may_enter(*ada, bob) == [False, False, False, True]

    def test_except_the_current_one(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """With `except_current` all others end (OWASP ASVS 5.0, 7.4.3)."""
        browsers = [sign_in(app) for _ in range(3)]
        seen: list[int] = []
        response = do(
            browsers[1], lambda: seen.append(kvs.revoke_all_sessions(except_current=True))
        )
        assert seen == [2]
        assert may_enter(*browsers) == [False, True, False]
        assert not cookies_of(response)

    def test_of_another_user_by_an_admin(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """With a user id it is that user's sessions that end, the admin's never."""
        admin, ada = sign_in(app, "admin"), [sign_in(app) for _ in range(2)]
        seen: list[int] = []

        def act() -> None:
            seen.append(kvs.revoke_all_sessions("ada", except_current=True))

        assert not cookies_of(do(admin, act))
        assert seen == [2]
        assert may_enter(admin, *ada) == [True, False, False]

    def test_of_nobody_ends_nothing(self, app: Flask, sign_in: SignIn, do: Do, keys: Keys) -> None:
        """A user without sessions has none to end, and no key is made."""
        here = sign_in(app)
        before, seen = keys(), []
        do(here, lambda: seen.append(kvs.revoke_all_sessions("nobody")))
        assert seen == [0]
        assert keys() == before

    def test_costs_two_round_trips(
        self, app: Flask, sign_in: SignIn, count_commands: CountCommands
    ) -> None:
        """However many sessions there are, up to 1,000, all end in two round trips."""
        for _ in range(5):
            sign_in(app)
        with app.app_context(), count_commands() as commands:
            assert kvs.revoke_all_sessions("ada") == 5
        assert commands.names == ["ZRANGE", "EVALSHA"]

    def test_positional_except_current_is_refused(self, app: Flask) -> None:
        """`except_current` has to be named, so that it is never taken for a user id."""
        with app.app_context(), pytest.raises(TypeError):
            kvs.revoke_all_sessions("ada", True)  # type: ignore[call-arg]

    def test_after_a_failed_load_does_not_end_the_current_one(
        self, make_app: MakeApp, sign_in: SignIn, socket_path: str, tmp_path: Path
    ) -> None:
        """Where the store failed before in the request, nobody knows which session is the current
        one, so nothing is ended even though the store is back."""
        socket = tmp_path / "s"
        socket.symlink_to(socket_path)
        app = make_app(redis_url=f"unix://{socket}", store_timeout=0.2)

        @app.post("/change-password")
        def change_password() -> t.Any:
            socket.unlink()
            app.extensions["kvsession"].store._client.connection_pool.disconnect()
            with pytest.raises(StoreUnavailable):
                g.session.get("x")
            socket.symlink_to(socket_path)
            kvs.revoke_all_sessions("ada", except_current=True)
            return {}

        browsers = [sign_in(app) for _ in range(2)]
        assert browsers[0].post("/change-password").status_code == 503
        assert may_enter(*browsers) == [True, True]


class TestTheCurrentOne:
    """A request revokes the very session it came with."""

    @pytest.mark.parametrize("revoke", BY_ID.values(), ids=BY_ID)
    def test_its_cookie_is_cleared(
        self, app: Flask, sign_in: SignIn, do: Do, revoke: Callable[[], t.Any]
    ) -> None:
        """The browser loses its cookie, and who kept it gets in no more."""
        browser = sign_in(app)
        token = token_of(browser)
        response = do(browser, revoke)
        (cookie,) = response.headers.getlist("Set-Cookie")
        assert is_clearing(cookie)
        assert response.headers["Cache-Control"] == "no-store"
        assert browser_with(app, token).get("/me").status_code == 401

    @pytest.mark.parametrize("revoke", BY_ID.values(), ids=BY_ID)
    def test_pending_changes_are_dropped(
        self, app: Flask, sign_in: SignIn, do: Do, keys: Keys, revoke: Callable[[], t.Any]
    ) -> None:
        """What was changed before, storable or not, is written nowhere."""
        browser = sign_in(app, data={"list": []})
        before = keys()

        def act() -> None:
            g.session["pending"] = 1
            g.session["list"].append(object())
            revoke()
            assert dict(g.session) == {}
            assert not g.session.modified
            assert g.session.user_id is None

        assert do(browser, act).status_code == 200
        assert keys() < before

    def test_what_is_written_afterwards_is_a_visitors(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """A write after the revocation makes a visitor's session, with one cookie."""
        browser = sign_in(app, data={"secret": 1})

        def act() -> None:
            kvs.revoke_all_sessions()
            g.session["message"] = "bye"

        assert len(cookies_of(do(browser, act))) == 1
        assert browser.get("/data").get_json() == {"message": "bye"}
        assert may_enter(browser) == [False]

    def test_then_signing_in_again(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """All sessions may be ended and a new one begun in one request."""
        browser, elsewhere = sign_in(app), sign_in(app)

        def act() -> None:
            kvs.revoke_all_sessions()
            kvs.login_user("ada")

        assert len(cookies_of(do(browser, act))) == 1
        assert may_enter(browser, elsewhere) == [True, False]

    def test_guards_hold_at_once(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """For the rest of the request nobody is signed in."""

        def act() -> None:
            kvs.revoke_all_sessions()
            for verb in (kvs.list_sessions, kvs.revoke_all_sessions, kvs.confirm_login):
                with pytest.raises(LoginRequired):
                    verb()

        assert do(sign_in(app), act).status_code == 200


class TestWhose:
    @pytest.mark.parametrize("verb", FOR_ANY_USER.values(), ids=FOR_ANY_USER)
    @pytest.mark.parametrize(
        "user_id", [None, "", False, 1.0, [], object()], ids=lambda value: type(value).__name__
    )
    def test_what_is_no_user_id_raises(
        self, app: Flask, sign_in: SignIn, do: Do, verb: Callable[[t.Any], object], user_id: t.Any
    ) -> None:
        """An explicit None, and anything else that is no id, never means "my own": it raises."""
        browsers = [sign_in(app) for _ in range(2)]

        def act() -> None:
            with pytest.raises(ValueError, match="user_id"):
                verb(user_id)

        assert do(browsers[0], act).status_code == 200
        with app.app_context(), pytest.raises(ValueError, match="user_id"):
            verb(user_id)
        assert may_enter(*browsers) == [True, True]

    @pytest.mark.parametrize(
        "verb",
        [kvs.list_sessions, kvs.revoke_all_sessions, lambda: kvs.revoke_session("A" * 19)],
        ids=["list", "revoke_all", "revoke"],
    )
    @pytest.mark.parametrize("data", [{}, {"x": 1}], ids=["nobody", "visitor"])
    def test_a_visitor_has_to_sign_in(
        self, client: FlaskClient, do: Do, verb: Callable[[], object], data: dict[str, int]
    ) -> None:
        """Left out, the user is who is signed in; where nobody is, that is a 401."""
        client.post("/data", json=data)
        assert do(client, verb).status_code == 401

    @pytest.mark.parametrize(
        "verb",
        [kvs.list_sessions, kvs.revoke_all_sessions, lambda: kvs.revoke_session("A" * 19)],
        ids=["list", "revoke_all", "revoke"],
    )
    def test_outside_a_request_the_user_must_be_named(
        self, app: Flask, verb: Callable[[], object]
    ) -> None:
        """Without a request there is no "who is signed in"."""
        with app.app_context(), pytest.raises(RuntimeError):
            verb()

    def test_all_work_outside_a_request(self, app: Flask, sign_in: SignIn) -> None:
        """A worker or a command lists, changes and ends sessions (OWASP ASVS 5.0, 7.4.2)."""
        browsers = [sign_in(app) for _ in range(3)]
        with app.app_context():
            assert len(kvs.list_sessions("ada")) == 3
            assert kvs.update_all_sessions("ada", {"role": "user"}) == 3
            assert kvs.revoke_session(id_of(browsers[0]), "ada") is True
            assert kvs.revoke_all_sessions("ada") == 2
        assert may_enter(*browsers) == [False, False, False]


class TestReason:
    def test_login_required_tells(self, app: Flask, sign_in: SignIn) -> None:
        """`LoginRequired.ended` is "revoked", for the app's own error page."""

        @app.errorhandler(LoginRequired)
        def tell(error: LoginRequired) -> t.Any:
            return {"ended": error.ended}, 401

        browser = sign_in(app)
        with app.app_context():
            kvs.revoke_all_sessions("ada")
        assert browser.get("/me").get_json() == {"ended": "revoked"}

    def test_what_is_left_says_only_why(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """What a revoked session leaves holds no data, and lives no longer than it would have."""
        sign_in(app, remember=False, data={"x": "datum"})
        with app.app_context():
            kvs.revoke_all_sessions("ada")
        (key,) = keys()
        assert json.loads(t.cast(bytes, redis_client.get(key))) == {"ended": "revoked"}
        assert 0 < redis_client.pttl(key) <= 12 * 3600 * 1000

    def test_an_ended_session_can_be_followed_by_a_login(self, app: Flask, sign_in: SignIn) -> None:
        """A browser whose session was revoked signs in as ever."""
        browser = sign_in(app)
        with app.app_context():
            kvs.revoke_all_sessions("ada")
        browser.post("/login/ada")
        assert may_enter(browser) == [True]


class TestUpdateAll:
    def test_is_seen_by_the_next_request_of_each(self, app: Flask, sign_in: SignIn) -> None:
        """Changed and removed keys are so in all of the user's sessions, at once."""
        ada = [sign_in(app, data={"role": "admin", "old": 1, "kept": 1}) for _ in range(3)]
        with app.app_context():
            assert kvs.update_all_sessions("ada", {"role": "user"}, remove=["old", "never"]) == 3
        for browser in ada:
            assert browser.get("/me").get_json()["data"] == {"role": "user", "kept": 1}

    def test_is_for_that_user_only(self, app: Flask, sign_in: SignIn, client: FlaskClient) -> None:
        """Other users' and visitors' sessions stay as they are."""
        client.post("/data", json={"role": "x"})
        bob = sign_in(app, "bob", data={"role": "x"})
        with app.app_context():
            assert kvs.update_all_sessions("ada", {"role": "y"}) == 0
        assert bob.get("/data").get_json() == client.get("/data").get_json() == {"role": "x"}

    def test_the_current_one_sees_it_in_the_next_request(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """The request that changes all sessions goes on with what it loaded, and keeps its own."""
        browser = sign_in(app, data={"role": "admin"})

        def act() -> None:
            g.session["mine"] = 1
            kvs.update_all_sessions("ada", {"role": "user"})
            assert g.session["role"] == "admin"

        do(browser, act)
        assert browser.get("/me").get_json()["data"] == {"role": "user", "mine": 1}

    def test_moves_no_time(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """A change from outside is no activity and no login."""
        browser = sign_in(app)
        clock.advance(days=3)
        with app.app_context():
            (before,) = kvs.list_sessions("ada")
            kvs.update_all_sessions("ada", {"x": 1})
            assert kvs.list_sessions("ada") == [before]
        clock.advance(days=5)
        assert may_enter(browser) == [False]

    def test_refuses_what_cannot_be_stored(self, app: Flask, sign_in: SignIn) -> None:
        """An unstorable value raises, and no session is changed."""
        browsers = [sign_in(app, data={"x": 1}) for _ in range(2)]
        with app.app_context(), pytest.raises(UnstorableValue):
            kvs.update_all_sessions("ada", {"x": 2, "y": object()})
        for browser in browsers:
            assert browser.get("/me").get_json()["data"] == {"x": 1}

    def test_refuses_a_text_for_the_keys_to_remove(self, app: Flask, sign_in: SignIn) -> None:
        """`remove="role"` is no list of keys: it raises instead of leaving the role in place."""
        sign_in(app, data={"role": "admin"})
        with app.app_context(), pytest.raises(TypeError, match="remove"):
            kvs.update_all_sessions("ada", {}, remove="role")

    def test_brings_no_ended_session_back(self, app: Flask, sign_in: SignIn) -> None:
        """A revoked session is not among those that are changed."""
        browser, other = sign_in(app), sign_in(app)
        with app.app_context():
            kvs.revoke_session(id_of(browser), "ada")
            assert kvs.update_all_sessions("ada", {"x": 1}) == 1
        assert may_enter(browser, other) == [False, True]
