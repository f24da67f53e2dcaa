"""Law 8: a failing store never looks like "not signed in"."""

from __future__ import annotations

import logging
import os
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from flask import Flask, Response, g, make_response, request, request_finished, send_file, session
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.errors import StoreUnavailable

from .support.apps import Do, MakeApp, close, store_of
from .support.browsers import AS_PAGE, id_of, token_of
from .support.clock import Clock
from .support.servers import Server

TIMEOUT = 0.3
GRACE = 0.5 + 1.0  # what FAULTS allows beyond the timeout, and what a busy machine may add


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


def nothing(server: Server) -> None:
    pass


def demand_password(server: Server) -> None:
    with redis.Redis(unix_socket_path=server.path) as client:
        client.config_set("requirepass", "s3cr3t")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")


FAULTS: dict[str, tuple[Callable[[Server], object], Callable[[Server], object]]] = {
    "hung": (Server.stop, Server.resume),
    "killed": (lambda server: server.kill(), lambda server: server.start()),
    "paused": (lambda server: server.run("CLIENT", "PAUSE", "2500", "ALL"), nothing),
    "a password demanded": (demand_password, nothing),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_failing_store_gives_503_and_keeps_the_cookie(
    signed_in: FlaskClient,
    own_server: Server,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    """While the store fails, requests that use the session give 503 within the deadline and keep
    the cookie."""
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
        assert response.get_json() == {"error": "StoreUnavailable"}
        assert {"Accept", "Cookie"} == set(response.vary)
        assert "Set-Cookie" not in response.headers
    assert signed_in.get("/untouched").status_code == 200
    assert signed_in.get("/lenient").get_json() == {"data": {}, "signed in": False}
    assert token_of(signed_in) == before
    assert "s3cr3t" not in caplog.text
    mend_it(own_server)


@pytest.mark.parametrize("act", ["load", "commit"])
def test_browser_that_asks_for_a_page_gets_a_page(app: Flask, own_server: Server, act: str) -> None:
    """A 503 is a page for a request that asks for one, and JSON for any other, whether the load or
    the commit fails. What a hook puts into Vary stays."""

    @app.after_request
    def vary(response: Response) -> Response:
        response.vary.add("Origin")
        return response

    @app.get("/fail")
    def fail() -> t.Any:
        if act == "commit":
            g.session["x"] = time.time()
        own_server.kill()
        if act == "load":
            g.session.get("x")
        return "done"

    browser = app.test_client()
    browser.post("/login/ada")
    page, program = browser.get("/fail", headers=AS_PAGE), browser.get("/fail")
    assert (page.status_code, page.mimetype) == (503, "text/html")
    assert (program.status_code, program.mimetype) == (503, "application/json")
    assert program.get_json() == {"error": "StoreUnavailable"}
    for response in (page, program):
        assert {"Accept", "Cookie", "Origin"} == set(response.vary)


@pytest.mark.parametrize("login", ["", "app:wr0ng@"], ids=["none", "wrong"])
def test_refused_password_is_named_in_the_log(
    make_app: MakeApp, own_server: Server, caplog: pytest.LogCaptureFixture, login: str
) -> None:
    """If the server refuses the password or wants one, the line in the log says what to correct,
    without the password."""
    demand_password(own_server)
    app = make_app(redis_url=f"unix://{login}{own_server.path}", store_timeout=TIMEOUT)
    with caplog.at_level(logging.ERROR, "flask_kvsession"):
        assert app.test_client().post("/login/ada").status_code == 503
    [line] = caplog.messages
    assert "refuses the user name or the password" in line
    assert "KVSESSION_REDIS_URL" in line
    assert "wr0ng" not in caplog.text


@pytest.mark.parametrize("fault", ["hung", "paused"])
def test_app_recovers_when_the_store_answers_again(
    signed_in: FlaskClient, own_server: Server, fault: str
) -> None:
    """When the store answers again, the app answers and the user is still signed in."""
    break_it, mend_it = FAULTS[fault]
    break_it(own_server)
    assert signed_in.get("/me").status_code == 503
    mend_it(own_server)
    deadline = time.monotonic() + 10
    while signed_in.get("/me").status_code != 200:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "act",
    [lambda: kvs.login_user("bob"), kvs.logout_user, kvs.rotate_token],
    ids=["login", "logout", "rotation"],
)
def test_request_has_no_session_after_an_act_that_failed(
    do: Do, signed_in: FlaskClient, own_server: Server, act: Callable[[], object]
) -> None:
    """If a view goes on after a login, logout or rotation that failed, it reads an empty session
    without a user, and writes nothing."""

    def go_on() -> dict[str, t.Any]:
        g.session["x"] = 2
        with pytest.raises(StoreUnavailable):
            act()
        return {"data": dict(g.session), "signed in": g.session.is_authenticated}

    own_server.run("CLIENT", "PAUSE", "30000", "WRITE")
    response = do(signed_in, go_on)
    assert response.get_json() == {"data": {}, "signed in": False}
    assert "Set-Cookie" not in response.headers
    own_server.run("CLIENT", "UNPAUSE")
    assert signed_in.get("/data").get_json() == {"x": 1}


def test_store_restarted_without_its_data_gives_401(
    signed_in: FlaskClient, own_server: Server
) -> None:
    """After a restart without persistence, the user gets 401 and can log in again."""
    own_server.kill()
    assert signed_in.get("/me").status_code == 503
    own_server.start()
    assert signed_in.get("/me").status_code == 401
    assert signed_in.post("/login/ada").status_code == 200


def test_reads_work_while_writes_are_paused(
    signed_in: FlaskClient, own_server: Server, clock: Clock
) -> None:
    """While writes are paused, reads skip a due renewal and a login gives 503."""
    clock.advance(minutes=6)
    own_server.run("CLIENT", "PAUSE", "30000", "WRITE")
    assert signed_in.get("/me").status_code == 200
    assert signed_in.post("/login/bob").status_code == 503


def test_full_memory_allows_read_revoke_and_logout(
    app: Flask, signed_in: FlaskClient, own_server: Server
) -> None:
    """With full memory, a read, a revocation and a logout work, and a login gives 503."""
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


def test_replica_serves_reads_and_refuses_writes(
    signed_in: FlaskClient, own_server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """On a replica, a read with a due renewal works and a write gives 503. The log names the
    remedy, for a URL that names a replica by mistake."""
    clock.advance(minutes=6)
    own_server.run("CONFIG", "SET", "replica-serve-stale-data", "yes")
    own_server.run("REPLICAOF", "127.0.0.1", "1")
    assert signed_in.get("/me").status_code == 200
    assert signed_in.post("/data", json={"x": 2}).status_code == 503
    assert "name the primary in KVSESSION_REDIS_URL" in caplog.text


@pytest.mark.parametrize(
    "act",
    [
        lambda: kvs.login_user("ada"),
        kvs.logout_user,
        kvs.confirm_login,
        lambda: kvs.revoke_session(g.session.id or ""),
        kvs.revoke_all_sessions,
        lambda: kvs.update_all_sessions("ada", {"x": 2}),
    ],
    ids=["login", "logout", "confirm", "revoke", "revoke all", "update all"],
)
def test_act_that_the_store_refuses_is_not_reported_as_done(
    app: Flask, do: Do, signed_in: FlaskClient, own_server: Server, act: t.Any
) -> None:
    """If Redis answers reads and refuses writes, each act gives 503 and changes nothing: the
    session goes on, and the cookie stays (OWASP ASVS 5.0, 16.5.3)."""
    own_server.run("CONFIG", "SET", "replica-serve-stale-data", "yes")
    own_server.run("REPLICAOF", "127.0.0.1", "1")
    response = do(signed_in, act)
    assert response.status_code == 503
    assert "Set-Cookie" not in response.headers
    assert signed_in.get("/me").get_json()["data"] == {"x": 1}


def test_dropped_idle_connection_is_replaced_without_an_error(
    signed_in: FlaskClient, own_server: Server
) -> None:
    """A connection that the server closed is replaced without an error."""
    own_server.run("CLIENT", "KILL", "TYPE", "normal")
    assert signed_in.get("/me").status_code == 200


BAD_RECORDS: dict[str, Callable[[redis.Redis, str], object]] = {
    "a list": lambda client, key: (client.delete(key), client.lpush(key, "x")),
    "cut short": lambda client, key: client.set(key, t.cast(bytes, client.get(key))[:-9]),
    "overwritten": lambda client, key: client.setrange(key, 5, "\0\0\0"),
    "of a newer format": lambda client, key: client.set(
        key, t.cast(bytes, client.get(key)).replace(b'"v":1', b'"v":99')
    ),
    "a pickle": lambda client, key: client.set(key, b"\x80\x04K\x01."),
    "empty": lambda client, key: client.set(key, b""),
}


@pytest.mark.parametrize("spoil", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_bad_record_reads_as_no_session_and_is_left_alone(
    make_app: MakeApp,
    redis_client: redis.Redis,
    keys: Callable[[], set[str]],
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[redis.Redis, str], object],
) -> None:
    """A record that cannot be read counts as no session, is logged once and stays unchanged."""
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


def test_failing_commit_gives_the_apps_own_503(
    own_words: Flask, signed_in: FlaskClient, own_server: Server
) -> None:
    """If the commit fails, the app's handler for `StoreUnavailable` gives the response."""
    own_words.config["break"] = lambda: own_server.run("CLIENT", "PAUSE", "1000", "WRITE")
    response = signed_in.get("/page")
    assert (response.status_code, response.text) == (503, "sorry, nobody")
    assert response.headers["Retry-After"] == "7"
    assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert int(response.headers["Content-Length"]) == len("sorry, nobody")
    assert not {"Location", "ETag", "Set-Cookie"} & set(response.headers.keys())
    assert response.headers["Vary"] == "Cookie"


def test_failing_commit_after_a_file_response_closes_the_file_and_sends_the_handlers_response(
    app: Flask, do: Do, own_server: Server, tmp_path: Path
) -> None:
    """If the commit fails after a view has returned an open file, the file is closed, and nothing
    but the handler's response is left, with each of its cookies."""

    @app.errorhandler(StoreUnavailable)
    def sorry(error: StoreUnavailable) -> t.Any:
        response = make_response("sorry", 503)
        response.set_cookie("first", "1")
        response.set_cookie("second", "2")
        return response

    (tmp_path / "report").write_text("the report")
    report = open(tmp_path / "report", "rb")  # noqa: SIM115 - the extension has to close it
    bodies: list[bytes] = []

    def send_report() -> Response:
        g.session["seen"] = 1
        own_server.run("CLIENT", "PAUSE", "1000", "WRITE")
        return send_file(report, "text/plain")

    def receive(sender: Flask, response: Response, **extra: t.Any) -> None:
        bodies.append(response.get_data())

    browser = app.test_client()
    with request_finished.connected_to(receive, app):
        response = do(browser, send_report)
    assert (response.status_code, response.text, bodies) == (503, "sorry", [b"sorry"])
    assert len(response.headers.getlist("Set-Cookie")) == 2
    assert report.closed


def test_handler_of_a_failing_commit_reads_none_of_the_changes(
    own_words: Flask, do: Do, signed_in: FlaskClient, own_server: Server
) -> None:
    """If the commit fails, the app's handler reads an empty session, without the changes that were
    not saved."""

    def rename() -> None:
        g.session["name"] = "Ada"
        own_server.run("CLIENT", "PAUSE", "1000", "WRITE")

    response = do(signed_in, rename)
    assert (response.status_code, response.text) == (503, "sorry, nobody")


def test_failing_load_gives_the_apps_own_503(
    own_words: Flask, signed_in: FlaskClient, own_server: Server
) -> None:
    """If the load fails, the app's handler for `StoreUnavailable` gives the response."""
    own_server.stop()
    assert signed_in.get("/me").text == "sorry, nobody"
    own_server.resume()


def test_failing_load_in_an_error_page_gives_503_instead_of_500(
    own_words: Flask, own_server: Server
) -> None:
    """If an error page fails to load the session, the app's handler gives a 503, not a 500."""

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


def test_failing_load_in_an_after_request_hook_gives_503(
    own_words: Flask, own_server: Server
) -> None:
    """If an `after_request` hook fails to load the session, the app's handler gives a 503."""

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


def test_other_error_after_a_failed_load_stays_a_500(own_words: Flask, own_server: Server) -> None:
    """A view that catches `StoreUnavailable` and then raises another error gives 500."""

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


class TestAnonymousOnFailure:
    """`KVSESSION_ON_STORE_FAILURE = "anonymous"`: pages that only read go on without a session."""

    @pytest.fixture
    def app(self, make_app: MakeApp, own_server: Server) -> Flask:
        app = make_app(
            redis_url=f"unix://{own_server.path}",
            store_timeout=TIMEOUT,
            on_store_failure="anonymous",
            protected_paths=("/protected",),
        )

        @app.get("/welcome")
        def welcome() -> str:
            user = g.session.get("name") or g.session.user_id
            return f"Hello {user}, {len(g.session)} items, {g.session.is_authenticated}"

        @app.get("/protected")
        def protected() -> str:
            return "protected"

        return app

    def test_a_page_that_reads_finds_an_empty_session(
        self, signed_in: FlaskClient, own_server: Server
    ) -> None:
        """The page is 200 for an anonymous browser, is cached nowhere, and leaves the cookie."""
        assert signed_in.get("/welcome").text == "Hello ada, 1 items, True"
        own_server.kill()
        response = signed_in.get("/welcome")
        assert (response.status_code, response.text) == (200, "Hello None, 0 items, False")
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Vary"] == "Cookie"
        assert "Set-Cookie" not in response.headers
        own_server.start()

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/me"),
            ("GET", "/protected"),
            ("POST", "/data"),
            ("POST", "/login/ada"),
            ("POST", "/logout"),
        ],
    )
    def test_guards_and_verbs_still_answer_503(
        self, signed_in: FlaskClient, own_server: Server, method: str, path: str
    ) -> None:
        """A guard, a write, a login and a logout get 503."""
        own_server.kill()
        assert signed_in.open(path, method=method, json={"x": 2}).status_code == 503

    def test_a_write_after_a_read_gets_503(
        self, do: Do, signed_in: FlaskClient, own_server: Server
    ) -> None:
        """A view that reads first and then writes gets 503: its change would be lost."""
        own_server.kill()

        def act() -> None:
            assert g.session.get("x") is None
            g.session["x"] = 2

        assert do(signed_in, act).status_code == 503

    def test_flask_session_reads_as_empty_too(self, make_app: MakeApp, own_server: Server) -> None:
        """`flask.session` reads as empty, and its user is nobody."""
        app = make_app(
            redis_url=f"unix://{own_server.path}",
            store_timeout=TIMEOUT,
            on_store_failure="anonymous",
            as_flask_session=True,
            user_id_key="user_id",
            views=False,
        )

        @app.route("/", methods=["GET", "POST"])
        def index() -> t.Any:
            if request.method == "POST":
                session["user_id"] = "ada"
            return {"data": dict(session), "user": kvs.current_session.user_id}

        client = app.test_client()
        assert client.post("/").get_json()["user"] == "ada"
        own_server.kill()
        assert client.get("/").get_json() == {"data": {}, "user": None}
        assert client.post("/").status_code == 503


def test_login_is_valid_in_a_second_worker_at_once(
    app: Flask, signed_in: FlaskClient, make_app: MakeApp, own_server: Server
) -> None:
    """A second worker accepts a login that the first worker has answered."""
    close(app)
    other = make_app("other", redis_url=f"unix://{own_server.path}").test_client()
    other.set_cookie("kvsession", token_of(signed_in) or "")
    assert other.get("/me").status_code == 200
    assert store_of(app).sessions_of("ada")
    assert os.path.exists(own_server.path)
