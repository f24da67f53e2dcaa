"""Apps for tests: their views, their parts, and the types of the fixtures that make them."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

from flask import Flask, Response, g, jsonify, request
from flask.ctx import AppContext
from flask.globals import app_ctx
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession.app_state import AppState

Config = dict[str, t.Any]
MakeApp = Callable[..., Flask]
"""The type of the fixture `make_app`."""


class Do(t.Protocol):
    """The type of the fixture `do`."""

    def __call__(
        self, browser: FlaskClient, act: Callable[[], t.Any], **kwargs: t.Any
    ) -> TestResponse: ...


class Install(t.Protocol):
    """The type of the fixtures `install` and `either`, which give an app its sessions; keyword
    arguments are settings without their prefix."""

    def __call__(self, app: Flask, user_id_key: str | None = None, **settings: t.Any) -> Flask: ...


def add_views(app: Flask) -> None:
    """Adds the views that most tests need. A test adds its special views itself."""

    @app.post("/login/<user>")
    def login(user: str) -> t.Any:
        body = request.get_json(silent=True) or {}
        session = kvs.login_user(user, body.get("data"), remember=body.get("remember", True))
        return {"id": session.id}

    @app.post("/logout")
    def logout() -> t.Any:
        kvs.logout_user()
        return {}

    @app.get("/me")
    @kvs.login_required
    def me() -> t.Any:
        return {"id": g.session.id, "user": g.session.user_id, "data": dict(g.session)}

    @app.get("/data")
    def data() -> t.Any:
        return jsonify(dict(g.session))

    @app.post("/data")
    def set_data() -> t.Any:
        g.session.update(request.get_json())
        return {}

    @app.get("/untouched")
    def untouched() -> t.Any:
        return {}


def close(app: Flask) -> None:
    """Closes an app's connections, if the app has made any."""
    store = vars(state_of(app)).get("store")
    if store is not None:
        store.close()


def state_of(app: Flask) -> AppState:
    return t.cast(AppState, app.extensions["kvsession"])


def store_of(app: Flask) -> kvs.SessionStore:
    return state_of(app).store


def in_context(app: Flask, act: Callable[[], object]) -> None:
    """Calls a function in an app context, outside a request."""
    with app.app_context():
        act()


def preprocess_request(app: Flask) -> t.Any:
    """Calls what Flask calls before a view, in a context that a test has opened."""
    return _with_context(app.preprocess_request)


def process_response(app: Flask, response: Response) -> Response:
    """Calls what Flask calls at the end of a request, in a context that a test has opened."""
    return t.cast(Response, _with_context(app.process_response, response))


FLASK_PASSES_CONTEXT = hasattr(AppContext, "has_request")
"""Whether Flask's methods of the dispatch take the context first, as from Flask 3.2 on."""


def _with_context(method: t.Any, *args: t.Any) -> t.Any:
    if FLASK_PASSES_CONTEXT:
        return method(t.cast(t.Any, app_ctx)._get_current_object(), *args)
    return method(*args)
