"""Each page of the documentation runs, and its app does what the page says."""

from __future__ import annotations

import typing as t
from datetime import timedelta
from pathlib import Path

import pytest
import redis
import valkey
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from mmdb_writer import MMDBWriter

import flask_kvsession as kvs

from .support.apps import close
from .support.clock import Clock
from .support.device import Device, Offer
from .support.pages import blocks, pages, run, run_block
from .support.passwords import cheap_password_hash
from .support.rights import url_of

ADA = {"name": "ada", "password": "lovelace"}


@pytest.fixture(autouse=True)
def environment(
    monkeypatch: pytest.MonkeyPatch, socket_path: str, prefix: str, tmp_path: Path
) -> None:
    """The environment in which a user runs an app: the server, and a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("werkzeug.security.generate_password_hash", cheap_password_hash)
    monkeypatch.setenv("FLASK_TESTING", "true")
    monkeypatch.setenv("FLASK_KVSESSION_REDIS_URL", url_of(socket_path))
    monkeypatch.setenv("FLASK_KVSESSION_KEY_PREFIX", prefix)
    monkeypatch.setenv("FLASK_KVSESSION_STORE_TIMEOUT", "10")
    monkeypatch.setenv("FLASK_DATABASE", str(tmp_path / "users.sqlite"))


def app_of(page: str) -> Flask:
    return t.cast(Flask, run(page)["app"])


def browser(app: Flask, agent: str = "laptop") -> FlaskClient:
    client = app.test_client()
    client.environ_base["HTTP_USER_AGENT"] = agent
    return client


def signed_in(app: Flask, agent: str = "laptop", path: str = "/sign-in/ada") -> FlaskClient:
    client = browser(app, agent)
    assert client.post(path).status_code in (200, 303)
    return client


def status(client: FlaskClient, path: str = "/") -> int:
    return client.get(path).status_code


def listed(client: FlaskClient) -> list[dict[str, t.Any]]:
    """The sessions on the devices page."""
    return t.cast("list[dict[str, t.Any]]", client.get("/devices/").get_json()["sessions"])


class TestStart:
    def test_a_second_browser_can_sign_out_the_first(self) -> None:
        """The app of the page lists two browsers, and the second one signs the first one out."""
        app = app_of("start.md")
        laptop, phone = browser(app), browser(app, "phone")
        for client in (laptop, phone):
            assert client.post("/sign-in", data=ADA | {"password": "wrong"}).status_code == 401
            assert client.post("/sign-in?next=/devices/", data=ADA).location == "/devices/"
        (other,) = [s for s in listed(phone) if not s["current"]]
        assert phone.post(f"/devices/{other['id']}/revoke").json == {"revoked": 1}
        assert (status(laptop), status(phone)) == (401, 200)
        assert "Hello ada" in phone.get("/").text
        assert phone.post("/sign-out").location == "/sign-in"
        assert phone.get("/", headers={"Accept": "text/html"}).location == "/sign-in?next=/"


class TestTutorial:
    @pytest.fixture
    def app(self) -> Flask:
        return app_of("tutorial.md")

    def sign_in(self, app: Flask, name: str = "ada", password: str = "lovelace") -> FlaskClient:
        client = browser(app)
        answer = client.post("/sign-in", data={"name": name, "password": password})
        assert answer.location == "/"
        return client

    def test_a_note_stays_in_the_session(self, app: Flask) -> None:
        """The home page shows what was added, with its markup escaped."""
        ada = self.sign_in(app)
        for note in ("milk", "<b>"):
            ada.post("/notes", data={"note": note})
        assert "<li>milk</li><li>&lt;b&gt;</li>" in ada.get("/").text

    def test_a_wrong_password_signs_nobody_in(self, app: Flask) -> None:
        """A wrong password and an unknown name get a 401 that says so."""
        for name in ("ada", "nobody"):
            answer = browser(app).post("/sign-in", data={"name": name, "password": "wrong"})
            assert (answer.status_code, "is wrong" in answer.text) == (401, True)

    def test_the_sign_in_page_tells_a_revoked_browser_why(self, app: Flask) -> None:
        """A browser that was signed out by another one reads the reason."""
        ada, other = self.sign_in(app), self.sign_in(app)
        assert other.post("/devices/revoke-others").json == {"revoked": 1}
        assert "signed out from another one" in ada.get("/sign-in").text

    def test_an_admin_takes_a_role_away_at_once(self, app: Flask) -> None:
        """A changed role is seen by the next request of its user; a member may change no role."""
        ada, bob = self.sign_in(app), self.sign_in(app, "bob", "the builder")
        assert bob.post("/users/bob/role", data={"role": "admin"}).status_code == 403
        answer = ada.post("/users/bob/role", data={"role": "admin"})
        assert answer.json == {"sessions": 1}
        assert "your role is admin" in bob.get("/").text

    def test_a_new_password_needs_the_old_one_and_ends_other_sessions(
        self, app: Flask, clock: Clock
    ) -> None:
        """After a while the page asks for the password; the change signs the other browser out."""
        ada, other = self.sign_in(app), self.sign_in(app)
        clock.advance(timedelta(hours=1))
        asked = ada.get("/password", headers={"Accept": "text/html"})
        assert asked.location == "/confirm?next=/password"
        assert ada.post(asked.location, data={"password": "wrong"}).status_code == 401
        assert ada.post(asked.location, data={"password": "lovelace"}).location == "/password"
        assert ada.post("/password", data={"password": "countess"}).location == "/"
        assert (status(ada), status(other)) == (200, 401)
        self.sign_in(app, password="countess")

    def test_the_page_for_a_failing_store_answers(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If Redis does not answer, the app's own page does."""
        ada = self.sign_in(app)
        close(app)
        monkeypatch.setenv("FLASK_KVSESSION_REDIS_URL", "redis://localhost:1/0")
        broken = app_of("tutorial.md")
        client = browser(broken)
        cookie = ada.get_cookie("kvsession")
        assert cookie is not None
        client.set_cookie("kvsession", cookie.value)
        answer = client.get("/")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:flask_login")
class TestFlaskLogin:
    def test_its_logins_are_listed_and_revoked(self) -> None:
        """A login of Flask-Login is on the devices page, and a remembered one can be revoked."""
        app = app_of("guides/flask-login.md")
        laptop, phone = browser(app), browser(app, "phone")
        for client in (laptop, phone):
            client.post("/sign-in", data={"name": "ada", "remember": "on"})
        assert laptop.get("/").json == {"user": "ada"}
        assert len(listed(laptop)) == 2
        assert phone.post("/devices/revoke-others").json == {"revoked": 1}
        assert laptop.get("/").location == "/sign-in?next=%2F"
        assert phone.post("/sign-out").location == "/sign-in"
        assert phone.get("/").status_code == 302


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:flask_login")
class TestFlaskSecurity:
    @pytest.fixture
    def app(self, monkeypatch: pytest.MonkeyPatch) -> Flask:
        settings = {
            "SECRET_KEY": "only for tests",
            "SECURITY_PASSWORD_SALT": "only for tests",
            "SECURITY_PASSWORD_HASH": "plaintext",
            "SECURITY_PASSWORD_SCHEMES": '["plaintext"]',
            "SECURITY_SEND_REGISTER_EMAIL": "false",
            "SECURITY_SEND_PASSWORD_CHANGE_EMAIL": "false",
            "SECURITY_EMAIL_VALIDATOR_ARGS": '{"check_deliverability": false}',
            "WTF_CSRF_ENABLED": "false",
            "SQLALCHEMY_DATABASE_URI": "sqlite:///:memory:",
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"FLASK_{name}", value)
        return app_of("guides/flask-security.md")

    def test_a_new_password_ends_the_sessions_of_the_old_one(self, app: Flask) -> None:
        """A change of the password ends the other browser's session in Redis, and the own browser
        stays signed in."""
        laptop, phone = browser(app), browser(app, "phone")
        user = {"email": "ada@example.com", "password": "notes on the engine"}
        laptop.post("/register", data=user | {"password_confirm": user["password"]})
        phone.post("/login", data=user)
        assert (status(laptop), status(phone)) == (200, 200)
        old = {info["id"] for info in listed(laptop)}
        assert len(old) == 2
        new = "a better one, she said"
        change = {"password": user["password"], "new_password": new, "new_password_confirm": new}
        assert laptop.post("/change", data=change).status_code in (302, 303)
        assert laptop.get("/").json == {"email": "ada@example.com"}
        assert phone.get("/devices/").json == {"error": "Unauthorized"}
        (only,) = listed(laptop)
        assert only["id"] not in old
        with app.test_request_context(headers={"Cookie": f"session={cookie_of(phone)}"}):
            assert kvs.session_ended_reason() == "revoked"


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    assert cookie is not None
    return cookie.value


class TestSeveralApps:
    def test_apps_with_their_own_prefix_do_not_know_each_others_sessions(self) -> None:
        """Two apps with prefixes and cookies of their own share nothing; two with the same do."""
        page = run("guides/several-apps.md")
        shop = signed_in(page["shop"])
        cookie = shop.get_cookie("shop")
        assert cookie is not None
        blog = browser(page["blog"])
        blog.set_cookie("blog", cookie.value)
        assert (status(shop), status(blog)) == (200, 401)

        www, account = browser(page["www"]), browser(page["account"])
        set_cookie = www.post("/sign-in/ada").headers["Set-Cookie"]
        assert "Domain=example.com" in set_cookie
        value = set_cookie.partition("=")[2].partition(";")[0]
        account.set_cookie("kvsession", value)
        assert account.get("/").json == {"app": "account"}


class TestProxies:
    def test_the_headers_of_one_proxy_are_believed(self) -> None:
        """The session has the client's address, and a form of the public host is accepted."""
        client = browser(app_of("guides/proxies.md"))
        headers = {
            "Origin": "https://example.com",
            "X-Forwarded-For": "1.1.1.1, 203.0.113.7",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "example.com",
        }
        answer = client.post("/sign-in/ada", headers=headers)
        assert answer.status_code == 303
        assert client.get("/", headers=headers).json == {"addresses": ["203.0.113.7"]}
        assert client.post("/sign-in/ada", headers={"Origin": "https://a"}).status_code == 403


class TestRevokeFromAWorker:
    @pytest.fixture
    def page(self, app: Flask, capsys: pytest.CaptureFixture[str]) -> dict[str, t.Any]:
        self.ada = ada = app.test_client()
        assert ada.post("/login/ada").status_code == 200
        page = run("guides/revoke-from-a-worker.md")
        assert len(page["ended"]) == 1
        assert page["ended"][0].id in capsys.readouterr().out
        return page

    def test_a_program_without_flask_ends_the_sessions(self, page: dict[str, t.Any]) -> None:
        """The store of the last block ends the sessions that the app has made."""
        assert status(self.ada, "/me") == 401

    def test_the_command_and_the_task_reach_the_sessions(self, page: dict[str, t.Any]) -> None:
        """The command changes the role in the session, and the task ends it."""
        app = page["app"]
        ada = signed_in(app)
        result = app.test_cli_runner().invoke(args=["set-role", "ada", "reader"])
        assert result.output == "1 sessions changed\n"
        with ada:
            ada.post("/sign-in/bob")
        assert page["disable_account"]("bob") == 1


class TestNewDeviceMail:
    def test_only_a_new_user_agent_sends_a_mail(self) -> None:
        """The first login and a known user agent send no mail, another user agent sends one."""
        page = run("guides/new-device-mail.md")
        for agent in ("laptop", "laptop", "phone", "phone"):
            signed_in(page["app"], agent)
        assert page["outbox"] == [("ada", "A new sign-in from 127.0.0.1.")]


class TestLimits:
    def test_a_login_beyond_the_limit_ends_the_oldest_and_says_why(self, clock: Clock) -> None:
        """A user with one session is signed out by the second login; a team has five."""
        app = app_of("guides/limits.md")
        first, second = (signed_in(app, path="/sign-in/bob") for _ in range(2))
        assert (status(first), status(second)) == (401, 200)
        assert "another device" in first.get("/sign-in").text
        team = []
        for _ in range(6):
            team.append(signed_in(app))
            clock.advance(timedelta(seconds=1))
        assert [status(browser) for browser in team] == [401, 200, 200, 200, 200, 200]


class TestRememberMe:
    def test_the_box_decides_about_cookie_and_timeout(self, clock: Clock) -> None:
        """Without the mark the cookie has no end, and the session ends after two hours."""
        app = app_of("guides/remember-me.md")
        kept, lent = browser(app), browser(app)
        with_end = kept.post("/sign-in", data={"name": "ada", "remember": "on"})
        without = lent.post("/sign-in", data={"name": "ada"})
        assert "Max-Age=7776000" in with_end.headers["Set-Cookie"]
        assert "Max-Age" not in without.headers["Set-Cookie"]
        assert (kept.get("/").json, lent.get("/").json) == (
            {"remembered": True},
            {"remembered": False},
        )
        clock.advance(timedelta(hours=3))
        assert (status(kept), status(lent)) == (200, 401)


class TestStepUp:
    def test_an_old_login_is_asked_for_the_password_and_returns(self, clock: Clock) -> None:
        """After 15 minutes the form asks for the password; then it opens again."""
        client = signed_in(app_of("guides/step-up.md"))
        assert status(client, "/email") == 200
        clock.advance(timedelta(minutes=16))
        assert client.post("/email").json == {"error": "FreshLoginRequired"}
        asked = client.get("/email", headers={"Accept": "text/html"}).location
        assert asked == "/confirm?next=/email"
        assert client.post(asked, data={"password": "x"}).status_code == 401
        assert client.post(asked, data={"password": "lovelace"}).location == "/email"
        assert client.post("/email", data={"email": "a@b"}).json == {"email": "a@b"}


class TestDeviceBoundSessions:
    def test_a_bound_session_enters_and_a_copied_cookie_does_not(self, clock: Clock) -> None:
        """The app binds a session, lets it into the guarded page, and refuses a copied cookie."""
        app = app_of("guides/device-bound-sessions.md")
        device = Device(app)
        device.offer = Offer.of(device.post("/sign-in/ada"))
        assert "Chrome on Windows" in device.get("/payments").text
        assert device.get("/").json == {"user": "ada", "bound": False}
        assert device.register().status_code == 200
        assert device.get("/").json == {"user": "ada", "bound": True}
        assert device.get("/payments").json == {"payments": []}
        clock.advance(timedelta(seconds=10))
        thief = device.copy(device.name)
        assert thief.get("/").status_code == 401
        assert "could not prove" in thief.get("/sign-in").text
        device.post("/sign-out")
        assert device.ask().json == {"session_identifier": device.session_id, "continue": False}


class TestFromASessionModule:
    def test_each_function_of_the_module_has_its_view(self) -> None:
        """Each block of the page does what the function of the module does."""
        app = app_of("from-a-session-module.md")
        laptop, phone = browser(app), browser(app, "phone")
        for client in (laptop, phone):
            assert status(client, "/dashboard") == status(client, "/api/me") == 401
            client.post("/sign-in", data={"name": "ada"})
        assert laptop.get("/dashboard/").status_code == 404
        assert laptop.get("/dashboard").json == {"hello": 1}
        assert laptop.get("/api/me").json == {"id": 1, "email": "ada@example.com"}
        assert laptop.post("/profile/theme", data={"theme": "dark"}).json == {"theme": "dark"}
        assert phone.post("/users/1/role", data={"role": "reader"}).json == {"sessions": 2}
        assert laptop.get("/whoami").json == {"user": 1, "role": "reader"}
        assert status(browser(app), "/profile/theme") == 401
        (other,) = [info for info in laptop.get("/sessions").get_json() if not info["current"]]
        assert other["agent"] == "phone"
        assert laptop.delete(f"/sessions/{other['id']}").json == {"ended": True}
        assert laptop.delete(f"/sessions/{other['id']}").json == {"ended": False}
        phone.post("/sign-in", data={"name": "ada"})
        assert laptop.post("/sign-out-elsewhere").json == {"ended": 1}
        assert len(listed(laptop)) == 1
        laptop.post("/sign-out")
        assert status(laptop, "/api/me") == status(phone, "/api/me") == 401


# Every page


def parts_of_an_app() -> dict[str, dict[str, t.Any]]:
    """The pages whose blocks are parts of an app that the reader has, and the names that the blocks
    need."""
    public = {name: getattr(kvs, name) for name in kvs.__all__}
    app = Flask("page")
    logins = Flask("page")
    logins.config["KVSESSION_AS_FLASK_SESSION"] = True
    logins.config["KVSESSION_USER_ID_KEY"] = "_user_id"
    return {
        "deployment.md": {"app": app},
        "devices.md": {"__name__": "page", "app": app, "Blueprint": Blueprint, **public},
        "flask-session.md": {"app": logins, "SQLAlchemyUserDatastore": object, **public},
    }


PARTS = parts_of_an_app().keys()
CLIENTS = ("deployment.md", "KVSession(app, redis=")
"""The page and the beginning of the block whose every line is an app of its own."""


WITH_A_TEST_OF_THEIR_OWN = {"testing.md"}  # test_testing.py runs the tests that it shows


def whole_pages() -> list[str]:
    others = PARTS | WITH_A_TEST_OF_THEIR_OWN
    return [page for page in pages() if page not in others and blocks(page)]


def parts() -> list[t.Any]:
    return [
        pytest.param(page, line, source, id=f"{page}:{line}")
        for page in PARTS
        for line, source in blocks(page)
        if not (page == CLIENTS[0] and source.startswith(CLIENTS[1]))
    ]


@pytest.mark.parametrize("page", whole_pages())
def test_the_blocks_of_a_page_are_one_program(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run as one module, from top to bottom."""
    monkeypatch.setenv("FLASK_SECRET_KEY", "only for tests")
    run(page)


@pytest.mark.parametrize(("page", "line", "source"), parts())
def test_each_block_of_a_page_with_parts_runs(
    page: str, line: int, source: str, tmp_path: Path
) -> None:
    """A block that is a part of an app runs, given an app and the public names."""
    MMDBWriter(database_type="Test-City").to_db_file(str(tmp_path / "GeoLite2-City.mmdb"))
    run_block(page, line, source, parts_of_an_app()[page])


def test_each_client_of_the_deployment_page_is_accepted() -> None:
    """Each line makes an app, except that of a cluster, which asks its nodes at once."""
    (source,) = (text for _, text in blocks(CLIENTS[0]) if text.startswith(CLIENTS[1]))
    lines = source.splitlines()
    names = {"KVSession": kvs.KVSession, "redis": redis, "valkey": valkey, "secret": "s"}
    names["provider"] = redis.UsernamePasswordCredentialProvider("app", "s")
    unreachable = []
    for number, line in enumerate(lines):
        try:
            run_block(CLIENTS[0], number, line, {"app": Flask("page"), **names})
        except redis.exceptions.RedisClusterException:
            unreachable.append(line)
    assert len(lines) == 5
    assert [line for line in lines if "RedisCluster" in line] == unreachable
