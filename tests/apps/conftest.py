"""Apps and extensions of other people, given our sessions by settings and `KVSession(app)` alone.

`either` runs a test a second time with Flask's own session, which is what the app had before.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs

from ..conftest import Config, close, token_of

DEVICES = "/account/sessions/"
AS_PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Install(t.Protocol):
    """Gives an app its sessions; keyword arguments are settings without their prefix."""

    def __call__(self, app: Flask, user_id_key: str | None = None, **settings: t.Any) -> Flask: ...


@pytest.fixture
def settings(socket_path: str, prefix: str) -> Config:
    """What makes our session the one of `flask.session`."""
    return {
        "KVSESSION_REDIS_URL": f"unix://{socket_path}",
        "KVSESSION_KEY_PREFIX": prefix,
        "KVSESSION_AS_FLASK_SESSION": True,
    }


@pytest.fixture
def install(settings: Config) -> Iterator[Install]:
    """Makes our session an app's `flask.session`, and adds the devices pages."""
    made: list[Flask] = []

    def install(app: Flask, user_id_key: str | None = None, **more: t.Any) -> Flask:
        app.config.update(settings)
        if user_id_key:
            app.config["KVSESSION_USER_ID_KEY"] = user_id_key
        app.config.update({f"KVSESSION_{key.upper()}": value for key, value in more.items()})
        kvs.KVSession(app)
        made.append(app)
        app.register_blueprint(kvs.sessions_blueprint, url_prefix=DEVICES.rstrip("/"))
        return app

    yield install
    for app in made:
        close(app)


@pytest.fixture(params=["flask", "ours"])
def either(request: pytest.FixtureRequest, install: Install) -> Install:
    """`install`, and once more leaving the app as it is."""

    def leave(app: Flask, user_id_key: str | None = None, **settings: t.Any) -> Flask:
        return app

    return install if request.param == "ours" else leave


def browser_of(app: Flask, agent: str = "laptop") -> FlaskClient:
    """A browser with this user agent."""
    browser = app.test_client()
    browser.environ_base["HTTP_USER_AGENT"] = agent
    return browser


def same_browser(browser: FlaskClient, token: str | None) -> FlaskClient:
    """Another browser of the same kind, which sends this token."""
    other = browser_of(browser.application, browser.environ_base["HTTP_USER_AGENT"])
    if token is not None:
        other.set_cookie("session", token)
    return other


def token(browser: FlaskClient) -> str | None:
    return token_of(browser, "session")


def id_of(browser: FlaskClient) -> str:
    return (token(browser) or "")[:19]


def devices(browser: FlaskClient) -> list[str]:
    """What the devices page lists, this one first."""
    rows = browser.get(DEVICES).get_json()["sessions"]
    assert [row["current"] for row in rows] == [n == 0 for n in range(len(rows))]
    return [row["device"] for row in rows]


def sign_out_elsewhere(browser: FlaskClient, other: FlaskClient) -> None:
    """Ends the other browser's session, by the devices page of this one."""
    path = f"{DEVICES}{id_of(other)}/revoke"
    assert browser.post(path).get_json() == {"revoked": 1}


def cookies_set(response: TestResponse, name: str = "session") -> list[str]:
    """The Set-Cookie headers of this cookie."""
    return [line for line in response.headers.getlist("Set-Cookie") if line.startswith(f"{name}=")]


def clears(cookie: str) -> bool:
    """Whether this Set-Cookie takes the cookie away."""
    return "=;" in cookie and "Max-Age=0" in cookie


def outlives_the_browser(cookie: str) -> bool:
    return "Max-Age=" in cookie or "Expires=" in cookie
