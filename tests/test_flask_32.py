"""What Flask 3.2 changes for this package, tested with the installed Flask too.

Two changes are simulated, because Flask 3.2 is not released:

- `handle_user_exception` takes the context as its first argument. A class in place of Flask's calls
  it so. Like Flask 3.2, that class accepts overrides with the old signature, and its contexts have
  `has_request`. If the installed Flask is 3.2, its own class is used.
- An app context that is opened in a request hides the request. In an empty `contextvars.Context`
  this is so in every version of Flask.
"""

from __future__ import annotations

import functools
import inspect
import typing as t
import warnings
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context

import pytest
from flask import Flask, g, has_request_context, request_started
from flask.ctx import AppContext
from flask.globals import app_ctx

import flask_kvsession as kvs
from flask_kvsession.errors import KVSessionError, StoreUnavailable

from .support.apps import FLASK_PASSES_CONTEXT, Do, MakeApp, in_context
from .support.browsers import SignIn, cookies_of, may_enter

Calls = list[tuple[t.Any, ...]]
"""The arguments of each call of `handle_user_exception`, without `self`."""


def simulated_flask_32() -> t.Any:
    """A class that stands for Flask's class of version 3.2. (On 3.2, it could not be defined.)"""

    class ContextOf32(AppContext):
        """An app context that says, as in Flask 3.2, whether it has a request."""

        @property
        def has_request(self) -> bool:
            return has_request_context()

    class SimulatedFlask32(t.cast(t.Any, Flask)):  # type: ignore[misc]
        """Calls `handle_user_exception` with the context first, as Flask 3.2 does."""

        def __init_subclass__(cls, **kwargs: t.Any) -> None:
            """Removes the context from the arguments of an override with the old signature."""
            override: t.Any = cls.handle_user_exception
            if list(inspect.signature(override).parameters) == ["self", "e"]:

                @functools.wraps(override)
                def without_context(self: Flask, *args: t.Any) -> t.Any:
                    return override(self, args[-1])

                cls.handle_user_exception = without_context  # type: ignore[method-assign]

        def app_context(self) -> AppContext:
            return ContextOf32(self)

        def full_dispatch_request(self) -> t.Any:
            """The same steps as Flask's."""
            handle: t.Any = self.handle_user_exception
            try:
                request_started.send(self, _async_wrapper=self.ensure_sync)
                result = self.preprocess_request()
                if result is None:
                    result = self.dispatch_request()
            except Exception as error:
                result = handle(t.cast(t.Any, app_ctx)._get_current_object(), error)
            return self.finalize_request(result)

        def handle_user_exception(self, *args: t.Any) -> t.Any:
            """Accepts the error alone too, for overrides with the old signature."""
            return super().handle_user_exception(args[-1])

    return SimulatedFlask32


Flask32: t.Any = Flask if FLASK_PASSES_CONTEXT else simulated_flask_32()


def as_it_is(base: t.Any, calls: Calls) -> t.Any:
    return base


def with_old_signature(base: t.Any, calls: Calls) -> t.Any:
    class App(base):  # type: ignore[misc]
        def handle_user_exception(self, e: Exception) -> t.Any:
            calls.append((e,))
            return super().handle_user_exception(e)

    return App


def with_ctx(base: t.Any, calls: Calls) -> t.Any:
    class App(base):  # type: ignore[misc]
        def handle_user_exception(self, ctx, e):  # type: ignore[no-untyped-def]
            calls.append((ctx, e))
            return super().handle_user_exception(ctx, e)

    return App


def with_annotated_context(base: t.Any, calls: Calls) -> t.Any:
    """Flask 3.2 knows the context by its annotation too."""

    class App(base):  # type: ignore[misc]
        def handle_user_exception(self, context: AppContext, error: Exception) -> t.Any:
            calls.append((context, error))
            return super().handle_user_exception(context, error)

    return App


def with_replacement_on_the_app(base: t.Any, calls: Calls) -> t.Any:
    """An extension such as Flask-RESTful puts a function on the app that calls the former one."""

    class App(base):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            super().__init__(name)
            former = super().handle_user_exception

            def replacement(*args: t.Any) -> t.Any:
                calls.append(args)
                return former(*args)

            self.handle_user_exception = replacement

    return App


def with_replacement_over_old_signature(base: t.Any, calls: Calls) -> t.Any:
    return with_replacement_on_the_app(with_old_signature(base, []), calls)


AppClass = Callable[[t.Any, Calls], t.Any]

APP_CLASSES: list[tuple[t.Any, AppClass]] = [
    (base, make)
    for base in ([Flask] if FLASK_PASSES_CONTEXT else [Flask, Flask32])
    for make in (
        as_it_is,
        with_old_signature,
        with_ctx,
        with_annotated_context,
        with_replacement_on_the_app,
        with_replacement_over_old_signature,
    )
    if base is Flask32 or make not in (with_ctx, with_annotated_context)
]


@pytest.fixture(params=APP_CLASSES, ids=lambda param: f"{param[0].__name__}-{param[1].__name__}")
def failing_app(
    request: pytest.FixtureRequest, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> Flask:
    """An app whose store is never there, and whose handler answers with "sorry"."""
    base, make = request.param
    calls: Calls = []
    # For an override with the old signature, Flask 3.2 warns and changes its own class.
    monkeypatch.setattr(Flask, "handle_user_exception", Flask.handle_user_exception)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        flask_class = make(base, calls)
    app = make_app(flask_class=flask_class, redis_url="unix:///nowhere/s", store_timeout=0.1)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.config["CALLS"] = calls

    @app.errorhandler(StoreUnavailable)
    def sorry(error: StoreUnavailable) -> tuple[str, int]:
        return "sorry", 503

    return app


class TestFailedCommit:
    """The response to a failed commit, however the app's class handles errors."""

    def test_failed_commit_gives_the_503_of_the_apps_handler(self, failing_app: Flask) -> None:
        """If the commit fails, the app's handler for `StoreUnavailable` gives the response."""
        response = failing_app.test_client().post("/data", json={"x": 1})
        assert (response.status_code, response.text) == (503, "sorry")

    def test_failed_commit_is_passed_like_an_error_of_a_view(self, failing_app: Flask) -> None:
        """`handle_user_exception` gets arguments of the same types for a failed commit and for an
        error of a view."""
        calls = failing_app.config["CALLS"]
        client = failing_app.test_client()
        client.set_cookie("kvsession", str(kvs.token.Token.for_session("a" * 19)))
        assert client.get("/data").text == "sorry"
        client.delete_cookie("kvsession")
        assert client.post("/data", json={"x": 1}).text == "sorry"
        passed = [[type(value) for value in call] for call in calls]
        assert passed == passed[:1] * 2  # none, if the class overrides nothing

    def test_failed_commit_of_flask_session_gives_the_503_of_the_apps_handler(
        self, make_app: MakeApp
    ) -> None:
        """With `KVSESSION_AS_FLASK_SESSION` too, a failed commit gives the app's response."""
        app = make_app(
            flask_class=Flask32,
            redis_url="unix:///nowhere/s",
            store_timeout=0.1,
            as_flask_session=True,
        )
        app.register_error_handler(StoreUnavailable, lambda error: ("sorry", 503))
        response = app.test_client().post("/data", json={"x": 1})
        assert (response.status_code, response.text) == (503, "sorry")

    def test_failed_commit_with_trapped_http_exceptions_gives_the_packages_503(
        self, make_app: MakeApp
    ) -> None:
        """With `TRAP_HTTP_EXCEPTIONS` and no handler, a failed commit gives the package's 503."""
        app = make_app(flask_class=Flask32, redis_url="unix:///nowhere/s", store_timeout=0.1)
        app.config["TRAP_HTTP_EXCEPTIONS"] = True
        response = app.test_client().post("/data", json={"x": 1})
        assert response.status_code == 503
        assert "Retry-After" in response.headers

    def test_flask_passes_the_context_only_if_contexts_have_has_request(self) -> None:
        """`handle_user_exception` of the installed Flask takes the context if, and only if, its
        contexts have `has_request`."""
        taken = list(inspect.signature(Flask.handle_user_exception).parameters)
        assert taken == (["self", "ctx", "e"] if FLASK_PASSES_CONTEXT else ["self", "e"])


def with_hidden_request(app: Flask, act: Callable[[], object]) -> None:
    """Calls a function in an app context in which Flask shows no request."""
    Context().run(in_context, app, act)


class TestHiddenRequest:
    """The functions of the package in an app context, opened by a view, that hides the request."""

    @pytest.mark.parametrize("name", ["current_session", "g.session"])
    def test_session_with_a_hidden_request_is_false_and_raises(
        self, app: Flask, sign_in: SignIn, do: Do, name: str
    ) -> None:
        """If the request is hidden, the session is false, and its use raises `RuntimeError`."""

        def use() -> None:
            session = kvs.current_session if name == "current_session" else g.session
            assert not session
            with pytest.raises(RuntimeError, match="request"):
                _ = session.user_id
            with pytest.raises(RuntimeError, match="request"):
                session["x"] = 2

        def act() -> None:
            g.session["x"] = 1
            with_hidden_request(app, use)
            assert g.session.user_id == "ada"

        browser = sign_in(app)
        assert do(browser, act).status_code == 200
        assert browser.get("/data").get_json() == {"x": 1}

    @pytest.mark.parametrize(
        "verb",
        [
            lambda: kvs.login_user("bob"),
            kvs.logout_user,
            kvs.confirm_login,
            kvs.rotate_token,
            kvs.list_sessions,
            lambda: kvs.revoke_session("a" * 19),
            kvs.revoke_all_sessions,
            kvs.login_required(lambda: None),
        ],
        ids=["login", "logout", "confirm", "rotate", "list", "revoke", "revoke all", "guard"],
    )
    def test_verb_of_the_current_session_with_a_hidden_request_raises(
        self, app: Flask, sign_in: SignIn, do: Do, verb: Callable[[], object]
    ) -> None:
        """A function that needs the current session raises `RuntimeError` and changes nothing."""

        def use() -> None:
            with pytest.raises(RuntimeError, match="request"):
                verb()

        here, other = sign_in(app), sign_in(app)
        response = do(here, lambda: with_hidden_request(app, use))
        assert response.status_code == 200
        assert not cookies_of(response)
        assert may_enter(here, other) == [True, True]

    @pytest.mark.parametrize("user", [(), ("ada",)], ids=["own", "by id"])
    def test_except_current_with_a_hidden_request_raises_and_ends_nothing(
        self, app: Flask, sign_in: SignIn, do: Do, user: tuple[str, ...]
    ) -> None:
        """`except_current=True` raises `KVSessionError` and ends no session."""

        def use() -> None:
            with pytest.raises(KVSessionError, match="outside a request"):
                kvs.revoke_all_sessions(*user, except_current=True)

        here, other = sign_in(app), sign_in(app)
        assert do(here, lambda: with_hidden_request(app, use)).status_code == 200
        assert may_enter(here, other) == [True, True]

    def test_except_current_in_an_app_context_never_ends_the_own_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """In `app.app_context()` in a view, `except_current=True` keeps the caller's session,
        whether the installed Flask hides the request or not."""

        def act() -> None:
            with suppress(KVSessionError), app.app_context():
                kvs.revoke_all_sessions("ada", except_current=True)

        here = sign_in(app)
        assert do(here, act).status_code == 200
        assert may_enter(here) == [True]

    def test_list_sessions_with_a_hidden_request_marks_none_as_current(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """`list_sessions` with a user id lists all sessions, and marks none as the current one."""
        seen: list[bool] = []

        def use() -> None:
            seen.extend(info.is_current for info in kvs.list_sessions("ada"))

        here, _ = sign_in(app), sign_in(app)
        do(here, lambda: with_hidden_request(app, use))
        assert seen == [False, False]

    @pytest.mark.parametrize(
        "revoke",
        [lambda own: kvs.revoke_all_sessions("ada"), lambda own: kvs.revoke_session(own, "ada")],
        ids=["all", "own"],
    )
    def test_own_session_revoked_with_a_hidden_request_stays_ended(
        self, app: Flask, sign_in: SignIn, do: Do, revoke: Callable[[str], object]
    ) -> None:
        """A revocation with a user id ends the caller's session too, and a change that the request
        makes later does not bring it back."""

        def act() -> None:
            own = g.session.id
            with_hidden_request(app, lambda: revoke(own))
            g.session["x"] = 1

        here, bob = sign_in(app), sign_in(app, "bob")
        assert do(here, act).status_code == 200
        assert may_enter(here, bob) == [False, True]
        assert "x" not in here.get("/data").get_json()

    def test_update_all_sessions_with_a_hidden_request_reaches_the_next_request(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """`update_all_sessions` changes all sessions of the user. The next requests see the change,
        the current one does not."""
        changes = {"role": "reader"}

        def act() -> None:
            assert not g.session
            with_hidden_request(app, lambda: kvs.update_all_sessions("ada", changes))
            assert "role" not in g.session

        browsers = [sign_in(app) for _ in range(2)]
        assert do(browsers[0], act).status_code == 200
        assert [browser.get("/data").get_json() for browser in browsers] == [changes, changes]
