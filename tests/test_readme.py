"""The README's code and commands, run as a user runs them."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from flask import Flask, Response, g
from flask.testing import FlaskClient

from flask_kvsession.testing import authenticated_client

from .support.apps import close, process_response
from .support.flask_server import ROOT, FlaskServer
from .support.rights import url_of

README = (ROOT / "README.md").read_text()
APP, SNIPPET, COMMAND, CART = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

OpenBrowser = Callable[[], requests.Session]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of the README's app, saved as `app.py` in an empty folder and started by the README's
    command."""
    assert "    .venv/bin/flask run --debug\n" in README
    (tmp_path / "app.py").write_text(APP)
    server = FlaskServer(tmp_path)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def open_browser(served: str) -> Iterator[OpenBrowser]:
    browsers: list[requests.Session] = []

    def open_browser() -> requests.Session:
        browsers.append(requests.Session())
        browsers[-1].headers["Accept"] = "text/html"
        return browsers[-1]

    yield open_browser
    for browser in browsers:
        browser.close()


def sign_in(browser: requests.Session, url: str, name: str = "ada") -> str:
    """Opens the app, posts the form that it shows, and returns the page that follows."""
    form = browser.get(url)
    assert form.url.endswith("/sign-in?next=/")
    assert 'name="name"' in form.text
    page = browser.post(form.url, {"name": name})
    assert page.url == f"{url}/"
    return page.text


def test_the_app_leads_from_its_url_to_a_devices_page(
    served: str, open_browser: OpenBrowser
) -> None:
    """The printed URL leads to the form, the form to the home page, and its link to the devices
    page, where one browser signs the other out."""
    laptop, phone = open_browser(), open_browser()
    home = sign_in(laptop, served)
    sign_in(phone, served)
    [link] = re.findall(r'href="([^"]+)"', home)
    devices = laptop.get(served + link).text
    [revoke] = re.findall(r'action="(/devices/[\w-]{19}/revoke)"', devices)
    assert laptop.post(served + revoke).status_code == 200
    assert phone.get(served).url.endswith("/sign-in?next=/")


def test_the_app_escapes_the_users_name(served: str, open_browser: OpenBrowser) -> None:
    """A name with markup is shown as text, on the home page and on the devices page."""
    browser = open_browser()
    name = "<script>alert(1)</script>"
    for page in (sign_in(browser, served, name), browser.get(f"{served}/devices/").text):
        assert name not in page
    assert "&lt;script&gt;" in browser.get(served).text


def test_the_app_signs_out_by_a_button(served: str, open_browser: OpenBrowser) -> None:
    """The home page has a form that signs out. A link could be followed by another site."""
    browser = open_browser()
    [action] = re.findall(r'<form method="post" action="([^"]+)"', sign_in(browser, served))
    assert browser.get(served + action).status_code == 405
    assert browser.post(served + action).url == f"{served}/sign-in"
    assert not browser.cookies


def test_the_app_refuses_a_login_that_another_site_posts(
    served: str, open_browser: OpenBrowser
) -> None:
    """Another site cannot sign a visitor in as somebody else (login CSRF)."""
    browser = open_browser()
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    response = browser.post(f"{served}/sign-in", {"name": "eve"}, headers=headers)
    assert response.status_code == 403
    assert not browser.cookies


@pytest.fixture
def module(
    monkeypatch: pytest.MonkeyPatch, socket_path: str, prefix: str
) -> Iterator[dict[str, t.Any]]:
    """The names of the README's app, which reads its settings from the environment."""
    monkeypatch.setenv("FLASK_TESTING", "true")
    monkeypatch.setenv("FLASK_KVSESSION_REDIS_URL", url_of(socket_path))
    monkeypatch.setenv("FLASK_KVSESSION_KEY_PREFIX", prefix)
    module: dict[str, t.Any] = {"__name__": "readme"}
    exec(compile(APP, "README.md", "exec"), module)
    yield module
    close(module["app"])


def test_the_snippet_of_the_session_stores_what_it_says(module: dict[str, t.Any]) -> None:
    """The snippet stores an item, and a change inside a list."""
    app: Flask = module["app"]
    with app.test_request_context():
        exec(SNIPPET, {"g": g})
        process_response(app, Response())
        assert dict(g.session) == {"theme": "dark", "notes": [1]}


def test_the_cart_keeps_what_two_requests_put_in(module: dict[str, t.Any]) -> None:
    """The view of the cart appends to what is in it."""
    app: Flask = module["app"]
    exec(compile(CART, "README.md", "exec"), module)
    client = authenticated_client(app, "ada")
    for item in ("tea", "milk"):
        assert client.post(f"/cart/{item}").location == "/cart"
    with client.application.test_request_context(headers={"Cookie": cookie_of(client)}):
        assert g.session["cart"] == ["tea", "milk"]


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("kvsession")
    assert cookie
    return f"kvsession={cookie.value}"


def test_the_command_signs_a_user_out_everywhere(module: dict[str, t.Any]) -> None:
    """The command for admins ends the sessions of its argument."""
    app: Flask = module["app"]
    exec(compile(COMMAND, "README.md", "exec"), module)
    client = authenticated_client(app, "ada")
    result = app.test_cli_runner().invoke(args=["sign-out-everywhere", "ada"])
    assert result.output == "1 sessions ended\n"
    assert client.get("/").status_code == 401


def test_the_commands_of_the_readme_are_targets_of_make() -> None:
    """Each `make` command that a document shows exists."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("example/*.md")]
    shown = {
        (document.name, target)
        for document in documents
        for target in re.findall(r"(?:^ {4}|`)make ([\w-]+)", document.read_text(), re.MULTILINE)
    }
    assert len(shown) > 10
    assert {(name, target) for name, target in shown if target not in targets} == set()
