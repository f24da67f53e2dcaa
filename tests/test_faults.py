"""Law 8: a failing store never looks like "not signed in"."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.connection.embedded import find_binary
from flask_kvsession.errors import StoreUnavailable

from .support.apps import MakeApp, close, store_of
from .support.browsers import id_of, token_of
from .support.clock import Clock

TIMEOUT = 0.3
GRACE = 0.5 + 1.0  # what FAULTS allows beyond the timeout, and what a busy machine may add


class Server:
    """A server of one test's own, to be ill-treated."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self, *options: str) -> None:
        command = [find_binary(), "--port", "0", "--unixsocket", self.path, "--save", ""]
        self._process = subprocess.Popen(
            [*command, *options], cwd=self._folder, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not self.answers() and time.monotonic() < deadline:
            time.sleep(0.01)

    def answers(self) -> bool:
        try:
            return bool(self.run("PING"))
        except redis.RedisError:
            return False

    def run(self, *command: t.Any) -> t.Any:
        with redis.Redis(unix_socket_path=self.path) as client:
            return client.execute_command(*command)

    def send(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s"))
    yield server
    server.kill()


@pytest.fixture
def app(make_app: MakeApp, own_server: Server) -> Flask:
    app = make_app(redis_url=f"unix://{own_server.path}", store_timeout=TIMEOUT)

    @app.get("/lenient")
    def lenient() -> t.Any:
        """A page that tries to go on."""
        try:
            g.session.get("x")
        except StoreUnavailable:
            with pytest.raises(StoreUnavailable):
                g.session["x"] = 1
            with pytest.raises(StoreUnavailable):
                kvs.list_sessions()
            return {"data": dict(g.session), "signed in": g.session.is_authenticated}
        return {}

    return app


@pytest.fixture
def signed_in(app: Flask) -> FlaskClient:
    client = app.test_client()
    client.post("/login/ada", json={"data": {"x": 1}})
    return client


def stop(server: Server) -> None:
    server.send(signal.SIGSTOP)


def resume(server: Server) -> None:
    server.send(signal.SIGCONT)


def nothing(server: Server) -> None:
    pass


def demand_password(server: Server) -> None:
    with redis.Redis(unix_socket_path=server.path) as client:
        client.config_set("requirepass", "s3cr3t")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")


FAULTS: dict[str, tuple[Callable[[Server], object], Callable[[Server], object]]] = {
    "hung": (stop, resume),
    "killed": (lambda server: server.kill(), lambda server: server.start()),
    "paused": (lambda server: server.run("CLIENT", "PAUSE", "2500", "ALL"), nothing),
    "a password demanded": (demand_password, nothing),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_store_is_503_and_the_cookie_stays(
    signed_in: FlaskClient,
    own_server: Server,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    """Within the deadline a guarded page, a login and a logout are 503 with `Retry-After`, pages
    that do not touch the session go on, no cookie is sent, and no password is told."""
    break_it, mend_it = FAULTS[fault]
    break_it(own_server)
    before = token_of(signed_in)
    for method, path in [("GET", "/me"), ("POST", "/login/bob"), ("POST", "/logout")]:
        began = time.monotonic()
        response = signed_in.open(path, method=method)
        assert time.monotonic() - began < TIMEOUT + GRACE
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert response.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in response.headers
    assert signed_in.get("/untouched").status_code == 200
    assert signed_in.get("/lenient").get_json() == {"data": {}, "signed in": False}
    assert token_of(signed_in) == before
    assert "s3cr3t" not in caplog.text
    mend_it(own_server)


@pytest.mark.parametrize("fault", ["hung", "paused"])
def test_it_recovers_by_itself(signed_in: FlaskClient, own_server: Server, fault: str) -> None:
    """Once the store answers again, so does the app, and everybody is still signed in."""
    break_it, mend_it = FAULTS[fault]
    break_it(own_server)
    assert signed_in.get("/me").status_code == 503
    mend_it(own_server)
    deadline = time.monotonic() + 10
    while signed_in.get("/me").status_code != 200:
        assert time.monotonic() < deadline


def test_a_restart_without_persistence_is_a_clean_401(
    signed_in: FlaskClient, own_server: Server
) -> None:
    """A server that has lost its data means nobody is signed in, not an error."""
    own_server.kill()
    assert signed_in.get("/me").status_code == 503
    own_server.start()
    assert signed_in.get("/me").status_code == 401
    assert signed_in.post("/login/ada").status_code == 200


def test_with_writes_paused_reads_pass(
    signed_in: FlaskClient, own_server: Server, clock: Clock
) -> None:
    """While writes are paused pages are read, a due renewal is skipped, and a login is 503."""
    clock.advance(minutes=6)
    own_server.run("CLIENT", "PAUSE", "30000", "WRITE")
    assert signed_in.get("/me").status_code == 200
    assert signed_in.post("/login/bob").status_code == 503


def test_with_memory_full_one_can_read_and_leave(
    app: Flask, signed_in: FlaskClient, own_server: Server
) -> None:
    """With memory full, reading, revoking and logging out work; a login is 503."""
    other = app.test_client()
    other.post("/login/ada")
    own_server.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
    own_server.run("CONFIG", "SET", "maxmemory", "1")
    assert signed_in.get("/me").status_code == 200
    assert signed_in.post("/login/bob").status_code == 503
    with app.app_context():
        assert kvs.revoke_session(id_of(other), "ada") is True
    assert other.get("/me").status_code == 401
    assert signed_in.post("/logout").status_code == 200
    assert signed_in.get("/me").status_code == 401


def test_a_replica_is_read_and_not_written(
    signed_in: FlaskClient, own_server: Server, clock: Clock
) -> None:
    """On a primary that became a replica a due renewal does not fail the read; a write is 503."""
    clock.advance(minutes=6)
    own_server.run("CONFIG", "SET", "replica-serve-stale-data", "yes")
    own_server.run("REPLICAOF", "127.0.0.1", "1")
    assert signed_in.get("/me").status_code == 200
    assert signed_in.post("/data", json={"x": 2}).status_code == 503


def test_dropped_connections_are_not_noticed(signed_in: FlaskClient, own_server: Server) -> None:
    """A connection that was dropped while idle is replaced."""
    own_server.run("CLIENT", "KILL", "TYPE", "normal")
    assert signed_in.get("/me").status_code == 200


BAD_RECORDS: dict[str, Callable[[redis.Redis, str], object]] = {
    "a list": lambda client, key: (client.delete(key), client.lpush(key, "x")),
    "cut short": lambda client, key: client.set(key, t.cast(bytes, client.get(key))[:-9]),
    "overwritten": lambda client, key: client.setrange(key, 5, "\0\0\0"),
    "of the future": lambda client, key: client.set(
        key, t.cast(bytes, client.get(key)).replace(b'"v":1', b'"v":99')
    ),
    "a pickle": lambda client, key: client.set(key, b"\x80\x04K\x01."),
    "empty": lambda client, key: client.set(key, b""),
}


@pytest.mark.parametrize("spoil", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_bad_record_is_no_session_and_is_left_alone(
    make_app: MakeApp,
    redis_client: redis.Redis,
    keys: Callable[[], set[str]],
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[redis.Redis, str], object],
) -> None:
    """A record that cannot be read counts as no session, is logged once, and stays as it is."""
    client = make_app().test_client()
    client.post("/login/ada")
    (key,) = [key for key in keys() if ":s:" in key]
    spoil(redis_client, key)
    before = redis_client.dump(key)
    with caplog.at_level(logging.ERROR, "flask_kvsession"):
        for _ in range(3):
            assert client.get("/me").status_code == 401
    assert len(caplog.records) == 1
    assert redis_client.dump(key) == before


@pytest.fixture
def own_words(app: Flask) -> Flask:
    """An app that says a failure in its own words, and adds headers to every response."""

    @app.errorhandler(StoreUnavailable)
    def sorry(error: StoreUnavailable) -> t.Any:
        return f"sorry, {g.session.get('name', 'nobody')}", 503, {"Retry-After": "7"}

    @app.after_request
    def allow(response: t.Any) -> t.Any:
        response.headers["Access-Control-Allow-Origin"] = "https://a.example"
        return response

    @app.get("/page")
    def page() -> t.Any:
        g.session["seen"] = 1
        app.config["break"]()
        headers = {"Location": "/elsewhere", "ETag": '"1"', "Set-Cookie": "lang=en"}
        return "the page, all done", 201, headers

    return app


def test_a_failing_commit_becomes_the_app_s_own_503(
    own_words: Flask, signed_in: FlaskClient, own_server: Server
) -> None:
    """A commit that fails turns the response into what the app's handler gives; headers of every
    response stay, those that speak of the page go."""
    own_words.config["break"] = lambda: own_server.run("CLIENT", "PAUSE", "1000", "WRITE")
    response = signed_in.get("/page")
    assert (response.status_code, response.text) == (503, "sorry, nobody")
    assert response.headers["Retry-After"] == "7"
    assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert int(response.headers["Content-Length"]) == len("sorry, nobody")
    assert not {"Location", "ETag", "Set-Cookie"} & set(response.headers.keys())
    assert response.headers["Vary"] == "Cookie"


def test_a_failing_load_meets_the_app_s_own_handler(
    own_words: Flask, signed_in: FlaskClient, own_server: Server
) -> None:
    """A load that fails is answered by the app's handler, in which the session reads as empty."""
    stop(own_server)
    assert signed_in.get("/me").text == "sorry, nobody"
    resume(own_server)


def test_a_failure_in_an_error_page_meets_it_too(own_words: Flask, own_server: Server) -> None:
    """An error page that touches the session fails with 503, and not with the 500 that Flask makes
    of an error inside an error handler; in production, where errors reach no developer."""

    @own_words.errorhandler(404)
    def missing(error: object) -> t.Any:
        return f"No such page, {g.session.get('name', 'stranger')}.", 404

    own_words.config["PROPAGATE_EXCEPTIONS"] = False
    browser = own_words.test_client()
    browser.post("/login/ada")
    own_server.kill()
    response = browser.get("/nowhere")
    assert (response.status_code, response.text) == (503, "sorry, nobody")
    assert response.headers["Retry-After"] == "7"
    assert "Set-Cookie" not in response.headers


def test_a_failure_at_the_end_of_a_request_meets_it_too(
    own_words: Flask, own_server: Server
) -> None:
    """Another extension's function at the end of the request, as Flask-Login has one, may be the
    first that touches the session."""

    @own_words.after_request
    def look(response: t.Any) -> t.Any:
        response.headers["X-Name"] = g.session.get("name", "nobody")
        return response

    own_words.config["PROPAGATE_EXCEPTIONS"] = False
    browser = own_words.test_client()
    browser.post("/login/ada")
    own_server.kill()
    response = browser.get("/untouched")
    assert (response.status_code, response.text) == (503, "sorry, nobody")
    assert response.headers["X-Name"] == "nobody"


def test_another_error_stays_what_it_is(own_words: Flask, own_server: Server) -> None:
    """A view that goes on without the store and then fails of itself is a 500 as ever."""

    @own_words.get("/broken")
    def broken() -> t.Any:
        with pytest.raises(StoreUnavailable):
            g.session.get("name")
        raise ZeroDivisionError

    own_words.config["PROPAGATE_EXCEPTIONS"] = False
    browser = own_words.test_client()
    browser.post("/login/ada")
    own_server.kill()
    assert browser.get("/broken").status_code == 500


def test_an_acknowledged_login_outlives_a_crash_of_the_app(
    app: Flask, signed_in: FlaskClient, make_app: MakeApp, own_server: Server
) -> None:
    """A login that was answered is there for a second worker at once."""
    close(app)
    other = make_app("other", redis_url=f"unix://{own_server.path}").test_client()
    other.set_cookie("kvsession", token_of(signed_in) or "")
    assert other.get("/me").status_code == 200
    assert store_of(app).sessions_of("ada")
    assert os.path.exists(own_server.path)
