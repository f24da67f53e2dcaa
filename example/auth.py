"""Pages to sign in, to confirm the password and to sign out."""

from __future__ import annotations

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_kvsession import (
    confirm_login,
    login_required,
    login_user,
    logout_user,
    next_url,
    session_ended_reason,
)

from . import users
from .users import User

blueprint = Blueprint("auth", __name__)

REASONS = {
    "revoked": "This device was signed out from another device, or by an admin.",
    "limit": "This device was signed out, because you have signed in on many others since.",
    "stolen": (
        "This device was signed out, because somebody has used a copy of its sign-in. Change your"
        " password."
    ),
    "unbound": "This browser could not prove that it is the device on which you signed in.",
    "expired": "You were signed out, because this device was not used for some time.",
}


@blueprint.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """`KVSESSION_LOGIN_VIEW`: guards redirect anonymous browsers here, with `next` in the URL."""
    if request.method == "GET":
        if g.session.is_authenticated:
            return _to_next_page()
        return _sign_in_form(reason=REASONS.get(session_ended_reason() or ""))

    user = users.authenticate(request.form["email"], request.form["password"])
    if user is None:
        return _sign_in_form(error="The email address or the password is wrong."), 401

    login_user(user.id, session_data(user), remember="remember" in request.form)
    return _to_next_page()


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
    return _to_next_page()


@blueprint.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """With `next`, the next sign-in leads to that page: an error page lets the user change the
    account."""
    logout_user()
    return redirect(url_for("auth.sign_in", signed_out="yes", next=next_url("") or None), 303)


def _sign_in_form(**values: str | None) -> str:
    return render_template("sign_in.html", demo_users=users.DEMO_USERS, **values)


def _to_next_page() -> ResponseReturnValue:
    return redirect(next_url(url_for("pages.dashboard")), 303)
