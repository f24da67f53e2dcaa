"""A proxy in front of a server's unix socket, with which a test makes connections fail."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path


class Proxy:
    """Forwards all bytes. `on_request` and `on_reply` get each chunk first and return whether to
    forward it (True) or to close the connection (False).

    `rewrite_reply` gets each chunk of a reply and yields the chunks to send instead of it. `target`
    is the socket of the server; a change applies to new connections, as in a failover behind one
    address.
    """

    def __init__(self, server_path: str) -> None:
        self.target = server_path
        self._folder = tempfile.mkdtemp(prefix="kvs-", dir="/tmp")
        self.path = str(Path(self._folder, "s"))
        self.on_request: Callable[[bytes], bool] = lambda chunk: True
        self.on_reply: Callable[[bytes], bool] = lambda chunk: True
        self.rewrite_reply: Callable[[bytes], Iterator[bytes]] = _unchanged
        self._silent: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(100)
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_reply_to(self, name: bytes, *, before_hanging_up: Callable[[], object]) -> None:
        """The server carries out the next command of this name, but the client gets no reply.
        `before_hanging_up` is called before the connection is closed."""
        is_wanted = threading.Event()
        done = threading.Event()

        def on_request(chunk: bytes) -> bool:
            if name in chunk and not done.is_set():
                is_wanted.set()
            return True

        def on_reply(chunk: bytes) -> bool:
            if not is_wanted.is_set() or done.is_set() or chunk.startswith(b"-NOSCRIPT"):
                return True
            done.set()
            before_hanging_up()
            return False

        self.on_request, self.on_reply = on_request, on_reply

    def forget_connections(self) -> None:
        """From now on, nothing that comes from an open connection is forwarded, and nobody is told:
        so does a firewall that has forgotten the connections."""
        self._silent |= set(self._open)

    def cut_connections(self) -> None:
        for end in list(self._open):
            _hang_up(end)

    def close(self) -> None:
        for end in [self._listener, *self._open]:
            _hang_up(end)
        Path(self.path).unlink(missing_ok=True)
        Path(self._folder).rmdir()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self.target)
            except OSError:  # nobody listens
                _hang_up(client)
                server.close()
                continue
            self._open |= {client, server}
            self._pump(client, server, lambda chunk: self.on_request(chunk), _unchanged)
            self._pump(
                server,
                client,
                lambda chunk: self.on_reply(chunk),
                lambda chunk: self.rewrite_reply(chunk),
            )

    def _pump(
        self,
        source: socket.socket,
        target: socket.socket,
        passes: Callable[[bytes], bool],
        rewrite: Callable[[bytes], Iterator[bytes]],
    ) -> None:
        def run() -> None:
            try:
                while chunk := source.recv(1 << 16):
                    if source in self._silent:
                        continue
                    if not passes(chunk):
                        break
                    for part in rewrite(chunk):
                        target.sendall(part)
            except OSError:
                pass
            for end in (source, target):
                _hang_up(end)
                self._open.discard(end)
                self._silent.discard(end)

        threading.Thread(target=run, daemon=True).start()


def _unchanged(chunk: bytes) -> Iterator[bytes]:
    yield chunk


def _hang_up(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
