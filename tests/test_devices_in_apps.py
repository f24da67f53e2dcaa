"""The devices pages in different apps: with their prefixes, guards, CSRF protection, templates,
languages and place names, and without the libraries of the extras."""

from __future__ import annotations

import logging
import re
import sys
import time
import typing as t
from pathlib import Path
from urllib.parse import quote

import flask_babel  # type: ignore[import-untyped]
import pytest
from flask import Blueprint, Flask, abort
from flask.testing import FlaskClient
from flask_wtf import CSRFProtect  # type: ignore[import-untyped]
from jinja2 import DictLoader, StrictUndefined
from markupsafe import Markup

import flask_kvsession as kvs
from flask_kvsession.devices import describe

from .support.apps import MakeApp
from .support.browsers import AS_PAGE, FIREFOX, Browsers, SignIn, id_of, may_enter
from .support.devices import names_on

ROOT = Path(__file__).parent.parent

Templates = dict[str, str]


def page_at(browser: FlaskClient, path: str) -> str:
    response = browser.get(path, headers=AS_PAGE)
    assert response.status_code == 200
    return response.text


def works_at(app: Flask, path: str) -> bool:
    """Whether the list, its stylesheet and its script load at this path, and a device can be signed
    out."""
    browser_of = Browsers(app)
    laptop, phone = browser_of("laptop"), browser_of("phone")
    page = page_at(laptop, path)
    (stylesheet,) = re.findall(r'<link rel="stylesheet" href="(.*\.css)">', page)
    (script,) = re.findall(r'<script src="(.*\.js)" defer></script>', page)
    for url, mimetype in ((stylesheet, "text/css"), (script, "text/javascript")):
        with laptop.get(url) as file:
            assert (file.status_code, file.mimetype) == (200, mimetype)
    (action,) = re.findall(r'action="([^"]+/revoke)"', page)
    response = laptop.post(action, headers=AS_PAGE)
    laptop.post(f"{path}revoke-all")
    return response.location == path and not any(may_enter(phone))


class TestRegistration:
    @pytest.mark.parametrize("path", ["/account/sessions", "", "/ä b"])
    def test_pages_work_below_any_url_prefix(self, make_app: MakeApp, path: str) -> None:
        """The pages work below the URL prefix that the app chooses, also an empty one."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix=path)
        assert works_at(app, quote(path) + "/")

    def test_two_apps_in_one_process_can_both_register_the_blueprint(
        self, make_app: MakeApp
    ) -> None:
        """A second app of the process can register the same blueprint object."""
        for name in ("one", "two"):
            app = make_app(name)
            app.register_blueprint(kvs.sessions_blueprint, url_prefix=f"/{name}")
            assert works_at(app, f"/{name}/")

    def test_one_app_can_register_the_blueprint_twice_under_different_names(
        self, make_app: MakeApp
    ) -> None:
        """An app can register the blueprint a second time with another name."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/a", name="devices")
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/b")
        assert works_at(app, "/a/")
        assert works_at(app, "/b/")

    def test_redirects_contain_the_script_root_of_a_mounted_app(self, make_app: MakeApp) -> None:
        """If the app is mounted below a path, the redirect's two URLs contain that path."""
        app = make_app(login_view="sign_in")
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        app.add_url_rule("/sign-in", "sign_in", lambda: "")
        anonymous = app.test_client()
        environ = {"SCRIPT_NAME": "/portal"}
        response = anonymous.post("/devices/revoke-all", headers=AS_PAGE, environ_overrides=environ)
        assert response.location == "/portal/sign-in?next=/portal/devices/?open%3Dall"


def create_app(make_app: MakeApp) -> Flask:
    """The app from docs/devices.md: its own blueprint with a guard contains ours."""
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
    def test_a_guard_of_the_surrounding_blueprint_guards_the_pages_too(
        self, make_app: MakeApp, sign_in: SignIn
    ) -> None:
        """Nested in a blueprint of the app, the pages have that blueprint's guard, in every app."""
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

    def test_pages_work_below_the_protected_paths_setting(
        self, make_app: MakeApp, sign_in: SignIn
    ) -> None:
        """The pages work below `KVSESSION_PROTECTED_PATHS`, and without a login they answer 401."""
        app = make_app(protected_paths=["/account/*"])
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/account/devices")
        assert works_at(app, "/account/devices/")
        assert app.test_client().get("/account/devices/").status_code == 401

    def test_error_handlers_of_the_app_replace_our_error_pages(
        self, make_app: MakeApp, sign_in: SignIn
    ) -> None:
        """The app's handlers for 401, 403 and 404 replace our pages."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        for code in (401, 403, 404):
            app.register_error_handler(code, lambda error: (f"app's: {error.code}", error.code))
        browser = sign_in(app)
        assert browser.post(f"/devices/{'x' * 19}/revoke").text == "app's: 404"
        assert app.test_client().get("/devices/").text == "app's: 401"
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert browser.post("/devices/revoke-all", headers=headers).text == "app's: 403"

    def test_a_refusal_by_a_hook_of_the_app_is_sent_with_our_headers(
        self, make_app: MakeApp, sign_in: SignIn
    ) -> None:
        """The response of an app's hook is sent unchanged, with our headers added."""
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

    def test_our_forms_contain_the_csrf_token_of_flask_wtf_and_are_accepted(
        self, app: Flask
    ) -> None:
        """Every form has the token of Flask-WTF's CSRFProtect; a post without it is refused."""
        browser_of = Browsers(app)
        laptop, phone = browser_of("laptop"), browser_of("phone")
        page = page_at(laptop, "/devices/")
        assert page.count("<form") == page.count('name="csrf_token"') == 4
        csrf_token = re.findall(r'name="csrf_token" value="([^"]+)"', page)[0]
        others = "/devices/revoke-others"
        assert laptop.post(others).status_code == 400
        sent = laptop.post(others, data={"csrf_token": csrf_token}, headers=AS_PAGE)
        assert sent.location == "/devices/"
        assert may_enter(laptop, phone) == [True, False]

    def test_a_csrf_token_that_is_a_string_is_in_our_forms(self, make_app: MakeApp) -> None:
        """`csrf_token` in the templates may be a string instead of a function."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        app.context_processor(lambda: {"csrf_token": "its token"})
        page = page_at(Browsers(app)("laptop"), "/devices/")
        assert 'name="csrf_token" value="its token"' in page

    def test_a_blueprint_exempt_from_flask_wtf_still_refuses_other_sites(self, app: Flask) -> None:
        """If the app exempts the blueprint, our own check still refuses other sites."""
        app.extensions["csrf"].exempt(kvs.sessions_blueprint)
        laptop = Browsers(app)("laptop")
        assert laptop.post("/devices/revoke-others").status_code == 200
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert laptop.post("/devices/revoke-others", headers=headers).status_code == 403


FRAMES_ONLY = "frame-ancestors 'none'"
"""The policy with a layout of the app."""

LAYOUT = "<title>{% block title %}{% endblock %}</title>{% block head %}{% endblock %}"
LAYOUT += "<style></style><nav>app's</nav>{% block content %}{% endblock %}"


@pytest.fixture
def page_with(make_app: MakeApp) -> t.Callable[..., tuple[str, str | None]]:
    """Returns the list in an app with these templates, and the policy in its response."""

    def page_with(templates: Templates, **env: t.Any) -> tuple[str, str | None]:
        app = make_app()
        app.jinja_loader = DictLoader(templates)
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        for name, value in env.items():
            setattr(app.jinja_env, name, value)
        browser_of = Browsers(app)
        browser_of(FIREFOX)
        response = browser_of("laptop").get("/devices/", headers=AS_PAGE)
        assert response.status_code == 200
        return response.text, response.headers.get("Content-Security-Policy")

    return page_with


PageWith = t.Callable[..., tuple[str, str | None]]


class TestTemplates:
    def test_our_base_page_is_sent_with_a_strict_content_security_policy(
        self, page_with: PageWith
    ) -> None:
        """The policy allows only our files, and the page needs nothing else: no inline code."""
        page, policy = page_with({})
        assert policy == (
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
            " base-uri 'none'; frame-ancestors 'none'"
        )
        assert re.findall(r"<script[^>]*>", page) == [
            '<script src="/devices/kvsession-static/devices.js" defer>'
        ]
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://", page)

    def test_pages_in_the_app_s_layout_have_our_stylesheet_and_forbid_only_frames(
        self, page_with: PageWith
    ) -> None:
        """With a kvsession/base.html of the app, the pages have its layout and our stylesheet, and
        the policy forbids only frames."""
        base = '{% extends "layout.html" %}'
        page, policy = page_with({"kvsession/base.html": base, "layout.html": LAYOUT})
        assert "<nav>app's</nav>" in page
        assert "<title>Your devices</title>" in page
        assert page.count("devices.css") == page.count("devices.js") == 1
        assert names_on(page) == ["laptop", "Firefox 140 on Linux"]
        assert policy == FRAMES_ONLY

    def test_stylesheet_and_script_also_load_in_a_layout_that_has_no_head_block(
        self, page_with: PageWith
    ) -> None:
        """A layout needs the blocks title and content only."""
        page, _ = page_with({"kvsession/base.html": "<nav></nav>{% block content %}{% endblock %}"})
        assert page.lstrip().startswith("<nav></nav>")
        assert page.count("devices.css") == page.count("devices.js") == 1

    @pytest.mark.parametrize(
        ("method", "root", "links"),
        [
            ("GET", "", ["/"]),
            ("GET", "/portal", ["/portal/"]),
            ("POST", "", []),
            (None, "", []),
        ],
    )
    def test_our_base_page_links_to_the_start_page_of_an_app_that_has_one(
        self, make_app: MakeApp, method: str | None, root: str, links: list[str]
    ) -> None:
        """The link leads to the app's own root, and is missing if no view answers there."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        if method:
            app.add_url_rule("/", "home", lambda: "", methods=[method])
        environ = {"SCRIPT_NAME": root}
        response = Browsers(app)("laptop").get(
            "/devices/", headers=AS_PAGE, environ_overrides=environ
        )
        assert re.findall(r'<header><a href="([^"]*)">.*Back to the app', response.text) == links

    def test_a_sessions_template_of_the_app_replaces_the_whole_page(
        self, page_with: PageWith
    ) -> None:
        """With a kvsession/sessions.html of the app, its page may not be in a frame either."""
        own = "{% for row in current + others %}{{ row.device.name }};{% endfor %}"
        assert page_with({"kvsession/sessions.html": own}) == (
            "laptop;Firefox on Linux;",
            FRAMES_ONLY,
        )

    def test_a_session_template_of_the_app_replaces_each_row(self, page_with: PageWith) -> None:
        """With a kvsession/_session.html of the app, its rows are in our page with our policy."""
        page, policy = page_with({"kvsession/_session.html": "<li>{{ row.device.kind }}</li>"})
        assert "<li>computer</li>" in page
        assert policy != FRAMES_ONLY

    @pytest.mark.parametrize("own_layout", [False, True])
    def test_no_response_of_the_pages_may_be_in_a_frame(
        self, make_app: MakeApp, own_layout: bool
    ) -> None:
        """Lists, redirects, errors and JSON forbid frames in both headers, in each layout."""
        app = make_app()
        if own_layout:
            app.jinja_loader = DictLoader({"kvsession/base.html": LAYOUT})
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        app.register_error_handler(403, lambda error: ("app's", 403))
        laptop = Browsers(app)("laptop")
        for headers in (AS_PAGE, {}, AS_PAGE | {"Sec-Fetch-Site": "cross-site"}):
            for method, path in [
                ("GET", ""),
                ("POST", "x/revoke"),
                ("POST", "revoke-others"),
                ("POST", "sign-out"),
            ]:
                response = laptop.open(f"/devices/{path}", method=method, headers=headers)
                assert response.headers["X-Frame-Options"] == "DENY"
                assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
                assert response.headers["Referrer-Policy"] == "same-origin"

    def test_a_sign_out_button_in_the_app_s_layout_is_on_every_page_and_works(
        self, make_app: MakeApp
    ) -> None:
        """The form of docs/devices.md, in a layout, is on each page of a signed-in user and signs
        out (OWASP ASVS 5.0, 7.4.4)."""
        documentation = (ROOT / "docs" / "devices.md").read_text()
        (form,) = re.findall(r"```jinja\n({% if g.session.*?)```", documentation, re.DOTALL)
        app = make_app()
        app.jinja_loader = DictLoader({"kvsession/base.html": LAYOUT + form})
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        browser_of = Browsers(app)
        laptop, tablet = browser_of("laptop"), browser_of("tablet")
        for _ in range(21):
            browser_of("phone")
        pages = [
            laptop.get("/devices/", headers=AS_PAGE),
            laptop.get("/devices/?page=2", headers=AS_PAGE),
            laptop.post("/devices/x/revoke", headers=AS_PAGE),
            laptop.post("/devices/sign-out", headers=AS_PAGE, data={"kvs-user": "x"}),
        ]
        assert [page.status_code for page in pages] == [200, 200, 404, 409]
        for page in pages:
            assert "<button>Sign out of this browser</button>" in page.text
        (action,) = re.findall(r'action="([^"]+)"', pages[-1].text)
        signed_out = laptop.post(action, headers=AS_PAGE)
        assert may_enter(laptop, tablet) == [False, True]
        assert "Sign out of this browser" not in signed_out.text

    def test_a_hook_of_the_app_may_replace_the_headers(self, make_app: MakeApp) -> None:
        """What an `after_request` function of the app sets replaces our headers."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")

        @app.after_request
        def allow_frames(response: t.Any) -> t.Any:
            response.headers["Content-Security-Policy"] = "frame-ancestors 'self'"
            response.headers["X-Frame-Options"] = "SAMEORIGIN"
            return response

        headers = Browsers(app)("laptop").get("/devices/", headers=AS_PAGE).headers
        assert headers.getlist("Content-Security-Policy") == ["frame-ancestors 'self'"]
        assert headers.getlist("X-Frame-Options") == ["SAMEORIGIN"]

    def test_templates_work_with_strict_undefined_and_trimmed_blocks(
        self, page_with: PageWith
    ) -> None:
        """The templates use no undefined name and do not depend on how Jinja trims blocks."""
        page, _ = page_with({}, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        assert names_on(page) == ["laptop", "Firefox 140 on Linux"]


GERMAN = {
    "Your devices": "Deine Geräte",
    "%(browser)s on %(system)s": "%(browser)s auf %(system)s",
    "Active %(when)s": "Aktiv %(when)s",
    "today, %(time)s UTC": "heute, %(time)s UTC",
    "%(device)s was signed out.": "%(device)s wurde abgemeldet.",
    "All %(num)d other devices are signed out at once; you stay signed in here.": "Alle %(num)d!",
    "Yes, sign it out": "Ja, <abmelden>",
}


def german(message: str) -> str:
    return GERMAN.get(message, message)


def german_many(singular: str, plural: str, number: int) -> str:
    return german(singular if number == 1 else plural)


class TestTranslation:
    @pytest.mark.parametrize("kind", ["newstyle", "oldstyle", "globals only"])
    def test_texts_are_translated_by_the_app_s_gettext_in_each_style(
        self, make_app: MakeApp, kind: str
    ) -> None:
        """The pages use the app's gettext in the newstyle, the oldstyle and as plain functions."""
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
        phone, laptop = browser_of(FIREFOX), browser_of("laptop")
        browser_of("tablet")
        laptop.post(f"/devices/{id_of(phone)}/revoke", headers=AS_PAGE)
        browser_of(FIREFOX)
        page = page_at(laptop, "/devices/")
        assert "<h1>Deine Geräte</h1>" in page
        assert "Firefox 140 auf Linux (192.0.2.1) wurde abgemeldet." in page
        assert "Alle 3!" in page
        assert re.search(r'Aktiv <time datetime="[^"]+">heute, \d\d:\d\d UTC</time>', page)
        assert "<b>/" not in page

    def test_values_are_escaped_if_the_app_s_gettext_does_not_escape_them(
        self, make_app: MakeApp
    ) -> None:
        """With Flask-Babel's own functions, a user agent is escaped and numbers are inserted."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        flask_babel.Babel(app)
        app.jinja_env.globals.update(gettext=flask_babel.gettext, ngettext=flask_babel.ngettext)
        assert app.jinja_env.newstyle_gettext  # type: ignore[attr-defined]
        browser_of = Browsers(app)
        agent = "<img src=x onerror=alert(1)>/1 CFNetwork/1 Darwin/20.0"
        phone, laptop = browser_of(agent), browser_of(FIREFOX)
        browser_of(agent)
        laptop.post(f"/devices/{id_of(phone)}/revoke", headers=AS_PAGE)
        page = page_at(laptop, "/devices/")
        assert "<img" not in page
        assert "&lt;img" in page
        assert "Firefox 140 on Linux" in page
        assert "(192.0.2.1) was signed out." in page

    @pytest.mark.parametrize(
        ("is_translated", "language"), [(True, "de-AT"), (False, "en")], ids=["ours", "none"]
    )
    def test_html_names_the_language_of_the_texts(
        self, make_app: MakeApp, is_translated: bool, language: str
    ) -> None:
        """The language is Flask-Babel's if the app translates our texts, else English."""
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        flask_babel.Babel(app, locale_selector=lambda: "de_AT")
        if is_translated:
            app.jinja_env.globals["gettext"] = lambda text, **values: german(text) % values
        page = page_at(Browsers(app)("laptop"), "/devices/")
        assert f'<html lang="{language}">' in page

    def test_texts_are_english_in_an_app_without_gettext(self, page_with: PageWith) -> None:
        """Without gettext, the texts are the English sentences of the templates."""
        page, _ = page_with({})
        assert "<h1>Your devices</h1>" in page
        assert not re.search(r"%\(|%[sd]", page)


class TestWithoutTheExtra:
    @pytest.fixture
    def laptop(self, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[FlaskClient]:
        monkeypatch.setitem(sys.modules, "ua_parser", None)
        describe._described.cache_clear()
        app = make_app()
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        browser_of = Browsers(app)
        browser_of("<i>phone/1")
        yield browser_of(FIREFOX)
        describe._described.cache_clear()

    def test_the_list_names_common_browsers_and_shows_their_icons(
        self, laptop: FlaskClient
    ) -> None:
        """Without ua-parser, the list names a common browser, and what is unknown by its start."""
        page = page_at(laptop, "/devices/")
        assert names_on(page) == ["Firefox 140 on Linux", "&lt;i&gt;phone"]
        assert page.count('<path d="M2 19h20"/>') == 1  # the icon of a computer
        assert laptop.get("/devices/").get_json()["sessions"][0]["device"] == "Firefox on Linux"


class TestPlaceNames:
    def app(self, make_app: MakeApp, locate: t.Any) -> Browsers:
        app = make_app(locate=locate)
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
        return Browsers(app)

    def test_place_names_are_shown_escaped_and_asked_once_per_address(
        self, make_app: MakeApp
    ) -> None:
        """The place of an address is on the page, escaped, and in the JSON."""
        asked: list[str] = []

        def locate(ip: str) -> str | None:
            asked.append(ip)
            return {"192.0.2.1": "<Lyon>", "192.0.2.2": Markup("<b>Rome</b>")}.get(ip)

        browser_of = self.app(make_app, locate)
        for ip in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
            browser_of("x", ip=ip)
        laptop = browser_of("laptop")
        page = page_at(laptop, "/devices/")
        assert '<span class="kvs-place">&lt;Lyon&gt;</span> <span>192.0.2.1</span>' in page
        assert '<span class="kvs-place">&lt;b&gt;Rome&lt;/b&gt;</span>' in page
        assert sorted(asked) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        current, *others = laptop.get("/devices/").get_json()["sessions"]
        assert current["location"] == "<Lyon>"
        assert {row["location"] for row in others} == {"<Lyon>", None, "<b>Rome</b>"}

    def test_place_names_stop_after_one_second_and_the_rest_has_none(
        self, make_app: MakeApp, monkeypatch: t.Any
    ) -> None:
        """After one second in total, the remaining sessions are shown without a place."""
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
    def test_a_place_name_that_is_not_a_string_is_omitted(
        self, make_app: MakeApp, place: t.Any
    ) -> None:
        """If `KVSESSION_LOCATE` returns anything but a string, the session has no place."""
        laptop = self.app(make_app, lambda ip: place)("laptop")
        assert laptop.get("/devices/").get_json()["sessions"][0]["location"] is None

    def test_a_locate_function_that_raises_is_logged_once_and_the_list_appears(
        self, make_app: MakeApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An exception in `KVSESSION_LOCATE` is logged once per list; the list has no places."""

        def locate(ip: str) -> str | None:
            raise OSError("no network")

        browser_of = self.app(make_app, locate)
        browser_of("phone", ip="192.0.2.2")
        laptop = browser_of("laptop")
        with caplog.at_level(logging.ERROR):
            assert names_on(page_at(laptop, "/devices/")) == ["laptop", "phone"]
        (logged,) = caplog.records
        assert "KVSESSION_LOCATE" in logged.getMessage()

    def test_place_names_are_asked_only_for_sessions_on_the_page(self, make_app: MakeApp) -> None:
        """A page asks only for the addresses of its own sessions."""
        asked: list[str] = []
        browser_of = self.app(make_app, asked.append)
        for number in range(30):
            browser_of("x", ip=f"192.0.2.{number}")
        page_at(browser_of("laptop", ip="198.51.100.1"), "/devices/")
        assert len(asked) == 21


def test_sessions_blueprint_is_the_same_object_in_the_package_and_in_devices() -> None:
    """`flask_kvsession.sessions_blueprint` is the object of `flask_kvsession.devices`."""
    from flask_kvsession.devices import sessions_blueprint

    assert kvs.sessions_blueprint is sessions_blueprint
    assert "sessions_blueprint" in kvs.__all__
