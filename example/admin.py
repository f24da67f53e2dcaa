"""Pages for admins: sign other users out, and change their roles."""

from __future__ import annotations

from flask import Blueprint, abort, g, render_template, request
from flask.typing import ResponseReturnValue

from flask_kvsession import (
    fresh_login_required,
    list_sessions,
    revoke_all_sessions,
    roles_required,
    update_all_sessions,
)

from . import users
from .pages import redirect_with
from .users import User

blueprint = Blueprint("admin", __name__, url_prefix="/admin")


@blueprint.before_request
@roles_required("admin")
@fresh_login_required
def admins_only() -> None:
    """Guards every page of this blueprint: checks the role, then that the login is fresh."""


@blueprint.get("/")
def people() -> ResponseReturnValue:
    everyone = [(user, len(list_sessions(user.id))) for user in users.everyone()]
    return render_template("people.html", people=everyone)


@blueprint.post("/<int:user_id>/sign-out")
def sign_out_everywhere(user_id: int) -> ResponseReturnValue:
    user = _somebody_else(user_id)
    ended = revoke_all_sessions(user.id)
    devices = "1 device was" if ended == 1 else f"{ended} devices were"
    return redirect_with(f"{devices} signed out: {user.name}.", "admin.people")


@blueprint.post("/<int:user_id>/role")
def change_role(user_id: int) -> ResponseReturnValue:
    """Changes the role in the sessions too, so it applies to the next request of each session."""
    user, role = _somebody_else(user_id), request.form["role"]
    if role not in users.ROLES:
        abort(400)
    update_all_sessions(user.id, {"role": role})  # first: if the store is down, this raises
    users.set_role(user.id, role)
    return redirect_with(f"The role of {user.name} is now: {role}.", "admin.people")


def _somebody_else(user_id: int) -> User:
    """Returns the user. Aborts for the admin's own account: admins must not lock themselves out."""
    if user_id == g.session.user_id:
        abort(403, "You cannot do this to your own account. Another admin can do it.")
    return users.get(user_id) or abort(404)
