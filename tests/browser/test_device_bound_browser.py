"""Device-bound sessions in Chromium, whose key is in a file, over https on localhost."""

from __future__ import annotations

import itertools
import re
import ssl
import threading
import time
import typing as t
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509 import Certificate
from flask import Flask, Request, Response, g
from werkzeug.serving import make_server

import flask_kvsession as kvs
from example import certificate
from flask_kvsession import binding, validators
from flask_kvsession import request as request_module

from ..support.apps import MakeApp, add_views
from ..support.chromium import Screenshot, chromium_profile
from ..support.device import COOKIE, SKIPPED
from ..support.servers import Server, wait_until

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from playwright.sync_api import BrowserContext, Page

REFRESH = "/device-bound/refresh"
SHORT_COOKIE = re.compile(r"__Host-kvsession-bound-[\w-]{19}$")

HOME = """<!doctype html><title>home</title>
<form method="post" action="/sign-in"><button>Sign in</button></form>
<form method="post" action="/sign-in-for-now"><button>For now</button></form>
<form method="post" action="/sign-out"><button>Sign out</button></form>"""


@pytest.fixture(scope="module")
def localhost(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Certificate]:
    """A certificate for localhost, and its folder."""
    folder = tmp_path_factory.mktemp("https")
    return folder, certificate.make(folder)


@dataclass
class Site:
    """An app that is served over https."""

    app: Flask
    url: str
    certificate: Certificate
    answers: list[tuple[str, int]] = field(default_factory=list)
    """The path and the status of each answer."""
    skipped: list[str] = field(default_factory=list)
    """What browsers have said about refreshes that were not answered."""

    def sessions(self) -> list[kvs.SessionInfo]:
        with self.app.app_context():
            return kvs.list_sessions("ada")

    def bound_ids(self) -> set[str]:
        """The ids of ada's bound sessions."""
        return {info.id for info in self.sessions() if info.is_device_bound}

    def bound_id(self) -> str:
        """The id of ada's one bound session."""
        [bound] = self.bound_ids()
        return bound

    def elsewhere(self) -> str:
        """A URL of the same server, as another site."""
        return self.url.replace("localhost", "127.0.0.1")

    def refreshes(self) -> int:
        """How many new short cookies were sent by refreshes."""
        return self.answers.count((REFRESH, 200))


@contextmanager
def served(app: Flask, localhost: tuple[Path, Certificate]) -> Iterator[Site]:
    folder, cert = localhost
    tls = (str(folder / "cert.pem"), str(folder / "key.pem"))
    server = make_server("localhost", 0, app, threaded=True, ssl_context=tls)
    site = Site(app, f"https://localhost:{server.port}", cert)

    # A function of `after_request` would not see the answers of the blueprint.
    respond = app.wsgi_app

    def note(environ: WSGIEnvironment, start_response: StartResponse) -> t.Any:
        response = Response.from_app(respond, environ)
        answered = Request(environ)
        site.answers.append((answered.path, response.status_code))
        if SKIPPED in answered.headers:
            site.skipped.append(answered.headers[SKIPPED])
        return response(environ, start_response)

    # mypy: Flask's docs wrap `wsgi_app` in this way, but it is declared as a method.
    app.wsgi_app = note  # type: ignore[method-assign]

    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def add_pages(app: Flask) -> Flask:
    add_views(app)
    app.register_blueprint(kvs.device_bound_blueprint)
    app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
    app.add_url_rule("/", "home", lambda: HOME)

    @app.post("/sign-in")
    def sign_in() -> t.Any:
        kvs.login_user("ada")
        return HOME

    @app.post("/sign-in-for-now")
    def sign_in_for_now() -> t.Any:
        kvs.login_user("ada", remember=False)
        return HOME

    @app.post("/sign-out")
    def sign_out() -> t.Any:
        kvs.logout_user()
        return HOME

    @app.get("/who")
    def who() -> t.Any:
        return {"user": g.session.user_id, "id": g.session.id, "reason": kvs.session_ended_reason()}

    return app


@pytest.fixture
def site(make_app: MakeApp, localhost: tuple[Path, Certificate]) -> Iterator[Site]:
    with served(add_pages(make_app(views=False, device_bound="offer")), localhost) as site:
        yield site


@contextmanager
def browser_of(site: Site, folder: Path) -> Iterator[BrowserContext]:
    with chromium_profile(folder, *certificate.chromium_options(site.certificate)) as profile:
        yield profile


@pytest.fixture
def profile(site: Site, tmp_path: Path) -> Iterator[BrowserContext]:
    with browser_of(site, tmp_path / "profile") as profile:
        yield profile


@pytest.fixture
def page(profile: BrowserContext, site: Site) -> Page:
    """A page whose user has signed in, and whose session is bound."""
    page = profile.new_page()
    sign_in(page, site)
    return page


def sign_in(page: Page, site: Site, button: str = "Sign in") -> None:
    before = site.bound_ids()
    page.goto(site.url)
    page.get_by_role("button", name=button).click()
    wait_until(lambda: site.bound_ids() - before)
    wait_until(lambda: short_cookies_of(page))
    # Chromium stores the cookie before it has read the instructions, and shows no sign of these.
    page.wait_for_timeout(500)


def cookies_of(page: Page) -> dict[str, str]:
    return {c.get("name", ""): c.get("value", "") for c in page.context.cookies()}


def short_cookies_of(page: Page) -> list[str]:
    """The names of the short cookies."""
    return [name for name in cookies_of(page) if SHORT_COOKIE.match(name)]


def end_short_cookie(page: Page) -> None:
    """What the clock does after some minutes."""
    page.context.clear_cookies(name=SHORT_COOKIE)


def who(page: Page, site: Site) -> dict[str, t.Any]:
    page.goto(f"{site.url}/who")
    return t.cast("dict[str, t.Any]", page.evaluate("JSON.parse(document.body.innerText)"))


def copied(site: Site, cookies: dict[str, str], *, long_only: bool = False) -> int:
    """The status of a guarded page in another client, with copies of the cookies, or only of the
    long one."""
    names = [COOKIE] if long_only else list(cookies)
    header = "; ".join(f"{name}={cookies[name]}" for name in names)
    context = ssl._create_unverified_context()
    asked = urllib.request.Request(f"{site.url}/me", headers={"Cookie": header})
    try:
        with urllib.request.urlopen(asked, context=context, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


def test_a_login_binds_the_session_and_a_copied_cookie_is_refused(
    site: Site, page: Page, monkeypatch: pytest.MonkeyPatch, screenshot: Screenshot
) -> None:
    """After the login Chromium binds the session. The long cookie alone is 401 in another client,
    while the browser goes on, and the devices page marks the session."""
    monkeypatch.setattr(binding, "GRACE_MS", 0)
    cookies = cookies_of(page)
    assert copied(site, cookies, long_only=True) == 401
    assert copied(site, cookies) == 200
    assert who(page, site)["user"] == "ada"
    page.goto(f"{site.url}/devices/")
    assert page.get_by_text("Device-bound", exact=True).first.is_visible()
    screenshot(page, "device-bound")


def test_all_copied_cookies_are_refused_after_the_end_of_the_short_cookie(
    make_app: MakeApp,
    localhost: tuple[Path, Certificate],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In real time, with a short cookie of four seconds: the copied cookies open the session, and
    then no more. The owner's browser goes on without a sign-in."""
    monkeypatch.setattr(validators, "MIN_DEVICE_BOUND_LIFETIME", timedelta(seconds=1))
    monkeypatch.setattr(binding, "GRACE_MS", 500)
    app = add_pages(make_app(views=False, device_bound="offer", device_bound_lifetime=4))
    with served(app, localhost) as site, browser_of(site, tmp_path / "profile") as profile:
        page = profile.new_page()
        sign_in(page, site)
        cookies, bound = cookies_of(page), site.bound_id()
        assert copied(site, cookies) == 200
        time.sleep(5)
        assert copied(site, cookies) == 401
        assert who(page, site) == {"user": "ada", "id": bound, "reason": None}
        assert copied(site, cookies) == 401
        assert site.refreshes() >= 1


def test_a_refresh_is_not_noticed_by_the_page(site: Site, page: Page) -> None:
    """Without the short cookie, the browser holds the request back, refreshes once and goes on."""
    end_short_cookie(page)
    assert who(page, site)["user"] == "ada"
    assert site.refreshes() == 1
    assert short_cookies_of(page)
    assert ("/who", 401) not in site.answers


def test_requests_at_once_share_one_refresh(site: Site, page: Page) -> None:
    """Thirty requests at once, without the short cookie, cause one refresh, and all are answered as
    the user."""
    end_short_cookie(page)
    statuses = page.evaluate(
        """async () => Promise.all(
            Array.from({length: 30}, async (_, n) => (await fetch(`/me?${n}`)).status)
        )"""
    )
    assert statuses == [200] * 30
    assert site.refreshes() == 1


def test_a_post_is_held_back_too(site: Site, page: Page) -> None:
    """The body of a post that waits for a refresh arrives."""
    end_short_cookie(page)
    script = """async () => (await fetch("/data", {
        method: "POST", headers: {"Content-Type": "application/json"}, body: '{"cart": [1]}'
    })).status"""
    assert page.evaluate(script) == 200
    page.goto(f"{site.url}/data")
    assert page.evaluate("JSON.parse(document.body.innerText)") == {"cart": [1]}


def test_the_binding_survives_a_store_that_fails(
    make_app: MakeApp,
    localhost: tuple[Path, Certificate],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """If the store is stopped during a refresh, the page is 503. When it is started again, the
    browser goes on with the same session, without a sign-in."""
    server = Server(tmp_path_factory.mktemp("s"), "--appendonly", "yes", "--appendfsync", "always")
    url = f"unix://{server.path}"
    app = add_pages(make_app(views=False, device_bound="offer", redis_url=url, store_timeout=1))
    with served(app, localhost) as site, browser_of(site, tmp_path / "profile") as profile:
        page = profile.new_page()
        sign_in(page, site)
        bound = site.bound_id()
        end_short_cookie(page)
        server.kill()
        answer = page.goto(f"{site.url}/me")
        assert answer
        assert answer.status == 503
        assert (REFRESH, 503) in site.answers
        assert (REFRESH, 404) not in site.answers
        server.start()
        wait_until(lambda: who(page, site).get("user") == "ada", 60)
        assert who(page, site) == {"user": "ada", "id": bound, "reason": None}
    server.kill()


def test_a_page_whose_refresh_was_not_answered_is_503_although_the_store_is_back(
    site: Site, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the refresh fails, the browser says so with its page request, which is 503. Later it
    refreshes and goes on."""
    monkeypatch.setattr(binding, "GRACE_MS", 0)
    end_short_cookie(page)
    with monkeypatch.context() as broken:
        broken.setattr(binding, "new_challenge", lambda *args: 1 / 0)
        answer = page.goto(f"{site.url}/me")
        assert answer and answer.status == 503
    assert "server_error" in site.skipped[0]
    wait_until(lambda: who(page, site).get("user") == "ada", 60)


def test_the_binding_survives_a_restart_of_the_browser(site: Site, tmp_path: Path) -> None:
    """After a restart with the same profile, the browser still has the key, and refreshes."""
    with browser_of(site, tmp_path / "profile") as profile:
        page = profile.new_page()
        sign_in(page, site)
        bound = site.bound_id()
        time.sleep(2)  # Chromium writes its cookies and bindings to the disk later
    with browser_of(site, tmp_path / "profile") as profile:
        page = profile.new_page()
        assert COOKIE in cookies_of(page)
        end_short_cookie(page)
        before = site.refreshes()
        assert who(page, site) == {"user": "ada", "id": bound, "reason": None}
        assert site.refreshes() == before + 1


def test_a_revocation_ends_the_binding(site: Site, page: Page) -> None:
    """After a revocation the browser is told the reason, ends the binding, and asks no more. A
    sign-in binds the new session."""
    first = site.bound_id()
    with site.app.app_context():
        kvs.revoke_all_sessions("ada")
    assert who(page, site)["reason"] == "revoked"
    end_short_cookie(page)
    assert who(page, site)["user"] is None
    asked = site.refreshes()
    for _ in range(3):
        who(page, site)
    assert site.refreshes() == asked
    sign_in(page, site)
    assert site.bound_id() != first
    assert who(page, site)["user"] == "ada"


def test_sign_out_and_in_again(site: Site, page: Page) -> None:
    """A sign-out deletes both cookies and ends the binding; the next sign-in makes another one."""
    first = site.bound_id()
    page.goto(site.url)
    page.get_by_role("button", name="Sign out").click()
    assert not cookies_of(page)
    assert who(page, site)["user"] is None
    sign_in(page, site)
    second = site.bound_id()
    assert second != first
    end_short_cookie(page)
    assert who(page, site) == {"user": "ada", "id": second, "reason": None}


def test_static_files_do_not_wait_for_a_refresh(site: Site, page: Page) -> None:
    """A static file is loaded without the short cookie and without a refresh."""
    end_short_cookie(page)
    page.goto(f"{site.url}/devices/kvsession-static/devices.css")
    assert site.refreshes() == 0


def test_a_link_on_another_site_finds_the_user_signed_in(site: Site, page: Page) -> None:
    """The short cookie has ended, and the user follows a link in a mail: the browser refreshes
    first, as for a link on the site itself."""
    page.goto(f"{site.elsewhere()}/untouched")
    page.evaluate(
        "url => document.body.append(Object.assign(document.createElement('a'),"
        " {href: url, textContent: 'to the shop'}))",
        f"{site.url}/who",
    )
    end_short_cookie(page)
    page.get_by_text("to the shop").click()
    page.wait_for_url(f"{site.url}/who")
    assert page.evaluate("JSON.parse(document.body.innerText)")["user"] == "ada"
    assert site.refreshes() == 1


def test_a_browser_with_two_bindings_stays_signed_in(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that ends with the browser leaves its binding in the profile. After the next
    sign-in the browser has two, renews both, and the user stays signed in. Chromium goes through
    its bindings in the order of their ids, and here the old one comes first."""
    monkeypatch.setattr(binding, "GRACE_MS", 0)
    numbers = itertools.count(1)
    monkeypatch.setattr(
        request_module, "new_session_id", lambda user: f"{user[:3]}{next(numbers):016}"
    )
    for _ in range(2):
        with browser_of(site, tmp_path / "profile") as profile:
            page = profile.new_page()
            sign_in(page, site, "For now")
            signed_in_as = who(page, site)["id"]
            for _ in range(2):
                end_short_cookie(page)
                assert who(page, site) == {"user": "ada", "id": signed_in_as, "reason": None}
            profile.clear_cookies(name=COOKIE)  # it would end with the browser
            time.sleep(1)  # Chromium writes its bindings to the disk later
    assert len(site.bound_ids()) == 2
