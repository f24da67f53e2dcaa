"""`cross_origin_guard` refuses posts of other sites, as Go's `http.CrossOriginProtection` does."""

from __future__ import annotations

import typing as t

import pytest
from flask import Blueprint, Flask
from werkzeug.middleware.proxy_fix import ProxyFix

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


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_safe_methods_pass_from_any_site(app: Flask, method: str, site: str) -> None:
    """GET and HEAD pass from any site."""
    environ = {"HTTP_SEC_FETCH_SITE": site, "HTTP_ORIGIN": "https://evil.example"}
    assert status(app, method, **environ) == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_options_request_passes_from_any_site_only_if_flask_answers_it(
    app: Flask, site: str
) -> None:
    """An OPTIONS request of another site never reaches a view; of the app's own site it does."""
    app.add_url_rule("/automatic", "automatic", pytest.fail, methods=["POST"])
    headers = {"Sec-Fetch-Site": site, "Origin": "https://evil.example"}
    browser = app.test_client()
    assert browser.options("/automatic", headers=headers).status_code == 200
    assert browser.options("/any", headers=headers).status_code == 403
    assert browser.options("/any", headers={"Sec-Fetch-Site": "same-origin"}).text == "ok"
    assert browser.options("/any").text == "ok"


def test_refusal_is_json_unless_a_page_was_asked_for(app: Flask) -> None:
    """A refusal is JSON, or a page if the request asks for a page."""
    browser, other = app.test_client(), {"Sec-Fetch-Site": "cross-site"}
    assert browser.post("/any", headers=other).get_json() == {"error": "Forbidden"}
    page = browser.post("/any", headers=other | {"Accept": "text/html"})
    assert (page.status_code, page.mimetype) == (403, "text/html")


@pytest.mark.parametrize("method", UNSAFE)
def test_other_methods_from_another_site_are_refused(app: Flask, method: str) -> None:
    """All other methods are refused if another site's page sent the request."""
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
def test_sec_fetch_site_decides_whether_a_post_passes(app: Flask, site: str, expected: int) -> None:
    """A post with `Sec-Fetch-Site` passes only if the value is same-origin, none or empty."""
    assert status(app, HTTP_SEC_FETCH_SITE=site) == expected


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_matching_origin_does_not_override_sec_fetch_site(app: Flask, site: str) -> None:
    """If `Sec-Fetch-Site` refuses a post, a matching `Origin` does not let it pass."""
    environ = {"HTTP_SEC_FETCH_SITE": site, "HTTP_ORIGIN": "http://localhost"}
    assert status(app, **environ) == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_foreign_origin_does_not_override_sec_fetch_site(app: Flask, site: str) -> None:
    """If `Sec-Fetch-Site` lets a post pass, the `Origin` is not checked."""
    environ = {"HTTP_SEC_FETCH_SITE": site, "HTTP_ORIGIN": "https://public.example"}
    assert status(app, **environ) == 200


def test_post_without_browser_headers_passes(app: Flask) -> None:
    """A post without `Sec-Fetch-Site` and `Origin` passes, because no browser sent it."""
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
        ("//app.example", "app.example", 403),
        ("\x01//app.example", "app.example", 403),
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
def test_origin_must_match_the_host_and_the_port(
    app: Flask, origin: str, host: str, expected: int
) -> None:
    """Without `Sec-Fetch-Site`, a post passes only if host and port of `Origin` match `Host`."""
    assert status(app, HTTP_ORIGIN=origin, HTTP_HOST=host) == expected


def test_guard_is_active_in_testing_mode(app: Flask) -> None:
    """`TESTING` does not switch the guard off."""
    for testing in (True, False):
        app.testing = testing
        assert status(app, HTTP_SEC_FETCH_SITE="cross-site") == 403


def test_refused_post_costs_no_redis_call(
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


def test_error_handler_of_the_app_gives_the_response(app: Flask) -> None:
    """The app's error handler for 403 gives the response."""
    app.register_error_handler(403, lambda error: ("no", 418))
    assert status(app, HTTP_SEC_FETCH_SITE="cross-site") == 418


def test_guard_can_protect_one_blueprint_or_one_view(make_app: MakeApp) -> None:
    """The guard works as a hook of a blueprint and as a call in a view."""
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


def test_post_from_the_apps_own_page_passes(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A post from the app's own page passes."""
    browser = sign_in(app)
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}
    assert browser.post("/data", json={"x": 1}, headers=headers).status_code == 200
    assert browser.get("/data").get_json() == {"x": 1}


class TestProxyThatHidesTheHost:
    """An app behind a proxy that does not pass Host on refuses its own posts, and the log says
    why."""

    OWN: t.ClassVar = {"HTTP_HOST": "backend:8000", "HTTP_ORIGIN": "https://app.example"}

    def warnings(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [line for line in caplog.messages if line.startswith("A post was refused")]

    def test_warning_names_both_hosts_and_the_remedies(
        self, app: Flask, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One warning for each host names Origin, Host, ProxyFix and the setting."""
        for _ in range(2):
            assert status(app, **self.OWN) == 403
        (line,) = self.warnings(caplog)
        for word in (
            "'https://app.example'",
            "'backend:8000'",
            "x_host=1",
            "KVSESSION_TRUSTED_ORIGINS",
        ):
            assert word in line
        status(app, **self.OWN | {"HTTP_HOST": "other:8000"})
        assert len(self.warnings(caplog)) == 2

    def test_proxy_fix_lets_the_post_pass(self, app: Flask) -> None:
        """The remedy that the warning names works."""
        app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)  # type: ignore[method-assign]
        assert status(app, **self.OWN, HTTP_X_FORWARDED_HOST="app.example") == 200

    def test_post_that_the_browser_calls_cross_site_is_no_such_case(
        self, app: Flask, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the browser itself says that another site sent the post, nothing is proposed."""
        assert status(app, **self.OWN, HTTP_SEC_FETCH_SITE="cross-site") == 403
        assert self.warnings(caplog) == []

    def test_client_cannot_fill_the_log(self, app: Flask, caplog: pytest.LogCaptureFixture) -> None:
        """A client that invents hosts and origins causes at most 200 warnings, each on one line."""
        for number in range(250):
            origin = f"https://{number}.example\nINFO forged"
            status(app, HTTP_HOST=f"h{number}", HTTP_ORIGIN=origin)
        lines = self.warnings(caplog)
        assert len(lines) == 200
        assert not any("\n" in line for line in lines)
