"""Flask-Security(-Too), with its own sign-in pages and with `fs_uniquifier` as the user id."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_security import (
    RoleMixin,
    Security,
    UserMixin,
    auth_required,
    current_user,
    hash_password,
)
from flask_security.changeable import admin_change_password
from flask_security.datastore import UserDatastore

import flask_kvsession as kvs
from flask_kvsession.compat import remember_in_session
from flask_kvsession.testing import authenticated_client

from ..support.apps import Install
from ..support.commands import Keys
from ..support.flask_sessions import (
    DEVICES,
    browser_of,
    cookies_set,
    devices,
    id_of,
    outlives_the_browser,
    same_browser,
    sign_out_elsewhere,
    token,
)

# Flask-Security uses Flask-Login 0.6.3, which calls datetime.utcnow().
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning:flask_login"
)

EMAIL, PASSWORD, NEW_PASSWORD = "ada@example.com", "notes on the engine", "a better one, she said"


class User(UserMixin):
    active = True
    email = username = fs_uniquifier = ""

    def __init__(self, **facts: t.Any) -> None:
        vars(self).update(facts)


class Role(RoleMixin):
    name = ""


class Users(UserDatastore):
    """All users, in a list."""

    def __init__(self) -> None:
        super().__init__(User, Role)
        self.all: list[User] = []

    def put(self, model: User) -> User:
        if model not in self.all:
            self.all.append(model)
        return model

    def commit(self) -> None:
        pass

    def find_user(self, case_insensitive: bool = False, **fact: t.Any) -> User | None:
        ((name, value),) = fact.items()
        return next((user for user in self.all if getattr(user, name) == value), None)


@pytest.fixture
def users() -> Users:
    return Users()


@pytest.fixture
def ada(plain_app: Flask, users: Users) -> User:
    with plain_app.app_context():
        return t.cast(User, users.create_user(email=EMAIL, password=hash_password(PASSWORD)))


@pytest.fixture
def plain_app(users: Users) -> Flask:
    app = Flask("secure")
    app.config.update(
        TESTING=True,
        SECRET_KEY="only for tests",
        SECURITY_PASSWORD_SALT="only for tests",
        SECURITY_PASSWORD_HASH="plaintext",
        SECURITY_PASSWORD_SCHEMES=["plaintext"],
        SECURITY_CHANGEABLE=True,
        SECURITY_SEND_PASSWORD_CHANGE_EMAIL=False,
        SECURITY_EMAIL_VALIDATOR_ARGS={"check_deliverability": False},
    )
    Security(app, users)

    @app.get("/notes")
    @auth_required("session")
    def notes() -> t.Any:
        return current_user.email

    app.add_url_rule("/health", "health", lambda: "well")
    return app


@pytest.fixture
def app(plain_app: Flask, install: Install, ada: User) -> Flask:
    return install(plain_app, "_user_id")


def post(browser: FlaskClient, path: str, **form: str) -> t.Any:
    """Fills in the form of this page, with the CSRF token that is in it."""
    (csrf_token,) = re.findall(r'name="csrf_token"[^>]*value="([^"]+)"', browser.get(path).text)
    return browser.post(path, data={"csrf_token": csrf_token, **form})


def signed_in(app: Flask, agent: str = "laptop", **form: str) -> FlaskClient:
    browser = browser_of(app, agent)
    assert post(browser, "/login", email=EMAIL, password=PASSWORD, **form).location == "/"
    return browser


def change_password(browser: FlaskClient) -> None:
    new = {"new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
    # Flask-Security leaves the code of the redirect to Flask: 302, and 303 from Flask 3.2 on.
    assert post(browser, "/change", password=PASSWORD, **new).status_code in (302, 303)


def is_in(browser: FlaskClient) -> bool:
    return browser.get("/notes").text == EMAIL


def test_login_as_signs_a_user_in_by_the_uniquifier(app: Flask, ada: User) -> None:
    """Apps' tests sign a user of Flask-Security in by `fs_uniquifier`."""
    browser = authenticated_client(app, ada.fs_uniquifier)
    assert is_in(browser)
    assert len(devices(browser)) == 1


@pytest.mark.usefixtures("ada")
class TestSameAsWithFlasksSession:
    """The app behaves with KVSession as with Flask's own session."""

    @pytest.fixture
    def old_app(self, plain_app: Flask, either: Install) -> Flask:
        return either(plain_app, "_user_id")

    def test_a_user_is_signed_in_until_the_logout(self, old_app: Flask) -> None:
        """A user who signs in is known until the logout."""
        browser = browser_of(old_app)
        assert browser.get("/notes").location == "/login?next=/notes"
        browser = signed_in(old_app)
        assert [is_in(browser), is_in(browser)] == [True, True]
        assert browser.post("/logout").location == "/"
        assert not is_in(browser)

    def test_a_wrong_password_signs_no_user_in(self, old_app: Flask) -> None:
        """A wrong password signs no user in."""
        browser = browser_of(old_app)
        assert post(browser, "/login", email=EMAIL, password="wrong").status_code == 200
        assert not is_in(browser)

    def test_remember_me_outlives_the_session_cookie(self, old_app: Flask) -> None:
        """Flask-Security's "remember me" signs a browser in that has lost the session cookie."""
        browser = signed_in(old_app, remember="y")
        browser.delete_cookie("session")
        assert is_in(browser)

    def test_a_changed_password_signs_out_the_other_browser_only(self, old_app: Flask) -> None:
        """A user who changes the password stays signed in, and is signed out in the other
        browser."""
        laptop, phone = signed_in(old_app), signed_in(old_app, "phone")
        change_password(laptop)
        assert [is_in(laptop), is_in(phone)] == [True, False]


class TestDevices:
    def test_sessions_are_listed_and_revoked_by_fs_uniquifier(self, app: Flask, ada: User) -> None:
        """`fs_uniquifier` is the user id that lists and revokes the user's sessions."""
        laptop, phone = signed_in(app), signed_in(app, "phone")
        assert devices(laptop) == ["laptop", "phone"]
        with app.app_context():
            ids = {info.id for info in kvs.list_sessions(ada.fs_uniquifier)}
            assert ids == {id_of(laptop), id_of(phone)}
            assert kvs.revoke_all_sessions(ada.fs_uniquifier) == 2
        assert [is_in(laptop), is_in(phone)] == [False, False]

    def test_revoking_one_session_signs_out_that_browser_only(self, app: Flask) -> None:
        """A session that is revoked from another browser is signed out, and no other session."""
        laptop, phone = signed_in(app), signed_in(app, "phone")
        sign_out_elsewhere(laptop, phone)
        assert [is_in(laptop), is_in(phone)] == [True, False]

    def test_a_remembered_browser_stays_signed_out_after_revocation(self, app: Flask) -> None:
        """With `remember_in_session` a remembered browser stays signed out after the revocation."""
        remember_in_session(app)
        laptop, phone = signed_in(app), browser_of(app, "phone")
        response = post(phone, "/login", email=EMAIL, password=PASSWORD, remember="y")
        assert cookies_set(response, "remember_token") == []
        assert all(map(outlives_the_browser, cookies_set(response)))
        sign_out_elsewhere(laptop, phone)
        assert not is_in(phone)

    def test_a_changed_password_moves_the_session_to_the_new_uniquifier(
        self, app: Flask, users: Users, ada: User
    ) -> None:
        """After a change of the password, the session is listed under the new `fs_uniquifier`
        only."""
        laptop, before = signed_in(app), ada.fs_uniquifier
        change_password(laptop)
        assert devices(laptop) == ["laptop"]
        with app.app_context():
            assert kvs.list_sessions(before) == []
            assert len(kvs.list_sessions(ada.fs_uniquifier)) == 1


class TestSignedIn:
    """Guards and pages of this package agree with `auth_required`."""

    @pytest.fixture
    def plain_app(self, plain_app: Flask) -> Flask:
        plain_app.add_url_rule("/ours", "ours", kvs.login_required(lambda: "in"))
        plain_app.add_url_rule("/protected", "protected", lambda: "in")
        return plain_app

    @pytest.fixture
    def app(self, plain_app: Flask, install: Install, ada: User) -> Flask:
        return install(plain_app, "_user_id", protected_paths=["/protected"])

    def answers(self, browser: FlaskClient) -> set[bool]:
        paths = ["/notes", "/ours", "/protected", DEVICES]
        return {browser.get(path).status_code == 200 for path in paths}

    def test_a_password_change_signs_the_other_browser_out_everywhere(self, app: Flask) -> None:
        """After a change of the password, no guard lets the other browser in."""
        laptop, phone = signed_in(app), signed_in(app, "phone")
        change_password(laptop)
        assert (self.answers(laptop), self.answers(phone)) == ({True}, {False})

    def test_a_deactivated_user_is_signed_out_everywhere(
        self, app: Flask, users: Users, ada: User
    ) -> None:
        """No guard lets a deactivated user in. The user is signed in again after the account was
        activated again."""
        browser = signed_in(app)
        assert self.answers(browser) == {True}
        users.deactivate_user(ada)
        assert self.answers(browser) == {False}
        users.activate_user(ada)
        assert self.answers(browser) == {True}

    def test_an_auth_token_gives_no_session(self, app: Flask, ada: User) -> None:
        """A user of an authentication token has no session, so guards of this package refuse."""
        with app.test_request_context():
            auth_token = t.cast(t.Any, ada).get_auth_token()
        browser = browser_of(app)
        headers = {"Authentication-Token": auth_token}
        assert browser.get("/ours", headers=headers).status_code == 401
        assert browser.get(DEVICES, headers=headers).status_code == 401


class TestNewUniquifier:
    """The line in docs/flask-session.md: a new `fs_uniquifier` ends the sessions of the old one."""

    @pytest.fixture
    def users(self) -> Users:
        class RevokingUsers(Users):
            def set_uniquifier(self, user: t.Any, uniquifier: str | None = None) -> None:
                kvs.revoke_all_sessions(user.fs_uniquifier)
                super().set_uniquifier(user, uniquifier)

        return RevokingUsers()

    def test_a_password_change_ends_the_sessions_of_other_browsers(
        self, app: Flask, ada: User, keys: Keys
    ) -> None:
        """A change of the password keeps this browser signed in, and leaves no other session of
        the user in Redis."""
        laptop, phone, old = signed_in(app), signed_in(app, "phone"), ada.fs_uniquifier
        change_password(laptop)
        assert [is_in(laptop), is_in(phone)] == [True, False]
        assert devices(laptop) == ["laptop"]
        with app.app_context():
            assert kvs.list_sessions(old) == []
            assert len(kvs.list_sessions(ada.fs_uniquifier)) == 1
        with phone:
            phone.get("/health")
            assert kvs.current_session.ended == "revoked"

    def test_an_administrator_ends_all_sessions_of_the_user(
        self, app: Flask, users: Users, ada: User
    ) -> None:
        """The line also works outside a request: `reset_user_access` and
        `admin_change_password` end all sessions of the user."""
        acts: list[Callable[[], object]] = [
            lambda: users.reset_user_access(ada),
            lambda: admin_change_password(ada, NEW_PASSWORD, notify=False),
        ]
        for act in acts:
            with app.app_context():
                ada.password = hash_password(PASSWORD)
            browser, old = signed_in(app), ada.fs_uniquifier
            with app.app_context():
                act()
                assert kvs.list_sessions(old) == []
            assert not is_in(browser)


class TestToken:
    def test_a_forged_post_with_the_csrf_token_from_before_the_login_is_refused(
        self, app: Flask, ada: User
    ) -> None:
        """An attacker who has planted an anonymous session, and knows its CSRF token, cannot change
        the password of the user who signs in there."""
        attacker = browser_of(app)
        page = attacker.get("/login").text
        (planted,) = re.findall(r'name="csrf_token"[^>]*value="([^"]+)"', page)
        victim = same_browser(attacker, token(attacker))
        assert post(victim, "/login", email=EMAIL, password=PASSWORD).location == "/"
        new = {"new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
        form = {"csrf_token": planted, "password": PASSWORD, **new}
        assert victim.post("/change", data=form).status_code == 200  # the form again
        with app.app_context():
            assert ada.verify_and_update_password(PASSWORD)
        change_password(victim)

    def test_a_login_invalidates_the_anonymous_token_of_the_form(self, app: Flask) -> None:
        """The token of the anonymous session that the form has created opens nothing after the
        login."""
        browser = browser_of(app)
        browser.get("/login")
        before = token(browser)
        assert before
        post(browser, "/login", email=EMAIL, password=PASSWORD)
        assert is_in(browser)
        assert id_of(browser) != before[:19]
        assert not is_in(same_browser(browser, before))

    def test_a_logout_invalidates_the_users_token(self, app: Flask) -> None:
        """A token from before the logout signs no user in."""
        browser = signed_in(app)
        before = token(browser)
        browser.post("/logout")
        assert not is_in(same_browser(browser, before))

    def test_a_form_that_is_shown_repeatedly_creates_one_record(
        self, app: Flask, keys: Keys
    ) -> None:
        """The sign-in form creates one record for an anonymous browser, and a page without a form
        creates none."""
        browser = browser_of(app)
        browser.get("/health")
        assert keys() == set()
        for _ in range(3):
            browser.get("/login")
        assert len(keys()) == 1
