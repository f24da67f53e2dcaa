"""The acts on sessions in Redis. Nothing here needs Flask.

`session_store` has what apps call, `acts` the atomic acts, of which `lua/` has one script each.
`server` sends commands and scripts, `clock` estimates the server's time, and `eviction` knows
whether the server may lose indexes. `watcher` tells who waits for the end of a session.
"""

from __future__ import annotations

from ..connection import RedisClient
from .inspection import Expiries, ServerFacts
from .maintenance import Seen
from .problems import explain
from .rights import LISTENING
from .session_store import Found, Login, Merge, SessionStore
from .watcher import OnEnd, WatchedSession

__all__ = [
    "LISTENING",
    "Expiries",
    "Found",
    "Login",
    "Merge",
    "OnEnd",
    "RedisClient",
    "Seen",
    "ServerFacts",
    "SessionStore",
    "WatchedSession",
    "explain",
]
