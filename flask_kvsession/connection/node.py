"""One server: its idle connections, and what to do if one of them fails."""

from __future__ import annotations

import os
import threading
import time
import typing as t
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

import msgspec
import redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from .breaker import Breaker, CircuitOpen
from .deadline import Deadline
from .link import ConnectionClass, Link, Options
from .listener import Listener, Refused

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

Check = Callable[[Link, Deadline], None]


class CannotConnect(ConnectionError):
    """No connection could be made, so no command was sent."""


class ClosedWhileConnecting(CannotConnect):
    """The server accepted a connection and closed it before the first command."""


class Repeat(Enum):
    """What happens if a command is sent twice, because the reply to the first was lost."""

    READ = "It reads only."
    SAME = "It recognises its own repeat, and its reply is right."
    DIFFERENT = "The second reply would be another one. It must not be sent twice."


class Command(msgspec.Struct, frozen=True):
    args: Sequence[t.Any]
    repeat: Repeat
    key: str | None = None
    """A key of the command; in a cluster its slot says which server gets the command."""


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
        check: Check | None = None,
    ) -> None:
        """`check` is called with each new connection; it raises an error if the server must not be
        used."""
        self._check = check
        self._connection_class = connection_class
        self._options = options
        self._max_connections = max_connections
        self._read_breaker, self._write_breaker = Breaker(), Breaker()
        self._idle: list[Link] = []
        self._forget_connections()

    def call(
        self, command: Command, deadline: Deadline, *, prefix: Sequence[t.Any] | None = None
    ) -> t.Any:
        """The reply to a command. `prefix` is a command to send before it on the same connection.

        If a connection fails, the command is sent once more on a new one, within the same deadline;
        unless it may have been carried out and must not be sent twice.
        """
        is_read = command.repeat is Repeat.READ
        breaker = self._read_breaker if is_read else self._write_breaker
        if breaker.is_open:
            breaker.require_turn(deadline)
        try:
            reply = self._call(command, deadline, prefix)
        except (TimeoutError, redis.TimeoutError):
            breaker.timed_out(deadline)
            raise
        except (RedisError, OSError):  # it answered, if only by closing the connection
            breaker.is_open = False
            raise
        breaker.is_open = False
        return reply

    def listen(self, prefix: str, deadline: Deadline) -> Listener:
        """A connection on which the server reports each change of a key that begins with the
        prefix. It belongs to the caller, who closes it. `max_connections` does not count it.

        Raises `Refused` if the server does not do that.
        """
        listener = Listener(self._connection_class, self._options, deadline)
        self._connect(listener, deadline)
        listener.track(prefix, deadline)
        return listener

    def call_all(self, commands: Sequence[Sequence[t.Any]], deadline: Deadline) -> list[t.Any]:
        """The replies to several commands, which are sent together and not sent again. An error
        reply is in the list as a `ResponseError`."""
        link = self._take_idle(deadline) or self._open(deadline)
        replies = link.exchange_all(commands, deadline.end)
        self._put_back(link)
        return replies

    @property
    def name(self) -> str:
        """The address of the server: host and port, or the path of its socket."""
        options = self._options
        if path := options.get("path"):
            return str(path)
        return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"

    def close(self) -> None:
        """Closes the idle connections. A later call opens new ones."""
        for _ in range(len(self._idle)):
            with suppress(IndexError):  # another thread took one, and uses it
                self._idle.pop().close()

    def _call(self, command: Command, deadline: Deadline, prefix: Sequence[t.Any] | None) -> t.Any:
        link = self._take_idle(deadline) or self._open(deadline)
        is_new, may_repeat = link.is_new, command.repeat is not Repeat.DIFFERENT
        # A connection that a firewall has forgotten gives no error and no reply.
        half_time = (time.monotonic() + deadline.end) / 2
        end = half_time if may_repeat and not is_new else deadline.end
        try:
            if not may_repeat and link.idle_seconds > _RESTED:
                self._require_pong(link, half_time)
            return self._exchange(link, command, end, prefix)
        except (RedisError, OSError) as error:
            if is_final(error):
                raise
            self.close()  # the other idle connections are probably as bad
            # A new connection to a server that refuses the command would be refused again.
            is_worth_it = not is_new if was_refused(error) else may_repeat
            if not is_worth_it or deadline.is_over:
                raise
        return self._exchange(self._open(deadline), command, deadline.end, prefix)

    def _require_pong(self, link: Link, end: float) -> None:
        try:
            link.exchange(("PING",), end)
        except (RedisError, OSError) as error:
            link.close()
            raise CannotConnect("an idle connection does not work any more") from error

    def _exchange(
        self, link: Link, command: Command, end: float, prefix: Sequence[t.Any] | None
    ) -> t.Any:
        try:
            if prefix:
                link.exchange(prefix, end)
            reply = link.exchange(command.args, end)
        except BaseException as error:
            if isinstance(error, ResponseError) and is_final(error):
                self._put_back(link)
            else:
                link.close()
            raise
        self._put_back(link)
        return reply

    def _put_back(self, link: Link) -> None:
        link.is_new, link.is_idle = False, True
        self._idle.append(link)

    def _open(self, deadline: Deadline) -> Link:
        """A new connection. If there are as many as allowed, waits until one is idle or closed."""
        try:
            return self._open_once(deadline)
        except ClosedWhileConnecting:  # as an open connection that is closed: tried once more
            if deadline.is_over:
                raise
        return self._open_once(deadline)

    def _open_once(self, deadline: Deadline) -> Link:
        while (link := self._new_link(deadline)) is None:
            if idle := self._take_idle(deadline):
                return idle
            deadline.remaining()  # raises TimeoutError in the end
            time.sleep(_POLL)
        self._connect(link, deadline)
        return link

    def _connect(self, link: Link, deadline: Deadline) -> None:
        try:
            link.connect()
            if self._check:
                self._check(link, deadline)
        except BaseException as error:
            link.close()
            if isinstance(error, TimeoutError | redis.TimeoutError | Refused):
                raise
            if isinstance(error, RedisError | OSError):
                kind = ClosedWhileConnecting if _was_closed(link, error) else CannotConnect
                raise kind(f"{type(error).__name__}: {error}") from error
            raise

    def _new_link(self, deadline: Deadline) -> Link | None:
        """A link that is not connected yet; None if no more are allowed.

        A link counts until it is closed, freed or lost. So interrupted calls do not use up the
        connections.
        """
        if self._max_connections is None:
            return Link(self._connection_class, self._options, deadline)
        with self._lock:
            count = sum(not (link.is_closed or link.is_lost) for link in self._links)
            if count >= self._max_connections:
                return None
            link = Link(self._connection_class, self._options, deadline)
            self._links.add(link)
            return link

    def _take_idle(self, deadline: Deadline) -> Link | None:
        """The most recently used idle link that still works."""
        if self._pid != os.getpid():  # the connections belong to the parent process
            self._forget_connections()
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            try:
                if link.lease(deadline, _STALE):
                    return link
            except BaseException:
                link.close()
                raise
            link.close()
        return None

    def _forget_connections(self) -> None:
        self._idle = []
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._pid = os.getpid()


@dataclass(frozen=True, slots=True)
class NodeMaker:
    """Makes the node at an address. All nodes of a Sentinel or cluster have the same options."""

    connection_class: ConnectionClass
    options: Options
    max_connections: int | None = None
    check: Check | None = None

    def __call__(self, address: Address) -> Node:
        host, port = address
        options = {**self.options, "host": host, "port": port}
        return Node(self.connection_class, options, self.max_connections, self.check)


_REFUSALS = (
    *(ReadOnlyError, BusyLoadingError, ClusterDownError),  # MASTERDOWN is a ClusterDownError
    *(CircuitOpen, CannotConnect),
)


def is_final(error: Exception) -> bool:
    """Whether the server has answered the command with this error, and another connection would get
    the same answer."""
    return isinstance(error, ResponseError) and not was_refused(error)


def _was_closed(link: Link, error: Exception) -> bool:
    """Whether the server has accepted the connection and closed it, or has said that it has too
    many. (redis-py has subclasses of its `ConnectionError` for other errors, such as a wrong
    password.)"""
    is_end = type(error) is redis.ConnectionError or isinstance(error, ConnectionError)
    return link.was_accepted and is_end


def was_refused(error: Exception) -> bool:
    """Whether the command was certainly not carried out, and another server or a later connection
    may do it: the server cannot be reached, is loading, is a replica now, or its cluster is
    down."""
    if isinstance(error, _REFUSALS):
        return True
    # Redis 6.2 puts the error of a script into a longer text.
    return isinstance(error, ResponseError) and "READONLY" in str(error)
