"""A program: two users send requests, and a real signal handler raises in the middle of them.

    python -m tests.faults.interrupted PATH PORT KIND EXCEPTION COUNT

PATH is the unix socket of a server and PORT its port; KIND is a key of `CLIENTS`.
The program interrupts at random until COUNT requests were interrupted, and prints as JSON what the
others were answered, and how many connections and file descriptors are left.
"""

from __future__ import annotations

import contextvars
import gc
import json
import os
import random
import signal
import sys
import time
import typing as t
from collections import Counter
from collections.abc import Callable

import redis
from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

import flask_kvsession as kvs

from ..support.apps import add_views

SHORTEST, LONGEST = 20e-6, 2.5e-3
"""When the signal comes, s. A request takes about 1 ms."""

GIVE_UP_SECONDS = 100


class TimeLimit(BaseException):
    """A limit that no code takes for an error of its own."""


class TimeLimitError(Exception):
    """A limit that code may take for an error of its own, as Celery's soft limit."""


def by_url(app: Flask, path: str, port: int) -> None:
    app.config["KVSESSION_REDIS_URL"] = f"unix://{path}"
    kvs.KVSession(app)


def by_few_connections(app: Flask, path: str, port: int) -> None:
    app.config["KVSESSION_REDIS_URL"] = f"unix://{path}?max_connections=2"
    kvs.KVSession(app)


def by_ready_client(app: Flask, path: str, port: int) -> None:
    """A client as redis-py 8 makes it, which the views use too."""
    from redis.maint_notifications import MaintNotificationsConfig  # not in redis-py 6.2

    client = redis.Redis(
        port=port,
        protocol=3,
        maint_notifications_config=MaintNotificationsConfig(enabled="auto"),
    )
    kvs.KVSession(app, redis=client)

    @app.before_request
    def use() -> None:
        client.get("something of the app's own")


CLIENTS: dict[str, Callable[[Flask, str, int], None]] = {
    "url": by_url,
    "few": by_few_connections,
    "ready": by_ready_client,
}


def make_app(kind: str, path: str, port: int) -> Flask:
    app = Flask("interrupted")
    app.config.update(TESTING=True, PROPAGATE_EXCEPTIONS=False, KVSESSION_STORE_TIMEOUT=5)
    CLIENTS[kind](app, path, port)
    add_views(app)
    return app


def arm(exception: type[BaseException]) -> Callable[[float], None]:
    """Returns a function that lets the signal come after so many seconds; 0: not at all."""
    armed = False

    def handle(number: int, frame: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise exception

    def set_timer(seconds: float) -> None:
        nonlocal armed
        armed = seconds > 0
        signal.setitimer(signal.ITIMER_REAL, seconds)

    signal.signal(signal.SIGALRM, handle)
    return set_timer


def main(path: str, port: str, kind: str, exception_name: str, count: str) -> dict[str, t.Any]:
    exception = {each.__name__: each for each in (TimeLimit, TimeLimitError)}[exception_name]
    app, set_timer, chance = make_app(kind, path, int(port)), arm(exception), random.Random(7)
    browsers = {user: app.test_client() for user in ("ada", "bob")}
    tokens: dict[str, str] = {}
    for user, browser in browsers.items():
        browser.post(f"/login/{user}", json={"data": {"who": user}})
        cookie = browser.get_cookie("kvsession")
        assert cookie
        tokens[user] = cookie.value

    def send(user: str, *, writes: bool, seconds: float) -> str:
        builder = EnvironBuilder(
            method="POST" if writes else "GET",
            path="/data" if writes else "/me",
            json={"who": user, "at": time.time()} if writes else None,
        )
        builder.headers["Cookie"] = f"kvsession={tokens[user]}"
        environ = builder.get_environ()
        try:
            set_timer(seconds)
            context: t.Any = contextvars.copy_context()
            chunks, status, _ = context.run(run_wsgi_app, app, environ)
            set_timer(0)
        except BaseException:  # an interruption inside of Flask gives errors of other types
            set_timer(0)
            assert seconds > 0
            return "interrupted"
        if writes or not status.startswith("200"):
            return str(status[:3])
        body = json.loads(b"".join(chunks))
        return "200" if (body["user"], body["data"]["who"]) == (user, user) else "as another"

    answers: Counter[str] = Counter()
    checks: Counter[str] = Counter()
    send("ada", writes=False, seconds=0)
    files = len(os.listdir("/proc/self/fd"))
    until = time.monotonic() + GIVE_UP_SECONDS
    while answers["interrupted"] + answers["500"] < int(count) and time.monotonic() < until:
        user = chance.choice(["ada", "bob"])
        seconds = chance.uniform(SHORTEST, LONGEST)
        answers[send(user, writes=chance.random() < 0.3, seconds=seconds)] += 1
        other = chance.choice(["ada", "bob"])
        checks[send(other, writes=False, seconds=0)] += 1
    gc.collect()  # exceptions refer to the frames in which they were raised
    time.sleep(0.1)
    with redis.Redis(unix_socket_path=path, protocol=3) as client:
        # The store's own speak RESP2. redis-py's pool loses some, which is no matter of the store.
        connections = sum(each["resp"] == "2" for each in client.client_list())
    return {
        "answers": answers,
        "checks": checks,
        "connections": connections,
        "new files": len(os.listdir("/proc/self/fd")) - files,
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
