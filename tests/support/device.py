"""A browser's part in device-bound sessions (DBSC), which a test may do wrong."""

from __future__ import annotations

import json
import re
import typing as t
from base64 import urlsafe_b64encode

from flask import Flask
from flask.testing import FlaskClient
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry
from werkzeug.test import TestResponse

import flask_kvsession as kvs

HTTPS = "https://localhost"
COOKIE = "__Host-kvsession"

OFFER, CHALLENGE = "Secure-Session-Registration", "Secure-Session-Challenge"
PROOF, ID, SKIPPED = "Secure-Session-Response", "Sec-Secure-Session-Id", "Secure-Session-Skipped"

_OFFER = re.compile(r'\(ES256\);path="([^"]+)";challenge="([^"]+)";authorization="([^"]+)"')
_CHALLENGE = re.compile(r'"([^"]+)";id="([^"]+)"')


def offering(app: Flask, **options: t.Any) -> Flask:
    """The app, with the URLs that browsers call."""
    app.register_blueprint(kvs.device_bound_blueprint, **options)
    return app


class Offer(t.NamedTuple):
    """What a login's response offers."""

    path: str
    challenge: str
    authorization: str

    @classmethod
    def of(cls, response: TestResponse) -> Offer | None:
        return cls.parse(response.headers.get(OFFER, ""))

    @classmethod
    def parse(cls, header: str) -> Offer | None:
        found = _OFFER.fullmatch(header)
        return cls(*found.groups()) if found else None


def challenge_of(response: TestResponse) -> str:
    """The challenge in a response."""
    found = _CHALLENGE.fullmatch(response.headers[CHALLENGE])
    assert found
    return found[1]


def encoded(value: object) -> str:
    """A part of a JWT: the base64url of bytes, or of the JSON of any other value."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims: object, key: t.Any, *, algorithm: str = "ES256", **header: t.Any) -> str:
    """A JWT, signed whatever it says. `header` replaces fields of its header; None leaves one
    out."""
    fields = {"alg": algorithm, "typ": "dbsc+jwt"} | header
    fields = {name: value for name, value in fields.items() if value is not None}
    text = f"{encoded(fields)}.{encoded(claims)}"
    signature = JWSRegistry.algorithms[algorithm].sign(text.encode(), key)
    return f"{text}.{encoded(signature)}"


class Device:
    """A browser with a key of its own, which does what the draft of DBSC says."""

    def __init__(self, app: Flask, base_url: str = HTTPS, name: str = COOKIE) -> None:
        self.app = app
        self.name = name
        self.base_url = base_url
        self.browser: FlaskClient = app.test_client()
        self.key = ECKey.generate_key("P-256")
        self.offer: Offer | None = None
        self.instructions: dict[str, t.Any] = {}

    @property
    def jwk(self) -> dict[str, t.Any]:
        return dict(self.key.as_dict(private=False))

    @property
    def short_name(self) -> str:
        """The name of the short cookie of the session that was bound last."""
        return f"__Host-{self.name.removeprefix('__Host-')}-bound-{self.session_id}"

    @property
    def session_id(self) -> str:
        return str(self.instructions["session_identifier"])

    def cookie(self, name: str | None = None) -> str:
        found = self.browser.get_cookie(name or self.name)
        assert found
        return found.value

    def get(self, path: str = "/me", **headers: str) -> TestResponse:
        return self.browser.get(path, base_url=self.base_url, headers=headers)

    def post(
        self, path: str, headers: dict[str, str] | None = None, **options: t.Any
    ) -> TestResponse:
        return self.browser.post(path, base_url=self.base_url, headers=headers, **options)

    def sign_in(self, user: str = "ada", **options: t.Any) -> TestResponse:
        """Signs in, and remembers the offer."""
        response = self.post(f"/login/{user}", **options)
        self.offer = Offer.of(response)
        return response

    def register(self, proof: str | None = None) -> TestResponse:
        """Answers the offer, by default with the right proof."""
        assert self.offer
        proof = self.registration() if proof is None else proof
        response = self.post(self.offer.path, {PROOF: proof})
        if response.status_code == 200:
            self.instructions = response.get_json()
        return response

    def registration(self, key: ECKey | None = None, **claims: t.Any) -> str:
        """The right answer to the offer; `claims` replace its own."""
        assert self.offer
        key = key or self.key
        right = {"jti": self.offer.challenge, "authorization": self.offer.authorization}
        return signed(right | claims, key, jwk=dict(key.as_dict(private=False)))

    def bind(self, user: str = "ada", **options: t.Any) -> t.Self:
        """Signs in, and binds the session."""
        self.sign_in(user, **options)
        assert self.register().status_code == 200
        return self

    def ask(self, proof: str | None = None, session_id: str | None = None) -> TestResponse:
        """One request for a refresh, with or without a proof."""
        headers = {ID: session_id or self.session_id} | ({} if proof is None else {PROOF: proof})
        return self.post(self.instructions["refresh_url"], headers)

    def refresh(self) -> TestResponse:
        """Asks for a challenge and answers it."""
        return self.ask(signed({"jti": challenge_of(self.ask())}, self.key))

    def copy(self, *names: str) -> Device:
        """Another device, with copies of these cookies: a thief's."""
        thief = Device(self.app, self.base_url, self.name)
        for name in names:
            thief.browser.set_cookie(name, self.cookie(name), secure=True)
        return thief
