"""A session is fresh if its user authenticated recently; sensitive views ask for that."""

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
def test_login_is_fresh_until_fresh_for_has_passed(
    make_app: MakeApp,
    sign_in: SignIn,
    clock: Clock,
    settings: dict[str, t.Any],
    fresh_for: timedelta,
    error: timedelta,
    status: int,
) -> None:
    """A login opens sensitive views until `KVSESSION_FRESH_FOR` has passed."""
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
    ids=["read", "write", "clear", "rotate_token", "update_all_sessions", "revoke others"],
)
@pytest.mark.parametrize("minutes", [1, 6], ids=["no renewal due", "renewal due"])
def test_only_authentication_makes_a_session_fresh(
    app: Flask, sign_in: SignIn, clock: Clock, do: Do, act: t.Any, minutes: int
) -> None:
    """Activity, data, renewals and rotations do not move `authenticated_at`."""
    browser = sign_in(app)
    seen: list[datetime | None] = []
    do(browser, lambda: seen.append(g.session.authenticated_at))
    clock.advance(minutes=minutes)
    assert do(browser, act).status_code == 200
    do(browser, lambda: seen.append(g.session.authenticated_at))
    assert seen[0] == seen[1]
    clock.advance(minutes=15)
    assert browser.get("/sensitive").status_code == 401


def test_login_confirmed_in_another_browser_does_not_count(
    app: Flask, sign_in: SignIn, clock: Clock, do: Do
) -> None:
    """An authentication makes only its own session fresh."""
    stale, other = sign_in(app), sign_in(app)
    clock.advance(hours=1)
    do(other, kvs.confirm_login)
    sign_in(app)
    assert other.get("/sensitive").status_code == 200
    assert stale.get("/sensitive").status_code == 401


class TestConfirmLogin:
    def test_makes_a_stale_session_fresh_again(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do
    ) -> None:
        """`confirm_login` makes the session fresh at once, for `KVSESSION_FRESH_FOR`."""
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

    def test_gives_the_session_a_new_secret(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """`confirm_login` replaces the secret and ends the old token (OWASP ASVS 5.0, 7.2.4)."""
        browser = sign_in(app, data={"x": 1})
        before = token_of(browser) or ""
        assert len(cookies_of(do(browser, kvs.confirm_login))) == 1
        after = token_of(browser) or ""
        assert before[:19] == after[:19]
        assert before[19:40] != after[19:40]
        assert before[40:] != after[40:]
        assert browser_with(app, before).get("/me").status_code == 401
        assert browser.get("/me").get_json()["data"] == {"x": 1}

    def test_moves_authenticated_at_but_not_created_at(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do
    ) -> None:
        """`confirm_login` moves `authenticated_at` and leaves `created_at` unchanged."""
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

    def test_writes_pending_changes_in_the_same_act(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """`confirm_login` writes the pending changes in the same act."""
        browser = sign_in(app)

        def act() -> None:
            g.session["x"] = 1
            kvs.confirm_login()
            assert not g.session.modified

        do(browser, act)
        assert browser.get("/me").get_json()["data"] == {"x": 1}

    @pytest.mark.parametrize("data", [{}, {"x": 1}], ids=["no session", "anonymous session"])
    def test_of_an_anonymous_browser_raises_login_required(
        self, client: FlaskClient, do: Do, data: dict[str, int]
    ) -> None:
        """`confirm_login` of an anonymous browser raises `LoginRequired` and sends no cookie."""
        client.post("/data", json=data)

        def act() -> None:
            with pytest.raises(LoginRequired):
                kvs.confirm_login()
            assert not g.session.is_fresh

        response = do(client, act)
        assert response.status_code == 200
        assert not cookies_of(response)

    @pytest.mark.parametrize("end", ["/logout", "revoke"])
    def test_does_not_bring_an_ended_session_back(
        self, app: Flask, sign_in: SignIn, do: Do, end: str
    ) -> None:
        """If the session ended since its load, `confirm_login` raises `LoginRequired`."""
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
    def test_stale_session_gets_401_and_stays_signed_in(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """A user without a fresh login gets this 401 and stays signed in."""
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

    def test_stale_page_request_is_redirected_to_the_confirm_view(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """A page request without a fresh login is redirected to `KVSESSION_CONFIRM_VIEW`."""
        browser = sign_in(app)
        clock.advance(hours=1)
        response = browser.get("/sensitive?a=1", headers=PAGE)
        assert response.status_code == 302
        assert response.location == "/confirm?next=/sensitive?a%3D1"
        assert browser.post("/sensitive", headers=PAGE).location == "/confirm"

    def test_anonymous_browser_is_sent_to_the_login_view(self, app: Flask) -> None:
        """An anonymous browser is redirected to `KVSESSION_LOGIN_VIEW` or gets its 401."""
        browser = app.test_client()
        assert browser.get("/sensitive", headers=PAGE).location == "/sign-in?next=/sensitive"
        assert browser.get("/sensitive").get_json() == {"error": "Unauthorized"}

    def test_error_handler_of_the_app_gives_the_response(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """The app's handler for `FreshLoginRequired` gives the response."""

        @app.errorhandler(FreshLoginRequired)
        def ask(error: FreshLoginRequired) -> t.Any:
            return "your password, please", 403

        browser = sign_in(app)
        clock.advance(hours=1)
        response = browser.get("/sensitive", headers=PAGE)
        assert (response.status_code, response.text) == (403, "your password, please")

    def test_shortened_fresh_for_applies_at_once(
        self, make_app: MakeApp, sign_in: SignIn, clock: Clock
    ) -> None:
        """A shortened `KVSESSION_FRESH_FOR` applies at once to existing sessions."""
        old, new = (
            with_sensitive_view(make_app(name, fresh_for=seconds))
            for name, seconds in (("old", 900), ("new", 60))
        )
        browser = sign_in(old)
        clock.advance(minutes=2)
        newer = browser_with(new, token_of(browser))
        assert newer.get("/sensitive").status_code == 401
        assert browser.get("/sensitive").status_code == 200
