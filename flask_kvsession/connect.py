"""From a URL to a client whose calls are bounded in time."""

from __future__ import annotations

import typing as t
import weakref
from datetime import timedelta

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .embedded import EmbeddedServer
from .errors import ConfigurationError

EMBEDDED_SCHEME = "embedded://"


def connect(url: str, timeout: timedelta, *, ephemeral: bool = False) -> redis.Redis:
    """A client for `url`; it connects at its first command and tries each command once.

    For an `embedded://` URL the server is started, or joined, here and now; it ends with the last
    client of it. `ephemeral` then means that its data go with it.
    """
    # redis-py would try 10 times by default: with a server that hangs, a minute for one command.
    bounded: dict[str, t.Any] = {
        "socket_timeout": timeout.total_seconds(),
        "socket_connect_timeout": timeout.total_seconds(),
        "retry": Retry(NoBackoff(), 0),
    }
    if not url.startswith(EMBEDDED_SCHEME):
        return redis.Redis.from_url(url, **bounded)
    server = EmbeddedServer(url.removeprefix(EMBEDDED_SCHEME), ephemeral=ephemeral)
    client = redis.Redis(unix_socket_path=server.socket_path, **bounded)
    # Not at exit: what the app runs then may still need its sessions. The kernel lets go for us.
    weakref.finalize(client, server.close).atexit = False
    return client


def check_url(url: str) -> None:
    """Raises `ConfigurationError` where redis-py could not use `url`; connects nowhere."""
    if not url.startswith(EMBEDDED_SCHEME) and not _is_usable(url):
        raise ConfigurationError(
            "KVSESSION_REDIS_URL has an option that redis-py does not know, or a value that it"
            " cannot use for one; see redis.Redis.from_url for the options."
        )


def _is_usable(url: str) -> bool:
    # Only a bool leaves here: redis-py's errors may quote the password.
    try:
        redis.Redis.from_url(url).connection_pool.make_connection()
    except (TypeError, ValueError, redis.RedisError):
        return False
    return True
