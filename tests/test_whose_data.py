"""Property test for apps with `KVSESSION_USER_ID_KEY`: whose data are in the session.

The model knows the three rules of docs/flask-session.md, and the owner of each value: the user who
was signed in when the value was put in. It knows nothing of keys that a request has assigned, of
records or of commits. `KVSESSION_FUZZ=20000 pytest --timeout=0 tests/test_whose_data.py` tries more
sequences of requests.
"""

from __future__ import annotations

import os
import typing as t
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import pytest
from flask import Flask, flash, g, get_flashed_messages, session
from hypothesis import given, note, settings
from hypothesis import strategies as st

from .support.apps import Do, MakeApp, store_of
from .support.strategies import quick

KEY = "user_id"
USERS = ["ada", "bob", "eve"]
CSRF = "csrf_token"
ROLES = ["role", "roles"]
KEYS = ["a", "b", *ROLES]

Step = tuple[str, ...]
Steps = list[Step]
"""What one request does."""
Numbers = Iterator[int]

HOOKS = ["fresh", "constant", "again", "role of user"]
"""What a `before_request` function assigns in each request."""

one_step = st.one_of(
    st.tuples(st.just("in"), st.sampled_from(USERS)),
    st.tuples(st.sampled_from(["out", "nobody", "clear", "flash", "show messages", "form"])),
    st.tuples(st.sampled_from(["regenerate", "regenerate without user"])),
    st.tuples(
        st.sampled_from(["set", "set", "append", "drop", "set again", "constant"]),
        st.sampled_from(KEYS),
    ),
)
one_request = st.lists(one_step, min_size=1, max_size=5)
role_taken_away = st.tuples(st.just("role taken away"), st.sampled_from(USERS))
browsing = st.lists(one_request | role_taken_away, min_size=2, max_size=7)
hooks = st.lists(st.tuples(st.sampled_from(HOOKS), st.sampled_from(KEYS)), max_size=2)


@dataclass
class Item:
    """A value, and the user who was signed in when it was put in; None for nobody."""

    value: t.Any
    owner: str | None
    is_set_now: bool = False
    """Whether this request has put it in while nobody was signed in."""


@dataclass
class Expected:
    """One browser's session, by the rules."""

    user: str | None = None
    items: dict[str, Item] = field(default_factory=dict)
    recipients: dict[str, str | None] = field(default_factory=dict)
    """The user to whom each message was flashed: the one who is signed in after that request."""
    cached_token: str | None = None
    """What Flask-WTF keeps in `g`."""

    def begin_request(self) -> None:
        self.cached_token = None
        self.at_first = {key: deepcopy(item.value) for key, item in self.items.items()}
        self.seen: list[tuple[str, t.Any, str, bool]] = []
        """Values of users who are no longer signed in, and whether they left in this request."""
        for key, item in self.items.items():
            item.is_set_now = False
            if owner := item.owner:
                self.seen.append((key, deepcopy(item.value), owner, self.user is not None))
        self.set_aside: dict[str, Item] = {}
        self.taken_over: dict[str, Item] = {}
        self.flashed: list[str] = []

    def end_request(self) -> None:
        self.recipients |= dict.fromkeys(self.flashed, self.user)

    def put(self, key: str, value: t.Any) -> None:
        item = Item(value, self.user)
        if self.user is None:
            equal = [seen for seen in self.seen if seen[:2] == (key, value)]
            here = [owner for *_, owner, left_now in equal if left_now]
            if here:
                item.owner, item.is_set_now = here[-1], True
            elif equal:
                item.owner = equal[-1][2]
            else:
                item.is_set_now = self.at_first.get(key) != value
        self.items[key] = item

    def delete(self, key: str) -> None:
        self.items.pop(key, None)

    def clear(self) -> None:
        self._former_user_leaves()
        self.user, self.items, self.set_aside, self.taken_over, self.flashed = None, {}, {}, {}, []

    def sign(self, user: str | None) -> None:
        if user == self.user:
            return
        if self.user is None:
            self._sign_in(t.cast(str, user))
        elif user is None:
            self._sign_out(self.user)
        else:
            self._former_user_leaves()
            self.items, self.taken_over, self.cached_token = {}, {}, None
        self.user = user

    def _sign_in(self, user: str) -> None:
        self.cached_token = None
        for key, item in list(self.items.items()):
            if item.owner is not None:
                stays = item.owner == user and item.is_set_now
            elif key == CSRF:
                stays = False
            else:
                stays = key not in ROLES or item.is_set_now
            if not stays:
                self.set_aside[key] = self.items.pop(key)
            elif item.owner is None:
                self.taken_over[key] = deepcopy(item)
            item.owner = user if stays else item.owner

    def _sign_out(self, user: str) -> None:
        for key, item in self.items.items():
            before = self.taken_over.get(key)
            if before and before.value == item.value:
                self.items[key] = replace(before, value=item.value)
            else:
                item.owner, item.is_set_now = user, False
                self.seen.append((key, deepcopy(item.value), user, True))
        self.items = self.set_aside | self.items
        self.set_aside, self.taken_over = {}, {}

    def _former_user_leaves(self) -> None:
        for key, item in self.items.items():
            before = self.taken_over.get(key)
            if self.user and not (before and before.value == item.value):
                self.seen.append((key, deepcopy(item.value), self.user, True))


def carry_out(steps: Steps, numbers: Numbers, expected: Expected) -> None:
    """Does the steps in the session and in the model, and compares the two after each step."""
    expected.begin_request()
    for step, *args in steps:
        DO[step](expected, numbers, *args)
        ours = {k: v for k, v in session.items() if k not in (KEY, "_flashes")}
        assert ours == {key: item.value for key, item in expected.items.items()}, step
        assert (session.get(KEY) or None) == expected.user
    expected.end_request()


def sign_in(expected: Expected, numbers: Numbers, user: str) -> None:
    session[KEY] = user
    expected.sign(user)


def sign_out(expected: Expected, numbers: Numbers) -> None:
    session.pop(KEY, None)
    expected.sign(None)


def assign_none(expected: Expected, numbers: Numbers) -> None:
    session[KEY] = None
    expected.sign(None)


def clear(expected: Expected, numbers: Numbers) -> None:
    session.clear()
    expected.clear()


def put(expected: Expected, key: str, value: t.Any) -> None:
    session[key] = value
    expected.put(key, deepcopy(value))


def put_number(expected: Expected, numbers: Numbers, key: str) -> None:
    put(expected, key, [next(numbers)])


def put_constant(expected: Expected, numbers: Numbers, key: str) -> None:
    put(expected, key, ["constant"])


def put_again(expected: Expected, numbers: Numbers, key: str) -> None:
    if key in session:
        put(expected, key, deepcopy(session[key]))


def put_role_of_user(expected: Expected, numbers: Numbers, key: str) -> None:
    if user := session.get(KEY):
        put(expected, key, [f"role of {user}"])


def append(expected: Expected, numbers: Numbers, key: str) -> None:
    if key not in expected.items:
        expected.put(key, [])
    number = next(numbers)
    session.setdefault(key, []).append(number)
    expected.items[key].value.append(number)


def drop(expected: Expected, numbers: Numbers, key: str) -> None:
    session.pop(key, None)
    expected.delete(key)


def regenerate(expected: Expected, numbers: Numbers, *, without_user: bool = False) -> None:
    """Copies the session, clears it, and puts the data in again."""
    data, flashed = dict(session), expected.flashed
    if without_user:
        data.pop(KEY, None)
    clear(expected, numbers)
    for key, value in data.items():
        session[key] = value
        if key == KEY:
            expected.sign(value)
        elif key != "_flashes":
            expected.put(key, deepcopy(value))
    expected.flashed = flashed


def show_form(expected: Expected, numbers: Numbers) -> None:
    """A form with a CSRF token, as Flask-WTF and Flask-SeaSurf make it."""
    if CSRF not in g:
        if CSRF not in session:
            put(expected, CSRF, f"token {next(numbers)} of {expected.user}")
        setattr(g, CSRF, session[CSRF])
    if expected.cached_token is None:
        expected.cached_token = t.cast(str, expected.items[CSRF].value)
    assert getattr(g, CSRF) == expected.cached_token


def flash_message(expected: Expected, numbers: Numbers) -> None:
    message = f"message {next(numbers)}"
    flash(message)
    expected.flashed.append(message)


def show_messages(expected: Expected, numbers: Numbers) -> None:
    get_flashed_messages()


DO: dict[str, Callable[..., None]] = {
    "in": sign_in,
    "out": sign_out,
    "nobody": assign_none,
    "clear": clear,
    "set": put_number,
    "fresh": put_number,
    "constant": put_constant,
    "set again": put_again,
    "again": put_again,
    "role of user": put_role_of_user,
    "append": append,
    "drop": drop,
    "regenerate": regenerate,
    "regenerate without user": partial(regenerate, without_user=True),
    "form": show_form,
    "flash": flash_message,
    "show messages": show_messages,
}


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(as_flask_session=True, user_id_key=KEY, views=False)


@given(hooks, browsing)
@settings(quick, max_examples=int(os.environ.get("KVSESSION_FUZZ", 400)))
def test_no_sequence_of_requests_shows_a_user_another_users_data(
    app: Flask, do: Do, each_request: Steps, requests: list[t.Any]
) -> None:
    """After every step and every request the session holds exactly the expected data, and no
    message to another user."""
    browser, expected, seen = app.test_client(), Expected(), dict[str, t.Any]()
    numbers = count()
    for user in USERS:  # an example that has failed may have left sessions
        store_of(app).revoke_all(user)
    note(f"each request {each_request}, requests {requests}")
    for steps in requests:
        if isinstance(steps, tuple):
            take_role_away(app, expected, steps[1])
        else:
            do(browser, partial(carry_out, each_request + steps, numbers, expected))
        do(browser, lambda: seen.update(data=dict(session)))
        data = seen["data"]
        assert (data.pop(KEY, None) or None) == expected.user
        messages = {message for _, message in data.pop("_flashes", [])}
        assert data == {key: item.value for key, item in expected.items.items()}
        if expected.user is not None:
            assert {expected.recipients[m] for m in messages} <= {None, expected.user}
            assert f"of {expected.user}" in data.get(CSRF, f"of {expected.user}")
        listed = [user for user in USERS for _ in store_of(app).sessions_of(user)]
        assert listed == ([expected.user] if expected.user else [])


def take_role_away(app: Flask, expected: Expected, user: str) -> None:
    store_of(app).update_all(user, {}, ROLES)
    if expected.user == user:
        for key in ROLES:
            expected.items.pop(key, None)
