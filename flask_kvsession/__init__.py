"""Login sessions for Flask, kept in Redis, that can be listed, renewed and revoked."""

from __future__ import annotations

import typing as t

from . import errors, renamed, signals
from .api import (
    change_session,
    confirm_login,
    current_session,
    list_sessions,
    login_user,
    logout_user,
    revoke_all_sessions,
    revoke_session,
    rotate_token,
    session_ended_reason,
    update_all_sessions,
)
from .device_bound import device_bound_blueprint
from .devices import sessions_blueprint
from .extension import KVSession
from .guards import (
    bound_device_required,
    cross_origin_guard,
    fresh_login_required,
    login_required,
    next_url,
    roles_required,
)
from .open_connections import until_ended, watch_socketio, watching
from .record import SessionInfo
from .session import Session
from .settings import Settings
from .store import SessionStore, WatchedSession

__all__ = [
    "KVSession",
    "Session",
    "SessionInfo",
    "SessionStore",
    "Settings",
    "WatchedSession",
    "bound_device_required",
    "change_session",
    "confirm_login",
    "cross_origin_guard",
    "current_session",
    "device_bound_blueprint",
    "errors",
    "fresh_login_required",
    "list_sessions",
    "login_required",
    "login_user",
    "logout_user",
    "next_url",
    "revoke_all_sessions",
    "revoke_session",
    "roles_required",
    "rotate_token",
    "session_ended_reason",
    "sessions_blueprint",
    "signals",
    "until_ended",
    "update_all_sessions",
    "watch_socketio",
    "watching",
]

if not t.TYPE_CHECKING:  # with it, a type checker would accept any name

    def __getattr__(name):
        """Raises `ImportError` with the new name for a name of Flask-KVSession, and
        `AttributeError` for any other name.

        `from flask_kvsession import …` shows the message of an `ImportError`, but not the message
        of an `AttributeError`.
        """
        if name in renamed.EXPORTS:
            raise ImportError(renamed.renamed_message(name, renamed.EXPORTS[name]))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
