"""The acts on sessions in Redis: one method and one `.lua` file of the same name for each.

Each act is atomic. While a cluster moves the slot of a user, an act consists of two: one on the
record, and one on the index.
"""

from __future__ import annotations

import functools
import logging
import typing as t
from collections.abc import Callable
from enum import IntEnum

from .. import record
from ..connection import RedisClient, Servers
from ..errors import SessionTooLarge, StoreUnavailable
from ..record import Record, SessionInfo, Stored, Tombstone, UnreadableRecord
from ..settings import Settings
from ..token import Token
from .clock import ServerClock
from .server import (
    Server,
    SlotIsMoving,
    is_empty,
    is_flag_and_ids,
    is_flag_and_record,
    is_records_and_ids,
    texts,
)
from .tracking import Tracker

log: logging.Logger = logging.getLogger("flask_kvsession")

F = t.TypeVar("F", bound=Callable[..., t.Any])

_HEALED = (
    "The index of a user's sessions had lost a session, which is in it again. It happens if the"
    " server evicts keys: set maxmemory-policy to noeviction."
)


class Commit(IntEnum):
    """The result of a commit. REPEATED: the store already held the new record. WRITTEN_AND_HEALED:
    the user's index had lost the session."""

    REFUSED = 0
    WRITTEN = 1
    REPEATED = 2
    WRITTEN_AND_HEALED = 3


_COMMITS: t.Final = tuple(Commit)


def one_call(method: F) -> F:
    """Gives all acts of the method one deadline, `KVSESSION_STORE_TIMEOUT`."""

    @functools.wraps(method)
    def call(self: Acts, *args: t.Any, **kwargs: t.Any) -> t.Any:
        return method(self if self._server.deadline else self._bounded(), *args, **kwargs)

    return t.cast(F, call)


class Acts:
    """The acts on sessions under one key prefix of one server or cluster.

    Every method raises `StoreUnavailable` if the server does not answer or refuses the command. The
    server may have carried the act out or not.
    """

    def __init__(self, client: Servers | RedisClient, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._server = Server(client, self._settings)
        self.clock: ServerClock = self._server.clock
        self.tracker: Tracker = self._server.tracker

    def close(self) -> None:
        """Closes the connections, for example before a worker ends. A later call opens new ones."""
        self._server.close()

    def _bounded(self, seconds: float | None = None) -> t.Self:
        """This store for one call: see `Server.bounded`."""
        bounded = type(self).__new__(type(self))
        vars(bounded).update(vars(self))
        bounded._server = self._server.bounded(seconds)
        return bounded

    def now(self) -> int:
        """The server's time, ms. Asks the server at the first call only."""
        return self._server.now()

    def info(self, stored: Stored, *, is_current: bool = False) -> SessionInfo:
        """The session as lists and signals show it."""
        expires = self._settings.expires(stored.record)
        binds = bool(self._settings.device_bound)
        return record.info(stored, expires=expires, binds_devices=binds, is_current=is_current)

    # Atomic acts: one script each

    @one_call
    def create(self, new: Stored, replaces: Record | None = None) -> list[str]:
        """Stores a new session. If the user now has more sessions than the limit, returns the ids
        of all of them. Otherwise returns an empty list.

        `replaces` is the record from which the new session has its data, if there is one; data that
        were over the size limit there are accepted. If the reply to a first attempt was lost and
        the session was ended before the second attempt, raises `StoreUnavailable`: an ended session
        must not come back.
        """
        self._check_size(new.record, replaces)
        user_id = new.record.user_id
        limit = None if user_id is None else self._settings.session_limit(user_id)
        # The end of a login may have come since it was checked; Redis takes no lifetime of 0.
        lifetime = max(1, self._settings.expires(new.record) - self.now())
        args = (new.raw, lifetime, new.id, limit or 0)
        (is_stored, over_limit), has_index = self._write(
            "create", new, lifetime, args, is_flag_and_ids
        )
        if not is_stored:
            raise ended_while_created()
        if has_index or not limit:
            return texts(over_limit)
        ids = self._server.ids_in_index(t.cast(str, new.user_hash))
        return ids if len(ids) > limit else []

    @one_call
    def commit(
        self, loaded: Stored, new: Record, *, once: bool = False
    ) -> tuple[Commit, Stored | None]:
        """Writes `new` if the stored record is still the loaded one. Returns the result, and the
        session as the store holds it now (None if it is gone).

        `once`: of two requests that write equal records, only one is told that it has written: both
        may have counted to the same number. Then no attempt is repeated after a lost reply.
        """
        raw = record.encode(new)
        if len(raw) > self._settings.max_session_bytes:  # it is longer than its data
            self._check_size(new, loaded.record)
        lifetime = self._settings.expires(new) - self.now()
        if lifetime <= 0:
            return Commit.REFUSED, None
        if new.expires_like(loaded.record):
            key, args = self._server.record_key(loaded.id), (loaded.raw, raw, "", loaded.id)
            reply = self._server.run_script(
                "commit", [key], *args, shape=is_flag_and_record, once=once
            )
        else:
            renewal = (loaded.raw, raw, lifetime, loaded.id)
            reply, _ = self._write("commit", loaded, lifetime, renewal, is_flag_and_record, once)
        result, current = reply
        if result == Commit.REPEATED and once:
            return Commit.REFUSED, Stored(loaded.id, new, raw)
        if result == Commit.WRITTEN_AND_HEALED:
            result = Commit.WRITTEN
            self._server.warn_once(_HEALED)
        if result:
            return _COMMITS[result], Stored(loaded.id, new, raw)
        return Commit.REFUSED, self._same(loaded, current)

    def remove(self, stored: Stored, *, if_unchanged: bool = False) -> tuple[bool, Stored | None]:
        """Ends a session for its own browser.

        Returns True, and the session as it was when it ended (None if it had ended before). With
        `if_unchanged`, a session that has changed stays: returns False, and the session as it is
        now.
        """
        args = (stored.raw if if_unchanged else b"", stored.id, "")
        keys = self._keys(stored)
        try:
            gone, current = self._server.run_script("remove", keys, *args, shape=is_flag_and_record)
        except SlotIsMoving:
            gone, current = self._server.run_script(
                "remove", keys[:1], *args, shape=is_flag_and_record
            )
            if gone:
                self.set_index_entry(t.cast(str, stored.user_hash), stored.id, None)
        return bool(gone), self._same(stored, current)

    def remove_anonymous(self, token: Token) -> None:
        """Ends the anonymous session that this token opens, without a look-up before. Any other
        session stays."""
        key = self._server.record_key(token.session_id)
        args = (b"", token.session_id, token.secret_hash)
        self._server.run_script("remove", [key], *args, shape=is_flag_and_record)

    def revoke(
        self, user: str, ids: list[str], reason: str, expected: bytes = b""
    ) -> tuple[list[SessionInfo], list[str]]:
        """Ends these sessions of the user with this hash from outside. With `expected`, only a
        session whose record is still that. Returns the sessions that it ended, and the ids left in
        the user's index."""
        keys = [*map(self._server.record_key, ids), self._server.index_key(user)]
        try:
            ended, remaining = self._run_revoke(keys, ids, reason, expected)
        except SlotIsMoving:
            ended = []
            for session_id, key in zip(ids, keys, strict=False):
                ended += self._run_revoke([key], [session_id], reason, expected)[0]
                self.set_index_entry(user, session_id, None)
            return self._infos(user, ids, ended), self._server.ids_in_index(user)
        return self._infos(user, ids, ended), texts(remaining)

    def _run_revoke(
        self, keys: list[str], ids: list[str], reason: str, expected: bytes
    ) -> list[t.Any]:
        shape = functools.partial(is_records_and_ids, count=len(ids))
        return self._server.run_script("revoke", keys, reason, expected, *ids, shape=shape)

    def limit(
        self, user: str, ids: list[str], limit: int, newest: str, replaced: str = ""
    ) -> tuple[list[SessionInfo], list[str]]:
        """Ends the least recently used of the user's sessions until `limit` are left.

        `ids` are all ids in the user's index. `newest` is never ended; `replaced` is not ended and
        does not count. Returns the ended sessions. If the index now has an id that is not in `ids`,
        it ends no session and returns all ids of the index.
        """
        keys = [self._server.index_key(user), *map(self._server.record_key, ids)]
        shape = functools.partial(is_records_and_ids, count=len(ids))
        args = ("limit", limit, newest, replaced, *ids)
        try:
            ended, current_ids = self._server.run_script("limit", keys, *args, shape=shape)
        except SlotIsMoving:
            return self._limit_by_revocation(user, ids, limit, newest, replaced), []
        return self._infos(user, ids, ended), texts(current_ids)

    def set_index_entry(self, user: str, session_id: str, lifetime: int | None) -> None:
        """Enters a session in the index of the user with this hash, for `lifetime` ms. None
        removes it. While a cluster moves the slot, the other acts consist of this one and one on
        the record."""
        key, lasting = self._server.index_key(user), "" if lifetime is None else lifetime
        self._server.run_script("set_index_entry", [key], session_id, lasting, shape=is_empty)

    def _limit_by_revocation(
        self, user: str, ids: list[str], limit: int, newest: str, replaced: str
    ) -> list[SessionInfo]:
        """What `limit` does, while no act on several keys is possible."""
        active = [stored for stored in self._read_many(user, ids) if stored.id != replaced]
        active.sort(key=lambda stored: (stored.id == newest, stored.record.seen))
        beyond = [stored.id for stored in active[: max(0, len(active) - limit)]]
        return self.revoke(user, beyond, "limit")[0] if beyond else []

    # Records

    def _write(
        self,
        name: str,
        stored: Stored,
        lifetime: int,
        args: tuple[t.Any, ...],
        shape: Callable[[list[t.Any]], bool],
        once: bool = False,
    ) -> tuple[list[t.Any], bool]:
        """Runs a script that writes a record and its index entry. While a cluster moves the slot,
        it writes the entry first: a record without an entry could not be revoked. Returns the
        reply, and whether the script had the index."""
        keys = self._keys(stored)
        try:
            return self._server.run_script(name, keys, *args, shape=shape, once=once), True
        except SlotIsMoving:
            user = t.cast(str, stored.user_hash)  # an anonymous session has one key
            self.set_index_entry(user, stored.id, lifetime)
            return self._server.run_script(name, keys[:1], *args, shape=shape, once=once), False

    def _same(self, loaded: Stored, raw: bytes | None) -> Stored | None:
        """The session in the reply of an act. Raises `StoreUnavailable` if it is another one."""
        current = self._active(loaded.id, raw)
        if current and current.identity != loaded.identity:
            raise self._server.misfit("the record of another session")
        return current

    def _read(self, session_id: str) -> Stored | Tombstone | None:
        raw = self._server.get(session_id)
        if raw is False:
            return _log_unreadable(session_id, "the key holds another type than a string")
        return self._decoded(session_id, raw)

    def _read_many(self, user: str, ids: list[str]) -> list[Stored]:
        if not ids:
            return []
        current = self._server.get_many(ids)
        read = (self._active(session_id, raw) for session_id, raw in zip(ids, current, strict=True))
        return [stored for stored in read if stored and stored.user_hash == user]

    def _active(self, session_id: str, raw: bytes | None) -> Stored | None:
        current = self._decoded(session_id, raw)
        return current if isinstance(current, Stored) else None

    def _decoded(self, session_id: str, raw: bytes | None) -> Stored | Tombstone | None:
        if raw is None:
            return None
        try:
            current = record.decode(raw)
        except UnreadableRecord as error:
            return _log_unreadable(session_id, str(error))
        if isinstance(current, Tombstone):
            return current
        expired = self._settings.expires(current) <= self._server.now()
        return None if expired else Stored(session_id, current, raw)

    def _infos(self, user: str, ids: list[str], raws: list[bytes | None]) -> list[SessionInfo]:
        active = [self._active(session_id, raw) for session_id, raw in zip(ids, raws, strict=True)]
        if any(stored and stored.user_hash != user for stored in active):
            raise self._server.misfit("the record of another user's session")
        return [self.info(stored) for stored in active if stored]

    def _check_size(self, new: Record, old: Record | None = None) -> None:
        """Refuses data over the limit, unless the old record's data were as large or larger."""
        counted, limit = self._settings.counted_size, self._settings.max_session_bytes
        size = counted(new.sizes())
        if size > limit and (old is None or size > counted(old.sizes())):
            raise SessionTooLarge.caused_by("This write", size, limit)

    def _keys(self, stored: Stored) -> list[str]:
        record_key, user = self._server.record_key(stored.id), stored.user_hash
        return [record_key, self._server.index_key(user)] if user else [record_key]


def ended_while_created() -> StoreUnavailable:
    return StoreUnavailable("The session was ended while it was being created.")


@functools.lru_cache(maxsize=1024)
def _log_unreadable(session_id: str, reason: str) -> None:
    """Logs once, not on every request, that a record is unreadable. The record is not changed."""
    log.error("session %s cannot be read and counts as none: %s", session_id, reason)
