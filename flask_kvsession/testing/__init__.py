"""Helpers for the tests of apps: sign a test client in without the sign-in form, change its
session, and move the time of all sessions.

The pytest fixtures are in `flask_kvsession.testing.plugin`. Nothing else here needs pytest.
"""

from __future__ import annotations

from .clients import authenticated_client, bind_device, login_as, session_transaction
from .clock import Clock, movable_clock

__all__ = [
    "Clock",
    "authenticated_client",
    "bind_device",
    "login_as",
    "movable_clock",
    "session_transaction",
]
