"""What the requests of one app share: settings, store, cookie, and who is told what happened."""

from __future__ import annotations

import logging
import tempfile
import threading
import typing as t
import weakref
from dataclasses import dataclass, field
from functools import cached_property

from flask import current_app

from . import signals
from .connection import connect
from .cookie import SessionCookie
from .errors import ConfigurationError
from .record import SessionInfo
from .settings import FLASK_LOGIN_USER_KEY, Settings
from .store import RedisClient, SessionStore

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from blinker import NamedSignal
    from flask import Flask

    from .session import Session

log = logging.getLogger("flask_kvsession")

EXTENSION = "kvsession"


@dataclass
class AppState:
    """What the requests of one app share. It is `app.extensions["kvsession"]`."""

    app_ref: weakref.ref[Flask]
    given: Settings
    client: RedisClient | None = field(default=None, repr=False)
    arrivals: list[Callable[[Session, bool], None]] = field(default_factory=list)
    """Called with each session that has just been loaded, and whether its browser may bring along
    what it had before this package."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _warnings: set[str] = field(default_factory=set, repr=False)

    @property
    def app(self) -> Flask:
        """The app, which holds this; held in return it would not be freed with its last user."""
        app = self.app_ref()
        assert app is not None, "nothing asks for an app's state without the app"
        return app

    @cached_property
    def settings(self) -> Settings:
        """The settings, read at first use if `flask.session` is this session, because Flask's
        lifetime is often set after `init_app`."""
        return Settings.from_config(self.app.config) if self.given.as_flask_session else self.given

    @property
    def store(self) -> SessionStore:
        """The app's sessions; the connection is made, or the embedded server started, at first
        use, because debug and testing are often set after `init_app`."""
        with self._lock:
            return self._store

    @property
    def cookie(self) -> SessionCookie:
        return SessionCookie.of_flask(self.app) if self.given.as_flask_session else self._cookie

    @cached_property
    def _cookie(self) -> SessionCookie:
        return SessionCookie.settled(self.settings, development=self.app.debug or self.app.testing)

    def announce(self, signal: NamedSignal, info: SessionInfo) -> None:
        """Logs what has been done, and tells the receivers of `signal`."""
        level = logging.DEBUG if signal is signals.session_renewed else logging.INFO
        # %r: a user id may hold a newline, which would look like another line of the log.
        log.log(level, "%s: session %s of user %.100r", signal.name, info.id, info.user_id)
        signal.send(self.app, _async_wrapper=self.app.ensure_sync, session=info)

    def warn_of_plain_http(self) -> None:
        """Says once that browsers will not send the cookie back."""
        key = "SESSION_COOKIE_SECURE" if self.given.as_flask_session else "KVSESSION_COOKIE_SECURE"
        self._warn_once(
            "A login came over plain http, but the session cookie is Secure, so the browser will"
            " not send it back. Behind a proxy that speaks https, use"
            f" werkzeug.middleware.proxy_fix.ProxyFix; without https, set {key} = False."
        )

    def warn_of_flask_login(self) -> None:
        """Says once that who signs in by Flask-Login is unknown here."""
        self._warn_once(
            "Flask-Login has signed a user in whose sessions are neither listed nor revoked; set"
            f' KVSESSION_USER_ID_KEY = "{FLASK_LOGIN_USER_KEY}".'
        )

    def _warn_once(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            log.warning(message)

    @cached_property
    def _store(self) -> SessionStore:
        return SessionStore(self.client or self._connect(), self.settings)

    def _connect(self) -> RedisClient:
        timeout = self.settings.store_timeout
        if self.settings.redis_url is not None:
            return connect(self.settings.redis_url, timeout)
        if self.app.testing:
            folder = tempfile.mkdtemp(prefix="kvsession-")
            return connect(f"embedded://{folder}", timeout, ephemeral=True)
        if self.app.debug:
            return connect(f"embedded://{self.app.instance_path}/kvsession", timeout)
        raise ConfigurationError(
            "KVSESSION_REDIS_URL is not set; set it, for example to redis://localhost:6379/0,"
            " or pass a client: KVSession(app, redis=client). (In debug and testing mode an"
            " embedded server is used without it.)"
        )


def app_state(app: Flask = current_app) -> AppState:
    """What the app's requests share; raises `ConfigurationError` where the extension is missing."""
    try:
        return t.cast(AppState, app.extensions[EXTENSION])
    except KeyError:
        raise ConfigurationError(
            "This app has no sessions yet; call KVSession(app), or kv.init_app(app), first."
        ) from None
