"""`session_transaction()` of Flask's test client, which works outside of any request.

The tests of apps use it to put a user into the session, and to read the session.
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


class TestSameAsWithFlasksSession:
    """A test reads and writes the same data with KVSession as with Flask's own session."""

    def test_the_next_request_reads_the_data_of_a_transaction(
        self, old_browser: FlaskClient
    ) -> None:
        """The next request reads the data that a transaction has written."""
        put(old_browser, a=1, b=[{"c": "d"}])
        assert data_of(old_browser) == {"a": 1, "b": [{"c": "d"}]}

    def test_a_transaction_reads_data_of_a_request_and_a_transaction(
        self, old_browser: FlaskClient
    ) -> None:
        """A transaction reads the data that a request and another transaction have written."""
        old_browser.post("/a/x")
        put(old_browser, b="y")
        with old_browser.session_transaction() as session:
            assert dict(session) == {"a": "x", "b": "y"}

    def test_a_transaction_works_without_a_context(self, old_browser: FlaskClient) -> None:
        """A transaction runs without a request context and without an app context."""
        put(old_browser, a=1)
        with old_browser.session_transaction() as session:
            assert not has_request_context() and not has_app_context()
            assert session["a"] == 1
            session["b"] = session.pop("a")
        assert data_of(old_browser) == {"b": 1}

    def test_clear_in_a_transaction_removes_all_data(self, old_browser: FlaskClient) -> None:
        """`clear()` in a transaction removes all data."""
        put(old_browser, a=1)
        with old_browser.session_transaction() as session:
            session.clear()
        assert data_of(old_browser) == {}

    def test_a_transaction_that_raises_writes_nothing(self, old_browser: FlaskClient) -> None:
        """A transaction that raises an exception writes nothing."""
        with suppress(LookupError), old_browser.session_transaction() as session:
            session["a"] = 1
            raise LookupError
        assert data_of(old_browser) == {}

    def test_a_transaction_works_inside_an_open_client(self, old_browser: FlaskClient) -> None:
        """A transaction works inside `with client:`, where the context of the last request is still
        open."""
        with old_browser:
            old_browser.post("/a/x")
            put(old_browser, b="y")
            assert session["a"] == "x"
            old_browser.get("/")
            assert dict(session) == {"a": "x", "b": "y"}

    def test_permanent_set_in_a_transaction_lasts(self, old_browser: FlaskClient) -> None:
        """`permanent` that a transaction sets is True in the next request, and the cookie has an
        expiry."""
        with old_browser.session_transaction() as data:
            data["a"] = 1
            data.permanent = True
        cookie = old_browser.get_cookie("session") or old_browser.get_cookie("session-anonymous")
        assert cookie and cookie.expires
        with old_browser:
            old_browser.get("/")
            assert session.permanent


class TestWithKVSession:
    def test_a_session_is_new_until_it_is_written(self, browser: FlaskClient) -> None:
        """`session.new` is True until the session has been written."""
        with browser.session_transaction() as data:
            assert data.new
            data["a"] = 1
        with browser.session_transaction() as data:
            assert not data.new

    def test_assigning_the_key_in_a_transaction_logs_in(
        self, app: Flask, browser: FlaskClient
    ) -> None:
        """Assigning the key in a transaction signs the user in, and the session is listed."""
        put(browser, user_id="ada")
        assert data_of(browser) == {"user_id": "ada"}
        with app.app_context():
            assert [info.id for info in kvs.list_sessions("ada")] == [id_of(browser)]
        assert len(devices(browser)) == 1

    def test_a_login_ends_the_anonymous_session_and_keeps_its_data(
        self, browser: FlaskClient
    ) -> None:
        """A login in a transaction changes the token and keeps the anonymous data."""
        put(browser, cart=1)
        before = token(browser)
        put(browser, user_id="ada")
        assert id_of(browser) != (before or "")[:19]
        assert data_of(browser) == {"cart": 1, "user_id": "ada"}
        assert data_of(same_browser(browser, before)) == {}

    def test_deleting_the_key_in_a_transaction_logs_out(
        self, browser: FlaskClient, keys: Keys
    ) -> None:
        """Deleting the key in a transaction ends the session, and the cookie is cleared if no data
        remain."""
        put(browser, user_id="ada")
        with browser.session_transaction() as session:
            del session["user_id"]
        assert token(browser) is None
        assert keys() == set()

    def test_removing_the_last_data_ends_an_anonymous_session(
        self, browser: FlaskClient, keys: Keys
    ) -> None:
        """A request that removes the last data of an anonymous session deletes the session and its
        cookie."""
        put(browser, a=1)
        (cookie,) = cookies_set(browser.post("/forget/a"))
        assert clears(cookie)
        assert keys() == set()

    def test_user_id_follows_the_key_within_a_transaction(self, browser: FlaskClient) -> None:
        """`user_id` names the signed-in user before and after a change of the key."""
        put(browser, user_id="ada")
        with browser.session_transaction() as session:
            assert t.cast(kvs.Session, session).user_id == "ada"
            session["user_id"] = "bob"
            assert t.cast(kvs.Session, session).user_id == "bob"

    def test_a_transaction_that_only_reads_writes_nothing(
        self, browser: FlaskClient, keys: Keys, count_commands: CountCommands
    ) -> None:
        """A transaction that only reads creates no session, sets no cookie, and costs one GET if
        there is a session."""
        with count_commands() as commands, browser.session_transaction() as session:
            assert not session
        assert (commands.sent, keys(), token(browser)) == ([], set(), None)
        put(browser, a=1)
        before = token(browser)
        with count_commands() as commands, browser.session_transaction() as session:
            assert session["a"] == 1
        assert commands.names == ["GET"]
        assert token(browser) == before

    def test_changes_of_a_transaction_and_of_a_request_within_it_are_kept(
        self, browser: FlaskClient
    ) -> None:
        """The changes of a transaction and of a request that runs during the transaction are all
        kept."""
        put(browser, a=1)
        other = same_browser(browser, token(browser))
        with browser.session_transaction() as session:
            assert session["a"] == 1
            other.post("/b/theirs")
            session["c"] = "mine"
        assert data_of(browser) == {"a": 1, "b": "theirs", "c": "mine"}

    def test_a_session_revoked_during_a_transaction_stays_revoked(
        self, app: Flask, browser: FlaskClient
    ) -> None:
        """A session that is revoked during a transaction stays revoked."""
        put(browser, user_id="ada")
        with browser.session_transaction() as session:
            session["a"] = 1
            with app.app_context():
                kvs.revoke_all_sessions("ada")
        assert data_of(browser) == {}

    def test_an_unstorable_value_raises_at_its_assignment(self, browser: FlaskClient) -> None:
        """The assignment of an unstorable value raises, and a later change of the same transaction
        is saved."""
        with browser.session_transaction() as session:
            with pytest.raises(UnstorableValue, match="thing"):
                session["thing"] = object()
            session["a"] = 1
        assert data_of(browser) == {"a": 1}

    def test_a_transaction_leaves_no_session_in_g(self, browser: FlaskClient) -> None:
        """After a transaction, an app context without a request has no session."""
        put(browser, a=1)
        with browser.application.app_context():
            assert not g.session
            with pytest.raises(RuntimeError, match="request"):
                g.session.get("a")

    def test_a_transaction_with_a_failing_store_raises(
        self, install: Install, socket_path: str
    ) -> None:
        """If the store fails, a transaction raises `StoreUnavailable` and does not read as
        empty."""
        proxy = Proxy(socket_path)
        browser = browser_of(install(create_app(), redis_url=f"unix://{proxy.path}"))
        put(browser, a=1)
        proxy.on_request = lambda chunk: False
        with pytest.raises(StoreUnavailable), browser.session_transaction() as session:
            len(session)
        proxy.on_request = lambda chunk: True
        assert data_of(browser) == {"a": 1}
        proxy.close()


def test_only_a_permanent_session_gets_a_cookie_that_outlives_the_browser(app: Flask) -> None:
    """The cookie outlives the browser only if `session.permanent` is True."""

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


def test_changing_permanent_rotates_the_token_and_keeps_the_session(
    app: Flask, browser: FlaskClient
) -> None:
    """A change of `permanent` sets a cookie with a new token, and keeps the session id and the
    data. A second change within the grace sends the same token with another age."""

    @app.post("/permanent/<int:wish>")
    def make_permanent(wish: int) -> t.Any:
        session.permanent = bool(wish)
        return {}

    put(browser, user_id="ada", a=1)
    for wish in (True, False):
        before = token(browser)
        (cookie,) = cookies_set(browser.post(f"/permanent/{int(wish)}"))
        assert outlives_the_browser(cookie) is wish
        assert (token(browser) != before) is wish
        assert id_of(browser) == (before or "")[:19]
        assert data_of(browser) == {"user_id": "ada", "a": 1}
        assert data_of(same_browser(browser, before)) == {"user_id": "ada", "a": 1}
    assert not cookies_set(browser.post("/permanent/0"))
