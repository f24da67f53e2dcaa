"""Unchanged apps and extensions of others, given KVSession by settings and `KVSession(app)` alone.

The fixture `either` runs a test twice: with Flask's own session and with KVSession's.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

import pytest
from flask import Flask

import flask_kvsession as kvs

from ..support.apps import Config, Install, close
from ..support.flask_sessions import DEVICES


@pytest.fixture
def settings(socket_path: str, prefix: str) -> Config:
    """The settings that make our session `flask.session`."""
    return {
        "KVSESSION_REDIS_URL": f"unix://{socket_path}",
        "KVSESSION_STORE_TIMEOUT": 10,  # for a busy machine
        "KVSESSION_KEY_PREFIX": prefix,
        "KVSESSION_AS_FLASK_SESSION": True,
    }


@pytest.fixture
def install(settings: Config) -> Iterator[Install]:
    """Makes our session an app's `flask.session` and adds the devices pages."""
    made: list[Flask] = []

    def install(app: Flask, user_id_key: str | None = None, **more: t.Any) -> Flask:
        app.config.update(settings)
        if user_id_key:
            app.config["KVSESSION_USER_ID_KEY"] = user_id_key
        app.config.update({f"KVSESSION_{key.upper()}": value for key, value in more.items()})
        kvs.KVSession(app)
        made.append(app)
        app.register_blueprint(kvs.sessions_blueprint, url_prefix=DEVICES.rstrip("/"))
        return app

    yield install
    for app in made:
        close(app)


@pytest.fixture(params=["flask", "ours"])
def either(request: pytest.FixtureRequest, install: Install) -> Install:
    """`install`; the test runs once more with a function that leaves the app unchanged."""

    def leave(app: Flask, user_id_key: str | None = None, **settings: t.Any) -> Flask:
        return app

    return install if request.param == "ours" else leave
