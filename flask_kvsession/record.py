"""What the store holds under one session's key: its record, or what is left of an ended one."""

from __future__ import annotations

import typing as t
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from . import codec
from .errors import KVSessionError
from .token import Token, UserId, user_hash

FORMAT_VERSION = 1

_MAX_USER_AGENT_CHARS = 512
_ENDED_PREFIX = b'{"ended":'


_NOBODY = msgspec.Raw(b"null")


class UnreadableRecord(KVSessionError):
    """Bytes under a session's key that this version cannot read; never shown to an app."""


class Former(msgspec.Struct, frozen=True):
    """Who signed out of a visitor's browser: the user's hash, and the keys of what is theirs."""

    user: str
    keys: list[str]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One session. Times are milliseconds since 1970 by the server's clock.

    `family` and `secret` are hashes. `user` and the values of `data` are JSON as `codec` writes
    it, kept as bytes, so that reading a record costs nothing for the keys nobody asks for.
    """

    v: int = FORMAT_VERSION
    family: str
    secret: str
    user: msgspec.Raw = _NOBODY
    created: int
    seen: int
    authenticated: int | None = None
    ip: str | None = None
    agent: str | None = None
    remembered: bool = True
    former: Former | msgspec.UnsetType = msgspec.UNSET
    after: str | msgspec.UnsetType = msgspec.UNSET
    """Why the session before, in this visitor's browser, was ended from outside."""
    data: dict[str, msgspec.Raw] = {}

    @property
    def user_id(self) -> UserId | None:
        """The id in the type it was given to `login_user`; None for a visitor."""
        return t.cast("UserId | None", codec.decode("user_id", bytes(self.user)))

    @property
    def is_visitors(self) -> bool:
        return bytes(self.user) == bytes(_NOBODY)

    @property
    def user_hash(self) -> str | None:
        user_id = self.user_id
        return None if user_id is None else user_hash(user_id)

    def encoded_data(self) -> dict[str, bytes]:
        return {key: bytes(value) for key, value in self.data.items()}

    @property
    def data_size(self) -> int:
        return sum(size_of(key, bytes(value)) for key, value in self.data.items())

    def with_secret_of(self, token: Token) -> Record:
        return msgspec.structs.replace(self, family=token.family_hash, secret=token.secret_hash)

    def with_data(self, data: Mapping[str, bytes], own: Collection[str] = ()) -> Record:
        """The session with these data; `own` are the keys that are no former user's any more."""
        former = self.former
        if former:
            keys = [key for key in former.keys if key not in own]
            former = Former(former.user, keys) if keys else msgspec.UNSET
        return msgspec.structs.replace(self, data=_raw(data), former=former)

    def seen_at(self, now: int, client: Client) -> Record:
        """The same session after activity; time never runs backwards."""
        return msgspec.structs.replace(
            self, seen=max(self.seen, now), ip=client.ip, agent=client.agent
        )

    def remembered_as(self, remembered: bool) -> Record:
        return msgspec.structs.replace(self, remembered=remembered)

    def authenticated_now(self, now: int) -> Record:
        return msgspec.structs.replace(
            self, seen=max(self.seen, now), authenticated=max(self.authenticated or 0, now)
        )


class Ended(msgspec.Struct, frozen=True):
    """What is left of a session ended from outside: why. A late create cannot revive it."""

    ended: str


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent a request, as the record keeps it; None for what is not recorded."""

    ip: str | None = None
    agent: str | None = None

    @classmethod
    def of(cls, ip: str | None, agent: str | None) -> Client:
        return cls(ip, agent[:_MAX_USER_AGENT_CHARS] if agent else None)


@dataclass(frozen=True, slots=True)
class Stored:
    """A record together with the bytes that the store holds, which a commit compares."""

    id: str
    record: Record
    raw: bytes

    @classmethod
    def of(cls, session_id: str, record: Record) -> Stored:
        return cls(session_id, record, encode(record))


@dataclass(frozen=True, slots=True)
class Changes:
    """What a request did to the data: keys set (encoded), keys removed, or all cleared first."""

    set: Mapping[str, bytes]
    removed: Collection[str] = ()
    cleared: bool = False

    def __bool__(self) -> bool:
        return bool(self.set or self.removed or self.cleared)

    def applied_to(self, data: Mapping[str, bytes]) -> dict[str, bytes]:
        """The data after these changes, which go on top of whatever others did meanwhile."""
        kept = {} if self.cleared else {k: v for k, v in data.items() if k not in self.removed}
        return kept | dict(self.set)


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
    """When it ends without further activity."""
    ip_address: str | None
    user_agent: str | None
    remembered: bool


def new_record(
    token: Token,
    *,
    now: int,
    client: Client,
    user_id: UserId | None = None,
    remembered: bool = True,
    is_proved: bool = True,
    former: Former | None = None,
    after: str | None = None,
    data: Mapping[str, bytes],
) -> Record:
    """A session that begins now: a user's when there is a user id, else a visitor's. It is fresh
    if the user has just proved who they are."""
    return Record(
        family=token.family_hash,
        secret=token.secret_hash,
        user=msgspec.Raw(codec.encode("user_id", user_id)),
        created=now,
        seen=now,
        authenticated=now if is_proved and user_id is not None else None,
        ip=client.ip,
        agent=client.agent,
        remembered=remembered,
        former=former or msgspec.UNSET,
        after=after or msgspec.UNSET,
        data=_raw(data),
    )


def encode(value: Record | Ended) -> bytes:
    return msgspec.json.encode(value)


def decode(raw: bytes) -> Record | Ended:
    """What `raw` stands for; raises `UnreadableRecord` for a corrupt or a future one."""
    try:
        if raw.startswith(_ENDED_PREFIX):
            return msgspec.json.decode(raw, type=Ended)
        record = msgspec.json.decode(raw, type=Record)
        record.user_hash  # noqa: B018 - a user id that cannot be read spoils the whole record
    except (msgspec.DecodeError, KVSessionError, ValueError, RecursionError) as error:
        raise UnreadableRecord(f"corrupt: {error}") from None
    if record.v != FORMAT_VERSION:
        raise UnreadableRecord(f"format version {record.v}, this is version {FORMAT_VERSION}")
    return record


def size_of(key: str, encoded: bytes) -> int:
    """What one item of the data counts towards `KVSESSION_MAX_SESSION_BYTES`: `"key":value,`."""
    return len(key.encode()) + len(encoded) + 4


def from_ms(ms: int) -> datetime:
    """An aware UTC datetime."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def _raw(data: Mapping[str, bytes]) -> dict[str, msgspec.Raw]:
    return {key: msgspec.Raw(value) for key, value in data.items()}


def info(stored: Stored, *, expires: int, is_current: bool = False) -> SessionInfo:
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
    )
