"""Posts from other sites' pages are refused: the algorithm of Go's `http.CrossOriginProtection`."""

from __future__ import annotations

import pytest
from flask import Blueprint, Flask

import flask_kvsession as kvs

from .support.apps import Do, MakeApp
from .support.browsers import SignIn
from .support.commands import CountCommands, Keys

UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "post"]


@pytest.fixture
def app(app: Flask) -> Flask:
    """An app whose every view is guarded."""
    app.before_request(kvs.cross_origin_guard)
    app.add_url_rule("/any", methods=[*UNSAFE, "GET", "OPTIONS"], view_func=lambda: "ok")
    return app


def status(app: Flask, method: str = "POST", **environ: str) -> int:
    return app.test_client().open("/any", method=method, environ_overrides=environ).status_code


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_safe_methods_pass(app: Flask, method: str, site: str) -> None:
    """GET, HEAD and OPTIONS pass wherever they come from."""
    environ = {"HTTP_SEC_FETCH_SITE": site, "HTTP_ORIGIN": "https://evil.example"}
    assert status(app, method, **environ) == 200


def test_programs_are_answered_in_json(app: Flask) -> None:
    """A refusal is JSON like our others, and a page where one was asked for."""
    browser, other = app.test_client(), {"Sec-Fetch-Site": "cross-site"}
    assert browser.post("/any", headers=other).get_json() == {"error": "Forbidden"}
    page = browser.post("/any", headers=other | {"Accept": "text/html"})
    assert (page.status_code, page.mimetype) == (403, "text/html")


@pytest.mark.parametrize("method", UNSAFE)
def test_other_methods_do_not(app: Flask, method: str) -> None:
    """All other methods are refused when another site's page sent them."""
    assert status(app, method, HTTP_SEC_FETCH_SITE="cross-site") == 403
    assert status(app, method, HTTP_ORIGIN="https://evil.example") == 403


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("same-origin", 200),
        ("none", 200),
        ("", 200),
        ("same-site", 403),
        ("cross-site", 403),
        ("unknown", 403),
        ("Same-Origin", 403),
        ("same-origin, cross-site", 403),
        ("same-origin\x00", 403),
        ("null", 403),
        ("*", 403),
    ],
)
def test_what_the_browser_says_decides(app: Flask, site: str, expected: int) -> None:
    """`Sec-Fetch-Site` same-origin or none passes, an empty one says nothing, all else does not."""
    assert status(app, HTTP_SEC_FETCH_SITE=site) == expected


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_a_matching_origin_does_not_outweigh_it(app: Flask, site: str) -> None:
    """Where `Sec-Fetch-Site` refuses, an `Origin` equal to the host is of no use."""
    environ = {"HTTP_SEC_FETCH_SITE": site, "HTTP_ORIGIN": "http://localhost"}
    assert status(app, **environ) == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_a_foreign_origin_does_not_outweigh_it(app: Flask, site: str) -> None:
    """Where `Sec-Fetch-Site` lets pass, the `Origin` is not asked: a proxy may change the host."""
    environ = {"HTTP_SEC_FETCH_SITE": site, "HTTP_ORIGIN": "https://public.example"}
    assert status(app, **environ) == 200


def test_what_is_no_browser_passes(app: Flask) -> None:
    """Without `Sec-Fetch-Site` and `Origin` a request is not from a browser's page."""
    assert status(app) == 200


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        ("http://app.example", "app.example", 200),
        ("https://app.example", "app.example", 200),
        ("https://app.example:8443", "app.example:8443", 200),
        ("http://[::1]:5000", "[::1]:5000", 200),
        ("http://app.example", "app.example:5000", 403),
        ("http://app.example:5000", "app.example", 403),
        ("http://app.example:5001", "app.example:5000", 403),
        ("http://evil.app.example", "app.example", 403),
        ("http://app.example.evil", "app.example", 403),
        ("http://evil-app.example", "app.example", 403),
        ("http://app.example@evil", "app.example", 403),
        ("http://evil@app.example", "app.example", 403),
        ("http://evil/app.example", "app.example", 403),
        ("app.example", "app.example", 403),
        ("null", "app.example", 403),
        ("null", "", 403),
        ("null", "a@evil", 403),
        ("http://", "", 403),
        ("*", "app.example", 403),
        ("http://[::1", "app.example", 403),
        ("http://[", "app.example", 403),
        ("http://app.example:port", "app.example", 403),
        ("http://a\x00b", "app.example", 403),
        ("\xff\xfe", "app.example", 403),
        ("http://\xe9.example", "app.example", 403),
        ("http://app.example, http://evil", "app.example", 403),
        ("x" * 100_000, "app.example", 403),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_origin_must_be_the_host(app: Flask, origin: str, host: str, expected: int) -> None:
    """Without `Sec-Fetch-Site` the `Origin`'s host and port must be the `Host`; garbage is not."""
    assert status(app, HTTP_ORIGIN=origin, HTTP_HOST=host) == expected


def test_it_holds_in_testing_mode(app: Flask) -> None:
    """TESTING switches nothing off."""
    for testing in (True, False):
        app.testing = testing
        assert status(app, HTTP_SEC_FETCH_SITE="cross-site") == 403


def test_it_comes_before_redis(
    app: Flask, sign_in: SignIn, keys: Keys, count_commands: CountCommands
) -> None:
    """A refused post costs no Redis call, changes nothing and sends no cookie."""
    browser = sign_in(app)
    before = keys()
    with count_commands() as commands:
        responses = [
            browser.post(path, json={"x": 1}, headers={"Sec-Fetch-Site": "cross-site"})
            for path in ("/logout", "/login/eve", "/data")
        ]
    assert [response.status_code for response in responses] == [403] * 3
    assert not any("Set-Cookie" in response.headers for response in responses)
    assert not commands.names
    assert keys() == before
    assert browser.get("/me").get_json() == {**browser.get("/me").get_json(), "data": {}}


def test_the_apps_own_handler_wins(app: Flask) -> None:
    """The refusal is a 403 like any other, for the app's error page."""
    app.register_error_handler(403, lambda error: ("no", 418))
    assert status(app, HTTP_SEC_FETCH_SITE="cross-site") == 418


def test_it_may_guard_one_blueprint_or_view(make_app: MakeApp) -> None:
    """It is a plain function: for a blueprint's hook, or to call in a view."""
    app = make_app()
    blueprint = Blueprint("forms", __name__)
    blueprint.before_request(kvs.cross_origin_guard)
    blueprint.post("/form")(lambda: "form")
    app.register_blueprint(blueprint)

    @app.post("/other")
    def other() -> str:
        kvs.cross_origin_guard()
        return "other"

    headers = {"Sec-Fetch-Site": "cross-site"}
    statuses = [
        app.test_client().post(path, json={}, headers=headers).status_code
        for path in ("/form", "/other", "/data")
    ]
    assert statuses == [403, 403, 200]


def test_a_post_of_ones_own_page_goes_through(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A form of the app's own page works as ever."""
    browser = sign_in(app)
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}
    assert browser.post("/data", json={"x": 1}, headers=headers).status_code == 200
    assert browser.get("/data").get_json() == {"x": 1}
