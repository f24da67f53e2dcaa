"""The two values that a session's key can have in the store: a record, or a tombstone."""

from __future__ import annotations

import typing as t
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import msgspec

from . import codec
from .errors import KVSessionError
from .token import Token, UserId, check_user_id, user_hash

FORMAT_VERSION = 1

_MAX_USER_AGENT_CHARS = 512
_TOMBSTONE_PREFIX = b'{"ended":'

_LATEST = 250_000_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Time = t.Annotated[int, msgspec.Meta(ge=0, le=_LATEST)]
"""Milliseconds since 1970, up to the year 9892. A `datetime` exists for every such time, also after
a timeout was added."""


class UnreadableRecord(KVSessionError):
    """This version cannot read the bytes under a session's key. The store catches this error, so an
    app never gets it."""


class Before(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The credential that was valid before the last rotation. `rotation` explains the fields."""

    secret: str = ""
    """Hash of the secret before a periodic rotation."""
    family: str = ""
    """Hash of the family before an explicit rotation."""
    nonce: str = ""
    """Makes the successor of the secret, until a request has shown that successor."""
    until: Time = 0
    """The end of the time (ms) in which the credential counts."""


class Binding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The offer to bind a session to a key of the user's device, or that key. `binding` explains
    the fields."""

    offer: str = ""
    """Hash of what the login's response offered."""
    offer_until: Time = 0
    """The end of the time (ms) in which the browser may answer the offer."""
    key: str = ""
    """The public key, once the browser has answered."""
    secret: str = ""
    """Makes the MACs of short cookies and challenges."""
    since: Time = 0
    """When the session was bound (ms)."""
    answered: list[str] = []
    """The challenges that were answered and have not ended yet."""

    def __repr__(self) -> str:
        """Shows no secret."""
        return f"<Binding since {self.since}>" if self.key else "<Binding, offered>"


Encoded = bytes | msgspec.Raw
"""JSON of the module `codec`. `Raw` is a part of the bytes of a record, which are not copied."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One session. Times are milliseconds since 1970 by the server's clock.

    `family` and `secret` are hashes. The values of `data` stay encoded, so that a load does not
    decode values that nobody reads.
    """

    v: int
    family: str
    secret: str
    user: str | int | dict[str, str] | None = None
    """The user's id, as the module `codec` writes it in JSON."""
    created: Time
    seen: Time
    authenticated: Time | None = None
    end_at: Time | None = None
    """The time at which the session ends whatever its activity; None: only by its timeouts."""
    ip: str | None = None
    agent: str | None = None
    remembered: bool = True
    rotated: Time | msgspec.UnsetType = msgspec.UNSET
    before: Before | msgspec.UnsetType = msgspec.UNSET
    previous_user_keys: list[str] | msgspec.UnsetType = msgspec.UNSET
    """The keys of the data that a user has left in this anonymous session at a logout."""
    previous_end_reason: str | msgspec.UnsetType = msgspec.UNSET
    """Only in an anonymous session: why the browser's previous session was ended from outside."""
    device: Binding | msgspec.UnsetType = msgspec.UNSET
    data: dict[str, msgspec.Raw] = {}

    def __repr__(self) -> str:
        """Shows no data: error reports contain the reprs of local variables."""
        return f"<Record created {self.created}, seen {self.seen}, with {len(self.data)} keys>"

    @property
    def user_id(self) -> UserId | None:
        """The id in the type that `login_user` was given; None for an anonymous session."""
        user = self.user
        return t.cast(UserId, codec.from_json("user_id", user)) if isinstance(user, dict) else user

    @property
    def is_anonymous(self) -> bool:
        return self.user is None

    def encoded_data(self) -> dict[str, bytes]:
        return {key: bytes(value) for key, value in self.data.items()}

    def sizes(self) -> dict[str, int]:
        """The size of each item of the data, in bytes."""
        return {key: size_of(key, bytes(value)) for key, value in self.data.items()}

    def with_data(self, data: Mapping[str, Encoded]) -> Record:
        return msgspec.structs.replace(self, data=_raw(data))

    def with_previous_user_keys(self, keys: Collection[str]) -> Record:
        return msgspec.structs.replace(self, previous_user_keys=_sorted_or_unset(keys))

    def with_activity(self, now: int, client: Client) -> Record:
        """The session after a request of this client. `seen` never moves backwards."""
        return msgspec.structs.replace(
            self, seen=max(self.seen, now), ip=client.ip, agent=client.agent
        )

    def with_client(self, client: Client) -> Record:
        """The session after a write by this client within the renewal interval."""
        if (self.ip, self.agent) == (client.ip, client.agent):
            return self
        return msgspec.structs.replace(self, ip=client.ip, agent=client.agent)

    def expires_like(self, other: Record) -> bool:
        """Whether the two expire at the same time, whatever the settings are."""
        return (
            self.seen == other.seen
            and self.authenticated == other.authenticated
            and self.remembered == other.remembered
        )

    def with_remembered(self, remembered: bool) -> Record:
        return msgspec.structs.replace(self, remembered=remembered)

    def with_authentication(self, now: int) -> Record:
        """The session after its user has authenticated again."""
        return msgspec.structs.replace(
            self, seen=max(self.seen, now), authenticated=max(self.authenticated or 0, now)
        )


class Tombstone(msgspec.Struct, frozen=True):
    """The remainder of a session that was ended from outside: the reason, and the hash of the
    family, so that only a secret of that family is told the reason.

    It holds no data. While it exists, a repeated create cannot bring the session back.
    """

    ended: str
    family: str = ""


class Client(msgspec.Struct, frozen=True):
    """The client's IP address and user agent, as a record keeps them. None if not recorded."""

    ip: str | None = None
    agent: str | None = None

    @classmethod
    def of(cls, ip: str | None, agent: str | None) -> Client:
        return cls(ip, agent[:_MAX_USER_AGENT_CHARS] if agent else None)


class Stored(msgspec.Struct, frozen=True, dict=True):
    """A record together with the bytes that the store holds. A commit compares the bytes."""

    id: str
    record: Record
    raw: bytes

    def __repr__(self) -> str:
        """Shows no data."""
        return f"Stored(id={self.id!r}, record={self.record!r})"

    @classmethod
    def of(cls, session_id: str, record: Record) -> Stored:
        return cls(session_id, record, encode(record))

    @property
    def identity(self) -> tuple[object, int]:
        """What no act on the session changes."""
        return self.record.user, self.record.created

    @cached_property
    def user_hash(self) -> str | None:
        """The hash of the session's user; None for an anonymous session."""
        user_id = self.record.user_id
        return None if user_id is None else user_hash(user_id)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as lists and signals show it: no secret, no data. Times are aware, in UTC."""

    id: str
    user_id: UserId | None
    is_current: bool
    created_at: datetime
    last_seen_at: datetime
    """Exact to `KVSESSION_RENEWAL_INTERVAL`."""
    authenticated_at: datetime | None
    expires_at: datetime
    """The time at which the session ends if there is no more activity."""
    ip_address: str | None
    user_agent: str | None
    remembered: bool
    is_device_bound: bool = False
    """Whether the session is bound to a key of the device (`KVSESSION_DEVICE_BOUND`)."""


def new_record(
    token: Token,
    *,
    now: int,
    client: Client,
    user_id: UserId | None = None,
    remembered: bool = True,
    authenticated: bool = True,
    end_at: int | None = None,
    previous_user_keys: Collection[str] = (),
    previous_end_reason: str | None = None,
    data: Mapping[str, bytes],
) -> Record:
    """A session that begins now: a user's if there is a user id, else an anonymous one.

    `authenticated`: the user has just authenticated, so the session is fresh.
    """
    return Record(
        v=FORMAT_VERSION,
        family=token.family_hash,
        secret=token.secret_hash,
        user=codec.to_json("user_id", user_id),
        created=now,
        seen=now,
        authenticated=now if authenticated and user_id is not None else None,
        end_at=end_at,
        ip=client.ip,
        agent=client.agent,
        remembered=remembered,
        previous_user_keys=_sorted_or_unset(previous_user_keys),
        previous_end_reason=previous_end_reason or msgspec.UNSET,
        data=_raw(data),
    )


_encoder: t.Final = msgspec.json.Encoder()
_decoder: t.Final = msgspec.json.Decoder(Record)
_tombstone_decoder: t.Final = msgspec.json.Decoder(Tombstone)


def encode(value: Record | Tombstone) -> bytes:
    return _encoder.encode(value)


def decode(raw: bytes) -> Record | Tombstone:
    """The record or tombstone in `raw`.

    Raises `UnreadableRecord` for corrupt bytes and for a record of another format version.
    """
    try:
        if raw.startswith(_TOMBSTONE_PREFIX):
            return _tombstone_decoder.decode(raw)
        record = _decoder.decode(raw)
        user = record.user
        if user is not None and (not user or type(user) is not str):
            check_user_id(record.user_id)
    except (msgspec.DecodeError, KVSessionError, ValueError, RecursionError) as error:
        raise UnreadableRecord(f"corrupt: {error}") from None
    if record.v != FORMAT_VERSION:
        raise UnreadableRecord(f"format version {record.v}, this is version {FORMAT_VERSION}")
    return record


def size_of(key: str, encoded: bytes) -> int:
    """The bytes that one item counts towards `KVSESSION_MAX_SESSION_BYTES`: `"key":value,`."""
    return len(key.encode()) + len(encoded) + 4


def from_ms(ms: int) -> datetime:
    """An aware UTC datetime."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def end_in_ms(end_at: datetime, now: int) -> int:
    """The end of a login as a record keeps it. Raises `TypeError` for what is no datetime, and
    `ValueError` for one that is naive or not after `now` (ms)."""
    if not isinstance(end_at, datetime):
        raise TypeError(f"end_at must be an aware datetime, not a {type(end_at).__name__}.")
    if end_at.utcoffset() is None:
        raise ValueError(
            f"end_at ({end_at}) has no time zone; pass an aware datetime, such as"
            " datetime.now(UTC) + timedelta(hours=1)."
        )
    end = (end_at - _EPOCH) // timedelta(milliseconds=1)
    if end <= now:
        raise ValueError(f"end_at ({end_at}) is in the past; pass a time in the future.")
    return min(end, _LATEST)


def info(
    stored: Stored, *, expires: int, binds_devices: bool, is_current: bool = False
) -> SessionInfo:
    """`binds_devices`: the app asks for the proof of a session that is bound to a device."""
    record = stored.record
    return SessionInfo(
        id=stored.id,
        user_id=record.user_id,
        is_current=is_current,
        created_at=from_ms(record.created),
        last_seen_at=from_ms(record.seen),
        authenticated_at=None if record.authenticated is None else from_ms(record.authenticated),
        expires_at=from_ms(expires),
        ip_address=record.ip,
        user_agent=record.agent,
        remembered=record.remembered,
        is_device_bound=bool(binds_devices and record.device and record.device.key),
    )


def _sorted_or_unset(keys: Collection[str]) -> list[str] | msgspec.UnsetType:
    return sorted(keys) or msgspec.UNSET


def _raw(data: Mapping[str, Encoded]) -> dict[str, msgspec.Raw]:
    return {
        key: value if isinstance(value, msgspec.Raw) else msgspec.Raw(value)
        for key, value in data.items()
    }
