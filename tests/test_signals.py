"""Signals are sent after the act, with the app as sender and a `SessionInfo`."""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import redis
from blinker import NamedSignal
from flask import Flask, g
from flask.testing import FlaskClient
from werkzeug.exceptions import Forbidden

import flask_kvsession as kvs
from flask_kvsession import signals

from .support.apps import Do, MakeApp
from .support.browsers import (
    SignIn,
    browser_with,
    cookies_of,
    id_of,
    is_clearing,
    may_enter,
    token_of,
)
from .support.clock import Clock
from .support.commands import Keys

ALL: dict[str, NamedSignal] = {name: getattr(signals, name) for name in signals.__all__}


@dataclass
class Heard:
    """What one receiver of all signals was told, and what Redis held by then."""

    names: list[str] = field(default_factory=list)
    senders: list[object] = field(default_factory=list)
    infos: list[kvs.SessionInfo] = field(default_factory=list)
    extras: list[dict[str, t.Any]] = field(default_factory=list)
    states: list[dict[str, t.Any]] = field(default_factory=list)

    def forget(self) -> None:
        for heard in vars(self).values():
            heard.clear()


@pytest.fixture
def state(redis_client: redis.Redis, keys: Keys) -> Callable[[], dict[str, t.Any]]:
    """What Redis holds of this test's sessions."""

    def state() -> dict[str, t.Any]:
        return {key: redis_client.get(key) for key in keys() if ":s:" in key}

    return state


@pytest.fixture
def heard(app: Flask, state: Callable[[], dict[str, t.Any]]) -> t.Iterator[Heard]:
    heard = Heard()

    def receiver_of(name: str) -> Callable[..., None]:
        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            heard.names.append(name)
            heard.senders.append(sender)
            heard.infos.append(session)
            heard.extras.append(extra)
            heard.states.append(state())

        return receive

    receivers = {name: receiver_of(name) for name in ALL}
    for name, signal in ALL.items():
        signal.connect(receivers[name], app)
    yield heard
    for name, signal in ALL.items():
        signal.disconnect(receivers[name], app)


@dataclass
class Stage:
    """A user with two browsers, and a third browser without a session."""

    app: Flask
    here: FlaskClient
    there: FlaskClient
    anonymous: FlaskClient
    clock: Clock
    do: Do


@pytest.fixture
def stage(app: Flask, sign_in: SignIn, clock: Clock, do: Do, heard: Heard) -> Stage:
    stage = Stage(app, sign_in(app), sign_in(app), app.test_client(), clock, do)
    heard.forget()
    return stage


def renew(s: Stage) -> None:
    s.clock.advance(minutes=6)
    s.here.get("/me")


def renew_from_elsewhere(s: Stage) -> None:
    s.here.environ_base["REMOTE_ADDR"] = "192.0.2.9"
    renew(s)


def write_from_elsewhere(s: Stage) -> None:
    s.here.environ_base["HTTP_USER_AGENT"] = "Another"
    s.here.post("/data", json={"x": 1})


def in_app_context(s: Stage, act: Callable[[], object]) -> None:
    with s.app.app_context():
        act()


THINGS: dict[str, tuple[Callable[[Stage], object], list[str]]] = {
    "login": (lambda s: s.anonymous.post("/login/ada"), ["user_logged_in"]),
    "login over a session": (
        lambda s: s.here.post("/login/bob"),
        ["user_logged_out", "user_logged_in"],
    ),
    "logout": (lambda s: s.here.post("/logout"), ["user_logged_out"]),
    "rotate": (lambda s: s.do(s.here, kvs.rotate_token), ["token_rotated"]),
    "confirm": (lambda s: s.do(s.here, kvs.confirm_login), ["token_rotated", "login_confirmed"]),
    "renewal": (renew, ["session_renewed"]),
    "renewal from elsewhere": (renew_from_elsewhere, ["session_renewed", "client_changed"]),
    "write from elsewhere": (write_from_elsewhere, ["client_changed"]),
    "revoke": (
        lambda s: s.do(s.here, lambda: kvs.revoke_session(id_of(s.there))),
        ["session_revoked"],
    ),
    "revoke the current": (
        lambda s: s.do(s.here, lambda: kvs.revoke_session(id_of(s.here))),
        ["session_revoked"],
    ),
    "revoke all": (
        lambda s: s.do(s.here, lambda: kvs.revoke_all_sessions()),
        ["session_revoked"] * 2,
    ),
    "revoke all, outside": (
        lambda s: in_app_context(s, lambda: kvs.revoke_all_sessions("ada")),
        ["session_revoked"] * 2,
    ),
}
NOTHINGS: dict[str, Callable[[Stage], object]] = {
    "read": lambda s: s.here.get("/me"),
    "write": lambda s: s.here.post("/data", json={"x": 1}),
    "untouched": lambda s: s.here.get("/untouched"),
    "refused page": lambda s: s.anonymous.get("/me"),
    "first anonymous write": lambda s: s.anonymous.post("/data", json={"x": 1}),
    "logout without a session": lambda s: s.anonymous.post("/logout"),
    "rotation without a session": lambda s: s.do(s.anonymous, kvs.rotate_token),
    "confirmation without a session": lambda s: s.do(s.anonymous, kvs.confirm_login),
    "revoke an unknown id": lambda s: s.do(s.here, lambda: kvs.revoke_session("A" * 19)),
    "revoke for another user": lambda s: s.do(
        s.here, lambda: kvs.revoke_session(id_of(s.here), "b")
    ),
    "revoke all of a user without sessions": lambda s: s.do(
        s.here, lambda: kvs.revoke_all_sessions("b")
    ),
    "update all": lambda s: s.do(s.here, lambda: kvs.update_all_sessions("ada", {"x": 1})),
    "list": lambda s: s.do(s.here, kvs.list_sessions),
}
each_thing = pytest.mark.parametrize(("act", "names"), THINGS.values(), ids=THINGS)


@each_thing
def test_each_act_sends_its_signals_once(
    stage: Stage, heard: Heard, act: Callable[[Stage], object], names: list[str]
) -> None:
    """Each act sends its signals once."""
    act(stage)
    assert heard.names == names


@pytest.mark.parametrize("act", NOTHINGS.values(), ids=NOTHINGS)
def test_request_without_an_act_sends_no_signal(
    stage: Stage, heard: Heard, act: Callable[[Stage], object]
) -> None:
    """Reads, ordinary writes and acts without effect send no signal."""
    act(stage)
    assert heard.names == []


@each_thing
def test_signal_is_sent_after_the_act_is_in_redis(
    stage: Stage,
    heard: Heard,
    state: Callable[[], dict[str, t.Any]],
    act: Callable[[Stage], object],
    names: list[str],
) -> None:
    """When a signal is sent, Redis already has the final state of the act."""
    before = state()
    act(stage)
    after = state()
    assert before != after
    assert heard.states == [after] * len(names)


@each_thing
def test_signal_carries_only_the_app_and_a_session_info(
    stage: Stage, heard: Heard, act: Callable[[Stage], object], names: list[str]
) -> None:
    """The sender of a signal is the app, and its argument `session` is a `SessionInfo`. Only
    `client_changed` has more: the client before."""
    act(stage)
    assert {type(sender) for sender in heard.senders} == {Flask}
    assert all(sender is stage.app for sender in heard.senders)
    assert {type(info) for info in heard.infos} == {kvs.SessionInfo}
    before = {"ip_address_before": "127.0.0.1", "user_agent_before": "Werkzeug/3.1.9"}
    extras = [before if name == "client_changed" else {} for name in names]
    assert [set(extra) for extra in heard.extras] == [set(extra) for extra in extras]


@each_thing
def test_signal_holds_no_secret_of_a_token(
    stage: Stage, heard: Heard, act: Callable[[Stage], object], names: list[str]
) -> None:
    """No signal holds a secret, old or new."""
    tokens = [token_of(stage.here), token_of(stage.there)]
    act(stage)
    tokens += [token_of(browser) for browser in (stage.here, stage.there, stage.anonymous)]
    told = repr(heard.infos) + repr(heard.extras)
    assert all(token[19:40] not in told and token[40:] not in told for token in tokens if token)


def test_login_over_a_session_sends_the_old_and_the_new_session(stage: Stage, heard: Heard) -> None:
    """A login over a session sends the old and the new session; only the new one is current."""
    old = id_of(stage.here)
    stage.here.post("/login/bob")
    new = id_of(stage.here)
    told = [(info.id, info.user_id, info.is_current) for info in heard.infos]
    assert told == [(old, "ada", False), (new, "bob", True)]


def test_session_ended_by_the_limit_is_sent_before_the_login(
    make_app: MakeApp, sign_in: SignIn
) -> None:
    """A login over the limit sends `session_revoked` before `user_logged_in`."""
    app, told = make_app(max_sessions_per_user=1), []

    def revoked(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
        told.append(("revoked", session.id))

    def logged_in(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
        told.append(("in", session.id))

    first = sign_in(app)
    ended = signals.session_revoked.connected_to(revoked, app)
    begun = signals.user_logged_in.connected_to(logged_in, app)
    with ended, begun:
        second = sign_in(app)
    assert told == [("revoked", id_of(first)), ("in", id_of(second))]


def test_receiver_of_a_login_sees_and_changes_the_new_session(stage: Stage) -> None:
    """A receiver of `user_logged_in` finds the new session in `g`, and its changes are kept."""

    def greet(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
        assert g.session.id == session.id
        g.session["greeted"] = g.session.user_id

    with signals.user_logged_in.connected_to(greet, stage.app):
        stage.here.post("/login/bob")
    assert stage.here.get("/data").get_json() == {"greeted": "bob"}


def test_receiver_of_one_app_gets_no_signal_of_another_app(
    make_app: MakeApp, sign_in: SignIn
) -> None:
    """A receiver that is connected to one app gets no signal of another app."""
    one, two, told = make_app("one"), make_app("two"), []

    def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
        told.append(sender.name)

    with signals.user_logged_in.connected_to(receive, one):
        sign_in(one), sign_in(two)
    assert told == ["one"]


def test_async_receiver_of_a_signal_is_awaited(stage: Stage) -> None:
    """An async receiver is awaited."""
    told = []

    async def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
        told.append(session.user_id)

    with signals.user_logged_out.connected_to(receive, stage.app):
        stage.here.post("/logout")
    assert told == ["ada"]


class TestReceiverThatRaises:
    """If a receiver raises, the request fails and the act stays done; a login does not."""

    @pytest.fixture(params=sorted(ALL.keys() - {"user_logged_in"}))
    def raising(self, stage: Stage, request: pytest.FixtureRequest) -> t.Iterator[str]:
        """One signal's receiver raises."""
        stage.app.config["PROPAGATE_EXCEPTIONS"] = False

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            raise RuntimeError("from a receiver")

        with ALL[request.param].connected_to(receive, stage.app):
            yield request.param

    @each_thing
    def test_act_stays_done_and_the_browser_goes_on(
        self,
        stage: Stage,
        state: Callable[[], dict[str, t.Any]],
        raising: str,
        act: Callable[[Stage], object],
        names: list[str],
    ) -> None:
        """If a receiver raises, the act stays done and the browser has the right cookie."""
        before = state()
        tokens = {token_of(stage.here)}
        try:
            act(stage)
        except RuntimeError as error:
            assert str(error) == "from a receiver"  # noqa: PT017 - outside a request the act itself raises
        assert state() != before
        alive = [b for b in (stage.here, stage.there, stage.anonymous) if token_of(b)]
        records = [raw for raw in state().values() if not raw.startswith(b'{"ended"')]
        signed_in = [b for b in alive if b.get("/me").status_code != 401]
        assert len(signed_in) == len(records)
        tokens -= {token_of(b) for b in signed_in}
        assert all(browser_with(stage.app, t).get("/me").status_code == 401 for t in tokens)


class Killed(BaseException):
    """An exception from outside, such as a time limit."""


class TestLoginRefusedByAReceiver:
    """If a receiver of `user_logged_in` raises, no login remains."""

    @pytest.fixture
    def refuse(self, stage: Stage) -> t.Iterator[list[BaseException]]:
        """A receiver that raises the exception in this list, if there is one."""
        stage.app.config["PROPAGATE_EXCEPTIONS"] = False
        exceptions: list[BaseException] = [Forbidden()]

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            if exceptions:
                raise exceptions[0]

        with signals.user_logged_in.connected_to(receive, stage.app):
            yield exceptions

    @pytest.mark.parametrize(("exception", "status"), [(Forbidden(), 403), (RuntimeError(), 500)])
    def test_no_login_remains_and_no_cookie_is_sent(
        self,
        stage: Stage,
        heard: Heard,
        state: Callable[[], dict[str, t.Any]],
        refuse: list[BaseException],
        exception: Exception,
        status: int,
    ) -> None:
        """No session and no cookie are left. The receivers are told that the session ended."""
        refuse[:] = [exception]
        before = state()
        response = stage.anonymous.post("/login/ada")
        assert response.status_code == status
        assert cookies_of(response) == []
        assert state() == before
        assert heard.names == ["user_logged_in", "user_logged_out"]
        assert heard.infos[0].id == heard.infos[1].id

    def test_an_exception_from_outside_leaves_no_login(
        self, stage: Stage, state: Callable[[], dict[str, t.Any]], refuse: list[BaseException]
    ) -> None:
        """An exception that is no `Exception`, such as a time limit, leaves no login either."""
        refuse[:] = [Killed()]
        before = state()
        with pytest.raises(Killed):
            stage.anonymous.post("/login/ada")
        assert state() == before

    def test_the_browser_keeps_its_anonymous_data(
        self, stage: Stage, refuse: list[BaseException]
    ) -> None:
        """The data of the anonymous session, without those of the login, stay in the browser."""
        stage.anonymous.post("/data", json={"cart": [1]})
        stage.anonymous.post("/login/ada", json={"data": {"email": "ada@example.org"}})
        assert stage.anonymous.get("/me").status_code == 401
        assert stage.anonymous.get("/data").get_json() == {"cart": [1]}
        refuse.clear()
        stage.anonymous.post("/login/ada")
        assert stage.anonymous.get("/data").get_json() == {"cart": [1]}

    def test_the_users_session_that_the_login_replaced_stays_ended(
        self, stage: Stage, state: Callable[[], dict[str, t.Any]], refuse: list[BaseException]
    ) -> None:
        """A login over a user's session signs the browser out, and its cookie is deleted."""
        response = stage.here.post("/login/bob")
        assert [is_clearing(cookie) for cookie in cookies_of(response)] == [True]
        assert may_enter(stage.here, stage.there) == [False, True]
        assert len(state()) == 1

    def test_a_view_that_catches_the_refusal_goes_on_anonymously(
        self, stage: Stage, do: Do, refuse: list[BaseException]
    ) -> None:
        """A view may catch the exception: nobody is signed in then, and its writes are kept."""

        def act() -> t.Any:
            with suppress(Forbidden):
                kvs.login_user("ada")
            g.session["message"] = "refused"
            return {"user": g.session.user_id}

        assert do(stage.anonymous, act).get_json() == {"user": None}
        assert stage.anonymous.get("/data").get_json() == {"message": "refused"}

    def test_a_receiver_that_raises_in_another_signal_of_a_login_does_not_undo_it(
        self, stage: Stage, refuse: list[BaseException]
    ) -> None:
        """Only `user_logged_in` can refuse: an audit of logouts that fails ends no login."""
        refuse.clear()

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            raise RuntimeError

        with signals.user_logged_out.connected_to(receive, stage.app):
            assert stage.here.post("/login/bob").status_code == 500
        assert stage.here.get("/me").get_json()["user"] == "bob"

    def test_a_login_by_the_receiver_itself_stays(
        self, stage: Stage, refuse: list[BaseException]
    ) -> None:
        """If the receiver has signed another user in before it raises, that login stays."""
        refuse.clear()

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            if session.user_id == "ada":
                kvs.login_user("bob")
                raise Forbidden

        with signals.user_logged_in.connected_to(receive, stage.app):
            assert stage.anonymous.post("/login/ada").status_code == 403
        assert stage.anonymous.get("/me").get_json()["user"] == "bob"

    def test_a_logout_by_the_receiver_itself_is_sent_once(
        self, stage: Stage, heard: Heard, refuse: list[BaseException]
    ) -> None:
        """If the receiver has signed the user out before it raises, one logout is announced."""
        refuse.clear()

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            kvs.logout_user()
            raise Forbidden

        with signals.user_logged_in.connected_to(receive, stage.app):
            assert stage.anonymous.post("/login/ada").status_code == 403
        assert heard.names == ["user_logged_in", "user_logged_out"]

    def test_a_store_that_fails_meanwhile_gives_no_cookie(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the session cannot be removed, the refusal is answered, a warning names the session,
        and the browser gets no cookie."""
        stage.app.config["PROPAGATE_EXCEPTIONS"] = False

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            monkeypatch.setattr(kvs.SessionStore, "remove", fail)
            raise Forbidden

        def fail(*args: object, **kwargs: object) -> t.Any:
            raise kvs.errors.StoreUnavailable

        with signals.user_logged_in.connected_to(receive, stage.app):
            response = stage.anonymous.post("/login/ada")
        assert response.status_code == 403
        assert cookies_of(response) == []
        assert "of a failed login stays until it expires" in caplog.text

    def test_a_receiver_that_meets_a_failing_store_gives_no_cookie(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If an act of the receiver itself fails because of the store, the login is undone, and the
        browser gets 503 and no cookie."""

        def fail(*args: object, **kwargs: object) -> t.Any:
            raise kvs.errors.StoreUnavailable

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(kvs.SessionStore, "update", fail)
                kvs.rotate_token()

        with signals.user_logged_in.connected_to(receive, stage.app):
            response = stage.anonymous.post("/login/ada")
        assert response.status_code == 503
        assert cookies_of(response) == []


def test_each_signal_has_its_own_name_and_documentation() -> None:
    """Each public signal has its own name and a docstring."""
    for name, signal in ALL.items():
        assert isinstance(signal, NamedSignal)
        assert signal.name == name.replace("_", "-")
        assert (signal.__doc__ or "").endswith(".")
