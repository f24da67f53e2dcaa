"""The commands that a server must allow: the access rights of the user whom the app is there."""

from __future__ import annotations

import typing as t

RECORD, INDEX = "<record>", "<index>"
"""Stand for two keys of one slot in `PROBES`."""

PROBES: t.Final[dict[str, tuple[str, ...]]] = {
    "set": ("SET", RECORD, "", "PX", "1000"),
    "get": ("GET", RECORD),
    "mget": ("MGET", RECORD),
    "getrange": ("GETRANGE", RECORD, "0", "0"),
    "pttl": ("PTTL", RECORD),
    "zadd": ("ZADD", INDEX, "1", "x"),
    "pexpireat": ("PEXPIREAT", INDEX, "1"),
    "zrange": ("ZRANGE", INDEX, "0", "-1"),
    "zrangebyscore": ("ZRANGEBYSCORE", INDEX, "0", "1"),
    "zcard": ("ZCARD", INDEX),
    "zrem": ("ZREM", INDEX, "x"),
    "zremrangebyscore": ("ZREMRANGEBYSCORE", INDEX, "0", "1"),
    "unlink": ("UNLINK", RECORD, INDEX),
    "evalsha": ("EVALSHA", "0" * 40, "0"),
    "eval": ("EVAL", "return 1", "0"),
    "time": ("TIME",),
    "ping": ("PING",),
    "info": ("INFO", "server"),
    "scan": ("SCAN", "0", "COUNT", "1"),
}
"""For each command that the package needs, a harmless use of it. The last two are for servers that
may evict keys, and for the command line. docs/deployment.md names the same commands."""

LISTENING_PROBES: t.Final[dict[str, tuple[str, ...]]] = {
    "client|tracking": ("CLIENT", "TRACKING", "OFF"),
    "role": ("ROLE",),
}
"""The same for the thread that listens for changes of sessions, if there is one."""

NEEDED: t.Final = tuple(PROBES)
LISTENING: t.Final = tuple(LISTENING_PROBES)


def probes(record_key: str, index_key: str) -> dict[str, tuple[str, ...]]:
    """The uses of all these commands, on these two keys, which exist for at most a second."""
    keys = {RECORD: record_key, INDEX: index_key}
    return {
        name: tuple(keys.get(part, part) for part in probe)
        for name, probe in (PROBES | LISTENING_PROBES).items()
    }
