"""One server, without Sentinel and without a cluster."""

from __future__ import annotations

import typing as t

from redis.exceptions import MovedError, ReadOnlyError

from ..errors import ConfigurationError
from .deadline import Deadline
from .node import Command, Node
from .role import ASK_ROLE, check_role


class SingleServer:
    """Sends every command to one server."""

    heartbeat = ASK_ROLE

    def __init__(self, node: Node) -> None:
        self._node = node

    def call(self, command: Command, deadline: Deadline) -> t.Any:
        try:
            return self._node.call(command, deadline)
        except MovedError:
            raise ConfigurationError(
                "KVSESSION_REDIS_URL names one node of a Redis Cluster, which does not have all"
                " sessions; write redis+cluster://host:port instead, or pass a RedisCluster client:"
                " KVSession(app, redis=client)."
            ) from None
        except ReadOnlyError as error:
            raise ReadOnlyError(
                "the server is a replica and refuses writes. If this does not end with a failover,"
                " name the primary in KVSESSION_REDIS_URL, or the Sentinels: redis+sentinel://"
            ) from error

    def primaries(self, deadline: Deadline) -> list[Node]:
        return [self._node]

    def check_heartbeat(self, reply: t.Any) -> None:
        check_role(reply)

    def close(self) -> None:
        self._node.close()
