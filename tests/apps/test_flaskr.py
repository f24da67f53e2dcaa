"""Flaskr, the unchanged app of Flask's tutorial, given KVSession by settings and `KVSession(app)`.

Flaskr signs users in by `session["user_id"] = …`, and out by `session.clear()`.
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


# The same as with Flask's own session


def test_flaskrs_own_tests_pass_with_sessions_in_redis(
    tutorial: Path, settings: Config, keys: Keys
) -> None:
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


def test_a_registered_user_can_log_in_write_and_log_out(plain_app: Flask, either: Install) -> None:
    """A user who registers can sign in, write a post and sign out."""
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
def test_the_message_of_a_refused_login_is_shown_once(
    plain_app: Flask, either: Install, form: dict[str, str], message: str
) -> None:
    """A flashed message is on the page of the same request, and not on the next page."""
    browser = browser_of(with_users(either(plain_app, "user_id")))
    assert message in browser.post("/auth/login", data=form).text
    assert message not in browser.get("/auth/login").text


# Devices pages and signals


def test_the_devices_page_lists_all_browsers_of_the_user_only(app: Flask) -> None:
    """A user who is signed in from two browsers sees both, and no browser of another user."""
    laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
    bobs = signed_in(app, "tablet", "bob")
    assert devices(laptop) == ["laptop", "phone"]
    assert devices(phone) == ["phone", "laptop"]
    assert devices(bobs) == ["tablet"]


def test_revoking_one_session_signs_out_that_browser_only(app: Flask) -> None:
    """A session that is revoked from another browser is signed out, and no other session."""
    laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
    sign_out_elsewhere(laptop, phone)
    assert who(phone) is None
    assert phone.get("/create").location == "/auth/login"
    assert who(laptop) == "ada"
    assert devices(laptop) == ["laptop"]


def test_a_form_of_the_devices_page_signs_the_other_browser_out(app: Flask) -> None:
    """The HTML page lists the browsers by name and has a form that signs one out."""
    laptop, phone = signed_in(app, "laptop"), signed_in(app, "phone")
    page = laptop.get(DEVICES, headers=AS_PAGE).text
    assert "laptop" in page and "phone" in page
    (action,) = re.findall(r'action="([^"]+/revoke)"', page)
    assert laptop.post(action, headers=AS_PAGE).location == DEVICES
    assert [who(laptop), who(phone)] == ["ada", None]


@pytest.mark.parametrize(
    ("path", "left"), [("revoke-others", ["ada", None]), ("revoke-all", [None, None])]
)
def test_revoke_others_and_revoke_all_end_sessions_of_this_user_only(
    app: Flask, path: str, left: list[str | None]
) -> None:
    """`revoke-others` ends the user's other sessions, and `revoke-all` ends all of them."""
    laptop, phone, bobs = signed_in(app), signed_in(app, "phone"), signed_in(app, "x", "bob")
    laptop.post(f"{DEVICES}{path}", headers=AS_PAGE)
    assert [who(laptop), who(phone)] == left
    assert who(bobs) == "bob"


def test_the_sign_out_button_of_the_devices_page_ends_the_session(app: Flask, keys: Keys) -> None:
    """The button that signs this browser out ends its session in Redis too."""
    laptop = signed_in(app)
    response = laptop.post(f"{DEVICES}sign-out", headers=AS_PAGE)
    assert response.status_code == 303
    assert response.location == "/auth/login?ended=1"
    assert who(laptop) is None
    assert keys() == set()


def test_the_devices_page_sends_an_anonymous_browser_to_the_login(app: Flask) -> None:
    """An anonymous browser is sent to Flaskr's own sign-in page."""
    response = browser_of(app).get(DEVICES, headers=AS_PAGE)
    assert response.location == f"/auth/login?next={DEVICES}"


def test_list_and_revoke_work_outside_a_request(app: Flask) -> None:
    """In an app context, the int that Flaskr stores as the user id lists and revokes the user's
    sessions."""
    laptop = signed_in(app)
    with app.app_context():
        (info,) = kvs.list_sessions(1)
        assert (info.id, info.user_id) == (id_of(laptop), 1)
        assert kvs.revoke_all_sessions(1) == 1
    assert who(laptop) is None


def test_each_login_and_logout_sends_one_signal(app: Flask) -> None:
    """Each login and logout sends one signal, and a login of another user sends both."""
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


# Cookie and token


def test_the_cookie_has_flasks_attributes_and_holds_only_a_token(app: Flask) -> None:
    """The cookie has Flask's name and attributes, ends with the browser, and holds only a token."""
    laptop = browser_of(app)
    (cookie,) = cookies_set(laptop.post("/auth/login", data=account("ada")))
    assert re.fullmatch(r"[A-Za-z0-9_-]{62}", token(laptop) or "")
    assert attributes_of(cookie) == {"HttpOnly", "Path=/"}
    assert not outlives_the_browser(cookie)


def test_a_planted_token_opens_nothing_after_the_login(app: Flask) -> None:
    """A token that the browser had before the login opens nothing after the login."""
    thief = browser_of(app)
    with thief.session_transaction() as session:
        session["seen"] = "the tour"
    planted = token(thief)
    victim = same_browser(thief, planted)
    sign_in(victim)
    assert token(victim) != planted
    assert who(victim) == "ada"
    assert who(thief) is None


def test_a_second_login_of_the_same_user_replaces_the_session(app: Flask) -> None:
    """A second login of the same user creates a new session and ends the old session."""
    laptop = signed_in(app)
    before = token(laptop)
    sign_in(laptop)
    assert id_of(laptop) != (before or "")[:19]
    assert who(same_browser(laptop, before)) is None
    assert devices(laptop) == ["laptop"]


def test_a_login_of_another_user_ends_the_previous_users_session(app: Flask) -> None:
    """A login of another user ends the previous user's session in this browser only."""
    laptop, phone = signed_in(app), signed_in(app, "phone")
    before = token(laptop)
    assert who(sign_in(laptop, "bob")) == "bob"
    assert who(same_browser(laptop, before)) is None
    assert devices(phone) == ["phone"]
    assert devices(laptop) == ["laptop"]


def test_a_logout_clears_the_cookie_and_leaves_no_key(app: Flask, keys: Keys) -> None:
    """After the logout the cookie is cleared, the token opens nothing, and no key is left in
    Redis."""
    laptop = signed_in(app)
    before = token(laptop)
    (cookie,) = cookies_set(laptop.get("/auth/logout"))
    assert clears(cookie)
    assert token(laptop) is None
    assert who(same_browser(laptop, before)) is None
    assert keys() == set()


def test_a_signed_cookie_signs_no_user_in_and_costs_no_redis_call(
    app: Flask, count_commands: CountCommands
) -> None:
    """A cookie of Flask's own session, signed with the app's secret key, signs no user in and costs
    no Redis call."""
    signer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert signer
    forged = same_browser(browser_of(app), signer.dumps({"user_id": 1}))
    with count_commands() as commands:
        assert who(forged) is None
    assert commands.sent == []


def test_redis_does_not_hold_the_secret_of_the_cookie(
    app: Flask, redis_client: redis.Redis, keys: Keys
) -> None:
    """No record in Redis contains the secret of the cookie."""
    secret = (token(signed_in(app)) or "")[19:].encode()
    held = [redis_client.get(key) for key in keys() if ":s:" in key]
    assert held and not any(secret[:21] in t.cast(bytes, value) for value in held)


# Timeouts


@pytest.mark.parametrize(("ahead", "name"), [(-1, "ada"), (1, None)])
def test_a_session_ends_after_unremembered_timeout(
    app: Flask, clock: Clock, ahead: int, name: str | None
) -> None:
    """Flaskr's sessions are not permanent, so that each ends after `KVSESSION_UNREMEMBERED_TIMEOUT`
    without activity."""
    laptop = signed_in(app)
    clock.advance(hours=12, seconds=ahead)
    assert who(laptop) == name


def test_activity_renews_a_session_and_sends_no_cookie(app: Flask, clock: Clock) -> None:
    """Activity before the idle timeout renews the session with the same cookie."""
    laptop = signed_in(app)
    for _ in range(4):
        clock.advance(hours=11)
        assert not cookies_set(laptop.get("/"))
    assert who(laptop) == "ada"


# No traces


def test_public_pages_and_failed_logins_create_no_session(app: Flask, keys: Keys) -> None:
    """Public pages, failed logins and logouts of anonymous browsers create no session."""
    bot = app.test_client(use_cookies=False)
    for browser in (browser_of(app), bot):
        responses = [browser.get(path) for path in ("/", "/hello", "/auth/login", "/create", "/1")]
        responses.append(browser.post("/auth/login", data={"username": "x", "password": "y"}))
        responses.append(browser.post("/auth/register", data={"username": "", "password": ""}))
        responses.append(browser.get("/auth/logout"))
        assert not any(cookies_set(response) for response in responses)
    assert keys() == set()


def test_an_anonymous_page_costs_no_redis_call_and_a_users_page_one(
    app: Flask, count_commands: CountCommands
) -> None:
    """A page costs an anonymous browser no Redis call and a user one GET."""
    anonymous, laptop = browser_of(app), signed_in(app)
    with count_commands() as commands:
        anonymous.get("/")
    assert commands.sent == []
    with count_commands() as commands:
        laptop.get("/")
    assert commands.names == ["GET"]


def test_a_login_and_a_logout_each_cost_one_command_beyond_the_read(
    app: Flask, count_commands: CountCommands
) -> None:
    """A login and a logout each cost one command beyond the read, and a login over a session costs
    one more."""
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


def test_without_a_store_responses_are_503_and_send_no_cookie(
    plain_app: Flask, install: Install, socket_path: str
) -> None:
    """If the store fails, a user's page and a login are answered with 503, and the user's cookie
    stays."""
    proxy = Proxy(socket_path)
    app = with_users(install(plain_app, "user_id", redis_url=f"unix://{proxy.path}"))
    laptop, anonymous = signed_in(app), browser_of(app)
    before = token(laptop)
    proxy.on_request = lambda chunk: False
    page = laptop.get("/")
    login = anonymous.post("/auth/login", data=account("ada"))
    proxy.on_request = lambda chunk: True
    assert [page.status_code, login.status_code] == [503, 503]
    assert page.headers["Retry-After"]
    assert not cookies_set(page) and not cookies_set(login)
    assert token(laptop) == before
    assert [who(laptop), who(anonymous)] == ["ada", None]
    proxy.close()
