"""A clock that tests advance; the fixture `clock` gives it to every store."""

from __future__ import annotations

from datetime import timedelta


class Clock:
    """Advances the time that every store reads; the server's own expiry is not affected."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def advance(self, duration: timedelta | None = None, **parts: float) -> None:
        self.ahead += duration or timedelta(**parts)
