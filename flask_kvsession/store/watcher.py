"""The sessions that are watched in this process, and who is told when one of them ends.

A watched session is read again as soon as Redis reports a change of its key, after each moment in
which a report may have been missed, when it expires, and every 30 seconds in any case. A thread of
its own reads, because the thread that listens to Redis must not wait. It runs only while a session
is watched.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable

from ..errors import KVSessionError
from ..record import Stored, Tombstone
from ..settings import Settings
from .clock import ServerClock

log: logging.Logger = logging.getLogger("flask_kvsession")

OnEnd = Callable[[str | None], object]
"""Called with the reason why a session has ended."""

_SECONDS_BETWEEN_CHECKS = 30.0
_SECONDS_AFTER_FAILURE = 1.0
_EXPIRY_TOLERANCE_MS = 1000
"""The server may remove an expired record a little before this worker's estimate of that time."""


class WatchedSession:
    """A session that is watched. It changes once: when the session has ended."""

    def __init__(
        self,
        session_id: str | None = None,
        on_end: OnEnd | None = None,
        on_close: Callable[[WatchedSession], None] | None = None,
    ) -> None:
        self.id = session_id
        """The public id of the session; None if there is no session, which never ends."""
        self.is_closed: bool = False
        """Whether the session is no longer watched, so that `ended` does not change any more."""
        self._on_end = on_end
        self._on_close = on_close
        self._over = threading.Event()
        self._reason: str | None = None

    def __repr__(self) -> str:
        return f"<WatchedSession {self.id}{', ended' if self.ended else ''}>"

    @property
    def ended(self) -> bool:
        """Whether the session has ended."""
        return self._over.is_set()

    @property
    def reason(self) -> str | None:
        """Why the session has ended: `"revoked"`, `"limit"`, `"stolen"` or `"expired"`. None after
        a logout, after a login that has replaced the session, and while it has not ended."""
        return self._reason

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the session has ended, at most `timeout` seconds. Returns `ended`."""
        return self._over.wait(timeout)

    def close(self) -> None:
        """The session is no longer watched. `on_end` is not called any more."""
        self.is_closed, self._on_end = True, None
        if self._on_close is not None:
            self._on_close(self)

    def end(self, reason: str | None) -> bool:
        """Notes the end. `on_end` is called in a thread of its own: it may close a connection, and
        wait for a browser that does not read. Returns False if the process has too many threads
        now; `on_end` is then called by a later `end`."""
        self._reason = reason
        self._over.set()
        if self._on_end is not None:
            thread = threading.Thread(
                target=self._call_on_end, name="kvsession-on-end", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                return False
        return True

    def _call_on_end(self) -> None:
        try:
            if on_end := self._on_end:
                on_end(self._reason)
        except Exception:
            log.exception("a function that was to be called at the end of a session has failed")


class _Entry:
    """One watched session. The watches are weak: who has dropped a watch need not be told."""

    def __init__(self, stored: Stored, expires: int) -> None:
        self.id = stored.id
        self.identity = stored.identity
        self.expires = expires
        """When the session expires if there is no more activity, ms of the server's clock."""
        self.check_at = 0.0
        """When to read the session again, by the monotonic clock, s."""
        self.watches: weakref.WeakSet[WatchedSession] = weakref.WeakSet()


class Watcher:
    """The watched sessions of one store in this process."""

    def __init__(
        self,
        read: Callable[[str], Stored | Tombstone | None],
        settings: Settings,
        clock: ServerClock,
    ) -> None:
        """`read` is a method of the store, which gives what is stored under a session id now. The
        reference to it is weak, so that this object does not keep the store in memory."""
        self._read = weakref.WeakMethod(read)
        self._settings = settings
        self._clock = clock
        self.start_over()
        _watchers.add(self)

    def start_over(self) -> None:
        """Forgets everything. In the child of a fork, nobody waits for the sessions of the parent,
        its thread does not exist, and its lock may be held for ever."""
        self._entries: dict[str, _Entry] = {}
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None

    def watch(self, key: str, stored: Stored, on_end: OnEnd | None = None) -> WatchedSession:
        """Watches the session that is stored under this key, until the result is given to `close`
        or is no longer in use.

        The session is read at once, because it may have ended since it was loaded.
        """
        watched = WatchedSession(stored.id, on_end, functools.partial(self._unwatch, key))
        new = _Entry(stored, self._settings.expires(stored.record))
        with self._condition:
            entry = self._entries.setdefault(key, new)
            entry.watches.add(watched)
            entry.check_at = 0.0
            self._wake()
        return watched

    def _unwatch(self, key: str, watched: WatchedSession) -> None:
        with self._condition:
            if entry := self._entries.get(key):
                entry.watches.discard(watched)
                if not entry.watches:
                    del self._entries[key]
                    self._condition.notify_all()  # the thread ends if this was the last one

    def on_change(self, key: str) -> None:
        """The value under this key has changed. Returns at once."""
        if key in self._entries:
            with self._condition:
                if entry := self._entries.get(key):
                    entry.check_at = 0.0
                    self._wake()

    def on_reset(self) -> None:
        """Changes may have been missed: reads all watched sessions again. Returns at once."""
        with self._condition:
            for entry in self._entries.values():
                entry.check_at = 0.0
            if self._entries:
                self._wake()

    def close(self) -> None:
        """Forgets all watched sessions without an end. The thread ends."""
        with self._condition:
            self._entries.clear()
            self._condition.notify_all()

    # The thread

    def _wake(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name="kvsession-watcher", daemon=True)
            thread.start()
            self._thread = thread
        self._condition.notify_all()

    def _run(self) -> None:
        while due := self._wait_for_due():
            for key, entry in due:
                self._check(key, entry)

    def _wait_for_due(self) -> list[tuple[str, _Entry]]:
        """The sessions to read now. Empty if the thread must end."""
        with self._condition:
            while True:
                self._entries = {key: each for key, each in self._entries.items() if each.watches}
                is_current = self._thread is threading.current_thread()
                if not self._entries or not is_current or self._read() is None:
                    if is_current:
                        self._thread = None
                    return []
                now = time.monotonic()
                due = [item for item in self._entries.items() if item[1].check_at <= now]
                if due:
                    return due
                earliest = min(entry.check_at for entry in self._entries.values())
                self._condition.wait(earliest - now)

    def _check(self, key: str, entry: _Entry) -> None:
        """Reads a session once. A failure of the store ends no session."""
        read = self._read()
        if read is None:
            return
        # Before the read: a change that is reported during the read makes the session due again.
        entry.check_at = time.monotonic() + _SECONDS_BETWEEN_CHECKS
        try:
            current = read(entry.id)
        except Exception as error:  # the thread must go on, whatever it was
            if not isinstance(error, KVSessionError):
                log.exception("a watched session could not be read")
            self._check_within(entry, _SECONDS_AFTER_FAILURE)
            return
        now = self._clock.now()
        if isinstance(current, Stored) and current.identity == entry.identity:
            entry.expires = self._settings.expires(current.record)
            self._check_within(entry, (entry.expires - now) / 1000)
        else:
            self._end(key, entry, _reason_of(current, entry, now))

    def _check_within(self, entry: _Entry, seconds: float) -> None:
        with self._condition:
            entry.check_at = min(entry.check_at, time.monotonic() + seconds)

    def _end(self, key: str, entry: _Entry, reason: str | None) -> None:
        """Tells all watches of a session that it has ended. Those that cannot be told now stay, and
        the session is read again a second later."""
        with self._condition:
            if self._entries.get(key) is not entry:
                return  # nobody waits for it any more
            watches = list(entry.watches)
        told = [watched for watched in watches if watched.end(reason)]
        with self._condition:
            entry.watches.difference_update(told)
        self._check_within(entry, _SECONDS_AFTER_FAILURE)


def _reason_of(current: Stored | Tombstone | None, entry: _Entry, now: int) -> str | None:
    if isinstance(current, Tombstone):
        return current.ended
    is_over = entry.expires <= now + _EXPIRY_TOLERANCE_MS
    return "expired" if current is None and is_over else None


_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for watcher in list(_watchers):
        watcher.start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over_after_fork)
