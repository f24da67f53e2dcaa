"""What a secret may do, and how a secret is replaced (DESIGN: "Rotation").

A rotation keeps the credential that was valid before it, in the record's field `before`:

- An explicit rotation (`confirm_login`, `rotate_token`) makes a new family and a new rotating half.
  The family before is invalid at once.
- A periodic rotation makes a new rotating half only. The successor is computed from the old secret
  and a nonce in the record. So every request that shows the old secret gets the same successor,
  until a request has shown the successor. Then the old secret is valid for a grace.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from enum import IntEnum

import msgspec

from .record import Before, Record
from .token import Token

EXPLICIT_GRACE_MS = 10_000
"""For this time after an explicit rotation, requests that began before it may still arrive."""


class Standing(IntEnum):
    """What a shown secret is to a record. The numbers to 6 are the rows of DESIGN, "Rotation"."""

    CURRENT = 1
    SUPERSEDED = 2
    """The secret before a periodic rotation, whose successor no request has shown yet."""
    IN_GRACE = 3
    """The secret before a periodic rotation, within the grace."""
    REUSED = 4
    """A secret of the same family that is no longer valid: somebody has copied the cookie."""
    REPLACED = 5
    """A secret from before an explicit rotation, of a request that was under way."""
    UNKNOWN = 6
    """Any other secret. It opens nothing, and ends nothing."""
    UNPROVEN = 7
    """A valid secret of a session that is bound to a device, in a request that does not prove that
    it comes from the device. It opens nothing, and ends nothing."""

    @property
    def is_valid(self) -> bool:
        """Whether the secret opens the session."""
        return self <= Standing.IN_GRACE


def judge(record: Record, token: Token, get_began: Callable[[], int]) -> Standing:
    """The standing of the token that a request shows. `get_began` gives the time (ms) at which the
    request began; most tokens are judged without it."""
    if token.matches(record.secret):
        return Standing.CURRENT
    before = record.before
    if token.is_of_family(record.family):
        if not before or not before.secret:
            return Standing.UNKNOWN  # never rotated periodically: the secret was never valid
        return _judge_family_member(before, token, get_began)
    if before and token.is_of_family(before.family) and get_began() < before.until:
        return Standing.REPLACED
    return Standing.UNKNOWN


def _judge_family_member(before: Before, token: Token, get_began: Callable[[], int]) -> Standing:
    if token.matches(before.secret):
        if before.nonce:
            return Standing.SUPERSEDED
        if get_began() < before.until:
            return Standing.IN_GRACE
    return Standing.REUSED


def rotated_explicitly(record: Record, token: Token, now: int) -> Record:
    """The record with the secret of a new token; all secrets before are invalid."""
    return msgspec.structs.replace(
        record,
        family=token.family_hash,
        secret=token.secret_hash,
        rotated=now,
        before=Before(family=record.family, until=now + EXPLICIT_GRACE_MS),
    )


def with_step(
    record: Record,
    token: Token,
    now: int,
    due_after: int | None,
    grace: int,
    *,
    is_wanted: bool = False,
) -> Record:
    """The record after a request has shown its current secret, as `token`.

    The first show after a periodic rotation begins the grace (ms) of the secret before. Otherwise
    the secret is rotated if that is wanted, or due: `due_after` is the interval (ms) or None. It is
    not rotated while a credential before it is valid. Without a change, it is the same object.
    """
    before = record.before
    if before and before.nonce:
        shown = Before(secret=before.secret, until=now + grace)
        return msgspec.structs.replace(record, before=shown)
    is_due = due_after is not None and now - (record.rotated or record.created) >= due_after
    if not (is_wanted or is_due) or (before and now < before.until):
        return record
    return _rotated_periodically(record, token, now)


def successor_of(record: Record, token: Token) -> Token:
    """The token that replaces the superseded `token`; the same for every request that shows it."""
    assert record.before, "only a superseded token has a successor"
    return token.successor(record.before.nonce)


def _rotated_periodically(record: Record, token: Token, now: int) -> Record:
    nonce = secrets.token_urlsafe(12)
    return msgspec.structs.replace(
        record,
        secret=token.successor(nonce).secret_hash,
        rotated=now,
        before=Before(secret=record.secret, nonce=nonce),
    )
