"""One connection to a server, whose every step keeps to a deadline."""

from __future__ import annotations

import functools
import inspect
import socket
import time
import typing as t
import weakref

from redis.connection import AbstractConnection, SSLConnection
from redis.exceptions import InvalidResponse, ResponseError

from .channel import Channel
from .deadline import Deadline
from .resp import ReplyReader, pack

ConnectionClass = type[t.Any]
"""A connection class of redis-py, whose methods have no types."""

Options = t.Mapping[str, t.Any]
"""The arguments of a redis-py connection."""

TLS_OPTIONS: t.Final = {
    name for name in inspect.signature(SSLConnection.__init__).parameters if name.startswith("ssl_")
}
USED_OPTIONS: t.Final = TLS_OPTIONS | {
    *("host", "port", "path", "db", "username", "password", "client_name"),
    *("socket_keepalive", "socket_keepalive_options", "socket_type"),
}
"""The options of a redis-py connection that apply to the connections here too."""


class Current:
    """The deadline of the exchange that a connection has now. The connection and its socket share
    this object. If they knew each other, Python could free them only by its garbage collector."""

    deadline: Deadline


class DeadlineSocket:
    """A socket while redis-py connects. Each send and receive may take only what is left of the
    current deadline.

    The timeout of a plain socket begins anew with each byte that arrives. A server that sends a
    reply in small pieces would keep its caller waiting for ever.
    """

    def __init__(self, sock: socket.socket, current: Current) -> None:
        self.plain = sock
        self._current = current
        self._waits = True

    def sendall(self, data: bytes) -> None:
        self.plain.settimeout(self._current.deadline.remaining())
        self.plain.sendall(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._bound_receive()
        return self.plain.recv(size, flags)

    def recv_into(self, buffer: bytearray) -> int:
        self._bound_receive()
        return self.plain.recv_into(buffer)

    def settimeout(self, timeout: float | None) -> None:
        """With 0, receiving does not wait. Any other value does nothing: the deadline counts."""
        self._waits = timeout != 0

    def _bound_receive(self) -> None:
        self.plain.settimeout(self._current.deadline.remaining() if self._waits else 0)

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self.plain, name)


class Bounded:
    """Added to a connection class of redis-py: connecting, the handshake, sending and receiving
    together take no longer than `current.deadline`. Only the look-up of a host name is not bounded.
    """

    current: Current
    was_accepted: bool = False
    """Whether the server has accepted the connection, also if it has closed it since."""
    port = None  # redis-py reads it after a timeout, also of a unix socket

    # redis-py reads these two while it connects, again for each address of a host. It would leave
    # the socket open after an error here.
    @property
    def socket_timeout(self) -> float:
        return self.current.deadline.remaining_or_little()

    @socket_timeout.setter
    def socket_timeout(self, value: object) -> None:
        """Does nothing: the deadline alone counts."""

    @property
    def socket_connect_timeout(self) -> float:
        return self.current.deadline.remaining_or_little()

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: object) -> None:
        """Does nothing: the deadline alone counts."""

    def _connect(self) -> DeadlineSocket:
        sock = super()._connect()  # type: ignore[misc]
        self.was_accepted = True
        return DeadlineSocket(sock, self.current)


@functools.cache
def bounded(connection_class: t.Any) -> t.Any:
    """This connection class of redis-py, with a deadline."""
    return type(connection_class.__name__, (Bounded, connection_class), {})


class Link:
    """A connection that is in step: for each command it has sent, it has read the whole reply.

    redis-py connects. After that this object sends and receives. Whatever interrupts an exchange,
    also an exception from a signal handler or a killed greenlet, closes the connection. So no
    caller gets the reply to another caller's command.
    """

    protocol: t.ClassVar[int] = 2
    """RESP2 needs no HELLO, which some proxies and access rules refuse, and has no messages that
    the server sends unasked."""

    _channel: Channel
    _replies: ReplyReader

    def __init__(self, connection_class: t.Any, options: Options, deadline: Deadline) -> None:
        """Does not connect yet. `deadline` is that of the call that wants the connection."""
        bounded_class: ConnectionClass = bounded(connection_class)
        fixed = _fixed_options() | {"protocol": self.protocol}
        self._connection = bounded_class(**options, **fixed)
        # The garbage collector may free the socket before redis-py's connection, which closes it.
        # It calls this function before it frees anything.
        weakref.finalize(self, self._connection.disconnect).atexit = False
        self._used = time.monotonic()
        self._connection.current = self._current = Current()
        self._current.deadline = deadline
        self.is_new = True
        """Whether no call has used the connection before."""
        self.is_idle: bool = False
        self.is_closed: bool = False

    @property
    def was_accepted(self) -> bool:
        """Whether the server has accepted the connection, whatever came then."""
        return bool(self._connection.was_accepted)

    def connect(self) -> None:
        """Raises an error of redis-py or an `OSError` if that fails."""
        try:
            self._connection.connect()
            if self._connection.can_read(timeout=0):
                raise InvalidResponse("the server sent more than the replies to the handshake")
            self._channel = Channel(self._connection._sock.plain)
            self._replies = ReplyReader(self._channel.receive)
        except BaseException:
            self.close()
            raise

    def lease(self, deadline: Deadline, stale: float) -> bool:
        """A call that ends at this deadline takes the connection. Returns False if the connection
        must not be used: it was idle for so many seconds, or is not usable any more."""
        self._current.deadline = deadline
        self.is_idle = False
        return time.monotonic() - self._used < stale and self._is_usable()

    @property
    def is_lost(self) -> bool:
        """Whether the call that took the connection has ended without giving it back. An exception
        from outside may have come before anything could close the connection, and may still refer
        to it."""
        return not self.is_idle and self._current.deadline.is_over

    @property
    def idle_seconds(self) -> float:
        return time.monotonic() - self._used

    def _is_usable(self) -> bool:
        """Whether the server has neither closed the connection nor sent something unasked, such as
        a second reply."""
        try:
            return self._replies.is_empty and self._channel.is_silent
        except (OSError, ValueError):  # ValueError: the socket was closed
            return False

    def exchange(self, command: t.Sequence[t.Any], end: float) -> t.Any:
        """The reply to a command, in bytes, which must be there at `end` (monotonic clock). Raises
        `ResponseError` for an error reply."""
        self._channel.end = end
        try:
            self._channel.send(pack(command))
            reply = self._replies.read()
        except ResponseError:  # a whole reply
            self._used = time.monotonic()
            raise
        except BaseException:
            self.close()
            raise
        self._used = time.monotonic()
        return reply

    def exchange_all(self, commands: t.Sequence[t.Sequence[t.Any]], end: float) -> list[t.Any]:
        """The replies to several commands, which are sent together. An error reply is in the list
        as a `ResponseError`."""
        self._channel.end = end
        try:
            self._channel.send(b"".join(map(pack, commands)))
            replies = [self._read_or_error() for _ in commands]
        except BaseException:
            self.close()
            raise
        self._used = time.monotonic()
        return replies

    def _read_or_error(self) -> t.Any:
        try:
            return self._replies.read()
        except ResponseError as error:
            return error

    def close(self) -> None:
        self.is_closed = True
        self._connection.disconnect()


@functools.cache
def _fixed_options() -> dict[str, t.Any]:
    """The options that each connection gets, whatever the URL or the client says.

    Without the name of the library, connecting needs no further command.
    """
    known = inspect.signature(AbstractConnection.__init__).parameters
    fixed: dict[str, t.Any] = {"decode_responses": False}
    if "driver_info" in known:
        return fixed | {"driver_info": None}
    return fixed | {"lib_name": None, "lib_version": None}
