"""`session_transaction()` of Flask's test client, which works outside of any request.

Apps use it in their tests to put users into the session, and to look at what is in it.
"""

from __future__ import annotations

import typing as t
from contextlib import suppress

import pytest
from flask import Flask, g, has_app_context, has_request_context, session
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.errors import StoreUnavailable, UnstorableValue

from ..support.apps import Install
from ..support.commands import CountCommands, Keys
from ..support.flask_sessions import (
    browser_of,
    clears,
    cookies_set,
    devices,
    id_of,
    outlives_the_browser,
    same_browser,
    token,
)
from ..support.proxy import Proxy


def create_app() -> Flask:
    app = Flask("tested")
    app.config.update(TESTING=True, SECRET_KEY="only for tests")

    @app.get("/")
    def index() -> t.Any:
        return dict(session)

    @app.post("/<key>/<value>")
    def put(key: str, value: str) -> t.Any:
        session[key] = value
        return {}

    @app.post("/forget/<key>")
    def forget(key: str) -> t.Any:
        session.pop(key, None)
        return {}

    return app


@pytest.fixture
def app(install: Install) -> Flask:
    return install(create_app(), "user_id")


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    return browser_of(app)


@pytest.fixture
def old_browser(either: Install) -> FlaskClient:
    return browser_of(either(create_app(), "user_id"))


def put(browser: FlaskClient, **data: t.Any) -> None:
    with browser.session_transaction() as session:
        session.update(data)


def data_of(browser: FlaskClient) -> t.Any:
    return browser.get("/").get_json()


class TestAsBefore:
    """With our session a test reads and writes what it did with Flask's own."""

    def test_what_it_writes_is_read(self, old_browser: FlaskClient) -> None:
        """The next request reads what was written."""
        put(old_browser, a=1, b=[{"c": "d"}])
        assert data_of(old_browser) == {"a": 1, "b": [{"c": "d"}]}

    def test_it_reads_what_was_written(self, old_browser: FlaskClient) -> None:
        """It reads what a request wrote, and what another transaction did."""
        old_browser.post("/a/x")
        put(old_browser, b="y")
        with old_browser.session_transaction() as session:
            assert dict(session) == {"a": "x", "b": "y"}

    def test_no_context_is_needed(self, old_browser: FlaskClient) -> None:
        """Between its lines there is no context of a request or an app."""
        put(old_browser, a=1)
        with old_browser.session_transaction() as session:
            assert not has_request_context() and not has_app_context()
            assert session["a"] == 1
            session["b"] = session.pop("a")
        assert data_of(old_browser) == {"b": 1}

    def test_emptied(self, old_browser: FlaskClient) -> None:
        """What it clears is gone."""
        put(old_browser, a=1)
        with old_browser.session_transaction() as session:
            session.clear()
        assert data_of(old_browser) == {}

    def test_an_error_in_it(self, old_browser: FlaskClient) -> None:
        """A transaction that fails has written nothing."""
        with suppress(LookupError), old_browser.session_transaction() as session:
            session["a"] = 1
            raise LookupError
        assert data_of(old_browser) == {}

    def test_around_an_open_client(self, old_browser: FlaskClient) -> None:
        """It works within `with client:`, where the last request's context is still there."""
        with old_browser:
            old_browser.post("/a/x")
            put(old_browser, b="y")
            assert session["a"] == "x"
            old_browser.get("/")
            assert dict(session) == {"a": "x", "b": "y"}

    def test_permanent(self, old_browser: FlaskClient) -> None:
        """A session made permanent in it is so in the next request, and its cookie stays."""
        with old_browser.session_transaction() as data:
            data["a"] = 1
            data.permanent = True
        cookie = old_browser.get_cookie("session")
        assert cookie and cookie.expires
        with old_browser:
            old_browser.get("/")
            assert session.permanent


class TestNow:
    def test_new(self, browser: FlaskClient) -> None:
        """A session is new until it has been written."""
        with browser.session_transaction() as data:
            assert data.new
            data["a"] = 1
        with browser.session_transaction() as data:
            assert not data.new

    def test_signing_in(self, app: Flask, browser: FlaskClient) -> None:
        """Assigning the key is a login, listed like any other."""
        put(browser, user_id="ada")
        assert data_of(browser) == {"user_id": "ada"}
        with app.app_context():
            assert [info.id for info in kvs.list_sessions("ada")] == [id_of(browser)]
        assert len(devices(browser)) == 1

    def test_signing_in_over_a_visit(self, browser: FlaskClient) -> None:
        """The token is new after it, and the visitor's data are kept."""
        put(browser, cart=1)
        before = token(browser)
        put(browser, user_id="ada")
        assert id_of(browser) != (before or "")[:19]
        assert data_of(browser) == {"cart": 1, "user_id": "ada"}
        assert data_of(same_browser(browser, before)) == {}

    def test_signing_out(self, browser: FlaskClient, keys: Keys) -> None:
        """Removing the key is a logout, and where nothing remains the cookie goes."""
        put(browser, user_id="ada")
        with browser.session_transaction() as session:
            del session["user_id"]
        assert token(browser) is None
        assert keys() == set()

    def test_a_visit_that_is_over(self, browser: FlaskClient, keys: Keys) -> None:
        """A visitor's session whose last data are removed is gone, and its cookie too."""
        put(browser, a=1)
        (cookie,) = cookies_set(browser.post("/forget/a"))
        assert clears(cookie)
        assert keys() == set()

    def test_who_it_is(self, browser: FlaskClient) -> None:
        """It says who is signed in, before and after the key changes."""
        put(browser, user_id="ada")
        with browser.session_transaction() as session:
            assert t.cast(kvs.Session, session).user_id == "ada"
            session["user_id"] = "bob"
            assert t.cast(kvs.Session, session).user_id == "bob"

    def test_looking(self, browser: FlaskClient, keys: Keys, count_commands: CountCommands) -> None:
        """Looking makes no record and no cookie, and costs one round trip where there is one."""
        with count_commands() as commands, browser.session_transaction() as session:
            assert not session
        assert (commands.sent, keys(), token(browser)) == ([], set(), None)
        put(browser, a=1)
        before = token(browser)
        with count_commands() as commands, browser.session_transaction() as session:
            assert session["a"] == 1
        assert commands.names == ["GET"]
        assert token(browser) == before

    def test_a_request_between(self, browser: FlaskClient) -> None:
        """What a request writes while it is open is kept, beside what it writes itself."""
        put(browser, a=1)
        other = same_browser(browser, token(browser))
        with browser.session_transaction() as session:
            assert session["a"] == 1
            other.post("/b/theirs")
            session["c"] = "mine"
        assert data_of(browser) == {"a": 1, "b": "theirs", "c": "mine"}

    def test_a_revocation_between(self, app: Flask, browser: FlaskClient) -> None:
        """A session that is revoked while it is open stays so."""
        put(browser, user_id="ada")
        with browser.session_transaction() as session:
            session["a"] = 1
            with app.app_context():
                kvs.revoke_all_sessions("ada")
        assert data_of(browser) == {}

    def test_what_cannot_be_stored(self, browser: FlaskClient) -> None:
        """An unstorable value raises at its line."""
        with browser.session_transaction() as session:
            with pytest.raises(UnstorableValue, match="thing"):
                session["thing"] = object()
            session["a"] = 1
        assert data_of(browser) == {"a": 1}

    def test_the_app_goes_on(self, browser: FlaskClient) -> None:
        """A transaction in a test leaves no session behind in `g`."""
        put(browser, a=1)
        with browser.application.app_context():
            assert "session" not in g

    def test_a_failing_store(self, install: Install, socket_path: str) -> None:
        """Where the store fails the transaction raises, and does not look empty."""
        proxy = Proxy(socket_path)
        browser = browser_of(install(create_app(), redis_url=f"unix://{proxy.path}"))
        put(browser, a=1)
        proxy.on_request = lambda chunk: False
        with pytest.raises(StoreUnavailable), browser.session_transaction() as session:
            len(session)
        proxy.on_request = lambda chunk: True
        assert data_of(browser) == {"a": 1}
        proxy.close()


def test_a_permanent_cookie(app: Flask) -> None:
    """`session.permanent` is what makes the cookie outlive the browser."""

    @app.post("/permanent")
    def make_permanent() -> t.Any:
        session.permanent = True
        session["a"] = 1
        return {}

    browser = browser_of(app)
    (cookie,) = cookies_set(browser.post("/permanent"))
    assert outlives_the_browser(cookie) and not clears(cookie)
    (cookie,) = cookies_set(browser_of(app).post("/a/x"))
    assert not outlives_the_browser(cookie)


def test_permanent_later_on(app: Flask, browser: FlaskClient) -> None:
    """A session that becomes permanent, or is so no longer, keeps its id and data, and gets a
    cookie that says so, with a new token."""

    @app.post("/permanent/<int:wish>")
    def make_permanent(wish: int) -> t.Any:
        session.permanent = bool(wish)
        return {}

    put(browser, user_id="ada", a=1)
    for wish in (True, False):
        before = token(browser)
        (cookie,) = cookies_set(browser.post(f"/permanent/{int(wish)}"))
        assert outlives_the_browser(cookie) is wish
        assert token(browser) != before and id_of(browser) == (before or "")[:19]
        assert data_of(browser) == {"user_id": "ada", "a": 1}
        assert data_of(same_browser(browser, before)) == {}
    assert not cookies_set(browser.post("/permanent/0"))
