"""A pytest plugin: every app gets KVSession as `flask.session`, unless it sets an interface itself.

The option `-p` loads the plugin into the other project's run. At the end the plugin writes the
number of apps and of opened sessions to a file.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import typing as t
from functools import cache

import flask
import pytest
from flask.sessions import SecureCookieSessionInterface

import flask_kvsession as kvs
from flask_kvsession.compat.interface import KVSessionInterface
from flask_kvsession.connection import EmbeddedServer

done = {"apps": 0, "sessions": 0}


@cache
def server() -> EmbeddedServer:
    return EmbeddedServer(tempfile.mkdtemp(prefix="kvsession-outside-"), ephemeral=True)


def set_up(app: flask.Flask) -> None:
    """Adds to the app only what a user of KVSession would add."""
    app.config.update(
        KVSESSION_AS_FLASK_SESSION=True,
        KVSESSION_REDIS_URL=f"unix://{server().socket_path}",
        KVSESSION_USER_ID_KEY=os.environ.get("KVSESSION_OUTSIDE_KEY"),
        KVSESSION_KEY_PREFIX=f"outside-{secrets.token_hex(6)}",
        # Flask's sessions live for 31 days, longer than the default of this setting.
        KVSESSION_ABSOLUTE_TIMEOUT=app.permanent_session_lifetime,
    )
    kvs.KVSession(app)
    done["apps"] += 1


def take_away(app: flask.Flask) -> None:
    """Removes KVSession from an app that sets a session interface of its own."""
    kinds = (app.url_value_preprocessors, app.before_request_funcs, app.teardown_request_funcs)
    for hooks in t.cast("tuple[dict[str, list[t.Any]], ...]", kinds):
        for functions in hooks.values():
            functions[:] = [f for f in functions if not f.__module__.startswith("flask_kvsession")]
    del app.extensions["kvsession"]


_init, _setattr = flask.Flask.__init__, flask.Flask.__setattr__
_open_session = KVSessionInterface.open_session


def init(self: flask.Flask, *args: t.Any, **kwargs: t.Any) -> None:
    _init(self, *args, **kwargs)
    if type(self.session_interface) is SecureCookieSessionInterface:
        set_up(self)


def set_attribute(self: flask.Flask, name: str, value: t.Any) -> None:
    _setattr(self, name, value)
    is_theirs = name == "session_interface" and not isinstance(value, KVSessionInterface)
    if is_theirs and "kvsession" in self.extensions:
        take_away(self)


def open_session(self: KVSessionInterface, app: flask.Flask, request: flask.Request) -> t.Any:
    """Counts the opened sessions, which proves that Flask uses KVSession."""
    done["sessions"] += 1
    return _open_session(self, app, request)


def pytest_configure(config: pytest.Config) -> None:
    flask.Flask.__init__ = init  # type: ignore[method-assign]
    flask.Flask.__setattr__ = set_attribute  # type: ignore[method-assign, assignment]
    KVSessionInterface.open_session = open_session  # type: ignore[method-assign]


def pytest_unconfigure(config: pytest.Config) -> None:
    with open(os.environ["KVSESSION_OUTSIDE_DONE"], "w") as file:
        json.dump(done, file)
    server().close()
