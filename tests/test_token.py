"""The token: its shape and randomness, and that only the cookie holds it (law 1)."""

from __future__ import annotations

import enum
import json
import logging
import pickle
import random
import re
import secrets
import traceback
import typing as t
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from werkzeug.local import LocalProxy

import flask_kvsession as kvs
from flask_kvsession import signals
from flask_kvsession.current import request_session
from flask_kvsession.errors import StoreUnavailable
from flask_kvsession.record import Stored
from flask_kvsession.token import Token, is_session_id, new_session_id, user_hash

from .support.apps import MakeApp, process_response, state_of, store_of
from .support.browsers import token_of
from .support.commands import Keys

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
SOME_ID = UUID("12345678-1234-5678-1234-567812345678")

quick = settings(max_examples=200, deadline=None, database=None)


def new_token() -> Token:
    return Token.for_session(new_session_id(None))


# Shape and randomness


def test_a_token_is_62_url_safe_characters() -> None:
    """A token is a session id of 19 characters and a secret of 21 and 22 characters."""
    token = new_token()
    text = str(token)
    assert len(text) == 62
    assert set(text) <= set(ALPHABET)
    assert text == token.session_id + token.family + token.rotating
    assert [len(token.session_id), len(token.family), len(token.rotating)] == [19, 21, 22]
    assert Token.parse(text) == token


def test_100_000_tokens_are_unique_and_use_every_bit() -> None:
    """No part of a token repeats in 100,000 tokens, and each character may be any of the 64."""
    tokens = [new_token() for _ in range(100_000)]
    for part in ("session_id", "family", "rotating"):
        assert len({getattr(token, part) for token in tokens}) == len(tokens)
    for column in zip(*map(str, tokens[:20_000]), strict=True):
        counts = Counter(column)
        assert counts.keys() == set(ALPHABET)
        # 312 are expected. A deviation of 6 standard deviations happens once in 10^9.
        assert max(counts.values()) < 420
        assert min(counts.values()) > 206


def test_a_token_does_not_depend_on_the_random_module() -> None:
    """The state of Python's ordinary random numbers tells nothing of a token."""
    state = random.getstate()
    texts = set()
    for _ in range(2):
        random.seed(1)
        texts.add(str(new_token()))
    random.setstate(state)
    assert len(texts) == 2


def test_every_random_character_of_a_token_comes_from_the_module_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If `secrets` gives only the letter "x", a token has no other letter: there is no other source
    of random numbers (OWASP ASVS 5.0, 7.2.3 and 11.5.1)."""
    monkeypatch.setattr(secrets, "token_urlsafe", lambda count: "x" * count)
    assert str(new_token()) == "x" * 62


def test_two_logins_of_one_user_get_different_secrets(app: Flask) -> None:
    """No half of the secret is made from the user, the browser or the time (OWASP ASVS 5.0,
    7.2.2)."""
    tokens = []
    for _ in range(2):
        client = app.test_client()
        client.post("/login/ada")
        tokens.append(str(token_of(client)))
    (one, two) = tokens
    assert one[19:40] != two[19:40]
    assert one[40:] != two[40:]


def test_a_new_secret_of_a_session_shares_nothing_with_the_old() -> None:
    """Both halves of a new secret are new, and the session id stays."""
    first = new_token()
    second = Token.for_session(first.session_id)
    assert second.session_id == first.session_id
    assert second.family != first.family
    assert second.rotating != first.rotating


def test_a_token_matches_only_the_hash_of_its_secret() -> None:
    """A secret is recognised by its hash; one half or the id alone is not recognised."""
    token, other = new_token(), new_token()
    assert token.matches(token.secret_hash)
    for wrong in (
        other,
        Token(token.session_id, other.family + token.rotating),
        Token(token.session_id, token.family + other.rotating),
        Token(token.session_id, token.rotating + token.family),
    ):
        assert not wrong.matches(token.secret_hash)
    assert not token.matches("")
    assert not token.matches(token.family_hash)
    assert not token.matches("é" * 43)


# Parsing


@given(st.text(max_size=70) | st.text(ALPHABET, min_size=58, max_size=66))
@quick
def test_only_a_string_of_a_token_s_exact_shape_is_parsed(text: str) -> None:
    """Any string but 62 characters of the alphabet is refused; a token is parsed unchanged."""
    token = Token.parse(text)
    assert (token is not None) == (len(text) == 62 and set(text) <= set(ALPHABET))
    assert token is None or str(token) == text


@given(st.text(ALPHABET, min_size=62, max_size=62), st.integers(0, 61), st.characters())
@quick
def test_a_token_with_one_wrong_character_is_refused(text: str, at: int, char: str) -> None:
    """A token with one character outside the alphabet, or one character more, is refused."""
    mangled = text[:at] + char + text[at + 1 :]
    assert (Token.parse(mangled) is None) == (char not in ALPHABET)
    assert Token.parse(text[:at] + char + text[at:]) is None


def test_a_string_that_is_nearly_a_token_is_refused() -> None:
    """No string is trimmed, unquoted or normalised before it is read as a token."""
    text = str(new_token())
    nearly = ["", text[:-1], text + "A", text + "\n", " " + text[1:], text + "\0", f'"{text}"']
    nearly += [
        text[:-1] + last for last in ("\n", "=", "+", "/", "*", "\u0660", "\uff21", "\u212a")
    ]
    for mangled in [*nearly, text * 2, text * 20_000]:
        assert Token.parse(mangled) is None


def test_a_session_id_is_19_characters_of_the_alphabet() -> None:
    """No other value can name a session."""
    assert all(map(is_session_id, ["A" * 19, "A-_" * 6 + "0"]))
    others: list[object] = ["A" * 18, "A" * 20, "A" * 62, "A" * 19 + "\n", "A" * 18 + "*", ""]
    others += ["{AA}" + "A" * 15, None, b"A" * 19, 19, ["A" * 19]]
    assert not any(map(is_session_id, others))


def test_all_sessions_of_a_user_are_in_the_user_s_hash_slot() -> None:
    """A user's session ids begin with the first three characters of the user's hash."""
    user = user_hash("ada")
    ids = {new_session_id(user) for _ in range(100)}
    assert {session_id[:3] for session_id in ids} == {user[:3]}
    assert len(ids) == 100
    assert all(map(is_session_id, ids))


# User ids


class Letter(enum.StrEnum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


class User:
    """A user object, as an ORM makes it."""

    id = 1


ACCEPTED: list[t.Any] = [
    0,
    1,
    -1,
    42,
    2**64,
    -(10**4000),
    "42",
    " ",
    "a:b",
    "{a}",
    "a}b",
    "{",
    "}{",
    "*",
    "?[a-z]",
    "a\nb",
    "a\r\nSET x y\r\n",
    "a\0b",
    "%s%n",
    "../..",
    "ünï¢ödé \U0001f600",
    "<b>&amp;",
    "x" * 10_240,
    "{a}" * 10_000,
    SOME_ID,
    UUID(int=0),
]


def test_a_user_hash_is_22_characters_of_base64url_of_sha_256() -> None:
    """The hash is base64url of SHA-256 of the id's text, cut at 22 characters."""
    for user_id in ACCEPTED:
        digest = sha256(str(user_id).encode()).digest()
        assert user_hash(user_id) == urlsafe_b64encode(digest).decode()[:22]


def test_a_user_hash_has_only_characters_that_are_safe_in_a_key() -> None:
    """A hash holds no brace, no newline and no long text of the id, and no two ids share a hash."""
    texts = {str(user_id): user_hash(user_id) for user_id in ACCEPTED}
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", hashed) for hashed in texts.values())
    assert len(set(texts.values())) == len(texts)


def test_a_user_id_and_its_text_name_the_same_user() -> None:
    """42 and "42" name the same user, so revoking by either ends all sessions (CVE-2026-82311)."""
    user_ids: list[int | UUID] = [42, -7, 0, SOME_ID]
    for user_id in user_ids:
        assert user_hash(user_id) == user_hash(str(user_id))


@pytest.mark.parametrize("form", [str.upper, lambda text: text.replace("-", ""), "{{{}}}".format])
def test_another_text_of_a_uuid_names_another_user(form: t.Callable[[str], str]) -> None:
    """Only the `str()` of a UUID names the user of the UUID; README.md says so."""
    text = str(UUID(int=0xABCDEF))
    assert user_hash(form(text)) != user_hash(UUID(text)) == user_hash(text)


REFUSED: list[t.Any] = [
    *(None, "", True, False, 1.5, 1.0, b"ada", ["ada"], ("ada",), {"id": 1}, User(), User),
    *(LocalProxy(lambda: "ada"), Markup("ada"), Letter.A, Number.ONE, "a\ud800", 10**4999),
]


def test_a_value_that_is_no_user_id_is_refused() -> None:
    """Any value but an int, a UUID or a str that is not empty raises `ValueError`."""
    for user_id in REFUSED:
        with pytest.raises(ValueError, match="user_id"):
            user_hash(user_id)


def test_the_refusal_of_a_user_object_says_to_pass_its_id() -> None:
    """The message for the likeliest mistake, the user in place of its id, names the remedy."""
    user_ids: list[t.Any] = [None, User(), LocalProxy(lambda: "ada")]
    for user_id in user_ids:
        with pytest.raises(ValueError, match=r"pass user\.id"):
            user_hash(user_id)


# Only the cookie holds the secret


def secrets_of(token: str) -> list[str]:
    """Every run of 8 characters of a token's secret."""
    secret = token[19:]
    return [secret[at : at + 8] for at in range(len(secret) - 7)]


def hides(text: str, *tokens: str) -> bool:
    """Whether a text holds no part of a token's secret."""
    return not any(part in text for token in tokens for part in secrets_of(token))


def test_hides_finds_a_token_whole_halved_or_in_part() -> None:
    """`hides`, the search of these tests, finds every part of a secret."""
    token = str(new_token())
    assert hides(token[:19], token)
    assert not any(hides(f"x{leak}y", token) for leak in (token, token[19:40], token[-22:]))
    assert not hides(f"x{token[-8:]}y", token)


class Tokens:
    """All tokens that an app has given to a browser."""

    def __init__(self, client: FlaskClient) -> None:
        self.client, self.texts, self.bodies = client, list[str](), list[str]()

    def post(self, url: str, **json: t.Any) -> None:
        response = self.client.post(url, json=json)
        assert response.status_code == 200
        self.bodies.append(response.get_data(as_text=True))
        self.texts += filter(None, [token_of(self.client)])


@pytest.fixture
def all_acts(app: Flask) -> Callable[[], Tokens]:
    """Does every act that creates, changes or ends a session."""
    app.add_url_rule("/confirm", view_func=confirm, methods=["POST"])
    app.add_url_rule("/rotate", view_func=rotate, methods=["POST"])
    app.add_url_rule("/revoke", view_func=revoke, methods=["POST"])
    app.add_url_rule("/reprs", view_func=reprs, methods=["POST"])

    def act() -> Tokens:
        tokens = Tokens(app.test_client())
        tokens.post("/data", visit=1)
        for url in ("/login/ada", "/confirm", "/rotate", "/login/bob"):
            tokens.post(url)
            tokens.post("/reprs")
        tokens.post("/revoke")
        tokens.post("/login/ada", remember=False)
        tokens.post("/logout")
        return tokens

    return act


def confirm() -> dict[str, t.Any]:
    kvs.confirm_login()
    return {}


def rotate() -> dict[str, t.Any]:
    kvs.rotate_token()
    return {}


def revoke() -> dict[str, t.Any]:
    return {"ended": kvs.revoke_all_sessions()}


def reprs() -> dict[str, t.Any]:
    """Every repr of this request that a debugger or an error report may show."""
    state, stored = request_session(), g.session.stored
    shown = [g.session, kvs.current_session, state, stored, stored.record, kvs.list_sessions()]
    token = Token.for_session(stored.id)
    session = kvs.current_session._get_current_object()  # type: ignore[attr-defined]
    slots = {name: getattr(session, name) for name in kvs.Session.__slots__}
    held = {**vars(state), **slots}
    return {"reprs": [*map(repr, shown), *map(str, shown), repr(token), repr(held)]}


def test_the_repr_of_a_token_or_session_names_only_the_session_id(app: Flask) -> None:
    """A token's repr shows its public half, and a session's repr shows its id or that it has
    none."""
    token = new_token()
    assert repr(token) == f"<Token of session {token.session_id}>"
    assert hides(f"{token!r} {[token]} {[[token]]}", str(token))
    with app.test_request_context():
        session = kvs.current_session
        assert repr(session) == "<Session, not loaded>"
        assert len(session) == 0
        assert repr(session) == "<Session without a record>"
        kvs.login_user("ada", {"email": "ada@example.com"})
        assert repr(session) == str(session) == f"<Session {session.id}>"


def test_no_part_of_a_token_is_in_redis(
    all_acts: Callable[[], Tokens],
    redis_client: redis.Redis,
    keys: Keys,
    client: FlaskClient,
) -> None:
    """The store holds no part of a secret in its keys, records and indexes."""
    client.post("/login/ada")
    tokens = [*all_acts().texts, str(token_of(client))]
    held = []
    for key in keys():
        is_index = ":u:" in key
        held.append(redis_client.zrange(key, 0, -1) if is_index else redis_client.get(key))
    assert len(held) >= 2
    assert len(set(tokens)) >= 6
    assert hides(f"{keys()} {held}", *tokens)


def test_the_hashes_of_a_stolen_dump_open_no_session(
    app: Flask, client: FlaskClient, redis_client: redis.Redis, keys: Keys
) -> None:
    """Whoever has read a record from Redis cannot use its hashes as the secret of a cookie."""
    client.post("/login/ada")
    session_id = str(token_of(client))[:19]
    (key,) = [key for key in keys() if ":s:" in key]
    record = json.loads(t.cast(bytes, redis_client.get(key)))
    secret, family = record["secret"], record["family"]
    assert len(secret) == len(family) == 22
    for shown in (secret + family, family + secret, family[:21] + secret, secret + secret):
        thief = app.test_client()
        thief.set_cookie("kvsession", session_id + shown[:43])
        assert thief.get("/me").status_code == 401
    assert client.get("/me").status_code == 200


def test_no_part_of_a_token_is_in_logs_signals_or_bodies(
    all_acts: Callable[[], Tokens], app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the debug log nor a signal, a repr or a response body holds a token."""
    received: list[str] = []

    def receive(sender: Flask, **extra: t.Any) -> None:
        received.append(repr((sender, extra)))

    names = [name for name in signals.__all__ if name != "client_changed"]
    for name in names:
        getattr(signals, name).connect(receive, sender=app)
    with caplog.at_level(logging.DEBUG):
        tokens = all_acts()
    assert len(received) >= 6
    assert len(caplog.records) >= 6
    assert len(set(tokens.texts)) >= 6
    assert hides(f"{received} {caplog.text} {tokens.bodies}", *tokens.texts)
    assert repr(app.extensions["kvsession"])
    assert hides(repr(app.extensions["kvsession"]), *tokens.texts)


def test_no_part_of_a_token_is_in_a_traceback(tmp_path: Path) -> None:
    """The error and the log of a failing store do not show the token that was to be loaded."""
    app = Flask("app")
    app.config.update(TESTING=True, KVSESSION_REDIS_URL=f"unix://{tmp_path}/nobody")
    kvs.KVSession(app)
    token = str(new_token())
    with app.test_request_context(headers={"Cookie": f"kvsession={token}"}):
        with pytest.raises(StoreUnavailable) as failure:
            len(kvs.current_session)
        text = "".join(traceback.format_exception(failure.value))
        assert "tests/test_token.py" in text.replace("\\", "/")
        assert hides(f"{text} {kvs.current_session!r} {failure.value!r}", token)


def test_a_user_id_with_line_ends_makes_one_line_of_the_log(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A user id with line ends, or of 10 KB, makes one short line (log injection)."""
    with caplog.at_level(logging.DEBUG, "flask_kvsession"):
        for user_id in ("a%0Auser-logged-in: session x", "a%0D%0Ab", "x" * 10_240):
            assert client.post(f"/login/{user_id}").status_code == 200
            client.post("/logout")
    assert len(caplog.records) == 6
    for record in caplog.records:
        assert len(record.getMessage().splitlines()) == 1
        assert len(record.getMessage()) < 200


def test_a_loaded_session_shows_hashes_and_no_secret(app: Flask) -> None:
    """The store's objects do not show the secret that a session was loaded with."""
    with app.test_request_context():
        session = kvs.login_user("ada")
        (info,) = kvs.list_sessions()
        response = process_response(app, app.make_response(""))
    token = response.headers["Set-Cookie"].split("=", 1)[1].split(";")[0]
    parsed = Token.parse(token)
    assert parsed
    stored = store_of(app).load(parsed)
    assert isinstance(stored, Stored)
    assert stored.id == session.id == info.id == token[:19]
    assert hides(f"{stored!r} {stored.record!r} {info!r} {session!r} {state_of(app)!r}", token)
    assert hides(repr(pickle.dumps(info)), token)


@pytest.mark.parametrize("half", [slice(19, 40), slice(40, 62)], ids=["family", "rotating"])
def test_a_token_with_one_wrong_half_opens_nothing(make_app: MakeApp, half: slice) -> None:
    """A cookie with the right session id and only one right half opens nothing."""
    app = make_app()
    client, thief = app.test_client(), app.test_client()
    client.post("/login/ada")
    token, other = str(token_of(client)), str(new_token())
    thief.set_cookie("kvsession", token.replace(token[half], other[half]))
    assert thief.get("/me").status_code == 401
    assert client.get("/me").status_code == 200
