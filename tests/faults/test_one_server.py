"""Faults of one server: it hangs, refuses, restarts, forgets, or is busy."""

from __future__ import annotations

import logging
import threading
import time
import typing as t
from collections.abc import Callable

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from ..support.apps import MakeApp
from ..support.clock import Clock
from ..support.figures import BUSY_MACHINE, DEADLINE, TIMEOUT, Figure
from ..support.requests import Answers, ask, at_once, load
from ..support.servers import Server, wait_until


def debug_sleep(server: Server) -> None:
    def run() -> None:
        server.run("DEBUG", "SLEEP", "4")

    threading.Thread(target=run, daemon=True).start()
    time.sleep(0.1)


HANGS: dict[str, Callable[[Server], object]] = {
    "SIGSTOP": Server.stop,
    "DEBUG SLEEP": debug_sleep,
    "CLIENT PAUSE ALL": lambda server: server.run("CLIENT", "PAUSE", "4000", "ALL"),
}


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    """A browser in which ada is signed in."""
    browser = app.test_client()
    assert browser.post("/login/ada", json={"data": {"x": 1}}).status_code == 200
    return browser


def seconds_of(request: Callable[[], t.Any], status: int) -> float:
    began = time.monotonic()
    assert request().status_code == status
    return time.monotonic() - began


@pytest.mark.parametrize(
    "hang",
    [
        pytest.param(HANGS[name], id=name, marks=[pytest.mark.quick] if name == "SIGSTOP" else [])
        for name in HANGS
    ],
)
def test_a_hung_server_gives_503_within_the_deadline(
    browser: FlaskClient, own_server: Server, figure: Figure, hang: t.Any
) -> None:
    """While the server hangs, a read, a login and a logout give 503 within the deadline, and a page
    without the session is unaffected. Afterwards the user is still signed in."""
    hang(own_server)
    seconds = [
        seconds_of(lambda: browser.get("/me"), 503),
        seconds_of(lambda: browser.post("/login/bob"), 503),
        seconds_of(lambda: browser.post("/logout"), 503),
    ]
    assert max(seconds) < DEADLINE
    assert seconds_of(lambda: browser.get("/untouched"), 200) < BUSY_MACHINE
    own_server.resume()
    recovered = wait_until(lambda: browser.get("/me").status_code == 200)
    figure("hung", f"503 after {max(seconds):.2f} s; 200 {recovered:.2f} s after the end")


def test_threads_are_not_used_up_by_a_hung_server(
    app: Flask, browser: FlaskClient, own_server: Server, figure: Figure
) -> None:
    """With 8 threads, 100 requests to a hung server are answered within two deadlines, and a page
    without the session is unaffected."""
    browsers = [app.test_client() for _ in range(8)]
    for each in browsers:
        each.post("/login/ada")
    answers, pages = Answers(), Answers()
    own_server.stop()

    def act(n: int) -> None:
        ask(browsers[n % 8], "ada", answers)
        began = time.monotonic()
        status = browsers[n % 8].get("/untouched").status_code
        pages.note(str(status), time.monotonic() - began)

    seconds = at_once(100, 8, act)
    own_server.resume()
    assert answers.counts == {"503": 100}
    assert pages.counts == {"200": 100}
    assert pages.slowest < BUSY_MACHINE
    assert seconds < 2 * TIMEOUT + BUSY_MACHINE
    figure("hung, 100 requests of 8 threads", f"all answered in {seconds:.2f} s")


@pytest.mark.quick
def test_a_killed_server_gives_503_at_once(
    browser: FlaskClient, own_server: Server, figure: Figure
) -> None:
    """While there is no server, requests give 503 without waiting. After its restart without data,
    the user is signed out and can sign in at once."""
    own_server.kill()
    seconds = max(seconds_of(lambda: browser.get("/me"), 503) for _ in range(20))
    assert seconds < BUSY_MACHINE
    own_server.start()
    assert browser.get("/me").status_code == 401
    assert browser.post("/login/ada").status_code == 200
    figure("killed, refused", f"503 after {seconds * 1000:.0f} ms; first request after: 401")


@pytest.mark.quick
def test_dropped_connections_are_not_visible(
    app: Flask, own_server: Server, figure: Figure
) -> None:
    """While the server drops all connections again and again, every read and write is answered.
    No call meets two drops: on a busy machine the next drop waits for it."""
    done: set[str] = set()

    def act(browser: FlaskClient, user: str, answers: Answers) -> None:
        ask(browser, user, answers)
        began = time.monotonic()
        status = browser.post("/data", json={"at": began}).status_code
        answers.note(str(status), time.monotonic() - began)
        done.add(user)

    users, drops = ["ada", "bob", "eve"], 0
    with load(app, users, act) as answers:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            own_server.run("CLIENT", "KILL", "TYPE", "normal")
            drops += 1
            time.sleep(0.05)
            done.clear()
            wait_until(lambda: len(done) == len(users))
    assert set(answers.counts) == {"200"}
    figure("connections dropped", f"{drops} times: {answers.counts['200']} requests, all 200")


@pytest.mark.without_near_cache
@pytest.mark.quick
def test_reads_go_on_while_writes_are_paused(
    app: Flask, browser: FlaskClient, own_server: Server, clock: Clock, figure: Figure
) -> None:
    """While writes are paused and time out again and again, reads are answered: a write that times
    out is no reason not to ask for reads."""
    clock.advance(minutes=6)  # a renewal is due
    own_server.run("CLIENT", "PAUSE", "30000", "WRITE")
    answers = Answers()
    logins = [seconds_of(lambda: app.test_client().post("/login/bob"), 503)]
    for _ in range(30):
        ask(browser, "ada", answers)
        logins.append(seconds_of(lambda: app.test_client().post("/login/bob"), 503))
    own_server.run("CLIENT", "UNPAUSE")
    assert answers.counts == {"200": 30}
    assert max(logins) < DEADLINE
    wait_until(lambda: app.test_client().post("/login/bob").status_code == 200)
    figure("writes paused", f"30 reads, all 200; a login 503 after {max(logins):.2f} s")


def test_a_loading_server_gives_503_until_it_has_loaded(
    app: Flask, browser: FlaskClient, own_server: Server, figure: Figure
) -> None:
    """While the server loads its data, requests give 503 at once. Then the user is signed in."""
    with own_server.client() as client:
        client.mset({f"filler:{n}": "x" * 100 for n in range(2000)})
        client.save()
    own_server.kill()
    own_server.begin("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    wait_until(lambda: own_server.info("persistence")["loading"] == "1")
    loading = seconds_of(lambda: browser.get("/me"), 503)
    assert loading < DEADLINE
    wait_until(lambda: browser.get("/me").status_code == 200)
    figure("LOADING", f"503 after {loading * 1000:.0f} ms, then 200")


@pytest.mark.quick
def test_flushed_scripts_are_not_visible(app: Flask, own_server: Server, figure: Figure) -> None:
    """While the server forgets its scripts again and again, every write is answered."""

    def act(browser: FlaskClient, user: str, answers: Answers) -> None:
        began = time.monotonic()
        status = browser.post("/data", json={"at": began}).status_code
        answers.note(str(status), time.monotonic() - began)

    with load(app, ["ada", "bob"], act) as answers:
        for _ in range(200):
            own_server.run("SCRIPT", "FLUSH")
            time.sleep(0.005)
    assert set(answers.counts) == {"200"}
    figure("SCRIPT FLUSH", f"200 times: {answers.counts['200']} writes, all 200")


@pytest.mark.quick
def test_a_busy_script_gives_503(browser: FlaskClient, own_server: Server, figure: Figure) -> None:
    """While another client's script runs without an end, requests give 503. When it was killed, the
    user is signed in."""
    own_server.run("CONFIG", "SET", "busy-reply-threshold", "100")

    def run() -> None:
        with pytest.raises(redis.ResponseError):
            own_server.run("EVAL", "while true do end", "0")

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.2)
    seconds = seconds_of(lambda: browser.get("/me"), 503)
    assert seconds < DEADLINE
    own_server.run("SCRIPT", "KILL")
    thread.join()
    wait_until(lambda: browser.get("/me").status_code == 200)
    figure("busy script", f"503 after {seconds * 1000:.0f} ms, then 200")


@pytest.mark.without_near_cache
@pytest.mark.quick
def test_a_changed_password_gives_503_at_once_and_one_line(
    make_app: MakeApp, own_server: Server, figure: Figure, caplog: pytest.LogCaptureFixture
) -> None:
    """If the password of the server changes, requests give 503 at once, and the log has one line,
    which names the error and no password."""
    own_server.run("CONFIG", "SET", "requirepass", "0ld-s3cr3t")
    own_server.password = "0ld-s3cr3t"
    url = f"unix://:0ld-s3cr3t@{own_server.path}"
    browser = make_app(redis_url=url, store_timeout=TIMEOUT).test_client()
    assert browser.post("/login/ada").status_code == 200
    own_server.run("CONFIG", "SET", "requirepass", "n3w-s3cr3t")
    own_server.password = "n3w-s3cr3t"
    own_server.run("CLIENT", "KILL", "TYPE", "normal")
    with caplog.at_level(logging.WARNING, "flask_kvsession"):
        seconds = max(seconds_of(lambda: browser.get("/me"), 503) for _ in range(10))
    assert seconds < BUSY_MACHINE
    [line] = caplog.messages
    assert "AuthenticationError" in line
    assert "s3cr3t" not in caplog.text
    own_server.run("CONFIG", "SET", "requirepass", "0ld-s3cr3t")
    wait_until(lambda: browser.get("/me").status_code == 200)
    figure("password changed", f"503 after {seconds * 1000:.0f} ms; one line in the log")


@pytest.mark.quick
def test_two_reasons_for_no_connection_are_two_lines(
    make_app: MakeApp, own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """If the server is gone and then comes back with another password, the log has a line for each,
    although no connection could be made both times."""
    url = f"unix://:0ld-s3cr3t@{own_server.path}"
    own_server.kill()
    browser = make_app(redis_url=url, store_timeout=TIMEOUT).test_client()
    with caplog.at_level(logging.ERROR, "flask_kvsession"):
        for _ in range(3):
            assert browser.post("/login/ada").status_code == 503
        own_server.password = "n3w-s3cr3t"
        own_server.start("--requirepass", "n3w-s3cr3t")
        for _ in range(3):
            assert browser.post("/login/ada").status_code == 503
    [gone, refused] = caplog.messages
    assert "AuthenticationError" in refused and "AuthenticationError" not in gone
    assert "s3cr3t" not in caplog.text


@pytest.mark.quick
def test_a_reduced_acl_gives_503_at_once_and_one_line(
    make_app: MakeApp, own_server: Server, figure: Figure, caplog: pytest.LogCaptureFixture
) -> None:
    """If the user of the server loses the right to read, requests give 503 at once, and the log has
    one line. When the right is back, the user is signed in."""
    own_server.run("ACL", "SETUSER", "web", "on", ">s3cr3t", "~*", "+@all")
    url = f"unix://web:s3cr3t@{own_server.path}"
    browser = make_app(redis_url=url, store_timeout=TIMEOUT).test_client()
    assert browser.post("/login/ada").status_code == 200
    own_server.run("ACL", "SETUSER", "web", "-get")
    with caplog.at_level(logging.WARNING, "flask_kvsession"):
        seconds = max(seconds_of(lambda: browser.get("/me"), 503) for _ in range(10))
    assert seconds < BUSY_MACHINE
    [line] = caplog.messages
    assert "NoPermissionError" in line and "s3cr3t" not in caplog.text
    own_server.run("ACL", "SETUSER", "web", "+get")
    assert browser.get("/me").status_code == 200
    figure("ACL reduced", f"503 after {seconds * 1000:.0f} ms; one line in the log")


@pytest.mark.quick
def test_too_many_clients_of_the_server_give_503(
    browser: FlaskClient, app: Flask, own_server: Server, figure: Figure
) -> None:
    """If the server accepts no more clients, a request that needs a new connection gives 503 at
    once. When there is room, it is answered."""
    others = [own_server.client() for _ in range(4)]
    for other in others:
        other.ping()
    own_server.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    for other in others:
        other.ping()
    others[0].config_set("maxclients", 4)
    seconds = max(seconds_of(lambda: browser.get("/me"), 503) for _ in range(10))
    assert seconds < BUSY_MACHINE
    for other in others:
        other.close()
    wait_until(lambda: browser.get("/me").status_code == 200)
    figure("too many clients", f"503 after {seconds * 1000:.0f} ms, then 200")


@pytest.mark.without_near_cache
@pytest.mark.quick
def test_an_exhausted_pool_waits_within_the_deadline(
    make_app: MakeApp, own_server: Server, figure: Figure
) -> None:
    """If all connections that the URL allows are in use, a request waits for one."""
    url = f"unix://{own_server.path}?max_connections=2"
    app = make_app(redis_url=url, store_timeout=10)
    users = [f"user{n}" for n in range(16)]
    with load(app, users) as answers:
        time.sleep(2)
        connections = own_server.connections()
    assert set(answers.counts) == {"200"}
    assert connections <= 2
    figure("pool empty", f"16 threads, 2 connections: slowest {answers.slowest * 1000:.0f} ms")


@pytest.mark.quick
def test_an_exhausted_pool_of_a_hung_server_gives_503_within_the_deadline(
    make_app: MakeApp, own_server: Server, figure: Figure
) -> None:
    """If all connections that the URL allows are in use and the server hangs, every waiting request
    gives 503 within the deadline of its own."""
    url = f"unix://{own_server.path}?max_connections=2"
    app = make_app(redis_url=url, store_timeout=TIMEOUT)
    browsers = [app.test_client() for _ in range(16)]
    for browser in browsers:
        browser.post("/login/ada")
    own_server.stop()
    answers = Answers()
    at_once(16, 16, lambda n: ask(browsers[n], "ada", answers))
    own_server.resume()
    assert answers.counts == {"503": 16}
    assert answers.slowest < DEADLINE
    wait_until(lambda: browsers[0].get("/me").status_code == 200)
    figure("pool empty, server hung", f"503 after {answers.slowest:.2f} s at most")
