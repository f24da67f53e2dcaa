"""A real browser, and the example app in a separate process."""

from __future__ import annotations

import os
import shutil
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..support.chromium import Screenshot, chromium
from ..support.flask_server import ROOT, FlaskServer

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium on PATH, or the one that the variable `CHROMIUM` names."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def example_server(tmp_path: Path) -> Iterator[FlaskServer]:
    """A running copy of the example, so that it does not use the developer's instance folder."""
    shutil.copytree(ROOT / "example", tmp_path / "example")
    server = FlaskServer(tmp_path, "example")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def restart_example(example_server: FlaskServer) -> Callable[[], None]:
    """Ends the example's process and starts another."""

    def restart() -> None:
        example_server.stop()
        example_server.start()

    return restart


@pytest.fixture
def open_page(browser: Browser, example_server: FlaskServer) -> Iterator[Callable[..., Page]]:
    """Opens an empty page in a separate browser profile, which stands for another device."""
    contexts: list[BrowserContext] = []

    def open_page(*, agent: str, width: int, dark: bool = False) -> Page:
        context = browser.new_context(
            base_url=example_server.url,
            user_agent=agent,
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
        )
        contexts.append(context)
        return context.new_page()

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def screenshot() -> Screenshot:
    """Saves a screenshot in the folder `KVSESSION_SCREENSHOTS`; does nothing without it."""
    folder = os.environ.get("KVSESSION_SCREENSHOTS")

    def save(page: Page, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)

    return save
