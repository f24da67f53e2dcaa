"""Follows docs/start.md in an empty folder: writes app.py, runs it, and signs two browsers in."""

from __future__ import annotations

from pathlib import Path

import requests

from ..support.flask_server import FlaskServer
from ..support.pages import blocks


def follow(python: Path, folder: Path) -> None:
    """Runs the app of the page with this Python. Raises an error if the app differs from the page,
    or if it logs a traceback."""
    folder.mkdir(parents=True)
    ((_, source),) = blocks("start.md")
    (folder / "app.py").write_text(source)
    server = FlaskServer(folder, installed_in=python)
    server.start()
    try:
        _use(server.url)
    finally:
        server.stop()
    log = (folder / "server.log").read_text()
    require("Traceback" not in log, log)


def _use(url: str) -> None:
    laptop, phone = _signed_in(url), _signed_in(url)
    page = laptop.get(f"{url}/devices/").text
    require("This device" in page and "revoke-others" in page, page)
    require(_sessions(phone, url) == 2, "not two devices")
    phone.post(f"{url}/devices/revoke-others")
    require(_sessions(phone, url) == 1, "the other device is still signed in")
    ended = laptop.get(url).url
    require(ended == f"{url}/sign-in?next=/", ended)


def _signed_in(url: str) -> requests.Session:
    """A browser that opens the app, and posts the form to which it is sent."""
    browser = requests.Session()
    browser.headers["Accept"] = "text/html"
    form = browser.get(url)
    require(form.url == f"{url}/sign-in?next=/" and "Sign in" in form.text, form.text)
    home = browser.post(form.url, {"name": "ada", "password": "lovelace"})
    require(home.url == f"{url}/" and "Hello ada" in home.text, home.text)
    return browser


def _sessions(browser: requests.Session, url: str) -> int:
    answer = browser.get(f"{url}/devices/", headers={"Accept": "application/json"})
    return len(answer.json()["sessions"])


def require(fact: bool, message: str) -> None:
    if not fact:
        raise AssertionError(message)
