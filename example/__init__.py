"""A small app with real sign-in that shows how to use Flask-KVSession-Redis. See README.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from flask import Flask, Response, g, render_template
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from flask_kvsession import KVSession, cross_origin_guard, device_bound_blueprint
from flask_kvsession.errors import RoleRequired, StoreUnavailable

from . import account, admin, auth, pages, places, users

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def create_app(config: Mapping[str, object] | None = None) -> Flask:
    """Returns the app, ready to run. `config` overrides its settings, for tests."""
    app = Flask(__name__)
    app.config.from_mapping(
        DATABASE=str(Path(app.instance_path, "users.sqlite")),
        KVSESSION_LOGIN_VIEW="auth.sign_in",
        KVSESSION_CONFIRM_VIEW="auth.confirm",
        KVSESSION_FRESH_FOR=timedelta(minutes=5),
        KVSESSION_FRESH_TO_REVOKE=True,
        KVSESSION_LOCATE=places.place_of,
    )
    # The environment variable FLASK_KVSESSION_REDIS_URL sets KVSESSION_REDIS_URL. Without it, and
    # with --debug, the extension runs an embedded server in the instance folder.
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})

    KVSession(app)  # after all settings
    app.before_request(cross_origin_guard)
    app.register_blueprint(device_bound_blueprint)  # used by `make example-https`
    app.after_request(add_headers)
    app.register_error_handler(StoreUnavailable, show_unavailable)
    app.register_error_handler(RoleRequired, show_role_required)
    app.register_error_handler(403, show_error)
    app.register_error_handler(404, show_error)

    users.init_app(app)
    for module in (auth, pages, account, admin):
        app.register_blueprint(module.blueprint)
    return app


def add_headers(response: Response) -> Response:
    """Forbids pages to load anything from other sites, and other sites to show them in a frame."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def show_role_required(error: RoleRequired) -> ResponseReturnValue:
    """Says who is signed in, and offers to use another account."""
    return render_template("other_account.html", name=g.session["name"]), 403


# These error pages extend base.html, which does not use the session. So they work if the store
# fails.


def show_error(error: HTTPException) -> ResponseReturnValue:
    return render_template("error.html", error=error), error.code or 500


def show_unavailable(error: StoreUnavailable) -> ResponseReturnValue:
    """Answers 503 and leaves the cookie: if the store is down, the user is still signed in."""
    return render_template("unavailable.html"), 503, {"Retry-After": "5"}
