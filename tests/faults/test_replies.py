"""Replies that are lost, cut, doubled, trickled or of another shape: none reaches another user."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Callable, Iterator

import pytest
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs

from ..support.apps import Do, MakeApp, store_of
from ..support.browsers import SignIn
from ..support.figures import DEADLINE, TIMEOUT, Figure
from ..support.proxy import Proxy
from ..support.requests import Answers, ask
from ..support.servers import Server, wait_until

pytestmark = pytest.mark.quick


@pytest.fixture
def app(app_behind_proxy: Flask) -> Flask:
    return app_behind_proxy


@pytest.fixture
def users(app: Flask, sign_in: SignIn) -> dict[str, FlaskClient]:
    """Two users, each with a browser."""
    return {user: sign_in(app, user) for user in ("ada", "bob")}


def answers_of(users: dict[str, FlaskClient], times: int = 10) -> Answers:
    answers = Answers()
    for _ in range(times):
        for user, browser in users.items():
            ask(browser, user, answers)
    return answers


def chunks_cut_after(count: int) -> Callable[[bytes], Iterator[bytes]]:
    def rewrite(chunk: bytes) -> Iterator[bytes]:
        yield chunk[:count]
        raise OSError  # the proxy closes the connection

    return rewrite


@pytest.mark.parametrize("count", [0, 1, 5, 40, -1])
def test_a_cut_reply_closes_the_connection(
    users: dict[str, FlaskClient], proxy: Proxy, figure: Figure, count: int
) -> None:
    """If replies end after some bytes, requests give 503. Then each user is answered as before."""
    proxy.rewrite_reply = chunks_cut_after(count)
    assert set(answers_of(users, 3).counts) == {"503"}
    del proxy.rewrite_reply
    proxy.rewrite_reply = unchanged
    assert answers_of(users).counts == {"200": 20}
    figure("reply cut", f"after byte {count}: 503, then each user as before")


def unchanged(chunk: bytes) -> Iterator[bytes]:
    yield chunk


def doubled(chunk: bytes) -> Iterator[bytes]:
    yield chunk + chunk


def doubled_later(chunk: bytes) -> Iterator[bytes]:
    yield chunk
    yield chunk


@pytest.mark.parametrize("rewrite", [doubled, doubled_later])
def test_a_reply_that_comes_twice_answers_nobody_else(
    users: dict[str, FlaskClient], proxy: Proxy, figure: Figure, rewrite: t.Any
) -> None:
    """If the server sends each reply twice, every user is answered as before. A second reply in the
    same packet counts, and one that comes a moment later."""
    proxy.rewrite_reply = rewrite
    answers = Answers()
    for _ in range(10):
        for user, browser in users.items():
            ask(browser, user, answers)
            time.sleep(0.05)  # the second reply has arrived
    assert answers.counts == {"200": 20}
    figure("reply comes twice", "20 requests, all 200")


SHAPES = {
    "status": b"+OK\r\n",
    "number": b":7\r\n",
    "list": b"*1\r\n$1\r\nx\r\n",
    "empty list": b"*0\r\n",
    "nested error": b"*2\r\n-ERR x\r\n:1\r\n",
    "other record": b"$2\r\n{}\r\n",
    "no number": b"$x\r\n",
    "negative length": b"$-7\r\n",
    "junk": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "RESP3 map": b"%1\r\n+a\r\n+b\r\n",
    "deep": b"*1\r\n" * 5000,
}


@pytest.mark.parametrize("reply", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("request_of", ["read", "write", "login"])
def test_a_reply_of_another_shape_is_not_used(
    app: Flask, users: dict[str, FlaskClient], proxy: Proxy, reply: bytes, request_of: str
) -> None:
    """If the server answers anything with the same senseless reply, a request gives 503, or 401 if
    the reply stands for a record that cannot be read; never 500 and never 200."""

    def rewrite(chunk: bytes) -> Iterator[bytes]:
        yield reply

    proxy.rewrite_reply = rewrite
    browser = users["ada"]
    if request_of == "read":
        status = browser.get("/me").status_code
    elif request_of == "write":
        status = browser.post("/data", json={"x": 1}).status_code
    else:
        status = app.test_client().post("/login/eve").status_code
    # "+OK" and "{}" are read as the text of a record, which is unreadable, so there is no session.
    unreadable = request_of != "login" and reply in (SHAPES["status"], SHAPES["other record"])
    assert status == 503 or (unreadable and status in (401, 200 if request_of == "write" else 401))
    proxy.rewrite_reply = unchanged
    wait_until(lambda: browser.get("/me").status_code == 200)
    assert answers_of(users).counts == {"200": 20}


def test_a_trickled_reply_is_bounded_by_the_deadline(
    users: dict[str, FlaskClient], proxy: Proxy, figure: Figure
) -> None:
    """If replies come one byte at a time, a request takes no longer than the deadline."""

    def trickle(chunk: bytes) -> Iterator[bytes]:
        for n in range(len(chunk)):
            time.sleep(0.05)
            yield chunk[n : n + 1]

    proxy.rewrite_reply = trickle
    answers = Answers()
    assert ask(users["ada"], "ada", answers) == "503"
    assert TIMEOUT * 0.9 < answers.slowest < DEADLINE
    proxy.rewrite_reply = unchanged
    wait_until(lambda: users["ada"].get("/me").status_code == 200)
    assert set(answers_of(users).counts) == {"200"}
    figure("reply trickled", f"503 after {answers.slowest:.2f} s")


ACTS: dict[str, tuple[Callable[[], object], Callable[[kvs.SessionStore], object]]] = {
    "login": (lambda: kvs.login_user("eve"), lambda store: len(store.sessions_of("eve")) == 1),
    "logout": (kvs.logout_user, lambda store: store.sessions_of("ada") == []),
    "rotation": (kvs.rotate_token, lambda store: len(store.sessions_of("ada")) == 1),
    "change": (
        lambda: g.session.update(n=g.session.get("n", 0) + 1),
        lambda store: store.sessions_of("ada")[0].record.encoded_data() == {"n": b"1"},
    ),
}


@pytest.mark.parametrize(("act", "is_right"), ACTS.values(), ids=ACTS)
def test_a_lost_reply_leaves_the_state_of_one_act(
    app: Flask, do: Do, users: dict[str, FlaskClient], proxy: Proxy, act: t.Any, is_right: t.Any
) -> None:
    """If the server carries an act out and the reply is lost, the request is answered, and the
    state is that of one act."""
    lost: list[bool] = []
    proxy.lose_reply_to(b"EVALSHA", before_hanging_up=lambda: lost.append(True))
    assert do(users["ada"], act).status_code == 200
    assert lost == [True]
    assert is_right(store_of(app))
    assert users["bob"].get("/me").status_code == 200


def test_a_lost_reply_to_a_read_is_not_visible(
    users: dict[str, FlaskClient], proxy: Proxy, figure: Figure
) -> None:
    """If the reply to a read is lost, the read is sent again."""
    for _ in range(5):
        proxy.lose_reply_to(b"GET", before_hanging_up=lambda: None)
        assert set(answers_of(users, 2).counts) == {"200"}
    figure("reply lost", "read, login, logout, rotation, change: 200, state as after one act")


@pytest.mark.quick
@pytest.mark.without_near_cache
@pytest.mark.parametrize(("closed", "status"), [(1, 200), (2, 503)])
def test_a_connection_that_is_closed_in_its_handshake_is_made_again_once(
    make_app: MakeApp, proxy: Proxy, figure: Figure, closed: int, status: int
) -> None:
    """The server accepts a new connection and closes it before the first command, as when it drops
    all connections at that moment. No command was sent, so a new connection is tried, once."""
    app = make_app(redis_url=f"unix://{proxy.path}?db=1", store_timeout=TIMEOUT)
    browser = app.test_client()
    browser.post("/login/ada")
    store_of(app).close()
    left = [closed]

    def pass_later(chunk: bytes) -> bool:
        if b"SELECT" in chunk and left[0]:
            left[0] -= 1
            return False
        return True

    proxy.on_request = pass_later
    assert browser.get("/me").status_code == status
    assert left == [0]
    figure("closed in the handshake", f"{closed} times in a row: {status}")


@pytest.mark.without_near_cache
def test_an_error_reply_keeps_the_connection(
    app: Flask, users: dict[str, FlaskClient], own_server: Server
) -> None:
    """An error that answers a command, such as NOSCRIPT or WRONGTYPE, closes no connection."""

    def ids() -> set[str]:
        lines = own_server.run("CLIENT", "LIST").splitlines()
        return {line.split()[0] for line in lines if "cmd=client" not in line}

    before = ids()
    own_server.run("SCRIPT", "FLUSH")
    assert users["ada"].post("/data", json={"x": 1}).status_code == 200
    [stored] = store_of(app).sessions_of("ada")
    key = store_of(app)._server.record_key(stored.id)
    own_server.run("DEL", key)
    own_server.run("LPUSH", key, "x")
    assert users["ada"].get("/me").status_code == 401
    assert ids() == before


@pytest.mark.without_near_cache
def test_no_connection_is_left_behind(
    users: dict[str, FlaskClient], own_server: Server, proxy: Proxy
) -> None:
    """Whatever the replies were, a request at a time needs one connection."""
    for rewrite in (doubled, chunks_cut_after(5), doubled_later):
        proxy.rewrite_reply = rewrite
        answers_of(users, 5)
    proxy.rewrite_reply = unchanged
    answers_of(users)
    proxy_only = own_server.connections()
    assert proxy_only == 1
