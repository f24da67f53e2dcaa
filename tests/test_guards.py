"""Who may come in, and where others are sent."""

from __future__ import annotations

import asyncio
import inspect
import typing as t
from collections.abc import Callable
from functools import wraps

import pytest
from flask import Blueprint, Flask, g, request, url_for
from flask.testing import FlaskClient
from flask.views import MethodView
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError, LoginRequired, RoleRequired

from .support.apps import Do, MakeApp
from .support.browsers import SignIn, cookies_of

PAGE = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
Guard = Callable[[t.Any], t.Any]

GUARDS: dict[str, Guard] = {
    "login": kvs.login_required,
    "fresh": kvs.fresh_login_required,
    "roles": kvs.roles_required("admin"),
}


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
    """The answer to who may not come in."""

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_of_a_visitor(self, app: Flask, guard: Guard) -> None:
        """It is exactly this 401, and the view has not run."""
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

    def test_of_who_lacks_the_role(self, app: Flask, sign_in: SignIn) -> None:
        """It is exactly this 403, for a browser too: signing in would not help."""
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

    def test_of_a_head_request(self, app: Flask) -> None:
        """HEAD gets what GET would get, without a body."""
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
    def test_is_a_redirect_only_for_pages(self, app: Flask, accept: str | None, page: bool) -> None:
        """A redirect is for who asks for HTML by name; scripts, garbage and silence get the 401."""
        headers = {} if accept is None else {"Accept": accept}
        response = app.test_client().get("/me", headers=headers)
        assert response.status_code == (302 if page else 401)

    def test_without_a_login_view_is_the_401(self, make_app: MakeApp) -> None:
        """Where `KVSESSION_LOGIN_VIEW` is not set, a browser too gets the 401."""
        assert make_app().test_client().get("/me", headers=PAGE).status_code == 401

    @pytest.mark.parametrize("error", [LoginRequired, 401, HTTPException, Exception], ids=str)
    def test_by_the_apps_own_handler(self, app: Flask, error: t.Any) -> None:
        """Any error handler of the app wins, over the redirect too."""

        @app.errorhandler(error)
        def handle(error: t.Any) -> t.Any:
            return f"{type(error).__name__} {error.code}", 418

        for headers in ({}, PAGE):
            response = app.test_client().get("/me", headers=headers)
            assert (response.status_code, response.text) == (418, "LoginRequired 401")
            assert "Cookie" in response.headers["Vary"]

    @pytest.mark.parametrize("error", [RoleRequired, 403, HTTPException], ids=str)
    def test_of_a_role_by_the_apps_own_handler(
        self, app: Flask, sign_in: SignIn, error: t.Any
    ) -> None:
        """A handler of the app decides what who lacks a role gets to see."""
        app.get("/x")(kvs.roles_required("admin")(pytest.fail))
        app.register_error_handler(error, lambda error: ("not you", 418))
        assert sign_in(app).get("/x").text == "not you"

    def test_by_a_blueprints_handler(self, app: Flask) -> None:
        """A handler of the blueprint is for its own views only."""
        blueprint = Blueprint("api", __name__)
        blueprint.register_error_handler(LoginRequired, lambda error: ("api", 401))
        blueprint.get("/api")(kvs.login_required(pytest.fail))
        app.register_blueprint(blueprint)
        assert app.test_client().get("/api").text == "api"
        assert app.test_client().get("/me").text == '{"error": "Unauthorized"}'

    def test_can_be_raised_by_the_app(self, app: Flask) -> None:
        """A view that raises `LoginRequired` itself gets the same answer."""

        @app.get("/x")
        def view() -> t.Any:
            raise LoginRequired

        response, guarded = (app.test_client().get(path) for path in ("/x", "/me"))
        assert (response.status, response.data) == (guarded.status, guarded.data)

    def test_leaves_the_cookie_alone(self, app: Flask) -> None:
        """A refused browser keeps its cookie, whatever is in it, and gets none."""
        for headers in ({}, PAGE):
            browser = app.test_client()
            browser.set_cookie("kvsession", "A" * 62)
            assert not cookies_of(browser.get("/me", headers=headers))


class TestRedirect:
    """Where a browser is sent, and back."""

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
    def test_leads_back_to_what_was_asked_for(self, app: Flask, path: str) -> None:
        """The `next` it carries brings the browser to the very same path and query."""
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

    def test_keeps_a_query_in_raw_utf8(self, app: Flask) -> None:
        """What a client sent unquoted, as UTF-8, comes back as what it meant."""
        raw = "q=é".encode().decode("latin-1")
        location = self.location(app, "/me", environ_overrides={"QUERY_STRING": raw})
        with app.test_request_context(location):
            back = kvs.next_url("/default")
        with app.test_request_context(back):
            assert request.args["q"] == "é"

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD"])
    def test_of_other_methods_has_no_next(self, app: Flask, method: str) -> None:
        """Only a GET can be repeated after signing in, so nothing else is led back to."""
        app.route("/x", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])(
            kvs.login_required(pytest.fail)
        )
        response = app.test_client().open("/x?a=1", method=method, headers=PAGE)
        assert (response.status_code, response.location) == (302, "/sign-in")

    def test_keeps_within_the_mounted_app(self, make_app: MakeApp) -> None:
        """In an app mounted below a path, both the target and its `next` have that path."""
        app = make_app(login_view="data")
        mount(app, "/sh op")
        location = app.test_client().get("/sh%20op/me?a=1", headers=PAGE).location
        assert location == "/sh%20op/data?next=/sh%2520op/me?a%3D1"

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:99", "a@evil", "\x00", "[::1"])
    def test_does_not_believe_the_host_header(self, app: Flask, host: str) -> None:
        """What the Host header says appears nowhere."""
        response = app.test_client().get("/me", headers=PAGE | {"Host": host})
        assert response.location == "/sign-in?next=/me"
        assert "evil" not in response.text

    def test_of_a_path_that_looks_like_a_host_stays_within_the_site(self, app: Flask) -> None:
        """A path that a browser would read as another host is led back to as a path."""
        app.before_request(kvs.login_required(lambda: None))
        path = {"PATH_INFO": "//evil.example/"}
        assert self.location(app, "/", environ_overrides=path) == "/sign-in?next=/evil.example/"

    def test_of_a_very_long_url_has_no_next(self, app: Flask) -> None:
        """A URL that is too long to be a `next` is left out."""
        assert self.location(app, "/me?" + "x" * 5000) == "/sign-in"

    def test_to_a_view_that_is_not_there_is_told(self, make_app: MakeApp) -> None:
        """A misspelt `KVSESSION_LOGIN_VIEW` is named."""
        browser = make_app(login_view="sign_inn").test_client()
        with pytest.raises(ConfigurationError, match=r"KVSESSION_LOGIN_VIEW.*sign_inn"):
            browser.get("/me", headers=PAGE)


class TestGuardedViews:
    """What can be guarded."""

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_sync_views(self, app: Flask, admin: t.Any, guard: Guard) -> None:
        """A view gets its arguments, and what it returns is the answer."""

        @app.get("/x/<int:n>")
        @guard
        def view(n: int) -> t.Any:
            return {"n": n}

        assert admin().get("/x/7").get_json() == {"n": 7}
        assert app.test_client().get("/x/7").status_code == 401

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_async_views(self, app: Flask, admin: t.Any, guard: Guard) -> None:
        """An async view is awaited, and finds the request's session."""

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
    def test_async_views_under_another_decorator(
        self, app: Flask, admin: t.Any, guard: Guard
    ) -> None:
        """A guarded async view is still one, so that another async decorator can await it."""

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
    def test_names_are_kept(self, guard: Guard) -> None:
        """A guarded view keeps its name, so that Flask's endpoints do not clash."""

        def view() -> None:
            """What it does."""

        guarded = guard(view)
        assert (guarded.__name__, guarded.__doc__) == ("view", "What it does.")
        assert guarded.__wrapped__ is view

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    @pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
    def test_whole_blueprints(self, app: Flask, admin: t.Any, guard: Guard, is_async: bool) -> None:
        """Over a `before_request` function, a guard holds for each view of the blueprint."""
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
    def test_method_views(self, app: Flask, admin: t.Any, guard: Guard, whole: bool) -> None:
        """A class of views is guarded as a whole by `decorators`, or method by method."""

        class View(MethodView):
            decorators = [guard] if whole else []

            def get(self, n: int) -> t.Any:
                return {"got": n}

            async def post(self, n: int) -> t.Any:
                return {"posted": n}

        if not whole:
            View.post = guard(View.post)  # type: ignore[method-assign]
        app.add_url_rule("/x/<int:n>", view_func=View.as_view("x"))
        browser, visitor = admin(), app.test_client()
        assert browser.get("/x/7").get_json() == {"got": 7}
        assert browser.post("/x/7").get_json() == {"posted": 7}
        assert visitor.post("/x/7").status_code == 401
        assert visitor.get("/x/7").status_code == (401 if whole else 200)

    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    @pytest.mark.parametrize("automatic", [True, False])
    def test_options_pass(self, app: Flask, guard: Guard, automatic: bool) -> None:
        """A browser asks with OPTIONS and without cookies whether it may send the real request."""
        methods = ["GET"] if automatic else ["GET", "OPTIONS"]
        view = app.route("/x", methods=methods)(guard(lambda: ("mine", 204)))
        view.provide_automatic_options = automatic
        response = app.test_client().options("/x")
        assert response.status_code in (200, 204)
        assert "Vary" not in response.headers

    def test_errors_of_the_view_come_out(self, app: Flask, admin: t.Any) -> None:
        """An error of a guarded view is that of an unguarded one."""

        @app.get("/x")
        @kvs.login_required
        def view() -> t.Any:
            raise LookupError("mine")

        browser = admin()
        with pytest.raises(LookupError, match="mine"):
            browser.get("/x")

    def test_guards_can_be_stacked(self, app: Flask, sign_in: SignIn) -> None:
        """Each of several guards has to be passed."""

        @app.get("/x")
        @kvs.roles_required("admin")
        @kvs.roles_required("editor")
        def view() -> t.Any:
            return "x"

        for roles, status in ((["admin"], 403), (["editor"], 403), (["admin", "editor"], 200)):
            browser = sign_in(app, data={"roles": roles})
            assert browser.get("/x").status_code == status


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
    def test_any_of_them_opens(
        self, app: Flask, sign_in: SignIn, data: dict[str, t.Any], status: int
    ) -> None:
        """One of the roles, under "role" or in "roles", opens the view, and nothing else does."""
        app.get("/x")(kvs.roles_required("admin", "editor")(lambda: "x"))
        assert sign_in(app, data=data).get("/x").status_code == status

    @pytest.mark.parametrize("kind", [tuple, set, list])
    def test_several_may_be_of_any_kind(self, app: Flask, do: Do, kind: t.Any) -> None:
        """`roles` may be a list, a tuple or a set."""
        app.get("/x")(kvs.roles_required("admin")(lambda: "x"))
        browser = app.test_client()
        do(browser, lambda: kvs.login_user("ada", {"roles": kind(["admin"])}))
        assert browser.get("/x").status_code == 200

    def test_a_visitors_role_opens_nothing(self, app: Flask) -> None:
        """Without a user a role is worth nothing."""
        app.get("/x")(kvs.roles_required("admin")(pytest.fail))
        browser = app.test_client()
        browser.post("/data", json={"role": "admin"})
        assert browser.get("/x").status_code == 401

    def test_a_role_taken_away_closes_at_once(self, app: Flask, sign_in: SignIn) -> None:
        """After `update_all_sessions` the next request is refused (OWASP ASVS 5.0, 8.3.2)."""
        app.get("/x")(kvs.roles_required("admin")(lambda: "x"))
        browser = sign_in(app, data={"role": "admin"})
        assert browser.get("/x").status_code == 200
        with app.app_context():
            kvs.update_all_sessions("ada", {}, remove=["role"])
        assert browser.get("/x").status_code == 403

    @pytest.mark.parametrize("roles", [(), (print,), (["admin"],), (None,)], ids=repr)
    def test_forgotten_roles_are_told(self, roles: t.Any) -> None:
        """`@roles_required` without names raises where it is written, not in a request."""
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
    def test_cover(self, make: t.Any, pattern: str, path: str, status: int) -> None:
        """A pattern covers its own path, and with `/*` all below it, however it is quoted."""
        app = make(pattern)
        assert self.get(app, path).status_code == status

    @pytest.mark.parametrize("path", ["/a", "/a/", "//a", "/a//", "/./a", "/x/../a", "a", "/A"])
    def test_cannot_be_passed_by_another_spelling(self, make_app: MakeApp, path: str) -> None:
        """No other spelling of a protected path reaches its view, though Flask may be lenient."""
        app = make_app(protected_paths=("/a",), views=False)
        app.url_map.strict_slashes = False
        app.get("/a")(lambda: "secret")
        response = self.get(app, "/", environ_overrides={"PATH_INFO": path})
        assert response.status_code in (401, 404, 308)
        assert "secret" not in response.text

    def test_open_for_who_is_signed_in(self, make: t.Any, sign_in: SignIn) -> None:
        """A login opens them."""
        assert sign_in(make("/a/*")).get("/a/b").text == "a/b"

    def test_let_everybody_to_the_login_view(self, make: t.Any) -> None:
        """The login view stays open, or nobody could ever sign in."""
        app = make("/*", login_view="data")
        assert self.get(app, "/data", headers=PAGE).status_code == 200
        assert self.get(app, "/untouched", headers=PAGE).location == "/data?next=/untouched"

    def test_cover_what_is_not_there(self, make_app: MakeApp) -> None:
        """A visitor does not learn which pages there are below a protected path."""
        app = make_app(protected_paths=("/a/*",))
        assert self.get(app, "/a/missing").status_code == 401

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD"])
    def test_hold_for_all_methods(self, make: t.Any, method: str) -> None:
        """A protected path is so for each method."""
        assert make("/*").test_client().open("/a", method=method).status_code == 401

    def test_let_options_pass(self, make: t.Any) -> None:
        """OPTIONS passes, as with the decorators."""
        assert make("/*").test_client().options("/a").status_code == 200

    def test_do_not_touch_others(self, make: t.Any) -> None:
        """A path that is not protected leaves the session untouched."""
        assert "Vary" not in self.get(make("/a/*"), "/untouched").headers

    def test_come_before_the_apps_own_hooks(self, make_app: MakeApp) -> None:
        """A hook of the app does not run for who is not let in."""
        app = make_app(protected_paths=("/*",))
        app.before_request(pytest.fail)
        assert self.get(app, "/me").status_code == 401

    def test_hold_for_mounted_apps(self, make: t.Any) -> None:
        """The patterns are of the app's own paths, wherever it is mounted."""
        app = make("/a/*")
        mount(app, "/shop")
        assert self.get(app, "/shop/a/b").status_code == 401

    def test_hold_for_static_files(self, make_app: MakeApp) -> None:
        """Static files below a protected path are protected."""
        app = make_app(protected_paths=("/static/*",))
        assert self.get(app, "/static/missing.css").status_code == 401

    def test_send_a_browser_with_a_next(self, make: t.Any) -> None:
        """A browser asking for a page is led back after signing in."""
        app = make("/a/*", login_view="data")
        with app.test_request_context():
            expected = url_for("data", next="/a/b?c=d")
        assert self.get(app, "/a/b?c=d", headers=PAGE).location == expected
