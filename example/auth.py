"""Pages to sign in, to confirm the password and to sign out."""

from __future__ import annotations

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_kvsession import confirm_login, login_required, login_user, logout_user, next_url

from . import users
from .users import User

blueprint = Blueprint("auth", __name__)


@blueprint.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """`KVSESSION_LOGIN_VIEW`: guards redirect anonymous browsers here, with `next` in the URL."""
    if request.method == "GET":
        return render_template("sign_in.html", demo_users=users.DEMO_USERS)

    user = users.authenticate(request.form["email"], request.form["password"])
    if user is None:
        error = "The email address or the password is wrong."
        return render_template("sign_in.html", demo_users=users.DEMO_USERS, error=error), 401

    login_user(user.id, session_data(user), remember="remember" in request.form)
    return redirect(next_url(url_for("pages.dashboard")), 303)


def session_data(user: User) -> dict[str, str]:
    """What pages need of the user, so that they read the session and not the database."""
    return {"name": user.name, "email": user.email, "role": user.role}


@blueprint.route("/confirm", methods=["GET", "POST"])
@login_required
def confirm() -> ResponseReturnValue:
    """`KVSESSION_CONFIRM_VIEW`: guards redirect here if the login is not fresh."""
    if request.method == "GET":
        return render_template("confirm.html")
    if not users.is_password_of(g.session.user_id, request.form["password"]):
        return render_template("confirm.html", error="This is not your password."), 401

    confirm_login()
    return redirect(next_url(url_for("pages.dashboard")), 303)


@blueprint.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    logout_user()
    return redirect(url_for("auth.sign_in", signed_out="yes"), 303)
