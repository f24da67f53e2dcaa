"""The primary server that Redis Sentinel names."""

from __future__ import annotations

import dataclasses
import time
import typing as t
from collections.abc import Sequence
from contextlib import suppress

from redis.exceptions import RedisError

from .deadline import Deadline
from .node import Address, Command, Node, NodeMaker, Repeat, is_final, was_refused
from .role import ASK_ROLE, check_role, require_primary

_SECONDS_BETWEEN_QUESTIONS = 1.0
"""After a failover that an operator has asked for, the old primary accepts writes for some seconds
until the Sentinels make it a replica, and then all of these writes are lost."""


class Sentinels:
    """Sends every command to the primary, and asks the Sentinels again if the primary fails.

    Reads go to the primary too: a replica could still have a session that was revoked. Each new
    connection asks the server whether it is the primary, because a primary that a failover has
    made a replica closes its connections and accepts new ones.
    """

    heartbeat = ASK_ROLE

    def __init__(self, service: str, sentinels: Sequence[Node], make_node: NodeMaker) -> None:
        self._service = service
        self._sentinels = list(sentinels)
        self._make_node = dataclasses.replace(make_node, check=require_primary)
        self._nodes: dict[Address, Node] = {}
        self._primary: Node | None = None
        self._next_question = self._next_question_to_listen = 0.0

    def call(self, command: Command, deadline: Deadline) -> t.Any:
        primary = self._current_primary(deadline)
        try:
            return primary.call(command, deadline)
        except (RedisError, OSError) as error:
            if is_final(error):
                raise
            self._primary = None
            may_repeat = was_refused(error) or command.repeat is not Repeat.DIFFERENT
            if deadline.is_over or not may_repeat:
                raise
            current = self._find_primary(deadline)
            if current is primary:
                raise
        return current.call(command, deadline)

    def primaries(self, deadline: Deadline) -> list[Node]:
        primary, now = self._primary, time.monotonic()
        if primary is None:
            return [self._find_primary(deadline)]
        if now >= self._next_question_to_listen:
            # This question does not count for calls: the next call that is due asks by itself.
            self._next_question_to_listen = now + _SECONDS_BETWEEN_QUESTIONS
            with suppress(RedisError, OSError):
                primary = self._find_primary(deadline.share(0.25))
        return [primary]

    def check_heartbeat(self, reply: t.Any) -> None:
        check_role(reply)

    def close(self) -> None:
        for node in [*self._sentinels, *list(self._nodes.values())]:
            node.close()

    def _current_primary(self, deadline: Deadline) -> Node:
        """The primary that the Sentinels have named within the last second."""
        primary, now = self._primary, time.monotonic()
        if primary is None or now >= self._next_question:
            self._next_question = now + _SECONDS_BETWEEN_QUESTIONS  # other threads need not ask
            if primary is None:
                return self._find_primary(deadline)
            with suppress(RedisError, OSError):
                return self._find_primary(deadline.share(0.25))
        return primary

    def _find_primary(self, deadline: Deadline) -> Node:
        """Asks one Sentinel after the other. Each may take its share of the remaining time only, so
        that one that hangs leaves time for the others."""
        command = Command(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service), Repeat.READ)
        sentinels = list(self._sentinels)
        failure: Exception | None = None
        for n, sentinel in enumerate(sentinels):
            try:
                # The last share is for the command itself.
                share = deadline.share(1 / (len(sentinels) - n + 1))
                reply = sentinel.call(command, share)
            except (RedisError, OSError) as error:
                failure = error
                continue
            if address := _address_in(reply):
                # The next question goes to this one first.
                self._sentinels = [sentinel, *sentinels[:n], *sentinels[n + 1 :]]
                self._primary = primary = self._node_at(address)
                return primary
        raise ConnectionError(
            f"no Sentinel names a primary for the service {self._service!r}"
        ) from failure

    def _node_at(self, address: Address) -> Node:
        if address not in self._nodes:
            for node in list(self._nodes.values()):
                node.close()
            self._nodes[address] = self._make_node(address)
        return self._nodes[address]


def _address_in(reply: t.Any) -> Address | None:
    """None if the Sentinel knows no such service, or if its reply has another shape."""
    try:
        host, port = reply
        return host.decode(), int(port)
    except (TypeError, ValueError, AttributeError):
        return None
