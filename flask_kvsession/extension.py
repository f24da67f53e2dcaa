"""Setting an app up: wiring, nothing else."""

from __future__ import annotations

import typing as t
import weakref

from . import interface, renamed
from .connection import check_url
from .errors import ConfigurationError
from .guards import guard_paths
from .request import request_state
from .settings import Settings
from .state import EXTENSION, AppState
from .store import RedisClient

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Response


class KVSession:
    """Gives an app login sessions in Redis that can be listed, renewed and revoked.

    `KVSession(app)`, or `kv = KVSession()` and later `kv.init_app(app)`; one object may serve any
    number of apps. `redis` is a ready redis-py client, whose own timeouts and retries then rule;
    without one `KVSESSION_REDIS_URL` says where the server is.
    """

    def __init__(self, app: Flask | None = None, *, redis: RedisClient | None = None) -> None:
        if app is not None:
            self.init_app(app, redis=redis)
        elif redis is not None:
            raise ConfigurationError(
                "Pass the client with the app: kv.init_app(app, redis=client)."
            )

    def init_app(self, app: Flask, *, redis: RedisClient | None = None) -> None:
        """Reads the app's settings and hooks into its requests; connects nowhere yet.

        Raises `ConfigurationError` for settings that cannot work, and the second time on one app.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError(
                "This app has its sessions already; call KVSession(app), or kv.init_app(app), once."
            )
        settings = Settings.from_config(app.config)
        if redis is None and settings.redis_url is not None:
            check_url(settings.redis_url)
        # The first hook before and the last one after, whatever was registered already: all the
        # app's hooks have the session, and what they change in it is committed. A session
        # interface is asked after them all.
        if settings.as_flask_session:
            interface.install(app)
        else:
            app.after_request_funcs.setdefault(None, []).insert(0, _finish)
        app.extensions[EXTENSION] = AppState(weakref.ref(app), settings, redis)
        app.url_value_preprocessors.setdefault(None, []).insert(0, _enter)
        app.before_request_funcs.setdefault(None, []).insert(0, guard_paths)
        app.teardown_request_funcs.setdefault(None, []).insert(0, _leave)

    if not t.TYPE_CHECKING:  # which would take any name then

        def __getattr__(self, name):
            """Says of a name of old what it is called now."""
            renamed.raise_renamed_attribute(self, name)


def _enter(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
    """Of all functions that Flask calls for a request, one of this kind is the first."""
    request_state().enter_g()


def _finish(response: Response) -> Response:
    return request_state().finish(response)


def _leave(error: BaseException | None) -> None:
    request_state().leave_g()
