"""Remembers that a server does not answer in time, so that not every caller waits for it."""

from __future__ import annotations

import time

from .deadline import Deadline

_PAUSE = 0.1
"""For this part of a call's time after a timeout, nobody asks the server. So if several threads
time out together, the next callers of all of them fail at once."""


class CircuitOpen(ConnectionError):
    """The server did not answer the last call, so it was not asked again."""


class Breaker:
    """After a timeout, one caller at a time asks the server. The others fail at once. A server that
    refuses a connection or closes it costs no time, so that is no reason not to ask it.

    It keeps times and no lock: a caller that is interrupted while it asks blocks nobody.
    """

    def __init__(self) -> None:
        self.is_open: bool = False
        """Whether the last call had a timeout. The first call that is answered sets it to False."""
        self._next_attempt = 0.0

    def require_turn(self, deadline: Deadline) -> None:
        """While it is open: raises `CircuitOpen` if the caller must not ask the server now."""
        if time.monotonic() < self._next_attempt:
            raise CircuitOpen("the last call failed, and the next attempt is not due yet")
        self._next_attempt = time.monotonic() + deadline.remaining()

    def timed_out(self, deadline: Deadline) -> None:
        self.is_open = True
        self._next_attempt = time.monotonic() + _PAUSE * min(deadline.seconds, 1.0)
