"""What the requests of one app share: settings, store, cookie, signals and warnings."""

from __future__ import annotations

import logging
import re
import tempfile
import threading
import typing as t
import weakref
from dataclasses import dataclass, field
from functools import cached_property

from flask import current_app

from . import binding, signals, validators
from .connection import Servers, connect
from .cookie import SessionCookie
from .errors import ConfigurationError
from .settings import Settings, config_key
from .store import SessionStore

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from blinker import NamedSignal
    from flask import Flask
    from flask.wrappers import Request, Response

    from .record import Client, SessionInfo, Stored
    from .session import Session

log: logging.Logger = logging.getLogger("flask_kvsession")

EXTENSION = "kvsession"

MANY_LOGINS, MANY_LOGINS_MS = 10, 60_000
"""A person does not sign in so many times within this time in one browser."""
_MAX_COUNTED = 1000

_MAX_WARNINGS = 200
"""A client chooses the hosts that warnings are about, and the log must not fill up."""

_OWN_MACHINE = re.compile(r"((.+\.)?localhost|127(\.\d+){3}|\[::1\])(:\d+)?", re.IGNORECASE)

_MANY_LOGINS = (
    f"One client has signed one user in {MANY_LOGINS} times within a minute, and each login creates"
    " a session. If the app signs users in on every request, for example by a header of a proxy,"
    " let it do so only if current_session.user_id is not that user already. If the client keeps no"
    " cookies, as a program with an API key does, do not sign the user in to a session."
)


class RecentLogins:
    """Counts logins by their key, for at most a minute and for at most 1,000 keys."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[int, tuple[int, int]] = {}

    def count(self, key: int, now: int) -> int:
        """Adds a login at `now` (ms). Returns how many there were in the minute since the first."""
        with self._lock:
            began, count = self._found.pop(key, (now, 0))
            if now - began > MANY_LOGINS_MS:
                began, count = now, 0
            self._found[key] = began, count + 1
            if len(self._found) > _MAX_COUNTED:
                del self._found[next(iter(self._found))]  # the key that was not used for longest
            return count + 1


_users_of_default_prefix: dict[str, weakref.ref[Flask]] = {}
"""For each `KVSESSION_REDIS_URL`, an app of this process that has the default prefix there."""


@dataclass
class AppState:
    """What the requests of one app share; the object `app.extensions["kvsession"]`."""

    app_ref: weakref.ref[Flask]
    configured: Settings
    """The settings as `init_app` read them."""
    servers: Servers | None = field(repr=False)
    """The servers of the client that the app passed in; None: those of `KVSESSION_REDIS_URL`."""
    request_session_class: Callable[[AppState, Request], t.Any] = field(repr=False)
    """Makes the `RequestSession` of a request."""
    flask_cookie: Callable[[Flask], SessionCookie] | None = field(default=None, repr=False)
    """The cookie by Flask's own settings, if `flask.session` is this session."""
    load_hooks: list[Callable[[Session, bool], None]] = field(default_factory=list, repr=False)
    """Each is called after a `flask.session` has loaded. The arguments are the session, and whether
    the browser's old cookies may be imported: `KVSESSION_MIGRATE_COOKIE_SESSION` is on, and the
    browser sent no token of this package."""
    first_use_checks: list[Callable[[AppState], None]] = field(default_factory=list, repr=False)
    """Called before the settings are first used. Each raises `ConfigurationError` if the app was
    changed after `init_app` in a way that cannot work."""
    registration_url: Callable[[], str | None] = field(default=lambda: None, repr=False)
    """The URL at which a browser may bind a session to a key. None: there is no offer."""
    _logins: RecentLogins = field(default_factory=RecentLogins, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _warnings: set[str] = field(default_factory=set, repr=False)

    @property
    def app(self) -> Flask:
        """The app. This object has only a weak reference to it, because a reference cycle would
        keep the app in memory longer."""
        app = self.app_ref()
        assert app is not None, "AppState is used only while its app exists"
        return app

    @cached_property
    def settings(self) -> Settings:
        """The settings. At first use they are compared with the settings that `init_app` read.

        Raises `ConfigurationError` if a setting was changed in between: a protection must not be
        ignored because it was set too late.
        """
        settings = Settings.from_config(self.app.config)
        if changed := settings.changed_keys(self.configured):
            raise ConfigurationError(
                f"{', '.join(changed)} was changed after KVSession(app) had read the settings; set"
                " all KVSESSION_* settings before KVSession(app), and call"
                f" app.config.from_prefixed_env() before it. {validators.ENVIRONMENT}."
            )
        for check in self.first_use_checks:
            check(self)
        return settings

    @cached_property
    def store(self) -> SessionStore:
        """The app's sessions. At first use the client is created or the embedded server is started,
        and not earlier, because debug and testing are often set after `init_app`."""
        with self._lock:
            if "store" not in vars(self):  # another thread may have been faster
                self._warn_of_shared_prefix()
                vars(self)["store"] = SessionStore(self.servers or self._connect(), self.settings)
            return t.cast(SessionStore, vars(self)["store"])

    @property
    def cookie(self) -> SessionCookie:
        return self.flask_cookie(self.app) if self.flask_cookie else self._cookie

    def now(self) -> int:
        """The server's time, ms."""
        return self.store.now()

    def write_short_cookie(self, response: Response, stored: Stored) -> None:
        """Gives the browser of a session that is bound to a device a new short cookie."""
        lifetime = self.settings.milliseconds.device_bound_lifetime
        value = binding.new_cookie(stored.record, self.now() + lifetime)
        self.cookie.write_bound(response, stored.id, value, lifetime // 1000)

    def send_signal(self, signal: NamedSignal, info: SessionInfo, **more: t.Any) -> None:
        """Logs an act that was done, and calls the receivers of its signal."""
        level = logging.DEBUG if signal is signals.session_renewed else logging.INFO
        # %r: a newline in a user id would look like another line of the log.
        log.log(level, "%s: session %s of user %.100r", signal.name, info.id, info.user_id)
        signal.send(self.app, _async_wrapper=self.app.ensure_sync, session=info, **more)

    def warn_of_plain_http(self, host: str) -> None:
        """Warns that browsers will not send the cookie back to this host. They do for their own
        machine, which they trust without https, but there too they bind no session."""
        if self.settings.device_bound:
            self.warn_once(
                f"A login came over plain http to {host!r:.100}, so the browser cannot bind its"
                f" session ({config_key('device_bound')}). Serve the app over https; behind a proxy"
                " that speaks https, use werkzeug.middleware.proxy_fix.ProxyFix.",
                key=f"plain http {host}",
            )
            return
        if _OWN_MACHINE.fullmatch(host):
            return
        self.warn_once(
            f"A login came over plain http to {host!r:.100}, but the session cookie is Secure, so"
            " the browser will not send it back. Behind a proxy that speaks https, use"
            " werkzeug.middleware.proxy_fix.ProxyFix; without https, set"
            f" {self.cookie.keys.secure} = False.",
            key=f"plain http {host}",
        )

    def warn_of_other_host(self, origin: str, host: str) -> None:
        """Warns that a post was refused because its origin is not this host. It may be from the
        app's own page, behind a proxy that does not pass the host on."""
        self.warn_once(
            f"A post was refused, because its Origin {origin!r:.100} is not the app's own host,"
            f" {host!r:.100} by the header Host. If it came from the app's own page through a"
            " proxy, let the proxy pass Host on, or use"
            " werkzeug.middleware.proxy_fix.ProxyFix(app.wsgi_app, x_host=1) if it sends"
            " X-Forwarded-Host. If it came from another site of yours, add that origin to"
            f" {config_key('trusted_origins')}.",
            key=f"other host {host}",
        )

    def warn_of_two_sessions(self) -> None:
        """Warns that a browser sends two session cookies that open different sessions."""
        keys = self.cookie.keys
        self.warn_once(
            "A browser sent two cookies that open two different sessions, so neither is accepted"
            f" and no user is signed in. It happens if {keys.domain} or {keys.path} has changed, or"
            " if two apps of one domain use one cookie name, also by different APPLICATION_ROOT."
            f" Change {keys.name} to a name that no other cookie of the domain has."
        )

    def warn_of_many_logins(self, user: str | None, client: Client) -> None:
        """Counts a login of the user with this hash, and warns if one client signs one user in
        again and again: each login is a session in that user's list."""
        if _MANY_LOGINS in self._warnings:
            return
        if self._logins.count(hash((user, client)), self.now()) >= MANY_LOGINS:
            self.warn_once(_MANY_LOGINS)

    def warn_once(self, message: str, *, key: str | None = None) -> None:
        """Logs a warning, the first time only; with `key`, the first time for this key."""
        key = key or message
        if key not in self._warnings and len(self._warnings) < _MAX_WARNINGS:
            self._warnings.add(key)
            log.warning("%s", message)

    @cached_property
    def _cookie(self) -> SessionCookie:
        development = self.app.debug or self.app.testing
        return SessionCookie.from_settings(self.settings, development=development)

    def _warn_of_shared_prefix(self) -> None:
        """Warns if another app of this process has the same server and the default prefix too."""
        url = self.settings.redis_url
        if url is None or self.settings.key_prefix != Settings.key_prefix:
            return
        other = _users_of_default_prefix.setdefault(url, self.app_ref)()
        if other is None:
            _users_of_default_prefix[url] = self.app_ref
        elif other.import_name != self.app.import_name:
            self.warn_once(
                f"The apps {other.import_name!r} and {self.app.import_name!r} have the same"
                " KVSESSION_REDIS_URL and the default KVSESSION_KEY_PREFIX, so each accepts the"
                " sessions of the other. Give each app a prefix of its own. If they shall share"
                " sessions, give both the same prefix, which is not the default."
            )

    def _connect(self) -> Servers:
        if self.settings.redis_url is not None:
            return connect(self.settings.redis_url)
        if self.app.testing:
            folder = tempfile.mkdtemp(prefix="kvsession-")
            return connect(f"embedded://{folder}", ephemeral=True)
        if self.app.debug:
            return connect(f"embedded://{self.app.instance_path}/kvsession")
        raise ConfigurationError(
            "KVSESSION_REDIS_URL is not set; set it, for example to redis://localhost:6379/0,"
            " or pass a client: KVSession(app, redis=client). (In debug mode, such as"
            " with flask --debug, and in testing mode an embedded server is used without it.)"
        )


def app_state(app: Flask = current_app) -> AppState:
    """The state of an app; raises `ConfigurationError` if the app has no `KVSession`."""
    try:
        state: AppState = app.extensions[EXTENSION]
    except KeyError:
        raise ConfigurationError(
            "Flask-KVSession-Redis is not set up for this app; call KVSession(app), or"
            " kv.init_app(app), first."
        ) from None
    return state
