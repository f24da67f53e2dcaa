"""The two cookie names, and which of several cookies counts (DESIGN: "Cookies")."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs

from .support.apps import Do, MakeApp, store_of
from .support.browsers import (
    SignIn,
    anonymous_token_of,
    browser_with,
    cookies_of,
    is_clearing,
    token_of,
    unknown_token,
    user_token_of,
)
from .support.commands import CountCommands, Keys
from .support.races import Act, Stage

Send = Callable[..., TestResponse]


@pytest.fixture
def send(app: Flask) -> Send:
    """Sends a request with this raw Cookie header; a POST if it has data."""

    def send(url: str, cookie: str, **kwargs: object) -> TestResponse:
        client = app.test_client(use_cookies=False)
        return client.open(
            url,
            method="POST" if kwargs else "GET",
            headers={"Cookie": cookie},
            json=kwargs.get("json"),
        )

    return send


def anonymous_browser(app: Flask, **data: object) -> FlaskClient:
    browser = app.test_client()
    browser.post("/data", json=data)
    return browser


# An anonymous write never touches a user's cookie


@pytest.mark.parametrize(
    "act", [kvs.rotate_token, kvs.confirm_login, lambda: kvs.login_user("ada")]
)
def test_late_write_with_a_replaced_token_leaves_the_users_new_cookie(
    stage: Stage, sign_in: SignIn, act: Act
) -> None:
    """While another tab rotates, confirms or logs in, the write of a request that began with the
    old token goes to an anonymous session. The browser stays signed in."""
    browser = sign_in(stage.app)
    old = user_token_of(browser)
    stage.park(old, act)()  # the old token is worthless now
    release = stage.park(old, lambda: g.session.update(message="late"))
    response = release()
    names = {cookie.partition("=")[0] for cookie in cookies_of(response)}
    assert names == {"kvsession-anonymous"}


def test_late_write_without_a_token_leaves_the_users_new_cookie(stage: Stage) -> None:
    """While another tab logs in, the write of a request that had no token sets the anonymous cookie
    only."""
    release = stage.park(None, lambda: g.session.update(message="late"))
    browser = stage.app.test_client()
    browser.post("/login/ada")
    for cookie in cookies_of(release()):
        name, _, value = cookie.partition(";")[0].partition("=")
        assert name == "kvsession-anonymous"
        browser.set_cookie(name, value)
    assert browser.get("/me").status_code == 200


def test_emptied_anonymous_session_deletes_only_its_own_cookie(
    app: Flask, send: Send, do: Do
) -> None:
    """A request that empties an anonymous session does not delete a user's cookie, here one whose
    session has ended."""
    browser = anonymous_browser(app, x=1)
    browser.set_cookie("kvsession", unknown_token())
    cookies = cookies_of(do(browser, lambda: g.session.clear()))
    assert [cookie.partition("=")[0] for cookie in cookies] == ["kvsession-anonymous"]
    assert is_clearing(cookies[0])
    assert user_token_of(browser) is not None


# Whose session the request belongs to


def test_users_cookie_takes_precedence_over_an_anonymous_one(
    app: Flask, send: Send, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """If the user's cookie opens a session, the request belongs to it; the anonymous cookie is not
    looked up."""
    ada, anonymous = sign_in(app, data={"x": "ada's"}), anonymous_browser(app, x="anonymous")
    cookie = f"kvsession-anonymous={token_of(anonymous)}; kvsession={token_of(ada)}"
    with count_commands() as commands:
        assert send("/data", cookie).get_json() == {"x": "ada's"}
    assert commands.names == ["GET"]


def test_anonymous_session_is_used_if_the_users_cookie_opens_none(app: Flask, send: Send) -> None:
    """If the user's cookie opens no session, the request belongs to its anonymous session."""
    anonymous = anonymous_browser(app, x=1)
    cookie = f"kvsession={unknown_token()}; kvsession-anonymous={token_of(anonymous)}"
    assert send("/data", cookie).get_json() == {"x": 1}
    assert send("/me", cookie).status_code == 401


def test_users_token_under_the_anonymous_name_signs_no_user_in(
    app: Flask, send: Send, sign_in: SignIn
) -> None:
    """A user's token under the name of an anonymous session opens no session."""
    ada = sign_in(app, data={"x": 1})
    cookie = f"kvsession-anonymous={token_of(ada)}"
    assert send("/me", cookie).status_code == 401
    assert send("/data", cookie).get_json() == {}
    assert ada.get("/me").status_code == 200


@pytest.mark.parametrize(
    "cookie",
    [
        "kvsession-anonymous={0}; kvsession={0}",
        "kvsession={0}; kvsession-anonymous={0}",
        "kvsession-anonymous={0}; kvsession={1}; kvsession={2}; kvsession={3}; kvsession={0}",
    ],
)
def test_users_token_under_both_names_signs_the_user_in(
    app: Flask, send: Send, sign_in: SignIn, cookie: str
) -> None:
    """A user's token under the user's name counts, also if it is under the anonymous name too."""
    tokens = [token_of(sign_in(app)), *(unknown_token() for _ in range(3))]
    assert send("/me", cookie.format(*tokens)).status_code == 200


@pytest.mark.parametrize(
    "cookie",
    [
        "kvsession={old}; kvsession={ada}",
        "kvsession={ada}; kvsession={old}",
        "kvsession={old}; kvsession={older}; kvsession={oldest}; kvsession={ada}",
        "kvsession={anonymous}; kvsession={ada}",
    ],
)
def test_of_several_tokens_the_one_that_opens_a_users_session_is_accepted(
    app: Flask, send: Send, sign_in: SignIn, cookie: str
) -> None:
    """Beside tokens that open no user's session, the one that does is accepted (a changed path or
    domain leaves an old cookie)."""
    tokens = {
        "ada": user_token_of(sign_in(app)),
        "anonymous": anonymous_token_of(anonymous_browser(app, x=1)),
        **{name: unknown_token() for name in ("old", "older", "oldest")},
    }
    assert send("/me", cookie.format(**tokens)).get_json()["user"] == "ada"


@pytest.mark.parametrize(
    "cookie",
    [
        'theme="x; kvsession={}; zz=y"',
        'theme="x; kvsession={}',
        'a=";kvsession={};b="',
        "kvsession = {}",
        "x; kvsession={} ;y",
        ";;=;kvsession={}",
    ],
)
def test_cookies_of_a_sibling_domain_do_not_hide_the_session_cookie(
    app: Flask, send: Send, sign_in: SignIn, cookie: str
) -> None:
    """Quotes in other cookies do not hide the session cookie: the raw header is split at `;`."""
    token = user_token_of(sign_in(app))
    assert send("/me", cookie.format(token)).status_code == 200


@pytest.mark.parametrize("name", ["xkvsession", "kvsessionx", "KVSESSION", "kvsession-Anonymous"])
def test_cookie_with_a_similar_name_is_not_looked_up(
    app: Flask, send: Send, sign_in: SignIn, count_commands: CountCommands, name: str
) -> None:
    """A cookie whose name only resembles the session cookie's costs no Redis call."""
    token = user_token_of(sign_in(app))
    with count_commands() as commands:
        assert send("/me", f"{name}={token}").status_code == 401
    assert commands.names == []


# Login and logout end every session that is presented


@pytest.mark.parametrize("act", ["/login/eve", "/logout"])
def test_login_and_logout_end_every_session_that_a_presented_token_opens(
    app: Flask, send: Send, sign_in: SignIn, act: str
) -> None:
    """A login and a logout end the user's and the anonymous session that the request presents."""
    ada, anonymous = sign_in(app), anonymous_browser(app, x=1)
    cookie = f"kvsession={token_of(ada)}; kvsession-anonymous={token_of(anonymous)}"
    response = send(act, cookie, json={})
    assert response.status_code == 200
    cleared = {c.partition("=")[0] for c in cookies_of(response) if is_clearing(c)}
    assert cleared == ({"kvsession-anonymous"} | ({"kvsession"} if act == "/logout" else set()))
    assert ada.get("/me").status_code == 401
    assert anonymous.get("/data").get_json() == {}


@pytest.mark.parametrize("act", ["/login/eve", "/logout"])
def test_login_and_logout_end_two_users_sessions_of_one_request(
    app: Flask, send: Send, sign_in: SignIn, act: str
) -> None:
    """A login and a logout end both users' sessions of a request that opens two, and each end sends
    `user_logged_out`."""
    ada, bob = sign_in(app, "ada"), sign_in(app, "bob")
    ended: list[object] = []

    def receive(sender: Flask, session: kvs.SessionInfo, **extra: object) -> None:
        ended.append(session.user_id)

    cookie = f"kvsession={token_of(ada)}; kvsession={token_of(bob)}"
    with kvs.signals.user_logged_out.connected_to(receive, app):
        assert send(act, cookie, json={}).status_code == 200
    assert sorted(map(str, ended)) == ["ada", "bob"]
    assert ada.get("/me").status_code == bob.get("/me").status_code == 401
    assert store_of(app).sessions_of("ada") == store_of(app).sessions_of("bob") == []


@pytest.mark.parametrize("act", ["/login/eve", "/logout"])
def test_forged_anonymous_token_ends_no_session(
    app: Flask, send: Send, sign_in: SignIn, act: str
) -> None:
    """Beside a user's session, an anonymous token with a wrong secret, or with a user's session id,
    ends no session."""
    ada, bob, anonymous = sign_in(app, "ada"), sign_in(app, "bob"), anonymous_browser(app, x=1)
    forged = (token_of(anonymous) or "")[:19] + unknown_token()[19:]
    for token in (forged, token_of(bob)):
        other = browser_with(app, token_of(ada))
        other.set_cookie("kvsession-anonymous", token or "")
        other.post(act, json={})
        ada = sign_in(app, "ada")
    assert anonymous.get("/data").get_json() == {"x": 1}
    assert bob.get("/me").status_code == 200


@pytest.mark.parametrize("act", ["/login/eve", "/logout"])
@pytest.mark.parametrize("raw", [b"5", b"true", b"null", b'"text"', b"[]", b"{}", b"{", b""])
def test_login_and_logout_beside_an_unreadable_anonymous_session_succeed(
    app: Flask,
    sign_in: SignIn,
    redis_client: redis.Redis,
    prefix: str,
    act: str,
    raw: bytes,
) -> None:
    """Beside a user's session, an anonymous cookie whose record is corrupt fails neither a login
    nor a logout, and the record is left alone."""
    ada, token = sign_in(app), unknown_token()
    key = f"{prefix}:{{{token[:3]}}}:s:{token[3:19]}"
    redis_client.set(key, raw, ex=60)
    ada.set_cookie("kvsession-anonymous", token)
    assert ada.post(act, json={}).status_code == 200
    assert redis_client.get(key) == raw


def test_logout_beside_an_anonymous_cookie_costs_one_more_round_trip(
    app: Flask, send: Send, sign_in: SignIn, count_commands: CountCommands
) -> None:
    """A logout beside an anonymous cookie costs one round trip more than without it (law 2)."""
    anonymous = token_of(anonymous_browser(app, x=1))
    sent = []
    for extra in ("", f"; kvsession-anonymous={anonymous}"):
        cookie = f"kvsession={token_of(sign_in(app))}{extra}"
        with count_commands() as commands:
            send("/logout", cookie, json={})
        sent.append(commands.names)
    assert sent == [["GET", "EVALSHA"], ["GET", "EVALSHA", "EVALSHA"]]


def test_failing_end_of_another_presented_session_fails_the_login(
    app: Flask, sign_in: SignIn, keys: Keys, redis_client: redis.Redis
) -> None:
    """If a presented session cannot be ended, the login is 503, sets no cookie and leaves no
    session of the new user."""
    ada, anonymous = sign_in(app), anonymous_browser(app, x=1)
    ada.set_cookie("kvsession-anonymous", token_of(anonymous) or "")
    store = store_of(app)

    def fail(*args: object) -> None:
        raise kvs.errors.StoreUnavailable

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "remove_anonymous", fail)
        response = ada.post("/login/eve", json={})
    assert response.status_code == 503
    assert not cookies_of(response)
    assert store.sessions_of("eve") == []
    assert len(store.sessions_of("ada")) == 1


# One name for all sessions


@pytest.fixture
def one_name_app(make_app: MakeApp) -> Flask:
    """An app whose `flask.session` is this session, and that signs users in by unknown means."""
    return make_app(as_flask_session=True)


def test_flask_session_without_a_user_key_has_one_cookie_name(one_name_app: Flask) -> None:
    """With `KVSESSION_AS_FLASK_SESSION` and without `KVSESSION_USER_ID_KEY`, all sessions have
    Flask's cookie name."""
    browser = anonymous_browser(one_name_app, x=1)
    assert user_token_of(browser, "session") is not None
    assert anonymous_token_of(browser, "session") is None


def test_with_one_name_two_anonymous_sessions_are_both_refused(one_name_app: Flask) -> None:
    """With one cookie name an anonymous session may be a user's, so of two sessions neither is
    accepted."""
    one, two = anonymous_browser(one_name_app, x=1), anonymous_browser(one_name_app, x=2)
    client = one_name_app.test_client(use_cookies=False)
    cookie = f"session={token_of(one, 'session')}; session={token_of(two, 'session')}"
    assert client.get("/data", headers={"Cookie": cookie}).get_json() == {}


def test_with_two_names_the_first_of_two_anonymous_sessions_is_used(app: Flask, send: Send) -> None:
    """With two cookie names, the first of two anonymous sessions is used: it is no user's."""
    one, two = anonymous_browser(app, x=1), anonymous_browser(app, x=2)
    cookie = f"kvsession-anonymous={token_of(one)}; kvsession-anonymous={token_of(two)}"
    assert send("/data", cookie).get_json() == {"x": 1}
