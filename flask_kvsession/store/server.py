"""One Redis server or cluster: its keys, its commands, its scripts, its time.

This is the only module of the store that uses redis-py. It raises every failure as
`StoreUnavailable`.
"""

from __future__ import annotations

import functools
import typing as t
from hashlib import sha1
from importlib import resources

import redis
from redis.exceptions import NoScriptError, RedisClusterException, ResponseError

from ..errors import StoreUnavailable
from ..settings import Settings
from ..token import SHARD_CHARS
from .clock import Deadline, ServerClock

RedisClient = redis.Redis | redis.RedisCluster

SCRIPTS = ("create", "commit", "remove", "revoke", "limit")


class Server:
    """Sends commands and scripts through one client. Replies are bytes, never text."""

    def __init__(self, client: RedisClient, settings: Settings) -> None:
        self._client = client
        self._prefix = settings.key_prefix
        self._timeout = settings.store_timeout.total_seconds()
        self.clock = ServerClock()

    def close(self) -> None:
        self._client.close()

    def now(self) -> int:
        """The server's time, ms. Asks the server at the first call only."""
        if not self.clock.is_set:
            seconds, microseconds = self.call("TIME")
            self.clock.learn(int(seconds) * 1000 + int(microseconds) // 1000)
        return self.clock.now()

    def record_key(self, session_id: str) -> str:
        """The key of a session's record. The hash tag is the session's shard."""
        shard, rest = session_id[:SHARD_CHARS], session_id[SHARD_CHARS:]
        return f"{self._prefix}:{{{shard}}}:s:{rest}"

    def index_key(self, user: str) -> str:
        """The key of the index of the user with this hash, in the slot of the user's records."""
        return f"{self._prefix}:{{{user[:SHARD_CHARS]}}}:u:{user}"

    def call(self, *command: t.Any) -> t.Any:
        """The reply to one command. Text in it is bytes, also if the client has
        `decode_responses`."""
        try:
            # The reply has no static type. The header of each script describes its reply.
            return self._client.execute_command(*command, NEVER_DECODE=True)  # type: ignore[no-untyped-call]
        except (redis.RedisError, RedisClusterException, OSError) as error:
            raise StoreUnavailable from error

    def get(self, session_id: str) -> bytes | t.Literal[False] | None:
        """The bytes under a session's key; None if there is no key, False for a key of another
        type."""
        try:
            return t.cast("bytes | None", self.call("GET", self.record_key(session_id)))
        except StoreUnavailable as unavailable:
            if not _is_wrong_type(unavailable.__cause__):
                raise
            return False

    def run_script(self, name: str, keys: list[str], *args: t.Any) -> list[t.Any]:
        """The reply of a script, without its first item, the server's time. The clock gets that."""
        script = load_script(name)
        try:
            reply = self.call("EVALSHA", script.digest, len(keys), *keys, *args)
        except StoreUnavailable as unavailable:
            if not isinstance(unavailable.__cause__, NoScriptError):
                raise
            reply = self.call("EVAL", script.source, len(keys), *keys, *args)
        self.clock.learn(reply[0])
        return t.cast("list[t.Any]", reply[1:])

    def deadline(self) -> Deadline:
        """The deadline of a call that begins now, by `KVSESSION_STORE_TIMEOUT`."""
        return Deadline(self._timeout)


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


def _is_wrong_type(error: BaseException | None) -> bool:
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")
