"""A guard above the decorator of a route guards nothing, and the first request says so."""

from __future__ import annotations

import functools
import sys
import types
import typing as t
from collections.abc import Callable

import pytest
from flask import Blueprint, Flask
from flask.views import MethodView

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError

from .support.apps import MakeApp
from .support.browsers import SignIn

Guard = Callable[[t.Any], t.Any]
GUARDS: dict[str, Guard] = {
    "login": kvs.login_required,
    "fresh": kvs.fresh_login_required,
    "role": kvs.roles_required("admin"),
}


def first_request(app: Flask) -> int:
    return app.test_client().get("/data").status_code


def refusal_of(app: Flask) -> str:
    with pytest.raises(ConfigurationError) as raised:
        first_request(app)
    return str(raised.value)


def passed_on(view: t.Any) -> t.Any:
    """Another decorator."""

    @functools.wraps(view)
    def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
        return view(*args, **kwargs)

    return call


class TestMistakes:
    @pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
    def test_guard_above_the_route_is_refused(self, app: Flask, guard: Guard) -> None:
        """Each guard above `@app.get` makes the first request raise, with the name of the view and
        of the route."""

        def add_views() -> None:
            @guard
            @app.get("/page")
            def page() -> str:
                return "open"

        add_views()
        message = refusal_of(app)
        assert "page() has no effect" in message
        assert "the route 'page'" in message
        assert "put the guard below" in message

    def test_async_view_is_found_too(self, app: Flask) -> None:
        """The same holds for a coroutine function."""

        def add_views() -> None:
            @kvs.login_required
            @app.get("/page")
            async def page() -> str:
                return "open"

        add_views()
        assert "page() has no effect" in refusal_of(app)

    def test_blueprint_is_found_too(self, app: Flask) -> None:
        """A blueprint registers its views later than the guard is applied."""
        blueprint = Blueprint("area", __name__)

        def add_views() -> None:
            @kvs.login_required
            @blueprint.get("/page")
            def page() -> str:
                return "open"

        add_views()
        app.register_blueprint(blueprint)
        assert "the route 'area.page'" in refusal_of(app)

    def test_guard_above_before_request_is_found_too(self, app: Flask) -> None:
        """A guard above `@bp.before_request` would leave the whole blueprint open."""
        blueprint = Blueprint("area", __name__)

        def add_hook() -> None:
            @kvs.login_required
            @blueprint.before_request
            def guard() -> None:
                """Guards the blueprint."""

        add_hook()
        app.register_blueprint(blueprint)
        assert "the decorator of before_request" in refusal_of(app)

    def test_other_decorator_between_does_not_hide_it(self, app: Flask) -> None:
        """A decorator between the guard and the route does not matter."""

        def add_views() -> None:
            @kvs.login_required
            @passed_on
            @app.get("/page")
            def page() -> str:
                return "open"

        add_views()
        assert "page() has no effect" in refusal_of(app)

    def test_view_of_a_module_is_found_although_its_name_is_guarded(
        self, app: Flask, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In a module, the name keeps the guarded function alive, which no route uses."""
        module = types.ModuleType("views")
        monkeypatch.setitem(sys.modules, "views", module)
        vars(module).update(app=app, login_required=kvs.login_required)
        source = "@login_required\n@app.get('/page')\ndef page():\n    return 'open'\n"
        exec(source, vars(module))
        assert "page() has no effect" in refusal_of(app)

        other = make_app("other")
        other.add_url_rule("/page", "page", vars(module)["page"].__wrapped__)
        other.add_url_rule("/guarded", "guarded", vars(module)["page"])
        assert first_request(other) == 200, "here the guarded function is used"


class TestRightOrders:
    def test_guard_below_the_route_is_right(self, app: Flask) -> None:
        """Guards below the route, also several, and below other decorators, raise nothing."""

        @app.get("/page")
        @passed_on
        @kvs.login_required
        @kvs.roles_required("admin")
        def page() -> str:
            return "guarded"

        assert first_request(app) == 200
        assert app.test_client().get("/page").status_code == 401

    def test_guard_over_a_registered_function_may_be_registered_too(self, app: Flask) -> None:
        """One function may be open under one URL and guarded under another."""

        def page() -> str:
            return "page"

        app.add_url_rule("/open", "open", page)
        app.add_url_rule("/guarded", "guarded", passed_on(kvs.login_required(page)))
        assert first_request(app) == 200

    def test_function_may_be_guarded_in_another_app(self, app: Flask, make_app: MakeApp) -> None:
        """A function that one app guards may be open in another one."""

        def page() -> str:
            return "page"

        app.add_url_rule("/page", "page", page)
        make_app("other").add_url_rule("/page", "page", kvs.login_required(page))
        assert first_request(app) == 200

    def test_guard_that_replaces_the_view_later_is_right(self, app: Flask) -> None:
        """An app may guard a view function in `app.view_functions`."""
        app.add_url_rule("/page", "page", lambda: "page")
        views: dict[str, t.Any] = app.view_functions
        views["page"] = kvs.login_required(views["page"])
        assert first_request(app) == 200
        assert app.test_client().get("/page").status_code == 401

    def test_guard_applied_in_a_request_is_right(self, app: Flask, make_app: MakeApp) -> None:
        """A guard that a view calls for another function is not taken for a mistake, in this app
        and in the next one."""

        def page() -> str:
            return "page"

        app.add_url_rule("/inner", "inner", page)
        app.add_url_rule("/page", "page", lambda: kvs.login_required(page)())
        assert app.test_client().get("/page").status_code == 401
        other = make_app("other")
        other.add_url_rule("/inner", "inner", page)
        assert first_request(other) == 200

    def test_class_views_and_callables_are_left_alone(self, app: Flask, sign_in: SignIn) -> None:
        """Decorators of a class view, and view objects that are no functions, raise nothing."""

        class Page(MethodView):
            decorators: t.ClassVar = [kvs.login_required]

            def get(self) -> str:
                return "page"

        class Callable_:
            __slots__ = ()
            __hash__ = None  # type: ignore[assignment]

            def __call__(self) -> str:
                return "page"

        app.add_url_rule("/page", view_func=Page.as_view("page"))
        app.add_url_rule("/object", "object", Callable_())
        assert sign_in(app).get("/page").text == "page"
        assert app.test_client().get("/object").text == "page"
