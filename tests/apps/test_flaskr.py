"""Flaskr, the app of Flask's tutorial, unchanged but for settings and `KVSession(app)`.

It signs users in by `session["user_id"] = …`, and out by `session.clear()`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from importlib import import_module
from pathlib import Path

import pytest
import redis
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient

import flask_kvsession as kvs

from ..support.apps import Config, Install
from ..support.browsers import AS_PAGE, attributes_of
from ..support.clock import Clock
from ..support.commands import CountCommands, Keys
from ..support.flask_sessions import (
    DEVICES,
    browser_of,
    clears,
    cookies_set,
    devices,
    id_of,
    outlives_the_browser,
    same_browser,
    sign_out_elsewhere,
    token,
)
from ..support.passwords import cheap_password_hash
from ..support.proxy import Proxy
from ..support.sdists import unpack_installed
from ..support.signals import recorded_signals

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tutorial(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Flaskr and its tests, in the source of the installed Flask."""
    assert pytestconfig.cache
    folder = unpack_installed("flask", pytestconfig.cache, tmp_path_factory.mktemp("flask"))
    return folder / "examples" / "tutorial"


@pytest.fixture
def flaskr(tutorial: Path, monkeypatch: pytest.MonkeyPatch) -> t.Any:
    """The package, imported for this test alone, with a cheap password hash."""
    monkeypatch.syspath_prepend(tutorial)
    auth = import_module("flaskr.auth")
    monkeypatch.setattr(auth, "generate_password_hash", cheap_password_hash)
    yield import_module("flaskr")
    for name in [name for name in sys.modules if name.partition(".")[0] == "flaskr"]:
        del sys.modules[name]


@pytest.fixture
def plain_app(flaskr: t.Any, tmp_path: Path) -> Flask:
    """Flaskr as it is, with an empty database."""
    app: Flask = flaskr.create_app({"TESTING": True, "DATABASE": str(tmp_path / "flaskr.sqlite")})
    with app.app_context():
        import_module("flaskr.db").init_db()
    return app


@pytest.fixture
def app(plain_app: Flask, install: Install) -> Flask:
    return with_users(install(plain_app, "user_id", login_view="auth.login"))


def with_users(app: Flask) -> Flask:
    for name in ("ada", "bob"):
        assert browser_of(app).post("/auth/register", data=account(name)).location == "/auth/login"
    return app


def account(name: str) -> dict[str, str]:
    return {"username": name, "password": f"{name}'s password"}


def sign_in(browser: FlaskClient, name: str = "ada") -> FlaskClient:
    assert browser.post("/auth/login", data=account(name)).location == "/"
    return browser


def signed_in(app: Flask, agent: str = "laptop", name: str = "ada") -> FlaskClient:
    return sign_in(browser_of(app, agent), name)


def who(browser: FlaskClient) -> str | None:
    """Whom Flaskr's page greets."""
    greeting = re.search(r"<li><span>(.*?)</span>", browser.get("/").text)
    return greeting[1] if greeting else None


# As it was


def test_its_own_tests_pass(tutorial: Path, settings: Config, keys: Keys) -> None:
    """All of Flaskr's own tests pass, and its sessions are in Redis."""
    given = {**settings, "KVSESSION_USER_ID_KEY": "user_id"}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tutorial)]),
        "FLASKR_SETTINGS": json.dumps(given),
    }
    command = [sys.executable, "-m", "pytest", "-p", f"{__package__}.flaskr_plugin"]
    command += ["-p", "no:cacheprovider", "-c", "pyproject.toml", "-q"]
    done = subprocess.run(
        command, cwd=tutorial, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d\d passed in", done.stdout, re.MULTILINE), done.stdout
    assert any(":u:" in key for key in keys())


def test_from_registration_to_sign_out(plain_app: Flask, either: Install) -> None:
    """Who registers can sign in, write a post, and sign out."""
    browser = browser_of(either(plain_app, "user_id"))
    assert browser.post("/auth/register", data=account("eve")).location == "/auth/login"
    assert who(browser) is None
    assert who(sign_in(browser, "eve")) == "eve"
    post = {"title": "A first post", "body": "And its body."}
    assert browser.post("/create", data=post).location == "/"
    assert post["title"] in browser.get("/").text
    assert browser.get("/auth/logout").location == "/"
    assert who(browser) is None
    assert browser.get("/create").location == "/auth/login"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"username": "eve", "password": "x"}, "Incorrect username."),
        ({"username": "ada", "password": "x"}, "Incorrect password."),
    ],
)
def test_a_refusal_is_told_once(
    plain_app: Flask, either: Install, form: dict[str, str], message: str
) -> None:
    """A flashed message is on the page of the same request, and not on the next."""
    browser = browser_of(with_users(either(plain_app, "user_id")))
    assert message in browser.post("/auth/login", data=form).text
    assert message not in browser.get("/auth/login").text


# What it has now


def test_all_devices_are_listed(app: Flask) -> None:
    """Somebody who is signed in from two browsers sees both, and nobody else's."""
    laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
    bobs = signed_in(app, "tablet", "bob")
    assert devices(laptop) == ["laptop", "phone"]
    assert devices(phone) == ["phone", "laptop"]
    assert devices(bobs) == ["tablet"]


def test_one_device_signs_the_other_out(app: Flask) -> None:
    """A session that is revoked from another browser is signed out, and only that one."""
    laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
    sign_out_elsewhere(laptop, phone)
    assert who(phone) is None
    assert phone.get("/create").location == "/auth/login"
    assert who(laptop) == "ada"
    assert devices(laptop) == ["laptop"]


def test_by_the_page_s_own_forms(app: Flask) -> None:
    """The page in a browser lists the devices by name and has a button that signs one out."""
    laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
    page = laptop.get(DEVICES, headers=AS_PAGE).text
    assert "laptop" in page and "phone" in page
    (action,) = re.findall(r'action="([^"]+/revoke)"', page)
    assert laptop.post(action, headers=AS_PAGE).location == f"{DEVICES}?ended=1"
    assert [who(laptop), who(phone)] == ["ada", None]


@pytest.mark.parametrize(
    ("path", "left"), [("revoke-others", ["ada", None]), ("revoke-all", [None, None])]
)
def test_many_at_once(app: Flask, path: str, left: list[str | None]) -> None:
    """All other sessions can be signed out, and all there are."""
    laptop, phone, bobs = signed_in(app), signed_in(app, "phone"), signed_in(app, "x", "bob")
    laptop.post(f"{DEVICES}{path}", headers=AS_PAGE)
    assert [who(laptop), who(phone)] == left
    assert who(bobs) == "bob"


def test_signing_out_on_the_devices_page(app: Flask, keys: Keys) -> None:
    """The button that signs this browser out does so, in the store too."""
    laptop = signed_in(app)
    response = laptop.post(f"{DEVICES}sign-out", headers=AS_PAGE)
    assert response.status_code == 303
    assert response.location == "/auth/login?ended=1"
    assert who(laptop) is None
    assert keys() == set()


def test_the_devices_page_is_for_users(app: Flask) -> None:
    """A visitor is sent to Flaskr's own page to sign in."""
    response = browser_of(app).get(DEVICES, headers=AS_PAGE)
    assert response.location == f"/auth/login?next={DEVICES}"


def test_from_outside_a_request(app: Flask) -> None:
    """A script lists and revokes by what Flaskr puts under its key, an int."""
    laptop = signed_in(app)
    with app.app_context():
        (info,) = kvs.list_sessions(1)
        assert (info.id, info.user_id) == (id_of(laptop), 1)
        assert kvs.revoke_all_sessions(1) == 1
    assert who(laptop) is None


def test_logins_are_announced(app: Flask) -> None:
    """Each login, switch and logout of Flaskr is told by a signal, once."""
    with recorded_signals(app, "user_logged_in", "user_logged_out") as recorder:
        laptop = signed_in(app)
        who(laptop)
        sign_in(laptop, "bob")
        laptop.get("/auth/logout")
        laptop.get("/auth/logout")
    assert recorder.users == [
        ("user_logged_in", 1),
        ("user_logged_out", 1),
        ("user_logged_in", 2),
        ("user_logged_out", 2),
    ]


# The token


def test_the_cookie_is_flasks(app: Flask) -> None:
    """It has Flask's name and attributes, ends with the browser, and holds a token alone."""
    laptop = browser_of(app)
    (cookie,) = cookies_set(laptop.post("/auth/login", data=account("ada")))
    assert re.fullmatch(r"[A-Za-z0-9_-]{62}", token(laptop) or "")
    assert attributes_of(cookie) == {"HttpOnly", "Path=/"}
    assert not outlives_the_browser(cookie)


def test_a_planted_token_opens_nothing(app: Flask) -> None:
    """A token that the browser had before the login is worthless after it."""
    thief = browser_of(app)
    with thief.session_transaction() as session:
        session["seen"] = "the tour"
    planted = token(thief)
    victim = same_browser(thief, planted)
    sign_in(victim)
    assert token(victim) != planted
    assert who(victim) == "ada"
    assert who(thief) is None


def test_signing_in_again(app: Flask) -> None:
    """Signing in once more gives a new session in place of the old."""
    laptop = signed_in(app)
    before = token(laptop)
    sign_in(laptop)
    assert id_of(laptop) != (before or "")[:19]
    assert who(same_browser(laptop, before)) is None
    assert devices(laptop) == ["laptop"]


def test_somebody_else_in_the_same_browser(app: Flask) -> None:
    """Another user's login ends the first one's session."""
    laptop, phone = signed_in(app), signed_in(app, "phone")
    before = token(laptop)
    assert who(sign_in(laptop, "bob")) == "bob"
    assert who(same_browser(laptop, before)) is None
    assert devices(phone) == ["phone"]
    assert devices(laptop) == ["laptop"]


def test_signing_out_leaves_nothing(app: Flask, keys: Keys) -> None:
    """After Flaskr's logout the cookie is cleared, the token dead, and no key is left."""
    laptop = signed_in(app)
    before = token(laptop)
    (cookie,) = cookies_set(laptop.get("/auth/logout"))
    assert clears(cookie)
    assert token(laptop) is None
    assert who(same_browser(laptop, before)) is None
    assert keys() == set()


def test_a_signed_cookie_is_not_believed(app: Flask, count_commands: CountCommands) -> None:
    """A cookie signed with the app's secret key, as Flask's own session made them, is nobody's,
    and the store is not asked for it."""
    signer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert signer
    forged = same_browser(browser_of(app), signer.dumps({"user_id": 1}))
    with count_commands() as commands:
        assert who(forged) is None
    assert commands.sent == []


def test_the_store_holds_no_secret(app: Flask, redis_client: redis.Redis, keys: Keys) -> None:
    """What is in Redis does not hold what is in the cookie."""
    secret = (token(signed_in(app)) or "")[19:].encode()
    held = [redis_client.get(key) for key in keys() if ":s:" in key]
    assert held and not any(secret[:21] in t.cast(bytes, value) for value in held)


# Time


@pytest.mark.parametrize(("ahead", "name"), [(-1, "ada"), (1, None)])
def test_it_ends_when_idle(app: Flask, clock: Clock, ahead: int, name: str | None) -> None:
    """Flaskr makes no session permanent, so each ends after `KVSESSION_UNREMEMBERED_TIMEOUT`."""
    laptop = signed_in(app)
    clock.advance(hours=12, seconds=ahead)
    assert who(laptop) == name


def test_activity_renews_it(app: Flask, clock: Clock) -> None:
    """Whoever comes back in time stays signed in, with the same cookie."""
    laptop = signed_in(app)
    for _ in range(4):
        clock.advance(hours=11)
        assert not cookies_set(laptop.get("/"))
    assert who(laptop) == "ada"


# No traces


def test_visitors_and_bots_make_no_key(app: Flask, keys: Keys) -> None:
    """Pages that are only looked at, and sign-ins that fail, leave nothing in the store."""
    bot = app.test_client(use_cookies=False)
    for browser in (browser_of(app), bot):
        responses = [browser.get(path) for path in ("/", "/hello", "/auth/login", "/create", "/1")]
        responses.append(browser.post("/auth/login", data={"username": "x", "password": "y"}))
        responses.append(browser.post("/auth/register", data={"username": "", "password": ""}))
        responses.append(browser.get("/auth/logout"))
        assert not any(cookies_set(response) for response in responses)
    assert keys() == set()


def test_round_trips(app: Flask, count_commands: CountCommands) -> None:
    """A visitor's page asks nothing of Redis, a user's page one thing."""
    visitor, laptop = browser_of(app), signed_in(app)
    with count_commands() as commands:
        visitor.get("/")
    assert commands.sent == []
    with count_commands() as commands:
        laptop.get("/")
    assert commands.names == ["GET"]


def test_round_trips_of_logins(app: Flask, count_commands: CountCommands) -> None:
    """A login and a logout each cost one round trip beyond the read, a login in the place of a
    session one more."""
    laptop = signed_in(app, name="bob")
    laptop.get("/auth/logout")
    with count_commands() as commands:
        sign_in(laptop)
    assert commands.names == ["EVALSHA"]
    with count_commands() as commands:
        sign_in(laptop)
    assert commands.names == ["GET", "EVALSHA", "EVALSHA"]
    with count_commands() as commands:
        laptop.get("/auth/logout")
    assert commands.names == ["GET", "EVALSHA"]


def test_without_a_store(plain_app: Flask, install: Install, socket_path: str) -> None:
    """While the store fails a signed-in user gets 503 and keeps the cookie; nobody is signed in."""
    proxy = Proxy(socket_path)
    app = with_users(install(plain_app, "user_id", redis_url=f"unix://{proxy.path}"))
    laptop, visitor = signed_in(app), browser_of(app)
    before = token(laptop)
    proxy.on_request = lambda chunk: False
    page = laptop.get("/")
    login = visitor.post("/auth/login", data=account("ada"))
    proxy.on_request = lambda chunk: True
    assert [page.status_code, login.status_code] == [503, 503]
    assert page.headers["Retry-After"]
    assert not cookies_set(page) and not cookies_set(login)
    assert token(laptop) == before
    assert [who(laptop), who(visitor)] == ["ada", None]
    proxy.close()
