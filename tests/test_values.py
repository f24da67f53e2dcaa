"""The codec of values: a supported value comes back equal and of the same type, any other is
refused."""

from __future__ import annotations

import enum
import importlib.resources
import io
import json
import math
import os
import subprocess
import sys
import typing as t
import zoneinfo
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import flask
import pytest
import redis
from flask import Flask, g, request
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from werkzeug.local import LocalProxy

import flask_kvsession as kvs
from flask_kvsession import codec
from flask_kvsession.errors import KVSessionError, SessionTooLarge, UnstorableValue

from .support.apps import MakeApp, store_of
from .support.clock import Clock
from .support.commands import CountCommands, Keys
from .support.strategies import BERLIN, REPEATED, SKIPPED, SURROGATE, TAGS, quick, shape, values


def test_shape_distinguishes_equal_values_of_different_types() -> None:
    """`shape`, the comparison of these tests, sees a difference of type or fold at any depth."""
    alike: list[list[t.Any]] = [
        [1, True, 1.0, Decimal(1), Decimal("1.0")],
        [0.0, -0.0],
        ["a", Markup("a")],
        [REPEATED, REPEATED.replace(fold=1)],
        [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC"))],
    ]
    for group in alike:
        assert all(value == group[0] for value in group)
        assert len({shape({"a": [(value,)]}) for value in group}) == len(group)


# Accepted values


@given(values)
@quick
def test_a_value_comes_back_equal_and_of_the_same_type(value: t.Any) -> None:
    """An encoded value is decoded to an equal value of the same type, down to its innermost
    part."""
    back = codec.decode("k", codec.encode("k", value))
    assert back == value
    assert shape(back) == shape(value)


@given(values)
@quick
def test_encoding_a_decoded_value_gives_the_same_bytes(value: t.Any) -> None:
    """A decoded value is encoded to the same bytes, so a mere read changes nothing."""
    encoded = codec.encode("k", value)
    assert codec.encode("k", codec.decode("k", encoded)) == encoded


@given(values)
@quick
def test_an_encoded_value_is_plain_json_in_utf_8(value: t.Any) -> None:
    """Any other reader of JSON can read a stored value."""
    json.loads(codec.encode("k", value).decode(), parse_constant=pytest.fail)


@given(st.sampled_from(TAGS), values)
@quick
def test_a_dict_that_looks_like_a_tag_comes_back_as_a_dict(tag: str, value: t.Any) -> None:
    """No dict of an app is mistaken for a tagged value, at any depth."""
    nested = {tag: {tag: value}}
    for looks_like_a_tag in ({tag: value}, nested, [nested], {tag: [nested, (nested,)]}):
        back = codec.decode("k", codec.encode("k", looks_like_a_tag))
        assert shape(back) == shape(looks_like_a_tag)


ZONES = [
    *(None, UTC, BERLIN, ZoneInfo("America/St_Johns")),
    timezone(timedelta(hours=-3, minutes=-30)),
    timezone(timedelta(hours=1, seconds=7)),
    timezone(timedelta(seconds=-1, microseconds=1)),
]
MOMENTS = [REPEATED, SKIPPED, datetime(2024, 7, 1, 12, 0, 0, 1), datetime.min, datetime.max]


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_a_datetime_comes_back_with_its_fold_zone_and_microseconds(zone: tzinfo | None) -> None:
    """A time that a clock shows twice, or never, comes back like any other time."""
    for moment, fold in product(MOMENTS, [0, 1]):
        value = moment.replace(tzinfo=zone, fold=fold)
        back = codec.decode("k", codec.encode("k", value))
        assert back == value
        assert shape(back) == shape(value)
        assert back.utcoffset() == value.utcoffset()


class Plus(tzinfo):
    """A time zone with a fixed offset, as other libraries make it."""

    def __init__(self, offset: timedelta | None) -> None:
        self.offset = offset

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return self.offset

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None


class Seasonal(Plus):
    """A time zone that repeats an hour, so that `fold` decides the offset."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        assert moment is not None
        return timedelta(hours=1 if moment.fold else 2)


def test_a_time_zone_of_another_library_comes_back_as_its_offset() -> None:
    """A datetime with another kind of time zone comes back equal, with a fixed offset."""
    value = datetime(2024, 7, 1, tzinfo=Plus(timedelta(hours=5)))
    back = codec.decode("k", codec.encode("k", value))
    assert back == value
    assert back.tzinfo == timezone(timedelta(hours=5))


def zone_from_file(key: str | None) -> ZoneInfo:
    for folder in zoneinfo.TZPATH:
        with suppress(OSError):
            return ZoneInfo.from_file(io.BytesIO(Path(folder, BERLIN.key).read_bytes()), key=key)
    packaged = importlib.resources.files("tzdata.zoneinfo").joinpath(BERLIN.key)
    return ZoneInfo.from_file(io.BytesIO(packaged.read_bytes()), key=key)


class OwnZoneInfo(ZoneInfo):
    """A subclass that an app may have made."""


@pytest.mark.parametrize(
    "zone",
    [
        ZoneInfo.no_cache("Europe/Berlin"),
        OwnZoneInfo("Europe/Berlin"),
        zone_from_file("Europe/Berlin"),
        zone_from_file("Asia/Tokyo"),
        zone_from_file("Made/Up"),
        zone_from_file(None),
        Seasonal(None),
        Plus(None),
    ],
    ids=["no-cache", "subclass", "file", "another's-name", "unknown", "nameless", "seasonal", "un"],
)
def test_an_odd_time_zone_comes_back_equal_or_is_refused(zone: tzinfo) -> None:
    """A datetime whose zone is not the interpreter's own zone of that name comes back equal, or is
    refused."""
    for moment, fold in product([REPEATED, SKIPPED, datetime(2024, 7, 1)], [0, 1]):
        value = moment.replace(tzinfo=zone, fold=fold)
        try:
            encoded = codec.encode("k", value)
        except UnstorableValue:
            continue
        back = codec.decode("k", encoded)
        assert back == value
        assert back.utcoffset() == value.utcoffset()
        assert codec.encode("k", back) == encoded


WRITE_SETS = """
from datetime import *
from decimal import Decimal
from uuid import UUID
from markupsafe import Markup
from flask_kvsession.codec import encode
words = {"alpha", "beta", "gamma", "", "\\u20ac", Markup("alpha<"), b"alpha", b"\\xff"}
others = {None, False, 1, -1, 2**70, 1.5, Decimal("1.25"), UUID(int=7), date(2024, 1, 1)}
others |= {datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=timezone.utc), timedelta(1)}
others |= {("a", ("b", b"c")), ("b", 1), ()}
print(encode("k", [words, others, words | others, {"z": words, "a": others}]).hex())
"""


def test_every_process_encodes_a_set_to_the_same_bytes() -> None:
    """The encoding does not depend on the hash seed, which decides the order of a set."""
    outputs = set()
    for seed in ("0", "1", "42", "random"):
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(kvs.__file__).parents[1]),
        }
        outputs.add(
            subprocess.run(
                [sys.executable, "-c", WRITE_SETS],
                env=environment,
                capture_output=True,
                check=True,
            ).stdout
        )
    assert len(outputs) == 1
    assert len(outputs.pop()) > 500


# Refused values


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class OwnStr(str):
    __slots__ = ()


class OwnInt(int):
    pass


class OwnFloat(float):
    pass


class OwnList(list[t.Any]):
    pass


class OwnDict(dict[str, t.Any]):
    pass


class OwnTuple(tuple[t.Any, ...]):
    __slots__ = ()


class OwnSet(set[t.Any]):
    pass


class OwnBytes(bytes):
    pass


class OwnMarkup(Markup):
    pass


class OwnUUID(UUID):
    pass


class OwnDecimal(Decimal):
    pass


class OwnDate(date):
    pass


class OwnDatetime(datetime):
    pass


class OwnTimedelta(timedelta):
    pass


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("this object has no repr")


Point = namedtuple("Point", "x y")


def deep(levels: int, wrap: Callable[[t.Any], t.Any] = lambda inner: [inner]) -> t.Any:
    value: t.Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


def self_referring(kind: type) -> t.Any:
    if kind is list:
        many: list[t.Any] = [1]
        many.append(many)
        return many
    if kind is dict:
        named: dict[str, t.Any] = {}
        named["self"] = {"again": [named]}
        return named
    inner: list[t.Any] = []
    inner.append((inner, inner))
    return inner[0]


REFUSED: dict[str, list[t.Any]] = {
    "numbers that JSON does not have": [
        *(math.nan, math.inf, -math.inf),
        *(Decimal("nan"), Decimal("sNaN"), Decimal("-Infinity")),
    ],
    "text that UTF-8 does not have": [SURROGATE, Markup(SURROGATE), {SURROGATE: 1}],
    "keys that are no str": [
        *({1: "a"}, {True: "a"}, {None: "a"}, {b"a": "a"}, {("a",): "a"}, {"a": 1, 2: "b"}),
        *({OwnStr("a"): "a"}, {Markup("a"): "a"}, {10**5000: 1}, {Unprintable(): 1}),
    ],
    "values that hold themselves": [
        *(self_referring(list), self_referring(dict), self_referring(tuple)),
    ],
    "values that are too deep": [
        deep(101),
        deep(100_000),
        deep(100_000, lambda inner: {"a": inner}),
        deep(100_000, lambda inner: (inner,)),
    ],
    "numbers of 5,000 digits": [10**4999, -(10**4999)],
    "subclasses": [
        *(OwnStr("a"), OwnInt(1), OwnFloat(1.5), OwnBytes(b"a"), OwnMarkup("a"), OwnUUID(int=1)),
        *(OwnList([1]), OwnDict(a=1), OwnTuple((1,)), OwnSet({1}), Point(1, 2), OrderedDict(a=1)),
        *(OwnDecimal(1), OwnDate(2024, 1, 1), OwnDatetime(2024, 1, 1), OwnTimedelta(1)),
        *(Level.ONE, Word.A),
    ],
    "other types": [
        *(Colour.RED, frozenset({1}), bytearray(b"a"), memoryview(b"a"), time(12), 1j, range(3)),
        *(Fraction(1, 2), (n for n in [1]), object(), int, len, ..., Unprintable()),
        LocalProxy(lambda: "lazy"),
    ],
}


@pytest.mark.parametrize("values", REFUSED.values(), ids=REFUSED)
def test_an_unsupported_value_is_refused_under_its_key(values: list[t.Any]) -> None:
    """A value outside the supported types, alone or nested, raises an error that names its key."""
    for value in values:
        for holder in (value, [value], ("a", value), {"a": {"b": value}}):
            with pytest.raises(UnstorableValue, match=r"^session\['cart'\]"):
                codec.encode("cart", holder)


WRAPS: list[tuple[Callable[[t.Any], t.Any], str]] = [
    (lambda inner: [0, inner], "[1]"),
    (lambda inner: (inner, 0), "[0]"),
    (lambda inner: {"a": 0, "b": inner}, "['b']"),
    (lambda inner: {" t": inner}, "[' t']"),
]


@given(wraps=st.lists(st.sampled_from(WRAPS), max_size=8))
@pytest.mark.parametrize(
    "value",
    [object(), math.nan, Decimal("nan"), {1: 2}, 10**4999, SURROGATE, Markup(SURROGATE)],
    ids=["object", "nan", "decimal", "key", "int", "surrogate", "markup"],
)
@settings(quick, max_examples=15)
def test_a_refusal_names_the_place_inside_the_value(
    value: t.Any, wraps: list[tuple[Callable[[t.Any], t.Any], str]]
) -> None:
    """The message gives the path to the refused part in Python's notation."""
    place = ""
    for wrap, step in wraps:
        value, place = wrap(value), step + place
    with pytest.raises(UnstorableValue) as refusal:
        codec.encode("cart", value)
    assert str(refusal.value).startswith(f"session['cart']{place} ")


@pytest.mark.parametrize("values", REFUSED.values(), ids=REFUSED)
def test_the_message_of_a_refusal_is_short(values: list[t.Any]) -> None:
    """A message has fewer than 500 characters, however large the value is."""
    for value in values:
        with pytest.raises(UnstorableValue) as refusal:
            codec.encode("cart", [value, "x" * 100_000])
        assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {" t": x}], ids="ltd")
def test_a_value_of_a_hundred_levels_comes_back(wrap: Callable[[t.Any], t.Any]) -> None:
    """The deepest value that is accepted is also read back, whatever the containers are."""
    value = deep(99, wrap)
    assert shape(codec.decode("k", codec.encode("k", value))) == shape(value)


def test_a_session_key_that_is_no_str_is_refused(app: Flask) -> None:
    """A key that is not exactly a str raises an error, which names an int key."""
    other: list[t.Any] = [None, True, 1.5, b"a", ("a",), OwnStr("a"), Markup("a"), Word.A]
    other += [SURROGATE, 10**5000]
    with app.test_request_context():
        for key in [1, *other]:
            with pytest.raises(UnstorableValue) as refusal:
                kvs.current_session[key] = 1
            named = (
                "A session key must be a str, not 1, which" if key == 1 and key is not True else ""
            )
            assert str(refusal.value).startswith(named)
            assert len(kvs.current_session) == 0
            with pytest.raises(UnstorableValue):
                kvs.login_user("ada", {key: 1})


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TAGS), inner, min_size=1, max_size=1)
    ),
    max_leaves=6,
)
tagged_strings = st.dictionaries(
    st.sampled_from(TAGS), st.text("0123456789:-+.TZaEurope/ \0", max_size=12), max_size=1
)


@given(any_json.map(json.dumps).map(str.encode) | tagged_strings.map(json.dumps).map(str.encode))
@settings(quick, max_examples=400)
def test_decoding_any_json_gives_a_value_or_a_kvsession_error(encoded: bytes) -> None:
    """Bytes that `encode` never wrote are decoded or raise `KVSessionError`, and nothing else."""
    with suppress(KVSessionError):
        codec.decode("k", encoded)


UNREADABLE = [
    *(b"", b"{", b"nul", b"\x80\x04K\x01.", b'"\xff"', b"[" * 100_000),
    *(b'{" u": 5}', b'{" u": "x"}', b'{" d": "yesterday"}', b'{" e": [99999999999, 0, 0]}'),
    b'{" d": ["2024-01-01", 0, "No/Where"]}',
    b'{" d": ["2024-01-01", 0, "Europe"]}',
    b'{" d": ["2024-01-01", 0, "../../etc/passwd"]}',
    *(b'{" s": [[1]]}', b'{" o": []}', b'{" c": "x"}'),
]


def test_unreadable_bytes_raise_an_error_that_names_the_key() -> None:
    """A stored value that cannot be decoded raises an error that names the session's key."""
    for encoded in UNREADABLE:
        with pytest.raises(KVSessionError, match=r"session\['cart'\]"):
            codec.decode("cart", encoded)


# Through a request and the store


class Browser:
    """A browser and its session, which a test changes by functions that run in a view."""

    def __init__(self, app: Flask, client: redis.Redis, keys: Keys) -> None:
        self.http, self.redis, self.keys = app.test_client(), client, keys
        self.act: Callable[[], t.Any] = lambda: None
        app.add_url_rule("/act", "act", self._view, methods=["POST"])

    def _view(self) -> dict[str, t.Any]:
        self.act()
        return {}

    def run(self, act: Callable[[], t.Any]) -> None:
        """Runs `act` in a request of this browser."""
        self.act = act
        assert self.http.post("/act").status_code == 200

    def put(self, **data: t.Any) -> None:
        self.run(lambda: g.session.update(data))

    def data(self) -> dict[str, t.Any]:
        """All data, as the next request gets them."""
        found: list[dict[str, t.Any]] = []
        self.run(lambda: found.append(dict(g.session)))
        return found[0]

    def records(self) -> dict[str, t.Any]:
        """The records of this test's sessions, by key."""
        return {key: self.redis.get(key) for key in self.keys() if ":s:" in key}


@pytest.fixture
def browser(make_app: MakeApp, redis_client: redis.Redis, keys: Keys) -> Browser:
    return Browser(make_app(max_session_bytes=10_000), redis_client, keys)


@given(data=st.dictionaries(st.text(), values, max_size=3))
@settings(quick, max_examples=60)
def test_the_next_request_reads_an_equal_value_of_the_same_type(
    browser: Browser, data: dict[str, t.Any]
) -> None:
    """A request reads the values that the request before it assigned, and the read writes
    nothing."""
    try:
        browser.run(lambda: (g.session.clear(), g.session.update(data)))
    except SessionTooLarge:
        return
    written = browser.records()
    back = browser.data()
    assert back == data
    assert all(shape(back[key]) == shape(value) for key, value in data.items())
    assert browser.records() == written


SAMPLE: dict[str, t.Any] = {
    "json": {"a": [1, 2.5, None, True, "é\0\u2028"], "b": {" t": []}},
    "set": {"x", "y", ("z", 1), b"w", Decimal("1.10")},
    "tuple": ([], {}, (Markup("<b>"),)),
    "times": [datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1), date.min, timedelta(-1)],
    "ids": [uuid5(UUID(int=0), "a"), 2**80],
}


def read_all(value: t.Any) -> None:
    """Reads every part of a value."""
    if isinstance(value, dict | list | tuple | set):
        for item in value.values() if isinstance(value, dict) else value:
            read_all(item)


READS: dict[str, Callable[[], t.Any]] = {
    "all": lambda: read_all(dict(g.session)),
    "some": lambda: [g.session.get(key) for key in ("json", "set", "absent")],
    "keys": lambda: (len(g.session), "json" in g.session, list(g.session), bool(g.session)),
    "views": lambda: (
        g.session == {},
        list(g.session.items()),
        repr(g.session),
        g.session.modified,
    ),
    "defaults": lambda: (g.session.setdefault("set", 1), g.session.pop("absent", None)),
    "there-and-back": lambda: g.session["json"]["a"].append(g.session["json"]["a"].pop()),
    "same-again": lambda: g.session.update({"set": set(SAMPLE["set"])}),
}


@pytest.mark.without_near_cache
@pytest.mark.parametrize("is_user", [True, False], ids=["user", "anonymous"])
def test_reading_a_session_writes_nothing(
    browser: Browser, count_commands: CountCommands, is_user: bool
) -> None:
    """However a request reads its session, the request costs one read and the record stays."""
    browser.run(lambda: kvs.login_user("ada", SAMPLE) if is_user else g.session.update(SAMPLE))
    before = browser.records()
    for name, read in READS.items():
        with count_commands() as commands:
            browser.run(read)
        assert commands.names == ["GET"], name
        assert browser.records() == before, name


IN_PLACE: dict[str, tuple[t.Any, Callable[[t.Any], t.Any], t.Any]] = {
    "list": ([1], lambda held: held.append(2), [1, 2]),
    "list-item": ([1, 2], lambda held: held.reverse(), [2, 1]),
    "list-type": ([1], lambda held: held.__setitem__(0, True), [True]),
    "dict": ({"a": 1}, lambda held: held.update(b=2), {"a": 1, "b": 2}),
    "dict-order": ({"a": 1, "b": 2}, lambda held: held.update(a=held.pop("a")), {"b": 2, "a": 1}),
    "dict-pop": ({"a": 1}, lambda held: held.pop("a"), {}),
    "set": ({1}, lambda held: held.add("x"), {1, "x"}),
    "deep": ({"a": [{"b": [1]}]}, lambda h: h["a"][0]["b"].append(2), {"a": [{"b": [1, 2]}]}),
    "in-tuple": (([1], 2), lambda held: held[0].append(2), ([1, 2], 2)),
    "in-tuple-dict": (({"s": {1}},), lambda held: held[0]["s"].add(2), ({"s": {1, 2}},)),
}
in_place = pytest.mark.parametrize(
    ("value", "change", "expected"), IN_PLACE.values(), ids=IN_PLACE.keys()
)


@in_place
def test_a_change_inside_a_stored_value_is_saved(
    browser: Browser,
    count_commands: CountCommands,
    value: t.Any,
    change: Callable[[t.Any], t.Any],
    expected: t.Any,
) -> None:
    """A change inside a stored value is detected and written once."""
    browser.run(lambda: g.session.update(v=json_copy(value)))
    with count_commands() as commands:
        browser.run(lambda: change(g.session["v"]))
    assert commands.names == ["GET", "EVALSHA"]
    assert shape(browser.data()) == shape({"v": expected})


def json_copy(value: t.Any) -> t.Any:
    """A copy of the value, so that no test changes the table."""
    return codec.decode("k", codec.encode("k", value))


@pytest.mark.parametrize(
    ("is_user", "act"),
    [
        (True, lambda: None),
        (True, lambda: kvs.rotate_token()),
        (True, lambda: kvs.confirm_login()),
        (False, lambda: None),
        (False, lambda: kvs.rotate_token()),
        (False, lambda: kvs.login_user("bob")),
    ],
    ids=["user", "rotate", "confirm", "anonymous", "rotate-anonymous", "login"],
)
def test_a_value_read_before_an_act_belongs_to_the_session_after_it(
    browser: Browser, act: Callable[[], t.Any], is_user: bool
) -> None:
    """A change in a value that was read before a rotation or login is saved after it."""
    data = {name: json_copy(value) for name, (value, _, _) in IN_PLACE.items()}
    browser.run(lambda: kvs.login_user("ada", data) if is_user else g.session.update(data))

    def change_after_the_act() -> None:
        read = {name: g.session[name] for name in IN_PLACE}
        act()
        for name, (_, change, _) in IN_PLACE.items():
            assert g.session[name] is read[name]
            change(read[name])
        assert g.session.modified

    browser.run(change_after_the_act)
    back, expected = browser.data(), {name: after for name, (_, _, after) in IN_PLACE.items()}
    assert {name: shape(value) for name, value in back.items()} == {
        name: shape(value) for name, value in expected.items()
    }


def test_an_assigned_list_stays_the_object_in_the_session(browser: Browser) -> None:
    """Within a request the session holds the assigned object itself, and saves the object's last
    state."""

    def assign() -> None:
        cart: list[int] = [1]
        g.session["cart"] = cart
        assert g.session["cart"] is cart
        cart.append(2)

    browser.run(assign)
    assert browser.data() == {"cart": [1, 2]}


def test_one_list_under_two_keys_is_stored_as_two_lists(browser: Browser) -> None:
    """One list under two keys comes back as two equal lists."""
    shared = [1]
    browser.put(a=shared, b=[shared, shared])
    browser.run(lambda: g.session["a"].append(2))
    assert browser.data() == {"a": [1, 2], "b": [[1], [1]]}


def test_changing_a_value_after_its_request_changes_nothing(browser: Browser) -> None:
    """A value that a request has read belongs to that request alone."""
    browser.put(cart=[1])
    taken = browser.data()
    taken["cart"].append(2)
    assert browser.data() == {"cart": [1]}


# Failed assignments


@pytest.fixture
def with_record(browser: Browser) -> Browser:
    browser.run(lambda: kvs.login_user("ada", {"cart": [1], "old": "kept"}))
    return browser


@pytest.mark.parametrize("value", [object(), [deep(100)], 10**4999], ids=["type", "depth", "int"])
def test_a_refused_assignment_leaves_the_session_unchanged(
    with_record: Browser, value: t.Any
) -> None:
    """A refused assignment changes neither the session of its request nor the record."""
    before = with_record.records()

    def assign() -> None:
        with pytest.raises(UnstorableValue, match=r"^session\['cart'\]"):
            g.session["cart"] = value
        with pytest.raises(UnstorableValue, match=r"^session\['new'\]"):
            g.session.setdefault("new", value)
        assert dict(g.session) == {"cart": [1], "old": "kept"}
        assert not g.session.modified

    with_record.run(assign)
    assert with_record.records() == before


@pytest.mark.parametrize("value", [object(), 10**4999], ids=["type", "int"])
def test_a_login_with_unstorable_data_leaves_the_session_unchanged(
    with_record: Browser, value: t.Any
) -> None:
    """A login whose data cannot be stored ends no session and creates no session."""
    before, cookie = with_record.records(), with_record.http.get_cookie("kvsession")

    def login() -> None:
        with pytest.raises(UnstorableValue, match=r"^session\['cart'\]"):
            kvs.login_user("bob", {"fine": 1, "cart": [value]})
        assert g.session.user_id == "ada"

    with_record.run(login)
    assert with_record.records() == before
    assert with_record.http.get_cookie("kvsession") == cookie


def test_an_update_of_all_sessions_with_unstorable_data_changes_none(with_record: Browser) -> None:
    """Changes that cannot be stored change no session of the user."""
    before = with_record.records()

    def update() -> None:
        with pytest.raises(UnstorableValue, match=r"^session\['cart'\]"):
            kvs.update_all_sessions("ada", {"old": "lost", "cart": object()})

    with_record.run(update)
    assert with_record.records() == before


def test_an_unstorable_item_appended_to_a_list_is_never_written(with_record: Browser) -> None:
    """An unstorable item in a stored list fails the request and leaves the record unchanged."""
    before = with_record.records()
    with pytest.raises(UnstorableValue, match=r"^session\['cart'\]\[1\]"):
        with_record.run(lambda: g.session["cart"].append(object()))
    assert with_record.records() == before


@pytest.mark.parametrize(
    "act",
    [
        kvs.logout_user,
        lambda: kvs.revoke_session(g.session.id),
        kvs.revoke_all_sessions,
        lambda: kvs.login_user("bob"),
        lambda: kvs.login_user("bob", {"cart": [2]}),
    ],
    ids=["logout", "revoke", "revoke-all", "login", "login-with-another"],
)
def test_an_act_that_drops_pending_changes_ignores_unstorable_ones(
    with_record: Browser, act: Callable[[], t.Any]
) -> None:
    """An act that drops this session's pending changes is done completely, whatever they hold."""

    def drop() -> None:
        g.session["cart"].append(object())
        act()
        assert g.session.get("cart") in (None, [2])

    with_record.run(drop)
    assert with_record.data() in ({}, {"cart": [2]})


@pytest.mark.parametrize("act", [kvs.rotate_token, kvs.confirm_login], ids=["rotate", "confirm"])
def test_a_rotation_that_would_write_an_unstorable_value_is_not_done(
    with_record: Browser, act: Callable[[], t.Any]
) -> None:
    """A rotation that cannot write the pending changes is not done, and the old cookie stays
    valid."""
    before = with_record.records()

    def rotate() -> None:
        g.session["cart"].append(object())
        with pytest.raises(UnstorableValue, match=r"^session\['cart'\]\[1\]"):
            act()
        g.session["cart"].pop()

    with_record.run(rotate)
    assert with_record.records() == before
    assert with_record.data() == {"cart": [1], "old": "kept"}


def test_an_unreadable_value_raises_only_when_its_key_is_read(
    with_record: Browser, redis_client: redis.Redis
) -> None:
    """A value that this process cannot read raises when its key is read; other keys can be read,
    and the unreadable key can be deleted."""
    ((key, raw),) = with_record.records().items()
    gone = b'{" d":["2024-01-01T00:00:00",0,"No/Where"]}'
    redis_client.set(key, raw.replace(b'"cart":[1]', b'"cart":' + gone), ex=60)

    def look() -> None:
        with pytest.raises(KVSessionError, match=r"session\['cart'\]"):
            g.session["cart"]
        assert g.session["old"] == "kept"
        del g.session["cart"]

    with_record.run(look)
    assert with_record.data() == {"old": "kept"}


# The size limit


def padded(size: int) -> str:
    """Text that takes `size` bytes in the store."""
    return "x" * (size - 2)


def test_a_value_over_the_size_limit_is_refused_at_its_assignment(with_record: Browser) -> None:
    """The assignment that would pass the limit raises an error that names key, limit and
    setting."""
    before = with_record.records()

    def assign() -> None:
        with pytest.raises(SessionTooLarge, match=r"session\['cart'\].*MAX_SESSION_BYTES.*10000"):
            g.session["cart"] = padded(10_001)
        g.session["half"] = padded(6_000)
        with pytest.raises(SessionTooLarge, match=r"session\['rest'\]"):
            g.session["rest"] = padded(6_000)
        g.session["half"] = padded(6_001)  # replaces the first value and is not added to it
        del g.session["half"]
        g.session["rest"] = padded(6_000)
        del g.session["rest"]
        assert g.session["cart"] == [1]

    with_record.run(assign)
    assert with_record.records() == before


def test_a_value_that_an_assignment_accepts_can_be_committed(browser: Browser) -> None:
    """A value that would pass the size limit is refused at its assignment, so no request fails for
    its size after its view has returned."""
    outcomes = set()
    for missing in range(0, 900, 60):
        refusals: list[SessionTooLarge] = []

        def assign(size: int, refusals: list[SessionTooLarge]) -> None:
            try:
                g.session["v"] = padded(size)
            except SessionTooLarge as refusal:
                refusals.append(refusal)

        browser.http.delete_cookie("kvsession")
        browser.run(partial(assign, 10_000 - missing, refusals))
        assert bool(browser.data()) != bool(refusals)
        outcomes.add(bool(refusals))
    assert outcomes == {True, False}


def test_keys_count_towards_the_size_limit(browser: Browser) -> None:
    """A long key, and many keys at once, are refused like a large value."""

    def assign() -> None:
        with pytest.raises(SessionTooLarge):
            g.session["k" * 10_001] = 1
        with pytest.raises(SessionTooLarge):
            g.session.update({f"key-{n:03}": 1 for n in range(1_000)})
        g.session.clear()

    browser.run(assign)


def test_a_list_that_grows_over_the_limit_leaves_the_record_unchanged(with_record: Browser) -> None:
    """A list that has grown too large fails its request, and the record stays unchanged."""
    before = with_record.records()
    with pytest.raises(SessionTooLarge):
        with_record.run(lambda: g.session["cart"].append(padded(10_000)))
    assert with_record.records() == before
    with_record.run(lambda: g.session["cart"].append(2))
    assert with_record.data()["cart"] == [1, 2]


def test_a_login_with_data_over_the_limit_leaves_the_session_unchanged(
    with_record: Browser,
) -> None:
    """A login with too much data is refused completely."""
    before = with_record.records()

    def login() -> None:
        with pytest.raises(SessionTooLarge):
            kvs.login_user("ada", {"v": padded(10_001)})
        assert g.session["cart"] == [1]

    with_record.run(login)
    assert with_record.records() == before


def test_a_login_that_anonymous_data_make_too_large_is_refused(browser: Browser) -> None:
    """The anonymous session's data and the login's data count together, and the anonymous session
    stays."""
    browser.put(visit=padded(6_000))
    before = browser.records()

    def login() -> None:
        with pytest.raises(SessionTooLarge):
            kvs.login_user("ada", {"v": padded(6_000)})
        assert not g.session.is_authenticated

    browser.run(login)
    assert browser.records() == before
    assert browser.data() == {"visit": padded(6_000)}


@pytest.fixture
def full(make_app: MakeApp, redis_client: redis.Redis, keys: Keys) -> Browser:
    """A browser whose session of ada's has no byte left below the size limit."""
    browser = Browser(make_app(max_session_bytes=10_000), redis_client, keys)
    browser.run(lambda: kvs.login_user("ada", {"role": "admin", "v": padded(8_000)}))
    (raw,) = browser.records().values()
    data = json.loads(raw)["data"]
    size = sum(len(json.dumps(key)) + len(json.dumps(value)) + 2 for key, value in data.items())
    tight = Browser(make_app(max_session_bytes=size), redis_client, keys)
    cookie = browser.http.get_cookie("kvsession")
    assert cookie
    tight.http.set_cookie("kvsession", cookie.value)
    return tight


LONG_AGENT = {"User-Agent": '"' * 512}


def test_a_renewal_without_room_in_the_record_does_not_fail_the_request(
    full: Browser, clock: Clock
) -> None:
    """A request whose longer user agent does not fit into a full session succeeds all the same."""
    clock.advance(minutes=6)
    assert full.http.get("/me", headers=LONG_AGENT).status_code == 200


def test_a_session_larger_than_a_lowered_limit_can_still_be_used(
    full: Browser, make_app: MakeApp, clock: Clock
) -> None:
    """A session from before the limit was lowered can be read, renewed and logged out."""
    lowered = make_app(max_session_bytes=2_000)
    http = lowered.test_client()
    cookie = full.http.get_cookie("kvsession")
    assert cookie
    http.set_cookie("kvsession", cookie.value)
    clock.advance(minutes=6)
    assert http.get("/me").status_code == 200
    assert http.post("/logout").status_code == 200


def test_values_over_a_lowered_limit_can_be_made_smaller(full: Browser, make_app: MakeApp) -> None:
    """In a session made before the limit was lowered, a value can be made smaller, also if the data
    stay over the limit, but not larger."""
    lowered = Browser(make_app(max_session_bytes=2_000), full.redis, full.keys)
    cookie = full.http.get_cookie("kvsession")
    assert cookie
    lowered.http.set_cookie("kvsession", cookie.value)
    lowered.put(v=padded(5_000))
    with pytest.raises(SessionTooLarge):
        lowered.put(v=padded(5_001))
    assert lowered.data() == {"role": "admin", "v": padded(5_000)}


def test_login_over_an_anonymous_session_over_a_lowered_limit_carries_its_data_over(
    make_app: MakeApp, redis_client: redis.Redis, keys: Keys
) -> None:
    """An anonymous browser whose data exceed a lowered limit can log in, and keeps its data."""
    browser = Browser(make_app(max_session_bytes=10_000), redis_client, keys)
    browser.put(v=padded(5_000))
    http = make_app(max_session_bytes=2_000).test_client()
    cookie = browser.http.get_cookie("kvsession-anonymous")
    assert cookie
    http.set_cookie("kvsession-anonymous", cookie.value)
    assert http.post("/login/ada").status_code == 200
    assert http.get("/me").get_json()["data"] == {"v": padded(5_000)}


def test_value_that_was_replaced_counts_with_its_new_size(browser: Browser) -> None:
    """After a stored value was replaced by a larger one, the next assignment that exceeds the limit
    raises at once."""
    browser.put(v="small")

    def act() -> None:
        g.session["v"] = padded(6_000)
        with pytest.raises(SessionTooLarge):
            g.session["w"] = padded(6_000)

    browser.run(act)
    assert browser.data() == {"v": padded(6_000)}


def test_an_update_of_all_sessions_changes_the_others_if_one_is_full(
    full: Browser, clock: Clock
) -> None:
    """An update of all sessions changes every session that has room, and raises for the session
    that has none."""
    app = full.http.application
    others = [app.test_client() for _ in range(2)]
    for http in others:
        http.post("/login/ada", json={"data": {"role": "admin"}})
    clock.advance(minutes=6)
    full.http.get("/me")  # makes this session the most recently used one
    with app.app_context(), pytest.raises(SessionTooLarge):
        kvs.update_all_sessions("ada", {"role": "a reader from now on"})
    roles = [http.get("/me").get_json()["data"]["role"] for http in others]
    assert roles == ["a reader from now on"] * 2


def test_a_session_or_request_object_is_refused_as_a_value(browser: Browser) -> None:
    """`flask.session`, `current_session` and `request` are no values, and refusing them changes
    nothing."""

    def assign() -> None:
        with pytest.raises(UnstorableValue):
            g.session["copy"] = flask.session
        with pytest.raises(UnstorableValue):
            g.session["self"] = kvs.current_session
        with pytest.raises(UnstorableValue):
            g.session["request"] = request

    browser.run(assign)
    assert browser.records() == {}


def test_the_store_refuses_an_unstorable_value_by_its_key(app: Flask) -> None:
    """Outside a request too, an unstorable value raises an error that names its key."""
    with pytest.raises(UnstorableValue, match=r"^session\['role'\]"):
        store_of(app).update_all("ada", {"role": Colour.RED})


def test_a_refused_assignment_does_not_disturb_the_next_request(client: FlaskClient) -> None:
    """The next request of the same browser reads the session as it was before the failed
    request."""
    client.post("/data", json={"a": 1})
    with pytest.raises(UnstorableValue):
        client.post("/data", data='{"a": NaN}', content_type="application/json")
    assert client.get("/data").get_json() == {"a": 1}
