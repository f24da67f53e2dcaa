"""The token in the cookie: a public session id and a secret, 62 URL-safe characters.

    AbC 0123456789abcdef | 21 characters | 22 characters
    shard  random        | family        | rotating half
    ---- session id ---- | ----------- secret ----------

The shard is the Redis Cluster hash tag, so that all keys of a user are in one slot. The store keeps
a hash of the secret, and never the secret itself. The secret comes from the module `secrets` and
has 258 random bits; OWASP ASVS 5.0 (7.2.2 and 7.2.3) requires 128.
"""

from __future__ import annotations

import hmac
import re
import secrets
from binascii import b2a_base64
from hashlib import sha256
from uuid import UUID

import msgspec

SHARD_CHARS = 3

_FAMILY_CHARS = 21
_ROTATING_CHARS = 22
TOKEN_PATTERN = "[A-Za-z0-9_-]{62}"
_TOKEN = re.compile(TOKEN_PATTERN)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
ID_PATTERN = "[A-Za-z0-9_-]{19}"
_SESSION_ID = re.compile(ID_PATTERN)

UserId = str | int | UUID


class Token(msgspec.Struct, frozen=True):
    """A session id and its secret. The repr shows only the session id."""

    session_id: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> Token | None:
        """The token in `text`; None if `text` does not have the form of a token."""
        return cls.of(text) if _TOKEN.fullmatch(text) else None

    @classmethod
    def of(cls, text: str) -> Token:
        """The token in `text`, which is known to have the form of a token."""
        return cls(text[:19], text[19:])

    @classmethod
    def for_session(cls, session_id: str) -> Token:
        """A token with this session id and a new secret."""
        return cls(session_id, _random_chars(_FAMILY_CHARS) + _random_chars(_ROTATING_CHARS))

    def __str__(self) -> str:
        return self.session_id + self.secret

    def __repr__(self) -> str:
        return f"<Token of session {self.session_id}>"

    @property
    def family(self) -> str:
        """The part of the secret that a periodic rotation leaves as it is."""
        return self.secret[:_FAMILY_CHARS]

    @property
    def rotating(self) -> str:
        """The part of the secret that every rotation changes."""
        return self.secret[_FAMILY_CHARS:]

    @property
    def family_hash(self) -> str:
        return hash_of(self.family)

    @property
    def secret_hash(self) -> str:
        return hash_of(self.secret)

    def successor(self, nonce: str) -> Token:
        """The token after a periodic rotation with this nonce. It has the same family, and only the
        owner of this token can compute it."""
        digest = hmac.digest(self.secret.encode(), nonce.encode(), "sha256")
        return Token(self.session_id, self.family + base64url(digest)[:_ROTATING_CHARS])

    def is_of_family(self, family_hash: str) -> bool:
        """Whether this is the hash of the token's family, compared in constant time."""
        return hmac.compare_digest(self.family_hash.encode(), family_hash.encode())

    def matches(self, secret_hash: str) -> bool:
        """Whether this is the hash of the token's secret, compared in constant time."""
        return hmac.compare_digest(self.secret_hash.encode(), secret_hash.encode())


def new_session_id(hashed_user: str | None) -> str:
    """A session id in the slot of this user hash, or in a random slot for an anonymous session."""
    shard = hashed_user[:SHARD_CHARS] if hashed_user else _random_chars(SHARD_CHARS)
    return shard + _random_chars(16)


def is_session_id(value: object) -> bool:
    """Whether `value` has the form of a session id. Every session's id has this form."""
    return isinstance(value, str) and _SESSION_ID.fullmatch(value) is not None


def user_hash(user_id: UserId) -> str:
    """The 22 URL-safe characters that stand for the user in Redis keys.

    42 and "42" are the same user. Raises `ValueError` as `check_user_id` does.
    """
    check_user_id(user_id)
    return base64url(sha256(str(user_id).encode()).digest())[:22]


def check_user_id(user_id: object) -> None:
    """Raises `ValueError` unless `user_id` is a str that is not empty, an int or a UUID, and can be
    encoded as UTF-8 text."""
    if type(user_id) not in (str, int, UUID):
        given = "None" if user_id is None else f"a value of type {type(user_id).__name__}"
        raise ValueError(
            f"user_id must be a str, an int or a UUID, not {given}; pass user.id, or str(user.id)"
            " if that is of another type."
        )
    if user_id == "":
        raise ValueError('user_id must not be "".')
    try:
        str(user_id).encode()
    except ValueError as error:  # a lone surrogate, or an int of over 4,300 digits
        raise ValueError(f"user_id cannot be encoded as UTF-8 text: {error}") from None


def _random_chars(count: int) -> str:
    # token_urlsafe(n) returns at least n characters, with 6 random bits in each.
    return secrets.token_urlsafe(count)[:count]


def hash_of(secret: str) -> str:
    """128 bits of SHA-256: nobody can find a secret for them, and records stay small."""
    return base64url(sha256(secret.encode()).digest()[:16])


def base64url(digest: bytes) -> str:
    return b2a_base64(digest, newline=False).translate(_URL_SAFE, b"=").decode()
