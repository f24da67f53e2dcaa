"""A real browser, and the example app in a separate process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import typing as t
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).parents[2]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ARGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
START_SECONDS = 30


def missing(what: str) -> t.NoReturn:
    """Skip the test, or fail it if `KVSESSION_TEST_REQUIRE` is set, as in CI."""
    if os.environ.get("KVSESSION_TEST_REQUIRE"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium on PATH, or the one that the variable `CHROMIUM` names."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        missing("there is no Chromium on PATH, and CHROMIUM names none")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


class ExampleServer:
    """The example app, started as README.md says; it keeps its port over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = ["-m", "flask", "--app", "example", "run", "--debug", "--no-reload"]
        # Variables of the developer's shell must not configure this app.
        environ = {key: value for key, value in os.environ.items() if not key.startswith("FLASK_")}
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command, "--port", str(self.port)],
                cwd=self.folder,
                env=environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url + "/sign-in", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        pytest.fail("The example did not start:\n" + (self.folder / "server.log").read_text())


@pytest.fixture
def example_server(tmp_path: Path) -> Iterator[ExampleServer]:
    """A running copy of the example, so that it does not use the developer's instance folder."""
    shutil.copytree(ROOT / "example", tmp_path / "example")
    server = ExampleServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def restart_example(example_server: ExampleServer) -> Callable[[], None]:
    """Ends the example's process and starts another."""

    def restart() -> None:
        example_server.stop()
        example_server.start()

    return restart


@pytest.fixture
def open_page(browser: Browser, example_server: ExampleServer) -> Iterator[Callable[..., Page]]:
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
def screenshot() -> Callable[[Page, str], None]:
    """Saves a screenshot in the folder `KVSESSION_SCREENSHOTS`; does nothing without it."""
    folder = os.environ.get("KVSESSION_SCREENSHOTS")

    def save(page: Page, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)

    return save


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
