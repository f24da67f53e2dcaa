"""Laws 3 and 4 through `flask.session`: no change is lost, and a revoked session stays revoked.

A login or logout by `KVSESSION_USER_ID_KEY` is an assignment that takes effect at the commit.
"""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs

from ..support.apps import MakeApp, in_context, store_of
from ..support.clock import Clock
from ..support.flask_sessions import browser_of, cookies_given, cookies_set, token
from ..support.races import CROWD, Act, Stage
from ..support.signals import recorded_signals


class FlaskStage(Stage):
    """The stage of `test_races`, whose acts find their session in `flask.session`."""

    def browser(self, token: str | None) -> FlaskClient:
        browser = browser_of(self.app)
        if token:
            browser.set_cookie("session", token)
        return browser

    def do(self, token: str | None, act: Act) -> TestResponse:
        """A request that nothing happens beside."""
        return self.park(token, act)()

    def users(self, *users: str) -> list[int]:
        """How many sessions each of them has."""
        return [len(store_of(self.app).sessions_of(user)) for user in users]


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(as_flask_session=True, user_id_key="user_id")


@pytest.fixture
def stage(app: Flask) -> Iterator[FlaskStage]:
    stage = FlaskStage(app)
    yield stage
    stage.pool.shutdown()


def sign_in_as(user: str) -> Act:
    return lambda: session.update(user_id=user)


def sign_out() -> None:
    session.pop("user_id")


def clear() -> None:
    session.clear()


def clear_and_sign_in() -> None:
    session.clear()
    session["user_id"] = "ada"


def token_in(response: TestResponse) -> str | None:
    """The token that a response gives to the browser; None where it gives none."""
    lines = cookies_given(response)
    assert len(lines) <= 1
    return lines[0].split("=", 1)[1].split(";")[0] if lines else None


@pytest.fixture
def ada(stage: FlaskStage) -> str:
    """Ada's token."""
    browser = stage.browser(None)
    with browser.session_transaction() as data:
        data.update(user_id="ada", a=0, b=0)
    return token(browser) or ""


@pytest.fixture
def anonymous(stage: FlaskStage) -> str:
    """The token of an anonymous session with a cart."""
    browser = stage.browser(None)
    with browser.session_transaction() as data:
        data.update(cart=[1], old=1)
    return token(browser) or ""


# Nothing is lost


def test_concurrent_changes_of_different_keys_are_all_kept(stage: FlaskStage, ada: str) -> None:
    """If many requests each change a different key, all changes are kept."""
    names = iter(range(100))
    lock = threading.Lock()

    def change() -> None:
        with lock:
            name = f"key-{next(names)}"
        session[name] = name

    stage.all_at_once([ada] * CROWD, change)
    assert {f"key-{n}" for n in range(CROWD)} <= stage.data(ada).keys()
    assert stage.data(ada)["user_id"] == "ada"


def test_a_nested_change_and_a_concurrent_change_are_both_kept(stage: FlaskStage, ada: str) -> None:
    """A nested change in place and another request's change of another key are both kept."""
    stage.do(ada, lambda: session.update(cart={"things": []}))
    release = stage.park(ada, lambda: session["cart"]["things"].append("pen"))
    stage.do(ada, lambda: session.update(b=1))
    release()
    assert stage.data(ada) == {"user_id": "ada", "a": 0, "b": 1, "cart": {"things": ["pen"]}}


@pytest.mark.parametrize("rotate", [kvs.rotate_token, kvs.confirm_login])
def test_a_rotation_keeps_permanent_set_by_a_concurrent_request(
    app: Flask, stage: FlaskStage, ada: str, rotate: Act
) -> None:
    """A rotation keeps `permanent` that another request has set meanwhile, and the session opens
    with the token of the last of the two."""
    release = stage.park(ada, rotate)
    stage.do(ada, lambda: setattr(session, "permanent", True))
    new = token_in(release())
    assert stage.data(new)["user_id"] == "ada"
    [stored] = store_of(app).sessions_of("ada")
    assert stored.record.remembered


def test_a_value_that_was_only_read_is_not_written_back(stage: FlaskStage, ada: str) -> None:
    """A request that only reads a key keeps another request's change of that key."""
    release = stage.park(ada, lambda: session.update(b=session["a"]))
    stage.do(ada, lambda: session.update(a=1))
    release()
    assert stage.data(ada) == {"user_id": "ada", "a": 1, "b": 0}


def test_modified_true_writes_no_unchanged_value_back(stage: FlaskStage, ada: str) -> None:
    """`session.modified = True` writes no value that the request has not changed."""

    def act() -> None:
        assert session["a"] == 0
        session.modified = True

    release = stage.park(ada, act)
    stage.do(ada, lambda: session.update(a=1))
    release()
    assert stage.data(ada)["a"] == 1


def test_a_login_carries_over_a_concurrent_anonymous_change(
    stage: FlaskStage, anonymous: str
) -> None:
    """A login carries over a change that another request made to the anonymous session after the
    load."""
    release = stage.park(anonymous, lambda: session.update(pending=1, user_id="ada"))
    stage.do(anonymous, lambda: (session.update(cart=[1, 2]), session.pop("old")))
    new = token_in(release())
    assert stage.data(new) == {"cart": [1, 2], "pending": 1, "user_id": "ada"}
    assert stage.data(anonymous) == {}


def test_a_login_that_clears_carries_over_no_concurrent_change(
    stage: FlaskStage, anonymous: str
) -> None:
    """A login that clears the session first carries over no data, not even a concurrent change."""
    release = stage.park(anonymous, clear_and_sign_in)
    stage.do(anonymous, lambda: session.update(late=1))
    assert stage.data(token_in(release())) == {"user_id": "ada"}


def test_an_anonymous_request_that_ends_after_the_login_changes_nothing(
    stage: FlaskStage, anonymous: str
) -> None:
    """An anonymous request that ends after the login changes nothing and sends no cookie, because
    the login has set a better one."""
    release = stage.park(anonymous, lambda: session.update(late=1))
    new = token_in(stage.do(anonymous, sign_in_as("ada")))
    assert not cookies_set(release())
    assert stage.data(new) == {"cart": [1], "old": 1, "user_id": "ada"}


def test_a_users_request_that_ends_after_the_logout_changes_nothing(
    stage: FlaskStage, ada: str
) -> None:
    """A user's request that ends after the logout signs no user in and sends no cookie."""
    release = stage.park(ada, lambda: session.update(late=1))
    left = token_in(stage.do(ada, sign_out))
    assert not cookies_set(release())
    assert stage.users("ada") == [0]
    assert stage.data(left) == {"a": 0, "b": 0}
    assert stage.data(ada) == {}


# Revoked stays revoked

ENDINGS: dict[str, Callable[[FlaskStage, str], object]] = {
    "logout": lambda stage, token: stage.do(token, sign_out),
    "clear": lambda stage, token: stage.do(token, clear),
    "revoke": lambda stage, token: in_context(
        stage.app, lambda: kvs.revoke_session(token[:19], "ada")
    ),
    "revoke all": lambda stage, token: in_context(
        stage.app, lambda: kvs.revoke_all_sessions("ada")
    ),
    "the devices page": lambda stage, token: stage.do(token, kvs.revoke_all_sessions),
}

IN_FLIGHT: dict[str, Act] = {
    "a save": lambda: session.update(a=1),
    "a clear of other data": lambda: [session.pop(key) for key in ("a", "b")],
    "a nested change": lambda: session.setdefault("list", []).append(1),
    "a renewal": lambda: None,
    "modified = True": lambda: setattr(session, "modified", True),
    "permanent = True": lambda: setattr(session, "permanent", True),
    "a rotation": kvs.rotate_token,
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("act", IN_FLIGHT.values(), ids=IN_FLIGHT)
def test_no_request_in_flight_brings_an_ended_session_back(
    stage: FlaskStage,
    ada: str,
    clock: Clock,
    redis_client: redis.Redis,
    prefix: str,
    act: Act,
    end: Callable[[FlaskStage, str], object],
) -> None:
    """A request that loaded a session before its end does not revive the session and sends no
    cookie."""
    clock.advance(minutes=6)  # so that every request has a renewal to do
    release = stage.park(ada, act)
    clock.advance(minutes=6)
    end(stage, ada)
    assert not cookies_set(release())
    assert stage.browser(ada).get("/me").status_code == 401
    assert stage.users("ada") == [0]
    record = redis_client.get(f"{prefix}:{{{ada[:3]}}}:s:{ada[3:19]}")
    assert record is None or t.cast(bytes, record).startswith(b'{"ended":')


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_a_logout_of_an_ended_session_sends_no_second_signal(
    stage: FlaskStage, ada: str, end: Callable[[FlaskStage, str], object]
) -> None:
    """A logout whose session ends meanwhile leaves no user signed in, and one signal is sent for
    the end."""
    with recorded_signals(stage.app, "user_logged_out", "session_revoked") as recorder:
        release = stage.park(ada, sign_out)
        end(stage, ada)
        response = release()
    assert [user for _, user in recorder.users] == ["ada"]
    left = stage.browser(token_in(response))
    assert left.get("/me").status_code == 401
    assert stage.users("ada") == [0]


@pytest.mark.parametrize("user", ["ada", "bob"])
@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_a_login_over_an_ended_session_is_a_new_session(
    stage: FlaskStage, ada: str, user: str, end: Callable[[FlaskStage, str], object]
) -> None:
    """A login over a session that ends meanwhile creates a new session, and the old session stays
    ended."""
    release = stage.park(ada, sign_in_as(user))
    end(stage, ada)
    new = token_in(release())
    assert new and new[:19] != ada[:19]
    assert stage.browser(new).get("/me").get_json()["user"] == user
    assert stage.browser(ada).get("/me").status_code == 401
    assert stage.users("ada", "bob") == [int(user == "ada"), int(user == "bob")]


def test_two_concurrent_logins_of_one_browser_create_two_sessions(
    stage: FlaskStage, ada: str
) -> None:
    """Two logins in two tabs of one browser each create a session, and the old session is ended."""
    release = stage.park(ada, sign_in_as("ada"))
    one = token_in(stage.do(ada, sign_in_as("ada")))
    other = token_in(release())
    assert [stage.browser(tk).get("/me").status_code for tk in (one, other, ada)] == [200, 200, 401]
    assert stage.users("ada") == [2]


def test_many_logins_over_one_anonymous_session_all_succeed(
    stage: FlaskStage, anonymous: str
) -> None:
    """If many logins replace one anonymous session at once, all succeed and the anonymous session
    is gone."""
    responses = stage.all_at_once([anonymous] * CROWD, sign_in_as("ada"))
    tokens = {token_in(response) for response in responses}
    assert len(tokens) == CROWD and None not in tokens
    assert all(stage.browser(tk).get("/me").status_code == 200 for tk in tokens)
    assert stage.users("ada") == [CROWD]
    assert stage.data(anonymous) == {}


def test_many_logouts_of_one_session_succeed_and_send_one_signal(
    stage: FlaskStage, ada: str
) -> None:
    """If many requests log one session out at once, all succeed, and `user_logged_out` is sent
    once."""
    with recorded_signals(stage.app, "user_logged_out") as recorder:
        responses = stage.all_at_once([ada] * CROWD, clear)
    assert {response.status_code for response in responses} == {200}
    assert [user for _, user in recorder.users] == ["ada"]
    assert stage.users("ada") == [0]


def test_a_login_in_flight_survives_a_revocation_of_all_sessions(
    stage: FlaskStage, ada: str
) -> None:
    """A login that ends after `revoke_all_sessions` creates a session, because the password was
    checked."""
    release = stage.park(None, sign_in_as("ada"))
    in_context(stage.app, lambda: kvs.revoke_all_sessions("ada"))
    assert stage.browser(token_in(release())).get("/me").status_code == 200
    assert stage.browser(ada).get("/me").status_code == 401


def test_many_logins_at_once_leave_as_many_sessions_as_the_limit(make_app: MakeApp) -> None:
    """If many logins run at once, as many sessions remain as the limit allows."""
    stage = FlaskStage(
        make_app(as_flask_session=True, user_id_key="user_id", max_sessions_per_user=3)
    )
    responses = stage.all_at_once([None] * CROWD, sign_in_as("ada"))
    stage.pool.shutdown()
    codes = [stage.browser(token_in(response)).get("/me").status_code for response in responses]
    assert sorted(codes) == [200] * 3 + [401] * (CROWD - 3)


def test_update_all_sessions_and_a_concurrent_change_are_both_kept(
    stage: FlaskStage, ada: str
) -> None:
    """A change by `update_all_sessions` and a request's change of another key are both kept."""
    release = stage.park(ada, lambda: session.update(a=1))
    in_context(stage.app, lambda: kvs.update_all_sessions("ada", {"role": "reader"}))
    release()
    assert stage.data(ada) == {"user_id": "ada", "a": 1, "b": 0, "role": "reader"}
