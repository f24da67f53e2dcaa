"""`remember_in_session`: Flask-Login's "remember me" is a session like any other, and ends like
any other; there is no second cookie that would outlive its revocation."""

from __future__ import annotations

import typing as t
from datetime import timedelta

import pytest
from flask import Flask, g, session
from flask.testing import FlaskClient
from flask_login import decode_cookie, encode_cookie  # type: ignore[import-untyped]

import flask_kvsession as kvs
from flask_kvsession.remember import remember_in_session

from ..conftest import Clock, Keys
from .conftest import (
    Install,
    browser_of,
    clears,
    cookies_set,
    devices,
    id_of,
    outlives_the_browser,
    sign_out_elsewhere,
    token,
)
from .login_app import create_app
from .test_flask_login import REMEMBER, flashed, log_in, pytestmark, restart, signed_in, who

__all__ = ["pytestmark"]


class Make(t.Protocol):
    """Makes the app with Flask-Login; keyword arguments are settings without their prefix."""

    def __call__(self, config: dict[str, t.Any] | None = None, **settings: t.Any) -> Flask: ...


@pytest.fixture
def make(install: Install) -> Make:
    def make(config: dict[str, t.Any] | None = None, **settings: t.Any) -> Flask:
        lifetime = {"PERMANENT_SESSION_LIFETIME": timedelta(days=20)}
        app = install(create_app(**{**lifetime, **(config or {})}), "_user_id", **settings)
        remember_in_session(app)
        return app

    return make


@pytest.fixture
def app(make: Make) -> Flask:
    return make()


def with_old_cookie(app: Flask, name: str = "ada") -> FlaskClient:
    """A browser that Flask-Login has remembered before the app changed over."""
    browser = browser_of(app)
    with app.app_context():
        browser.set_cookie(REMEMBER, encode_cookie(name))
    return browser


def facts(browser: FlaskClient) -> list[bool | None]:
    """Of the session: whether it is permanent, remembered and fresh."""
    with browser:
        browser.get("/health")
        return [session.permanent, g.session.remembered, g.session.is_fresh]


class TestRemembered:
    def test_one_cookie(self, app: Flask) -> None:
        """The session's cookie outlives the browser, and there is no other."""
        response = log_in(browser := browser_of(app), remember="yes")
        (cookie,) = cookies_set(response)
        assert outlives_the_browser(cookie)
        assert cookies_set(response, REMEMBER) == []
        restart(browser)
        assert who(browser, "/notes") == "ada"

    def test_not_remembered(self, app: Flask) -> None:
        """Without "remember me" the cookie ends with the browser."""
        response = log_in(browser := browser_of(app))
        (cookie,) = cookies_set(response)
        assert not outlives_the_browser(cookie)
        assert cookies_set(response, REMEMBER) == []
        restart(browser)
        assert who(browser) is None

    def test_what_it_is(self, app: Flask) -> None:
        """A remembered session is permanent, and fresh as any login is."""
        assert facts(signed_in(app, remember="yes")) == [True, True, True]
        assert facts(signed_in(app)) == [False, False, True]

    @pytest.mark.parametrize(("ahead", "name"), [(-1, "ada"), (1, None)])
    def test_how_long(self, app: Flask, clock: Clock, ahead: int, name: str | None) -> None:
        """It ends when idle for `PERMANENT_SESSION_LIFETIME`."""
        browser = signed_in(app, remember="yes")
        clock.advance(days=20, seconds=ahead)
        assert who(browser) == name

    def test_no_longer_than_the_absolute_timeout(self, make: Make, clock: Clock) -> None:
        """A longer `PERMANENT_SESSION_LIFETIME` is capped by the absolute timeout."""
        app = make({"PERMANENT_SESSION_LIFETIME": timedelta(days=365)}, absolute_timeout=86400)
        browser = browser_of(app)
        (cookie,) = cookies_set(log_in(browser, remember="yes"))
        assert "Max-Age=86400" in cookie
        clock.advance(days=1, seconds=1)
        assert who(browser) is None

    def test_a_duration_of_its_own(self, app: Flask) -> None:
        """`login_user(…, duration=…)` breaks nothing: the session is remembered."""
        (cookie,) = cookies_set(log_in(browser := browser_of(app), remember="yes", days=5))
        assert outlives_the_browser(cookie)
        assert who(browser) == "ada"

    def test_later_requests_leave_it_so(self, app: Flask) -> None:
        """It stays remembered as it is used, and no cookie is sent again."""
        browser = signed_in(app, remember="yes")
        assert not cookies_set(browser.post("/cart/pen"))
        assert who(browser) == "ada"
        assert facts(browser)[:2] == [True, True]

    def test_signing_in_again(self, app: Flask) -> None:
        """Who was remembered and gives the password once more stays so, as with Flask-Login."""
        browser = signed_in(app, remember="yes")
        log_in(browser)
        restart(browser)
        assert who(browser) == "ada"

    def test_somebody_else(self, app: Flask) -> None:
        """Who signs in in the browser of somebody remembered is remembered only if asked to be."""
        browser = signed_in(app, remember="yes")
        (cookie,) = cookies_set(log_in(browser, "bob"))
        assert not outlives_the_browser(cookie)
        restart(browser)
        assert who(browser) is None

    def test_signing_out(self, app: Flask, keys: Keys) -> None:
        """Signing out ends a remembered session."""
        browser = signed_in(app, remember="yes")
        flashed(browser)
        (cookie,) = cookies_set(browser.post("/logout?quietly=1"))
        assert clears(cookie)
        assert keys() == set()

    def test_after_signing_out(self, app: Flask) -> None:
        """What goes on as a visitor's session is not remembered."""
        browser = signed_in(app, remember="yes")
        (cookie,) = cookies_set(browser.post("/logout"))
        assert not outlives_the_browser(cookie)
        restart(browser)
        assert token(browser) is None


class TestRevoked:
    def test_it_stays_signed_out(self, app: Flask) -> None:
        """A remembered browser that another one signed out is out, also when opened again."""
        laptop, phone = signed_in(app), signed_in(app, "phone", remember="yes")
        assert devices(laptop) == ["laptop", "phone"]
        sign_out_elsewhere(laptop, phone)
        assert [who(phone), who(phone, "/notes")] == [None, None]
        restart(phone)
        assert who(phone) is None
        assert devices(laptop) == ["laptop"]

    def test_everywhere(self, app: Flask) -> None:
        """All of a user's remembered browsers can be signed out at once."""
        browsers = [signed_in(app, agent, remember="yes") for agent in ("laptop", "phone")]
        with app.app_context():
            assert kvs.revoke_all_sessions("ada") == 2
        assert [who(browser) for browser in browsers] == [None, None]


class TestOldCookies:
    def test_they_are_not_honoured(self, app: Flask, keys: Keys) -> None:
        """A remember cookie of before signs nobody in, and is cleared."""
        browser = with_old_cookie(app)
        response = browser.get("/")
        (cookie,) = cookies_set(response, REMEMBER)
        assert clears(cookie)
        assert "nobody" in response.text
        assert browser.get_cookie(REMEMBER) is None
        assert keys() == set()

    @pytest.mark.parametrize("moving", [False, True])
    def test_nor_after_a_revocation(self, make: Make, moving: bool) -> None:
        """A revoked browser that still has one stays signed out, though they are honoured once."""
        app = make(migrate_cookie_session=moving)
        laptop, phone = signed_in(app), signed_in(app, "phone")
        with app.app_context():
            phone.set_cookie(REMEMBER, encode_cookie("ada"))
        sign_out_elsewhere(laptop, phone)
        assert who(phone) is None

    def test_carried_over_once(self, make: Make) -> None:
        """With `KVSESSION_MIGRATE_COOKIE_SESSION` one becomes a remembered session, not fresh,
        and is cleared."""
        app = make(migrate_cookie_session=True)
        browser = with_old_cookie(app)
        response = browser.get("/notes")
        assert "ada at /notes" in response.text
        (cookie,) = cookies_set(response)
        assert outlives_the_browser(cookie)
        (old,) = cookies_set(response, REMEMBER)
        assert clears(old)
        assert facts(browser) == [True, True, False]
        assert who(browser, "/payment") is None
        assert devices(browser) == ["laptop"]
        restart(browser)
        assert who(browser) == "ada"

    def test_carried_over_and_revoked(self, make: Make) -> None:
        """What was carried over is a session like any other: revoked, it stays so."""
        app = make(migrate_cookie_session=True)
        laptop, phone = signed_in(app), with_old_cookie(app)
        assert who(phone) == "ada"
        sign_out_elsewhere(laptop, phone)
        assert who(phone) is None

    @pytest.mark.parametrize("moving", [False, True])
    def test_junk(self, make: Make, keys: Keys, moving: bool) -> None:
        """A forged one signs nobody in and makes no session, honoured once or not at all."""
        browser = browser_of(make(migrate_cookie_session=moving))
        browser.set_cookie(REMEMBER, "ada|forged")
        assert who(browser) is None
        assert keys() == set()

    def test_of_a_user_who_is_gone(self, make: Make) -> None:
        """One of a user whom the app no longer knows signs nobody in."""
        browser = with_old_cookie(make(migrate_cookie_session=True), "eve")
        assert who(browser) is None
        assert browser.get("/notes").location == "/login?next=%2Fnotes"


class TestSettings:
    def test_refreshed_at_each_request(self, make: Make, keys: Keys) -> None:
        """Flask-Login's `REMEMBER_COOKIE_REFRESH_EACH_REQUEST` sends no second cookie either, and
        makes no key for a visitor."""
        app = make({"REMEMBER_COOKIE_REFRESH_EACH_REQUEST": True})
        assert "Set-Cookie" not in browser_of(app).get("/").headers
        assert keys() == set()
        browser = browser_of(app)
        assert cookies_set(log_in(browser, remember="yes"), REMEMBER) == []
        assert "Set-Cookie" not in browser.get("/notes").headers

    def test_another_name(self, make: Make) -> None:
        """An old cookie is cleared under the name, path and domain that it was given."""
        app = make({"REMEMBER_COOKIE_NAME": "keep_me", "REMEMBER_COOKIE_PATH": "/notes"})
        browser = browser_of(app)
        with app.app_context():
            browser.set_cookie("keep_me", encode_cookie("ada"), path="/notes")
        response = browser.get("/notes")
        (cookie,) = cookies_set(response, "keep_me")
        assert clears(cookie) and "Path=/notes" in cookie

    def test_the_cookie_of_the_test_is_a_real_one(self, app: Flask) -> None:
        """What these tests send as an old cookie is what Flask-Login accepts."""
        with app.app_context():
            assert decode_cookie(encode_cookie("ada")) == "ada"


def test_the_session_of_a_remembered_login_is_new(app: Flask) -> None:
    """A remembered login has a new id, and the visitor's token before it is worthless."""
    browser = browser_of(app)
    browser.post("/cart/pen")
    before = id_of(browser)
    log_in(browser, remember="yes")
    assert id_of(browser) != before
    assert browser.get("/cart").get_json() == ["pen"]
