"""Idle timeout, absolute timeout and renewal."""

from __future__ import annotations

import typing as t
from datetime import datetime, timedelta

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs

from .support.apps import Do, MakeApp, store_of
from .support.browsers import (
    SignIn,
    anonymous_token_of,
    attributes_of,
    cookies_of,
    id_of,
    may_enter,
    token_of,
)
from .support.clock import Clock
from .support.commands import CountCommands, Keys

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
JUST = pytest.mark.parametrize(("error", "status"), [(-SECOND, 200), (SECOND, 401)])


def lifetime(redis_client: redis.Redis, keys: Keys) -> timedelta:
    """What Redis still gives the one session there is."""
    (key,) = [key for key in keys() if ":s:" in key]
    return timedelta(milliseconds=redis_client.pttl(key))


class TestIdleTimeout:
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
    def test_session_ends_after_the_idle_timeout(
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
        """A session without activity ends after its idle timeout and not before."""
        browser = sign_in(make_app(**settings), **login)
        clock.advance(timeout + error)
        assert browser.get("/me").status_code == status

    @pytest.mark.parametrize("remember", [True, False])
    def test_key_expires_after_the_idle_timeout(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys, remember: bool
    ) -> None:
        """Redis expires the record after its idle timeout."""
        sign_in(app, remember=remember)
        expected = 7 * DAY if remember else DAY / 2
        assert expected - 5 * SECOND < lifetime(redis_client, keys) <= expected

    def test_session_without_its_key_is_over(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """A session is over once Redis has no key of it (OWASP ASVS 5.0, 7.2.1)."""
        browser = sign_in(app)
        redis_client.delete(*keys())
        assert browser.get("/me").status_code == 401

    def test_activity_restarts_the_idle_timeout(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """Activity restarts the idle timeout."""
        browser = sign_in(app)
        for _ in range(4):
            clock.advance(days=6)
            assert browser.get("/me").status_code == 200

    def test_request_that_does_not_touch_the_session_is_no_activity(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """A request that does not touch the session does not restart the idle timeout."""
        browser = sign_in(app)
        clock.advance(days=6)
        browser.get("/untouched")
        clock.advance(days=2)
        assert browser.get("/me").status_code == 401

    def test_activity_within_the_renewal_interval_does_not_count(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """Activity within the renewal interval does not restart the idle timeout."""
        browser = sign_in(app)
        clock.advance(minutes=4)
        browser.get("/me")
        clock.advance(7 * DAY - timedelta(minutes=4) + SECOND)
        assert browser.get("/me").status_code == 401


class TestAbsoluteTimeout:
    @JUST
    def test_activity_does_not_extend_the_absolute_timeout(
        self, app: Flask, sign_in: SignIn, clock: Clock, error: timedelta, status: int
    ) -> None:
        """A session with constant activity ends after 30 days and not before."""
        browser = sign_in(app)
        for _ in range(29):
            clock.advance(DAY)
            assert browser.get("/me").status_code == 200
        clock.advance(DAY + error)
        assert browser.get("/me").status_code == status

    def test_confirm_login_restarts_both_timeouts(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do
    ) -> None:
        """`confirm_login` restarts the absolute timeout, and so the cookie's age (NIST SP
        800-63B-4, 5.2)."""
        browser = sign_in(app)
        for _ in range(3):
            for _ in range(5):
                clock.advance(days=5)
                assert browser.get("/me").status_code == 200
            response = do(browser, kvs.confirm_login)
            (cookie,) = cookies_of(response)
            assert f"Max-Age={30 * 24 * 3600}" in cookie
        for _ in range(5):
            clock.advance(days=5)
            assert browser.get("/me").status_code == 200
        clock.advance(5 * DAY + SECOND)
        assert browser.get("/me").status_code == 401

    @pytest.mark.parametrize(
        "act",
        [kvs.rotate_token, lambda: g.session.update(x=1)],
        ids=["rotate_token", "a write"],
    )
    def test_only_authentication_restarts_the_absolute_timeout(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do, act: t.Any
    ) -> None:
        """`rotate_token` and a write do not restart the absolute timeout."""
        browser = sign_in(app)
        for days in (6, 6, 6, 6, 5):
            clock.advance(days=days)
            assert do(browser, act).status_code == 200
        clock.advance(DAY - SECOND)
        assert browser.get("/me").status_code == 200
        clock.advance(2 * SECOND)
        assert browser.get("/me").status_code == 401

    def test_login_over_a_session_restarts_the_absolute_timeout(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """A login over a session restarts the absolute timeout."""
        browser = sign_in(app)
        clock.advance(days=6)
        browser.post("/login/ada")
        for _ in range(4):
            clock.advance(days=6)
            assert browser.get("/me").status_code == 200

    def test_key_expires_no_later_than_the_absolute_timeout(
        self, app: Flask, sign_in: SignIn, clock: Clock, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """A renewal near the absolute timeout gives the key only the remaining time."""
        browser = sign_in(app)
        for _ in range(4):
            clock.advance(days=6)
            browser.get("/me")
        clock.advance(days=4)
        browser.get("/me")
        assert 2 * DAY - 5 * SECOND < lifetime(redis_client, keys) <= 2 * DAY

    def test_max_age_is_the_remaining_absolute_timeout(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do
    ) -> None:
        """The Max-Age of a later cookie is the remaining absolute timeout."""
        browser = sign_in(app)
        clock.advance(days=6)
        (cookie,) = cookies_of(do(browser, kvs.rotate_token))
        (max_age,) = [a for a in attributes_of(cookie) if a.startswith("Max-Age")]
        left = 24 * DAY // SECOND
        assert left - 5 <= int(max_age.removeprefix("Max-Age=")) <= left

    def test_max_age_is_not_longer_after_the_servers_time_was_put_back(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do
    ) -> None:
        """If the server's time is put back after the login, the Max-Age of a later cookie is the
        whole absolute timeout, and not longer."""
        browser = sign_in(app)
        clock.advance(seconds=-90)
        (cookie,) = cookies_of(do(browser, kvs.rotate_token))
        assert f"Max-Age={30 * DAY // SECOND}" in attributes_of(cookie)


class TestShortenedSettings:
    """A worker with shorter timeouts loads a session that another worker created."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"idle_timeout": DAY},
            {"absolute_timeout": DAY},
            {"idle_timeout": DAY, "absolute_timeout": 2 * DAY},
        ],
        ids=str,
    )
    def test_shortened_timeout_applies_to_existing_sessions_at_once(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock, settings: dict[str, t.Any]
    ) -> None:
        """A session that is too old by the current settings is over, although its key exists."""
        old, new = make_app("old"), make_app("new", **settings)
        browser = sign_in(old)
        newer = new.test_client()
        newer.set_cookie("kvsession", token_of(browser) or "")
        clock.advance(DAY - 2 * SECOND)
        assert newer.get("/me").status_code == 200
        clock.advance(2 * DAY)
        assert newer.get("/me").status_code == 401
        assert browser.get("/me").status_code == 200

    def test_shortened_unremembered_timeout_applies_at_once(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock
    ) -> None:
        """A shortened `KVSESSION_UNREMEMBERED_TIMEOUT` applies at once to existing sessions."""
        new = make_app("new", unremembered_timeout=3600)
        browser = sign_in(make_app("old"), remember=False)
        newer = new.test_client()
        newer.set_cookie("kvsession", token_of(browser) or "")
        clock.advance(hours=2)
        assert newer.get("/me").status_code == 401
        assert browser.get("/me").status_code == 200

    def test_expired_session_is_not_listed_revoked_or_changed(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock
    ) -> None:
        """A session that is over by the current settings is not listed, revoked or changed."""
        old, new = make_app("old"), make_app("new", idle_timeout=DAY)
        browser = sign_in(old)
        session_id = id_of(browser)
        clock.advance(days=2)
        with new.app_context():
            assert kvs.list_sessions("ada") == []
            assert kvs.revoke_session(session_id, "ada") is False
            assert kvs.update_all_sessions("ada", {"x": 1}) == 0
        assert browser.get("/me").get_json()["data"] == {}

    def test_write_with_an_expired_token_creates_a_new_session(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock, keys: Keys
    ) -> None:
        """A write with the token of an expired session creates a new session."""
        old, new = make_app("old"), make_app("new", absolute_timeout=DAY)
        browser = sign_in(old)
        newer = new.test_client()
        newer.set_cookie("kvsession", token_of(browser) or "")
        clock.advance(days=2)
        newer.post("/data", json={"x": 1})
        assert anonymous_token_of(newer) is not None
        assert token_of(newer) == token_of(browser)  # a user's cookie is never replaced here
        assert browser.get("/me").get_json()["data"] == {}


class TestUnremembered:
    def test_cookie_ends_with_the_browser_session(self, app: Flask, do: Do) -> None:
        """With `remember=False`, the cookie has no Max-Age, also after a rotation."""
        browser = app.test_client()
        for response in (
            browser.post("/login/ada", json={"remember": False}),
            do(browser, kvs.rotate_token),
            do(browser, kvs.confirm_login),
        ):
            (cookie,) = cookies_of(response)
            assert "Max-Age" not in cookie
            assert "Expires" not in cookie

    def test_record_stores_whether_the_session_is_remembered(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """The record stores whether the session is remembered."""
        sign_in(app, remember=True)
        sign_in(app, remember=False)
        assert {stored.record.remembered for stored in store_of(app).sessions_of("ada")} == {
            True,
            False,
        }

    def test_activity_restarts_the_unremembered_timeout(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """Activity restarts the timeout of an unremembered session."""
        browser = sign_in(app, remember=False)
        for _ in range(3):
            clock.advance(hours=11)
            assert browser.get("/me").status_code == 200


class TestRenewal:
    @pytest.mark.without_near_cache
    def test_renewal_happens_at_most_once_per_interval(
        self, app: Flask, sign_in: SignIn, clock: Clock, count_commands: CountCommands
    ) -> None:
        """Only the first read after each renewal interval writes."""
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

    def test_write_within_the_interval_leaves_the_expiry_as_it_is(
        self, app: Flask, sign_in: SignIn, clock: Clock, keys: Keys, redis_client: redis.Redis
    ) -> None:
        """Such a write saves its data and the client. It changes neither "last seen" nor the expiry
        of the key, nor the index. A write after the interval renews."""
        browser = sign_in(app)
        key = next(key for key in keys() if ":s:" in key)
        index = next(key for key in keys() if ":u:" in key)
        redis_client.pexpire(key, 1_000_000)
        before, entries = (
            store_of(app).sessions_of("ada"),
            redis_client.zscore(index, id_of(browser)),
        )
        clock.advance(minutes=4)
        browser.post("/data", json={"x": 1}, headers={"User-Agent": "another"})
        [after] = store_of(app).sessions_of("ada")
        assert after.record.encoded_data() == {"x": b"1"}
        assert after.record.agent == "another"
        assert after.record.seen == before[0].record.seen
        assert 990_000 < int(redis_client.pttl(key)) <= 1_000_000
        assert redis_client.zscore(index, id_of(browser)) == entries
        clock.advance(minutes=2)
        browser.post("/data", json={"x": 2})
        assert int(redis_client.pttl(key)) > 1_000_000
        assert redis_client.zscore(index, id_of(browser)) != entries

    def test_renewal_interval_comes_from_the_settings(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock, count_commands: CountCommands
    ) -> None:
        """`KVSESSION_RENEWAL_INTERVAL` is the interval after which a read renews."""
        browser = sign_in(make_app(renewal_interval=60))
        clock.advance(seconds=61)
        with count_commands() as commands:
            browser.get("/me")
        assert commands.names == ["GET", "EVALSHA"]

    def test_commit_with_a_due_renewal_renews_too(
        self, app: Flask, sign_in: SignIn, clock: Clock, count_commands: CountCommands
    ) -> None:
        """A commit with a due renewal renews the session in the same write."""
        browser = sign_in(app)
        clock.advance(minutes=6)
        browser.post("/data", json={"x": 1})
        with count_commands() as commands:
            browser.get("/me")
        assert commands.names == ["GET"]

    @pytest.mark.parametrize("kind", ["user", "anonymous"])
    def test_renewal_extends_the_lifetime_of_the_keys_in_redis(
        self,
        app: Flask,
        redis_client: redis.Redis,
        keys: Keys,
        clock: Clock,
        kind: str,
    ) -> None:
        """A renewal sets the remaining lifetime of the record in Redis to the whole idle timeout
        again, and so that of the user's index."""
        browser = app.test_client()
        browser.post("/login/ada" if kind == "user" else "/data", json={"x": 1})
        idle = timedelta(days=7) if kind == "user" else timedelta(days=1)
        assert len(keys()) == (2 if kind == "user" else 1)
        for key in keys():
            redis_client.pexpire(key, timedelta(minutes=10))
        clock.advance(minutes=6)
        browser.get("/data")
        for key in keys():
            lifetime = timedelta(milliseconds=redis_client.pttl(key))
            # The index expires at the time that the advanced clock tells.
            assert idle - timedelta(minutes=1) < lifetime <= idle + timedelta(minutes=6)

    def test_renewal_sends_no_set_cookie(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """A renewal sends no Set-Cookie, because Max-Age is the absolute timeout."""
        browser = sign_in(app)
        clock.advance(minutes=6)
        response = browser.get("/me")
        assert not cookies_of(response)
        assert response.headers["Vary"] == "Cookie"

    def test_renewal_moves_only_last_seen_at_and_expires_at(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do
    ) -> None:
        """A renewal moves `last_seen_at` and `expires_at` but no other time."""
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
    def test_request_that_ends_in_an_error_renews_the_session(
        self, app: Flask, sign_in: SignIn, clock: Clock, path: str
    ) -> None:
        """A request that touches the session and ends in an error renews the session."""
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

    def test_no_time_of_a_session_moves_back_with_the_servers_time(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do
    ) -> None:
        """If the server's time is put back, neither a write nor a confirmed login moves
        `last_seen_at` or `authenticated_at` back."""
        browser, store = sign_in(app), store_of(app)
        (before,) = map(store.info, store.sessions_of("ada"))
        clock.advance(seconds=-90)
        do(browser, lambda: g.session.update(x=1))
        do(browser, kvs.confirm_login)
        (after,) = map(store.info, store.sessions_of("ada"))
        assert after == before

    def test_renewal_records_the_client_of_its_request(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """A renewal records the IP address and the user agent of its request."""
        browser = sign_in(app)
        browser.environ_base.update(REMOTE_ADDR="192.0.2.7", HTTP_USER_AGENT="Other")
        clock.advance(minutes=6)
        browser.get("/me")
        (stored,) = store_of(app).sessions_of("ada")
        assert (stored.record.ip, stored.record.agent) == ("192.0.2.7", "Other")

    @pytest.mark.parametrize(
        ("size", "agent"),
        [(2000, "Short"), (600, "x" * 512)],
        ids=["data too large", "user agent too long"],
    )
    def test_renewal_over_the_size_limit_does_not_fail_the_request(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock, size: int, agent: str
    ) -> None:
        """A session that exceeds the current size limit can still be read and renewed."""
        browser = sign_in(make_app("old"), data={"x": "x" * size})
        newer = make_app("new", max_session_bytes=1400).test_client()
        newer.set_cookie("kvsession", token_of(browser) or "")
        newer.environ_base["HTTP_USER_AGENT"] = agent
        assert newer.get("/me").status_code == 200
        clock.advance(minutes=6)
        assert newer.get("/me").status_code == 200


class TestNoRenewalPaths:
    """Requests of `KVSESSION_NO_RENEWAL_PATHS` are no activity."""

    @pytest.fixture
    def app(self, make_app: MakeApp) -> Flask:
        app = make_app(no_renewal_paths=("/poll/*",), idle_timeout=3600)

        @app.route("/poll/<act>", methods=["GET", "POST"])
        def poll(act: str) -> t.Any:
            if act == "write":
                g.session["n"] = g.session.get("n", 0) + 1
            return {"user": g.session.user_id}

        return app

    def test_polling_does_not_keep_a_session_alive(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """A page that polls is signed out after the idle timeout, also if the polls write."""
        reads, writes, works = (sign_in(app) for _ in range(3))
        for _ in range(7):
            clock.advance(minutes=9)
            reads.get("/poll/read")
            writes.post("/poll/write")
            works.get("/me")
        assert may_enter(reads, writes, works) == [False, False, True]

    def test_a_write_of_a_poll_is_saved(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """What such a request writes is saved, and "last seen" stays."""
        browser = sign_in(app)
        [before] = store_of(app).sessions_of("ada")
        clock.advance(minutes=9)
        browser.post("/poll/write")
        browser.post("/poll/write")
        [after] = store_of(app).sessions_of("ada")
        assert after.record.seen == before.record.seen
        assert after.record.encoded_data() == {"n": b"2"}

    def test_a_poll_that_only_reads_writes_nothing(
        self, app: Flask, sign_in: SignIn, clock: Clock, count_commands: CountCommands
    ) -> None:
        """A poll costs one read, also when a renewal is due."""
        browser = sign_in(app)
        clock.advance(minutes=9)
        with count_commands() as commands:
            browser.get("/poll/read")
        assert commands.names == ["GET"]


@pytest.mark.parametrize("how", ["expired", "revoked", "logged out", "unknown", "junk"])
def test_token_that_opens_no_session_is_not_cleared(
    app: Flask, sign_in: SignIn, clock: Clock, how: str
) -> None:
    """A request with a token that opens no session sends no Set-Cookie."""
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
