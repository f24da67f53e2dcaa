"""The apps that the fuzz targets send requests to, on a server of their own."""

from __future__ import annotations

import tempfile
import typing as t
from functools import cache

from flask import Flask, redirect
from werkzeug.test import EnvironBuilder, run_wsgi_app
from werkzeug.wrappers import Response

import flask_kvsession as kvs
from flask_kvsession.connection import EmbeddedServer

from ..support.apps import add_views

Environ = dict[str, t.Any]


@cache
def server() -> EmbeddedServer:
    """It stops and removes its folder when this process ends."""
    return EmbeddedServer(tempfile.mkdtemp(prefix="kvsession-fuzz-"), ephemeral=True)


def make_app(**config: t.Any) -> Flask:
    """An app that answers an unexpected error with a 500, as in production."""
    app = Flask("fuzz")
    app.config.update(TESTING=True, PROPAGATE_EXCEPTIONS=False)
    app.config.update(KVSESSION_REDIS_URL=f"unix://{server().socket_path}", **config)
    kvs.KVSession(app)
    add_views(app)

    @app.post("/after")
    def after() -> Response:
        return redirect(kvs.next_url("/default"), 303)

    @app.get("/values")
    @kvs.login_required
    def values() -> t.Any:
        return {"values": len(dict(kvs.current_session))}

    @app.get("/list")
    def list_sessions() -> t.Any:
        return [session.last_seen_at.isoformat() for session in kvs.list_sessions()]

    return app


def request_environ(path: str, method: str = "GET", **options: t.Any) -> Environ:
    builder = EnvironBuilder(path, method=method, **options)
    try:
        return builder.get_environ()
    finally:
        builder.close()


def send(app: Flask, environ: Environ) -> tuple[int, str, t.Any]:
    """Sends a request through WSGI, with the environ as it is. Returns the status, the body and the
    headers."""
    body, status, headers = run_wsgi_app(app, environ, buffered=True)
    return int(status.split()[0]), b"".join(body).decode(), headers
