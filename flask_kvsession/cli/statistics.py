"""What `flask kvsession stats` counts."""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import dataclass, field

from ..devices.describe import describe
from ..record import Stored
from ..store import Seen

_HOUR = 3_600_000
_PERIODS: t.Final = {
    "last hour": _HOUR,
    "last 24 hours": 24 * _HOUR,
    "last 7 days": 7 * 24 * _HOUR,
    "last 30 days": 30 * 24 * _HOUR,
}
_EARLIER = "earlier"
_MAX_DEVICES = 1000
"""More names than that are made up by clients, and are counted as one."""
OTHER = "other"
UNKNOWN = "unknown"


@dataclass
class Statistics:
    """The sums over everybody's sessions. They need the same memory for any number of sessions."""

    now: int
    """The server's time, ms."""
    users: int = 0
    sessions: int = 0
    anonymous: int = 0
    tombstones: int = 0
    unreadable: int = 0
    bytes: int = 0
    """The size of the records, without what the server adds to each key."""
    devices: Counter[str] = field(default_factory=Counter)
    last_activity: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys([*_PERIODS, _EARLIER], 0)
    )

    def add(self, seen: Seen) -> None:
        self.users += seen.users
        self.tombstones += seen.tombstones
        self.unreadable += seen.unreadable
        for stored in seen.stored:
            self._add_session(stored)

    def _add_session(self, stored: Stored) -> None:
        self.bytes += len(stored.raw)
        if stored.record.is_anonymous:
            self.anonymous += 1
            return
        self.sessions += 1
        device = describe(stored.record.agent).name or UNKNOWN
        is_new = device not in self.devices
        self.devices[OTHER if is_new and len(self.devices) >= _MAX_DEVICES else device] += 1
        self.last_activity[self._period(stored.record.seen)] += 1

    def _period(self, seen: int) -> str:
        passed = self.now - seen
        return next((name for name, length in _PERIODS.items() if passed < length), _EARLIER)
