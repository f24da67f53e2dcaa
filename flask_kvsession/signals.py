"""Signals about sessions. Each is sent after the change is stored in Redis.

The sender is the app. The argument `session` is the `SessionInfo` of the session. A receiver must
accept `**extra`, because later versions may add arguments:

    @user_logged_in.connect_via(app)
    def greet(app, session, **extra): ...

If a receiver raises, the request fails and the act stays done. There is one exception: if a
receiver of `user_logged_in` raises, the new session is ended again, so a receiver can refuse a
login by `abort(403)`.
"""

from __future__ import annotations

from blinker import NamedSignal, Namespace

__all__ = [
    "client_changed",
    "device_bound",
    "login_confirmed",
    "session_renewed",
    "session_revoked",
    "token_reused",
    "token_rotated",
    "user_logged_in",
    "user_logged_out",
]

_signals = Namespace()

user_logged_in: NamedSignal = _signals.signal(
    "user-logged-in", "A user logged in with this new session."
)
user_logged_out: NamedSignal = _signals.signal(
    "user-logged-out", "The session's own browser ended it, by a logout or by another login."
)
login_confirmed: NamedSignal = _signals.signal(
    "login-confirmed", "The user authenticated again, and the session is fresh."
)
session_renewed: NamedSignal = _signals.signal(
    "session-renewed", "Activity extended the session's idle timeout."
)
token_rotated: NamedSignal = _signals.signal("token-rotated", "The session has a new secret.")
token_reused: NamedSignal = _signals.signal(
    "token-reused",
    "A replaced secret was used again, so the cookie was copied, and the session was ended. The"
    " signal has the ip_address and user_agent of that request; the session has those before it.",
)
session_revoked: NamedSignal = _signals.signal(
    "session-revoked", "The session was ended from outside, or by the limit of sessions per user."
)
device_bound: NamedSignal = _signals.signal(
    "device-bound", "The session is now bound to a key of the user's device."
)
client_changed: NamedSignal = _signals.signal(
    "client-changed",
    "A request came from another IP address or user agent than the last recorded one, which the"
    " signal has as ip_address_before and user_agent_before.",
)
