"""`rotate_token` gives the session a new secret."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask, g
from flask.testing import FlaskClient

import flask_kvsession as kvs

from .support.apps import Do, store_of
from .support.browsers import SignIn, browser_with, cookies_of, is_clearing, token_of
from .support.commands import CountCommands, Keys


def test_rotation_changes_the_secret_and_keeps_the_session(
    app: Flask, sign_in: SignIn, do: Do
) -> None:
    """A rotation changes both halves of the secret and keeps the id, the user and the data."""
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


def test_old_token_is_invalid_before_rotate_token_returns(
    app: Flask, sign_in: SignIn, do: Do
) -> None:
    """The old token is invalid before `rotate_token` returns."""
    browser = sign_in(app)
    thief = browser_with(app, token_of(browser))

    def act() -> None:
        kvs.rotate_token()
        assert thief.get("/me").status_code == 401

    assert do(browser, act).status_code == 200
    assert browser.get("/me").status_code == 200


def test_rotation_after_a_login_or_rotation_in_the_same_request_changes_the_secret_again(
    app: Flask, client: FlaskClient, do: Do
) -> None:
    """Each rotation changes the secret, also after a login or another rotation in the same
    request."""
    secrets: list[str] = []

    def act() -> None:
        for change in (lambda: kvs.login_user("ada"), kvs.rotate_token, kvs.rotate_token):
            change()
            (stored,) = store_of(app).sessions_of("ada")
            secrets.append(stored.record.secret)

    do(client, act)
    assert len(set(secrets)) == 3
    assert client.get("/me").status_code == 200


def test_pending_changes_are_written_with_the_new_secret(
    app: Flask, sign_in: SignIn, do: Do, count_commands: CountCommands
) -> None:
    """A rotation writes the pending changes in the same round trip."""
    browser = sign_in(app)

    def act() -> None:
        g.session["x"] = 1
        kvs.rotate_token()
        assert not g.session.modified

    with count_commands() as commands:
        do(browser, act)
    assert commands.names == ["GET", "EVALSHA"]
    assert browser.get("/me").get_json()["data"] == {"x": 1}


def test_list_read_before_the_rotation_is_still_tracked(
    app: Flask, sign_in: SignIn, do: Do
) -> None:
    """If a list was read before a rotation, its changes after the rotation are kept."""
    browser = sign_in(app, data={"list": [1]})

    def act() -> None:
        taken = g.session["list"]
        taken.append(2)
        kvs.rotate_token()
        taken.append(3)

    do(browser, act)
    assert browser.get("/me").get_json()["data"] == {"list": [1, 2, 3]}


def test_two_rotations_in_one_request_send_one_cookie(app: Flask, sign_in: SignIn, do: Do) -> None:
    """Two rotations in one request send one cookie, that of the last secret."""
    browser = sign_in(app)

    def act() -> None:
        kvs.rotate_token()
        kvs.rotate_token()

    assert len(cookies_of(do(browser, act))) == 1
    assert browser.get("/me").status_code == 200


def test_logout_after_a_rotation_clears_the_cookie(
    app: Flask, sign_in: SignIn, do: Do, keys: Keys
) -> None:
    """A logout after a rotation in the same request clears the cookie."""

    def act() -> None:
        kvs.rotate_token()
        kvs.logout_user()

    (cookie,) = cookies_of(do(sign_in(app), act))
    assert is_clearing(cookie)
    assert keys() == set()


def test_rotation_without_a_session_does_nothing(client: FlaskClient, do: Do, keys: Keys) -> None:
    """A rotation without a session makes no key, sends no cookie and raises no error."""
    response = do(client, kvs.rotate_token)
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers
    assert keys() == set()


def test_anonymous_session_gets_a_new_secret_too(app: Flask, client: FlaskClient, do: Do) -> None:
    """A rotation gives an anonymous session a new secret."""
    client.post("/data", json={"x": 1})
    old = token_of(client)
    do(client, kvs.rotate_token)
    assert browser_with(app, old).get("/data").get_json() == {}
    assert client.get("/data").get_json() == {"x": 1}


def test_rotation_keeps_the_users_other_sessions_valid(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A rotation does not change the user's other sessions."""
    browser, elsewhere = sign_in(app), sign_in(app)
    do(browser, kvs.rotate_token)
    assert elsewhere.get("/me").status_code == 200


@pytest.mark.parametrize("rotate", [kvs.rotate_token, kvs.confirm_login])
def test_rotation_after_a_parallel_rotation_sends_no_cookie(
    app: Flask, sign_in: SignIn, do: Do, rotate: Callable[[], None]
) -> None:
    """If a parallel request rotated first, its secret stays and the later rotation sends no
    cookie."""
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
def test_second_try_after_a_parallel_rotation_sends_no_cookie(
    app: Flask, sign_in: SignIn, do: Do, rotate: Callable[[], None]
) -> None:
    """If a parallel request rotated first, a second rotation does not replace its secret either."""
    browser = sign_in(app)
    parallel = browser_with(app, token_of(browser))

    def act() -> None:
        assert g.session.is_authenticated
        do(parallel, kvs.rotate_token)
        rotate()
        rotate()

    assert not cookies_of(do(browser, act))
    assert parallel.get("/me").status_code == 200


@pytest.mark.parametrize("end", ["/logout", "/login/ada"])
def test_rotation_does_not_bring_an_ended_session_back(
    app: Flask, sign_in: SignIn, do: Do, end: str
) -> None:
    """If the session ended since its load, a rotation does not bring it back and sends no
    cookie."""
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
