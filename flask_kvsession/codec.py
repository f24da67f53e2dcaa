"""Encodes session values as JSON and decodes them.

A decoded value is equal to the original and has the same type. A value that cannot be restored in
this way is refused when it is encoded.

The format is similar to Flask's tagged JSON: a value of a type that JSON does not have becomes an
object with one item, whose key is the tag of the type and begins with a space. There are three
differences from Flask:

- Only exact types are accepted, because a subclass would be decoded as its base class.
- Values that JSON would change are refused: NaN, infinity, and keys that are not str.
- The encoding is canonical: every process encodes a value to the same bytes. So comparing bytes
  tells whether a value has changed.
"""

from __future__ import annotations

import math
import typing as t
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from markupsafe import Markup

from .errors import KVSessionError, UnstorableValue

MAX_DEPTH = 100
"""How deep containers may be nested. Because of the limit, a list that contains itself is
refused."""

_Place = tuple[t.Any, t.Any]
"""The position of a value: the position of its container (None for the session), and its key or
index there.

It is a linked list because every assignment builds it, and only an error message reads it.
"""

_encoder: t.Final = msgspec.json.Encoder()
_decoder: t.Final = msgspec.json.Decoder()

_MAX_JSON_INT = 2**64 - 1
_MIN_JSON_INT = -(2**63)


def encode(key: str, value: t.Any) -> bytes:
    """The bytes to store for `value`.

    Raises `UnstorableValue` if decoding would not restore an equal value of the same type. The
    message names `key` and the position inside the value.
    """
    return _encoder.encode(to_json(key, value))


def to_json(key: str, value: t.Any) -> t.Any:
    """What `encode` writes for `value`, as an object of the types that JSON has."""
    return _to_json(value, (None, key), MAX_DEPTH)


_RAISED_BY_CORRUPT_BYTES = (
    *(msgspec.MsgspecError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError),
    AttributeError,
)
"""Not every exception: a time limit of the worker must get through."""


def decode(key: str, encoded: bytes | msgspec.Raw) -> t.Any:
    """A new value, equal to the one that was encoded.

    Raises `KVSessionError` for bytes that `encode` did not write, and for a time zone that this
    machine does not know. The message and the traceback do not quote the value.
    """
    try:
        value = _decoder.decode(encoded)
    except _RAISED_BY_CORRUPT_BYTES as error:
        reason = type(error).__name__
    else:
        return from_json(key, value) if type(value) in (list, dict) else value
    raise _undecodable(key, reason)


def from_json(key: str, value: t.Any) -> t.Any:
    """The value for which `to_json` gave `value`. Raises `KVSessionError` as `decode` does."""
    try:
        return _from_json(value)
    except ZoneInfoNotFoundError:
        reason = "this machine does not know its time zone; install tzdata"
    except _RAISED_BY_CORRUPT_BYTES as error:
        reason = type(error).__name__
    raise _undecodable(key, reason)


def _undecodable(key: str, reason: str) -> KVSessionError:
    return KVSessionError(f"session[{key!r}] cannot be decoded: {reason}.")


def check_key(key: object) -> None:
    """Raises `UnstorableValue` unless `key` can be a session key."""
    if type(key) is not str:
        is_short_int = type(key) is int and key.bit_length() <= 64
        given = f"{key}, which is" if is_short_int else "a value"
        raise UnstorableValue(
            f"A session key must be a str, not {given} of type {_type_name(key)}."
        )
    _check_text(key, (None, key))


def encode_all(values: Mapping[str, t.Any]) -> dict[str, bytes]:
    """The encoded values by their keys. Raises `UnstorableValue` for an invalid key or value."""
    for key in values:
        check_key(key)
    return {key: encode(key, value) for key, value in values.items()}


def _to_json(value: t.Any, place: _Place, depth: int) -> t.Any:
    if depth == 0:
        raise UnstorableValue(
            f"{_path_to(place)} is nested more than {MAX_DEPTH} levels deep, or contains itself;"
            " store a flatter value."
        )
    writer = _WRITERS.get(type(value))
    if writer is None:
        raise UnstorableValue(
            f"{_path_to(place)} is of type {_type_name(value)}, which cannot be stored; convert it"
            " to str, int, float, bool, None, list, dict, tuple, set, bytes, Decimal, UUID, Markup,"
            " date, datetime or timedelta."
        )
    return writer(value, place, depth - 1)


def _from_json(value: t.Any) -> t.Any:
    if type(value) is list:
        return [_from_json(item) for item in value]
    if type(value) is not dict:
        return value
    tag = next(iter(value)) if len(value) == 1 else ""
    if tag in _READERS:
        return _READERS[tag](value[tag])
    return {key: _from_json(item) for key, item in value.items()}


# Writers, one for each exact type. `place` and `depth` are for the items of a container.


def _write_as_is(value: t.Any, place: _Place, depth: int) -> t.Any:
    return value


def _write_str(value: str, place: _Place, depth: int) -> t.Any:
    _check_text(value, place)
    return value


def _write_int(value: int, place: _Place, depth: int) -> t.Any:
    if _MIN_JSON_INT <= value <= _MAX_JSON_INT:
        return value
    try:
        return {" i": str(value)}
    except ValueError:
        raise UnstorableValue(
            f"{_path_to(place)} is an int of more than 4,300 digits; store a str."
        ) from None


def _write_float(value: float, place: _Place, depth: int) -> t.Any:
    if not math.isfinite(value):
        raise UnstorableValue(f"{_path_to(place)} is {value}; store None or a str.")
    return value


def _write_decimal(value: Decimal, place: _Place, depth: int) -> t.Any:
    if not value.is_finite():
        raise UnstorableValue(
            f"{_path_to(place)} is a Decimal that is infinite or NaN; store None or a str."
        )
    return {" c": str(value)}


def _write_list(value: list[t.Any], place: _Place, depth: int) -> t.Any:
    return [_to_json(item, (place, i), depth) for i, item in enumerate(value)]


def _write_tuple(value: tuple[t.Any, ...], place: _Place, depth: int) -> t.Any:
    return {" t": [_to_json(item, (place, i), depth) for i, item in enumerate(value)]}


def _write_set(value: set[t.Any], place: _Place, depth: int) -> t.Any:
    # The iteration order of a set differs between processes.
    items = [_to_json(item, (place, "…"), depth) for item in value]
    return {" s": sorted(items, key=msgspec.json.encode)}


def _write_dict(value: dict[t.Any, t.Any], place: _Place, depth: int) -> t.Any:
    for key in value:
        if type(key) is not str:
            raise UnstorableValue(
                f"{_path_to(place)} has a key of type {_type_name(key)}; convert the keys to str."
            )
        _check_text(key, (place, key))
    written = {key: _to_json(item, (place, key), depth) for key, item in value.items()}
    if len(value) == 1 and next(iter(value)) in _READERS:
        return {" o": next(iter(written.items()))}  # a dict that looks like a tagged value
    return written


def _write_datetime(value: datetime, place: _Place, depth: int) -> t.Any:
    written = _datetime_parts(value)
    # Some time zones of other libraries cannot be restored by name or offset (see PEP 495).
    if _read_datetime(written) != value:
        raise UnstorableValue(
            f"{_path_to(place)} has a time zone that cannot be stored; use zoneinfo.ZoneInfo, or"
            " convert the datetime with .astimezone(timezone.utc)."
        )
    return {" d": written}


def _datetime_parts(value: datetime) -> str | list[t.Any]:
    text, zone = value.replace(tzinfo=None, fold=0).isoformat(), _zone_parts(value)
    return text if zone is None and not value.fold else [text, value.fold, zone]


def _zone_parts(value: datetime) -> str | list[int] | None:
    """The name of a zone in the IANA database, otherwise the offset (days, seconds, microseconds).

    The name is needed: with an offset alone, a time in the hour that a clock change repeats would
    not be equal to the original.
    """
    if isinstance(value.tzinfo, ZoneInfo) and _is_in_iana_database(value.tzinfo):
        return value.tzinfo.key
    offset = value.utcoffset()
    return None if offset is None else [offset.days, offset.seconds, offset.microseconds]


def _is_in_iana_database(zone: ZoneInfo) -> bool:
    try:
        return zone.key is not None and zone is ZoneInfo(zone.key)
    except (LookupError, OSError, ValueError):
        return False


def _write_uuid(value: UUID, place: _Place, depth: int) -> t.Any:
    return {" u": value.hex}


def _write_bytes(value: bytes, place: _Place, depth: int) -> t.Any:
    return {" b": b64encode(value).decode()}


def _write_markup(value: Markup, place: _Place, depth: int) -> t.Any:
    _check_text(value, place)
    return {" m": str.__str__(value)}


def _write_date(value: date, place: _Place, depth: int) -> t.Any:
    return {" y": value.isoformat()}


def _write_timedelta(value: timedelta, place: _Place, depth: int) -> t.Any:
    return {" e": [value.days, value.seconds, value.microseconds]}


_WRITERS: t.Final[dict[type, Callable[[t.Any, _Place, int], t.Any]]] = {
    type(None): _write_as_is,
    bool: _write_as_is,
    str: _write_str,
    int: _write_int,
    float: _write_float,
    list: _write_list,
    dict: _write_dict,
    tuple: _write_tuple,
    set: _write_set,
    bytes: _write_bytes,
    Markup: _write_markup,
    UUID: _write_uuid,
    Decimal: _write_decimal,
    datetime: _write_datetime,
    date: _write_date,
    timedelta: _write_timedelta,
}


# Readers, one for each tag.


def _read_datetime(written: str | list[t.Any]) -> datetime:
    if isinstance(written, str):
        return datetime.fromisoformat(written)
    text, fold, zone = written
    return datetime.fromisoformat(text).replace(tzinfo=_read_zone(zone), fold=fold)


def _read_zone(written: str | list[int] | None) -> tzinfo | None:
    if isinstance(written, str):
        return ZoneInfo(written)
    return None if written is None else timezone(timedelta(*written))


_READERS: t.Final[dict[str, Callable[[t.Any], t.Any]]] = {
    " b": b64decode,
    " c": Decimal,
    " d": _read_datetime,
    " e": lambda parts: timedelta(*parts),
    " i": int,
    " m": Markup,
    " o": lambda item: {item[0]: _from_json(item[1])},
    " s": lambda items: {_from_json(item) for item in items},
    " t": lambda items: tuple(_from_json(item) for item in items),
    " u": lambda text: UUID(hex=text),
    " y": date.fromisoformat,
}


def _path_to(place: _Place | None) -> str:
    keys: list[t.Any] = []
    while place is not None:
        place, key = place
        keys.append(key)
    path = "session" + "".join(f"[{key!r}]" for key in reversed(keys))
    return path if len(path) <= 200 else f"{path[:200]}…"


def _check_text(text: str, place: _Place) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnstorableValue(
            f"{_path_to(place)} contains a lone surrogate, which UTF-8 cannot encode; store bytes,"
            " or remove the surrogate."
        ) from None


def _type_name(value: t.Any) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return module + kind.__qualname__
