"""The guides of `docs/guides` run, and their apps do what the guides say."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from .support.rights import url_of

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
AS_PAGE = {"Accept": "text/html"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, socket_path: str, prefix: str) -> None:
    """The environment in which a user runs an app."""
    monkeypatch.setenv("FLASK_TESTING", "true")
    monkeypatch.setenv("FLASK_KVSESSION_REDIS_URL", url_of(socket_path))
    monkeypatch.setenv("FLASK_KVSESSION_KEY_PREFIX", prefix)
    monkeypatch.setenv("FLASK_KVSESSION_STORE_TIMEOUT", "10")


def run(guide: str) -> dict[str, t.Any]:
    """Runs the Python blocks of a guide as one module, and returns its names."""
    text = (GUIDES / f"{guide}.md").read_text()
    module: dict[str, t.Any] = {"__name__": "guide"}
    for source in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(source, guide, "exec"), module)
    return module


def app_of(guide: str) -> Flask:
    return t.cast(Flask, run(guide)["app"])


def signed_in(app: Flask, path: str = "/sign-in") -> FlaskClient:
    client = app.test_client()
    assert client.post(path).status_code in (200, 303)
    return client


class TestHtmxAndFetch:
    def test_each_client_is_answered_in_its_own_way(self) -> None:
        """A page is redirected, HTMX gets `HX-Redirect` to the page, and fetch gets the 401."""
        app = app_of("htmx-and-fetch")
        assert "3 unread messages of ada" in signed_in(app).get("/unread").text
        client = app.test_client()
        assert client.get("/", headers=AS_PAGE).location == "/sign-in?next=/"
        htmx = {"HX-Request": "true", "HX-Current-URL": "http://localhost/"}
        part = client.get("/unread", headers=htmx)
        assert (part.status_code, part.headers["HX-Redirect"]) == (401, "/sign-in?next=/")
        assert "X-Ended" in part.headers
        assert client.get("/unread").get_json() == {"error": "Unauthorized"}
