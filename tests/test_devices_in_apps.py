"""The devices pages inside apps: several of them, guarded, nested, renamed, with the app's layout,
language and forms, and without the libraries of the extras."""

from __future__ import annotations

import logging
import re
import sys
import time
import typing as t
from urllib.parse import quote

import flask_babel  # type: ignore[import-untyped]
import pytest
from flask import Blueprint, Flask, abort
from flask.testing import FlaskClient
from flask_wtf import CSRFProtect  # type: ignore[import-untyped]
from jinja2 import DictLoader, StrictUndefined
from markupsafe import Markup

import flask_kvsession as kvs

from .conftest import MakeApp, SignIn
from .test_devices import AS_PAGE, FIREFOX, Browsers, names_on, signed_in

Templates = dict[str, str]


def page_at(browser: FlaskClient, path: str) -> str:
    response = browser.get(path, headers=AS_PAGE)
    assert response.status_code == 200
    return response.text


def works_at(app: Flask, path: str) -> bool:
    """Whether the pages are there, with their stylesheet, and sign a device out."""
    browser_of = Browsers(app)
    laptop, phone = browser_of("laptop"), browser_of("phone")
    page = page_at(laptop, path)
    (stylesheet,) = re.findall(r'href="(.*\.css)"', page)
    with laptop.get(stylesheet) as style:
        assert (style.status_code, style.mimetype) == (200, "text/css")
    (action,) = re.findall(r'action="([^"]+/revoke)"', page)
    response = laptop.post(action, headers=AS_PAGE)
    laptop.post(f"{path}revoke-all")
    return response.location == f"{path}?ended=1" and not any(signed_in(phone))


class TestPlaces:
    @pytest.mark.parametrize("path", ["/account/sessions", "", "/ä b"])
    def test_below_any_prefix(self, make_app: MakeApp, path: str) -> None:
        """The pages stand wherever the app registers them."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix=path)
        assert works_at(app, quote(path) + "/")

    def test_two_apps_of_one_process(self, make_app: MakeApp) -> None:
        """A second `create_app()` registers the same blueprint as the first."""
        for name in ("one", "two"):
            app = make_app(name)
            app.register_blueprint(kvs.sessions_blueprint, url_prefix=f"/{name}")
            assert works_at(app, f"/{name}/")

    def test_under_another_name(self, make_app: MakeApp) -> None:
        """An app may give the blueprint another name, and have it twice."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/a", name="devices")
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/b")
        assert works_at(app, "/a/")
        assert works_at(app, "/b/")

    def test_below_a_script_root(self, make_app: MakeApp) -> None:
        """Mounted below a path of the server, the way to sign in and back keeps that path."""
        app = make_app(login_view="sign_in")
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        app.add_url_rule("/sign-in", "sign_in", lambda: "")
        visitor = app.test_client()
        environ = {"SCRIPT_NAME": "/portal"}
        response = visitor.post("/devices/revoke-all", headers=AS_PAGE, environ_overrides=environ)
        assert response.location == "/portal/sign-in?next=/portal/devices/"


def create_app(make_app: MakeApp) -> Flask:
    """What docs/devices.md shows: a blueprint of the app's around ours, with its own guard."""
    account = Blueprint("account", __name__, url_prefix="/account")

    @account.before_request
    @kvs.roles_required("customer")
    def customers_only() -> None:
        pass

    account.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
    app = make_app()
    app.register_blueprint(account)
    return app


class TestGuards:
    def test_an_app_s_own_guard(self, make_app: MakeApp, sign_in: SignIn) -> None:
        """Nested in a blueprint of the app, the pages have its guard too, in each app of a
        process."""
        for _ in range(2):
            app = create_app(make_app)
            assert sign_in(app).get("/account/devices/").status_code == 403
            assert sign_in(app).post("/account/devices/revoke-all").status_code == 403
            customer = sign_in(app, data={"role": "customer"})
            assert customer.get("/account/devices/").status_code == 200
            (action,) = re.findall(
                r'action="([^"]+/revoke-all)"', page_at(customer, "/account/devices/")
            )
            assert action == "/account/devices/revoke-all"

    def test_protected_paths(self, make_app: MakeApp, sign_in: SignIn) -> None:
        """The pages may lie below `KVSESSION_PROTECTED_PATHS`."""
        app = make_app(protected_paths=["/account/*"])
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/account/devices")
        assert works_at(app, "/account/devices/")
        assert app.test_client().get("/account/devices/").status_code == 401

    def test_an_app_s_own_handlers(self, make_app: MakeApp, sign_in: SignIn) -> None:
        """The app's pages for 404, 401 and 403 go before ours."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        for code in (401, 403, 404):
            app.register_error_handler(code, lambda error: (f"ours: {error.code}", error.code))
        browser = sign_in(app)
        assert browser.post(f"/devices/{'x' * 19}/revoke").text == "ours: 404"
        assert app.test_client().get("/devices/").text == "ours: 401"
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert browser.post("/devices/revoke-all", headers=headers).text == "ours: 403"

    def test_a_guard_that_refuses(self, make_app: MakeApp, sign_in: SignIn) -> None:
        """What a hook of the app answers is what the browser gets, with our headers on it."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        app.before_request(lambda: abort(418))
        response = app.test_client().get("/devices/")
        assert response.status_code == 418
        assert response.headers["Cache-Control"] == "no-store"


class TestOtherCsrfProtection:
    @pytest.fixture
    def app(self, make_app: MakeApp) -> Flask:
        app = make_app()
        app.secret_key = "x"
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        csrf = CSRFProtect(app)
        csrf.exempt(app.view_functions["login"])
        return app

    def test_its_token_is_in_our_forms(self, app: Flask) -> None:
        """Beside Flask-WTF's CSRFProtect the forms carry its token, and are accepted."""
        browser_of = Browsers(app)
        laptop, phone = browser_of("laptop"), browser_of("phone")
        page = page_at(laptop, "/devices/")
        assert page.count("<form") == page.count('name="csrf_token"') == 4
        csrf_token = re.findall(r'name="csrf_token" value="([^"]+)"', page)[0]
        others = "/devices/revoke-others"
        assert laptop.post(others).status_code == 400
        sent = laptop.post(others, data={"csrf_token": csrf_token}, headers=AS_PAGE)
        assert sent.location == "/devices/?ended=1"
        assert signed_in(laptop, phone) == [True, False]

    def test_a_token_that_is_text(self, make_app: MakeApp) -> None:
        """Another library's token may be a text instead of a function."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        app.context_processor(lambda: {"csrf_token": "its token"})
        page = page_at(Browsers(app)("laptop"), "/devices/")
        assert 'name="csrf_token" value="its token"' in page

    def test_an_exempted_blueprint_is_still_guarded(self, app: Flask) -> None:
        """An app that exempts the blueprint, for programs, has our protection left."""
        app.extensions["csrf"].exempt(kvs.sessions_blueprint)
        laptop = Browsers(app)("laptop")
        assert laptop.post("/devices/revoke-others").status_code == 200
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert laptop.post("/devices/revoke-others", headers=headers).status_code == 403


LAYOUT = "<title>{% block title %}{% endblock %}</title>{% block head %}{% endblock %}"
LAYOUT += "<style></style><nav>ours</nav>{% block content %}{% endblock %}"


@pytest.fixture
def page_with(make_app: MakeApp) -> t.Callable[..., tuple[str, str | None]]:
    """The list in an app with templates of its own, and the policy sent with it."""

    def page_with(templates: Templates, **env: t.Any) -> tuple[str, str | None]:
        app = make_app()
        app.jinja_loader = DictLoader(templates)
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        for name, value in env.items():
            setattr(app.jinja_env, name, value)
        browser_of = Browsers(app)
        browser_of(FIREFOX)
        response = browser_of("laptop").get("/devices/?ended=2", headers=AS_PAGE)
        assert response.status_code == 200
        return response.text, response.headers.get("Content-Security-Policy")

    return page_with


PageWith = t.Callable[..., tuple[str, str | None]]


class TestTemplates:
    def test_our_own_base_page_has_a_strict_policy(self, page_with: PageWith) -> None:
        """Our own page forbids everything but its stylesheet, and needs no more."""
        page, policy = page_with({})
        assert policy == (
            "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none';"
            " frame-ancestors 'none'"
        )
        assert not re.search(r"<script|<style|\sstyle=|\son\w+=|javascript:|https?://", page)

    def test_in_the_app_s_layout(self, page_with: PageWith) -> None:
        """With a base of the app's the pages stand in its layout, with our stylesheet and without
        our policy."""
        base = '{% extends "layout.html" %}'
        page, policy = page_with({"kvsession/base.html": base, "layout.html": LAYOUT})
        assert "<nav>ours</nav>" in page
        assert "<title>2 devices were signed out. Your devices</title>" in page
        assert "devices.css" in page
        assert names_on(page) == ["laptop", "Firefox on Linux"]
        assert policy is None

    def test_a_page_of_the_app_s(self, page_with: PageWith) -> None:
        """An app may write the whole page by itself; it then has no policy of ours either."""
        own = "{% for row in current + others %}{{ row.device.name }};{% endfor %}"
        assert page_with({"kvsession/sessions.html": own}) == ("laptop;Firefox on Linux;", None)

    def test_a_part_of_the_app_s(self, page_with: PageWith) -> None:
        """An app may write a part by itself, and our policy stays."""
        page, policy = page_with({"kvsession/_session.html": "<li>{{ row.device.kind }}</li>"})
        assert "<li>computer</li>" in page
        assert policy is not None

    def test_an_app_that_is_strict_about_names(self, page_with: PageWith) -> None:
        """Nothing in the pages is undefined, nor depends on how blocks are trimmed."""
        page, _ = page_with({}, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        assert names_on(page) == ["laptop", "Firefox on Linux"]


GERMAN = {
    "Your devices": "Deine Geräte",
    "%(browser)s on %(system)s": "%(browser)s auf %(system)s",
    "Active %(when)s": "Aktiv %(when)s",
    "%(num)d devices were signed out.": "%(num)d Geräte wurden abgemeldet.",
    "Yes, sign it out": "Ja, <abmelden>",
}


def german(message: str) -> str:
    return GERMAN.get(message, message)


def german_many(singular: str, plural: str, number: int) -> str:
    return german(singular if number == 1 else plural)


class TestTexts:
    @pytest.mark.parametrize("kind", ["newstyle", "oldstyle", "globals only"])
    def test_are_the_app_s_language(self, make_app: MakeApp, kind: str) -> None:
        """Where the app's Jinja environment translates, so do the pages, whichever way it does."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        if kind == "globals only":
            app.jinja_env.globals.update(gettext=german, ngettext=german_many)
        else:
            app.jinja_env.add_extension("jinja2.ext.i18n")
            app.jinja_env.install_gettext_callables(  # type: ignore[attr-defined]
                german, german_many, newstyle=kind == "newstyle"
            )
        browser_of = Browsers(app)
        browser_of(FIREFOX.replace("Firefox/", "<b>/"))
        browser_of(FIREFOX)
        page = page_at(browser_of("laptop"), "/devices/?ended=2")
        assert "<h1>Deine Geräte</h1>" in page
        assert "2 Geräte wurden abgemeldet." in page
        assert "Firefox auf Linux" in page
        assert 'Aktiv <time datetime="' in page
        assert "<b>/" not in page

    def test_escape_what_the_app_s_function_does_not(self, make_app: MakeApp) -> None:
        """With Flask-Babel's own functions in place of Jinja's wrappers, which would escape, a user
        agent is text all the same, and numbers are put in."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        flask_babel.Babel(app)
        app.jinja_env.globals.update(gettext=flask_babel.gettext, ngettext=flask_babel.ngettext)
        assert app.jinja_env.newstyle_gettext  # type: ignore[attr-defined]
        browser_of = Browsers(app)
        browser_of("<img src=x onerror=alert(1)>/1 CFNetwork/1 Darwin/20.0")
        page = page_at(browser_of(FIREFOX), "/devices/?ended=2")
        assert "<img" not in page
        assert "&lt;img" in page
        assert "Firefox on Linux" in page
        assert "2 devices were signed out." in page

    def test_are_english_otherwise(self, page_with: PageWith) -> None:
        """Without any translation the texts are as they are in the templates."""
        page, _ = page_with({})
        assert "<h1>Your devices</h1>" in page
        assert not re.search(r"%\(|%[sd]", page)


class TestPlainer:
    @pytest.fixture
    def laptop(self, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
        for name in ("ua_parser", "humanize"):
            monkeypatch.setitem(sys.modules, name, None)
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        browser_of = Browsers(app)
        browser_of("<i>phone")
        return browser_of(FIREFOX)

    def test_without_the_extra(self, laptop: FlaskClient) -> None:
        """Without ua-parser and humanize there are user agents and exact times instead."""
        page = page_at(laptop, "/devices/")
        assert names_on(page) == [FIREFOX, "&lt;i&gt;phone"]
        assert re.search(r"Active <time [^>]+><time [^>]+>\d+ \w+ \d{4}, \d\d:\d\d UTC<", page)
        assert laptop.get("/devices/").get_json()["sessions"][0]["device"] == FIREFOX


class TestPlaceNames:
    def app(self, make_app: MakeApp, locate: t.Any) -> Browsers:
        app = make_app(locate=locate)
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        return Browsers(app)

    def test_stand_beside_the_address(self, make_app: MakeApp) -> None:
        """What the app's function says of an address stands before it, escaped, and in the JSON;
        it is asked once for each address."""
        asked: list[str] = []

        def locate(ip: str) -> str | None:
            asked.append(ip)
            return {"192.0.2.1": "<Lyon>", "192.0.2.2": Markup("<b>Rome</b>")}.get(ip)

        browser_of = self.app(make_app, locate)
        for ip in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
            browser_of("x", ip=ip)
        laptop = browser_of("laptop")
        page = page_at(laptop, "/devices/")
        assert "<span>&lt;Lyon&gt;</span>" in page
        assert "<span>&lt;b&gt;Rome&lt;/b&gt;</span>" in page
        assert sorted(asked) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        current, *others = laptop.get("/devices/").get_json()["sessions"]
        assert current["location"] == "<Lyon>"
        assert {row["location"] for row in others} == {"<Lyon>", None, "<b>Rome</b>"}

    def test_do_not_hold_the_list_up(self, make_app: MakeApp, monkeypatch: t.Any) -> None:
        """When they have taken a second in all, what is left is shown without."""
        now = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])

        def locate(ip: str) -> str:
            now[0] += 0.6
            return f"place of {ip}"

        browser_of = self.app(make_app, locate)
        for ip in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
            browser_of("x", ip=ip)
        rows = browser_of("laptop", ip="192.0.2.9").get("/devices/").get_json()["sessions"]
        assert [row["location"] is None for row in rows] == [False, False, True, True]

    @pytest.mark.parametrize("place", [b"Lyon", 5, ["Lyon"], object()])
    def test_are_text_or_nothing(self, make_app: MakeApp, place: t.Any) -> None:
        """What is no text is no place."""
        laptop = self.app(make_app, lambda ip: place)("laptop")
        assert laptop.get("/devices/").get_json()["sessions"][0]["location"] is None

    def test_are_a_help_only(self, make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
        """A function that fails is logged, once for each list, and the list is there without."""

        def locate(ip: str) -> str | None:
            raise OSError("no network")

        browser_of = self.app(make_app, locate)
        browser_of("phone", ip="192.0.2.2")
        laptop = browser_of("laptop")
        with caplog.at_level(logging.ERROR):
            assert names_on(page_at(laptop, "/devices/")) == ["laptop", "phone"]
        (logged,) = caplog.records
        assert "KVSESSION_LOCATE" in logged.getMessage()

    def test_are_asked_for_what_is_shown(self, make_app: MakeApp) -> None:
        """A page asks for the addresses on it only."""
        asked: list[str] = []
        browser_of = self.app(make_app, asked.append)
        for number in range(30):
            browser_of("x", ip=f"192.0.2.{number}")
        page_at(browser_of("laptop", ip="198.51.100.1"), "/devices/")
        assert len(asked) == 21


def test_the_pages_are_handed_on() -> None:
    """`sessions_blueprint` is one object, however it is imported."""
    from flask_kvsession.devices import sessions_blueprint

    assert kvs.sessions_blueprint is sessions_blueprint
    assert "sessions_blueprint" in kvs.__all__
