"""A small app with Flask-Login, written as its documentation teaches; it knows nothing of us."""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from datetime import timedelta

from flask import Flask, flash, redirect, render_template_string, request, session, url_for
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

PASSWORDS = {"ada": "lovelace", "bob": "the builder"}

PAGE = """<!doctype html>
<title>Notes</title>
{% for message in get_flashed_messages() %}<p class="flash">{{ message }}</p>{% endfor %}
<p>{{ current_user.id if current_user.is_authenticated else "nobody" }} at {{ request.path }}</p>
"""


class User(UserMixin):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.id = name


def create_app(first: Callable[[Flask], object] | None = None, **config: t.Any) -> Flask:
    """`first` is called before Flask-Login is set up."""
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
            return redirect(request.args.get("next") or url_for("index"))
        return page()

    @app.post("/logout")
    def logout() -> t.Any:
        logout_user()
        if "quietly" not in request.args:
            flash("Good bye.")
        return redirect(url_for("index"))

    @app.route("/confirm", methods=["GET", "POST"])
    @login_required  # type: ignore[untyped-decorator]
    def confirm() -> t.Any:
        if request.method == "POST" and PASSWORDS[current_user.id] == request.form["password"]:
            confirm_login()
            return redirect(url_for("payment"))
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
