"""Lets each command pass through `execute_command` of redis-py, which tools for tracing patch."""

from __future__ import annotations

import functools
import typing as t
from collections.abc import Callable

import redis

from .deadline import Deadline
from .node import Command, Node
from .servers import Servers


class TracedServers:
    """The same servers, whose commands pass through `redis.Redis.execute_command`.

    Tools for tracing and for tests replace that function, and do not see the package's own
    connections otherwise. Connections, deadlines and repeats stay those of the package: one call
    is one command as the store sees it, however often it was sent.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._client: t.Any = _PassingClient()

    def call(self, command: Command, deadline: Deadline) -> t.Any:
        send = functools.partial(self._servers.call, command, deadline)
        return self._client.execute_command(*command.args, send=send)

    def close(self) -> None:
        self._servers.close()

    def primaries(self, deadline: Deadline) -> list[Node]:
        return self._servers.primaries(deadline)

    @property
    def heartbeat(self) -> tuple[str, ...]:
        return self._servers.heartbeat

    def check_heartbeat(self, reply: t.Any) -> None:
        self._servers.check_heartbeat(reply)


class _PassingClient(redis.Redis):
    """A client that hands each command on, and never connects."""

    def __init__(self) -> None:
        # Tools read the address from the pool. There is none: a cluster has many.
        super().__init__(connection_pool=redis.ConnectionPool(host="", port=0))

    def _execute_command(self, *args: t.Any, send: Callable[[], t.Any]) -> t.Any:
        """redis-py's `execute_command` consists of a call of this method."""
        return send()
