"""Answers of the store that only a rare race or a rare failure gives."""

from __future__ import annotations

from flask import Flask
from flask.testing import FlaskClient

from flask_kvsession.errors import StoreUnavailable
from flask_kvsession.rotation import Standing
from flask_kvsession.store import Found, explain
from flask_kvsession.token import Token

from .support.apps import store_of
from .support.browsers import anonymous_token_of


def _anonymous(client: FlaskClient) -> Token:
    client.post("/data", json={"x": 1})
    token = Token.parse(anonymous_token_of(client) or "")
    assert token
    return token


def test_a_copied_token_of_an_anonymous_session_ends_it(app: Flask, client: FlaskClient) -> None:
    """An anonymous session whose old secret was used again is removed."""
    store, token = store_of(app), _anonymous(client)
    found = store.look_up(token)
    assert found.stored
    ended = store.end_stolen(Found(token, Standing.REUSED, found.stored), store.now)
    assert ended and ended.id == token.session_id
    assert store.load(token) is None


def test_a_session_that_has_changed_is_judged_again(app: Flask, client: FlaskClient) -> None:
    """If another request has changed the session, its token is judged by the newer record."""
    store, token = store_of(app), _anonymous(client)
    older = store.look_up(token).stored
    client.post("/data", json={"y": 2})
    assert older
    assert store.end_stolen(Found(token, Standing.REUSED, older), store.now) is None
    assert store.load(token)


def test_a_failure_without_a_known_cause_is_explained() -> None:
    """Without a cause the usual description is given, and another cause is quoted."""
    assert explain(StoreUnavailable("Too many keys.")) == "Too many keys."
    error = StoreUnavailable()
    error.__cause__ = ConnectionError("gone.")
    assert explain(error) == "The Redis server cannot be used: gone."
