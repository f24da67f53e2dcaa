"""`remember_in_session`: Flask-Login's "remember me" is a session like any other, and ends like
any other; there is no second cookie that would outlive its revocation."""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask, abort, current_app, g, request_started, session
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from flask_login import (  # type: ignore[import-untyped]
    current_user,
    decode_cookie,
    encode_cookie,
    logout_user,
)

import flask_kvsession as kvs
from flask_kvsession.remember import remember_in_session

from ..support.apps import Do, Install
from ..support.clock import Clock
from ..support.commands import Keys
from ..support.flask_login_app import (
    IGNORE_UTCNOW,
    REMEMBER,
    User,
    create_app,
    flashed,
    log_in,
    restart,
    signed_in,
    who,
)
from ..support.flask_sessions import (
    browser_of,
    clears,
    cookies_set,
    devices,
    id_of,
    outlives_the_browser,
    sign_out_elsewhere,
    token,
)

pytestmark = IGNORE_UTCNOW


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


def clear() -> None:
    session.clear()


def leave() -> None:
    logout_user()
    session.clear()


def with_old_cookie(app: Flask, name: str = "ada") -> FlaskClient:
    """A browser that Flask-Login has remembered before the app changed over."""
    browser = browser_of(app)
    with app.app_context():
        browser.set_cookie(REMEMBER, encode_cookie(name))
    return browser


def signed_cookie(app: Flask, **data: t.Any) -> str:
    """What Flask's own session would have left in a browser."""
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    return str(serializer.dumps(data))


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
    @pytest.mark.parametrize("value", ["ada|forged", "ada|é", "ada|\xff", "|", "", "ada"], ids=repr)
    def test_junk(self, make: Make, keys: Keys, value: str, moving: bool) -> None:
        """A forged one signs nobody in and makes no session, honoured once or not at all."""
        browser = make(migrate_cookie_session=moving).test_client(use_cookies=False)
        for path in ("/", "/health"):
            response = browser.get(path, headers={"Cookie": f"{REMEMBER}={value}"})
            assert response.status_code == 200
            assert "ada at" not in response.text
            assert clears(*cookies_set(response, REMEMBER))
        assert keys() == set()

    @pytest.mark.parametrize("moving", [False, True])
    @pytest.mark.parametrize("end", [clear, kvs.revoke_all_sessions, leave])
    def test_in_a_session_that_is_emptied(
        self, make: Make, keys: Keys, end: Callable[[], None], moving: bool
    ) -> None:
        """Nor where the view empties or ends the session, and then asks for the user; the cookie
        is cleared all the same."""
        app = make(migrate_cookie_session=moving)

        @app.post("/end")
        def act() -> str:
            end()
            current_app.login_manager._load_user()  # type: ignore[attr-defined]
            return str(current_user.is_authenticated)

        browser = signed_in(app)
        with app.app_context():
            browser.set_cookie(REMEMBER, encode_cookie("ada"))
        response = browser.post("/end")
        assert response.text == "False"
        assert clears(*cookies_set(response, REMEMBER))
        assert who(browser) is None
        assert not any(":u:" in key for key in keys())

    def test_at_a_failed_login(self, app: Flask) -> None:
        """Nor where a login view clears the session, finds the password wrong, and goes on."""

        @app.post("/try")
        def try_to() -> str:
            session.clear()
            return str(current_user.is_authenticated)

        response = with_old_cookie(app).post("/try")
        assert response.text == "False"
        assert clears(*cookies_set(response, REMEMBER))

    def test_an_app_that_refuses_its_user(self, make: Make, keys: Keys) -> None:
        """One whose user the app refuses with an error page, as `get_or_404` does, signs nobody in
        and is cleared."""
        app = make(migrate_cookie_session=True)
        app.login_manager.user_loader(lambda user_id: abort(404))  # type: ignore[attr-defined]
        response = with_old_cookie(app).get("/")
        assert (response.status_code, "nobody" in response.text) == (200, True)
        assert clears(*cookies_set(response, REMEMBER))
        assert keys() == set()

    def test_an_app_that_cannot_load_its_user(self, make: Make, keys: Keys) -> None:
        """Where the app fails to look its user up it signs nobody in, and stays for another try."""
        app = make({"PROPAGATE_EXCEPTIONS": False}, migrate_cookie_session=True)
        users = {"ada": User("ada")}
        app.login_manager.user_loader(lambda user_id: users[user_id])  # type: ignore[attr-defined]
        browser, ada = with_old_cookie(app), users.pop("ada")
        response = browser.get("/")
        assert (response.status_code, cookies_set(response, REMEMBER)) == (500, [])
        assert keys() == set()
        users["ada"] = ada
        assert who(browser) == "ada"

    def test_of_a_user_who_is_gone(self, make: Make, keys: Keys) -> None:
        """One of a user whom the app no longer knows signs nobody in, also by our own guards, and
        is cleared."""
        app = make(migrate_cookie_session=True)
        app.add_url_rule("/guarded", "guarded", kvs.login_required(lambda: "in"))
        browser = with_old_cookie(app, "eve")
        (cookie,) = cookies_set(response := browser.get("/guarded"), REMEMBER)
        assert response.status_code == 401
        assert clears(cookie)
        assert keys() == set()
        browser = with_old_cookie(app, "eve")
        assert who(browser) is None
        assert browser.get("/notes").location == "/login?next=%2Fnotes"

    @pytest.mark.parametrize("moving", [False, True])
    @pytest.mark.parametrize("when", ["request_started", "url_value_preprocessor"])
    def test_whoever_asks_first(self, make: Make, when: str, moving: bool) -> None:
        """A revoked browser stays signed out also where an app asks for the user before anything
        else."""
        app = make(migrate_cookie_session=moving)
        laptop, phone = signed_in(app), signed_in(app, "phone")
        with app.app_context():
            phone.set_cookie(REMEMBER, encode_cookie("ada"))
        sign_out_elsewhere(laptop, phone)

        def ask(*args: t.Any, **kwargs: t.Any) -> None:
            assert not current_user.is_authenticated

        if when == "request_started":
            with request_started.connected_to(ask, app):
                assert who(phone) is None
        else:
            app.url_value_preprocessors.setdefault(None, []).insert(0, ask)
            assert who(phone) is None
        assert phone.get_cookie(REMEMBER) is None

    def test_long_after_a_revocation(self, make: Make, clock: Clock) -> None:
        """When Redis has forgotten that a session was revoked, its browser is still none that
        comes for the first time."""
        app = make({"REMEMBER_COOKIE_PATH": "/notes"}, migrate_cookie_session=True)
        laptop, phone = signed_in(app), signed_in(app, "phone", remember="yes")
        with app.app_context():
            phone.set_cookie(REMEMBER, encode_cookie("ada"), path="/notes")
        sign_out_elsewhere(laptop, phone)
        clock.advance(days=21)
        assert who(phone, "/notes") is None

    @pytest.mark.parametrize(("name", "lasts"), [("ada", True), ("bob", False)])
    def test_beside_a_signed_cookie(self, make: Make, name: str, lasts: bool) -> None:
        """Of a browser that has Flask's signed session too, that is carried over, and remembered
        if it is the same user's."""
        app = make(migrate_cookie_session=True)
        browser = with_old_cookie(app, name)
        browser.set_cookie("session", signed_cookie(app, _user_id="ada", _fresh=True))
        (cookie,) = cookies_set(browser.get("/notes"))
        assert outlives_the_browser(cookie) is lasts
        assert who(browser, "/notes") == "ada"
        assert browser.get_cookie(REMEMBER) is None


class TestSettings:
    def test_what_is_not_to_be_saved(self, app: Flask, do: Do) -> None:
        """`session.modified = False` keeps a change from being saved, as without this."""
        browser = signed_in(app)
        flashed(browser)

        def act() -> None:
            session["a"] = 1
            session.modified = False

        do(browser, act)
        seen: list[bool] = []
        do(browser, lambda: seen.append("a" in session))
        assert seen == [False]

    def test_in_a_transaction_of_the_test_client(self, app: Flask, keys: Keys) -> None:
        """`session_transaction()` of a browser with an old cookie puts nothing into the session."""
        browser = with_old_cookie(app)
        with browser.session_transaction() as data:
            assert dict(data) == {}
        assert keys() == set()

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
