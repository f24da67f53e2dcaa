"""`logout_user` ends this browser's session."""

from __future__ import annotations

import pytest
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs

from .support.apps import Do, MakeApp
from .support.browsers import SignIn, attributes_of, browser_with, cookies_of, is_clearing, token_of
from .support.commands import CountCommands, Keys


def test_logout_ends_the_session_and_its_token(app: Flask, sign_in: SignIn) -> None:
    """After a logout, the token of the session opens nothing."""
    browser = sign_in(app)
    token = token_of(browser)
    assert browser.post("/logout").status_code == 200
    assert browser.get("/me").status_code == 401
    assert browser_with(app, token).get("/me").status_code == 401


def test_logout_leaves_no_key_in_redis(app: Flask, sign_in: SignIn, keys: Keys) -> None:
    """A logout leaves no key, not even the index of the user's last session."""
    browser = sign_in(app)
    browser.post("/logout")
    assert keys() == set()


def test_logout_keeps_the_users_other_sessions(app: Flask, sign_in: SignIn) -> None:
    """A logout ends no other session of the user."""
    browser, elsewhere = sign_in(app), sign_in(app)
    browser.post("/logout")
    assert elsewhere.get("/me").status_code == 200


def test_logout_clears_the_cookie_with_the_same_attributes(app: Flask, sign_in: SignIn) -> None:
    """A logout clears the cookie with the attributes of the login, and its response is
    `no-store`."""
    response = sign_in(app).post("/logout")
    (cookie,) = response.headers.getlist("Set-Cookie")
    assert is_clearing(cookie)
    assert attributes_of(cookie) == {"HttpOnly", "Max-Age=0", "Path=/", "SameSite=Lax"}
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Vary"] == "Cookie"


def test_logout_clears_a_host_cookie_in_production(make_app: MakeApp) -> None:
    """A logout clears a `__Host-` cookie with Secure and without Domain."""
    app = make_app()
    app.testing = False
    browser = app.test_client()
    browser.post("/login/ada", base_url="https://localhost")
    response = browser.post("/logout", base_url="https://localhost")
    (cookie,) = response.headers.getlist("Set-Cookie")
    assert cookie.startswith("__Host-kvsession=;")
    expected = {"HttpOnly", "Max-Age=0", "Path=/", "SameSite=Lax", "Secure"}
    assert attributes_of(cookie) == expected


def test_session_has_ended_before_logout_user_returns(
    app: Flask, sign_in: SignIn, do: Do, keys: Keys
) -> None:
    """`logout_user` ends the session in Redis before it returns."""
    browser = sign_in(app)

    def act() -> None:
        kvs.logout_user()
        assert keys() == set()

    assert do(browser, act).status_code == 200


def test_session_after_a_logout_is_empty_and_anonymous(app: Flask, sign_in: SignIn, do: Do) -> None:
    """After a logout, `g.session` is the same object, empty and anonymous."""
    browser = sign_in(app, data={"role": "admin"})

    def act() -> None:
        session = g.session
        session["pending"] = 1
        kvs.logout_user()
        assert g.session is session
        assert dict(session) == {}
        assert not session.modified
        assert session.new
        assert (session.id, session.user_id) == (None, None)

    assert is_clearing(cookies_of(do(browser, act))[0])


def test_pending_changes_are_dropped_by_a_logout(
    app: Flask, sign_in: SignIn, do: Do, keys: Keys
) -> None:
    """A logout drops the pending changes."""

    def act() -> None:
        g.session["pending"] = 1
        kvs.logout_user()

    do(sign_in(app), act)
    assert keys() == set()


def test_pending_unstorable_value_does_not_prevent_a_logout(
    app: Flask, sign_in: SignIn, do: Do
) -> None:
    """A pending unstorable value does not prevent a logout."""
    browser = sign_in(app, data={"list": []})

    def act() -> None:
        g.session["list"].append(object())
        kvs.logout_user()
        assert g.session.user_id is None

    response = do(browser, act)
    assert response.status_code == 200
    assert is_clearing(cookies_of(response)[0])


@pytest.mark.parametrize(
    "token", [None, "A" * 62, "junk"], ids=["no cookie", "unknown token", "junk"]
)
def test_logout_without_a_session_only_clears_the_cookie(
    app: Flask, keys: Keys, token: str | None
) -> None:
    """A logout without a session clears the cookie, if there is one, and makes no key."""
    response = browser_with(app, token).post("/logout")
    assert response.status_code == 200
    assert len(cookies_of(response)) == (token is not None)
    assert keys() == set()


def test_second_logout_in_one_request_does_nothing(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A second logout in one request does nothing more."""

    def act() -> None:
        kvs.logout_user()
        kvs.logout_user()

    response = do(sign_in(app), act)
    assert response.status_code == 200
    assert len(cookies_of(response)) == 1


def test_logout_ends_an_anonymous_session(client: FlaskClient, keys: Keys) -> None:
    """A logout ends an anonymous session and clears its cookie."""
    client.post("/data", json={"cart": [1]})
    assert is_clearing(cookies_of(client.post("/logout"))[0])
    assert keys() == set()
    assert client.get("/data").get_json() == {}


def test_logout_ends_a_session_that_changed_since_its_load(
    app: Flask, sign_in: SignIn, do: Do, keys: Keys
) -> None:
    """A logout ends the session although a parallel request has changed it since its load."""
    browser = sign_in(app)
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        assert g.session.user_id == "ada"
        parallel.post("/data", json={"x": 1})
        kvs.logout_user()

    do(browser, act)
    assert keys() == set()


def test_commit_after_a_parallel_logout_writes_nothing(
    app: Flask, sign_in: SignIn, do: Do, keys: Keys
) -> None:
    """A request that commits after a parallel logout writes nothing and sends no cookie."""
    browser = sign_in(app)
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        g.session["x"] = 1
        parallel.post("/logout")

    response = do(browser, act)
    assert response.status_code == 200
    assert not cookies_of(response)
    assert keys() == set()


def test_logout_costs_one_round_trip_beyond_the_read(
    app: Flask, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """A logout costs one round trip beyond the read."""
    browser = sign_in(app)
    browser.post("/logout")
    browser.post("/login/ada")
    with count_commands() as commands:
        browser.post("/logout")
    assert commands.names == ["GET", "EVALSHA"]
