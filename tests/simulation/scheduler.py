"""Runs events and parallel handlers one at a time, in an order that only their times decide.

A handler runs in a thread of its own, but only one thread runs at any moment. The running thread
holds the baton. It gives the baton back when it pauses or ends.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import typing as t
from collections.abc import Callable
from functools import partial

Act = Callable[[], object]


class Scheduler:
    """Simulated time, in seconds since the start of the run."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Act]] = []
        self._serial = itertools.count()
        self._baton = _new_baton()
        self._idle: list[_Worker] = []
        self._current: _Worker | None = None

    def after(self, seconds: float, act: Act) -> None:
        """Calls `act` after this time. Two acts of one moment run in the order of these calls."""
        heapq.heappush(self._events, (self.now + seconds, next(self._serial), act))

    def run(self) -> None:
        """Runs all events, and those that they cause."""
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            act()

    def start(self, handler: Act) -> None:
        """Runs a handler until its first pause, or to its end if it does not pause."""
        worker = self._idle.pop() if self._idle else _Worker(self)
        worker.handler = handler
        self._resume(worker)

    def pause(self, seconds: float) -> None:
        """Called by a handler: lets everything happen that comes before `seconds` have passed.

        Outside a handler it does nothing.
        """
        worker = self._current
        if worker is None:
            return
        end = self.now + seconds
        if not self._events or self._events[0][0] > end:
            self.now = end  # nothing comes before: the handler may go on at once
            return
        self.after(seconds, partial(self._resume, worker))
        self._baton.release()
        worker.baton.acquire()

    def close(self) -> None:
        """Ends the threads of handlers that have ended."""
        for worker in self._idle:
            worker.handler = None
            worker.baton.release()
        self._idle.clear()

    def finish(self, worker: _Worker) -> None:
        """Called by a worker's thread when its handler has ended."""
        self._idle.append(worker)
        self._baton.release()

    def _resume(self, worker: _Worker) -> None:
        self._current = worker
        worker.baton.release()
        self._baton.acquire()
        self._current = None
        if error := worker.error:
            worker.error = None
            raise error


class _Worker:
    """A thread that runs one handler after another."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.baton = _new_baton()
        self.handler: Act | None = None
        self.error: BaseException | None = None
        self._scheduler = scheduler
        threading.Thread(target=self._work, name="simulated handler", daemon=True).start()

    def _work(self) -> None:
        while True:
            self.baton.acquire()
            if self.handler is None:
                return
            try:
                self.handler()
            except BaseException as error:
                self.error = error
            self._scheduler.finish(self)


def _new_baton() -> t.Any:
    """A lock that is taken: the first `acquire` waits for a `release`, also by another thread."""
    lock = threading.Lock()
    lock.acquire()
    return lock
