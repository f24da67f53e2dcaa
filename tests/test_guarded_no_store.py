"""`KVSESSION_GUARDED_NO_STORE`: no browser keeps a page that a guard has let through."""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Blueprint, Flask, Response, abort, make_response, redirect, request, send_file

import flask_kvsession as kvs

from .support.apps import MakeApp
from .support.browsers import SignIn, browser_with, token_of

View = Callable[[], t.Any]

GUARDS: dict[str, Callable[[t.Any], t.Any]] = {
    "login": kvs.login_required,
    "fresh": kvs.fresh_login_required,
    "role": kvs.roles_required("admin"),
}


def add(app: Flask, view: View, path: str = "/page") -> None:
    app.add_url_rule(path, path, kvs.login_required(view))


def cache_control(app: Flask, sign_in: SignIn, path: str = "/page", **kwargs: t.Any) -> str | None:
    response = sign_in(app, data={"role": "admin"}).get(path, **kwargs)
    response.close()
    return response.headers.get("Cache-Control")


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_response_that_a_guard_let_through_is_not_stored(
    app: Flask, sign_in: SignIn, guard: Callable[[t.Any], t.Any]
) -> None:
    """Each guard makes the response of its view `no-store`."""
    app.add_url_rule("/page", view_func=guard(lambda: "private"), endpoint="page")
    assert cache_control(app, sign_in) == "no-store"


def test_guard_of_a_blueprint_counts_too(app: Flask, sign_in: SignIn) -> None:
    """A guard over a `before_request` function makes every response of the blueprint `no-store`."""
    blueprint = Blueprint("account", __name__)
    blueprint.before_request(kvs.login_required(lambda: None))
    blueprint.add_url_rule("/page", view_func=lambda: "private", endpoint="page")
    app.register_blueprint(blueprint)
    assert cache_control(app, sign_in) == "no-store"


def test_protected_path_counts_too(make_app: MakeApp, sign_in: SignIn) -> None:
    """`KVSESSION_PROTECTED_PATHS` makes responses `no-store`, also that of an unknown page."""
    app = make_app(protected_paths=("/page/*",))
    app.add_url_rule("/page", view_func=lambda: "private", endpoint="page")
    assert cache_control(app, sign_in) == "no-store"
    assert cache_control(app, sign_in, "/page/unknown") == "no-store"


def test_response_without_a_guard_is_left_alone(app: Flask, sign_in: SignIn) -> None:
    """A view that only reads the session decides for itself."""
    assert cache_control(app, sign_in, "/data") is None
    assert cache_control(app, sign_in, "/untouched") is None


@pytest.mark.parametrize("header", ["private, max-age=60", "public", "no-cache", ""])
def test_view_that_sets_cache_control_is_left_alone(
    app: Flask, sign_in: SignIn, header: str
) -> None:
    """Whatever Cache-Control a view has set, also an empty one, stays."""
    add(app, lambda: ("private", 200, {"Cache-Control": header}))
    assert cache_control(app, sign_in) == header


def test_hook_that_sets_cache_control_is_left_alone(app: Flask, sign_in: SignIn) -> None:
    """A Cache-Control of an `after_request` function stays."""
    add(app, lambda: "private")

    @app.after_request
    def set_header(response: Response) -> Response:
        response.headers.setdefault("Cache-Control", "private")
        return response

    assert cache_control(app, sign_in) == "private"


def _not_modified() -> t.Any:
    response = make_response("private")
    response.set_etag("x")
    return response.make_conditional(request)


OTHER_RESPONSES: dict[str, tuple[View, int]] = {
    "stream": (lambda: Response(iter(["private"])), 200),
    "redirect": (lambda: redirect("/elsewhere"), 302),
    "not found": (lambda: abort(404), 404),
    "error": (lambda: (_ for _ in ()).throw(RuntimeError), 500),
    "304": (_not_modified, 304),
}


@pytest.mark.parametrize(("view", "status"), OTHER_RESPONSES.values(), ids=OTHER_RESPONSES)
def test_other_responses_are_not_stored_either(
    app: Flask, sign_in: SignIn, view: View, status: int
) -> None:
    """A stream, a redirect, an error and a 304 of a guarded view are `no-store`."""
    app.config["PROPAGATE_EXCEPTIONS"] = False
    add(app, view)
    response = sign_in(app).get("/page", headers={"If-None-Match": '"x"'})
    assert (response.status_code, response.headers["Cache-Control"]) == (status, "no-store")


def test_file_is_not_stored_unless_the_view_gives_its_age(
    app: Flask, sign_in: SignIn, tmp_path: Path
) -> None:
    """`send_file` says `no-cache` by itself, which becomes `no-store`; with `max_age` the view has
    chosen."""
    file = tmp_path / "file.txt"
    file.write_text("private")
    add(app, lambda: send_file(file), "/file")
    add(app, lambda: send_file(file, max_age=60), "/kept")
    assert cache_control(app, sign_in, "/file") == "no-store"
    assert "max-age=60" in (cache_control(app, sign_in, "/kept") or "")


def test_page_stays_private_if_its_view_signs_out(app: Flask, sign_in: SignIn) -> None:
    """The response of a guarded logout is `no-store`."""

    def sign_out() -> str:
        kvs.logout_user()
        return "bye"

    add(app, sign_out)
    assert cache_control(app, sign_in) == "no-store"


def test_setting_can_be_switched_off(make_app: MakeApp, sign_in: SignIn) -> None:
    """With the setting False, a guarded response has no Cache-Control."""
    app = make_app(guarded_no_store=False)
    assert cache_control(app, sign_in, "/me") is None


def test_flask_session_has_it_too(make_app: MakeApp, sign_in: SignIn) -> None:
    """Guards of an app whose `flask.session` is this session do the same."""
    app = make_app(as_flask_session=True)
    browser = sign_in(app)
    again = browser_with(app, None)
    again.set_cookie("session", token_of(browser, "session") or "")
    assert again.get("/me").headers["Cache-Control"] == "no-store"


def test_options_request_that_flask_answers_is_left_alone(app: Flask, sign_in: SignIn) -> None:
    """A preflight passes the guard unchecked, and its response has no Cache-Control."""
    assert "Cache-Control" not in sign_in(app).options("/me").headers
