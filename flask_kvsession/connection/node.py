"""One server: its idle connections, and what to do if one of them fails."""

from __future__ import annotations

import os
import threading
import time
import typing as t
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import redis
from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError, ResponseError

from .breaker import Breaker, CircuitOpen
from .deadline import Deadline
from .link import ConnectionClass, Link, Options

_RESTED = 5.0
"""After so many seconds without use, a connection is asked PING before a command that must not be
sent twice."""

_STALE = 240.0
"""A connection that was idle for so many seconds is closed. Many firewalls forget it after 5
minutes."""


_POLL = 0.002
"""How often a caller looks for a free connection if all are in use, s."""


Address = tuple[str, int]
"""Host and port."""


class CannotConnect(ConnectionError):
    """No connection could be made, so no command was sent."""


class Repeat(Enum):
    """What happens if a command is sent twice, because the reply to the first was lost."""

    READ = "It reads only."
    SAME = "It recognises its own repeat, and its reply is right."
    DIFFERENT = "The second reply would be another one. It must not be sent twice."


@dataclass(frozen=True, slots=True)
class Command:
    args: Sequence[t.Any]
    repeat: Repeat
    key: str | None = None
    """A key of the command; in a cluster its slot says which server gets the command."""

    @property
    def is_read(self) -> bool:
        return self.repeat is Repeat.READ


class Node:
    """Sends commands to one server.

    A link is taken out of the list of idle links, and is put back only after a whole reply. So a
    link that was lost in between, by whatever exception, is never used again.
    """

    def __init__(
        self,
        connection_class: ConnectionClass,
        options: Options,
        max_connections: int | None = None,
    ) -> None:
        self._connection_class = connection_class
        self._options = options
        self._max_connections = max_connections
        self._breakers = {True: Breaker(), False: Breaker()}
        self._forget_connections()

    def call(
        self, command: Command, deadline: Deadline, *, prefix: Sequence[t.Any] | None = None
    ) -> t.Any:
        """The reply to a command. `prefix` is a command to send before it on the same connection.

        If an idle connection fails, the command is sent once more on a new one, within the same
        deadline; unless it may have been carried out and must not be sent twice.
        """
        breaker = self._breakers[command.is_read]
        breaker.check(deadline)
        try:
            reply = self._call(command, deadline, prefix)
        except (TimeoutError, redis.TimeoutError):
            breaker.timed_out(deadline)
            raise
        except (RedisError, OSError):  # it answered, if only by closing the connection
            breaker.answered()
            raise
        breaker.answered()
        return reply

    def close(self) -> None:
        """Closes the idle connections. A later call opens new ones."""
        while self._idle:
            self._idle.pop().close()

    def _call(self, command: Command, deadline: Deadline, prefix: Sequence[t.Any] | None) -> t.Any:
        link, may_repeat = self._take_idle(), True
        if link:
            # A connection that a firewall has forgotten gives no error and no reply.
            share = deadline.share(0.5) if command.repeat is not Repeat.DIFFERENT else deadline
            try:
                if command.repeat is Repeat.DIFFERENT and link.idle_seconds > _RESTED:
                    link.exchange(("PING",), deadline.share(0.5))
                may_repeat = command.repeat is not Repeat.DIFFERENT
                return self._exchange(link, command, share, prefix)
            except (RedisError, OSError) as error:
                self.close()  # the other idle connections are probably as bad
                if not (
                    was_refused(error) or (may_repeat and not isinstance(error, ResponseError))
                ):
                    raise
                if deadline.is_over:
                    raise
        return self._exchange(self._open(deadline), command, deadline, prefix)

    def _exchange(
        self, link: Link, command: Command, deadline: Deadline, prefix: Sequence[t.Any] | None
    ) -> t.Any:
        try:
            if prefix:
                link.exchange(prefix, deadline)
            reply = link.exchange(command.args, deadline)
        except ResponseError as error:
            if was_refused(error):
                link.close()
            else:
                self._idle.append(link)
            raise
        self._idle.append(link)
        return reply

    def _open(self, deadline: Deadline) -> Link:
        if self._max_connections is None:
            return self._connected(deadline)
        while True:
            with self._lock:
                if sum(link.is_open for link in self._links) < self._max_connections:
                    link = self._connected(deadline)
                    self._links.add(link)
                    return link
            if idle := self._take_idle():
                return idle
            deadline.remaining()  # raises TimeoutError in the end
            time.sleep(_POLL)

    def _connected(self, deadline: Deadline) -> Link:
        try:
            return Link(self._connection_class, self._options, deadline)
        except (TimeoutError, redis.TimeoutError):
            raise
        except (RedisError, OSError) as error:
            raise CannotConnect(f"{type(error).__name__}: {error}") from error

    def _take_idle(self) -> Link | None:
        """The most recently used idle link that still works."""
        if self._pid != os.getpid():  # the connections belong to the parent process
            self._forget_connections()
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            if link.idle_seconds < _STALE and link.is_usable:
                return link
            link.close()
        return None

    def _forget_connections(self) -> None:
        self._idle: list[Link] = []
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._pid = os.getpid()


@dataclass(frozen=True, slots=True)
class NodeMaker:
    """Makes the node at an address. All nodes of a Sentinel or cluster have the same options."""

    connection_class: ConnectionClass
    options: Options
    max_connections: int | None = None

    def __call__(self, address: Address) -> Node:
        host, port = address
        options = {**self.options, "host": host, "port": port}
        return Node(self.connection_class, options, self.max_connections)


def was_refused(error: Exception) -> bool:
    """Whether the command was certainly not carried out, and another server or a later connection
    may do it: the server cannot be reached, is loading, or is a replica now."""
    if isinstance(error, ReadOnlyError | BusyLoadingError | CircuitOpen | CannotConnect):
        return True
    # Redis 6.2 puts the error of a script into a longer text.
    return isinstance(error, ResponseError) and "READONLY" in str(error)
