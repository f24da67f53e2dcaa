"""The protocol RESP2: commands to bytes, and bytes to replies.

redis-py's own functions for this take three times as many steps, because they also know RESP3, text
and hiredis. They are a fifth of the time of a session's read.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Sequence

from redis.connection import DefaultParser
from redis.exceptions import InvalidResponse, RedisError

Reply = t.Any
"""An int, bytes, None, a list of replies, or an error inside a list."""

_MAX_DEPTH = 8
"""No reply that the package asks for is nested deeper."""


def pack(command: Sequence[t.Any]) -> bytes:
    """The bytes to send for a command, whose arguments are bytes, str and int."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if type(argument) is bytes else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


_error: Callable[[str], Exception] = t.cast(t.Any, DefaultParser).parse_error


class ReplyReader:
    """Reads replies, each whole, from a stream of bytes.

    After any exception but that of an error reply, the reader is out of step with the stream.
    """

    def __init__(self, receive: Callable[[], bytes]) -> None:
        """`receive` gives the next bytes of the stream, at least one. It raises an exception if
        there are none in time."""
        self._receive = receive
        self._buffer = b""
        self._at = 0
        self.is_empty: bool = True
        """Whether no byte followed the last reply."""

    def read(self) -> Reply:
        """The next reply. Raises an error reply as the error of redis-py for it, and
        `InvalidResponse` for bytes that are no reply."""
        try:
            reply = self._item(_MAX_DEPTH)
        except ValueError as error:  # a number of over 4,300 digits, a MOVED without an address
            raise _malformed() from error
        self.is_empty = self._at == len(self._buffer)
        if self.is_empty:
            self._buffer, self._at = b"", 0  # an idle connection keeps no memory
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def _item(self, depth: int) -> Reply:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return self._bulk(int(rest)) if rest.isdigit() else _missing(rest)
        if kind == b":":
            return int(rest) if rest.isdigit() else _negative(rest)
        if kind == b"*" and depth:
            if not rest.isdigit():
                return _missing(rest)
            return [self._item(depth - 1) for _ in range(int(rest))]
        if kind == b"+":
            return rest
        if kind == b"-":
            return _error(rest.decode(errors="replace"))
        raise _malformed()

    def _line(self) -> bytes:
        """The bytes before the next line end."""
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            self._append(self._receive())
        line = self._buffer[self._at : end]
        self._at = end + 2
        return line

    def _bulk(self, size: int) -> bytes:
        """The next `size` bytes, which a line end must follow."""
        while len(self._buffer) < self._at + size + 2:
            self._append(self._receive())
        end = self._at + size
        data = self._buffer[self._at : end]
        if self._buffer[end : end + 2] != b"\r\n":
            raise _malformed()
        self._at = end + 2
        return data

    def _append(self, data: bytes) -> None:
        self._buffer = self._buffer[self._at :] + data
        self._at = 0


def _negative(digits: bytes) -> int:
    if digits[:1] != b"-" or not digits[1:].isdigit():
        raise _malformed()
    return int(digits)


def _missing(digits: bytes) -> None:
    """The bulk string or list of the length -1, which stands for a missing value."""
    if digits != b"-1":
        raise _malformed()


def _malformed() -> InvalidResponse:
    return InvalidResponse("the server sent a malformed reply")
