"""Why the store is unavailable, in one sentence for an operator."""

from __future__ import annotations

import typing as t

import redis
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError

from ..errors import StoreUnavailable

_REFUSAL = "The Redis server refuses the user name or the password"
_REMEDY = (
    "Correct them in KVSESSION_REDIS_URL, or in the client that was passed to KVSession(app,"
    " redis=client)."
)
PASSWORD_ADVICE = f"{_REFUSAL}. {_REMEDY}"
_PASSWORD = f"{_REFUSAL}: {{error}}. {_REMEDY}"
_RIGHTS = (
    "The Redis server forbids what the sessions need: {error}. `flask kvsession check` names all"
    " commands that are missing."
)
_MEMORY = "The memory of the Redis server is full, so it refuses writes. Raise maxmemory."
_TIMEOUT = (
    "The Redis server did not answer in time. If the network is slow, raise"
    " KVSESSION_STORE_TIMEOUT."
)

_SENTENCES: t.Final[list[tuple[type[BaseException], str]]] = [
    (AuthenticationError, _PASSWORD),
    (NoPermissionError, _RIGHTS),
    (OutOfMemoryError, _MEMORY),
    (TimeoutError, _TIMEOUT),
    (redis.TimeoutError, _TIMEOUT),
]
"""The first error of these in the chain of causes decides."""


def explain(unavailable: StoreUnavailable) -> str:
    """What is wrong, and what to do. Contains no password."""
    causes = list(_causes_of(unavailable))
    for kind, sentence in _SENTENCES:
        for cause in causes:
            if isinstance(cause, kind):
                return sentence.format(error=str(cause).rstrip("."))
    if not causes:
        return str(unavailable.description)
    return f"The Redis server cannot be used: {str(causes[-1]).rstrip('.')}."


def is_wrong_password(error: BaseException) -> bool:
    """Whether the server does not accept the credentials. A connection that cannot be made for that
    reason has the refusal as its cause."""
    return any(isinstance(each, AuthenticationError) for each in (error, *_causes_of(error)))


def _causes_of(error: BaseException) -> t.Iterator[BaseException]:
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__
