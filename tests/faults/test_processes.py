"""Fork, threads and greenlets: processes share no connection, and no reply crosses."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
import typing as t
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flask_kvsession.connection import connect
from flask_kvsession.settings import Settings
from flask_kvsession.store import SessionStore

from ..support.figures import Figure
from ..support.gunicorn import NOT_COUNTED, gunicorn
from ..support.near_cache import IS_ON as NEAR_CACHE_IS_ON
from ..support.requests import AS_ANOTHER, at_once
from ..support.servers import LOOPBACK, Server, wait_until

ROOT = Path(__file__).parents[2]
ENVIRON = os.environ | {"PYTHONPATH": str(ROOT)}

WORKERS = {
    "sync": "-k sync -w 4",
    "sync, preloaded": "-k sync -w 4 --preload",
    "gthread, preloaded": "-k gthread -w 4 --threads 4 --preload",
    "gevent": "-k gevent -w 2",
    "gevent, preloaded": "-k gevent -w 2 --preload",
}


@pytest.mark.quick
@pytest.mark.parametrize("query", ["", "?max_connections=1"])
def test_children_of_a_fork_share_no_connection_with_their_parent(
    own_server: Server, figure: Figure, query: str
) -> None:
    """If a process that has used the store forks 4 children, and all use it at once, everybody is
    answered as before."""
    url = f"unix://{own_server.path}{query}"
    command = [sys.executable, "-m", "tests.faults.forked", url, "4", "150"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRON, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"200": 5 * 2 * 150}
    figure("fork", "4 children and their parent: 1,500 requests, all 200")


def served(
    server: Server, options: str, *, near_cache: bool = NEAR_CACHE_IS_ON
) -> t.ContextManager[int]:
    """gunicorn with the app of `gunicorn_app`; gives its port."""
    environ = {
        "FAULTS_NEAR_CACHE": "1" if near_cache else "",
        "FAULTS_URL": f"unix://{server.path}",
    }
    if not near_cache:
        environ |= NOT_COUNTED
    return gunicorn("tests.faults.gunicorn_app:served", options, environ, ready="/untouched")


def get(port: int, path: str, cookie: str, method: str = "GET") -> tuple[int, t.Any, str]:
    """The status, the body and the cookie of an answer."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
    try:
        connection.request(method, path, headers={"Cookie": cookie} if cookie else {})
        response = connection.getresponse()
        body = response.read()
        cookie = (response.getheader("Set-Cookie") or "").split(";")[0]
        return response.status, json.loads(body) if response.status == 200 else None, cookie
    finally:
        connection.close()


@contextmanager
def faults(server: Server) -> Iterator[None]:
    """While the block runs, the server drops connections and is paused again and again."""
    is_over = threading.Event()

    def run() -> None:
        n = 0
        while not is_over.wait(0.1):
            server.run("CLIENT", "KILL", "TYPE", "normal")
            if (n := n + 1) % 5 == 0:
                server.run("CLIENT", "PAUSE", "30", "ALL")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("worker", "count"),
    [
        pytest.param("gthread, preloaded", 400, marks=pytest.mark.quick, id="quick"),
        *[pytest.param(worker, 10_000, id=worker) for worker in WORKERS],
    ],
)
def test_no_reply_crosses_users_under_gunicorn(
    own_server: Server, figure: Figure, worker: str, count: int
) -> None:
    """Two users send requests through 8 connections, while requests are interrupted, and the server
    drops connections and is paused. Nobody is answered as another user or as nobody."""
    answers: Counter[str] = Counter()
    lock, chance = threading.Lock(), random.Random(5)

    with served(own_server, WORKERS[worker]) as port:
        cookies = {user: get(port, f"/login/{user}", "", "POST")[2] for user in ("ada", "bob")}

        def act(n: int) -> None:
            user = "ada" if n % 2 else "bob"
            limit = f"?limit={chance.uniform(0.0001, 0.003):.6f}" if n % 3 == 0 else ""
            status, body, _ = get(port, f"/me{limit}", cookies[user])
            answer = AS_ANOTHER if body and body["user"] != user else str(status)
            with lock:
                answers[f"{answer} limited" if limit else answer] += 1

        with faults(own_server):
            seconds = at_once(count, 8, act)
        time.sleep(0.2)
        after = [get(port, "/me", cookies["ada"])[0] for _ in range(20)]
    assert after == [200] * 20
    assert set(answers) <= {"200", "200 limited", "500 limited"}
    interrupted = answers["500 limited"]
    assert interrupted > 0
    figure(
        "fork and threads (gunicorn)",
        f"{worker}: {count} requests in {seconds:.0f} s, {interrupted} interrupted, others 200",
    )


@pytest.mark.quick
@pytest.mark.parametrize("worker", ["-k sync -w 2 --preload", "-k gthread -w 2", "-k gevent -w 2"])
def test_workers_with_a_near_cache_see_a_revocation_by_another_process(
    own_server: Server, figure: Figure, worker: str
) -> None:
    """If each worker has the session in its near cache, and another process ends it, both workers
    refuse it within a second, and from then on."""
    store = SessionStore(connect(f"unix://{own_server.path}"), Settings())
    with served(own_server, worker, near_cache=True) as port:
        _, login, cookie = get(port, "/login/ada", "", "POST")
        caching: set[int] = set()

        def all_have_cached() -> bool:
            answer = get(port, "/worker", cookie)[1]
            caching.update({answer["pid"]} if answer["is_cached"] else ())
            return len(caching) == 2

        wait_until(all_have_cached)
        assert store.revoke_one("ada", login["id"])
        began = time.monotonic()
        last_served = began
        while time.monotonic() < began + 3:
            if get(port, "/me", cookie)[0] == 200:
                last_served = time.monotonic()
    store.close()
    seconds = last_served - began
    assert seconds < 1.5, "the proof of a second, and some time for a busy machine"
    figure("near cache, revocation", f"{worker}: last served after {seconds * 1000:.0f} ms")
