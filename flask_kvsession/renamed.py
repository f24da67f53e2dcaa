"""Names of Flask-KVSession, the package of 2015 with the same import name, and of Flask-Session.

Code that uses one of these names gets an error that says what replaces it.
"""

from __future__ import annotations

import typing as t

EXPORTS: t.Final = {
    "KVSessionExtension": "KVSession: KVSession(app), with KVSESSION_REDIS_URL instead of a store",
    "KVSessionInterface": "KVSESSION_AS_FLASK_SESSION = True, and KVSession(app)",
    "SessionID": "current_session.id, or SessionInfo",
}
"""Names that could be imported from `flask_kvsession`."""

ATTRIBUTES: t.Final = {
    "cleanup_sessions": "not needed, because Redis expires sessions; remove the call",
    "default_kvstore": 'app.extensions["kvsession"].store',
    "destroy": "logout_user(), or session.clear() if KVSESSION_USER_ID_KEY is set",
    "regenerate": "rotate_token(); login_user() always sets a new token",
    "sid": "session.id, which is public because the secret is only in the cookie",
    "sid_s": "session.id, which is public because the secret is only in the cookie",
}
"""Attributes of the session and of the extension."""

_OF_FLASK_SESSION: t.Final = {"sid", "regenerate"}

CONFIG: t.Final = {
    "SESSION_KEY_BITS": "not needed, because a token always has 258 random bits; remove it",
    "SESSION_RANDOM_SOURCE": "not needed, because tokens come from the module secrets; remove it",
}
"""Keys of `app.config`."""


def renamed_message(name: str, now: str) -> str:
    """The error message for an old name; `now` says what replaces it."""
    package = "Flask-Session" if name in _OF_FLASK_SESSION else "Flask-KVSession"
    return f"{name} is a name of {package}; in Flask-KVSession-Redis it is {now}."


def raise_renamed_attribute(thing: object, name: str, hint: str = "") -> t.NoReturn:
    """Raises `AttributeError` for an attribute that `thing` does not have. The message has the new
    name; if there is none, it ends with `hint`."""
    if name in ATTRIBUTES:
        raise AttributeError(renamed_message(name, ATTRIBUTES[name]))
    raise AttributeError(f"{type(thing).__name__!r} object has no attribute {name!r}{hint}")
