"""The app under test, whose clock, random numbers and store calls are simulated.

The app, its requests, the store and the server are real. Each call of the store is a point at which
another request may go first.
"""

from __future__ import annotations

import base64
import io
import random
import secrets
import sys
import time
import typing as t
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest import mock

import redis
from flask import Flask, request
from werkzeug.exceptions import HTTPException

import flask_kvsession as kvs
from flask_kvsession.store.clock import ServerClock
from flask_kvsession.store.server import SCRIPTS, Server, load_script

from ..support.apps import close, store_of
from .scheduler import Scheduler

EPOCH_MS = 1_767_225_600_000
"""The server's time at the start of each life: 2026-01-01 00:00 UTC. It lies behind the real time,
so the server, whose scripts use the real time, never removes an entry of an index too early."""

_IN_REAL_TIME = ("flask_kvsession.connection", "flask_kvsession.store.eviction")
"""The modules that measure how long the real server takes."""

Kind = t.Literal["core", "one_name", "by_key", "device"]
"""How an app signs users in: `login_user`; the same with `flask.session` and one cookie name; by
`KVSESSION_USER_ID_KEY`; or by `login_user`, with sessions that are bound to the device."""

_SETTINGS: dict[Kind, dict[str, t.Any]] = {
    "core": {},
    "one_name": {"AS_FLASK_SESSION": True},
    "by_key": {"AS_FLASK_SESSION": True, "USER_ID_KEY": "user_id"},
    "device": {"DEVICE_BOUND": "offer"},
}


@dataclass
class Seen:
    """What a view has seen and done."""

    user: str | None = None
    """The user who was signed in when the view began."""
    session_id: str | None = None
    """The session at the end of the view; None if there was none."""


@dataclass
class Reply:
    status: int
    cookies: list[str]
    seen: Seen
    headers: dict[str, str]
    body: bytes


@dataclass
class Site:
    """One app with its views, for all lives of a scenario."""

    kind: Kind
    scheduler: Scheduler
    random: random.Random = field(default_factory=random.Random)
    """Decides how long a view and a call of the store take, and makes tokens."""
    slow_share: float = 0.03

    def __post_init__(self) -> None:
        self.app: Flask
        self.client: redis.Redis
        self.prefix = f"sim{secrets.token_hex(6)}"

    @property
    def user_cookie(self) -> str:
        return {"core": "kvsession", "device": "__Host-kvsession"}.get(self.kind, "session")

    @property
    def anonymous_cookie(self) -> str:
        """Equal to `user_cookie` if there is one name for both."""
        return self.user_cookie + ("" if self.kind == "one_name" else "-anonymous")

    @contextmanager
    def opened(self, socket_path: str, **settings: t.Any) -> Iterator[Site]:
        """The site with an app of these settings, on the server with this socket."""
        app = self.app = Flask("simulated")
        app.config.update(TESTING=True, KVSESSION_KEY_PREFIX=self.prefix)
        app.config["KVSESSION_REDIS_URL"] = f"unix://{socket_path}"
        app.config["KVSESSION_STORE_TIMEOUT"] = 60  # the real time that a busy machine needs
        configured = _SETTINGS[self.kind] | settings
        app.config.update({f"KVSESSION_{key}": value for key, value in configured.items()})
        kvs.KVSession(app)
        app.register_blueprint(kvs.device_bound_blueprint)
        _add_views(app, self)
        with ExitStack() as stack:
            self.client = stack.enter_context(redis.Redis(unix_socket_path=socket_path))
            stack.callback(close, app)
            stack.callback(self.delete_keys)
            self._warm_up()
            stack.enter_context(self._simulated())
            yield self

    def request(
        self, method: str, path: str, cookies: str, address: str, headers: dict[str, str]
    ) -> Reply:
        """The app's reply to a request. It enters the app now."""
        environ = _environ(method, path, cookies, address)
        environ |= {f"HTTP_{k.upper().replace('-', '_')}": v for k, v in headers.items()}
        seen = environ["simulation.seen"] = Seen()
        received: list[t.Any] = []
        body = self.app.wsgi_app(environ, lambda *head: received.extend(head))  # type: ignore[arg-type]
        content = b"".join(body)
        if hasattr(body, "close"):
            body.close()
        status, answered = received[:2]
        cookies_set = [value for name, value in answered if name == "Set-Cookie"]
        return Reply(int(status[:3]), cookies_set, seen, dict(answered), content)

    def think(self) -> None:
        """The time that a view takes: mostly some ms, sometimes up to a minute."""
        is_slow = self.random.random() < self.slow_share
        self.scheduler.pause(self.random.uniform(1, 60) if is_slow else self.random.expovariate(20))

    # What is in the store

    def record(self, session_id: str) -> bytes | None:
        """The bytes of a session's record; None if it has ended, also if there is a tombstone."""
        key = f"{self.prefix}:{{{session_id[:3]}}}:s:{session_id[3:]}"
        raw = t.cast("bytes | None", self.client.get(key))
        return None if raw is None or raw.startswith(b'{"ended"') else raw

    def session_ids(self) -> list[str]:
        """The ids of all sessions that are in the store, in a fixed order."""
        keys = [key.decode() for key in self.client.scan_iter(f"{self.prefix}:*", count=1000)]
        records = [key for key in keys if ":s:" in key]
        return sorted(key.split("{")[1].replace("}:s:", "") for key in records)

    def delete_keys(self) -> None:
        if keys := list(self.client.scan_iter(f"{self.prefix}:*", count=1000)):
            self.client.delete(*keys)

    # What is simulated

    def _warm_up(self) -> None:
        """Does what the first life of an app would do, so that each life depends on its seed only:
        the server learns the scripts, and the store asks the server for its time."""
        for name in SCRIPTS:
            self.client.script_load(load_script(name).source)
        store_of(self.app).now()

    @contextmanager
    def _simulated(self) -> Iterator[None]:
        """In the block, the package reads the simulated time and seeded random numbers, and pauses
        before each command that it sends to the server."""
        real_call = Server._call

        def call(server: Server, *args: t.Any, **kwargs: t.Any) -> t.Any:
            if args[0][0] != "INFO":  # asked every 5 minutes of the real time
                self.scheduler.pause(self.random.expovariate(500))
            return real_call(server, *args, **kwargs)

        def now(clock: ServerClock) -> int:
            return EPOCH_MS + int(self.scheduler.now * 1000)

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(Server, "_call", call))
            stack.enter_context(mock.patch.object(ServerClock, "now", now))
            for name, module in list(sys.modules.items()):
                if not name.startswith("flask_kvsession.") or name.startswith(_IN_REAL_TIME):
                    continue
                if vars(module).get("time") is time:
                    stack.enter_context(mock.patch.object(module, "time", _Time(self.scheduler)))
                if vars(module).get("secrets") is secrets:
                    stack.enter_context(mock.patch.object(module, "secrets", _Secrets(self)))
            yield


class _Time:
    """Takes the place of the module `time`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def monotonic(self) -> float:
        return self._scheduler.now

    def monotonic_ns(self) -> int:
        return int(self._scheduler.now * 1e9)


class _Secrets:
    """Takes the place of the module `secrets`: the tokens of a life depend on its seed only."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def token_urlsafe(self, count: int) -> str:
        return base64.urlsafe_b64encode(self._site.random.randbytes(count)).decode().rstrip("=")


def _environ(method: str, path: str, cookies: str, address: str) -> dict[str, t.Any]:
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "REMOTE_ADDR": address,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if cookies:
        environ["HTTP_COOKIE"] = cookies
    return environ


def _add_views(app: Flask, site: Site) -> None:
    session = kvs.current_session

    def view(rule: str, act: t.Callable[..., object], method: str = "POST") -> None:
        """A view that reads the session, takes a while, acts, and takes a while again."""

        def run(**kwargs: str) -> t.Any:
            seen: Seen = request.environ["simulation.seen"]
            user = session.user_id
            seen.user = None if user is None else str(user)
            seen.session_id = session.id
            site.think()
            try:
                act(**kwargs)
            except HTTPException as error:
                return str(error.code), error.code or 500
            finally:
                seen.session_id = session.id
            site.think()
            return ""

        app.add_url_rule(rule, rule, run, methods=[method])

    def log_in(user: str, remember: str) -> None:
        is_remembered = remember == "1"
        if site.kind == "by_key":
            session["user_id"] = user
            t.cast(t.Any, session).permanent = is_remembered
        else:
            kvs.login_user(user, {"name": user}, remember=is_remembered)

    def log_out() -> None:
        if site.kind == "by_key":
            session.clear()
        else:
            kvs.logout_user()

    view("/page", lambda: None, "GET")
    view("/poll", lambda: None, "GET")
    view("/form", lambda: session.setdefault("csrf_token", "a token"), "GET")
    view("/write/<key>", lambda key: session.update({key: 1}))
    view("/login/<user>/<remember>", log_in)
    view("/logout", log_out)
    view("/confirm", kvs.confirm_login)
    view("/rotate", kvs.rotate_token)
    view("/revoke", lambda: kvs.revoke_all_sessions(except_current=True))
