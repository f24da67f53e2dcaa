"""The store: what can be done to sessions in Redis, in domain words. It needs no Flask.

Each method that changes something is one atomic act, the `.lua` file of the same name, or is
built of such acts. Reads are plain commands: a script would wait while writes are paused.
"""

from __future__ import annotations

import functools
import logging
import time
import typing as t
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha1
from importlib import resources

import redis
from redis.exceptions import NoScriptError, RedisClusterException, ResponseError

from . import codec, record
from .carry import Carry
from .errors import SessionTooLarge, StoreUnavailable
from .record import Changes, Ended, Record, SessionInfo, Stored, UnreadableRecord
from .settings import Settings
from .token import SHARD_CHARS, Token, UserId, is_session_id, user_hash

log = logging.getLogger("flask_kvsession")

RedisClient = redis.Redis | redis.RedisCluster

ACTS = ("create", "commit", "remove", "revoke", "limit")

_TOLERANCE_MS = 100

_CHUNK = 1000
"""How many sessions one act ends at the most: a script keeps every other client waiting."""


class Commit(IntEnum):
    """What came of a commit. REPEATED: the very record was there already."""

    REFUSED = 0
    WRITTEN = 1
    REPEATED = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `update` came to: the session as the store holds it (None if it is gone), and whether
    this call wrote it."""

    stored: Stored | None
    written: bool


class ServerClock:
    """The server's time (ms), told from this worker's monotonic clock and what the server last
    said. A worker whose own clock is wrong harms nobody."""

    def __init__(self) -> None:
        self._ahead: int | None = None

    @property
    def is_set(self) -> bool:
        return self._ahead is not None

    def learn(self, server_ms: int) -> None:
        """Takes what the server has just said, unless it differs by no more than a reply's way
        back may take: the time told should not waver, or two logins could change places."""
        ahead = server_ms - _monotonic_ms()
        if self._ahead is None or abs(ahead - self._ahead) > _TOLERANCE_MS:
            self._ahead = ahead

    def now(self) -> int:
        assert self._ahead is not None, "the clock was read before it was set"
        return _monotonic_ms() + self._ahead


class SessionStore:
    """The sessions under one key prefix of one server or cluster.

    Every method raises `StoreUnavailable` when the server does not answer, or refuses. With an
    act that failed so it is unknown whether it was carried out.
    """

    def __init__(self, client: RedisClient, settings: Settings | None = None) -> None:
        self._client = client
        self._settings = settings or Settings()
        self._scripts = {name: load_script(name) for name in ACTS}
        self.clock = ServerClock()

    def close(self) -> None:
        """Closes the connections, say before a worker ends; a later call opens new ones."""
        self._client.close()

    # Reads

    def now(self) -> int:
        """The server's time, ms. Asks the server the first time only."""
        if not self.clock.is_set:
            seconds, microseconds = self._call("TIME")
            self.clock.learn(int(seconds) * 1000 + int(microseconds) // 1000)
        return self.clock.now()

    def load(self, token: Token) -> Stored | Ended | None:
        """The session of this token. `Ended` if it was ended from outside; None if there is no
        such session, the secret is wrong, or it has expired by today's settings."""
        held = self._read(token.session_id)
        if isinstance(held, Stored) and not token.matches(held.record.secret):
            return None
        return held

    def sessions_of(self, user_id: UserId) -> list[Stored]:
        """A user's sessions, newest activity first; empty if there are none."""
        user = user_hash(user_id)
        ids = self._call("ZRANGEBYSCORE", self._index_key(user), f"({self.now()}", "+inf")
        living = self._read_many(user, _texts(ids))
        return sorted(living, key=lambda stored: stored.record.seen, reverse=True)

    def info(self, stored: Stored, *, is_current: bool = False) -> SessionInfo:
        """The session as lists and signals show it."""
        expires = self._settings.expires(stored.record)
        return record.info(stored, expires=expires, is_current=is_current)

    # Acts, each with a script of its own

    def create(self, new: Stored, before: Record | None = None) -> list[str]:
        """Stores a new session, which goes on from `before` if there was one. Returns all ids of
        its user's sessions if they are now more than the limit, else nothing. Raises
        `StoreUnavailable` too if the session was ended while a first attempt's reply was lost: it
        must not come back."""
        self._check_size(new.record, before)
        user_id = new.record.user_id
        limit = None if user_id is None else self._settings.session_limit(user_id)
        lifetime = self._settings.expires(new.record) - self.now()
        stands, over_limit = self._act(
            "create", self._keys(new), new.raw, lifetime, new.id, limit or 0
        )
        if not stands:
            raise StoreUnavailable("The session was ended while it was being made.")
        return _texts(over_limit)

    def commit(self, loaded: Stored, new: Record) -> tuple[Commit, Stored | None]:
        """Writes `new` if the session is still as loaded. Returns what came of it, and what the
        store holds now; None for that if the session is gone."""
        raw = record.encode(new)
        self._check_size(new, loaded.record)
        lifetime = self._settings.expires(new) - self.now()
        if lifetime <= 0:
            return Commit.REFUSED, None
        done, held = self._act("commit", self._keys(loaded), loaded.raw, raw, lifetime, loaded.id)
        return Commit(done), self._living(loaded.id, held)

    def remove(self, stored: Stored, *, if_unchanged: bool = False) -> tuple[bool, Stored | None]:
        """Ends a session for its own browser. Returns whether it is gone, and the session as it
        was when it ended (None if it had gone before) or, with `if_unchanged`, as it is now."""
        expected = stored.raw if if_unchanged else b""
        gone, held = self._act("remove", self._keys(stored), expected, stored.id)
        return bool(gone), self._living(stored.id, held)

    def revoke(self, user: str, ids: list[str], reason: str) -> tuple[list[SessionInfo], list[str]]:
        """Ends these sessions of the user with this hash from outside. Returns those it ended,
        and the ids left in the user's index."""
        remains = record.encode(Ended(reason))
        ended, left = self._act("revoke", self._user_keys(user, ids), remains, *ids)
        return self._infos(ids, ended), _texts(left)

    def limit(
        self, user: str, ids: list[str], most: int, newest: str, replaced: str = ""
    ) -> tuple[list[SessionInfo], list[str]]:
        """Ends the least recently used of these sessions, all of the user's, until `most` are
        left; never `newest`, nor `replaced`, which does not count. Returns those it ended; or all
        ids if there are others by now, and then it has done nothing."""
        remains = record.encode(Ended("limit"))
        keys = self._user_keys(user, ids)
        ended, ids_now = self._act("limit", keys, remains, most, newest, replaced, *ids)
        return self._infos(ids, ended), _texts(ids_now)

    # Built of those acts

    def update(self, stored: Stored, change: Callable[[Record], Record | None]) -> Outcome:
        """Changes a session by compare-and-set: `change` gets the record and gives the new one,
        or None for "leave it"; where another request was faster it is asked again, with what
        that one wrote."""
        for _ in self._until_deadline():
            new = change(stored.record)
            if new is None:
                return Outcome(stored, written=False)
            done, held = self.commit(stored, new)
            if done or held is None:
                return Outcome(held, written=done is Commit.WRITTEN)
            stored = held
        raise AssertionError("the loop above only returns or raises")

    def replace(
        self, old: Stored, new: Stored, carry: Carry
    ) -> tuple[Stored | None, Stored | None]:
        """Removes `old`, whose place `new` has taken. Returns `new`, and `old` as it was when it
        ended; None for that if it had gone before. Where `old` has changed meanwhile or is gone,
        `new` first gets the data that `carry` chooses then; if that is None, `new` ends too."""
        for _ in self._until_deadline():
            gone, held = self.remove(old, if_unchanged=True)
            if gone and held:
                return new, held
            is_gone, old = held is None, held or old
            data = carry(old.record, is_gone=is_gone)
            if data is None:
                self.remove(new)
                return None, None
            outcome = self.update(new, functools.partial(_with_data, data))
            if outcome.stored is None:
                raise StoreUnavailable("The session was ended while it was being made.")
            new = outcome.stored
            if is_gone:
                return new, None
        raise AssertionError("the loop above only returns or raises")

    def update_all(
        self, user_id: UserId, changes: Mapping[str, t.Any], remove: Iterable[str] = ()
    ) -> int:
        """Changes data in all of a user's sessions; returns how many have it now. Sessions that
        begin meanwhile are included. After `StoreUnavailable` some may have it: call again."""
        edit = Changes(set=codec.encode_all(changes), removed=frozenset(remove))
        key = self._settings.user_id_key
        if key is not None and key in {*edit.set, *edit.removed}:
            raise ValueError(f"{key!r} says whose the sessions are; it cannot be changed in all.")
        changed, visited, refusal = 0, set[str](), None
        while fresh := [s for s in self.sessions_of(user_id) if s.id not in visited]:
            visited.update(stored.id for stored in fresh)
            for stored in fresh:
                try:
                    changed += self._edit(stored, edit)
                except SessionTooLarge as error:
                    refusal = error  # no reason to leave a role in the other sessions
        if refusal:
            raise refusal
        return changed

    def revoke_one(self, user_id: UserId, session_id: str) -> SessionInfo | None:
        """Ends one session of this user; None if the user has no such session."""
        user = user_hash(user_id)
        if not is_session_id(session_id) or not self._read_many(user, [session_id]):
            return None
        ended, _ = self.revoke(user, [session_id], "revoked")
        return ended[0] if ended else None

    def revoke_all(self, user_id: UserId, *, spare: str | None = None) -> list[SessionInfo]:
        """Ends all of a user's sessions but `spare`, also those that begin meanwhile."""
        user = user_hash(user_id)
        ids = _texts(self._call("ZRANGE", self._index_key(user), 0, -1))
        all_ended: list[SessionInfo] = []
        while others := [session_id for session_id in ids if session_id != spare]:
            ended, ids = self.revoke(user, others[:_CHUNK], "revoked")
            all_ended += ended
        return all_ended

    def enforce_limit(
        self, user_id: UserId, ids: list[str], newest: str, replaced: str = ""
    ) -> list[SessionInfo]:
        """Ends this user's least recently used sessions beyond the limit; returns those. The one
        that is to be replaced by the newest does not count."""
        most = self._settings.session_limit(user_id) if ids else None
        for _ in self._until_deadline():
            if most is None or len(ids) - (replaced in ids) <= most:
                break
            ended, ids_now = self.limit(user_hash(user_id), ids, most, newest, replaced)
            if not ids_now:
                return ended
            ids = ids_now
        return []

    # How it is done

    def _edit(self, stored: Stored, edit: Changes) -> bool:
        def change(current: Record) -> Record | None:
            return _with_data(edit.applied_to(current.encoded_data()), current)

        return self.update(stored, change).stored is not None

    def _read(self, session_id: str) -> Stored | Ended | None:
        try:
            raw = self._call("GET", self._record_key(session_id))
        except StoreUnavailable as unavailable:
            if not _is_wrong_type(unavailable.__cause__):
                raise
            return _unreadable(session_id, "the key holds something else than a record")
        return self._decoded(session_id, raw)

    def _read_many(self, user: str, ids: list[str]) -> list[Stored]:
        if not ids:
            return []
        held = self._call("MGET", *map(self._record_key, ids))
        read = (self._living(session_id, raw) for session_id, raw in zip(ids, held, strict=True))
        return [stored for stored in read if stored and stored.record.user_hash == user]

    def _living(self, session_id: str, raw: bytes | None) -> Stored | None:
        held = self._decoded(session_id, raw)
        return held if isinstance(held, Stored) else None

    def _decoded(self, session_id: str, raw: bytes | None) -> Stored | Ended | None:
        if raw is None:
            return None
        try:
            held = record.decode(raw)
        except UnreadableRecord as error:
            return _unreadable(session_id, str(error))
        if isinstance(held, Ended):
            return held
        expired = self._settings.expires(held) <= self.now()
        return None if expired else Stored(session_id, held, raw)

    def _infos(self, ids: list[str], raws: list[bytes | None]) -> list[SessionInfo]:
        living = (self._living(session_id, raw) for session_id, raw in zip(ids, raws, strict=True))
        return [self.info(stored) for stored in living if stored]

    def _check_size(self, new: Record, old: Record | None = None) -> None:
        """Refuses data that are too large, unless they were larger before."""
        size, most = new.data_size, self._settings.max_session_bytes
        if size > most and (old is None or size > old.data_size):
            raise SessionTooLarge.caused_by("This write", size, most)

    def _until_deadline(self) -> Iterator[None]:
        """As many tries as the time for one store call allows, and at least one."""
        deadline = time.monotonic() + self._settings.store_timeout.total_seconds()
        while True:
            yield
            if time.monotonic() >= deadline:
                raise StoreUnavailable("Other requests kept changing the same session.")

    def _keys(self, stored: Stored) -> list[str]:
        user = stored.record.user_hash
        return [self._record_key(stored.id), *([self._index_key(user)] if user else [])]

    def _user_keys(self, user: str, ids: list[str]) -> list[str]:
        return [self._index_key(user), *map(self._record_key, ids)]

    def _record_key(self, session_id: str) -> str:
        shard, rest = session_id[:SHARD_CHARS], session_id[SHARD_CHARS:]
        return f"{self._settings.key_prefix}:{{{shard}}}:s:{rest}"

    def _index_key(self, user: str) -> str:
        return f"{self._settings.key_prefix}:{{{user[:SHARD_CHARS]}}}:u:{user}"

    def _act(self, name: str, keys: list[str], *args: t.Any) -> list[t.Any]:
        """Runs a script; whatever it returns begins with the server's time."""
        script = self._scripts[name]
        try:
            reply = self._call("EVALSHA", script.digest, len(keys), *keys, *args)
        except StoreUnavailable as unavailable:
            if not isinstance(unavailable.__cause__, NoScriptError):
                raise
            reply = self._call("EVAL", script.source, len(keys), *keys, *args)
        self.clock.learn(reply[0])
        return t.cast("list[t.Any]", reply[1:])

    def _call(self, *command: t.Any) -> t.Any:
        """One command, its reply in bytes whatever the client's `decode_responses`."""
        try:
            # redis-py's own types stop here: what the parts of a reply are, our scripts say.
            return self._client.execute_command(*command, NEVER_DECODE=True)  # type: ignore[no-untyped-call]
        except (redis.RedisError, RedisClusterException, OSError) as error:
            raise StoreUnavailable from error


class Script(t.NamedTuple):
    source: str
    digest: str


@functools.cache
def load_script(name: str) -> Script:
    """The act of this name, and the digest by which a server that has run it before knows it."""
    source = resources.files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")
    return Script(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


def _texts(ids: list[bytes]) -> list[str]:
    return [session_id.decode() for session_id in ids]


def _with_data(data: Mapping[str, bytes], current: Record) -> Record | None:
    return None if data == current.encoded_data() else current.with_data(data)


@functools.lru_cache(maxsize=1024)
def _unreadable(session_id: str, why: str) -> None:
    """Says once, not on every request, that a record is of no use; it is left as it is."""
    log.error("session %s cannot be read and counts as none: %s", session_id, why)


def _is_wrong_type(error: BaseException | None) -> bool:
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
