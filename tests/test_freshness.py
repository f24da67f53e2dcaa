"""Recent proof of who somebody is, asked for before sensitive acts."""

from __future__ import annotations

import typing as t
from datetime import datetime, timedelta

import pytest
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.errors import FreshLoginRequired, LoginRequired

from .support.apps import Do, MakeApp
from .support.browsers import SignIn, browser_with, cookies_of, token_of
from .support.clock import Clock

SECOND = timedelta(seconds=1)
PAGE = {"Accept": "text/html"}


def with_sensitive_view(app: Flask) -> Flask:
    @app.route("/sensitive", methods=["GET", "POST"])
    @kvs.fresh_login_required
    def sensitive() -> t.Any:
        return {"user": g.session.user_id}

    @app.get("/confirm")
    def confirm_page() -> t.Any:
        return ""

    @app.get("/sign-in")
    def login_page() -> t.Any:
        return ""

    return app


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return with_sensitive_view(make_app(login_view="login_page", confirm_view="confirm_page"))


@pytest.mark.parametrize(("error", "status"), [(-SECOND, 200), (SECOND, 401)])
@pytest.mark.parametrize(
    ("settings", "fresh_for"),
    [({}, timedelta(minutes=15)), ({"fresh_for": 60}, timedelta(minutes=1))],
    ids=["default", "a minute"],
)
def test_a_login_is_fresh_for_a_while(
    make_app: MakeApp,
    sign_in: SignIn,
    clock: Clock,
    settings: dict[str, t.Any],
    fresh_for: timedelta,
    error: timedelta,
    status: int,
) -> None:
    """A login opens sensitive views for `KVSESSION_FRESH_FOR`, and not a second longer."""
    browser = sign_in(with_sensitive_view(make_app(**settings)))
    clock.advance(fresh_for + error)
    assert browser.get("/sensitive").status_code == status
    assert browser.get("/me").status_code == 200


@pytest.mark.parametrize(
    "act",
    [
        lambda: g.session.get("x"),
        lambda: g.session.update(x=1, authenticated_at=9e15, authenticated=9e15, _fresh=True),
        lambda: g.session.clear(),
        kvs.rotate_token,
        lambda: kvs.update_all_sessions("ada", {"x": 1}),
        lambda: kvs.revoke_all_sessions(except_current=True),
    ],
    ids=["read", "write", "clear", "rotate_token", "update_all", "revoke others"],
)
@pytest.mark.parametrize("minutes", [1, 6], ids=["", "renewing"])
def test_nothing_but_proof_makes_fresh(
    app: Flask, sign_in: SignIn, clock: Clock, do: Do, act: t.Any, minutes: int
) -> None:
    """Neither activity and its renewals, nor data, nor a new secret moves `authenticated_at`."""
    browser = sign_in(app)
    seen: list[datetime | None] = []
    do(browser, lambda: seen.append(g.session.authenticated_at))
    clock.advance(minutes=minutes)
    assert do(browser, act).status_code == 200
    do(browser, lambda: seen.append(g.session.authenticated_at))
    assert seen[0] == seen[1]
    clock.advance(minutes=15)
    assert browser.get("/sensitive").status_code == 401


def test_the_password_of_another_browser_does_not_count(
    app: Flask, sign_in: SignIn, clock: Clock, do: Do
) -> None:
    """Freshness belongs to one session, not to the user."""
    stale, other = sign_in(app), sign_in(app)
    clock.advance(hours=1)
    do(other, kvs.confirm_login)
    sign_in(app)
    assert other.get("/sensitive").status_code == 200
    assert stale.get("/sensitive").status_code == 401


class TestConfirmLogin:
    def test_makes_fresh_again(self, app: Flask, sign_in: SignIn, clock: Clock, do: Do) -> None:
        """After `confirm_login` the session is as fresh as after a login, at once."""
        browser = sign_in(app)
        clock.advance(hours=1)
        seen: list[bool] = []

        def act() -> None:
            seen.append(g.session.is_fresh)
            kvs.confirm_login()
            seen.append(g.session.is_fresh)

        do(browser, act)
        assert seen == [False, True]
        clock.advance(minutes=14)
        assert browser.get("/sensitive").status_code == 200
        clock.advance(minutes=2)
        assert browser.get("/sensitive").status_code == 401

    def test_gives_a_new_secret(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """The old token is dead, the session goes on (OWASP ASVS 5.0, 7.2.4)."""
        browser = sign_in(app, data={"x": 1})
        before = token_of(browser) or ""
        assert len(cookies_of(do(browser, kvs.confirm_login))) == 1
        after = token_of(browser) or ""
        assert before[:19] == after[:19]
        assert before[19:40] != after[19:40]
        assert before[40:] != after[40:]
        assert browser_with(app, before).get("/me").status_code == 401
        assert browser.get("/me").get_json()["data"] == {"x": 1}

    def test_moves_only_the_time_of_proof(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do
    ) -> None:
        """The session is no younger for it."""
        browser = sign_in(app)
        seen: list[t.Any] = []

        def act() -> None:
            before = g.session.created_at, g.session.authenticated_at
            kvs.confirm_login()
            seen.append((before, (g.session.created_at, g.session.authenticated_at)))

        clock.advance(hours=1)
        do(browser, act)
        ((created_1, proved_1), (created_2, proved_2)) = seen[0]
        assert created_1 == created_2
        assert timedelta(hours=1) <= proved_2 - proved_1 < timedelta(hours=1, seconds=5)

    def test_takes_pending_changes_along(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """What the request changed before is kept, and written in the same act."""
        browser = sign_in(app)

        def act() -> None:
            g.session["x"] = 1
            kvs.confirm_login()
            assert not g.session.modified

        do(browser, act)
        assert browser.get("/me").get_json()["data"] == {"x": 1}

    @pytest.mark.parametrize("data", [{}, {"x": 1}], ids=["nobody", "visitor"])
    def test_is_for_who_is_signed_in(
        self, client: FlaskClient, do: Do, data: dict[str, int]
    ) -> None:
        """A visitor has nothing to confirm: `LoginRequired`, and no cookie."""
        client.post("/data", json=data)

        def act() -> None:
            with pytest.raises(LoginRequired):
                kvs.confirm_login()
            assert not g.session.is_fresh

        response = do(client, act)
        assert response.status_code == 200
        assert not cookies_of(response)

    @pytest.mark.parametrize("end", ["/logout", "revoke"])
    def test_brings_no_ended_session_back(
        self, app: Flask, sign_in: SignIn, do: Do, end: str
    ) -> None:
        """A session that ends while its password is checked stays ended: `LoginRequired`."""
        browser = sign_in(app)
        parallel = browser_with(app, token_of(browser))

        def act() -> None:
            assert g.session.user_id == "ada"
            if end == "revoke":
                kvs_outside(app)
            else:
                parallel.post(end)
            with pytest.raises(LoginRequired):
                kvs.confirm_login()

        response = do(browser, act)
        assert response.status_code == 200
        assert not cookies_of(response)
        assert browser.get("/me").status_code == 401


def kvs_outside(app: Flask) -> None:
    app.extensions["kvsession"].store.revoke_all("ada")


class TestGuard:
    def test_the_answer_to_a_stale_session(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """Who is signed in but not fresh gets a 401 that says so, and stays signed in."""
        browser = sign_in(app)
        clock.advance(hours=1)
        response = browser.get("/sensitive")
        assert response.status_code == 401
        assert response.get_data() == b'{"error": "FreshLoginRequired"}'
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Vary"] == "Accept, Cookie"
        assert "Set-Cookie" not in response.headers
        assert browser.get("/me").status_code == 200

    def test_sends_a_browser_to_confirm(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """A browser asking for a page is sent to `KVSESSION_CONFIRM_VIEW`, and back afterwards."""
        browser = sign_in(app)
        clock.advance(hours=1)
        response = browser.get("/sensitive?a=1", headers=PAGE)
        assert response.status_code == 302
        assert response.location == "/confirm?next=/sensitive?a%3D1"
        assert browser.post("/sensitive", headers=PAGE).location == "/confirm"

    def test_sends_a_visitor_to_sign_in(self, app: Flask) -> None:
        """Who is not signed in at all is sent to `KVSESSION_LOGIN_VIEW`, or gets its 401."""
        browser = app.test_client()
        assert browser.get("/sensitive", headers=PAGE).location == "/sign-in?next=/sensitive"
        assert browser.get("/sensitive").get_json() == {"error": "Unauthorized"}

    def test_the_apps_own_handler_wins(self, app: Flask, sign_in: SignIn, clock: Clock) -> None:
        """A handler of the app for `FreshLoginRequired` decides the answer."""

        @app.errorhandler(FreshLoginRequired)
        def ask(error: FreshLoginRequired) -> t.Any:
            return "your password, please", 403

        browser = sign_in(app)
        clock.advance(hours=1)
        response = browser.get("/sensitive", headers=PAGE)
        assert (response.status_code, response.text) == (403, "your password, please")

    def test_shortened_settings_hold_at_once(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock
    ) -> None:
        """How long proof counts is decided by today's settings."""
        old, new = (
            with_sensitive_view(make_app(name, fresh_for=seconds))
            for name, seconds in (("old", 900), ("new", 60))
        )
        browser = sign_in(old)
        clock.advance(minutes=2)
        newer = browser_with(new, token_of(browser))
        assert newer.get("/sensitive").status_code == 401
        assert browser.get("/sensitive").status_code == 200
