"""Hypothesis strategies for values that a session stores, and a strict comparison of values."""

from __future__ import annotations

import typing as t
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from markupsafe import Markup

quick = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

BERLIN = ZoneInfo("Europe/Berlin")
REPEATED = datetime(2024, 10, 27, 2, 30)
SKIPPED = datetime(2024, 3, 31, 2, 30)
TAGS = [" b", " c", " d", " e", " i", " m", " o", " s", " t", " u", " y", " z", " x", " ", "", "t"]
SURROGATE = "a\ud800b"


def shape(value: t.Any) -> t.Any:
    """Everything that distinguishes a value, so that 1, True, 1.0 and Decimal(1) all differ."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, tuple(shape(item) for item in value)
    if kind is set:
        return kind, frozenset(shape(item) for item in value)
    if kind is dict:
        return kind, tuple((shape(key), shape(item)) for key, item in value.items())
    if kind is datetime:
        zone = value.tzinfo
        name = zone.key if isinstance(zone, ZoneInfo) else value.utcoffset()
        return kind, value.replace(tzinfo=None).isoformat(), value.fold, type(zone), name
    return kind, repr(value)


offsets = st.timedeltas(
    timedelta(hours=-24, microseconds=1), timedelta(hours=24, microseconds=-1)
).map(timezone)
zones = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Tokyo", "UTC", "Etc/GMT+12"])
datetimes = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    st.datetimes() | st.sampled_from([REPEATED, SKIPPED, datetime.min, datetime.max]),
    st.none() | offsets | zones.map(ZoneInfo),
    st.integers(0, 1),
)
edges = [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 2**53 + 1, 10**4299]
leaves: st.SearchStrategy[t.Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(edges),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.text().map(Markup),
    st.binary(),
    st.uuids(allow_nil=True),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.dates(),
    datetimes,
    st.timedeltas(),
)
dict_keys = st.text() | st.sampled_from(TAGS)
hashables = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3).map(tuple))


def nest(inner: st.SearchStrategy[t.Any]) -> st.SearchStrategy[t.Any]:
    some = st.lists(inner, max_size=4)
    sets = st.sets(hashables, max_size=4)
    return st.one_of(some, some.map(tuple), sets, st.dictionaries(dict_keys, inner, max_size=4))


values = st.recursive(leaves, nest, max_leaves=12)
