"""Requests that copy the session, in an app with Flask-Login."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask, session
from flask_login import (  # type: ignore[import-untyped]
    current_user,
    login_user,
    logout_user,
)

import flask_kvsession as kvs
from flask_kvsession.compat import remember_in_session

from ..support.apps import Do, Install
from ..support.clock import Clock
from ..support.flask_login_app import (
    IGNORE_UTCNOW,
    User,
    guarded_app,
    signed_cookie,
    signed_in,
    who,
)
from ..support.flask_sessions import (
    browser_of,
    cookies_set,
    id_of,
    token,
)
from ..support.signals import recorded_signals

pytestmark = IGNORE_UTCNOW


@pytest.fixture
def app(install: Install) -> Flask:
    return guarded_app(install)


def regenerate() -> None:
    data = dict(session)
    session.clear()
    session.update(data)


def regenerate_marked_as_fresh() -> None:
    data = dict(session) | {"_fresh": True}
    session.clear()
    session.update(data)


def update_with_itself() -> None:
    session.update(dict(session))


def pop_and_set() -> None:
    session["_user_id"] = session.pop("_user_id")


def set_again() -> None:
    session["_user_id"] = str(current_user.get_id())


def log_out_and_set() -> None:
    user_id = current_user.get_id()
    logout_user()
    session["_user_id"] = user_id


COPIES = [
    regenerate,
    regenerate_marked_as_fresh,
    update_with_itself,
    pop_and_set,
    set_again,
    log_out_and_set,
]


class TestCopies:
    """A request that copies, clears and updates the session proves nothing."""

    @pytest.mark.parametrize("copy", COPIES)
    def test_a_copy_is_no_login(
        self, app: Flask, do: Do, clock: Clock, copy: Callable[[], None]
    ) -> None:
        """The session has a new token, but it is not fresh, and no login is reported."""
        browser = signed_in(app)
        with app.app_context():
            (before,) = kvs.list_sessions("ada")
        clock.advance(hours=1)
        old = token(browser)
        with recorded_signals(app, "user_logged_in", "login_confirmed") as told:
            do(browser, copy)
        with app.app_context():
            (after,) = kvs.list_sessions("ada")
        assert told.users == []
        assert (after.created_at, after.authenticated_at) == (
            before.created_at,
            before.authenticated_at,
        )
        assert token(browser) != old
        assert browser.get("/fresh").status_code == 401
        assert who(browser, "/notes") == "ada"

    def test_a_copy_keeps_a_fresh_session_fresh_and_permanent(self, app: Flask, do: Do) -> None:
        """A copy right after the login leaves the session fresh and permanent, with its data."""
        remember_in_session(app)
        browser = signed_in(app, remember="yes")
        browser.post("/cart/pen")
        response = do(browser, regenerate)
        assert "Max-Age" in cookies_set(response)[0]
        assert browser.get("/fresh").status_code == 200
        assert browser.get("/cart").get_json() == ["pen"]

    def test_a_copy_in_flight_does_not_bring_a_revoked_session_back(
        self, app: Flask, do: Do
    ) -> None:
        """A session that is revoked while a request copies it stays revoked."""
        browser = signed_in(app)

        def act() -> None:
            regenerate()
            app.extensions["kvsession"].store.revoke_all("ada")

        do(browser, act)
        assert who(browser) is None

    @pytest.mark.parametrize("copy", COPIES)
    def test_a_login_beside_a_copy_is_a_login(
        self, app: Flask, do: Do, clock: Clock, copy: Callable[[], None]
    ) -> None:
        """A real login of the same user in the same request makes the session fresh."""
        browser = signed_in(app)
        clock.advance(hours=1)
        before = id_of(browser)

        def act() -> None:
            copy()
            login_user(User("ada"))
            regenerate()

        do(browser, act)
        assert browser.get("/fresh").status_code == 200
        assert id_of(browser) != before

    @pytest.mark.parametrize("mark", [{"_fresh": True}, {}], ids=["marked as fresh", "no mark"])
    def test_a_copy_of_an_imported_session_is_no_login(
        self, install: Install, mark: dict[str, bool]
    ) -> None:
        """A copy in the first request of a signed cookie makes no fresh session."""
        app = guarded_app(install, migrate_cookie_session=True)

        @app.post("/copy")
        def copy() -> str:
            regenerate()
            return "copied"

        browser = browser_of(app)
        browser.set_cookie("session", signed_cookie(app, _user_id="ada", **mark))
        browser.post("/copy")
        with app.app_context():
            (info,) = kvs.list_sessions("ada")
        assert info.authenticated_at is None
        assert who(browser) == "ada"
        assert browser.get("/fresh").status_code == 401

    def test_a_login_that_is_not_fresh_proves_nothing(
        self, app: Flask, do: Do, clock: Clock
    ) -> None:
        """`login_user(user, fresh=False)` for the same user does not make the session fresh, and
        begins no new one."""
        browser = signed_in(app)
        before = id_of(browser)
        clock.advance(hours=1)
        do(browser, lambda: login_user(User("ada"), fresh=False))
        assert (who(browser), id_of(browser)) == ("ada", before)
        assert browser.get("/fresh").status_code == 401

    def test_a_session_is_never_permanent_because_it_was_cleared(self, app: Flask, do: Do) -> None:
        """A `permanent` that the request sets itself counts, also beside a copy."""
        browser = signed_in(app)

        def act() -> None:
            regenerate()
            session.permanent = True

        assert "Max-Age" in cookies_set(do(browser, act))[0]
