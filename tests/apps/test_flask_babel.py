"""Flask-Babel's lazy texts, which are translated only when they are converted to a str."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from babel.messages import Catalog
from babel.messages.mofile import write_mo
from flask import Flask, flash, get_flashed_messages, redirect, render_template_string, session
from flask.testing import FlaskClient
from flask_babel import Babel, lazy_gettext  # type: ignore[import-untyped]

from ..support.apps import Install
from ..support.flask_sessions import browser_of, devices, sign_out_elsewhere

PAGE = "{% for message in get_flashed_messages() %}<p>{{ message }}</p>{% endfor %}"
TEXTS = {"You are signed in.": "Du bist angemeldet.", "<b>Bye</b>": "<b>Tschüss</b>"}


@pytest.fixture
def plain_app(tmp_path: Path) -> Flask:
    """An app in two languages; each session has its own."""
    catalog = Catalog(locale="de")
    for text, translation in TEXTS.items():
        catalog.add(text, translation)
    folder = tmp_path / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    with (folder / "messages.mo").open("wb") as file:
        write_mo(file, catalog)

    app = Flask("translated")
    app.config.update(TESTING=True, SECRET_KEY="only for tests")
    app.config["BABEL_TRANSLATION_DIRECTORIES"] = str(tmp_path)
    Babel(app, locale_selector=lambda: session.get("language", "en"))

    @app.post("/login/<user>")
    def login(user: str) -> t.Any:
        session["user_id"] = user
        flash(lazy_gettext("You are signed in."))
        return redirect("/", 302)

    @app.post("/logout")
    def logout() -> t.Any:
        session.pop("user_id")
        flash(lazy_gettext("<b>Bye</b>"), "info")
        return redirect("/", 302)

    @app.post("/language/<language>")
    def choose(language: str) -> t.Any:
        session["language"] = language
        return redirect("/", 302)

    @app.get("/")
    def index() -> t.Any:
        return render_template_string(PAGE)

    @app.get("/me")
    def me() -> t.Any:
        return {"user": session.get("user_id"), "language": session.get("language")}

    @app.post("/types")
    def types() -> t.Any:
        flash(lazy_gettext("You are signed in."))
        flash("plain")
        session["title"] = lazy_gettext("You are signed in.")
        session["nested"] = {"titles": [lazy_gettext("You are signed in.")]}
        session.setdefault("list", []).append(lazy_gettext("You are signed in."))
        return kinds()

    @app.get("/types")
    def kinds() -> t.Any:
        inner = session["nested"]["titles"][0]
        return {"kinds": [type(text).__name__ for text in (session["title"], inner)]}

    @app.get("/list")
    def the_list() -> t.Any:
        return {"list": [str(text) for text in session["list"]]}

    @app.get("/messages")
    def messages() -> t.Any:
        return {"messages": [type(text).__name__ for text in get_flashed_messages()]}

    return app


def signed_in(app: Flask, agent: str = "laptop") -> FlaskClient:
    browser = browser_of(app, agent)
    browser.post("/language/de")
    browser.post("/login/ada")
    return browser


def test_a_lazy_message_is_shown_in_the_language_of_the_session(
    plain_app: Flask, either: Install
) -> None:
    """A lazy message is shown once on the next page, in the language of the browser's session."""
    app = either(plain_app, "user_id")
    browser, other = signed_in(app), browser_of(app)
    assert "<p>Du bist angemeldet.</p>" in browser.get("/").text
    assert browser.get("/").text == ""
    assert browser.get("/me").get_json() == {"user": "ada", "language": "de"}
    other.post("/login/bob")
    assert "<p>You are signed in.</p>" in other.get("/").text
    browser.post("/logout")
    assert "Tschüss" in browser.get("/").text
    assert browser.get("/me").get_json() == {"user": None, "language": "de"}


def test_a_lazy_text_is_escaped_on_the_page(plain_app: Flask, install: Install) -> None:
    """A lazy text is a str and therefore escaped on the page, unlike with Flask's own session."""
    browser = signed_in(install(plain_app, "user_id"))
    browser.get("/")
    browser.post("/logout")
    assert browser.get("/").text == "<p>&lt;b&gt;Tschüss&lt;/b&gt;</p>"


def test_a_lazy_text_is_a_str_in_the_session_at_once(plain_app: Flask, install: Install) -> None:
    """A lazy text becomes a str when it is assigned, also inside a dict or a list."""
    browser = browser_of(install(plain_app, "user_id"))
    for response in (browser.post("/types"), browser.get("/types")):
        assert response.get_json() == {"kinds": ["str", "str"]}
    assert browser.get("/messages").get_json() == {"messages": ["str", "str"]}


def test_a_lazy_text_appended_to_a_stored_list_is_stored(plain_app: Flask, either: Install) -> None:
    """A lazy text that is appended to a list in the session is stored."""
    browser = browser_of(either(plain_app, "user_id"))
    browser.post("/types")
    browser.post("/types")
    assert browser.get("/list").get_json() == {"list": ["You are signed in."] * 2}


def test_sessions_of_a_translated_app_are_listed_and_revoked(
    plain_app: Flask, install: Install
) -> None:
    """The devices page lists the sessions of the user, and signs out the other browser."""
    app = install(plain_app, "user_id")
    laptop, phone = signed_in(app), signed_in(app, "phone")
    assert devices(laptop) == ["laptop", "phone"]
    sign_out_elsewhere(laptop, phone)
    assert phone.get("/me").get_json() == {"user": None, "language": None}
