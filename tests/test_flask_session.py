"""`flask.session` as the same object as `g.session`, with all that Flask promises of it."""

from __future__ import annotations

import gc
import threading
import typing as t
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from flask import (
    Flask,
    Response,
    abort,
    after_this_request,
    copy_current_request_context,
    flash,
    g,
    get_flashed_messages,
    render_template_string,
    request,
    session,
    stream_with_context,
)
from flask.sessions import SecureCookieSessionInterface, SessionInterface, SessionMixin
from flask.testing import FlaskClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, TestResponse

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError, KVSessionError, StoreUnavailable
from flask_kvsession.session import Session
from flask_kvsession.store import SessionStore

from .support.apps import Do, MakeApp, close
from .support.browsers import attributes_of, token_of
from .support.clock import Clock
from .support.commands import CountCommands, Keys

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOBODY_LISTENS = "unix:///nowhere/redis.sock"


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app in which `flask.session` is ours. Its views set and show what the query says."""
    return with_views(make_app(as_flask_session=True, views=False))


def with_views(app: Flask) -> Flask:
    @app.get("/set")
    def set_items() -> str:
        if "permanent" in request.args:
            session.permanent = request.args["permanent"] == "yes"
        session.update({k: v for k, v in request.args.items() if k != "permanent"})
        return ""

    @app.get("/get")
    def get() -> t.Any:
        return dict(session)

    @app.get("/clear")
    def clear() -> str:
        session.clear()
        return ""

    app.add_url_rule("/untouched", "untouched", lambda: "")
    return app


def session_cookies(response: TestResponse) -> list[str]:
    return response.headers.getlist("Set-Cookie")


def data_of(client: FlaskClient) -> t.Any:
    return client.get("/get").get_json()


# One object


def test_it_is_one_object(client: FlaskClient, do: Do) -> None:
    """`flask.session`, `g.session` and `current_session` are one session."""
    seen = []
    do(client, lambda: seen.append(session._get_current_object() is g.session))  # type: ignore[attr-defined]
    do(client, lambda: seen.append(g.session is kvs.current_session._get_current_object()))  # type: ignore[attr-defined]
    do(client, lambda: seen.append(isinstance(g.session, SessionMixin)))
    assert seen == [True, True, True]


def test_by_default_flask_session_is_left_alone(make_app: MakeApp) -> None:
    """Without the setting `flask.session` goes on being Flask's signed cookie."""
    app = with_views(make_app(views=False))
    app.secret_key = "x"
    client = app.test_client()
    client.get("/set?a=1")
    assert data_of(client) == {"a": "1"}
    assert token_of(client) is None


def test_it_needs_no_secret_key(app: Flask, client: FlaskClient) -> None:
    """Nothing is signed, so an app without a `SECRET_KEY` has a session."""
    assert app.secret_key is None
    client.get("/set?a=1")
    assert data_of(client) == {"a": "1"}


def test_a_login_is_in_it(client: FlaskClient, do: Do) -> None:
    """What `login_user` is given is in `flask.session`, and its cookie is Flask's."""
    do(client, lambda: kvs.login_user("ada", {"role": "admin"}))
    assert data_of(client) == {"role": "admin"}
    assert len(token_of(client, "session") or "") == 62


def test_facts_are_never_in_the_mapping(client: FlaskClient) -> None:
    """Neither `permanent` nor anything else that we keep shows among the app's keys."""
    client.get("/set?permanent=yes&a=1")
    assert data_of(client) == {"a": "1"}


# Reading creates nothing


@pytest.mark.parametrize("path", ["/untouched", "/get", "/missing", "/clear"])
def test_a_page_that_only_reads_makes_no_key(client: FlaskClient, keys: Keys, path: str) -> None:
    """A thousand bots leave no session and get no cookie."""
    assert not any(session_cookies(client.get(path)) for _ in range(10))
    assert keys() == set()


def test_an_untouched_one_leaves_no_trace(
    client: FlaskClient, count_commands: CountCommands
) -> None:
    """A page that does not touch the session costs no Redis call, no cookie and no `Vary`."""
    client.get("/set?a=1")
    with count_commands() as commands:
        response = client.get("/untouched")
    assert len(commands) == 0
    assert "Vary" not in response.headers
    assert "Set-Cookie" not in response.headers


def test_permanent_alone_makes_no_key(app: Flask, client: FlaskClient, keys: Keys) -> None:
    """An app that makes every session permanent makes none by that."""

    @app.before_request
    def all_permanent() -> None:
        session.permanent = True

    assert not session_cookies(client.get("/get"))
    assert keys() == set()


def test_a_visitor_has_a_short_idle_timeout(client: FlaskClient, clock: Clock) -> None:
    """A visitor's session that is not permanent ends after `KVSESSION_ANONYMOUS_TIMEOUT`."""
    client.get("/set?a=1")
    clock.advance(DAY - HOUR)
    assert data_of(client) == {"a": "1"}
    clock.advance(DAY + HOUR)
    assert data_of(client) == {}


LOOKS: dict[str, Callable[[], object]] = {
    "get": lambda: session.get("a"),
    "in": lambda: "a" in session,
    "len": lambda: len(session),
    "iteration": lambda: list(session),
    "bool": lambda: bool(session),
    "permanent": lambda: session.permanent,
    "accessed": lambda: session.accessed,
    "modified": lambda: session.modified,
    "a template": lambda: render_template_string("{{ session.a }}"),
    "flashed messages": get_flashed_messages,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_every_look_varies_by_cookie(client: FlaskClient, do: Do, look: t.Any) -> None:
    """A response for which `flask.session` was looked at is told to caches (CVE-2026-27205)."""
    assert do(client, look).headers["Vary"] == "Cookie"


# Cookies


def test_the_cookie_is_flasks(app: Flask) -> None:
    """Name, domain, path and all other attributes are Flask's own settings, read when they are
    needed."""
    app.config.update(
        SESSION_COOKIE_NAME="sid",
        SESSION_COOKIE_DOMAIN="example.com",
        SESSION_COOKIE_PATH="/app",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="None",
        SESSION_COOKIE_PARTITIONED=True,
        SESSION_COOKIE_HTTPONLY=False,
    )
    client = app.test_client()
    [cookie] = session_cookies(client.get("/set?a=1", base_url="https://example.com"))
    expected = {"Domain=example.com", "Path=/app", "Secure", "SameSite=None", "Partitioned"}
    assert cookie.startswith("sid=")
    assert attributes_of(cookie) == expected


def test_a_secure_cookie_on_plain_http(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """The warning about it names Flask's setting."""
    app.config["SESSION_COOKIE_SECURE"] = True
    app.add_url_rule("/in", view_func=lambda: {"id": kvs.login_user("ada").id})
    app.test_client().get("/in")
    assert "set SESSION_COOKIE_SECURE = False" in caplog.text


def test_a_getter_may_be_overridden(app: Flask) -> None:
    """An app may choose the cookie's attributes by request, as with any session interface."""

    def get_cookie_samesite(app: Flask) -> str:
        return "Strict" if request.path == "/set" else "Lax"

    app.session_interface.get_cookie_samesite = get_cookie_samesite  # type: ignore[method-assign]
    [cookie] = session_cookies(app.test_client().get("/set?a=1"))
    assert "SameSite=Strict" in cookie


def test_the_cookie_ends_with_the_browser(client: FlaskClient, clock: Clock, do: Do) -> None:
    """By default it has no age, and a user's session the idle timeout for such."""
    [cookie] = session_cookies(do(client, lambda: kvs.login_user("ada", remember=False)))
    assert attributes_of(cookie) == {"HttpOnly", "Path=/"}
    clock.advance(12 * HOUR)
    do(client, lambda: abort(403 if kvs.current_session.user_id else 410))
    assert do(client, lambda: {"user": kvs.current_session.user_id}).get_json() == {"user": None}


def test_a_permanent_one_lives_for_flasks_lifetime(make_app: MakeApp, clock: Clock) -> None:
    """The cookie stays, and the idle timeout is `PERMANENT_SESSION_LIFETIME`, which may be set
    after `init_app`; visitors' sessions too."""
    app = with_views(make_app(as_flask_session=True, views=False))
    app.permanent_session_lifetime = 4 * DAY
    client = app.test_client()
    [cookie] = session_cookies(client.get("/set?a=1&permanent=yes"))
    assert f"Max-Age={30 * 24 * 3600}" in cookie
    clock.advance(3 * DAY)
    assert data_of(client) == {"a": "1"}
    clock.advance(3 * DAY)
    assert data_of(client) == {"a": "1"}
    clock.advance(4 * DAY)
    assert data_of(client) == {}


def test_the_absolute_timeout_caps_the_lifetime(make_app: MakeApp, clock: Clock) -> None:
    """Flask's 31 days are no more than `KVSESSION_ABSOLUTE_TIMEOUT`."""
    app = with_views(make_app(as_flask_session=True, views=False, absolute_timeout=DAY))
    client = app.test_client()
    [cookie] = session_cookies(client.get("/set?a=1&permanent=yes"))
    assert f"Max-Age={24 * 3600}" in cookie
    clock.advance(DAY)
    assert data_of(client) == {}


@pytest.mark.parametrize("lifetime", [0, -1, "1 day", None])
def test_a_lifetime_that_cannot_work(lifetime: t.Any) -> None:
    """A lifetime of nothing is an error that names Flask's key, and what was given."""
    app = Flask("app")
    app.config.update(KVSESSION_AS_FLASK_SESSION=True, PERMANENT_SESSION_LIFETIME=lifetime)
    with pytest.raises(ConfigurationError, match=r"^PERMANENT_SESSION_LIFETIME must be") as error:
        kvs.KVSession(app)
    assert str(error.value).endswith(f" not {lifetime!r}.")


@pytest.mark.parametrize(("first", "then"), [("yes", "no"), ("no", "yes")])
def test_permanent_changes_later(client: FlaskClient, first: str, then: str) -> None:
    """A session that becomes permanent, or ceases to be, gets a cookie that says so, with a new
    token; its data stay."""
    client.get(f"/set?a=1&permanent={first}")
    token = token_of(client, "session") or ""
    [cookie] = session_cookies(client.get(f"/set?b=2&permanent={then}"))
    assert ("Max-Age" in cookie) is (then == "yes")
    assert token not in cookie
    assert (token_of(client, "session") or "")[:19] == token[:19]
    assert data_of(client) == {"a": "1", "b": "2"}
    assert not session_cookies(client.get(f"/set?b=3&permanent={then}"))


def test_permanent_after_a_login(app: Flask, do: Do) -> None:
    """What a request says of it after `login_user` is what its one cookie says."""

    def act() -> None:
        kvs.login_user("ada")
        session.permanent = False

    [cookie] = session_cookies(do(app.test_client(), act))
    assert "Max-Age" not in cookie


def test_clearing_ends_permanence(client: FlaskClient) -> None:
    """As in Flask, `clear()` takes `permanent` away with the data."""
    client.get("/set?a=1&permanent=yes")
    client.get("/clear")
    [cookie] = session_cookies(client.get("/set?a=1"))
    assert "Max-Age" not in cookie


def test_permanent_on_every_page(app: Flask) -> None:
    """Where a hook makes all sessions permanent, a login that clears the session first is so at
    once: the next requests, of which there may be several, go on with its token."""

    @app.before_request
    def make_permanent() -> None:
        session.permanent = True

    @app.post("/login")
    def login() -> str:
        session.clear()
        session["user_id"] = "ada"
        return ""

    client = app.test_client()
    [cookie] = session_cookies(client.post("/login"))
    assert "Max-Age" in cookie
    assert not session_cookies(client.get("/get"))


def test_threads_of_one_request(app: Flask, do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that get a view's request, and touch the session first at the same time, find one
    session; what each puts there is kept."""
    client = app.test_client()
    client.get("/set?a=1")
    load, both = SessionStore.load, threading.Barrier(2, timeout=0.2)

    def load_together(*args: t.Any) -> t.Any:
        with suppress(threading.BrokenBarrierError):
            both.wait()
        return load(*args)

    monkeypatch.setattr(SessionStore, "load", load_together)

    def act() -> None:
        def put(key: str) -> None:
            session[key] = 1

        with ThreadPoolExecutor(2) as pool:
            tasks = [pool.submit(copy_current_request_context(put), key) for key in "bc"]
        for task in tasks:
            task.result()

    do(client, act)
    assert data_of(client) == {"a": "1", "b": 1, "c": 1}


def test_it_is_not_sent_again(client: FlaskClient, clock: Clock) -> None:
    """`SESSION_REFRESH_EACH_REQUEST` re-sends no cookie: an old token sent beside a new one would
    sign out. The session is renewed in Redis instead."""
    client.get("/set?a=1&permanent=yes")
    clock.advance(HOUR)
    assert not session_cookies(client.get("/set?b=1&permanent=yes"))


def test_emptied_it_ends(client: FlaskClient, keys: Keys) -> None:
    """A session whose last item goes is gone, and its cookie with it, as in Flask."""
    client.get("/set?a=1")
    [cookie] = session_cookies(client.get("/clear"))
    assert "Max-Age=0" in cookie
    assert keys() == set()


# What an app may set


def test_modified_and_accessed_may_be_set(client: FlaskClient, do: Do) -> None:
    """Both are what the app says, until it changes or looks at something again."""
    seen: list[object] = []

    def act() -> None:
        seen.append(session.modified)
        session.modified = True
        seen.append(session.modified)
        session.modified = False
        seen.append(session.modified)
        session["a"] = 1
        seen.append(session.modified)
        g.session.accessed = False
        seen.append(g.session.accessed)
        seen.append(session.accessed)

    do(client, act)
    assert seen == [False, True, False, True, False, True]


def test_modified_false_keeps_from_writing(client: FlaskClient, do: Do) -> None:
    """As in Flask, what was changed before `modified = False` is not written."""
    client.get("/set?a=1")

    def act() -> None:
        session["a"] = 2
        session.modified = False

    do(client, act)
    assert data_of(client) == {"a": "1"}


def test_modified_is_true_afterwards(app: Flask) -> None:
    """A test that looks at the session when the request is over sees that it was changed."""
    with app.test_client() as client:
        client.get("/set?a=1")
        assert session.modified
        client.get("/get")
        assert not session.modified


def test_changes_inside_a_list_are_saved(client: FlaskClient, do: Do) -> None:
    """Flask needs `modified = True` for that; here it does no harm and is not needed."""
    do(client, lambda: session.setdefault("cart", []).append(1))
    do(client, lambda: session["cart"].append(2))
    do(client, lambda: session.setdefault("cart", []).append(3))
    assert data_of(client) == {"cart": [1, 2, 3]}


# The end of a request


def test_after_request_functions_may_change_it(app: Flask, client: FlaskClient) -> None:
    """What any function at the end of a request changes is saved, whenever it was registered."""

    def adds(name: str) -> Callable[[Response], Response]:
        def add(response: Response) -> Response:
            session[name] = True
            return response

        return add

    app.after_request(adds("last registered, first called"))
    app.after_request_funcs.setdefault(None, []).insert(0, adds("first registered, last called"))

    @app.get("/page")
    def page() -> str:
        after_this_request(adds("this request"))
        return ""

    client.get("/page")
    expected = {"first registered, last called", "last registered, first called", "this request"}
    assert data_of(client).keys() == expected


def test_an_error_page_may_use_it(app: Flask, client: FlaskClient) -> None:
    """An error handler reads and writes the session; a failed view's changes are saved."""

    @app.errorhandler(404)
    def missing(error: object) -> t.Any:
        session["missing"] = session.get("missing", 0) + 1
        return str(session["missing"]), 404

    assert [client.get("/nowhere").text for _ in range(3)] == ["1", "2", "3"]


def test_messages_are_flashed_once(app: Flask, client: FlaskClient) -> None:
    """`flash()` reaches the next request and no other, in its order and category."""

    @app.get("/flash")
    def say() -> str:
        flash("one")
        flash("two", "error")
        return ""

    @app.get("/messages")
    def messages() -> t.Any:
        return get_flashed_messages(with_categories=True)

    client.get("/flash")
    assert client.get("/messages").get_json() == [["message", "one"], ["error", "two"]]
    assert client.get("/messages").get_json() == []


def test_a_stream_reads_and_cannot_write(app: Flask, client: FlaskClient) -> None:
    """In a streamed response the session reads; a write, which would be lost, raises."""

    @app.get("/stream")
    def stream() -> Response:
        session["a"] = 1

        def lines() -> t.Iterator[str]:
            yield str(session["a"])
            with pytest.raises(KVSessionError, match="committed"):
                session["a"] = 2

        return Response(stream_with_context(lines()))

    assert client.get("/stream").text == "1"
    assert data_of(client) == {"a": 1}


def test_messages_can_be_looked_at_afterwards(app: Flask) -> None:
    """A test that asks for flashed messages when the request is over takes them out, as in Flask;
    for the next request they are still there."""

    @app.get("/flash")
    def say() -> str:
        flash("one")
        return ""

    with app.test_client() as client:
        client.get("/flash")
        assert get_flashed_messages() == ["one"]
        assert get_flashed_messages() == ["one"]  # Flask keeps them for the request
        assert "_flashes" not in session
    assert data_of(client) == {"_flashes": [["message", "one"]]}


def test_it_outlives_no_request_in_a_long_context(app: Flask) -> None:
    """In one app context that several requests share, each has its own session."""
    ada, bob = app.test_client(), app.test_client()
    with app.app_context():
        ada.get("/set?name=ada")
        bob.get("/set?name=bob")
        assert (data_of(ada), data_of(bob)) == ({"name": "ada"}, {"name": "bob"})


def test_apps_side_by_side(make_app: MakeApp) -> None:
    """Two apps of one process, one below the other's URL, have each its own `flask.session`."""
    outer = with_views(make_app("outer", as_flask_session=True, views=False, key_prefix="o"))
    inner = with_views(make_app("inner", as_flask_session=True, views=False, key_prefix="i"))
    inner.config["SESSION_COOKIE_NAME"] = "inner"
    client = Client(DispatcherMiddleware(outer, {"/inner": inner}))
    client.get("/set?at=outer")
    client.get("/inner/set?at=inner")
    assert client.get("/get").get_json() == {"at": "outer"}
    assert client.get("/inner/get").get_json() == {"at": "inner"}


def test_session_transaction(app: Flask, client: FlaskClient, keys: Keys) -> None:
    """The test client's `session_transaction` changes and reads the session, outside any context;
    looking makes none."""
    with client.session_transaction() as before:
        assert dict(before) == {}
    assert keys() == set()
    with client.session_transaction() as changing:
        changing["a"] = [1]
    with client.session_transaction() as changing:
        changing["a"].append(2)
    assert data_of(client) == {"a": [1, 2]}
    with client.session_transaction() as last:
        assert last["a"] == [1, 2]
        last.clear()
    assert keys() == set()


def test_a_request_context_has_it(app: Flask) -> None:
    """In a `test_request_context` the session is there, and reads as a visitor's."""
    with app.test_request_context("/get"):
        assert dict(session) == {}
        session["a"] = 1
        assert g.get("session") is None or dict(g.session) == {"a": 1}


# Failures


def test_opening_it_asks_nobody(make_app: MakeApp) -> None:
    """Without a store, a page that does not touch the session is answered as ever, and the failure
    is where it is touched: the app's handler for it answers."""
    app = with_views(make_app(as_flask_session=True, views=False, redis_url=NOBODY_LISTENS))
    app.register_error_handler(StoreUnavailable, lambda error: ("in our own words", 503))
    client = app.test_client()
    client.set_cookie("session", "x" * 62)
    assert client.get("/untouched").status_code == 200
    response = client.get("/get")
    assert (response.status_code, response.text) == (503, "in our own words")
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("trap", [False, True])
def test_a_commit_that_fails_is_503(make_app: MakeApp, trap: bool) -> None:
    """What could not be saved is not answered as if it had been: the response is rewritten, also
    where `TRAP_HTTP_EXCEPTIONS` lets errors through to a debugger."""
    app = with_views(make_app(as_flask_session=True, views=False, redis_url=NOBODY_LISTENS))
    app.config["TRAP_HTTP_EXCEPTIONS"] = trap
    response = app.test_client().get("/set?a=1")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert "Set-Cookie" not in response.headers


# Set-up


def test_another_session_interface_is_an_error() -> None:
    """Where somebody else has `flask.session` already, both would answer for it."""

    class Theirs(SecureCookieSessionInterface):
        pass

    app = Flask("app")
    app.session_interface = Theirs()
    app.config["KVSESSION_AS_FLASK_SESSION"] = True
    with pytest.raises(ConfigurationError, match=r"Theirs for it already; remove what"):
        kvs.KVSession(app)
    assert "kvsession" not in app.extensions
    del app.config["KVSESSION_AS_FLASK_SESSION"]
    kvs.KVSession(app)


def test_one_that_comes_later_is_an_error_too(app: Flask) -> None:
    """One that is put in place of ours afterwards would lose what is written; it is told so."""

    class Theirs(SessionInterface):
        def open_session(self, app: Flask, request: t.Any) -> None:
            return None

    app.session_interface = Theirs()
    with pytest.raises(ConfigurationError, match="in place of"):
        app.test_client().get("/untouched")


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("COOKIE_NAME", "SESSION_COOKIE_NAME"),
        ("COOKIE_DOMAIN", "SESSION_COOKIE_DOMAIN"),
        ("COOKIE_PATH", "SESSION_COOKIE_PATH"),
        ("COOKIE_SAMESITE", "SESSION_COOKIE_SAMESITE"),
        ("COOKIE_PARTITIONED", "SESSION_COOKIE_PARTITIONED"),
        ("COOKIE_SECURE", "SESSION_COOKIE_SECURE"),
        ("IDLE_TIMEOUT", "PERMANENT_SESSION_LIFETIME"),
    ],
)
def test_flasks_own_settings_rule(key: str, instead: str) -> None:
    """A setting of ours that Flask's takes the place of is refused, and Flask's named."""
    app = Flask("app")
    app.config.update({"KVSESSION_AS_FLASK_SESSION": True, f"KVSESSION_{key}": None})
    with pytest.raises(ConfigurationError, match=f"^KVSESSION_{key} has no effect.*{instead}"):
        kvs.KVSession(app)


def test_a_renewal_interval_that_is_too_long(make_app: MakeApp) -> None:
    """Flask's lifetime counts as an idle timeout in the checks of the others."""
    app = Flask("app")
    app.config.update(KVSESSION_AS_FLASK_SESSION=True, PERMANENT_SESSION_LIFETIME=60)
    kvs.KVSession(app)
    close(app)
    app = Flask("app")
    app.config.update(KVSESSION_AS_FLASK_SESSION=True, PERMANENT_SESSION_LIFETIME=60)
    app.config["KVSESSION_RENEWAL_INTERVAL"] = 31
    with pytest.raises(ConfigurationError, match=r"^KVSESSION_RENEWAL_INTERVAL"):
        kvs.KVSession(app)


@pytest.mark.parametrize("path", ["/get", "/set?b=1", "/untouched"])
def test_a_session_is_freed_with_its_request(client: FlaskClient, path: str) -> None:
    """A request leaves nothing behind that waits for the garbage collector."""
    client.get("/set?a=1")
    gc.collect()
    gc.disable()
    try:
        before = sum(type(held) is Session for held in gc.get_objects())
        for _ in range(5):
            client.get(path)
        after = sum(type(held) is Session for held in gc.get_objects())
    finally:
        gc.enable()
    assert after <= before


@pytest.mark.parametrize("as_flask_session", [True, False])
def test_an_app_is_freed_with_its_last_user(as_flask_session: bool) -> None:
    """Nothing of ours holds the app, as Flask takes care that nothing of its own does."""
    gc.disable()
    try:
        app = Flask("app")
        app.config["KVSESSION_AS_FLASK_SESSION"] = as_flask_session
        kvs.KVSession(app)
        held = weakref.ref(app)
        del app
        assert held() is None
    finally:
        gc.enable()
