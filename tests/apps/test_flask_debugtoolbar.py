"""Flask-DebugToolbar, which reads the session on every page, after the view."""

from __future__ import annotations

import typing as t

import pytest
from flask import Flask, redirect, session
from flask_debugtoolbar import DebugToolbarExtension

from ..support.apps import FLASK_PASSES_CONTEXT, Install
from ..support.commands import CountCommands, Keys
from ..support.flask_sessions import browser_of, cookies_set, devices, sign_out_elsewhere

pytestmark = pytest.mark.xfail(
    FLASK_PASSES_CONTEXT,
    reason="Flask-DebugToolbar 0.16 replaces dispatch_request and does not take the context",
    raises=TypeError,
)

PAGE = "<!doctype html><html><body><p>{}</p></body></html>"


def create_app(first: t.Callable[[Flask], object] | None = None, **config: t.Any) -> Flask:
    """`first` is called before the toolbar is set up."""
    app = Flask("debugged")
    app.debug = True
    app.config.update(TESTING=True, SECRET_KEY="only for tests")
    app.config.update({"DEBUG_TB_INTERCEPT_REDIRECTS": False, **config})
    if first:
        first(app)
    DebugToolbarExtension(app)

    @app.post("/login/<user>")
    def login(user: str) -> t.Any:
        session["user_id"] = user
        session["favourite"] = {"colour": "octarine"}
        return redirect("/", 302)

    @app.post("/logout")
    def logout() -> t.Any:
        session.clear()
        return redirect("/", 302)

    @app.get("/")
    def index() -> t.Any:
        return PAGE.format(session.get("user_id"))

    @app.get("/still")
    def still() -> t.Any:
        return PAGE.format("nothing of the session")

    return app


def test_the_toolbar_shows_the_data_until_the_logout(either: Install) -> None:
    """The toolbar shows the data of the session from the login to the logout."""
    browser = browser_of(either(create_app(), "user_id"))
    assert "flDebug" in browser.get("/").text
    browser.post("/login/ada")
    for _ in range(2):
        page = browser.get("/").text
        assert "<p>ada</p>" in page
        assert "octarine" in page
    browser.post("/logout")
    page = browser.get("/").text
    assert "<p>None</p>" in page
    assert "octarine" not in page


def test_a_login_with_an_intercepted_redirect_signs_the_user_in(either: Install) -> None:
    """A login signs the user in although the toolbar shows a page in place of the redirect."""
    browser = browser_of(either(create_app(DEBUG_TB_INTERCEPT_REDIRECTS=True), "user_id"))
    response = browser.post("/login/ada")
    assert response.status_code == 200
    assert len(cookies_set(response)) == 1
    assert "<p>ada</p>" in browser.get("/").text


@pytest.mark.parametrize("is_first", [True, False])
def test_sessions_are_listed_and_revoked_in_either_order_of_extensions(
    install: Install, is_first: bool
) -> None:
    """The devices page works whether KVSession or the toolbar is set up first."""

    def set_up(app: Flask) -> Flask:
        return install(app, "user_id")

    app = create_app(first=set_up) if is_first else set_up(create_app())
    laptop, phone = browser_of(app), browser_of(app, "phone")
    for browser in (laptop, phone):
        browser.post("/login/ada")
    assert devices(laptop) == ["laptop", "phone"]
    sign_out_elsewhere(laptop, phone)
    assert "<p>None</p>" in phone.get("/").text
    assert "<p>ada</p>" in laptop.get("/").text


def test_the_toolbars_read_of_the_session_writes_nothing(
    install: Install, keys: Keys, count_commands: CountCommands
) -> None:
    """The toolbar's read creates no record for an anonymous browser and writes no user's record."""
    app = install(create_app(), "user_id")
    anonymous, user = browser_of(app), browser_of(app)
    assert not cookies_set(anonymous.get("/still"))
    assert keys() == set()
    user.post("/login/ada")
    with count_commands() as commands:
        assert "octarine" in user.get("/still").text
    assert commands.names == ["GET"]
