"""What is logged, and law 1: the secret is only in the cookie."""

from __future__ import annotations

import dataclasses
import gc
import logging
import traceback
import typing as t
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from flask import Flask, Response, copy_current_request_context, g, request, stream_with_context
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession import codec, signals
from flask_kvsession.compat.transition import LoginTransition
from flask_kvsession.current import request_session
from flask_kvsession.data import Changes
from flask_kvsession.errors import KVSessionError, StoreUnavailable
from flask_kvsession.record import Client, Stored, new_record
from flask_kvsession.token import Token, new_session_id

from .support.apps import Do, MakeApp, store_of
from .support.browsers import SignIn, id_of, token_of
from .support.clock import Clock
from .support.commands import CountCommands, Keys

LOGGER = "flask_kvsession"
NOWHERE = "unix:///nonexistent/kvsession.sock"


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[int, str]]]:
    """The package's lines so far, each with its level; the next call begins anew."""
    caplog.set_level(logging.DEBUG)

    def logged() -> list[tuple[int, str]]:
        lines = [
            (record.levelno, record.getMessage())
            for record in caplog.records
            if record.name == LOGGER
        ]
        caplog.clear()
        return lines

    return logged


Logged = Callable[[], list[tuple[int, str]]]


class TestEvents:
    def test_each_event_is_logged_on_one_line(
        self, app: Flask, sign_in: SignIn, do: Do, clock: Clock, logged: Logged
    ) -> None:
        """Each event is one line at INFO, or at DEBUG for a renewal (OWASP ASVS 5.0, 16.3.1)."""
        browser = sign_in(app)
        sid = id_of(browser)
        assert logged() == [(logging.INFO, f"user-logged-in: session {sid} of user 'ada'")]
        clock.advance(minutes=6)
        browser.get("/me")
        assert logged() == [(logging.DEBUG, f"session-renewed: session {sid} of user 'ada'")]
        do(browser, kvs.confirm_login)
        assert logged() == [
            (logging.INFO, f"token-rotated: session {sid} of user 'ada'"),
            (logging.INFO, f"login-confirmed: session {sid} of user 'ada'"),
        ]
        with app.app_context():
            kvs.revoke_all_sessions("ada")
        assert logged() == [(logging.INFO, f"session-revoked: session {sid} of user 'ada'")]
        browser.post("/login/bob")
        logged()
        sid = id_of(browser)
        browser.post("/logout")
        assert logged() == [(logging.INFO, f"user-logged-out: session {sid} of user 'bob'")]

    def test_reads_writes_and_junk_cookies_are_not_logged(
        self, app: Flask, sign_in: SignIn, logged: Logged
    ) -> None:
        """Reads, writes and junk cookies are not logged."""
        browser, anonymous = sign_in(app), app.test_client()
        logged()
        browser.get("/me")
        browser.post("/data", json={"x": 1})
        anonymous.get("/data")
        anonymous.set_cookie("kvsession", "junk\n")
        anonymous.get("/data")
        anonymous.set_cookie("kvsession", "A" * 62)
        anonymous.post("/data", json={"x": 1})
        assert logged() == []

    @pytest.mark.parametrize(
        "user_id", ["a\nb", "a\r\nERROR root: forged", "\x1b[31m", "\u2028", "é" * 10_000, "'"]
    )
    def test_user_id_of_any_content_stays_on_one_line(
        self, client: FlaskClient, do: Do, logged: Logged, user_id: str
    ) -> None:
        """A user id of any content gives one printable line of limited length."""
        do(client, lambda: kvs.login_user(user_id))
        ((_, line),) = logged()
        assert line.isprintable()
        assert len(line) < 200

    def test_user_agent_of_a_browser_is_not_logged(
        self, client: FlaskClient, clock: Clock, logged: Logged
    ) -> None:
        """No line contains the user agent, so a browser cannot forge a line."""
        client.environ_base["HTTP_USER_AGENT"] = "one\nERROR forged"
        client.post("/login/ada")
        clock.advance(minutes=6)
        client.environ_base["HTTP_USER_AGENT"] = "two\nERROR forged"
        client.get("/me")
        lines = logged()
        assert len(lines) == 3
        assert not any("forged" in line or "\n" in line for _, line in lines)


class TestRefusals:
    """A refusal is one line that names the request and its user (OWASP ASVS 5.0, 16.3.2)."""

    @pytest.fixture
    def app(self, make_app: MakeApp) -> Flask:
        app = make_app(protected_paths=("/protected/*",))
        app.before_request(kvs.cross_origin_guard)
        views: dict[str, Callable[..., t.Any]] = {
            "/fresh": kvs.fresh_login_required(pytest.fail),
            "/admin/<path:path>": kvs.roles_required("admin")(pytest.fail),
            "/list": kvs.list_sessions,
            "/confirm": kvs.confirm_login,
        }
        for path, view in views.items():
            app.add_url_rule(path, path.replace(".", ""), view, methods=["GET", "POST"])
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        return app

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/me"),
            ("GET", "/fresh"),
            ("GET", "/admin/x"),
            ("GET", "/protected/x"),
            ("GET", "/list"),
            ("POST", "/confirm"),
            ("GET", "/devices/"),
        ],
    )
    def test_refusal_of_an_anonymous_browser_is_one_line_at_info(
        self, app: Flask, logged: Logged, method: str, path: str
    ) -> None:
        """Each request that is refused because nobody is signed in gives one line."""
        expected = f"refused '{method}' '{path}': LoginRequired, anonymous, from '127.0.0.1'"
        for headers in ({}, {"Accept": "text/html"}):
            browser = app.test_client()
            assert browser.open(path, method=method, headers=headers).status_code == 401
            assert logged() == [(logging.INFO, expected)]

    def test_refusal_of_a_user_names_the_user_and_the_session(
        self, app: Flask, sign_in: SignIn, clock: Clock, logged: Logged
    ) -> None:
        """A missing role is a warning; a login that is not fresh is a line at INFO."""
        browser = sign_in(app)
        who = f"session {id_of(browser)} of user 'ada', from '127.0.0.1'"
        logged()
        browser.get("/admin/x")
        assert logged() == [(logging.WARNING, f"refused 'GET' '/admin/x': RoleRequired, {who}")]
        clock.advance(minutes=16)
        browser.get("/fresh")
        expected = f"refused 'GET' '/fresh': FreshLoginRequired, {who}"
        assert (logging.INFO, expected) in logged()

    def test_request_of_another_site_is_a_warning_and_loads_no_session(
        self, app: Flask, sign_in: SignIn, logged: Logged, count_commands: CountCommands
    ) -> None:
        """A refused post of another site gives one warning and costs no Redis call."""
        browser = sign_in(app)
        logged()
        with count_commands() as commands:
            browser.post("/logout", headers={"Sec-Fetch-Site": "cross-site"})
        assert len(commands) == 0
        line = "refused 'POST' '/logout': Forbidden, anonymous, from '127.0.0.1'"
        assert logged() == [(logging.WARNING, line)]

    def test_attempt_to_end_another_users_session_is_logged(
        self, app: Flask, sign_in: SignIn, logged: Logged
    ) -> None:
        """The devices pages log a request for a session that is not the user's."""
        ada, bob = sign_in(app), sign_in(app, "bob")
        logged()
        path = f"/devices/{id_of(bob)}/revoke"
        assert ada.post(path).status_code == 404
        who = f"session {id_of(ada)} of user 'ada', from '127.0.0.1'"
        assert logged() == [(logging.INFO, f"refused 'POST' '{path}': NotFound, {who}")]

    @pytest.mark.parametrize(
        "sent",
        [
            {"path": "/protected/a\nERROR forged"},
            {"path": "/protected/a\r\n\x1b[31m\u2028\ud800"},
            {"path": "/protected/" + "é" * 10_000},
            {"path": "/protected/x", "method": "ERROR\nFORGED" + "X" * 10_000},
            {"path": "/protected/x", "headers": {"User-Agent": "x\x1b" * 1000}},
            {"path": "/protected/x", "environ_overrides": {"REMOTE_ADDR": "a\nb" * 1000}},
            {"path": "/protected/x", "query_string": "password=hunter2"},
        ],
        ids=lambda sent: repr(sent)[:40],
    )
    def test_refusal_is_one_short_line_whatever_the_client_sends(
        self, app: Flask, logged: Logged, sent: dict[str, t.Any]
    ) -> None:
        """The line of a refusal is printable and short, and has no part of the query."""
        path = sent.pop("path").encode("utf-8", "surrogatepass").decode("latin-1")
        environ = {"PATH_INFO": path} | sent.pop("environ_overrides", {})
        response = app.test_client().open("/", environ_overrides=environ, **sent)
        assert response.status_code == 401
        ((_, line),) = logged()
        assert line.isprintable()
        assert len(line) < 400
        assert "hunter2" not in line

    def test_refusal_of_a_user_with_a_strange_id_is_one_short_line(
        self, app: Flask, do: Do, logged: Logged
    ) -> None:
        """A user id of any content cannot forge a line."""
        browser = app.test_client()
        do(browser, lambda: kvs.login_user("a\nERROR forged" + "x" * 10_000))
        logged()
        browser.get("/admin/x")
        ((_, line),) = logged()
        assert line.isprintable()
        assert len(line) < 400

    def test_refusal_names_no_address_if_addresses_are_not_recorded(
        self, make_app: MakeApp, logged: Logged
    ) -> None:
        """With `KVSESSION_RECORD_IP` off, the line has no address."""
        make_app(record_ip=False).test_client().get("/me")
        assert [line for _, line in logged()] == [
            "refused 'GET' '/me': LoginRequired, anonymous, from None"
        ]

    def test_refusal_shows_no_token(self, app: Flask, sign_in: SignIn, logged: Logged) -> None:
        """A refused request's token, valid or not, is not in the log."""
        browser = sign_in(app)
        token = token_of(browser) or ""
        browser.get("/admin/x")
        browser.set_cookie("kvsession", token[:-1] + ("A" if token[-1] != "A" else "B"))
        browser.get("/me")
        text = repr(logged())
        assert token[19:40] not in text
        assert token[40:-1] not in text


class TestErrorsAndWarnings:
    @pytest.mark.without_near_cache
    def test_failing_store_is_logged_once_as_an_error(
        self, make_app: MakeApp, logged: Logged
    ) -> None:
        """A failing store is logged once for the request, at ERROR and with its cause."""
        app = make_app(redis_url=NOWHERE)
        browser = app.test_client()
        browser.set_cookie("kvsession", "A" * 62)
        assert browser.get("/me").status_code == 503
        ((level, line),) = logged()
        assert level == logging.ERROR
        assert "unavailable" in line
        assert "nonexistent" in line

    def test_password_of_the_redis_url_is_not_shown(
        self, make_app: MakeApp, logged: Logged
    ) -> None:
        """The password of the Redis URL is in no line, no response and no repr of the app's
        state."""
        url = "redis://user:hunter2@127.0.0.1:1/0"
        app = make_app(redis_url=url)
        browser = app.test_client()
        browser.set_cookie("kvsession", "A" * 62)
        response = browser.get("/me")
        assert response.status_code == 503
        state = app.extensions["kvsession"]
        shown = repr((logged(), response.text, state, state.settings, state.store))
        assert "hunter2" not in shown

    @pytest.mark.parametrize(
        "raw",
        [b"", b"{", b'{"v":99}', b"\xff\xfe", b'{"v":1,"created":"x"}', b"\x80\x04N."],
        ids=repr,
    )
    def test_unreadable_record_is_logged_once_for_three_requests(
        self,
        app: Flask,
        sign_in: SignIn,
        redis_client: redis.Redis,
        keys: Keys,
        logged: Logged,
        raw: bytes,
    ) -> None:
        """A record that cannot be read is logged once, not once for each request."""
        browser = sign_in(app)
        (key,) = [key for key in keys() if ":s:" in key]
        redis_client.set(key, raw)
        logged()
        for _ in range(3):
            assert browser.get("/me").status_code == 401
        (line,) = [line for level, line in logged() if level == logging.ERROR]
        assert id_of(browser) in line
        assert redis_client.get(key) == raw

    @pytest.mark.parametrize("sends_cookies", [True, False])
    @pytest.mark.parametrize("by_key", [True, False])
    def test_login_on_every_request_is_logged_once(
        self, make_app: MakeApp, logged: Logged, sends_cookies: bool, by_key: bool
    ) -> None:
        """Ten logins of one user by one client within a minute log one warning with the remedy."""
        app = make_app(as_flask_session=by_key, user_id_key="user_id" if by_key else None)

        @app.before_request
        def sign_in_by_header() -> None:
            user = request.headers["Remote-User"]
            g.session.update(user_id=user) if by_key else kvs.login_user(user)

        def warnings_after(requests: int) -> list[str]:
            for _ in range(requests):
                with app.test_client(use_cookies=sends_cookies) as browser:
                    browser.get("/untouched", headers={"Remote-User": "ada"})
            return [line for level, line in logged() if level == logging.WARNING]

        assert warnings_after(9) == []
        (line,) = warnings_after(1)
        assert "signed one user in 10 times" in line
        assert "current_session.user_id" in line
        assert warnings_after(20) == []

    def test_remedy_of_the_warning_about_many_logins_works(
        self, make_app: MakeApp, logged: Logged
    ) -> None:
        """An app that signs in only another user than the current one has one session."""
        app = make_app()

        @app.before_request
        def sign_in_by_header() -> None:
            if kvs.current_session.user_id != request.headers["Remote-User"]:
                kvs.login_user(request.headers["Remote-User"])

        browser = app.test_client()
        for _ in range(20):
            browser.get("/untouched", headers={"Remote-User": "ada"})
        assert len(store_of(app).sessions_of("ada")) == 1
        assert [level for level, _ in logged()] == [logging.INFO]

    @pytest.mark.parametrize("differs", ["user", "address", "browser", "time"])
    def test_many_logins_of_different_kinds_are_not_logged_as_one_client(
        self, app: Flask, clock: Clock, logged: Logged, differs: str
    ) -> None:
        """Logins of different users, addresses or browsers, or over hours, log no warning."""
        for number in range(30):
            browser = app.test_client()
            if differs == "address":
                browser.environ_base["REMOTE_ADDR"] = f"192.0.2.{number}"
            if differs == "browser":
                browser.environ_base["HTTP_USER_AGENT"] = f"browser {number}"
            if differs == "time":
                clock.advance(seconds=10)
            browser.post(f"/login/{number if differs == 'user' else 'ada'}")
        assert {level for level, _ in logged()} == {logging.INFO}

    @pytest.mark.parametrize("as_flask_session", [False, True])
    @pytest.mark.parametrize("where", ["stream", "close"])
    def test_session_first_read_after_its_response_has_begun_is_logged_once(
        self, make_app: MakeApp, logged: Logged, as_flask_session: bool, where: str
    ) -> None:
        """A first read in a stream or a close callback logs one warning that names the remedy."""
        app = make_app(as_flask_session=as_flask_session)
        seen: list[t.Any] = []

        def read() -> str:
            seen.append(kvs.current_session.user_id)
            return "x"

        @app.get("/stream")
        def stream() -> t.Any:
            if where == "stream":
                return Response(stream_with_context(read() for _ in range(2)))
            response = Response(["x"])
            response.call_on_close(copy_current_request_context(read))
            return response

        browsers = [app.test_client() for _ in range(2)]
        for browser in browsers:
            with browser.get("/stream") as response:
                assert response.data
                assert "Vary" not in response.headers
        assert seen[0] is None
        ((level, line),) = logged()
        assert level == logging.WARNING
        assert "Vary: Cookie" in line
        assert "Read the session in the view" in line

    def test_session_that_the_view_has_read_may_be_read_in_the_stream(
        self, app: Flask, logged: Logged
    ) -> None:
        """A read in the view and again in the stream logs nothing, and has `Vary`."""

        @app.get("/stream")
        def stream() -> t.Any:
            assert g.session.user_id is None
            return Response(stream_with_context(str(g.session.user_id) for _ in range(2)))

        with app.test_client().get("/stream") as response:
            assert response.data == b"NoneNone"
            assert response.headers["Vary"] == "Cookie"
        assert logged() == []


class Spy:
    """Everything that anybody but the browser gets to see, as text, and the tokens it may not
    hold."""

    def __init__(self, app: Flask) -> None:
        self.seen: list[str] = []
        self.tokens: set[str] = set()
        for name in signals.__all__:
            getattr(signals, name).connect(self.hear, app)

    def hear(self, sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
        self.see(session, dataclasses.asdict(session), extra)
        self.see(g.session, kvs.current_session)

    def see(self, *things: object) -> None:
        self.seen += [repr(thing) + str(thing) for thing in things]

    def send(self, browser: FlaskClient, method: str, url: str, **kwargs: t.Any) -> TestResponse:
        response = browser.open(url, method=method, **kwargs)
        headers = [item for item in response.headers if item[0] != "Set-Cookie"]
        self.see(response.status, headers, response.text)
        self.tokens |= {token for token in [token_of(browser)] if token}
        return response

    def leaks(self) -> list[str]:
        """What holds a token, or one of the two halves of its secret."""
        secrets = [part for token in self.tokens for part in (token[19:40], token[40:])]
        return [text for text in self.seen if any(secret in text for secret in secrets)]


class TestSecretIsOnlyInTheCookie:
    """Law 1: the secret is only in the cookie."""

    def test_whole_life_of_sessions_shows_no_secret(
        self,
        make_app: MakeApp,
        redis_client: redis.Redis,
        keys: Keys,
        clock: Clock,
        count_commands: CountCommands,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Redis, its commands, logs, signals, responses and reprs never hold half of a secret."""
        caplog.set_level(logging.DEBUG)
        app = make_app(max_sessions_per_user=2)
        spy = Spy(app)
        app.config["PROPAGATE_EXCEPTIONS"] = False

        @app.post("/act/<name>")
        def act(name: str) -> t.Any:
            spy.see(g.session, kvs.current_session)
            getattr(kvs, name)()
            spy.see(g.session, dict(g.session), g.session.__dict__)
            return [dataclasses.asdict(info) for info in kvs.list_sessions()]

        @app.post("/fail")
        def fail() -> t.Any:
            g.session["x"] = object()

        with count_commands() as commands:
            browsers = [app.test_client() for _ in range(3)]
            for browser in browsers:
                spy.send(browser, "POST", "/data", json={"cart": [1]})
                spy.send(browser, "POST", "/login/ada", json={"data": {"role": "admin"}})
                spy.send(browser, "POST", "/act/rotate_token")
                spy.send(browser, "POST", "/act/confirm_login")
                spy.send(browser, "GET", "/me")
                spy.send(browser, "POST", "/fail")
                clock.advance(minutes=6)
                spy.send(browser, "GET", "/me", headers={"Accept": "text/html"})
            spy.see(*[(key, dump(redis_client, key)) for key in keys()])
            for stored in store_of(app).sessions_of("ada"):
                spy.see(stored, stored.record, stored.raw)
            spy.send(browsers[2], "POST", "/login/bob", json={})
            spy.send(browsers[1], "POST", "/act/revoke_all_sessions")
            spy.send(browsers[2], "POST", "/logout")
            spy.see(*[(key, dump(redis_client, key)) for key in keys()])
        spy.see(*commands.sent, *app.extensions.values(), vars(app.extensions["kvsession"]))
        spy.see(*[(r.getMessage(), r.args, r.exc_text) for r in caplog.records])
        assert len(spy.tokens) >= 10
        assert len(caplog.records) >= 10
        assert len(commands) >= 20
        assert spy.leaks() == []

    @pytest.mark.parametrize("how", ["receiver", "store", "value"])
    def test_traceback_with_local_variables_shows_no_secret(
        self, make_app: MakeApp, sign_in: SignIn, socket_path: str, tmp_path: Path, how: str
    ) -> None:
        """A traceback with the local variables of this package's functions shows no secret."""
        socket = tmp_path / "s"
        socket.symlink_to(socket_path)
        app = make_app(redis_url=f"unix://{socket}")
        spy = Spy(app)

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            raise RuntimeError("from a receiver")

        @app.post("/rotate")
        def rotate() -> t.Any:
            g.session["list"] = []
            g.session["list"].append(object() if how == "value" else 1)
            kvs.rotate_token()
            return {}

        browser = sign_in(app)
        spy.tokens |= {token_of(browser) or ""}
        if how == "store":
            socket.unlink()
            app.extensions["kvsession"].store.close()
        app.config["TRAP_HTTP_EXCEPTIONS"] = True
        with signals.token_rotated.connected_to(receive, app):
            expected = {"receiver": RuntimeError, "store": StoreUnavailable}
            with pytest.raises(expected.get(how, KVSessionError)) as caught:
                browser.post("/rotate")
        report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        frames = [frame for frame in report.stack if "flask_kvsession" in frame.filename]
        spy.see(*[frame.locals for frame in frames])
        assert len(frames) >= 3
        assert spy.leaks() == []

    def test_redirect_url_holds_no_token_and_no_session_id(
        self, make_app: MakeApp, sign_in: SignIn
    ) -> None:
        """A redirect URL holds neither the token nor the session id (OWASP ASVS 5.0, 14.2.1)."""
        app = make_app(login_view="data")
        browser = sign_in(app)
        token = token_of(browser) or ""
        browser.set_cookie("kvsession", token[:-1] + ("A" if token[-1] != "A" else "B"))
        location = browser.get("/me", headers={"Accept": "text/html"}).location
        assert location == "/data?next=/me"


class TestDataAreInNoReport:
    """Error reports contain messages and reprs, so neither shows data of the session."""

    DATA = "4711-0815"

    @pytest.mark.parametrize("as_flask_session", [False, True])
    def test_no_repr_of_an_object_of_the_package_shows_data(
        self, make_app: MakeApp, as_flask_session: bool
    ) -> None:
        """While a view and a receiver run, no object of the package has data in its repr."""
        app = make_app(as_flask_session=as_flask_session)
        shown: list[str] = []
        kinds: set[str] = set()

        def look(*args: t.Any, **kwargs: t.Any) -> None:
            for thing in gc.get_objects():
                kind = type(thing)
                if str(kind.__module__).startswith("flask_kvsession"):
                    kinds.add(kind.__name__)
                    shown.extend([kind.__name__] if self.DATA in repr(thing) else [])

        @app.post("/look")
        def view() -> t.Any:
            g.session["card"], g.session["other"] = self.DATA, [self.DATA]
            keep.append(request_session().session.changes())
            look()
            return {}

        keep: list[object] = []
        browser = app.test_client()
        with signals.user_logged_in.connected_to(look, app):
            browser.post("/data", json={"card": self.DATA})
            browser.post("/login/ada", json={"data": {"pin": self.DATA}})
            keep += store_of(app).sessions_of("ada")
            browser.post("/look")
        assert kinds >= {"Record", "Stored", "Changes", "TrackedData", "SessionInfo"}
        assert shown == []

    def test_repr_of_what_a_previous_user_left_shows_no_data(self) -> None:
        """The repr of a login transition shows neither the record's data nor the changes."""
        changes = Changes(set={"card": self.DATA.encode()}, removed=[self.DATA])
        record = new_record(
            Token.for_session(new_session_id(None)),
            now=1,
            client=Client(),
            previous_user_keys=["card"],
            data={self.DATA: self.DATA.encode()},
        )
        transition = LoginTransition(
            user_id_key="user_id",
            loaded_user=None,
            is_loaded=True,
            keys=frozenset({"card"}),
            changes=changes,
            own={"card": self.DATA.encode()},
            previous_user_keys=frozenset({"card"}),
            removed_keys=frozenset(),
            left_keys=frozenset(),
        )
        assert self.DATA not in repr(transition)
        assert self.DATA not in repr(Stored.of("id", record))

    @pytest.mark.parametrize(
        "raw",
        [
            b'{" y":"4711-0815"}',
            b'{" c":"4711-0815"}',
            b'{" d":["2026-01-01",0,"4711-0815"]}',
            b'{" d":"4711-0815"}',
            b'{" i":"4711-0815"}',
            b'{" u":"4711-0815"}',
            b'{" e":["4711-0815"]}',
            b'{" t":"4711-0815',
        ],
        ids=repr,
    )
    def test_error_for_a_value_that_cannot_be_decoded_does_not_quote_it(self, raw: bytes) -> None:
        """The traceback of a value that cannot be decoded does not contain the value."""
        with pytest.raises(KVSessionError) as caught:
            codec.decode("card", raw)
        assert self.DATA not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize(
        "value",
        [
            ["4711-0815", object()],
            {"x": "4711-0815", "y": {1: "4711-0815"}},
            "4711-0815\ud800",
            Decimal("NaN47110815"),
            "4711-0815" * 10_000,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_error_for_a_value_that_is_refused_does_not_quote_it(
        self, app: Flask, do: Do, value: t.Any
    ) -> None:
        """The traceback of a refused assignment does not contain the value."""
        with pytest.raises(KVSessionError) as caught:
            do(app.test_client(), lambda: g.session.update(card=value))
        lines = traceback.format_exception(caught.value)
        assert not any(data in line for line in lines for data in (self.DATA, "47110815"))


def dump(client: redis.Redis, key: str) -> object:
    """What is under a key of either kind."""
    if ":s:" in key:
        return client.get(key)
    return client.zrange(key, 0, -1, withscores=True)
