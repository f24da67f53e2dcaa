"""What the store needs of a server or of several."""

from __future__ import annotations

import typing as t

from .deadline import Deadline
from .node import Command


@t.runtime_checkable
class Servers(t.Protocol):
    """Sends a command to the server that it is for.

    `call` raises an error of redis-py or an `OSError`. It ends before the deadline, except for the
    look-up of a host name.
    """

    def call(self, command: Command, deadline: Deadline) -> t.Any: ...

    def close(self) -> None: ...
