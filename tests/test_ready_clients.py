"""What `KVSession(app, redis=x)` refuses.

The clients that work are in tests/faults/test_clients.py.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable

import pytest
import redis
import redis.asyncio
import redis.sentinel
from flask import Flask

import flask_kvsession as kvs

sentinel_class: t.Any = redis.sentinel.Sentinel  # it has no types


class OwnAsyncClient(redis.asyncio.Redis):
    """A class of the app's, in a module of the app's."""


NOT_CLIENTS: dict[str, tuple[Callable[[], t.Any], str]] = {
    "asyncio": (redis.asyncio.Redis, "asyncio client"),
    "subclass of asyncio": (OwnAsyncClient, "asyncio client"),
    "asyncio pool": (redis.asyncio.ConnectionPool, "asyncio"),
    "pool": (redis.ConnectionPool, r"redis\.Redis\(connection_pool=pool\)"),
    "URL": (lambda: "redis://web:s3cr3t@localhost", "KVSESSION_REDIS_URL"),
    "bytes URL": (lambda: b"redis://localhost", "is no client"),
    "object": (object, "is no client"),
    "class": (lambda: redis.Redis, "is no client"),
    "False": (lambda: False, "is no client"),
    "Sentinel": (lambda: sentinel_class([("localhost", 1)]), r"master_for"),
    "connection": (redis.Connection, "is no client"),
}


@pytest.mark.parametrize(("make", "message"), NOT_CLIENTS.values(), ids=NOT_CLIENTS)
def test_what_is_no_client_is_refused_at_once(make: Callable[[], t.Any], message: str) -> None:
    """Anything but a client is a `ConfigurationError` at `KVSession(app, redis=...)` that names the
    remedy and no password, and the app can be set up again."""
    app = Flask("app")
    with pytest.raises(kvs.errors.ConfigurationError, match=message) as caught:
        kvs.KVSession(app, redis=make())
    assert "s3cr3t" not in str(caught.value)
    kvs.KVSession(app)
