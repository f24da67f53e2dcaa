"""What an operator does to the sessions of all users: count, end and repair them.

Each method walks over all keys in batches, so it needs little memory, and it may be interrupted
between two batches. A session that begins after the walk has begun may be left out.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Sequence

from redis.exceptions import ResponseError

from .. import record
from ..errors import StoreUnavailable
from ..record import Stored, Tombstone, UnreadableRecord
from ..settings import Settings
from .keyspace import Batch, Keyspace, ScriptCall, read, write
from .server import Server, is_number, texts


class Revoked(t.NamedTuple):
    """One batch of `revoke_everyone`: the keys that it has looked at, the sessions it has ended."""

    keys: int
    ended: int


class Repaired(t.NamedTuple):
    """One batch of `repair`: the keys that it has looked at, and what it has found there."""

    keys: int
    entries: int
    """Entries of an index without their session."""
    records: int
    """Sessions that their user's index does not have."""
    skipped: int
    """Users and sessions that could not be judged, because a cluster is moving them."""


class Seen(t.NamedTuple):
    """One batch of `sessions`: the keys that it has looked at, and what they hold."""

    keys: int
    users: int
    """The users who have an index."""
    stored: list[Stored]
    """The sessions that are valid."""
    tombstones: int
    unreadable: int


class Maintenance:
    """The sessions of everybody under one key prefix of one server or cluster.

    Every method raises `StoreUnavailable` if a server does not answer or refuses a command. What it
    has done before stays done.
    """

    def __init__(self, server: Server, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._keys = Keyspace(server)

    def count_keys(self) -> int | None:
        """How many keys the servers have, also those of other apps; None if INFO is forbidden."""
        return self._keys.count()

    def revoke_everyone(self, *, anonymous: bool = False) -> Iterator[Revoked]:
        """Ends the sessions of all users, and with `anonymous` also anonymous sessions. Leaves
        tombstones with the reason "revoked".

        If nothing tells this package which sessions are a user's (`has_one_cookie_name` of the
        settings), ends all sessions.
        """
        anonymous = anonymous or self._settings.has_one_cookie_name
        for batch in self._keys.batches():
            ids = self._ids_in_indexes(batch)
            everyone = dict.fromkeys([*batch.session_ids, *(i for each in ids for i in each)])
            ended = self.revoke_record(batch, list(everyone), anonymous=anonymous)
            self._remove_entries(batch, ids)
            yield Revoked(batch.size, ended)

    def repair(self, *, is_dry: bool = True) -> Iterator[Repaired]:
        """Finds entries of indexes without their session, and sessions without their entry. Unless
        `is_dry`, removes the former and enters the latter."""
        for batch in self._keys.batches():
            missing_records, skipped = self.repair_index(batch, is_dry=is_dry)
            stored = self._seen(batch).stored
            missing_entries, more_skipped = self.repair_entry(batch, stored, is_dry=is_dry)
            yield Repaired(batch.size, missing_records, missing_entries, skipped + more_skipped)

    def sessions(self) -> Iterator[Seen]:
        """Everybody's sessions, in batches and in no order."""
        return map(self._seen, self._keys.batches())

    # Acts: one script each, on many sessions in one round trip

    def revoke_record(self, batch: Batch, ids: list[str], *, anonymous: bool) -> int:
        """Ends these sessions, and leaves their entries. Returns how many it has ended."""
        args = ("revoked", int(anonymous))
        calls = [ScriptCall([self._server.record_key(each)], args) for each in ids]
        return self._sum(batch, "revoke_record", calls)[0]

    def repair_index(self, batch: Batch, *, is_dry: bool) -> tuple[int, int]:
        """Removes the entries without a session. Returns how many it has found, and how many
        indexes it could not judge."""
        ids = self._ids_in_indexes(batch, expiring_after=self._server.now())
        calls = [
            ScriptCall(
                [self._server.index_key(user), *map(self._server.record_key, entries)],
                (int(not is_dry), *entries),
            )
            for user, entries in zip(batch.users, ids, strict=True)
            if entries
        ]
        return self._sum(batch, "repair_index", calls)

    def repair_entry(
        self, batch: Batch, stored: Sequence[Stored], *, is_dry: bool
    ) -> tuple[int, int]:
        """Enters these sessions in the indexes of their users. Returns how many were not there, and
        how many it could not judge."""
        calls = [
            ScriptCall(
                [self._server.record_key(each.id), self._server.index_key(each.user_hash)],
                (int(not is_dry), each.id),
            )
            for each in stored
            if each.user_hash
        ]
        return self._sum(batch, "repair_entry", calls)

    # How it works

    def _sum(self, batch: Batch, name: str, calls: list[ScriptCall]) -> tuple[int, int]:
        """Runs the script, which returns a number. Returns the sum, and how often it was not
        run."""
        replies = self._keys.run_each(batch.node, name, calls, is_number)
        done = [reply[0] for reply in replies if reply is not None]
        return sum(done), len(replies) - len(done)

    def _ids_in_indexes(
        self, batch: Batch, *, expiring_after: int | None = None
    ) -> list[list[str]]:
        """The session ids in the index of each user of the batch."""
        earliest = "-inf" if expiring_after is None else f"({expiring_after}"
        keys = map(self._server.index_key, batch.users)
        commands = [read(key, "ZRANGEBYSCORE", key, earliest, "+inf") for key in keys]
        replies = self._keys.call_each(batch.node, commands)
        return [texts(reply) if isinstance(reply, list) else [] for reply in replies]

    def _remove_entries(self, batch: Batch, ids: list[list[str]]) -> None:
        """Removes these ids from the indexes of the users of the batch. Their sessions have ended
        and never come back, so this needs no script."""
        keys = map(self._server.index_key, batch.users)
        commands = [write(k, "ZREM", k, *each) for k, each in zip(keys, ids, strict=True) if each]
        for reply in self._keys.call_each(batch.node, commands):
            if isinstance(reply, ResponseError):
                raise StoreUnavailable from reply

    def _seen(self, batch: Batch) -> Seen:
        keys = map(self._server.record_key, batch.session_ids)
        raws = self._keys.call_each(batch.node, [read(key, "GET", key) for key in keys])
        stored, tombstones, unreadable = [], 0, 0
        for session_id, raw in zip(batch.session_ids, raws, strict=True):
            if raw is None:  # it has ended since its key was read
                continue
            current = _decoded(session_id, raw)
            if current is None:
                unreadable += 1
            elif isinstance(current, Tombstone):
                tombstones += 1
            elif self._settings.expires(current.record) > self._server.now():
                stored.append(current)
        return Seen(batch.size, len(batch.users), stored, tombstones, unreadable)


def _decoded(session_id: str, raw: bytes | ResponseError) -> Stored | Tombstone | None:
    """None for a record that cannot be read, and for a key of another type."""
    if isinstance(raw, ResponseError):
        return None
    try:
        current = record.decode(raw)
    except UnreadableRecord:
        return None
    return current if isinstance(current, Tombstone) else Stored(session_id, current, raw)
