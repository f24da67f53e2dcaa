"""Browsers, their cookies, and the Set-Cookie headers of responses."""

from __future__ import annotations

import re
from collections.abc import Callable

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_kvsession.token import Token, new_session_id

AS_PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
"""The header with which a browser asks for a page."""

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

_SESSION_COOKIE = re.compile(r"(?:__Host-|__Secure-)?kvsession(?:-anonymous)?=")

SignIn = Callable[..., FlaskClient]
"""The type of the fixture `sign_in`."""


def token_of(browser: FlaskClient, name: str = "kvsession") -> str | None:
    """The token of a user's session in the browser's cookie jar, else of an anonymous session."""
    return user_token_of(browser, name) or anonymous_token_of(browser, name)


def user_token_of(browser: FlaskClient, name: str = "kvsession") -> str | None:
    """The token of a user's session in the browser's cookie jar."""
    cookie = browser.get_cookie(name)
    return cookie.value if cookie else None


def anonymous_token_of(browser: FlaskClient, name: str = "kvsession") -> str | None:
    """The token of an anonymous session in the browser's cookie jar."""
    return user_token_of(browser, f"{name}-anonymous")


def id_of(browser: FlaskClient) -> str:
    """The session id in the browser's cookie jar; an empty string if there is none."""
    return (token_of(browser) or "")[:19]


def unknown_token() -> str:
    """A well-formed token that opens no session."""
    return str(Token.for_session(new_session_id(None)))


def browser_with(app: Flask, token: str | None) -> FlaskClient:
    """A new browser that sends this token."""
    browser = app.test_client()
    if token is not None:
        browser.set_cookie("kvsession", token)
    return browser


def may_enter(*browsers: FlaskClient) -> list[bool]:
    """For each browser, whether the guarded view `/me` accepts it."""
    return [browser.get("/me").status_code == 200 for browser in browsers]


def cookies_of(response: TestResponse) -> list[str]:
    """The Set-Cookie headers of the session cookies, a user's and an anonymous one's."""
    lines = response.headers.getlist("Set-Cookie")
    return [line for line in lines if _SESSION_COOKIE.match(line)]


def is_clearing(cookie: str) -> bool:
    """Whether this Set-Cookie header deletes a session cookie."""
    return _SESSION_COOKIE.sub("", cookie).startswith(";") and "Max-Age=0" in cookie


def attributes_of(cookie: str) -> set[str]:
    """The attributes of a Set-Cookie header without Expires, which only repeats Max-Age."""
    return {part for part in cookie.split("; ")[1:] if not part.startswith("Expires=")}


class Browsers:
    """Makes browsers that have signed in, each with its own user agent and address."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    def __call__(self, agent: str, user: str = "ada", ip: str = "192.0.2.1") -> FlaskClient:
        browser = self.app.test_client()
        browser.environ_base.update(HTTP_USER_AGENT=agent, REMOTE_ADDR=ip)
        browser.post(f"/login/{user}")
        return browser
