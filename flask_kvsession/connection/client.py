"""Make a Redis client from a URL, with a deadline for every command."""

from __future__ import annotations

import typing as t
import weakref
from datetime import timedelta

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..errors import ConfigurationError
from .embedded import EmbeddedServer

_EMBEDDED_SCHEME = "embedded://"


def connect(url: str, timeout: timedelta, *, ephemeral: bool = False) -> redis.Redis:
    """A client for `url`, which tries each command once and waits at most `timeout` for a reply.

    The client opens its connection at the first command. For an `embedded://` URL, this function
    starts or joins the server immediately. The server stops after its last client has been
    garbage-collected. With `ephemeral`, the server then also deletes its folder.
    """
    options: dict[str, t.Any] = {
        "socket_timeout": timeout.total_seconds(),
        "socket_connect_timeout": timeout.total_seconds(),
        # redis-py retries 10 times by default: with a hanging server, a command takes a minute.
        "retry": Retry(NoBackoff(), 0),
    }
    if not url.startswith(_EMBEDDED_SCHEME):
        return redis.Redis.from_url(url, **options)
    server = EmbeddedServer(url.removeprefix(_EMBEDDED_SCHEME), ephemeral=ephemeral)
    client = redis.Redis(unix_socket_path=server.socket_path, **options)
    # Do not close at interpreter exit: the app's own exit handlers may still use sessions.
    # The kernel releases the server's lock when the process ends.
    weakref.finalize(client, server.close).atexit = False
    return client


def check_url(url: str) -> None:
    """Raise `ConfigurationError` if redis-py cannot use `url`. Does not connect."""
    if not url.startswith(_EMBEDDED_SCHEME) and not _is_usable(url):
        raise ConfigurationError(
            "KVSESSION_REDIS_URL has an option that redis-py does not know, or an option with an"
            " invalid value; use the options that redis.Redis.from_url documents."
        )


def _is_usable(url: str) -> bool:
    # Return a bool instead of redis-py's error: its message may contain the password.
    try:
        redis.Redis.from_url(url).connection_pool.make_connection()
    except (TypeError, ValueError, redis.RedisError):
        return False
    return True
