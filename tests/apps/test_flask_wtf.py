"""Flask-WTF, which keeps the CSRF token of its forms in the session."""

from __future__ import annotations

import re
import typing as t

import pytest
from flask import Flask, redirect, render_template_string, request, session
from flask.testing import FlaskClient
from flask_wtf import CSRFProtect, FlaskForm  # type: ignore[import-untyped]
from wtforms import StringField  # type: ignore[import-untyped]
from wtforms.validators import InputRequired  # type: ignore[import-untyped]

import flask_kvsession as kvs

from ..support.apps import Install
from ..support.browsers import AS_PAGE
from ..support.commands import CountCommands, Keys
from ..support.flask_sessions import DEVICES, browser_of, cookies_set, devices, same_browser, token

PAGE = "<form method=post>{{ form.hidden_tag() }}{{ form.name }}</form>"


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
            if request.args.get("show") == "form":
                return render_template_string(PAGE, form=NameForm())
            return redirect("/")
        return render_template_string(PAGE, form=form)

    @app.route("/note", methods=["GET", "POST"])
    def note() -> t.Any:
        form = NameForm()
        if form.validate_on_submit():
            session["note"] = form.name.data
            return redirect("/", 302)
        return render_template_string(PAGE, form=form)

    @app.post("/logout")
    def logout() -> t.Any:
        session.pop("user_id", None)
        return redirect("/", 302)

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


def form_of(browser: FlaskClient, path: str = "/login", field: str = "csrf_token") -> str:
    """The token in the form of this page."""
    return csrf_token_in(browser.get(path).text, field)


def csrf_token_in(page: str, field: str = "csrf_token") -> str:
    (found,) = re.findall(rf'name="{field}"[^>]*value="([^"]+)"', page)
    return t.cast(str, found)


def post(
    browser: FlaskClient, path: str, csrf_token: str, name: str = "ada", field: str = "csrf_token"
) -> int:
    return browser.post(path, data={field: csrf_token, "name": name}).status_code


def log_in(browser: FlaskClient, name: str = "ada") -> str:
    """Signs in, and returns the token that was in the form."""
    csrf_token = form_of(browser)
    assert post(browser, "/login", csrf_token, name) == 302
    return csrf_token


class TestSameAsWithFlasksSession:
    """The forms behave with KVSession as with Flask's own session."""

    def test_posted_forms_log_in_write_and_log_out(self, old_app: Flask) -> None:
        """A user signs in, writes and signs out by posted forms."""
        browser = browser_of(old_app)
        log_in(browser)
        assert post(browser, "/note", form_of(browser, "/note"), "hello") == 302
        assert browser.get("/").get_json() == {"user": "ada", "note": "hello"}
        assert post(browser, "/logout", form_of(browser, "/note")) == 302
        assert browser.get("/").get_json()["user"] is None

    @pytest.mark.parametrize("wrong", ["", "x", "of another"])
    def test_a_post_with_a_missing_wrong_or_foreign_token_is_refused(
        self, old_app: Flask, wrong: str
    ) -> None:
        """A post without the CSRF token of this browser is refused."""
        csrf_token = form_of(browser_of(old_app)) if wrong == "of another" else wrong
        browser = browser_of(old_app)
        form_of(browser)
        assert post(browser, "/login", csrf_token) == 400
        assert browser.get("/").get_json()["user"] is None

    def test_two_forms_of_one_browser_can_both_be_posted(self, old_app: Flask) -> None:
        """Two forms that are open in one browser can both be posted."""
        browser = browser_of(old_app)
        one, other = form_of(browser, "/note"), form_of(browser, "/note")
        assert [post(browser, "/note", one), post(browser, "/note", other)] == [302, 302]

    def test_a_login_that_clears_the_session_changes_the_csrf_token(self, old_app: Flask) -> None:
        """If the app clears the session at login, a form that was opened before the login is
        refused."""
        browser = browser_of(old_app)
        before = log_in(browser, "anew")
        assert post(browser, "/note", before) == 400
        assert post(browser, "/note", form_of(browser, "/note")) == 302

    def test_a_form_opened_before_the_logout_can_be_posted_after_it(self, old_app: Flask) -> None:
        """If the app keeps its data at logout, a form that was opened before the logout can be
        posted after the logout."""
        browser = browser_of(old_app)
        log_in(browser)
        before = form_of(browser, "/note")
        post(browser, "/logout", before)
        assert post(browser, "/note", before) == 302


class TestPlantedToken:
    """An attacker plants the cookie of an anonymous session whose CSRF token the attacker knows."""

    @pytest.mark.parametrize("field", ["csrf_token", "my_token"])
    def test_a_forged_post_with_the_token_from_before_the_login_is_refused(
        self, install: Install, field: str
    ) -> None:
        """After the login, a post with the anonymous session's CSRF token is refused, and the
        user's own forms work."""
        plain = create_app()
        plain.config["WTF_CSRF_FIELD_NAME"] = field
        app = install(plain, "user_id")
        attacker = browser_of(app)
        planted = form_of(attacker, "/note", field)
        victim = same_browser(attacker, token(attacker))
        assert post(victim, "/login", form_of(victim, "/login", field), field=field) == 302
        assert post(victim, "/note", planted, "forged", field) == 400
        own = form_of(victim, "/note", field)
        assert post(victim, "/note", own, "own", field) == 302
        assert victim.get("/").get_json() == {"user": "ada", "note": "own"}

    def test_a_form_in_the_response_of_the_login_can_be_posted(self, app: Flask) -> None:
        """A login that answers with a form puts a new CSRF token in it, although Flask-WTF had a
        token in `g` already."""
        browser = browser_of(app)
        form = {"csrf_token": form_of(browser, "/note"), "name": "ada"}
        page = browser.post("/login?show=form", data=form).text
        assert post(browser, "/note", csrf_token_in(page)) == 302

    def test_login_user_leaves_the_token_of_flask_session_behind(self, install: Install) -> None:
        """`login_user` of this package drops the CSRF token of the anonymous `flask.session` too,
        and a form in the same response can be posted."""
        app = install(create_app())

        @app.post("/enter")
        def enter() -> str:
            form = NameForm()
            kvs.login_user("ada")
            return render_template_string(PAGE, form=NameForm(), before=form.csrf_token)

        browser = browser_of(app)
        planted = form_of(browser, "/note")
        page = browser.post("/enter", data={"csrf_token": planted}).text
        assert post(browser, "/note", planted) == 400
        assert post(browser, "/note", csrf_token_in(page)) == 302


class TestWithKVSession:
    def test_a_login_of_another_user_changes_the_csrf_token(self, app: Flask) -> None:
        """After another user's login in the same browser, the previous user's forms are refused."""
        browser = browser_of(app)
        log_in(browser)
        before = form_of(browser, "/note")
        log_in(browser, "bob")
        assert post(browser, "/note", before) == 400
        assert post(browser, "/note", form_of(browser, "/note")) == 302

    def test_repeated_forms_of_an_anonymous_browser_keep_one_record(
        self, app: Flask, keys: Keys
    ) -> None:
        """An anonymous browser has one record, however often a form is shown."""
        browser = browser_of(app)
        assert len(cookies_set(browser.get("/login"))) == 1
        (record,) = keys()
        for path in ("/login", "/note", "/note"):
            assert not cookies_set(browser.get(path))
        assert keys() == {record}

    def test_a_page_without_a_form_and_a_refused_post_create_no_record(
        self, app: Flask, keys: Keys
    ) -> None:
        """Pages without a form and refused posts create no record."""
        browser = browser_of(app)
        browser.get("/")
        assert post(browser, "/login", "x") == 400
        assert keys() == set()

    def test_a_form_that_is_shown_again_costs_one_read(
        self, app: Flask, count_commands: CountCommands
    ) -> None:
        """A form that is shown again costs one GET, because the stored CSRF token is used again."""
        browser = browser_of(app)
        browser.get("/note")
        with count_commands() as commands:
            browser.get("/note")
        assert commands.names == ["GET"]

    def test_the_forms_of_the_devices_page_carry_the_csrf_token(self, app: Flask) -> None:
        """The forms of the devices page carry the CSRF token, and sign the other browser out."""
        laptop, phone = browser_of(app), browser_of(app, "phone")
        log_in(laptop)
        log_in(phone)
        page = laptop.get(DEVICES, headers=AS_PAGE).text
        (action,) = re.findall(r'action="([^"]+/revoke)"', page)
        assert laptop.post(action, headers=AS_PAGE).status_code == 400
        (csrf_token,) = set(re.findall(r'name="csrf_token"[^>]*value="([^"]+)"', page))
        response = laptop.post(action, headers=AS_PAGE, data={"csrf_token": csrf_token})
        assert response.location == DEVICES
        assert phone.get("/").get_json()["user"] is None
        assert devices(laptop) == ["laptop"]

    def test_a_login_invalidates_the_anonymous_session_token(self, app: Flask) -> None:
        """The token of the anonymous session that the form has created opens nothing after the
        login."""
        browser = browser_of(app)
        csrf_token = form_of(browser)
        before = token(browser)
        assert post(browser, "/login", csrf_token) == 302
        assert same_browser(browser, before).get("/").get_json()["user"] is None
