"""What the store needs of a server or of several."""

from __future__ import annotations

import typing as t

from .deadline import Deadline
from .node import Command, Node


@t.runtime_checkable
class Servers(t.Protocol):
    """Sends a command to the server that it is for.

    `call` raises an error of redis-py or an `OSError`. It ends before the deadline, except for the
    look-up of a host name.
    """

    def call(self, command: Command, deadline: Deadline) -> t.Any: ...

    def close(self) -> None: ...

    def primaries(self, deadline: Deadline) -> list[Node]:
        """The servers that take writes now, each as the same object as long as it is one of them.

        Asks Sentinels or a cluster for them at most once a second. Raises an error of redis-py or
        an `OSError`.
        """
        ...

    @property
    def heartbeat(self) -> tuple[str, ...]:
        """A command whose reply shows that a server works."""
        ...

    def check_heartbeat(self, reply: t.Any) -> None:
        """Raises an error of redis-py if a server that sends this reply to `heartbeat` may miss
        writes."""
