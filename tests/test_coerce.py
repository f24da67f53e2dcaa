"""Values that apps and extensions put into `flask.session` are converted to their base type at
once."""

from __future__ import annotations

import enum
import math
import typing as t
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import hypothesis
import pytest
from flask import Flask, flash, get_flashed_messages, session
from flask.testing import FlaskClient
from flask_babel import LazyString  # type: ignore[import-untyped]
from markupsafe import Markup
from werkzeug.datastructures import ImmutableMultiDict, MultiDict

from flask_kvsession import codec, current_session
from flask_kvsession.compat import coerce
from flask_kvsession.errors import UnstorableValue

from .support.apps import Do, MakeApp
from .support.strategies import shape, values


class Text(str):
    pass


class Whole(int):
    pass


class Real(float):
    pass


class Items(list[t.Any]):
    pass


class Moment(datetime):
    pass


class MomentWithoutFold(datetime):
    def timetz(self) -> time:
        """The time without `fold`, as some libraries' subclasses give it."""
        return super().timetz().replace(fold=0)


class Day(date):
    pass


class Span(timedelta):
    pass


class Id(UUID):
    pass


class Money(Decimal):
    pass


class Octets(bytes):
    pass


class Snippet(Markup):
    pass


class Group(set[t.Any]):
    pass


class Colour(str, enum.Enum):  # noqa: UP042 - its str() is not its value
    RED = "red"


class Word(enum.StrEnum):
    A = "a"


class Profile(dict[str, t.Any]):
    """A dict subclass, such as Authlib's `UserInfo`."""

    def __getattr__(self, name: str) -> t.Any:
        return self[name]


class Level(enum.IntEnum):
    HIGH = 3


class Html:
    def __html__(self) -> str:
        return "<b>x</b>"


Point = namedtuple("Point", "x y")
UTC_MOMENT = datetime(2026, 11, 23, 9, 30, 1, 5, UTC)
MOMENT = Moment(2026, 11, 23, 9, 30, 1, 5, UTC)

PAIRS: list[tuple[t.Any, t.Any]] = [
    (Text("a"), "a"),
    (Colour.RED, "red"),
    (Whole(7), 7),
    (Level.HIGH, 3),
    (Real(1.5), 1.5),
    (Items([1, Text("a")]), [1, "a"]),
    (Point(1, Whole(2)), (1, 2)),
    (Group({1}), {1}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (defaultdict(list, a=[Whole(1)]), {"a": [1]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    ({Text("key"): {"deep": [Point(1, 2)]}}, {"key": {"deep": [(1, 2)]}}),
    (MultiDict([("a", "1"), ("a", "2"), ("b", "3")]), {"a": "1", "b": "3"}),
    (Octets(b"a"), b"a"),
    (Snippet("<i>"), Markup("<i>")),
    (Html(), Markup("<b>x</b>")),
    (Word.A, "a"),
    (Profile(name=Text("ada")), {"name": "ada"}),
    (ImmutableMultiDict([("a", "1")]), {"a": "1"}),
    ((Text("a"), OrderedDict(x=Word.A)), ("a", {"x": "a"})),
    (LazyString(lambda: "hello"), "hello"),
    (Id(int=5), UUID(int=5)),
    (Money("1.50"), Decimal("1.50")),
    (MOMENT, UTC_MOMENT),
    (MomentWithoutFold(2026, 10, 25, 2, 30, fold=1), datetime(2026, 10, 25, 2, 30, fold=1)),
    (Day(2026, 11, 23), date(2026, 11, 23)),
    (Span(days=1, microseconds=1), timedelta(days=1, microseconds=1)),
]


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(as_flask_session=True)


@pytest.mark.parametrize(("given", "stored"), PAIRS, ids=[str(i) for i in range(len(PAIRS))])
def test_a_value_of_a_subclass_is_read_as_its_base_type(
    client: FlaskClient, do: Do, given: t.Any, stored: t.Any
) -> None:
    """The request that assigns a value reads the same value as the next request, with the same type
    of each part."""
    seen: list[t.Any] = []

    def act() -> None:
        session["x"] = given
        seen.append(session["x"])

    do(client, act)
    do(client, lambda: seen.append(session["x"]))
    assert [shape(value) for value in seen] == [shape(stored)] * 2


def test_an_item_appended_to_a_stored_list_is_stored_as_its_base_type(
    client: FlaskClient, do: Do
) -> None:
    """A value that a view appends to a list in the session is converted like an assigned value."""
    do(client, lambda: session.update(x=[]))
    do(client, lambda: session["x"].extend(given for given, _ in PAIRS))
    seen: list[t.Any] = []
    do(client, lambda: seen.append(session["x"]))
    assert shape(seen[0]) == shape([stored for _, stored in PAIRS])


def test_a_list_that_needs_no_conversion_stays_the_assigned_object(
    client: FlaskClient, do: Do
) -> None:
    """The session saves later changes of a list that a view has assigned."""
    cart = [1]

    def act() -> None:
        session["cart"] = cart
        cart.append(2)

    do(client, act)
    seen: list[t.Any] = []
    do(client, lambda: seen.append(session["cart"]))
    assert seen == [[1, 2]]


@hypothesis.given(values)
def test_a_storable_value_is_not_converted(value: t.Any) -> None:
    """A value that the codec accepts is neither copied nor encoded differently."""
    same, encoded = coerce.encode("x", value)
    assert same is value
    assert encoded == codec.encode("x", value)


def test_setdefault_returns_the_value_in_the_session(client: FlaskClient, do: Do) -> None:
    """Changes of the value that `setdefault` returns are saved."""
    do(client, lambda: session.setdefault("x", Items()).append(1))
    seen: list[t.Any] = []
    do(client, lambda: seen.append(session["x"]))
    assert seen == [[1]]


def test_a_lazy_message_is_stored_as_text_of_the_request_that_flashed_it(
    client: FlaskClient, do: Do
) -> None:
    """A lazily translated message is flashed in the language of its request, as text that a
    template escapes."""
    language = ["de"]
    message = LazyString(lambda: {"de": "<Hallo>", "en": "<Hello>"}[language[0]])
    do(client, lambda: flash(message))
    language[0] = "en"
    seen: list[t.Any] = []
    do(client, lambda: seen.extend(get_flashed_messages()))
    assert shape(seen) == shape(["<Hallo>"])


def endless() -> list[t.Any]:
    """A list that contains itself twice, so that each level has twice as many items."""
    items: list[t.Any] = []
    items += [items, items]
    return items


class Obliging:
    """Has every attribute that is asked for, as proxies of remote objects have."""

    def __getattr__(self, name: str) -> Callable[[], t.Any]:
        return lambda: self


class Hostile(dict[str, int]):
    """Raises when its items are asked for."""

    def items(self) -> t.Any:
        raise RuntimeError("of the app's class")


def endless_dict() -> t.Any:
    value: dict[str, t.Any] = defaultdict(list)
    value["again"] = value
    return value


REFUSED: dict[str, Callable[[], t.Any]] = {
    "int keys": lambda: {1: "a"},
    "int keys inside": lambda: [{"a": {2: "b"}}],
    "None keys": lambda: {None: 1},
    "int keys of a subclass": lambda: Counter([1, 2]),
    "not a number": lambda: math.nan,
    "infinity": lambda: Real(math.inf),
    "an object": object,
    "a function": lambda: print,
    "a generator": lambda: iter([]),
    "any attribute": Obliging,
    "raises": lambda: Hostile(a=1),
    "a lone surrogate": lambda: Text("\ud800"),
    "itself": endless,
    "itself, in a dict": endless_dict,
    "itself, in a subclass": lambda: Items([endless()]),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_a_value_without_a_storable_base_type_is_refused(
    client: FlaskClient, do: Do, value: t.Any
) -> None:
    """An unstorable value raises an error that names the key, and changes nothing."""

    def act() -> None:
        with pytest.raises(UnstorableValue, match=r"'x'|nested"):
            session["x"] = value()
        assert "x" not in session

    assert do(client, act).status_code == 200


def test_g_session_without_flask_session_takes_exact_types_only(make_app: MakeApp) -> None:
    """Without `flask.session` a value of a subclass is refused."""
    app = make_app()
    with app.test_request_context(), pytest.raises(UnstorableValue):
        current_session["x"] = Text("a")
