"""The app under test, and what its users do."""

from __future__ import annotations

import random
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor

from flask import Flask
from flask.testing import FlaskClient

import flask_kvsession as kvs

from ..support.apps import add_views, store_of
from .model import Broken, Browser

BROWSERS_OF_A_USER = 4
LIMIT = 3


class User:
    """A user with some browsers. One thing at a time happens to a user, so that the model knows in
    which order; several requests of one session may run at the same time."""

    def __init__(self, app: Flask, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()
        self.clients: list[tuple[Browser, FlaskClient]] = [
            (Browser(f"{name}-{n}", name), app.test_client()) for n in range(BROWSERS_OF_A_USER)
        ]
        self._app = app
        self._n = 0

    def act(self, choice: random.Random, pool: ThreadPoolExecutor) -> str:
        """Does one random thing; returns what it was."""
        browser, client = choice.choice(self.clients)
        name = choice.choices(list(ACTS), [weight for _, weight in ACTS.values()])[0]
        ACTS[name][0](self, browser, client, pool)
        self._look(browser, client)
        return name

    def look_at_all(self) -> None:
        for browser, client in self.clients:
            self._look(browser, client)

    def _look(self, browser: Browser, client: FlaskClient) -> None:
        response = client.get("/me")
        browser.saw(response.status_code, response.get_json(silent=True))

    def _log_in(self, browser: Browser, client: FlaskClient, pool: object) -> None:
        response = client.post(f"/login/{self.name}")
        browser.logged_in(_is_done(response.status_code))
        for other, _ in self.clients:  # the limit may have ended any of them
            if other is not browser:
                other.ended(done=False)

    def _log_out(self, browser: Browser, client: FlaskClient, pool: object) -> None:
        browser.logged_out(_is_done(client.post("/logout").status_code))

    def _write(self, browser: Browser, client: FlaskClient, pool: object) -> None:
        self._look(browser, client)
        if not browser.must_be_signed_in:
            return  # it would be the data of an anonymous session, which a login carries over
        key, value = f"k{self._next() % 5}", self._next()
        status = client.post("/data", json={key: value}).status_code
        browser.wrote(key, value, _is_done(status))

    def _write_at_once(
        self, browser: Browser, client: FlaskClient, pool: ThreadPoolExecutor
    ) -> None:
        """Four requests of one session at the same time, each with a key of its own."""
        self._look(browser, client)
        if not browser.must_be_signed_in:
            return
        cookie = client.get_cookie("kvsession")
        assert cookie

        def write(key: str, value: int) -> int:
            tab = self._app.test_client()
            tab.set_cookie("kvsession", cookie.value)
            return tab.post("/data", json={key: value}).status_code

        values = {f"p{n}": self._next() for n in range(4)}
        statuses = pool.map(write, values.keys(), values.values())
        for (key, value), status in zip(values.items(), statuses, strict=True):
            browser.wrote(key, value, _is_done(status))

    def _confirm(self, browser: Browser, client: FlaskClient, pool: object) -> None:
        status = client.post("/confirm").status_code
        if status == 503:  # the new secret may be in Redis, and its cookie was not sent
            browser.must_be_signed_in = False
        elif status not in (200, 401):
            raise Broken(f"a confirmation got {status}")

    def _revoke_all(self, browser: Browser, client: FlaskClient, pool: object) -> None:
        try:
            store_of(self._app).revoke_all(self.name)
            done = True
        except kvs.errors.StoreUnavailable:
            done = False
        for other, _ in self.clients:
            other.ended(done)

    def _revoke_all_during_writes(
        self, browser: Browser, client: FlaskClient, pool: ThreadPoolExecutor
    ) -> None:
        """A request that is under way does not bring its session back."""
        writes = []
        for known, other in self.clients:
            if known.must_be_signed_in:
                value = self._next()
                known.wrote("w", value, done=False)
                writes.append(pool.submit(other.post, "/data", json={"w": value}))
        self._revoke_all(browser, client, pool)
        for write in writes:
            _is_done(write.result().status_code)
        # A write that came after the revocation made an anonymous session.
        for _, other in self.clients:
            other.delete_cookie("kvsession-anonymous")

    def _update_all(self, browser: Browser, client: FlaskClient, pool: object) -> None:
        value = self._next()
        try:
            store_of(self._app).update_all(self.name, {"role": value})
            done = True
        except kvs.errors.StoreUnavailable:
            done = False
        for other, _ in self.clients:
            if other.may_be_signed_in:
                other.wrote("role", value, done)

    def _next(self) -> int:
        self._n += 1
        return self._n


ACTS: dict[str, tuple[t.Any, int]] = {
    "write": (User._write, 8),
    "write at once": (User._write_at_once, 4),
    "log in": (User._log_in, 4),
    "log out": (User._log_out, 1),
    "confirm": (User._confirm, 2),
    "revoke all": (User._revoke_all, 1),
    "revoke all during writes": (User._revoke_all_during_writes, 1),
    "update all": (User._update_all, 1),
}


def create_app(url: str, prefix: str) -> Flask:
    app = Flask("soak")
    app.config.update(
        TESTING=True,
        KVSESSION_REDIS_URL=url,
        KVSESSION_KEY_PREFIX=prefix,
        KVSESSION_STORE_TIMEOUT=0.5,
        KVSESSION_MAX_SESSIONS_PER_USER=LIMIT,
    )
    kvs.KVSession(app)
    add_views(app)

    @app.post("/confirm")
    @kvs.login_required
    def confirm() -> t.Any:
        kvs.confirm_login()
        return {}

    return app


def _is_done(status: int) -> bool:
    if status not in (200, 503):
        raise Broken(f"an act got {status}")
    return status == 200
