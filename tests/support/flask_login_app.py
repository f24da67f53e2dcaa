"""A small app with Flask-Login, written as in the documentation of Flask-Login, and its browsers.

The app does not use this package, except `guarded_app`. A test installs the package into the app.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask, flash, redirect, render_template_string, request, session, url_for
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from flask_login import (  # type: ignore[import-untyped]
    LoginManager,
    UserMixin,
    confirm_login,
    current_user,
    fresh_login_required,
    login_required,
    login_user,
    logout_user,
)
from werkzeug.test import TestResponse

import flask_kvsession as kvs

from .apps import Install
from .flask_sessions import browser_of

PASSWORDS = {"ada": "lovelace", "bob": "the builder"}

REMEMBER = "remember_token"

IGNORE_UTCNOW = pytest.mark.filterwarnings(
    # Flask-Login 0.6.3 calls datetime.utcnow(), which Python 3.12 deprecates.
    "ignore:datetime.datetime.utcnow:DeprecationWarning:flask_login"
)

PAGE = """<!doctype html>
<title>Notes</title>
{% for message in get_flashed_messages() %}<p class="flash">{{ message }}</p>{% endfor %}
<p>{{ current_user.id if current_user.is_authenticated else "nobody" }} at {{ request.path }}</p>
"""


class User(UserMixin):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.id = name


def create_app(first: Callable[[Flask], object] | None = None, **config: t.Any) -> Flask:
    """The app; `first` is called before Flask-Login is set up."""
    app = Flask("login_app")
    app.config.update(TESTING=True, SECRET_KEY="only for tests", **config)
    if first:
        first(app)
    login_manager = LoginManager(app)
    login_manager.login_view = "login"
    login_manager.refresh_view = "confirm"

    @login_manager.user_loader  # type: ignore[untyped-decorator]
    def load_user(user_id: str) -> User | None:
        return User(user_id) if user_id in PASSWORDS else None

    def page() -> str:
        return render_template_string(PAGE)

    @app.route("/login", methods=["GET", "POST"])
    def login() -> t.Any:
        name, duration = request.form.get("name", ""), request.form.get("days", type=int)
        if request.method == "POST" and PASSWORDS.get(name, "") == request.form["password"]:
            remember = "remember" in request.form
            login_user(User(name), remember, timedelta(days=duration) if duration else None)
            flash(f"Welcome, {name}.")
            return redirect(request.args.get("next") or url_for("index"), 302)
        return page()

    @app.post("/logout")
    def logout() -> t.Any:
        logout_user()
        if "quietly" not in request.args:
            flash("Good bye.")
        return redirect(url_for("index"), 302)

    @app.route("/confirm", methods=["GET", "POST"])
    @login_required  # type: ignore[untyped-decorator]
    def confirm() -> t.Any:
        if request.method == "POST" and PASSWORDS[current_user.id] == request.form["password"]:
            confirm_login()
            return redirect(url_for("payment"), 302)
        return page()

    @app.post("/cart/<thing>")
    def cart(thing: str) -> t.Any:
        session.setdefault("cart", []).append(thing)
        session.modified = True
        return session["cart"]

    @app.get("/cart")
    def show_cart() -> t.Any:
        return session.get("cart", [])

    app.add_url_rule("/", "index", page)
    app.add_url_rule("/notes", "notes", login_required(page))
    app.add_url_rule("/payment", "payment", fresh_login_required(page))
    app.add_url_rule("/health", "health", lambda: "well")
    return app


def guarded_app(
    install: Install, config: dict[str, t.Any] | None = None, **settings: t.Any
) -> Flask:
    """The app with our session, and with guards of this package beside those of Flask-Login."""
    settings = {
        "login_view": "login",
        "confirm_view": "confirm",
        "protected_paths": ["/protected/*"],
        **settings,
    }
    app = install(create_app(**(config or {})), "_user_id", **settings)
    app.add_url_rule("/ours", "ours", kvs.login_required(lambda: "in"))
    app.add_url_rule("/fresh", "fresh", kvs.fresh_login_required(lambda: "in"))
    app.add_url_rule("/role", "role", kvs.roles_required("reader")(lambda: "in"))
    app.add_url_rule("/protected/x", "protected", lambda: "in")
    app.add_url_rule("/facts", "facts", facts)
    return app


def facts() -> dict[str, t.Any]:
    current = kvs.current_session
    return {
        "user": current.user_id,
        "signed in": current.is_authenticated,
        "fresh": current.is_fresh,
        "Flask-Login": current_user.is_authenticated,
    }


def signed_cookie(app: Flask, **data: t.Any) -> str:
    """What Flask's own session would have left in a browser."""
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    return str(serializer.dumps(data))


def log_in(browser: FlaskClient, name: str = "ada", **form: t.Any) -> TestResponse:
    response = browser.post("/login", data={"name": name, "password": PASSWORDS[name], **form})
    assert response.location == "/"
    return response


def signed_in(app: Flask, agent: str = "laptop", name: str = "ada", **form: t.Any) -> FlaskClient:
    browser = browser_of(app, agent)
    log_in(browser, name, **form)
    return browser


def who(browser: FlaskClient, path: str = "/") -> str | None:
    """The user's name on the page; None if the page redirects the browser or names no user."""
    greeting = re.search(r"<p>(\w+) at ", browser.get(path).text)
    return greeting[1] if greeting and greeting[1] != "nobody" else None


def flashed(browser: FlaskClient) -> list[str]:
    return re.findall(r'<p class="flash">(.*?)</p>', browser.get("/").text)


def restart(browser: FlaskClient) -> None:
    """Closes the browser and opens it again."""
    for name in ("session", "session-anonymous", REMEMBER):
        cookie = browser.get_cookie(name)
        if cookie and cookie.expires is None and cookie.max_age is None:
            browser.delete_cookie(name)
