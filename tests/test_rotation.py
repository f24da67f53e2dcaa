"""A new secret for the same session, asked for by the app."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs

from .support.apps import Do
from .support.browsers import SignIn, browser_with, cookies_of, is_clearing, token_of
from .support.commands import CountCommands, Keys


def test_the_token_changes_and_the_session_goes_on(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A rotation gives a new secret, in both halves, and keeps the id, the user and the data."""
    browser = sign_in(app, data={"x": 1})
    before, old = browser.get("/me").get_json(), token_of(browser) or ""
    response = do(browser, kvs.rotate_token)
    new = token_of(browser) or ""
    assert len(cookies_of(response)) == 1
    assert response.headers["Cache-Control"] == "no-store"
    assert old[:19] == new[:19]
    assert old[19:40] != new[19:40]
    assert old[40:] != new[40:]
    assert browser.get("/me").get_json() == before


def test_the_old_token_dies_at_once(app: Flask, sign_in: SignIn, do: Do) -> None:
    """The old token is worth nothing before `rotate_token` returns."""
    browser = sign_in(app)
    thief = browser_with(app, token_of(browser))

    def act() -> None:
        kvs.rotate_token()
        assert thief.get("/me").status_code == 401

    assert do(browser, act).status_code == 200
    assert browser.get("/me").status_code == 200


def test_pending_changes_go_into_the_same_write(
    app: Flask, sign_in: SignIn, do: Do, count_commands: CountCommands
) -> None:
    """A rotation with changed data costs one write beyond the read."""
    browser = sign_in(app)

    def act() -> None:
        g.session["x"] = 1
        kvs.rotate_token()
        assert not g.session.modified

    with count_commands() as commands:
        do(browser, act)
    assert commands.names == ["GET", "EVALSHA"]
    assert browser.get("/me").get_json()["data"] == {"x": 1}


def test_a_list_taken_out_before_is_still_the_sessions(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A change made after the rotation to a list taken out before it is kept."""
    browser = sign_in(app, data={"list": [1]})

    def act() -> None:
        taken = g.session["list"]
        taken.append(2)
        kvs.rotate_token()
        taken.append(3)

    do(browser, act)
    assert browser.get("/me").get_json()["data"] == {"list": [1, 2, 3]}


def test_twice_in_one_request(app: Flask, sign_in: SignIn, do: Do) -> None:
    """Two rotations leave one cookie, that of the last secret."""
    browser = sign_in(app)

    def act() -> None:
        kvs.rotate_token()
        kvs.rotate_token()

    assert len(cookies_of(do(browser, act))) == 1
    assert browser.get("/me").status_code == 200


def test_then_signing_out(app: Flask, sign_in: SignIn, do: Do, keys: Keys) -> None:
    """A logout after the rotation is what the browser hears of."""

    def act() -> None:
        kvs.rotate_token()
        kvs.logout_user()

    (cookie,) = cookies_of(do(sign_in(app), act))
    assert is_clearing(cookie)
    assert keys() == set()


def test_of_nobody_does_nothing(client: FlaskClient, do: Do, keys: Keys) -> None:
    """Without a session there is nothing to rotate: no error, no key, no cookie."""
    response = do(client, kvs.rotate_token)
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers
    assert keys() == set()


def test_of_a_visitors_session(app: Flask, client: FlaskClient, do: Do) -> None:
    """A visitor's session gets a new secret too."""
    client.post("/data", json={"x": 1})
    old = token_of(client)
    do(client, kvs.rotate_token)
    assert browser_with(app, old).get("/data").get_json() == {}
    assert client.get("/data").get_json() == {"x": 1}


def test_leaves_the_users_other_sessions_alone(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A rotation is this session's alone."""
    browser, elsewhere = sign_in(app), sign_in(app)
    do(browser, kvs.rotate_token)
    assert elsewhere.get("/me").status_code == 200


@pytest.mark.parametrize("rotate", [kvs.rotate_token, kvs.confirm_login])
def test_a_secret_changed_meanwhile_stays(
    app: Flask, sign_in: SignIn, do: Do, rotate: Callable[[], None]
) -> None:
    """Of two rotations at once the first one's secret stays; the second sends no cookie, and
    keeps its changes."""
    browser = sign_in(app)
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        g.session["x"] = 1
        do(parallel, kvs.rotate_token)
        rotate()

    response = do(browser, act)
    assert response.status_code == 200
    assert not cookies_of(response)
    assert browser.get("/me").status_code == 401
    assert parallel.get("/me").get_json()["data"] == {"x": 1}


@pytest.mark.parametrize("rotate", [kvs.rotate_token, kvs.confirm_login])
def test_nor_does_a_second_try(
    app: Flask, sign_in: SignIn, do: Do, rotate: Callable[[], None]
) -> None:
    """A request whose rotation came too late does not replace the other's secret later on."""
    browser = sign_in(app)
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        assert g.session.is_authenticated
        do(parallel, kvs.rotate_token)
        rotate()
        rotate()
        g.session.permanent = False

    assert not cookies_of(do(browser, act))
    assert parallel.get("/me").status_code == 200


@pytest.mark.parametrize("end", ["/logout", "/login/ada"])
def test_brings_no_ended_session_back(app: Flask, sign_in: SignIn, do: Do, end: str) -> None:
    """A session that ended since it was loaded stays ended, and the browser gets no cookie."""
    browser = sign_in(app)
    old = token_of(browser)
    parallel = browser_with(app, old)

    def act() -> None:
        assert g.session.user_id == "ada"
        parallel.post(end)
        kvs.rotate_token()
        assert g.session.user_id is None

    response = do(browser, act)
    assert response.status_code == 200
    assert not cookies_of(response)
    assert browser.get("/me").status_code == 401
