"""An unchanged app with Flask-Login, given KVSession by settings and `KVSession(app)` alone."""

from __future__ import annotations

import typing as t
from datetime import timedelta

import pytest
from flask import Flask, g, session
from flask_login import FlaskLoginClient, login_user  # type: ignore[import-untyped]

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError

from ..support.apps import Do, Install
from ..support.browsers import AS_PAGE
from ..support.clock import Clock
from ..support.commands import CountCommands, Keys
from ..support.flask_login_app import (
    IGNORE_UTCNOW,
    PASSWORDS,
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
    DEVICES,
    browser_of,
    clears,
    cookies_set,
    devices,
    id_of,
    outlives_the_browser,
    same_browser,
    sign_out_elsewhere,
    token,
)
from ..support.proxy import Proxy
from ..support.signals import recorded_signals

pytestmark = IGNORE_UTCNOW


@pytest.fixture
def app(install: Install) -> Flask:
    return install(create_app(), "_user_id", login_view="login")


@pytest.fixture
def old_app(either: Install) -> Flask:
    """The app with our session, and once more with Flask's own."""
    return either(create_app(), "_user_id")


class TestSameAsWithFlasksSession:
    """The app behaves with KVSession as with Flask's own session."""

    def test_a_user_is_known_on_every_page_until_the_logout(self, old_app: Flask) -> None:
        """A user who signs in is known on every page until the logout."""
        browser = browser_of(old_app)
        assert who(browser, "/notes") is None
        log_in(browser)
        assert [who(browser), who(browser, "/notes"), who(browser, "/payment")] == ["ada"] * 3
        browser.post("/logout")
        assert [who(browser), who(browser, "/notes")] == [None, None]

    def test_a_guarded_page_leads_to_the_login_and_back(self, old_app: Flask) -> None:
        """A guarded page redirects to the sign-in page with a message, and the login redirects back
        to the page."""
        browser = browser_of(old_app)
        assert browser.get("/notes").location == "/login?next=%2Fnotes"
        assert flashed(browser) == ["Please log in to access this page."]
        form = {"name": "ada", "password": PASSWORDS["ada"]}
        assert browser.post("/login?next=%2Fnotes", data=form).location == "/notes"

    def test_messages_of_login_and_logout_are_shown_once(self, old_app: Flask) -> None:
        """A message that a login or a logout flashes is on the next page and on no later page."""
        browser = signed_in(old_app)
        assert [flashed(browser), flashed(browser)] == [["Welcome, ada."], []]
        browser.post("/logout")
        assert [flashed(browser), flashed(browser)] == [["Good bye."], []]

    def test_a_login_keeps_the_anonymous_cart(self, old_app: Flask) -> None:
        """The cart of an anonymous browser is kept by the login."""
        browser = browser_of(old_app)
        browser.post("/cart/pen")
        log_in(browser)
        assert browser.post("/cart/ink").get_json() == ["pen", "ink"]
        assert browser.get("/cart").get_json() == ["pen", "ink"]

    def test_closing_the_browser_ends_an_unremembered_login(self, old_app: Flask) -> None:
        """Without "remember me" the session ends with the browser."""
        browser = signed_in(old_app)
        restart(browser)
        assert who(browser) is None

    def test_the_remember_cookie_signs_a_restarted_browser_in(self, old_app: Flask) -> None:
        """Flask-Login's remember cookie signs in a browser that was closed and opened again."""
        browser = signed_in(old_app, remember="yes")
        restart(browser)
        assert token(browser) is None
        assert who(browser, "/notes") == "ada"
        assert token(browser)

    def test_a_login_by_the_remember_cookie_is_not_fresh(self, old_app: Flask) -> None:
        """A session that the remember cookie restores is not fresh until the password is given
        again."""
        browser = signed_in(old_app, remember="yes")
        assert who(browser, "/payment") == "ada"
        restart(browser)
        assert who(browser, "/notes") == "ada"
        assert browser.get("/payment").location == "/confirm?next=%2Fpayment"
        with browser.session_transaction() as data:
            assert data["_fresh"] is False
        browser.post("/confirm", data={"password": PASSWORDS["ada"]})
        assert who(browser, "/payment") == "ada"

    def test_a_logout_clears_the_remember_cookie(self, old_app: Flask) -> None:
        """A logout clears the remember cookie."""
        browser = signed_in(old_app, remember="yes")
        browser.post("/logout")
        assert browser.get_cookie(REMEMBER) is None
        restart(browser)
        assert who(browser) is None

    def test_a_forged_remember_cookie_signs_no_user_in(self, old_app: Flask) -> None:
        """A remember cookie with a wrong signature signs no user in."""
        browser = browser_of(old_app)
        browser.set_cookie(REMEMBER, f"ada|{'0' * 128}")
        assert who(browser) is None

    def test_a_user_unknown_to_the_app_is_not_signed_in(
        self, old_app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user whom the app has deleted is not signed in."""
        browser = signed_in(old_app)
        monkeypatch.delitem(PASSWORDS, "ada")
        assert who(browser) is None

    @pytest.mark.parametrize(("protection", "name"), [("basic", "ada"), ("strong", None)])
    def test_session_protection_acts_on_another_user_agent(
        self, either: Install, protection: str, name: str | None
    ) -> None:
        """With another user agent the session is not fresh in basic mode and signed out in strong
        mode."""
        app = either(create_app(SESSION_PROTECTION=protection), "_user_id")
        browser = signed_in(app)
        browser.environ_base["HTTP_USER_AGENT"] = "another"
        assert who(browser, "/notes") == name
        assert who(browser, "/payment") is None

    def test_flask_login_client_signs_its_user_in(self, old_app: Flask) -> None:
        """`FlaskLoginClient` signs its user in, fresh or not fresh."""
        old_app.config["SESSION_PROTECTION"] = None  # the client makes no identifier of a browser
        old_app.test_client_class = FlaskLoginClient
        assert who(old_app.test_client(user=User("ada")), "/payment") == "ada"
        stale = old_app.test_client(user=User("ada"), fresh_login=False)
        assert [who(stale, "/notes"), who(stale, "/payment")] == ["ada", None]

    def test_a_client_without_cookies_is_signed_out_at_the_next_request(
        self, old_app: Flask
    ) -> None:
        """A client that keeps no cookies is anonymous at the next request."""
        client = old_app.test_client(use_cookies=False)
        log_in(client)
        assert who(client) is None


class TestDevices:
    def test_the_page_lists_all_browsers_of_the_user_only(self, app: Flask) -> None:
        """A user who is signed in from two browsers sees both, and no browser of another user."""
        laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
        signed_in(app, "tablet", "bob")
        assert devices(laptop) == ["laptop", "phone"]
        assert devices(phone) == ["phone", "laptop"]

    def test_revoking_one_session_signs_out_that_browser_only(self, app: Flask) -> None:
        """A session that is revoked from another browser is signed out, and no other session."""
        laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
        sign_out_elsewhere(laptop, phone)
        assert [who(laptop), who(phone), who(phone, "/notes")] == ["ada", None, None]
        assert devices(laptop) == ["laptop"]

    def test_the_login_page_knows_that_the_session_was_revoked(self, app: Flask) -> None:
        """`session.ended` is "revoked" until the next login, although Flask-Login's message has
        created an anonymous session."""
        laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
        sign_out_elsewhere(laptop, phone)
        phone.get("/notes")
        with phone:
            phone.get("/login")
            assert g.session.ended == "revoked"
        log_in(phone)
        with phone:
            phone.get("/")
            assert g.session.ended is None

    def test_revoke_all_ends_the_current_session_too(self, app: Flask, keys: Keys) -> None:
        """`revoke-all` ends all sessions of the user, also the current session."""
        laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
        response = laptop.post(f"{DEVICES}revoke-all", headers=AS_PAGE)
        assert response.location == "/login?ended=2"
        assert [who(laptop), who(phone)] == [None, None]

    def test_the_sign_out_button_ends_the_current_session(self, app: Flask, keys: Keys) -> None:
        """The button that signs this browser out ends its session."""
        laptop = signed_in(app)
        assert laptop.post(f"{DEVICES}sign-out").get_json() == {"revoked": 1}
        assert who(laptop) is None
        assert not any(":u:" in key for key in keys())

    def test_a_remember_cookie_signs_a_revoked_browser_in_again(self, app: Flask) -> None:
        """Without `remember_in_session` the remember cookie signs a revoked browser in again."""
        laptop, phone = signed_in(app), signed_in(app, "phone", remember="yes")
        sign_out_elsewhere(laptop, phone)
        assert who(phone, "/notes") == "ada"
        assert who(phone, "/payment") is None

    def test_list_and_revoke_work_outside_a_request(self, app: Flask) -> None:
        """In an app context, the user id that Flask-Login stores lists and revokes the user's
        sessions."""
        laptop = signed_in(app)
        with app.app_context():
            (info,) = kvs.list_sessions("ada")
            assert (info.id, info.user_id, info.remembered) == (id_of(laptop), "ada", False)
            assert kvs.revoke_session(info.id, "ada")
        assert who(laptop) is None

    def test_the_limit_ends_the_least_recently_used_session(
        self, install: Install, clock: Clock
    ) -> None:
        """If a login exceeds `KVSESSION_MAX_SESSIONS_PER_USER`, the least recently used session
        ends."""
        app = install(create_app(), "_user_id", max_sessions_per_user=2)
        browsers = []
        for agent in ("laptop", "phone", "tablet"):
            browsers.append(signed_in(app, agent))
            clock.advance(seconds=1)
        assert [who(browser) for browser in browsers] == [None, "ada", "ada"]


class TestLogin:
    def test_a_login_invalidates_the_anonymous_token(self, app: Flask) -> None:
        """The token of the anonymous session opens nothing after the login."""
        browser = browser_of(app)
        browser.post("/cart/pen")
        before = token(browser)
        log_in(browser)
        assert id_of(browser) != (before or "")[:19]
        thief = same_browser(browser, before)
        assert who(thief) is None
        assert thief.get("/cart").get_json() == []

    def test_reads_and_writes_after_a_login_keep_the_token(self, app: Flask) -> None:
        """Reads and writes between login and logout keep the token."""
        browser = signed_in(app)
        before = token(browser)
        assert not cookies_set(browser.post("/cart/pen"))
        assert flashed(browser) and who(browser)
        assert token(browser) == before

    def test_a_second_login_of_the_same_user_replaces_the_session(self, app: Flask) -> None:
        """A second login of the same user creates a new session and ends the old session."""
        browser = signed_in(app)
        before = token(browser)
        log_in(browser)
        assert id_of(browser) != (before or "")[:19]
        assert who(same_browser(browser, before)) is None
        assert devices(browser) == ["laptop"]

    def test_a_login_of_another_user_ends_the_session_and_drops_its_data(self, app: Flask) -> None:
        """A login of another user ends the previous user's session and gets none of its data."""
        browser = signed_in(app)
        browser.post("/cart/pen")
        before = token(browser)
        log_in(browser, "bob")
        assert who(browser) == "bob"
        assert browser.get("/cart").get_json() == []
        assert who(same_browser(browser, before)) is None
        with app.app_context():
            assert kvs.list_sessions("ada") == []

    def test_a_login_of_another_user_keeps_the_message_of_its_request(self, app: Flask) -> None:
        """A message that the login request flashes goes along into the session of another user."""
        browser = signed_in(app)
        assert flashed(browser) == ["Welcome, ada."]
        log_in(browser, "bob")
        assert flashed(browser) == ["Welcome, bob."]

    def test_user_id_follows_flask_logins_login_user_at_once(self, app: Flask, do: Do) -> None:
        """`g.session.user_id` names the user as soon as Flask-Login's `login_user` has returned."""
        seen: list[t.Any] = []

        def act() -> None:
            seen.append((g.session.user_id, g.session.is_authenticated))
            login_user(User("ada"))
            seen.append((g.session.user_id, g.session.is_authenticated))

        do(browser_of(app), act)
        assert seen == [(None, False), ("ada", True)]

    def test_login_user_and_logout_user_raise_and_name_flask_logins(
        self, app: Flask, do: Do
    ) -> None:
        """`login_user` and `logout_user` of this package raise an error that names Flask-Login's
        function."""
        verbs = {"login_user": lambda: kvs.login_user("ada"), "logout_user": kvs.logout_user}
        for name, verb in verbs.items():
            with pytest.raises(ConfigurationError, match=rf"call the {name} of Flask-Login\.$"):
                do(browser_of(app), verb)

    @pytest.mark.parametrize(
        ("key", "said"),
        [("_user_id", False), ("user_id", True), (None, True)],
    )
    def test_a_wrong_or_missing_user_id_key_is_logged_once(
        self, install: Install, caplog: pytest.LogCaptureFixture, key: str | None, said: bool
    ) -> None:
        """If `KVSESSION_USER_ID_KEY` is not the key that Flask-Login uses, one log message names
        the right key."""
        app = install(create_app(), key)
        for _ in range(2):
            log_in(browser_of(app))
        assert caplog.text.count('set KVSESSION_USER_ID_KEY = "_user_id"') == said

    def test_each_login_and_logout_sends_one_signal(self, app: Flask) -> None:
        """Each login and logout by Flask-Login sends one signal of this package."""
        with recorded_signals(app, "user_logged_in", "user_logged_out") as recorder:
            browser = signed_in(app)
            who(browser)
            log_in(browser, "bob")
            browser.post("/logout")
            who(browser)
        assert recorder.users == [
            ("user_logged_in", "ada"),
            ("user_logged_out", "ada"),
            ("user_logged_in", "bob"),
            ("user_logged_out", "bob"),
        ]

    def test_a_login_is_fresh_for_15_minutes_and_a_restored_one_never(
        self, app: Flask, do: Do, clock: Clock
    ) -> None:
        """A login is fresh for `KVSESSION_FRESH_FOR`, and a login by the remember cookie is not
        fresh."""
        browser = signed_in(app, remember="yes")
        seen: list[bool] = []
        do(browser, lambda: seen.append(g.session.is_fresh))
        clock.advance(minutes=16)
        do(browser, lambda: seen.append(g.session.is_fresh))
        restart(browser)
        who(browser)
        do(browser, lambda: seen.append(g.session.is_fresh))
        assert seen == [True, False, False]


class TestLogout:
    def test_remaining_data_go_to_a_new_anonymous_session(self, app: Flask) -> None:
        """The message of the logout and the cart are in a new anonymous session."""
        browser = signed_in(app)
        browser.post("/cart/pen")
        before = token(browser)
        browser.post("/logout")
        assert id_of(browser) != (before or "")[:19]
        assert browser.get("/cart").get_json() == ["pen"]
        assert flashed(browser)[-1:] == ["Good bye."]
        assert same_browser(browser, before).get("/cart").get_json() == []

    def test_without_remaining_data_no_cookie_and_no_key_are_left(
        self, app: Flask, keys: Keys
    ) -> None:
        """A logout that leaves no data clears the cookie and leaves no key in Redis."""
        browser = signed_in(app)
        flashed(browser)
        (cookie,) = cookies_set(browser.post("/logout?quietly=1"))
        assert clears(cookie)
        assert keys() == set()

    def test_strong_protection_ends_the_session_of_a_stolen_cookie(self, install: Install) -> None:
        """With strong session protection a thief's request also signs the owner's browser out."""
        app = install(create_app(SESSION_PROTECTION="strong"), "_user_id")
        browser = signed_in(app)
        thief = browser_of(app, "another")
        thief.set_cookie("session", token(browser) or "")
        assert who(thief) is None
        assert who(browser) is None
        with app.app_context():
            assert kvs.list_sessions("ada") == []


class TestTimeouts:
    @pytest.mark.parametrize(("ahead", "name"), [(-1, "ada"), (1, None)])
    def test_an_unremembered_login_ends_after_unremembered_timeout(
        self, app: Flask, clock: Clock, ahead: int, name: str | None
    ) -> None:
        """A login without "remember me" ends after `KVSESSION_UNREMEMBERED_TIMEOUT` without
        activity."""
        browser = signed_in(app)
        clock.advance(hours=12, seconds=ahead)
        assert who(browser) == name

    def test_the_remember_cookie_creates_a_new_session_after_expiry(
        self, app: Flask, clock: Clock
    ) -> None:
        """The remember cookie creates a new session after the old session has expired."""
        browser = signed_in(app, remember="yes")
        before = id_of(browser)
        clock.advance(days=3)
        assert who(browser) == "ada"
        assert id_of(browser) != before


class TestPermanent:
    """An app that makes every session permanent, as Flask's own documentation shows."""

    @pytest.fixture
    def app(self, install: Install) -> Flask:
        app = create_app(PERMANENT_SESSION_LIFETIME=timedelta(days=3))

        @app.before_request
        def make_permanent() -> None:
            session.permanent = True

        return install(app, "_user_id")

    def test_a_login_lives_for_permanent_session_lifetime(self, app: Flask, clock: Clock) -> None:
        """The cookie outlives the browser, and the session ends after `PERMANENT_SESSION_LIFETIME`
        without activity."""
        browser = browser_of(app)
        (cookie,) = cookies_set(log_in(browser))
        assert outlives_the_browser(cookie)
        restart(browser)
        clock.advance(days=3, seconds=-1)
        assert who(browser) == "ada"
        clock.advance(days=3, seconds=1)
        assert who(browser) is None

    def test_setting_permanent_at_every_request_writes_nothing(
        self, app: Flask, keys: Keys, count_commands: CountCommands
    ) -> None:
        """Setting `permanent` at every request creates no session for an anonymous browser and
        writes no user's session."""
        assert not cookies_set(browser_of(app).get("/"))
        assert keys() == set()
        browser = signed_in(app)
        with count_commands() as commands:
            assert not cookies_set(browser.get("/health"))
        assert commands.names == ["GET"]


@pytest.mark.parametrize("path", ["/", "/notes", "/health", "/x"])
def test_without_a_store_every_page_of_a_user_is_503(
    install: Install, socket_path: str, path: str
) -> None:
    """If the store fails, every page of a user is answered with 503, because Flask-Login reads the
    session after each view."""
    proxy = Proxy(socket_path)
    app = install(create_app(), "_user_id", redis_url=f"unix://{proxy.path}")
    app.config["PROPAGATE_EXCEPTIONS"] = False
    browser = signed_in(app)
    before = token(browser)
    proxy.on_request = lambda chunk: False
    response = browser.get(path)
    proxy.on_request = lambda chunk: True
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert token(browser) == before
    assert who(browser) == "ada"
    proxy.close()


def test_migration_keeps_users_of_the_signed_cookie_signed_in(install: Install) -> None:
    """With `KVSESSION_MIGRATE_COOKIE_SESSION` a user of Flask's signed cookie stays signed in, in a
    session that is not fresh and can be revoked."""
    before = signed_in(create_app())
    app = install(create_app(), "_user_id", migrate_cookie_session=True)
    laptop, phone = browser_of(app), signed_in(app, "phone")
    laptop.set_cookie("session", token(before) or "")
    assert who(laptop, "/notes") == "ada"
    assert len(token(laptop) or "") == 62
    with laptop:
        laptop.get("/")
        assert not g.session.is_fresh
    assert laptop.get("/payment").location.startswith("/confirm?")
    laptop.post("/confirm", data={"password": PASSWORDS["ada"]})
    assert who(laptop, "/payment") == "ada"
    assert devices(phone) == ["phone", "laptop"]
    sign_out_elsewhere(phone, laptop)
    assert who(laptop) is None


class TestNoTraces:
    def test_public_pages_and_failed_logins_create_no_session(self, app: Flask, keys: Keys) -> None:
        """Public pages, the sign-in form and failed logins create no session."""
        for browser in (browser_of(app), app.test_client(use_cookies=False)):
            responses = [browser.get(path) for path in ("/", "/login", "/cart", "/health", "/x")]
            responses.append(browser.post("/login", data={"name": "ada", "password": "x"}))
            assert not any(cookies_set(response) for response in responses)
        assert keys() == set()

    def test_a_message_of_a_guarded_page_creates_an_anonymous_session(
        self, app: Flask, keys: Keys
    ) -> None:
        """The message of a guarded page creates an anonymous session, which stays because
        Flask-Login adds `_fresh`."""
        browser = browser_of(app)
        # Flask-Login leaves the code of the redirect to Flask: 302, and 303 from Flask 3.2 on.
        assert browser.get("/notes").status_code in (302, 303)
        assert len(keys()) == 1
        assert flashed(browser)
        with browser.session_transaction() as data:
            assert dict(data) == {"_fresh": False}

    def test_a_guarded_page_without_login_message_creates_no_session(
        self, app: Flask, keys: Keys
    ) -> None:
        """With `login_message = None` a guarded page creates no session."""
        app.login_manager.login_message = None  # type: ignore[attr-defined]
        assert browser_of(app).get("/notes").location == "/login?next=%2Fnotes"
        assert keys() == set()

    def test_flask_login_reads_a_users_session_at_every_request(
        self, app: Flask, count_commands: CountCommands
    ) -> None:
        """Flask-Login reads a user's session after every request, so that each response costs one
        GET and varies by cookie."""
        browser, anonymous = signed_in(app), browser_of(app)
        with count_commands() as commands:
            response = browser.get("/health")
            anonymous.get("/health")
        assert commands.names == ["GET"]
        assert "Cookie" in response.vary


def test_kvsession_may_be_set_up_before_login_manager(install: Install) -> None:
    """An app works the same if `KVSession(app)` comes before `LoginManager(app)`."""
    app = create_app(first=lambda app: install(app, "_user_id"))
    laptop, phone = signed_in(app, remember="yes"), signed_in(app, "phone")
    assert flashed(laptop) == ["Welcome, ada."]
    (cookie,) = cookies_set(laptop.post("/logout?quietly=1"))
    assert clears(cookie)
    assert [who(laptop), devices(phone)] == [None, ["phone"]]


def test_a_logout_with_a_token_that_was_just_replaced_ends_the_session(
    app: Flask, do: Do, keys: Keys
) -> None:
    """If a tab signs out while the response of a confirmation in another tab is on its way, the
    user's session ends."""
    browser = signed_in(app)
    other_tab = same_browser(browser, token(browser))
    browser.post("/confirm", data={"password": PASSWORDS["ada"]})
    other_tab.post("/logout?quietly")
    assert who(browser) is None
    assert not [key for key in keys() if ":u:" in key]
