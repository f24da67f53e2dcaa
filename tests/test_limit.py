"""At most so many sessions for each user."""

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


def test_without_a_limit_there_may_be_any_number(make_app: MakeApp, sign_in: SignIn) -> None:
    """By default no login ends another."""
    app = make_app()
    assert all(may_enter(*[sign_in(app) for _ in range(20)]))


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_one_more_login_ends_one(
    make_app: MakeApp, sign_in: SignIn, clock: Clock, limit: int
) -> None:
    """Login number N+1 ends the one of them that was used the longest time ago."""
    app, browsers = make_app(max_sessions_per_user=limit), []
    for _ in range(limit + 1):
        browsers.append(sign_in(app))
        clock.advance(minutes=10)
    assert may_enter(*browsers) == [False] + [True] * limit


def test_the_least_recently_used_ends_not_the_oldest(
    app: Flask, sign_in: SignIn, clock: Clock
) -> None:
    """What counts is the last activity."""
    old, idle = sign_in(app), sign_in(app)
    clock.advance(minutes=10)
    old.get("/me")
    new = sign_in(app)
    assert may_enter(old, idle, new) == [True, False, True]


def test_the_newest_stays_whatever_the_times(app: Flask, sign_in: SignIn) -> None:
    """Of logins in the same moment the last one stays."""
    for _ in range(10):
        newest = sign_in(app)
        assert newest.get("/me").status_code == 200
    assert len(store_of(app).sessions_of("ada")) == 2


def test_a_login_over_ones_own_session_ends_no_other(
    app: Flask, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """The session that a login replaces does not count, so there is nothing to enforce."""
    one, two = sign_in(app), sign_in(app)
    with count_commands() as commands:
        two.post("/login/ada")
    assert commands.names == ["GET", "EVALSHA", "EVALSHA"]
    assert may_enter(one, two) == [True, True]


def test_each_user_has_a_limit_of_their_own(app: Flask, sign_in: SignIn) -> None:
    """Other users' sessions do not count, and do not end."""
    browsers = [sign_in(app, user) for user in ("ada", "bob", "ada", "bob")]
    assert all(may_enter(*browsers))


def test_visitors_do_not_count(app: Flask, sign_in: SignIn) -> None:
    """Any number of visitors may come."""
    visitors = [app.test_client() for _ in range(4)]
    for visitor in visitors:
        visitor.post("/data", json={"x": 1})
    assert all(may_enter(sign_in(app), sign_in(app)))
    assert all(visitor.get("/data").get_json() == {"x": 1} for visitor in visitors)


@pytest.mark.parametrize("how", ["logout", "revoke", "evicted"])
def test_a_session_that_is_gone_does_not_count(
    app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys, how: str
) -> None:
    """A logout, a revocation and a record that Redis has dropped make room."""
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


def test_a_login_over_ones_own_session_counts_without_it(
    make_app: MakeApp, sign_in: SignIn, clock: Clock
) -> None:
    """Where there are too many all the same, the one that is replaced is neither counted nor one of
    those that are ended."""
    old, browsers = make_app("old"), []
    for _ in range(4):
        browsers.append(sign_in(old))
        clock.advance(minutes=10)
    again = browser_with(make_app("new", max_sessions_per_user=2), token_of(browsers[3]))
    again.post("/login/ada")
    assert may_enter(again, *browsers[:3]) == [True, False, False, True]


def test_a_lowered_limit_holds_from_the_next_login(
    make_app: MakeApp, sign_in: SignIn, clock: Clock
) -> None:
    """One login ends all that are too many by today's settings."""
    old, browsers = make_app("old"), []
    for _ in range(5):
        browsers.append(sign_in(old))
        clock.advance(minutes=10)
    sign_in(make_app("new", max_sessions_per_user=2))
    assert may_enter(*browsers) == [False] * 4 + [True]


class TestReason:
    """A browser whose session was ended by the limit is told why."""

    def test_login_required_tells(self, app: Flask, pushed_out: PushedOut) -> None:
        """`LoginRequired.ended` is "limit", for the app's own error page."""

        @app.errorhandler(LoginRequired)
        def tell(error: LoginRequired) -> t.Any:
            return {"ended": error.ended}, 401

        assert pushed_out().get("/me").get_json() == {"ended": "limit"}
        assert app.test_client().get("/me").get_json() == {"ended": None}

    def test_the_session_tells(self, pushed_out: PushedOut, do: Do) -> None:
        """`current_session.ended` is "limit" until the browser has signed in again."""
        first = pushed_out()
        seen: list[str | None] = []
        do(first, lambda: seen.append(g.session.ended))
        first.post("/login/ada")
        do(first, lambda: seen.append(g.session.ended))
        assert seen == ["limit", None]

    def test_a_visitor_s_session_goes_on_telling(self, pushed_out: PushedOut, do: Do) -> None:
        """A message flashed before the sign-in page makes a visitor's session; it hides nothing."""
        first = pushed_out()
        seen: list[str | None] = []
        do(first, lambda: g.session.update(message="please sign in"))
        do(first, lambda: seen.append(g.session.ended))
        do(first, lambda: g.session.update(message="once more"))
        do(first, lambda: seen.append(g.session.ended))
        first.post("/login/ada")
        do(first, lambda: seen.append(g.session.ended))
        assert seen == ["limit", "limit", None]

    def test_the_default_answer_tells_nobody(self, pushed_out: PushedOut) -> None:
        """Without a handler, the answer is that to anybody."""
        response = pushed_out().get("/me")
        assert (response.status_code, response.get_json()) == (401, {"error": "Unauthorized"})

    def test_each_ended_session_is_announced(self, app: Flask, sign_in: SignIn) -> None:
        """`session_revoked` is sent for a session ended by the limit."""
        with recorded_signals(app, "session_revoked") as recorder:
            browsers = [sign_in(app) for _ in range(3)]
        ended = [b for b in browsers if b.get("/me").status_code == 401]
        assert recorder.ids == [id_of(browser) for browser in ended]
        assert len(recorder.ids) == 1


class TestFunction:
    """The limit is a function of the user id."""

    def test_gets_the_id_that_was_given(self, make_app: MakeApp, do: Do) -> None:
        """The function gets the user id in its own type."""
        seen: list[t.Any] = []

        def limit(user_id: t.Any) -> int:
            seen.append(user_id)
            return 1

        app = make_app(max_sessions_per_user=limit)
        app.add_url_rule("/in", view_func=lambda: {"id": kvs.login_user(42).id})
        app.test_client().get("/in")
        assert set(map(repr, seen)) == {"42"}

    def test_decides_for_each_user(self, make_app: MakeApp, sign_in: SignIn) -> None:
        """One user may have one session and another, for whom it returns None, any number."""
        app = make_app(max_sessions_per_user={"ada": 1, "bob": None}.get)
        ada = [sign_in(app, "ada") for _ in range(2)]
        bob = [sign_in(app, "bob") for _ in range(4)]
        assert sum(may_enter(*ada)) == 1
        assert all(may_enter(*bob))

    @pytest.mark.parametrize("limit", [0, -1, True, "3", 1.0])
    def test_that_returns_no_limit_is_told(
        self, make_app: MakeApp, keys: Keys, limit: t.Any
    ) -> None:
        """What is no limit raises `ConfigurationError` naming the key, and nobody is signed in."""
        browser = make_app(max_sessions_per_user=lambda user_id: limit).test_client()
        with pytest.raises(ConfigurationError, match="KVSESSION_MAX_SESSIONS_PER_USER"):
            browser.post("/login/ada")
        assert keys() == set()

    def test_that_fails_signs_nobody_in(self, make_app: MakeApp, keys: Keys) -> None:
        """An error of the function comes out as it is, before anything was made."""

        def limit(user_id: t.Any) -> int:
            raise LookupError("no such plan")

        browser = make_app(max_sessions_per_user=limit).test_client()
        with pytest.raises(LookupError, match="no such plan"):
            browser.post("/login/ada")
        assert keys() == set()


def test_passing_the_limit_costs_one_round_trip_more(
    app: Flask, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """A login that passes the limit costs two round trips, one that does not costs one."""
    costs = []
    for _ in range(4):
        with count_commands() as commands:
            sign_in(app)
        costs.append(len([name for name in commands.names if name not in ("TIME", "EVAL")]))
    assert costs[1] == 1
    assert costs[3] == 2
