"""The server's time."""

from __future__ import annotations

import time

_TOLERANCE_MS = 100


class ServerClock:
    """The server's time in ms: this worker's monotonic clock plus the difference to the server.

    The wall clock of the worker is never used. So a wrong wall clock harms no session.
    """

    def __init__(self) -> None:
        self._difference: int | None = None

    @property
    def is_set(self) -> bool:
        return self._difference is not None

    def learn(self, server_ms: int) -> None:
        """Takes over the time that the server has just sent.

        Ignores differences of up to 100 ms (network jitter), so that a later login does not get an
        earlier time.
        """
        difference = server_ms - _monotonic_ms()
        if self._difference is None or abs(difference - self._difference) > _TOLERANCE_MS:
            self._difference = difference

    def now(self) -> int:
        assert self._difference is not None, "ServerClock.now() was called before learn()"
        return _monotonic_ms() + self._difference


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
