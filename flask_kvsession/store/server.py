"""One Redis server or cluster: its keys, its commands, its scripts, its time.

It raises `StoreUnavailable` for every failure, and for a reply of another shape than its command
has.
"""

from __future__ import annotations

import functools
import logging
import time
import typing as t
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from importlib import resources

from redis.exceptions import (
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..connection import Command, Deadline, Node, RedisClient, Repeat, Servers, TracedServers, adopt
from ..errors import StoreUnavailable
from ..settings import Settings
from ..token import SHARD_CHARS
from .clock import ServerClock
from .eviction import EvictionPolicy, is_forbidden
from .near_cache import NearCache
from .problems import PASSWORD_ADVICE, is_wrong_password
from .tracking import Tracker

log: logging.Logger = logging.getLogger("flask_kvsession")

SCRIPTS = (
    *("create", "commit", "remove", "revoke", "limit", "set_index_entry"),
    *("revoke_record", "repair_index", "repair_entry"),
)

_MAY_BE_REPEATED: t.Final = {
    *("create", "commit", "remove", "set_index_entry"),
    *("revoke_record", "repair_index", "repair_entry"),
}
"""The scripts that may be sent again if their reply was lost. A repeated `remove` finds no session,
as if another request had ended it. `revoke` and `limit` report a session as ended only once. The
last three only count what they do."""

_SECONDS_BETWEEN_LINES = 60.0

_MANY = 10
_KEYS_PER_READ = 500
KEYS_PER_SCAN = 1000
"""How many keys one command reads at most: it blocks every other client of the server."""

Reply = t.Any
"""The reply to a command. It has no static type; each caller says which shape it must have."""


class SlotIsMoving(StoreUnavailable):
    """A cluster moves the slot, so keys of it are on two nodes, and only acts on one key work."""


class Server:
    """Sends commands and scripts through one client. Replies are bytes, never text."""

    def __init__(self, client: Servers | RedisClient, settings: Settings) -> None:
        servers = client if isinstance(client, Servers) else adopt(client)
        self._client = TracedServers(servers) if settings.trace_commands else servers
        self.prefix: str = settings.key_prefix
        self.timeout: float = settings.store_timeout.total_seconds()
        self._outages = OutageLog()
        self._eviction = EvictionPolicy()
        self._warnings: set[str] = set()
        self.deadline: Deadline | None = None
        """When the commands must have been answered; None: each has its own deadline."""
        self.clock: ServerClock = ServerClock()
        self.tracker: Tracker = Tracker(self._client, self.prefix)
        """Reports changes of keys, once it was started."""
        self.near_cache: NearCache | None = (
            NearCache(self.tracker, self.clock, settings) if settings.near_cache else None
        )

    def close(self) -> None:
        self.tracker.close()
        self._client.close()

    # Time

    def now(self) -> int:
        """The server's time, ms. Asks the server at the first call only."""
        if not self.clock.is_set:
            self._learn_time(self.deadline)
        return self.clock.now()

    def _learn_time(self, deadline: Deadline | None) -> None:
        seconds, microseconds = self._call(("TIME",), shape=_is_time, deadline=deadline)
        self.clock.learn(int(seconds) * 1000 + int(microseconds) // 1000)

    def bounded(self, seconds: float | None = None) -> Server:
        """This server for one call of the store: its commands together take no longer than this
        time, or `KVSESSION_STORE_TIMEOUT`.

        The deadline belongs to the object of the call. If it were kept for a thread, a call that is
        interrupted could leave its deadline to the next request.
        """
        bounded = Server.__new__(Server)
        vars(bounded).update(vars(self))
        bounded.deadline = Deadline(self.timeout if seconds is None else seconds)
        return bounded

    def seconds_left(self) -> float:
        """The time that is left for the call of the store."""
        return self.deadline.remaining_or_little() if self.deadline else self.timeout

    def require_time(self, problem: str) -> None:
        """Raises `StoreUnavailable` with this description if the deadline is over."""
        if self.deadline and self.deadline.is_over:
            raise StoreUnavailable(problem)

    # Keys

    def record_key(self, session_id: str) -> str:
        """The key of a session's record. The hash tag is the session's shard."""
        shard, rest = session_id[:SHARD_CHARS], session_id[SHARD_CHARS:]
        return f"{self.prefix}:{{{shard}}}:s:{rest}"

    def index_key(self, user: str) -> str:
        """The key of the index of the user with this hash, in the slot of the user's records."""
        return f"{self.prefix}:{{{user[:SHARD_CHARS]}}}:u:{user}"

    # Reads

    def get(self, session_id: str) -> bytes | t.Literal[False] | None:
        """The bytes under a session's key; None if there is no key, False for a key of another
        type. If there are bytes, the server's time is known from then on."""
        key, deadline = self.record_key(session_id), self.deadline or Deadline(self.timeout)
        try:
            reply: bytes | None = self._call(
                ("GET", key), key, Repeat.READ, _is_bytes_or_none, _is_wrong_type, deadline
            )
            if reply and not self.clock.is_set:
                self._learn_time(deadline)
            return reply
        except StoreUnavailable as unavailable:
            if not _is_wrong_type(unavailable.__cause__):
                raise
            return False

    def get_many(self, session_ids: list[str]) -> list[bytes | None]:
        """The bytes under the keys of one user's sessions; None for no key and for a key of another
        type."""
        found: list[bytes | None] = []
        for start in range(0, len(session_ids), _KEYS_PER_READ):
            some = session_ids[start : start + _KEYS_PER_READ]
            keys = [self.record_key(session_id) for session_id in some]
            shape = functools.partial(_is_list_of_bytes_or_none, length=len(keys))
            try:
                found += self._call(("MGET", *keys), keys[0], shape=shape)
            except SlotIsMoving:
                found += [self.get(session_id) or None for session_id in some]
        return found

    def ids_in_index(self, user: str, *, expiring_after: int | None = None) -> list[str]:
        """The session ids in a user's index; with `expiring_after` (ms), only those that expire
        later."""
        key = self.index_key(user)
        earliest = "-inf" if expiring_after is None else f"({expiring_after}"
        command = ("ZRANGEBYSCORE", key, earliest, "+inf")
        return texts(self._call(command, key, shape=_is_list_of_bytes))

    # Eviction

    def may_evict(self, user: str) -> bool:
        """Whether the index of the user with this hash may have been evicted."""
        key = self.index_key(user)
        command, is_expected = ("INFO", "memory"), is_forbidden
        ask = functools.partial(self._call, command, key, shape=_is_bytes, is_expected=is_expected)
        return self._eviction.may_evict(ask)

    def ids_in_shard(self, user: str) -> list[str]:
        """The ids of all sessions in the shard of the user with this hash, without the index. The
        shard may have sessions of other users too. Empty if the server forbids SCAN."""
        shard, cursor, found = user[:SHARD_CHARS], b"0", dict[str, None]()
        pattern, key = self.record_key(f"{shard}*"), self.index_key(user)
        prefix = len(pattern) - 1
        while True:
            self.require_time("The server has too many keys to look through all of them.")
            command = ("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_PER_SCAN)
            try:
                cursor, keys = self._call(command, key, shape=is_scan, is_expected=is_forbidden)
            except StoreUnavailable as unavailable:
                if not (unavailable.__cause__ and is_forbidden(unavailable.__cause__)):
                    raise
                self.warn_once(
                    "The Redis server forbids SCAN. If it evicts the index of a user, the list, the"
                    " revocation and the limit of that user's sessions miss sessions."
                )
                return []
            found.update(dict.fromkeys(shard + each[prefix:].decode() for each in keys))
            if cursor == b"0":
                return list(found)

    # Scripts

    def run_script(
        self,
        name: str,
        keys: list[str],
        *args: t.Any,
        shape: Callable[[Reply], bool],
        once: bool = False,
    ) -> list[t.Any]:
        """The reply of a script, without its first item, the server's time. The clock gets that.

        With `once`, the script is not sent again if its reply was lost.
        """
        if self.near_cache is None:
            return self._run_script(name, keys, args, shape, once)
        try:
            return self._run_script(name, keys, args, shape, once)
        finally:  # it may have been carried out; a read that began before must not be kept either
            self.near_cache.forget(*keys)

    def _run_script(
        self,
        name: str,
        keys: list[str],
        args: tuple[t.Any, ...],
        shape: Callable[[Reply], bool],
        once: bool,
    ) -> list[t.Any]:
        script = load_script(name)
        may_be_repeated = name in _MAY_BE_REPEATED and not once
        repeat = Repeat.SAME if may_be_repeated else Repeat.DIFFERENT
        tail = (len(keys), *keys, *args)

        def has_shape(reply: Reply) -> bool:
            return isinstance(reply, list) and _is_int(reply[:1]) and shape(reply[1:])

        try:
            command = ("EVALSHA", script.digest, *tail)
            reply = self._call(command, keys[0], repeat, has_shape, _may_work_by_eval)
        except StoreUnavailable as unavailable:
            if not _may_work_by_eval(unavailable.__cause__):
                raise
            reply = self._call(("EVAL", script.source, *tail), keys[0], repeat, has_shape)
        self.clock.learn(reply[0])
        rest: list[t.Any] = reply[1:]
        return rest

    # All servers

    def primaries(self) -> list[Node]:
        """The servers that take writes now."""
        with self.failures():
            return self._client.primaries(self.new_deadline())

    def send(self, command: Command) -> Reply:
        """The reply to a command, from the server that has its key. Raises an error of redis-py or
        an `OSError`."""
        return self._client.call(command, self.new_deadline())

    def new_deadline(self) -> Deadline:
        """The deadline for many commands that are sent together: ten times
        `KVSESSION_STORE_TIMEOUT`."""
        return Deadline(_MANY * self.timeout)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Logs an error of the client, and raises it as `StoreUnavailable`."""
        try:
            yield
        except (RedisError, OSError) as error:
            self._outages.note(error)
            raise StoreUnavailable from error

    # Problems

    def misfit(self, what: str) -> StoreUnavailable:
        """Closes the idle connections, because a reply is not the one to its command. Returns the
        error to raise."""
        self._client.close()
        log.error("the session store sent %s", what)
        return StoreUnavailable()

    def warn_once(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            log.warning(message)

    # How it works

    def _call(
        self,
        command: tuple[t.Any, ...],
        key: str | None = None,
        repeat: Repeat = Repeat.READ,
        shape: Callable[[Reply], bool] = lambda reply: True,
        is_expected: Callable[[Exception], bool] = lambda error: False,
        deadline: Deadline | None = None,
    ) -> Reply:
        deadline = deadline or self.deadline or Deadline(self.timeout)
        try:
            reply = self._client.call(Command(command, repeat, key), deadline)
        except (RedisError, OSError) as error:
            if isinstance(error, TryAgainError):
                raise SlotIsMoving from error
            if not is_expected(error):
                self._outages.note(error)
            raise StoreUnavailable from error
        if not shape(reply):
            raise self.misfit(f"a reply of another shape than {command[0]} has")
        if self._outages.is_logged:
            self._outages.note_answer()
        return reply


class OutageLog:
    """Logs failures: one line for each kind of error and minute, not one for each request."""

    def __init__(self) -> None:
        self.is_logged: bool = False
        """Whether the server was unavailable at the last call that was logged."""
        self._next_line: dict[str, float] = {}

    def note(self, error: Exception) -> None:
        kind, now = type(error).__name__, time.monotonic()
        key = f"{kind} because of {type(error.__cause__).__name__}"
        if now >= self._next_line.get(key, now):
            self._next_line[key] = now + _SECONDS_BETWEEN_LINES
            self.is_logged = True
            advice = f" {PASSWORD_ADVICE}" if is_wrong_password(error) else ""
            log.error("the session store is unavailable: %s: %s%s", kind, error, advice)

    def note_answer(self) -> None:
        self.is_logged = False
        log.warning("the session store is available again")


class Script(t.NamedTuple):
    source: str
    digest: str
    """The SHA-1 for EVALSHA, which works if the server has run the script before."""


@functools.cache
def load_script(name: str) -> Script:
    """The script of this act: the functions of `common.lua`, then the act's own file."""
    source = _read_lua("common") + _read_lua(name)
    return Script(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


def _read_lua(name: str) -> str:
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")


def texts(ids: list[bytes]) -> list[str]:
    return [session_id.decode() for session_id in ids]


# Errors


def _is_wrong_type(error: BaseException | None) -> bool:
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def _may_work_by_eval(error: BaseException | None) -> bool:
    """Whether the server does not know the script yet, or allows EVAL but not EVALSHA."""
    is_forbidden = isinstance(error, NoPermissionError) and "evalsha" in str(error).lower()
    return is_forbidden or isinstance(error, NoScriptError)


# Shapes of replies


def is_empty(reply: list[t.Any]) -> bool:
    return not reply


def is_number(reply: list[t.Any]) -> bool:
    return len(reply) == 1 and _is_int(reply)


def is_flag_and_record(reply: list[t.Any]) -> bool:
    """A number from 0 to 3, and a record or None."""
    return len(reply) == 2 and reply[0] in (0, 1, 2, 3) and _is_bytes_or_none(reply[1])


def is_flag_and_ids(reply: list[t.Any]) -> bool:
    """A number, and a list of session ids."""
    return len(reply) == 2 and _is_int(reply) and _is_list_of_bytes(reply[1])


def is_records_and_ids(reply: list[t.Any], *, count: int) -> bool:
    """`count` records, each of them or None, and a list of session ids."""
    return (
        len(reply) == 2
        and _is_list_of_bytes_or_none(reply[0], length=count)
        and _is_list_of_bytes(reply[1])
    )


def _is_int(items: list[t.Any]) -> bool:
    return bool(items) and isinstance(items[0], int)


def _is_bytes(reply: Reply) -> bool:
    return isinstance(reply, bytes)


def _is_bytes_or_none(reply: Reply) -> bool:
    return reply is None or isinstance(reply, bytes)


def _is_list_of_bytes(reply: Reply) -> bool:
    return isinstance(reply, list) and all(isinstance(item, bytes) for item in reply)


def _is_list_of_bytes_or_none(reply: Reply, *, length: int) -> bool:
    return isinstance(reply, list) and len(reply) == length and all(map(_is_bytes_or_none, reply))


def is_scan(reply: Reply) -> bool:
    """A cursor and a list of keys."""
    is_pair = isinstance(reply, list) and len(reply) == 2
    return is_pair and isinstance(reply[0], bytes) and _is_list_of_bytes(reply[1])


def _is_time(reply: Reply) -> bool:
    return _is_list_of_bytes(reply) and len(reply) == 2 and all(item.isdigit() for item in reply)
