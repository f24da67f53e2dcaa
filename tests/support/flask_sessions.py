"""Browsers of apps with `KVSESSION_AS_FLASK_SESSION`: their cookie has the name `session`."""

from __future__ import annotations

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from .browsers import token_of

DEVICES = "/account/sessions/"
"""Where the fixture `install` puts the devices pages."""


def browser_of(app: Flask, agent: str = "laptop") -> FlaskClient:
    """A browser with this user agent."""
    browser = app.test_client()
    browser.environ_base["HTTP_USER_AGENT"] = agent
    return browser


def same_browser(browser: FlaskClient, token: str | None) -> FlaskClient:
    """A new browser with the same user agent that sends this token."""
    other = browser_of(browser.application, browser.environ_base["HTTP_USER_AGENT"])
    if token is not None:
        other.set_cookie("session", token)
    return other


def token(browser: FlaskClient) -> str | None:
    """The token in the browser's cookie jar."""
    return token_of(browser, "session")


def id_of(browser: FlaskClient) -> str:
    """The session id in the browser's cookie jar; an empty string if there is none."""
    return (token(browser) or "")[:19]


def devices(browser: FlaskClient) -> list[str]:
    """The devices that the devices page lists, the current one first."""
    rows = browser.get(DEVICES).get_json()["sessions"]
    assert [row["current"] for row in rows] == [n == 0 for n in range(len(rows))]
    return [row["device"] for row in rows]


def sign_out_elsewhere(browser: FlaskClient, other: FlaskClient) -> None:
    """Revokes the other browser's session on the devices page of the first browser."""
    path = f"{DEVICES}{id_of(other)}/revoke"
    assert browser.post(path).get_json() == {"revoked": 1}


def cookies_set(response: TestResponse, name: str = "session") -> list[str]:
    """The Set-Cookie headers of this cookie, and of that of an anonymous session."""
    names = (f"{name}=", f"{name}-anonymous=")
    return [line for line in response.headers.getlist("Set-Cookie") if line.startswith(names)]


def cookies_given(response: TestResponse, name: str = "session") -> list[str]:
    """The Set-Cookie headers of `cookies_set` that give a token."""
    return [line for line in cookies_set(response, name) if not clears(line)]


def clears(cookie: str) -> bool:
    """Whether this Set-Cookie header deletes the cookie."""
    return "=;" in cookie and "Max-Age=0" in cookie


def outlives_the_browser(cookie: str) -> bool:
    return "Max-Age=" in cookie or "Expires=" in cookie
