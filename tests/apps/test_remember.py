"""`remember_in_session`: Flask-Login's "remember me" as a session like any other.

There is no second cookie, which would outlive a revocation of the session.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask, abort, current_app, g, request_started, session
from flask.testing import FlaskClient
from flask_login import (  # type: ignore[import-untyped]
    current_user,
    decode_cookie,
    encode_cookie,
    logout_user,
)

import flask_kvsession as kvs
from flask_kvsession.compat import remember_in_session
from flask_kvsession.errors import StoreUnavailable

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
    signed_cookie,
    signed_in,
    who,
)
from ..support.flask_sessions import (
    browser_of,
    clears,
    cookies_given,
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


def facts(browser: FlaskClient) -> list[bool | None]:
    """Of the session: whether it is permanent, remembered and fresh."""
    with browser:
        browser.get("/health")
        return [session.permanent, g.session.remembered, g.session.is_fresh]


class TestRemembered:
    def test_a_remembered_login_sets_one_cookie_that_outlives_the_browser(self, app: Flask) -> None:
        """A remembered login sets the session's cookie, which outlives the browser, and no remember
        cookie."""
        response = log_in(browser := browser_of(app), remember="yes")
        (cookie,) = cookies_set(response)
        assert outlives_the_browser(cookie)
        assert cookies_set(response, REMEMBER) == []
        restart(browser)
        assert who(browser, "/notes") == "ada"

    def test_an_unremembered_login_ends_with_the_browser(self, app: Flask) -> None:
        """Without "remember me" the session's cookie ends with the browser."""
        response = log_in(browser := browser_of(app))
        (cookie,) = cookies_set(response)
        assert not outlives_the_browser(cookie)
        assert cookies_set(response, REMEMBER) == []
        restart(browser)
        assert who(browser) is None

    def test_a_remembered_login_is_permanent_and_fresh(self, app: Flask) -> None:
        """A remembered session is permanent, and as fresh as any login."""
        assert facts(signed_in(app, remember="yes")) == [True, True, True]
        assert facts(signed_in(app)) == [False, False, True]

    @pytest.mark.parametrize(("ahead", "name"), [(-1, "ada"), (1, None)])
    def test_a_remembered_session_lives_for_permanent_session_lifetime(
        self, app: Flask, clock: Clock, ahead: int, name: str | None
    ) -> None:
        """A remembered session ends after `PERMANENT_SESSION_LIFETIME` without activity."""
        browser = signed_in(app, remember="yes")
        clock.advance(days=20, seconds=ahead)
        assert who(browser) == name

    def test_the_absolute_timeout_caps_permanent_session_lifetime(
        self, make: Make, clock: Clock
    ) -> None:
        """A remembered session ends at the absolute timeout even if `PERMANENT_SESSION_LIFETIME` is
        longer."""
        app = make({"PERMANENT_SESSION_LIFETIME": timedelta(days=365)}, absolute_timeout=86400)
        browser = browser_of(app)
        (cookie,) = cookies_set(log_in(browser, remember="yes"))
        assert "Max-Age=86400" in cookie
        clock.advance(days=1, seconds=1)
        assert who(browser) is None

    def test_a_login_with_a_duration_is_remembered(self, app: Flask) -> None:
        """`login_user(…, duration=…)` of Flask-Login creates a remembered session."""
        (cookie,) = cookies_set(log_in(browser := browser_of(app), remember="yes", days=5))
        assert outlives_the_browser(cookie)
        assert who(browser) == "ada"

    def test_later_requests_keep_the_session_remembered(self, app: Flask) -> None:
        """Later requests keep the session remembered and send no cookie."""
        browser = signed_in(app, remember="yes")
        assert not cookies_set(browser.post("/cart/pen"))
        assert who(browser) == "ada"
        assert facts(browser)[:2] == [True, True]

    def test_a_second_login_of_a_remembered_user_stays_remembered(self, app: Flask) -> None:
        """A remembered user stays remembered after a login without "remember me", as with
        Flask-Login."""
        browser = signed_in(app, remember="yes")
        log_in(browser)
        restart(browser)
        assert who(browser) == "ada"

    def test_a_login_of_another_user_does_not_inherit_remembered(self, app: Flask) -> None:
        """A login of another user without "remember me" is not remembered, although the previous
        user's session was."""
        browser = signed_in(app, remember="yes")
        (cookie,) = cookies_set(log_in(browser, "bob"))
        assert not outlives_the_browser(cookie)
        restart(browser)
        assert who(browser) is None

    def test_a_logout_ends_a_remembered_session(self, app: Flask, keys: Keys) -> None:
        """A logout ends a remembered session and clears its cookie."""
        browser = signed_in(app, remember="yes")
        flashed(browser)
        (cookie,) = cookies_set(browser.post("/logout?quietly=1"))
        assert clears(cookie)
        assert keys() == set()

    def test_the_anonymous_session_after_a_logout_is_not_remembered(self, app: Flask) -> None:
        """The anonymous session that a logout leaves ends with the browser."""
        browser = signed_in(app, remember="yes")
        (cookie,) = cookies_given(browser.post("/logout"))
        assert not outlives_the_browser(cookie)
        restart(browser)
        assert token(browser) is None


class TestRevoked:
    def test_a_revoked_remembered_browser_stays_signed_out(self, app: Flask) -> None:
        """A remembered browser whose session was revoked stays signed out, also after a restart."""
        laptop, phone = signed_in(app), signed_in(app, "phone", remember="yes")
        assert devices(laptop) == ["laptop", "phone"]
        sign_out_elsewhere(laptop, phone)
        assert [who(phone), who(phone, "/notes")] == [None, None]
        restart(phone)
        assert who(phone) is None
        assert devices(laptop) == ["laptop"]

    def test_revoke_all_sessions_signs_out_all_remembered_browsers(self, app: Flask) -> None:
        """`revoke_all_sessions` signs out all remembered browsers of the user."""
        browsers = [signed_in(app, agent, remember="yes") for agent in ("laptop", "phone")]
        with app.app_context():
            assert kvs.revoke_all_sessions("ada") == 2
        assert [who(browser) for browser in browsers] == [None, None]


class TestOldRememberCookies:
    def test_an_old_remember_cookie_signs_no_user_in_and_is_cleared(
        self, app: Flask, keys: Keys
    ) -> None:
        """By default an old remember cookie signs no user in and is cleared."""
        browser = with_old_cookie(app)
        response = browser.get("/")
        (cookie,) = cookies_set(response, REMEMBER)
        assert clears(cookie)
        assert "nobody" in response.text
        assert browser.get_cookie(REMEMBER) is None
        assert keys() == set()

    def test_a_page_that_goes_on_after_a_failure_of_the_store_is_shown_with_an_old_cookie_too(
        self, app: Flask, do: Do, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the store fails and the view goes on, its page is shown, although the old remember
        cookie can not be cleared by this request."""
        browser = signed_in(app)
        with app.app_context():
            browser.set_cookie(REMEMBER, encode_cookie("ada"))

        def fail(*args: t.Any) -> t.NoReturn:
            raise StoreUnavailable

        def act() -> str:
            monkeypatch.setattr(kvs.SessionStore, "update", fail)
            with pytest.raises(StoreUnavailable):
                kvs.rotate_token()
            return "the page"

        response = do(browser, act)
        assert (response.status_code, response.text) == (200, "the page")

    @pytest.mark.parametrize("moving", [False, True])
    def test_a_revoked_browser_with_an_old_cookie_stays_signed_out(
        self, make: Make, moving: bool
    ) -> None:
        """A revoked browser with an old remember cookie stays signed out, with and without
        migration."""
        app = make(migrate_cookie_session=moving)
        laptop, phone = signed_in(app), signed_in(app, "phone")
        with app.app_context():
            phone.set_cookie(REMEMBER, encode_cookie("ada"))
        sign_out_elsewhere(laptop, phone)
        assert who(phone) is None

    def test_migration_turns_an_old_cookie_into_a_remembered_session(self, make: Make) -> None:
        """With `KVSESSION_MIGRATE_COOKIE_SESSION` an old remember cookie becomes a remembered
        session that is not fresh."""
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

    def test_a_remember_cookie_beside_a_planted_signed_cookie_brings_no_csrf_token(
        self, make: Make, do: Do
    ) -> None:
        """An old remember cookie takes over the cart of the browser's anonymous signed cookie, but
        no CSRF token and no role."""
        app = make(migrate_cookie_session=True)
        browser = with_old_cookie(app)
        planted = {"cart": ["pen"], "csrf_token": "x", "role": "admin"}
        browser.set_cookie("session", signed_cookie(app, **planted))
        assert who(browser) == "ada"
        with browser.session_transaction() as data:
            assert data["cart"] == ["pen"]
            assert data.keys() & planted.keys() == {"cart"}

    def test_a_migrated_session_stays_signed_out_after_revocation(self, make: Make) -> None:
        """A session from an old remember cookie stays signed out after its revocation."""
        app = make(migrate_cookie_session=True)
        laptop, phone = signed_in(app), with_old_cookie(app)
        assert who(phone) == "ada"
        sign_out_elsewhere(laptop, phone)
        assert who(phone) is None

    @pytest.mark.parametrize("moving", [False, True])
    @pytest.mark.parametrize("value", ["ada|forged", "ada|é", "ada|\xff", "|", "", "ada"], ids=repr)
    def test_a_forged_old_cookie_signs_no_user_in_and_is_cleared(
        self, make: Make, keys: Keys, value: str, moving: bool
    ) -> None:
        """A forged remember cookie signs no user in, creates no session and is cleared, with and
        without migration."""
        browser = make(migrate_cookie_session=moving).test_client(use_cookies=False)
        for path in ("/", "/health"):
            response = browser.get(path, headers={"Cookie": f"{REMEMBER}={value}"})
            assert response.status_code == 200
            assert "ada at" not in response.text
            assert clears(*cookies_set(response, REMEMBER))
        assert keys() == set()

    @pytest.mark.parametrize("moving", [False, True])
    @pytest.mark.parametrize("end", [clear, kvs.revoke_all_sessions, leave])
    def test_an_old_cookie_signs_no_user_in_after_the_view_ends_the_session(
        self, make: Make, keys: Keys, end: Callable[[], None], moving: bool
    ) -> None:
        """An old remember cookie signs no user in and is cleared, although the view ends the
        session and then reloads the user."""
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

    def test_an_old_cookie_signs_no_user_in_at_a_failed_login(self, app: Flask) -> None:
        """An old remember cookie signs no user in after a login view has cleared the session for a
        wrong password."""

        @app.post("/try")
        def try_to() -> str:
            session.clear()
            return str(current_user.is_authenticated)

        response = with_old_cookie(app).post("/try")
        assert response.text == "False"
        assert clears(*cookies_set(response, REMEMBER))

    def test_an_old_cookie_is_cleared_if_the_user_loader_aborts(
        self, make: Make, keys: Keys
    ) -> None:
        """An old remember cookie signs no user in and is cleared if the app's user loader aborts
        with 404, as `get_or_404` does."""
        app = make(migrate_cookie_session=True)
        app.login_manager.user_loader(lambda user_id: abort(404))  # type: ignore[attr-defined]
        response = with_old_cookie(app).get("/")
        assert (response.status_code, "nobody" in response.text) == (200, True)
        assert clears(*cookies_set(response, REMEMBER))
        assert keys() == set()

    def test_an_old_cookie_stays_for_another_try_if_the_user_loader_fails(
        self, make: Make, keys: Keys
    ) -> None:
        """An old remember cookie signs no user in and is not cleared if the app's user loader
        raises an exception."""
        app = make({"PROPAGATE_EXCEPTIONS": False}, migrate_cookie_session=True)
        users = {"ada": User("ada")}
        app.login_manager.user_loader(lambda user_id: users[user_id])  # type: ignore[attr-defined]
        browser, ada = with_old_cookie(app), users.pop("ada")
        response = browser.get("/")
        assert (response.status_code, cookies_set(response, REMEMBER)) == (500, [])
        assert keys() == set()
        users["ada"] = ada
        assert who(browser) == "ada"

    def test_an_old_cookie_of_a_deleted_user_signs_no_user_in(self, make: Make, keys: Keys) -> None:
        """An old remember cookie of a deleted user signs no user in and is cleared, also at this
        package's guards."""
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
    def test_a_revoked_browser_stays_signed_out_if_the_user_is_read_early(
        self, make: Make, when: str, moving: bool
    ) -> None:
        """A revoked browser stays signed out even if the app reads the user before any other hook
        runs."""
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

    def test_an_old_cookie_beside_the_token_of_a_forgotten_session_is_ignored(
        self, make: Make, clock: Clock
    ) -> None:
        """An old remember cookie signs no user in beside the token of a revoked session that Redis
        has dropped."""
        app = make({"REMEMBER_COOKIE_PATH": "/notes"}, migrate_cookie_session=True)
        laptop, phone = signed_in(app), signed_in(app, "phone", remember="yes")
        with app.app_context():
            phone.set_cookie(REMEMBER, encode_cookie("ada"), path="/notes")
        sign_out_elsewhere(laptop, phone)
        clock.advance(days=21)
        assert who(phone, "/notes") is None

    @pytest.mark.parametrize(("name", "lasts"), [("ada", True), ("bob", False)])
    def test_a_signed_cookie_is_remembered_if_the_old_cookie_names_its_user(
        self, make: Make, name: str, lasts: bool
    ) -> None:
        """Flask's signed cookie is carried over, and is remembered only if the old remember cookie
        names the same user."""
        app = make(migrate_cookie_session=True)
        browser = with_old_cookie(app, name)
        browser.set_cookie("session", signed_cookie(app, _user_id="ada", _fresh=True))
        (cookie,) = cookies_set(browser.get("/notes"))
        assert outlives_the_browser(cookie) is lasts
        assert who(browser, "/notes") == "ada"
        assert browser.get_cookie(REMEMBER) is None


class TestBesideOtherFeatures:
    def test_modified_false_keeps_a_change_from_being_saved(self, app: Flask, do: Do) -> None:
        """`session.modified = False` keeps a change from being saved, as without
        `remember_in_session`."""
        browser = signed_in(app)
        flashed(browser)

        def act() -> None:
            session["a"] = 1
            session.modified = False

        do(browser, act)
        seen: list[bool] = []
        do(browser, lambda: seen.append("a" in session))
        assert seen == [False]

    def test_session_transaction_ignores_an_old_remember_cookie(
        self, app: Flask, keys: Keys
    ) -> None:
        """`session_transaction()` of a browser with an old remember cookie puts no data into the
        session, also inside a request of another app."""
        browser = with_old_cookie(app)
        with browser.session_transaction() as data:
            assert dict(data) == {}
        with Flask("other").test_request_context(), browser.session_transaction() as data:
            assert dict(data) == {}
        assert keys() == set()

    def test_refresh_at_each_request_sends_no_remember_cookie(self, make: Make, keys: Keys) -> None:
        """`REMEMBER_COOKIE_REFRESH_EACH_REQUEST` sends no cookie, neither to an anonymous browser
        nor to a user."""
        app = make({"REMEMBER_COOKIE_REFRESH_EACH_REQUEST": True})
        assert "Set-Cookie" not in browser_of(app).get("/").headers
        assert keys() == set()
        browser = browser_of(app)
        assert cookies_set(log_in(browser, remember="yes"), REMEMBER) == []
        assert "Set-Cookie" not in browser.get("/notes").headers

    def test_an_old_cookie_is_cleared_under_its_configured_name_and_path(self, make: Make) -> None:
        """An old remember cookie is cleared under the name and path of Flask-Login's settings."""
        app = make({"REMEMBER_COOKIE_NAME": "keep_me", "REMEMBER_COOKIE_PATH": "/notes"})
        browser = browser_of(app)
        with app.app_context():
            browser.set_cookie("keep_me", encode_cookie("ada"), path="/notes")
        response = browser.get("/notes")
        (cookie,) = cookies_set(response, "keep_me")
        assert clears(cookie) and "Path=/notes" in cookie

    def test_flask_login_accepts_the_old_cookies_of_these_tests(self, app: Flask) -> None:
        """Flask-Login accepts the old remember cookies that these tests send."""
        with app.app_context():
            assert decode_cookie(encode_cookie("ada")) == "ada"


def test_a_remembered_login_creates_a_new_session_with_the_anonymous_data(app: Flask) -> None:
    """A remembered login has a new session id and carries over the anonymous data."""
    browser = browser_of(app)
    browser.post("/cart/pen")
    before = id_of(browser)
    log_in(browser, remember="yes")
    assert id_of(browser) != before
    assert browser.get("/cart").get_json() == ["pen"]
