"""A server that evicts keys, that cannot write to its disk, and that has very much to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from flask_kvsession.store.server import SCRIPTS, load_script

from ..support.apps import MakeApp, store_of
from ..support.browsers import may_enter
from ..support.figures import TIMEOUT, Figure
from ..support.servers import Server, wait_until

USERS = [f"user{n}" for n in range(60)]


@pytest.fixture
def evicting_app(make_app: MakeApp, own_server: Server) -> Flask:
    """An app with 60 signed-in users, on a server with a usual policy of managed offers."""
    own_server.run("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    own_server.run("CONFIG", "SET", "maxmemory", "8mb")
    return make_app(redis_url=f"unix://{own_server.path}", store_timeout=5, renewal_interval=3600)


@contextmanager
def churning_neighbour(server: Server) -> Iterator[None]:
    """Another program fills the server in the block, and reads its keys often."""
    is_over = threading.Event()

    def churn() -> None:
        with server.client() as client:
            n = 0
            while not is_over.is_set():
                n += 1
                client.set(f"neighbour:{n % 20_000}", b"x" * 500, ex=3600)
                client.get(f"neighbour:{(n * 7) % 20_000}")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def indexes(server: Server) -> int:
    with server.client() as client:
        return sum(1 for _ in client.scan_iter("*:u:*", count=1000))


@pytest.mark.without_near_cache  # the marks of these runs need room in the memory too
@pytest.mark.quick
def test_every_living_session_is_ended_although_the_indexes_were_evicted(
    evicting_app: Flask, own_server: Server, figure: Figure
) -> None:
    """Requests keep the records in memory, and the indexes are evicted. "Sign out everywhere" ends
    each session that is still alive."""
    browsers: dict[str, FlaskClient] = {}
    for user in USERS:
        browsers[user] = evicting_app.test_client()
        browsers[user].post(f"/login/{user}")
    began = time.monotonic()

    def read_until_evicted() -> bool:
        for browser in browsers.values():
            browser.get("/me")
        return indexes(own_server) == 0

    with churning_neighbour(own_server):
        wait_until(read_until_evicted)
    seconds = time.monotonic() - began
    living = [user for user in USERS if may_enter(browsers[user]) == [True]]
    assert living, "the requests kept no record in memory"
    ended = [user for user in living if store_of(evicting_app).revoke_all(user)]
    assert ended == living
    assert may_enter(*browsers.values()) == [False] * len(USERS)
    figure(
        "eviction (volatile-lru)",
        f"all {len(USERS)} indexes gone after {seconds:.0f} s; {len(ended)} of {len(living)} living"
        " sessions ended",
    )


@pytest.fixture
def unsaving_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose dump has the name of a folder."""
    server = Server(tmp_path_factory.mktemp("s"), "--dbfilename", "a-folder.rdb")
    server.folder.joinpath("a-folder.rdb").mkdir()
    yield server
    server.kill()


def test_a_server_that_cannot_save_refuses_writes(
    make_app: MakeApp, unsaving_server: Server, figure: Figure
) -> None:
    """MISCONF: reads work. A logout is an error and not reported as done. Afterwards all works."""
    app = make_app(redis_url=f"unix://{unsaving_server.path}", store_timeout=TIMEOUT)
    browser = app.test_client()
    browser.post("/login/ada")
    unsaving_server.run("CONFIG", "SET", "save", "3600 1")
    unsaving_server.run("BGSAVE")
    wait_until(lambda: unsaving_server.info("persistence")["rdb_last_bgsave_status"] == "err")
    assert browser.get("/me").status_code == 200
    assert browser.post("/logout").status_code == 503
    assert browser.get("/me").status_code == 200
    unsaving_server.run("CONFIG", "SET", "save", "")
    assert browser.post("/logout").status_code == 200
    figure("cannot save (MISCONF)", "read 200, logout 503, still signed in; then 200")


@pytest.mark.quick
@pytest.mark.parametrize("count", [100, 1000])
def test_no_act_keeps_the_other_clients_waiting(
    make_app: MakeApp, own_server: Server, figure: Figure, count: int
) -> None:
    """The acts on many full sessions copy no data, so the server is busy for some ms only."""
    url = f"unix://{own_server.path}"
    limited = make_app(redis_url=url, store_timeout=10, max_sessions_per_user=count)
    data = {"data": {"x": "a" * 60_000}}
    for _ in range(count):
        assert limited.test_client().post("/login/ada", json=data).status_code == 200
    with own_server.client() as client:
        client.config_set("slowlog-log-slower-than", 200)
        client.slowlog_reset()
        assert limited.test_client().post("/login/ada", json=data).status_code == 200
        busy = {"login over the limit": slowest_act(client)}
        client.slowlog_reset()
        assert len(store_of(limited).revoke_all("ada")) == count
        busy["revoke all"] = slowest_act(client)
    assert max(busy.values()) < 0.2  # decoding them took 1.3 s
    measured = ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in busy.items())
    figure("a long act", f"{count} sessions of 60 kB: {measured}")


def slowest_act(client: redis.Redis) -> float:
    """How long the server was busy with the slowest act, s."""
    digests = {load_script(name).digest.encode() for name in SCRIPTS}
    entries = client.slowlog_get(128)
    durations = [
        entry["duration"]
        for entry in entries
        if digests & set(entry["command"].split()) or entry["command"].startswith(b"EVAL ")
    ]
    return max(durations, default=0) / 1_000_000
