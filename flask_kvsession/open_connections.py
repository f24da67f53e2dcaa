"""The end of a session reaches what is open: streamed responses, WebSockets, Socket.IO clients.

All of it rests on `RequestSession.watch`. The difference is what is done at the end.
"""

from __future__ import annotations

import logging
import socket
import threading
import typing as t
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from flask import request

from .current import request_session
from .errors import ConfigurationError, StoreUnavailable
from .store import OnEnd, WatchedSession

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log: logging.Logger = logging.getLogger("flask_kvsession")

T = t.TypeVar("T")

_SOCKETS = ("gunicorn.socket", "werkzeug.socket")
"""The keys of a WSGI environ under which servers give the socket of the connection."""


@contextmanager
def watching(*, on_end: OnEnd | None = None) -> Iterator[WatchedSession]:
    """Watches this request's session while the block runs, for example a WebSocket view.

    The value says whether the session has ended (`ended`), why (`reason`), and can wait for that
    (`wait(timeout)`). `on_end` is called with the reason, once and in a thread of its own, for
    example to close the socket on which the block waits. After the end, `current_session` is the
    empty session of an anonymous browser, which cannot be changed.

    A session ends by a revocation, a logout, a login that replaces it, or its timeouts. A new
    secret does not end it. If the browser has no session, the value never ends. Raises
    `StoreUnavailable` if the session cannot be loaded.
    """
    watched = request_session().watch(on_end)
    try:
        yield watched
    finally:
        watched.close()


def until_ended(iterable: Iterable[T]) -> Iterable[T]:
    """The items of a streamed response, until this request's session ends.

    At the end, nothing more is sent. If the iterable is just waiting for its next item, the
    connection to the browser is closed at once, and the iterable is closed as soon as it gives the
    item. A server that does not give its socket to the app (any but gunicorn and Werkzeug's own)
    also closes the connection only then.

    Without a session, the iterable itself is returned. Raises `StoreUnavailable` if the session
    cannot be loaded.
    """
    stream = _Stream(iterable, _socket_in(request.environ))
    watched = request_session().watch(stream.cut)
    if watched.id is None:
        return iterable
    stream.begin(watched)
    return stream


class _Stream(Iterator[T]):
    """An iterable of which the server takes one item after the other, until the session ends.

    The items come in the server's thread, with the context of the request and everything else that
    belongs to a thread. Nothing can interrupt that thread while the iterable waits in it. So the
    end closes the connection, which the browser notices at once.
    """

    def __init__(self, iterable: Iterable[T], connection: socket.socket | None) -> None:
        self._iterable = iterable
        self._connection = connection
        self._lock = threading.Lock()
        self._is_closed = False

    def begin(self, watched: WatchedSession) -> None:
        self._watched = watched
        self._items = iter(self._iterable)

    def __next__(self) -> T:
        with suppress(StopIteration):
            if not self._watched.ended:
                item = next(self._items)
                if not self._watched.ended:
                    return item
        self.close()
        raise StopIteration

    def cut(self, reason: str | None) -> None:
        """Closes the connection, which still belongs to this stream: the server calls `close`
        before it uses the connection for another request."""
        with self._lock, suppress(OSError):
            if self._connection is not None and not self._is_closed:
                # Not the method of an SSLSocket: until it is done, others would send plain text.
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def close(self) -> None:
        """The server calls this at the end of the response, whatever has ended it."""
        with self._lock:
            is_closed, self._is_closed = self._is_closed, True
        if is_closed:
            return
        self._watched.close()
        for each in {id(each): each for each in (self._items, self._iterable)}.values():
            if hasattr(each, "close"):
                each.close()


def _socket_in(environ: WSGIEnvironment) -> socket.socket | None:
    """The socket of the request's connection; None if other requests may use the connection at the
    same time (HTTP/2), or if the server does not give it."""
    if environ.get("SERVER_PROTOCOL", "").startswith("HTTP/2"):
        return None
    return next((environ[key] for key in _SOCKETS if key in environ), None)


def watch_socketio(socketio: t.Any) -> None:
    """From now on, the clients of this `flask_socketio.SocketIO` are disconnected when their
    session ends, in every process that calls this. The handlers of the app need no change.

    Call it after `SocketIO(app)` or `socketio.init_app(app)`. A client whose session cannot be
    loaded, because Redis fails, is disconnected in such a way that it connects again by itself.
    Clients without a session stay connected.
    """
    if getattr(socketio, "server", None) is None:
        raise ConfigurationError(
            "watch_socketio(socketio): this SocketIO object has no server yet; call it after"
            " SocketIO(app) or socketio.init_app(app)."
        )
    _SocketIOClients(socketio.server)


@dataclass
class _Client:
    namespace: str
    connection: str
    """The id of the client's Engine.IO connection, which all its namespaces share."""
    watched: WatchedSession | None = None


class _SocketIOClients:
    """The clients of one Socket.IO server in this process, each with its watched session.

    The server calls its manager before the app's handler of a new client, after the handler has
    accepted the client, and when the client leaves, however it leaves.
    """

    def __init__(self, server: t.Any) -> None:
        self._server = server
        self._clients: dict[str, _Client] = {}
        manager = server.manager
        if hasattr(manager, "pre_connect"):  # older versions call `connect` before the handler
            manager.pre_connect = partial(self._pre_connect, manager.pre_connect)
        manager.connect = partial(self._connect, manager.connect)
        manager.disconnect = partial(self._disconnect, manager.disconnect)

    def _pre_connect(self, pre_connect: Callable[..., str], sid: str, namespace: str) -> str:
        """Before the handler: if it accepts the user of a session that ends meanwhile, the end must
        be known."""
        sid = pre_connect(sid, namespace)
        self._watch(sid, namespace)
        return sid

    def _connect(self, connect: Callable[..., str], sid: str, namespace: str) -> str:
        sid = connect(sid, namespace)
        client = self._clients.get(sid)
        if client is None:
            self._watch(sid, namespace)
        elif client.watched and client.watched.ended:  # before it could be disconnected
            self._server.start_background_task(self._end, client.connection)
        return sid

    def _watch(self, sid: str, namespace: str) -> None:
        connection = self._server.manager.eio_sid_from_sid(sid, namespace)
        environ = self._server.get_environ(sid, namespace)
        self._clients[sid] = client = _Client(namespace, connection)
        try:
            with environ["flask.app"].request_context(environ):
                client.watched = request_session().watch(lambda reason: self._end(connection))
        except StoreUnavailable:
            log.warning("a Socket.IO client is disconnected, because its session cannot be loaded")
            self._server.start_background_task(self._server.eio.disconnect, connection)

    def _disconnect(
        self, disconnect: Callable[..., object], sid: str, namespace: str, **kwargs: t.Any
    ) -> object:
        if (client := self._clients.pop(sid, None)) and client.watched:
            client.watched.close()
        return disconnect(sid, namespace, **kwargs)

    def _end(self, connection: str) -> None:
        """Disconnects all namespaces of a connection, so that the client does not connect again by
        itself, and then the connection, whose handshake names the session that has ended."""
        try:
            for sid, client in list(self._clients.items()):
                if client.connection == connection:
                    self._server.disconnect(sid, namespace=client.namespace, ignore_queue=True)
        finally:
            self._server.eio.disconnect(connection)
