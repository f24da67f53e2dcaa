"""A session as the list shows it: a row of the page, or an object of the JSON."""

from __future__ import annotations

import logging
import time
import typing as t
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..app_state import app_state
from ..record import SessionInfo
from .describe import Device, describe

log: logging.Logger = logging.getLogger("flask_kvsession")

NEW_FOR = timedelta(days=1)
"""How long after its login another device is marked as new."""

LOCATE_SECONDS = 1.0
"""How many seconds one response may spend on the names of places."""


@dataclass(frozen=True, slots=True)
class Row:
    """One session, as the templates show it."""

    session: SessionInfo
    device: Device
    place: str | None
    is_new: bool
    """Whether it is another device whose login was less than a day ago."""

    @classmethod
    def of(cls, session: SessionInfo, locate: Locator, now: datetime) -> Row:
        return cls(
            session=session,
            device=describe(session.user_agent),
            place=locate(session.ip_address),
            is_new=not session.is_current and now - session.created_at < NEW_FOR,
        )


def as_json(session: SessionInfo, locate: Locator) -> dict[str, t.Any]:
    """One session, as `static/openapi.json` describes it."""
    return {
        "id": session.id,
        "current": session.is_current,
        "device": describe(session.user_agent).name,
        "ip_address": session.ip_address,
        "location": locate(session.ip_address),
        "created_at": _iso(session.created_at),
        "last_seen_at": _iso(session.last_seen_at),
        "expires_at": _iso(session.expires_at),
        "device_bound": session.is_device_bound,
    }


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


class Locator:
    """Calls `KVSESSION_LOCATE` once for each address of one response.

    After an exception or after LOCATE_SECONDS it makes no more calls, and the remaining sessions
    have no place. The list must always appear, because a user may need it to sign out an intruder.
    """

    def __init__(self) -> None:
        self._hook = app_state().settings.locate
        self._deadline = time.monotonic() + LOCATE_SECONDS
        self._known: dict[str, str | None] = {}

    def __call__(self, ip_address: str | None) -> str | None:
        if ip_address is None or self._hook is None:
            return None
        if ip_address not in self._known and time.monotonic() < self._deadline:
            self._known[ip_address] = self._call_hook(self._hook, ip_address)
        return self._known.get(ip_address)

    def _call_hook(self, hook: Callable[[str], str | None], ip_address: str) -> str | None:
        try:
            place = hook(ip_address)
        except Exception:
            log.exception("KVSESSION_LOCATE raised an exception; this list shows no more places")
            self._hook = None
            return None
        return str(place) if isinstance(place, str) and place else None
