"""The names of Flask-KVSession, the package of 2015 with the same import name: whoever uses one is
told what it is called here, or why there is none."""

from __future__ import annotations

import typing as t

EXPORTS: t.Final = {
    "KVSessionExtension": "KVSession: KVSession(app), with KVSESSION_REDIS_URL instead of a store",
    "KVSessionInterface": "KVSESSION_AS_FLASK_SESSION = True, and KVSession(app)",
    "SessionID": "current_session.id, or SessionInfo",
}

ATTRIBUTES: t.Final = {
    "cleanup_sessions": "nothing: Redis expires sessions by itself",
    "default_kvstore": 'app.extensions["kvsession"].store',
    "destroy": "logout_user(), or session.clear() where KVSESSION_USER_ID_KEY is set",
    "regenerate": "rotate_token(); a login gives a new token by itself",
    "sid_s": "session.id, which is public: the secret is only in the cookie",
}

CONFIG: t.Final = {
    "SESSION_KEY_BITS": "nothing: a token always has 258 random bits; remove it",
    "SESSION_RANDOM_SOURCE": "nothing: tokens come from the module secrets; remove it",
}


def complain(name: str, now: str) -> str:
    """The sentence about a name of old."""
    return f"{name} was Flask-KVSession's; in Flask-KVSession-Redis it is {now}."


def complain_of_attribute(thing: object, name: str) -> t.NoReturn:
    """Raises the `AttributeError` for an attribute that is not there."""
    if name in ATTRIBUTES:
        raise AttributeError(complain(name, ATTRIBUTES[name]))
    raise AttributeError(f"{type(thing).__name__!r} object has no attribute {name!r}")
