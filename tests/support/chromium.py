"""What the browser tests need: Chromium, which a machine may lack, and screenshots."""

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
    """Skips the test; where `KVSESSION_TEST_REQUIRE` is set, as in CI, it fails instead."""
    if os.environ.get("KVSESSION_TEST_REQUIRE"):
        pytest.fail(what)
    pytest.skip(what)
