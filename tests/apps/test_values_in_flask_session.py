"""Law 5 through `flask.session`: another request reads each value from the store again.

A value of a subclass is stored as its base type, and converted at once.
"""

from __future__ import annotations

import enum
import typing as t
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID

import pytest
from flask import Flask, request, session
from hypothesis import given
from markupsafe import Markup
from werkzeug.datastructures import ImmutableMultiDict, MultiDict

from flask_kvsession.errors import UnstorableValue

from ..support.apps import Install
from ..support.commands import CountCommands
from ..support.flask_sessions import browser_of
from ..support.strategies import BERLIN, REPEATED, quick, shape, values

Act = Callable[[], t.Any]


class Shop:
    """An app whose view calls a function of the test, and a browser with a session in the app."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.browser = browser_of(app)
        self._act: Act = lambda: None
        app.add_url_rule("/", "index", self._view, methods=["POST"])

    def __call__(self, act: Act, **request: t.Any) -> t.Any:
        """Calls `act` in a view, after the session was loaded from the store; returns its
        result."""
        self._act = act
        self.browser.post("/", **request)
        return self._result

    def _view(self) -> str:
        self._result = self._act()
        return ""


def bare_app() -> Flask:
    app = Flask("shop")
    app.config.update(TESTING=True, SECRET_KEY="only for tests")
    return app


@pytest.fixture
def shop(install: Install) -> Shop:
    return Shop(install(bare_app()))


@pytest.fixture
def old_shop(either: Install) -> Shop:
    return Shop(either(bare_app()))


def put(value: t.Any) -> None:
    session["value"] = value


def get() -> t.Any:
    return session["value"]


# Values of exact types

EVERY_TYPE: dict[str, t.Any] = {
    "None": None,
    "bool": True,
    "int": 42,
    "large int": 2**200,
    "float": 0.1,
    "str": "naïve 🙂",
    "bytes": b"\x00\xff",
    "list": [1, [2, []]],
    "dict": {"a": {"b": {}}},
    "tuple": (1, ("a",), ()),
    "set": {1, "a", (2,)},
    "Decimal": Decimal("1.10"),
    "UUID": UUID(int=7),
    "Markup": Markup("<b>"),
    "date": date(2024, 2, 29),
    "datetime": datetime(2024, 2, 29, 1, 2, 3, 4),
    "datetime in UTC": datetime(2024, 2, 29, 1, 2, 3, 4, UTC),
    "datetime in a zone": REPEATED.replace(tzinfo=BERLIN, fold=1),
    "timedelta": timedelta(days=-1, microseconds=1),
    "like a tag": {" t": [1]},
}


def test_the_next_request_reads_an_equal_value_of_the_same_type(shop: Shop) -> None:
    """Any storable value comes back from the store equal and of the same type."""

    @given(values)
    @quick
    def check(value: t.Any) -> None:
        shop(lambda: put(value))
        assert shape(shop(get)) == shape(value)

    check()


def test_a_request_that_only_reads_writes_nothing(
    shop: Shop, count_commands: CountCommands
) -> None:
    """A request that reads values of every type, or a converted value, writes nothing back."""
    for value in (EVERY_TYPE, Profile(name="ada")):
        shop(partial(put, value))
        with count_commands() as commands:
            shop(get)
        assert commands.names == ["GET"]


def test_a_change_inside_a_nested_list_is_saved(shop: Shop) -> None:
    """A change inside a nested list is saved without `modified`."""
    shop(lambda: put({"numbers": [[1]]}))
    shop(lambda: session["value"]["numbers"][0].append(2))
    assert shop(get) == {"numbers": [[1, 2]]}


# Values of subclasses


class Text(str):
    pass


class Colour(enum.StrEnum):
    RED = "red"


class Profile(dict[str, t.Any]):
    """A dict subclass, such as Authlib's `UserInfo`."""

    def __getattr__(self, name: str) -> t.Any:
        return self[name]


def counts() -> defaultdict[str, int]:
    found: defaultdict[str, int] = defaultdict(int)
    found["a"] += 1
    return found


def in_any_order(value: t.Any) -> t.Any:
    """The shape of a value without the order of its keys, which Flask's own session sorts."""
    if type(value) is dict:
        return dict, {(type(key), key): in_any_order(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value), [in_any_order(item) for item in value]
    return shape(value)


SUBCLASSES: dict[str, tuple[Act, t.Any]] = {
    "OrderedDict": (lambda: OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "defaultdict": (counts, {"a": 1}),
    "Counter": (lambda: Counter("aab"), {"a": 2, "b": 1}),
    "dict subclass": (lambda: Profile(a="b", c=Profile(d=1)), {"a": "b", "c": {"d": 1}}),
    "str subclass": (lambda: Text("ada"), "ada"),
    "StrEnum": (lambda: Colour.RED, "red"),
    "inside a list": (lambda: [Text("a"), Profile(x=[Text("b")])], ["a", {"x": ["b"]}]),
    "inside a tuple": (lambda: (Text("a"), OrderedDict(x=Colour.RED)), ("a", {"x": "red"})),
    "MultiDict": (lambda: MultiDict([("a", "1"), ("a", "2"), ("b", "3")]), {"a": "1", "b": "3"}),
    "ImmutableMultiDict": (lambda: ImmutableMultiDict([("a", "1")]), {"a": "1"}),
    "str subclass as a key": (lambda: {Text("a"): 1}, {"a": 1}),
}


def test_a_value_of_a_subclass_comes_back_as_flask_s_own_session_gives_it(old_shop: Shop) -> None:
    """A value of a subclass comes back as a value of the class, as from Flask's own session."""
    old_shop(lambda: put({name: make() for name, (make, _) in SUBCLASSES.items()}))
    expected = {name: plain for name, (_, plain) in SUBCLASSES.items()}
    assert in_any_order(old_shop(get)) == in_any_order(expected)


WAYS: dict[str, Callable[[t.Any], t.Any]] = {
    "assignment": lambda value: session.__setitem__("value", value),
    "update": lambda value: session.update(value=value),
    "setdefault": lambda value: session.setdefault("value", value),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_method_that_assigns_a_value_converts_it(
    shop: Shop, way: Callable[[t.Any], t.Any]
) -> None:
    """Every method that assigns a value stores the base type of the value."""

    def act() -> t.Any:
        way(Profile(name=Text("ada")))
        return get()

    assert shape(shop(act)) == shape(shop(get)) == shape({"name": "ada"})


def test_a_form_in_the_session_comes_back_as_a_dict(old_shop: Shop) -> None:
    """`request.form` can be kept for the next page, as in a form of several steps."""
    form = {"name": "ada", "colours": ["red", "blue"]}
    old_shop(lambda: put(request.form), data=form)
    kept = old_shop(get)
    assert type(kept) is dict
    assert kept == {"name": "ada", "colours": "red"}


# Refused keys, and the methods of a dict


def test_a_key_that_is_no_str_is_refused(shop: Shop) -> None:
    """A key of the session that is no str is refused, and an int is named."""

    def act() -> None:
        with pytest.raises(UnstorableValue, match=r"^A session key must be a str, not 1, which"):
            session[1] = 1  # type: ignore[index]
        with pytest.raises(UnstorableValue, match=r"^A session key must be"):
            session[None] = 1  # type: ignore[index]

    shop(act)


def test_the_session_has_the_methods_of_a_dict(old_shop: Shop) -> None:
    """Every method of a dict that apps use works on the session."""

    def act() -> None:
        session.update({"a": 1}, b=2)
        assert session.setdefault("c", 3) == 3
        assert session.pop("b") == 2
        assert session.pop("b", None) is None
        assert dict(session) == {"a": 1, "c": 3} == {**session}
        assert sorted(session) == ["a", "c"] == sorted(session.keys())
        assert ("a", 1) in session.items()
        assert bool(session) and len(session) == 2
        assert session == {"a": 1, "c": 3}
        for key in list(session):
            session.pop(key)
        assert not session
        session["d"] = 4

    old_shop(act)
    assert old_shop(lambda: dict(session)) == {"d": 4}


def test_a_copy_of_the_session_is_independent_of_it(old_shop: Shop) -> None:
    """`session.copy()` has the session's data, and changes of the copy do not change the
    session."""

    def act() -> None:
        session["a"] = 1
        copied = session.copy()  # type: ignore[attr-defined]
        copied["b"] = 2
        assert dict(copied) == {"a": 1, "b": 2}

    old_shop(act)
    assert old_shop(lambda: dict(session)) == {"a": 1}
