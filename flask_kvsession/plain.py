"""Values as their base types: what apps and extensions put into `flask.session` as they find it.

Authlib stores its `UserInfo`, a view `request.form`, and a message may be translated only when it
is shown. None of these would come back as it was. In `flask.session` they become what Flask's own
session makes of them, at once, so that the same request reads what the next one will.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from markupsafe import Markup

from . import codec
from .errors import UnstorableValue


def encode(key: str, value: t.Any) -> tuple[t.Any, bytes]:
    """The value that can be stored in place of this one, and its bytes. It is the very object, if
    that can be: a list that the app goes on changing stays the one in the session.

    Raises `UnstorableValue` where the value has no base type that can be stored.
    """
    try:
        return value, codec.encode(key, value)
    except UnstorableValue as refusal:
        try:
            value = _plain(value, codec.MAX_DEPTH)
        except Exception:  # of somebody's class, which is none of the types that it derives from
            raise refusal from None
        return value, codec.encode(key, value)


def _plain(value: t.Any, depth: int) -> t.Any:
    if depth == 0:
        raise UnstorableValue
    value = _of_base_type(value)
    if type(value) is dict:
        return {_of_base_type(key): _plain(item, depth - 1) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_plain(item, depth - 1) for item in value)
    return value


def _of_base_type(value: t.Any) -> t.Any:
    kind = type(value)
    for base, convert in _BASES.items():
        if issubclass(kind, base):
            return value if kind is base else convert(value)
    # A lazily translated string answers for every method of str. It is the text that it is now.
    if callable(getattr(value, "casefold", None)) and value == str(value):
        return str.__str__(str(value))
    if callable(getattr(kind, "__html__", None)):
        return Markup(value.__html__())
    return value


def _datetime(value: datetime) -> datetime:
    return datetime.combine(_date(value), value.timetz()).replace(fold=value.fold)


def _date(value: date) -> date:
    return date(value.year, value.month, value.day)


_BASES: t.Final[dict[type, Callable[[t.Any], t.Any]]] = {
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
    datetime: _datetime,
    date: _date,
    timedelta: lambda value: timedelta(value.days, value.seconds, value.microseconds),
}
"""How a value of a subclass becomes one of the class; of two that fit, the first."""
