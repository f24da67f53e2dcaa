"""All keys of the sessions, on every primary server, and many commands in one round trip."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Callable, Iterator, Sequence

from redis.exceptions import ResponseError

from ..connection import Command, Node, Repeat
from ..errors import StoreUnavailable
from .server import KEYS_PER_SCAN, Server, SlotIsMoving, is_scan, load_script

_KEYS_IN_INFO = re.compile(rb"^db\d+:keys=(\d+)", re.M)


class Batch(t.NamedTuple):
    """Some keys of one server: the ids of sessions, and the hashes of users who have an index."""

    node: Node
    session_ids: list[str]
    users: list[str]

    @property
    def size(self) -> int:
        return len(self.session_ids) + len(self.users)


class ScriptCall(t.NamedTuple):
    """One run of a script."""

    keys: list[str]
    args: tuple[t.Any, ...]


class Keyspace:
    """The keys with the prefix, primary server by primary server.

    Every method raises `StoreUnavailable` if a server does not answer or refuses a command.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        prefix = re.escape(server.prefix)
        self._ours = re.compile(
            rf"{prefix}:\{{([\w-]{{3}})\}}:(?:s:([\w-]{{16}})|u:(\1[\w-]{{19}}))", re.ASCII
        )
        self._longer_prefix = re.compile(rf"{prefix}:[\w.:-]+:\{{[\w-]{{3}}\}}:[su]:", re.ASCII)

    def count(self) -> int | None:
        """How many keys the servers have, also those of other apps; None if INFO is forbidden."""
        replies = [self.ask(node, ["INFO", "keyspace"]) for node in self._server.primaries()]
        if not all(isinstance(reply, bytes) for reply in replies):
            return None
        return sum(int(keys) for reply in replies for keys in _KEYS_IN_INFO.findall(reply))

    def batches(self) -> Iterator[Batch]:
        """All sessions and indexes that exist from the first batch to the last. One that begins
        meanwhile may be missing; one that a server moves in its memory may come twice."""
        for node in self._server.primaries():
            for keys in self._scan(node, f"{self._server.prefix}:{{*}}:[su]:*"):
                found = [match for key in keys if (match := self._ours.fullmatch(key))]
                yield Batch(
                    node,
                    session_ids=[match[1] + match[2] for match in found if match[2]],
                    users=[match[3] for match in found if match[3]],
                )

    def strangers(self, limit: int) -> list[str]:
        """Keys that begin with the prefix and are not those of this package, among the first
        `limit` keys with the prefix on each server."""
        found: list[str] = []
        for node in self._server.primaries():
            seen = 0
            for keys in self._scan(node, f"{self._server.prefix}:*"):
                found += [key for key in keys if not self._is_ours(key)]
                seen += len(keys)
                if seen >= limit:
                    break
        return found

    def ask(self, node: Node, command: Sequence[t.Any]) -> t.Any:
        """The reply of this server to a read, or the `ResponseError` that it sent."""
        with self._server.failures():
            return node.call_all([command], self._server.new_deadline())[0]

    def call_each(self, node: Node, commands: Sequence[Command]) -> list[t.Any]:
        """The reply to each command, or a `ResponseError`. All are sent to this server together. A
        command that it refuses is sent again alone, for example to the server that now has the
        key."""
        with self._server.failures():
            replies = self._send(node, [command.args for command in commands])
            return [
                self._again(command) if isinstance(reply, ResponseError) else reply
                for command, reply in zip(commands, replies, strict=True)
            ]

    def run_each(
        self, node: Node, name: str, calls: Sequence[ScriptCall], shape: Callable[[t.Any], bool]
    ) -> list[list[t.Any] | None]:
        """The reply to each run of the script, without its first item, the server's time. None: it
        was not done, because a cluster is moving the keys."""
        digest = load_script(name).digest
        commands = [("EVALSHA", digest, len(c.keys), *c.keys, *c.args) for c in calls]
        with self._server.failures():
            replies = self._send(node, commands)
        return [
            reply[1:]
            if isinstance(reply, list) and shape(reply[1:])
            else self._run_again(name, call, shape)
            for call, reply in zip(calls, replies, strict=True)
        ]

    def _is_ours(self, key: str) -> bool:
        return bool(self._ours.fullmatch(key) or self._longer_prefix.match(key))

    def _scan(self, node: Node, pattern: str) -> Iterator[list[str]]:
        """The keys of one server that match, each batch without repetitions."""
        cursor = b"0"
        while True:
            reply = self.ask(node, ("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_PER_SCAN))
            if isinstance(reply, ResponseError):
                raise StoreUnavailable("The Redis server refuses SCAN.") from reply
            if not is_scan(reply):
                raise self._server.misfit("a reply of another shape than SCAN has")
            cursor, keys = reply
            yield [key.decode(errors="replace") for key in dict.fromkeys(keys)]
            if cursor == b"0":
                return

    def _send(self, node: Node, commands: Sequence[Sequence[t.Any]]) -> list[t.Any]:
        return node.call_all(commands, self._server.new_deadline()) if commands else []

    def _again(self, command: Command) -> t.Any:
        try:
            return self._server.send(command)
        except ResponseError as error:
            return error

    def _run_again(
        self, name: str, call: ScriptCall, shape: Callable[[t.Any], bool]
    ) -> list[t.Any] | None:
        """Runs the script alone: this server does not know it yet, or has not these keys."""
        try:
            return self._server.bounded().run_script(name, call.keys, *call.args, shape=shape)
        except SlotIsMoving:
            return None


def read(key: str, *command: t.Any) -> Command:
    """A command that reads this key."""
    return Command(command, Repeat.READ, key)


def write(key: str, *command: t.Any) -> Command:
    """A command that changes this key, and may be sent twice."""
    return Command(command, Repeat.SAME, key)
