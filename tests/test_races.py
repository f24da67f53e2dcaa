"""Laws 3 and 4 under fire: nothing is lost, and what was revoked stays revoked.

A request is parked inside its view, after it has loaded its session, while something else happens.
"""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient
from redis.backoff import NoBackoff
from redis.retry import Retry

import flask_kvsession as kvs
from flask_kvsession.record import Ended, Stored
from flask_kvsession.token import Token

from .support.apps import MakeApp, add_views, in_context, store_of
from .support.browsers import token_of
from .support.clock import Clock
from .support.proxy import Proxy
from .support.races import CROWD, PATIENCE, Act, Stage
from .support.signals import recorded_signals


@pytest.fixture
def stage(app: Flask) -> Iterator[Stage]:
    stage = Stage(app)
    yield stage
    stage.pool.shutdown()


@pytest.fixture
def token(client: FlaskClient) -> str:
    """Ada's, signed in."""
    client.post("/login/ada", json={"data": {"a": 0, "b": 0}})
    return token_of(client) or ""


# Nothing is lost


def test_different_keys_are_all_kept(stage: Stage, token: str) -> None:
    """Of many requests that each change a key of their own, every change is kept."""
    names = iter(range(100))
    lock = threading.Lock()

    def change() -> None:
        with lock:
            name = f"key-{next(names)}"
        g.session[name] = name

    stage.all_at_once([token] * CROWD, change)
    assert {f"key-{n}" for n in range(CROWD)} <= stage.data(token).keys()


def test_the_later_of_two_changes_wins(stage: Stage, token: str) -> None:
    """Of two changes of one key, the one written last stands."""
    release = stage.park(token, lambda: g.session.update(a="late"))
    stage.park(token, lambda: g.session.update(a="early"))()
    assert stage.data(token)["a"] == "early"
    release()
    assert stage.data(token)["a"] == "late"


def test_a_value_merely_read_is_not_written_back(stage: Stage, token: str) -> None:
    """A request that read a key, and changed another, leaves others' change of the first alone."""
    release = stage.park(token, lambda: g.session.update(b=g.session["a"]))
    stage.park(token, lambda: g.session.update(a=1))()
    release()
    assert stage.data(token) == {"a": 1, "b": 0}


def test_a_removed_key_stays_removed(stage: Stage, token: str) -> None:
    """A deletion and another request's change of another key both count."""
    release = stage.park(token, lambda: g.session.pop("a"))
    stage.park(token, lambda: g.session.update(b=1))()
    release()
    assert stage.data(token) == {"b": 1}


def test_clear_removes_what_came_meanwhile(stage: Stage, token: str) -> None:
    """`clear` empties the session as it is by then; what the request sets afterwards stays."""

    def clear() -> None:
        g.session.clear()
        g.session["mine"] = 1

    release = stage.park(token, clear)
    stage.park(token, lambda: g.session.update(theirs=1))()
    release()
    assert stage.data(token) == {"mine": 1}


def test_clear_of_an_empty_session_does_too(stage: Stage, client: FlaskClient) -> None:
    """Also where the session was empty when the request began."""

    def clear() -> None:
        g.session.clear()
        g.session["mine"] = 1

    client.post("/login/ada")
    empty = token_of(client) or ""
    release = stage.park(empty, clear)
    stage.park(empty, lambda: g.session.update(theirs=1))()
    release()
    assert stage.data(empty) == {"mine": 1}


def test_a_rotation_keeps_what_others_changed(stage: Stage, token: str) -> None:
    """A rotation with changes of its own goes on top of what others wrote since its load."""

    def change_and_rotate() -> None:
        g.session["a"] = 1
        kvs.rotate_token()

    release = stage.park(token, change_and_rotate)
    stage.park(token, lambda: g.session.update(b=1))()
    response = release()
    new = response.headers["Set-Cookie"].split("=", 1)[1].split(";")[0]
    assert stage.data(new) == {"a": 1, "b": 1}
    assert stage.browser(token).get("/me").status_code == 401


def test_a_visitor_s_change_is_carried_into_a_login(stage: Stage, client: FlaskClient) -> None:
    """What a visitor's other request wrote, after the login had loaded, is in the new session."""
    client.post("/data", json={"cart": [1], "old": 1})
    visitor = token_of(client)
    release = stage.park(
        visitor, lambda: (g.session.update(pending=1), kvs.login_user("ada", {"role": "x"}))
    )
    stage.park(visitor, lambda: (g.session.update(cart=[1, 2]), g.session.pop("old")))()
    new = release().headers["Set-Cookie"].split("=", 1)[1].split(";")[0]
    assert stage.data(new) == {"cart": [1, 2], "pending": 1, "role": "x"}
    assert stage.data(visitor) == {}


# Revoked stays revoked

ENDINGS: dict[str, Callable[[Stage, str], object]] = {
    "logout": lambda stage, token: stage.browser(token).post("/logout"),
    "revoke": lambda stage, token: in_context(
        stage.app, lambda: kvs.revoke_session(token[:19], "ada")
    ),
    "revoke all": lambda stage, token: in_context(
        stage.app, lambda: kvs.revoke_all_sessions("ada")
    ),
    "a login in its place": lambda stage, token: stage.browser(token).post("/login/ada"),
}

IN_FLIGHT: dict[str, Act] = {
    "a save": lambda: g.session.update(a=1),
    "a clear": lambda: (g.session.clear(), g.session.update(a=1)),
    "a renewal": lambda: None,
    "a rotation": kvs.rotate_token,
    "an update of all": lambda: kvs.update_all_sessions("ada", {"x": 1}),
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("act", IN_FLIGHT.values(), ids=IN_FLIGHT)
def test_nothing_in_flight_brings_a_session_back(
    stage: Stage,
    token: str,
    clock: Clock,
    redis_client: redis.Redis,
    prefix: str,
    act: Act,
    end: Callable[[Stage, str], object],
) -> None:
    """A request that had loaded a session before it was ended neither revives it nor gets a
    cookie."""
    clock.advance(minutes=6)  # so that each of them has a renewal to do
    release = stage.park(token, act)
    clock.advance(minutes=6)
    end(stage, token)
    response = release()
    assert "Set-Cookie" not in response.headers
    assert stage.browser(token).get("/me").status_code == 401
    record = redis_client.get(f"{prefix}:{{{token[:3]}}}:s:{token[3:19]}")
    assert record is None or t.cast(bytes, record).startswith(b'{"ended":')


def test_a_confirmation_of_an_ended_session_is_refused(stage: Stage, token: str) -> None:
    """A confirmation in flight while the session is revoked answers that nobody is signed in."""
    release = stage.park(token, kvs.confirm_login)
    ENDINGS["revoke all"](stage, token)
    response = release()
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers


def test_a_login_between_does_not_escape(stage: Stage, token: str) -> None:
    """A session that begins while all are being ended is ended too."""
    store = store_of(stage.app)
    act, late = store._act, stage.app.test_client()
    is_first = iter([True])

    def act_after_login(name: str, *args: t.Any) -> list[t.Any]:
        if name == "revoke" and next(is_first, False):
            late.post("/login/ada")
        return act(name, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_act", act_after_login)
        assert len(store.revoke_all("ada")) == 2
    assert late.get("/me").status_code == 401


# Many at once


def test_one_of_many_renews(stage: Stage, token: str, clock: Clock) -> None:
    """Of many requests that find a renewal due, one does it and says so."""
    clock.advance(minutes=6)
    with recorded_signals(stage.app, "session_renewed") as recorder:
        responses = stage.all_at_once([token] * CROWD, lambda: None)
    assert [response.status_code for response in responses] == [200] * CROWD
    assert recorder.ids == [token[:19]]


def test_many_rotations_have_one_successor(stage: Stage, token: str) -> None:
    """Of many rotations at once one wins, and only its browser gets a cookie."""
    responses = stage.all_at_once([token] * CROWD, kvs.rotate_token)
    cookies = [response.headers.getlist("Set-Cookie") for response in responses]
    (winner,) = [cookie[0] for cookie in cookies if cookie]
    new = winner.split("=", 1)[1].split(";")[0]
    assert stage.browser(new).get("/me").status_code == 200
    assert stage.browser(token).get("/me").status_code == 401


def test_a_parallel_login_cannot_pass_the_limit(make_app: MakeApp) -> None:
    """However many log in at once, no more sessions are left than the limit, and all know why."""
    stage = Stage(make_app(max_sessions_per_user=3))
    responses = stage.all_at_once([None] * CROWD, lambda: kvs.login_user("ada"))
    stage.pool.shutdown()
    assert {response.status_code for response in responses} == {200}
    tokens = [r.headers["Set-Cookie"].split("=", 1)[1].split(";")[0] for r in responses]
    store = store_of(stage.app)
    held = [store.load(t.cast(Token, Token.parse(token))) for token in tokens]
    assert sum(isinstance(session, Stored) for session in held) == 3
    assert [session for session in held if not isinstance(session, Stored)] == [Ended("limit")] * 9


def test_updating_all_loses_no_other_change(stage: Stage, token: str) -> None:
    """A change to all sessions and a request's own change of another key are both kept."""
    release = stage.park(token, lambda: g.session.update(a=1))
    with stage.app.app_context():
        assert kvs.update_all_sessions("ada", {"role": "reader"}, remove=["b"]) == 1
    release()
    assert stage.data(token) == {"a": 1, "role": "reader"}


# Replies that never arrive


@pytest.fixture
def proxy(socket_path: str) -> Iterator[Proxy]:
    proxy = Proxy(socket_path)
    yield proxy
    proxy.close()


@pytest.fixture
def retrying(proxy: Proxy) -> Iterator[redis.Redis]:
    """A client that tries again by itself, as redis-py's own do."""
    client = redis.Redis(
        unix_socket_path=proxy.path, retry=Retry(NoBackoff(), 3), socket_timeout=PATIENCE
    )
    yield client
    client.close()


@pytest.fixture
def retrying_app(retrying: redis.Redis, prefix: str) -> Flask:
    app = Flask("retrying")
    app.config.update(TESTING=True, KVSESSION_KEY_PREFIX=prefix)
    kvs.KVSession(app, redis=retrying)
    add_views(app)
    store_of(app).now()
    return app


def test_a_retried_create_does_not_revive(retrying_app: Flask, app: Flask, proxy: Proxy) -> None:
    """A login whose first reply was lost, and whose user was signed out everywhere before the
    second try, is not reported done, and no session comes back."""
    proxy.lose_reply_to(
        b"EVALSHA",
        before_hanging_up=lambda: in_context(app, lambda: kvs.revoke_all_sessions("ada")),
    )
    response = retrying_app.test_client().post("/login/ada")
    assert response.status_code == 503
    assert "Set-Cookie" not in response.headers
    assert store_of(app).sessions_of("ada") == []


@pytest.mark.parametrize("path", ["/login/ada", "/data", "/logout"])
def test_a_lost_reply_ends_as_if_it_had_come(
    retrying_app: Flask, app: Flask, proxy: Proxy, path: str
) -> None:
    """A login, a save and a logout whose reply was lost have, tried again, the effect of one."""
    browser = retrying_app.test_client()
    if path != "/login/ada":
        browser.post("/login/ada")
    token = token_of(browser)
    proxy.lose_reply_to(b"EVALSHA", before_hanging_up=lambda: None)
    assert browser.post(path, json={"x": 1}).status_code == 200
    assert len(store_of(app).sessions_of("ada")) == (path != "/logout")
    if path == "/logout":
        browser.set_cookie("kvsession", token or "")
    assert browser.get("/me").status_code == (401 if path == "/logout" else 200)
    assert (browser.get("/data").get_json() == {"x": 1}) == (path == "/data")


def test_a_login_that_fails_half_way_leaves_nothing(proxy: Proxy, prefix: str, app: Flask) -> None:
    """A login that cannot end the session it replaces is 503, without a cookie, and is undone."""
    direct, client = app.test_client(), redis.Redis(unix_socket_path=proxy.path)
    failing = Flask("failing")
    failing.config.update(TESTING=True, KVSESSION_KEY_PREFIX=prefix)
    kvs.KVSession(
        failing, redis=redis.Redis(unix_socket_path=proxy.path, retry=Retry(NoBackoff(), 0))
    )
    add_views(failing)
    direct.post("/login/bob", json={"data": {"x": 1}})
    browser = failing.test_client()
    browser.set_cookie("kvsession", token_of(direct) or "")
    browser.get("/me")

    acts = iter(range(100))

    def on_request(chunk: bytes) -> bool:
        return b"EVALSHA" not in chunk or next(acts) != 1

    proxy.on_request = on_request
    response = browser.post("/login/ada")
    client.close()
    store_of(failing).close()
    assert response.status_code == 503
    assert "Set-Cookie" not in response.headers
    assert store_of(app).sessions_of("ada") == []
    assert direct.get("/me").get_json()["data"] == {"x": 1}
