"""The dashboard, which stores notes in the session, and one view that returns JSON."""

from __future__ import annotations

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_kvsession import login_required

MAX_NOTES = 5
MAX_NOTE_CHARS = 80

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
@login_required
def dashboard() -> ResponseReturnValue:
    return render_template("dashboard.html", max_note_chars=MAX_NOTE_CHARS)


@blueprint.post("/notes")
@login_required
def add_note() -> ResponseReturnValue:
    """Changes a list in the session. The change is detected, and saved after the view."""
    notes = g.session.setdefault("notes", [])
    notes.append(request.form["note"].strip()[:MAX_NOTE_CHARS] or "…")
    del notes[:-MAX_NOTES]
    return redirect(url_for("pages.dashboard"), 303)


@blueprint.get("/api/me")
@login_required
def me() -> ResponseReturnValue:
    """Returns JSON. The guard's refusal is JSON too, unless a browser asks for a page."""
    return {"id": g.session.user_id, "email": g.session["email"], "role": g.session["role"]}


def redirect_with(message: str, endpoint: str) -> ResponseReturnValue:
    """Redirects to a page that shows the message once: page.html removes it from the session."""
    g.session["message"] = message
    return redirect(url_for(endpoint), 303)
