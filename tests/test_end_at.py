"""`login_user(..., end_at=)`: a session that ends at a given time, whatever its activity."""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs

from .support.apps import Do, MakeApp, store_of
from .support.browsers import attributes_of, cookies_of, may_enter
from .support.clock import Clock
from .support.commands import Keys

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def end(app: Flask) -> datetime:
    """One hour from now, by the server's clock, in whole seconds."""
    now = datetime.fromtimestamp(store_of(app).now() // 1000, UTC)
    return now + HOUR


def log_in(do: Do, browser: FlaskClient, end_at: datetime, **login: t.Any) -> t.Any:
    return do(browser, lambda: kvs.login_user("ada", end_at=end_at, **login) and {})


def test_session_ends_at_the_given_time_whatever_its_activity(
    do: Do, client: FlaskClient, end: datetime, clock: Clock
) -> None:
    """Activity until one second before the end does not extend the session."""
    log_in(do, client, end)
    clock.advance(HOUR / 2)
    assert may_enter(client) == [True]
    clock.advance(HOUR / 2 - 2 * SECOND)
    assert may_enter(client) == [True]
    clock.advance(3 * SECOND)
    assert may_enter(client) == [False]


def test_confirmed_login_does_not_move_the_end(
    do: Do, client: FlaskClient, end: datetime, clock: Clock
) -> None:
    """`confirm_login` and `rotate_token` leave the end where it is."""
    log_in(do, client, end)
    clock.advance(HOUR / 2)
    for act in (kvs.confirm_login, kvs.rotate_token):
        assert do(client, act).status_code == 200
    clock.advance(HOUR / 2 + SECOND)
    assert may_enter(client) == [False]


def test_every_view_of_the_session_shows_the_end(
    do: Do, client: FlaskClient, end: datetime
) -> None:
    """The fact `expires_at`, the list and the cookie's Max-Age have the end of the login."""
    response = log_in(do, client, end)
    (cookie,) = cookies_of(response)
    (age,) = (part for part in attributes_of(cookie) if part.startswith("Max-Age"))
    assert 3590 <= int(age.removeprefix("Max-Age=")) <= 3600
    seen: list[datetime | None] = []
    do(client, lambda: seen.append(g.session.expires_at))
    do(client, lambda: seen.extend(info.expires_at for info in kvs.list_sessions()))
    assert seen == [end, end]


def test_redis_expires_the_record_at_the_end(
    do: Do, client: FlaskClient, end: datetime, redis_client: redis.Redis, keys: Keys
) -> None:
    """The record and the index have a lifetime that ends at the end of the login."""
    log_in(do, client, end)
    lifetimes = [redis_client.pttl(key) for key in keys()]
    assert len(lifetimes) == 2
    assert all(3_590_000 < lifetime <= 3_600_000 for lifetime in lifetimes)


def test_earlier_timeout_applies_before_the_end(
    make_app: MakeApp, clock: Clock, client: FlaskClient, do: Do, end: datetime
) -> None:
    """An end after the absolute timeout changes nothing: the timeout applies."""
    log_in(do, client, end + timedelta(days=400))
    clock.advance(timedelta(days=7))
    assert may_enter(client) == [False]


def test_unremembered_session_has_the_end_too(
    do: Do, client: FlaskClient, end: datetime, clock: Clock
) -> None:
    """With `remember=False` the cookie has no Max-Age, and the session ends at its end."""
    (cookie,) = cookies_of(log_in(do, client, end, remember=False))
    assert "Max-Age" not in cookie
    clock.advance(HOUR + SECOND)
    assert may_enter(client) == [False]


def test_time_zone_of_the_end_does_not_matter(do: Do, client: FlaskClient, end: datetime) -> None:
    """The same time in another time zone is the same end."""
    log_in(do, client, end.astimezone(timezone(timedelta(hours=-7))))
    seen: list[datetime | None] = []
    do(client, lambda: seen.append(g.session.expires_at))
    assert seen == [end]


def test_latest_datetime_that_python_has_is_accepted(do: Do, client: FlaskClient) -> None:
    """An end in the year 9999 gives a record that can be read again."""
    log_in(do, client, datetime.max.replace(tzinfo=UTC))
    assert may_enter(client) == [True]


def test_session_of_another_login_has_no_end(
    do: Do, client: FlaskClient, end: datetime, clock: Clock
) -> None:
    """The next login in the same browser does not take the end over."""
    log_in(do, client, end)
    client.post("/login/ada")
    clock.advance(2 * HOUR)
    assert may_enter(client) == [True]


@pytest.mark.parametrize(
    ("shown", "make", "error"),
    [
        ("no time zone", lambda end: end.replace(tzinfo=None), ValueError),
        ("in the past", lambda end: end - 2 * HOUR, ValueError),
        ("not a timedelta", lambda end: HOUR, TypeError),
    ],
    ids=["naive", "past", "timedelta"],
)
def test_impossible_end_is_refused_before_anything_happens(
    do: Do,
    client: FlaskClient,
    end: datetime,
    shown: str,
    make: Callable[[datetime], t.Any],
    error: type[Exception],
) -> None:
    """A naive datetime, a past one and a timedelta raise, and the browser's session stays."""
    client.post("/login/bob")
    raised: list[str] = []

    def act() -> None:
        with pytest.raises(error, match=shown) as info:
            kvs.login_user("ada", end_at=make(end))
        raised.append(str(info.value))

    do(client, act)
    assert raised[0].startswith("end_at")
    assert client.get("/me").get_json()["user"] == "bob"
