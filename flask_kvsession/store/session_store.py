"""`SessionStore`: the acts on sessions in Redis.

Each method that changes something is one atomic act (the `.lua` file of the same name), or consists
of such acts. Reads are plain commands: a script would wait while the server has paused writes.
"""

from __future__ import annotations

import functools
import logging
import typing as t
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

from .. import codec, record
from ..connection import RedisClient, Servers
from ..data import Changes
from ..errors import SessionTooLarge, StoreUnavailable
from ..record import Record, SessionInfo, Stored, Tombstone, UnreadableRecord
from ..rotation import Standing, judge
from ..settings import Settings
from ..token import Token, UserId, is_session_id, user_hash
from .server import (
    Server,
    SlotIsMoving,
    is_empty,
    is_flag_and_ids,
    is_flag_and_record,
    is_records_and_ids,
    texts,
)

log = logging.getLogger("flask_kvsession")

F = t.TypeVar("F", bound=Callable[..., t.Any])

_UNDO_SECONDS = 0.5
"""The time to undo a failed login, in addition to `KVSESSION_STORE_TIMEOUT`."""

_HEALED = (
    "The index of a user's sessions had lost a session, which is in it again. It happens if the"
    " server evicts keys: set maxmemory-policy to noeviction."
)

_KEPT_CHANGING = "Other requests kept changing the same session."

_MAX_SESSIONS_PER_ACT = 1000
"""How many sessions one act ends at most: a script blocks every other client of the server."""


class Commit(IntEnum):
    """The result of a commit. REPEATED: the store already held the new record. WRITTEN_AND_HEALED:
    the user's index had lost the session."""

    REFUSED = 0
    WRITTEN = 1
    REPEATED = 2
    WRITTEN_AND_HEALED = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of `update`: the session as the store holds it (None if it is gone), and whether
    this call wrote it."""

    stored: Stored | None
    written: bool


@dataclass(frozen=True, slots=True)
class Login:
    """The result of `login`: the new session (None if `merge` refused the login), and the sessions
    of this browser that it ended, as they were then: all, and the one that it replaced."""

    stored: Stored | None
    ended: list[Stored]
    replaced: Stored | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The result of `look_up`: the standing of a token, and the session that it names. After an end
    from outside there is no session, and the reason for a token of its family."""

    token: Token
    standing: Standing = Standing.UNKNOWN
    stored: Stored | None = None
    end_reason: str | None = None


class Merge(t.Protocol):
    """Chooses a login's data from the record that the login replaces.

    It is called again if that record has changed or is gone (`is_gone`). It returns None to refuse
    the login.
    """

    def __call__(
        self, current: Record | None, *, is_gone: bool = False
    ) -> Mapping[str, bytes] | None: ...


def _one_call(method: F) -> F:
    """Gives all acts of the method one deadline, `KVSESSION_STORE_TIMEOUT`."""

    @functools.wraps(method)
    def call(self: SessionStore, *args: t.Any, **kwargs: t.Any) -> t.Any:
        return method(self if self._server.deadline else self._bounded(), *args, **kwargs)

    return t.cast(F, call)


class SessionStore:
    """The sessions under one key prefix of one server or cluster.

    Every method raises `StoreUnavailable` if the server does not answer or refuses the command. The
    server may have carried the act out or not.
    """

    def __init__(self, client: Servers | RedisClient, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._server = Server(client, self._settings)
        self.clock = self._server.clock

    def close(self) -> None:
        """Closes the connections, for example before a worker ends. A later call opens new ones."""
        self._server.close()

    def _bounded(self, seconds: float | None = None) -> SessionStore:
        """This store for one call: see `Server.bounded`."""
        bounded = SessionStore.__new__(SessionStore)
        vars(bounded).update(vars(self))
        bounded._server = self._server.bounded(seconds)
        return bounded

    # Reads

    def now(self) -> int:
        """The server's time, ms. Asks the server at the first call only."""
        return self._server.now()

    def load(self, token: Token) -> Stored | None:
        """The session that this token opens.

        None if there is no such session, if the secret is not valid, or if the session has expired
        by the current settings.
        """
        found = self.look_up(token)
        return found.stored if found.standing.is_valid else None

    @_one_call
    def look_up(self, token: Token, get_began: Callable[[], int] | None = None) -> Found:
        """What this token is to the session that it names. `get_began` gives the time at which the
        request began (ms of the server's clock); without it, the request begins now."""
        current = self._read(token.session_id)
        if isinstance(current, Stored):
            began = get_began() if get_began else self.now()
            return Found(token, judge(current.record, token, began), current)
        if current and token.is_of_family(current.family):
            return Found(token, end_reason=current.ended)
        return Found(token)

    @_one_call
    def sessions_of(self, user_id: UserId) -> list[Stored]:
        """A user's sessions, newest activity first; empty if there are none."""
        user = user_hash(user_id)
        ids = self._server.ids_in_index(user, expiring_after=self.now())
        active = self._read_many(user, self._with_evicted(user, ids))
        return sorted(active, key=lambda stored: stored.record.seen, reverse=True)

    def info(self, stored: Stored, *, is_current: bool = False) -> SessionInfo:
        """The session as lists and signals show it."""
        expires = self._settings.expires(stored.record)
        return record.info(stored, expires=expires, is_current=is_current)

    # Atomic acts: one script each

    @_one_call
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
        lifetime = self._settings.expires(new.record) - self.now()
        args = (new.raw, lifetime, new.id, limit or 0)
        (is_stored, over_limit), has_index = self._write(
            "create", new, lifetime, args, is_flag_and_ids
        )
        if not is_stored:
            raise _ended_while_created()
        if has_index or not limit:
            return texts(over_limit)
        ids = self._server.ids_in_index(t.cast(str, new.user_hash))
        return ids if len(ids) > limit else []

    @_one_call
    def commit(self, loaded: Stored, new: Record) -> tuple[Commit, Stored | None]:
        """Writes `new` if the stored record is still the loaded one. Returns the result, and the
        session as the store holds it now (None if it is gone)."""
        raw = record.encode(new)
        if len(raw) > self._settings.max_session_bytes:  # it is longer than its data
            self._check_size(new, loaded.record)
        lifetime = self._settings.expires(new) - self.now()
        if lifetime <= 0:
            return Commit.REFUSED, None
        if new.expires_like(loaded.record):
            keys, args = self._keys(loaded)[:1], (loaded.raw, raw, "", loaded.id)
            reply = self._server.run_script("commit", keys, *args, shape=is_flag_and_record)
        else:
            renewal = (loaded.raw, raw, lifetime, loaded.id)
            reply, _ = self._write("commit", loaded, lifetime, renewal, is_flag_and_record)
        result, current = reply
        if result == Commit.WRITTEN_AND_HEALED:
            result = Commit.WRITTEN
            self._server.warn_once(_HEALED)
        if result:
            return Commit(result), Stored(loaded.id, new, raw)
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

    # Methods that consist of these acts

    @_one_call
    def update(self, stored: Stored, change: Callable[[Record], Record | None]) -> Outcome:
        """Changes a session by compare-and-set.

        `change` takes the record and returns the new one, or None to leave the record unchanged. If
        another request was faster, `change` is called again with the record of that request.
        """
        while (new := change(stored.record)) is not None:
            result, current = self.commit(stored, new)
            if result or current is None:
                return Outcome(current, written=result is Commit.WRITTEN)
            stored = current
            self._server.require_time(_KEPT_CHANGING)
        return Outcome(stored, written=False)

    @_one_call
    def login(
        self,
        new: Stored,
        old: Stored | None,
        merge: Merge,
        on_revoked: Callable[[SessionInfo], None],
        others: Iterable[Stored] = (),
        unread: Iterable[Token] = (),
    ) -> Login:
        """Creates a user's session, ends the browser's other sessions, ends sessions beyond the
        limit, and ends `old`, the session that the new one replaces.

        `new` already holds the data that `merge` chose from `old`. `on_revoked` is called with each
        session that the limit ends. `others` and `unread` are those of `end_others`.

        If a later step than the creation fails, the new session is removed again. If the reply to
        the creation is lost, a session may be left that no browser can open; it stays until it
        expires. The error is raised: nobody is signed in then.
        """
        over_limit = self.create(new, old.record if old else None)
        with self._removed_on_failure(new):
            ended = self.end_others(others, unread)
            user_id = t.cast(UserId, new.record.user_id)
            for info in self._enforce_limit(user_id, over_limit, new.id, old.id if old else ""):
                on_revoked(info)
            # The last step, because it cannot be undone: it removes the old session's data.
            stored, replaced = self._replace(old, new, merge) if old else (new, None)
        return Login(stored, [*ended, replaced] if replaced else ended, replaced)

    def undo_login(self, new: Stored) -> Stored | None:
        """Removes the session of a login that has failed, and returns it as it was when it ended.

        None if it had ended before, or if the removal fails too. In the latter case the session
        stays until it expires; no browser can open it.
        """
        try:
            return self._bounded(_UNDO_SECONDS).remove(new)[1]
        except StoreUnavailable:
            log.warning("session %s of a failed login stays until it expires", new.id)
            return None

    @_one_call
    def end_others(self, others: Iterable[Stored], unread: Iterable[Token]) -> list[Stored]:
        """Ends sessions of a browser besides its own: `others`, and the anonymous sessions that the
        tokens `unread` open. Returns those of `others` that it ended, as they were then."""
        for token in unread:
            self.remove_anonymous(token)
        ended = [self.remove(stored)[1] for stored in others]
        return [stored for stored in ended if stored]

    @_one_call
    def end_stolen(self, found: Found, get_began: Callable[[], int]) -> SessionInfo | None:
        """Ends the session whose old secret was used again. None if it has ended meanwhile, or if
        another request has changed it so that this token is no longer a sign of theft."""
        while found.standing is Standing.REUSED and found.stored:
            stored, user = found.stored, found.stored.user_hash
            if user is None:
                gone, ended = self.remove(stored, if_unchanged=True)
                infos = [self.info(ended)] if gone and ended else []
            else:
                infos, _ = self.revoke(user, [stored.id], "stolen", stored.raw)
            if infos:
                return infos[0]
            self._server.require_time(_KEPT_CHANGING)
            found = self.look_up(found.token, get_began)
        return None

    def update_all(
        self, user_id: UserId, changes: Mapping[str, t.Any], remove: Iterable[str] = ()
    ) -> int:
        """Changes data in all of a user's sessions, also in sessions that begin meanwhile. Returns
        the number of sessions that have the changes now.

        Raises `SessionTooLarge` if the changes do not fit into one of the sessions; the other
        sessions have the changes then. After `StoreUnavailable` some sessions may have the changes:
        call it again.
        """
        edit = Changes(set=codec.encode_all(changes), removed=frozenset(remove))
        for key in self._settings.reserved_keys & {*edit.set, *edit.removed}:
            raise ValueError(
                f"The key {key!r} says whose session it is, so update_all_sessions cannot change"
                " this key; remove it from the call."
            )
        changed, visited, refusal = 0, set[str](), None
        while new := [s for s in self.sessions_of(user_id) if s.id not in visited]:
            visited.update(stored.id for stored in new)
            for stored in new:
                try:
                    changed += self._edit(stored, edit)
                except SessionTooLarge as error:
                    refusal = error  # raised after the other sessions have got the changes
        if refusal:
            raise refusal
        return changed

    @_one_call
    def revoke_one(self, user_id: UserId, session_id: str) -> SessionInfo | None:
        """Ends one session of this user; None if the user has no such session."""
        user = user_hash(user_id)
        if not is_session_id(session_id) or not self._read_many(user, [session_id]):
            return None
        ended, _ = self.revoke(user, [session_id], "revoked")
        return ended[0] if ended else None

    def revoke_all(self, user_id: UserId, *, spare: str | None = None) -> list[SessionInfo]:
        """Ends all sessions of a user except `spare`, also sessions that begin meanwhile."""
        user = user_hash(user_id)
        ids = self._with_evicted(user, self._server.ids_in_index(user))
        all_ended: list[SessionInfo] = []
        while others := [session_id for session_id in ids if session_id != spare]:
            ended, ids = self.revoke(user, others[:_MAX_SESSIONS_PER_ACT], "revoked")
            all_ended += ended
        return all_ended

    # Steps of a login

    @contextmanager
    def _removed_on_failure(self, new: Stored) -> Iterator[None]:
        try:
            yield
        except BaseException:  # a time limit of the worker, too
            self.undo_login(new)
            raise

    def _enforce_limit(
        self, user_id: UserId, ids: list[str], newest: str, replaced: str
    ) -> list[SessionInfo]:
        """Ends this user's least recently used sessions beyond the limit, and returns them."""
        limit, user = self._settings.session_limit(user_id), user_hash(user_id)
        if limit is not None:
            ids = self._with_evicted_in_time(user, ids, newest)
        while limit is not None and len(ids) - (replaced in ids) > limit:
            ended, current_ids = self.limit(user, ids, limit, newest, replaced)
            if not current_ids:
                return ended
            ids = current_ids
            self._server.require_time(_KEPT_CHANGING)
        return []

    def _limit_by_revocation(
        self, user: str, ids: list[str], limit: int, newest: str, replaced: str
    ) -> list[SessionInfo]:
        """What `limit` does, while no act on several keys is possible."""
        active = [stored for stored in self._read_many(user, ids) if stored.id != replaced]
        active.sort(key=lambda stored: (stored.id == newest, stored.record.seen))
        beyond = [stored.id for stored in active[: max(0, len(active) - limit)]]
        return self.revoke(user, beyond, "limit")[0] if beyond else []

    def _replace(
        self, old: Stored, new: Stored, merge: Merge
    ) -> tuple[Stored | None, Stored | None]:
        """Removes `old` if it is unchanged. If it has changed or is gone, `new` first gets the data
        that `merge` chooses then.

        Returns `new` (None if `merge` refused), and `old` as it was when it ended (None if it had
        ended before).
        """
        while True:
            gone, current = self.remove(old, if_unchanged=True)
            if gone and current:
                return new, current
            is_gone, old = current is None, current or old
            data = merge(old.record, is_gone=is_gone)
            if data is None:
                self.remove(new)
                return None, None
            outcome = self.update(new, functools.partial(_with_data, data))
            if outcome.stored is None:
                raise _ended_while_created()
            new = outcome.stored
            if is_gone:
                return new, None
            self._server.require_time(_KEPT_CHANGING)

    # Evicted indexes

    def _with_evicted(self, user: str, ids: list[str]) -> list[str]:
        """These ids from the user's index, and those of the user's sessions that the index has lost
        because the server evicts keys."""
        if not self._server.may_evict(user):
            return ids
        others = [each for each in self._server.ids_in_shard(user) if each not in set(ids)]
        return ids + [stored.id for stored in self._read_many(user, others)]

    def _with_evicted_in_time(self, user: str, ids: list[str], newest: str) -> list[str]:
        """The same for a login, which must not fail because a server has very many keys."""
        if not self._server.may_evict(user):
            return ids
        try:
            in_half_the_time = self._bounded(self._server.seconds_left() / 2)
            return in_half_the_time._with_evicted(user, ids or [newest])
        except StoreUnavailable:
            self._server.warn_once(
                "A login could not look through all keys of the Redis server in half of"
                " KVSESSION_STORE_TIMEOUT, so the limit of sessions counts only those in the index."
            )
            return ids

    # Records

    def _write(
        self,
        name: str,
        stored: Stored,
        lifetime: int,
        args: tuple[t.Any, ...],
        shape: Callable[[list[t.Any]], bool],
    ) -> tuple[list[t.Any], bool]:
        """Runs a script that writes a record and its index entry. While a cluster moves the slot,
        it writes the entry first: a record without an entry could not be revoked. Returns the
        reply, and whether the script had the index."""
        keys = self._keys(stored)
        try:
            return self._server.run_script(name, keys, *args, shape=shape), True
        except SlotIsMoving:
            user = t.cast(str, stored.user_hash)  # an anonymous session has one key
            self.set_index_entry(user, stored.id, lifetime)
            return self._server.run_script(name, keys[:1], *args, shape=shape), False

    def _same(self, loaded: Stored, raw: bytes | None) -> Stored | None:
        """The session in the reply of an act. Raises `StoreUnavailable` if it is another one."""
        current = self._active(loaded.id, raw)
        if current and _identity(current) != _identity(loaded):
            raise self._server.misfit("the record of another session")
        return current

    def _edit(self, stored: Stored, edit: Changes) -> bool:
        def change(current: Record) -> Record | None:
            return _with_data(edit.applied_to(current.encoded_data()), current)

        return self.update(stored, change).stored is not None

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
        expired = self._settings.expires(current) <= self.now()
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


def _identity(stored: Stored) -> tuple[bytes, int]:
    """What no act changes."""
    return bytes(stored.record.user), stored.record.created


def _with_data(data: Mapping[str, bytes], current: Record) -> Record | None:
    return None if data == current.encoded_data() else current.with_data(data)


def _ended_while_created() -> StoreUnavailable:
    return StoreUnavailable("The session was ended while it was being created.")


@functools.lru_cache(maxsize=1024)
def _log_unreadable(session_id: str, reason: str) -> None:
    """Logs once, not on every request, that a record is unreadable. The record is not changed."""
    log.error("session %s cannot be read and counts as none: %s", session_id, reason)
