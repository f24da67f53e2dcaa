"""Guards admit signed-in users and refuse or redirect all other requests."""

from __future__ import annotations

import asyncio
import inspect
import typing as t
from collections.abc import Callable
from functools import wraps

import pytest
from flask import Blueprint, Flask, g, request, url_for
from flask.testing import FlaskClient
from flask.views import MethodView, View
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError, LoginRequired, RoleRequired

from .support.apps import Do, MakeApp
from .support.browsers import SignIn, cookies_of
from .support.clock import Clock

PAGE = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
Guard = Callable[[t.Any], t.Any]

GUARDS: dict[str, Guard] = {
    "login": kvs.login_required,
    "fresh": kvs.fresh_login_required,
    "roles": kvs.roles_required("admin"),
}


def _add_class_view(app: Flask, view: t.Any) -> None:
    class Own(View):
        methods = ("GET", "OPTIONS")

        def dispatch_request(self) -> t.Any:
            return view()

    app.add_url_rule("/x", view_func=Own.as_view("own"))


def _add_method_view(app: Flask, view: t.Any) -> None:
    class Own(MethodView):
        def options(self) -> t.Any:
            return view()

    app.add_url_rule("/x", view_func=Own.as_view("own"))


def _add_werkzeug_rule(app: Flask, view: t.Any) -> None:
    app.url_map.add(Rule("/x", endpoint="own"))
    app.endpoint("own")(view)


def _add_without_automatic_options(app: Flask, view: t.Any) -> None:
    app.add_url_rule("/x", "own", view, provide_automatic_options=False, methods=["GET", "OPTIONS"])


def _add_with_an_attribute(app: Flask, view: t.Any) -> None:
    view.provide_automatic_options = False
    view.required_methods = ["OPTIONS"]
    app.add_url_rule("/x", "own", view)


AddRule = Callable[[Flask, t.Any], object]

OPTIONS_RULES: dict[str, AddRule] = {
    "methods": lambda app, view: app.route("/x", methods=["GET", "OPTIONS"], endpoint="own")(view),
    "keyword": _add_without_automatic_options,
    "attribute": _add_with_an_attribute,
    "class": _add_class_view,
    "method": _add_method_view,
    "werkzeug": _add_werkzeug_rule,
}
"""Ways to add a rule whose OPTIONS requests the view handles itself."""


def mount(app: Flask, path: str) -> None:
    """Puts the app below a path of its host."""
    mounted = DispatcherMiddleware(NotFound(), {path: app.wsgi_app})
    app.wsgi_app = mounted  # type: ignore[method-assign]


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app with a sign-in page, to which browsers are sent."""
    app = make_app(login_view="sign_in_page")

    @app.get("/sign-in")
    def sign_in_page() -> t.Any:
        return "sign in"

    return app


@pytest.fixture
def admin(app: Flask, sign_in: SignIn) -> Callable[[], FlaskClient]:
    """Makes a browser of an admin, once all views are there."""
    return lambda: sign_in(app, data={"role": "admin"})


class TestRefusal:
    """The response to a request that a guard refuses."""

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_anonymous_browser_gets_this_exact_401(self, app: Flask, guard: Guard) -> None:
        """A guard answers an anonymous browser with this 401 and does not run the view."""
        app.get("/x")(guard(pytest.fail))
        response = app.test_client().get("/x")
        assert response.status == "401 UNAUTHORIZED"
        assert response.get_data() == b'{"error": "Unauthorized"}'
        assert dict(response.headers) == {
            "Content-Type": "application/json",
            "Content-Length": "25",
            "Cache-Control": "no-store",
            "Vary": "Accept, Cookie",
        }

    def test_user_without_the_role_gets_this_exact_403(self, app: Flask, sign_in: SignIn) -> None:
        """A user without the role gets this 403, also if the request asks for a page."""
        app.get("/x")(kvs.roles_required("admin")(pytest.fail))
        response = sign_in(app).get("/x", headers=PAGE)
        assert response.status == "403 FORBIDDEN"
        assert response.get_data() == b'{"error": "Forbidden"}'
        assert dict(response.headers) == {
            "Content-Type": "application/json",
            "Content-Length": "22",
            "Cache-Control": "no-store",
            "Vary": "Accept, Cookie",
        }

    def test_head_request_gets_401_without_a_body(self, app: Flask) -> None:
        """A refused HEAD request gets the 401 without a body."""
        response = app.test_client().head("/me")
        assert (response.status_code, response.get_data()) == (401, b"")
        assert response.headers["Vary"] == "Accept, Cookie"

    @pytest.mark.parametrize(
        ("accept", "page"),
        [
            (PAGE["Accept"], True),
            ("text/html", True),
            ("TEXT/HTML", True),
            ("application/json;q=0.9, text/html;q=0.1", True),
            ("text/html;level=1", True),
            (None, False),
            ("", False),
            ("*/*", False),
            ("text/*", False),
            ("application/json", False),
            ("application/xhtml+xml", False),
            ("text/html;q=0", False),
            ("text/htmlx", False),
            (";;;,,,=\x01", False),
            ("x" * 100_000, False),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_only_a_request_for_html_is_redirected(
        self, app: Flask, accept: str | None, page: bool
    ) -> None:
        """Only a request whose `Accept` names text/html is redirected; all others get the 401."""
        headers = {} if accept is None else {"Accept": accept}
        response = app.test_client().get("/me", headers=headers)
        assert response.status_code == (302 if page else 401)

    def test_page_request_without_a_login_view_gets_401(self, make_app: MakeApp) -> None:
        """If `KVSESSION_LOGIN_VIEW` is not set, a page request gets the 401."""
        assert make_app().test_client().get("/me", headers=PAGE).status_code == 401

    @pytest.mark.parametrize("error", [LoginRequired, 401, HTTPException, Exception], ids=str)
    def test_error_handler_of_the_app_replaces_the_401_and_the_redirect(
        self, app: Flask, error: t.Any
    ) -> None:
        """An error handler of the app replaces both the 401 and the redirect."""

        @app.errorhandler(error)
        def handle(error: t.Any) -> t.Any:
            return f"{type(error).__name__} {error.code}", 418

        for headers in ({}, PAGE):
            response = app.test_client().get("/me", headers=headers)
            assert (response.status_code, response.text) == (418, "LoginRequired 401")
            assert "Cookie" in response.headers["Vary"]

    @pytest.mark.parametrize("error", [RoleRequired, 403, HTTPException], ids=str)
    def test_error_handler_of_the_app_replaces_the_403(
        self, app: Flask, sign_in: SignIn, error: t.Any
    ) -> None:
        """An error handler of the app replaces the 403 for a missing role."""
        app.get("/x")(kvs.roles_required("admin")(pytest.fail))
        app.register_error_handler(error, lambda error: ("not you", 418))
        assert sign_in(app).get("/x").text == "not you"

    def test_error_handler_of_a_blueprint_applies_to_its_own_views(self, app: Flask) -> None:
        """An error handler of a blueprint applies only to the views of that blueprint."""
        blueprint = Blueprint("api", __name__)
        blueprint.register_error_handler(LoginRequired, lambda error: ("api", 401))
        blueprint.get("/api")(kvs.login_required(pytest.fail))
        app.register_blueprint(blueprint)
        assert app.test_client().get("/api").text == "api"
        assert app.test_client().get("/me").text == '{"error": "Unauthorized"}'

    def test_login_required_raised_by_a_view_gives_the_same_401(self, app: Flask) -> None:
        """A view that raises `LoginRequired` gives the response that a guard gives."""

        @app.get("/x")
        def view() -> t.Any:
            raise LoginRequired

        response, guarded = (app.test_client().get(path) for path in ("/x", "/me"))
        assert (response.status, response.data) == (guarded.status, guarded.data)

    def test_refusal_of_an_unknown_token_sends_no_cookie(self, app: Flask) -> None:
        """A refusal of an unknown token sends no Set-Cookie."""
        for headers in ({}, PAGE):
            browser = app.test_client()
            browser.set_cookie("kvsession", "A" * 62)
            assert not cookies_of(browser.get("/me", headers=headers))


class TestRedirect:
    """A guard redirects a browser to the sign-in page with a safe `next`."""

    def location(self, app: Flask, path: str, **kwargs: t.Any) -> str:
        response = app.test_client().get(path, headers=PAGE, **kwargs)
        assert response.status_code == 302
        assert response.headers["Cache-Control"] == "no-store"
        assert set(response.headers["Vary"].split(", ")) == {"Accept", "Cookie"}
        return response.location

    @pytest.mark.parametrize(
        "path",
        [
            "/x",
            "/x/",
            "/x/a%20b",
            "/x/%C3%A9",
            "/x/a%2Bb+c",
            "/x/100%25",
            "/x/%3Fno=query",
            "/x/%23no-fragment",
            "/x/%5C%5Cevil",
            "/x?a=%0d%0aSet-Cookie:%20a=b",
            "/x?a=1&b=2",
            "/x?a=%26&next=%2Fy&b=%C3%A9+c%2Bd",
            "/x?a%5B%5D=[1]&q=%22%3Cscript%3E",
            "/x?",
            "/x?u=//evil.example",
            "/x?%",
            "/x?~tilde",
        ],
    )
    def test_next_leads_back_to_the_same_path_and_query(self, app: Flask, path: str) -> None:
        """The `next` of a redirect leads to the path and query that the browser asked for."""
        seen: list[tuple[str, bytes]] = []

        @app.before_request
        def note() -> None:
            seen.append((request.path, request.query_string))

        @app.get("/x", strict_slashes=False)
        @app.get("/x/<path:rest>")
        @kvs.login_required
        def wanted(rest: str = "") -> t.Any:
            pytest.fail("nobody is signed in")

        browser = app.test_client()
        location = browser.get(path, headers=PAGE).location
        assert location.startswith("/sign-in?next=/x")
        assert "\n" not in location

        with app.test_request_context(location):
            back = kvs.next_url("/default")
        browser.get(back, headers=PAGE)
        assert seen[0] == seen[1]

    def test_next_keeps_a_query_of_raw_utf8_bytes(self, app: Flask) -> None:
        """`next` keeps the meaning of a query that a client sent as unquoted UTF-8."""
        raw = "q=é".encode().decode("latin-1")
        location = self.location(app, "/me", environ_overrides={"QUERY_STRING": raw})
        with app.test_request_context(location):
            back = kvs.next_url("/default")
        with app.test_request_context(back):
            assert request.args["q"] == "é"

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD"])
    def test_method_other_than_get_has_no_next(self, app: Flask, method: str) -> None:
        """A redirect of a request that is not a GET has no `next`."""
        app.route("/x", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])(
            kvs.login_required(pytest.fail)
        )
        response = app.test_client().open("/x?a=1", method=method, headers=PAGE)
        assert (response.status_code, response.location) == (302, "/sign-in")

    def test_target_and_next_include_the_mount_path(self, make_app: MakeApp) -> None:
        """In a mounted app, the redirect's target and its `next` include the mount path."""
        app = make_app(login_view="data")
        mount(app, "/sh op")
        location = app.test_client().get("/sh%20op/me?a=1", headers=PAGE).location
        assert location == "/sh%20op/data?next=/sh%2520op/me?a%3D1"

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:99", "a@evil", "\x00", "[::1"])
    def test_host_header_does_not_appear_in_the_redirect(self, app: Flask, host: str) -> None:
        """The redirect does not contain the value of the Host header."""
        response = app.test_client().get("/me", headers=PAGE | {"Host": host})
        assert response.location == "/sign-in?next=/me"
        assert "evil" not in response.text

    def test_path_that_looks_like_a_host_stays_within_the_site(self, app: Flask) -> None:
        """A path that begins with `//` gives a `next` within the site."""
        app.before_request(kvs.login_required(lambda: None))
        path = {"PATH_INFO": "//evil.example/"}
        assert self.location(app, "/", environ_overrides=path) == "/sign-in?next=/evil.example/"

    def test_very_long_url_gives_a_redirect_without_next(self, app: Flask) -> None:
        """A redirect of a request with a very long URL has no `next`."""
        assert self.location(app, "/me?" + "x" * 5000) == "/sign-in"

    def test_unknown_login_view_raises_an_error_that_names_it(self, make_app: MakeApp) -> None:
        """A `KVSESSION_LOGIN_VIEW` that does not exist raises an error that names it."""
        browser = make_app(login_view="sign_inn").test_client()
        with pytest.raises(ConfigurationError, match=r"KVSESSION_LOGIN_VIEW.*sign_inn"):
            browser.get("/me", headers=PAGE)


class TestGuardedViews:
    """Guards work with each kind of view."""

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_sync_view_gets_its_arguments_and_gives_the_response(
        self, app: Flask, admin: t.Any, guard: Guard
    ) -> None:
        """A guarded view gets its arguments, and its return value is the response."""

        @app.get("/x/<int:n>")
        @guard
        def view(n: int) -> t.Any:
            return {"n": n}

        assert admin().get("/x/7").get_json() == {"n": 7}
        assert app.test_client().get("/x/7").status_code == 401

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_async_view_is_awaited_and_has_the_session(
        self, app: Flask, admin: t.Any, guard: Guard
    ) -> None:
        """A guarded async view is awaited and can use the session."""

        @app.get("/x/<int:n>")
        @guard
        async def view(n: int) -> t.Any:
            await asyncio.sleep(0)
            g.session["n"] = n
            return {"n": n, "user": kvs.current_session.user_id}

        browser = admin()
        assert browser.get("/x/7").get_json() == {"n": 7, "user": "ada"}
        assert browser.get("/data").get_json()["n"] == 7
        assert app.test_client().get("/x/7").status_code == 401

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_guarded_async_view_can_be_awaited_by_another_decorator(
        self, app: Flask, admin: t.Any, guard: Guard
    ) -> None:
        """A guarded async view stays a coroutine function, so another decorator can await it."""

        def loud(view: t.Any) -> t.Any:
            @wraps(view)
            async def wrapper() -> t.Any:
                return (await view()).upper()

            return wrapper

        @guard
        async def view() -> str:
            return "hello"

        assert inspect.iscoroutinefunction(view)
        app.get("/x")(loud(view))
        assert admin().get("/x").text == "HELLO"
        assert app.test_client().get("/x").status_code == 401

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_guarded_view_keeps_its_name_and_docstring(self, guard: Guard) -> None:
        """A guarded view keeps its name, so that Flask's endpoints do not clash."""

        def view() -> None:
            """What it does."""

        guarded = guard(view)
        assert (guarded.__name__, guarded.__doc__) == ("view", "What it does.")
        assert guarded.__wrapped__ is view

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    @pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
    def test_guard_over_before_request_covers_the_whole_blueprint(
        self, app: Flask, admin: t.Any, guard: Guard, is_async: bool
    ) -> None:
        """A guard over a `before_request` function guards each view of the blueprint."""
        blueprint = Blueprint("area", __name__)

        def check() -> None:
            return None

        async def check_async() -> None:
            return None

        blueprint.before_request(guard(check_async if is_async else check))
        blueprint.get("/area")(lambda: "area")
        app.register_blueprint(blueprint)
        assert app.test_client().get("/area").status_code == 401
        assert app.test_client().get("/untouched").status_code == 200
        assert admin().get("/area").text == "area"

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    @pytest.mark.parametrize("whole", [True, False], ids=["class", "method"])
    def test_method_view_is_guarded_as_a_class_or_by_method(
        self, app: Flask, admin: t.Any, guard: Guard, whole: bool
    ) -> None:
        """A guard covers a whole `MethodView` by `decorators`, or one of its methods."""

        class View(MethodView):
            decorators = [guard] if whole else []

            def get(self, n: int) -> t.Any:
                return {"got": n}

            async def post(self, n: int) -> t.Any:
                return {"posted": n}

        if not whole:
            View.post = guard(View.post)  # type: ignore[method-assign]
        app.add_url_rule("/x/<int:n>", view_func=View.as_view("x"))
        browser, anonymous = admin(), app.test_client()
        assert browser.get("/x/7").get_json() == {"got": 7}
        assert browser.post("/x/7").get_json() == {"posted": 7}
        assert anonymous.post("/x/7").status_code == 401
        assert anonymous.get("/x/7").status_code == (401 if whole else 200)

    def test_error_of_a_guarded_view_is_raised_unchanged(self, app: Flask, admin: t.Any) -> None:
        """A guard does not change an error that its view raises."""

        @app.get("/x")
        @kvs.login_required
        def view() -> t.Any:
            raise LookupError("mine")

        browser = admin()
        with pytest.raises(LookupError, match="mine"):
            browser.get("/x")

    def test_each_of_several_stacked_guards_must_pass(self, app: Flask, sign_in: SignIn) -> None:
        """A user must pass each of several guards on one view."""

        @app.get("/x")
        @kvs.roles_required("admin")
        @kvs.roles_required("editor")
        def view() -> t.Any:
            return "x"

        for roles, status in ((["admin"], 403), (["editor"], 403), (["admin", "editor"], 200)):
            browser = sign_in(app, data={"roles": roles})
            assert browser.get("/x").status_code == status


class TestOptions:
    """An OPTIONS request passes a guard only where Flask answers it without the view."""

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_automatic_options_request_passes_without_touching_the_session(
        self, app: Flask, guard: Guard
    ) -> None:
        """An OPTIONS request that Flask answers passes a guard and does not touch the session."""
        app.get("/x")(guard(pytest.fail))
        response = app.test_client().options("/x")
        assert (response.status_code, response.data) == (200, b"")
        assert "Vary" not in response.headers

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    @pytest.mark.parametrize("rule", OPTIONS_RULES.values(), ids=OPTIONS_RULES)
    def test_options_request_that_reaches_the_view_is_refused(
        self, app: Flask, admin: t.Any, guard: Guard, rule: AddRule
    ) -> None:
        """A view that handles OPTIONS itself runs for an OPTIONS request of a user only."""
        rule(app, guard(lambda: ("the view's", 200)))
        assert app.test_client().options("/x").status_code == 401
        assert admin().options("/x").text == "the view's"

    @pytest.mark.parametrize("rule", OPTIONS_RULES.values(), ids=OPTIONS_RULES)
    def test_options_request_to_a_view_below_a_protected_path_is_refused(
        self, make_app: MakeApp, sign_in: SignIn, rule: AddRule
    ) -> None:
        """A protected path is closed for an OPTIONS request that a view handles."""
        app = make_app(protected_paths=("/x",))
        rule(app, lambda: ("the view's", 200))
        assert app.test_client().options("/x").status_code == 401
        assert sign_in(app).options("/x").text == "the view's"

    def test_options_request_to_a_guarded_async_view_is_refused(self, app: Flask) -> None:
        """An async view that handles OPTIONS itself does not run for an anonymous browser."""

        @app.route("/x", methods=["OPTIONS"])
        @kvs.login_required
        async def view() -> t.Any:
            pytest.fail("nobody is signed in")

        assert app.test_client().options("/x").status_code == 401

    def test_guard_over_before_request_refuses_an_options_request_to_a_view(
        self, app: Flask
    ) -> None:
        """A guard of a blueprint judges an OPTIONS request by the rule of the view."""
        blueprint = Blueprint("area", __name__)
        blueprint.before_request(kvs.login_required(lambda: None))
        blueprint.add_url_rule("/own", "own", pytest.fail, methods=["OPTIONS"])
        blueprint.add_url_rule("/automatic", "automatic", pytest.fail)
        app.register_blueprint(blueprint)
        assert app.test_client().options("/own").status_code == 401
        assert app.test_client().options("/automatic").status_code == 200

    def test_options_request_for_a_missing_page_below_a_protected_path_gives_401(
        self, make_app: MakeApp
    ) -> None:
        """An OPTIONS request that matches no rule is refused below a protected path."""
        app = make_app(protected_paths=("/a/*",))
        assert app.test_client().options("/a/missing").status_code == 401


class TestRoles:
    @pytest.mark.parametrize(
        ("data", "status"),
        [
            ({"role": "admin"}, 200),
            ({"role": "editor"}, 200),
            ({"roles": ["user", "editor"]}, 200),
            ({"role": "user", "roles": ["admin"]}, 200),
            ({}, 403),
            ({"role": "user"}, 403),
            ({"role": "Admin"}, 403),
            ({"role": "admin "}, 403),
            ({"role": ["admin"]}, 403),
            ({"roles": "admin"}, 403),
            ({"roles": {"admin": True}}, 403),
            ({"roles": [["admin"]]}, 403),
            ({"roles": []}, 403),
            ({"role": None, "roles": None}, 403),
            ({"role": {}, "roles": 1}, 403),
        ],
        ids=str,
    )
    def test_any_of_the_required_roles_opens_the_view(
        self, app: Flask, sign_in: SignIn, data: dict[str, t.Any], status: int
    ) -> None:
        """A view opens only if `role` is, or `roles` contains, one of the required roles."""
        app.get("/x")(kvs.roles_required("admin", "editor")(lambda: "x"))
        assert sign_in(app, data=data).get("/x").status_code == status

    @pytest.mark.parametrize("kind", [tuple, set, list])
    def test_roles_may_be_a_list_tuple_or_set(self, app: Flask, do: Do, kind: t.Any) -> None:
        """`roles` may be a list, a tuple or a set."""
        app.get("/x")(kvs.roles_required("admin")(lambda: "x"))
        browser = app.test_client()
        do(browser, lambda: kvs.login_user("ada", {"roles": kind(["admin"])}))
        assert browser.get("/x").status_code == 200

    def test_role_in_an_anonymous_session_opens_nothing(self, app: Flask) -> None:
        """A role in an anonymous session opens no view."""
        app.get("/x")(kvs.roles_required("admin")(pytest.fail))
        browser = app.test_client()
        browser.post("/data", json={"role": "admin"})
        assert browser.get("/x").status_code == 401

    def test_removed_role_closes_the_view_at_the_next_request(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """After `update_all_sessions` removed a role, the next request is refused (OWASP ASVS 5.0,
        8.3.2)."""
        app.get("/x")(kvs.roles_required("admin")(lambda: "x"))
        browser = sign_in(app, data={"role": "admin"})
        assert browser.get("/x").status_code == 200
        with app.app_context():
            kvs.update_all_sessions("ada", {}, remove=["role"])
        assert browser.get("/x").status_code == 403

    @pytest.mark.parametrize("roles", [(), (print,), (["admin"],), (None,)], ids=repr)
    def test_roles_required_without_role_names_raises_at_once(self, roles: t.Any) -> None:
        """`roles_required` without role names raises `TypeError` where it is written."""
        with pytest.raises(TypeError, match="roles_required"):
            kvs.roles_required(*roles)


class TestProtectedPaths:
    def get(self, app: Flask, path: str, **kwargs: t.Any) -> TestResponse:
        return app.test_client().get(path, **kwargs)

    @pytest.fixture
    def make(self, make_app: MakeApp) -> Callable[..., Flask]:
        def make(*paths: str, **settings: t.Any) -> Flask:
            app = make_app(protected_paths=paths, **settings)
            app.add_url_rule("/", endpoint="all", view_func=lambda rest="": rest)
            app.add_url_rule("/<path:rest>", endpoint="all")
            return app

        return make

    @pytest.mark.parametrize(
        ("pattern", "path", "status"),
        [
            ("/a/*", "/a", 401),
            ("/a/*", "/a/", 401),
            ("/a/*", "/a/b", 401),
            ("/a/*", "/a/b/c", 401),
            ("/a/*", "/%61/b", 401),
            ("/a/*", "/a/%2e%2e/b", 401),
            ("/a/*", "/ab", 200),
            ("/a/*", "/b/a/c", 200),
            ("/a/*", "/", 200),
            ("/a", "/a", 401),
            ("/a", "/%61", 401),
            ("/a", "/a/b", 200),
            ("/a", "/ab", 200),
            ("/*", "/", 401),
            ("/*", "/a/b", 401),
            ("/", "/", 401),
            ("/", "/a", 200),
            ("/a/", "/a/", 401),
            ("/a/", "/a/b", 200),
            ("/a.b/*", "/axb/c", 200),
            ("/é/*", "/%C3%A9/x", 401),
        ],
    )
    def test_pattern_covers_its_path_or_all_paths_below(
        self, make: t.Any, pattern: str, path: str, status: int
    ) -> None:
        """A pattern covers its own path, and a pattern with `/*` also covers all paths below."""
        app = make(pattern)
        assert self.get(app, path).status_code == status

    @pytest.mark.parametrize("path", ["/a", "/a/", "//a", "/a//", "/./a", "/x/../a", "a", "/A"])
    def test_other_spelling_of_a_path_does_not_reach_the_view(
        self, make_app: MakeApp, path: str
    ) -> None:
        """No other spelling of a protected path reaches its view."""
        app = make_app(protected_paths=("/a",), views=False)
        app.url_map.strict_slashes = False
        app.get("/a")(lambda: "secret")
        response = self.get(app, "/", environ_overrides={"PATH_INFO": path})
        assert response.status_code in (401, 404, 308)
        assert "secret" not in response.text

    def test_signed_in_user_reaches_a_protected_path(self, make: t.Any, sign_in: SignIn) -> None:
        """A signed-in user reaches a protected path."""
        assert sign_in(make("/a/*")).get("/a/b").text == "a/b"

    def test_login_view_stays_open_below_a_protected_path(self, make: t.Any) -> None:
        """The login view stays open although a pattern covers its path."""
        app = make("/*", login_view="data")
        assert self.get(app, "/data", headers=PAGE).status_code == 200
        assert self.get(app, "/untouched", headers=PAGE).location == "/data?next=/untouched"

    def test_missing_page_below_a_protected_path_gives_401(self, make_app: MakeApp) -> None:
        """A missing page below a protected path gives an anonymous browser the 401, not a 404."""
        app = make_app(protected_paths=("/a/*",))
        assert self.get(app, "/a/missing").status_code == 401

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD"])
    def test_protected_path_is_closed_for_each_method(self, make: t.Any, method: str) -> None:
        """A protected path is closed for each method that is not OPTIONS."""
        assert make("/*").test_client().open("/a", method=method).status_code == 401

    def test_automatic_options_request_passes_a_protected_path(self, make: t.Any) -> None:
        """An OPTIONS request that Flask answers passes a protected path."""
        assert make("/*").test_client().options("/a").status_code == 200

    def test_unprotected_path_does_not_touch_the_session(self, make: t.Any) -> None:
        """A request for an unprotected path does not touch the session."""
        assert "Vary" not in self.get(make("/a/*"), "/untouched").headers

    def test_refused_request_does_not_run_the_apps_hooks(self, make_app: MakeApp) -> None:
        """A refused request does not run the app's own `before_request` hooks."""
        app = make_app(protected_paths=("/*",))
        app.before_request(pytest.fail)
        assert self.get(app, "/me").status_code == 401

    def test_pattern_applies_below_the_mount_path_of_an_app(self, make: t.Any) -> None:
        """In a mounted app, a pattern applies to the path below the mount path."""
        app = make("/a/*")
        mount(app, "/shop")
        assert self.get(app, "/shop/a/b").status_code == 401

    def test_static_file_below_a_protected_path_gives_401(self, make_app: MakeApp) -> None:
        """A static file below a protected path is closed to an anonymous browser."""
        app = make_app(protected_paths=("/static/*",))
        assert self.get(app, "/static/missing.css").status_code == 401

    def test_page_request_for_a_protected_path_is_redirected_with_next(self, make: t.Any) -> None:
        """A page request for a protected path is redirected to the login view with a `next`."""
        app = make("/a/*", login_view="data")
        with app.test_request_context():
            expected = url_for("data", next="/a/b?c=d")
        assert self.get(app, "/a/b?c=d", headers=PAGE).location == expected


class TestHtmx:
    """A request of HTMX gets `HX-Redirect`, with the page that HTMX is in as `next`."""

    PAGE: t.ClassVar = {"HX-Request": "true", "HX-Current-URL": "http://localhost/list?page=2"}

    def refused(self, app: Flask, headers: dict[str, str], method: str = "GET") -> TestResponse:
        app.add_url_rule("/part", "part", kvs.login_required(pytest.fail), methods=["GET", "POST"])
        return app.test_client().open("/part?row=1", method=method, headers=headers)

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("accept", ["*/*", "text/html"])
    def test_ended_session_sends_htmx_to_the_sign_in_page(
        self, app: Flask, method: str, accept: str
    ) -> None:
        """The answer is the 401 with `HX-Redirect` to the sign-in page, and `next` is the page and
        not the part of it that was requested."""
        response = self.refused(app, self.PAGE | {"Accept": accept}, method)
        assert response.status_code == 401
        assert response.get_json() == {"error": "Unauthorized"}
        assert response.headers["HX-Redirect"] == "/sign-in?next=/list?page%3D2"
        assert response.headers["Cache-Control"] == "no-store"
        assert "Location" not in response.headers

    def test_next_leads_back_to_the_page(self, app: Flask) -> None:
        """`next_url` accepts the `next` of the redirect."""
        app.add_url_rule("/next", "next", lambda: kvs.next_url("/default"))
        target = self.refused(app, self.PAGE).headers["HX-Redirect"]
        _, _, query = target.partition("?")
        assert app.test_client().get(f"/next?{query}").text == "/list?page=2"

    @pytest.mark.parametrize(
        "page",
        [
            "http://evil.example/list",
            "http://localhost.evil.example/list",
            "http://localhost//evil.example",
            "http://localhost/.//evil.example",
            "http://localhost/\\evil.example",
            "http://localhost",
            "http://[",
            "/list",
            "javascript:alert(1)",
            "",
            "http://localhost/" + "x" * 3000,
        ],
        ids=lambda page: str(page)[:40],
    )
    def test_unsafe_page_gives_no_next(self, app: Flask, page: str) -> None:
        """The page of another host, and a path that a browser may read as another host, are no
        `next`."""
        response = self.refused(app, self.PAGE | {"HX-Current-URL": page})
        assert response.headers["HX-Redirect"] == "/sign-in"

    def test_app_below_a_path_gets_urls_with_that_path(self, app: Flask) -> None:
        """Below a path of its host, both URLs have that path."""
        mount(app, "/below")
        page = {"HX-Request": "true", "HX-Current-URL": "http://localhost/below/list"}
        response = app.test_client().get("/below/me", headers=page)
        assert response.headers["HX-Redirect"] == "/below/sign-in?next=/below/list"

    def test_login_that_is_not_fresh_sends_htmx_to_the_confirm_view(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock
    ) -> None:
        """`fresh_login_required` sends HTMX to `KVSESSION_CONFIRM_VIEW`."""
        app = make_app(confirm_view="confirm")
        app.add_url_rule("/confirm", "confirm", lambda: "confirm")
        app.add_url_rule("/part", "part", kvs.fresh_login_required(pytest.fail))
        browser = sign_in(app)
        clock.advance(hours=1)
        response = browser.get("/part", headers=self.PAGE)
        assert response.get_json() == {"error": "FreshLoginRequired"}
        assert response.headers["HX-Redirect"] == "/confirm?next=/list?page%3D2"

    def test_without_a_login_view_htmx_gets_the_plain_401(self, make_app: MakeApp) -> None:
        """Without `KVSESSION_LOGIN_VIEW` there is no page to go to."""
        response = self.refused(make_app(), self.PAGE)
        assert response.status_code == 401
        assert "HX-Redirect" not in response.headers

    def test_request_that_is_not_of_htmx_gets_no_such_header(self, app: Flask) -> None:
        """Without `HX-Request: true` the answer is that of any other program."""
        for headers in ({}, {"HX-Request": "false"}, {"HX-Current-URL": "http://localhost/list"}):
            assert "HX-Redirect" not in app.test_client().get("/me", headers=headers).headers
