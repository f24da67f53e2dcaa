"""The near cache: sessions that a process has read lately are served without a round trip."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
import typing as t
import weakref
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.record import Stored
from flask_kvsession.token import Token, new_session_id

from ..support.apps import MakeApp, close, in_context, state_of, store_of
from ..support.browsers import (
    SignIn,
    browser_with,
    cookies_of,
    id_of,
    is_clearing,
    may_enter,
    token_of,
)
from ..support.clock import Clock
from ..support.commands import CountCommands
from ..support.near_cache import cache_of, catch_up, is_kept, key_of, prove
from ..support.proxy import Proxy
from ..support.races import PATIENCE
from ..support.servers import Server, wait_until

pytestmark = pytest.mark.without_near_cache  # these tests choose when the process is told


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app(near_cache=True, renewal_interval=300)
    prove(app)
    return app


@pytest.fixture
def other_app(make_app: MakeApp) -> Flask:
    """Another worker, without a near cache."""
    return make_app("other")


@pytest.fixture
def browser(app: Flask, sign_in: SignIn) -> FlaskClient:
    """A browser whose session is in the cache."""
    browser = sign_in(app, data={"x": 1})
    catch_up(app)
    assert browser.get("/me").status_code == 200
    assert is_kept(browser)
    return browser


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s"))
    yield server
    server.kill()


def reads_of(browser: FlaskClient, count: CountCommands) -> int:
    """How many reads of a session one request costs."""
    with count() as commands:
        browser.get("/me")
    return commands.names.count("GET")


# What is served


def test_second_read_costs_no_round_trip(
    browser: FlaskClient, count_commands: CountCommands
) -> None:
    """The second request of a session sends no command, and gets the same data."""
    with count_commands() as commands:
        response = browser.get("/me")
    assert commands.names == []
    assert response.get_json()["data"] == {"x": 1}


def test_without_the_setting_there_is_no_cache_and_no_thread(
    other_app: Flask, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """Without `KVSESSION_NEAR_CACHE` each read costs a round trip, and nothing listens."""
    browser = sign_in(other_app)
    browser.get("/me")
    assert reads_of(browser, count_commands) == 1
    assert store_of(other_app)._server.near_cache is None
    assert not store_of(other_app).tracker._run.is_running


def test_another_secret_of_the_session_goes_to_redis(
    make_app: MakeApp, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """Only the current secret is served: an unknown one, and one that a rotation has superseded, go
    to Redis, which judges them."""
    app = make_app(near_cache=True, rotation_interval=3600, rotation_grace=60)
    prove(app)
    browser = sign_in(app)
    catch_up(app)
    browser.get("/me")
    token = str(token_of(browser))
    forged = browser_with(app, token[:-22] + "x" * 22)
    assert reads_of(forged, count_commands) == 1
    assert forged.get("/me").status_code == 401
    assert reads_of(browser, count_commands) == 0


def test_the_new_secret_of_a_rotation_may_arrive_before_the_report(
    app: Flask, browser: FlaskClient, other_app: Flask
) -> None:
    """If another worker has rotated the token and its report has not come yet, the new token opens
    the session."""

    @other_app.get("/rotate")
    def rotate() -> t.Any:
        kvs.rotate_token()
        return {}

    twin = browser_with(other_app, token_of(browser))
    with no_reports(app):
        twin.get("/rotate")
        assert token_of(twin) != token_of(browser)
        assert browser_with(app, token_of(twin)).get("/me").status_code == 200


@contextlib.contextmanager
def no_reports(app: Flask) -> Iterator[None]:
    """In the block, the app is not told of changes, and its proof is valid."""
    catch_up(app)
    release = threading.Event()
    tracker, entered = store_of(app).tracker, threading.Event()

    class Blocker:
        def change(self, key: str) -> None:
            entered.set()
            assert release.wait(PATIENCE)

        def reset(self) -> None:
            pass

    blocker = Blocker()
    first = tracker._subscribers
    tracker._subscribers = []
    tracker.subscribe(blocker.change, blocker.reset)
    tracker._subscribers += first
    prefix = state_of(app).settings.key_prefix
    client = redis.Redis(unix_socket_path=socket_path_of(app))
    client.set(f"{prefix}:block", "1", px=1000)
    assert entered.wait(PATIENCE)
    run = tracker._run
    run.proven_until = time.monotonic() + PATIENCE  # on a busy machine the block may take a second
    try:
        yield
    finally:
        run.proven_until = 0.0
        tracker._subscribers = first
        release.set()
        client.close()


def socket_path_of(app: Flask) -> str:
    url = state_of(app).settings.redis_url
    assert url
    return "/" + url.partition("://")[2].partition("/")[2]


# Revocation, expiry, age


def test_a_revocation_by_another_worker_is_seen(
    app: Flask, browser: FlaskClient, other_app: Flask
) -> None:
    """After another worker has revoked the session, it is no longer served, and the browser is told
    why it ended."""
    in_context(other_app, lambda: kvs.revoke_session(id_of(browser), "ada"))
    wait_until(lambda: not is_kept(browser))
    assert browser.get("/me").status_code == 401
    with app.test_request_context(headers={"Cookie": f"kvsession={token_of(browser)}"}):
        assert kvs.session_ended_reason() == "revoked"


def test_a_change_by_another_worker_is_seen(
    app: Flask, browser: FlaskClient, other_app: Flask
) -> None:
    """After another worker has changed the data, the next read gives the new data."""
    browser_with(other_app, token_of(browser)).post("/data", json={"x": 2})
    wait_until(lambda: not is_kept(browser))
    assert browser.get("/me").get_json()["data"] == {"x": 2}


def test_an_entry_ends_with_its_session(browser: FlaskClient, clock: Clock) -> None:
    """A session that expires is not served, although no report of its end has come."""
    assert is_kept(browser)
    clock.advance(days=7)
    assert browser.get("/me").status_code == 401
    assert not is_kept(browser)


def test_an_entry_is_read_again_after_the_maximal_age(
    make_app: MakeApp, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """No entry is served that was read longer ago than `KVSESSION_NEAR_CACHE_MAX_AGE`."""
    app = make_app(near_cache=True, near_cache_max_age=0.2)
    prove(app)
    browser = sign_in(app)
    catch_up(app)
    browser.get("/me")
    entry = cache_of(app)._contents.entries[key_of(browser)]
    wait_until(lambda: time.monotonic() >= entry.until)
    assert reads_of(browser, count_commands) == 1
    assert cache_of(app)._contents.entries[key_of(browser)] is not entry


def test_a_read_with_an_unknown_secret_keeps_nothing(app: Flask, browser: FlaskClient) -> None:
    """A token that names a session and does not open it puts nothing into the cache."""
    cache_of(app).clear()
    forged = browser_with(app, str(token_of(browser))[:-22] + "x" * 22)
    assert forged.get("/me").status_code == 401
    assert not is_kept(browser)


def test_an_unknown_and_an_ended_session_are_not_kept(app: Flask, browser: FlaskClient) -> None:
    """Neither a tombstone nor a missing session is kept."""
    in_context(app, lambda: kvs.revoke_session(id_of(browser), "ada"))
    catch_up(app)
    token = token_of(browser)
    assert browser_with(app, token).get("/me").status_code == 401
    assert not cache_of(app)._contents.entries
    assert not cache_of(app)._contents.loads


# Races


def park_load(app: Flask, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, ...]:
    """The next load waits after its reply has come, and before it is kept."""
    replied, go, server = threading.Event(), threading.Event(), type(store_of(app)._server)
    get = server.get

    def slow(self: t.Any, session_id: str) -> t.Any:
        reply = get(self, session_id)
        if not replied.is_set():
            replied.set()
            assert go.wait(PATIENCE)
        return reply

    monkeypatch.setattr(server, "get", slow)
    return replied, go


def write_by_another_worker(app: Flask, other: Flask, browser: FlaskClient) -> None:
    browser_with(other, token_of(browser)).post("/data", json={"x": 2})
    catch_up(app)


def write_here(app: Flask, other: Flask, browser: FlaskClient) -> None:
    with no_reports(app):
        browser_with(app, token_of(browser)).post("/data", json={"x": 2})


def lose_reports(app: Flask, other: Flask, browser: FlaskClient) -> None:
    store_of(app).tracker._reset()


@pytest.mark.parametrize("between", [write_by_another_worker, write_here, lose_reports])
def test_a_reply_older_than_a_change_is_not_kept(
    app: Flask,
    other_app: Flask,
    browser: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    between: Callable[[Flask, Flask, FlaskClient], None],
) -> None:
    """If the record changes, or reports may have been lost, after the reply to a `GET` was sent and
    before it is kept, the reply is not kept."""
    cache_of(app).clear()
    replied, go = park_load(app, monkeypatch)
    reader = threading.Thread(target=browser.get, args=("/me",))
    reader.start()
    assert replied.wait(PATIENCE)
    between(app, other_app, browser)
    kept = cache_of(app)._contents.entries.get(key_of(browser))
    go.set()
    reader.join()
    after = cache_of(app)._contents.entries.get(key_of(browser))
    assert after is kept
    newest = store_of(other_app)._server.get(id_of(browser))
    assert after is None or after.stored.raw == newest


def test_a_reply_without_a_change_is_kept(
    app: Flask, browser: FlaskClient, other_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of another session does not matter to a load."""
    cache_of(app).clear()
    replied, go = park_load(app, monkeypatch)
    reader = threading.Thread(target=browser.get, args=("/me",))
    reader.start()
    assert replied.wait(PATIENCE)
    other_app.test_client().post("/login/bob")
    catch_up(app)
    go.set()
    reader.join()
    assert is_kept(browser)


@pytest.mark.parametrize("path", ["/data", "/logout"])
def test_a_process_does_not_serve_what_it_has_changed_itself(
    app: Flask, browser: FlaskClient, path: str
) -> None:
    """After a write, the same process reads the new state, also before it gets the report."""
    twin = browser_with(app, token_of(browser))
    with no_reports(app):
        browser.post(path, json={"x": 2})
        response = twin.get("/me")
    expected = {"x": 2} if path == "/data" else None
    assert (response.get_json() or {}).get("data") == expected


def test_an_act_that_fails_empties_its_entry_too(
    app: Flask, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the reply to an act is lost, it may have been carried out: its record is read again."""
    server = store_of(app)._server
    store = store_of(app)
    stored = store.load(kvs.token.Token.parse(str(token_of(browser))))  # type: ignore[arg-type]
    assert stored and is_kept(browser)

    def fail(*args: object, **kwargs: object) -> t.NoReturn:
        raise kvs.errors.StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(type(server), "_run_script", fail)
        with pytest.raises(kvs.errors.StoreUnavailable):
            store.remove(stored)
    assert not is_kept(browser)


# Fresh answers and writes


@pytest.fixture
def sensitive(app: Flask) -> Flask:
    @app.post("/sensitive")
    @kvs.fresh_login_required
    def sensitive() -> t.Any:
        return {"data": dict(g.session)}

    @app.post("/change-and-confirm")
    def change_and_confirm() -> t.Any:
        g.session["y"] = 1
        kvs.guards.require_fresh_login()
        return {"data": dict(g.session)}

    @app.post("/reason")
    def reason() -> t.Any:
        with pytest.raises(kvs.errors.LoginRequired):
            kvs.guards.require_fresh_login()
        return {"reason": kvs.session_ended_reason()}

    @app.post("/see")
    def see() -> t.Any:
        seen: list[t.Any] = []
        kvs.change_session(lambda data: seen.append(dict(data)))
        return {"seen": seen}

    @app.post("/revoke-others")
    def revoke_others() -> t.Any:
        return {"count": kvs.revoke_all_sessions(except_current=True)}

    @app.post("/<act>-and-revoke-others")
    def act_and_revoke_others(act: str) -> t.Any:
        user_id = g.session.user_id
        if act == "log-in":
            kvs.login_user(user_id)
        else:
            kvs.confirm_login()
        count = kvs.revoke_all_sessions(except_current=True)
        kvs.rotate_token()
        return {"user": g.session.user_id, "count": count}

    return app


@pytest.mark.parametrize("path", ["/sensitive", "/revoke-others"])
def test_a_fresh_answer_comes_from_redis(
    sensitive: Flask, browser: FlaskClient, other_app: Flask, sign_in: SignIn, path: str
) -> None:
    """A guard of a fresh login, and a revocation of the user's other sessions, refuse a session
    that has ended although the report has not come yet."""
    second = sign_in(other_app)
    with no_reports(sensitive):
        in_context(other_app, lambda: kvs.revoke_session(id_of(browser), "ada"))
        assert browser.get("/me").status_code == 200, "otherwise the cache is not asked"
        assert browser.post(path).status_code == 401
    assert second.get("/me").status_code == 200


@pytest.mark.parametrize("act", ["log-in", "confirm"])
def test_a_login_of_the_same_request_counts_for_a_revocation(
    sensitive: Flask, browser: FlaskClient, sign_in: SignIn, count_commands: CountCommands, act: str
) -> None:
    """A request whose session came from the cache can log in or confirm, revoke the other sessions
    and rotate its token; it does not read the session that its old token opens again."""
    second = sign_in(sensitive)
    with count_commands() as commands:
        response = browser.post(f"/{act}-and-revoke-others")
    assert response.get_json() == {"user": "ada", "count": 1}
    assert "GET" not in commands.names
    rotated = [line for line in cookies_of(response) if not is_clearing(line)]
    assert len(rotated) == 1
    assert may_enter(browser, second) == [True, False]


def test_a_fresh_guard_learns_why_the_session_has_ended(
    sensitive: Flask, browser: FlaskClient, other_app: Flask
) -> None:
    """After a guard has found that the session has ended, the reason is known."""
    with no_reports(sensitive):
        in_context(other_app, lambda: kvs.revoke_session(id_of(browser), "ada"))
        assert browser.post("/reason").get_json() == {"reason": "revoked"}


def test_an_atomic_change_sees_what_redis_has(
    sensitive: Flask, browser: FlaskClient, other_app: Flask
) -> None:
    """The function of `change_session` gets the newest data, although it changes nothing and so no
    write would find out that the cache is behind."""
    with no_reports(sensitive):
        browser_with(other_app, token_of(browser)).post("/data", json={"x": 2})
        assert browser.get("/me").get_json()["data"] == {"x": 1}, "otherwise the cache is not asked"
        assert browser.post("/see").get_json() == {"seen": [{"x": 2}]}


def test_a_fresh_guard_costs_one_read(
    sensitive: Flask, browser: FlaskClient, count_commands: CountCommands
) -> None:
    """If the session was read from Redis anyway, the guard does not read it again."""
    for is_cached in (True, False):
        if not is_cached:
            cache_of(sensitive).clear()
        with count_commands() as commands:
            assert browser.post("/sensitive").status_code == 200
        assert commands.names.count("GET") == 1


@pytest.mark.parametrize("others_change", [None, {"z": 2}])
def test_pending_changes_survive_the_second_read(
    sensitive: Flask, browser: FlaskClient, other_app: Flask, others_change: dict[str, int] | None
) -> None:
    """Changes that a view made before the guard are written, beside those of another worker."""
    with no_reports(sensitive):
        if others_change:
            browser_with(other_app, token_of(browser)).post("/data", json=others_change)
        assert browser.post("/change-and-confirm").status_code == 200
    data = browser_with(other_app, token_of(browser)).get("/me").get_json()["data"]
    assert data == {"x": 1, "y": 1, **(others_change or {})}


def test_the_view_behind_a_fresh_guard_sees_the_newest_data(
    sensitive: Flask, browser: FlaskClient, other_app: Flask
) -> None:
    """Without pending changes, the second read replaces the data too."""
    with no_reports(sensitive):
        browser_with(other_app, token_of(browser)).post("/data", json={"x": 2})
        assert browser.post("/sensitive").get_json() == {"data": {"x": 2}}


def test_a_write_on_an_older_record_costs_one_more_round_trip(
    app: Flask, browser: FlaskClient, other_app: Flask, count_commands: CountCommands
) -> None:
    """A write that begins with an older record loses nothing: its first attempt is refused, and the
    second one has both changes."""
    with no_reports(app):
        browser_with(other_app, token_of(browser)).post("/data", json={"y": 2})
        with count_commands() as commands:
            browser.post("/data", json={"z": 3})
    assert commands.names.count("EVALSHA") == 2
    data = browser_with(other_app, token_of(browser)).get("/me").get_json()["data"]
    assert data == {"x": 1, "y": 2, "z": 3}


def test_a_write_to_a_session_that_has_ended_is_dropped(
    app: Flask, browser: FlaskClient, other_app: Flask
) -> None:
    """A write of a request that began with a cached record does not bring the session back."""
    with no_reports(app):
        in_context(other_app, lambda: kvs.revoke_session(id_of(browser), "ada"))
        assert browser.post("/data", json={"z": 3}).status_code == 200
    assert browser_with(other_app, token_of(browser)).get("/me").status_code == 401
    assert browser.get("/me").status_code == 401


# The listener


def test_nothing_is_served_while_changes_are_not_proven(
    browser: FlaskClient, count_commands: CountCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the proof is out of date, each read goes to Redis."""
    tracker = store_of(browser.application).tracker
    monkeypatch.setattr(type(tracker), "is_proven", lambda self: False)
    assert reads_of(browser, count_commands) == 1
    assert reads_of(browser, count_commands) == 1


def lose_connection(server: Server, proxy: Proxy) -> None:
    with server.client() as client:
        for each in client.client_list():
            if "B" in each["flags"]:
                client.client_kill_filter(_id=each["id"])


FAULTS: list[Callable[[Server, Proxy], None]] = [
    lose_connection,
    lambda server, proxy: proxy.forget_connections(),
    lambda server, proxy: server.run("FLUSHALL"),
    lambda server, proxy: server.run("REPLICAOF", "127.0.0.1", "1"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=["killed", "hung", "flushed", "demoted"])
def test_a_fault_of_the_listener_empties_the_cache(
    make_app: MakeApp,
    own_server: Server,
    sign_in: SignIn,
    fault: Callable[[Server, Proxy], None],
) -> None:
    """If the connection is lost or hangs, if the server is flushed or becomes a replica, no entry
    from before is served."""
    proxy = Proxy(own_server.path)
    app = make_app(near_cache=True, near_cache_max_age=3600, redis_url=f"unix://{proxy.path}")
    prove(app)
    browser = sign_in(app)
    catch_up(app)
    browser.get("/me")
    entry = cache_of(app)._contents.entries[key_of(browser)]
    fault(own_server, proxy)
    wait_until(lambda: entry not in cache_of(app)._contents.entries.values())
    close(app)
    proxy.close()


def test_a_hung_listener_serves_nothing_older_than_a_second(
    make_app: MakeApp, own_server: Server, sign_in: SignIn
) -> None:
    """If reports stop coming and nobody notices, an ended session is refused as soon as the proof
    is out of date."""
    proxy = Proxy(own_server.path)
    app = make_app(near_cache=True, redis_url=f"unix://{proxy.path}")
    other = make_app("other", redis_url=f"unix://{own_server.path}")
    prove(app)
    browser = sign_in(app)
    catch_up(app)
    browser.get("/me")
    run = store_of(app).tracker._run
    proxy.forget_connections()
    proven_until = run.proven_until
    in_context(other, lambda: kvs.revoke_session(id_of(browser), "ada"))
    assert browser.get("/me").status_code == 200, "otherwise the cache is not asked"
    wait_until(lambda: time.monotonic() >= proven_until)
    assert browser.get("/me").status_code == 401
    close(app)
    proxy.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_begins_with_an_empty_cache(
    app: Flask, browser: FlaskClient, other_app: Flask
) -> None:
    """A child process serves nothing that its parent has read, also if another thread of the parent
    had the lock at the fork."""
    cache_of(app)._lock.acquire()
    child = os.fork()
    if child == 0:
        try:
            in_context(other_app, lambda: kvs.revoke_session(id_of(browser), "ada"))
            assert browser.get("/me").status_code == 401
            prove(app)
            assert not cache_of(app)._contents.entries
            os._exit(0)
        finally:
            os._exit(1)
    cache_of(app)._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_app_that_is_gone_leaves_no_thread(socket_path: str, prefix: str) -> None:
    """If nobody refers to an app any more, its thread ends."""
    app = Flask("gone")
    app.config.update(KVSESSION_REDIS_URL=f"unix://{socket_path}", KVSESSION_NEAR_CACHE=True)
    app.config.update(TESTING=True, KVSESSION_KEY_PREFIX=prefix)
    kvs.KVSession(app)
    prove(app)
    run = store_of(app).tracker._run
    reference = weakref.ref(store_of(app))
    del app
    gc.collect()
    assert reference() is None
    wait_until(lambda: not run.is_running)


# Bounds


def test_the_least_recently_used_session_goes_first(
    make_app: MakeApp, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """Beyond `KVSESSION_NEAR_CACHE_SIZE`, the session that was not used for longest is dropped."""
    app = make_app(near_cache=True, near_cache_size=2)
    prove(app)
    browsers = [sign_in(app, user) for user in ("ada", "bob", "eve")]
    catch_up(app)
    for n in (0, 1, 0, 2):
        browsers[n].get("/me")
    assert [is_kept(browser) for browser in browsers] == [True, False, True]


def test_the_bytes_of_all_sessions_are_bounded(make_app: MakeApp, sign_in: SignIn) -> None:
    """The records take no more than 4 KiB for each session on average; one may be larger."""
    app = make_app(near_cache=True, near_cache_size=4)
    prove(app)
    browsers = [sign_in(app, f"user{n}", data={"x": "y" * 6000}) for n in range(4)]
    catch_up(app)
    for browser in browsers:
        browser.get("/me")
    contents = cache_of(app)._contents
    assert [is_kept(browser) for browser in browsers] == [False, False, True, True]
    assert contents.bytes == sum(len(entry.stored.raw) for entry in contents.entries.values())
    assert contents.bytes <= 4 * 4096


def test_a_read_while_the_cache_drops_entries_does_no_harm(app: Flask) -> None:
    """`get` reorders the entries without a lock, also while another thread drops the first one."""
    cache, store, is_done = cache_of(app), store_of(app), threading.Event()
    cache._size = 20
    client, now = kvs.record.Client(), store.now()
    sessions: list[tuple[str, Token, Stored]] = []
    for _ in range(25):
        token = Token.for_session(new_session_id(None))
        record = kvs.record.new_record(token, now=now, client=client, data={})
        key = store._server.record_key(token.session_id)
        sessions.append((key, token, Stored.of(token.session_id, record)))

    def read() -> None:
        while not is_done.is_set():
            for key, token, _ in sessions:
                cache.get(key, token)

    readers = [threading.Thread(target=read) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for reader in readers:
            reader.start()
        for key, _, stored in sessions * 800:
            if load := cache.begin_load(key):
                cache.end_load(key, load, stored)
    finally:
        is_done.set()
        sys.setswitchinterval(interval)
        for reader in readers:
            reader.join()
    contents = cache._contents
    assert contents.bytes == sum(len(entry.stored.raw) for entry in contents.entries.values())


def test_interrupted_loads_do_not_pile_up(app: Flask) -> None:
    """A load that never ends, because its request was interrupted, is forgotten after 1,000
    others."""
    cache = cache_of(app)
    for number in range(3000):
        assert cache.begin_load(str(number))
    assert len(cache._contents.loads) == 1000


def test_what_an_interrupted_change_has_left_is_dropped(browser: FlaskClient) -> None:
    """If an exception from outside stops a change half-way, the next change begins with an empty
    cache, and no lock is held."""
    cache = cache_of(browser.application)
    contents = cache._contents
    contents.is_changing = True
    other = threading.Thread(target=cache.forget, args=("x",))
    other.start()
    other.join(PATIENCE)
    assert not other.is_alive()
    assert cache._contents is not contents and not cache._contents.is_changing


def test_threads_that_read_and_change_one_session_see_their_own_changes(app: Flask) -> None:
    """Threads of one process each count up one session by themselves: none of them reads an older
    number than its own last one."""
    browsers = [app.test_client() for _ in range(4)]
    for n, browser in enumerate(browsers):
        browser.post(f"/login/user{n}")
    failures: list[object] = []

    def run(browser: FlaskClient) -> None:
        for number in range(50):
            browser.post("/data", json={"x": number})
            data = browser.get("/me").get_json()["data"]
            if data != {"x": number}:
                failures.append(data)

    threads = [threading.Thread(target=run, args=(browser,)) for browser in browsers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
