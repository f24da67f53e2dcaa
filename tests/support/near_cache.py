"""Helpers of the near cache's tests, and what runs all other tests with the near cache on.

With `KVSESSION_TEST_NEAR_CACHE`, a cached read first waits until the process has been told of all
changes up to now. So a test may expect that a change by another worker is seen at once. What
happens before a report comes is tested in tests/live/test_near_cache.py.
"""

from __future__ import annotations

import itertools
import os
import threading
import time

from flask import Flask
from flask.testing import FlaskClient
from redis.exceptions import RedisError

from flask_kvsession.connection import Command, Deadline, Node, Repeat
from flask_kvsession.connection.cluster import Cluster
from flask_kvsession.record import Stored
from flask_kvsession.store.near_cache import NearCache
from flask_kvsession.store.tracking import Tracker
from flask_kvsession.token import Token

from .apps import store_of
from .browsers import id_of
from .servers import wait_until

IS_ON = bool(os.environ.get("KVSESSION_TEST_NEAR_CACHE"))

MARK = ":~"
"""In each key that these functions write."""

_PATIENCE = 0.2
_numbers = itertools.count()
_get = NearCache.get


def cache_of(app: Flask) -> NearCache:
    cache = store_of(app)._server.near_cache
    assert cache
    return cache


def prove(app: Flask) -> None:
    """Waits until the app's near cache may serve."""
    store_of(app).tracker.start()
    wait_until(store_of(app).tracker.is_proven)


def catch_up(app: Flask) -> None:
    """Waits until the app has been told of all changes up to now."""
    now = time.monotonic()
    wait_until(lambda: all(track.proven > now for track in store_of(app).tracker._run.tracks))


def key_of(browser: FlaskClient) -> str:
    """The key of the record of the browser's session."""
    return store_of(browser.application)._server.record_key(id_of(browser))


def is_kept(browser: FlaskClient) -> bool:
    """Whether the browser's session is in the near cache of its app."""
    return key_of(browser) in cache_of(browser.application)._contents.entries


class Marks:
    """Notes which marks a tracker has reported."""

    def __init__(self, tracker: Tracker) -> None:
        self.waiting: dict[str, threading.Event] = {}
        self._tracker = tracker
        self._nodes: dict[Node, Node] = {}
        tracker.subscribe(self.note, self.forget)
        tracker.start()
        deadline = time.monotonic() + _PATIENCE
        while not tracker.is_proven() and time.monotonic() < deadline:
            time.sleep(0.002)

    def write(self, mark: str) -> None:
        """Writes a mark to the server that has its slot, on connections that the app has not."""
        command = Command(("SET", mark, "", "PX", 1), Repeat.SAME, mark)
        servers = self._tracker._servers
        if isinstance(servers, Cluster):
            node = servers._node(servers._owner_of(command))
        else:
            [node] = [track.node for track in self._tracker._run.tracks]
        own = self._nodes.setdefault(node, Node(node._connection_class, node._options))
        own.call(command, Deadline(_PATIENCE))

    def note(self, key: str) -> None:
        if event := self.waiting.get(key):
            event.set()

    def forget(self) -> None:
        self.waiting.clear()


def get_when_told(self: NearCache, key: str, token: Token) -> Stored | None:
    """In place of `NearCache.get`: Redis is asked if the reports do not come soon."""
    tracker = self._tracker
    marks = vars(self).get("marks")
    if marks is None:
        marks = vars(self).setdefault("marks", Marks(tracker))
    if tracker.is_proven() and not _is_told(marks, key):
        return None
    return _get(self, key, token)


def _is_told(marks: Marks, key: str) -> bool:
    mark = (
        f"{key.partition('}')[0]}}}{MARK}{os.getpid()}-{next(_numbers)}"  # in the slot of the key
    )
    event = marks.waiting.setdefault(mark, threading.Event())
    try:
        marks.write(mark)
    except (RedisError, OSError, ValueError):  # ValueError: the tracker has no connection now
        return False
    finally:
        is_told = event.wait(_PATIENCE) if mark in marks.waiting else False
        marks.waiting.pop(mark, None)
    return is_told
