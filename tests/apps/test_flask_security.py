"""Flask-Security(-Too): its own sign-in pages, which know users by `fs_uniquifier`."""

from __future__ import annotations

import re
import typing as t

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
from flask_security.datastore import UserDatastore

import flask_kvsession as kvs
from flask_kvsession.remember import remember_in_session

from ..support.apps import Install
from ..support.commands import Keys
from ..support.flask_sessions import (
    browser_of,
    cookies_set,
    devices,
    id_of,
    outlives_the_browser,
    same_browser,
    sign_out_elsewhere,
    token,
)

# Flask-Login 0.6.3, which it is built on, still asks datetime for utcnow().
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
    assert post(browser, "/change", password=PASSWORD, **new).status_code == 302


def is_in(browser: FlaskClient) -> bool:
    return browser.get("/notes").text == EMAIL


@pytest.mark.usefixtures("ada")
class TestAsBefore:
    """With our session the app does what it did with Flask's own."""

    @pytest.fixture
    def old_app(self, plain_app: Flask, either: Install) -> Flask:
        return either(plain_app, "_user_id")

    def test_in_and_out(self, old_app: Flask) -> None:
        """Who signs in is known until signing out."""
        browser = browser_of(old_app)
        assert browser.get("/notes").location == "/login?next=/notes"
        browser = signed_in(old_app)
        assert [is_in(browser), is_in(browser)] == [True, True]
        assert browser.post("/logout").location == "/"
        assert not is_in(browser)

    def test_a_wrong_password(self, old_app: Flask) -> None:
        """A wrong password signs nobody in."""
        browser = browser_of(old_app)
        assert post(browser, "/login", email=EMAIL, password="wrong").status_code == 200
        assert not is_in(browser)

    def test_remembered(self, old_app: Flask) -> None:
        """Its "remember me" outlives the session's cookie."""
        browser = signed_in(old_app, remember="y")
        browser.delete_cookie("session")
        assert is_in(browser)

    def test_a_changed_password(self, old_app: Flask) -> None:
        """Who changes the password stays signed in, and is signed out elsewhere."""
        laptop, phone = signed_in(old_app), signed_in(old_app, "phone")
        change_password(laptop)
        assert [is_in(laptop), is_in(phone)] == [True, False]


class TestDevices:
    def test_listed_by_their_uniquifier(self, app: Flask, ada: User) -> None:
        """The user's id is `fs_uniquifier`, which lists and revokes."""
        laptop, phone = signed_in(app), signed_in(app, "phone")
        assert devices(laptop) == ["laptop", "phone"]
        with app.app_context():
            ids = {info.id for info in kvs.list_sessions(ada.fs_uniquifier)}
            assert ids == {id_of(laptop), id_of(phone)}
            assert kvs.revoke_all_sessions(ada.fs_uniquifier) == 2
        assert [is_in(laptop), is_in(phone)] == [False, False]

    def test_one_device_signs_the_other_out(self, app: Flask) -> None:
        """A session that is revoked from another browser is signed out, and only that one."""
        laptop, phone = signed_in(app), signed_in(app, "phone")
        sign_out_elsewhere(laptop, phone)
        assert [is_in(laptop), is_in(phone)] == [True, False]

    def test_remembered_and_revoked(self, app: Flask) -> None:
        """With `remember_in_session` a remembered browser stays signed out too."""
        remember_in_session(app)
        laptop, phone = signed_in(app), browser_of(app, "phone")
        response = post(phone, "/login", email=EMAIL, password=PASSWORD, remember="y")
        assert cookies_set(response, "remember_token") == []
        assert all(map(outlives_the_browser, cookies_set(response)))
        sign_out_elsewhere(laptop, phone)
        assert not is_in(phone)

    def test_after_a_changed_password(self, app: Flask, users: Users, ada: User) -> None:
        """A changed password is a new user to us: the session goes on under the new uniquifier."""
        laptop, before = signed_in(app), ada.fs_uniquifier
        change_password(laptop)
        assert devices(laptop) == ["laptop"]
        with app.app_context():
            assert kvs.list_sessions(before) == []
            assert len(kvs.list_sessions(ada.fs_uniquifier)) == 1


class TestToken:
    def test_it_is_new_after_the_login(self, app: Flask) -> None:
        """The visitor's session that the form made ends with the login."""
        browser = browser_of(app)
        browser.get("/login")
        before = token(browser)
        assert before
        post(browser, "/login", email=EMAIL, password=PASSWORD)
        assert is_in(browser)
        assert id_of(browser) != before[:19]
        assert not is_in(same_browser(browser, before))

    def test_it_is_worthless_after_the_logout(self, app: Flask) -> None:
        """A token kept from before the logout signs nobody in."""
        browser = signed_in(app)
        before = token(browser)
        browser.post("/logout")
        assert not is_in(same_browser(browser, before))

    def test_a_form_makes_one_record(self, app: Flask, keys: Keys) -> None:
        """A visitor who looks at the form makes a record, once; other pages make none."""
        browser = browser_of(app)
        browser.get("/health")
        assert keys() == set()
        for _ in range(3):
            browser.get("/login")
        assert len(keys()) == 1
