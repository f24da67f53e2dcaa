"""The acts on sessions in Redis. Nothing here needs Flask.

`session_store` has the acts, `server` sends commands and scripts, `clock` estimates the server's
time, and `lua/` holds one script for each atomic act.
"""

from __future__ import annotations

from ..connection import RedisClient
from .session_store import Found, Login, Merge, SessionStore

__all__ = ["Found", "Login", "Merge", "RedisClient", "SessionStore"]
