"""One session per request, in all the ways that Flask runs a request."""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Callable, Iterator

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    after_this_request,
    copy_current_request_context,
    g,
    make_response,
    request_finished,
    stream_with_context,
)
from flask.testing import FlaskClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError, KVSessionError, UnstorableValue

from .support.apps import Do, MakeApp, add_views
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


class TestOneObject:
    def test_is_the_same_everywhere_in_a_request(self, app: Flask, client: FlaskClient) -> None:
        """`current_session` and `g.session` are one object in each hook and in the view."""
        seen: list[kvs.Session] = []

        def note(*args: object) -> None:
            seen.extend([current(), g.session])

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
        assert len(seen) == 10
        assert len({id(session) for session in seen}) == 1

    def test_is_another_in_the_next_request(self, client: FlaskClient, do: Do) -> None:
        """Two requests never share it, of one browser or not."""
        seen: list[kvs.Session] = []
        for _ in range(3):
            do(client, lambda: seen.append(g.session))
        assert len({id(session) for session in seen}) == 3

    def test_is_loaded_once(
        self, app: Flask, sign_in: SignIn, do: Do, count_commands: CountCommands
    ) -> None:
        """However often it is touched, one read is all it costs."""
        browser = sign_in(app)
        app.extensions["kvsession"].store.now()

        def act() -> None:
            for _ in range(3):
                assert "x" not in g.session
                assert kvs.current_session.user_id == "ada"

        with count_commands() as commands:
            do(browser, act)
        assert commands.names == ["GET"]

    def test_is_written_once(
        self, app: Flask, sign_in: SignIn, do: Do, count_commands: CountCommands
    ) -> None:
        """However often it is changed, one write is all it costs."""
        browser = sign_in(app)

        def act() -> None:
            for n in range(3):
                g.session[f"k{n}"] = n

        with count_commands() as commands:
            do(browser, act)
        assert commands.names == ["GET", "EVALSHA"]

    def test_untouched_leaves_no_trace(
        self, app: Flask, sign_in: SignIn, count_commands: CountCommands
    ) -> None:
        """A request that does not touch it costs nothing and has no `Vary`, no cookie."""
        browser = sign_in(app)
        with count_commands() as commands:
            response = browser.get("/untouched")
        assert not commands.names
        assert not {"Vary", "Set-Cookie", "Cache-Control"} & {*response.headers.keys()}


class TestHooks:
    """The app's own functions around the view."""

    @pytest.mark.parametrize("first", [True, False], ids=["registered before", "after"])
    def test_before_and_after_requests_have_it(
        self, bare: Callable[..., Flask], first: bool
    ) -> None:
        """Hooks registered before or after `KVSession` read it, and what they write is kept."""
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

    def test_preprocessors_have_current_session(self, app: Flask, client: FlaskClient) -> None:
        """In hooks that run before the extension's own, `current_session` works."""

        @app.url_value_preprocessor
        def preprocess(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
            kvs.current_session["preprocessed"] = endpoint

        client.get("/untouched")
        assert client.get("/data").get_json() == {"preprocessed": "data"}

    def test_a_hook_before_ours_may_sign_in(self, app: Flask, client: FlaskClient) -> None:
        """A hook put before the extension's own may log in, and the view sees it."""

        def early() -> None:
            if kvs.current_session.user_id is None:
                kvs.login_user("early")

        app.before_request_funcs[None].insert(0, early)
        assert client.get("/me").get_json()["user"] == "early"
        assert client.get("/me").get_json()["user"] == "early"

    def test_a_hook_may_answer(self, app: Flask, client: FlaskClient) -> None:
        """Where another `before_request` answers, changes are kept and the cookie is sent."""

        @app.before_request
        def answer() -> t.Any:
            g.session["n"] = g.session.get("n", 0) + 1
            return {"n": g.session["n"]}

        assert len(cookies_of(client.get("/untouched"))) == 1
        assert client.get("/untouched").get_json() == {"n": 2}

    def test_an_early_hook_may_answer(self, app: Flask, client: FlaskClient) -> None:
        """Also where it answers before the extension's own hook."""

        def answer() -> t.Any:
            kvs.current_session["n"] = kvs.current_session.get("n", 0) + 1
            return {"n": kvs.current_session["n"]}

        app.before_request_funcs[None].insert(0, answer)
        assert len(cookies_of(client.get("/untouched"))) == 1
        assert client.get("/untouched").get_json() == {"n": 2}

    def test_after_this_request(self, app: Flask, client: FlaskClient, do: Do) -> None:
        """What `after_this_request` writes is kept, and a login there sets the cookie."""

        def act() -> None:
            @after_this_request
            def later(response: Response) -> Response:
                kvs.login_user("ada", {"x": 1})
                g.session["y"] = 2
                return response

        assert len(cookies_of(do(client, act))) == 1
        assert client.get("/me").get_json()["data"] == {"x": 1, "y": 2}

    def test_blueprints_hooks(self, app: Flask, client: FlaskClient) -> None:
        """The hooks of a blueprint have it too."""
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

    def test_teardowns_may_read(self, app: Flask, client: FlaskClient) -> None:
        """In a teardown the session can be read; writing there raises, for it would be lost."""
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
    """Responses that are no success."""

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
    def test_changes_are_kept(self, client: FlaskClient, kind: str, status: int) -> None:
        """What a view changed before it failed is kept, and the cookie is sent."""
        response = client.get(f"/error/{kind}")
        assert response.status_code == status
        assert len(cookies_of(response)) == 1
        assert client.get("/data").get_json() == {"kind": kind}

    @pytest.mark.parametrize(
        ("path", "method", "status"),
        [("/missing", "GET", 404), ("/me", "DELETE", 405), ("/error/raise", "GET", 500)],
    )
    def test_error_pages_have_it(self, app: Flask, path: str, method: str, status: int) -> None:
        """An error handler reads and writes the session, in a 404, a 405 and a 500."""

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

    def test_a_404_that_does_not_touch_it_leaves_no_trace(self, client: FlaskClient) -> None:
        """Flask's own error page is the same for everybody."""
        client.post("/login/ada")
        assert "Vary" not in client.get("/missing").headers

    def test_a_failing_after_request_does_not_lose_a_login(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """The 500 that Flask makes of a hook's error has the login's cookie."""
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

    def test_an_unstorable_change_does_not_lose_a_login(
        self, app: Flask, client: FlaskClient, do: Do
    ) -> None:
        """Where the end of the request finds a value that cannot be kept, the 500 has the login's
        cookie."""

        def act() -> None:
            kvs.login_user("ada", {"list": []})
            g.session["list"].append(object())

        response = do(client, act)
        assert response.status_code == 500
        assert len(cookies_of(response)) == 1
        assert client.get("/me").get_json()["data"] == {"list": []}

    def test_two_errors_do_not_lose_a_login(self, app: Flask, client: FlaskClient, do: Do) -> None:
        """Nor where the view has failed too."""

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
    """The response has been decided: reads go on working, writes raise."""

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
    def test_a_stream_may_read(
        self, app: Flask, sign_in: SignIn, streaming: t.Any, touched: bool
    ) -> None:
        """A streamed response reads the session, though the view may not have touched it."""
        if touched:
            app.before_request(lambda: g.session.get("missing"))
        seen: list[object] = []
        streaming.append(lambda: seen.append(kvs.current_session.user_id))
        streaming.append(lambda: seen.append(dict(kvs.current_session)))
        browser = sign_in(app, data={"x": 1})
        assert browser.get("/stream").text == "az"
        assert seen == ["ada", {"x": 1}]

    def test_a_stream_has_it_in_g(self, app: Flask, sign_in: SignIn, streaming: t.Any) -> None:
        """In a streamed response it is in `g` too, as all that a view put there is."""
        seen: list[bool] = []
        streaming.append(lambda: seen.append(g.session is current()))
        assert sign_in(app).get("/stream").text == "az"
        assert seen == [True]

    @pytest.mark.parametrize("touched", [True, False], ids=["touched before", "untouched"])
    @pytest.mark.parametrize("act", VERBS.values(), ids=VERBS)
    def test_what_would_be_lost_raises(
        self,
        app: Flask,
        sign_in: SignIn,
        streaming: t.Any,
        keys: Keys,
        act: Callable[[], object],
        touched: bool,
    ) -> None:
        """A change of data, or a new secret whose cookie could not be sent, raises, and nothing is
        written: the browser is as signed in as before."""
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

    def test_a_late_login_makes_nothing(
        self, client: FlaskClient, streaming: t.Any, keys: Keys
    ) -> None:
        """A login in a stream, for a browser without a session, raises before it has made one."""

        def run() -> None:
            with pytest.raises(KVSessionError, match="committed"):
                kvs.login_user("ada")

        streaming.append(run)
        assert client.get("/stream").text == "az"
        assert keys() == set()

    def test_a_receiver_of_request_finished_is_too_late(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """`request_finished` is sent after the commit: a write there raises."""

        def receive(sender: Flask, response: Response, **extra: t.Any) -> None:
            with pytest.raises(KVSessionError, match="committed"):
                g.session["x"] = 1

        with request_finished.connected_to(receive, app):
            assert client.get("/untouched").status_code == 200
        assert client.get("/data").get_json() == {}


class TestSeveralActsInOneRequest:
    """Whatever one request does, the browser hears of the end of it, once."""

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
        "login twice, the same": (
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

    @pytest.mark.parametrize("before", ["nobody", "visitor", "user"])
    @pytest.mark.parametrize(("acts", "user", "data"), ACTS.values(), ids=ACTS)
    def test_the_last_one_counts(
        self,
        app: Flask,
        client: FlaskClient,
        do: Do,
        keys: Keys,
        before: str,
        acts: list[Callable[[], object]],
        user: str | None,
        data: dict[str, t.Any],
    ) -> None:
        """There is at most one Set-Cookie, the browser is who it became last, no other session is
        left, and the old token opens nothing."""
        if before != "nobody":
            client.post("/login/old" if before == "user" else "/data", json={"old": 1})
        old = token_of(client)

        response = do(client, lambda: [act() for act in acts])
        assert response.status_code == 200
        cookies = response.headers.getlist("Set-Cookie")
        assert len(cookies) == 1 or (not cookies and token_of(client) == old)
        assert client.get("/me").status_code == (200 if user else 401)
        if user:
            assert client.get("/me").get_json()["user"] == user
        found = client.get("/data").get_json()
        assert {key: value for key, value in found.items() if key != "old"} == data
        living = [key for key in keys() if ":s:" in key and not ended(app, key)]
        assert len(living) == (token_of(client) is not None)
        if old:
            assert browser_with(app, old).get("/data").get_json() == {}

    def test_revoking_the_old_one_after_a_login(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """After a login the session it replaced cannot be ended once more."""
        browser = sign_in(app)
        old = id_of(browser)
        seen: list[bool] = []

        def act() -> None:
            kvs.login_user("ada")
            seen.append(kvs.revoke_session(old))

        assert not is_clearing(cookies_of(do(browser, act))[0])
        assert seen == [False]
        assert browser.get("/me").status_code == 200


def ended(app: Flask, key: str) -> bool:
    client = app.extensions["kvsession"].store._client
    return bool(client.get(key).startswith(b'{"ended":'))


class TestContexts:
    """Nested, long-lived, copied and artificial contexts."""

    def test_in_an_inner_app_context(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """In an app context that a view opens, `g` is another and `current_session` the same."""

        def act() -> None:
            outer = g.session
            with app.app_context():
                assert "session" not in g
                kvs.current_session["x"] = 1
                assert current() is outer
                assert len(kvs.list_sessions()) == 1
            assert g.session is outer

        browser = sign_in(app)
        do(browser, act)
        assert browser.get("/data").get_json() == {"x": 1}

    def test_in_a_long_lived_app_context(self, app: Flask, sign_in: SignIn) -> None:
        """In one app context, as tests and shells have, no hook or view of a request ever finds
        another request's session in `g`."""
        strange: list[object] = []

        @app.url_value_preprocessor
        def look(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
            found = g.get("session")
            if found is not None and found is not current():
                strange.append(found)

        with app.app_context():
            ada, bob = sign_in(app, "ada"), sign_in(app, "bob")
            for browser, user in ((ada, "ada"), (bob, "bob"), (ada, "ada")):
                assert browser.get("/me").get_json()["user"] == user
            assert app.test_client().get("/me").status_code == 401
        assert strange == []

    def test_looked_at_too_late(self, app: Flask) -> None:
        """A session that nobody has looked at before its request was gone says so."""
        with app.app_context():
            app.test_client().get("/untouched")
            with pytest.raises(KVSessionError, match="first looked at when its request was over"):
                g.session.get("a")

    def test_what_was_in_g_before_comes_back(self, app: Flask, sign_in: SignIn) -> None:
        """What a long-lived app context had under that name is there again after the request."""
        with app.app_context():
            g.session = "mine"
            sign_in(app).get("/me")
            assert g.get("session") == "mine"

    def test_requests_within_a_view(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """A view that sends requests to its own app, which share its `g`, keeps its own session."""
        ada, bob = sign_in(app, "ada"), sign_in(app, "bob")

        def act() -> None:
            mine = g.session
            assert bob.get("/me").get_json()["user"] == "bob"
            assert g.session is mine
            assert kvs.current_session.user_id == "ada"
            bob.post("/data", json={"x": "bob's"})
            bob.post("/logout")
            g.session["x"] = "ada's"

        response = do(ada, act)
        assert response.status_code == 200
        assert not cookies_of(response)
        assert ada.get("/me").get_json()["data"] == {"x": "ada's"}
        assert bob.get("/me").status_code == 401

    def test_requests_within_requests_within_a_view(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """Also two deep, and when the inner ones fail."""
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

    def test_a_test_request_context(self, app: Flask, sign_in: SignIn) -> None:
        """In a request context without hooks `current_session` is the cookie's session."""
        token = token_of(sign_in(app, data={"x": 1}))
        headers = {"Cookie": f"kvsession={token}"}
        with app.test_request_context("/me", headers=headers):
            assert kvs.current_session.user_id == "ada"
            assert dict(kvs.current_session) == {"x": 1}
            kvs.current_session["lost"] = 1
        with app.test_request_context("/me", headers=headers):
            assert dict(kvs.current_session) == {"x": 1}

    def test_a_test_request_context_with_hooks(self, app: Flask, sign_in: SignIn) -> None:
        """With `preprocess_request` it is in `g`, and with `process_response` it is written."""
        token = token_of(sign_in(app))
        headers = {"Cookie": f"kvsession={token}"}
        with app.app_context():
            for _ in range(2):
                with app.test_request_context("/", headers=headers):
                    app.preprocess_request()
                    assert g.session is current()
                    g.session["n"] = g.session.get("n", 0) + 1
                    app.process_response(make_response("x"))
        assert browser_with(app, token).get("/data").get_json() == {"n": 2}

    def test_hooks_run_twice(self, app: Flask) -> None:
        """Also where its hooks run twice, as when an app dispatches a request anew, what was in
        `g` before it comes back."""
        with app.app_context():
            g.session = "mine"
            with app.test_request_context("/data"):
                app.full_dispatch_request()
                app.full_dispatch_request()
                assert g.session is current()
            assert g.get("session") == "mine"

    def test_a_login_in_a_test_request_context(self, app: Flask) -> None:
        """Tests may sign in without a view."""
        with app.test_request_context("/"):
            kvs.login_user("ada")
            response = app.process_response(make_response("x"))
            assert kvs.current_session.user_id == "ada"
        assert "kvsession=" in response.headers["Set-Cookie"]

    def test_a_client_that_keeps_its_context(self, app: Flask) -> None:
        """In `with client:`, as tests of Flask apps are written, the session of the last request
        can be looked at, by either name."""
        with app.test_client() as client:
            client.post("/login/ada", json={"data": {"x": 1}})
            assert kvs.current_session.user_id == "ada"
            client.get("/data")
            assert kvs.current_session == {"x": 1}
            assert g.session is current()

    def test_a_copied_context(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """In a thread with a copy of the context `current_session` is the request's own."""
        seen: list[object] = []

        def act() -> None:
            mine = current()
            g.session["x"] = 1

            @copy_current_request_context
            def work() -> None:
                seen.append(current() is mine)
                seen.append(dict(kvs.current_session))
                seen.append(len(kvs.list_sessions()))

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            assert g.session is mine

        browser = sign_in(app)
        assert do(browser, act).status_code == 200
        assert seen == [True, {"x": 1}, 1]
        assert browser.get("/data").get_json() == {"x": 1}

    def test_async_views(self, app: Flask, sign_in: SignIn) -> None:
        """An async view and async hooks have the session, and what they write is kept."""

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


class TestNameInG:
    def test_may_be_another(self, make_app: MakeApp) -> None:
        """`KVSESSION_G_NAME` is the name in `g`."""
        app = make_app(views=False, g_name="login_session")

        @app.get("/x")
        def view() -> str:
            assert "session" not in g
            assert g.login_session is current()
            return "x"

        assert app.test_client().get("/x").text == "x"

    def test_may_be_none(self, make_app: MakeApp) -> None:
        """With None nothing is put in `g`, and what the app has there stays."""
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

    def test_what_the_app_puts_there_stays(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """An app that overwrites `g.session` breaks nothing: guards, verbs and the commit go by
        the request's own session."""
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

    @pytest.mark.parametrize("name", ["get", "pop", "setdefault"])
    def test_may_not_be_one_of_gs_own(self, make_app: MakeApp, name: str) -> None:
        """A name that `g` needs itself is refused at start-up, not in each request."""
        with pytest.raises(ConfigurationError, match="KVSESSION_G_NAME"):
            make_app(g_name=name)


class TestSeveralApps:
    def test_of_one_extension_object(self, bare: Callable[..., Flask], prefix: str) -> None:
        """One `KVSession` serves two apps, with settings and sessions of their own."""
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

    def test_below_one_host(self, make_app: MakeApp) -> None:
        """Two apps below one host that share settings share their sessions."""
        one, two = make_app("one"), make_app("two")
        browser = Client(DispatcherMiddleware(one, {"/two": two}))
        browser.post("/login/ada", json={})
        assert browser.get("/two/me").get_json()["user"] == "ada"
        browser.post("/two/logout")
        assert browser.get("/me").status_code == 401

    def test_one_asks_the_other_within_a_view(
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
                assert kvs.current_session.user_id == "ada"

        assert do(sign_in(app), act).status_code == 200

    def test_without_the_extension_it_is_told(self) -> None:
        """In an app without the extension each use names the remedy."""
        with Flask("plain").test_request_context():
            for use in (
                lambda: len(kvs.current_session),
                lambda: kvs.login_user("ada"),
                kvs.login_required(lambda: None),
            ):
                with pytest.raises(ConfigurationError, match=r"KVSession\(app\)"):
                    use()

    def test_twice_on_one_app_is_refused(self, app: Flask) -> None:
        """A second `init_app` raises: it would double every hook."""
        with pytest.raises(ConfigurationError, match="once"):
            kvs.KVSession(app)


def test_changes_of_two_requests_at_once_are_both_kept(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A request that ends later keeps what another one wrote since, key by key."""
    browser = sign_in(app, data={"a": 1, "b": 1, "c": 1})
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        g.session["a"] = "outer"
        del g.session["b"]
        parallel.post("/data", json={"a": "inner", "c": "inner", "d": "inner"})

    do(browser, act)
    assert browser.get("/data").get_json() == {"a": "outer", "c": "inner", "d": "inner"}


def test_a_clear_and_a_write_at_once(app: Flask, sign_in: SignIn, do: Do) -> None:
    """`clear()` removes also what another request wrote since; later sets of its own stay."""
    browser = sign_in(app, data={"a": 1})
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        g.session.clear()
        g.session["mine"] = 1
        parallel.post("/data", json={"theirs": 1})

    do(browser, act)
    assert browser.get("/data").get_json() == {"mine": 1}


def test_an_error_at_the_commit_names_the_key(client: FlaskClient, do: Do) -> None:
    """A value that became unstorable in place is named in the error that comes out."""

    def act() -> None:
        g.session["list"] = []
        g.session["list"].append({1, object()})

    with pytest.raises(UnstorableValue, match=r"session\['list'\]"):
        do(client, act)
