"""An exception from outside, such as a time limit of the worker, at every line of the package.

Real time limits raise in a signal handler, which Python calls between two lines of any code. Here a
trace function raises at the n-th line, for each n. So every place is tried, and none by luck.
"""

from __future__ import annotations

import linecache
import sys
import typing as t
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from types import FrameType

import pytest
from flask import Flask, g, session

import flask_kvsession as kvs

from .support.apps import Do, MakeApp, store_of
from .support.browsers import SignIn, token_of
from .support.near_cache import cache_of, catch_up, key_of, prove

# If an exception comes between the creation of a socket and its first owner, Python closes the
# socket, with this warning.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

PACKAGE = str(kvs.__file__).rsplit("/", 1)[0]


class TimeLimit(BaseException):
    """The exception from outside."""


class TimeLimitError(Exception):
    """An exception from outside that the app may take for one of its own."""


@contextmanager
def interrupted_at(line: int, exception: type[BaseException]) -> Iterator[list[int]]:
    """Raises the exception at the n-th line of the package that the block runs. The list has the
    lines that are left: it is above 0 if the block ran fewer lines."""
    left = [line]

    def trace(frame: FrameType, event: str, arg: object) -> t.Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and not is_with(frame):
            left[0] -= 1
            if left[0] == 0:
                raise exception
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield left
    except exception:
        pass
    finally:
        sys.settrace(before)


def is_with(frame: FrameType) -> bool:
    """Whether the line is that of a `with`. Python runs it again at the end of the block. A signal
    handler cannot raise there, before the lock is released."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith("with ")


def every_line(
    run: Callable[[int], list[int]], *, at_least: int, check: Callable[[], object]
) -> None:
    """Calls `run` for the first line, the second line and so on, until it runs to its end. Calls
    `check` after each."""
    for line in range(1, 5000):
        left = run(line)
        check()
        if left[0] > 0:
            assert line > at_least
            return
    raise AssertionError("the block never runs to its end")


each_exception = pytest.mark.parametrize("exception", [TimeLimit, TimeLimitError])
DATA = {"cart": [1, 2], "name": "Ada"}


@each_exception
def test_a_read_that_is_interrupted_changes_nothing(
    app: Flask, sign_in: SignIn, do: Do, exception: type[BaseException]
) -> None:
    """If the load is interrupted anywhere and the view goes on, the record stays as it was."""
    browser = sign_in(app, data=DATA)
    [before] = store_of(app).sessions_of("ada")
    left = [0]

    def run(line: int) -> list[int]:
        def act() -> None:
            nonlocal left
            with interrupted_at(line, exception) as left:
                g.session.get("name")

        assert do(browser, act).status_code == 200
        return left

    def check() -> None:
        assert [each.raw for each in store_of(app).sessions_of("ada")] == [before.raw]

    every_line(run, at_least=60, check=check)


def test_a_read_after_an_interrupted_load_finds_the_data(
    app: Flask, sign_in: SignIn, do: Do
) -> None:
    """If the load is interrupted, the next read loads the session, and a later write is kept."""
    browser = sign_in(app, data=DATA)
    left, n = [0], 0

    def run(line: int) -> list[int]:
        def act() -> None:
            nonlocal left, n
            with interrupted_at(line, TimeLimit) as left:
                g.session.get("name")
            assert dict(g.session) in ({**DATA, "n": n}, DATA)
            n += 1
            g.session["n"] = n

        do(browser, act)
        return left

    def check() -> None:
        assert browser.get("/data").get_json() == {**DATA, "n": n}

    every_line(run, at_least=60, check=check)


CHANGES: dict[str, Callable[[], object]] = {
    "an assignment": lambda: session.update(name="Bob"),
    "a removal": lambda: session.pop("name"),
    "a removal of all": lambda: session.clear(),
    "a switch of users": lambda: session.update(user_id="bob"),
    "a logout": lambda: session.pop("user_id"),
}


@each_exception
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_that_is_interrupted_is_made_whole_or_not_at_all(
    make_app: MakeApp, exception: type[BaseException], change: Callable[[], object]
) -> None:
    """After an interrupted change of `flask.session`, a session has the data of before or after the
    change, and nothing in between."""
    app = make_app(as_flask_session=True, user_id_key="user_id", views=False)

    @app.post("/in")
    def log_in() -> t.Any:
        session["user_id"] = "ada"
        session.update(DATA)
        return {}

    @app.get("/data")
    def data() -> t.Any:
        return dict(session)

    line, left = 0, [0]

    @app.post("/change")
    def make_change() -> t.Any:
        nonlocal left
        len(session)  # loads
        with interrupted_at(line, exception) as left:
            change()
        return {}

    def after(number: int) -> dict[str, t.Any]:
        nonlocal line
        line = number
        browser = app.test_client()
        browser.post("/in")
        browser.post("/change")
        assert token_of(browser, "session") or change is CHANGES["a removal of all"]
        return t.cast("dict[str, t.Any]", browser.get("/data").get_json())

    unchanged, changed = after(1), after(100_000)
    assert unchanged == {"user_id": "ada", **DATA}
    assert changed != unchanged
    seen: list[dict[str, t.Any]] = []

    def run(number: int) -> list[int]:
        seen.append(after(number))
        return left

    every_line(run, at_least=10, check=lambda: None)
    assert [found for found in seen if found not in (unchanged, changed)] == []
    assert unchanged in seen


def test_a_rotation_after_an_interrupted_change_writes_no_half_of_it(make_app: MakeApp) -> None:
    """If the view goes on after an interrupted switch of users and rotates the token, the session
    has the data of before or after the switch."""
    app = make_app(as_flask_session=True, user_id_key="user_id", views=False)
    line, left = 0, [0]

    @app.post("/in")
    def log_in() -> t.Any:
        session.update(user_id="ada", **DATA)
        return {}

    @app.post("/switch")
    def switch() -> t.Any:
        nonlocal left
        len(session)  # loads
        with interrupted_at(line, TimeLimit) as left:
            session["user_id"] = "bob"
        kvs.rotate_token()
        return {}

    @app.get("/data")
    def data() -> t.Any:
        return dict(session)

    def run(number: int) -> list[int]:
        nonlocal line
        line = number
        browser = app.test_client()
        browser.post("/in")
        assert browser.post("/switch").status_code == 200
        assert browser.get("/data").get_json() in ({"user_id": "ada", **DATA}, {"user_id": "bob"})
        return left

    every_line(run, at_least=30, check=lambda: None)


def test_an_interrupted_change_of_the_near_cache_blocks_nobody(
    make_app: MakeApp, sign_in: SignIn
) -> None:
    """Wherever a change of the near cache is interrupted, another thread can change it afterwards,
    and its count of bytes is right."""
    app = make_app(near_cache=True)
    prove(app)
    browsers = [sign_in(app, f"user{n}", data=DATA) for n in range(2)]
    catch_up(app)
    for browser in browsers:
        browser.get("/me")
    cache, (first, second) = cache_of(app), [key_of(browser) for browser in browsers]
    [stored] = store_of(app).sessions_of("user0")

    def run(line: int) -> list[int]:
        with interrupted_at(line, TimeLimit) as left:
            load = cache.begin_load(first)
            assert load
            cache.end_load(first, load, stored)
            cache.forget(second)
        return left

    def check() -> None:
        other = Thread(target=cache.forget, args=("x",))
        other.start()
        other.join(10)
        assert not other.is_alive()
        contents = cache._contents
        assert contents.bytes == sum(len(entry.stored.raw) for entry in contents.entries.values())

    every_line(run, at_least=25, check=check)
