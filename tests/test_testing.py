"""`flask_kvsession.testing`: the helpers and fixtures for the tests of apps."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import typing as t
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask, g, session
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession import binding, signals
from flask_kvsession.errors import (
    ConfigurationError,
    KVSessionError,
    LoginRequired,
    StoreUnavailable,
)
from flask_kvsession.testing import (
    authenticated_client,
    bind_device,
    login_as,
    movable_clock,
    session_transaction,
)

from .support import flask_login_app
from .support.apps import MakeApp
from .support.clock import Clock
from .support.device import offering

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "testing.md"

MY_APP = """
from flask import Flask, g
from flask_kvsession import KVSession, fresh_login_required, login_required, sessions_blueprint


def create_app(config):
    app = Flask(__name__)
    app.config.update(config)
    KVSession(app)
    app.register_blueprint(sessions_blueprint, url_prefix="/account/sessions")

    @app.get("/dashboard")
    @login_required
    def dashboard():
        return f"Hello {g.session.user_id}, {g.session.get('role')}"

    @app.get("/email")
    @fresh_login_required
    def email():
        return "a form"

    return app
"""


def user_of(client: FlaskClient) -> t.Any:
    response = client.get("/me")
    return response.get_json()["user"] if response.status_code == 200 else response.status_code


class TestLoginAs:
    def test_signs_the_client_in_with_data(self, app: Flask) -> None:
        """The next request of the client is that of the user, with the data."""
        client = app.test_client()
        returned = login_as(client, "ada", {"role": "admin"})
        body = client.get("/me").get_json()
        assert body == {"id": returned.id, "user": "ada", "data": {"role": "admin"}}
        assert returned.user_id == "ada"

    def test_the_returned_session_cannot_be_changed(self, app: Flask) -> None:
        """A change of the returned session would not be saved, so it raises."""
        returned = login_as(app.test_client(), "ada")
        with pytest.raises(KVSessionError):
            returned["role"] = "admin"

    def test_ends_the_previous_session_of_the_client(self, app: Flask) -> None:
        """A second login on the same client ends the session of the first."""
        client = authenticated_client(app, "ada", {"role": "admin"})
        login_as(client, "bob")
        assert client.get("/me").get_json()["user"] == "bob"
        assert client.get("/me").get_json()["data"] == {}
        with app.app_context():
            assert kvs.list_sessions("ada") == []

    def test_carries_the_data_of_an_anonymous_session_over(self, app: Flask) -> None:
        """As in the app, a login keeps what the anonymous browser has put in."""
        client = app.test_client()
        client.post("/data", json={"cart": ["fern"]})
        assert login_as(client, "ada")["cart"] == ["fern"]

    def test_sends_the_signal_of_a_login(self, app: Flask) -> None:
        """Receivers of `user_logged_in` run, and see the client's address and user agent."""
        seen: list[tuple[t.Any, ...]] = []

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            seen.append((session.user_id, session.ip_address, session.user_agent))

        client = app.test_client()
        client.environ_base |= {"REMOTE_ADDR": "192.0.2.7", "HTTP_USER_AGENT": "Ada's phone"}
        with signals.user_logged_in.connected_to(receive, app):
            login_as(client, "ada")
        assert seen == [("ada", "192.0.2.7", "Ada's phone")]

    def test_calls_no_view_and_no_hook_of_the_app(self, app: Flask) -> None:
        """The functions that the app runs around its views are not called."""
        called: list[str] = []
        app.before_request(lambda: called.append("before"))
        authenticated_client(app, "ada").get("/me")
        assert called == ["before"]

    @pytest.mark.parametrize("remember", [True, False])
    def test_remember_decides_whether_the_session_outlives_the_browser(
        self, app: Flask, remember: bool
    ) -> None:
        """`remember` is that of `login_user`."""
        client = app.test_client()
        assert login_as(client, "ada", remember=remember).remembered is remember
        cookie = client.get_cookie("kvsession")
        assert cookie is not None
        assert (cookie.max_age is not None) is remember

    def test_works_with_secure_cookies_over_http(
        self, make_app: MakeApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With Secure cookies the client is signed in for requests over http, and no warning about
        plain http is logged."""
        app = make_app(cookie_secure=True)
        assert user_of(authenticated_client(app, "ada")) == "ada"
        assert caplog.messages == []

    def test_clients_are_devices_of_their_own(self, app: Flask) -> None:
        """Two clients of one user have two sessions, and the end of one leaves the other."""
        laptop, phone = authenticated_client(app, "ada"), authenticated_client(app, "ada")
        assert laptop.post("/logout").status_code == 200
        assert (user_of(laptop), user_of(phone)) == (401, "ada")

    @pytest.mark.parametrize("base_url", ["https://shop.example.com", "http://example.com:8080"])
    def test_base_url_names_the_host_of_the_requests(
        self, make_app: MakeApp, base_url: str
    ) -> None:
        """With `KVSESSION_COOKIE_DOMAIN`, a client that requests a host of that domain is signed
        in there."""
        app = make_app(cookie_domain="example.com")
        client = authenticated_client(app, "ada", base_url=base_url)
        assert client.get("/me", base_url=base_url).get_json()["user"] == "ada"

    def test_a_cookie_that_the_client_would_not_send_raises(self, make_app: MakeApp) -> None:
        """If the cookie's domain is not that of the requests, the message names the setting and
        `base_url`."""
        app = make_app(cookie_domain="example.com")
        with pytest.raises(ConfigurationError, match=r"KVSESSION_COOKIE_DOMAIN.*base_url"):
            login_as(app.test_client(), "ada")

    def test_works_below_a_path(self, make_app: MakeApp) -> None:
        """With `KVSESSION_COOKIE_PATH` the client sends the cookie below that path only."""
        app = make_app(cookie_path="/shop")
        app.add_url_rule("/shop/me", "shop", kvs.login_required(lambda: "in"))
        client = authenticated_client(app, "ada")
        assert client.get("/shop/me").status_code == 200
        assert user_of(client) == 401

    def test_a_client_without_cookies_raises(self, app: Flask) -> None:
        """A client that keeps no cookies cannot be signed in."""
        with pytest.raises(TypeError, match="use_cookies=True"):
            login_as(app.test_client(use_cookies=False), "ada")

    def test_an_app_without_the_extension_raises(self) -> None:
        """The message says to call `KVSession(app)`."""
        with pytest.raises(ConfigurationError, match=r"KVSession\(app\)"):
            login_as(Flask("plain").test_client(), "ada")

    def test_a_store_that_does_not_answer_raises(self, make_app: MakeApp) -> None:
        """No client counts as signed in if the login was not stored."""
        app = make_app(redis_url="redis://127.0.0.1:1/0", store_timeout=0.2)
        with pytest.raises(StoreUnavailable):
            login_as(app.test_client(), "ada")


class TestAppsWithFlaskSession:
    def test_login_as_signs_a_user_of_a_plain_app_in(self, make_app: MakeApp) -> None:
        """With `KVSESSION_AS_FLASK_SESSION`, `flask.session` has the data of the login."""
        app = make_app(as_flask_session=True)
        app.add_url_rule("/role", "role", lambda: session["role"])
        client = authenticated_client(app, "ada", {"role": "admin"})
        assert client.get("/role").text == "admin"
        assert user_of(client) == "ada"

    def test_login_as_puts_the_user_id_under_the_key_of_the_app(self, make_app: MakeApp) -> None:
        """With `KVSESSION_USER_ID_KEY` the user is under the key, and has a session in the list."""
        app = make_app(as_flask_session=True, user_id_key="user_id")
        app.add_url_rule("/id", "id", lambda: {"id": session["user_id"], "role": session["role"]})
        client = authenticated_client(app, 7, {"role": "admin"})
        assert client.get("/id").get_json() == {"id": 7, "role": "admin"}
        with app.app_context():
            assert [info.user_id for info in kvs.list_sessions(7)] == [7]

    def test_a_second_login_by_the_key_drops_the_data_of_the_first_user(
        self, make_app: MakeApp
    ) -> None:
        """Another user on the same client does not see the former user's data."""
        app = make_app(as_flask_session=True, user_id_key="user_id")
        client = authenticated_client(app, 7, {"role": "admin"})
        login_as(client, 8, {"theme": "dark"})
        with session_transaction(client) as current:
            assert dict(current) == {"user_id": 8, "theme": "dark"}

    @pytest.mark.parametrize("remember", [True, False, None])
    def test_remember_is_permanent_in_an_app_with_the_key(
        self, make_app: MakeApp, remember: bool | None
    ) -> None:
        """`remember` is `session.permanent`; without it the session has Flask's default."""
        app = make_app(as_flask_session=True, user_id_key="user_id")
        assert login_as(app.test_client(), 7, remember=remember).remembered is bool(remember)


@flask_login_app.IGNORE_UTCNOW
class TestFlaskLogin:
    @pytest.fixture
    def login_app(self, socket_path: str, prefix: str) -> Flask:
        app = flask_login_app.create_app(
            KVSESSION_AS_FLASK_SESSION=True,
            KVSESSION_USER_ID_KEY="_user_id",
            KVSESSION_REDIS_URL=f"unix://{socket_path}",
            KVSESSION_KEY_PREFIX=prefix,
        )
        app.login_manager.session_protection = "strong"  # type: ignore[attr-defined]
        kvs.KVSession(app)
        return app

    def test_login_as_signs_in_as_flask_login_does(self, login_app: Flask) -> None:
        """Flask-Login knows the user, the login is fresh, and the strongest session protection
        accepts the client."""
        client = authenticated_client(login_app, "ada")
        assert "ada at /notes" in client.get("/notes").text
        assert "ada at /payment" in client.get("/payment").text
        with login_app.app_context():
            assert len(kvs.list_sessions("ada")) == 1

    def test_an_unknown_user_raises(self, login_app: Flask) -> None:
        """The message says what the user id must be."""
        with pytest.raises(ConfigurationError, match=r"no user for the id 'eve'.*get_id\(\)"):
            authenticated_client(login_app, "eve")

    def test_an_inactive_user_raises(
        self, login_app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user whom Flask-Login refuses is not signed in silently as nobody."""
        monkeypatch.setattr(flask_login_app.User, "is_active", False)
        with pytest.raises(ConfigurationError, match="is_active"):
            authenticated_client(login_app, "ada")


class TestSessionTransaction:
    def test_reads_the_session_that_the_app_has_written(self, app: Flask) -> None:
        """The block sees the data of the client's session, and the facts about it."""
        client = authenticated_client(app, "ada")
        client.post("/data", json={"cart": ["fern"]})
        with session_transaction(client) as current:
            assert current["cart"] == ["fern"]
            assert current.user_id == "ada"

    def test_saves_changes_at_the_end_of_the_block(self, app: Flask) -> None:
        """The next request of the client sees the changes."""
        client = app.test_client()
        with session_transaction(client) as current:
            current["cart"] = ["fern"]
        assert client.get("/data").get_json() == {"cart": ["fern"]}

    def test_reading_alone_writes_nothing(self, app: Flask, keys: t.Any) -> None:
        """A block that only reads gives an anonymous client no session."""
        client = app.test_client()
        with session_transaction(client) as current:
            assert dict(current) == {}
        assert keys() == set()
        assert client.get_cookie("kvsession-anonymous") is None

    def test_functions_of_the_package_work_in_the_block(self, app: Flask) -> None:
        """In the block the session is `current_session`, and a new secret reaches the client."""
        client = authenticated_client(app, "ada")
        before = client.get_cookie("kvsession")
        with session_transaction(client) as current:
            assert g.session == current
            kvs.rotate_token()
        after = client.get_cookie("kvsession")
        assert before and after and before.value != after.value
        assert user_of(client) == "ada"

    def test_a_block_that_raises_changes_nothing(
        self, app: Flask, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The exception is raised on, and the changes are not saved and not reported as lost."""
        client = authenticated_client(app, "ada")
        caplog.clear()

        def change_and_fail() -> None:
            with session_transaction(client) as current:
                current["cart"] = ["fern"]
                raise LookupError

        with pytest.raises(LookupError):
            change_and_fail()
        assert client.get("/data").get_json() == {}
        gc.collect()  # a session reports lost changes when it is freed
        assert caplog.messages == []

    def test_a_store_that_does_not_answer_raises(self, make_app: MakeApp) -> None:
        """Changes that were not stored do not pass for stored."""
        app = make_app(redis_url="redis://127.0.0.1:1/0", store_timeout=0.2)

        def change() -> None:
            with session_transaction(app.test_client()) as current:
                current["cart"] = ["fern"]

        with pytest.raises(StoreUnavailable):
            change()

    def test_a_store_that_fails_at_the_end_raises(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failure of the write raises too, although the app would answer it with a 503."""
        client = authenticated_client(app, "ada")

        def change() -> None:
            with session_transaction(client) as current:
                current["cart"] = ["fern"]
                store = app.extensions["kvsession"].store
                monkeypatch.setattr(store, "update", _refuse)

        with pytest.raises(StoreUnavailable):
            change()


def _refuse(*args: object) -> t.NoReturn:
    raise StoreUnavailable


class TestBindDevice:
    @pytest.fixture
    def app(self, make_app: MakeApp) -> Flask:
        app = offering(make_app(device_bound="offer"))
        app.add_url_rule("/guarded", "guarded", kvs.bound_device_required(lambda: "in"))
        return app

    def test_lets_the_client_in_until_the_short_cookie_ends(self, app: Flask, clock: Clock) -> None:
        """After `bind_device` the client passes `bound_device_required`. When the short cookie has
        ended, it is not signed in, and another call lets it in again."""
        client = authenticated_client(app, "ada")
        assert client.get("/guarded").get_json() == {"error": "BoundDeviceRequired"}
        bind_device(client)
        assert client.get("/guarded").text == "in"
        clock.advance(minutes=11)
        assert client.get("/me").status_code == 401
        login_as(client, "ada")
        bind_device(client)
        assert client.get("/guarded").text == "in"

    def test_needs_the_setting_and_a_user(self, app: Flask, make_app: MakeApp) -> None:
        """Without `KVSESSION_DEVICE_BOUND`, and without a login, it raises."""
        with pytest.raises(LoginRequired):
            bind_device(app.test_client())
        with pytest.raises(ConfigurationError, match="KVSESSION_DEVICE_BOUND"):
            bind_device(make_app().test_client())

    def test_needs_a_client_with_cookies(self, app: Flask) -> None:
        """Without cookies there is nothing to bind, and the error says how to make the client."""
        with pytest.raises(TypeError, match="use_cookies=True"):
            bind_device(app.test_client(use_cookies=False))

    def test_sends_the_signal(self, app: Flask) -> None:
        """`device_bound` is sent, as after a registration by a browser."""
        client, received = authenticated_client(app, "ada"), []

        def receive(sender: Flask, session: kvs.SessionInfo, **more: t.Any) -> None:
            received.append((sender, session.user_id, session.is_device_bound))

        with signals.device_bound.connected_to(receive, app):
            bind_device(client)
        assert received == [(app, "ada", True)]

    def test_of_a_session_that_ends_meanwhile_raises(
        self, app: Flask, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the session is revoked while it is bound, `bind_device` raises `LoginRequired`."""
        client, other = authenticated_client(app, "ada"), make_app()
        to_key = binding.to_key

        def revoke(*given: t.Any) -> t.Any:
            with other.app_context():
                kvs.revoke_all_sessions("ada")
            return to_key(*given)

        monkeypatch.setattr(binding, "to_key", revoke)
        with pytest.raises(LoginRequired):
            bind_device(client)


class TestClock:
    def test_advance_expires_sessions_of_every_app(self, make_app: MakeApp) -> None:
        """After the idle timeout no client is signed in, in any app of the process."""
        clients = [authenticated_client(make_app(name), "ada") for name in ("one", "two")]
        with movable_clock() as clock:
            clock.advance(timedelta(days=6), hours=23)
            assert [user_of(client) for client in clients] == ["ada", "ada"]
            clock.advance(timedelta(days=7), seconds=1)
            assert [user_of(client) for client in clients] == [401, 401]

    def test_the_end_of_the_block_gives_the_real_time_back(self, make_app: MakeApp) -> None:
        """What was stored in the real time is then valid again."""
        client = authenticated_client(make_app(), "ada")
        with movable_clock() as clock:
            clock.advance(days=8)
            assert user_of(client) == 401
        assert user_of(client) == "ada"


@pytest.fixture
def users_tests(tmp_path: Path) -> Path:
    """A project with the tests that `docs/testing.md` shows, word for word."""
    (tmp_path / "myapp.py").write_text(MY_APP)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    conftest, *tests, own_server = blocks
    assert "pytest_plugins" in conftest
    assert "redis://" in own_server
    (tmp_path / "conftest.py").write_text(conftest)
    for number, block in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(block)
    return tmp_path


def run_pytest(folder: Path, *options: str) -> str:
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_tests_of_the_documentation_pass(users_tests: Path) -> None:
    """Each test that `docs/testing.md` shows passes, with warnings as errors."""
    output = run_pytest(users_tests, "-W", "error", "--import-mode=importlib", "--strict-markers")
    assert "5 passed" in output, output


def test_each_test_has_its_own_keys_and_one_server_is_used(tmp_path: Path) -> None:
    """Two tests with one user do not see each other's sessions; the server starts once."""
    (tmp_path / "myapp.py").write_text(MY_APP)
    conftest = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "from flask_kvsession import list_sessions\n"
        "from flask_kvsession.testing import authenticated_client\n"
        "urls = set()\n"
        "@pytest.mark.parametrize('n', range(3))\n"
        "def test_it(app, n):\n"
        "    authenticated_client(app, 'ada')\n"
        "    urls.add(app.config['KVSESSION_REDIS_URL'])\n"
        "    assert len(urls) == 1\n"
        "    with app.app_context():\n"
        "        assert len(list_sessions('ada')) == 1\n"
    )
    assert "3 passed" in (output := run_pytest(tmp_path)), output
