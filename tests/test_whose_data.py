"""Property test for apps with `KVSESSION_USER_ID_KEY`: no user finds another user's data.

All data of the user and of the anonymous browser are kept.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest
from flask import Flask, flash, session
from hypothesis import given
from hypothesis import strategies as st

from .support.apps import Do, MakeApp, store_of
from .support.strategies import quick

KEY = "user_id"
USERS = ["ada", "bob"]

Steps = list[tuple[str, ...]]
"""What one request does."""

one_step = st.one_of(
    st.tuples(st.just("in"), st.sampled_from(USERS)),
    st.tuples(st.sampled_from(["out", "nobody", "clear", "read"])),
    st.just(("flash",)),
    st.tuples(st.sampled_from(["set", "append", "drop"]), st.sampled_from(["a", "b"])),
)
browsing = st.lists(st.lists(one_step, min_size=1, max_size=3), min_size=2, max_size=6)


@dataclass
class Expected:
    """What should be in the session, and who owns what; None owns what is a anonymous's."""

    user: str | None = None
    data: dict[str, list[int]] = field(default_factory=dict)
    owners: dict[str, str | None] = field(default_factory=dict)
    said: dict[str, str | None] = field(default_factory=dict)

    def request(self, steps: Steps, numbers: t.Iterator[int]) -> None:
        """The same by other means: by who owns it, and not by what is left behind when."""
        user, assigned, said = self.user, set[str](), list[str]()
        for step, *args in steps:
            if step == "in":
                user = args[0]
            elif step in ("out", "nobody"):
                user = None
            elif step == "clear":
                self.data, self.owners, user, assigned, said = {}, {}, None, set(), []
            elif step == "set":
                self.data[args[0]] = [next(numbers)]
                assigned.add(args[0])
            elif step == "append":
                if args[0] not in self.data:
                    assigned.add(args[0])
                self.data.setdefault(args[0], []).append(next(numbers))
            elif step == "drop":
                self.data.pop(args[0], None)
                assigned.discard(args[0])
            elif step == "flash":
                said.append(f"message {next(numbers)}")
        for key in assigned:
            self.owners[key] = user
        if user is not None:
            if self.user not in (None, user):
                self.data = {key: self.data[key] for key in self.data.keys() & assigned}
            self.data = {k: v for k, v in self.data.items() if self.owners[k] in (None, user)}
            self.owners = dict.fromkeys(self.data, user)
        self.said |= dict.fromkeys(said, user)
        self.user = user


def carry_out(steps: Steps, numbers: t.Iterator[int]) -> None:
    for step, *args in steps:
        if step == "in":
            session[KEY] = args[0]
        elif step == "out":
            session.pop(KEY, None)
        elif step == "nobody":
            session[KEY] = None
        elif step == "clear":
            session.clear()
        elif step == "set":
            session[args[0]] = [next(numbers)]
        elif step == "append":
            session.setdefault(args[0], []).append(next(numbers))
        elif step == "drop":
            session.pop(args[0], None)
        elif step == "flash":
            flash(f"message {next(numbers)}")
        else:
            dict(session)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(as_flask_session=True, user_id_key=KEY, views=False)


@given(browsing)
@quick
def test_no_sequence_of_requests_shows_a_user_another_users_data(
    app: Flask, do: Do, requests: list[Steps]
) -> None:
    """After every request the session holds exactly the expected data, and no message to another
    user."""
    browser, expected, seen = app.test_client(), Expected(), dict[str, t.Any]()
    ours, theirs = count(), count()
    for steps in requests:
        do(browser, partial(carry_out, steps, ours))
        expected.request(steps, theirs)
        do(browser, lambda: seen.update(data=dict(session)))
        data = seen["data"]
        assert data.pop(KEY, None) == expected.user
        said = {message for _, message in data.pop("_flashes", [])}
        assert data == expected.data
        if expected.user is not None:
            assert {expected.said[message] for message in said} <= {None, expected.user}
        listed = [user for user in USERS for _ in store_of(app).sessions_of(user)]
        assert listed == ([expected.user] if expected.user else [])
    do(browser, lambda: session.clear())
