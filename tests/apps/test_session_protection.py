"""Flask-Login's `SESSION_PROTECTION`."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_login import (  # type: ignore[import-untyped]
    encode_cookie,
)

import flask_kvsession as kvs
from flask_kvsession.compat import remember_in_session

from ..support.apps import Install
from ..support.commands import Keys
from ..support.flask_login_app import (
    IGNORE_UTCNOW,
    REMEMBER,
    guarded_app,
    log_in,
    signed_in,
    who,
)
from ..support.flask_sessions import (
    DEVICES,
    browser_of,
    clears,
    cookies_set,
    devices,
    token,
)

pytestmark = IGNORE_UTCNOW


class TestProtection:
    """Flask-Login's `SESSION_PROTECTION`, if a client with another user agent sends the cookie."""

    def thief(self, app: Flask, browser: FlaskClient) -> FlaskClient:
        thief = browser_of(app, "another")
        thief.set_cookie("session", token(browser) or "")
        return thief

    @pytest.mark.parametrize("is_permanent", [False, True])
    @pytest.mark.parametrize(
        ("mode", "is_in", "is_fresh"),
        [("basic", True, False), ("strong", None, False), (None, True, True)],
    )
    @pytest.mark.parametrize("path", ["/ours", "/notes", "/protected/x", DEVICES])
    def test_guards_follow_the_mode(
        self,
        install: Install,
        mode: str | None,
        is_in: bool | None,
        is_fresh: bool,
        is_permanent: bool,
        path: str,
    ) -> None:
        """In basic mode the session is not fresh for anybody; in strong mode it ends, unless it is
        permanent; without protection nothing happens. The guards of both packages agree."""
        app = guarded_app(install, {"SESSION_PROTECTION": mode})
        remember_in_session(app)
        browser = signed_in(app, remember="yes") if is_permanent else signed_in(app)
        thief = self.thief(app, browser)
        stays = is_permanent if is_in is None else is_in
        assert (thief.get(path).status_code == 200) is stays
        assert (who(browser) == "ada") is stays
        assert (browser.get("/fresh").status_code == 200) is is_fresh
        with app.app_context():
            assert len(kvs.list_sessions("ada")) == stays

    def test_strong_mode_ends_the_session_like_a_logout(self, install: Install, keys: Keys) -> None:
        """In strong mode the session's other data go into an anonymous session, as Flask-Login
        promises, and the remember cookie is cleared."""
        app = guarded_app(install, {"SESSION_PROTECTION": "strong"})
        browser = signed_in(app)
        browser.post("/cart/pen")
        thief = self.thief(app, browser)
        with app.app_context():
            thief.set_cookie(REMEMBER, encode_cookie("ada"))

        response = thief.get("/ours")
        assert response.status_code == 401
        assert clears(*cookies_set(response, REMEMBER))
        assert thief.get("/cart").get_json() == ["pen"]
        assert not any(":u:" in key for key in keys())

    def test_strong_mode_keeps_the_data_of_an_anonymous_session(self, install: Install) -> None:
        """In strong mode an anonymous session, which has no mark of its client, keeps its data."""
        app = guarded_app(install, {"SESSION_PROTECTION": "strong"})
        browser = browser_of(app)
        browser.post("/cart/pen")
        who(browser)
        log_in(browser)
        assert browser.get("/cart").get_json() == ["pen"]
        assert who(browser) == "ada"

    @pytest.mark.parametrize("mode", ["basic", "strong", None])
    def test_an_old_remember_cookie_moves_over_in_every_mode(
        self, install: Install, mode: str | None
    ) -> None:
        """With migration an old remember cookie becomes a permanent session that is not fresh, in
        every mode."""
        app = guarded_app(install, {"SESSION_PROTECTION": mode}, migrate_cookie_session=True)
        remember_in_session(app)
        browser = browser_of(app)
        with app.app_context():
            browser.set_cookie(REMEMBER, encode_cookie("ada"))
        assert [who(browser), who(browser), who(browser, "/payment")] == ["ada", "ada", None]
        assert devices(browser) == ["laptop"]

    def test_a_refused_old_remember_cookie_leaves_nothing_permanent(self, install: Install) -> None:
        """A remember cookie of an unknown user makes no session permanent."""
        app = guarded_app(install, migrate_cookie_session=True)
        remember_in_session(app)
        browser = browser_of(app)
        with app.app_context():
            browser.set_cookie(REMEMBER, encode_cookie("eve"))
        (cookie,) = cookies_set(browser.post("/cart/pen"))
        assert "Max-Age" not in cookie
