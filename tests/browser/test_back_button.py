"""What the Back button of a real browser shows after a logout.

Chromium keeps whole pages in its back/forward cache. Playwright switches that off, and these tests
switch it on again.
"""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from flask import Flask, g
from werkzeug.serving import make_server

import flask_kvsession as kvs

from ..support.apps import MakeApp
from ..support.chromium import chromium

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIGN_OUT = '<form method="post" action="/sign-out"><button>Sign out</button></form>'


OpenApp = Callable[..., AbstractContextManager["Page"]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium with its back/forward cache."""
    with chromium(ignore_default_args=["--disable-back-forward-cache"]) as browser:
        yield browser


@pytest.fixture
def open_app(make_app: MakeApp, browser: Browser) -> OpenApp:
    """Opens an app with these settings in a new profile. Ada has visited two private pages, has
    signed out on the second one, and sees the page "signed out"."""

    @contextmanager
    def open_app(**settings: t.Any) -> Iterator[Page]:
        app = make_app(views=False, **settings)
        add_pages(app)
        with serve(app) as url, browser.new_context(base_url=url) as context:
            page = context.new_page()
            page.goto("/sign-in")
            page.goto("/first")
            assert "first page of ada" in text_of(page)
            page.goto("/second")
            assert "second page of ada" in text_of(page)
            page.get_by_role("button").click()
            page.wait_for_url("**/signed-out")
            yield page

    return open_app


def add_pages(app: Flask) -> None:
    @app.get("/sign-in")
    def sign_in() -> str:
        kvs.login_user("ada")
        return "signed in"

    @app.get("/<any(first, second):page>")
    @kvs.login_required
    def private(page: str) -> str:
        return f"{page} page of {g.session.user_id} {SIGN_OUT}"

    @app.post("/sign-out")
    def sign_out() -> t.Any:
        kvs.logout_user()
        return "", 303, {"Location": "/signed-out"}

    @app.get("/signed-out")
    def signed_out() -> str:
        return "signed out"


@contextmanager
def serve(app: Flask) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def text_of(page: Page) -> str:
    return page.inner_text("body")


def go_back(page: Page, steps: int) -> None:
    for _ in range(steps):
        page.go_back(wait_until="commit")  # a page of the cache has no event "load"
        page.wait_for_function("document.readyState === 'complete'")


def is_private(page: Page) -> bool:
    return " page of ada" in text_of(page)


@pytest.mark.parametrize("steps", [1, 2])
def test_private_page_is_gone_after_a_logout(open_app: OpenApp, steps: int) -> None:
    """With the default settings, neither one nor two steps back show a private page."""
    with open_app() as page:
        go_back(page, steps)
        assert not is_private(page)
        assert "Unauthorized" in text_of(page)


@pytest.mark.parametrize("steps", [1, 2])
def test_private_page_is_shown_without_no_store(open_app: OpenApp, steps: int) -> None:
    """Without `KVSESSION_GUARDED_NO_STORE`, the browser shows the private pages again, which is why
    it is on."""
    with open_app(guarded_no_store=False) as page:
        go_back(page, steps)
        assert is_private(page)


def test_clear_site_data_covers_pages_further_back(open_app: OpenApp) -> None:
    """`KVSESSION_CLEAR_SITE_DATA = "cache"` alone covers the pages before the one that was left by
    signing out, and not that one."""
    with open_app(guarded_no_store=False, clear_site_data="cache") as page:
        go_back(page, 1)
        assert is_private(page)
        go_back(page, 1)
        assert not is_private(page)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("types", ["cache", "*"])
def test_both_settings_cover_all_private_pages(open_app: OpenApp, types: str, steps: int) -> None:
    """With both settings, no private page is left in the history."""
    with open_app(clear_site_data=types) as page:
        go_back(page, steps)
        assert not is_private(page)
