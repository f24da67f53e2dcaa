"""The commands that clients send to the server."""

from __future__ import annotations

import secrets
import typing as t
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from . import near_cache

_NOT_COUNTED = ("HELLO", "CLIENT", "SELECT", "AUTH", "PING", "INFO", "ROLE")
"""The handshake of a connection, what a process asks once in 5 minutes, and the heartbeat of the
thread that listens for changes."""


class Commands:
    """The commands that clients have sent to the server, one entry for each round trip."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def __len__(self) -> int:
        return len(self.sent)

    @property
    def names(self) -> list[str]:
        return [line.split()[0] for line in self.sent]


CountCommands = Callable[[], t.ContextManager[Commands]]
"""The type of the fixture `count_commands`."""

Keys = Callable[[], set[str]]
"""The type of the fixture `keys`."""


@contextmanager
def commands_sent(client: redis.Redis) -> Iterator[Commands]:
    """Counts the commands that clients send in the block, with the server's MONITOR. Commands
    inside a script and those in `_NOT_COUNTED` are not counted."""
    commands = Commands()
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]
        yield commands
        marker = secrets.token_hex(8)
        client.echo(marker)
        for entry in monitor.listen():
            if marker in entry["command"]:
                break
            name = entry["command"].split()[0].upper()
            is_mark = near_cache.MARK in entry["command"]
            if entry["client_type"] != "lua" and name not in _NOT_COUNTED and not is_mark:
                commands.sent.append(entry["command"])
