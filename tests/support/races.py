"""Races between requests: a request waits after the load of its session and before its act."""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from flask import Flask, g
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

Act = Callable[[], object]
CROWD = 12
PATIENCE = 10.0


class Stage:
    """An app whose view `/act` loads the session, waits for the other requests, and then acts."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.pool = ThreadPoolExecutor(CROWD)
        self._acts: dict[str, tuple[Act, Callable[[], object]]] = {}

        @app.post("/act/<name>")
        def act(name: str) -> t.Any:
            act, wait = self._acts[name]
            len(g.session)  # loads the session
            wait()
            act()
            return {}

    def browser(self, token: str | None) -> FlaskClient:
        """Another tab of the browser with this token."""
        client = self.app.test_client()
        if token:
            client.set_cookie("kvsession", token)
        return client

    def park(self, token: str | None, act: Act) -> Callable[[], TestResponse]:
        """Sends a request, which loads its session and then waits. Returns a function that lets the
        request act."""
        loaded, go = threading.Event(), threading.Event()
        name = f"parked-{len(self._acts)}"

        def wait() -> None:
            loaded.set()
            assert go.wait(PATIENCE)

        self._acts[name] = act, wait
        response = self._post(token, name)
        assert loaded.wait(PATIENCE)

        def release() -> TestResponse:
            go.set()
            return response.result(PATIENCE)

        return release

    def all_at_once(self, tokens: list[str | None], act: Act) -> list[TestResponse]:
        """Sends several requests. Each of them acts after all of them have loaded their session."""
        barrier = threading.Barrier(len(tokens), timeout=PATIENCE)
        name = f"crowd-{len(self._acts)}"
        self._acts[name] = act, barrier.wait
        return [future.result(PATIENCE) for future in [self._post(tk, name) for tk in tokens]]

    def data(self, token: str | None) -> t.Any:
        return self.browser(token).get("/data").get_json()

    def _post(self, token: str | None, name: str) -> Future[TestResponse]:
        return self.pool.submit(self.browser(token).post, f"/act/{name}")
