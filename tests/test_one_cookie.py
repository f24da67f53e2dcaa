"""What a request writes that shows the secret from before an explicit rotation (DESIGN: "Cookies").

With one cookie name for all sessions, such a request writes nothing and sends no cookie if it began
less than 10 s after the rotation: otherwise its cookie would replace the one that the browser has
just got, and sign the user out. A login and a logout are excepted. With two names, the write goes
to an anonymous session and its cookie.
"""

from __future__ import annotations

import time
import typing as t
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import redis
from flask import Flask, flash, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession import extension
from flask_kvsession.app_state import AppState
from flask_kvsession.rotation import Standing, judge, rotated_explicitly
from flask_kvsession.token import Token

from .support.apps import Do, MakeApp, state_of, store_of
from .support.browsers import anonymous_token_of, user_token_of
from .support.clock import Clock
from .support.commands import Keys
from .support.flask_sessions import cookies_given, cookies_set
from .support.signals import recorded_signals

Act = Callable[[], object]

DATA = {"cart": [1]}


def _mark_as_permanent() -> None:
    session.permanent = True
    session["x"] = 1


def _clear_and_set() -> None:
    session.clear()
    session["x"] = 1


def _change_in_place() -> None:
    session.setdefault("list", []).append(1)
    session.modified = True


def _set_and(verb: Act) -> Act:
    """Sets a value, and then calls a function of the package."""

    def act() -> None:
        session["x"] = 1
        verb()

    return act


def _log_out_with_a_message() -> None:
    kvs.logout_user()
    session["message"] = "Bye."


WRITES: dict[str, Act] = {
    "set": lambda: session.update(x=1),
    "flash": lambda: flash("Saved."),
    "permanent": _mark_as_permanent,
    "clear and set": _clear_and_set,
    "change in place": _change_in_place,
    "set and delete": lambda: (session.update(x=1, y=2), session.pop("x")),
    "set and rotate": _set_and(kvs.rotate_token),
}
"""Each would make an anonymous session in a browser without a session."""

NO_WRITES: dict[str, Act] = {
    "clear": lambda: session.clear(),
    "only permanent": lambda: setattr(session, "permanent", True),
    "rotate": kvs.rotate_token,
    "read": lambda: len(session),
}

ROTATIONS: dict[str, Act] = {"rotate": kvs.rotate_token, "confirm": kvs.confirm_login}


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app whose sessions all have the cookie name `session`."""
    app = make_app(as_flask_session=True)
    assert state_of(app).cookie.has_one_name
    return app


class Tabs:
    """Two tabs of one signed-in browser. The first has rotated the secret; the second still sends
    the secret from before, because its request was under way."""

    def __init__(self, app: Flask, do: Do, rotate: Act = kvs.rotate_token) -> None:
        self.app, self.do = app, do
        self.browser, self.late = app.test_client(), app.test_client()
        self.browser.post("/login/ada", json={"data": DATA})
        self.late.set_cookie("session", user_token_of(self.browser, "session") or "")
        assert len(cookies_given(do(self.browser, rotate))) == 1

    def send_late(self, act: Act) -> TestResponse:
        return self.do(self.late, act)

    def is_untouched(self) -> bool:
        """Whether the rotated session is as it was, and its cookie opens it."""
        (stored,) = store_of(self.app).sessions_of("ada")
        cart = stored.record.encoded_data()
        return cart == {"cart": b"[1]"} and self.browser.get("/me").status_code == 200


@pytest.fixture
def tabs(app: Flask, do: Do) -> Tabs:
    return Tabs(app, do)


# With one name


@pytest.mark.parametrize("rotate", ROTATIONS.values(), ids=ROTATIONS)
@pytest.mark.parametrize("write", [*WRITES.values(), *NO_WRITES.values()], ids=WRITES | NO_WRITES)
def test_late_write_of_any_kind_writes_nothing_and_sends_no_cookie(
    app: Flask, do: Do, keys: Keys, rotate: Act, write: Act
) -> None:
    """A request with the secret from just before a rotation makes no key, changes no record and
    sends no cookie, whatever it does to the session."""
    tabs = Tabs(app, do, rotate)
    before = keys()
    response = tabs.send_late(write)
    assert response.status_code == 200
    assert cookies_set(response) == []
    assert keys() == before
    assert tabs.is_untouched()


def test_late_write_after_a_rotation_of_the_apps_own_login_is_dropped(
    app: Flask, do: Do, keys: Keys
) -> None:
    """The rule also protects a session whose user only the app knows: for this package it is
    anonymous."""
    browser, late = app.test_client(), app.test_client()
    do(browser, lambda: session.update(user="ada"))
    late.set_cookie("session", user_token_of(browser, "session") or "")
    do(browser, kvs.rotate_token)
    before = keys()
    assert cookies_set(do(late, lambda: session.update(x=1))) == []
    assert keys() == before
    assert browser.get("/data").get_json() == {"user": "ada"}


def test_late_confirm_login_is_refused_and_sends_no_cookie(tabs: Tabs, keys: Keys) -> None:
    """`confirm_login` with the secret from before a rotation gives 401 and writes nothing."""
    before = keys()
    response = tabs.send_late(_set_and(kvs.confirm_login))
    assert response.status_code == 401
    assert cookies_set(response) == []
    assert keys() == before
    assert tabs.is_untouched()


def test_late_reads_see_no_data_and_no_user(tabs: Tabs) -> None:
    """A request with the secret from before a rotation reads an empty anonymous session."""
    assert tabs.late.get("/me").status_code == 401
    assert tabs.late.get("/data").get_json() == {}


def test_late_login_signs_in(tabs: Tabs) -> None:
    """A login with the secret from before a rotation is carried out and sends the user's cookie."""
    response = tabs.late.post("/login/bob", json={"data": {"x": 1}})
    assert len(cookies_given(response)) == 1
    assert tabs.late.get("/me").get_json()["user"] == "bob"
    assert tabs.late.get("/data").get_json() == {"x": 1}


def test_late_login_carries_its_own_pending_data_over(tabs: Tabs) -> None:
    """What the login's own request has set before goes into the new session, although it would
    have been dropped without the login."""
    tabs.send_late(_set_and(lambda: kvs.login_user("bob")))
    assert tabs.late.get("/me").get_json()["data"] == {"x": 1}


def test_late_logout_ends_the_session_and_deletes_the_cookie(
    app: Flask, tabs: Tabs, keys: Keys
) -> None:
    """A logout with the secret from before a rotation ends the rotated session, sends
    `user_logged_out` and deletes the cookie: the user has asked for it."""
    with recorded_signals(app, "user_logged_out") as recorder:
        response = tabs.late.post("/logout")
    (cookie,) = cookies_set(response)
    assert "Max-Age=0" in cookie
    assert recorder.users == [("user_logged_out", "ada")]
    assert tabs.browser.get("/me").status_code == 401
    assert keys() == set()


def test_message_flashed_by_a_late_logout_is_kept(tabs: Tabs) -> None:
    """What the logout's own request sets afterwards goes into an anonymous session: the rotated
    session, whose cookie must stay, has ended."""
    response = tabs.send_late(_log_out_with_a_message)
    assert len(cookies_given(response)) == 1
    assert tabs.late.get("/data").get_json() == {"message": "Bye."}
    assert tabs.browser.get("/me").status_code == 401


# The limit of 10 s


@pytest.mark.parametrize(("seconds", "is_dropped"), [(0, True), (8, True), (10, False)])
def test_late_write_is_dropped_for_ten_seconds_after_the_rotation(
    tabs: Tabs, clock: Clock, keys: Keys, seconds: int, is_dropped: bool
) -> None:
    """A request that began less than 10 s after the rotation writes nothing; one that began later
    is that of any anonymous browser."""
    before = keys()
    clock.advance(seconds=seconds)
    response = tabs.send_late(lambda: session.update(x=1))
    assert len(cookies_given(response)) == (0 if is_dropped else 1)
    assert (keys() == before) is is_dropped
    assert tabs.browser.get("/me").status_code == 200
    assert tabs.late.get("/data").get_json() == ({} if is_dropped else {"x": 1})


def test_secret_from_before_a_rotation_is_replaced_until_exactly_ten_seconds(tabs: Tabs) -> None:
    """The last millisecond of the 10 s counts, and the next one does not."""
    (stored,) = store_of(tabs.app).sessions_of("ada")
    old = parsed_token(tabs.late)
    rotated = int(t.cast(int, stored.record.rotated))
    assert judge(stored.record, old, lambda: rotated + 9_999) is Standing.REPLACED
    assert judge(stored.record, old, lambda: rotated + 10_000) is Standing.UNKNOWN
    again = rotated_explicitly(stored.record, parsed_token(tabs.browser), rotated + 5_000)
    assert judge(again, old, lambda: rotated + 5_001) is Standing.UNKNOWN, "two rotations ago"


@pytest.mark.parametrize(
    ("began_before", "is_dropped"), [(6, True), (1, False)], ids=["6 s after", "11 s after"]
)
def test_late_write_is_judged_by_when_its_request_entered_the_app(
    tabs: Tabs,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    began_before: int,
    is_dropped: bool,
) -> None:
    """A request that loads its session 12 s after the rotation is judged by the time at which it
    entered the app."""
    clock.advance(seconds=12)
    real = time.monotonic
    entered_earlier = SimpleNamespace(monotonic=lambda: real() - began_before)
    monkeypatch.setattr(extension, "time", entered_earlier)
    response = tabs.send_late(lambda: session.update(x=1))
    assert len(cookies_given(response)) == (0 if is_dropped else 1)


# With two names


# With a key that names the user, `clear()` is a logout: see test_user_id_key.py.
WRITES_OF_TWO_NAMES = {name: act for name, act in WRITES.items() if name != "clear and set"}


@pytest.mark.parametrize("write", WRITES_OF_TWO_NAMES.values(), ids=WRITES_OF_TWO_NAMES)
def test_with_two_names_a_late_write_goes_to_the_anonymous_cookie(
    make_app: MakeApp, redis_client: redis.Redis, write: Act
) -> None:
    """With two names, the late write makes an anonymous session under the other name, and neither
    the user's record nor the user's cookie changes."""
    app = make_app("two", as_flask_session=True, user_id_key="user_id")
    acts: list[Act] = []
    app.add_url_rule("/do", "do", lambda: (acts[-1](), {})[1], methods=["POST"])

    def send(browser: FlaskClient, act: Act) -> TestResponse:
        acts.append(act)
        return browser.post("/do")

    browser, late = app.test_client(), app.test_client()
    send(browser, lambda: session.update(user_id="ada"))
    late.set_cookie("session", user_token_of(browser, "session") or "")
    send(browser, kvs.rotate_token)
    key = record_key_of(state_of(app), browser)
    before = redis_client.get(key)
    response = send(late, write)
    names = {cookie.partition("=")[0] for cookie in cookies_set(response)}
    assert names == {"session-anonymous"}
    assert redis_client.get(key) == before
    assert browser.get("/me").get_json()["user"] == "ada"
    assert anonymous_token_of(late, "session")
    assert late.get("/data").get_json() != {}


def test_with_two_names_a_late_write_to_g_session_goes_to_the_anonymous_cookie(
    make_app: MakeApp, redis_client: redis.Redis
) -> None:
    """The same holds for `g.session` in an app with `login_user`."""
    app = make_app("two")

    @app.post("/rotate")
    def rotate() -> dict[str, t.Any]:
        kvs.rotate_token()
        return {}

    browser, late = app.test_client(), app.test_client()
    browser.post("/login/ada", json={"data": DATA})
    late.set_cookie("kvsession", user_token_of(browser) or "")
    browser.post("/rotate")
    key = record_key_of(state_of(app), browser, "kvsession")
    before = redis_client.get(key)
    (cookie,) = cookies_set(late.post("/data", json={"x": 1}), "kvsession")
    assert cookie.startswith("kvsession-anonymous=")
    assert redis_client.get(key) == before
    assert browser.get("/me").get_json()["data"] == DATA


def parsed_token(browser: FlaskClient) -> Token:
    token = Token.parse(user_token_of(browser, "session") or "")
    assert token
    return token


def record_key_of(state: AppState, browser: FlaskClient, name: str = "session") -> str:
    """The key of the browser's record in Redis."""
    return state.store._server.record_key((user_token_of(browser, name) or "")[:19])
