"""What a worker keeps in memory is bounded: it does not grow with logins, users and user agents."""

from __future__ import annotations

import gc
import typing as t

import pytest
from flask import Flask

import flask_kvsession as kvs
from flask_kvsession.app_state import RecentLogins

from .support.apps import MakeApp
from .support.browsers import AS_PAGE, Browsers

PER_LOGIN = 0.2
"""Fewer objects than this may remain of each login: caches and lists grow once in a while."""


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app(max_sessions_per_user=5)
    app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
    return app


def objects() -> int:
    """How many objects the garbage collector knows, after it has freed those that nobody holds."""
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.without_near_cache
@pytest.mark.parametrize(("users", "count"), [("one user", 300), ("many users", 1000)])
def test_many_logins_leave_memory_flat(app: Flask, users: str, count: int) -> None:
    """Logins, lists, refusals and logouts of many browsers leave no objects."""
    browser_of = Browsers(app)

    def log_in(count: int, start: int) -> None:
        for number in range(start, start + count):
            user = "ada" if users == "one user" else f"user {number}"
            browser = browser_of(f"Browser {number % 50}", user, f"192.0.2.{number % 250}")
            assert browser.get("/me").status_code == 200
            if number % 10 == 0:
                browser.get("/devices/", headers=AS_PAGE)
                browser.post("/logout")
                browser.get("/me")

    log_in(100, start=0)
    before = objects()
    log_in(count, start=100)
    assert objects() - before < count * PER_LOGIN


def test_no_object_of_the_package_remains_of_a_request(app: Flask) -> None:
    """After a request, no session, record or token of it is in memory."""

    def kept() -> dict[int, str]:
        """The objects of a request that are in memory, also those of other tests."""
        gc.collect()
        kinds = {"Session", "RequestSession", "Record", "Stored", "Token", "TrackedData"}
        found: list[t.Any] = gc.get_objects()
        return {
            id(thing): type(thing).__name__
            for thing in found
            if type(thing).__name__ in kinds and type(thing).__module__.startswith("flask_kvs")
        }

    before = kept()
    browser = Browsers(app)("laptop")
    browser.post("/data", json={"x": 1})
    assert {name for key, name in kept().items() if key not in before} == set()


def test_counts_of_recent_logins_are_bounded() -> None:
    """Of many clients, the counts of the latest thousand are kept."""
    logins = RecentLogins()
    for key in range(5000):
        logins.count(key, now=key)
    assert len(logins._found) == 1000
    assert logins.count(4999, now=5000) == 2
    assert logins.count(0, now=5000) == 1
