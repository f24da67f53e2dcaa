"""The acts on sessions in Redis. Nothing here needs Flask.

`session_store` has what apps call, `acts` the atomic acts, of which `lua/` has one script each.
`server` sends commands and scripts, `clock` estimates the server's time, and `eviction` knows
whether the server may lose indexes.
"""

from __future__ import annotations

from ..connection import RedisClient
from .session_store import Found, Login, Merge, SessionStore

__all__ = ["Found", "Login", "Merge", "RedisClient", "SessionStore"]
