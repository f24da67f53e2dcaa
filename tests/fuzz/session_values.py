"""Fuzz target: the values of a session, made of bytes by Hypothesis."""

from __future__ import annotations

import math
import typing as t
from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from functools import cache

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from flask_kvsession import codec
from flask_kvsession.errors import UnstorableValue

from ..support.strategies import SURROGATE, dict_keys, leaves, quick, shape


class _Text(str):
    """A subclass that an app may have made."""


class _Number(IntEnum):
    ONE = 1


class _Word(StrEnum):
    A = "a"


class _Day(date):
    """A subclass that an app may have made."""


unusual = st.one_of(
    st.floats(),
    st.decimals(allow_nan=True, allow_infinity=True),
    st.complex_numbers(),
    st.integers(4290, 4310).map(lambda digits: 10**digits),
    st.text(st.characters(codec=None)),
    st.sampled_from([SURROGATE, Markup(SURROGATE), _Text("a"), _Number.ONE, _Word.A, object()]),
    st.sampled_from([_Day(2024, 1, 1), math.nan, -math.inf, Decimal("sNaN"), Ellipsis]),
    st.sampled_from([bytearray(b"a"), memoryview(b"a"), range(3), frozenset({1}), datetime, len]),
)


def nest(inner: st.SearchStrategy[t.Any]) -> st.SearchStrategy[t.Any]:
    some = st.lists(inner, max_size=4)
    keys = dict_keys | st.integers() | st.none() | st.booleans() | st.sampled_from([SURROGATE])
    return some | some.map(tuple) | st.dictionaries(keys, inner, max_size=4)


any_values = st.recursive(leaves | unusual, nest, max_leaves=12)


def check_value(value: t.Any) -> None:
    """Either the encoder refuses the value and names its key, or the value comes back the same."""
    refusal = None
    try:
        encoded = codec.encode("cart", value)
    except UnstorableValue as error:
        refusal = str(error)
    if refusal is not None:
        assert "session['cart']" in refusal
        assert not is_plain(value)
        return
    back = codec.decode("cart", encoded)
    assert shape(back) == shape(value)
    assert back == value
    assert codec.encode("cart", back) == encoded


def is_plain(value: t.Any) -> bool:
    """Whether the value is one that every JSON library restores."""
    if type(value) is str:
        return value.isascii()
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is list:
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and is_plain(key) for key in value) and all(
            map(is_plain, value.values())
        )
    return value is None or type(value) is bool or (type(value) is int and abs(value) < 2**53)


def fuzz_session_values(data: bytes) -> None:
    """Hypothesis makes a value of the data."""
    target().hypothesis.fuzz_one_input(data)


@cache
def target() -> t.Any:
    return quick(given(any_values)(check_value))


SEEDS = [bytes(64), b"\xff" * 64, bytes(range(256))]
