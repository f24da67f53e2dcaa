"""The store is another one behind the same address, or an old connection leads nowhere: no restart
of the app is needed."""

from __future__ import annotations

import threading
import time
import typing as t
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession.connection import node
from flask_kvsession.token import user_hash

from ..support.apps import store_of
from ..support.browsers import SignIn
from ..support.clock import Clock
from ..support.figures import BUSY_MACHINE, Figure
from ..support.proxy import Proxy
from ..support.requests import Answers, ask, load
from ..support.servers import Server, free_ports, wait_until

pytestmark = pytest.mark.quick


@pytest.fixture
def app(app_behind_proxy: Flask) -> Flask:
    return app_behind_proxy


@pytest.fixture
def primary(own_server: Server) -> Server:
    """The server that the app uses at first, reachable by TCP for a replica."""
    [port] = free_ports(1)
    own_server.run("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    own_server.run("CONFIG", "SET", "port", port)
    own_server.port = port
    return own_server


@pytest.fixture
def replica(primary: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A replica with the primary's data."""
    [port] = free_ports(1)
    options = ["--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0"]
    replica = Server(tmp_path_factory.mktemp("r"), *options, port=port)
    wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
    yield replica
    replica.kill()


def promote(replica: Server, old: Server, proxy: Proxy) -> None:
    """What a managed service does: the address leads to the new primary, and the old one lives on
    as its replica, behind the open connections."""
    replica.run("REPLICAOF", "NO", "ONE")
    proxy.target = replica.path
    old.run("REPLICAOF", *map(str, replica.address))


def change(browser: FlaskClient, user: str, answers: Answers) -> None:
    began = time.monotonic()
    status = browser.post("/data", json={"at": began}).status_code
    answers.note(str(status), time.monotonic() - began)


def test_writes_work_after_a_managed_failover(
    app: Flask, primary: Server, replica: Server, proxy: Proxy, sign_in: SignIn, figure: Figure
) -> None:
    """If the old primary lives on as a replica behind the open connections, the next write and the
    next login go to the new primary."""
    browsers = [sign_in(app, "ada") for _ in range(3)]
    wait_until(lambda: replica.run("DBSIZE") == primary.run("DBSIZE"))
    promote(replica, primary, proxy)
    statuses = [browser.post("/data", json={"x": 1}).status_code for browser in browsers]
    assert statuses == [200, 200, 200]
    assert app.test_client().post("/login/eve").status_code == 200
    assert browsers[0].get("/me").get_json()["data"] == {"x": 1}
    figure("managed failover", "first write after it: 200")


def test_writes_under_load_survive_a_managed_failover(
    app: Flask, primary: Server, replica: Server, proxy: Proxy, figure: Figure
) -> None:
    """Under load, a failover behind one address costs at most the writes of the moment in which no
    server accepts writes."""
    with load(app, ["ada", "bob", "eve", "dan"], change) as answers:
        time.sleep(0.3)
        wait_until(lambda: replica.run("DBSIZE") == primary.run("DBSIZE"))
        began = time.monotonic()
        promote(replica, primary, proxy)
        promoted = time.monotonic()
        time.sleep(1)
    assert set(answers.counts) <= {"200", "503"}
    assert answers.last_failure < promoted + BUSY_MACHINE
    failed = answers.counts["503"]
    lasted = max(0.0, answers.last_failure - began)
    figure("managed failover", f"under load: {failed} writes 503, in {lasted * 1000:.0f} ms")


def test_a_forgotten_connection_costs_no_request(
    app: Flask, proxy: Proxy, sign_in: SignIn, figure: Figure
) -> None:
    """If a firewall has forgotten the idle connections, the next read and the next write are
    answered, on new connections."""
    browser = sign_in(app, "ada")
    seconds: list[float] = []
    requests: list[Callable[[], TestResponse]] = [
        lambda: browser.get("/me"),
        lambda: browser.post("/data", json={"x": 1}),
    ]
    for request in requests:
        proxy.forget_connections()
        began = time.monotonic()
        assert request().status_code == 200
        seconds.append(time.monotonic() - began)
    proxy.forget_connections()
    assert app.test_client().post("/login/eve").status_code == 200
    figure("firewall forgets", f"next request: 200 after {max(seconds):.2f} s")


def test_a_forgotten_connection_costs_no_revocation(
    app: Flask, proxy: Proxy, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An act that must not be sent twice asks an idle connection first whether it still works."""
    sign_in(app, "ada")
    monkeypatch.setattr(node, "_RESTED", 0.0)
    [stored] = store_of(app).sessions_of("ada")
    proxy.forget_connections()
    ended, _ = store_of(app).revoke(user_hash("ada"), [stored.id], "revoked")
    assert [info.id for info in ended] == [stored.id]


def test_a_primary_that_became_a_replica_refuses_writes_until_it_is_primary_again(
    app: Flask, own_server: Server, sign_in: SignIn, clock: Clock, figure: Figure
) -> None:
    """On a replica, a write gives 503, and a renewal that fails does not fail the read. When the
    server is a primary again, writes work."""
    browser = sign_in(app, "ada")
    clock.advance(minutes=6)
    own_server.run("CONFIG", "SET", "replica-serve-stale-data", "yes")
    own_server.run("REPLICAOF", "127.0.0.1", "1")
    assert browser.get("/me").status_code == 200
    assert browser.post("/data", json={"x": 1}).status_code == 503
    assert app.test_client().post("/login/bob").status_code == 503
    own_server.run("REPLICAOF", "NO", "ONE")
    assert browser.post("/data", json={"x": 1}).status_code == 200
    figure("primary became replica", "reads 200, writes 503; first write as primary: 200")


def test_a_replica_without_a_primary_sends_the_app_to_the_new_primary(
    app: Flask, primary: Server, replica: Server, proxy: Proxy, sign_in: SignIn, figure: Figure
) -> None:
    """If the old primary answers MASTERDOWN, the next read goes to the new primary, on a new
    connection."""
    browser = sign_in(app, "ada")
    wait_until(lambda: replica.run("DBSIZE") == primary.run("DBSIZE"))
    replica.run("REPLICAOF", "NO", "ONE")
    proxy.target = replica.path
    primary.run("CONFIG", "SET", "replica-serve-stale-data", "no")
    primary.run("REPLICAOF", "127.0.0.1", "1")
    assert browser.get("/me").status_code == 200
    figure("MASTERDOWN", "next request: 200")


def test_a_loading_server_behind_an_open_connection_sends_the_app_to_the_new_primary(
    app: Flask, primary: Server, replica: Server, proxy: Proxy, sign_in: SignIn
) -> None:
    """If an old connection answers LOADING, the act goes to the new primary, although it must not
    be sent twice: it was refused."""
    sign_in(app, "ada")
    wait_until(lambda: replica.run("DBSIZE") == primary.run("DBSIZE"))
    replica.run("REPLICAOF", "NO", "ONE")
    proxy.target = replica.path
    old, is_act = set(proxy._open), threading.Event()

    def note(chunk: bytes) -> bool:
        if b"EVALSHA" in chunk:
            is_act.set()
        return True

    def loading(chunk: bytes) -> Iterator[bytes]:
        is_refused = is_act.is_set() and not set(proxy._open) - old
        yield b"-LOADING Redis is loading\r\n" if is_refused else chunk

    proxy.on_request, proxy.rewrite_reply = note, loading
    with app.app_context():
        assert kvs.revoke_all_sessions("ada") == 1


def test_connections_that_all_break_at_once_are_not_visible(
    app: Flask, proxy: Proxy, figure: Figure
) -> None:
    """While the network cuts all connections again and again, reads and writes are answered."""

    def act(browser: FlaskClient, user: str, answers: Answers) -> t.Any:
        ask(browser, user, answers)
        change(browser, user, answers)

    cuts = 0
    with load(app, ["ada", "bob", "eve", "dan"], act) as answers:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            time.sleep(0.2)
            proxy.cut_connections()
            cuts += 1
    assert set(answers.counts) == {"200"}
    figure("reset, EPIPE", f"{cuts} times: {answers.counts['200']} requests, all 200")
