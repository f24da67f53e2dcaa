"""Sets an app up: wiring, nothing else."""

from __future__ import annotations

import time
import typing as t
import weakref

from . import cli, compat, device_bound, renamed
from .api import current_session
from .app_state import EXTENSION, AppState
from .connection import adopt, check_url
from .current import finish_request, get_request
from .decorator_order import require_guards_below_routes
from .errors import ConfigurationError
from .guards import guard_protected_paths
from .request import BEGAN, RequestSession
from .settings import Settings

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

    from .connection import RedisClient


class KVSession:
    """Gives an app login sessions in Redis that can be listed, renewed and revoked.

    `KVSession(app)`, or `kv = KVSession()` and later `kv.init_app(app)`. One object may serve any
    number of apps. `redis` is a ready client of redis-py or valkey-py: the sessions then have their
    own connections to its servers, with its credentials. Without a client, `KVSESSION_REDIS_URL`
    says where the server is.
    """

    def __init__(self, app: Flask | None = None, *, redis: RedisClient | None = None) -> None:
        if app is not None:
            self.init_app(app, redis=redis)
        elif redis is not None:
            raise ConfigurationError(
                "KVSession(redis=client) was called without an app; pass the client with the app:"
                " kv.init_app(app, redis=client)."
            )

    def init_app(self, app: Flask, *, redis: RedisClient | None = None) -> None:
        """Reads the app's settings and adds hooks to its requests. It does not connect yet.

        Raises `ConfigurationError` for settings that cannot work, and for a second call on one app.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError(
                "Flask-KVSession-Redis is already set up for this app; call KVSession(app), or"
                " kv.init_app(app), only once."
            )
        settings = Settings.from_config(app.config)
        _require_globals_class(app)
        if redis is None and settings.redis_url is not None:
            check_url(settings.redis_url)
        servers = None if redis is None else adopt(redis)
        state = AppState(weakref.ref(app), settings, servers, RequestSession)
        if settings.as_flask_session:
            compat.install(app, state)  # Flask then commits by the session interface
        else:
            # Flask calls after_request functions in reverse order. So this one is the last: it
            # commits the changes of all the others.
            app.after_request_funcs.setdefault(None, []).insert(0, finish_request)
        device_bound.install(state)
        state.first_use_checks.append(require_guards_below_routes)
        app.extensions[EXTENSION] = state
        if settings.g_name is not None:
            _put_session_into_g(app, settings.g_name)
            state.first_use_checks.append(_require_session_in_g)
        app.before_request_funcs.setdefault(None, []).insert(0, _before_request(state))
        app.cli.add_command(cli.kvsession)

    if not t.TYPE_CHECKING:  # with it, a type checker would accept any name

        def __getattr__(self, name):
            """Raises `AttributeError`; for a name of Flask-KVSession it names the new one."""
            renamed.raise_renamed_attribute(self, name)


def _require_globals_class(app: Flask) -> None:
    if not isinstance(app.app_ctx_globals_class, type):
        raise ConfigurationError(
            f"app.app_ctx_globals_class must be a class, not {app.app_ctx_globals_class!r}, because"
            " KVSession(app) derives a subclass from it; set it to a subclass of"
            " flask.ctx._AppCtxGlobals."
        )


def _require_session_in_g(state: AppState) -> None:
    name = t.cast(str, state.configured.g_name)
    if getattr(state.app.app_ctx_globals_class, name, None) is not current_session:
        raise ConfigurationError(
            f"app.app_ctx_globals_class was changed after KVSession(app), so there is no g.{name};"
            " change the class before KVSession(app), or set KVSESSION_G_NAME = None and use"
            " current_session."
        )


def _put_session_into_g(app: Flask, name: str) -> None:
    """Makes the proxy `current_session` an attribute of `g` in every app context.

    The attribute belongs to the class of `g`. So it costs a request nothing, and `"session" in g`
    stays False. The proxy finds the request's session when it is used.
    """
    base: type[t.Any] = app.app_ctx_globals_class
    app.app_ctx_globals_class = t.cast(
        "type[t.Any]", type(base.__name__, (base,), {name: current_session})
    )


def _before_request(state: AppState) -> Callable[[], None]:
    """The first `before_request` function of the app."""
    is_first = True

    def check_settings_and_guard() -> None:
        nonlocal is_first
        setattr(get_request(), BEGAN, time.monotonic())
        settings = state.settings  # raises at first use if they were changed after init_app
        if is_first and settings.device_bound:
            device_bound.require_endpoints(state.app)
        is_first = False
        if settings.protected_paths:
            guard_protected_paths(settings)

    return check_settings_and_guard
