"""Idle and absolute timeouts, and the renewals that activity brings."""

from __future__ import annotations

import typing as t
from datetime import datetime, timedelta

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs

from .support.apps import Do, MakeApp, store_of
from .support.browsers import SignIn, attributes_of, cookies_of, id_of, token_of
from .support.clock import Clock
from .support.commands import CountCommands, Keys

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
JUST = pytest.mark.parametrize(("error", "status"), [(-SECOND, 200), (SECOND, 401)])


def lifetime(redis_client: redis.Redis, keys: Keys) -> timedelta:
    """What Redis still gives the one session there is."""
    (key,) = [key for key in keys() if ":s:" in key]
    return timedelta(milliseconds=redis_client.pttl(key))


class TestIdle:
    @JUST
    @pytest.mark.parametrize(
        ("settings", "login", "timeout"),
        [
            ({}, {}, 7 * DAY),
            ({}, {"remember": False}, DAY / 2),
            ({"idle_timeout": DAY}, {}, DAY),
            ({"idle_timeout": 3600}, {"remember": False}, DAY / 24),
            ({"unremembered_timeout": 2 * DAY}, {"remember": False}, 2 * DAY),
            ({"absolute_timeout": 2 * DAY}, {}, 2 * DAY),
        ],
        ids=str,
    )
    def test_ends_a_session(
        self,
        make_app: MakeApp,
        sign_in: SignIn,
        clock: Clock,
        settings: dict[str, t.Any],
        login: dict[str, t.Any],
        timeout: timedelta,
        error: timedelta,
        status: int,
    ) -> None:
        """A session that nobody uses is there until its timeout, and not a second longer."""
        browser = sign_in(make_app(**settings), **login)
        clock.advance(timeout + error)
        assert browser.get("/me").status_code == status

    @pytest.mark.parametrize("remember", [True, False])
    def test_is_the_lifetime_of_the_key(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys, remember: bool
    ) -> None:
        """Redis expires the record when its idle timeout is over."""
        sign_in(app, remember=remember)
        expected = 7 * DAY if remember else DAY / 2
        assert expected - 5 * SECOND < lifetime(redis_client, keys) <= expected

    def test_what_redis_has_expired_is_gone(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """Without its key a session is over (OWASP ASVS 5.0, 7.2.1)."""
        browser = sign_in(app)
        redis_client.delete(*keys())
        assert browser.get("/me").status_code == 401

    def test_activity_extends_it(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """Each use within the timeout begins it anew."""
        browser = sign_in(app)
        for _ in range(4):
            clock.advance(days=6)
            assert browser.get("/me").status_code == 200

    def test_requests_that_do_not_touch_the_session_are_no_activity(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """Only a request that touches the session extends it."""
        browser = sign_in(app)
        clock.advance(days=6)
        browser.get("/untouched")
        clock.advance(days=2)
        assert browser.get("/me").status_code == 401

    def test_activity_within_the_renewal_interval_does_not_count(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """The idle time really ends up to one renewal interval earlier: the price of few writes."""
        browser = sign_in(app)
        clock.advance(minutes=4)
        browser.get("/me")
        clock.advance(7 * DAY - timedelta(minutes=4) + SECOND)
        assert browser.get("/me").status_code == 401


class TestAbsolute:
    @JUST
    def test_activity_cannot_pass_it(
        self, app: Flask, sign_in: SignIn, clock: Clock, error: timedelta, status: int
    ) -> None:
        """Constant activity keeps a session for 30 days, and not a second longer."""
        browser = sign_in(app)
        for _ in range(29):
            clock.advance(DAY)
            assert browser.get("/me").status_code == 200
        clock.advance(DAY + error)
        assert browser.get("/me").status_code == status

    @pytest.mark.parametrize(
        "act",
        [kvs.rotate_token, kvs.confirm_login, lambda: g.session.update(x=1)],
        ids=["rotate_token", "confirm_login", "a write"],
    )
    def test_nothing_but_a_login_moves_it(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do, act: t.Any
    ) -> None:
        """Neither a new secret, nor the password again, nor a write gives a session more time."""
        browser = sign_in(app)
        for days in (6, 6, 6, 6, 5):
            clock.advance(days=days)
            assert do(browser, act).status_code == 200
        clock.advance(DAY - SECOND)
        assert browser.get("/me").status_code == 200
        clock.advance(2 * SECOND)
        assert browser.get("/me").status_code == 401

    def test_a_login_begins_it_anew(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """A login over the session has the whole time again."""
        browser = sign_in(app)
        clock.advance(days=6)
        browser.post("/login/ada")
        for _ in range(4):
            clock.advance(days=6)
            assert browser.get("/me").status_code == 200

    def test_limits_the_lifetime_of_the_key(
        self, app: Flask, sign_in: SignIn, clock: Clock, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """A renewal near the end gives the key only what is left."""
        browser = sign_in(app)
        for _ in range(4):
            clock.advance(days=6)
            browser.get("/me")
        clock.advance(days=4)
        browser.get("/me")
        assert 2 * DAY - 5 * SECOND < lifetime(redis_client, keys) <= 2 * DAY

    def test_limits_the_cookie(self, app: Flask, sign_in: SignIn, clock: Clock, do: Do) -> None:
        """A cookie sent later lasts for what is left of the absolute timeout."""
        browser = sign_in(app)
        clock.advance(days=6)
        (cookie,) = cookies_of(do(browser, kvs.rotate_token))
        (max_age,) = [a for a in attributes_of(cookie) if a.startswith("Max-Age")]
        left = 24 * DAY // SECOND
        assert left - 5 <= int(max_age.removeprefix("Max-Age=")) <= left


class TestShortenedSettings:
    """One worker has newer, shorter settings than the one that made the session."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"idle_timeout": DAY},
            {"absolute_timeout": DAY},
            {"idle_timeout": DAY, "absolute_timeout": 2 * DAY},
        ],
        ids=str,
    )
    def test_hold_at_once(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock, settings: dict[str, t.Any]
    ) -> None:
        """A session that is too old by today's settings is over, whatever its key's lifetime."""
        old, new = make_app("old"), make_app("new", **settings)
        browser = sign_in(old)
        newer = new.test_client()
        newer.set_cookie("kvsession", token_of(browser) or "")
        clock.advance(DAY - 2 * SECOND)
        assert newer.get("/me").status_code == 200
        clock.advance(2 * DAY)
        assert newer.get("/me").status_code == 401
        assert browser.get("/me").status_code == 200

    def test_hold_for_the_unremembered(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock
    ) -> None:
        """What a session's own timeout is, is decided by today's settings too."""
        new = make_app("new", unremembered_timeout=3600)
        browser = sign_in(make_app("old"), remember=False)
        newer = new.test_client()
        newer.set_cookie("kvsession", token_of(browser) or "")
        clock.advance(hours=2)
        assert newer.get("/me").status_code == 401
        assert browser.get("/me").status_code == 200

    def test_hold_in_lists(self, make_app: MakeApp, sign_in: SignIn, clock: Clock) -> None:
        """What is over by today's settings is not listed, cannot be revoked and is not changed."""
        old, new = make_app("old"), make_app("new", idle_timeout=DAY)
        browser = sign_in(old)
        session_id = id_of(browser)
        clock.advance(days=2)
        with new.app_context():
            assert kvs.list_sessions("ada") == []
            assert kvs.revoke_session(session_id, "ada") is False
            assert kvs.update_all_sessions("ada", {"x": 1}) == 0
        assert browser.get("/me").get_json()["data"] == {}

    def test_a_request_over_the_limit_brings_nothing_back(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock, keys: Keys
    ) -> None:
        """A write with a session that is over makes a new one and leaves the old one alone."""
        old, new = make_app("old"), make_app("new", absolute_timeout=DAY)
        browser = sign_in(old)
        newer = new.test_client()
        newer.set_cookie("kvsession", token_of(browser) or "")
        clock.advance(days=2)
        newer.post("/data", json={"x": 1})
        assert token_of(newer) != token_of(browser)
        assert browser.get("/me").get_json()["data"] == {}


class TestUnremembered:
    def test_the_cookie_ends_with_the_browser(self, app: Flask, do: Do) -> None:
        """With `remember=False` the cookie has no Max-Age, also after a rotation."""
        browser = app.test_client()
        for response in (
            browser.post("/login/ada", json={"remember": False}),
            do(browser, kvs.rotate_token),
            do(browser, kvs.confirm_login),
        ):
            (cookie,) = cookies_of(response)
            assert "Max-Age" not in cookie
            assert "Expires" not in cookie

    def test_says_so(self, app: Flask, sign_in: SignIn) -> None:
        """`SessionInfo.remembered` tells the two kinds of sessions apart."""
        sign_in(app, remember=True)
        sign_in(app, remember=False)
        assert {stored.record.remembered for stored in store_of(app).sessions_of("ada")} == {
            True,
            False,
        }

    def test_activity_extends_it(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """A session that is not remembered lives on as long as it is used."""
        browser = sign_in(app, remember=False)
        for _ in range(3):
            clock.advance(hours=11)
            assert browser.get("/me").status_code == 200


class TestRenewal:
    def test_happens_at_most_once_per_interval(
        self, app: Flask, sign_in: SignIn, clock: Clock, count_commands: CountCommands
    ) -> None:
        """Of all reads, only the first one after each interval writes."""
        browser = sign_in(app)
        browser.get("/me")
        names = []
        for minutes in (0, 4, 2, 0, 4, 2):
            clock.advance(minutes=minutes)
            with count_commands() as commands:
                browser.get("/me")
            names.append(commands.names)
        read, renewal = ["GET"], ["GET", "EVALSHA"]
        assert names == [read, read, renewal, read, read, renewal]

    def test_takes_the_interval_from_the_settings(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock, count_commands: CountCommands
    ) -> None:
        """`KVSESSION_RENEWAL_INTERVAL` is how often activity may write."""
        browser = sign_in(make_app(renewal_interval=60))
        clock.advance(seconds=61)
        with count_commands() as commands:
            browser.get("/me")
        assert commands.names == ["GET", "EVALSHA"]

    def test_a_write_is_one_too(
        self, app: Flask, sign_in: SignIn, clock: Clock, count_commands: CountCommands
    ) -> None:
        """A change of data renews in the same write, so that the next read does not have to."""
        browser = sign_in(app)
        clock.advance(minutes=6)
        browser.post("/data", json={"x": 1})
        with count_commands() as commands:
            browser.get("/me")
        assert commands.names == ["GET"]

    def test_sends_no_cookie(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """The cookie lasts as long as the absolute timeout, so a renewal sends none."""
        browser = sign_in(app)
        clock.advance(minutes=6)
        response = browser.get("/me")
        assert not cookies_of(response)
        assert response.headers["Vary"] == "Cookie"

    def test_moves_the_times(self, app: Flask, sign_in: SignIn, clock: Clock, do: Do) -> None:
        """`last_seen_at` and `expires_at` move with a renewal, the other times never."""
        browser = sign_in(app)
        seen: list[tuple[datetime | None, ...]] = []

        def note() -> None:
            s = g.session
            seen.append((s.last_seen_at, s.expires_at, s.created_at, s.authenticated_at))

        for _ in range(2):
            do(browser, note)
            clock.advance(minutes=6)
            browser.get("/me")
        (seen_1, ends_1, *others_1), (seen_2, ends_2, *others_2) = seen
        assert seen_1 and seen_2 and ends_1 and ends_2
        assert timedelta(minutes=6) <= seen_2 - seen_1 < timedelta(minutes=6, seconds=5)
        assert ends_2 - ends_1 == seen_2 - seen_1
        assert others_1 == others_2

    @pytest.mark.parametrize("path", ["/broken", "/missing"])
    def test_errors_are_activity_too(
        self, app: Flask, sign_in: SignIn, clock: Clock, path: str
    ) -> None:
        """A request that touched the session and ended in an error has renewed it."""
        app.config["PROPAGATE_EXCEPTIONS"] = False
        app.before_request(lambda: g.session.get("x"))

        @app.get("/broken")
        def broken() -> t.Any:
            raise RuntimeError

        browser = sign_in(app)
        clock.advance(days=6)
        assert browser.get(path).status_code in (404, 500)
        clock.advance(days=6)
        assert browser.get("/me").status_code == 200

    def test_notes_who_came(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """A renewal keeps the IP address and the user agent of the request that brought it."""
        browser = sign_in(app)
        browser.environ_base.update(REMOTE_ADDR="192.0.2.7", HTTP_USER_AGENT="Other")
        clock.advance(minutes=6)
        browser.get("/me")
        (stored,) = store_of(app).sessions_of("ada")
        assert (stored.record.ip, stored.record.agent) == ("192.0.2.7", "Other")

    @pytest.mark.parametrize(
        ("size", "agent"), [(2000, "Short"), (600, "x" * 512)], ids=["data", "agent"]
    )
    def test_that_does_not_fit_does_not_fail_the_request(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock, size: int, agent: str
    ) -> None:
        """A session that has become too large for today's settings can still be read."""
        browser = sign_in(make_app("old"), data={"x": "x" * size})
        newer = make_app("new", max_session_bytes=1400).test_client()
        newer.set_cookie("kvsession", token_of(browser) or "")
        newer.environ_base["HTTP_USER_AGENT"] = agent
        assert newer.get("/me").status_code == 200
        clock.advance(minutes=6)
        assert newer.get("/me").status_code == 200


@pytest.mark.parametrize("how", ["expired", "revoked", "logged out", "unknown", "junk"])
def test_reading_a_dead_session_sends_no_cookie(
    app: Flask, sign_in: SignIn, clock: Clock, how: str
) -> None:
    """A cookie of no use is not cleared: a parallel response may just have set a better one."""
    browser: FlaskClient = sign_in(app)
    token = token_of(browser) or ""
    if how == "expired":
        clock.advance(days=8)
    elif how == "revoked":
        with app.app_context():
            kvs.revoke_all_sessions("ada")
    elif how == "logged out":
        browser.post("/logout")
    browser.set_cookie("kvsession", {"unknown": token[::-1], "junk": "junk"}.get(how, token))
    response = browser.get("/me")
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers
