"""A connection on which a server reports which keys have changed, without being asked."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Iterator

from redis.exceptions import ResponseError

from .deadline import Deadline
from .link import Link


class Refused(ConnectionError):
    """The server does not report changes: it does not know `CLIENT TRACKING` or RESP3, or the
    access rules forbid it."""


class Listener(Link):
    """A connection that is told of every change of a key with the prefix that it tracks.

    It speaks RESP3, in which a server may send messages that are no replies; redis-py sends and
    receives here. After `track`, use only `send`, `messages` and `close`: a reply may come after
    reports. Any exception in them means that reports may be lost.
    """

    protocol = 3

    def connect(self) -> None:
        """Raises `Refused` if the server does not speak RESP3."""
        try:
            self._connection.connect()
        except (ResponseError, AttributeError):  # a reply of RESP2 has no attribute `get`
            self.close()
            # The error may quote the arguments of HELLO, and so the password.
            raise Refused("it refuses HELLO 3, so it does not speak RESP3") from None
        except BaseException:
            self.close()
            raise

    def exchange(self, command: t.Sequence[t.Any], end: float) -> t.Any:
        """The reply to a command that is sent before `track`."""
        try:
            self.send(command, Deadline(end - time.monotonic()))
            return self._connection.read_response(disable_decoding=True)
        except BaseException as error:
            if not isinstance(error, ResponseError):
                self.close()
            raise

    def track(self, prefix: str, deadline: Deadline) -> None:
        """From now on, the server reports each change of a key that begins with the prefix, in all
        databases. Raises `Refused` if it does not."""
        try:
            self.exchange(("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix), deadline.end)
        except ResponseError as error:
            self.close()
            raise Refused(f"it refuses CLIENT TRACKING: {error}") from error
        # Without a handler, redis-py drops these messages.
        self._connection._parser.set_invalidation_push_handler(_unchanged)

    def fileno(self) -> int:
        return t.cast(int, self._connection._sock.fileno())

    def send(self, command: t.Sequence[t.Any], deadline: Deadline) -> None:
        """Sends a command; its reply will be one of the messages."""
        self._current.deadline = deadline
        self._connection.send_command(*command, check_health=False)

    def messages(self, seconds: float) -> Iterator[t.Any]:
        """What has arrived, in its order, without waiting for more: replies, error replies as
        `ResponseError` objects, and reports, which `changed_keys` recognises.

        A message that has arrived in part is waited for, so many seconds at most.
        """
        while self._connection.can_read(timeout=0):
            self._current.deadline = Deadline(seconds)
            yield self._next_message()

    def _next_message(self) -> t.Any:
        try:
            message = self._connection.read_response(disable_decoding=True, push_request=True)
        except ResponseError as error:
            return error
        if isinstance(message, Exception):  # redis-py 6 with hiredis returns some errors
            raise message
        return message


def changed_keys(message: t.Any) -> list[bytes] | None:
    """The keys that a report names; empty if the server was flushed. None for any other message."""
    if isinstance(message, list) and message[:1] == [b"invalidate"]:
        return message[1] or []
    return None


def _unchanged(message: t.Any) -> t.Any:
    return message
