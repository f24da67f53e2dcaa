"""How soon the end of a session closes what is open in other processes."""

from __future__ import annotations

import multiprocessing
import socket
import subprocess
import sys
import threading
import time
import typing as t
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from flask import Flask, Response, g
from flask_sock import Sock  # type: ignore[import-untyped]
from flask_socketio import SocketIO  # type: ignore[import-untyped]
from simple_websocket import Client  # type: ignore[import-untyped]

import flask_kvsession as kvs
from flask_kvsession.connection import connect
from flask_kvsession.record import Client as Device
from flask_kvsession.record import Stored, new_record
from flask_kvsession.store import SessionStore
from flask_kvsession.token import Token, new_session_id, user_hash

from .processes import ROOT, end
from .throughput import free_port, get, wait_for

STREAM, WEBSOCKET, SOCKETIO = "a stream that waits", "a WebSocket", "a Socket.IO client"
KINDS = (STREAM, WEBSOCKET, SOCKETIO)
LOADS = 2
"""So many processes send requests all the time."""

_PREFIX = "open"
_SETTINGS: dict[str, t.Any] = {"key_prefix": _PREFIX, "max_sessions_per_user": None}
_LONGEST_WAIT = 60
_SOCKETIO_PATH = "/socket.io/?EIO=4&transport=websocket"

Delays = dict[str, list[float]]
"""For each kind, the ms from the call of the revocation until the client was told."""


def make_app(socket_path: str) -> Flask:
    """The app that gunicorn serves."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY="only for benchmarks",
        KVSESSION_REDIS_URL=f"unix://{socket_path}",
        KVSESSION_COOKIE_SECURE=False,
        **{f"KVSESSION_{name.upper()}": value for name, value in _SETTINGS.items()},
    )
    kvs.KVSession(app)
    app.add_url_rule("/read", view_func=lambda: g.session.get("role", "reader"), endpoint="read")
    app.add_url_rule("/events", view_func=_events, endpoint="events")
    Sock(app).route("/ws")(_websocket)
    socketio = SocketIO(app, async_mode="threading", manage_session=False)
    socketio.on_event("nothing", lambda: None)
    kvs.watch_socketio(socketio)
    return app


def _events() -> Response:
    return Response(kvs.until_ended(_waiting()))


def _waiting() -> Iterator[bytes]:
    yield b"hello"
    threading.Event().wait(_LONGEST_WAIT)
    yield b"too late"


def _websocket(ws: t.Any) -> None:
    with kvs.watching(on_end=lambda reason: ws.close(4001, reason)):
        while True:
            ws.send(ws.receive())


def measure_open_connections(socket_path: str, count: int) -> Delays:
    """Opens `count` connections of each kind, each with its own session, in two workers, and then
    revokes one session after the other."""
    store = SessionStore(connect(f"unix://{socket_path}"), kvs.Settings(**_SETTINGS))
    with _gunicorn(socket_path) as port, _load(port, _new_session(store)[1]):
        delays = {kind: list(_delays(kind, port, store, count)) for kind in KINDS}
    store.close()
    return delays


def _delays(kind: str, port: int, store: SessionStore, count: int) -> Iterator[float]:
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            session_id, cookie = _new_session(store)
            opened.append((session_id, stack.enter_context(_open(kind, port, cookie))))
        for session_id, wait in opened:
            began = time.monotonic()
            store.revoke_one("ada", session_id)
            wait()
            yield (time.monotonic() - began) * 1000


@contextmanager
def _open(kind: str, port: int, cookie: str) -> Iterator[t.Callable[[], object]]:
    """An open connection; gives a function that waits until its end."""
    if kind == STREAM:
        with socket.create_connection(("127.0.0.1", port), timeout=_LONGEST_WAIT) as client:
            head = f"GET /events HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
            client.sendall(head.encode())
            received = b""
            while not received.endswith(b"hello\r\n"):
                received += client.recv(4096)
            yield lambda: client.recv(1)
        return
    path = "/ws" if kind == WEBSOCKET else _SOCKETIO_PATH
    websocket = Client(f"ws://127.0.0.1:{port}{path}", headers={"Cookie": cookie})
    if kind == SOCKETIO:
        websocket.send("40")
        while not websocket.receive().startswith("40"):
            pass
        yield lambda: _wait_for_packet(websocket, "41")
    else:
        websocket.send("hello")
        websocket.receive()
        yield lambda: _wait_until_closed(websocket)
    if websocket.connected:
        websocket.close()


def _wait_for_packet(websocket: t.Any, packet: str) -> None:
    while websocket.receive(timeout=_LONGEST_WAIT) != packet:
        pass


def _wait_until_closed(websocket: t.Any) -> None:
    websocket.event.wait(_LONGEST_WAIT)


def _new_session(store: SessionStore) -> tuple[str, str]:
    """The id of a new session, and its cookie."""
    token = Token.for_session(new_session_id(user_hash("ada")))
    record = new_record(
        token, now=store.now(), client=Device(), user_id="ada", data={"role": b'"reader"'}
    )
    store.create(Stored.of(token.session_id, record))
    return token.session_id, f"kvsession={token}"


@contextmanager
def _gunicorn(socket_path: str) -> Iterator[int]:
    port = free_port()
    options = ["-k", "gthread", "-w", "2", "--threads", "400", "-b", f"127.0.0.1:{port}"]
    options += ["--log-level", "error", "--graceful-timeout", "1"]
    app = f"benchmarks.open_connections:make_app({socket_path!r})"
    gunicorn = subprocess.Popen([sys.executable, "-m", "gunicorn", *options, app], cwd=ROOT)
    try:
        wait_for(port, "/read", "")
        yield port
    finally:
        end(gunicorn)


@contextmanager
def _load(port: int, cookie: str) -> Iterator[None]:
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_send_requests, args=(port, cookie), daemon=True) for _ in range(LOADS)
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _send_requests(port: int, cookie: str) -> None:
    while True:
        get(port, "/read", cookie)
