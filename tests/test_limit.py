"""`KVSESSION_MAX_SESSIONS_PER_USER` limits the sessions of each user."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError, LoginRequired

from .support.apps import Do, MakeApp, store_of
from .support.browsers import SignIn, browser_with, id_of, may_enter, token_of
from .support.clock import Clock
from .support.commands import CountCommands, Keys
from .support.signals import recorded_signals

PushedOut = Callable[[], FlaskClient]


@pytest.fixture
def pushed_out(app: Flask, sign_in: SignIn, clock: Clock) -> PushedOut:
    """Makes a browser whose session two later logins of its user have ended."""

    def pushed_out() -> FlaskClient:
        browsers = []
        for _ in range(3):
            browsers.append(sign_in(app))
            clock.advance(seconds=1)
        return browsers[0]

    return pushed_out


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app in which a user may have two sessions."""
    return make_app(max_sessions_per_user=2)


def test_default_settings_allow_twenty_sessions_of_one_user(
    make_app: MakeApp, sign_in: SignIn
) -> None:
    """With the default settings, 20 sessions of one user are valid at once."""
    app = make_app()
    assert all(may_enter(*[sign_in(app) for _ in range(20)]))


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_login_over_the_limit_ends_the_least_recently_used_session(
    make_app: MakeApp, sign_in: SignIn, clock: Clock, limit: int
) -> None:
    """A login over the limit ends the user's least recently used session."""
    app, browsers = make_app(max_sessions_per_user=limit), []
    for _ in range(limit + 1):
        browsers.append(sign_in(app))
        clock.advance(minutes=10)
    assert may_enter(*browsers) == [False] + [True] * limit


def test_recently_used_old_session_outlives_an_idle_newer_one(
    app: Flask, sign_in: SignIn, clock: Clock
) -> None:
    """The limit goes by the last activity, not by the time of the login."""
    old, idle = sign_in(app), sign_in(app)
    clock.advance(minutes=10)
    old.get("/me")
    new = sign_in(app)
    assert may_enter(old, idle, new) == [True, False, True]


def test_newest_of_logins_in_quick_succession_stays(app: Flask, sign_in: SignIn) -> None:
    """Of logins in quick succession, the newest session stays."""
    for _ in range(10):
        newest = sign_in(app)
        assert newest.get("/me").status_code == 200
    assert len(store_of(app).sessions_of("ada")) == 2


def test_login_over_the_browsers_own_session_ends_no_other(
    app: Flask, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """The session that a login replaces does not count, so no other session ends."""
    one, two = sign_in(app), sign_in(app)
    with count_commands() as commands:
        two.post("/login/ada")
    assert commands.names == ["GET", "EVALSHA", "EVALSHA"]
    assert may_enter(one, two) == [True, True]


def test_each_user_has_a_separate_limit(app: Flask, sign_in: SignIn) -> None:
    """Sessions of other users do not count for the limit and do not end."""
    browsers = [sign_in(app, user) for user in ("ada", "bob", "ada", "bob")]
    assert all(may_enter(*browsers))


def test_anonymous_sessions_do_not_count_for_the_limit(app: Flask, sign_in: SignIn) -> None:
    """Anonymous sessions do not count for the limit and do not end."""
    anonymous_browsers = [app.test_client() for _ in range(4)]
    for anonymous in anonymous_browsers:
        anonymous.post("/data", json={"x": 1})
    assert all(may_enter(sign_in(app), sign_in(app)))
    assert all(anonymous.get("/data").get_json() == {"x": 1} for anonymous in anonymous_browsers)


@pytest.mark.parametrize("how", ["logout", "revoke", "evicted"])
def test_session_that_no_longer_exists_does_not_count(
    app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys, how: str
) -> None:
    """A session that was logged out, revoked or evicted does not count for the limit."""
    one, gone = sign_in(app), sign_in(app)
    session_id = id_of(gone)
    if how == "logout":
        gone.post("/logout")
    elif how == "revoke":
        with app.app_context():
            kvs.revoke_session(session_id, "ada")
    else:
        redis_client.delete(*[key for key in keys() if key.endswith(session_id[3:])])
    assert may_enter(one, sign_in(app)) == [True, True]


def test_newest_session_stays_after_the_servers_time_was_put_back(
    app: Flask, sign_in: SignIn, clock: Clock
) -> None:
    """If the server's time is put back, a login over the limit ends an older session, and not its
    own, although its own activity seems the oldest."""
    older = [sign_in(app), sign_in(app)]
    clock.advance(hours=-1)
    newest = sign_in(app)
    assert may_enter(newest) == [True]
    assert sum(may_enter(*older)) == 1


def test_evicted_session_leaves_the_index_at_the_next_login_over_the_limit(
    app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys
) -> None:
    """A login over the limit removes the ids of evicted sessions from the user's index, so that the
    next login within the limit costs no second round trip."""
    one, evicted = sign_in(app), sign_in(app)
    redis_client.delete(*[key for key in keys() if key.endswith(id_of(evicted)[3:])])
    two = sign_in(app)
    (index,) = [key for key in keys() if ":u:" in key]
    assert redis_client.zcard(index) == 2
    assert may_enter(one, two) == [True, True]


@pytest.mark.parametrize("spoil", ["{", "[]", None], ids=["no JSON", "no record", "a list"])
def test_unreadable_session_does_not_hinder_a_login_over_the_limit(
    app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys, spoil: str | None
) -> None:
    """If one of the user's records cannot be read, a login over the limit works, and the readable
    sessions stay."""
    one, spoiled = sign_in(app), sign_in(app)
    (key,) = [key for key in keys() if key.endswith(id_of(spoiled)[3:])]
    if spoil is None:
        redis_client.delete(key)
        redis_client.lpush(key, "x")
    else:
        redis_client.set(key, spoil, keepttl=True)
    assert may_enter(one, sign_in(app)) == [True, True]


def test_replaced_session_is_neither_counted_nor_ended_by_the_limit(
    make_app: MakeApp, sign_in: SignIn, clock: Clock
) -> None:
    """With too many sessions, the limit neither counts nor ends the session that a login
    replaces."""
    old, browsers = make_app("old"), []
    for _ in range(4):
        browsers.append(sign_in(old))
        clock.advance(minutes=10)
    again = browser_with(make_app("new", max_sessions_per_user=2), token_of(browsers[3]))
    again.post("/login/ada")
    assert may_enter(again, *browsers[:3]) == [True, False, False, True]


def test_lowered_limit_applies_at_the_next_login(
    make_app: MakeApp, sign_in: SignIn, clock: Clock
) -> None:
    """After the limit is lowered, one login ends all sessions over the new limit."""
    old, browsers = make_app("old"), []
    for _ in range(5):
        browsers.append(sign_in(old))
        clock.advance(minutes=10)
    sign_in(make_app("new", max_sessions_per_user=2))
    assert may_enter(*browsers) == [False] * 4 + [True]


class TestReason:
    """A browser can learn that the limit ended its session."""

    def test_login_required_error_carries_the_reason_limit(
        self, app: Flask, pushed_out: PushedOut
    ) -> None:
        """`LoginRequired.ended` is "limit" if the limit ended the session."""

        @app.errorhandler(LoginRequired)
        def tell(error: LoginRequired) -> t.Any:
            return {"ended": error.ended}, 401

        assert pushed_out().get("/me").get_json() == {"ended": "limit"}
        assert app.test_client().get("/me").get_json() == {"ended": None}

    def test_current_session_ended_is_limit_until_the_next_login(
        self, pushed_out: PushedOut, do: Do
    ) -> None:
        """`current_session.ended` is "limit" until the browser logs in again."""
        first = pushed_out()
        seen: list[str | None] = []
        do(first, lambda: seen.append(g.session.ended))
        first.post("/login/ada")
        do(first, lambda: seen.append(g.session.ended))
        assert seen == ["limit", None]

    def test_anonymous_session_keeps_the_reason_until_the_next_login(
        self, pushed_out: PushedOut, do: Do
    ) -> None:
        """A new anonymous session keeps the reason until the browser logs in again."""
        first = pushed_out()
        seen: list[str | None] = []
        do(first, lambda: g.session.update(message="please sign in"))
        do(first, lambda: seen.append(g.session.ended))
        do(first, lambda: g.session.update(message="once more"))
        do(first, lambda: seen.append(g.session.ended))
        first.post("/login/ada")
        do(first, lambda: seen.append(g.session.ended))
        assert seen == ["limit", "limit", None]

    def test_default_response_does_not_contain_the_reason(self, pushed_out: PushedOut) -> None:
        """The default 401 does not contain the reason."""
        response = pushed_out().get("/me")
        assert (response.status_code, response.get_json()) == (401, {"error": "Unauthorized"})

    def test_session_ended_by_the_limit_sends_session_revoked(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """`session_revoked` is sent for a session that the limit ended."""
        with recorded_signals(app, "session_revoked") as recorder:
            browsers = [sign_in(app) for _ in range(3)]
        ended = [b for b in browsers if b.get("/me").status_code == 401]
        assert recorder.ids == [id_of(browser) for browser in ended]
        assert len(recorder.ids) == 1


class TestFunction:
    """`KVSESSION_MAX_SESSIONS_PER_USER` may be a function of the user id."""

    def test_function_gets_the_user_id_in_its_own_type(self, make_app: MakeApp, do: Do) -> None:
        """The function gets the user id in its own type."""
        seen: list[t.Any] = []

        def limit(user_id: t.Any) -> int:
            seen.append(user_id)
            return 1

        app = make_app(max_sessions_per_user=limit)
        app.add_url_rule("/in", view_func=lambda: {"id": kvs.login_user(42).id})
        app.test_client().get("/in")
        assert set(map(repr, seen)) == {"42"}

    def test_function_decides_the_limit_of_each_user(
        self, make_app: MakeApp, sign_in: SignIn
    ) -> None:
        """The function gives each user a limit; None allows any number."""
        app = make_app(max_sessions_per_user={"ada": 1, "bob": None}.get)
        ada = [sign_in(app, "ada") for _ in range(2)]
        bob = [sign_in(app, "bob") for _ in range(4)]
        assert sum(may_enter(*ada)) == 1
        assert all(may_enter(*bob))

    @pytest.mark.parametrize("limit", [0, -1, True, "3", 1.0])
    def test_function_with_an_invalid_limit_raises_and_creates_no_session(
        self, make_app: MakeApp, keys: Keys, limit: t.Any
    ) -> None:
        """If the function returns an invalid limit, the login raises `ConfigurationError`."""
        browser = make_app(max_sessions_per_user=lambda user_id: limit).test_client()
        with pytest.raises(ConfigurationError, match="KVSESSION_MAX_SESSIONS_PER_USER"):
            browser.post("/login/ada")
        assert keys() == set()

    def test_function_that_raises_prevents_the_login(self, make_app: MakeApp, keys: Keys) -> None:
        """If the function raises, the login raises that error and creates no session."""

        def limit(user_id: t.Any) -> int:
            raise LookupError("no such plan")

        browser = make_app(max_sessions_per_user=limit).test_client()
        with pytest.raises(LookupError, match="no such plan"):
            browser.post("/login/ada")
        assert keys() == set()

    def test_function_that_raises_after_the_session_was_created_undoes_the_login(
        self, make_app: MakeApp, sign_in: SignIn
    ) -> None:
        """If the function first returns a limit and then raises, the new session is removed
        again."""
        answers: list[t.Any] = [None, 1]

        def limit(user_id: t.Any) -> int | None:
            if not answers:
                raise LookupError("no such plan")
            return t.cast("int | None", answers.pop(0))

        app = make_app(max_sessions_per_user=limit)
        first = sign_in(app)
        with pytest.raises(LookupError, match="no such plan"):
            app.test_client().post("/login/ada")
        assert [stored.id for stored in store_of(app).sessions_of("ada")] == [id_of(first)]


def test_login_over_the_limit_costs_one_more_round_trip(
    app: Flask, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """A login over the limit costs two round trips; a login within the limit costs one."""
    costs = []
    for _ in range(4):
        with count_commands() as commands:
            sign_in(app)
        costs.append(len([name for name in commands.names if name not in ("TIME", "EVAL")]))
    assert costs[1] == 1
    assert costs[3] == 2
