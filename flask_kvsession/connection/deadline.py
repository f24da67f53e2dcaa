"""The time that one call of the store may take."""

from __future__ import annotations

import time


class Deadline:
    """A moment: `seconds` from now."""

    __slots__ = ("end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds: float = seconds
        self.end: float = time.monotonic() + seconds
        """The moment, by the monotonic clock."""

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end

    def remaining(self) -> float:
        """The seconds that are left; raises `TimeoutError` if none are left."""
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time of the call is over")
        return seconds

    def remaining_or_little(self) -> float:
        """The seconds that are left, or 1 ms: for code that cannot do with an error here."""
        return max(self.end - time.monotonic(), 0.001)

    def share(self, part: float) -> Deadline:
        """An earlier deadline: after this part (from 0 to 1) of the remaining time."""
        return Deadline(max(0.0, self.end - time.monotonic()) * part)
