"""Converts values of subclasses to their base types, for `flask.session`.

Existing apps store such values: Authlib stores its `UserInfo`, a view stores `request.form`, and a
flashed message may be a lazily translated string. None of them would come back with the same type.
`flask.session` converts them at the assignment, to the values that Flask's own session would load
in the next request. So this request and the next request read the same value.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from markupsafe import Markup

from .. import codec
from ..errors import UnstorableValue


def encode(key: str, value: t.Any) -> tuple[t.Any, bytes]:
    """The value to keep in the session, and its encoding.

    A storable value is kept as the same object, so that a later change inside a list is detected.
    Raises `UnstorableValue` if the value has no storable base type.
    """
    try:
        return value, codec.encode(key, value)
    except UnstorableValue as refusal:
        try:
            value = _coerce(value, codec.MAX_DEPTH)
        except Exception:  # raised by a class whose conversion to its base type does not work
            raise refusal from None
        return value, codec.encode(key, value)


def _coerce(value: t.Any, depth: int) -> t.Any:
    if depth == 0:
        raise UnstorableValue
    value = _to_base_type(value)
    if type(value) is dict:
        return {_to_base_type(key): _coerce(item, depth - 1) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_coerce(item, depth - 1) for item in value)
    return value


def _to_base_type(value: t.Any) -> t.Any:
    kind = type(value)
    for base, convert in _CONVERTERS.items():
        if issubclass(kind, base):
            return value if kind is base else convert(value)
    # A lazily translated string has all methods of str. It becomes text in the current language.
    if callable(getattr(value, "casefold", None)) and value == str(value):
        return str.__str__(str(value))
    if callable(getattr(kind, "__html__", None)):
        return Markup(value.__html__())
    return value


def _to_datetime(value: datetime) -> datetime:
    return datetime.combine(_to_date(value), value.timetz()).replace(fold=value.fold)


def _to_date(value: date) -> date:
    return date(value.year, value.month, value.day)


_CONVERTERS: t.Final[dict[type, Callable[[t.Any], t.Any]]] = {
    Markup: lambda value: Markup(str.__str__(value)),
    str: str.__str__,
    bool: bool,
    int: int.__int__,
    float: float.__float__,
    dict: lambda value: dict(value.items()),  # of request.form, the first value of each key
    list: list,
    tuple: tuple,
    set: set,
    bytes: bytes,
    UUID: lambda value: UUID(int=value.int),
    Decimal: Decimal,
    datetime: _to_datetime,
    date: _to_date,
    timedelta: lambda value: timedelta(value.days, value.seconds, value.microseconds),
}
"""For each base type, the conversion of a value of a subclass. The first type that fits counts."""
