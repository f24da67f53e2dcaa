"""`flask.session` as the same object as `g.session`, with the behaviour that Flask documents."""

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
from flask_kvsession.compat.interface import KVSessionInterface
from flask_kvsession.errors import ConfigurationError, KVSessionError, StoreUnavailable
from flask_kvsession.session import Session
from flask_kvsession.store import SessionStore

from .support.apps import Config, Do, MakeApp, close
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


def test_flask_session_g_session_and_current_session_are_one_object(
    client: FlaskClient, do: Do
) -> None:
    """`flask.session`, `g.session` and `current_session` stand for one object."""
    seen = []
    do(client, lambda: seen.append(g.session is kvs.current_session))
    do(
        client,
        lambda: seen.append(
            t.cast(t.Any, session)._get_current_object() is g.session._get_current_object()
        ),
    )
    do(client, lambda: seen.append(isinstance(g.session, SessionMixin)))
    assert seen == [True, True, True]


def test_without_the_setting_flask_session_stays_flasks_signed_cookie(make_app: MakeApp) -> None:
    """Without `KVSESSION_AS_FLASK_SESSION`, `flask.session` is Flask's signed cookie."""
    app = with_views(make_app(views=False))
    app.secret_key = "x"
    client = app.test_client()
    client.get("/set?a=1")
    assert data_of(client) == {"a": "1"}
    assert token_of(client) is None


def test_flask_session_works_without_a_secret_key(app: Flask, client: FlaskClient) -> None:
    """The app needs no `SECRET_KEY`, because the cookie is not signed."""
    assert app.secret_key is None
    client.get("/set?a=1")
    assert data_of(client) == {"a": "1"}


def test_login_user_puts_its_data_into_flask_session(client: FlaskClient, do: Do) -> None:
    """`login_user` stores its data in `flask.session` and sets the token in Flask's cookie."""
    do(client, lambda: kvs.login_user("ada", {"role": "admin"}))
    assert data_of(client) == {"role": "admin"}
    assert len(token_of(client, "session") or "") == 62


def test_permanent_is_not_a_key_of_the_mapping(client: FlaskClient) -> None:
    """`session.permanent` is not a key of the app's data."""
    client.get("/set?permanent=yes&a=1")
    assert data_of(client) == {"a": "1"}


# Reading creates nothing


@pytest.mark.parametrize("path", ["/untouched", "/get", "/missing", "/clear"])
def test_a_request_that_writes_nothing_creates_no_session(
    client: FlaskClient, keys: Keys, path: str
) -> None:
    """A request that writes nothing creates no session and sends no cookie."""
    assert not any(session_cookies(client.get(path)) for _ in range(10))
    assert keys() == set()


def test_a_request_that_does_not_touch_the_session_leaves_no_trace(
    client: FlaskClient, count_commands: CountCommands
) -> None:
    """A request that does not touch the session costs no Redis call and sends neither `Set-Cookie`
    nor `Vary`."""
    client.get("/set?a=1")
    with count_commands() as commands:
        response = client.get("/untouched")
    assert len(commands) == 0
    assert "Vary" not in response.headers
    assert "Set-Cookie" not in response.headers


def test_setting_permanent_alone_creates_no_session(
    app: Flask, client: FlaskClient, keys: Keys
) -> None:
    """Setting `permanent` on an empty session creates no session."""

    @app.before_request
    def all_permanent() -> None:
        session.permanent = True

    assert not session_cookies(client.get("/get"))
    assert keys() == set()


def test_an_anonymous_session_ends_after_anonymous_timeout(
    client: FlaskClient, clock: Clock
) -> None:
    """An anonymous session that is not permanent ends after `KVSESSION_ANONYMOUS_TIMEOUT` without
    activity."""
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
def test_every_kind_of_read_adds_vary_cookie(client: FlaskClient, do: Do, look: t.Any) -> None:
    """The response has `Vary: Cookie` after any kind of read of `flask.session`
    (CVE-2026-27205)."""
    assert do(client, look).headers["Vary"] == "Cookie"


# Cookies


def test_the_cookie_has_flasks_name_and_attributes(app: Flask) -> None:
    """The cookie's name and attributes are Flask's settings at the time of the request."""
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


def test_a_secure_cookie_on_plain_http_logs_flasks_setting(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning about a Secure cookie on plain http names `SESSION_COOKIE_SECURE`."""
    app.config["SESSION_COOKIE_SECURE"] = True
    app.add_url_rule("/in", view_func=lambda: {"id": kvs.login_user("ada").id})
    app.test_client().get("/in", base_url="http://app.example")
    assert "set SESSION_COOKIE_SECURE = False" in caplog.text


def test_an_overridden_cookie_getter_decides_the_attribute(app: Flask) -> None:
    """An app may override a getter of the session interface, so that an attribute depends on the
    request."""

    def get_cookie_samesite(app: Flask) -> str:
        return "Strict" if request.path == "/set" else "Lax"

    app.session_interface.get_cookie_samesite = get_cookie_samesite  # type: ignore[method-assign]
    [cookie] = session_cookies(app.test_client().get("/set?a=1"))
    assert "SameSite=Strict" in cookie


def test_an_unremembered_login_ends_with_the_browser_or_when_idle(
    client: FlaskClient, clock: Clock, do: Do
) -> None:
    """The cookie of an unremembered login has no `Max-Age`, and its session ends after 12 hours
    without activity."""
    [cookie] = session_cookies(do(client, lambda: kvs.login_user("ada", remember=False)))
    assert attributes_of(cookie) == {"HttpOnly", "Path=/"}
    clock.advance(12 * HOUR)
    do(client, lambda: abort(403 if kvs.current_session.user_id else 410))
    assert do(client, lambda: {"user": kvs.current_session.user_id}).get_json() == {"user": None}


def test_a_permanent_session_lives_for_permanent_session_lifetime(
    make_app: MakeApp, clock: Clock
) -> None:
    """A permanent anonymous session ends after `PERMANENT_SESSION_LIFETIME` without activity, which
    may be set after `init_app`."""
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


def test_the_absolute_timeout_caps_permanent_session_lifetime(
    make_app: MakeApp, clock: Clock
) -> None:
    """A permanent session ends at `KVSESSION_ABSOLUTE_TIMEOUT` even if `PERMANENT_SESSION_LIFETIME`
    is longer."""
    app = with_views(make_app(as_flask_session=True, views=False, absolute_timeout=DAY))
    client = app.test_client()
    [cookie] = session_cookies(client.get("/set?a=1&permanent=yes"))
    assert f"Max-Age={24 * 3600}" in cookie
    clock.advance(DAY)
    assert data_of(client) == {}


@pytest.mark.parametrize("lifetime", [0, -1, "1 day", None])
def test_an_invalid_permanent_session_lifetime_raises(lifetime: t.Any) -> None:
    """The `ConfigurationError` names `PERMANENT_SESSION_LIFETIME` and the given value."""
    app = Flask("app")
    app.config.update(KVSESSION_AS_FLASK_SESSION=True, PERMANENT_SESSION_LIFETIME=lifetime)
    with pytest.raises(ConfigurationError, match=r"^PERMANENT_SESSION_LIFETIME must be") as error:
        kvs.KVSession(app)
    assert f" not {lifetime!r}." in str(error.value)


@pytest.mark.parametrize(("first", "then"), [("yes", "no"), ("no", "yes")])
def test_changing_permanent_rotates_the_token_and_keeps_the_data(
    client: FlaskClient, first: str, then: str
) -> None:
    """A change of `permanent` sets a cookie with a new token of the same session and keeps the
    data."""
    client.get(f"/set?a=1&permanent={first}")
    token = token_of(client, "session") or ""
    [cookie] = session_cookies(client.get(f"/set?b=2&permanent={then}"))
    assert ("Max-Age" in cookie) is (then == "yes")
    assert token not in cookie
    assert (token_of(client, "session") or "")[:19] == token[:19]
    assert data_of(client) == {"a": "1", "b": "2"}
    assert not session_cookies(client.get(f"/set?b=3&permanent={then}"))


def test_permanent_set_after_login_user_decides_the_cookie(app: Flask, do: Do) -> None:
    """`session.permanent`, set after `login_user`, decides whether the one cookie of the login has
    `Max-Age`."""

    def act() -> None:
        kvs.login_user("ada")
        session.permanent = False

    [cookie] = session_cookies(do(app.test_client(), act))
    assert "Max-Age" not in cookie


def test_clear_resets_permanent_with_the_data(client: FlaskClient) -> None:
    """`clear()` also resets `permanent`, as in Flask."""
    client.get("/set?a=1&permanent=yes")
    client.get("/clear")
    [cookie] = session_cookies(client.get("/set?a=1"))
    assert "Max-Age" not in cookie


def test_a_login_that_clears_is_permanent_if_a_hook_set_permanent(app: Flask) -> None:
    """If a hook makes every session permanent, a login that clears the session first is permanent
    at once, without a rotation at the next request."""

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


def test_concurrent_threads_of_one_request_share_one_session(
    app: Flask, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two threads of one request touch the session first at the same time, the writes of both
    are kept."""
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


def test_later_requests_do_not_send_the_cookie_again(client: FlaskClient, clock: Clock) -> None:
    """`SESSION_REFRESH_EACH_REQUEST` sends no cookie, because an old token sent after a new one
    would sign the user out."""
    client.get("/set?a=1&permanent=yes")
    clock.advance(HOUR)
    assert not session_cookies(client.get("/set?b=1&permanent=yes"))


def test_removing_the_last_item_ends_an_anonymous_session(client: FlaskClient, keys: Keys) -> None:
    """An anonymous session whose last item is removed is deleted together with its cookie, as in
    Flask."""
    client.get("/set?a=1")
    [cookie] = session_cookies(client.get("/clear"))
    assert "Max-Age=0" in cookie
    assert keys() == set()


# `modified`, `accessed` and changes inside values


def test_assigned_modified_and_accessed_hold_until_the_next_use(
    client: FlaskClient, do: Do
) -> None:
    """`modified` keeps its assigned value until the next change, and `accessed` until the next
    read."""
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


def test_modified_false_discards_the_earlier_changes(client: FlaskClient, do: Do) -> None:
    """Changes before `modified = False` are not saved, as in Flask."""
    client.get("/set?a=1")

    def act() -> None:
        session["a"] = 2
        session.modified = False

    do(client, act)
    assert data_of(client) == {"a": "1"}


def test_modified_after_the_request_says_whether_it_made_a_change(app: Flask) -> None:
    """After the request `session.modified` still says whether the request changed the session."""
    with app.test_client() as client:
        client.get("/set?a=1")
        assert session.modified
        client.get("/get")
        assert not session.modified


def test_a_change_inside_a_list_is_saved_without_modified(client: FlaskClient, do: Do) -> None:
    """A change inside a list is saved without `modified = True`."""
    do(client, lambda: session.setdefault("cart", []).append(1))
    do(client, lambda: session["cart"].append(2))
    do(client, lambda: session.setdefault("cart", []).append(3))
    assert data_of(client) == {"cart": [1, 2, 3]}


# The end of a request


def test_changes_by_all_after_request_functions_are_saved(app: Flask, client: FlaskClient) -> None:
    """Changes by `after_request` functions are saved, whatever their order of registration."""

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


def test_an_error_handler_reads_and_writes_the_session(app: Flask, client: FlaskClient) -> None:
    """Changes by an error handler are saved."""

    @app.errorhandler(404)
    def missing(error: object) -> t.Any:
        session["missing"] = session.get("missing", 0) + 1
        return str(session["missing"]), 404

    assert [client.get("/nowhere").text for _ in range(3)] == ["1", "2", "3"]


def test_flashed_messages_reach_exactly_one_request(app: Flask, client: FlaskClient) -> None:
    """The next request gets the flashed messages in their order and with their categories; no later
    request gets them."""

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


def test_a_stream_reads_the_session_and_a_write_raises(app: Flask, client: FlaskClient) -> None:
    """A write in a streamed response raises, because the session is already committed."""

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


def test_flashed_messages_read_after_the_request_stay_stored(app: Flask) -> None:
    """A test that reads the flashed messages after the request does not take them from the next
    request."""

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


def test_requests_in_one_app_context_have_separate_sessions(app: Flask) -> None:
    """Each of several requests in one app context has its own session."""
    ada, bob = app.test_client(), app.test_client()
    with app.app_context():
        ada.get("/set?name=ada")
        bob.get("/set?name=bob")
        assert (data_of(ada), data_of(bob)) == ({"name": "ada"}, {"name": "bob"})


def test_two_apps_in_one_process_have_separate_sessions(make_app: MakeApp) -> None:
    """Two apps, one mounted below the other's URL, each have their own `flask.session`."""
    outer = with_views(make_app("outer", as_flask_session=True, views=False, key_prefix="o"))
    inner = with_views(make_app("inner", as_flask_session=True, views=False, key_prefix="i"))
    inner.config["SESSION_COOKIE_NAME"] = "inner"
    client = Client(DispatcherMiddleware(outer, {"/inner": inner}))
    client.get("/set?at=outer")
    client.get("/inner/set?at=inner")
    assert client.get("/get").get_json() == {"at": "outer"}
    assert client.get("/inner/get").get_json() == {"at": "inner"}


def test_session_transaction_reads_and_changes_the_session(
    app: Flask, client: FlaskClient, keys: Keys
) -> None:
    """The test client's `session_transaction()` changes the stored session; a transaction that only
    reads creates none."""
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


def test_a_test_request_context_has_an_empty_writable_session(app: Flask) -> None:
    """In a `test_request_context` the session is empty and can be written."""
    with app.test_request_context("/get"):
        assert dict(session) == {}
        session["a"] = 1
        assert g.get("session") is None or dict(g.session) == {"a": 1}


# Failures


def test_without_a_store_only_a_touched_session_fails(make_app: MakeApp) -> None:
    """If the store is down, a page that does not touch the session works, and the app's error
    handler answers any other page."""
    app = with_views(make_app(as_flask_session=True, views=False, redis_url=NOBODY_LISTENS))
    app.register_error_handler(StoreUnavailable, lambda error: ("in our own words", 503))
    client = app.test_client()
    client.set_cookie("session", "x" * 62)
    assert client.get("/untouched").status_code == 200
    response = client.get("/get")
    assert (response.status_code, response.text) == (503, "in our own words")
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("trap", [False, True])
def test_a_failed_commit_turns_the_response_into_503(make_app: MakeApp, trap: bool) -> None:
    """If the commit fails, the response becomes a 503, with `TRAP_HTTP_EXCEPTIONS` too."""
    app = with_views(make_app(as_flask_session=True, views=False, redis_url=NOBODY_LISTENS))
    app.config["TRAP_HTTP_EXCEPTIONS"] = trap
    response = app.test_client().get("/set?a=1")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert "Set-Cookie" not in response.headers


# Set-up


def test_an_app_with_another_session_interface_is_refused() -> None:
    """`init_app` raises `ConfigurationError` if the app already has a session interface of its
    own."""

    class Theirs(SecureCookieSessionInterface):
        pass

    app = Flask("app")
    app.session_interface = Theirs()
    app.config["KVSESSION_AS_FLASK_SESSION"] = True
    with pytest.raises(ConfigurationError, match=r"Theirs; remove the code that sets it"):
        kvs.KVSession(app)
    assert "kvsession" not in app.extensions
    del app.config["KVSESSION_AS_FLASK_SESSION"]
    kvs.KVSession(app)


def test_a_session_interface_set_after_init_app_raises_at_a_request(app: Flask) -> None:
    """A request raises `ConfigurationError` if the app has replaced the session interface after
    `init_app`."""

    class Theirs(SessionInterface):
        def open_session(self, app: Flask, request: t.Any) -> None:
            return None

    app.session_interface = Theirs()
    with pytest.raises(ConfigurationError, match="has replaced the session interface"):
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
def test_a_setting_that_flask_has_itself_is_refused(key: str, instead: str) -> None:
    """If Flask has a setting of its own for the purpose, the extension's setting is refused, and
    the error names Flask's."""
    app = Flask("app")
    app.config.update({"KVSESSION_AS_FLASK_SESSION": True, f"KVSESSION_{key}": None})
    with pytest.raises(ConfigurationError, match=f"^KVSESSION_{key} has no effect.*{instead}"):
        kvs.KVSession(app)


def test_a_renewal_interval_over_half_of_flasks_lifetime_is_refused(make_app: MakeApp) -> None:
    """`KVSESSION_RENEWAL_INTERVAL` may be at most half of `PERMANENT_SESSION_LIFETIME`."""
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
def test_a_session_is_freed_without_the_garbage_collector(client: FlaskClient, path: str) -> None:
    """A `Session` is freed by reference counting when its request ends."""
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
def test_an_app_is_freed_with_the_last_reference_to_it(as_flask_session: bool) -> None:
    """The extension holds no reference that keeps the app alive."""
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


class TestImpossibleCookies:
    """Combinations of `SESSION_COOKIE_*` with which browsers drop the cookie."""

    @pytest.mark.parametrize(
        ("config", "named"),
        [
            ({"SAMESITE": "None"}, "SECURE"),
            ({"SAMESITE": "none", "SECURE": False}, "SECURE"),
            ({"PARTITIONED": True}, "SECURE"),
            ({"PARTITIONED": True, "SECURE": False, "SAMESITE": "Lax"}, "SECURE"),
            ({"NAME": "__Host-session"}, "SECURE"),
            ({"NAME": "__Secure-session"}, "SECURE"),
            ({"NAME": "__SECURE-session"}, "SECURE"),
            ({"NAME": "__Host-session", "SECURE": True, "PATH": "/app"}, "PATH"),
            ({"NAME": "__host-session", "SECURE": True, "PATH": "/app"}, "PATH"),
            ({"NAME": "__Host-session", "SECURE": True, "DOMAIN": "example.com"}, "DOMAIN"),
            ({"NAME": "s" * 257}, "NAME"),
            ({"SAMESITE": "Laxx"}, "SAMESITE"),
            ({"SAMESITE": ""}, "SAMESITE"),
            ({"SAMESITE": False}, "SAMESITE"),
        ],
        ids=str,
    )
    def test_impossible_combination_is_an_error_at_the_first_request(
        self, make_app: MakeApp, config: Config, named: str
    ) -> None:
        """The first request raises an error that names the setting to change."""
        app = make_app(as_flask_session=True)
        app.config.update({f"SESSION_COOKIE_{key}": value for key, value in config.items()})
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=f"SESSION_COOKIE_{named}"):
                app.test_client().get("/untouched")

    def test_host_prefix_below_an_application_root_is_an_error(self, make_app: MakeApp) -> None:
        """`APPLICATION_ROOT` is the path of the cookie if `SESSION_COOKIE_PATH` is not set."""
        app = make_app(as_flask_session=True)
        app.config.update(
            APPLICATION_ROOT="/app", SESSION_COOKIE_NAME="__Host-s", SESSION_COOKIE_SECURE=True
        )
        with pytest.raises(ConfigurationError, match="APPLICATION_ROOT"):
            app.test_client().get("/untouched")

    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"SAMESITE": "None", "SECURE": True},
            {"SAMESITE": "strict"},
            {"PARTITIONED": True, "SECURE": True},
            {"NAME": "__Host-session", "SECURE": True},
            {"NAME": "__Host-session", "SECURE": True, "PATH": "/"},
            {"NAME": "__Secure-session", "SECURE": True, "PATH": "/app", "DOMAIN": "example.com"},
            {"NAME": "x__Host-session", "PATH": "/app"},
            {"NAME": "s" * 256},
            {"PATH": "/app", "DOMAIN": "example.com"},
        ],
        ids=str,
    )
    def test_possible_combination_is_accepted(self, make_app: MakeApp, config: Config) -> None:
        """Other combinations raise no error."""
        app = make_app(as_flask_session=True)
        app.config.update({f"SESSION_COOKIE_{key}": value for key, value in config.items()})
        assert app.test_client().get("/untouched").status_code == 200

    def test_cookie_settings_of_flask_are_not_checked_for_g_session(
        self, make_app: MakeApp
    ) -> None:
        """Without `KVSESSION_AS_FLASK_SESSION`, Flask's settings are about Flask's own cookie."""
        app = make_app()
        app.config.update(SESSION_COOKIE_SAMESITE="None", SESSION_COOKIE_NAME="__Host-s")
        assert app.test_client().get("/untouched").status_code == 200

    def test_interface_that_asks_the_request_for_a_domain_works_outside_a_request(
        self, make_app: MakeApp
    ) -> None:
        """The check asks only for what a combination depends on."""
        app = make_app(as_flask_session=True)

        class PerHost(KVSessionInterface):
            def get_cookie_domain(self, app: Flask) -> str | None:
                return request.host.partition(":")[0]

        app.session_interface = PerHost()
        with app.app_context():
            assert kvs.revoke_all_sessions("ada") == 0
