"""A connected socket on which each wait ends at a deadline."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable

_MOST_AT_ONCE = 16384

_MUST_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Channel:
    """Sends and receives bytes. The socket itself never waits; this object waits for it.

    With a timeout of the socket, Python would make two more system calls for each send and receive,
    and the timeout would begin anew with each byte that arrives.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self.end: float = 0.0
        """When the current exchange must be over, by the monotonic clock."""
        self._socket = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._is_readable = _waiter(sock, for_reading=True)

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to receive, and the other side has not closed the connection."""
        if not self._is_tls:
            return not self._is_readable(0)
        try:
            self._socket.recv(1)
        except ssl.SSLWantReadError:  # what has arrived belongs to TLS
            return True
        return False

    def send(self, data: bytes) -> None:
        """Sends all of `data`. Raises `TimeoutError` if that is not done in time."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except _MUST_WAIT as error:
                self._wait_after(error, for_reading=False)

    def receive(self) -> bytes:
        """The next bytes. Raises `TimeoutError` if none arrive in time, and `ConnectionError` if
        the other side has closed the connection."""
        if not self._is_tls:  # TLS may have more bytes ready, although the socket has none
            self._wait(self._is_readable)
        while True:
            try:
                data = self._socket.recv(_MOST_AT_ONCE)
            except _MUST_WAIT as error:
                self._wait_after(error, for_reading=True)
                continue
            if not data:
                raise ConnectionError("the server closed the connection")
            return data

    def _wait_after(self, error: OSError, *, for_reading: bool) -> None:
        """Waits until the socket can do what it could not. TLS may need the other direction."""
        if isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
            for_reading = isinstance(error, ssl.SSLWantReadError)
        self._wait(_waiter(self._socket, for_reading=for_reading))

    def _wait(self, is_ready: Callable[[float], object]) -> None:
        seconds = self.end - time.monotonic()
        if seconds <= 0 or not is_ready(seconds * 1000):
            raise TimeoutError("the server did not answer in time")


def _waiter(sock: socket.socket, *, for_reading: bool) -> Callable[[float], object]:
    """A function that waits up to so many ms, and returns whether the socket is ready."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN if for_reading else select.POLLOUT)
        return poll.poll
    reading, writing = ([sock], []) if for_reading else ([], [sock])

    def wait(milliseconds: float) -> bool:  # Windows has no poll, and eventlet removes it
        return any(select.select(reading, writing, [], milliseconds / 1000))

    return wait
