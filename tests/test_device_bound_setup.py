"""Device-bound sessions in an app: settings, the app's own hooks, proxies, other kinds of apps."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import typing as t
from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask import Blueprint, Flask, Response, abort, g, request, session
from flask_wtf import CSRFProtect  # type: ignore[import-untyped]
from flask_wtf.csrf import generate_csrf  # type: ignore[import-untyped]
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

import flask_kvsession as kvs
from flask_kvsession import binding, device_bound
from flask_kvsession.errors import ConfigurationError, StoreUnavailable

from .support.apps import MakeApp
from .support.clock import Clock
from .support.device import (
    COOKIE,
    HTTPS,
    ID,
    OFFER,
    PROOF,
    SKIPPED,
    Device,
    Offer,
    challenge_of,
    offering,
    signed,
)
from .support.devices import badges_on
from .support.servers import Server, wait_until


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s"))
    yield server
    server.kill()


# Settings


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"cookie_secure": False}, "KVSESSION_COOKIE_SECURE = True"),
        ({"cookie_path": "/app"}, "KVSESSION_COOKIE_PATH"),
        ({"cookie_domain": "example.com"}, "KVSESSION_COOKIE_DOMAIN"),
        ({"cookie_partitioned": True, "cookie_samesite": "None"}, "KVSESSION_COOKIE_PARTITIONED"),
    ],
)
def test_a_cookie_that_cannot_be_bound_is_refused_at_start(
    make_app: MakeApp, settings: dict[str, t.Any], names: str
) -> None:
    """The error names the setting that stands against the offer, and both remedies."""
    with pytest.raises(ConfigurationError) as error:
        make_app(device_bound="offer", **settings)
    assert 'KVSESSION_DEVICE_BOUND = "offer"' in str(error.value)
    assert names in str(error.value)
    assert "or remove KVSESSION_DEVICE_BOUND" in str(error.value)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({}, "SESSION_COOKIE_SECURE = True"),
        ({"SESSION_COOKIE_SECURE": True, "APPLICATION_ROOT": "/app"}, "SESSION_COOKIE_PATH"),
        ({"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_DOMAIN": "a.b"}, "SESSION_COOKIE_DOMAIN"),
        (
            {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_PARTITIONED": True},
            "SESSION_COOKIE_PARTITIONED",
        ),
    ],
)
def test_a_flask_session_that_cannot_be_bound_is_refused_at_the_first_request(
    make_app: MakeApp, config: dict[str, t.Any], names: str
) -> None:
    """With `flask.session`, the error names Flask's own setting."""
    app = offering(make_app(device_bound="offer", as_flask_session=True))
    app.config.update(config)
    with pytest.raises(ConfigurationError, match=names):
        app.test_client().get("/untouched")


def test_without_the_blueprint_the_offer_is_an_error(make_app: MakeApp) -> None:
    """The first request raises, and the message has the line to add."""
    app = make_app(device_bound="offer")
    with pytest.raises(ConfigurationError, match=r"app\.register_blueprint\(device_b"):
        app.test_client().get("/untouched")


def test_without_the_extra_the_offer_is_an_error(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without joserfc, the message has the command that installs it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "joserfc" else find(name)
    )
    with pytest.raises(ConfigurationError, match=r"Flask-KVSession-Redis\[device-bound\]"):
        make_app(device_bound="offer")


def test_the_guard_without_the_setting_is_an_error(make_app: MakeApp) -> None:
    """`bound_device_required` without the offer would let nobody in, so it raises."""
    app = make_app()
    app.add_url_rule("/guarded", "guarded", kvs.bound_device_required(lambda: "in"))
    with pytest.raises(ConfigurationError, match='KVSESSION_DEVICE_BOUND = "offer"'):
        app.test_client().get("/guarded")


def test_in_development_the_cookie_of_an_offer_is_secure(make_app: MakeApp) -> None:
    """In debug and testing mode too, because the offer is of use over https only."""
    response = offering(make_app(device_bound="offer")).test_client().post("/login/ada")
    assert response.headers["Set-Cookie"].startswith(f"{COOKIE}=")
    assert "Secure" in response.headers["Set-Cookie"]


def test_the_lifetime_is_that_of_the_short_cookie(make_app: MakeApp, clock: Clock) -> None:
    """`KVSESSION_DEVICE_BOUND_LIFETIME` is its Max-Age, and ends it in the store's eyes."""
    app = offering(make_app(device_bound="offer", device_bound_lifetime=timedelta(minutes=2)))
    device = Device(app)
    device.sign_in()
    assert "Max-Age=120;" in device.register().headers["Set-Cookie"]
    clock.advance(minutes=2, seconds=10)
    assert device.copy(COOKIE, device.short_name).get().status_code == 401


def test_a_lifetime_that_browsers_cannot_keep_up_with_is_a_warning(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Below 4 minutes the log has one warning, which names the setting; with 4 minutes, none."""
    for minutes, warnings in ((4, 0), (1, 1)):
        caplog.clear()
        lifetime = timedelta(minutes=minutes)
        app = offering(make_app(device_bound="offer", device_bound_lifetime=lifetime))
        for _ in range(2):
            app.test_client().get("/untouched")
        said = [text for text in caplog.messages if "KVSESSION_DEVICE_BOUND_LIFETIME" in text]
        assert len(said) == warnings


# The app's own hooks


def own_page(error: Exception) -> tuple[str, int]:
    return "the app's own page", 404


def strict(make_app: MakeApp, **settings: t.Any) -> Flask:
    """An app whose guards, hooks, extensions and error handlers would each end a binding."""
    app = make_app(device_bound="offer", protected_paths=["/device-bound/*"], **settings)
    app.config["SECRET_KEY"] = "x"
    app.before_request(kvs.cross_origin_guard)
    CSRFProtect(app).exempt(app.view_functions["login"])

    @app.before_request
    def refuse() -> None:
        if request.path.startswith("/device-bound"):
            abort(401)

    for kind in (Exception, HTTPException, StoreUnavailable, 401, 403, 404, 500, 503):
        app.register_error_handler(kind, own_page)
    blueprint = Blueprint("device_area", __name__)
    blueprint.before_request(lambda: abort(401))
    blueprint.register_blueprint(kvs.device_bound_blueprint)
    app.register_blueprint(blueprint)
    return app


def test_no_hook_of_the_app_answers_a_browser(make_app: MakeApp) -> None:
    """Neither a protected path nor Flask-WTF, nor a `before_request` function of the app or of a
    blueprint around ours, nor an error handler, changes an answer to a browser."""
    device = Device(strict(make_app))
    device.sign_in()
    assert device.post("/data", json={}).text == "the app's own page"  # there is no CSRF token
    assert device.register("x").get_json() == {"error": "InvalidProof"}
    assert device.register().status_code == 200
    other_site = {ID: device.session_id, "Origin": "https://other.example"}
    assert device.post("/device-bound/refresh", other_site).status_code == 403
    assert device.refresh().status_code == 200
    device.post("/logout")
    assert Device(strict(make_app)).post("/device-bound/refresh").get_json()["continue"] is False


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SubdomainFlask", {"url_prefix": "/<tenant>/binding"}),
        ("SubdomainFlask", {"subdomain": "auth"}),
        ("HostFlask", {}),
    ],
    ids=["a variable", "a subdomain", "host matching"],
)
def test_urls_that_a_browser_could_not_call_are_an_error(
    make_app: MakeApp, kind: str, options: dict[str, str]
) -> None:
    """The URLs need no value, and belong to the one host of the app."""
    app = offering(make_app(device_bound="offer", flask_class=globals()[kind]), **options)
    app.config["SERVER_NAME"] = "shop.example"
    with pytest.raises(ConfigurationError, match="without a variable part"):
        app.test_client().get("/untouched", base_url="http://shop.example")


class HostFlask(Flask):
    def __init__(self, name: str) -> None:
        super().__init__(name, host_matching=True, static_host="shop.example")


class SubdomainFlask(Flask):
    def __init__(self, name: str) -> None:
        super().__init__(name, subdomain_matching=True)


def test_a_wrapped_view_is_found(make_app: MakeApp) -> None:
    """An extension may wrap every view, as those do that count requests."""
    app = offering(make_app(device_bound="offer"))
    for endpoint, view in app.view_functions.items():
        wrapped: t.Any = functools.wraps(view)(functools.partial(view))
        app.view_functions[endpoint] = wrapped
    device = Device(app).bind()
    assert device.refresh().status_code == 200


def test_without_the_extra_and_the_setting_the_urls_are_503(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An app may register the blueprint and offer nothing, without joserfc. A browser that another
    worker has bound keeps its binding then, because the answer is no 4xx."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delattr(device_bound, "endpoints", raising=False)
    monkeypatch.setitem(sys.modules, "flask_kvsession.device_bound.endpoints", None)
    browser = offering(make_app()).test_client()
    assert browser.get("/untouched").status_code == 200
    assert browser.post("/device-bound/refresh").status_code == 503
    assert "[device-bound]" in caplog.text


def test_a_login_over_plain_http_is_a_warning_on_the_own_machine_too(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Browsers bind over https only, so the warning names the setting and ProxyFix."""
    browser = offering(make_app(device_bound="offer")).test_client()
    for _ in range(2):
        browser.post("/login/ada", base_url="http://localhost")
    [said] = [text for text in caplog.messages if "plain http" in text]
    assert "KVSESSION_DEVICE_BOUND" in said and "ProxyFix" in said
    assert "KVSESSION_COOKIE_SECURE" not in said


@pytest.mark.parametrize("as_flask_session", [False, True])
def test_no_function_of_the_app_is_called_for_a_browser(
    make_app: MakeApp, own_server: Server, as_flask_session: bool
) -> None:
    """Functions that set a cookie, read the session, measure the time since another function, or
    raise are not called, also if the store fails. Only functions of teardown are."""
    url = f"unix://{own_server.path}"
    app = make_app(
        device_bound="offer", redis_url=url, store_timeout=0.3, as_flask_session=as_flask_session
    )
    app.config["SESSION_COOKIE_SECURE"] = True
    called: list[str] = []

    def note(name: str) -> None:
        if request.path.startswith("/device-bound"):
            called.append(name)

    @app.url_value_preprocessor
    def read_url(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
        note("url_value_preprocessor")

    @app.before_request
    def start() -> None:
        note("before_request")

    @app.after_request
    def finish(response: Response) -> Response:
        note("after_request")
        response.set_cookie("XSRF-TOKEN", str(g.session.user_id))
        return response

    @app.teardown_request
    def end(error: BaseException | None) -> None:
        note("teardown_request")

    for kind in (Exception, HTTPException, StoreUnavailable):
        app.register_error_handler(kind, lambda error: ("a page", 200))
    device = Device(offering(app), name="session" if as_flask_session else COOKIE).bind()
    answer = device.ask()
    assert "Vary" not in answer.headers
    assert "Set-Cookie" not in answer.headers
    own_server.stop()
    answer = device.ask()
    assert (answer.status_code, answer.get_json()) == (503, {"error": "StoreUnavailable"})
    assert called == ["teardown_request"] * 3


def test_each_registration_of_the_blueprint_answers(make_app: MakeApp) -> None:
    """A binding of an earlier URL goes on, if the blueprint is registered there too, last and under
    another name. New sessions are bound at the first one."""
    app = offering(make_app(device_bound="offer"), url_prefix="/new")
    offering(app, name="old_urls")
    app.before_request(lambda: abort(401) if "/refresh" in request.path else None)
    device = Device(app)
    device.sign_in()
    assert device.offer and device.offer.path == "/new/register"
    device.register()
    assert device.instructions["refresh_url"] == "/new/refresh"
    for path in ("/new/refresh", "/device-bound/refresh"):
        assert device.post(path, {ID: device.session_id}).status_code == 403


def test_a_process_that_answers_no_browser_needs_no_blueprint(make_app: MakeApp) -> None:
    """A worker process with the settings of the app lists and revokes bound sessions."""
    device = Device(offering(make_app(device_bound="offer"))).bind()
    worker = make_app(device_bound="offer")
    with worker.app_context():
        [listed] = kvs.list_sessions("ada")
        assert listed.is_device_bound
        assert kvs.revoke_session(listed.id, "ada")
    assert device.get().status_code == 401


def test_a_login_on_another_host_is_not_bound(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """A binding holds for one host. A login on a subdomain gets no offer, and the log says why; one
    on the host of the app does."""
    app = make_app(device_bound="offer", flask_class=SubdomainFlask, views=False)
    app.config["SERVER_NAME"] = "shop.example"
    offering(app)

    def login() -> str:
        kvs.login_user("ada")
        return ""

    app.add_url_rule("/login/ada", "login", login, methods=["POST"])
    app.add_url_rule("/login/ada", "login_there", login, methods=["POST"], subdomain="api")
    here = app.test_client().post("/login/ada", base_url="https://shop.example")
    there = app.test_client().post("/login/ada", base_url="https://api.shop.example")
    assert OFFER in here.headers
    assert there.status_code == 200
    assert OFFER not in there.headers
    assert "another host than that of device_bound_blueprint" in caplog.text


def test_a_planted_cookie_is_not_accepted_beside_an_unproven_one(
    make_app: MakeApp, clock: Clock
) -> None:
    """A sibling host can plant a cookie of Flask's own name. Beside the session of a user whose
    device is not proven, it signs nobody in, as beside one that is."""
    app = offering(make_app(device_bound="offer", as_flask_session=True))
    app.config["SESSION_COOKIE_SECURE"] = True
    ada, eve = Device(app, name="session").bind("ada"), Device(app, name="session")
    eve.sign_in("eve")
    clock.advance(seconds=10)
    both = {"Cookie": f"session={ada.cookie()}; session={eve.cookie()}"}
    plain = app.test_client(use_cookies=False)
    assert plain.get("/me", base_url=HTTPS, headers=both).status_code == 401


def test_a_fault_of_the_code_is_a_503(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If an answer raises anything, the browser gets 503, after which its binding goes on, and the
    log has the traceback."""
    device = Device(strict(make_app)).bind()
    with monkeypatch.context() as broken:
        broken.setattr(binding, "new_challenge", lambda *args: 1 / 0)
        assert device.ask().status_code == 503
    assert "ZeroDivisionError" in caplog.text
    assert device.refresh().status_code == 200


def test_a_store_that_fails_is_a_503_at_the_endpoints(
    make_app: MakeApp, own_server: Server
) -> None:
    """Whatever the app's error handlers say, and for every kind of request of a browser. When the
    store is back, the binding goes on."""
    url = f"unix://{own_server.path}"
    app = offering(make_app(device_bound="offer", redis_url=url, store_timeout=0.3))
    for kind in (Exception, HTTPException, StoreUnavailable, 503):
        app.register_error_handler(kind, own_page)
    device, late = Device(app).bind(), Device(app)
    late.sign_in("bob")
    challenge = challenge_of(device.ask())
    own_server.stop()
    answers = [
        device.ask(),
        device.ask(signed({"jti": challenge}, device.key)),
        device.ask(signed({"jti": "x"}, device.key)),
        late.register(),
    ]
    for response in answers:
        assert response.status_code == 503
        assert response.get_json() == {"error": "StoreUnavailable"}
        assert response.headers["Retry-After"]
        assert "Set-Cookie" not in response.headers
    own_server.resume()
    wait_until(lambda: device.ask().status_code == 403)
    assert device.refresh().status_code == 200
    assert late.register().status_code == 200


def test_a_failed_refresh_is_no_access_without_the_store_either(
    make_app: MakeApp, clock: Clock
) -> None:
    """With `KVSESSION_ON_STORE_FAILURE = "anonymous"`, a page after a failed refresh is anonymous
    if it only reads, and 503 if it is guarded."""
    app = offering(make_app(device_bound="offer", on_store_failure="anonymous"))
    thief = Device(app).bind().copy(COOKIE)
    clock.advance(seconds=10)
    assert thief.get("/data", **{SKIPPED: "server_error"}).get_json() == {}
    assert thief.get("/me", **{SKIPPED: "server_error"}).status_code == 503


# Proxies, prefixes, static files


def test_under_a_prefix_all_urls_have_it(make_app: MakeApp) -> None:
    """In an app under SCRIPT_NAME, with a prefix for the blueprint, the offer and the instructions
    name the whole paths, and the cookie is one of the whole host."""
    app = offering(make_app(device_bound="offer"), url_prefix="/account/binding")
    device = Device(app, base_url=f"{HTTPS}/shop")
    device.sign_in()
    assert device.offer and device.offer.path == "/shop/account/binding/register"
    device.offer = device.offer._replace(path="/account/binding/register")
    response = device.register()
    assert device.instructions["refresh_url"] == "/shop/account/binding/refresh"
    assert device.instructions["scope"]["scope_specification"] == [
        {"type": "exclude", "domain": "*", "path": "/shop/static"}
    ]
    assert "Path=/;" in response.headers["Set-Cookie"]


def test_behind_a_proxy_the_browser_sees_its_own_origin(make_app: MakeApp) -> None:
    """Behind a proxy that ends TLS, with ProxyFix and without, no answer names a scheme or host."""
    for use_fix in (False, True):
        app = offering(make_app(device_bound="offer"))
        if use_fix:
            app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)  # type: ignore[method-assign]
        device = Device(app, base_url="http://10.0.0.5:8000")
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example"}
        device.offer = Offer.of(device.post("/login/ada", headers))
        assert device.offer and device.offer.path.startswith("/device-bound")
        answer = device.post(device.offer.path, {PROOF: device.registration()} | headers)
        assert answer.status_code == 200
        assert "10.0.0.5" not in answer.text
        assert "shop.example" not in answer.text


def test_static_files_need_no_refresh(make_app: MakeApp) -> None:
    """The folders of static files are excluded, those of blueprints too. A folder at the root of
    the site is not: that would exclude every page. Nor is one with files that need a login."""
    app = make_app("site", device_bound="offer", protected_paths=["/papers/private/*", "/books/*"])
    for name in ("papers", "books"):
        path = f"/{name}"
        app.register_blueprint(
            Blueprint(name, __name__, static_folder=".", static_url_path=path), name=name
        )
    app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
    at_root = Blueprint("root", __name__, static_folder=".", static_url_path="/")
    app.register_blueprint(at_root)
    reports = Blueprint("reports", __name__, url_prefix="/reports")
    reports.add_url_rule("/<name>", "static", lambda name: "not a file")
    app.register_blueprint(reports)
    app.add_url_rule("/invoices/<name>", "invoices.static", lambda name: "not a file")
    device = Device(offering(app)).bind()
    excluded = device.instructions["scope"]["scope_specification"]
    assert [rule["path"] for rule in excluded] == ["/devices/kvsession-static", "/static"]


# Other kinds of apps


def test_an_app_with_flask_session_binds_too(make_app: MakeApp, clock: Clock) -> None:
    """With `KVSESSION_AS_FLASK_SESSION`, the short cookie is named for Flask's session cookie. A
    browser that has lost its key gets the CSRF token of the sign-in form in an anonymous session,
    whose cookie replaces that of the user's session. The sign-in works, and ends no other one."""
    app = offering(make_app(device_bound="offer", as_flask_session=True))
    app.config.update(SESSION_COOKIE_SECURE=True, SECRET_KEY="x", WTF_CSRF_SSL_STRICT=False)
    CSRFProtect(app)
    app.add_url_rule("/form", "form", lambda: generate_csrf())

    def signed_in(device: Device) -> Device:
        token = device.get("/form").text
        response = device.post("/login/ada", {"X-CSRFToken": token})
        assert response.status_code == 200
        device.offer = Offer.of(response)
        return device

    device = signed_in(Device(app, name="session"))
    device.register()
    assert device.short_name.startswith("__Host-session-bound-")
    assert device.get().status_code == 200
    clock.advance(seconds=10)
    lost = device.copy("session")
    assert lost.get().status_code == 401
    long_cookie = lost.cookie()
    assert lost.get("/form").status_code == 200
    assert lost.cookie() != long_cookie
    assert signed_in(lost).get().status_code == 200
    assert device.get().status_code == 200


def test_the_attributes_of_the_short_cookie_are_those_of_its_set_cookie(
    make_app: MakeApp,
) -> None:
    """The browser compares them, so the instructions have SameSite as it is in Set-Cookie, whatever
    case `SESSION_COOKIE_SAMESITE` has."""
    app = offering(make_app(device_bound="offer", as_flask_session=True))
    app.config.update(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="strict")
    device = Device(app, name="session")
    device.sign_in()
    cookie = device.register().headers["Set-Cookie"]
    [credential] = device.instructions["credentials"]
    for attribute in credential["attributes"].split("; "):
        assert f"; {attribute}" in cookie
    assert "SameSite=Strict" in credential["attributes"]


def test_a_worker_with_other_cookie_settings_refreshes_too(make_app: MakeApp) -> None:
    """The short cookie has the attributes that `__Host-` needs, also from an app without the offer
    whose cookies have a path and are not Secure."""
    device = Device(offering(make_app(device_bound="offer"))).bind()
    other = offering(make_app(cookie_name="shop", cookie_path="/app", cookie_partitioned=True))
    challenge = challenge_of(device.ask())
    device.browser = other.test_client()
    cookie = device.ask(signed({"jti": challenge}, device.key)).headers["Set-Cookie"]
    assert cookie.startswith("__Host-shop-bound-")
    assert "Path=/" in cookie and "Secure" in cookie and "HttpOnly" in cookie
    assert "Partitioned" not in cookie


def test_an_app_that_signs_in_by_a_key_binds_too(make_app: MakeApp, clock: Clock) -> None:
    """With `KVSESSION_USER_ID_KEY`, the response to the assignment of the key has the offer. For a
    request without the proof, the key is gone."""
    app = make_app(device_bound="offer", as_flask_session=True, user_id_key="user", views=False)
    app.config.update(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_NAME="__Host-shop")

    @app.post("/login/<user>")
    def login(user: str) -> t.Any:
        session["user"] = user
        return {}

    @app.post("/logout")
    def logout() -> t.Any:
        session.pop("user", None)
        return {}

    @app.get("/me")
    def me() -> t.Any:
        return {"user": session.get("user"), "ended": g.session.ended}

    device = Device(offering(app), name="__Host-shop").bind()
    assert device.short_name.startswith("__Host-shop-bound-")
    clock.advance(seconds=10)
    assert device.get().get_json() == {"user": "ada", "ended": None}
    assert device.copy("__Host-shop").get().get_json() == {"user": None, "ended": "unbound"}
    assert device.refresh().status_code == 200
    device.post("/logout")
    assert device.ask().get_json()["continue"] is False


def test_the_devices_page_and_the_command_line_mark_bound_sessions(make_app: MakeApp) -> None:
    """The page has a mark, its JSON a field, and `flask kvsession list` a column."""
    app = offering(make_app(device_bound="offer"))
    app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
    other, device = Device(app), Device(app)
    other.sign_in()
    device.bind()
    page = device.get("/devices/", Accept="text/html")
    assert badges_on(page.text) == [["This device", "Device-bound"], ["New"]]
    rows = device.get("/devices/").get_json()["sessions"]
    assert [row["device_bound"] for row in rows] == [True, False]
    listed = app.test_cli_runner().invoke(args=["kvsession", "list", "ada"])
    title, *lines = [line.split("\t") for line in listed.output.splitlines()]
    assert [line[title.index("BOUND")] for line in lines].count("yes") == 1
    shown = app.test_cli_runner().invoke(args=["kvsession", "show", device.session_id, "--json"])
    assert json.loads(shown.output)["device_bound"] is True
