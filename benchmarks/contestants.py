"""The apps that are compared. All have the same views, and differ in how they keep the session.

The process of Flask-KVSession-Invenio imports this module too. There the name `flask_kvsession`
means that package, so each function imports only what its app needs.
"""

from __future__ import annotations

import importlib
import time
import typing as t
from collections.abc import Callable, MutableMapping

import redis
from flask import Flask, request, session

from .cases import (
    BARE,
    BARE_GET,
    INVENIO,
    NEAR_CACHE,
    NO_CLIENT,
    NO_REFRESH,
    OURS,
    SESSION,
    SIGNED,
    session_data,
)

SECRET_KEY = "only for the benchmarks"
ROOM_FOR_ALL = 1000

Mapping = MutableMapping[str, t.Any]


def make_app(name: str, socket_path: str) -> Flask:
    """The app of a contestant, with its sessions in the server at this socket."""
    app = Flask("benchmarks")
    app.config["SESSION_COOKIE_SECURE"] = True
    app.add_url_rule("/untouched", view_func=_untouched)
    _MAKERS[name](app, socket_path)
    return app


def _untouched() -> str:
    return "a page"


def _bare(app: Flask, socket_path: str) -> None:
    app.add_url_rule("/login", view_func=_untouched, methods=["POST"])


def _bare_get(app: Flask, socket_path: str) -> None:
    """Adds a view that reads a value of the size of a session by redis-py."""
    client = redis.Redis(unix_socket_path=socket_path)

    @app.post("/login")
    def log_in() -> str:
        client.set(f"bare:{request.environ['benchmark.keys']}", b"x" * 600, ex=3600)
        return "signed in"

    @app.get("/read")
    def read() -> str:
        client.get(f"bare:{request.environ['benchmark.keys']}")
        return "reader"


def _signed_cookie(app: Flask, socket_path: str) -> None:
    app.secret_key = SECRET_KEY  # the others have none: with it, Flask opens its own session too
    _add_session_views(app)


def _flask_session(app: Flask, socket_path: str) -> None:
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis(unix_socket_path=socket_path))
    importlib.import_module("flask_session").Session(app)
    _add_session_views(app)


def _flask_session_no_refresh(app: Flask, socket_path: str) -> None:
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    _flask_session(app, socket_path)


def _invenio(app: Flask, socket_path: str) -> None:
    app.secret_key = SECRET_KEY
    stores = importlib.import_module("simplekv.memory.redisstore")
    store = stores.RedisStore(redis.Redis(unix_socket_path=socket_path))
    importlib.import_module("flask_kvsession").KVSessionExtension(store, app)
    _add_session_views(app)


def _ours(app: Flask, socket_path: str) -> None:
    import flask_kvsession as kvs

    app.config["KVSESSION_REDIS_URL"] = f"unix://{socket_path}"
    app.config["KVSESSION_STORE_TIMEOUT"] = 60  # for runs under valgrind
    app.config["KVSESSION_MAX_SESSIONS_PER_USER"] = ROOM_FOR_ALL
    kvs.KVSession(app)
    _add_views(app, kvs.current_session, kvs.login_user, kvs.logout_user)

    @app.get("/sessions")
    def sessions() -> str:
        return str(len(kvs.list_sessions()))

    @app.post("/revoke")
    def revoke() -> str:
        return str(kvs.revoke_all_sessions())


def _ours_no_client(app: Flask, socket_path: str) -> None:
    """Records what Flask-Session records, so that the two sizes can be compared."""
    app.config.update(KVSESSION_RECORD_IP=False, KVSESSION_RECORD_USER_AGENT=False)
    _ours(app, socket_path)


def _ours_near_cache(app: Flask, socket_path: str) -> None:
    """Its prefix is its own, so that it is not told of the changes of other contestants."""
    app.config.update(KVSESSION_NEAR_CACHE=True, KVSESSION_KEY_PREFIX="near")
    _ours(app, socket_path)
    tracker = app.extensions["kvsession"].store.tracker
    tracker.start()
    while not tracker.is_proven():
        time.sleep(0.01)


def _add_session_views(app: Flask) -> None:
    """Adds the views of an app that signs users in by a key of `flask.session`."""

    def log_in(user: str, data: dict[str, t.Any]) -> None:
        session["user_id"] = user
        session.update(data)

    _add_views(app, session, log_in, lambda: session.clear())


def _add_views(
    app: Flask,
    session: Mapping,
    log_in: Callable[[str, dict[str, t.Any]], object],
    log_out: Callable[[], object],
) -> None:
    # What a request needs is in its environ, so that no contestant's time has the parsing in it.
    @app.post("/login")
    def login() -> str:
        log_in(request.environ["benchmark.user"], session_data(request.environ["benchmark.keys"]))
        return "signed in"

    @app.post("/logout")
    def logout() -> str:
        log_out()
        return "signed out"

    @app.get("/read")
    def read() -> str:
        return str(session.get("role"))

    @app.post("/write")
    def write() -> str:
        session["email"] = request.environ["benchmark.value"]
        return "written"


_MAKERS: t.Final[dict[str, Callable[[Flask, str], None]]] = {
    BARE: _bare,
    BARE_GET: _bare_get,
    SIGNED: _signed_cookie,
    SESSION: _flask_session,
    NO_REFRESH: _flask_session_no_refresh,
    INVENIO: _invenio,
    OURS: _ours,
    NO_CLIENT: _ours_no_client,
    NEAR_CACHE: _ours_near_cache,
}
