"""Signing in."""

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


def test_a_login_opens_guarded_views(client: FlaskClient) -> None:
    """After a login the same browser may enter, and its data are there."""
    assert client.get("/me").status_code == 401
    client.post("/login/ada", json={"data": {"role": "admin"}})
    assert client.get("/me").get_json()["data"] == {"role": "admin"}


def test_a_login_costs_one_round_trip(client: FlaskClient, count_commands: CountCommands) -> None:
    """A first login writes the session in one round trip."""
    client.post("/login/warm-up")
    client.delete_cookie("kvsession")
    with count_commands() as commands:
        client.post("/login/ada")
    assert commands.names == ["EVALSHA"]


def test_a_login_opens_nothing_for_other_browsers(app: Flask, sign_in: SignIn) -> None:
    """A login is this browser's alone."""
    sign_in(app)
    assert app.test_client().get("/me").status_code == 401


def test_the_cookie_of_a_login(client: FlaskClient) -> None:
    """The cookie is HttpOnly, SameSite=Lax, for the whole site, and lasts as long as the session
    can at the most."""
    response = client.post("/login/ada")
    (cookie,) = response.headers.getlist("Set-Cookie")
    assert cookie.startswith(f"kvsession={token_of(client)};")
    assert attributes_of(cookie) == {"HttpOnly", "Max-Age=2592000", "Path=/", "SameSite=Lax"}


def test_the_cookie_in_production(make_app: MakeApp) -> None:
    """Without debug and testing the cookie is Secure and bound to the host by its name."""
    app = make_app()
    app.testing = False
    response = app.test_client().post("/login/ada", base_url="https://localhost")
    (cookie,) = response.headers.getlist("Set-Cookie")
    assert cookie.startswith("__Host-kvsession=")
    assert attributes_of(cookie) >= {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"}
    assert "Domain" not in cookie


def test_no_cache_keeps_a_login(client: FlaskClient) -> None:
    """The response to a login may not be stored by anybody."""
    response = client.post("/login/ada")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Vary"] == "Cookie"


def test_each_login_has_a_token_of_its_own(app: Flask, sign_in: SignIn) -> None:
    """Two logins of one user share no part of their tokens but the user's shard."""
    one, two = (token_of(sign_in(app)) or "" for _ in range(2))
    assert one[:3] == two[:3]
    assert one[3:19] != two[3:19]
    assert one[19:40] != two[19:40]
    assert one[40:] != two[40:]


def test_login_user_returns_the_requests_session(client: FlaskClient, do: Do) -> None:
    """What `login_user` returns is `g.session`, changed in place."""

    def act() -> None:
        before = g.session
        assert kvs.login_user("ada", {"x": 1}) is before
        assert g.session is before
        assert g.session.user_id == "ada"
        assert g.session["x"] == 1

    assert do(client, act).status_code == 200


def test_a_login_is_in_redis_at_once(client: FlaskClient, do: Do, keys: Keys) -> None:
    """`login_user` has written the session before it returns."""

    def act() -> None:
        kvs.login_user("ada")
        assert any(key.endswith(f":s:{g.session.id[3:]}") for key in keys())

    assert do(client, act).status_code == 200


def test_a_view_that_fails_after_a_login_still_signs_in(app: Flask, client: FlaskClient) -> None:
    """An error after `login_user` does not take the login back: the error page has the cookie."""
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.post("/broken")
    def broken() -> t.Any:
        kvs.login_user("ada")
        raise RuntimeError

    assert client.post("/broken").status_code == 500
    assert client.get("/me").get_json()["user"] == "ada"


@pytest.mark.parametrize("user_id", STRANGE_IDS, ids=lambda value: repr(value)[:20])
def test_any_id_signs_in_and_comes_back(
    client: FlaskClient, do: Do, keys: Keys, prefix: str, user_id: t.Any
) -> None:
    """A user id of any content comes back equal and of its type, and all keys lie in one slot."""
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
def test_what_is_no_id_is_refused(
    app: Flask, sign_in: SignIn, do: Do, keys: Keys, user_id: t.Any
) -> None:
    """Anything but a text, an int or a UUID raises `ValueError`; the session there was stays."""
    browser = sign_in(app, "bob")
    before = keys()

    def act() -> None:
        with pytest.raises(ValueError, match="user_id"):
            kvs.login_user(user_id)

    assert not cookies_of(do(browser, act))
    assert keys() == before
    assert browser.get("/me").get_json()["user"] == "bob"


def test_a_user_object_is_refused_with_the_remedy(client: FlaskClient, do: Do) -> None:
    """Whoever passes a user object is told to pass its id."""

    def act() -> None:
        with pytest.raises(ValueError, match=r"user\.id"):
            kvs.login_user(User())  # type: ignore[arg-type]

    assert do(client, act).status_code == 200


def test_a_number_and_its_text_are_one_user(app: Flask, client: FlaskClient, do: Do) -> None:
    """`42` and `"42"` are the same user, and each session gives back the type it was given."""
    do(client, lambda: kvs.login_user(42).id)
    do(app.test_client(), lambda: kvs.login_user("42").id)
    with app.app_context():
        by_number, by_text = kvs.list_sessions(42), kvs.list_sessions("42")
    assert len(by_number) == 2
    assert {info.id for info in by_number} == {info.id for info in by_text}
    assert {type(info.user_id) for info in by_number} == {int, str}


def test_a_misspelt_argument_is_refused(client: FlaskClient, do: Do) -> None:
    """No misspelt argument is swallowed."""

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
    ids=["object", "nan", "key", "size"],
)
def test_refused_data_leave_everything_as_it_was(
    app: Flask,
    sign_in: SignIn,
    do: Do,
    keys: Keys,
    data: t.Any,
    error: type[Exception],
) -> None:
    """A login whose data cannot be kept raises, makes nothing, and ends nothing."""
    browser = sign_in(app, "bob", data={"mine": 1})
    before = keys()

    def act() -> None:
        with pytest.raises(error):
            kvs.login_user("ada", data)

    assert not cookies_of(do(browser, act))
    assert keys() == before
    assert browser.get("/me").get_json()["data"] == {"mine": 1}


class TestOverASession:
    """A login in a browser that is signed in already."""

    @pytest.mark.parametrize("user", ["ada", "bob"])
    def test_ends_the_former_one(
        self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, keys: Keys, user: str
    ) -> None:
        """The session there was ends, leaves no key, and its token opens nothing."""
        browser = sign_in(app, "bob")
        old = token_of(browser)
        browser.post(f"/login/{user}")
        assert browser_with(app, old).get("/me").status_code == 401
        assert old is not None
        assert not [key for key in keys() if key.endswith(f":s:{old[3:19]}")]
        assert browser.get("/me").get_json()["user"] == user

    @pytest.mark.parametrize("user", ["ada", "bob"])
    def test_carries_no_users_data(self, app: Flask, sign_in: SignIn, do: Do, user: str) -> None:
        """A user's data never go into a login, be it the same user's and stored or pending."""
        browser = sign_in(app, "bob", data={"role": "admin"})

        def act() -> None:
            g.session["pending"] = 1
            kvs.login_user(user, {"new": 1})
            assert dict(g.session) == {"new": 1}

        assert do(browser, act).status_code == 200
        assert browser.get("/me").get_json()["data"] == {"new": 1}

    def test_drops_what_could_not_be_stored(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """A pending change of the former user's data, storable or not, is no obstacle, and a list
        of theirs is not the new session's, though it has the same name."""
        browser = sign_in(app, "bob", data={"list": []})

        def act() -> None:
            theirs = g.session["list"]
            theirs.append(object())
            kvs.login_user("ada", {"list": [1]})
            assert g.session["list"] is not theirs

        assert do(browser, act).status_code == 200
        assert browser.get("/me").get_json()["data"] == {"list": [1]}

    def test_is_one_of_a_kind_in_the_list(self, app: Flask, sign_in: SignIn) -> None:
        """However often one browser signs in, it has one session."""
        browser = sign_in(app)
        for _ in range(3):
            browser.post("/login/ada")
        assert len(store_of(app).sessions_of("ada")) == 1

    def test_leaves_the_users_other_browsers_alone(self, app: Flask, sign_in: SignIn) -> None:
        """A login ends the session of its own browser only."""
        elsewhere, browser = sign_in(app), sign_in(app)
        browser.post("/login/ada")
        assert elsewhere.get("/me").status_code == 200

    def test_its_changes_after_the_login_are_the_new_ones(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """What a view sets after `login_user` is data of the new session."""
        browser = sign_in(app, "bob")

        def act() -> None:
            kvs.login_user("ada", {"a": 1})
            g.session["b"] = [2]
            g.session["b"].append(3)

        do(browser, act)
        assert browser.get("/me").get_json()["data"] == {"a": 1, "b": [2, 3]}
