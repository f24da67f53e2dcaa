"""One session per request, in each way in which Flask runs a request."""

from __future__ import annotations

import gc
import sys
import threading
import typing as t
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import redis
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    after_this_request,
    copy_current_request_context,
    g,
    has_request_context,
    make_response,
    request_finished,
    stream_with_context,
)
from flask.ctx import _AppCtxGlobals
from flask.testing import FlaskClient
from werkzeug.local import LocalProxy
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import flask_kvsession as kvs
from flask_kvsession.app_state import AppState
from flask_kvsession.errors import ConfigurationError, KVSessionError, UnstorableValue

from .support.apps import (
    FLASK_PASSES_CONTEXT,
    Do,
    MakeApp,
    add_views,
    preprocess_request,
    process_response,
    store_of,
)
from .support.browsers import SignIn, browser_with, cookies_of, id_of, is_clearing, token_of
from .support.commands import CountCommands, Keys


def current() -> kvs.Session:
    """The session itself, not the proxy."""
    return kvs.current_session._get_current_object()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def bare(make_app: MakeApp) -> Callable[..., Flask]:
    """Makes an app on which `KVSession` is not yet; `add(app)` puts it there."""

    def bare(name: str = "bare", **settings: t.Any) -> Flask:
        app = Flask(name)
        app.config.update(make_app(views=False, **settings).config)
        return app

    return bare


class TestOneSessionPerRequest:
    def test_view_and_hooks_get_the_same_object(self, app: Flask, client: FlaskClient) -> None:
        """`g.session` is `current_session`, for one session object, in the view and each hook."""
        seen: list[kvs.Session] = []

        def note(*args: object) -> None:
            assert g.session is kvs.current_session
            seen.append(current())

        def note_response(response: Response) -> Response:
            note()
            return response

        app.before_request(note)
        app.after_request(note_response)
        app.teardown_request(note)

        @app.get("/x")
        def view() -> str:
            note()
            after_this_request(note_response)
            return "x"

        client.get("/x")
        assert len(seen) == 5
        assert len({id(session) for session in seen}) == 1

    def test_each_request_gets_a_new_object(self, client: FlaskClient, do: Do) -> None:
        """Two requests of one browser never share a session object."""
        seen: list[kvs.Session] = []
        for _ in range(3):
            do(client, lambda: seen.append(current()))
        assert len({id(session) for session in seen}) == 3

    def test_threads_that_touch_the_session_first_get_the_same_object(
        self, app: Flask, client: FlaskClient, do: Do
    ) -> None:
        """Threads of one request that touch its session first and at once get one object, and all
        their changes are saved."""
        crowd = 8

        def act() -> None:
            barrier = threading.Barrier(crowd, timeout=10)

            def work(n: int) -> None:
                barrier.wait()
                g.session[f"k{n}"] = n

            threads = [
                threading.Thread(target=copy_current_request_context(work), args=(n,))
                for n in range(crowd)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(10):
                do(client, act)
                assert len(client.get("/data").get_json()) == crowd
                client.delete_cookie("kvsession")
        finally:
            sys.setswitchinterval(interval)

    def test_request_that_does_not_touch_the_session_makes_no_object(
        self, app: Flask, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request that does not touch its session makes no session object; it has
        `g.session`."""

        @app.get("/has-session")
        def has_session() -> dict[str, bool]:
            return {"attribute": hasattr(g, "session"), "value of the app": "session" in g}

        made: list[object] = []
        browser = sign_in(app)
        real = app.extensions["kvsession"].request_session_class
        monkeypatch.setattr(
            app.extensions["kvsession"],
            "request_session_class",
            lambda *args: made.append(args) or real(*args),  # type: ignore[func-returns-value]
        )
        found = browser.get("/has-session").get_json()
        assert found == {"attribute": True, "value of the app": False}
        assert made == []
        browser.get("/me")
        assert len(made) == 1

    def test_proxy_is_a_session_for_isinstance_and_not_for_type(
        self, client: FlaskClient, do: Do
    ) -> None:
        """`g.session` passes `isinstance(…, Session)`, and its type is that of a proxy."""

        def act() -> None:
            assert isinstance(g.session, kvs.Session)
            assert issubclass(type(t.cast(object, g.session)), LocalProxy)

        assert do(client, act).status_code == 200

    def test_session_touched_repeatedly_is_loaded_once(
        self, app: Flask, sign_in: SignIn, do: Do, count_commands: CountCommands
    ) -> None:
        """A request loads its session once, however often the view touches the session."""
        browser = sign_in(app)
        app.extensions["kvsession"].store.now()

        def act() -> None:
            for _ in range(3):
                assert "x" not in g.session
                assert kvs.current_session.user_id == "ada"

        with count_commands() as commands:
            do(browser, act)
        assert commands.names == ["GET"]

    def test_session_changed_repeatedly_is_committed_once(
        self, app: Flask, sign_in: SignIn, do: Do, count_commands: CountCommands
    ) -> None:
        """A request commits its session once, however often the view changes the session."""
        browser = sign_in(app)

        def act() -> None:
            for n in range(3):
                g.session[f"k{n}"] = n

        with count_commands() as commands:
            do(browser, act)
        assert commands.names == ["GET", "EVALSHA"]

    def test_untouched_session_leaves_no_trace_in_the_response(
        self, app: Flask, sign_in: SignIn, count_commands: CountCommands
    ) -> None:
        """A request that does not touch the session sends no command, no `Vary` and no cookie."""
        browser = sign_in(app)
        with count_commands() as commands:
            response = browser.get("/untouched")
        assert not commands.names
        assert not {"Vary", "Set-Cookie", "Cache-Control"} & {*response.headers.keys()}


class TestHooks:
    """The app's own hooks can use the session."""

    @pytest.mark.parametrize(
        "first", [True, False], ids=["hooks before KVSession", "hooks after KVSession"]
    )
    def test_before_and_after_request_hooks_read_and_write_the_session(
        self, bare: Callable[..., Flask], first: bool
    ) -> None:
        """The session keeps the changes of hooks that are registered before or after
        `KVSession`."""
        app = bare()
        if not first:
            kvs.KVSession(app)

        @app.before_request
        def before() -> None:
            g.session.setdefault("before", 0)
            g.session["before"] += 1

        @app.after_request
        def after(response: Response) -> Response:
            g.session.setdefault("after", 0)
            g.session["after"] += 1
            return response

        if first:
            kvs.KVSession(app)
        app.get("/x")(lambda: dict(g.session))
        client = app.test_client()
        client.get("/x")
        assert client.get("/x").get_json() == {"before": 2, "after": 1}

    def test_url_value_preprocessor_can_write_to_current_session(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """A URL value preprocessor runs before the extension's hook and can write to the
        session."""

        @app.url_value_preprocessor
        def preprocess(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
            kvs.current_session["preprocessed"] = endpoint

        client.get("/untouched")
        assert client.get("/data").get_json() == {"preprocessed": "data"}

    def test_login_in_an_earlier_before_request_hook_reaches_the_view(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """If a hook that runs before the extension's hook logs in a user, the view sees that
        user."""

        def early() -> None:
            if kvs.current_session.user_id is None:
                kvs.login_user("early")

        app.before_request_funcs[None].insert(0, early)
        assert client.get("/me").get_json()["user"] == "early"
        assert client.get("/me").get_json()["user"] == "early"

    def test_response_from_a_before_request_hook_commits_the_session(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """If a `before_request` hook returns the response, the changes are committed."""

        @app.before_request
        def answer() -> t.Any:
            g.session["n"] = g.session.get("n", 0) + 1
            return {"n": g.session["n"]}

        assert len(cookies_of(client.get("/untouched"))) == 1
        assert client.get("/untouched").get_json() == {"n": 2}

    def test_response_from_an_earlier_before_request_hook_commits_the_session(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """If a hook returns the response before the extension's hook runs, the changes are
        committed."""

        def answer() -> t.Any:
            kvs.current_session["n"] = kvs.current_session.get("n", 0) + 1
            return {"n": kvs.current_session["n"]}

        app.before_request_funcs[None].insert(0, answer)
        assert len(cookies_of(client.get("/untouched"))) == 1
        assert client.get("/untouched").get_json() == {"n": 2}

    def test_after_this_request_function_can_log_in_and_write_data(
        self, app: Flask, client: FlaskClient, do: Do
    ) -> None:
        """A function given to `after_this_request` can log in a user and change the data."""

        def act() -> None:
            @after_this_request
            def later(response: Response) -> Response:
                kvs.login_user("ada", {"x": 1})
                g.session["y"] = 2
                return response

        assert len(cookies_of(do(client, act))) == 1
        assert client.get("/me").get_json()["data"] == {"x": 1, "y": 2}

    def test_hooks_of_a_blueprint_can_write_data(self, app: Flask, client: FlaskClient) -> None:
        """The session keeps the changes that the hooks of a blueprint make."""
        blueprint = Blueprint("area", __name__)

        @blueprint.before_request
        def before() -> None:
            g.session["before"] = 1

        @blueprint.after_request
        def after(response: Response) -> Response:
            g.session["after"] = 1
            return response

        blueprint.get("/area")(lambda: "")
        app.register_blueprint(blueprint)
        client.get("/area")
        assert client.get("/data").get_json() == {"before": 1, "after": 1}

    def test_teardown_function_can_read_but_not_write(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """In a teardown function, reads of the session work and writes raise."""
        client.post("/login/ada")
        seen: list[object] = []

        def teardown(error: BaseException | None) -> None:
            seen.append(g.session.user_id)
            with pytest.raises(KVSessionError):
                g.session["x"] = 1

        app.teardown_request_funcs.setdefault(None, []).append(teardown)
        client.get("/untouched")
        assert seen == ["ada"]


class TestErrors:
    """Error responses can use the session, and its changes are committed."""

    @pytest.fixture
    def app(self, app: Flask) -> Flask:
        app.config["PROPAGATE_EXCEPTIONS"] = False

        @app.get("/error/<kind>")
        def error(kind: str) -> t.Any:
            g.session["kind"] = kind
            if kind == "abort":
                abort(409)
            if kind == "return":
                return "no", 400
            raise RuntimeError

        return app

    @pytest.mark.parametrize(("kind", "status"), [("abort", 409), ("return", 400), ("raise", 500)])
    def test_changes_of_a_failing_view_are_committed(
        self, client: FlaskClient, kind: str, status: int
    ) -> None:
        """If a view ends in an error, its changes are committed and the cookie is sent."""
        response = client.get(f"/error/{kind}")
        assert response.status_code == status
        assert len(cookies_of(response)) == 1
        assert client.get("/data").get_json() == {"kind": kind}

    @pytest.mark.parametrize(
        ("path", "method", "status"),
        [("/missing", "GET", 404), ("/me", "DELETE", 405), ("/error/raise", "GET", 500)],
    )
    def test_error_handler_can_read_and_write_the_session(
        self, app: Flask, path: str, method: str, status: int
    ) -> None:
        """An error handler can read and write the session."""

        @app.errorhandler(Exception)
        def page(error: Exception) -> t.Any:
            code = getattr(error, "code", 500)
            g.session["seen"] = code
            return {"user": g.session.user_id}, code

        browser = app.test_client()
        browser.post("/login/ada")
        response = browser.open(path, method=method)
        assert response.status_code == status
        assert response.get_json() == {"user": "ada"}
        assert response.headers["Vary"] == "Cookie"
        assert browser.get("/data").get_json()["seen"] == status

    def test_error_page_that_does_not_touch_the_session_has_no_vary(
        self, client: FlaskClient
    ) -> None:
        """Flask's own 404 page does not touch the session and has no `Vary`."""
        client.post("/login/ada")
        assert "Vary" not in client.get("/missing").headers

    def test_login_survives_a_failing_after_request_hook(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """If an `after_request` hook raises after a login, the 500 response carries the login's
        cookie."""
        calls: list[int] = []

        @app.after_request
        def fail_once(response: Response) -> Response:
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError
            return response

        response = client.post("/login/ada")
        assert response.status_code == 500
        assert len(cookies_of(response)) == 1
        assert client.get("/me").status_code == 200

    def test_login_survives_an_unstorable_change_at_the_commit(
        self, app: Flask, client: FlaskClient, do: Do
    ) -> None:
        """If the commit after a login finds an unstorable value, the 500 response carries the
        cookie."""

        def act() -> None:
            kvs.login_user("ada", {"list": []})
            g.session["list"].append(object())

        response = do(client, act)
        assert response.status_code == 500
        assert len(cookies_of(response)) == 1
        assert client.get("/me").get_json()["data"] == {"list": []}

    def test_commit_that_failed_is_not_repeated_for_the_error_page(
        self, client: FlaskClient, do: Do, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the commit finds an unstorable value, the 500 response does not commit again, so that
        only one error is logged."""
        client.post("/data", json={"list": []})
        assert do(client, lambda: g.session["list"].append(object())).status_code == 500
        assert len(caplog.records) == 1

    def test_login_survives_a_failing_view_and_an_unstorable_change(
        self, app: Flask, client: FlaskClient, do: Do
    ) -> None:
        """If both the view and the commit fail after a login, the 500 response carries the
        cookie."""

        def act() -> None:
            kvs.login_user("ada", {"list": []})
            g.session["list"].append(object())
            raise RuntimeError

        response = do(client, act)
        assert response.status_code == 500
        assert len(cookies_of(response)) == 1
        assert response.headers["Vary"] == "Cookie"
        assert client.get("/me").get_json()["data"] == {"list": []}


class TestAfterTheCommit:
    """After the commit, reads of the session work and writes raise."""

    VERBS: t.ClassVar[dict[str, Callable[[], object]]] = {
        "set": lambda: kvs.current_session.__setitem__("x", 1),
        "update": lambda: kvs.current_session.update(x=1),
        "setdefault": lambda: kvs.current_session.setdefault("x", 1),
        "del": lambda: kvs.current_session.__delitem__("there"),
        "pop": lambda: kvs.current_session.pop("there"),
        "clear": lambda: kvs.current_session.clear(),
        "login_user": lambda: kvs.login_user("eve"),
        "rotate_token": lambda: kvs.rotate_token(),
        "confirm_login": lambda: kvs.confirm_login(),
    }

    @pytest.fixture
    def streaming(self, app: Flask) -> list[Callable[[], object]]:
        """What the view `/stream` calls while its response is under way."""
        acts: list[Callable[[], object]] = []

        @app.get("/stream")
        def stream() -> Response:
            def generate() -> Iterator[str]:
                yield "a"
                for act in acts:
                    act()
                yield "z"

            return Response(stream_with_context(generate()))

        return acts

    @pytest.mark.parametrize("touched", [True, False], ids=["touched before", "untouched"])
    def test_streamed_response_can_read_the_session(
        self, app: Flask, sign_in: SignIn, streaming: t.Any, touched: bool
    ) -> None:
        """A streamed response can read the session, also if the view did not touch it."""
        if touched:
            app.before_request(lambda: g.session.get("missing"))
        seen: list[object] = []
        streaming.append(lambda: seen.append(kvs.current_session.user_id))
        streaming.append(lambda: seen.append(dict(kvs.current_session)))
        browser = sign_in(app, data={"x": 1})
        assert browser.get("/stream").text == "az"
        assert seen == ["ada", {"x": 1}]

    def test_streamed_response_finds_the_session_in_g(
        self, app: Flask, sign_in: SignIn, streaming: t.Any
    ) -> None:
        """In a streamed response, `g.session` is the request's session."""
        seen: list[object] = []
        streaming.append(lambda: seen.append(g.session.user_id))
        assert sign_in(app).get("/stream").text == "az"
        assert seen == ["ada"]

    @pytest.mark.parametrize("touched", [True, False], ids=["touched before", "untouched"])
    @pytest.mark.parametrize("act", VERBS.values(), ids=VERBS)
    def test_change_raises_and_leaves_redis_and_the_cookie_unchanged(
        self,
        app: Flask,
        sign_in: SignIn,
        streaming: t.Any,
        keys: Keys,
        act: Callable[[], object],
        touched: bool,
    ) -> None:
        """A change of the data or of the token raises and changes neither Redis nor the cookie."""
        if touched:
            app.before_request(lambda: g.session.get("missing"))
        raised: list[BaseException] = []

        def run() -> None:
            with pytest.raises(KVSessionError, match="committed") as caught:
                act()
            raised.append(caught.value)

        streaming.append(run)
        browser = sign_in(app, data={"there": 1})
        before, token = keys(), token_of(browser)
        assert browser.get("/stream").text == "az"
        assert len(raised) == 1
        assert keys() == before
        assert token_of(browser) == token
        assert browser.get("/me").get_json()["data"] == {"there": 1}

    def test_login_in_a_streamed_response_creates_no_session(
        self, client: FlaskClient, streaming: t.Any, keys: Keys
    ) -> None:
        """A login in a streamed response raises and creates no session."""

        def run() -> None:
            with pytest.raises(KVSessionError, match="committed"):
                kvs.login_user("ada")

        streaming.append(run)
        assert client.get("/stream").text == "az"
        assert keys() == set()

    def test_write_in_a_request_finished_receiver_raises(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """A receiver of `request_finished` runs after the commit, so its write raises."""
        raised: list[KVSessionError] = []

        def receive(sender: Flask, response: Response, **extra: t.Any) -> None:
            with pytest.raises(KVSessionError, match="committed") as caught:
                g.session["x"] = 1
            raised.append(caught.value)

        with request_finished.connected_to(receive, app):
            assert client.get("/untouched").status_code == 200
        assert len(raised) == 1
        assert client.get("/data").get_json() == {}


class TestSeveralActsInOneRequest:
    """Several acts in one request give one cookie, that of the last act."""

    ACTS: t.ClassVar[dict[str, tuple[list[Callable[[], object]], str | None, dict[str, t.Any]]]] = {
        "login, logout": ([lambda: kvs.login_user("x"), kvs.logout_user], None, {}),
        "logout, login": (
            [kvs.logout_user, lambda: kvs.login_user("x", {"a": 1})],
            "x",
            {"a": 1},
        ),
        "login twice": (
            [lambda: kvs.login_user("x", {"a": 1}), lambda: kvs.login_user("y", {"b": 1})],
            "y",
            {"b": 1},
        ),
        "login twice, same user": (
            [lambda: kvs.login_user("x", {"a": 1}), lambda: kvs.login_user("x")],
            "x",
            {},
        ),
        "login, write": (
            [lambda: kvs.login_user("x"), lambda: g.session.update(a=1)],
            "x",
            {"a": 1},
        ),
        "login, rotate, confirm": (
            [lambda: kvs.login_user("x"), kvs.rotate_token, kvs.confirm_login],
            "x",
            {},
        ),
        "logout, write": ([kvs.logout_user, lambda: g.session.update(a=1)], None, {"a": 1}),
        "logout, write, login": (
            [kvs.logout_user, lambda: g.session.update(a=1), lambda: kvs.login_user("x")],
            "x",
            {"a": 1},
        ),
        "login, logout, login": (
            [lambda: kvs.login_user("x"), kvs.logout_user, lambda: kvs.login_user("y")],
            "y",
            {},
        ),
        "login, revoke all": (
            [lambda: kvs.login_user("x"), lambda: kvs.revoke_all_sessions()],
            None,
            {},
        ),
        "write, logout": ([lambda: g.session.update(a=1), kvs.logout_user], None, {}),
        "rotate, login": ([kvs.rotate_token, lambda: kvs.login_user("x")], "x", {}),
        "login, update all, write": (
            [
                lambda: kvs.login_user("x", {"a": 1}),
                lambda: kvs.update_all_sessions("x", {"a": 2, "b": 2}),
                lambda: g.session.update(c=3),
            ],
            "x",
            {"a": 2, "b": 2, "c": 3},
        ),
    }

    @pytest.mark.parametrize(
        "before",
        ["nobody", "anonymous", "user"],
        ids=["no session", "anonymous session", "user session"],
    )
    @pytest.mark.parametrize(("acts", "user", "data"), ACTS.values(), ids=ACTS)
    def test_last_act_decides_the_cookie_and_the_session(
        self,
        app: Flask,
        client: FlaskClient,
        do: Do,
        keys: Keys,
        redis_client: redis.Redis,
        before: str,
        acts: list[Callable[[], object]],
        user: str | None,
        data: dict[str, t.Any],
    ) -> None:
        """After several acts, one session is left and at most one Set-Cookie gives a token."""
        if before != "nobody":
            client.post("/login/old" if before == "user" else "/data", json={"old": 1})
        old = token_of(client)

        response = do(client, lambda: [act() for act in acts])
        assert response.status_code == 200
        given = [cookie for cookie in cookies_of(response) if not is_clearing(cookie)]
        assert len(given) <= 1
        assert len(given) == (token_of(client) not in (old, None))
        assert client.get("/me").status_code == (200 if user else 401)
        if user:
            assert client.get("/me").get_json()["user"] == user
        found = client.get("/data").get_json()
        assert {key: value for key, value in found.items() if key != "old"} == data
        living = [key for key in keys() if ":s:" in key and not ended(redis_client, key)]
        assert len(living) == (token_of(client) is not None)
        if old:
            assert browser_with(app, old).get("/data").get_json() == {}

    def test_session_replaced_by_a_login_cannot_be_revoked(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """`revoke_session` returns False for a session that a login has replaced."""
        browser = sign_in(app)
        old = id_of(browser)
        seen: list[bool] = []

        def act() -> None:
            kvs.login_user("ada")
            seen.append(kvs.revoke_session(old))

        assert not is_clearing(cookies_of(do(browser, act))[0])
        assert seen == [False]
        assert browser.get("/me").status_code == 200


def ended(redis_client: redis.Redis, key: str) -> bool:
    held = t.cast("bytes | None", redis_client.get(key))
    return held is not None and held.startswith(b'{"ended":')


class TestContexts:
    """The session in nested, long-lived, copied and test contexts."""

    def test_inner_app_context_has_the_requests_session_in_g(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """In an app context that a view opens, `g.session` is the request's session if Flask shows
        the request there, as it does before Flask 3.2."""

        def act() -> None:
            outer = current()
            with app.app_context():
                if has_request_context():
                    assert current() is outer
                    assert len(kvs.list_sessions()) == 1
                else:
                    assert not g.session
                    with pytest.raises(RuntimeError, match="request"):
                        g.session.get("x")
            assert current() is outer
            g.session["x"] = 1

        browser = sign_in(app)
        do(browser, act)
        assert browser.get("/data").get_json() == {"x": 1}

    def test_long_lived_app_context_never_shows_another_requests_session(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """In one long-lived app context, whose `g` all requests share, no request finds another
        request's session in `g`."""
        seen: list[object] = []

        @app.url_value_preprocessor
        def look(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
            seen.append(g.session.user_id)

        with app.app_context():
            ada, bob = sign_in(app, "ada"), sign_in(app, "bob")
            seen.clear()
            for browser, user in ((ada, "ada"), (bob, "bob"), (ada, "ada")):
                assert browser.get("/me").get_json()["user"] == user
            assert app.test_client().get("/me").status_code == 401
        assert seen == ["ada", "bob", "ada", None]

    def test_session_first_read_after_its_request_raises(
        self, app: Flask, client: FlaskClient, do: Do
    ) -> None:
        """A session object that is first read after the end of its request raises
        `KVSessionError`."""
        kept: list[kvs.Session] = []
        do(client, lambda: kept.append(current()))
        gc.collect()  # Flask 3.2 leaves the ended request in a cycle with its environ
        with pytest.raises(KVSessionError, match="first read after its request had ended"):
            kept[0].get("a")

    def test_g_session_outside_a_request_raises_or_is_false(self, app: Flask) -> None:
        """In an app context without a request, `g.session` is false, and its use raises
        `RuntimeError`."""
        with app.app_context():
            assert not g.session
            with pytest.raises(RuntimeError, match="request"):
                g.session.get("a")

    def test_value_that_the_app_puts_into_g_is_what_its_views_see(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """If the app puts a value of its own into `g.session`, its views see that value."""

        @app.before_request
        def put_into_g() -> None:
            g.session = "mine"

        @app.get("/mine")
        def mine() -> str:
            return t.cast(str, g.session)

        assert client.get("/mine").text == "mine"

    def test_view_that_sends_requests_to_its_own_app_keeps_its_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """A view that sends requests to its own app keeps its own session."""
        ada, bob = sign_in(app, "ada"), sign_in(app, "bob")

        def act() -> None:
            mine = current()
            assert bob.get("/me").get_json()["user"] == "bob"
            assert current() is mine
            assert g.session.user_id == "ada"
            bob.post("/data", json={"x": "bob's"})
            bob.post("/logout")
            g.session["x"] = "ada's"

        response = do(ada, act)
        assert response.status_code == 200
        assert not cookies_of(response)
        assert ada.get("/me").get_json()["data"] == {"x": "ada's"}
        assert bob.get("/me").status_code == 401

    def test_view_keeps_its_session_when_a_doubly_nested_request_fails(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """A view keeps its own session when a request inside its inner request fails."""
        app.config["PROPAGATE_EXCEPTIONS"] = False
        browsers = [sign_in(app, user) for user in ("ada", "bob", "eve")]
        seen: list[t.Any] = []

        def fail() -> None:
            seen.append(g.session.user_id)
            raise RuntimeError

        def nest() -> None:
            assert do(browsers[2], fail).status_code == 500
            seen.append(g.session.user_id)

        def act() -> None:
            do(browsers[1], nest)
            seen.append(g.session.user_id)

        do(browsers[0], act)
        assert seen == ["eve", "bob", "ada"]

    def test_request_context_without_hooks_reads_but_does_not_commit(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """In a request context without hooks, the cookie's session can be read and is not
        committed."""
        token = token_of(sign_in(app, data={"x": 1}))
        headers = {"Cookie": f"kvsession={token}"}
        with app.test_request_context("/me", headers=headers):
            assert g.session.user_id == "ada"
            assert dict(g.session) == {"x": 1}
            g.session["lost"] = 1
        with app.test_request_context("/me", headers=headers):
            assert dict(kvs.current_session) == {"x": 1}

    def test_request_context_with_hooks_commits_the_session(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """In a test request context, `process_response` commits the session."""
        token = token_of(sign_in(app))
        headers = {"Cookie": f"kvsession={token}"}
        with app.app_context():
            for _ in range(2):
                with app.test_request_context("/", headers=headers):
                    preprocess_request(app)
                    g.session["n"] = g.session.get("n", 0) + 1
                    process_response(app, make_response("x"))
        assert browser_with(app, token).get("/data").get_json() == {"n": 2}

    def test_login_in_a_test_request_context_sets_the_cookie(self, app: Flask) -> None:
        """After a login in a test request context, `process_response` sets the cookie."""
        with app.test_request_context("/"):
            kvs.login_user("ada")
            response = process_response(app, make_response("x"))
            assert kvs.current_session.user_id == "ada"
        assert "kvsession=" in response.headers["Set-Cookie"]

    def test_client_that_keeps_its_context_shows_the_last_session(self, app: Flask) -> None:
        """In `with client:`, both names of the session show the session of the last request."""
        with app.test_client() as client:
            client.post("/login/ada", json={"data": {"x": 1}})
            assert kvs.current_session.user_id == "ada"
            client.get("/data")
            assert kvs.current_session == {"x": 1}
            assert g.session == {"x": 1}

    def test_first_requests_in_two_threads_get_one_store(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If two threads use the sessions of an app first at the same time, both get the same
        client."""
        connect, both = AppState._connect, threading.Barrier(2, timeout=0.2)

        def connect_together(state: AppState) -> t.Any:
            with suppress(threading.BrokenBarrierError):
                both.wait()
            return connect(state)

        monkeypatch.setattr(AppState, "_connect", connect_together)
        with ThreadPoolExecutor(2) as pool:
            stores = [task.result() for task in [pool.submit(store_of, app) for _ in range(2)]]
        assert stores[0] is stores[1]

    def test_thread_with_a_copied_context_uses_the_requests_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """In a thread with a copied request context, `current_session` is the request's session."""
        seen: list[object] = []

        def act() -> None:
            mine = current()
            g.session["x"] = 1

            @copy_current_request_context
            def work() -> None:
                seen.append(current() is mine)
                seen.append(dict(g.session))
                seen.append(len(kvs.list_sessions()))

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            assert current() is mine

        browser = sign_in(app)
        assert do(browser, act).status_code == 200
        assert seen == [True, {"x": 1}, 1]
        assert browser.get("/data").get_json() == {"x": 1}

    def test_async_view_and_async_hooks_can_write_data(self, app: Flask, sign_in: SignIn) -> None:
        """The session keeps the changes of an async view and of async hooks."""

        @app.before_request
        async def before() -> None:
            g.session["before"] = g.session.user_id

        @app.get("/async")
        async def view() -> t.Any:
            g.session["view"] = kvs.current_session.user_id
            return {}

        @app.after_request
        async def after(response: Response) -> Response:
            g.session["after"] = 1
            return response

        browser = sign_in(app)
        browser.get("/async")
        expected = {"before": "ada", "view": "ada", "after": 1}
        assert browser.get("/me").get_json()["data"] == expected


class TestLostChanges:
    """Changes in a context that Flask does not dispatch are reported once in the log."""

    ACTS: t.ClassVar[dict[str, Callable[[], object]]] = {
        "set": lambda: g.session.__setitem__("x", 2),
        "del": lambda: g.session.__delitem__("x"),
        "clear": lambda: g.session.clear(),
        "in a list": lambda: g.session["list"].append(1),
    }

    @pytest.fixture
    def warnings(self, caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
        """The number of warnings so far that changes were lost."""

        def count() -> int:
            gc.collect()  # Flask may leave an ended request in a reference cycle
            return caplog.text.count("Changes to the session were lost")

        return count

    @pytest.fixture
    def headers(self, app: Flask, sign_in: SignIn) -> dict[str, str]:
        """The headers of a browser that has signed in."""
        browser = sign_in(app, data={"x": 1, "list": []})
        return {"Cookie": f"kvsession={token_of(browser)}"}

    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
    def test_change_that_no_code_commits_is_one_warning(
        self,
        app: Flask,
        headers: dict[str, str],
        warnings: Callable[[], int],
        act: Callable[[], object],
    ) -> None:
        """A change in a test request context without `process_response` is one warning per app."""
        for _ in range(2):
            with app.test_request_context("/data", headers=headers):
                act()
        assert warnings() == 1

    def test_changes_that_are_saved_or_absent_are_no_warning(
        self, app: Flask, headers: dict[str, str], warnings: Callable[[], int]
    ) -> None:
        """Reads, logins, a commit by `process_response` and an untouched context give no
        warning."""
        with app.test_request_context("/data", headers=headers):
            assert g.session["x"] == 1
        with app.test_request_context("/data", headers=headers):
            kvs.confirm_login()
        with app.test_request_context():
            kvs.login_user("ada", {"x": 1})
        with app.test_request_context("/data", headers=headers):
            g.session["x"] = 2
            process_response(app, make_response("x"))
        with app.test_request_context("/data", headers=headers):
            pass
        assert warnings() == 0

    def test_change_in_a_thread_that_ends_before_its_request_is_no_warning(
        self, app: Flask, sign_in: SignIn, do: Do, warnings: Callable[[], int]
    ) -> None:
        """A change in a copied request context is committed by the request, without a warning."""
        browser = sign_in(app)

        def act() -> None:
            @copy_current_request_context
            def work() -> None:
                g.session["x"] = 1

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

        do(browser, act)
        assert browser.get("/data").get_json() == {"x": 1}
        assert warnings() == 0


class TestNameInG:
    def test_setting_decides_the_name_in_g(self, make_app: MakeApp) -> None:
        """`KVSESSION_G_NAME` is the name of the session in `g`."""
        app = make_app(views=False, g_name="login_session")

        @app.get("/x")
        def view() -> str:
            assert "session" not in g
            assert g.login_session is kvs.current_session
            return "x"

        assert app.test_client().get("/x").text == "x"

    def test_setting_none_puts_no_session_into_g(self, make_app: MakeApp) -> None:
        """With `KVSESSION_G_NAME` None, the extension puts nothing into `g`."""
        app = make_app(views=False, g_name=None)

        @app.before_request
        def own() -> None:
            assert "session" not in g
            g.session = "mine"

        @app.get("/x")
        def view() -> str:
            kvs.login_user("ada")
            return t.cast(str, g.session)

        response = app.test_client().get("/x")
        assert response.text == "mine"
        assert len(cookies_of(response)) == 1

    def test_app_that_overwrites_g_session_breaks_nothing(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """If the app overwrites `g.session`, verbs and the commit use the request's session."""
        seen: list[object] = []
        app.teardown_request(lambda error: seen.append(g.session))

        def act() -> None:
            kvs.current_session["x"] = 1
            g.session = {"user_id": "evil"}
            kvs.rotate_token()
            assert kvs.current_session.user_id == "ada"

        browser = sign_in(app)
        seen.clear()
        assert len(cookies_of(do(browser, act))) == 1
        assert seen == [{"user_id": "evil"}]
        assert browser.get("/me").get_json()["data"] == {"x": 1}

    def test_class_of_g_from_before_init_app_keeps_its_attributes(
        self, bare: Callable[..., Flask]
    ) -> None:
        """A class for `g` that the app has set before `KVSession(app)` keeps its own attributes and
        gets the session."""

        class Globals(_AppCtxGlobals):
            greeting = "hello"

        app = bare()
        app.app_ctx_globals_class = Globals
        kvs.KVSession(app)

        @app.get("/x")
        def view() -> str:
            assert g.session is kvs.current_session
            return t.cast(str, g.greeting)

        assert app.test_client().get("/x").text == "hello"

    def test_class_of_g_that_is_set_after_init_app_raises_at_the_first_request(
        self, app: Flask
    ) -> None:
        """If the app replaces the class of `g` after `KVSession(app)`, the first request raises
        `ConfigurationError`."""
        app.app_ctx_globals_class = _AppCtxGlobals
        with pytest.raises(ConfigurationError, match="app_ctx_globals_class was changed"):
            app.test_client().get("/untouched")

    def test_function_as_class_of_g_is_refused_and_changes_nothing(
        self, bare: Callable[..., Flask]
    ) -> None:
        """An `app_ctx_globals_class` that is no class raises `ConfigurationError`, and the app gets
        no hooks."""
        app = bare()
        app.app_ctx_globals_class = lambda: _AppCtxGlobals()  # type: ignore[assignment]
        with pytest.raises(ConfigurationError, match="app_ctx_globals_class must be a class"):
            kvs.KVSession(app)
        assert "kvsession" not in app.extensions
        assert not app.before_request_funcs.get(None)

    @pytest.mark.parametrize("name", ["get", "pop", "setdefault"])
    def test_attribute_name_of_g_is_refused_at_start(self, make_app: MakeApp, name: str) -> None:
        """A `KVSESSION_G_NAME` that is the name of a method of `g` raises at start."""
        with pytest.raises(ConfigurationError, match="KVSESSION_G_NAME"):
            make_app(g_name=name)


class TestSeveralApps:
    def test_one_extension_object_serves_two_separate_apps(
        self, bare: Callable[..., Flask], prefix: str
    ) -> None:
        """Two apps of one `KVSession` object have their own settings and sessions."""
        kv = kvs.KVSession()
        one, two = bare("one"), bare("two", key_prefix=f"{prefix}:two", cookie_name="other")
        for app in (one, two):
            kv.init_app(app)
            add_views(app)
        browser = one.test_client()
        browser.post("/login/ada")
        other = browser_with(two, token_of(browser))
        other.set_cookie("other", token_of(browser) or "")
        assert other.get("/me").status_code == 401
        other.post("/login/bob")
        assert other.get_cookie("other") is not None
        assert browser.get("/me").get_json()["user"] == "ada"
        assert other.get("/me").get_json()["user"] == "bob"

    def test_mounted_apps_with_equal_settings_share_sessions(self, make_app: MakeApp) -> None:
        """Two apps on one host with equal settings share their sessions."""
        one, two = make_app("one"), make_app("two")
        browser = Client(DispatcherMiddleware(one, {"/two": two}))
        browser.post("/login/ada", json={})
        assert browser.get("/two/me").get_json()["user"] == "ada"
        browser.post("/two/logout")
        assert browser.get("/me").status_code == 401

    def test_view_that_sends_a_request_to_another_app_keeps_its_session(
        self, make_app: MakeApp, sign_in: SignIn, app: Flask, do: Do
    ) -> None:
        """A view that sends a request to another app keeps its own session."""
        other = make_app("other", cookie_name="kvsession")
        bob = sign_in(other, "bob")

        def act() -> None:
            assert bob.get("/me").get_json()["user"] == "bob"
            assert g.session.user_id == kvs.current_session.user_id == "ada"
            with other.app_context():
                assert len(kvs.list_sessions("bob")) == 1
                # From Flask 3.2 on, an app context hides the request around it.
                assert not has_request_context() or kvs.current_session.user_id == "ada"

        assert do(sign_in(app), act).status_code == 200

    def test_first_touch_in_another_apps_context_opens_the_requests_own_session(
        self, make_app: MakeApp, sign_in: SignIn, app: Flask, do: Do, prefix: str
    ) -> None:
        """A session that is first touched in another app's context is the session of the request's
        own app, and its changes go to that app's store. Flask 3.2 hides the request there."""
        other = make_app("other", key_prefix=f"{prefix}:other")

        def act() -> None:
            with other.app_context():
                assert kvs.list_sessions("bob") == []
                if FLASK_PASSES_CONTEXT:
                    assert not g.session
                else:
                    assert g.session.user_id == "ada"
            g.session["x"] = 1

        ada = sign_in(app)
        assert do(ada, act).status_code == 200
        assert ada.get("/data").get_json() == {"x": 1}

    def test_use_without_the_extension_names_the_remedy(self) -> None:
        """In an app without `KVSession`, each use raises an error that names the remedy."""
        with Flask("plain").test_request_context():
            for use in (
                lambda: len(kvs.current_session),
                lambda: kvs.login_user("ada"),
                kvs.login_required(lambda: None),
            ):
                with pytest.raises(ConfigurationError, match=r"KVSession\(app\)"):
                    use()

    def test_second_init_app_on_one_app_raises(self, app: Flask) -> None:
        """A second `init_app` on one app raises `ConfigurationError`."""
        with pytest.raises(ConfigurationError, match="once"):
            kvs.KVSession(app)


def test_later_commit_keeps_a_parallel_requests_changes_of_other_keys(
    app: Flask, sign_in: SignIn, do: Do
) -> None:
    """A later commit keeps the changes that a parallel request made to other keys."""
    browser = sign_in(app, data={"a": 1, "b": 1, "c": 1})
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        g.session["a"] = "outer"
        del g.session["b"]
        parallel.post("/data", json={"a": "inner", "c": "inner", "d": "inner"})

    do(browser, act)
    assert browser.get("/data").get_json() == {"a": "outer", "c": "inner", "d": "inner"}


def test_clear_also_removes_a_parallel_requests_changes(
    app: Flask, sign_in: SignIn, do: Do
) -> None:
    """`clear()` also removes a key that a parallel request added."""
    browser = sign_in(app, data={"a": 1})
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        g.session.clear()
        g.session["mine"] = 1
        parallel.post("/data", json={"theirs": 1})

    do(browser, act)
    assert browser.get("/data").get_json() == {"mine": 1}


def test_commit_error_for_an_unstorable_value_names_the_key(client: FlaskClient, do: Do) -> None:
    """If a value became unstorable in place, the error at the commit names its key."""

    def act() -> None:
        g.session["list"] = []
        g.session["list"].append({1, object()})

    with pytest.raises(UnstorableValue, match=r"session\['list'\]"):
        do(client, act)
