"""Helpers of the browser tests: options of Chromium, and the skip if Chromium is missing."""

from __future__ import annotations

import os
import typing as t
from collections.abc import Callable

import pytest

if t.TYPE_CHECKING:
    from playwright.sync_api import Page

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


def missing(what: str) -> t.NoReturn:
    """Skips the test. If `KVSESSION_TEST_REQUIRE` is set, as in CI, the test fails instead."""
    if os.environ.get("KVSESSION_TEST_REQUIRE"):
        pytest.fail(what)
    pytest.skip(what)
