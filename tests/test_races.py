"""Laws 3 and 4 with parallel requests: no change is lost, and revoked stays revoked.

A request loads its session and waits inside its view while another request acts.
"""

from __future__ import annotations

import threading
import time
import typing as t
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient
from redis.backoff import NoBackoff
from redis.retry import Retry

import flask_kvsession as kvs
from flask_kvsession.errors import StoreUnavailable
from flask_kvsession.record import Record
from flask_kvsession.token import Token

from .support.apps import MakeApp, add_views, in_context, store_of
from .support.browsers import token_of
from .support.clock import Clock
from .support.proxy import Proxy
from .support.races import CROWD, PATIENCE, Act, Stage
from .support.signals import recorded_signals


@pytest.fixture
def token(client: FlaskClient) -> str:
    """Ada's, signed in."""
    client.post("/login/ada", json={"data": {"a": 0, "b": 0}})
    return token_of(client) or ""


# Law 3: nothing is lost


def test_parallel_changes_of_different_keys_are_all_kept(stage: Stage, token: str) -> None:
    """If parallel requests change different keys, all changes are kept."""
    names = iter(range(100))
    lock = threading.Lock()

    def change() -> None:
        with lock:
            name = f"key-{next(names)}"
        g.session[name] = name

    stage.all_at_once([token] * CROWD, change)
    assert {f"key-{n}" for n in range(CROWD)} <= stage.data(token).keys()


def test_later_commit_of_the_same_key_wins(stage: Stage, token: str) -> None:
    """If two requests change the same key, the later commit wins."""
    release = stage.park(token, lambda: g.session.update(a="late"))
    stage.park(token, lambda: g.session.update(a="early"))()
    assert stage.data(token)["a"] == "early"
    release()
    assert stage.data(token)["a"] == "late"


def test_value_that_was_only_read_is_not_written_back(stage: Stage, token: str) -> None:
    """A request that only read a key does not overwrite a parallel request's change of that key."""
    release = stage.park(token, lambda: g.session.update(b=g.session["a"]))
    stage.park(token, lambda: g.session.update(a=1))()
    release()
    assert stage.data(token) == {"a": 1, "b": 0}


def test_removed_key_stays_removed_after_a_parallel_commit(stage: Stage, token: str) -> None:
    """A deletion is kept beside a parallel request's change of another key."""
    release = stage.park(token, lambda: g.session.pop("a"))
    stage.park(token, lambda: g.session.update(b=1))()
    release()
    assert stage.data(token) == {"b": 1}


def test_clear_removes_keys_added_by_a_parallel_request(stage: Stage, token: str) -> None:
    """`clear()` also removes keys that a parallel request added."""

    def clear() -> None:
        g.session.clear()
        g.session["mine"] = 1

    release = stage.park(token, clear)
    stage.park(token, lambda: g.session.update(theirs=1))()
    release()
    assert stage.data(token) == {"mine": 1}


def test_clear_of_an_empty_session_removes_added_keys_too(
    stage: Stage, client: FlaskClient
) -> None:
    """`clear()` of an empty session also removes keys that a parallel request added."""

    def clear() -> None:
        g.session.clear()
        g.session["mine"] = 1

    client.post("/login/ada")
    empty = token_of(client) or ""
    release = stage.park(empty, clear)
    stage.park(empty, lambda: g.session.update(theirs=1))()
    release()
    assert stage.data(empty) == {"mine": 1}


@pytest.mark.parametrize(
    "empty",
    [lambda: g.session.pop("x"), lambda: g.session.__delitem__("x")],
    ids=["pop", "del"],
)
def test_anonymous_session_emptied_beside_a_parallel_write_keeps_only_that_write(
    stage: Stage, empty: Act
) -> None:
    """If a request empties an anonymous session while another request writes to it, the session
    stays, the removal is done and the other request's change is kept."""
    browser = stage.app.test_client()
    browser.post("/data", json={"x": 1})
    token = token_of(browser)
    release = stage.park(token, empty)
    browser.post("/data", json={"theirs": 1})
    response = release()
    assert "Set-Cookie" not in response.headers
    assert stage.data(token) == {"theirs": 1}


def test_anonymous_session_emptied_by_two_requests_is_deleted_once(stage: Stage) -> None:
    """If two requests empty an anonymous session at once, the second changes nothing and leaves the
    cookie alone."""
    browser = stage.app.test_client()
    browser.post("/data", json={"x": 1})
    token = token_of(browser)
    release = stage.park(token, lambda: g.session.pop("x"))
    first = stage.browser(token)
    stage.park(token, lambda: g.session.pop("x"))()
    assert first.get("/data").get_json() == {}
    response = release()
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers


def test_rotation_keeps_changes_of_a_parallel_request(stage: Stage, token: str) -> None:
    """A rotation keeps the changes that a parallel request committed since the load."""

    def change_and_rotate() -> None:
        g.session["a"] = 1
        kvs.rotate_token()

    release = stage.park(token, change_and_rotate)
    stage.park(token, lambda: g.session.update(b=1))()
    response = release()
    new = response.headers["Set-Cookie"].split("=", 1)[1].split(";")[0]
    assert stage.data(new) == {"a": 1, "b": 1}
    assert stage.browser(token).get("/me").status_code == 401


def test_parallel_change_of_an_anonymous_session_reaches_the_login(
    stage: Stage, client: FlaskClient
) -> None:
    """A login carries over a change that a parallel request made to the anonymous session."""
    client.post("/data", json={"cart": [1], "old": 1})
    anonymous = token_of(client)
    release = stage.park(
        anonymous, lambda: (g.session.update(pending=1), kvs.login_user("ada", {"role": "x"}))
    )
    stage.park(anonymous, lambda: (g.session.update(cart=[1, 2]), g.session.pop("old")))()
    new = release().headers["Set-Cookie"].split("=", 1)[1].split(";")[0]
    assert stage.data(new) == {"cart": [1, 2], "pending": 1, "role": "x"}
    assert stage.data(anonymous) == {}


# Law 4: revoked stays revoked

ENDINGS: dict[str, Callable[[Stage, str], object]] = {
    "logout": lambda stage, token: stage.browser(token).post("/logout"),
    "revoke": lambda stage, token: in_context(
        stage.app, lambda: kvs.revoke_session(token[:19], "ada")
    ),
    "revoke all": lambda stage, token: in_context(
        stage.app, lambda: kvs.revoke_all_sessions("ada")
    ),
    "a login over the session": lambda stage, token: stage.browser(token).post("/login/ada"),
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
def test_request_in_flight_does_not_bring_an_ended_session_back(
    stage: Stage,
    token: str,
    clock: Clock,
    redis_client: redis.Redis,
    prefix: str,
    act: Act,
    end: Callable[[Stage, str], object],
) -> None:
    """A request that loaded its session before the session ended writes nothing and sends no
    cookie."""
    clock.advance(minutes=6)  # a renewal is due in the request in flight
    release = stage.park(token, act)
    clock.advance(minutes=6)
    end(stage, token)
    response = release()
    assert "Set-Cookie" not in response.headers
    assert stage.browser(token).get("/me").status_code == 401
    record = redis_client.get(f"{prefix}:{{{token[:3]}}}:s:{token[3:19]}")
    assert record is None or t.cast(bytes, record).startswith(b'{"ended":')


@pytest.mark.parametrize("act", [lambda: g.session.update(a=1), kvs.rotate_token])
def test_session_that_expires_during_a_request_is_not_written(
    stage: Stage, token: str, clock: Clock, act: Act
) -> None:
    """If the session expires between its load and its commit, the request succeeds, writes nothing
    and sends no cookie."""
    release = stage.park(token, act)
    clock.advance(days=31)
    response = release()
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers
    assert stage.browser(token).get("/me").status_code == 401


def test_confirm_login_of_a_session_revoked_meanwhile_gives_401(stage: Stage, token: str) -> None:
    """If the session was revoked since its load, `confirm_login` gives 401."""
    release = stage.park(token, kvs.confirm_login)
    ENDINGS["revoke all"](stage, token)
    response = release()
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers


def test_login_during_a_revocation_of_all_sessions_ends_too(stage: Stage, token: str) -> None:
    """`revoke_all` also ends a session that is created while it runs."""
    store = store_of(stage.app)
    run_script, late = store._server.run_script, stage.app.test_client()
    is_first = iter([True])

    def run_after_login(name: str, *args: t.Any, **shape: t.Any) -> list[t.Any]:
        if name == "revoke" and next(is_first, False):
            late.post("/login/ada")
        return run_script(name, *args, **shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._server, "run_script", run_after_login)
        assert len(store.revoke_all("ada")) == 2
    assert late.get("/me").status_code == 401


def test_update_all_changes_a_session_that_begins_while_it_runs(stage: Stage, token: str) -> None:
    """`update_all` also changes a session that is created while it runs."""
    store = store_of(stage.app)
    run_script, late = store._server.run_script, stage.app.test_client()
    is_first = iter([True])

    def run_after_login(name: str, *args: t.Any, **shape: t.Any) -> list[t.Any]:
        if name == "commit" and next(is_first, False):
            late.post("/login/ada")
        return run_script(name, *args, **shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._server, "run_script", run_after_login)
        assert store.update_all("ada", {"role": "reader"}) == 2
    assert late.get("/data").get_json() == {"role": "reader"}


# Many requests at once


def test_update_that_loses_every_race_raises_after_the_store_timeout(make_app: MakeApp) -> None:
    """If other requests change the session before each attempt, an update raises
    `StoreUnavailable` after `KVSESSION_STORE_TIMEOUT`."""
    app = make_app(store_timeout=0.1)
    app.test_client().post("/login/ada")
    store, attempts = store_of(app), iter(range(100_000))
    (stored,) = store.sessions_of("ada")
    began = time.monotonic()

    def lose(record: Record) -> Record:
        assert time.monotonic() - began < PATIENCE
        (current,) = store.sessions_of("ada")
        store.commit(current, current.record.with_data({"theirs": b"%d" % next(attempts)}))
        return record.with_data({"mine": b"1"})

    with pytest.raises(StoreUnavailable):
        store.update(stored, lose)
    assert time.monotonic() - began >= 0.1
    assert next(attempts) > 1


@pytest.mark.parametrize("act", ["revoke_all", "update_all"])
def test_acts_on_all_sessions_end_although_logins_keep_coming(make_app: MakeApp, act: str) -> None:
    """If another session begins before each act, `revoke_all` and `update_all` raise
    `StoreUnavailable` after so many times `KVSESSION_STORE_TIMEOUT`; here after one time."""
    app = make_app(store_timeout=1)
    late = app.test_client()
    late.post("/login/ada")
    store, began = store_of(app), time.monotonic()
    run_script = store._server.run_script
    uses: dict[str, Callable[[], object]] = {
        "revoke_all": lambda: store.revoke_all("ada"),
        "update_all": lambda: store.update_all("ada", {"x": 1}),
    }

    def run_after_login(name: str, *args: t.Any, **shape: t.Any) -> list[t.Any]:
        assert time.monotonic() - began < PATIENCE
        if name in ("revoke", "commit"):
            late.post("/login/ada")
        return run_script(name, *args, **shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._server, "run_script", run_after_login)
        patch.setattr("flask_kvsession.store.session_store._MANY_ACTS", 1)
        with pytest.raises(StoreUnavailable):
            uses[act]()
    assert time.monotonic() - began >= 1


def test_parallel_requests_with_a_due_renewal_renew_once(
    stage: Stage, token: str, clock: Clock
) -> None:
    """Of parallel requests that find a renewal due, one renews and sends `session_renewed`."""
    clock.advance(minutes=6)
    with recorded_signals(stage.app, "session_renewed") as recorder:
        responses = stage.all_at_once([token] * CROWD, lambda: None)
    assert [response.status_code for response in responses] == [200] * CROWD
    assert recorder.ids == [token[:19]]


def test_parallel_rotations_give_one_new_secret(stage: Stage, token: str) -> None:
    """Of parallel rotations, one wins and only its response has a cookie."""
    responses = stage.all_at_once([token] * CROWD, kvs.rotate_token)
    cookies = [response.headers.getlist("Set-Cookie") for response in responses]
    (winner,) = [cookie[0] for cookie in cookies if cookie]
    new = winner.split("=", 1)[1].split(";")[0]
    assert stage.browser(new).get("/me").status_code == 200
    assert stage.browser(token).get("/me").status_code == 401


def test_parallel_logins_do_not_exceed_the_limit(make_app: MakeApp) -> None:
    """Parallel logins leave as many sessions as the limit; the others become tombstones."""
    stage = Stage(make_app(max_sessions_per_user=3))
    responses = stage.all_at_once([None] * CROWD, lambda: kvs.login_user("ada"))
    stage.pool.shutdown()
    assert {response.status_code for response in responses} == {200}
    tokens = [r.headers["Set-Cookie"].split("=", 1)[1].split(";")[0] for r in responses]
    store = store_of(stage.app)
    found = [store.look_up(t.cast(Token, Token.parse(token))) for token in tokens]
    assert sum(each.stored is not None for each in found) == 3
    assert [each.end_reason for each in found if each.stored is None] == ["limit"] * 9


def test_update_all_sessions_keeps_a_parallel_change(stage: Stage, token: str) -> None:
    """`update_all_sessions` and a parallel request's change of another key are both kept."""
    release = stage.park(token, lambda: g.session.update(a=1))
    with stage.app.app_context():
        assert kvs.update_all_sessions("ada", {"role": "reader"}, remove=["b"]) == 1
    release()
    assert stage.data(token) == {"a": 1, "role": "reader"}


# Lost replies


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


def test_retried_login_does_not_bring_a_revoked_session_back(
    retrying_app: Flask, app: Flask, proxy: Proxy
) -> None:
    """A login that is retried after its session was revoked gives 503 and creates no session."""
    proxy.lose_reply_to(
        b"EVALSHA",
        before_hanging_up=lambda: in_context(app, lambda: kvs.revoke_all_sessions("ada")),
    )
    response = retrying_app.test_client().post("/login/ada")
    assert response.status_code == 503
    assert "Set-Cookie" not in response.headers
    assert store_of(app).sessions_of("ada") == []


@pytest.mark.parametrize("path", ["/login/ada", "/data", "/logout"])
def test_retry_after_a_lost_reply_takes_effect_once(
    retrying_app: Flask, app: Flask, proxy: Proxy, path: str
) -> None:
    """A login, a commit and a logout that are retried after a lost reply take effect once."""
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


def test_login_that_fails_halfway_is_undone(proxy: Proxy, prefix: str, app: Flask) -> None:
    """If a login cannot end the session that it replaces, it gives 503 and is undone."""
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
        return b"EVALSHA" not in chunk or next(acts) not in (1, 2)  # both attempts

    proxy.on_request = on_request
    response = browser.post("/login/ada")
    client.close()
    store_of(failing).close()
    assert response.status_code == 503
    assert "Set-Cookie" not in response.headers
    assert store_of(app).sessions_of("ada") == []
    assert direct.get("/me").get_json()["data"] == {"x": 1}


def test_login_whose_new_session_is_revoked_before_it_ended_gives_503(stage: Stage) -> None:
    """A login is not reported as done if its new session was revoked while the login carried over
    a change of the session that it replaces."""
    store = store_of(stage.app)
    browser = stage.app.test_client()
    browser.post("/data", json={"x": 1})
    token = token_of(browser)
    run_script = store._server.run_script
    is_first = iter([True])

    def run_after_others(name: str, *args: t.Any, **shape: t.Any) -> list[t.Any]:
        if name == "remove" and next(is_first, False):
            stage.browser(token).post("/data", json={"theirs": 1})
            assert len(store.revoke_all("ada")) == 1
        return run_script(name, *args, **shape)

    def log_in() -> None:
        kvs.login_user("ada", {"mine": 1})
        raise AssertionError("login_user returned")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._server, "run_script", run_after_others)
        response = stage.park(token, log_in)()
    assert response.status_code == 503
    assert "Set-Cookie" not in response.headers
    assert store.sessions_of("ada") == []
    assert stage.data(token) == {"x": 1, "theirs": 1}
