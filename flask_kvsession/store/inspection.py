"""Facts about the servers, for an operator: what they are, how they keep data, what they allow."""

from __future__ import annotations

import secrets
import time
import typing as t
from dataclasses import dataclass, field
from statistics import median

from redis.exceptions import NoPermissionError, ResponseError

from ..connection import Node
from ..record import Client, Record, Stored, UnreadableRecord, decode, new_record
from ..settings import Settings
from ..token import Token, new_session_id
from .keyspace import Keyspace, read
from .rights import probes
from .server import Server, is_flag_and_ids, is_flag_and_record

_SAMPLES = 20
_KEYS_LOOKED_AT = 10_000
_SESSIONS_LOOKED_AT = 1000
_EXPIRY_TOLERANCE_MS = 5000


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One primary server. A fact is None if the server does not tell it."""

    name: str
    """Its address."""
    milliseconds: float
    """The median time of a command."""
    clock_ahead: float
    """How far its clock is ahead of this machine's, in seconds; exact to half of the above."""
    info: dict[str, str] = field(default_factory=dict)
    """The fields of `INFO`; empty if the server forbids it."""
    forbidden: tuple[str, ...] = ()
    """The commands that the package needs and the server does not allow. Those for the near cache
    are among them, also if there is none."""
    refused: tuple[str, ...] = ()
    """Why the server refuses allowed commands on keys with the prefix."""


class Expiries(t.NamedTuple):
    """How many sessions were looked at, and how many of them do not expire when the settings say.
    Those were written by an app with other timeouts."""

    sessions: int
    others: int


class Inspection:
    """Looks at the servers. It writes keys of its own only, which expire or are removed at once.

    Every method raises `StoreUnavailable` if a server does not answer.
    """

    def __init__(self, server: Server, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._keys = Keyspace(server)

    def servers(self) -> list[ServerFacts]:
        """The facts about each primary server."""
        return [self._facts(node) for node in self._server.primaries()]

    def strangers(self) -> list[str]:
        """Keys that begin with the prefix and are not those of this package, among the first 10,000
        of each server."""
        return self._keys.strangers(_KEYS_LOOKED_AT)

    def expiries(self) -> Expiries:
        """Whether some sessions expire when the settings say."""
        counts = Expiries(0, 0)
        for batch in self._keys.batches():
            keys = [self._server.record_key(session_id) for session_id in batch.session_ids]
            commands = [read(key, name, key) for key in keys for name in ("GET", "PTTL")]
            replies = self._keys.call_each(batch.node, commands)
            judged = list(map(self._is_as_set, replies[::2], replies[1::2]))
            counts = Expiries(
                counts.sessions + judged.count(True) + judged.count(False),
                counts.others + judged.count(False),
            )
            if counts.sessions >= _SESSIONS_LOOKED_AT:
                break
        return counts

    def _is_as_set(self, raw: t.Any, lifetime: t.Any) -> bool | None:
        """Whether the record expires when the settings say; None if it is no record."""
        try:
            current = decode(raw) if isinstance(raw, bytes) else None
        except UnreadableRecord:
            return None
        if not isinstance(current, Record) or not isinstance(lifetime, int) or lifetime < 0:
            return None
        difference = self._settings.expires(current) - (self._server.now() + lifetime)
        return abs(difference) < _EXPIRY_TOLERANCE_MS

    def try_session(self) -> None:
        """Creates an anonymous session and removes it, by the scripts of a request. Raises
        `StoreUnavailable` if that fails."""
        token, now = Token.for_session(new_session_id(None)), self._server.now()
        stored = Stored.of(token.session_id, new_record(token, now=now, client=Client(), data={}))
        server, key = self._server.bounded(), self._server.record_key(stored.id)
        server.run_script("create", [key], stored.raw, 10_000, stored.id, 0, shape=is_flag_and_ids)
        server.run_script("remove", [key], b"", stored.id, "", shape=is_flag_and_record)

    def _facts(self, node: Node) -> ServerFacts:
        samples = [self._time_of(node) for _ in range(_SAMPLES)]
        aheads = [ahead for _, ahead in samples if ahead is not None]
        forbidden, refused = self._rights(node)
        return ServerFacts(
            name=node.name,
            milliseconds=median(seconds for seconds, _ in samples) * 1000,
            clock_ahead=median(aheads) if aheads else 0.0,
            info=self._info(node),
            forbidden=forbidden,
            refused=refused,
        )

    def _time_of(self, node: Node) -> tuple[float, float | None]:
        """How long `TIME` takes, and how far the server's clock is ahead, both in seconds."""
        began, here = time.perf_counter(), time.time()
        reply = self._keys.ask(node, ["TIME"])
        passed = time.perf_counter() - began
        if isinstance(reply, ResponseError):
            return passed, None
        there = int(reply[0]) + int(reply[1]) / 1_000_000
        return passed, there - (here + passed / 2)

    def _info(self, node: Node) -> dict[str, str]:
        reply = self._keys.ask(node, ["INFO"])
        if not isinstance(reply, bytes):
            return {}
        lines = reply.decode(errors="replace").splitlines()
        return dict(t.cast("tuple[str, str]", line.split(":", 1)) for line in lines if ":" in line)

    def _rights(self, node: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The needed commands that the server forbids, and why it refuses others.

        Each is tried. A node of a cluster judges the right before it looks whose the key is.
        """
        session_id = "chk" + secrets.token_hex(8)
        keys = self._server.record_key(session_id), self._server.index_key(f"{session_id}chk")
        with self._server.failures():
            uses = probes(*keys)
            replies = node.call_all(list(uses.values()), self._server.new_deadline())
        forbidden, refused = list[str](), dict[str, None]()
        for name, reply in zip(uses, replies, strict=True):
            if isinstance(reply, NoPermissionError) and not _is_about_keys(reply):
                forbidden.append(name)
            elif isinstance(reply, ResponseError) and not _is_harmless(reply):
                refused[str(reply)] = None
        return tuple(forbidden), tuple(refused)


def _is_about_keys(error: NoPermissionError) -> bool:
    """Whether the command is allowed, but not on this key."""
    return "permissions to access" in str(error)


def _is_harmless(error: ResponseError) -> bool:
    """Whether the error shows that the command is allowed: it names a script that the server does
    not know, or another node of the cluster has the key."""
    return type(error).__name__ in ("NoScriptError", "MovedError", "AskError", "TryAgainError")
