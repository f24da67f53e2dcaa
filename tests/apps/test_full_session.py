"""Sessions that are full, in an app with Flask-Login, which writes into them on any page."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_login import (  # type: ignore[import-untyped]
    encode_cookie,
)

import flask_kvsession as kvs
from flask_kvsession.compat import remember_in_session

from ..support.apps import Do, Install
from ..support.flask_login_app import (
    IGNORE_UTCNOW,
    REMEMBER,
    guarded_app,
    signed_in,
    who,
)
from ..support.flask_sessions import (
    DEVICES,
    browser_of,
    clears,
    cookies_set,
)

pytestmark = IGNORE_UTCNOW


class TestFullSession:
    """A session that has reached `KVSESSION_MAX_SESSION_BYTES`."""

    @pytest.fixture
    def app(self, install: Install) -> Flask:
        return guarded_app(install, max_session_bytes=1000)

    def full(self, app: Flask, browser: FlaskClient) -> FlaskClient:
        """Fills the browser's session to the last byte."""
        with browser.session_transaction() as data:
            data.pop("_flashes", None)
            data["x"] = ""
            for size in (500, 200, 100, 10, 1):
                while True:
                    try:
                        data["x"] += "x" * size
                    except ValueError:
                        break
        with app.app_context():
            browser.set_cookie(REMEMBER, encode_cookie("ada"))
        return browser

    def statuses(self, browser: FlaskClient) -> list[int]:
        pages = ["/", "/notes", "/health", "/ours", DEVICES]
        return [browser.get(path).status_code for path in pages]

    @pytest.mark.parametrize("is_remembered_here", [True, False])
    @pytest.mark.parametrize("refresh", [True, False])
    def test_pages_and_logout_work_with_a_remember_cookie(
        self, install: Install, is_remembered_here: bool, refresh: bool
    ) -> None:
        """No page answers 500, and the logout is done, also for a changed client."""
        config = {"REMEMBER_COOKIE_REFRESH_EACH_REQUEST": refresh}
        app = guarded_app(install, config, max_session_bytes=1000)
        if is_remembered_here:
            remember_in_session(app)
        browser = self.full(app, signed_in(app))
        assert self.statuses(browser) == [200] * 5
        browser.environ_base["HTTP_USER_AGENT"] = "changed"
        self.full(app, browser)
        assert self.statuses(browser) == [200] * 5
        self.full(app, browser)
        response = browser.post("/logout?quietly=1")
        assert response.status_code == 302
        assert clears(*cookies_set(response, REMEMBER))
        assert who(browser) is None

    def test_a_remember_cookie_signs_a_full_anonymous_session_in(self, app: Flask) -> None:
        """Flask-Login's remember cookie signs the user in, although the anonymous session is
        full."""
        browser = self.full(app, browser_of(app))
        assert self.statuses(browser) == [200] * 5
        assert who(browser) == "ada"

    def test_an_old_cookie_is_cleared_in_a_full_anonymous_session(self, app: Flask) -> None:
        """With `remember_in_session` a remember cookie is cleared, although the anonymous session
        is full."""
        remember_in_session(app)
        response = self.full(app, browser_of(app)).get("/")
        assert response.status_code == 200
        assert clears(*cookies_set(response, REMEMBER))

    def test_the_mark_of_the_remember_cookie_takes_no_room(self, app: Flask, do: Do) -> None:
        """A value that fits without Flask-Login's keys fits with them, and one byte more does
        not; a large value under such a key counts."""
        browser = signed_in(app)
        with browser.session_transaction() as data:
            data.pop("_flashes", None)
            data["_remember"] = "clear"
            data["x"] = "x" * (1000 - len('"x":"",'))
            for key, value in (("x", data["x"] + "x"), ("_remember", "x" * 300)):
                with pytest.raises(kvs.errors.SessionTooLarge):
                    data[key] = value
