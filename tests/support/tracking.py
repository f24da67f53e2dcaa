"""A subscriber of `Tracker` that notes what it is told."""

from __future__ import annotations

from flask_kvsession.store.tracking import Tracker

from .servers import wait_until


class Noted:
    """What a tracker has reported: the keys that have changed, and how often reports may have been
    lost. Its tracker is running and proven."""

    def __init__(self, tracker: Tracker) -> None:
        self.keys: list[str] = []
        self.resets = 0
        self.tracker = tracker
        tracker.subscribe(self.note_change, self.note_reset)
        tracker.start()
        wait_until(tracker.is_proven)

    def note_change(self, key: str) -> None:
        self.keys.append(key)

    def note_reset(self) -> None:
        self.resets += 1

    def wait_for(self, key: str) -> None:
        wait_until(lambda: key in self.keys)
