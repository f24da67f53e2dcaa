"""`SessionStore`: reads, the atomic acts (`acts`), and what consists of several acts.

Reads are plain commands: a script would wait while the server has paused writes.
"""

from __future__ import annotations

import functools
import logging
import typing as t
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from .. import codec
from ..connection import RedisClient, Servers
from ..data import Changes
from ..errors import SessionTooLarge, StoreUnavailable
from ..record import Record, SessionInfo, Stored, Tombstone
from ..rotation import Standing, judge
from ..settings import Settings
from ..token import Token, UserId, is_session_id, user_hash
from .acts import Acts, Commit, ended_while_created, one_call
from .inspection import Inspection
from .maintenance import Maintenance
from .watcher import OnEnd, WatchedSession, Watcher

log: logging.Logger = logging.getLogger("flask_kvsession")

_UNDO_SECONDS = 0.5
"""The time to undo a failed login, in addition to `KVSESSION_STORE_TIMEOUT`."""

_MANY_ACTS = 10
"""`revoke_all` and `update_all` may take so many times `KVSESSION_STORE_TIMEOUT`."""

_KEPT_CHANGING = "Other requests kept changing the same session."

_MAX_SESSIONS_PER_ACT = 1000
"""How many sessions one act ends at most: a script blocks every other client of the server."""


class Outcome(msgspec.Struct, frozen=True):
    """The result of `update`: the session as the store holds it (None if it is gone), and whether
    this call wrote it."""

    stored: Stored | None
    written: bool


class Login(msgspec.Struct, frozen=True):
    """The result of `login`: the new session (None if `merge` refused the login), and the sessions
    of this browser that it ended, as they were then: all, and the one that it replaced."""

    stored: Stored | None
    ended: list[Stored]
    replaced: Stored | None = None


class Found(msgspec.Struct, frozen=True):
    """The result of `look_up`: the standing of a token, and the session that it names. After an end
    from outside there is no session, and the reason for a token of its family."""

    token: Token
    standing: Standing = Standing.UNKNOWN
    stored: Stored | None = None
    end_reason: str | None = None
    is_cached: bool = False
    """Whether the session was served by the near cache, so it may have changed within the last
    second."""


class Merge(t.Protocol):
    """Chooses a login's data from the record that the login replaces.

    It is called again if that record has changed or is gone (`is_gone`). It returns None to refuse
    the login.
    """

    def __call__(
        self, current: Record | None, *, is_gone: bool = False
    ) -> Mapping[str, bytes] | None: ...


class SessionStore(Acts):
    """The sessions under one key prefix of one server or cluster.

    Every method raises `StoreUnavailable` if the server does not answer or refuses the command. The
    server may have carried the act out or not. Each takes no longer than `KVSESSION_STORE_TIMEOUT`,
    but `revoke_all` and `update_all`, which consist of many acts: ten times as long.
    """

    def __init__(self, client: Servers | RedisClient, settings: Settings | None = None) -> None:
        super().__init__(client, settings)
        self._watcher = Watcher(self.current, self._settings, self.clock)
        self.tracker.subscribe(self._watcher.on_change, self._watcher.on_reset)

    def close(self) -> None:
        """Closes the connections, for example before a worker ends, and forgets the watched
        sessions. A later call opens new connections."""
        self._watcher.close()
        super().close()

    @property
    def maintenance(self) -> Maintenance:
        """What an operator does to the sessions of all users."""
        return Maintenance(self._server, self._settings)

    @property
    def inspection(self) -> Inspection:
        """Facts about the servers."""
        return Inspection(self._server, self._settings)

    # Reads

    def load(self, token: Token) -> Stored | None:
        """The session that this token opens. It does not ask for the proof of a session that is
        bound to a device, which only a request can show.

        None if there is no such session, if the secret is not valid, or if the session has expired
        by the current settings.
        """
        found = self.look_up(token)
        return found.stored if found.standing.is_valid else None

    def look_up(self, token: Token, get_began: Callable[[], int] | None = None) -> Found:
        """What this token is to the session that it names. `get_began` gives the time at which the
        request began (ms of the server's clock); without it, the request begins now.

        With `KVSESSION_NEAR_CACHE`, the answer may be from the near cache of this process.
        """
        near_cache = self._server.near_cache
        if near_cache is None:
            return self._look_up(token, get_began)
        key = self._server.record_key(token.session_id)
        stored = near_cache.get(key, token)
        if stored:
            return Found(token, Standing.CURRENT, stored, is_cached=True)
        return self.look_up_in_redis(token, get_began)

    def look_up_in_redis(self, token: Token, get_began: Callable[[], int] | None = None) -> Found:
        """The same, never from the near cache."""
        near_cache = self._server.near_cache
        if near_cache is None:
            return self._look_up(token, get_began)
        key = self._server.record_key(token.session_id)
        load = near_cache.begin_load(key)
        found = self._look_up(token, get_began)
        if load:
            is_current = found.standing is Standing.CURRENT
            near_cache.end_load(key, load, found.stored if is_current else None)
        return found

    def _look_up(self, token: Token, get_began: Callable[[], int] | None) -> Found:
        current = self._read(token.session_id)
        if isinstance(current, Stored):
            return Found(token, judge(current.record, token, get_began or self.now), current)
        if current and token.is_of_family(current.family):
            return Found(token, end_reason=current.ended)
        return Found(token)

    @one_call
    def current(self, session_id: str) -> Stored | Tombstone | None:
        """What is stored under this id now; None if there is no session, or one that has expired by
        the current settings."""
        return self._read(session_id)

    def watch(self, stored: Stored, on_end: OnEnd | None = None) -> WatchedSession:
        """Watches a session, until the result is closed or no longer in use.

        If the session ends, `on_end` is called with the reason, in a thread of its own. A new
        secret does not end a session.
        """
        watched = self._watcher.watch(self._server.record_key(stored.id), stored, on_end)
        self.tracker.start()
        return watched

    @one_call
    def sessions_of(self, user_id: UserId) -> list[Stored]:
        """A user's sessions, newest activity first; empty if there are none."""
        user = user_hash(user_id)
        ids = self._server.ids_in_index(user, expiring_after=self.now())
        active = self._read_many(user, self._with_evicted(user, ids))
        return sorted(active, key=lambda stored: stored.record.seen, reverse=True)

    # Methods that consist of these acts

    @one_call
    def update(
        self, stored: Stored, change: Callable[[Record], Record | None], *, once: bool = False
    ) -> Outcome:
        """Changes a session by compare-and-set.

        `change` takes the record and returns the new one, or None to leave the record unchanged. If
        another request was faster, `change` is called again with the record of that request.
        `once`: the change counts once, also if another request makes an equal one: see `commit`.
        """
        while (new := change(stored.record)) is not None:
            result, current = self.commit(stored, new, once=once)
            if result or current is None:
                return Outcome(current, written=result is Commit.WRITTEN)
            stored = current
            self._server.require_time(_KEPT_CHANGING)
        return Outcome(stored, written=False)

    @one_call
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

    @one_call
    def end_others(self, others: Iterable[Stored], unread: Iterable[Token]) -> list[Stored]:
        """Ends sessions of a browser besides its own: `others`, and the anonymous sessions that the
        tokens `unread` open. Returns those of `others` that it ended, as they were then."""
        for token in unread:
            self.remove_anonymous(token)
        ended = [self.remove(stored)[1] for stored in others]
        return [stored for stored in ended if stored]

    @one_call
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
            found = self.look_up_in_redis(found.token, get_began)
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
        require_time = self._server.bounded(_MANY_ACTS * self._server.timeout).require_time
        while new := [s for s in self.sessions_of(user_id) if s.id not in visited]:
            visited.update(stored.id for stored in new)
            for stored in new:
                require_time("This user has too many sessions to change all of them in time.")
                try:
                    changed += self._edit(stored, edit)
                except SessionTooLarge as error:
                    refusal = error  # raised after the other sessions have got the changes
        if refusal:
            raise refusal
        return changed

    @one_call
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
        require_time = self._server.bounded(_MANY_ACTS * self._server.timeout).require_time
        while others := [session_id for session_id in ids if session_id != spare]:
            require_time("Sessions of this user keep beginning.")
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
                raise ended_while_created()
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

    def _edit(self, stored: Stored, edit: Changes) -> bool:
        def change(current: Record) -> Record | None:
            return _with_data(edit.applied_to(current.encoded_data()), current)

        return self.update(stored, change).stored is not None


def _with_data(data: Mapping[str, bytes], current: Record) -> Record | None:
    return None if data == current.encoded_data() else current.with_data(data)
