"""Signing out."""

from __future__ import annotations

import pytest
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs

from .support.apps import Do, MakeApp
from .support.browsers import SignIn, attributes_of, browser_with, cookies_of, is_clearing, token_of
from .support.commands import CountCommands, Keys


def test_a_logout_ends_the_session(app: Flask, sign_in: SignIn) -> None:
    """After a logout neither the browser nor who kept its cookie gets in."""
    browser = sign_in(app)
    token = token_of(browser)
    assert browser.post("/logout").status_code == 200
    assert browser.get("/me").status_code == 401
    assert browser_with(app, token).get("/me").status_code == 401


def test_a_logout_leaves_nothing_in_redis(app: Flask, sign_in: SignIn, keys: Keys) -> None:
    """A logout leaves no key, not even the index of a user's last session."""
    browser = sign_in(app)
    browser.post("/logout")
    assert keys() == set()


def test_a_logout_ends_only_this_browsers_session(app: Flask, sign_in: SignIn) -> None:
    """The user's other sessions go on."""
    browser, elsewhere = sign_in(app), sign_in(app)
    browser.post("/logout")
    assert elsewhere.get("/me").status_code == 200


def test_the_cookie_is_cleared_as_it_was_set(app: Flask, sign_in: SignIn) -> None:
    """The cookie is taken away with the attributes it was given with, and no cache keeps that."""
    response = sign_in(app).post("/logout")
    (cookie,) = response.headers.getlist("Set-Cookie")
    assert is_clearing(cookie)
    assert attributes_of(cookie) == {"HttpOnly", "Max-Age=0", "Path=/", "SameSite=Lax"}
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Vary"] == "Cookie"


def test_the_cookie_is_cleared_in_production(make_app: MakeApp) -> None:
    """A `__Host-` cookie is taken away as Secure and without Domain, or browsers would refuse."""
    app = make_app()
    app.testing = False
    browser = app.test_client()
    browser.post("/login/ada", base_url="https://localhost")
    response = browser.post("/logout", base_url="https://localhost")
    (cookie,) = response.headers.getlist("Set-Cookie")
    assert cookie.startswith("__Host-kvsession=;")
    expected = {"HttpOnly", "Max-Age=0", "Path=/", "SameSite=Lax", "Secure"}
    assert attributes_of(cookie) == expected


def test_a_logout_is_done_at_once(app: Flask, sign_in: SignIn, do: Do, keys: Keys) -> None:
    """`logout_user` has ended the session in Redis before it returns."""
    browser = sign_in(app)

    def act() -> None:
        kvs.logout_user()
        assert keys() == set()

    assert do(browser, act).status_code == 200


def test_after_a_logout_the_session_is_a_visitors(app: Flask, sign_in: SignIn, do: Do) -> None:
    """`g.session` is the same object, empty, nobody's and with nothing pending."""
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


def test_pending_changes_do_not_survive(app: Flask, sign_in: SignIn, do: Do, keys: Keys) -> None:
    """What was changed before the logout is not written anywhere."""

    def act() -> None:
        g.session["pending"] = 1
        kvs.logout_user()

    do(sign_in(app), act)
    assert keys() == set()


def test_an_unstorable_value_does_not_keep_anybody_in(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A logout drops pending changes unseen, so one that could not be stored is no obstacle."""
    browser = sign_in(app, data={"list": []})

    def act() -> None:
        g.session["list"].append(object())
        kvs.logout_user()
        assert g.session.user_id is None

    response = do(browser, act)
    assert response.status_code == 200
    assert is_clearing(cookies_of(response)[0])


@pytest.mark.parametrize("token", [None, "A" * 62, "junk"], ids=["none", "unknown", "junk"])
def test_nobody_may_sign_out(app: Flask, keys: Keys, token: str | None) -> None:
    """A logout without a session is no error and makes no key; a cookie that is there goes."""
    response = browser_with(app, token).post("/logout")
    assert response.status_code == 200
    assert len(cookies_of(response)) == (token is not None)
    assert keys() == set()


def test_signing_out_twice(app: Flask, sign_in: SignIn, do: Do) -> None:
    """The second logout of a request does nothing more."""

    def act() -> None:
        kvs.logout_user()
        kvs.logout_user()

    response = do(sign_in(app), act)
    assert response.status_code == 200
    assert len(cookies_of(response)) == 1


def test_a_visitor_may_sign_out(client: FlaskClient, keys: Keys) -> None:
    """A logout ends a visitor's session too."""
    client.post("/data", json={"cart": [1]})
    assert is_clearing(cookies_of(client.post("/logout"))[0])
    assert keys() == set()
    assert client.get("/data").get_json() == {}


def test_a_logout_ends_what_others_changed_meanwhile(
    app: Flask, sign_in: SignIn, do: Do, keys: Keys
) -> None:
    """A logout ends the session although another request has written it since it was loaded."""
    browser = sign_in(app)
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        assert g.session.user_id == "ada"
        parallel.post("/data", json={"x": 1})
        kvs.logout_user()

    do(browser, act)
    assert keys() == set()


def test_a_request_under_way_does_not_undo_a_logout(
    app: Flask, sign_in: SignIn, do: Do, keys: Keys
) -> None:
    """A request that began before the logout and writes after it brings nothing back."""
    browser = sign_in(app)
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        g.session["x"] = 1
        parallel.post("/logout")

    response = do(browser, act)
    assert response.status_code == 200
    assert not cookies_of(response)
    assert keys() == set()


def test_a_logout_costs_one_round_trip_beyond_the_read(
    app: Flask, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """A logout reads the session and ends it: two round trips."""
    browser = sign_in(app)
    browser.post("/logout")
    browser.post("/login/ada")
    with count_commands() as commands:
        browser.post("/logout")
    assert commands.names == ["GET", "EVALSHA"]
