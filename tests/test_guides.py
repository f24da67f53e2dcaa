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


class TestSinglePageApps:
    ORIGIN = "https://app.example.com"

    def test_app_on_one_origin_signs_in_and_out(self) -> None:
        """A script signs in, reads and signs out with the cookie alone."""
        client = app_of("single-page-apps").test_client()
        assert client.get("/api/me").status_code == 401
        assert client.post("/api/session", json={"name": "ada"}).get_json() == {"user": "ada"}
        assert client.get("/api/me").get_json() == {"user": "ada"}
        client.delete("/api/session")
        assert client.get("/api/me").status_code == 401

    def test_other_host_of_the_site_may_post_and_read(self) -> None:
        """The trusted origin passes the guard and may read the answer; another one may not."""
        client = app_of("single-page-apps").test_client()
        for origin, status, allowed in [
            (self.ORIGIN, 200, self.ORIGIN),
            ("https://evil.example", 403, None),
        ]:
            headers = {"Origin": origin, "Sec-Fetch-Site": "same-site"}
            response = client.post("/api/session", json={"name": "ada"}, headers=headers)
            assert response.status_code == status
            assert response.headers.get("Access-Control-Allow-Origin") == allowed
            assert "Origin" in response.vary

    def test_preflight_passes(self) -> None:
        """A preflight without a cookie is allowed for a guarded view and a guarded method."""
        client = app_of("single-page-apps").test_client()
        for path in ("/api/me", "/api/session"):
            headers = {"Origin": self.ORIGIN, "Access-Control-Request-Method": "DELETE"}
            response = client.options(path, headers=headers)
            assert response.status_code == 200
            assert "DELETE" in response.headers["Access-Control-Allow-Methods"]


class TestUserInTemplates:
    def test_header_shows_the_user_and_a_button(self) -> None:
        """The header shows who is signed in, escaped, and a link to sign in otherwise."""
        app = app_of("user-in-templates")
        client = app.test_client()
        assert "Sign in" in client.get("/").text
        client.post("/sign-in/<b>")
        assert "&lt;B&gt;" in client.get("/").text
        assert "Sign out" in client.get("/").text
        client.post("/sign-out")
        assert "Sign in" in client.get("/").text

    def test_user_of_the_database_is_there(self) -> None:
        """`current_user` is the user's row, or nobody."""
        app = app_of("user-in-templates")
        assert app.test_client().get("/mail").text == "nobody"
        assert signed_in(app, "/sign-in/ada").get("/mail").text == "ada@example.com"


class TestIdentityProviders:
    def test_post_of_the_provider_signs_in_by_a_get_of_our_own(self) -> None:
        """The post has no cookie; its redirect leads to a GET that has."""
        app = app_of("identity-providers")
        browser = app.test_client()
        state = re.search(r"state=([^&]+)", browser.get("/sign-in").location or "")
        assert state
        answer = {"state": state[1], "code": "1"}
        other_site = {"Origin": "https://provider.example", "Sec-Fetch-Site": "cross-site"}
        leads_to = app.test_client().post("/answer", data=answer, headers=other_site).location
        assert browser.get(leads_to or "").location == "/"
        assert browser.get(leads_to or "").status_code == 400, "an answer counts once"

    def test_answer_to_another_browser_is_refused(self) -> None:
        """An answer whose state is not of this browser signs nobody in."""
        app = app_of("identity-providers")
        leads_to = app.test_client().post("/answer", data={"state": "x", "code": "1"}).location
        browser = app.test_client()
        browser.get("/sign-in")
        assert browser.get(leads_to or "").status_code == 400

    def test_other_posts_of_other_sites_stay_refused(self) -> None:
        """Only the view for the answer takes posts of other sites."""
        headers = {"Sec-Fetch-Site": "cross-site"}
        response = app_of("identity-providers").test_client().post("/sign-in", headers=headers)
        assert response.status_code == 403


class TestSubdomains:
    def test_login_on_one_host_counts_on_the_other(self) -> None:
        """A browser that has signed in on one host is signed in on the other one."""
        names = run("subdomains")
        browser = names["www"].test_client()
        response = browser.post("/sign-in/ada", base_url="https://www.example.com")
        (cookie,) = response.headers.getlist("Set-Cookie")
        assert cookie.startswith("__Secure-kvsession=")
        assert "Domain=example.com" in cookie
        token = cookie.partition(";")[0]
        other = names["account"].test_client(use_cookies=False)
        response = other.get("/", base_url="https://account.example.com", headers={"Cookie": token})
        assert response.get_json() == {"app": "account", "user": "ada"}
