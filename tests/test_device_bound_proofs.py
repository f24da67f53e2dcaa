"""A forging client: whatever is no proof binds nothing, refreshes nothing and ends nothing."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Callable

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, RSAKey

from flask_kvsession import revoke_all_sessions
from flask_kvsession.binding import MAX_ANSWERS
from flask_kvsession.device_bound import endpoints
from flask_kvsession.device_bound.proof import Proof
from flask_kvsession.record import Stored

from .support.apps import MakeApp, in_context, store_of
from .support.clock import Clock
from .support.device import (
    CHALLENGE,
    COOKIE,
    ID,
    PROOF,
    Device,
    challenge_of,
    encoded,
    offering,
    signed,
)

Forge = Callable[[Device, dict[str, str]], str]
"""Makes a text of a device and of the right claims."""


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return offering(make_app(device_bound="offer"))


@pytest.fixture
def device(app: Flask) -> Device:
    return Device(app)


def resigned(device: Device, claims: dict[str, str], **header: t.Any) -> str:
    """The right proof, with other fields in the header that is signed."""
    return signed(claims, device.key, **({"jwk": device.jwk} | header))


def replaced(part: int, value: str) -> Forge:
    """The right proof with another header, payload or signature."""

    def forge(device: Device, claims: dict[str, str]) -> str:
        parts = resigned(device, claims).split(".")
        parts[part] = value
        return ".".join(parts)

    return forge


def with_claims(**changes: t.Any) -> Forge:
    def forge(device: Device, claims: dict[str, str]) -> str:
        changed = {k: v for k, v in (claims | changes).items() if v is not ...}
        return resigned(device, changed)

    return forge


def as_payload(payload: bytes) -> Forge:
    return lambda device, claims: signed(payload, device.key, jwk=device.jwk)


def unsigned(header: dict[str, t.Any]) -> Forge:
    """A proof without a signature."""

    def forge(device: Device, claims: dict[str, str]) -> str:
        return f"{encoded(header | {'jwk': device.jwk})}.{encoded(claims)}."

    return forge


def by_hmac(device: Device, claims: dict[str, str]) -> str:
    """HS256, whose secret is the public key."""
    secret = OctKey.import_key(json.dumps(device.jwk).encode())
    return signed(claims, secret, algorithm="HS256", jwk=device.jwk)


def by_rsa(device: Device, claims: dict[str, str]) -> str:
    key = RSAKey.generate_key(2048)
    return signed(claims, key, algorithm="RS256", jwk=dict(key.as_dict(private=False)))


def by_other_curve(device: Device, claims: dict[str, str]) -> str:
    key = ECKey.generate_key("P-384")
    return signed(claims, key, algorithm="ES384", jwk=dict(key.as_dict(private=False)))


def twice(device: Device, claims: dict[str, str]) -> str:
    """Two headers, as a server hands them to the app."""
    proof = resigned(device, claims)
    return f"{proof},{proof}"


def in_list(device: Device, claims: dict[str, str]) -> str:
    proof = resigned(device, claims)
    return f'"{proof}", "{proof}"'


def padded(device: Device, claims: dict[str, str]) -> str:
    return resigned(device, claims | {"more": "x" * 5000})


FORGED: dict[str, Forge] = {
    "nothing": lambda device, claims: "",
    "a word": lambda device, claims: "proof",
    "dots": lambda device, claims: "..",
    "more parts": lambda device, claims: resigned(device, claims) + ".x",
    "an encrypted token": lambda device, claims: resigned(device, claims) + ".x.y",
    "one quote": lambda device, claims: '"' + resigned(device, claims),
    "a comma": lambda device, claims: resigned(device, claims) + ',"x"',
    "two headers": twice,
    "a list": in_list,
    "too long": padded,
    "alg none": unsigned({"alg": "none", "typ": "dbsc+jwt"}),
    "alg None": unsigned({"alg": "None", "typ": "dbsc+jwt"}),
    "no signature": unsigned({"alg": "ES256", "typ": "dbsc+jwt"}),
    "no alg": unsigned({"typ": "dbsc+jwt"}),
    "HS256 with the public key": by_hmac,
    "RS256": by_rsa,
    "ES384": by_other_curve,
    "no typ": lambda device, claims: resigned(device, claims, typ=None),
    "typ JWT": lambda device, claims: resigned(device, claims, typ="JWT"),
    "typ in capitals": lambda device, claims: resigned(device, claims, typ="DBSC+JWT"),
    "typ of another type": lambda device, claims: resigned(device, claims, typ=["dbsc+jwt"]),
    "an unknown critical field": lambda device, claims: resigned(
        device, claims, crit=["exp"], exp=1
    ),
    "another signature": replaced(2, encoded(b"\0" * 64)),
    "a short signature": replaced(2, encoded(b"\1" * 10)),
    "an empty signature": replaced(2, ""),
    "a signature that is no base64": replaced(2, "----"),
    "another payload": replaced(1, encoded({"jti": "x", "authorization": "y"})),
    "a header that is no JSON": replaced(0, encoded(b"{")),
    "a header that is a list": replaced(0, encoded([])),
    "a header that is no base64": replaced(0, "-"),
    "a header that is no text": replaced(0, encoded(b"\xff\xfe")),
    "a payload that is no JSON": as_payload(b"{"),
    "a payload that is a list": as_payload(b"[]"),
    "a payload that is no text": as_payload(b"\xff\xfe"),
    "a deep payload": as_payload(b'{"jti":' + b"[" * 2000 + b"]" * 2000 + b"}"),
    "no challenge": with_claims(jti=...),
    "an empty challenge": with_claims(jti=""),
    "a challenge that is a number": with_claims(jti=5),
    "a challenge that is a list": with_claims(jti=["x"]),
    "a challenge of nobody": with_claims(
        jti="1795672143551.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA"
    ),
    "a challenge that is no text": with_claims(jti="\x00\ud800"),
}
forged = pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)

FORGED_REGISTRATIONS: dict[str, Forge] = {
    "no key": lambda device, claims: resigned(device, claims, jwk=None),
    "another key": lambda device, claims: resigned(
        device, claims, jwk=dict(ECKey.generate_key("P-256").as_dict(private=False))
    ),
    "a key of another curve": lambda device, claims: resigned(
        device, claims, jwk=dict(ECKey.generate_key("P-384").as_dict(private=False))
    ),
    "a key that is no point": lambda device, claims: resigned(
        device, claims, jwk=device.jwk | {"x": device.jwk["y"]}
    ),
    "a key at infinity": lambda device, claims: resigned(
        device, claims, jwk=device.jwk | {"x": encoded(b"\0" * 32), "y": encoded(b"\0" * 32)}
    ),
    "a key of another kind": lambda device, claims: resigned(
        device, claims, jwk={"kty": "oct", "k": "AAAA"}
    ),
    "half a key": lambda device, claims: resigned(
        device, claims, jwk={"kty": "EC", "crv": "P-256", "x": device.jwk["x"]}
    ),
    "a key that is a URL": lambda device, claims: resigned(
        device, claims, jwk=None, jku="https://evil.example/keys"
    ),
    "no authorization": with_claims(authorization=...),
    "an empty authorization": with_claims(authorization=""),
    "an authorization of another type": with_claims(authorization=5),
    "another authorization": with_claims(authorization="x.y"),
}


def claims_of_offer(device: Device) -> dict[str, str]:
    assert device.offer
    return {"jti": device.offer.challenge, "authorization": device.offer.authorization}


@pytest.mark.parametrize(
    "forge",
    [*FORGED.values(), *FORGED_REGISTRATIONS.values()],
    ids=[*FORGED, *FORGED_REGISTRATIONS],
)
def test_a_forged_registration_binds_nothing(device: Device, forge: Forge) -> None:
    """It is 403 without a cookie. The session goes on unbound, and the right answer still binds
    it."""
    device.sign_in()
    response = device.register(forge(device, claims_of_offer(device)))
    assert response.status_code == 403
    assert response.get_json() == {"error": "InvalidProof"}
    assert "Set-Cookie" not in response.headers
    assert device.get().status_code == 200
    assert device.register().status_code == 200


@forged
def test_a_forged_refresh_refreshes_nothing_and_ends_nothing(device: Device, forge: Forge) -> None:
    """It is 403 with a challenge, and without a cookie. The browser goes on, and its next proof is
    accepted."""
    claims = {"jti": challenge_of(device.bind().ask())}
    response = device.ask(forge(device, claims))
    assert response.status_code == 403
    assert "Set-Cookie" not in response.headers
    assert CHALLENGE in response.headers
    assert device.get().status_code == 200
    assert device.ask(signed(claims, device.key)).status_code == 200


def test_the_key_of_another_device_refreshes_nothing(device: Device) -> None:
    """A thief signs an open challenge with a key of his own, and names that key in the proof."""
    thief = device.bind().copy(COOKIE, device.short_name)
    thief.instructions = device.instructions
    for jwk in (None, thief.jwk):
        proof = signed({"jti": challenge_of(thief.ask())}, thief.key, jwk=jwk)
        assert thief.ask(proof).status_code == 403
    assert device.refresh().status_code == 200


def test_a_registration_does_not_replace_a_key(device: Device) -> None:
    """After the binding, no answer to the offer changes the key: not the thief's, and not a copy of
    the owner's."""
    first = device.bind().registration()
    for proof in (first, device.registration(ECKey.generate_key("P-256"))):
        response = device.register(proof)
        assert response.status_code == 403
        assert "Set-Cookie" not in response.headers
    assert device.refresh().status_code == 200


def test_the_offer_of_another_session_binds_nothing(app: Flask, device: Device) -> None:
    """Eve cannot bind Ada's session by her own offer, whose authorization she mixes with Ada's
    session id."""
    device.sign_in("ada")
    eve = Device(app)
    eve.sign_in("eve")
    assert eve.offer and device.offer
    ada_id, _, secret = device.cookie()[:19], ".", eve.offer.authorization.partition(".")[2]
    mixed = eve.registration(authorization=f"{ada_id}.{secret}")
    assert eve.register(mixed).status_code == 403
    swapped = eve.registration(jti=device.offer.challenge)
    assert eve.register(swapped).status_code == 403
    assert device.register().status_code == 200


def test_a_copied_long_cookie_does_not_help_to_bind(device: Device) -> None:
    """A thief who has copied the cookie before the binding has no offer: neither a page nor a
    refresh gives him one."""
    device.sign_in()
    thief = device.copy(COOKIE)
    response = thief.post("/device-bound/refresh", {ID: device.cookie()[:19]})
    assert response.get_json()["continue"] is False
    assert "Secure-Session-Registration" not in thief.get().headers
    forged_offer = thief.post(
        "/device-bound/register",
        {PROOF: signed({"jti": "x", "authorization": device.cookie()}, thief.key, jwk=thief.jwk)},
    )
    assert forged_offer.status_code == 403


def test_the_challenge_of_another_session_is_none(app: Flask, device: Device) -> None:
    """A challenge counts for its own session only, also if one device has both sessions, and a
    short cookie is no challenge."""
    device.bind("ada")
    other = Device(app)
    other.key = device.key
    other.bind("ada")
    for text in (challenge_of(other.ask()), device.cookie(device.short_name)):
        response = device.ask(signed({"jti": text}, device.key))
        assert response.status_code == 403


def test_swapped_ids_refresh_nothing(app: Flask, device: Device) -> None:
    """Eve's proof under Ada's session id gives no cookie, and the reverse neither."""
    eve = Device(app).bind("eve")
    device.bind("ada")
    proof = signed({"jti": challenge_of(eve.ask())}, eve.key)
    assert eve.ask(proof, session_id=device.session_id).status_code == 403
    assert "Set-Cookie" not in eve.ask(proof, session_id=device.session_id).headers
    assert eve.ask(proof).status_code == 200


def test_a_registration_is_no_refresh(device: Device) -> None:
    """The proof of the registration, whose challenge was the offer's, refreshes nothing."""
    device.sign_in()
    registration = device.registration()
    device.register(registration)
    assert device.ask(registration).status_code == 403


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "a" * 18,
        "a" * 20,
        "a" * 5000,
        "*" * 19,
        "../../../../../../..",
        "kvs:{AbC}:s:0123456",
        "aaaaaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaaaaaa",
        "\u00e4" * 19,
    ],
)
def test_an_id_that_is_none_does_not_continue(device: Device, value: str) -> None:
    """A refresh of an id that no session has does not continue, gives no cookie, and does no harm
    to any session."""
    response = device.bind().post("/device-bound/refresh", {ID: value})
    assert response.status_code == 200
    assert response.get_json()["continue"] is False
    assert "Set-Cookie" not in response.headers
    assert device.get().status_code == 200


def test_the_repr_of_a_proof_shows_nothing_of_it(device: Device) -> None:
    """Error reports contain the reprs of local variables."""
    device.sign_in()
    text = device.registration()
    shown = repr(Proof.parse(text))
    assert device.offer and device.offer.challenge not in shown
    assert text.rpartition(".")[2] not in shown


def test_without_an_id_nothing_is_refreshed(device: Device) -> None:
    """Another site's page cannot send the header with the id, so its post has no effect."""
    response = device.bind().post("/device-bound/refresh")
    assert "Set-Cookie" not in response.headers
    assert response.get_json()["continue"] is False
    assert device.refresh().status_code == 200


@pytest.mark.parametrize("form", ["{}", '"{}"', '"{}";p=1', "{};p=1", ' "{}" '])
def test_quoted_and_bare_headers_are_read(device: Device, form: str) -> None:
    """The proof and the id are read with the quotes of the draft, and without them, as Chromium 156
    sends them. Parameters are ignored."""
    device.sign_in()
    assert device.register(form.format(device.registration())).status_code == 200
    quoted = form.format(device.session_id)
    challenge = challenge_of(device.ask(session_id=quoted))
    proof = form.format(signed({"jti": challenge}, device.key))
    assert device.ask(proof, session_id=quoted).status_code == 200


# Two requests at once: the second comes between the check and the write of the first


def interrupted(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, act: Callable[[], object]
) -> None:
    """Calls `act` once, after the next call of this function."""
    real, acts = getattr(owner, name), [act]

    def call(*args: t.Any) -> t.Any:
        result = real(*args)
        if acts:
            acts.pop()()
        return result

    monkeypatch.setattr(owner, name, call)


def test_of_two_registrations_at_once_one_binds(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one is refused, and its key is not that of the session."""
    device.sign_in()
    other = ECKey.generate_key("P-256")
    first: list[int] = []
    interrupted(monkeypatch, Proof, "new_key", lambda: first.append(device.register().status_code))
    assert device.register(device.registration(other)).status_code == 403
    assert first == [200]
    assert device.refresh().status_code == 200


def test_a_session_that_ends_during_the_registration_is_not_bound(
    app: Flask, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays ended, and the browser gets no cookie."""
    device.sign_in()
    interrupted(
        monkeypatch, Proof, "new_key", lambda: in_context(app, lambda: revoke_all_sessions("ada"))
    )
    response = device.register()
    assert response.status_code == 403
    assert "Set-Cookie" not in response.headers
    assert device.get().status_code == 401


def test_of_two_equal_proofs_at_once_one_is_accepted(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one gets a challenge, as a copy that comes later does."""
    proof = signed({"jti": challenge_of(device.bind().ask())}, device.key)
    first: list[int] = []
    interrupted(
        monkeypatch,
        endpoints,
        "_answered_challenge",
        lambda: first.append(device.ask(proof).status_code),
    )
    second = device.ask(proof)
    assert (first, second.status_code) == ([200], 403)
    assert "Set-Cookie" not in second.headers


def test_a_session_that_ends_during_a_refresh_does_not_continue(
    app: Flask, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof was right, and the session has ended before it was noted."""
    proof = signed({"jti": challenge_of(device.bind().ask())}, device.key)
    interrupted(
        monkeypatch,
        endpoints,
        "_answered_challenge",
        lambda: in_context(app, lambda: revoke_all_sessions("ada")),
    )
    response = device.ask(proof)
    assert response.get_json()["continue"] is False
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("name", ["register", "refresh"])
def test_the_body_and_the_query_do_not_matter(device: Device, name: str) -> None:
    """A huge body, a body that is no JSON, and a query change nothing."""
    device.bind()
    path = f"/device-bound/{name}?session_identifier={device.session_id}"
    for options in ({"data": b"\xff" * 100_000}, {"json": {"jti": "x"}}, {"data": {"a": "b"}}):
        response = device.post(path, **t.cast("dict[str, t.Any]", options))
        assert response.status_code in (200, 403)
        assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "patch"])
def test_other_methods_are_refused(device: Device, method: str) -> None:
    """A GET or any other method does nothing."""
    device.bind()
    for name in ("register", "refresh"):
        call = getattr(device.browser, method)
        assert call(f"/device-bound/{name}", base_url=device.base_url).status_code == 405


def test_answers_cannot_fill_the_record(app: Flask, device: Device, clock: Clock) -> None:
    """However many challenges are answered, the record keeps at most MAX_ANSWERS of them."""
    device.bind()
    for _ in range(3 * MAX_ANSWERS):
        device.refresh()
        clock.advance(seconds=5)
    found = store_of(app).current(device.session_id)
    assert isinstance(found, Stored) and found.record.device
    assert len(found.record.device.answered) <= MAX_ANSWERS


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.one_of(
        st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=200),
        st.lists(st.text("ABCabc019-_=", max_size=60), max_size=4).map(".".join),
        st.lists(
            st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3), max_size=3
        ).map(lambda parts: ".".join(map(encoded, parts))),
    )
)
def test_no_text_is_a_proof(device: Device, text: str) -> None:
    """Any other text, in any of the headers, is answered by 403 or by an end, never by a cookie or
    an error."""
    if not device.instructions:
        device.bind()
    for headers in ({PROOF: text}, {ID: device.session_id, PROOF: text}, {ID: text}):
        for name in ("register", "refresh"):
            response = device.post(f"/device-bound/{name}", headers)
            assert response.status_code in (200, 403)
            assert "Set-Cookie" not in response.headers
            if response.status_code == 200:
                assert response.get_json()["continue"] is False
    assert device.get().status_code == 200
