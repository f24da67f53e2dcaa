"""The first request of a browser that has signed in before it moved over.

Its session is signed in, and not yet in Redis.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable

import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from flask_login import (  # type: ignore[import-untyped]
    current_user,
    encode_cookie,
    login_user,
)

import flask_kvsession as kvs
from flask_kvsession.compat import remember_in_session

from ..support.apps import Do, Install
from ..support.browsers import AS_PAGE
from ..support.flask_login_app import (
    IGNORE_UTCNOW,
    REMEMBER,
    User,
    guarded_app,
    signed_cookie,
    signed_in,
    who,
)
from ..support.flask_sessions import (
    DEVICES,
    browser_of,
    devices,
    id_of,
)

pytestmark = IGNORE_UTCNOW


@pytest.fixture
def app(install: Install) -> Flask:
    return guarded_app(install)


class TestFirstRequest:
    """The first request of a browser that is signed in, but not yet in Redis."""

    @pytest.fixture(params=["signed cookie", "remember cookie", "Flask-Login's remember cookie"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        """What the browser sends."""
        return str(request.param)

    @pytest.fixture
    def app(self, install: Install, kind: str) -> Flask:
        app = guarded_app(install, migrate_cookie_session=kind != "Flask-Login's remember cookie")
        if kind == "remember cookie":
            remember_in_session(app)
        return app

    @pytest.fixture
    def browser(self, app: Flask, do: Do, kind: str) -> FlaskClient:
        signed_in(app, "phone")
        browser = browser_of(app)
        if kind == "signed cookie":
            browser.set_cookie("session", signed_cookie(app, _user_id="ada", role="admin"))
        else:
            with app.app_context():
                browser.set_cookie(REMEMBER, encode_cookie("ada"))
        return browser

    def test_the_devices_page_shows_the_new_session(self, browser: FlaskClient) -> None:
        """The devices page and its JSON show the browser's session as the current one."""
        assert "This device" in browser.get(DEVICES, headers=AS_PAGE).text
        assert devices(browser) == ["laptop", "phone"]

    def test_its_json_shows_the_new_session(self, browser: FlaskClient) -> None:
        """The JSON in the first request has the browser's session as the current one."""
        assert devices(browser) == ["laptop", "phone"]
        assert devices(browser) == ["laptop", "phone"]

    @pytest.mark.parametrize("path", ["/ours", "/protected/x", "/facts"])
    def test_guards_let_the_user_in(self, browser: FlaskClient, path: str) -> None:
        """Guards let the user in, as Flask-Login's guard does."""
        assert browser.get(path).status_code == 200
        assert devices(browser) == ["laptop", "phone"]

    def test_revoke_others_keeps_the_new_session(self, browser: FlaskClient) -> None:
        """Ending all other sessions keeps this browser signed in."""
        assert browser.post(f"{DEVICES}revoke-others").get_json() == {"revoked": 1}
        assert devices(browser) == ["laptop"]

    def test_revoke_all_sessions_ends_the_new_session_too(
        self, browser: FlaskClient, do: Do, kind: str
    ) -> None:
        """`revoke_all_sessions` signs this browser out too. Flask-Login's own remember cookie signs
        it in again."""
        assert do(browser, lambda: str(kvs.revoke_all_sessions())).text == "2"
        assert who(browser) == ("ada" if kind.startswith("Flask-Login") else None)

    @pytest.mark.parametrize("verb", [kvs.confirm_login, kvs.rotate_token, kvs.list_sessions])
    def test_verbs_work(self, browser: FlaskClient, do: Do, verb: Callable[[], object]) -> None:
        """`confirm_login`, `rotate_token` and `list_sessions` work, and the session has an id
        afterwards."""

        def act() -> dict[str, t.Any]:
            assert current_user.is_authenticated
            verb()
            return {"id": g.session.id, "is_current": [s.is_current for s in kvs.list_sessions()]}

        assert do(browser, act).get_json() == {"id": id_of(browser), "is_current": [True, False]}

    def test_update_all_sessions_reaches_the_new_session(
        self, browser: FlaskClient, do: Do
    ) -> None:
        """A role that is taken away from all sessions is not in the new session either."""

        def act() -> dict[str, t.Any]:
            assert current_user.is_authenticated
            return {"changed": kvs.update_all_sessions("ada", {"role": "reader"})}

        assert do(browser, act).get_json() == {"changed": 2}
        with browser.session_transaction() as data:
            assert data["role"] == "reader"

    def test_sign_out_ends_it(self, browser: FlaskClient, kind: str) -> None:
        """The sign-out button answers, and leaves no session of this browser. It counts a session
        that was carried over."""
        was_carried_over = not kind.startswith("Flask-Login")
        response = browser.post(f"{DEVICES}sign-out")
        assert response.get_json() == {"revoked": int(was_carried_over)}
        with browser.application.app_context():
            assert [info.user_agent for info in kvs.list_sessions("ada")] == ["phone"]


def test_list_sessions_finds_the_login_of_the_same_request(app: Flask, do: Do) -> None:
    """After a login, `list_sessions` in the same request has the new session as the current one."""
    browser = signed_in(app)

    def act() -> dict[str, t.Any]:
        login_user(User("ada"))
        return {"current": [info.is_current for info in kvs.list_sessions()]}

    assert do(browser, act).get_json() == {"current": [True]}
