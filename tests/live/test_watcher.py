"""A watched session: who is told of its end, why it has ended, and what races and faults do."""

from __future__ import annotations

import gc
import os
import resource
import threading
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from flask import Flask

import flask_kvsession as kvs
from flask_kvsession import SessionStore
from flask_kvsession.record import Stored
from flask_kvsession.store import watcher
from flask_kvsession.store.watcher import WatchedSession, Watcher
from flask_kvsession.token import Token

from ..support.apps import MakeApp, store_of
from ..support.browsers import SignIn, browser_with, token_of
from ..support.clock import Clock
from ..support.proxy import Proxy
from ..support.rights import allow, url_of
from ..support.servers import Server, wait_until
from ..support.tracking import Noted

PATIENCE = 20.0


@pytest.fixture
def other(make_app: MakeApp, app: Flask) -> SessionStore:
    """The store of another worker."""
    return store_of(make_app("other"))


@pytest.fixture
def store(app: Flask) -> SessionStore:
    return store_of(app)


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps its data when it is killed."""
    server = Server(tmp_path_factory.mktemp("s"), "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _no_thread_remains() -> Iterator[None]:
    yield
    gc.collect()
    wait_until(lambda: not threads())


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kvsession-watcher"]


def log_in(app: Flask, user: str = "ada") -> Stored:
    """A session of this user in a new browser."""
    browser = app.test_client()
    assert browser.post(f"/login/{user}").status_code == 200
    return stored_of(app, token_of(browser))


def stored_of(app: Flask, token: str | None) -> Stored:
    parsed = Token.parse(token or "")
    assert parsed
    stored = store_of(app).load(parsed)
    assert stored
    return stored


def listening(store: SessionStore) -> SessionStore:
    """The store, once it is told of changes. A watch that begins now causes no reset."""
    store.tracker.start()
    wait_until(store.tracker.is_proven)
    return store


def ends(watched: WatchedSession) -> bool:
    return watched.wait(PATIENCE)


# Why


def test_revocation_by_another_worker_ends_a_watched_session(
    app: Flask, store: SessionStore, other: SessionStore
) -> None:
    """The watcher is told the reason, and calls `on_end` with it once."""
    stored, reasons = log_in(app), list[str | None]()
    watched = store.watch(stored, reasons.append)
    assert (watched.id, watched.ended, watched.reason) == (stored.id, False, None)
    assert other.revoke_one("ada", stored.id)
    assert ends(watched)
    assert watched.reason == "revoked"
    wait_until(lambda: reasons)
    assert reasons == ["revoked"]


def test_a_session_beyond_the_limit_ends_with_the_reason_limit(make_app: MakeApp) -> None:
    """A login that exceeds the limit of sessions ends the least recently used one."""
    app = make_app(max_sessions_per_user=1)
    watched = store_of(app).watch(log_in(app))
    log_in(app)
    assert ends(watched)
    assert watched.reason == "limit"


def test_a_stolen_session_ends_with_the_reason_stolen(
    make_app: MakeApp, sign_in: SignIn, clock: Clock
) -> None:
    """If a secret is used again after its grace, the watcher is told of the theft."""
    app = make_app(rotation_interval=3600, rotation_grace=60)
    browser = sign_in(app)
    old = token_of(browser)
    clock.advance(hours=2)
    browser.get("/me")
    browser.get("/me")
    assert token_of(browser) != old
    watched = store_of(app).watch(stored_of(app, token_of(browser)))
    clock.advance(hours=1)
    browser_with(app, old).get("/me")
    assert ends(watched)
    assert watched.reason == "stolen"


@pytest.mark.parametrize("path", ["/logout", "/login/bob", "/login/ada"])
def test_a_logout_and_a_login_over_the_session_end_it_without_a_reason(
    app: Flask, sign_in: SignIn, store: SessionStore, path: str
) -> None:
    """The user has ended the session in this browser, so there is nothing to tell."""
    browser = sign_in(app)
    watched = store.watch(stored_of(app, token_of(browser)))
    browser.post(path)
    assert ends(watched)
    assert watched.reason is None


def test_a_session_ends_when_it_expires(make_app: MakeApp, redis_client: redis.Redis) -> None:
    """A watched session is read at the time of its expiry, although Redis does not report it."""
    app = make_app(idle_timeout=1, renewal_interval=0.5)
    stored, store = log_in(app), store_of(app)
    watched = store.watch(stored)
    redis_client.persist(store._server.record_key(stored.id))
    assert ends(watched)
    assert watched.reason == "expired"


def test_activity_moves_the_time_at_which_a_watched_session_is_read(
    app: Flask, sign_in: SignIn, store: SessionStore, clock: Clock
) -> None:
    """After a renewal, the watcher waits for the later expiry."""
    browser = sign_in(app)
    stored = stored_of(app, token_of(browser))
    watched = store.watch(stored)
    [entry] = store._watcher._entries.values()
    before = entry.expires
    clock.advance(hours=1)
    browser.get("/me")
    wait_until(lambda: entry.expires >= before + 3_600_000)
    assert not watched.ended


def test_a_shorter_timeout_by_the_clock_ends_a_session_at_the_next_check(
    app: Flask, store: SessionStore, clock: Clock
) -> None:
    """A session that has expired by the settings has ended, also if Redis still has the record."""
    watched = store.watch(log_in(app))
    clock.advance(days=8)
    store._watcher.on_reset()
    assert ends(watched)
    assert watched.reason == "expired"


def test_the_record_of_another_user_ends_a_watched_session(
    app: Flask, store: SessionStore, redis_client: redis.Redis
) -> None:
    """A session is watched for one user: if the id belongs to another user, it has ended."""
    ada, bob = log_in(app), log_in(app, "bob")
    watched = store.watch(ada)
    redis_client.set(store._server.record_key(ada.id), bob.raw)
    assert ends(watched)
    assert watched.reason is None


def test_a_new_secret_and_a_write_do_not_end_a_watched_session(
    app: Flask, sign_in: SignIn, store: SessionStore, other: SessionStore
) -> None:
    """A session is watched by its id. It ends only by a later revocation."""

    @app.post("/rotate")
    def rotate() -> t.Any:
        kvs.rotate_token()
        return {}

    browser = sign_in(app)
    stored, later = stored_of(app, token_of(browser)), log_in(app, "bob")
    watched, marker = store.watch(stored), store.watch(later)
    browser.post("/rotate")
    browser.post("/data", json={"x": 1})
    assert other.revoke_one("bob", later.id)
    assert ends(marker)  # its check came after those of the changes
    assert not watched.ended
    assert other.revoke_one("ada", stored.id)
    assert ends(watched)


# Who


def test_all_watchers_of_a_session_are_told_and_none_that_has_left(
    app: Flask, store: SessionStore, other: SessionStore
) -> None:
    """Two watches on one session end together; a closed one and those of other sessions do not."""
    stored, stays = log_in(app), store.watch(log_in(app))
    reasons: list[t.Any] = []
    first, second = store.watch(stored), store.watch(stored)
    left = store.watch(stored, reasons.append)
    left.close()
    left.close()
    other.revoke_one("ada", stored.id)
    assert ends(first) and ends(second)
    assert not (left.ended or stays.ended or reasons)


def test_a_watcher_that_blocks_or_fails_does_not_keep_others_waiting(
    app: Flask, store: SessionStore, other: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Each `on_end` has a thread of its own; its exception is logged."""
    first, second, go = log_in(app), log_in(app), threading.Event()

    def fail(reason: str | None) -> None:
        raise OSError("the socket is closed")

    watches = [store.watch(first, lambda reason: go.wait(PATIENCE)), store.watch(first, fail)]
    later = store.watch(second)
    other.revoke_all("ada")
    assert ends(later)
    wait_until(lambda: "the socket is closed" in caplog.text)
    assert [ends(watched) for watched in watches] == [True, True]
    go.set()


def test_the_thread_runs_only_while_a_session_is_watched(app: Flask, store: SessionStore) -> None:
    """It starts with the first watched session, and ends with the last one, however that is."""
    assert threads() == []
    first, second = store.watch(log_in(app)), store.watch(log_in(app))
    assert len(threads()) == 1
    first.close()
    second.close()
    wait_until(lambda: not threads())
    third = store.watch(log_in(app))
    assert len(threads()) == 1
    store.revoke_all("ada")
    assert ends(third)
    wait_until(lambda: not threads())


def test_a_watch_that_nobody_uses_any_more_is_forgotten(app: Flask, store: SessionStore) -> None:
    """A stream that the server has never begun leaves no watched session."""
    watched = store.watch(log_in(app), print)
    del watched
    gc.collect()
    store._watcher.on_reset()
    wait_until(lambda: not threads())
    assert store._watcher._entries == {}


def test_closing_the_store_ends_the_thread(app: Flask, store: SessionStore) -> None:
    """A closed store watches nothing. A later watch works again."""
    stored = log_in(app)
    forgotten = store.watch(stored)
    store.close()
    wait_until(lambda: not threads())
    watched = store.watch(stored)
    store.revoke_all("ada")
    assert ends(watched)
    assert not forgotten.ended


def test_a_watched_session_does_not_keep_its_store_in_memory(
    make_app: MakeApp, socket_path: str, prefix: str
) -> None:
    """The thread ends if the store is gone."""
    store = SessionStore(redis.Redis(unix_socket_path=socket_path), kvs.Settings(key_prefix=prefix))
    watched, its_watcher = store.watch(log_in(make_app())), store._watcher
    del store
    gc.collect()
    its_watcher.on_reset()
    wait_until(lambda: not threads())
    assert not watched.ended


# Races


def test_revocation_before_the_watch_begins_is_noticed(
    app: Flask, store: SessionStore, other: SessionStore
) -> None:
    """A session that has ended between its load and the watch is read once more."""
    stored = log_in(app)
    listening(store)
    other.revoke_one("ada", stored.id)
    watched = store.watch(stored)
    assert ends(watched)
    assert watched.reason == "revoked"


class ParkedRead:
    """The next read of the watcher gets its answer, and waits before it gives it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_read, self.go = threading.Event(), threading.Event()
        read = SessionStore._read

        def parked(store: SessionStore, session_id: str) -> t.Any:
            answer = read(store, session_id)
            if not self.is_read.is_set():
                self.is_read.set()
                assert self.go.wait(PATIENCE)
            return answer

        monkeypatch.setattr(SessionStore, "_read", parked)


def test_revocation_while_the_session_is_being_read_is_noticed(
    app: Flask, store: SessionStore, other: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a change is reported after the answer of a read and before its use, it is read again."""
    stored = log_in(app)
    reports = Noted(listening(store).tracker)
    parked = ParkedRead(monkeypatch)
    watched = store.watch(stored)
    assert parked.is_read.wait(PATIENCE)
    other.revoke_one("ada", stored.id)
    reports.wait_for(store._server.record_key(stored.id))
    parked.go.set()
    assert ends(watched)
    assert watched.reason == "revoked"


def test_a_watch_that_begins_while_the_thread_ends_is_served(
    app: Flask, store: SessionStore, other: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that has found nothing to watch does not count any more, although it still runs."""
    stored, found_nothing, go = log_in(app), threading.Event(), threading.Event()
    run = Watcher._run

    def run_and_wait(watcher: Watcher) -> None:
        run(watcher)
        found_nothing.set()
        assert go.wait(PATIENCE)

    monkeypatch.setattr(Watcher, "_run", run_and_wait)
    store.watch(stored).close()
    assert found_nothing.wait(PATIENCE)
    watched = store.watch(stored)
    other.revoke_one("ada", stored.id)
    assert ends(watched)
    go.set()


def test_a_watch_that_is_closed_while_its_session_ends_calls_nothing() -> None:
    """A view that has left its block is not called back, although the end is already on its way."""
    reasons: list[str | None] = []
    watched = WatchedSession("id", reasons.append)
    watched.close()
    watched.end("revoked")
    wait_until(lambda: "kvsession-on-end" not in [each.name for each in threading.enumerate()])
    assert watched.ended
    assert reasons == []


# Faults


def cut(proxy: Proxy, server: Server) -> Callable[[], object]:
    proxy.target = "/nowhere"
    proxy.cut_connections()
    return lambda: setattr(proxy, "target", server.path)


def hang(proxy: Proxy, server: Server) -> Callable[[], object]:
    """Nothing arrives any more, and nobody is told."""
    proxy.forget_connections()
    return lambda: None


@pytest.mark.parametrize("fault", [cut, hang])
def test_revocation_during_a_lost_connection_is_noticed_afterwards(
    make_app: MakeApp, own_server: Server, fault: Callable[..., t.Any]
) -> None:
    """When the worker can listen again, all watched sessions are read again."""
    proxy = Proxy(own_server.path)
    here = make_app(redis_url=f"unix://{proxy.path}", store_timeout=1)
    elsewhere = make_app(redis_url=f"unix://{own_server.path}")
    ended, stays = log_in(here), log_in(here, "bob")
    store = listening(store_of(here))
    watched, other = store.watch(ended), store.watch(stays)
    heal = fault(proxy, own_server)
    store_of(elsewhere).revoke_one("ada", ended.id)
    heal()
    assert ends(watched)
    assert watched.reason == "revoked"
    assert not other.ended
    other.close()
    store.close()
    proxy.close()


def test_a_failing_store_ends_no_session(make_app: MakeApp, own_server: Server) -> None:
    """While the server is down, sessions are watched on. After its restart, a revocation is
    noticed."""
    app = make_app(redis_url=f"unix://{own_server.path}", store_timeout=1)
    stored, store = log_in(app), store_of(app)
    watched = listening(store).watch(stored)
    [entry] = store._watcher._entries.values()
    own_server.kill()
    for _ in range(3):
        wait_until(lambda: entry.check_at)
        store._watcher.on_reset()
    assert not watched.ended
    own_server.start()
    wait_until(store.tracker.is_proven)
    assert not watched.ended
    store.revoke_one("ada", stored.id)
    assert ends(watched)
    assert watched.reason == "revoked"


def test_without_reports_a_watched_session_is_read_at_an_interval(
    make_app: MakeApp, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the server refuses `CLIENT TRACKING`, a revocation is noticed all the same."""
    monkeypatch.setattr(watcher, "_SECONDS_BETWEEN_CHECKS", 0.2)
    with own_server.client() as client:
        allow(client, "client|tracking")
    here = make_app(redis_url=url_of(own_server.path))
    stored = log_in(here)
    watched = store_of(here).watch(stored)
    store_of(make_app(redis_url=f"unix://{own_server.path}")).revoke_one("ada", stored.id)
    assert ends(watched)
    assert watched.reason == "revoked"
    assert not store_of(here).tracker.is_proven()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the test forks while it watches
def test_a_forked_process_watches_by_itself(
    app: Flask, store: SessionStore, other: SessionStore
) -> None:
    """The child knows none of the parent's watches and has a thread of its own, also if the fork
    came while another thread had the lock. The parent goes on."""
    stored, of_child = log_in(app), log_in(app)
    reasons: list[str | None] = []
    watched = store.watch(stored, reasons.append)
    with store._watcher._condition:
        child = _fork(lambda: _watch_in_child(store, other, of_child))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not watched.ended
    other.revoke_one("ada", stored.id)
    assert ends(watched)
    wait_until(lambda: reasons)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_with_too_many_threads_tells_all_watchers_of_an_end(
    app: Flask, store: SessionStore, other: SessionStore
) -> None:
    """If no more threads can start, all watches say at once that their session has ended, and each
    `on_end` is called when there is room again."""
    stored = log_in(app)
    child = _fork(lambda: _watch_with_few_threads(store, other, stored))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _watch_with_few_threads(store: SessionStore, other: SessionStore, stored: Stored) -> bool:
    go, called = threading.Event(), list[str | None]()

    def on_end(reason: str | None) -> None:
        called.append(reason)
        go.wait(PATIENCE)

    watches = [store.watch(stored, on_end) for _ in range(20)]
    listening(store)
    stack = 64 * 2**20
    threading.stack_size(stack)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 8 * stack, resource.RLIM_INFINITY))
    other.revoke_one("ada", stored.id)
    wait_until(lambda: all(watched.ended for watched in watches), PATIENCE)
    were_too_many = len(called) < 20
    go.set()
    wait_until(lambda: len(called) == 20, PATIENCE)
    return were_too_many and set(called) == {"revoked"}


def _fork(act: Callable[[], bool]) -> int:
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    return child


def _watch_in_child(store: SessionStore, other: SessionStore, stored: Stored) -> bool:
    watched = store.watch(stored)
    other.revoke_one("ada", stored.id)
    return watched.wait(PATIENCE) and watched.reason == "revoked"
