"""The end of a session reaches what is open: streams, WebSockets and Socket.IO clients."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import re
import socket
import threading
import typing as t
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from flask import Flask, Response, current_app, request, session, stream_with_context
from flask.testing import FlaskClient
from simple_websocket import Client, ConnectionClosed  # type: ignore[import-untyped]
from werkzeug.serving import make_server

import flask_kvsession as kvs
from flask_kvsession import SessionStore, Settings
from flask_kvsession.errors import KVSessionError, StoreUnavailable
from flask_kvsession.open_connections import _socket_in

from ..support.apps import Do, MakeApp, state_of, store_of
from ..support.browsers import SignIn, anonymous_token_of, id_of, token_of
from ..support.commands import Keys
from ..support.gunicorn import gunicorn
from ..support.proxy import Proxy
from ..support.servers import LOOPBACK, Server, wait_until

PATIENCE = 20.0


@pytest.fixture
def other(make_app: MakeApp, app: Flask) -> SessionStore:
    """The store of another worker."""
    return store_of(make_app("other"))


def no_session_is_watched(app: Flask) -> bool:
    return not store_of(app)._watcher._entries


def revoke(store: SessionStore, browser: FlaskClient, user: str = "ada") -> None:
    assert store.revoke_one(user, id_of(browser))


class Items:
    """The iterable of a stream, which notes what becomes of it."""

    def __init__(self, *items: str, wait: bool = False) -> None:
        self.items, self._wait = items, wait
        self.is_waiting, self.go = threading.Event(), threading.Event()
        self.was_closed = False
        self.contexts: list[object] = []

    def __iter__(self) -> Iterator[str]:
        try:
            for item in self.items:
                self.contexts.append(current_app.name if current_app else None)
                yield item
            if self._wait:
                self.is_waiting.set()
                assert self.go.wait(PATIENCE)
            yield "never seen after the end"
        finally:
            self.was_closed = True


@pytest.fixture
def stream(app: Flask) -> Callable[[t.Any], t.Any]:
    """Makes the view `/stream` respond with what a function returns."""
    acts: list[Callable[[], t.Any]] = []
    app.add_url_rule("/stream", "stream", lambda: Response(acts[-1]()))
    return acts.append


# until_ended


def test_a_stream_ends_at_the_revocation_of_its_session(
    app: Flask, sign_in: SignIn, other: SessionStore, stream: t.Any
) -> None:
    """It gives its items until then, and not the one for which it waits. The iterable is closed,
    and the session is not watched any more."""
    items = Items("one", "two", wait=True)
    stream(lambda: kvs.until_ended(items))
    browser = sign_in(app)
    response = browser.get("/stream", buffered=False)
    chunks = response.iter_encoded()
    assert [next(chunks), next(chunks)] == [b"one", b"two"]
    [entry] = store_of(app)._watcher._entries.values()
    [watched] = entry.watches
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, chunks)
        assert items.is_waiting.wait(PATIENCE)
        revoke(other, browser)
        assert watched.wait(PATIENCE)
        assert not items.was_closed
        items.go.set()
        assert rest.result(PATIENCE) == []
    assert items.was_closed
    response.close()
    assert no_session_is_watched(app)


def test_a_stream_that_comes_to_its_end_is_not_watched_any_more(
    app: Flask, sign_in: SignIn, stream: t.Any
) -> None:
    """Without a revocation, all items are given, and the iterable is closed."""
    items = Items("one")
    stream(lambda: kvs.until_ended(items))
    assert sign_in(app).get("/stream").text == "onenever seen after the end"
    assert items.was_closed
    assert no_session_is_watched(app)


def test_a_browser_that_leaves_closes_the_iterable(
    app: Flask, sign_in: SignIn, stream: t.Any
) -> None:
    """The server then closes the response, and with it the iterable, once."""
    items = Items("one", wait=True)
    stream(lambda: kvs.until_ended(items))
    response = sign_in(app).get("/stream", buffered=False)
    assert next(response.iter_encoded()) == b"one"
    response.close()
    response.close()
    assert items.was_closed
    assert no_session_is_watched(app)


class File:
    """An iterable that is its own iterator, and must not be closed twice."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> t.Self:
        return self

    def __next__(self) -> str:
        raise StopIteration

    def close(self) -> None:
        self.closed += 1


def test_an_iterable_is_closed_once(app: Flask, sign_in: SignIn, stream: t.Any) -> None:
    """Both the end of its items and the server close the stream."""
    file = File()
    stream(lambda: kvs.until_ended(file))
    response = sign_in(app).get("/stream")
    response.close()
    assert file.closed == 1


@pytest.mark.parametrize("method", ["HEAD", "error"])
def test_a_stream_that_never_begins_leaves_nothing(
    app: Flask,
    sign_in: SignIn,
    stream: t.Any,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the response has no body, or the view raises after the call, nothing is watched."""

    def fail() -> t.Any:
        kvs.until_ended(Items("one"))
        raise ValueError

    stream(fail if method == "error" else lambda: kvs.until_ended(Items("one")))
    browser = sign_in(app)
    app.testing = False
    monkeypatch.setattr(app.logger, "disabled", True)  # pytest would keep the traceback
    if method == "HEAD":
        browser.head("/stream").close()
    else:
        assert browser.get("/stream").status_code == 500
    gc.collect()
    store_of(app)._watcher.on_reset()
    wait_until(lambda: no_session_is_watched(app))


def test_without_a_session_the_iterable_passes_unchanged(app: Flask) -> None:
    """A browser without a record has nothing that could end."""
    items = Items()
    with app.test_request_context():
        assert kvs.until_ended(items) is items
        with kvs.watching() as session:
            assert (session.id, session.ended, session.wait(0)) == (None, False, False)


def test_an_anonymous_session_is_watched_too(
    app: Flask, client: FlaskClient, stream: t.Any
) -> None:
    """A login replaces the browser's anonymous session, and so ends its streams."""
    client.post("/data", json={"cart": 1})
    assert anonymous_token_of(client)
    items = Items("one", wait=True)
    stream(lambda: kvs.until_ended(items))
    response = client.get("/stream", buffered=False)
    chunks = response.iter_encoded()
    next(chunks)
    client.post("/login/ada")
    wait_until(lambda: no_session_is_watched(app))
    items.go.set()
    assert list(chunks) == []


def inside(items: Items) -> t.Any:
    return stream_with_context(t.cast(t.Any, kvs.until_ended(items)))


def outside(items: Items) -> t.Any:
    return kvs.until_ended(stream_with_context(iter(items)))


@pytest.mark.parametrize("wrap", [inside, outside])
def test_a_stream_may_have_the_context_of_its_request(
    app: Flask, sign_in: SignIn, other: SessionStore, stream: t.Any, wrap: t.Any
) -> None:
    """`stream_with_context` works inside and outside, and its context ends with the session."""
    items, torn_down = Items("one", wait=True), list[str]()

    @app.teardown_request
    def note(error: BaseException | None) -> None:
        if request.path == "/stream":
            torn_down.append(request.path)

    stream(lambda: wrap(items))
    browser = sign_in(app)
    chunks = browser.get("/stream", buffered=False).iter_encoded()
    assert next(chunks) == b"one"
    before = len(torn_down)
    revoke(other, browser)
    wait_until(lambda: no_session_is_watched(app))
    items.go.set()
    assert list(chunks) == []
    assert items.contexts == ["app"]
    assert items.was_closed
    assert len(torn_down) == before + 1
    assert not current_app


def test_a_stream_that_has_ended_finds_nobody_signed_in(
    app: Flask, sign_in: SignIn, other: SessionStore, stream: t.Any
) -> None:
    """`current_session` says the truth in the last steps of a generator, after the commit."""
    seen: list[object] = []

    def items() -> Iterator[str]:
        try:
            yield str(kvs.current_session.user_id)
            yield "never"
        finally:
            seen.append((kvs.current_session.user_id, kvs.current_session.ended))

    stream(lambda: kvs.until_ended(stream_with_context(items())))
    browser = sign_in(app)
    chunks = browser.get("/stream", buffered=False).iter_encoded()
    assert next(chunks) == b"ada"
    revoke(other, browser)
    wait_until(lambda: no_session_is_watched(app))
    assert list(chunks) == []
    assert seen == [(None, "revoked")]


def test_a_failing_store_refuses_a_stream_and_a_watch(
    make_app: MakeApp, sign_in: SignIn, socket_path: str
) -> None:
    """A session that cannot be loaded cannot be watched, also if pages may go on without it."""
    proxy = Proxy(socket_path)
    settings = {"store_timeout": 1, "on_store_failure": "anonymous"}
    app = make_app(redis_url=f"unix://{proxy.path}", **settings)
    token = token_of(sign_in(app))
    proxy.on_request = lambda chunk: False
    acts: list[Callable[[], object]] = [lambda: kvs.until_ended([]), kvs.watching().__enter__]
    for act in acts:
        with (
            app.test_request_context(headers={"Cookie": f"kvsession={token}"}),
            pytest.raises(StoreUnavailable),
        ):
            act()
    store_of(app).close()
    proxy.close()


# watching


@contextmanager
def request_of(app: Flask, browser: FlaskClient) -> Iterator[None]:
    with app.test_request_context(headers={"Cookie": f"kvsession={token_of(browser)}"}):
        yield


def test_current_session_says_the_truth_after_a_revocation(
    app: Flask, sign_in: SignIn, other: SessionStore
) -> None:
    """In a long-lived view it is then the empty session of nobody, with the reason, and a change of
    it raises."""
    browser = sign_in(app, data={"email": "ada@example.com"})
    session = kvs.current_session
    with request_of(app, browser), kvs.watching() as watched:
        assert (session.user_id, dict(session)) == ("ada", {"email": "ada@example.com"})
        revoke(other, browser)
        assert watched.wait(PATIENCE)
        assert (watched.ended, watched.reason) == (True, "revoked")
        assert (session.user_id, session.id, dict(session)) == (None, None, {})
        assert (session.is_authenticated, session.ended) == (False, "revoked")
        with pytest.raises(KVSessionError, match="has ended while it was watched"):
            session["x"] = 1
    with request_of(app, browser), pytest.raises(kvs.errors.LoginRequired):
        kvs.login_required(lambda: None)()


def test_a_request_that_watches_again_and_again_keeps_nothing_of_it(
    app: Flask, sign_in: SignIn, other: SessionStore
) -> None:
    """A socket may open a block for each message."""
    browser = sign_in(app)
    with request_of(app, browser):
        for _ in range(50):
            with kvs.watching():
                pass
        assert len(kvs.current_session._watched) == 1
        with kvs.watching() as watched:
            revoke(other, browser)
            assert watched.wait(PATIENCE)
        assert kvs.current_session.user_id is None


def test_a_login_by_key_is_carried_out_before_it_is_watched(make_app: MakeApp) -> None:
    """The session that is watched is the one that the login creates."""
    app = make_app(views=False, as_flask_session=True, user_id_key="user")
    app.secret_key = "only for tests"

    @app.post("/login")
    def login() -> t.Any:
        session["user"] = "ada"
        with kvs.watching() as watched:
            assert watched.id
            return {"watched": watched.id, "current": kvs.current_session.id}

    answer = app.test_client().post("/login").get_json()
    assert answer["watched"] == answer["current"]


def test_on_end_is_called_with_the_reason_and_not_after_the_block(
    app: Flask, sign_in: SignIn, other: SessionStore
) -> None:
    """A view can close its socket by it. A block that was left is told nothing."""
    first, second, reasons = sign_in(app), sign_in(app), list[str | None]()
    with request_of(app, first), kvs.watching(on_end=reasons.append):
        revoke(other, first)
        wait_until(lambda: reasons)
    with request_of(app, second):
        with kvs.watching(on_end=reasons.append):
            pass
        revoke(other, second)
    assert no_session_is_watched(app)
    assert reasons == ["revoked"]


def test_a_view_whose_session_ends_saves_nothing(
    app: Flask, sign_in: SignIn, other: SessionStore, do: Do, keys: Keys
) -> None:
    """Changes of a watched session that has ended are dropped. They do not become the data of an
    anonymous session."""
    browser = sign_in(app)

    def act() -> None:
        kvs.current_session["secret"] = 1
        with kvs.watching() as watched:
            revoke(other, browser)
            assert watched.wait(PATIENCE)

    assert do(browser, act).status_code == 200
    assert [key for key in keys() if ":s:" in key] == [
        store_of(app)._server.record_key(id_of(browser))
    ]
    assert other.sessions_of("ada") == []


def test_a_view_whose_session_ends_during_the_commit_saves_nothing(
    app: Flask, sign_in: SignIn, other: SessionStore, do: Do, keys: Keys
) -> None:
    """Also if the end comes after the changes were collected."""
    browser = sign_in(app)
    held: list[t.Any] = []
    save = state_of(app).request_session_class.save  # type: ignore[attr-defined]

    def end_before(session: t.Any, changes: t.Any) -> None:
        revoke(other, browser)
        assert held[0].wait(PATIENCE)
        save(session, changes)

    def act() -> None:
        kvs.current_session["secret"] = 1
        held.append(store_of(app).watch(kvs.current_session.stored))  # type: ignore[arg-type]
        kvs.current_session.follow_end_of(held[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_of(app).request_session_class, "save", end_before)
        assert do(browser, act).status_code == 200
    assert len([key for key in keys() if ":s:" in key]) == 1


def test_a_login_in_a_watched_request_gives_a_usable_session(
    app: Flask, sign_in: SignIn, do: Do
) -> None:
    """The end of the session that the login replaces does not touch the new one."""
    browser = sign_in(app)

    def act() -> t.Any:
        with kvs.watching() as watched:
            kvs.login_user("bob")
            assert watched.wait(PATIENCE)
            kvs.current_session["x"] = 1
            return {"user": kvs.current_session.user_id}

    assert do(browser, act).get_json() == {"user": "bob"}
    assert browser.get("/me").get_json()["data"] == {"x": 1}


def test_nothing_of_a_watched_request_remains_in_memory(
    app: Flask, sign_in: SignIn, stream: t.Any
) -> None:
    """The request, its session and its stream are freed."""
    kept: list[weakref.ref[t.Any]] = []

    def act() -> t.Any:
        body = kvs.until_ended(Items("one"))
        this = t.cast(t.Any, request)._get_current_object()
        kept.extend(map(weakref.ref, (this, body)))
        return body

    stream(act)
    sign_in(app).get("/stream").close()
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


# Servers


class Live:
    """The app of `support/live_app.py` in a real server, and the store of another process."""

    def __init__(self, port: int, server: Server, store: SessionStore) -> None:
        self.port = port
        self.server = server
        self.store = store
        self.stack = ExitStack()

    def request(
        self, path: str, cookie: str = "", method: str = "GET"
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=PATIENCE)
        self.stack.callback(connection.close)
        connection.request(method, path, headers={"Cookie": cookie} if cookie else {})
        return connection, connection.getresponse()

    def json(self, path: str, method: str = "GET") -> t.Any:
        connection, response = self.request(path, method=method)
        body = response.read()
        connection.close()
        return json.loads(body) | {"cookie": response.getheader("Set-Cookie")}

    def sign_in(self, user: str) -> tuple[str, str]:
        """The session id and the cookie of a new browser."""
        answer = self.json(f"/login/{user}", "POST")
        return answer["id"], answer["cookie"].split(";")[0]

    def open_stream(self, cookie: str) -> http.client.HTTPResponse:
        _, response = self.request("/events", cookie)
        assert response.readline() + response.readline() == b"data: hello\n\n"
        return response

    def open_websocket(self, path: str, cookie: str) -> t.Any:
        url = f"ws://{LOOPBACK}:{self.port}{path}"
        opened = Client(url, headers={"Cookie": cookie})
        self.stack.callback(lambda: opened.connected and opened.close())
        return opened

    def is_quiet(self) -> bool:
        """Whether the server watches no session, and runs no thread for one."""
        state = self.json("/state")
        return state["watched"] == 0 and "kvsession-watcher" not in state["threads"]


@contextmanager
def in_environ(**variables: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextmanager
def werkzeug(app: Flask) -> Iterator[int]:
    """The development server, in this process; gives its port."""
    server = make_server(LOOPBACK, 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()
    store_of(app).close()


GUNICORN = {
    "sync": "-k sync -w 1",
    "gthread": "-k gthread -w 1 --threads 8",
    "gevent": "-k gevent -w 1",
}


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s"))
    yield server
    server.kill()


@pytest.fixture
def serve(redis_server: Server) -> Iterator[Callable[[str], Live]]:
    """Serves the app by the server of this name."""
    with ExitStack() as stack:

        def serve(name: str) -> Live:
            prefix = f"live-{name}"
            environ = {"LIVE_URL": f"unix://{redis_server.path}", "LIVE_PREFIX": prefix}
            if name == "werkzeug":
                with in_environ(**environ):
                    from ..support.live_app import app as live_app
                port = stack.enter_context(werkzeug(live_app))
            else:
                app = "tests.support.live_app:app"
                port = stack.enter_context(gunicorn(app, GUNICORN[name], environ))
            client = stack.enter_context(redis_server.client())
            store = SessionStore(client, Settings(key_prefix=prefix))
            live = Live(port, redis_server, store)
            stack.callback(store.close)
            stack.push(live.stack)
            return live

        yield serve


def rest_of(response: http.client.HTTPResponse) -> bytes:
    """What still comes, until the server ends the response or closes the connection."""
    with contextlib.suppress(ConnectionError):
        try:
            return response.read()
        except http.client.IncompleteRead as cut:
            return cut.partial
    return b""


@pytest.mark.parametrize("name", ["sync", "gthread", "gevent", "werkzeug"])
def test_a_stream_that_waits_is_cut_at_the_revocation(
    serve: Callable[[str], Live], name: str
) -> None:
    """A stream that waits 10 minutes for its next item ends for the browser at once. When the item
    comes, it is not sent, the iterable is closed, and nothing remains."""
    live = serve(name)
    events, closed = (f"live-{name}-{kind}" for kind in ("events", "closed"))
    session_id, cookie = live.sign_in("ada")
    response = live.open_stream(cookie)
    assert live.store.revoke_one("ada", session_id)
    assert rest_of(response) == b""
    assert live.server.run("GET", closed) is None
    live.server.run("RPUSH", events, "too late")
    wait_until(lambda: live.server.run("GET", closed) == "1")
    wait_until(live.is_quiet)


@pytest.mark.parametrize("name", ["gthread", "gevent", "werkzeug"])
def test_a_revocation_cuts_no_other_connection(serve: Callable[[str], Live], name: str) -> None:
    """Streams and sockets of other sessions, and later requests of the server, go on."""
    live = serve(name)
    (ended, cookie), (_, other_cookie) = live.sign_in("ada"), live.sign_in("bob")
    response, other = live.open_stream(cookie), live.open_stream(other_cookie)
    websocket = live.open_websocket("/ws", other_cookie)
    assert live.store.revoke_one("ada", ended)
    assert rest_of(response) == b""
    live.server.run("RPUSH", f"live-{name}-events", "first", "second")
    assert other.readline() in (b"data: first\n", b"data: second\n")
    websocket.send("still here")
    assert websocket.receive(timeout=PATIENCE) == "still here"


@pytest.mark.parametrize("name", ["gthread", "gevent", "werkzeug"])
def test_a_websocket_that_waits_is_closed_with_4001_and_the_reason(
    serve: Callable[[str], Live], name: str
) -> None:
    """A view that waits in `ws.receive()` ends too."""
    live = serve(name)
    session_id, cookie = live.sign_in("ada")
    websocket = live.open_websocket("/ws", cookie)
    websocket.send("hello")
    assert websocket.receive(timeout=PATIENCE) == "hello"
    assert live.store.revoke_one("ada", session_id)
    with pytest.raises(ConnectionClosed) as closed:
        websocket.receive(timeout=PATIENCE)
    assert (closed.value.reason, closed.value.message) == (4001, "revoked")
    wait_until(live.is_quiet)


@pytest.mark.parametrize("name", ["gthread", "gevent", "werkzeug"])
def test_a_socketio_client_is_disconnected_and_its_connection_closed(
    serve: Callable[[str], Live], name: str
) -> None:
    """It is told that the server has disconnected it, so that it does not connect again by
    itself."""
    live = serve(name)
    session_id, cookie = live.sign_in("ada")
    websocket = live.open_websocket("/socket.io/?EIO=4&transport=websocket", cookie)
    websocket.send("40")  # the client may give what came with the handshake only after a reply
    assert websocket.receive(timeout=PATIENCE).startswith("0")
    assert websocket.receive(timeout=PATIENCE).startswith("40")
    websocket.send('42["whoami"]')
    assert websocket.receive(timeout=PATIENCE) == '42["you","ada"]'
    assert live.store.revoke_one("ada", session_id)
    assert websocket.receive(timeout=PATIENCE) == "41"
    assert websocket.receive(timeout=PATIENCE) == "1"
    with pytest.raises(ConnectionClosed):
        websocket.receive(timeout=PATIENCE)
    wait_until(live.is_quiet)


def test_a_socketio_client_whose_session_cannot_be_loaded_may_connect_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """While Redis is down, its connection is closed without the word that forbids to connect again
    by itself. It cannot stay, because nobody could tell it of a revocation."""
    own = Server(tmp_path_factory.mktemp("s"))
    environ = {"LIVE_URL": f"unix://{own.path}"}
    with gunicorn("tests.support.live_app:app", GUNICORN["gthread"], environ) as port:
        live = Live(port, own, SessionStore(own.client()))
        with live.stack:
            _, cookie = live.sign_in("ada")
            own.kill()
            websocket = live.open_websocket("/socket.io/?EIO=4&transport=websocket", cookie)
            websocket.send("40")
            packets: list[str] = []
            with pytest.raises(ConnectionClosed):
                read_packets(websocket, packets)
            assert packets[-1] == "1" and "41" not in packets
        live.store.close()


def read_packets(websocket: t.Any, packets: list[str]) -> None:
    """Until the connection is closed."""
    while packet := websocket.receive(timeout=PATIENCE):
        packets.append(packet)


# The documentation

BLOCKS = re.findall(
    r"^```python\n(.*?)^```",
    (Path(__file__).parents[2] / "docs" / "open-connections.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


@contextmanager
def documented(number: int, redis_server: Server, prefix: str) -> Iterator[tuple[Live, t.Any]]:
    """A whole code block of the page, served, and its names."""
    names: dict[str, t.Any] = {"__name__": "documented"}
    with in_environ(
        FLASK_TESTING="true",
        FLASK_KVSESSION_REDIS_URL=f"unix://{redis_server.path}",
        FLASK_KVSESSION_KEY_PREFIX=prefix,
    ):
        exec(BLOCKS[number], names)
    app: Flask = names["app"]

    @app.post("/login/<user>")
    def login(user: str) -> t.Any:
        return {"id": kvs.login_user(user).id}

    store = SessionStore(redis_server.client(), Settings(key_prefix=prefix))
    with werkzeug(app) as port:
        live = Live(port, redis_server, store)
        with live.stack:
            yield live, names
    store.close()


def test_the_stream_of_the_documentation(redis_server: Server, prefix: str) -> None:
    """Its messages arrive, and a revocation ends it while it waits."""
    with documented(0, redis_server, prefix) as (live, names):
        assert live.request("/events")[1].status == 401
        session_id, cookie = live.sign_in("ada")
        response = live.request("/events", cookie)[1]
        assert response.readline() + response.readline() == b": open\n\n"
        [inbox] = names["inboxes"]["ada"]
        inbox.put("hello")
        assert response.readline() + response.readline() == b"data: hello\n\n"
        assert live.store.revoke_one("ada", session_id)
        assert rest_of(response) == b""
        inbox.put("too late")
        wait_until(lambda: names["inboxes"]["ada"] == [])


def test_the_websocket_of_the_documentation(redis_server: Server, prefix: str) -> None:
    """It answers, and a revocation closes it while it waits."""
    with documented(1, redis_server, prefix) as (live, _):
        session_id, cookie = live.sign_in("ada")
        websocket = live.open_websocket("/echo", cookie)
        websocket.send("hello")
        assert websocket.receive(timeout=PATIENCE) == "ada: hello"
        assert live.store.revoke_one("ada", session_id)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.receive(timeout=PATIENCE)
        assert (closed.value.reason, closed.value.message) == (4001, "revoked")


def test_the_socketio_app_of_the_documentation(redis_server: Server, prefix: str) -> None:
    """It refuses nobody's client, answers a user's, and a revocation disconnects that."""
    with documented(2, redis_server, prefix) as (live, _):
        session_id, cookie = live.sign_in("ada")
        refused = live.open_websocket("/socket.io/?EIO=4&transport=websocket", "")
        client = live.open_websocket("/socket.io/?EIO=4&transport=websocket", cookie)
        for websocket, answer in ((refused, "44"), (client, "40")):
            websocket.send("40")
            assert websocket.receive(timeout=PATIENCE).startswith("0")
            assert websocket.receive(timeout=PATIENCE).startswith(answer)
        client.send('421["whoami"]')
        assert client.receive(timeout=PATIENCE) == '431["ada"]'
        assert live.store.revoke_one("ada", session_id)
        assert client.receive(timeout=PATIENCE) == "41"


def test_a_connection_that_several_requests_share_is_not_cut() -> None:
    """With HTTP/2, the socket belongs to other requests too; their server gives it all the same."""
    with socket.socket() as shared:
        environ = {"gunicorn.socket": shared, "SERVER_PROTOCOL": "HTTP/1.1"}
        assert _socket_in(environ) is shared
        assert _socket_in(environ | {"SERVER_PROTOCOL": "HTTP/2.0"}) is None
        assert _socket_in({}) is None
