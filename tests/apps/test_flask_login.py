"""An app with Flask-Login, unchanged but for settings and `KVSession(app)`."""

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


class TestAsBefore:
    """With our session the app does what it did with Flask's own."""

    def test_in_and_out(self, old_app: Flask) -> None:
        """Who signs in is known on every page until signing out."""
        browser = browser_of(old_app)
        assert who(browser, "/notes") is None
        log_in(browser)
        assert [who(browser), who(browser, "/notes"), who(browser, "/payment")] == ["ada"] * 3
        browser.post("/logout")
        assert [who(browser), who(browser, "/notes")] == [None, None]

    def test_the_way_back(self, old_app: Flask) -> None:
        """A guarded page leads to the sign-in, with a message, and the sign-in back to it."""
        browser = browser_of(old_app)
        assert browser.get("/notes").location == "/login?next=%2Fnotes"
        assert flashed(browser) == ["Please log in to access this page."]
        form = {"name": "ada", "password": PASSWORDS["ada"]}
        assert browser.post("/login?next=%2Fnotes", data=form).location == "/notes"

    def test_messages_are_shown_once(self, old_app: Flask) -> None:
        """A message is on the next page and no later, across a sign-in and a sign-out too."""
        browser = signed_in(old_app)
        assert [flashed(browser), flashed(browser)] == [["Welcome, ada."], []]
        browser.post("/logout")
        assert [flashed(browser), flashed(browser)] == [["Good bye."], []]

    def test_a_visitor_s_data_come_along(self, old_app: Flask) -> None:
        """What a visitor put into the cart is there after signing in."""
        browser = browser_of(old_app)
        browser.post("/cart/pen")
        log_in(browser)
        assert browser.post("/cart/ink").get_json() == ["pen", "ink"]
        assert browser.get("/cart").get_json() == ["pen", "ink"]

    def test_closing_the_browser_signs_out(self, old_app: Flask) -> None:
        """Without "remember me" the session ends with the browser."""
        browser = signed_in(old_app)
        restart(browser)
        assert who(browser) is None

    def test_remembered(self, old_app: Flask) -> None:
        """Flask-Login's second cookie signs a browser in again that was closed."""
        browser = signed_in(old_app, remember="yes")
        restart(browser)
        assert token(browser) is None
        assert who(browser, "/notes") == "ada"
        assert token(browser)

    def test_remembered_is_not_fresh(self, old_app: Flask) -> None:
        """A restored session is not fresh, until the password has been given again."""
        browser = signed_in(old_app, remember="yes")
        assert who(browser, "/payment") == "ada"
        restart(browser)
        assert who(browser, "/notes") == "ada"
        assert browser.get("/payment").location == "/confirm?next=%2Fpayment"
        with browser.session_transaction() as data:
            assert data["_fresh"] is False
        browser.post("/confirm", data={"password": PASSWORDS["ada"]})
        assert who(browser, "/payment") == "ada"

    def test_signing_out_forgets(self, old_app: Flask) -> None:
        """Signing out clears the second cookie too."""
        browser = signed_in(old_app, remember="yes")
        browser.post("/logout")
        assert browser.get_cookie(REMEMBER) is None
        restart(browser)
        assert who(browser) is None

    def test_a_forged_remember_cookie(self, old_app: Flask) -> None:
        """A second cookie with a wrong signature signs nobody in."""
        browser = browser_of(old_app)
        browser.set_cookie(REMEMBER, f"ada|{'0' * 128}")
        assert who(browser) is None

    def test_a_deleted_user(self, old_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody is signed in where the app no longer knows the user."""
        browser = signed_in(old_app)
        monkeypatch.delitem(PASSWORDS, "ada")
        assert who(browser) is None

    @pytest.mark.parametrize(("protection", "name"), [("basic", "ada"), ("strong", None)])
    def test_session_protection(self, either: Install, protection: str, name: str | None) -> None:
        """From another user agent the cookie is not fresh, or in strong mode not signed in."""
        app = either(create_app(SESSION_PROTECTION=protection), "_user_id")
        browser = signed_in(app)
        browser.environ_base["HTTP_USER_AGENT"] = "another"
        assert who(browser, "/notes") == name
        assert who(browser, "/payment") is None

    def test_flask_login_s_test_client(self, old_app: Flask) -> None:
        """Its test client that signs in a user by itself does so."""
        old_app.config["SESSION_PROTECTION"] = None  # the client makes no identifier of a browser
        old_app.test_client_class = FlaskLoginClient
        assert who(old_app.test_client(user=User("ada")), "/payment") == "ada"
        stale = old_app.test_client(user=User("ada"), fresh_login=False)
        assert [who(stale, "/notes"), who(stale, "/payment")] == ["ada", None]

    def test_without_a_request_s_cookies(self, old_app: Flask) -> None:
        """A client that keeps no cookies is nobody again at once."""
        client = old_app.test_client(use_cookies=False)
        log_in(client)
        assert who(client) is None


class TestDevices:
    def test_all_devices_are_listed(self, app: Flask) -> None:
        """Somebody who is signed in from two browsers sees both, and nobody else's."""
        laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
        signed_in(app, "tablet", "bob")
        assert devices(laptop) == ["laptop", "phone"]
        assert devices(phone) == ["phone", "laptop"]

    def test_one_device_signs_the_other_out(self, app: Flask) -> None:
        """A session that is revoked from another browser is signed out, and only that one."""
        laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
        sign_out_elsewhere(laptop, phone)
        assert [who(laptop), who(phone), who(phone, "/notes")] == ["ada", None, None]
        assert devices(laptop) == ["laptop"]

    def test_the_sign_in_page_knows_why(self, app: Flask) -> None:
        """Flask-Login flashes a message on the way there, which makes a visitor's session."""
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

    def test_signing_out_everywhere(self, app: Flask, keys: Keys) -> None:
        """All of a user's sessions can be ended at once, this one too."""
        laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
        response = laptop.post(f"{DEVICES}revoke-all", headers=AS_PAGE)
        assert response.location == "/login?ended=2"
        assert [who(laptop), who(phone)] == [None, None]

    def test_signing_out_on_the_page(self, app: Flask, keys: Keys) -> None:
        """The page's own button signs out of this browser."""
        laptop = signed_in(app)
        assert laptop.post(f"{DEVICES}sign-out").get_json() == {"revoked": 1}
        assert who(laptop) is None
        assert not any(":u:" in key for key in keys())

    def test_a_remember_cookie_comes_back_after_revocation(self, app: Flask) -> None:
        """Without `remember_in_session` the second cookie signs a revoked browser in again."""
        laptop, phone = signed_in(app), signed_in(app, "phone", remember="yes")
        sign_out_elsewhere(laptop, phone)
        assert who(phone, "/notes") == "ada"
        assert who(phone, "/payment") is None

    def test_from_outside_a_request(self, app: Flask) -> None:
        """A script lists and revokes by what Flask-Login puts under its key."""
        laptop = signed_in(app)
        with app.app_context():
            (info,) = kvs.list_sessions("ada")
            assert (info.id, info.user_id, info.remembered) == (id_of(laptop), "ada", False)
            assert kvs.revoke_session(info.id, "ada")
        assert who(laptop) is None

    def test_a_limit(self, install: Install, clock: Clock) -> None:
        """Beyond `KVSESSION_MAX_SESSIONS_PER_USER` the least recently used session is ended."""
        app = install(create_app(), "_user_id", max_sessions_per_user=2)
        browsers = []
        for agent in ("laptop", "phone", "tablet"):
            browsers.append(signed_in(app, agent))
            clock.advance(seconds=1)
        assert [who(browser) for browser in browsers] == [None, "ada", "ada"]


class TestLogin:
    def test_the_token_is_new(self, app: Flask) -> None:
        """A visitor's token is worthless after the login."""
        browser = browser_of(app)
        browser.post("/cart/pen")
        before = token(browser)
        log_in(browser)
        assert id_of(browser) != (before or "")[:19]
        thief = same_browser(browser, before)
        assert who(thief) is None
        assert thief.get("/cart").get_json() == []

    def test_a_stay_keeps_the_token(self, app: Flask) -> None:
        """Between login and logout the token stays, whatever is written."""
        browser = signed_in(app)
        before = token(browser)
        assert not cookies_set(browser.post("/cart/pen"))
        assert flashed(browser) and who(browser)
        assert token(browser) == before

    def test_again(self, app: Flask) -> None:
        """Signing in once more gives a new session in place of the old."""
        browser = signed_in(app)
        before = token(browser)
        log_in(browser)
        assert id_of(browser) != (before or "")[:19]
        assert who(same_browser(browser, before)) is None
        assert devices(browser) == ["laptop"]

    def test_somebody_else(self, app: Flask) -> None:
        """Another user's login ends the first one's session and gets none of its data."""
        browser = signed_in(app)
        browser.post("/cart/pen")
        before = token(browser)
        log_in(browser, "bob")
        assert who(browser) == "bob"
        assert browser.get("/cart").get_json() == []
        assert who(same_browser(browser, before)) is None
        with app.app_context():
            assert kvs.list_sessions("ada") == []

    def test_a_message_comes_along(self, app: Flask) -> None:
        """What the request itself assigns, such as a message, goes into another user's session."""
        browser = signed_in(app)
        assert flashed(browser) == ["Welcome, ada."]
        log_in(browser, "bob")
        assert flashed(browser) == ["Welcome, bob."]

    def test_who_it_is_follows_at_once(self, app: Flask, do: Do) -> None:
        """The session says who is signed in as soon as Flask-Login knows it."""
        seen: list[t.Any] = []

        def act() -> None:
            seen.append((g.session.user_id, g.session.is_authenticated))
            login_user(User("ada"))
            seen.append((g.session.user_id, g.session.is_authenticated))

        do(browser_of(app), act)
        assert seen == [(None, False), ("ada", True)]

    def test_our_verbs_leave_it_to_flask_login(self, app: Flask, do: Do) -> None:
        """`login_user` and `logout_user` of ours refuse, and name Flask-Login's."""
        verbs = {"login_user": lambda: kvs.login_user("ada"), "logout_user": kvs.logout_user}
        for name, verb in verbs.items():
            with pytest.raises(ConfigurationError, match=rf"call the {name} of Flask-Login\.$"):
                do(browser_of(app), verb)

    @pytest.mark.parametrize(
        ("key", "said"),
        [("_user_id", False), ("user_id", True), (None, True)],
    )
    def test_a_wrong_key_is_told(
        self, install: Install, caplog: pytest.LogCaptureFixture, key: str | None, said: bool
    ) -> None:
        """Without the key that Flask-Login uses nobody would be listed: once, the log says so."""
        app = install(create_app(), key)
        for _ in range(2):
            log_in(browser_of(app))
        assert caplog.text.count('set KVSESSION_USER_ID_KEY = "_user_id"') == said

    def test_it_is_announced(self, app: Flask) -> None:
        """Each login and logout is told by our signals too, once."""
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

    def test_freshness(self, app: Flask, do: Do, clock: Clock) -> None:
        """A login is fresh for `KVSESSION_FRESH_FOR`; one that a remember cookie made is not."""
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
    def test_what_remains_goes_on(self, app: Flask) -> None:
        """The message of the sign-out, and the cart, go on in a visitor's new session."""
        browser = signed_in(app)
        browser.post("/cart/pen")
        before = token(browser)
        browser.post("/logout")
        assert id_of(browser) != (before or "")[:19]
        assert browser.get("/cart").get_json() == ["pen"]
        assert flashed(browser)[-1:] == ["Good bye."]
        assert same_browser(browser, before).get("/cart").get_json() == []

    def test_with_nothing_left(self, app: Flask, keys: Keys) -> None:
        """Where no data remain the cookie is cleared and no key is left."""
        browser = signed_in(app)
        flashed(browser)
        (cookie,) = cookies_set(browser.post("/logout?quietly=1"))
        assert clears(cookie)
        assert keys() == set()

    def test_a_stolen_cookie_ends_the_session(self, install: Install) -> None:
        """With strong session protection, a thief's request signs the owner's browser out too."""
        app = install(create_app(SESSION_PROTECTION="strong"), "_user_id")
        browser = signed_in(app)
        thief = browser_of(app, "another")
        thief.set_cookie("session", token(browser) or "")
        assert who(thief) is None
        assert who(browser) is None
        with app.app_context():
            assert kvs.list_sessions("ada") == []


class TestTime:
    @pytest.mark.parametrize(("ahead", "name"), [(-1, "ada"), (1, None)])
    def test_not_remembered(self, app: Flask, clock: Clock, ahead: int, name: str | None) -> None:
        """A login without "remember me" ends when idle for `KVSESSION_UNREMEMBERED_TIMEOUT`."""
        browser = signed_in(app)
        clock.advance(hours=12, seconds=ahead)
        assert who(browser) == name

    def test_restored_after_the_session_ended(self, app: Flask, clock: Clock) -> None:
        """The second cookie begins a new session where the old one has expired."""
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

    def test_how_long(self, app: Flask, clock: Clock) -> None:
        """The cookie outlives the browser, and the session lives for `PERMANENT_SESSION_LIFETIME`
        without activity."""
        browser = browser_of(app)
        (cookie,) = cookies_set(log_in(browser))
        assert outlives_the_browser(cookie)
        restart(browser)
        clock.advance(days=3, seconds=-1)
        assert who(browser) == "ada"
        clock.advance(days=3, seconds=1)
        assert who(browser) is None

    def test_saying_it_again(self, app: Flask, keys: Keys, count_commands: CountCommands) -> None:
        """Said at every request, it makes no key for a visitor and writes nothing for a user."""
        assert not cookies_set(browser_of(app).get("/"))
        assert keys() == set()
        browser = signed_in(app)
        with count_commands() as commands:
            assert not cookies_set(browser.get("/health"))
        assert commands.names == ["GET"]


@pytest.mark.parametrize("path", ["/", "/notes", "/health", "/x"])
def test_without_a_store(install: Install, socket_path: str, path: str) -> None:
    """While the store fails every page of a user is 503, also one that asks for nothing: the first
    to look at the session may be Flask-Login, after the view."""
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


def test_a_deploy_signs_nobody_out(install: Install) -> None:
    """With `KVSESSION_MIGRATE_COOKIE_SESSION`, who was signed in by Flask's signed cookie stays so,
    in a session that is listed and can be revoked, and is not fresh: a cookie proves nothing."""
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
    def test_visitors_and_bots_make_no_key(self, app: Flask, keys: Keys) -> None:
        """Public pages, the sign-in form and failed sign-ins leave nothing in the store."""
        for browser in (browser_of(app), app.test_client(use_cookies=False)):
            responses = [browser.get(path) for path in ("/", "/login", "/cart", "/health", "/x")]
            responses.append(browser.post("/login", data={"name": "ada", "password": "x"}))
            assert not any(cookies_set(response) for response in responses)
        assert keys() == set()

    def test_a_message_to_a_visitor_makes_one(self, app: Flask, keys: Keys) -> None:
        """A guarded page flashes a message to whom it sends away, which makes a record. Once it has
        been shown, what Flask-Login notes of every session with data keeps the record."""
        browser = browser_of(app)
        assert browser.get("/notes").status_code == 302
        assert len(keys()) == 1
        assert flashed(browser)
        with browser.session_transaction() as data:
            assert dict(data) == {"_fresh": False}

    def test_a_manager_without_messages_makes_none(self, app: Flask, keys: Keys) -> None:
        """With `login_message = None` guarded pages make no record for a bot."""
        app.login_manager.login_message = None  # type: ignore[attr-defined]
        assert browser_of(app).get("/notes").location == "/login?next=%2Fnotes"
        assert keys() == set()

    def test_every_request_is_touched(self, app: Flask, count_commands: CountCommands) -> None:
        """Flask-Login looks at the session after every request: a user's costs one round trip,
        and its answer varies by cookie, though the view asked for nothing."""
        browser, visitor = signed_in(app), browser_of(app)
        with count_commands() as commands:
            response = browser.get("/health")
            visitor.get("/health")
        assert commands.names == ["GET"]
        assert "Cookie" in response.vary


def test_in_any_order(install: Install) -> None:
    """It makes no difference whether `KVSession(app)` or `LoginManager(app)` comes first."""
    app = create_app(first=lambda app: install(app, "_user_id"))
    laptop, phone = signed_in(app, remember="yes"), signed_in(app, "phone")
    assert flashed(laptop) == ["Welcome, ada."]
    (cookie,) = cookies_set(laptop.post("/logout?quietly=1"))
    assert clears(cookie)
    assert [who(laptop), devices(phone)] == [None, ["phone"]]
