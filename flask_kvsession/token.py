"""The token: a public session id and a secret, 62 URL-safe characters in all.

    AbC 0123456789abcdef | 21 characters | 22 characters
    shard  random        | family        | rotating half
    ---- session id ---- | ----------- secret ----------

The shard is the Redis Cluster hash tag that keeps a user's keys in one slot. The store holds a
hash of the secret, never the secret (OWASP ASVS 5.0, 7.2.2 and 7.2.3: `secrets`, over 128 bits).
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

SHARD_CHARS = 3

_FAMILY_CHARS = 21
_ROTATING_CHARS = 22
_TOKEN = re.compile(r"[A-Za-z0-9_-]{62}")
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{19}")

UserId = str | int | UUID


@dataclass(frozen=True, slots=True)
class Token:
    """What the cookie carries. Its repr shows only the public half."""

    session_id: str
    family: str
    rotating: str

    @classmethod
    def parse(cls, text: str) -> Token | None:
        """The token in `text`, or None unless it has exactly a token's shape."""
        if not _TOKEN.fullmatch(text):
            return None
        return cls(text[:19], text[19:40], text[40:])

    @classmethod
    def for_session(cls, session_id: str) -> Token:
        """A new secret for this session."""
        return cls(session_id, _random_chars(_FAMILY_CHARS), _random_chars(_ROTATING_CHARS))

    def __str__(self) -> str:
        return self.session_id + self.family + self.rotating

    def __repr__(self) -> str:
        return f"<Token of session {self.session_id}>"

    @property
    def family_hash(self) -> str:
        return _hash(self.family)

    @property
    def secret_hash(self) -> str:
        return _hash(self.family + self.rotating)

    def matches(self, secret_hash: str) -> bool:
        """Whether this token's secret is the one hashed, compared in constant time."""
        return hmac.compare_digest(self.secret_hash.encode(), secret_hash.encode())


def new_session_id(user: str | None) -> str:
    """A session id in the slot of this user hash; a visitor's lies in a slot of its own."""
    shard = user[:SHARD_CHARS] if user else _random_chars(SHARD_CHARS)
    return shard + _random_chars(16)


def is_session_id(value: object) -> bool:
    """Whether `value` has a session id's shape; anything else cannot name a session."""
    return isinstance(value, str) and _SESSION_ID.fullmatch(value) is not None


def user_hash(user_id: UserId) -> str:
    """The 22 characters that stand for a user in keys, whatever the id holds.

    42 and "42" are one user. Raises `ValueError` for anything but a str that is not empty, an int
    or a UUID.
    """
    if type(user_id) not in (str, int, UUID):
        given = "None" if user_id is None else f"a value of type {type(user_id).__name__}"
        raise ValueError(
            f"user_id must be a str, an int or a UUID, such as user.id; {given} was given."
        )
    if user_id == "":
        raise ValueError('user_id must name a user; "" was given.')
    try:
        text = str(user_id).encode()
    except ValueError as error:  # a lone surrogate, or an int of over 4,300 digits
        raise ValueError(f"user_id cannot be written as text: {error}") from None
    return _b64(sha256(text).digest())[:22]


def _random_chars(count: int) -> str:
    # token_urlsafe(n) gives at least n characters, 6 random bits in each.
    return secrets.token_urlsafe(count)[:count]


def _hash(secret: str) -> str:
    return _b64(sha256(secret.encode()).digest())


def _b64(digest: bytes) -> str:
    return urlsafe_b64encode(digest).decode().rstrip("=")
