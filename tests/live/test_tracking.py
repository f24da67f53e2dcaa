"""The thread that listens for changes of sessions."""

from __future__ import annotations

import gc
import os
import threading
import time
import typing as t
import weakref
from collections.abc import Callable, Iterator

import pytest
import redis

from flask_kvsession.connection import Servers, adopt, connect
from flask_kvsession.store.tracking import Run, Tracker

from ..support.proxy import Proxy
from ..support.rights import allow, url_of
from ..support.servers import Server, wait_until
from ..support.tracking import Noted

MakeTracker = Callable[[Servers], Tracker]

LOST = "does not report changes of sessions"
FOUND = "reports changes of sessions again"


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s"))
    yield server
    server.kill()


@pytest.fixture
def make_tracker(prefix: str) -> Iterator[MakeTracker]:
    made: list[tuple[Tracker, Servers]] = []

    def make(servers: Servers) -> Tracker:
        made.append((Tracker(servers, prefix), servers))
        return made[-1][0]

    yield make
    runs = [tracker._run for tracker, _ in made]
    for tracker, servers in made:
        tracker.close()
        servers.close()
    wait_until(lambda: not any(run.is_running for run in runs))


@pytest.fixture
def tracker(make_tracker: MakeTracker, socket_path: str) -> Tracker:
    return make_tracker(connect(url_of(socket_path)))


def listeners(client: redis.Redis) -> list[str]:
    """The ids of the connections on which the server reports changes."""
    return [each["id"] for each in client.client_list() if "B" in each["flags"]]


def test_each_change_of_a_key_with_the_prefix_is_reported(
    tracker: Tracker, prefix: str, redis_client: redis.Redis
) -> None:
    """A write, an expiry and a deletion by another client are reported; a key with another prefix
    is not."""
    noted = Noted(tracker)
    redis_client.set(f"{prefix}2:x", "1")
    redis_client.set(f"{prefix}:a", "1", px=30)
    noted.wait_for(f"{prefix}:a")
    noted.keys.clear()
    wait_until(lambda: redis_client.get(f"{prefix}:a") is None)
    noted.wait_for(f"{prefix}:a")
    redis_client.set(f"{prefix}:b", "1")
    redis_client.delete(f"{prefix}:b")
    wait_until(lambda: noted.keys.count(f"{prefix}:b") == 2)
    assert set(noted.keys) == {f"{prefix}:a", f"{prefix}:b"}


def test_a_reply_to_a_heartbeat_comes_after_the_reports_before_it(
    tracker: Tracker, prefix: str, redis_client: redis.Redis
) -> None:
    """When a heartbeat that was sent after a write is answered, the write has been reported."""
    noted = Noted(tracker)
    for number in range(5):
        redis_client.set(f"{prefix}:{number}", "1")
        written = time.monotonic()
        wait_until(lambda written=written: tracker._run.tracks[0].proven > written)  # type: ignore[misc]
        assert f"{prefix}:{number}" in noted.keys


def test_a_late_reply_proves_what_was_true_when_its_heartbeat_was_sent(
    make_tracker: MakeTracker, own_server: Server
) -> None:
    """If a reply takes some time, that time is not proven: a change may have been made in it."""
    proxy, may_pass = Proxy(own_server.path), threading.Event()
    tracker = Noted(make_tracker(connect(f"unix://{proxy.path}"))).tracker
    track = tracker._run.tracks[0]

    def pass_one(chunk: bytes) -> bool:
        passes = may_pass.wait(10)
        may_pass.clear()
        return passes

    proxy.on_reply = pass_one
    held = time.monotonic()
    wait_until(lambda: (track.asked or 0) > held)
    asked = track.asked
    wait_until(lambda: time.monotonic() > held + 0.5)
    may_pass.set()
    wait_until(lambda: track.asked != asked)
    assert track.proven == asked
    may_pass.set()
    proxy.close()


def test_a_flush_counts_as_lost_reports(
    make_tracker: MakeTracker, own_server: Server, prefix: str
) -> None:
    """After FLUSHALL, which names no keys, the epoch is another one and subscribers are told."""
    noted = Noted(make_tracker(connect(f"unix://{own_server.path}")))
    before = noted.resets, noted.tracker.epoch
    own_server.run("SET", f"{prefix}:a", "1")
    own_server.run("FLUSHALL")
    wait_until(lambda: noted.resets > before[0])
    assert noted.tracker.epoch > before[1]
    assert noted.tracker.is_proven()


def kill_listener(server: Server, proxy: Proxy) -> None:
    with server.client() as client:
        for each in listeners(client):
            client.client_kill_filter(_id=each)


def kill_and_start(server: Server, proxy: Proxy) -> None:
    server.kill()
    server.start()


def forget_connections(server: Server, proxy: Proxy) -> None:
    proxy.forget_connections()


def stop_and_resume(server: Server, proxy: Proxy) -> None:
    server.stop()
    time.sleep(1.5)  # longer than a proof
    server.resume()


def make_replica(server: Server, proxy: Proxy) -> None:
    server.run("REPLICAOF", "127.0.0.1", "1")
    wait_until(lambda: server.info("replication")["role"] == "slave")
    time.sleep(1)  # four heartbeats
    server.run("REPLICAOF", "NO", "ONE")


FAULTS = [kill_listener, kill_and_start, forget_connections, stop_and_resume, make_replica]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed_and_the_thread_listens_again(
    make_tracker: MakeTracker,
    own_server: Server,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    fault: Callable[[Server, Proxy], None],
) -> None:
    """If the connection is lost, hangs, or is one to a replica, changes are not proven. Then the
    thread connects again, and subscribers are told that reports may have been lost. The log has one
    line for each of the two."""
    proxy = Proxy(own_server.path)
    noted = Noted(make_tracker(connect(f"unix://{proxy.path}")))
    before, was_unproven = noted.resets, []
    with watched(lambda: was_unproven.append(1) if not noted.tracker.is_proven() else None):
        fault(own_server, proxy)
        wait_until(lambda: FOUND in caplog.text)
    assert was_unproven
    assert noted.tracker.is_proven() and noted.resets >= before + 2
    assert caplog.text.count(LOST) == caplog.text.count(FOUND) == 1
    noted.keys.clear()
    own_server.run("SET", f"{prefix}:x", "1")
    noted.wait_for(f"{prefix}:x")
    proxy.close()


class watched:
    """Calls a function again and again, in a thread, while the block runs."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act, self._is_over = act, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._is_over.wait(0.001):
            self._act()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()


def test_a_hung_connection_is_proven_for_a_second_at_most(
    make_tracker: MakeTracker, own_server: Server
) -> None:
    """The proof of a reply ends a second after its heartbeat was sent, whatever the thread does."""
    proxy = Proxy(own_server.path)
    tracker = Noted(make_tracker(connect(f"unix://{proxy.path}"))).tracker
    proxy.forget_connections()
    run = tracker._run
    assert run.proven_until - run.tracks[0].proven == 1
    wait_until(lambda: not tracker.is_proven())
    assert time.monotonic() >= run.proven_until
    proxy.close()


@pytest.mark.parametrize("missing", ["client|tracking", "HELLO"])
def test_a_refusal_is_logged_once_with_the_remedy(
    make_tracker: MakeTracker,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
    missing: str,
) -> None:
    """If the server forbids CLIENT TRACKING or does not know RESP3, one warning names the setting
    and the rights, and no password. Changes are never proven."""
    options = ("--rename-command", "HELLO", "") if missing == "HELLO" else ()
    server = Server(tmp_path_factory.mktemp("r"), *options)
    request.addfinalizer(server.kill)
    with server.client(protocol=2) as client:
        allow(client, missing)
    tracker = make_tracker(connect(url_of(server.path)))
    tracker.start()
    wait_until(lambda: LOST in caplog.text)
    [record] = caplog.records
    for part in ("KVSESSION_NEAR_CACHE", "+client|tracking", "+hello", "all reads go to Redis"):
        assert part in record.getMessage()
    assert "only-for-tests" not in caplog.text
    assert not tracker.is_proven()


def test_a_server_that_forbids_the_heartbeat_is_proven_by_its_refusal(
    make_tracker: MakeTracker, own_server: Server
) -> None:
    """A reply that forbids ROLE is a reply too."""
    with own_server.client() as client:
        allow(client, "role")
    noted = Noted(make_tracker(connect(url_of(own_server.path))))
    proven = noted.tracker._run.tracks[0].proven
    wait_until(lambda: noted.tracker._run.tracks[0].proven > proven)


@pytest.mark.parametrize("options", [{"protocol": 2, "decode_responses": True}, {"protocol": 3}])
def test_a_passed_client_may_have_any_protocol(
    make_tracker: MakeTracker, socket_path: str, prefix: str, options: t.Any
) -> None:
    """The thread connects with the address of a passed client, and by RESP3."""
    with redis.Redis(unix_socket_path=socket_path, **options) as client:
        noted = Noted(make_tracker(adopt(client)))
        client.set(f"{prefix}:a", "1")
        noted.wait_for(f"{prefix}:a")


def test_there_is_no_thread_before_the_start_and_after_the_close(tracker: Tracker) -> None:
    """The thread begins with `start`, which may be called again and again, and ends after
    `close`."""
    assert not tracker._run.is_running
    noted = Noted(tracker)
    run = tracker._run
    tracker.start()
    assert tracker._run is run and run.is_running
    tracker.close()
    assert not tracker.is_proven()
    wait_until(lambda: not run.is_running)
    tracker.start()
    wait_until(tracker.is_proven)
    assert noted.resets == 2


def test_a_thread_that_does_not_begin_is_replaced(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a new thread is interrupted before it runs, `start` returns, and a later `start` makes
    another thread."""
    with monkeypatch.context() as patch:
        patch.setattr("flask_kvsession.store.tracking._thread.start_new_thread", lambda *args: 1)
        tracker.start()
    first = tracker._run
    tracker.start()
    assert tracker._run is first
    first.began -= 2
    tracker.start()
    wait_until(tracker.is_proven)


def test_of_two_threads_the_first_one_ends(tracker: Tracker) -> None:
    """If two callers start a thread at the same time, one thread stays."""
    noted = Noted(tracker)
    first = tracker._run
    tracker._run = Run()
    tracker._run.began -= 2
    tracker.start()
    wait_until(lambda: not first.is_running)
    wait_until(noted.tracker.is_proven)


def test_the_thread_keeps_neither_its_tracker_nor_a_subscriber_in_memory(socket_path: str) -> None:
    """If nobody refers to a tracker any more, its thread ends and its connection is closed; a
    subscriber is freed before that."""
    noted = Noted(Tracker(connect(url_of(socket_path)), "kvs"))
    tracker, run, subscriber = noted.tracker, noted.tracker._run, weakref.ref(noted)
    connection = weakref.ref(run.tracks[0].listener)
    del noted
    gc.collect()
    assert subscriber() is None and run.is_running
    del tracker
    wait_until(lambda: not run.is_running)
    gc.collect()
    assert connection() is None


def test_an_error_of_a_subscriber_is_logged_and_the_thread_goes_on(
    tracker: Tracker, prefix: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Another subscriber is told of the change, and of later ones."""

    class Broken:
        def change(self, key: str) -> None:
            raise ValueError("broken")

        def reset(self) -> None:
            pass

    broken = Broken()
    tracker.subscribe(broken.change, broken.reset)
    noted = Noted(tracker)
    for key in (f"{prefix}:a", f"{prefix}:b"):
        redis_client.set(key, "1")
        noted.wait_for(key)
    assert "a change of a session could not be followed" in caplog.text


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the test forks while it listens
def test_a_forked_process_listens_by_itself(
    tracker: Tracker, prefix: str, redis_client: redis.Redis
) -> None:
    """In the child, nothing is proven until it has started a thread of its own. The parent's thread
    goes on."""
    noted = Noted(tracker)
    child = os.fork()
    if child == 0:
        try:
            assert not tracker.is_proven()
            Noted(tracker).tracker.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tracker.is_proven() and noted.resets == 1
    redis_client.set(f"{prefix}:a", "1")
    noted.wait_for(f"{prefix}:a")
