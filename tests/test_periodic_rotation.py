"""Rotation in life: what each secret may do, row by row of DESIGN, "Rotation"."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from flask import Flask, Response, g
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession.token import Token

from .support.apps import Do, MakeApp, process_response, store_of
from .support.browsers import SignIn, browser_with, cookies_of, token_of, user_token_of
from .support.clock import Clock
from .support.commands import CountCommands
from .support.signals import recorded_signals

INTERVAL, GRACE = timedelta(hours=1), timedelta(minutes=5)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(rotation_interval=INTERVAL, rotation_grace=GRACE)


@pytest.fixture
def ada(app: Flask, sign_in: SignIn, clock: Clock, do: Do) -> FlaskClient:
    """A browser that has signed in one interval ago. (`do` must add its view before.)"""
    browser = sign_in(app, data={"x": 1})
    clock.advance(INTERVAL + timedelta(seconds=1))
    return browser


def record_of(app: Flask, redis_client: redis.Redis) -> dict[str, t.Any]:
    (stored,) = store_of(app).sessions_of("ada")
    return t.cast("dict[str, t.Any]", json.loads(stored.raw))


def same(app: Flask, browser: FlaskClient) -> FlaskClient:
    """Another tab's view of the browser's cookie as it is now."""
    return browser_with(app, user_token_of(browser))


def test_rotation_that_is_due_gives_a_new_rotating_half_only(app: Flask, ada: FlaskClient) -> None:
    """A read after the interval sends a cookie with the same family and a new rotating half."""
    old = user_token_of(ada) or ""
    with recorded_signals(app, "token_rotated") as recorder:
        (cookie,) = cookies_of(ada.get("/data"))
    new = user_token_of(ada) or ""
    assert new[:40] == old[:40] and new[40:] != old[40:]
    assert "Max-Age=" in cookie
    assert len(recorder.received) == 1
    assert ada.get("/me").get_json()["data"] == {"x": 1}
    assert not cookies_of(ada.get("/data"))


def test_secret_does_not_rotate_before_the_interval_or_without_the_setting(
    app: Flask, make_app: MakeApp, sign_in: SignIn, clock: Clock
) -> None:
    """No rotation happens before the interval, nor without `KVSESSION_ROTATION_INTERVAL`."""
    browser, other = sign_in(app), sign_in(make_app("other"))
    clock.advance(INTERVAL - timedelta(seconds=1))
    assert not cookies_of(browser.get("/data"))
    clock.advance(days=1)
    assert not cookies_of(other.get("/data"))


def test_every_request_with_the_old_secret_gets_the_same_successor_until_one_shows_it(
    app: Flask, ada: FlaskClient
) -> None:
    """Row 2: if responses are lost or parallel, all requests with the old secret get the same
    successor, and may read, write and act as before."""
    tabs = [same(app, ada) for _ in range(4)]
    for n, tab in enumerate(tabs):
        assert tab.post("/data", json={f"k{n}": n}).status_code == 200
    assert len({user_token_of(tab) for tab in tabs}) == 1
    assert user_token_of(tabs[0]) != user_token_of(ada)
    assert tabs[0].get("/me").get_json()["data"] == {"x": 1, "k0": 0, "k1": 1, "k2": 2, "k3": 3}


def test_lost_response_of_a_rotation_signs_no_user_out_however_late_the_next_request(
    app: Flask, ada: FlaskClient, clock: Clock
) -> None:
    """If the response with the successor is lost, the old secret stays valid until a request shows
    the successor."""
    same(app, ada).get("/data")  # its response is lost
    clock.advance(days=3)
    assert len(cookies_of(ada.get("/me"))) == 1
    assert ada.get("/me").status_code == 200


def test_old_secret_within_the_grace_opens_the_session_without_a_cookie(
    app: Flask, ada: FlaskClient, clock: Clock
) -> None:
    """Row 3: after the first show of the successor, the old secret is valid for the grace, may
    write, and gets no cookie."""
    late = same(app, ada)
    ada.get("/data")
    ada.get("/data")  # the first show
    clock.advance(GRACE - timedelta(seconds=1))
    assert not cookies_of(late.post("/data", json={"late": 1}))
    assert ada.get("/me").get_json()["data"] == {"x": 1, "late": 1}


@pytest.mark.parametrize(("act", "rotates"), [(kvs.rotate_token, False), (kvs.confirm_login, True)])
def test_in_the_grace_only_a_password_gives_the_old_secret_a_new_one(
    app: Flask, ada: FlaskClient, do: Do, act: Callable[[], None], rotates: bool
) -> None:
    """Row 3: `rotate_token` with the old secret changes nothing, else a thief could take the
    session over; `confirm_login` rotates."""
    late = same(app, ada)
    ada.get("/data")
    ada.get("/data")
    assert bool(cookies_of(do(late, act))) is rotates
    assert ada.get("/me").status_code == (401 if rotates else 200)
    assert late.get("/me").status_code == 200


def test_old_secret_after_the_grace_ends_the_session_everywhere(
    app: Flask, ada: FlaskClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 4: a copied cookie that is used after the grace ends the session for the thief and the
    owner; `token_reused` and one log line have both addresses, and both are told why."""
    thief = same(app, ada)
    thief.environ_base["REMOTE_ADDR"] = "203.0.113.9"
    ada.get("/data")
    ada.get("/data")
    clock.advance(GRACE + timedelta(seconds=1))
    seen: list[tuple[t.Any, ...]] = []

    def receive(sender: Flask, session: kvs.SessionInfo, **more: t.Any) -> None:
        seen.append((session.user_id, session.ip_address, more["ip_address"]))

    with kvs.signals.token_reused.connected_to(receive, app):
        assert thief.get("/me").status_code == 401
    assert seen == [("ada", "127.0.0.1", "203.0.113.9")]
    lines = [line for line in caplog.text.splitlines() if "203.0.113.9" in line]
    assert len(lines) == 1 and "127.0.0.1" in lines[0]
    assert ada.get("/me").status_code == 401
    for browser in (thief, ada):
        assert reason(app, browser) == "stolen"
    assert store_of(app).sessions_of("ada") == []


def test_any_other_secret_of_a_rotated_family_is_theft(
    app: Flask, ada: FlaskClient, clock: Clock
) -> None:
    """Row 4: a secret that was valid two rotations ago is a sign of theft too."""
    thief = same(app, ada)
    for _ in range(2):
        ada.get("/data")
        ada.get("/data")
        clock.advance(INTERVAL + timedelta(seconds=1))
    assert ada.get("/me").status_code == 200
    assert thief.get("/me").status_code == 401
    assert ada.get("/me").status_code == 401


def test_browser_that_shows_the_old_and_the_current_secret_is_no_thief(
    app: Flask, ada: FlaskClient, clock: Clock
) -> None:
    """Row 4: a browser with an old cookie of another path beside the current one stays signed
    in."""
    old = user_token_of(ada)
    ada.get("/data")
    ada.get("/data")
    clock.advance(GRACE + timedelta(seconds=1))
    current = user_token_of(ada)
    client = app.test_client(use_cookies=False)
    for cookie in (
        f"kvsession={old}; kvsession={current}",
        f"kvsession={current}; kvsession={old}",
    ):
        assert client.get("/me", headers={"Cookie": cookie}).status_code == 200
    assert ada.get("/me").status_code == 200


def test_secret_from_before_an_explicit_rotation_ends_nothing(
    app: Flask, ada: FlaskClient, do: Do, clock: Clock
) -> None:
    """Rows 5 and 6: the secret from before `rotate_token` opens nothing and is no sign of theft,
    neither at once nor later."""
    late = same(app, ada)
    do(ada, kvs.rotate_token)
    for seconds in (0, 60, 3600):
        clock.advance(seconds=seconds)
        assert late.get("/me").status_code == 401
        late.post("/data", json={"late": 1})
        assert user_token_of(late) is not None
        assert ada.get("/me").status_code == 200


def test_logout_under_way_during_an_explicit_rotation_ends_the_session(
    app: Flask, ada: FlaskClient, do: Do
) -> None:
    """Row 5: a logout with the secret from just before an explicit rotation ends the session."""
    late = same(app, ada)

    def act() -> None:
        assert g.session.user_id is None
        kvs.logout_user()

    do(ada, kvs.rotate_token)
    do(late, act)
    assert ada.get("/me").status_code == 401


def test_forged_secret_of_a_session_that_was_never_rotated_ends_nothing(
    app: Flask, sign_in: SignIn
) -> None:
    """Row 7: the right family with a wrong rotating half is junk as long as no secret was ever
    replaced."""
    browser = sign_in(app)
    token = user_token_of(browser) or ""
    forged = browser_with(app, token[:40] + "A" * 22)
    assert forged.get("/me").status_code == 401
    assert browser.get("/me").status_code == 200


def test_forged_family_never_ends_a_session(app: Flask, ada: FlaskClient, clock: Clock) -> None:
    """A token with the public session id and any other family ends no rotated session
    (CVE-2025-71402)."""
    ada.get("/data")
    ada.get("/data")
    clock.advance(GRACE * 2)
    forged = browser_with(app, (user_token_of(ada) or "")[:19] + "A" * 43)
    assert forged.get("/me").status_code == 401
    assert ada.get("/me").status_code == 200


def test_rotation_waits_while_the_secret_before_is_valid(
    app: Flask, ada: FlaskClient, do: Do, clock: Clock
) -> None:
    """No periodic rotation happens while a secret before is valid, nor just after an explicit
    rotation."""
    do(ada, kvs.rotate_token)
    token = user_token_of(ada)
    clock.advance(INTERVAL + timedelta(seconds=1))
    ada.get("/data")
    first = user_token_of(ada)
    assert first != token
    clock.advance(INTERVAL * 3)
    ada.get("/data")  # the first show begins the grace
    assert user_token_of(ada) == first


def test_round_trips_of_a_rotation_are_those_of_the_contract(
    app: Flask, ada: FlaskClient, count_commands: CountCommands, clock: Clock
) -> None:
    """A rotation that is due costs 2 round trips, the first show 2, the old secret handed on or in
    the grace 1."""
    early, late = same(app, ada), same(app, ada)
    store_of(app).now()
    counts = []
    for browser in (ada, early, ada, late, ada):
        with count_commands() as commands:
            browser.get("/data")
        counts.append(len(commands))
    assert counts == [2, 1, 2, 1, 1]


def test_record_of_a_session_that_was_not_rotated_has_no_rotation_fields(
    app: Flask, ada: FlaskClient, redis_client: redis.Redis
) -> None:
    """Only a rotated record has the fields of a rotation, about 110 bytes."""
    before = record_of(app, redis_client)
    assert not {"rotated", "before"} & before.keys()
    ada.get("/data")
    after = record_of(app, redis_client)
    assert after.keys() - before.keys() == {"rotated", "before"}
    added = len(json.dumps({key: after[key] for key in ("rotated", "before")}))
    assert added < 150


def test_dump_of_a_rotated_record_gives_no_token(
    app: Flask, ada: FlaskClient, redis_client: redis.Redis
) -> None:
    """The record holds hashes and a nonce: neither the old nor the new secret, and the nonce alone
    does not give the successor."""
    old = Token.parse(user_token_of(ada) or "")
    ada.get("/data")
    new = Token.parse(user_token_of(ada) or "")
    assert old and new
    dump = json.dumps(record_of(app, redis_client))
    nonce = record_of(app, redis_client)["before"]["nonce"]
    for secret in (old.family, old.rotating, new.rotating):
        assert secret not in dump
    assert old.successor(nonce) == new
    stranger = Token.for_session(old.session_id)
    assert stranger.successor(nonce).rotating != new.rotating


def reason(app: Flask, browser: FlaskClient) -> t.Any:
    """What `session_ended_reason` gives in this browser."""
    headers = {"Cookie": f"kvsession={user_token_of(browser)}"}
    with app.test_request_context("/data", headers=headers):
        return kvs.session_ended_reason()


def test_reason_of_an_ended_session_is_told_only_to_its_family(app: Flask, sign_in: SignIn) -> None:
    """The reason is told to a secret of the session's family, and not to a client that knows only
    the public id."""
    browser = sign_in(app)
    token = user_token_of(browser) or ""
    store_of(app).revoke_all("ada")
    assert reason(app, browser) == "revoked"
    stranger = browser_with(app, token[:19] + "A" * 43)
    assert reason(app, stranger) == "expired"


def test_reason_is_expired_for_a_cookie_whose_session_no_longer_exists(
    app: Flask, sign_in: SignIn, clock: Clock, do: Do
) -> None:
    """After an expiry the reason is inferred; a signed-in user, an anonymous browser and a browser
    that has just signed out have none."""
    browser = sign_in(app)
    assert reason(app, browser) is None
    assert reason(app, app.test_client()) is None
    clock.advance(days=40)
    assert reason(app, browser) == "expired"
    other, seen = sign_in(app), list[str | None]()

    def act() -> None:
        kvs.logout_user()
        seen.append(kvs.session_ended_reason())

    do(other, act)
    assert seen == [None]
    assert token_of(other) is None


# One environ in several request contexts, as an open socket has it


class Socket:
    """A connection that stays open: each event has a new request with the environ of the
    handshake."""

    def __init__(self, app: Flask, browser: FlaskClient) -> None:
        self._app = app
        self._environ = app.test_request_context(
            headers={"Cookie": f"kvsession={user_token_of(browser)}"}
        ).request.environ

    def event(self, act: Callable[[], t.Any]) -> t.Any:
        with self._app.request_context(self._environ):
            result = act()
            response = process_response(self._app, Response())
        assert not cookies_of(t.cast(TestResponse, response))
        return result

    def user(self) -> t.Any:
        return self.event(lambda: g.session.user_id)


def rotate_in_pages(app: Flask, browser: FlaskClient, clock: Clock) -> None:
    """The secret is replaced, its successor is shown, and the grace of the old one is over."""
    clock.advance(INTERVAL)
    browser.get("/data")
    browser.get("/data")
    clock.advance(GRACE + timedelta(seconds=1))


def test_events_of_an_open_socket_are_no_theft_after_rotations_by_pages(
    app: Flask, sign_in: SignIn, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The secret of the handshake stays valid for this socket, after any number of rotations: its
    events have the user, may write, and get no cookie."""
    browser = sign_in(app)
    socket = Socket(app, browser)
    assert socket.user() == "ada"
    for n in range(3):
        rotate_in_pages(app, browser, clock)
        assert socket.user() == "ada"
        socket.event(lambda n=n: g.session.update({f"e{n}": n}))  # type: ignore[misc]
    assert browser.get("/me").get_json()["data"] == {"e0": 0, "e1": 1, "e2": 2}
    assert "token_reused" not in caplog.text


@pytest.mark.parametrize("act", [kvs.rotate_token, kvs.confirm_login])
def test_an_explicit_rotation_does_not_end_an_open_socket(
    app: Flask, sign_in: SignIn, do: Do, clock: Clock, act: Callable[[], None]
) -> None:
    """A socket is open by its session, not by a secret. A new connection needs the new secret."""
    browser = sign_in(app)
    old = same(app, browser)
    socket = Socket(app, browser)
    assert socket.user() == "ada"
    do(browser, act)
    clock.advance(hours=2)
    assert socket.user() == "ada"
    assert old.get("/me").status_code == 401
    assert browser.get("/me").status_code == 200


def test_an_event_of_an_open_socket_gives_its_old_secret_no_new_one(
    app: Flask, sign_in: SignIn, clock: Clock
) -> None:
    """A socket cannot get a cookie, so neither verb replaces the secret of the browser."""
    browser = sign_in(app)
    socket = Socket(app, browser)
    socket.user()
    rotate_in_pages(app, browser, clock)
    token = user_token_of(browser)
    for act in (kvs.rotate_token, kvs.confirm_login):
        socket.event(act)
    assert browser.get("/me").status_code == 200
    assert user_token_of(browser) == token


def test_an_old_secret_in_another_environ_is_theft_all_the_same(
    app: Flask, sign_in: SignIn, clock: Clock
) -> None:
    """Only the environ in which the secret was valid before is excepted, and nothing that a client
    sends can make it so."""
    browser = sign_in(app)
    socket, late = Socket(app, browser), Socket(app, browser)
    assert socket.user() == "ada"
    late._environ["HTTP_KVSESSION_OPENED"] = str(socket._environ["kvsession.opened"])
    rotate_in_pages(app, browser, clock)
    assert late.user() is None
    assert socket.user() is None
    assert browser.get("/me").status_code == 401


@pytest.mark.parametrize("end", ["revoked", "other user"])
def test_an_ended_session_is_closed_to_its_open_sockets(
    app: Flask, sign_in: SignIn, clock: Clock, redis_client: redis.Redis, end: str
) -> None:
    """The exception is for the session that the secret has opened: not after its end, and not for a
    record of another user under the same id."""
    browser, store = sign_in(app), store_of(app)
    socket = Socket(app, browser)
    assert socket.user() == "ada"
    (stored,) = store.sessions_of("ada")
    if end == "revoked":
        store.revoke_all("ada")
    else:
        sign_in(app, "bob")
        (other,) = store.sessions_of("bob")
        redis_client.set(store._server.record_key(stored.id), other.raw)
    assert socket.user() is None


def test_what_an_environ_remembers_shows_no_secret(app: Flask, sign_in: SignIn) -> None:
    """A debugger that shows the environ shows the session id only."""
    browser = sign_in(app)
    socket = Socket(app, browser)
    socket.user()
    shown = repr(socket._environ["kvsession.opened"])
    token = user_token_of(browser) or ""
    assert token[:19] in shown
    assert token[19:40] not in shown and token[40:] not in shown
