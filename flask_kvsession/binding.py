"""The binding of a session to a key of the user's device (Device Bound Session Credentials).

    login           the record gets the hash of an offer, and the response its two secrets
    registration    the browser answers the offer with a public key, which the record keeps
    request         has the short cookie, which only a proof by that key renews
    refresh         a challenge, the device's answer, and a new short cookie

The short cookie and a challenge are sealed texts: an end, a nonce and a MAC, whose key is in the
record. So a request is checked with the record that is read anyway, and a challenge needs no write.
Whoever has copied the database could make short cookies, but has no token of a session.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable

import msgspec

from .record import Binding, Record
from .token import base64url, hash_of, is_session_id

GRACE_MS = 10_000
"""For this time after the binding, requests that were under way need no short cookie. For the same
time after the end of a short cookie, requests that were under way may show it."""

OFFER_MS = 5 * 60_000
"""How long after a login a browser may answer its offer."""

CHALLENGE_MS = 60_000
"""How long a device may answer a challenge."""

MAX_ANSWERS = 8
"""How many challenges of one session may be answered within `CHALLENGE_MS`."""

_COOKIE, _CHALLENGE = "cookie", "challenge"
SEALED_PATTERN = r"[0-9]{1,15}\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]{22}"
_SEALED = re.compile(SEALED_PATTERN)


class Offer(msgspec.Struct, frozen=True):
    """What a login's response gives the browser, and nobody else: the proof that the browser which
    registers a key is the one that has signed in."""

    challenge: str
    authorization: str
    url: str = ""
    """Where the browser answers it."""

    @classmethod
    def for_session(cls, session_id: str, url: str) -> Offer:
        return cls(secrets.token_urlsafe(16), f"{session_id}.{secrets.token_urlsafe(16)}", url)

    def __repr__(self) -> str:
        """Shows no secret."""
        return f"<Offer to session {self.session_id}>"

    @property
    def session_id(self) -> str | None:
        """The session that the authorization names; None if it names none."""
        session_id = self.authorization.partition(".")[0]
        return session_id if is_session_id(session_id) else None

    @property
    def hash(self) -> str:
        return hash_of(f"{self.challenge}.{self.authorization}")

    def is_open(self, record: Record, now: int) -> bool:
        """Whether this record has this offer, and the browser may still answer it."""
        device = record.device
        if not device or not device.offer or now >= device.offer_until:
            return False
        return hmac.compare_digest(self.hash.encode(), device.offer.encode())


def is_bound(record: Record) -> bool:
    return bool(record.device and record.device.key)


def with_offer(record: Record, offer: Offer, now: int) -> Record:
    """The record with an offer; unchanged if a device is bound already."""
    if is_bound(record):
        return record
    device = Binding(offer=offer.hash, offer_until=now + OFFER_MS)
    return msgspec.structs.replace(record, device=device)


def without_ended_offer(record: Record, now: int) -> Record:
    """The record without an offer that no browser can answer any more, as after most logins."""
    device = record.device
    if not device or device.key or now < device.offer_until:
        return record
    return msgspec.structs.replace(record, device=msgspec.UNSET)


def to_key(key: str, now: int) -> Binding:
    """A binding to this public key. Each has a random secret of its own."""
    return Binding(key=key, secret=secrets.token_urlsafe(24), since=now)


def with_device(record: Record, device: Binding) -> Record:
    """The record with this binding in place of its offer."""
    return msgspec.structs.replace(record, device=device)


def is_under_way(record: Record, began: int) -> bool:
    """Whether a request that began at this time (ms) may not have the short cookie yet."""
    return began < _bound_to(record).since + GRACE_MS


# The short cookie


def new_cookie(record: Record, until: int) -> str:
    """A short cookie that ends at `until` (ms)."""
    return _sealed(_bound_to(record), _COOKIE, until)


def is_any_valid(values: Iterable[str], record: Record, began: int) -> bool:
    """Whether one of these values is a short cookie of the session, for a request that began at
    this time (ms)."""
    device = _bound_to(record)
    ends = (_end_of(value, device, _COOKIE) for value in values)
    return any(end is not None and began < end + GRACE_MS for end in ends)


# Challenges


def new_challenge(record: Record, now: int) -> str:
    """A challenge that the device may answer once, within `CHALLENGE_MS`. Others stay valid: the
    answer to one may be under way."""
    return _sealed(_bound_to(record), _CHALLENGE, now + CHALLENGE_MS)


def is_open_challenge(text: str, record: Record, now: int) -> bool:
    """Whether this is a challenge of the session that has neither ended nor been answered."""
    device = _bound_to(record)
    end = _end_of(text, device, _CHALLENGE)
    return end is not None and now < end and text not in device.answered


def has_answered_too_many(record: Record, now: int) -> bool:
    return len(_still_open(_bound_to(record).answered, now)) >= MAX_ANSWERS


def with_answered(record: Record, challenge: str, now: int) -> Record:
    """The record after this challenge was answered: a copy of the answer proves nothing."""
    device = _bound_to(record)
    answered = [*_still_open(device.answered, now), challenge]
    return msgspec.structs.replace(
        record, device=msgspec.structs.replace(device, answered=answered)
    )


def _still_open(challenges: Iterable[str], now: int) -> list[str]:
    return [text for text in challenges if int(text.partition(".")[0]) > now]


# Sealed texts


def _bound_to(record: Record) -> Binding:
    assert record.device and record.device.key, "only asked of a session that is bound"
    return record.device


def _sealed(device: Binding, purpose: str, end: int) -> str:
    text = f"{end}.{secrets.token_urlsafe(12)}"
    return f"{text}.{_mac(device, purpose, text)}"


def _end_of(sealed: str, device: Binding, purpose: str) -> int | None:
    """The end (ms) of a text that was sealed for this purpose; None if it was not."""
    if _SEALED.fullmatch(sealed) is None:
        return None
    text, _, mac = sealed.rpartition(".")
    if not hmac.compare_digest(_mac(device, purpose, text), mac):
        return None
    return int(text.partition(".")[0])


def _mac(device: Binding, purpose: str, text: str) -> str:
    """A MAC of 132 bits, under a key for this session and this purpose only."""
    key = hmac.digest(device.secret.encode(), purpose.encode(), "sha256")
    return base64url(hmac.digest(key, text.encode(), "sha256"))[:22]
