"""Sessions are listed, revoked and changed from another browser, by an admin or by a worker."""

from __future__ import annotations

import dataclasses
import json
import typing as t
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.errors import (
    KVSessionError,
    LoginRequired,
    StoreUnavailable,
    UnstorableValue,
)
from flask_kvsession.token import Token, user_hash

from .support.apps import Do, MakeApp, in_context, store_of
from .support.browsers import (
    SignIn,
    anonymous_token_of,
    browser_with,
    cookies_of,
    id_of,
    is_clearing,
    may_enter,
    token_of,
    user_token_of,
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
    def test_list_contains_only_the_current_users_sessions(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """Without a user id, `list_sessions` returns the sessions of the current user."""
        browsers = [sign_in(app, user) for user in ("ada", "ada", "bob")]
        seen: list[str] = []
        do(browsers[0], lambda: seen.extend(info.id for info in kvs.list_sessions()))
        assert sorted(seen) == sorted(map(id_of, browsers[:2]))

    def test_session_with_the_newest_activity_comes_first(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """`list_sessions` puts the session with the newest activity first."""
        browsers = []
        for _ in range(3):
            browsers.append(sign_in(app))
            clock.advance(minutes=10)
        browsers[0].get("/me")
        with app.app_context():
            ids = [info.id for info in kvs.list_sessions("ada")]
        assert ids == [id_of(browsers[i]) for i in (0, 2, 1)]

    def test_is_current_is_true_only_for_the_requests_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """`is_current` is true only for the session of the request."""
        browsers = [sign_in(app) for _ in range(3)]
        seen: list[str] = []

        def act() -> None:
            seen.extend(info.id for info in kvs.list_sessions() if info.is_current)

        do(browsers[1], act)
        assert seen == [id_of(browsers[1])]

    def test_no_session_is_current_outside_a_request(self, app: Flask, sign_in: SignIn) -> None:
        """In an app context without a request, no session is current."""
        sign_in(app)
        with app.app_context():
            assert [info.is_current for info in kvs.list_sessions("ada")] == [False]

    def test_list_after_a_login_contains_the_new_session(self, client: FlaskClient, do: Do) -> None:
        """After a login in the same request, `list_sessions` returns the new session as current."""
        seen: list[t.Any] = []

        def act() -> None:
            kvs.login_user("ada")
            seen.extend((info.id == g.session.id, info.is_current) for info in kvs.list_sessions())

        do(client, act)
        assert seen == [(True, True)]

    def test_session_info_has_the_facts_of_current_session(self, app: Flask, do: Do) -> None:
        """A `SessionInfo` has the facts of `current_session` and no data."""
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

    def test_list_of_a_user_without_sessions_is_empty(self, app: Flask) -> None:
        """`list_sessions` of a user without sessions is empty."""
        with app.app_context():
            assert kvs.list_sessions("nobody") == []

    def test_list_costs_two_round_trips_beyond_the_read(
        self, app: Flask, sign_in: SignIn, do: Do, count_commands: CountCommands
    ) -> None:
        """`list_sessions` costs two round trips beyond the read of the current session."""
        browser, _ = sign_in(app), sign_in(app)
        with count_commands() as commands:
            do(browser, kvs.list_sessions)
        assert commands.names == ["GET", "ZRANGEBYSCORE", "MGET"]


class TestRevokeOne:
    def test_revoke_session_ends_only_the_named_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """`revoke_session` ends the named session and keeps the user's other sessions."""
        here, there, third = (sign_in(app) for _ in range(3))
        seen: list[bool] = []
        do(here, lambda: seen.append(kvs.revoke_session(id_of(there))))
        assert seen == [True]
        assert may_enter(here, there, third) == [True, False, True]

    def test_second_revocation_of_a_session_returns_false(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """`revoke_session` returns False for a session that was already revoked."""
        here, there = sign_in(app), sign_in(app)
        seen: list[bool] = []
        for _ in range(2):
            do(here, lambda: seen.append(kvs.revoke_session(id_of(there))))
        assert seen == [True, False]

    @pytest.mark.parametrize(
        "session_id",
        ["", "x", "A" * 19, "A" * 20, "*" * 19, "../../../etc/passwd", "A" * 18 + "\n", "é" * 19],
    )
    def test_unknown_session_id_returns_false_and_changes_nothing(
        self, app: Flask, sign_in: SignIn, do: Do, keys: Keys, session_id: str
    ) -> None:
        """`revoke_session` returns False for an unknown or malformed id and changes nothing."""
        here = sign_in(app)
        before = keys()
        seen: list[bool] = []
        do(here, lambda: seen.append(kvs.revoke_session(session_id)))
        assert seen == [False]
        assert keys() == before
        assert may_enter(here) == [True]

    def test_session_id_of_another_user_is_like_an_unknown_id(
        self, app: Flask, sign_in: SignIn, do: Do, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """`revoke_session` returns False for another user's session and changes no key."""
        ada, bob = sign_in(app, "ada"), sign_in(app, "bob")
        dumps = {key: redis_client.dump(key) for key in keys()}
        seen: list[bool] = []
        do(bob, lambda: seen.append(kvs.revoke_session(id_of(ada))))
        assert seen == [False]
        assert {key: redis_client.dump(key) for key in keys()} == dumps
        assert may_enter(ada, bob) == [True, True]

    def test_id_of_an_anonymous_session_is_like_an_unknown_id(
        self, app: Flask, sign_in: SignIn, client: FlaskClient, do: Do
    ) -> None:
        """`revoke_session` returns False for an anonymous session."""
        client.post("/data", json={"x": 1})
        seen: list[bool] = []
        do(sign_in(app), lambda: seen.append(kvs.revoke_session(id_of(client))))
        assert seen == [False]
        assert client.get("/data").get_json() == {"x": 1}

    def test_admin_must_name_the_right_user(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """`revoke_session` with a user id revokes only a session of that user."""
        admin, ada = sign_in(app, "admin"), sign_in(app, "ada")
        seen: list[bool] = []

        def act() -> None:
            seen.append(kvs.revoke_session(id_of(ada), "bob"))
            seen.append(kvs.revoke_session(id_of(ada), "ada"))

        do(admin, act)
        assert seen == [False, True]
        assert may_enter(admin, ada) == [True, False]

    def test_evicted_session_in_the_index_returns_false(
        self, app: Flask, sign_in: SignIn, do: Do, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """`revoke_session` returns False for a session whose record Redis has evicted."""
        here, there = sign_in(app), sign_in(app)
        redis_client.delete(*[key for key in keys() if key.endswith(id_of(there)[3:])])
        seen: list[bool] = []
        do(here, lambda: seen.append(kvs.revoke_session(id_of(there))))
        assert seen == [False]


class TestRevokeAll:
    def test_all_sessions_of_the_current_user_end_and_are_counted(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """`revoke_all_sessions` ends the current user's sessions and returns their number."""
        ada, bob = [sign_in(app) for _ in range(3)], sign_in(app, "bob")
        seen: list[int] = []
        do(ada[0], lambda: seen.append(kvs.revoke_all_sessions()))
        assert seen == [3]
        assert may_enter(*ada, bob) == [False, False, False, True]

    def test_except_current_keeps_the_requests_own_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """With `except_current`, all other sessions of the user end (OWASP ASVS 5.0, 7.4.3)."""
        browsers = [sign_in(app) for _ in range(3)]
        seen: list[int] = []
        response = do(
            browsers[1], lambda: seen.append(kvs.revoke_all_sessions(except_current=True))
        )
        assert seen == [2]
        assert may_enter(*browsers) == [False, True, False]
        assert not cookies_of(response)

    def test_admin_ends_all_sessions_of_another_user(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """With a user id, the sessions of that user end and the admin's session stays."""
        admin, ada = sign_in(app, "admin"), [sign_in(app) for _ in range(2)]
        seen: list[int] = []

        def act() -> None:
            seen.append(kvs.revoke_all_sessions("ada", except_current=True))

        assert not cookies_of(do(admin, act))
        assert seen == [2]
        assert may_enter(admin, *ada) == [True, False, False]

    @pytest.mark.parametrize("how", ["evicted", "unreadable", "a list"])
    def test_session_whose_record_is_lost_or_spoiled_does_not_hinder_the_others(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys, how: str
    ) -> None:
        """If the index names a session without a readable record, all other sessions end, and the
        index is empty afterwards."""
        browsers = [sign_in(app) for _ in range(3)]
        (key,) = [key for key in keys() if key.endswith(id_of(browsers[1])[3:])]
        redis_client.delete(key)
        if how == "unreadable":
            redis_client.set(key, "{")
        elif how == "a list":
            redis_client.lpush(key, "x")
        with app.app_context():
            assert kvs.revoke_all_sessions("ada") == 2
        assert may_enter(*browsers) == [False] * 3
        assert not [key for key in keys() if ":u:" in key]

    def test_except_current_where_no_request_can_be_seen_raises_and_ends_nothing(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """Outside a request, `except_current` raises `KVSessionError`, and no session ends: which
        session to keep is unknown."""
        ada = sign_in(app)
        with app.app_context(), pytest.raises(KVSessionError, match="except_current=True"):
            kvs.revoke_all_sessions("ada", except_current=True)
        assert ada.get("/me").status_code == 200

    def test_except_current_in_a_nested_app_context_keeps_the_requests_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """In an app context inside a request, `except_current` keeps the request's session or
        raises; it never ends that session."""
        here, there = sign_in(app), sign_in(app)

        def act() -> None:
            with app.app_context(), suppress(KVSessionError):
                kvs.revoke_all_sessions("ada", except_current=True)

        do(here, act)
        assert here.get("/me").status_code == 200
        assert there.get("/me").status_code in (200, 401)

    def test_user_without_sessions_gives_zero_and_no_key(
        self, app: Flask, sign_in: SignIn, do: Do, keys: Keys
    ) -> None:
        """`revoke_all_sessions` of a user without sessions returns 0 and makes no key."""
        here = sign_in(app)
        before, seen = keys(), []
        do(here, lambda: seen.append(kvs.revoke_all_sessions("nobody")))
        assert seen == [0]
        assert keys() == before

    def test_revoke_all_sessions_costs_two_round_trips(
        self, app: Flask, sign_in: SignIn, count_commands: CountCommands
    ) -> None:
        """`revoke_all_sessions` costs two round trips."""
        for _ in range(5):
            sign_in(app)
        with app.app_context(), count_commands() as commands:
            assert kvs.revoke_all_sessions("ada") == 5
        assert commands.names == ["ZRANGEBYSCORE", "EVALSHA"]

    def test_positional_except_current_raises_type_error(self, app: Flask) -> None:
        """`except_current` must be given by name."""
        with app.app_context(), pytest.raises(TypeError):
            kvs.revoke_all_sessions("ada", True)  # type: ignore[call-arg]

    def test_except_current_after_a_failed_load_ends_nothing(
        self, make_app: MakeApp, sign_in: SignIn, socket_path: str, tmp_path: Path
    ) -> None:
        """If the load failed earlier in the request, `except_current` gives 503 and ends
        nothing."""
        socket = tmp_path / "s"
        socket.symlink_to(socket_path)
        app = make_app(redis_url=f"unix://{socket}", store_timeout=0.2)

        @app.post("/change-password")
        def change_password() -> t.Any:
            socket.unlink()
            app.extensions["kvsession"].store.close()
            with pytest.raises(StoreUnavailable):
                g.session.get("x")
            socket.symlink_to(socket_path)
            kvs.revoke_all_sessions("ada", except_current=True)
            return {}

        browsers = [sign_in(app) for _ in range(2)]
        assert browsers[0].post("/change-password").status_code == 503
        assert may_enter(*browsers) == [True, True]


class TestRevokeCurrentSession:
    """A request revokes its own session."""

    @pytest.mark.parametrize("revoke", BY_ID.values(), ids=BY_ID)
    def test_cookie_of_the_revoked_session_is_cleared(
        self, app: Flask, sign_in: SignIn, do: Do, revoke: Callable[[], t.Any]
    ) -> None:
        """The revocation clears the cookie, and the token opens nothing."""
        browser = sign_in(app)
        token = token_of(browser)
        response = do(browser, revoke)
        (cookie,) = response.headers.getlist("Set-Cookie")
        assert is_clearing(cookie)
        assert response.headers["Cache-Control"] == "no-store"
        assert browser_with(app, token).get("/me").status_code == 401

    @pytest.mark.parametrize("revoke", BY_ID.values(), ids=BY_ID)
    def test_pending_changes_of_the_revoked_session_are_dropped(
        self, app: Flask, sign_in: SignIn, do: Do, keys: Keys, revoke: Callable[[], t.Any]
    ) -> None:
        """The revocation drops the pending changes, also unstorable ones."""
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

    def test_write_after_the_revocation_goes_into_an_anonymous_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """A write after the revocation creates an anonymous session with a cookie of its own, and
        the user's cookie is deleted."""
        browser = sign_in(app, data={"secret": 1})

        def act() -> None:
            kvs.revoke_all_sessions()
            g.session["message"] = "bye"

        do(browser, act)
        assert user_token_of(browser) is None
        assert anonymous_token_of(browser) is not None
        assert browser.get("/data").get_json() == {"message": "bye"}
        assert may_enter(browser) == [False]

    def test_login_after_the_revocation_creates_a_new_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """A login after `revoke_all_sessions` in the same request creates a new session."""
        browser, elsewhere = sign_in(app), sign_in(app)

        def act() -> None:
            kvs.revoke_all_sessions()
            kvs.login_user("ada")

        assert len(cookies_of(do(browser, act))) == 1
        assert may_enter(browser, elsewhere) == [True, False]

    def test_verbs_after_the_revocation_raise_login_required(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """For the rest of the request, verbs that need a user raise `LoginRequired`."""

        def act() -> None:
            kvs.revoke_all_sessions()
            for verb in (kvs.list_sessions, kvs.revoke_all_sessions, kvs.confirm_login):
                with pytest.raises(LoginRequired):
                    verb()

        assert do(sign_in(app), act).status_code == 200


class TestSeveralWorkers:
    """What one worker does to a session counts in another worker at once, also if that worker has
    loaded the session before (OWASP ASVS 5.0, 7.4.1)."""

    ENDINGS: t.ClassVar[dict[str, Callable[[FlaskClient], object]]] = {
        "logout": lambda browser: browser.post("/logout"),
        "login": lambda browser: browser.post("/login/ada"),
        "rotation": lambda browser: browser.post("/rotate"),
        "revocation": lambda browser: in_context(
            browser.application, lambda: kvs.revoke_all_sessions("ada")
        ),
    }

    @pytest.fixture
    def here(self, make_app: MakeApp, sign_in: SignIn) -> FlaskClient:
        """A browser that has signed in with one worker."""
        app = make_app("here")

        @app.post("/rotate")
        def rotate() -> t.Any:
            kvs.rotate_token()
            return {}

        return sign_in(app, data={"role": "admin"})

    @pytest.fixture
    def there(self, make_app: MakeApp, here: FlaskClient) -> FlaskClient:
        """The same browser with another worker, which has loaded the session."""
        there = browser_with(make_app("there"), token_of(here))
        assert there.get("/data").get_json() == {"role": "admin"}
        return there

    @pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
    def test_token_that_one_worker_ended_is_refused_by_another_at_once(
        self, here: FlaskClient, there: FlaskClient, end: Callable[[FlaskClient], object]
    ) -> None:
        """If one worker ends a session or changes its secret, another worker refuses the old token
        at once."""
        end(here)
        assert there.get("/me").status_code == 401

    def test_change_by_one_worker_is_read_by_another_at_once(
        self, here: FlaskClient, there: FlaskClient
    ) -> None:
        """What one worker writes into a session another worker reads at once."""
        here.post("/data", json={"cart": 1})
        in_context(here.application, lambda: kvs.update_all_sessions("ada", {"role": "reader"}))
        assert there.get("/data").get_json() == {"role": "reader", "cart": 1}


class TestRestoredBackup:
    """What a backup of Redis brings back when it is restored, and how an operator ends it."""

    @pytest.fixture
    def restore(self, redis_client: redis.Redis, keys: Keys) -> Callable[[], Callable[[], object]]:
        """Saves all keys of the test. The result of the call writes them again, without an expiry,
        as a backup that lost its expiries would."""

        def save() -> Callable[[], object]:
            saved = {key: t.cast(bytes, redis_client.dump(key)) for key in keys()}

            def restore() -> None:
                for key, value in saved.items():
                    redis_client.restore(key, 0, value, replace=True)

            return restore

        return save

    def test_restored_sessions_still_end_at_their_timeouts(
        self, app: Flask, sign_in: SignIn, clock: Clock, restore: t.Any
    ) -> None:
        """A restored session that has passed its idle or its absolute timeout opens nothing."""
        browser = sign_in(app)
        put_back = restore()
        clock.advance(days=6)
        put_back()
        assert may_enter(browser) == [True]
        clock.advance(days=8)
        put_back()
        assert may_enter(browser) == [False]
        assert store_of(app).sessions_of("ada") == []

    def test_restored_session_comes_back_and_can_be_revoked_again(
        self, app: Flask, sign_in: SignIn, restore: t.Any
    ) -> None:
        """A backup from before a revocation brings the session back: the tombstone is lost. It is
        listed, so `revoke_all_sessions` ends it again."""
        browser = sign_in(app)
        put_back = restore()
        assert len(store_of(app).revoke_all("ada")) == 1
        put_back()
        assert may_enter(browser) == [True]
        assert len(store_of(app).revoke_all("ada")) == 1
        assert may_enter(browser) == [False]

    def test_new_key_prefix_ends_every_restored_session(
        self, app: Flask, make_app: MakeApp, sign_in: SignIn, restore: t.Any, prefix: str
    ) -> None:
        """With another `KVSESSION_KEY_PREFIX` no token from before opens a session, so an operator
        can end the sessions of a restored backup at once."""
        browsers = [sign_in(app, user) for user in ("ada", "bob")]
        restore()()
        after = make_app("after", key_prefix=f"{prefix}:2")
        later = [browser_with(after, token_of(browser)) for browser in browsers]
        assert may_enter(*browsers, *later) == [True, True, False, False]


class TestUserIdArgument:
    @pytest.mark.parametrize("verb", FOR_ANY_USER.values(), ids=FOR_ANY_USER)
    @pytest.mark.parametrize(
        "user_id", [None, "", False, 1.0, [], object()], ids=lambda value: type(value).__name__
    )
    def test_value_that_is_no_user_id_raises_value_error(
        self, app: Flask, sign_in: SignIn, do: Do, verb: Callable[[t.Any], object], user_id: t.Any
    ) -> None:
        """An explicit None, or another value that is not a user id, raises `ValueError`."""
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
    @pytest.mark.parametrize("data", [{}, {"x": 1}], ids=["no session", "anonymous session"])
    def test_anonymous_browser_without_a_user_id_gets_401(
        self, client: FlaskClient, do: Do, verb: Callable[[], object], data: dict[str, int]
    ) -> None:
        """Without a user id, a verb answers an anonymous browser with 401."""
        client.post("/data", json=data)
        assert do(client, verb).status_code == 401

    @pytest.mark.parametrize(
        "verb",
        [kvs.list_sessions, kvs.revoke_all_sessions, lambda: kvs.revoke_session("A" * 19)],
        ids=["list", "revoke_all", "revoke"],
    )
    def test_verb_outside_a_request_needs_a_user_id(
        self, app: Flask, verb: Callable[[], object]
    ) -> None:
        """Outside a request, a verb without a user id raises `RuntimeError`."""
        with app.app_context(), pytest.raises(RuntimeError):
            verb()

    def test_all_verbs_work_outside_a_request(self, app: Flask, sign_in: SignIn) -> None:
        """Outside a request, a worker can list, change and revoke sessions (OWASP ASVS 5.0,
        7.4.2)."""
        browsers = [sign_in(app) for _ in range(3)]
        with app.app_context():
            assert len(kvs.list_sessions("ada")) == 3
            assert kvs.update_all_sessions("ada", {"role": "user"}) == 3
            assert kvs.revoke_session(id_of(browsers[0]), "ada") is True
            assert kvs.revoke_all_sessions("ada") == 2
        assert may_enter(*browsers) == [False, False, False]


class TestReason:
    def test_login_required_error_carries_the_reason_revoked(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """`LoginRequired.ended` is "revoked" if the session was revoked."""

        @app.errorhandler(LoginRequired)
        def tell(error: LoginRequired) -> t.Any:
            return {"ended": error.ended}, 401

        browser = sign_in(app)
        with app.app_context():
            kvs.revoke_all_sessions("ada")
        assert browser.get("/me").get_json() == {"ended": "revoked"}

    def test_first_reason_stays_if_a_session_is_ended_twice(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """If a request revokes a session that another request has ended meanwhile, the reason of
        the first end stays, and the second request ends nothing."""
        session_id, store = id_of(sign_in(app)), store_of(app)
        assert len(store.revoke(user_hash("ada"), [session_id], "limit")[0]) == 1
        assert store.revoke(user_hash("ada"), [session_id], "revoked") == ([], [])
        (key,) = keys()
        held = t.cast(bytes, redis_client.get(key))
        assert json.loads(held)["ended"] == "limit"

    def test_tombstone_holds_only_the_reason_and_expires_in_time(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """A tombstone holds only the reason and the hash of the family, and expires no later than
        the session would have."""
        token = Token.parse(token_of(sign_in(app, remember=False, data={"x": "datum"})) or "")
        assert token
        with app.app_context():
            kvs.revoke_all_sessions("ada")
        (key,) = keys()
        held = json.loads(t.cast(bytes, redis_client.get(key)))
        assert held == {"ended": "revoked", "family": token.family_hash}
        assert 0 < redis_client.pttl(key) <= 12 * 3600 * 1000

    def test_browser_of_a_revoked_session_can_log_in_again(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """A browser whose session was revoked can log in again."""
        browser = sign_in(app)
        with app.app_context():
            kvs.revoke_all_sessions("ada")
        browser.post("/login/ada")
        assert may_enter(browser) == [True]


class TestUpdateAll:
    def test_next_request_of_each_session_sees_the_changes(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """The next request of each session of the user sees the changed and removed keys."""
        ada = [sign_in(app, data={"role": "admin", "old": 1, "kept": 1}) for _ in range(3)]
        with app.app_context():
            assert kvs.update_all_sessions("ada", {"role": "user"}, remove=["old", "never"]) == 3
        for browser in ada:
            assert browser.get("/me").get_json()["data"] == {"role": "user", "kept": 1}

    def test_sessions_of_other_users_stay_unchanged(
        self, app: Flask, sign_in: SignIn, client: FlaskClient
    ) -> None:
        """`update_all_sessions` changes no session of another user and no anonymous session."""
        client.post("/data", json={"role": "x"})
        bob = sign_in(app, "bob", data={"role": "x"})
        with app.app_context():
            assert kvs.update_all_sessions("ada", {"role": "y"}) == 0
        assert bob.get("/data").get_json() == client.get("/data").get_json() == {"role": "x"}

    def test_current_session_sees_the_changes_in_the_next_request(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """The calling request keeps the data that it loaded; its next request sees the changes."""
        browser = sign_in(app, data={"role": "admin"})

        def act() -> None:
            g.session["mine"] = 1
            kvs.update_all_sessions("ada", {"role": "user"})
            assert g.session["role"] == "admin"

        do(browser, act)
        assert browser.get("/me").get_json()["data"] == {"role": "user", "mine": 1}

    def test_update_is_no_activity_and_moves_no_time(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """`update_all_sessions` is no activity and moves no time of a session."""
        browser = sign_in(app)
        clock.advance(days=3)
        with app.app_context():
            (before,) = kvs.list_sessions("ada")
            kvs.update_all_sessions("ada", {"x": 1})
            assert kvs.list_sessions("ada") == [before]
        clock.advance(days=5)
        assert may_enter(browser) == [False]

    def test_unstorable_value_raises_and_changes_no_session(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """An unstorable value raises, and no session is changed."""
        browsers = [sign_in(app, data={"x": 1}) for _ in range(2)]
        with app.app_context(), pytest.raises(UnstorableValue):
            kvs.update_all_sessions("ada", {"x": 2, "y": object()})
        for browser in browsers:
            assert browser.get("/me").get_json()["data"] == {"x": 1}

    def test_text_instead_of_a_list_of_keys_raises(self, app: Flask, sign_in: SignIn) -> None:
        """`remove="role"` raises `TypeError`, because a text is not a list of keys."""
        sign_in(app, data={"role": "admin"})
        with app.app_context(), pytest.raises(TypeError, match="remove"):
            kvs.update_all_sessions("ada", {}, remove="role")

    def test_revoked_session_is_not_updated_or_brought_back(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """`update_all_sessions` does not change a revoked session and does not bring it back."""
        browser, other = sign_in(app), sign_in(app)
        with app.app_context():
            kvs.revoke_session(id_of(browser), "ada")
            assert kvs.update_all_sessions("ada", {"x": 1}) == 1
        assert may_enter(browser, other) == [False, True]
