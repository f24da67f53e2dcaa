"""Bad input: it is never a 500, never signs in and makes no key (SECURITY, "Bad input")."""

from __future__ import annotations

import logging
import pickle
import re
import secrets
import typing as t
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin, urlsplit
from uuid import UUID

import pytest
import redis
from flask import Flask, g, redirect, request
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse
from werkzeug.wrappers import Response

import flask_kvsession as kvs
from flask_kvsession.token import Token, new_session_id, user_hash

from .support.apps import MakeApp, preprocess_request, process_response, store_of
from .support.browsers import token_of, unknown_token
from .support.clock import Clock
from .support.commands import CountCommands, Keys

quick = settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app on plain http that answers an unexpected error with a 500, as in production."""
    app = make_app(login_view="sign_in")
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.get("/sign-in")
    def sign_in() -> str:
        return "who are you?"

    @app.route("/go", methods=["GET", "POST"])
    def go() -> Response:
        return redirect(kvs.next_url("/home"), 302)

    @app.get("/facts")
    def facts() -> dict[str, t.Any]:
        session = kvs.current_session
        return {"ip": session.ip_address, "agent": session.user_agent, "user": session.user_id}

    return app


class Attacker:
    """A client that sends any headers and keeps no cookies."""

    def __init__(self, app: Flask) -> None:
        self.client = app.test_client(use_cookies=False)

    def get(self, url: str = "/me", **headers: str) -> TestResponse:
        return self.open("GET", url, **headers)

    def open(self, method: str, url: str, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.open(url, method=method, headers=named)


@pytest.fixture
def attacker(app: Flask) -> Attacker:
    return Attacker(app)


def record_key(keys: set[str]) -> str:
    (key,) = [key for key in keys if ":s:" in key]
    return key


# Cookies

A_TOKEN = "A" * 62
JUNK: dict[str, str] = {
    "empty": "",
    "empty-value": "kvsession=",
    "no-equals": "kvsession",
    "nameless": f"={A_TOKEN}",
    "short": f"kvsession={A_TOKEN[1:]}",
    "long": f"kvsession={A_TOKEN}A",
    "session-id-only": f"kvsession={'A' * 19}",
    "1-mb": "kvsession=" + "A" * 1_000_000,
    "1-mb-name": "A" * 1_000_000 + "=1",
    "10,000-cookies": "; ".join(f"kvsession{n}={A_TOKEN}" for n in range(10_000)),
    "10,000-of-ours": "; ".join(["kvsession=junk"] * 10_000),
    "100,000-semicolons": ";" * 100_000,
    "100,000-quotes": 'kvsession="' + '"' * 100_000,
    "100,000-backslashes": 'kvsession="' + "\\" * 100_000 + '"',
    "nul": f"kvsession={A_TOKEN[1:]}\0",
    "not-utf-8": "kvsession=\xff\xfe" + "A" * 60,
    "latin-1": "kvsession=" + "\xe9" * 62,
    "wide-a": "kvsession=" + ("\uff21" * 62).encode().decode("latin-1"),
    "quoted-octal-nul": f'kvsession="{A_TOKEN[1:]}\\000"',
    "quoted-octal-newline": f'kvsession="{A_TOKEN}\\012"',
    "percent": "kvsession=" + "%41" * 62,
    "braces": "kvsession={x}" + "A" * 59,
    "star": "kvsession=" + "*" * 62,
    "question-mark": "kvsession=" + "?" * 62,
    "dots": "kvsession=" + "../" * 20 + "AA",
    "colon": "kvsession=" + "A" * 30 + ":" + "A" * 31,
    "space-inside": f"kvsession={A_TOKEN[:30]} {A_TOKEN[31:]}",
    "pickle": "kvsession=" + pickle.dumps({"user": "ada"}).decode("latin-1"),
    "case": f"KVSESSION={A_TOKEN}",
    "prefixed": f"__Host-kvsession={A_TOKEN}",
    "nbsp": f"\xa0kvsession={A_TOKEN}",
    "flask-s-own": f"session={A_TOKEN}",
}


def flask_cookie(app: Flask) -> str:
    """A session that Flask has signed for a cookie."""
    app.secret_key = "secret"
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer
    return str(serializer.dumps({"user_id": "ada", "_permanent": True}))


@pytest.mark.parametrize("cookie", JUNK.values(), ids=JUNK)
def test_a_junk_cookie_costs_no_redis_call(
    attacker: Attacker, count_commands: CountCommands, cookie: str
) -> None:
    """A cookie without a token's shape makes an anonymous browser, and the store is not called."""
    with count_commands() as commands:
        assert attacker.get("/data", Cookie=cookie).get_json() == {}
        assert attacker.get("/me", Cookie=cookie).status_code == 401
    assert len(commands) == 0


@pytest.mark.parametrize("kind", ["short", "10,000-of-ours", "not-utf-8"])
def test_a_login_and_logout_over_a_junk_cookie_succeed(
    attacker: Attacker, redis_client: redis.Redis, keys: Keys, kind: str
) -> None:
    """Over any junk a login gives a new token, and a logout responds as usual."""
    cookie = JUNK[kind]
    response = attacker.open("POST", "/login/ada", Cookie=cookie)
    assert response.status_code == 200
    (header,) = response.headers.getlist("Set-Cookie")
    token = header.partition(";")[0]
    assert attacker.get("/me", Cookie=token).status_code == 200
    assert len(keys()) == 2
    assert attacker.open("POST", "/logout", Cookie=cookie).status_code == 200
    assert len(keys()) == 2


@pytest.mark.parametrize("name", ["kvsession", "kvsession-anonymous"])
def test_of_many_unknown_tokens_four_are_looked_up_and_none_makes_a_key(
    attacker: Attacker, count_commands: CountCommands, keys: Keys, name: str
) -> None:
    """Of ten well-formed unknown tokens, four cost one read each, and no key is made."""
    cookie = "; ".join(f"{name}={unknown_token()}" for _ in range(10))
    with count_commands() as commands:
        assert attacker.get("/data", Cookie=cookie).get_json() == {}
    assert commands.names == ["GET"] * 4
    assert keys() == set()


def test_a_cookie_signed_by_flask_signs_nobody_in(
    app: Flask, attacker: Attacker, count_commands: CountCommands
) -> None:
    """A session signed by Flask, under the name of our cookie too, signs nobody in."""
    signed = flask_cookie(app)
    with count_commands() as commands:
        for cookie in (f"kvsession={signed}", f"session={signed}; kvsession={signed}"):
            assert attacker.get("/me", Cookie=cookie).status_code == 401
    assert len(commands) == 0


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=200))
@quick
def test_no_cookie_header_makes_a_server_error(attacker: Attacker, header: str) -> None:
    """Whatever the header holds, a page is shown and the guard says 401."""
    for cookie in (header, f"kvsession={header}", f'kvsession="{header}"', f"{header}; kvsession"):
        assert attacker.get("/data", Cookie=cookie).status_code == 200
        assert attacker.get("/me", Cookie=cookie).status_code == 401


def test_a_well_formed_unknown_cookie_costs_one_read(
    attacker: Attacker, count_commands: CountCommands, keys: Keys
) -> None:
    """A token that opens no session costs one read in each request, whatever the request does."""
    for url in ("/data", "/me"):
        with count_commands() as commands:
            attacker.get(url, Cookie=f"kvsession={unknown_token()}")
        assert commands.names == ["GET"]
    with count_commands() as commands:
        attacker.open("POST", "/logout", Cookie=f"kvsession={unknown_token()}")
    assert commands.names == ["GET"]
    assert keys() == set()


@pytest.mark.parametrize(
    "cookie",
    [
        "kvsession={0}; kvsession={1}",
        "kvsession={1}; kvsession={0}",
        "kvsession={0}; a=b; kvsession={1}; kvsession={0}",
    ],
)
def test_of_two_tokens_of_two_user_sessions_neither_is_accepted(
    app: Flask,
    attacker: Attacker,
    count_commands: CountCommands,
    caplog: pytest.LogCaptureFixture,
    cookie: str,
) -> None:
    """A request whose cookies open two users' sessions belongs to neither, since either may have
    been planted; one warning names the settings."""
    clients = [app.test_client() for _ in range(2)]
    for client in clients:
        client.post("/login/ada")
    with count_commands() as commands:
        response = attacker.get("/me", Cookie=cookie.format(*map(token_of, clients)))
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers
    assert len(commands) == 2
    assert caplog.text.count("two different sessions") == 1
    for name in ("COOKIE_DOMAIN", "COOKIE_PATH", "APPLICATION_ROOT", "COOKIE_NAME"):
        assert name in caplog.text


@pytest.mark.parametrize(
    "cookie",
    ["kvsession={0}; kvsession={0}", "kvsession=junk; kvsession={0}", "kvsession={0}; kvsession="],
)
def test_a_junk_cookie_beside_the_token_signs_nobody_out(
    client: FlaskClient, attacker: Attacker, cookie: str
) -> None:
    """A cookie of our name that is no token does not take a user's session away."""
    client.post("/login/ada")
    assert attacker.get("/me", Cookie=cookie.format(token_of(client))).status_code == 200


def test_a_token_outside_the_cookie_opens_nothing(client: FlaskClient, attacker: Attacker) -> None:
    """A token in the URL, the body or another header opens no session and ends none."""
    client.post("/login/ada")
    token = str(token_of(client))
    assert attacker.get(f"/me?kvsession={token}&session={token}").status_code == 401
    assert attacker.get(f"/me;kvsession={token}").status_code == 404
    for name in ("Authorization", "X-Session", "Kvsession", "Cookie2"):
        for value in (token, f"Bearer {token}", f"kvsession={token}"):
            assert attacker.get("/me", **{name: value}).status_code == 401
    form = {"kvsession": token, "session": token}
    attacker.client.post("/logout", data=form)
    attacker.client.post("/logout", json=form)
    assert client.get("/me").status_code == 200


def test_a_quoted_token_opens_its_session(client: FlaskClient, attacker: Attacker) -> None:
    """Quotes belong to the syntax of the cookie and not to its value."""
    client.post("/login/ada")
    assert attacker.get("/me", Cookie=f'kvsession="{token_of(client)}"').status_code == 200


def test_a_token_with_a_guessed_secret_changes_no_session(
    client: FlaskClient, attacker: Attacker, keys: Keys
) -> None:
    """An attacker who knows only the public id cannot enter, change, rotate or end the session
    (CVE-2025-71402)."""
    client.post("/login/ada")
    before, token = keys(), str(token_of(client))
    forged = f"kvsession={token[:19]}{unknown_token()[19:]}"
    assert attacker.get("/me", Cookie=forged).status_code == 401
    assert attacker.open("POST", "/logout", Cookie=forged).status_code == 200
    assert attacker.open("POST", "/login/eve", Cookie=forged).status_code == 200
    assert client.get("/me").get_json()["user"] == "ada"
    assert before < keys()


# Cookies that name another key


def token_for(key: str, prefix: str) -> str:
    """A token whose record would have this key, if there is such a token."""
    found = re.fullmatch(rf"{prefix}:{{(.{{3}})}}:s:(.*)", key)
    assert found
    return str(Token.for_session(found[1] + found[2]))


def test_a_cookie_cannot_name_a_key_that_is_no_session(
    app: Flask, attacker: Attacker, keys: Keys, prefix: str, count_commands: CountCommands
) -> None:
    """No token can reach the index of a user or a key of another app."""
    client = app.test_client()
    client.post("/login/ada")
    index = f"{prefix}:{{{user_hash('ada')[:3]}}}:u:{user_hash('ada')}"
    assert index in keys()
    for name in (index, record_key(keys()), f"{prefix}:*", "other:{AAA}:s:BBBBBBBBBBBBBBBB"):
        for value in (name, name.ljust(62, "A"), name[:62], name[-62:].rjust(62, "A")):
            with count_commands() as commands:
                assert attacker.get("/me", Cookie=f"kvsession={value}").status_code == 401
            assert not any(name in line for line in commands.sent)


class Evil:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[t.Any, ...]:
        return open, (self.path, "w")


RECORD = (
    b'{"v":1,"family":"%b","secret":"%b","user":"ada","created":%d,"seen":%d,'
    b'"authenticated":null,"ip":null,"agent":null,"remembered":true,"data":{}}'
)
PLANTED: dict[str, Callable[[Token, int], bytes]] = {
    "empty": lambda token, now: b"",
    "text": lambda token, now: b"hello",
    "list": lambda token, now: b"[]",
    "object": lambda token, now: b"{}",
    "not-utf-8": lambda token, now: b"\xff\xfe{}",
    "pickle": lambda token, now: pickle.dumps({"user": "ada"}),
    "deep": lambda token, now: b"[" * 100_000,
    "deep-data": lambda token, now: good_record(token, now).replace(
        b'"data":{}', b'"data":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    ),
    "truncated": lambda token, now: good_record(token, now)[:-20],
    "two": lambda token, now: good_record(token, now) * 2,
    "future": lambda token, now: good_record(token, now).replace(b'"v":1', b'"v":99'),
    "ended-without-reason": lambda token, now: b'{"ended":5}',
    "ended-cut": lambda token, now: b'{"ended":',
    "no-user-type": lambda token, now: good_record(token, now).replace(b'"ada"', b"true"),
    "empty-user": lambda token, now: good_record(token, now).replace(b'"ada"', b'""'),
    "broken-uuid-user": lambda token, now: good_record(token, now).replace(b'"ada"', b'{" u":5}'),
    "unhashable-user": lambda token, now: good_record(token, now).replace(b'"ada"', b'{" s":[[]]}'),
    "text-remembered": lambda token, now: good_record(token, now).replace(b"true", b'"true"'),
    "another-s-secret": lambda token, now: good_record(token, now).replace(
        token.secret_hash.encode(), token.family_hash.encode()
    ),
    "far-future-seen": lambda token, now: re.sub(
        rb'"seen":\d+', b'"seen":99999999999999999', good_record(token, now)
    ),
    "far-future-login": lambda token, now: good_record(token, now).replace(
        b'"authenticated":null', b'"authenticated":253402300800000'
    ),
    "negative-created": lambda token, now: re.sub(
        rb'"created":\d+', b'"created":-99999999999999999', good_record(token, now)
    ).replace(b'"authenticated":null', b'"authenticated":%d' % now),
    "no-hash": lambda token, now: good_record(token, now).replace(
        token.secret_hash.encode(), "\xe9".encode()
    ),
}


def good_record(token: Token, now: int) -> bytes:
    """A record that this token opens."""
    return RECORD % (token.family_hash.encode(), token.secret_hash.encode(), now, now)


@pytest.fixture
def plant(app: Flask, redis_client: redis.Redis, prefix: str) -> Callable[..., tuple[str, str]]:
    """Writes bytes under the key that a token names; returns the cookie and the key."""

    def put(make: Callable[[Token, int], bytes]) -> tuple[str, str]:
        token = Token.for_session(new_session_id(user_hash("ada")))
        key = f"{prefix}:{{{token.session_id[:3]}}}:s:{token.session_id[3:]}"
        redis_client.set(key, make(token, store_of(app).now()), ex=60)
        return f"kvsession={token}", key

    return put


def test_the_record_that_these_tests_plant_signs_in(attacker: Attacker, plant: t.Any) -> None:
    """The record that the next tests spoil would sign its token in."""
    cookie, _ = plant(good_record)
    assert attacker.get("/me", Cookie=cookie).get_json()["user"] == "ada"


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED.keys())
def test_a_record_that_cannot_be_read_is_no_session(
    attacker: Attacker, plant: t.Any, redis_client: redis.Redis, planted: t.Any
) -> None:
    """Bytes that this version did not write sign nobody in and are left alone."""
    cookie, key = plant(planted)
    before = redis_client.get(key)
    assert attacker.get("/me", Cookie=cookie).status_code == 401
    assert attacker.get("/data", Cookie=cookie).get_json() == {}
    assert attacker.open("POST", "/logout", Cookie=cookie).status_code == 200
    assert redis_client.get(key) == before


def test_a_pickle_in_the_store_is_never_loaded(
    attacker: Attacker, plant: t.Any, app: Flask, tmp_path: Path
) -> None:
    """Nothing in the store can make the app run code (CVE-2021-33026)."""
    marker = tmp_path / "it-ran"
    evil = pickle.dumps(Evil(str(marker)))
    cookie, _ = plant(lambda token, now: evil)
    assert attacker.get("/me", Cookie=cookie).status_code == 401
    with app.app_context():
        assert kvs.list_sessions("ada") == []
    pickle.loads(evil).close()
    assert marker.exists(), "this test could not have failed"


@pytest.mark.parametrize("command", ["LPUSH", "ZADD"])
def test_a_redis_key_of_another_type_is_no_session(
    attacker: Attacker, plant: t.Any, redis_client: redis.Redis, command: str
) -> None:
    """A list or a sorted set under a session's key is not read and not changed."""
    cookie, key = plant(good_record)
    redis_client.delete(key)
    arguments = ("1", "x") if command == "ZADD" else ("x",)
    redis_client.execute_command(command, key, *arguments)  # type: ignore[no-untyped-call]
    before = redis_client.dump(key)
    assert attacker.get("/me", Cookie=cookie).status_code == 401
    assert attacker.open("POST", "/logout", Cookie=cookie).status_code == 200
    assert redis_client.dump(key) == before
    assert attacker.open("POST", "/login/ada", Cookie=cookie).status_code == 200
    assert redis_client.dump(key) == before


# Requests that make no key


def test_requests_with_random_tokens_make_no_key(attacker: Attacker, keys: Keys) -> None:
    """Reads, guarded requests and logouts with random tokens leave nothing in the store
    (CVE-2015-5963, CVE-2015-5964)."""
    for _ in range(100):
        cookie = f"kvsession={unknown_token()}"
        assert attacker.get("/data", Cookie=cookie).status_code == 200
        assert attacker.get("/me", Cookie=cookie).status_code == 401
        assert attacker.open("POST", "/logout", Cookie=cookie).status_code == 200
    assert keys() == set()


# User ids

ACCEPTED = [0, -1, 2**70, UUID(int=5), "42", "{a}", "a\0b\r\n", "x" * 10_240, "ünï \U0001f600"]
ACCEPTED += [42, "a:b", "a}b", "*"]
REFUSED: list[t.Any] = [None, "", True, 1.5, object(), "a\ud800"]


@pytest.mark.parametrize("user_id", ACCEPTED, ids=lambda user_id: ascii(user_id)[:20])
def test_any_text_number_or_uuid_can_be_a_user_id(
    app: Flask, keys: Keys, prefix: str, user_id: t.Any
) -> None:
    """A user with any id can be signed in, listed, updated and revoked, and the keys hold only safe
    characters."""
    with app.test_request_context():
        session = kvs.login_user(user_id, {"a": 1})
        assert session.user_id == user_id
        assert [info.user_id for info in kvs.list_sessions()] == [user_id]
        response = process_response(app, app.make_response(""))
    cookie = response.headers["Set-Cookie"].partition(";")[0]
    assert len(keys()) == 2
    assert all(re.fullmatch(prefix + r":\{[\w-]{3}\}:[su]:[\w-]{16,22}", key) for key in keys())
    with app.test_request_context(headers={"Cookie": cookie}):
        assert kvs.current_session.user_id == user_id
        assert type(kvs.current_session.user_id) is type(user_id)
        assert kvs.list_sessions(user_id) == kvs.list_sessions(str(user_id))
        assert kvs.update_all_sessions(user_id, {"b": 2}) == 1
        assert kvs.revoke_all_sessions(str(user_id)) == 1


@pytest.mark.parametrize("user_id", REFUSED, ids=lambda user_id: type(user_id).__name__)
def test_every_verb_refuses_a_value_that_is_no_user_id(
    app: Flask, keys: Keys, user_id: t.Any
) -> None:
    """A bad user id raises `ValueError`, never means the current user, and changes nothing."""
    with app.test_request_context():
        kvs.login_user("admin")
        before = keys()
        verbs: list[Callable[[], t.Any]] = [
            lambda: kvs.login_user(user_id),
            lambda: kvs.list_sessions(user_id),
            lambda: kvs.revoke_session(str(g.session.id), user_id),
            lambda: kvs.revoke_all_sessions(user_id),
            lambda: kvs.revoke_all_sessions(user_id, except_current=True),
            lambda: kvs.update_all_sessions(user_id, {"role": "none"}),
        ]
        preprocess_request(app)
        for verb in verbs:
            with pytest.raises(ValueError, match="user_id"):
                verb()
        assert kvs.current_session.user_id == "admin"
        assert keys() == before
        assert len(kvs.list_sessions()) == 1


def test_revoking_a_value_that_is_no_session_id_is_false(app: Flask) -> None:
    """`revoke_session` revokes nothing for an id of another shape or an id of no session."""
    ids: list[t.Any] = ["", "*", "x" * 19, "../../..", None, 5, ["a"], "A" * 62, "A" * 100_000]
    with app.test_request_context():
        kvs.login_user("ada")
        for session_id in [*ids, "\0"]:
            assert kvs.revoke_session(session_id) is False
        assert len(kvs.list_sessions()) == 1


def test_revoking_the_session_of_another_user_is_false(app: Flask, client: FlaskClient) -> None:
    """For the session id of another user `revoke_session` answers as for an unknown id, and the
    session stays."""
    session_id = client.post("/login/ada").get_json()["id"]
    with app.test_request_context():
        kvs.login_user("eve")
        assert kvs.revoke_session(session_id) is False
    assert client.get("/me").status_code == 200


@pytest.mark.parametrize("remove", ["role", b"role"])
def test_a_single_str_as_keys_to_remove_is_refused(app: Flask, remove: t.Any) -> None:
    """A str where several keys are expected raises, since its letters would be removed in place of
    the key."""
    with app.test_request_context():
        kvs.login_user("ada", {"role": "admin"})
    with app.app_context(), pytest.raises(TypeError):
        kvs.update_all_sessions("ada", {}, remove=remove)


# The parameter `next`


def browser_goes(location: str) -> tuple[str, str]:
    """The scheme and host to which a browser at https://site.example/login goes. By the URL
    standard control characters around a URL, tabs and line ends are removed, and backslashes are
    slashes."""
    trimmed = location.strip("".join(map(chr, range(33))))
    cleaned = re.sub(r"[\t\r\n]", "", trimmed).replace("\\", "/")
    scheme, host, *_ = urlsplit(urljoin("https://site.example/login", cleaned))
    return scheme, host


url_parts = st.text(st.sampled_from("/\\:@?#.;%[]&=\t\n\r\0 \x7f\x85\u2028\uff0fab"), max_size=12)


@given(
    st.text(max_size=20) | url_parts | st.builds("{}evil.example{}".format, url_parts, url_parts)
)
@quick
def test_a_browser_that_follows_any_next_stays_on_the_site(
    client: FlaskClient, target: str
) -> None:
    """Whatever `next` holds, the browser stays with scheme and host, and gets no other header."""
    response = client.post("/go", data={"next": target})
    assert response.status_code == 302
    assert browser_goes(response.headers["Location"]) == ("https", "site.example")
    assert "Set-Cookie" not in response.headers


def test_a_body_that_is_no_form_leads_to_the_default(client: FlaskClient) -> None:
    """`next_url` gives the default for a body that cannot be read as a form."""
    for body, kind in [
        (b"next=%FF%FE", "application/x-www-form-urlencoded"),
        (b"\xff\xfe\x00", "application/x-www-form-urlencoded"),
        (b'{"next": "/json"}', "application/json"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"next=/a", "multipart/form-data"),
        (b"", "text/plain"),
    ]:
        response = client.post("/go", data=body, content_type=kind)
        assert response.headers["Location"] == "/home"


@pytest.mark.parametrize(
    "url",
    [
        "/me",
        "/me?a=b&c=//evil.example",
        "/me?next=//evil.example",
        "/me?%0d%0aSet-Cookie:a=b",
        "/me?\xff\xfe",
        "/me?" + "x" * 5_000,
        "/me?a[]=1&b=%5C%5C",
        "/me?\\\\evil.example",
    ],
    ids=lambda url: ascii(url)[:30],
)
def test_a_guard_redirects_with_a_safe_next(app: Flask, attacker: Attacker, url: str) -> None:
    """A guard sends a browser to sign in with a `next` that `next_url` accepts, or with none."""
    response = attacker.get(url, Accept="text/html")
    assert response.status_code == 302
    location = response.headers["Location"]
    assert urlsplit(location)[:3] == ("", "", "/sign-in")
    with app.test_request_context(location):
        target = kvs.next_url("/default")
    if len(url) > 2_048:
        assert location == "/sign-in"
    else:
        assert target.startswith("/me")


# Headers

HOSTS = ["evil.example", "evil.example:99999", "a b", "[::1", "a@b", '"><script>', "", "\xff"]
HOSTS += ["a" * 10_000, "localhost:x", "{host}"]


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: ascii(host)[:20])
def test_a_bad_host_header_is_not_reflected(
    attacker: Attacker, client: FlaskClient, host: str
) -> None:
    """The Host header decides neither where a browser is sent nor the cookie's domain."""
    response = attacker.get("/me", Host=host, Accept="text/html")
    assert response.status_code in (302, 400)
    if response.status_code == 302:
        assert response.headers["Location"] == "/sign-in?next=/me"
    response = attacker.open("POST", "/login/ada", Host=host)
    assert response.status_code in (200, 400)
    assert "Domain" not in response.headers.get("Set-Cookie", "")
    response = attacker.open("POST", "/go?next=/a", Host=host)
    assert response.headers.get("Location", "/a") == "/a"


ORIGINS = ["http://[::1", "null", "http://", "http://localhost@evil.example", "localhost", "\xff"]
ORIGINS += ["http://\u2100.example".encode().decode("latin-1"), "x" * 100_000]


@pytest.mark.parametrize("host", ["localhost", "bad host", ""], ids=ascii)
def test_a_post_with_a_bad_origin_is_refused(make_app: MakeApp, host: str, keys: Keys) -> None:
    """A post with an Origin that is not this site is a 403, also if the Origin or the Host cannot
    be parsed."""
    app = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.before_request(kvs.cross_origin_guard)
    for origin in ORIGINS:
        response = Attacker(app).open("POST", "/login/ada", Origin=origin, Host=host)
        assert response.status_code == 403
    assert keys() == set()


ACCEPTS = [
    *("", "garbage", ";;;,,,==", "*/*;q", "text/", "/", "\xff\xfe"),
    *("text/html;q=nan", "text/html;q=-1", "text/html;q=1e999", "text/html;q=0"),
    *('text/html;level="', "text/html;q=\xff", "application/json, text/html;q=0"),
    *("text/html" * 10_000, ",".join(["text/html;q=0.1"] * 10_000)),
]


def test_a_garbage_accept_is_a_401_or_a_redirect(attacker: Attacker) -> None:
    """Whatever a client accepts, the guard refuses the client and says what the response depends
    on."""
    for accept in ACCEPTS:
        response = attacker.get("/me", Accept=accept)
        assert response.status_code in (302, 401)
        assert {"Accept", "Cookie"} <= set(response.vary)
        assert response.headers["Cache-Control"] == "no-store"
        if response.status_code == 302:
            assert "text/html" in accept


def test_only_a_browser_that_asks_for_a_page_is_redirected(attacker: Attacker) -> None:
    """Without text/html in Accept the response is the 401 in JSON."""
    for accept in (None, "", "application/json", "text/html;q=0", "garbage", "*/*"):
        response = attacker.get("/me", **({} if accept is None else {"Accept": accept}))
        assert response.status_code == 401
        assert response.get_json() == {"error": "Unauthorized"}


def test_forwarded_headers_without_proxy_fix_are_ignored(attacker: Attacker) -> None:
    """Without ProxyFix no client can choose the address that is recorded."""
    forged = {
        "X_Forwarded_For": "6.6.6.6",
        "X_Real_IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6;host=evil.example;proto=https",
        "X_Forwarded_Host": "evil.example",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Prefix": "/evil",
        "True_Client_IP": "6.6.6.6",
    }
    login = attacker.open("POST", "/login/ada", **forged)
    cookie = login.headers["Set-Cookie"].partition(";")[0]
    assert attacker.get("/facts", Cookie=cookie, **forged).get_json()["ip"] == "127.0.0.1"
    response = attacker.get("/me", Accept="text/html", **forged)
    assert response.headers["Location"] == "/sign-in?next=/me"


def test_with_proxy_fix_the_forwarded_address_is_recorded(app: Flask, attacker: Attacker) -> None:
    """An app that trusts its proxy records the address that the proxy saw."""
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    login = attacker.open("POST", "/login/ada", X_Forwarded_For="6.6.6.6, 7.7.7.7")
    cookie = login.headers["Set-Cookie"].partition(";")[0]
    assert attacker.get("/facts", Cookie=cookie).get_json()["ip"] == "7.7.7.7"


AGENTS = {
    "none": (None, None),
    "empty": ("", None),
    "1-mb": ("x" * 1_000_000, "x" * 512),
    "control": ("\x01" * 2_000, "\x01" * 512),
    "latin-1": ("\xff" * 600, "\xff" * 512),
    "format": ("%s <b>{0}", "%s <b>{0}"),
}


@pytest.mark.parametrize(("agent", "recorded"), AGENTS.values(), ids=AGENTS.keys())
def test_a_user_agent_is_recorded_up_to_512_characters(
    attacker: Attacker, clock: Clock, agent: str | None, recorded: str | None
) -> None:
    """A login and a renewal record the User-Agent unchanged, cut at 512 characters."""
    login = attacker.client.post("/login/ada", headers=agent_headers(agent))
    cookie = login.headers["Set-Cookie"].partition(";")[0]
    for _ in range(2):
        headers = agent_headers(agent) | {"Cookie": cookie}
        response = attacker.client.get("/facts", headers=headers)
        assert response.get_json()["agent"] == recorded
        clock.advance(minutes=6)


def agent_headers(agent: str | None) -> dict[str, str]:
    """The header of this user agent. The test client sends no User-Agent for an empty one."""
    return {"User-Agent": agent or ""}


def test_a_login_without_any_header_succeeds(app: Flask) -> None:
    """A login works without address, Host and User-Agent, as in a script."""
    environ = {
        "REQUEST_METHOD": "POST",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "PATH_INFO": "/login/ada",
        "wsgi.url_scheme": "http",
        "wsgi.input": None,
        "wsgi.errors": None,
    }
    with app.request_context(environ):
        kvs.login_user("ada")
        assert (kvs.current_session.ip_address, kvs.current_session.user_agent) == (None, None)
        assert request.headers.get("User-Agent") is None


# The log


def test_junk_cookie_is_logged_only_as_the_refusal_of_a_guard(
    attacker: Attacker, caplog: pytest.LogCaptureFixture
) -> None:
    """Junk cookies write no log line; a guard that refuses them writes one at INFO."""
    with caplog.at_level(logging.DEBUG):
        for cookie in ("kvsession=junk", f"kvsession={unknown_token()}"):
            attacker.get("/data", Cookie=cookie)
            attacker.open("POST", "/logout", Cookie=cookie)
        assert caplog.records == []
        for cookie in ("kvsession=junk", f"kvsession={unknown_token()}"):
            attacker.get("/me", Cookie=cookie, Accept="text/html")
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 2


def test_a_corrupt_record_is_logged_once(
    attacker: Attacker, plant: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    """However often its cookie is sent, an unreadable record makes one line, which names the
    session and quotes nothing of the record."""
    secret = secrets.token_hex(8)
    cookie, key = plant(lambda token, now: f'{{"v": "{secret}"'.encode())
    for _ in range(3):
        attacker.get("/me", Cookie=cookie)
    (line,) = [record.getMessage() for record in caplog.records]
    assert key[-16:] in line
    assert secret not in line
    assert cookie[-43:] not in line


# Paths that are protected


SPELLINGS = [
    *("/secret", "/secret/", "/secret/deep", "//secret", "///secret/deep", "/secret//deep"),
    *("/%73ecret", "/secret%2Fdeep", "/secret;x", "/secret?x", "/SECRET", "/./secret"),
    *("/x/../secret", "/secret/%2e%2e/open"),
]


@pytest.mark.parametrize("pattern", ["/secret/*", "/secret"])
def test_no_spelling_of_a_protected_path_opens_it(make_app: MakeApp, pattern: str) -> None:
    """However the URL of a protected view is written, an anonymous browser does not see the
    view."""
    app = make_app(protected_paths=(pattern,))

    @app.get("/secret", strict_slashes=False)
    def secret() -> str:
        return "the secret"

    if pattern.endswith("*"):
        app.add_url_rule("/secret/<path:path>", "deep", lambda path: "the secret")
    for path in SPELLINGS:
        response = Attacker(app).client.get(path, follow_redirects=True)
        assert "the secret" not in response.get_data(as_text=True), path
        assert response.status_code in (401, 404), path


def test_a_protected_path_without_a_star_protects_only_itself(make_app: MakeApp) -> None:
    """No other page is closed to anonymous browsers, neither a page below the path nor a page that
    begins with the same letters."""
    app = make_app(protected_paths=("/", "/me", "/data/", "/un", "/touched", "/untouched/x"))
    app.add_url_rule("/data/deep", "deep", lambda: "open")
    for url in ("/untouched", "/data/deep"):
        assert Attacker(app).get(url).status_code == 200
