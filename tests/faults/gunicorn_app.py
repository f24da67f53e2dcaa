"""The app that gunicorn serves in a test. It has used the store before the workers are forked.

`/me?limit=SECONDS` is interrupted after about so many seconds, in the way of the worker: by a
signal handler, by an exception for the thread, or by gevent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import typing as t
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs

from flask import Flask, g
from werkzeug.datastructures import Headers
from werkzeug.test import run_wsgi_app

import flask_kvsession as kvs
from flask_kvsession.current import request_session

from ..support.apps import add_views


class TimeLimit(BaseException):
    """The limit of a request."""


app = Flask("served")
app.config.update(
    TESTING=True,
    KVSESSION_REDIS_URL=os.environ["FAULTS_URL"],
    KVSESSION_STORE_TIMEOUT=5,
    KVSESSION_NEAR_CACHE=bool(os.environ.get("FAULTS_NEAR_CACHE")),
)
kvs.KVSession(app)
add_views(app)


@app.get("/worker")
def worker() -> t.Any:
    """Which process answers, and whether its near cache has the session."""
    user, own = g.session.user_id, request_session()._presented.own
    return {"pid": os.getpid(), "user": user, "is_cached": bool(own and own.is_cached)}


parent = app.test_client()
parent.post("/login/parent")
parent.get("/me")


@contextmanager
def limited_by_signal(seconds: float) -> Iterator[None]:
    def handle(number: int, frame: object) -> None:
        raise TimeLimit

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def limited_by_thread(seconds: float) -> Iterator[None]:
    """Another thread raises an exception in this one. After the block, none comes any more."""
    lock, thread, is_over, sent = threading.Lock(), threading.get_ident(), False, False

    def interrupt() -> None:
        nonlocal sent
        with lock:
            if not is_over:
                sent = True
                raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
                raise_in(ctypes.c_ulong(thread), ctypes.py_object(TimeLimit))

    timer = threading.Timer(seconds, interrupt)
    timer.start()
    try:
        yield
    finally:
        with lock:
            is_over = True
        for _ in range(1000 if sent else 0):  # a sent exception comes here at the latest
            pass


@contextmanager
def limited_by_gevent(seconds: float) -> Iterator[None]:
    import gevent  # type: ignore[import-untyped]

    with gevent.Timeout(seconds, TimeLimit):
        yield


def limited(seconds: float) -> t.ContextManager[None]:
    if "gevent" in sys.modules and "-k gevent" in os.environ["GUNICORN_CMD_ARGS"]:
        return limited_by_gevent(seconds)
    if threading.current_thread() is threading.main_thread():
        return limited_by_signal(seconds)
    return limited_by_thread(seconds)


def served(environ: dict[str, t.Any], start_response: t.Any) -> t.Any:
    """The app, with the limit that the query names."""
    seconds = parse_qs(environ["QUERY_STRING"]).get("limit")
    if not seconds:
        return app(environ, start_response)
    try:
        with limited(float(seconds[0])):
            chunks, status, headers = run_wsgi_app(app, environ, buffered=True)
    except BaseException:  # an interruption inside of Flask gives errors of other types
        chunks, status, headers = [b"{}"], "500 Interrupted", Headers({"Content-Length": "2"})
    start_response(status, list(headers))
    return chunks
