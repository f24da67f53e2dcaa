"""`login_user` creates a user's session."""

from __future__ import annotations

import typing as t
from uuid import UUID

import pytest
import redis
from flask import Flask, g
from flask.testing import FlaskClient
from markupsafe import Markup

import flask_kvsession as kvs
from flask_kvsession.errors import SessionTooLarge, UnstorableValue

from .support.apps import Do, MakeApp, store_of
from .support.browsers import SignIn, attributes_of, browser_with, cookies_of, id_of, token_of
from .support.commands import CountCommands, Keys

UUID_1 = UUID("12345678-1234-5678-1234-567812345678")
STRANGE_IDS: list[t.Any] = [
    *(0, -1, 42, 10**30, UUID_1, "ada", "a:b", "{a}", "a}b", "*", "x" * 10_240),
    *("a\0b", "a\nb", "ünï 🦉", "None", " "),
]


class User:
    """What an app might pass by mistake instead of its id."""

    id = 42


def test_login_opens_guarded_views_with_its_data(client: FlaskClient) -> None:
    """After a login, the browser can open guarded views and the session has the login's data."""
    assert client.get("/me").status_code == 401
    client.post("/login/ada", json={"data": {"role": "admin"}})
    assert client.get("/me").get_json()["data"] == {"role": "admin"}


def test_first_login_of_a_browser_costs_one_round_trip(
    client: FlaskClient, count_commands: CountCommands
) -> None:
    """A login without an existing session costs one round trip."""
    client.post("/login/warm-up")
    client.delete_cookie("kvsession")
    with count_commands() as commands:
        client.post("/login/ada")
    assert commands.names == ["EVALSHA"]


def test_login_opens_nothing_for_another_browser(app: Flask, sign_in: SignIn) -> None:
    """A login signs in only its own browser."""
    sign_in(app)
    assert app.test_client().get("/me").status_code == 401


def test_cookie_of_a_login_has_these_attributes(client: FlaskClient) -> None:
    """The cookie is HttpOnly, SameSite=Lax, for the whole site and lasts for the absolute
    timeout."""
    response = client.post("/login/ada")
    (cookie,) = response.headers.getlist("Set-Cookie")
    assert cookie.startswith(f"kvsession={token_of(client)};")
    assert attributes_of(cookie) == {"HttpOnly", "Max-Age=2592000", "Path=/", "SameSite=Lax"}


def test_cookie_in_production_is_secure_with_a_host_prefix(make_app: MakeApp) -> None:
    """Without debug and testing, the cookie is Secure and its name begins with `__Host-`."""
    app = make_app()
    app.testing = False
    response = app.test_client().post("/login/ada", base_url="https://localhost")
    (cookie,) = response.headers.getlist("Set-Cookie")
    assert cookie.startswith("__Host-kvsession=")
    assert attributes_of(cookie) >= {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"}
    assert "Domain" not in cookie


def test_response_of_a_login_is_no_store(client: FlaskClient) -> None:
    """The response of a login is `no-store` and varies by cookie."""
    response = client.post("/login/ada")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Vary"] == "Cookie"


def test_two_logins_of_one_user_share_only_the_shard(app: Flask, sign_in: SignIn) -> None:
    """The tokens of two logins of one user share only the user's shard."""
    one, two = (token_of(sign_in(app)) or "" for _ in range(2))
    assert one[:3] == two[:3]
    assert one[3:19] != two[3:19]
    assert one[19:40] != two[19:40]
    assert one[40:] != two[40:]


def test_login_user_returns_the_session_of_the_request(client: FlaskClient, do: Do) -> None:
    """`login_user` changes `g.session` in place and returns it."""

    def act() -> None:
        before = g.session._get_current_object()
        assert kvs.login_user("ada", {"x": 1}) is before
        assert g.session._get_current_object() is before
        assert g.session.user_id == "ada"
        assert g.session["x"] == 1

    assert do(client, act).status_code == 200


def test_session_is_in_redis_before_login_user_returns(
    client: FlaskClient, do: Do, keys: Keys
) -> None:
    """`login_user` writes the session before it returns."""

    def act() -> None:
        kvs.login_user("ada")
        assert any(key.endswith(f":s:{g.session.id[3:]}") for key in keys())

    assert do(client, act).status_code == 200


def test_view_that_fails_after_a_login_still_signs_in(app: Flask, client: FlaskClient) -> None:
    """If the view raises after `login_user`, the error page carries the login's cookie."""
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.post("/broken")
    def broken() -> t.Any:
        kvs.login_user("ada")
        raise RuntimeError

    assert client.post("/broken").status_code == 500
    assert client.get("/me").get_json()["user"] == "ada"


@pytest.mark.parametrize("user_id", STRANGE_IDS, ids=lambda value: repr(value)[:20])
def test_user_id_of_any_content_comes_back_with_its_type(
    client: FlaskClient, do: Do, keys: Keys, prefix: str, user_id: t.Any
) -> None:
    """A user id of any content comes back equal and of its type, and all its keys are in one
    slot."""
    do(client, lambda: kvs.login_user(user_id).id)
    seen: list[t.Any] = []
    do(client, lambda: seen.append(g.session.user_id))
    assert seen == [user_id]
    assert type(seen[0]) is type(user_id)
    session_id = id_of(client)
    tag = f"{prefix}:{{{session_id[:3]}}}"
    (index,) = [key for key in keys() if ":u:" in key]
    assert keys() == {f"{tag}:s:{session_id[3:]}", index}
    assert index.startswith(f"{tag}:u:{session_id[:3]}")
    assert len(index) == len(f"{tag}:u:") + 22


@pytest.mark.parametrize(
    "user_id",
    [None, "", True, False, 1.5, User(), b"ada", ("ada",), Markup("ada"), "\ud800", 10**5000],
    ids=lambda value: repr(value)[:20] if value != 10**5000 else "10**5000",
)
def test_value_that_is_no_user_id_raises_and_changes_nothing(
    app: Flask, sign_in: SignIn, do: Do, keys: Keys, user_id: t.Any
) -> None:
    """A value that is not a str, int or UUID raises `ValueError` and keeps the existing session."""
    browser = sign_in(app, "bob")
    before = keys()

    def act() -> None:
        with pytest.raises(ValueError, match="user_id"):
            kvs.login_user(user_id)

    assert not cookies_of(do(browser, act))
    assert keys() == before
    assert browser.get("/me").get_json()["user"] == "bob"


def test_error_for_a_user_object_names_the_remedy(client: FlaskClient, do: Do) -> None:
    """The error for a user object tells the developer to pass `user.id`."""

    def act() -> None:
        with pytest.raises(ValueError, match=r"user\.id"):
            kvs.login_user(User())  # type: ignore[arg-type]

    assert do(client, act).status_code == 200


def test_number_and_its_text_are_the_same_user(app: Flask, client: FlaskClient, do: Do) -> None:
    """`42` and `"42"` are the same user, and each session returns the type that was given."""
    do(client, lambda: kvs.login_user(42).id)
    do(app.test_client(), lambda: kvs.login_user("42").id)
    with app.app_context():
        by_number, by_text = kvs.list_sessions(42), kvs.list_sessions("42")
    assert len(by_number) == 2
    assert {info.id for info in by_number} == {info.id for info in by_text}
    assert {type(info.user_id) for info in by_number} == {int, str}


def test_misspelt_argument_of_login_user_raises(client: FlaskClient, do: Do) -> None:
    """`login_user` raises `TypeError` for a misspelt argument."""

    def act() -> None:
        with pytest.raises(TypeError):
            kvs.login_user("ada", remeber=False)  # type: ignore[call-arg]

    do(client, act)
    assert token_of(client) is None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"ok": 1, "bad": object()}, UnstorableValue),
        ({"ok": 1, "bad": float("nan")}, UnstorableValue),
        ({1: "int key"}, UnstorableValue),
        ({"big": "x" * 70_000}, SessionTooLarge),
    ],
    ids=["object", "nan", "int key", "too large"],
)
def test_login_with_refused_data_changes_nothing(
    app: Flask,
    sign_in: SignIn,
    do: Do,
    keys: Keys,
    data: t.Any,
    error: type[Exception],
) -> None:
    """A login with unstorable or too large data raises, creates no session and ends no session."""
    browser = sign_in(app, "bob", data={"mine": 1})
    before = keys()

    def act() -> None:
        with pytest.raises(error):
            kvs.login_user("ada", data)

    assert not cookies_of(do(browser, act))
    assert keys() == before
    assert browser.get("/me").get_json()["data"] == {"mine": 1}


class TestOverASession:
    """A login in a browser that is already signed in."""

    @pytest.mark.parametrize("user", ["ada", "bob"])
    def test_login_ends_the_previous_session(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys, user: str
    ) -> None:
        """A login ends the browser's previous session and leaves no key of it."""
        browser = sign_in(app, "bob")
        old = token_of(browser)
        browser.post(f"/login/{user}")
        assert browser_with(app, old).get("/me").status_code == 401
        assert old is not None
        assert not [key for key in keys() if key.endswith(f":s:{old[3:19]}")]
        assert browser.get("/me").get_json()["user"] == user

    @pytest.mark.parametrize("user", ["ada", "bob"])
    def test_login_does_not_carry_over_a_users_data(
        self, app: Flask, sign_in: SignIn, do: Do, user: str
    ) -> None:
        """A login carries over no data of a user's session, stored or pending."""
        browser = sign_in(app, "bob", data={"role": "admin"})

        def act() -> None:
            g.session["pending"] = 1
            kvs.login_user(user, {"new": 1})
            assert dict(g.session) == {"new": 1}

        assert do(browser, act).status_code == 200
        assert browser.get("/me").get_json()["data"] == {"new": 1}

    def test_login_drops_unstorable_changes_of_the_previous_user(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """A login drops the previous user's pending changes, also unstorable ones."""
        browser = sign_in(app, "bob", data={"list": []})

        def act() -> None:
            theirs = g.session["list"]
            theirs.append(object())
            kvs.login_user("ada", {"list": [1]})
            assert g.session["list"] is not theirs

        assert do(browser, act).status_code == 200
        assert browser.get("/me").get_json()["data"] == {"list": [1]}

    def test_repeated_logins_of_one_browser_leave_one_session(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """Repeated logins in one browser leave one session."""
        browser = sign_in(app)
        for _ in range(3):
            browser.post("/login/ada")
        assert len(store_of(app).sessions_of("ada")) == 1

    def test_login_keeps_the_users_sessions_in_other_browsers(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """A login ends no session of another browser."""
        elsewhere, browser = sign_in(app), sign_in(app)
        browser.post("/login/ada")
        assert elsewhere.get("/me").status_code == 200

    def test_changes_after_the_login_go_into_the_new_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """Changes after `login_user` go into the new session."""
        browser = sign_in(app, "bob")

        def act() -> None:
            kvs.login_user("ada", {"a": 1})
            g.session["b"] = [2]
            g.session["b"].append(3)

        do(browser, act)
        assert browser.get("/me").get_json()["data"] == {"a": 1, "b": [2, 3]}
