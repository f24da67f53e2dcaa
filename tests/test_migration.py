"""Moving over from Flask's signed cookie: a deploy that signs nobody out."""

from __future__ import annotations

import typing as t
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from flask import Flask, request, session
from flask.testing import FlaskClient
from markupsafe import Markup

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError

from .support.apps import Do, MakeApp, store_of
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


def test_what_it_holds_is_carried_over(app: Flask) -> None:
    """Every value that Flask's session can hold is in the new one, equal and of the same type."""
    client = browser(app, signed_cookie(**DATA))
    client.get("/see")
    assert seen_by(app) == DATA
    client.get("/see")
    assert seen_by(app) == DATA
    assert {type(value) for value in seen_by(app).values()} == set(map(type, DATA.values()))


def test_who_was_signed_in_stays_so(app: Flask) -> None:
    """The user is signed in and listed, and not fresh: nobody has proved anything."""
    client = browser(app, signed_cookie(**DATA))
    assert client.get("/see").get_json() == {"user": "ada", "fresh": False}
    assert client.get("/see").get_json() == {"user": "ada", "fresh": False}
    [found] = store_of(app).sessions_of("ada")
    assert found.id == (token_of(client, "session") or "")[:19]


def test_the_cookie_is_replaced(app: Flask, count_commands: CountCommands) -> None:
    """It is read once: the browser has a token then, and a request costs what it always does."""
    client = browser(app, signed_cookie(**DATA))
    [cookie] = client.get("/see").headers.getlist("Set-Cookie")
    assert cookie.startswith("session=")
    assert len(token_of(client, "session") or "") == 62
    with count_commands() as commands:
        assert not client.get("/see").headers.getlist("Set-Cookie")
    assert commands.names == ["GET"]


def test_a_visitors_data_too(app: Flask, keys: Keys) -> None:
    """A visitor's cookie becomes a visitor's session."""
    client = browser(app, signed_cookie(cart=[1]))
    assert client.get("/see").get_json()["user"] is None
    client.get("/see")
    assert seen_by(app) == {"cart": [1]}
    assert len(keys()) == 1


@pytest.mark.parametrize("permanent", [True, False])
def test_permanence_is_kept(app: Flask, permanent: bool) -> None:
    """A permanent session stays one; it shows not among the data."""
    client = browser(app, signed_cookie(permanent=permanent, cart=[1]))
    [cookie] = client.get("/see").headers.getlist("Set-Cookie")
    assert ("Max-Age" in cookie) is permanent
    assert seen_by(app) == {"cart": [1]}


def test_changes_of_that_request_are_on_top(app: Flask) -> None:
    """The first request may change what it carries over, and sign out."""
    client = browser(app, signed_cookie(a="old", b="old"))
    client.get("/put?a=new")
    client.get("/see")
    assert seen_by(app) == {"a": "new", "b": "old"}


def test_a_logout_is_the_first_thing(app: Flask, keys: Keys) -> None:
    """Who signs out before anything else was carried over is signed out, and has no cookie."""
    client = browser(app, signed_cookie(**DATA))
    client.get("/out")
    assert token_of(client, "session") is None
    assert keys() == set()


def test_emptied_it_goes(make_app: MakeApp, keys: Keys) -> None:
    """So it is with what a visitor had, or it would come back with the next request."""
    app = with_views(make_app(**MOVING | {"user_id_key": None}))
    client = browser(app, signed_cookie(cart=[1]))
    client.get("/out")
    assert token_of(client, "session") is None
    assert keys() == set()


def test_what_is_not_to_be_saved_stays(app: Flask, keys: Keys, do: Do) -> None:
    """`modified = False` keeps it from being carried over; the next request finds it again."""
    client = browser(app, cookie := signed_cookie(cart=[1]))

    def act() -> None:
        assert session["cart"] == [1]
        session.modified = False

    do(client, act)
    assert token_of(client, "session") == cookie
    assert keys() == set()


def test_untouched_it_stays(app: Flask, keys: Keys) -> None:
    """A page that does not touch the session carries nothing over."""
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
def test_what_is_not_signed_is_nothing(app: Flask, keys: Keys, cookie: str) -> None:
    """A cookie that this app has not signed signs nobody in and makes no key."""
    client = browser(app, cookie)
    assert client.get("/see").get_json()["user"] is None
    assert seen_by(app) == {}
    assert keys() == set()


def test_one_that_is_too_old_is_nothing(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cookie older than `PERMANENT_SESSION_LIFETIME` is not believed, as in Flask."""
    from itsdangerous import TimestampSigner

    now = int(datetime.now(UTC).timestamp())
    month_ago = now - int(timedelta(days=32).total_seconds())
    with monkeypatch.context() as patch:
        patch.setattr(TimestampSigner, "get_timestamp", lambda self: month_ago)
        cookie = signed_cookie(**DATA)
    assert browser(app, cookie).get("/see").get_json()["user"] is None


def test_revoked_it_stays_revoked(app: Flask) -> None:
    """The browser's new session, once revoked, is not made anew: the signed cookie is gone."""
    client = browser(app, signed_cookie(**DATA))
    client.get("/see")
    store_of(app).revoke_all("ada")
    assert client.get("/see").get_json()["user"] is None


def test_beside_a_token_it_is_nothing(app: Flask) -> None:
    """A browser that has had a session here may still send a signed cookie, set for another path:
    when Redis has forgotten that the session was revoked, that signs nobody in."""
    client = browser(app, signed_cookie(**DATA))
    client.get("/see")
    token = token_of(client, "session")
    store_of(app).revoke_all("ada")
    [key] = store_of(app)._client.keys(f"{app.config['KVSESSION_KEY_PREFIX']}:*")
    store_of(app)._client.delete(key)
    late, old = app.test_client(use_cookies=False), signed_cookie(**DATA)
    two = f"session={old}; session={token}; session={'x' * 62}"
    for cookies in (f"session={token}; session={old}", f"session={old}; session={token}", two):
        assert late.get("/see", headers={"Cookie": cookies}).get_json()["user"] is None


def test_a_switch_at_once_leaves_all_behind(app: Flask) -> None:
    """Who signs in as somebody else in the very first request does not get what is carried over."""
    client = browser(app, signed_cookie(user_id="ada", role="admin"))
    client.get("/put?user_id=bob")
    client.get("/see")
    assert seen_by(app) == {"user_id": "bob"}


def test_a_logout_at_once_leaves_it_to_the_same_user(app: Flask, do: Do) -> None:
    """What is carried over by a request that signs out is that user's, and not the next one's."""
    for name, kept in (("ada", {"role": "admin"}), ("bob", {})):
        client = browser(app, signed_cookie(user_id="ada", role="admin"))
        do(client, lambda: session.pop("user_id"))
        client.get("/see")
        assert seen_by(app) == {"role": "admin"}
        client.get(f"/put?user_id={name}")
        client.get("/see")
        assert seen_by(app) == {"user_id": name} | kept


def test_what_does_not_fit_is_left_out(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    """Data over `KVSESSION_MAX_SESSION_BYTES` sign nobody out: the user stays, and what does not
    fit is left out and logged."""
    app = with_views(make_app(**MOVING, max_session_bytes=100))
    client = browser(app, signed_cookie(a="a" * 90, user_id="ada", z="z"))
    assert client.get("/see").get_json()["user"] == "ada"
    client.get("/see")
    assert seen_by(app) == {"user_id": "ada", "z": "z"}
    [record] = [record for record in caplog.records if "left out" in record.message]
    assert "session['a']" in record.message


def test_what_is_no_id_signs_nobody_in(app: Flask) -> None:
    """What is under the user's key and cannot be an id is left out."""
    client = browser(app, signed_cookie(user_id=["ada"], a=1))
    assert client.get("/see").get_json()["user"] is None
    assert seen_by(app) == {"a": 1}


def test_without_the_setting_it_is_junk(make_app: MakeApp, keys: Keys) -> None:
    """By default a signed cookie is a cookie of no known shape."""
    app = with_views(make_app(**MOVING | {"migrate_cookie_session": False}))
    assert browser(app, signed_cookie(**DATA)).get("/see").get_json()["user"] is None
    assert keys() == set()


def test_it_needs_the_key(app: Flask) -> None:
    """Without the `SECRET_KEY` that signed them no cookie can be read, and that is said."""
    app.secret_key = None
    with pytest.raises(ConfigurationError, match="MIGRATE_COOKIE_SESSION needs the SECRET_KEY"):
        browser(app, "x").get("/see")


@pytest.mark.parametrize(
    ("key", "value"),
    [("KVSESSION_MIGRATE_COOKIE_SESSION", True), ("KVSESSION_USER_ID_KEY", "user_id")],
)
def test_it_needs_flask_session(key: str, value: t.Any) -> None:
    """What is about `flask.session` is refused where that is Flask's own."""
    app = Flask("app")
    app.config[key] = value
    with pytest.raises(ConfigurationError, match=f"^{key} needs KVSESSION_AS_FLASK_SESSION True"):
        kvs.KVSession(app)
