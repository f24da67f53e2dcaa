"""Device-bound sessions: what is offered, what a copied cookie opens, and what ends a binding."""

from __future__ import annotations

import logging
import typing as t
from datetime import timedelta

import pytest
import redis
from flask import Flask, g
from joserfc.jwk import ECKey
from werkzeug.test import EnvironBuilder

import flask_kvsession as kvs
from flask_kvsession import binding, signals
from flask_kvsession.binding import CHALLENGE_MS, GRACE_MS, MAX_ANSWERS, OFFER_MS
from flask_kvsession.connection.link import Link
from flask_kvsession.record import Stored

from .support.apps import Do, MakeApp, in_context, store_of
from .support.browsers import cookies_of, is_clearing
from .support.clock import Clock
from .support.commands import CountCommands
from .support.device import (
    CHALLENGE,
    COOKIE,
    HTTPS,
    OFFER,
    SKIPPED,
    Device,
    Offer,
    challenge_of,
    offering,
    signed,
)
from .support.signals import recorded_signals

LIFETIME = timedelta(minutes=10)
GRACE = timedelta(milliseconds=GRACE_MS)
SECOND = timedelta(seconds=1)


@pytest.fixture
def app(make_app: MakeApp, clock: Clock) -> Flask:
    return offering(make_app(device_bound="offer"))


@pytest.fixture
def device(app: Flask) -> Device:
    return Device(app)


def bound_for_long(device: Device, clock: Clock) -> Device:
    """A device whose session was bound longer ago than requests are under way."""
    device.bind()
    clock.advance(GRACE)
    return device


def reason(device: Device) -> t.Any:
    """Why the browser of this device is not signed in."""
    found: list[str | None] = []
    with device.app.test_request_context(
        "/", base_url=HTTPS, headers={"Cookie": f"{COOKIE}={device.cookie()}"}
    ):
        found.append(kvs.session_ended_reason())
    return found[0]


# The offer and the binding


def test_a_login_offers_to_bind_the_session_and_a_page_does_not(device: Device) -> None:
    """The response to a login has the offer; the responses after it have none."""
    response = device.sign_in()
    assert device.offer
    assert device.offer.path == "/device-bound/register"
    assert response.headers["Cache-Control"] == "no-store"
    assert OFFER not in device.get().headers


def test_a_session_without_a_binding_goes_on_as_before(device: Device, clock: Clock) -> None:
    """A browser that does not answer the offer stays signed in by its cookie alone."""
    device.sign_in()
    clock.advance(hours=1)
    assert device.get().status_code == 200
    assert device.copy(COOKIE).get().status_code == 200


def test_a_registration_binds_the_session_and_sends_the_short_cookie(device: Device) -> None:
    """The answer to the offer is the instructions to the browser, and the short cookie with exactly
    the attributes that the instructions name."""
    device.sign_in()
    response = device.register()
    instructions = response.get_json()
    assert instructions == {
        "session_identifier": device.cookie()[:19],
        "refresh_url": "/device-bound/refresh",
        "scope": {
            "include_site": False,
            "scope_specification": [{"type": "exclude", "domain": "*", "path": "/static"}],
        },
        "credentials": [
            {
                "type": "cookie",
                "name": device.short_name,
                "attributes": "Secure; HttpOnly; Path=/; SameSite=Lax",
            }
        ],
        "allowed_refresh_initiators": ["*"],
    }
    [cookie] = response.headers.getlist("Set-Cookie")
    name, *attributes = cookie.split("; ")
    assert name.startswith(f"{device.short_name}=")
    lasting = [part for part in attributes if part.startswith(("Expires=", "Max-Age="))]
    assert (
        "; ".join(a for a in attributes if a not in lasting)
        == instructions["credentials"][0]["attributes"]
    )
    assert f"Max-Age={int(LIFETIME.total_seconds())}" in lasting
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_bound_session_is_bound_in_lists_and_signals(app: Flask, device: Device) -> None:
    """`SessionInfo.is_device_bound` and `g.session.is_device_bound` say so, and the signal is sent
    once, after the binding is stored."""

    @app.get("/bound")
    def bound() -> t.Any:
        return {"bound": g.session.is_device_bound}

    device.sign_in()
    with recorded_signals(app) as sent:
        assert device.register().status_code == 200
        device.refresh()
    [(name, info)] = sent.received
    assert (name, info.user_id, info.id) == ("device_bound", "ada", device.session_id)
    assert info.is_device_bound
    with app.app_context():
        assert [info.is_device_bound for info in kvs.list_sessions("ada")] == [True]

    assert device.get("/bound").get_json() == {"bound": True}
    other = Device(app)
    other.sign_in()
    assert other.get("/bound").get_json() == {"bound": False}


def test_a_receiver_that_raises_does_not_end_the_binding(
    app: Flask, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """If a receiver of `device_bound` raises, the browser gets its answer, and the log has it."""

    def fail(sender: Flask, **extra: t.Any) -> None:
        raise RuntimeError("the mail server is down")

    device.sign_in()
    with signals.device_bound.connected_to(fail, app):
        assert device.register().status_code == 200
    assert "the mail server is down" in caplog.text
    assert device.get().status_code == 200


def test_an_offer_is_open_for_five_minutes(device: Device, clock: Clock) -> None:
    """After OFFER_MS the answer is refused, and the session goes on without a binding."""
    device.sign_in()
    clock.advance(milliseconds=OFFER_MS)
    assert device.register().status_code == 403
    clock.advance(hours=1)
    assert device.get().status_code == 200


def test_a_renewal_removes_an_offer_that_has_ended(
    app: Flask, device: Device, clock: Clock
) -> None:
    """Most browsers do not answer. After the next renewal their records have nothing of the offer,
    and a binding stays."""
    bound = Device(app).bind("bob")
    device.sign_in()
    clock.advance(minutes=6)
    assert bound.refresh().status_code == 200
    assert (device.get().status_code, bound.get().status_code) == (200, 200)
    [plain], [kept] = (store_of(app).sessions_of(user) for user in ("ada", "bob"))
    assert not plain.record.device
    assert kept.record.device and kept.record.device.key


def test_a_password_that_is_checked_again_offers_a_binding(
    app: Flask, device: Device, do: Do
) -> None:
    """`confirm_login` offers it for a session that is not bound, and not for one that is."""
    device.sign_in()
    first = device.offer
    confirmed = do(device.browser, kvs.confirm_login, base_url=HTTPS)
    assert confirmed.headers.get(OFFER)
    device.offer = Offer.of(confirmed)
    assert device.offer != first
    assert device.register().status_code == 200
    assert OFFER not in do(device.browser, kvs.confirm_login, base_url=HTTPS).headers
    assert device.get().status_code == 200


def test_a_rotated_token_leaves_the_binding(device: Device, clock: Clock, do: Do) -> None:
    """After `rotate_token` the short cookie is still valid, and the copied new cookie alone is of
    no use."""
    bound_for_long(device, clock)
    do(device.browser, kvs.rotate_token, base_url=HTTPS)
    clock.advance(GRACE)
    assert device.get().status_code == 200
    assert device.copy(COOKIE).get().status_code == 401


def test_a_login_that_is_undone_takes_its_offer_back(app: Flask, device: Device) -> None:
    """If a receiver of `user_logged_in` raises, the response has no offer."""

    def refuse(sender: Flask, **extra: t.Any) -> None:
        raise kvs.errors.LoginRequired

    with signals.user_logged_in.connected_to(refuse, app):
        assert device.sign_in().status_code == 401
    assert device.offer is None


# The thief


def test_a_copied_long_cookie_alone_opens_nothing(device: Device, clock: Clock) -> None:
    """It is 401 in another browser, the owner goes on, and no response touches the cookie."""
    thief = bound_for_long(device, clock).copy(COOKIE)
    response = thief.get()
    assert response.status_code == 401
    assert cookies_of(response) == []
    assert device.get().status_code == 200


def test_all_copied_cookies_are_worthless_after_the_short_cookie(
    device: Device, clock: Clock
) -> None:
    """A copy of the whole cookie jar opens the session until the short cookie ends. The owner's
    browser gets another one."""
    thief = bound_for_long(device, clock).copy(COOKIE, device.short_name)
    assert thief.get().status_code == 200
    clock.advance(LIFETIME)
    assert thief.get().status_code == 401
    assert device.refresh().status_code == 200
    assert device.get().status_code == 200
    assert thief.get().status_code == 401


def test_events_of_a_socket_go_on_after_the_short_cookie(
    app: Flask, device: Device, clock: Clock
) -> None:
    """Events of a socket come with the environ of its handshake, which has shown the short cookie.
    They are the user's until the session ends; a handshake without the proof opens nothing."""
    bound_for_long(device, clock)
    copy = device.copy(COOKIE)

    def environ(device: Device) -> dict[str, t.Any]:
        builder = EnvironBuilder(base_url=HTTPS)
        device.browser._add_cookies_to_wsgi(environ := builder.get_environ())
        return environ

    def user(environ: dict[str, t.Any]) -> object:
        with app.request_context(environ):
            return g.session.user_id

    handshake, of_a_thief = environ(device), environ(copy)
    assert (user(handshake), user(of_a_thief)) == ("ada", None)
    clock.advance(hours=1)
    assert (user(handshake), user(of_a_thief)) == ("ada", None)
    assert user(environ(device)) is None
    in_context(app, lambda: kvs.revoke_all_sessions("ada"))
    assert user(handshake) is None


def test_the_reason_is_told(app: Flask, device: Device, clock: Clock) -> None:
    """A request without the proof has the reason "unbound": in the error and for the sign-in
    page."""
    seen: list[str | None] = []

    @app.errorhandler(kvs.errors.LoginRequired)
    def note(error: kvs.errors.LoginRequired) -> t.Any:
        seen.append(error.ended)
        return "", 401

    thief = bound_for_long(device, clock).copy(COOKIE)
    assert thief.get().status_code == 401
    assert seen == ["unbound"]
    assert reason(device) == "unbound"


def test_a_request_without_the_proof_is_a_warning_in_the_log(
    device: Device, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the session and the address of the request, and no secret."""
    thief = bound_for_long(device, clock).copy(COOKIE)
    thief.browser.environ_base["REMOTE_ADDR"] = "192.0.2.66"
    thief.get()
    [line] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert device.session_id in line.getMessage() and "192.0.2.66" in line.getMessage()
    assert device.cookie()[19:] not in caplog.text


def test_requests_that_were_under_way_need_no_short_cookie(device: Device, clock: Clock) -> None:
    """For 10 s after the binding, the long cookie alone opens the session."""
    device.bind()
    early = device.copy(COOKIE)
    clock.advance(GRACE - SECOND)
    assert early.get().status_code == 200
    clock.advance(SECOND)
    assert early.get().status_code == 401


def test_a_request_that_was_under_way_may_show_an_ended_short_cookie(
    device: Device, clock: Clock
) -> None:
    """For 10 s after its end, a short cookie is still valid."""
    device.bind()
    clock.advance(LIFETIME + GRACE - SECOND)
    assert device.copy(COOKIE, device.short_name).get().status_code == 200
    clock.advance(SECOND)
    assert device.copy(COOKIE, device.short_name).get().status_code == 401


def test_a_thief_cannot_write_log_out_or_revoke(
    app: Flask, device: Device, clock: Clock, do: Do
) -> None:
    """With the long cookie alone, a write goes into an anonymous session, and neither a logout nor
    a login of another user ends the owner's session."""
    thief = bound_for_long(device, clock).copy(COOKIE)
    response = thief.post("/data", json={"x": 1})
    assert [c for c in cookies_of(response) if not c.startswith(f"{COOKIE}-anonymous=")] == []
    thief.post("/logout")
    device.copy(COOKIE).sign_in("eve")
    assert device.get().get_json()["data"] == {}
    with app.app_context():
        assert len(kvs.list_sessions("ada")) == 1


def test_a_copied_cookie_under_the_anonymous_name_ends_nothing(
    app: Flask, device: Device, clock: Clock
) -> None:
    """A copied long cookie under the name of an anonymous session neither opens nor ends the
    session."""
    bound_for_long(device, clock)
    for path in ("/logout", "/login/eve"):
        thief = Device(app)
        thief.browser.set_cookie(f"{COOKIE}-anonymous", device.cookie(), secure=True)
        assert thief.get().status_code == 401
        thief.post(path)
    assert device.get().status_code == 200


def test_a_login_of_the_same_user_ends_the_session_that_it_could_not_open(
    app: Flask, device: Device, clock: Clock
) -> None:
    """If the owner's browser has lost its key and its user signs in again, the old session ends."""
    lost = bound_for_long(device, clock).copy(COOKIE)
    lost.sign_in("ada")
    with app.app_context():
        assert len(kvs.list_sessions("ada")) == 1
    assert lost.get().status_code == 200
    assert device.get().status_code == 401


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "1795672143551",
        "99999999999999.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA",
        "999999999999999999999.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA",
        "-1.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA",
        "\u0661.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA",
        "a" * 4000,
    ],
)
def test_a_forged_short_cookie_is_worthless(device: Device, clock: Clock, value: str) -> None:
    """No other value of the short cookie opens a bound session, whatever its shape."""
    thief = bound_for_long(device, clock).copy(COOKIE)
    thief.browser.set_cookie(device.short_name, value, secure=True)
    assert thief.get().status_code == 401


def test_a_changed_short_cookie_is_worthless(device: Device, clock: Clock) -> None:
    """A later end, another nonce or another MAC makes a short cookie worthless."""
    bound_for_long(device, clock)
    end, nonce, mac = device.cookie(device.short_name).split(".")
    swapped = nonce[::-1] if nonce[::-1] != nonce else nonce[1:] + nonce[0]
    later, other_mac = str(int(end) + 1), mac[::-1]
    for parts in ((later, nonce, mac), (end, swapped, mac), (end, nonce, other_mac)):
        thief = device.copy(COOKIE)
        thief.browser.set_cookie(device.short_name, ".".join(parts), secure=True)
        assert thief.get().status_code == 401


def test_a_short_cookie_is_of_its_own_session_only(app: Flask, clock: Clock) -> None:
    """The short cookie of one session proves nothing for another one, and a challenge is no short
    cookie."""
    ada, eve = Device(app).bind("ada"), Device(app).bind("eve")
    clock.advance(GRACE)
    thief = ada.copy(COOKIE)
    for value in (eve.cookie(eve.short_name), challenge_of(ada.ask()), challenge_of(eve.ask())):
        for name in (ada.short_name, eve.short_name):
            thief.browser.set_cookie(name, value, secure=True)
        assert thief.get().status_code == 401


def test_a_browser_with_two_bindings_is_signed_in_to_the_newer_session(
    app: Flask, clock: Clock
) -> None:
    """A browser that has lost the long cookie of its first session, for example at its end, keeps
    that binding. Neither its short cookie nor its refresh disturbs the second session."""
    first = Device(app).bind()
    first.browser.delete_cookie(COOKIE)
    second = Device(app)
    second.browser, second.key = first.browser, first.key
    second.bind()
    clock.advance(minutes=9)
    assert second.refresh().status_code == 200
    assert first.refresh().status_code == 200
    clock.advance(minutes=9)
    assert second.get().get_json()["id"] == second.session_id


def test_the_binding_is_not_in_the_secrets_that_the_store_knows(
    app: Flask, device: Device, redis_client: redis.Redis, prefix: str
) -> None:
    """Law 1: neither the offer nor the short cookie is in Redis."""
    device.sign_in()
    assert device.offer

    def stored() -> str:
        keys = redis_client.scan_iter(f"{prefix}:*:s:*")
        return str([redis_client.get(key) for key in keys])

    assert device.offer.challenge not in stored()
    assert device.offer.authorization not in stored()
    device.register()
    assert device.cookie(device.short_name) not in stored()


def test_no_repr_and_no_log_line_shows_a_secret_of_the_binding(
    app: Flask, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the offer nor the short cookie nor the key of its MAC is in a repr or the log."""
    caplog.set_level(logging.DEBUG)
    device.sign_in()
    assert device.offer
    offer = binding.Offer(device.offer.challenge, device.offer.authorization)
    offered = store_of(app).current(device.cookie()[:19])
    device.register("forged")
    device.register()
    device.ask("forged")
    device.refresh()
    bound = store_of(app).current(device.session_id)
    assert isinstance(offered, Stored) and isinstance(bound, Stored)
    assert offered.record.device and bound.record.device
    reprs = [offer, offered, bound, offered.record.device, bound.record.device, bound.record]
    shown = caplog.text + "".join(map(repr, reprs))
    secrets = [
        *(device.offer.challenge, device.offer.authorization.partition(".")[2]),
        *(bound.record.device.secret, device.cookie(device.short_name), device.cookie()[19:]),
    ]
    assert [secret for secret in secrets if secret in shown] == []


# Round trips


@pytest.mark.without_near_cache
def test_a_page_of_a_bound_session_costs_no_further_round_trip(
    device: Device, clock: Clock, count_commands: CountCommands
) -> None:
    """A read is one GET, also of a bound session, and of a copied cookie that is refused."""
    thief = bound_for_long(device, clock).copy(COOKIE)
    for each in (device, thief):
        with count_commands() as commands:
            each.get()
        assert commands.names == ["GET"]


@pytest.mark.without_near_cache
def test_a_login_costs_no_further_round_trip_for_the_offer(
    device: Device, count_commands: CountCommands
) -> None:
    """A login is one act, with the offer."""
    device.sign_in()
    with count_commands() as commands:
        Device(device.app).sign_in("bob")
    assert commands.names == ["EVALSHA"]


@pytest.mark.without_near_cache
def test_a_refresh_costs_three_round_trips(device: Device, count_commands: CountCommands) -> None:
    """The challenge is a read, and its answer a read and a write."""
    device.bind()
    with count_commands() as commands:
        device.refresh()
    assert commands.names == ["GET", "GET", "EVALSHA"]


# Refresh


def test_a_refresh_challenges_and_then_sends_a_new_short_cookie(device: Device) -> None:
    """Without a proof the answer is 403 with a challenge for this session; with the signed
    challenge it is a new short cookie."""
    before = device.bind().cookie(device.short_name)
    asked = device.ask()
    assert asked.status_code == 403
    assert asked.headers[CHALLENGE].endswith(f';id="{device.session_id}"')
    assert "Set-Cookie" not in asked.headers
    answered = device.ask(signed({"jti": challenge_of(asked)}, device.key))
    assert answered.status_code == 200
    assert answered.get_json() == device.instructions
    assert device.cookie(device.short_name) != before


def test_earlier_challenges_stay_valid(device: Device) -> None:
    """Challenges that were sent meanwhile do not make an earlier one invalid, in whatever order
    they are answered."""
    device.bind()
    challenges = [challenge_of(device.ask()) for _ in range(3)]
    for challenge in (challenges[1], challenges[2], challenges[0]):
        assert device.ask(signed({"jti": challenge}, device.key)).status_code == 200


def test_a_challenge_ends_after_a_minute(device: Device, clock: Clock) -> None:
    """The answer to an older challenge gets a new challenge, and ends nothing."""
    challenge = challenge_of(device.bind().ask())
    clock.advance(milliseconds=CHALLENGE_MS)
    response = device.ask(signed({"jti": challenge}, device.key))
    assert response.status_code == 403
    assert challenge_of(response) != challenge
    assert device.refresh().status_code == 200


def test_one_proof_is_accepted_once(device: Device) -> None:
    """A copy of the proof is answered with a challenge, and not with a short cookie."""
    proof = signed({"jti": challenge_of(device.bind().ask())}, device.key)
    assert device.ask(proof).status_code == 200
    copy = device.ask(proof)
    assert copy.status_code == 403
    assert "Set-Cookie" not in copy.headers


def test_a_device_that_answers_too_often_waits(device: Device, clock: Clock) -> None:
    """More than MAX_ANSWERS within a minute are 429, which ends no binding. A minute later the
    device is answered again."""
    device.bind()
    for _ in range(MAX_ANSWERS):
        assert device.refresh().status_code == 200
    assert device.refresh().status_code == 429
    clock.advance(milliseconds=CHALLENGE_MS)
    assert device.refresh().status_code == 200


def test_a_refresh_is_no_activity(app: Flask, device: Device, clock: Clock) -> None:
    """A browser that only refreshes does not extend the idle timeout."""
    device.bind()
    with app.app_context():
        [before] = kvs.list_sessions("ada")
    clock.advance(hours=1)
    assert device.refresh().status_code == 200
    with app.app_context():
        [after] = kvs.list_sessions("ada")
    assert after == before


def test_a_refresh_under_way_survives_a_rotation_of_the_token(
    device: Device, clock: Clock, do: Do
) -> None:
    """A refresh that still carries the cookie from before a rotation is answered."""
    device.bind()
    old = device.copy(COOKIE)
    old.key, old.instructions = device.key, device.instructions
    do(device.browser, kvs.rotate_token, base_url=HTTPS)
    assert old.refresh().status_code == 200


# The end of a binding


def end_by_logout(device: Device) -> None:
    device.post("/logout")


def end_by_revocation(device: Device) -> None:
    in_context(device.app, lambda: kvs.revoke_all_sessions("ada"))


def end_by_login(device: Device) -> None:
    device.sign_in("eve")


@pytest.mark.parametrize("end", [end_by_logout, end_by_revocation, end_by_login])
def test_the_binding_ends_with_the_session(device: Device, end: t.Callable[[Device], None]) -> None:
    """After the session's end a refresh says that the binding does not continue, with a proof and
    without one, and gives no cookie."""
    proof = signed({"jti": challenge_of(device.bind().ask())}, device.key)
    end(device)
    for each in (None, proof):
        response = device.ask(each)
        assert response.status_code == 200
        assert response.get_json() == {
            "session_identifier": device.session_id,
            "continue": False,
        }
        assert "Set-Cookie" not in response.headers


def test_the_binding_ends_with_the_absolute_timeout(device: Device, clock: Clock) -> None:
    """No refresh keeps a session alive beyond its timeouts."""
    device.bind()
    clock.advance(days=7)
    assert device.ask().get_json()["continue"] is False


def test_a_logout_deletes_the_short_cookie(device: Device) -> None:
    """A logout deletes the long cookie and the short one."""
    response = device.bind().post("/logout")
    cleared = response.headers.getlist("Set-Cookie")
    assert [c.split("=")[0] for c in cleared] == [COOKIE, device.short_name]
    assert is_clearing(cleared[0]) and "Max-Age=0" in cleared[1]


def test_another_login_in_the_same_browser_offers_another_binding(device: Device) -> None:
    """A login deletes the short cookie of the session before, and makes an offer of its own."""
    first, short_name = device.bind().session_id, device.short_name
    response = device.sign_in("ada")
    assert any(c.startswith(f"{short_name}=;") for c in response.headers.getlist("Set-Cookie"))
    assert device.register().status_code == 200
    assert device.session_id != first
    assert device.get().status_code == 200


def test_a_session_that_was_never_bound_has_no_refresh(device: Device) -> None:
    """A refresh of an unbound session does not continue."""
    device.sign_in()
    response = device.post("/device-bound/refresh", {"Sec-Secure-Session-Id": device.cookie()[:19]})
    assert response.get_json()["continue"] is False


# If the browser was not answered


@pytest.mark.parametrize(
    "why",
    ["server_error", "unreachable", 'quota_exceeded;x="y", server_error;x="z"'],
)
def test_a_page_after_a_failed_refresh_is_a_503(device: Device, clock: Clock, why: str) -> None:
    """If the browser says that this server has not answered its refresh, a page is 503 and never
    access, and the cookie stays."""
    thief = bound_for_long(device, clock).copy(COOKIE)
    response = thief.get(**{SKIPPED: why})
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert cookies_of(response) == []


def test_a_page_after_a_failed_refresh_is_a_503_beside_an_anonymous_session(
    device: Device, clock: Clock
) -> None:
    """An anonymous session of the browser is no reason to show it as signed out."""
    lost = bound_for_long(device, clock).copy(COOKIE)
    lost.post("/data", json={"x": 1})
    assert lost.get("/data").get_json() == {"x": 1}
    assert lost.get("/data", **{SKIPPED: "server_error"}).status_code == 503


@pytest.mark.parametrize("why", ["quota_exceeded", "", "no_server_errors", "x" * 5000])
def test_other_words_of_the_header_change_nothing(device: Device, clock: Clock, why: str) -> None:
    """With any other reason the request is not signed in, so that the user can sign in again."""
    thief = bound_for_long(device, clock).copy(COOKIE)
    assert thief.get(**{SKIPPED: why}).status_code == 401


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ('unreachable;session_identifier="{own}"', 503),
        ("unreachable; session_identifier={own}", 503),
        ('unreachable;session_identifier="{other}"', 401),
        ('quota_exceeded;session_identifier="{own}", unreachable;session_identifier="x"', 401),
        ('quota_exceeded;session_identifier="x", unreachable;session_identifier="{own}"', 503),
    ],
)
def test_the_header_counts_for_the_session_that_it_names(
    device: Device, clock: Clock, header: str, status: int
) -> None:
    """A browser with two bindings names the one whose refresh was not answered. The other one's
    user must be able to sign in again."""
    thief = bound_for_long(device, clock).copy(COOKIE)
    other = device.session_id[::-1]
    says = header.format(own=device.session_id, other=other)
    assert thief.get(**{SKIPPED: says}).status_code == status


def test_the_header_does_not_matter_with_the_short_cookie(device: Device, clock: Clock) -> None:
    """A request with the short cookie is answered, whatever the header says."""
    bound_for_long(device, clock)
    assert device.get(**{SKIPPED: "server_error"}).status_code == 200


# `bound_device_required`


@pytest.fixture
def guarded(app: Flask) -> Flask:
    @app.get("/guarded")
    @kvs.bound_device_required
    def guarded() -> t.Any:
        return {}

    return app


def test_the_guard_needs_a_proof_of_this_request(
    guarded: Flask, device: Device, clock: Clock
) -> None:
    """The short cookie passes. A request within the grace, which opens the session by the long
    cookie alone, does not pass."""
    early = device.bind().copy(COOKIE)
    assert device.get("/guarded").status_code == 200
    assert early.get().status_code == 200
    refused = early.get("/guarded")
    assert (refused.status_code, refused.get_json()) == (401, {"error": "BoundDeviceRequired"})


def test_the_guard_refuses_a_browser_that_has_not_bound(guarded: Flask, device: Device) -> None:
    """A signed-in user without a binding gets an error of its own; nobody signed in gets the usual
    one. The refusals cannot be cached and are logged."""
    assert device.get("/guarded").get_json() == {"error": "Unauthorized"}
    device.sign_in()
    refused = device.get("/guarded")
    assert (refused.status_code, refused.get_json()) == (401, {"error": "BoundDeviceRequired"})
    assert refused.headers["Cache-Control"] == "no-store"
    assert "Cookie" in refused.headers["Vary"]


def test_the_refusal_of_the_guard_is_logged(
    guarded: Flask, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the refusal and the session, and no secret."""
    caplog.set_level(logging.INFO, "flask_kvsession")
    device.sign_in()
    device.get("/guarded")
    assert "BoundDeviceRequired" in caplog.messages[-1]
    assert device.cookie() not in caplog.text


# Together with periodic rotations


@pytest.fixture
def rotating(make_app: MakeApp, clock: Clock) -> Device:
    """A device whose session is bound and gets a new secret each hour."""
    device = Device(offering(make_app(device_bound="offer", rotation_interval=3600)))
    return device.bind()


def test_a_periodic_rotation_hands_its_successor_to_the_device_only(
    rotating: Device, clock: Clock
) -> None:
    """When a rotation is due, the owner gets the new secret. A thief with the old one gets
    nothing, and his request is no alarm as long as the old secret is valid."""
    thief = rotating.copy(COOKIE)
    clock.advance(minutes=61)
    rotating.refresh()
    response = rotating.get()
    assert any(c.startswith(f"{COOKIE}=") for c in cookies_of(response))
    refused = thief.get()
    assert refused.status_code == 401
    assert cookies_of(refused) == []
    assert rotating.get().status_code == 200


def test_an_unproven_owner_with_an_old_cookie_is_no_thief(rotating: Device, clock: Clock) -> None:
    """A request that shows the current secret and an older one, both without the short cookie, ends
    nothing."""
    old = rotating.cookie()
    for _ in range(2):
        clock.advance(minutes=61)
        rotating.refresh()
        rotating.get()
        rotating.get()
    assert rotating.cookie() != old
    header = {"Cookie": f"{COOKIE}={rotating.cookie()}; {COOKIE}={old}"}
    other = rotating.app.test_client(use_cookies=False)
    clock.advance(minutes=6)
    assert other.get("/me", base_url=HTTPS, headers=header).status_code == 401
    rotating.refresh()
    assert rotating.get().status_code == 200


# Old sessions and other settings


def test_a_session_from_before_the_setting_goes_on(make_app: MakeApp, clock: Clock) -> None:
    """A session that began before the app offered bindings stays signed in, and a login or a
    confirmed password binds it."""
    before = Device(make_app())
    before.browser.post("/login/ada")
    token = before.cookie("kvsession")
    after = Device(offering(make_app(device_bound="offer")))
    after.browser.set_cookie(COOKIE, token, secure=True)
    assert after.get().status_code == 200


def test_a_worker_without_the_setting_neither_asks_for_a_proof_nor_ends_a_binding(
    make_app: MakeApp, device: Device, clock: Clock
) -> None:
    """While workers are replaced, one without the setting accepts the long cookie alone, and says
    nowhere that the session is bound. It answers browsers as the others do, so that their bindings
    go on."""
    off = offering(make_app(cookie_secure=True))
    device.sign_in()
    device.browser, on = off.test_client(), device.browser
    assert device.register().status_code == 200
    device.browser = on
    clock.advance(GRACE)
    copy = Device(off)
    copy.browser.set_cookie(COOKIE, device.cookie(), secure=True)
    assert copy.get().status_code == 200
    with off.app_context():
        assert [info.is_device_bound for info in kvs.list_sessions("ada")] == [False]
    copy.key, copy.instructions = device.key, device.instructions
    assert copy.refresh().status_code == 200
    assert device.copy(COOKIE).get().status_code == 401
    device.browser.set_cookie(device.short_name, copy.cookie(device.short_name), secure=True)
    assert device.get().status_code == 200


def test_a_registration_whose_reply_was_lost_is_answered(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the reply of Redis is lost after the binding was stored, the next attempt finds it, and
    the browser gets its short cookie."""
    device.sign_in()
    real, lost = Link.exchange, [True]

    def exchange(link: Link, command: t.Any, end: float) -> t.Any:
        reply = real(link, command, end)
        if lost and command[0] == "EVALSHA":
            lost.pop()
            link.close()
            raise redis.ConnectionError("the reply is lost")
        return reply

    with monkeypatch.context() as patched:
        patched.setattr(Link, "exchange", exchange)
        assert device.register().status_code == 200
    assert lost == []
    assert device.get().status_code == 200


def test_an_end_is_told_after_a_request_without_a_proof(
    app: Flask, device: Device, clock: Clock
) -> None:
    """The reason "unbound" is of one request only: an anonymous session that such a request has
    made does not keep it. Beside an anonymous session, the error has it too."""
    seen: list[str | None] = []

    @app.errorhandler(kvs.errors.LoginRequired)
    def note(error: kvs.errors.LoginRequired) -> t.Any:
        seen.append(error.ended)
        return "", 401

    lost = bound_for_long(device, clock).copy(COOKIE)
    lost.post("/data", json={"x": 1})
    lost.get()
    in_context(app, lambda: kvs.revoke_all_sessions("ada"))
    lost.get()
    lost.browser.delete_cookie(COOKIE)
    lost.get()
    assert seen == ["unbound", "revoked", None]


def test_two_devices_that_answer_one_offer(device: Device) -> None:
    """Of two answers to one offer, the first binds; the second is refused and changes nothing."""
    device.sign_in()
    other = ECKey.generate_key("P-256")
    assert device.register().status_code == 200
    assert device.register(device.registration(other)).status_code == 403
    assert device.refresh().status_code == 200


def test_the_record_of_a_bound_session_is_read_from_the_store_again(
    app: Flask, device: Device
) -> None:
    """The binding is in the record, so another process judges by it."""
    device.bind()
    found = store_of(app).current(device.session_id)
    assert isinstance(found, Stored)
    assert found.record.device and found.record.device.key
