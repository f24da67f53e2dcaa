"""The public API as a user types it. Nothing here runs: `test_typing.py` has mypy --strict read it.

`assert_type` says what a thing is; a `type: ignore` says that it is refused, since one that is not
needed is an error itself.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Coroutine, Iterable, MutableMapping
from datetime import datetime, timedelta
from uuid import UUID

import redis
from blinker import NamedSignal
from flask import Blueprint, Flask, Response, redirect
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from flask.views import MethodView
from werkzeug.exceptions import HTTPException

import flask_kvsession
from flask_kvsession import (
    KVSession,
    Session,
    SessionInfo,
    SessionStore,
    Settings,
    WatchedSession,
    bound_device_required,
    change_session,
    confirm_login,
    cross_origin_guard,
    current_session,
    device_bound_blueprint,
    errors,
    fresh_login_required,
    list_sessions,
    login_required,
    login_user,
    logout_user,
    next_url,
    revoke_all_sessions,
    revoke_session,
    roles_required,
    rotate_token,
    session_ended_reason,
    sessions_blueprint,
    signals,
    until_ended,
    update_all_sessions,
    watch_socketio,
    watching,
)
from flask_kvsession.compat import remember_in_session
from flask_kvsession.testing import (
    Clock,
    authenticated_client,
    login_as,
    movable_clock,
    session_transaction,
)

app = Flask(__name__)
kv = KVSession(app)
KVSession(app, redis=redis.Redis())
KVSession(app, redis=redis.RedisCluster(host="localhost"))
KVSession(app, redis=redis.Redis(decode_responses=True))
kv.init_app(app)
kv.init_app(app, redis=redis.Redis())
KVSession(app, redis="redis://localhost")  # type: ignore[arg-type]
KVSession(app, redis.Redis())  # type: ignore[call-arg]
KVSession(app, url="redis://localhost")  # type: ignore[call-arg]
kv.init_app()  # type: ignore[call-arg]


# The session


t.assert_type(current_session, Session)
t.assert_type(current_session["email"], t.Any)
t.assert_type(current_session.get("email"), t.Any | None)
t.assert_type("email" in current_session, bool)
t.assert_type(len(current_session), int)
t.assert_type(list(current_session), list[str])
t.assert_type(dict(current_session), dict[str, t.Any])
current_session["cart"] = [1]
current_session.update(role="admin")
current_session.setdefault("cart", []).append(2)
t.assert_type(current_session.pop("cart"), t.Any)
del current_session["cart"]
current_session.clear()
current_session[1] = 2  # type: ignore[index]
mapping: MutableMapping[str, t.Any] = current_session

t.assert_type(current_session.id, str | None)
t.assert_type(current_session.user_id, str | int | UUID | None)
t.assert_type(current_session.is_authenticated, bool)
t.assert_type(current_session.is_fresh, bool)
t.assert_type(current_session.created_at, datetime | None)
t.assert_type(current_session.last_seen_at, datetime | None)
t.assert_type(current_session.authenticated_at, datetime | None)
t.assert_type(current_session.expires_at, datetime | None)
t.assert_type(current_session.ip_address, str | None)
t.assert_type(current_session.user_agent, str | None)
t.assert_type(current_session.remembered, bool | None)
t.assert_type(current_session.new, bool)
t.assert_type(current_session.modified, bool)
t.assert_type(current_session.accessed, bool)
current_session.modified = True
current_session.user_id = 1  # type: ignore[misc]
current_session.user_name  # type: ignore[attr-defined]  # noqa: B018


# The verbs


class User:
    id: int
    uuid: UUID
    email: str


def verbs(user: User, maybe: str | None) -> None:
    t.assert_type(login_user(user.id), Session)
    t.assert_type(login_user(user.uuid, {"email": user.email}, remember=False), Session)
    t.assert_type(change_session(lambda data: data.update(n=1)), Session)
    change_session({"n": 1})  # type: ignore[arg-type]
    login_user("ada", data=None)
    login_user("ada", end_at=datetime.now())
    login_user("ada", end_at=timedelta(hours=1))  # type: ignore[arg-type]
    login_user(user)  # type: ignore[arg-type]
    login_user(None)  # type: ignore[arg-type]
    login_user(maybe)  # type: ignore[arg-type]
    login_user(1.5)  # type: ignore[arg-type]
    login_user(user.id, email=user.email)  # type: ignore[call-arg]
    login_user(user.id, {}, False)  # type: ignore[call-arg]
    login_user(user.id, {1: "x"})  # type: ignore[dict-item]
    login_user()  # type: ignore[call-arg]
    logout_user()
    logout_user(user.id)  # type: ignore[call-arg]
    confirm_login()
    rotate_token()
    t.assert_type(session_ended_reason(), str | None)

    t.assert_type(list_sessions(), list[SessionInfo])
    t.assert_type(list_sessions(user.id), list[SessionInfo])
    list_sessions(None)  # type: ignore[arg-type]
    list_sessions(maybe)  # type: ignore[arg-type]
    t.assert_type(revoke_session("id"), bool)
    t.assert_type(revoke_session("id", user.id), bool)
    revoke_session("id", None)  # type: ignore[arg-type]
    revoke_session(maybe)  # type: ignore[arg-type]
    t.assert_type(revoke_all_sessions(), int)
    t.assert_type(revoke_all_sessions(user.id, except_current=True), int)
    revoke_all_sessions(None)  # type: ignore[arg-type]
    revoke_all_sessions(maybe)  # type: ignore[arg-type]
    revoke_all_sessions(user.id, True)  # type: ignore[call-arg]
    revoke_all_sessions(except_curent=True)  # type: ignore[call-arg]
    t.assert_type(update_all_sessions(user.id, {"role": "user"}, remove=["old"]), int)
    update_all_sessions(user.id, {}, remove=("old",))
    update_all_sessions(user.id, {}, remove={"old": 1}.keys())
    update_all_sessions(user.id)  # type: ignore[call-arg]
    update_all_sessions(None, {})  # type: ignore[arg-type]

    t.assert_type(next_url("/"), str)
    t.assert_type(next_url(default="/"), str)
    next_url()  # type: ignore[call-arg]


def open_connections(ws: t.Any, lines: list[bytes], store: SessionStore) -> None:
    t.assert_type(until_ended(lines), Iterable[bytes])
    Response(until_ended(word for word in ("a", "b")))
    with watching() as session:
        t.assert_type(session, WatchedSession)
        t.assert_type(session.id, str | None)
        t.assert_type(session.ended, bool)
        t.assert_type(session.reason, str | None)
        t.assert_type(session.wait(), bool)
        t.assert_type(session.wait(0.5), bool)
        session.ended = True  # type: ignore[misc]
    with watching(on_end=lambda reason: ws.close(4001, reason)):
        pass
    watching(lambda reason: None)  # type: ignore[call-arg]
    watching(on_end=lambda: None)  # type: ignore[misc, arg-type]
    t.assert_type(watch_socketio(ws), None)
    if stored := store.sessions_of("ada"):
        t.assert_type(store.watch(stored[0]), WatchedSession)


def info(session: SessionInfo) -> None:
    t.assert_type(session.id, str)
    t.assert_type(session.user_id, str | int | UUID | None)
    t.assert_type(session.is_current, bool)
    t.assert_type(session.created_at, datetime)
    t.assert_type(session.last_seen_at, datetime)
    t.assert_type(session.authenticated_at, datetime | None)
    t.assert_type(session.expires_at, datetime)
    t.assert_type(session.ip_address, str | None)
    t.assert_type(session.user_agent, str | None)
    t.assert_type(session.remembered, bool)
    session.is_current = True  # type: ignore[misc]


# Guards keep the signature of what they guard


@login_required
def page(number: int, *, name: str = "") -> str:
    return name * number


@fresh_login_required
def account() -> Response:
    return Response()


@roles_required("admin", "editor")
def admin(number: int) -> ResponseReturnValue:
    return {"number": number}, 200


@bound_device_required
def payment(number: int) -> str:
    return str(number)


@login_required
async def later(number: int) -> str:
    return str(number)


t.assert_type(page(1, name="x"), str)
t.assert_type(account(), Response)
t.assert_type(admin(1), ResponseReturnValue)
t.assert_type(payment(1), str)
payment("1")  # type: ignore[arg-type]
coming: Callable[[int], Coroutine[t.Any, t.Any, str]] = later
page("1")  # type: ignore[arg-type]
page()  # type: ignore[call-arg]
admin(number="x")  # type: ignore[arg-type]
roles_required(admin)  # type: ignore[arg-type]
login_required()  # type: ignore[call-arg]

app.get("/page")(page)
app.add_url_rule("/later", view_func=later)

blueprint = Blueprint("area", __name__)


@blueprint.before_request
@login_required
def check() -> None:
    """Guards a whole blueprint."""


blueprint.before_request(cross_origin_guard)
blueprint.register_blueprint(sessions_blueprint, url_prefix="/sessions")
app.register_blueprint(sessions_blueprint, url_prefix="/account/sessions")
app.register_blueprint(device_bound_blueprint)
app.before_request(cross_origin_guard)


class View(MethodView):
    decorators: t.ClassVar[list[Callable[..., t.Any]]] = [login_required, roles_required("admin")]

    @fresh_login_required
    def post(self, number: int) -> str:
        return str(number)


t.assert_type(View().post(1), str)
View().post("1")  # type: ignore[arg-type]


@app.post("/login")
def sign_in() -> ResponseReturnValue:
    login_user(1, {"email": "ada@example.com"})
    return redirect(next_url(default="/dashboard"), 303)


# Errors, signals, settings, and the store outside a request


@app.errorhandler(errors.LoginRequired)
def ask(error: errors.LoginRequired) -> ResponseReturnValue:
    t.assert_type(error.ended, str | None)
    http: HTTPException = error
    base: errors.KVSessionError = error
    return f"{http.code} {base}", 401


unstorable: TypeError = errors.UnstorableValue()
too_large: ValueError = errors.SessionTooLarge()
unavailable: HTTPException = errors.StoreUnavailable()


@signals.user_logged_in.connect_via(app)
def greet(sender: Flask, session: SessionInfo, **extra: t.Any) -> None:
    t.assert_type(session.id, str)


remember_in_session(app)
signal: NamedSignal = signals.session_revoked

settings = Settings(idle_timeout=timedelta(hours=1), max_sessions_per_user=3)
Settings(max_sessions_per_user=lambda user_id: 3 if user_id == "ada" else None)
Settings(locate={"127.0.0.1": "here"}.get, trusted_origins=("https://a.example",))
Settings(locate=lambda ip_address: 5)  # type: ignore[arg-type, return-value]
Settings(as_flask_session=True, user_id_key="_user_id", migrate_cookie_session=True)
Settings.from_config(app.config)
Settings(idle_timout=timedelta(hours=1))  # type: ignore[call-arg]
settings.idle_timeout = timedelta(hours=1)  # type: ignore[misc]
t.assert_type(settings.idle_timeout, timedelta)

store = SessionStore(redis.Redis(), settings)
store = SessionStore(redis.Redis())
t.assert_type(store.revoke_all(1), list[SessionInfo])
t.assert_type(store.update_all(1, {"role": "user"}), int)
t.assert_type(store.revoke_one("ada", "id"), SessionInfo | None)


# Tests of apps


client = authenticated_client(app, "ada", {"role": "admin"}, remember=False)
t.assert_type(client, FlaskClient)
t.assert_type(login_as(client, 7, base_url="https://shop.example.com"), Session)
login_as(app, "ada")  # type: ignore[arg-type]
login_as(client, None)  # type: ignore[arg-type]
login_as(client, "ada", role="admin")  # type: ignore[call-arg]
with session_transaction(client) as session:
    t.assert_type(session, Session)
with movable_clock() as clock:
    t.assert_type(clock, Clock)
    t.assert_type(clock.ahead, timedelta)
    clock.advance(timedelta(days=7), seconds=0.5)
    clock.advance(60)  # type: ignore[arg-type]

t.assert_type(flask_kvsession.__all__, list[str])
