"""The access rights that the package needs. All tests run with no others; docs/deployment.md names
them."""

from __future__ import annotations

import redis

COMMANDS = (
    *("get", "mget", "zrangebyscore", "time", "ping", "evalsha", "eval"),
    *("getrange", "set", "unlink", "pttl", "zadd", "zrem", "zrange", "zcard"),
    *("zremrangebyscore", "pexpireat"),
    *("info", "scan"),
)
"""Sent by the store; used in scripts; and for servers that may evict keys."""

LISTENING = ("client|tracking", "role")
"""Sent by the thread that listens for changes of sessions, if there is one."""

USER, PASSWORD = "app", "only-for-tests"


def allow(client: redis.Redis, *without: str) -> None:
    """Makes the user `USER`, who may send these commands and no others."""
    client.acl_setuser(
        USER,
        enabled=True,
        reset=True,
        passwords=[f"+{PASSWORD}"],
        keys=["*"],
        commands=[f"+{name}" for name in COMMANDS + LISTENING if name not in without],
    )


def url_of(socket_path: str) -> str:
    """The URL of a server, for that user."""
    return f"unix://{USER}:{PASSWORD}@{socket_path}"
