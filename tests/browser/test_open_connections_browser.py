"""Pages with an open connection, signed out from the devices page of another browser."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.gunicorn import gunicorn
from ..support.servers import LOOPBACK, Server

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Server]:
    """A server that keeps its data when it is killed."""
    server = Server(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.kill()


@pytest.fixture
def url(redis_server: Server) -> Iterator[str]:
    """The app of `support/live_app.py` in two workers of gunicorn."""
    environ = {"LIVE_URL": f"unix://{redis_server.path}"}
    with gunicorn("tests.support.live_app:app", "-k gthread -w 2 --threads 20", environ) as port:
        yield f"http://{LOOPBACK}:{port}"


@pytest.fixture
def sign_in(browser: Browser, url: str) -> Iterator[t.Callable[[str], BrowserContext]]:
    """A browser profile with this user agent, in which ada has signed in."""
    contexts: list[BrowserContext] = []

    def sign_in(agent: str) -> BrowserContext:
        context = browser.new_context(base_url=url, user_agent=agent)
        contexts.append(context)
        context.new_page().goto("/login/ada")
        return context

    yield sign_in
    for context in contexts:
        context.close()


def open_page(context: BrowserContext, path: str) -> Page:
    page = context.new_page()
    page.goto(path)
    wait_for_status(page, "ada")
    return page


def wait_for_status(page: Page, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.get_by_role("status")).to_have_text(text, timeout=20_000)


def test_open_pages_are_signed_out_from_the_devices_page_after_a_restart_of_redis(
    sign_in: t.Callable[[str], BrowserContext], redis_server: Server
) -> None:
    """A phone has open streams and Socket.IO connections, spread over two workers. Redis is killed
    and starts again, which ends nothing. Then the laptop's devices page signs the phone out: all
    pages of the phone notice it without being touched, and those of the laptop stay open."""
    phone, laptop = sign_in("Phone"), sign_in("Laptop")
    pages = [open_page(phone, path) for path in ("/stream", "/socket") * 3]
    stay = [open_page(laptop, path) for path in ("/stream", "/socket")]

    redis_server.kill()
    redis_server.start()
    assert [page.get_by_role("status").inner_text() for page in pages] == ["ada"] * len(pages)

    devices = laptop.new_page()
    devices.goto("/devices/")
    row = devices.get_by_role("listitem").filter(has_text="Phone")
    row.locator("summary:visible", has_text="Sign out").click()
    row.get_by_role("button", name="Yes, sign it out").click()
    assert devices.get_by_role("status").inner_text() == "Phone (127.0.0.1) was signed out."
    for page in pages:
        wait_for_status(page, "signed out")
    assert [page.get_by_role("status").inner_text() for page in stay] == ["ada"] * len(stay)
