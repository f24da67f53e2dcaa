"""Recently read records in this process, which are served without a round trip.

A record is kept only if no change was reported between the moment before its `GET` was sent and the
moment after its reply had come. It is served only while the tracker proves that changes are
reported, and only to a token that shows its current secret. Any other token goes to Redis: it may
be newer than the record.
"""

from __future__ import annotations

import os
import threading
import time
import typing as t
from collections import OrderedDict

from ..record import Stored
from ..settings import Settings
from ..token import Token
from .clock import ServerClock
from .tracking import Tracker

_BYTES_PER_ENTRY = 4096
"""The average size of a record up to which the cache holds `KVSESSION_NEAR_CACHE_SIZE` records."""

_MAX_LOADS = 1000
"""How many loads may be under way. A load that was interrupted is forgotten after so many."""


class Load:
    """A `GET` of a record that is under way."""


class Entry(t.NamedTuple):
    stored: Stored
    secret: str
    """The hash of the session's current secret."""
    expires: int
    """When the session expires, ms of the server's clock."""
    until: float
    """When the entry is too old, by the monotonic clock."""


class Contents:
    """What the cache holds."""

    def __init__(self) -> None:
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        """By the records' keys, the least recently used first."""
        self.loads: dict[str, Load] = {}
        self.bytes: int = 0
        self.is_changing = False
        """Whether a change has begun and has not ended."""

    def put(self, key: str, entry: Entry) -> None:
        self.remove(key)
        self.entries[key] = entry
        self.bytes += len(entry.stored.raw)

    def remove(self, key: str) -> None:
        if entry := self.entries.pop(key, None):
            self.bytes -= len(entry.stored.raw)

    def shrink(self, size: int, size_in_bytes: int) -> None:
        """Removes the least recently used entries until both sizes are kept to."""
        while self.entries and (len(self.entries) > size or self.bytes > size_in_bytes):
            # One step: `get` may reorder the entries at any time, and takes no lock.
            _, entry = self.entries.popitem(last=False)
            self.bytes -= len(entry.stored.raw)


class NearCache:
    """The records that this process has read lately, for all its threads."""

    _contents: Contents
    _lock: threading.RLock
    _pid: int

    def __init__(self, tracker: Tracker, clock: ServerClock, settings: Settings) -> None:
        self._tracker = tracker
        self._clock = clock
        self._expires = settings.expires
        self._size = settings.near_cache_size
        self._max_age = settings.near_cache_max_age.total_seconds()
        self._begin_anew()
        tracker.subscribe(self.forget, self.clear)

    def get(self, key: str, token: Token) -> Stored | None:
        """The session under this key, if the token shows its current secret. None if Redis must be
        asked."""
        if not self._tracker.is_proven():
            self._tracker.start()
            return None
        entries = self._contents.entries
        entry = entries.get(key)
        if entry is None or not token.matches(entry.secret):
            return None
        if time.monotonic() >= entry.until or self._clock.now() >= entry.expires:
            self.forget(key)
            return None
        try:
            entries.move_to_end(key)
        except KeyError:  # another thread has just removed it
            return None
        return entry.stored

    def begin_load(self, key: str) -> Load | None:
        """To be called before the `GET` of a record is sent. None if its reply cannot be kept."""
        if not self._tracker.is_proven():
            return None
        load = Load()
        with self._lock_here():
            contents = self._begin_change()
            if len(contents.loads) >= _MAX_LOADS:
                del contents.loads[next(iter(contents.loads))]
            contents.loads[key] = load
            contents.is_changing = False
        return load

    def end_load(self, key: str, load: Load, stored: Stored | None) -> None:
        """Keeps the record that the `GET` has found, unless it may have changed since. None: there
        is nothing to keep."""
        with self._lock_here():
            contents = self._begin_change()
            # If the load is not there, it was forgotten, or there is a later one.
            if contents.loads.get(key) is load:
                del contents.loads[key]
                if stored and self._tracker.is_proven():
                    contents.put(key, self._entry(stored))
                    contents.shrink(self._size, self._size * _BYTES_PER_ENTRY)
            contents.is_changing = False

    def forget(self, *keys: str) -> None:
        """The records have changed: neither an entry nor the reply to a `GET` that was sent before
        may be served."""
        with self._lock_here():
            contents = self._begin_change()
            for key in keys:
                contents.remove(key)
                contents.loads.pop(key, None)
            contents.is_changing = False

    def clear(self) -> None:
        """Changes may have been missed: neither an entry nor the reply to a `GET` that was sent
        before may be served."""
        with self._lock_here():
            self._contents = Contents()

    def _entry(self, stored: Stored) -> Entry:
        until = time.monotonic() + self._max_age
        return Entry(stored, stored.record.secret, self._expires(stored.record), until)

    def _begin_change(self) -> Contents:
        """The contents, with the mark that they are changing. What an interrupted change has left
        is dropped: its entries and sizes may not agree."""
        if self._contents.is_changing:
            self._contents = Contents()
        self._contents.is_changing = True
        return self._contents

    def _lock_here(self) -> threading.RLock:
        """The lock of this process: a thread of the parent process may have had its lock."""
        if self._pid != os.getpid():
            self._begin_anew()
        return self._lock

    def _begin_anew(self) -> None:
        self._contents = Contents()
        self._lock = threading.RLock()
        self._pid = os.getpid()
