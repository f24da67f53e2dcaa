"""Learns from the servers which keys have changed, in a thread of its own.

The thread has one connection to each primary (`connection.Listener`). It sends a heartbeat on each
of them four times a second. The reply comes after the reports of all changes that the server made
before it got the heartbeat. So each reply proves that all changes are known up to the time at which
the heartbeat was sent.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import selectors
import sys
import threading
import time
import typing as t
import weakref
from collections.abc import Callable

from ..connection import Deadline, Listener, Node, Refused, Servers, changed_keys

log: logging.Logger = logging.getLogger("flask_kvsession")

BEAT = 0.25
"""A heartbeat is sent so often, s."""

PROOF = 1.0
"""A reply to a heartbeat proves for so long, s, that changes are reported. A connection on which a
heartbeat has had no reply for so long is closed."""

_STARTING = 1.0
"""If a new thread does not run after so many seconds, it never will."""

_CONNECT = 1.0
"""To find the primaries and to connect to all of them may take so long, s."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_PAUSE_AFTER_REFUSAL = 30.0

_REFUSED = (
    "The Redis server does not report changes of sessions (%s), so KVSESSION_NEAR_CACHE has no"
    " effect: all reads go to Redis. Open connections are told within 30 seconds that their session"
    " has ended. It needs Redis 6 or later, or Valkey, and no proxy that changes the protocol. If"
    " the user of the app has an ACL, add +client|tracking and +hello to it. The next attempt is in"
    " 30 seconds."
)

Subscriber = tuple[Callable[[str], object], Callable[[], object]]


class Tracker:
    """Tells its subscribers which keys with a prefix have changed.

    The thread starts at the first `start`, and in a forked process at the first `start` there. It
    ends after `close`, and when nobody refers to this object any more. There is no lock: a caller
    that is interrupted, or a fork at any time, blocks nobody.
    """

    def __init__(self, servers: Servers, prefix: str) -> None:
        self.epoch: int = 0
        """Another number after each time at which reports may have been lost."""
        self._servers = servers
        self._prefix = f"{prefix}:"
        self._subscribers: list[Callable[[], Subscriber | None]] = []
        self._run = _NEVER
        self._is_loss_logged = False

    def subscribe(self, on_change: Callable[[str], object], on_reset: Callable[[], object]) -> None:
        """Calls `on_change` with each key that has changed, and `on_reset` if reports may have been
        lost, and when they begin again. Both are called in the thread and must return at once.

        They must be methods of one object, to which this object has only a weak reference.
        """
        self._subscribers.append(_weakly(on_change, on_reset))

    def start(self) -> None:
        """Starts the thread if this process has none. It returns at once; `is_proven` says when
        changes are known."""
        run = self._run
        if run.pid == os.getpid() and (run.is_running or time.monotonic() < run.began + _STARTING):
            return
        if run.pid != os.getpid():
            run.close()  # the connections belong to the parent process
        # If two threads come here at once, the first of the two new threads ends again.
        self._run = new = Run()
        # `Thread.start` waits for the thread. If a time limit raises an exception in this thread
        # (PyThreadState_SetAsyncExc), CPython may raise it in the new one, and the wait is endless.
        with contextlib.suppress(RuntimeError):  # the interpreter ends, or there are too many
            _thread.start_new_thread(_listen, (weakref.ref(self), new))

    def is_proven(self) -> bool:
        """Whether all changes up to a second ago are known, of all primaries."""
        run = self._run
        return time.monotonic() < run.proven_until and run.pid == os.getpid()

    def close(self) -> None:
        """Ends the thread within a quarter of a second. A later `start` starts another one."""
        run, self._run = self._run, _NEVER
        run.stop.set()

    # In the thread

    def is_run_by(self, run: Run) -> bool:
        return self._run is run

    def step(self, run: Run) -> float:
        """Listens until the next heartbeat is due. Returns how long to pause then, s."""
        try:
            if not run.tracks:
                self._begin(run)
            elif time.monotonic() >= run.next_beat:
                self._beat(run)
            self._hear(run)
        except Refused as error:
            self._lose(run)
            self._log_loss(_REFUSED, error)
            return _PAUSE_AFTER_REFUSAL
        except Exception as error:  # whatever it was, reports may be lost
            self._lose(run)
            self._log_loss(
                "Redis does not report changes of sessions now, so all reads go to it: %s",
                f"{type(error).__name__}: {error}",
            )
            run.pause = min(run.pause * 2, _LONGEST_PAUSE)
            return run.pause
        return 0.0

    def _begin(self, run: Run) -> None:
        """Connects to all primaries. What was known before may be out of date."""
        deadline = Deadline(_CONNECT)
        for node in self._primaries(deadline):
            run.add(Track(node, node.listen(self._prefix, deadline)))
        run.is_complete = True
        self._reset()
        self._beat(run)

    def _beat(self, run: Run) -> None:
        """Sends the heartbeats; raises `ConnectionError` if other servers are the primaries now."""
        if {track.node for track in run.tracks} != set(self._primaries(Deadline(PROOF))):
            raise ConnectionError("another server is the primary now")
        for track in run.tracks:
            track.ask(self._servers.heartbeat)
        run.next_beat = time.monotonic() + BEAT

    def _primaries(self, deadline: Deadline) -> list[Node]:
        nodes = self._servers.primaries(deadline)
        if not nodes:
            raise ConnectionError("no server takes writes")
        return nodes

    def _hear(self, run: Run) -> None:
        for track in run.tracks:
            for message in track.listener.messages(PROOF):
                self._take(run, track, message)
                if time.monotonic() >= run.next_beat:
                    return
        run.wait()

    def _take(self, run: Run, track: Track, message: t.Any) -> None:
        keys = changed_keys(message)
        if keys is None:
            self._take_reply(run, track, message)
        elif keys:
            for key in keys:
                self._tell(key.decode(errors="replace"))
        else:
            self._reset()

    def _take_reply(self, run: Run, track: Track, reply: t.Any) -> None:
        if track.asked is None:
            return
        self._servers.check_heartbeat(reply)  # a refusal by access rules is a reply too
        track.proven, track.asked = track.asked, None
        run.proven_until = min(each.proven for each in run.tracks) + PROOF
        if self._is_loss_logged and self.is_proven():
            self._is_loss_logged, run.pause = False, _FIRST_PAUSE
            log.warning("Redis reports changes of sessions again")

    def _lose(self, run: Run) -> None:
        was_complete = run.is_complete
        run.close()
        if was_complete:
            self._reset()

    def _reset(self) -> None:
        self.epoch += 1
        self._tell(None)

    def _tell(self, key: str | None) -> None:
        """Calls the subscribers; without a key, reports may have been lost."""
        for get in list(self._subscribers):
            subscriber = get()
            if subscriber is None:
                self._subscribers.remove(get)
                continue
            on_change, on_reset = subscriber
            try:
                _ = on_reset() if key is None else on_change(key)
            except Exception:
                log.exception("a change of a session could not be followed")

    def _log_loss(self, message: str, cause: object) -> None:
        if not self._is_loss_logged:
            self._is_loss_logged = True
            log.warning(message, cause)


class Track:
    """A listener, and what its replies have proven."""

    def __init__(self, node: Node, listener: Listener) -> None:
        self.node = node
        self.listener = listener
        self.asked: float | None = None
        """When the heartbeat was sent that has no reply yet, by the monotonic clock."""
        self.proven: float = 0.0
        """When the last heartbeat was sent that has a reply."""

    def ask(self, heartbeat: tuple[str, ...]) -> None:
        """Sends a heartbeat, unless the reply to the last one has not come yet. Raises
        `TimeoutError` if that is overdue."""
        now = time.monotonic()
        if self.asked is None:
            self.asked = now
            self.listener.send(heartbeat, Deadline(PROOF))
        elif now - self.asked > PROOF:
            raise TimeoutError("a heartbeat has had no reply")


class Run:
    """The connections of one thread."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self.began: float = time.monotonic()
        self.is_running = False
        self.stop: threading.Event = threading.Event()
        self.proven_until: float = 0.0
        """All changes are known up to `PROOF` before this time of the monotonic clock."""
        self.pause: float = _FIRST_PAUSE / 2
        self.next_beat: float = 0.0
        self.tracks: list[Track] = []
        self.is_complete: bool = False
        """Whether there is a connection to each primary."""
        self._selector: selectors.BaseSelector | None = None

    def add(self, track: Track) -> None:
        self.tracks.append(track)
        self._selector = self._selector or selectors.DefaultSelector()
        self._selector.register(track.listener, selectors.EVENT_READ)

    def wait(self) -> None:
        """Returns when a message has arrived, or when the next heartbeat is due."""
        assert self._selector, "a thread waits only if it has connections"
        self._selector.select(max(0.0, self.next_beat - time.monotonic()))

    def close(self) -> None:
        """Closes the connections."""
        self.proven_until, self.is_complete = 0.0, False
        if self._selector:
            self._selector.close()
        for track in self.tracks:
            track.listener.close()
        self.tracks, self._selector = [], None


_NEVER: t.Final = Run()
"""Stands for no thread."""
_NEVER.pid = 0


def _listen(reference: weakref.ref[Tracker], run: Run) -> None:
    """What the thread runs, with the debugger that other threads have."""
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)  # for the functions that are called from now on
    _listen_while_used(reference, run)


def _listen_while_used(reference: weakref.ref[Tracker], run: Run) -> None:
    """Listens as long as somebody refers to the tracker. There is only a weak reference to it
    between two steps."""
    try:
        run.is_running = True
        while (tracker := reference()) is not None and tracker.is_run_by(run):
            pause = tracker.step(run)
            del tracker
            if pause:
                run.stop.wait(pause)
    finally:
        run.is_running = False
        run.close()


def _weakly(
    on_change: Callable[[str], object], on_reset: Callable[[], object]
) -> Callable[[], Subscriber | None]:
    change, reset = weakref.WeakMethod(on_change), weakref.WeakMethod(on_reset)

    def get() -> Subscriber | None:
        both = change(), reset()
        return t.cast(Subscriber, both) if all(both) else None

    return get
