"""The user's own account: email address, password, and the devices pages."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint, g, render_template, request
from flask.typing import ResponseReturnValue

from flask_kvsession import (
    confirm_login,
    fresh_login_required,
    login_required,
    revoke_all_sessions,
    sessions_blueprint,
    update_all_sessions,
)

from . import users
from .pages import redirect_with

MIN_PASSWORD_CHARS = 12

blueprint = Blueprint("account", __name__, url_prefix="/account")
blueprint.register_blueprint(sessions_blueprint, url_prefix="/devices")


@blueprint.before_request
@login_required
def signed_in_only() -> None:
    """Guards every page of this blueprint and of the nested one."""


@blueprint.get("/")
def overview() -> ResponseReturnValue:
    return render_template("account.html")


@blueprint.route("/email", methods=["GET", "POST"])
@fresh_login_required
def change_email() -> ResponseReturnValue:
    """Needs a fresh login: a person with another email address could reset the password."""
    if request.method == "GET":
        return render_template("change_email.html")

    email = request.form["email"].strip()
    if "@" not in email:
        return render_template("change_email.html", error="This is not an email address."), 400
    if not users.set_email(g.session.user_id, email):
        error = "This email address cannot be used."
        return render_template("change_email.html", error=error), 409

    update_all_sessions(g.session.user_id, {"email": email})
    return _back_with(f"Your email address is now {email}.")


@blueprint.route("/password", methods=["GET", "POST"])
def change_password() -> ResponseReturnValue:
    """Also signs the user's other devices out: somebody may have stolen the old password."""
    if request.method == "GET":
        return _password_form()
    if not users.is_password_of(g.session.user_id, request.form["current"]):
        return _password_form("This is not your current password.")
    if len(request.form["new"]) < MIN_PASSWORD_CHARS:
        return _password_form(f"Please use at least {MIN_PASSWORD_CHARS} characters.")

    confirm_login()  # first: if the store is down, this raises before anything has changed
    users.set_password(g.session.user_id, request.form["new"])
    ended = revoke_all_sessions(except_current=True)
    return _back_with(f"Your password is changed. {_others_ended(ended)}")


@blueprint.app_template_filter()
def ago(moment: datetime) -> str:
    """A time in words. It is inexact, because times have the accuracy of
    `KVSESSION_RENEWAL_INTERVAL`."""
    minutes = int((datetime.now(UTC) - moment).total_seconds() / 60)
    if minutes < 10:
        return "a few minutes ago"
    if minutes < 120:
        return f"{minutes} minutes ago"
    return f"{minutes // 60} hours ago" if minutes < 2 * 24 * 60 else f"{minutes // 1440} days ago"


def _password_form(error: str | None = None) -> ResponseReturnValue:
    page = render_template("change_password.html", error=error, min_chars=MIN_PASSWORD_CHARS)
    return page, 400 if error else 200


def _back_with(message: str) -> ResponseReturnValue:
    return redirect_with(message, "account.overview")


def _others_ended(count: int) -> str:
    if count == 0:
        return "You were signed in on no other device."
    return f"{count} other device{'s were' if count > 1 else ' was'} signed out."
