"""Helpers of the browser tests: options of Chromium, and the skip if Chromium is missing."""

from __future__ import annotations

import os
import shutil
import typing as t
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, BrowserType, Page

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ARGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

Screenshot = Callable[["Page", str], None]
"""The type of the fixture `screenshot`."""


@contextmanager
def chromium(**options: t.Any) -> Iterator[Browser]:
    """The Chromium on PATH, or the one that the variable `CHROMIUM` names; `options` are those of
    Playwright's `launch`."""
    with _installed_chromium() as (kind, path):
        browser = kind.launch(executable_path=path, args=CHROMIUM_ARGS, **options)
        yield browser
        browser.close()


@contextmanager
def chromium_profile(folder: Path, *args: str) -> Iterator[BrowserContext]:
    """The same Chromium with a profile in this folder, which another start finds again. `args` are
    further arguments of the program."""
    with _installed_chromium() as (kind, path):
        profile = kind.launch_persistent_context(
            folder, executable_path=path, args=[*CHROMIUM_ARGS, *args]
        )
        yield profile
        profile.close()


@contextmanager
def _installed_chromium() -> Iterator[tuple[BrowserType, str]]:
    """Playwright's Chromium type, and the path of the program."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        missing("there is no Chromium on PATH, and CHROMIUM names none")
    with sync_playwright() as playwright:
        yield playwright.chromium, path


def missing(what: str) -> t.NoReturn:
    """Skips the test. If `KVSESSION_TEST_REQUIRE` is set, as in CI, the test fails instead."""
    if os.environ.get("KVSESSION_TEST_REQUIRE"):
        pytest.fail(what)
    pytest.skip(what)
