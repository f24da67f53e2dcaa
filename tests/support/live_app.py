"""An app with everything that stays open: a stream of events, a WebSocket, and Socket.IO.

Servers import `app`; the variable `LIVE_URL` names the Redis server, and `LIVE_PREFIX` the prefix
of the keys. A stream waits for items of the list `<prefix>-events`, and counts up
`<prefix>-closed` when it is closed.
"""

from __future__ import annotations

import os
import threading
import typing as t
from collections.abc import Iterator

import redis
from flask import Flask, Response, g, redirect, request
from flask_sock import Sock  # type: ignore[import-untyped]
from flask_socketio import SocketIO, emit  # type: ignore[import-untyped]

import flask_kvsession as kvs

from .apps import store_of

PREFIX = os.environ.get("LIVE_PREFIX", "live")
EVENTS, CLOSED = f"{PREFIX}-events", f"{PREFIX}-closed"
LONGEST_WAIT = 600

app = Flask("live")
app.config.update(
    TESTING=True,
    SECRET_KEY="only for tests",
    KVSESSION_REDIS_URL=os.environ["LIVE_URL"],
    KVSESSION_KEY_PREFIX=PREFIX,
    KVSESSION_COOKIE_SECURE=False,
)
kvs.KVSession(app)
app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
sock = Sock(app)
socketio = SocketIO(app, async_mode="threading", manage_session=False)
kvs.watch_socketio(socketio)
client = redis.Redis.from_url(os.environ["LIVE_URL"])


PAGE = """<!doctype html><title>{title}</title><p role="status">opening</p>
<script>
const show = (text) => (document.querySelector("p").textContent = text);
{script}
</script>"""

STREAM = """
const source = new EventSource("/ticks");
source.onmessage = (event) => show(event.data);
source.onerror = () => {
  show(source.readyState === EventSource.CLOSED ? "signed out" : "connecting again");
};
"""

SOCKET = """
const socket = new WebSocket(`ws://${location.host}/socket.io/?EIO=4&transport=websocket`);
socket.onclose = () => show("closed");
socket.onmessage = ({ data }) => {
  if (data.startsWith("0")) socket.send("40");
  else if (data.startsWith("40")) socket.send('42["whoami"]');
  else if (data.startsWith("42")) show(JSON.parse(data.slice(2))[1]);
  else if (data === "2") socket.send("3");
  else if (data === "41") {
    socket.onclose = null;
    show("signed out");
  }
};
"""


@app.get("/")
def index() -> str:
    return "<title>Live</title>"


@app.get("/stream")
def stream_page() -> str:
    return PAGE.format(title="Stream", script=STREAM)


@app.get("/socket")
def socket_page() -> str:
    return PAGE.format(title="Socket", script=SOCKET)


@app.get("/ticks")
@kvs.login_required
def ticks() -> Response:
    """A stream that does not use Redis."""

    def ticks_of(user: object) -> Iterator[str]:
        yield f"retry: 100\ndata: {user}\n\n"
        while True:
            threading.Event().wait(2)
            yield ": still here\n\n"

    return Response(
        kvs.until_ended(ticks_of(kvs.current_session.user_id)), mimetype="text/event-stream"
    )


@app.route("/login/<user>", methods=["GET", "POST"])
def login(user: str) -> t.Any:
    kvs.login_user(user)
    return redirect("/", 303) if request.method == "GET" else {"id": g.session.id}


@app.post("/logout")
def logout() -> t.Any:
    kvs.logout_user()
    return {}


@app.get("/events")
@kvs.login_required
def events() -> Response:
    return Response(kvs.until_ended(items()), mimetype="text/event-stream")


def items() -> Iterator[str]:
    try:
        yield "data: hello\n\n"
        while item := client.blpop([EVENTS], LONGEST_WAIT):
            yield f"data: {t.cast(t.Any, item)[1].decode()}\n\n"
    finally:
        client.incr(CLOSED)


@sock.route("/ws")  # type: ignore[untyped-decorator]
@kvs.login_required
def echo(ws: t.Any) -> None:
    with kvs.watching(on_end=lambda reason: ws.close(4001, reason)):
        while True:
            ws.send(ws.receive())


@socketio.event  # type: ignore[untyped-decorator]
def whoami() -> None:
    emit("you", kvs.current_session.user_id)


@app.get("/state")
def state() -> t.Any:
    """What this process has open."""
    names = [thread.name for thread in threading.enumerate()]
    watched = len(store_of(app)._watcher._entries)
    return {"pid": os.getpid(), "watched": watched, "threads": names}
