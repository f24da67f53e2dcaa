"""`KVSESSION_MIGRATE_COOKIE_SESSION`: Flask's signed cookie becomes a stored session."""

from __future__ import annotations

import gc
import threading
import typing as t
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import redis
from flask import Flask, copy_current_request_context, request, session
from flask.testing import FlaskClient
from markupsafe import Markup

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError

from .support.apps import Do, MakeApp, state_of, store_of
from .support.browsers import token_of
from .support.commands import CountCommands, Keys

SECRET = "of the app"
DATA: dict[str, t.Any] = {
    "user_id": "ada",
    "cart": [1, {"n": 2}],
    "tuple": (1, "a"),
    "bytes": b"\0",
    "markup": Markup("<b>"),
    "uuid": UUID(int=5),
    "time": datetime(2026, 11, 23, 9, 30, tzinfo=UTC),
    " t": [1],
}


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return with_views(make_app(**MOVING))


MOVING: dict[str, t.Any] = {
    "as_flask_session": True,
    "user_id_key": "user_id",
    "migrate_cookie_session": True,
    "views": False,
}


def with_views(app: Flask) -> Flask:
    app.secret_key = SECRET
    seen: list[t.Any] = []
    app.extensions["seen"] = seen

    @app.get("/see")
    def see() -> t.Any:
        seen.append(dict(session))
        return {"user": kvs.current_session.user_id, "fresh": kvs.current_session.is_fresh}

    @app.get("/put")
    def put() -> t.Any:
        session.update(request.args)
        return {}

    @app.get("/out")
    def out() -> t.Any:
        session.clear()
        return {}

    app.add_url_rule("/untouched", "untouched", dict)
    return app


def seen_by(app: Flask) -> t.Any:
    return app.extensions["seen"][-1]


def signed_cookie(*, permanent: bool = False, secret: str = SECRET, **data: t.Any) -> str:
    """What an app of before, with Flask's own session, has left in a browser."""
    before = Flask("before")
    before.secret_key = secret
    client = before.test_client()
    with client.session_transaction() as flasks:
        flasks.update(data)
        flasks.permanent = permanent
    return token_of(client, "session") or ""


def browser(app: Flask, cookie: str) -> FlaskClient:
    client = app.test_client()
    client.set_cookie("session", cookie)
    return client


def test_every_value_of_the_signed_cookie_is_carried_over(app: Flask) -> None:
    """Every value of the signed cookie is in the new session, equal and of the same type."""
    client = browser(app, signed_cookie(**DATA))
    client.get("/see")
    assert seen_by(app) == DATA
    client.get("/see")
    assert seen_by(app) == DATA
    assert {type(value) for value in seen_by(app).values()} == set(map(type, DATA.values()))


def test_a_user_of_the_signed_cookie_stays_signed_in_and_not_fresh(app: Flask) -> None:
    """The user of the signed cookie stays signed in and is listed, but is not fresh."""
    client = browser(app, signed_cookie(**DATA))
    assert client.get("/see").get_json() == {"user": "ada", "fresh": False}
    assert client.get("/see").get_json() == {"user": "ada", "fresh": False}
    [found] = store_of(app).sessions_of("ada")
    assert found.id == (token_of(client, "session") or "")[:19]


def test_the_first_request_replaces_the_signed_cookie_by_a_token(
    app: Flask, count_commands: CountCommands
) -> None:
    """The first request replaces the signed cookie by a token, and a later request costs one
    read."""
    client = browser(app, signed_cookie(**DATA))
    [cookie] = client.get("/see").headers.getlist("Set-Cookie")
    assert cookie.startswith("session=")
    assert len(token_of(client, "session") or "") == 62
    with count_commands() as commands:
        assert not client.get("/see").headers.getlist("Set-Cookie")
    assert commands.names == ["GET"]


def test_a_signed_cookie_without_a_user_becomes_an_anonymous_session(
    app: Flask, keys: Keys
) -> None:
    """A signed cookie without a user becomes an anonymous session with the same data."""
    client = browser(app, signed_cookie(cart=[1]))
    assert client.get("/see").get_json()["user"] is None
    client.get("/see")
    assert seen_by(app) == {"cart": [1]}
    assert len(keys()) == 1


@pytest.mark.parametrize("permanent", [True, False])
def test_permanent_is_carried_over_and_is_not_in_the_data(app: Flask, permanent: bool) -> None:
    """`permanent` of the signed cookie is carried over and is not a key of the data."""
    client = browser(app, signed_cookie(permanent=permanent, cart=[1]))
    [cookie] = client.get("/see").headers.getlist("Set-Cookie")
    assert ("Max-Age" in cookie) is permanent
    assert seen_by(app) == {"cart": [1]}


def test_changes_of_the_first_request_apply_on_top_of_the_carried_over_data(app: Flask) -> None:
    """A change by the first request overwrites the value of the signed cookie."""
    client = browser(app, signed_cookie(a="old", b="old"))
    client.get("/put?a=new")
    client.get("/see")
    assert seen_by(app) == {"a": "new", "b": "old"}


def test_a_logout_in_the_first_request_deletes_the_signed_cookie(app: Flask, keys: Keys) -> None:
    """A logout in the first request deletes the signed cookie and creates no session."""
    client = browser(app, signed_cookie(**DATA))
    client.get("/out")
    assert token_of(client, "session") is None
    assert keys() == set()


def test_clear_in_the_first_request_deletes_an_anonymous_signed_cookie(
    make_app: MakeApp, keys: Keys
) -> None:
    """`clear()` in the first request deletes the signed cookie, so that the data do not come
    back."""
    app = with_views(make_app(**MOVING | {"user_id_key": None}))
    client = browser(app, signed_cookie(cart=[1]))
    client.get("/out")
    assert token_of(client, "session") is None
    assert keys() == set()


def test_modified_false_leaves_the_signed_cookie_for_the_next_request(
    app: Flask, keys: Keys, do: Do
) -> None:
    """`modified = False` carries nothing over and leaves the signed cookie."""
    client = browser(app, cookie := signed_cookie(cart=[1]))

    def act() -> None:
        assert session["cart"] == [1]
        session.modified = False

    do(client, act)
    assert token_of(client, "session") == cookie
    assert keys() == set()


def test_a_request_that_does_not_touch_the_session_leaves_the_signed_cookie(
    app: Flask, keys: Keys
) -> None:
    """A request that does not touch the session carries nothing over."""
    client = browser(app, cookie := signed_cookie(**DATA))
    client.get("/untouched")
    assert token_of(client, "session") == cookie
    assert keys() == set()


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "x",
        "x" * 62,
        "a.b.c",
        signed_cookie(secret="another", **DATA),
        signed_cookie(**DATA)[:-1],
    ],
    ids=["empty", "short", "a token", "dots", "of another app", "cut"],
)
def test_a_cookie_not_signed_by_this_app_is_ignored(app: Flask, keys: Keys, cookie: str) -> None:
    """A cookie that this app has not signed signs no user in and creates no session."""
    client = browser(app, cookie)
    assert client.get("/see").get_json()["user"] is None
    assert seen_by(app) == {}
    assert keys() == set()


def test_a_signed_cookie_older_than_flasks_lifetime_is_ignored(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signed cookie older than `PERMANENT_SESSION_LIFETIME` signs no user in, as in Flask."""
    from itsdangerous import TimestampSigner

    now = int(datetime.now(UTC).timestamp())
    month_ago = now - int(timedelta(days=32).total_seconds())
    with monkeypatch.context() as patch:
        patch.setattr(TimestampSigner, "get_timestamp", lambda self: month_ago)
        cookie = signed_cookie(**DATA)
    assert browser(app, cookie).get("/see").get_json()["user"] is None


def test_a_carried_over_session_stays_revoked(app: Flask) -> None:
    """A carried-over session stays revoked, because the browser no longer has the signed cookie."""
    client = browser(app, signed_cookie(**DATA))
    client.get("/see")
    store_of(app).revoke_all("ada")
    assert client.get("/see").get_json()["user"] is None


def test_a_signed_cookie_beside_a_token_is_ignored(app: Flask, redis_client: redis.Redis) -> None:
    """A signed cookie beside a token signs no user in, even after Redis has dropped the revoked
    session."""
    client = browser(app, signed_cookie(**DATA))
    client.get("/see")
    token = token_of(client, "session")
    store_of(app).revoke_all("ada")
    [key] = redis_client.keys(f"{app.config['KVSESSION_KEY_PREFIX']}:*")
    redis_client.delete(key)
    late, old = app.test_client(use_cookies=False), signed_cookie(**DATA)
    two = f"session={old}; session={token}; session={'x' * 62}"
    for cookies in (f"session={token}; session={old}", f"session={old}; session={token}", two):
        assert late.get("/see", headers={"Cookie": cookies}).get_json()["user"] is None


def test_another_user_in_the_first_request_gets_no_carried_over_data(app: Flask) -> None:
    """A login of another user in the first request drops the data of the signed cookie."""
    client = browser(app, signed_cookie(user_id="ada", role="admin"))
    client.get("/put?user_id=bob")
    client.get("/see")
    assert seen_by(app) == {"user_id": "bob"}


def test_data_left_by_a_logout_in_the_first_request_go_to_no_user(app: Flask, do: Do) -> None:
    """Data of the signed cookie that remain after a logout in the first request go along into no
    login, not even of the same user."""
    for name in ("ada", "bob"):
        client = browser(app, signed_cookie(user_id="ada", role="admin"))
        do(client, lambda: session.pop("user_id"))
        client.get("/see")
        assert seen_by(app) == {"role": "admin"}
        client.get(f"/put?user_id={name}")
        client.get("/see")
        assert seen_by(app) == {"user_id": name}


def test_data_over_the_size_limit_are_left_out_and_logged(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """A value that does not fit into `KVSESSION_MAX_SESSION_BYTES` is left out and logged, and the
    user stays signed in."""
    app = with_views(make_app(**MOVING, max_session_bytes=100))
    client = browser(app, signed_cookie(a="a" * 90, user_id="ada", z="z"))
    assert client.get("/see").get_json()["user"] == "ada"
    client.get("/see")
    assert seen_by(app) == {"user_id": "ada", "z": "z"}
    [record] = [record for record in caplog.records if "left out" in record.message]
    assert "session['a']" in record.message


def test_an_invalid_user_id_in_the_signed_cookie_is_left_out(app: Flask) -> None:
    """An invalid user id in the signed cookie is left out and signs no user in."""
    client = browser(app, signed_cookie(user_id=["ada"], a=1))
    assert client.get("/see").get_json()["user"] is None
    assert seen_by(app) == {"a": 1}


def test_without_the_setting_a_signed_cookie_is_ignored(make_app: MakeApp, keys: Keys) -> None:
    """Without `KVSESSION_MIGRATE_COOKIE_SESSION` a signed cookie signs no user in and creates no
    session."""
    app = with_views(make_app(**MOVING | {"migrate_cookie_session": False}))
    assert browser(app, signed_cookie(**DATA)).get("/see").get_json()["user"] is None
    assert keys() == set()


def test_migration_without_a_secret_key_raises(app: Flask) -> None:
    """The first request raises `ConfigurationError` without a `SECRET_KEY`, because no signed
    cookie can be read."""
    app.secret_key = None
    with pytest.raises(ConfigurationError, match="MIGRATE_COOKIE_SESSION needs the SECRET_KEY"):
        browser(app, "x").get("/see")


@pytest.mark.parametrize(
    ("key", "value"),
    [("KVSESSION_MIGRATE_COOKIE_SESSION", True), ("KVSESSION_USER_ID_KEY", "user_id")],
)
def test_settings_of_flask_session_need_as_flask_session(key: str, value: t.Any) -> None:
    """A setting that concerns `flask.session` is refused without `KVSESSION_AS_FLASK_SESSION`."""
    app = Flask("app")
    app.config[key] = value
    with pytest.raises(ConfigurationError, match=f"^{key} needs KVSESSION_AS_FLASK_SESSION = True"):
        kvs.KVSession(app)


def test_another_thread_does_not_see_the_session_before_its_load_hooks_are_done(
    app: Flask,
) -> None:
    """While a load hook still checks an imported user, another thread of the request waits."""
    entered, checked = threading.Event(), threading.Event()
    seen: list[object] = []

    def check(hooked: kvs.Session, may_import: bool) -> None:
        assert hooked["user_id"] == "mallory"
        entered.set()
        checked.wait(0.2)  # time for the other thread to look
        hooked.pop("user_id")

    state_of(app).load_hooks.append(check)

    @app.get("/threads")
    def threads() -> t.Any:
        @copy_current_request_context
        def look() -> None:
            entered.wait(5)
            seen.append(session.get("user_id"))

        thread = threading.Thread(target=look)
        thread.start()
        assert session.get("user_id") is None
        thread.join()
        return {}

    browser(app, signed_cookie(user_id="mallory")).get("/threads")
    assert seen == [None]


def test_imported_data_that_are_only_read_are_not_reported_as_lost(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """In a test request context, imported data are no lost change; a change of the app is one."""
    headers = {"Cookie": f"session={signed_cookie(user_id='ada', lang='en')}"}
    with app.test_request_context("/see", headers=headers):
        assert session["lang"] == "en"
    gc.collect()  # Flask may leave an ended request in a reference cycle
    assert "were lost" not in caplog.text
    with app.test_request_context("/see", headers=headers):
        session["lang"] = "de"
    gc.collect()
    assert caplog.text.count("were lost") == 1
