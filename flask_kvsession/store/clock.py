"""The server's time."""

from __future__ import annotations

from time import monotonic_ns

_TOLERANCE_MS = 100
_NS_PER_MS = 1_000_000


class ServerClock:
    """The server's time in ms: this worker's monotonic clock plus the difference to the server.

    The wall clock of the worker is never used. So a wrong wall clock harms no session.
    """

    def __init__(self) -> None:
        self._difference = 0
        self.is_set: bool = False
        """Whether the server has told its time."""

    def learn(self, server_ms: int) -> None:
        """Takes over the time that the server has just sent.

        Ignores differences of up to 100 ms (network jitter), so that a later login does not get an
        earlier time.
        """
        difference = server_ms - monotonic_ns() // _NS_PER_MS
        if not self.is_set or abs(difference - self._difference) > _TOLERANCE_MS:
            self._difference = difference
            self.is_set = True

    def now(self) -> int:
        """The server's time, ms, once it is set."""
        return monotonic_ns() // _NS_PER_MS + self._difference
