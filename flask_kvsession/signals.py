"""Signals, each sent after the thing is done in Redis.

The sender is the app; `session` is a `SessionInfo`. A receiver must take `**extra`:

    @user_logged_in.connect_via(app)
    def greet(app, session, **extra): ...
"""

from __future__ import annotations

from blinker import Namespace

__all__ = [
    "client_changed",
    "login_confirmed",
    "session_renewed",
    "session_revoked",
    "token_rotated",
    "user_logged_in",
    "user_logged_out",
]

_signals = Namespace()

user_logged_in = _signals.signal("user-logged-in", "A login made this session.")
user_logged_out = _signals.signal(
    "user-logged-out", "This session's own browser ended it, by logging out or in anew."
)
login_confirmed = _signals.signal(
    "login-confirmed", "The user proved again who they are; the session is fresh."
)
session_renewed = _signals.signal("session-renewed", "Activity extended the idle timeout.")
token_rotated = _signals.signal("token-rotated", "The session has a new secret.")
session_revoked = _signals.signal(
    "session-revoked", "This session was ended from outside, or by the limit of sessions per user."
)
client_changed = _signals.signal(
    "client-changed", "A renewal came from another IP address or user agent than the one before."
)
