"""Flask-WTF: the CSRF token of its forms is in the session."""

from __future__ import annotations

import re
import typing as t

import pytest
from flask import Flask, redirect, render_template_string, session
from flask.testing import FlaskClient
from flask_wtf import CSRFProtect, FlaskForm  # type: ignore[import-untyped]
from wtforms import StringField  # type: ignore[import-untyped]
from wtforms.validators import InputRequired  # type: ignore[import-untyped]

from ..support.apps import Install
from ..support.browsers import AS_PAGE
from ..support.commands import CountCommands, Keys
from ..support.flask_sessions import DEVICES, browser_of, cookies_set, devices, same_browser, token

PAGE = "<form method=post>{{ form.csrf_token }}{{ form.name }}</form>"


class NameForm(FlaskForm):  # type: ignore[misc]
    name = StringField(validators=[InputRequired()])


def create_app() -> Flask:
    """An app whose every post needs a token, and that keeps the session's data at login."""
    app = Flask("forms")
    app.config.update(TESTING=True, SECRET_KEY="only for tests")
    CSRFProtect(app)

    @app.route("/login", methods=["GET", "POST"])
    def login() -> t.Any:
        form = NameForm()
        if form.validate_on_submit():
            if "anew" in form.name.data:
                session.clear()
            session["user_id"] = form.name.data
            return redirect("/")
        return render_template_string(PAGE, form=form)

    @app.route("/note", methods=["GET", "POST"])
    def note() -> t.Any:
        form = NameForm()
        if form.validate_on_submit():
            session["note"] = form.name.data
            return redirect("/")
        return render_template_string(PAGE, form=form)

    @app.post("/logout")
    def logout() -> t.Any:
        session.pop("user_id", None)
        return redirect("/")

    @app.get("/")
    def index() -> t.Any:
        return {"user": session.get("user_id"), "note": session.get("note")}

    return app


@pytest.fixture
def app(install: Install) -> Flask:
    return install(create_app(), "user_id")


@pytest.fixture
def old_app(either: Install) -> Flask:
    return either(create_app(), "user_id")


def form_of(browser: FlaskClient, path: str = "/login") -> str:
    """The token in the form of this page."""
    (found,) = re.findall(r'name="csrf_token"[^>]*value="([^"]+)"', browser.get(path).text)
    return t.cast(str, found)


def post(browser: FlaskClient, path: str, csrf_token: str, name: str = "ada") -> int:
    return browser.post(path, data={"csrf_token": csrf_token, "name": name}).status_code


def log_in(browser: FlaskClient, name: str = "ada") -> str:
    """Signs in, and returns the token that was in the form."""
    csrf_token = form_of(browser)
    assert post(browser, "/login", csrf_token, name) == 302
    return csrf_token


class TestAsBefore:
    """With our session the forms do what they did with Flask's own."""

    def test_in_and_out(self, old_app: Flask) -> None:
        """Who posts the form signs in, writes, and signs out."""
        browser = browser_of(old_app)
        log_in(browser)
        assert post(browser, "/note", form_of(browser, "/note"), "hello") == 302
        assert browser.get("/").get_json() == {"user": "ada", "note": "hello"}
        assert post(browser, "/logout", form_of(browser, "/note")) == 302
        assert browser.get("/").get_json()["user"] is None

    @pytest.mark.parametrize("wrong", ["", "x", "of another"])
    def test_without_the_token(self, old_app: Flask, wrong: str) -> None:
        """A post without the token, or with another visitor's, is refused."""
        csrf_token = form_of(browser_of(old_app)) if wrong == "of another" else wrong
        browser = browser_of(old_app)
        form_of(browser)
        assert post(browser, "/login", csrf_token) == 400
        assert browser.get("/").get_json()["user"] is None

    def test_forms_in_two_tabs(self, old_app: Flask) -> None:
        """Of two forms of one visitor both can be posted."""
        browser = browser_of(old_app)
        one, other = form_of(browser, "/note"), form_of(browser, "/note")
        assert [post(browser, "/note", one), post(browser, "/note", other)] == [302, 302]

    def test_a_form_from_before_the_login(self, old_app: Flask) -> None:
        """Where the app keeps its data at login, a form opened before can be posted after it."""
        browser = browser_of(old_app)
        before = form_of(browser, "/note")
        log_in(browser)
        assert post(browser, "/note", before) == 302

    def test_a_login_that_clears(self, old_app: Flask) -> None:
        """Where the app clears its data at login the token is renewed."""
        browser = browser_of(old_app)
        before = log_in(browser, "anew")
        assert post(browser, "/note", before) == 400
        assert post(browser, "/note", form_of(browser, "/note")) == 302

    def test_a_form_from_before_the_logout(self, old_app: Flask) -> None:
        """A form opened before the logout can be posted after it, where the app keeps its data."""
        browser = browser_of(old_app)
        log_in(browser)
        before = form_of(browser, "/note")
        post(browser, "/logout", before)
        assert post(browser, "/note", before) == 302


class TestNow:
    def test_another_user_gets_another_token(self, app: Flask) -> None:
        """After another user's login in the same browser, the first one's forms are refused."""
        browser = browser_of(app)
        log_in(browser)
        before = form_of(browser, "/note")
        log_in(browser, "bob")
        assert post(browser, "/note", before) == 400
        assert post(browser, "/note", form_of(browser, "/note")) == 302

    def test_one_record_for_a_visitor(self, app: Flask, keys: Keys) -> None:
        """A visitor with a form has one record, however often the form is looked at."""
        browser = browser_of(app)
        assert len(cookies_set(browser.get("/login"))) == 1
        (record,) = keys()
        for path in ("/login", "/note", "/note"):
            assert not cookies_set(browser.get(path))
        assert keys() == {record}

    def test_pages_without_a_form_make_none(self, app: Flask, keys: Keys) -> None:
        """A page that shows no form makes no record, nor does a refused post."""
        browser = browser_of(app)
        browser.get("/")
        assert post(browser, "/login", "x") == 400
        assert keys() == set()

    def test_a_form_is_one_look(self, app: Flask, count_commands: CountCommands) -> None:
        """A form shown again costs one round trip: the token is there, so nothing is written."""
        browser = browser_of(app)
        browser.get("/note")
        with count_commands() as commands:
            browser.get("/note")
        assert commands.names == ["GET"]

    def test_the_devices_page(self, app: Flask) -> None:
        """The forms of the devices page carry the token, and sign the other browser out."""
        laptop, phone = browser_of(app), browser_of(app, "phone")
        log_in(laptop)
        log_in(phone)
        page = laptop.get(DEVICES, headers=AS_PAGE).text
        (action,) = re.findall(r'action="([^"]+/revoke)"', page)
        assert laptop.post(action, headers=AS_PAGE).status_code == 400
        (csrf_token,) = set(re.findall(r'name="csrf_token"[^>]*value="([^"]+)"', page))
        response = laptop.post(action, headers=AS_PAGE, data={"csrf_token": csrf_token})
        assert response.location == f"{DEVICES}?ended=1"
        assert phone.get("/").get_json()["user"] is None
        assert devices(laptop) == ["laptop"]

    def test_the_visitor_s_token_is_dead(self, app: Flask) -> None:
        """The session token that the form gave a visitor opens nothing after the login."""
        browser = browser_of(app)
        csrf_token = form_of(browser)
        before = token(browser)
        assert post(browser, "/login", csrf_token) == 302
        assert same_browser(browser, before).get("/").get_json()["user"] is None
