"""The time of all sessions, which tests can move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from unittest.mock import patch

from ..store.clock import ServerClock

_MS = timedelta(milliseconds=1)


class Clock:
    """Moves the time that sessions see. The server's own expiry of keys is not affected."""

    def __init__(self) -> None:
        self.ahead: timedelta = timedelta()
        """The difference to the real time."""

    def advance(
        self,
        duration: timedelta = timedelta(),
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        milliseconds: float = 0,
    ) -> None:
        """Moves the time ahead by the sum of the arguments; back, if the sum is negative."""
        self.ahead += duration + timedelta(
            days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds
        )


@contextmanager
def movable_clock() -> Iterator[Clock]:
    """A clock for all apps of this process, until the end of the block."""
    clock, real = Clock(), ServerClock.now
    with patch.object(ServerClock, "now", lambda self: real(self) + clock.ahead // _MS):
        yield clock
