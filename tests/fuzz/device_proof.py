"""Fuzz target: what a browser sends for a device-bound session, judged by `cryptography`."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from functools import cache
from unittest import mock

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from flask_kvsession import binding

from ..support.device import ID, PROOF, Device, challenge_of, encoded, offering, signed
from .site import make_app, request_environ, send

SEEDS = [
    *(b"p{good}", b'p"{good}"', b'p"{good}";x=1', b"p{good};x", b"p {good}", b"p{good},{good}"),
    *(b"p{good}.", b"p{good}=", b"p.{good}", b"p", b"p..", b'p"{good}', b"p{good}\x00", b"p{used}"),
    *(b"p{header}.{claims}.{signature}", b"p{header}.{claims}.", b"p{header}..{signature}"),
    *(b"p{none}.{claims}.", b"p{none}.{claims}.{signature}", b"p{header}.{header}.{signature}"),
    *(b"i{id}", b'i"{id}"', b"i{id};a", b"i{id}, {id}", b"i", b"i{id}\xff", b"i{id}{id}"),
    *(b"r{good}", b"r", b"r{none}.{claims}.", b"r{header}.{claims}.{signature}"),
    *(b"c{name}={short}", b"c{name}={short};", b"c {name} = {short} ", b'c{name}="{short}"'),
    *(b"c{name}={short}.", b"c{name}=.{short}", b"c{name}=; {name}={short}", b"c{name}x={short}"),
    b"c" + b"{name}=1.a.b; " * 200,
    b"p" + b"x" * 9000,
]
"""The first byte says what is sent: a proof for a refresh, an id, a proof for a registration, or
the cookies beside the long one."""


@cache
def device() -> Device:
    app = offering(make_app(KVSESSION_DEVICE_BOUND="offer"))
    return Device(app).bind()


def fuzz_device_proof(data: bytes) -> None:
    """In the text `{good}` and the like stand for what a browser would send."""
    ours, what = device(), data[:1]
    challenge = challenge_of(ours.ask())
    good = signed({"jti": challenge}, ours.key)
    header, claims, signature = good.split(".")
    words = {
        "good": good,
        "header": header,
        "claims": claims,
        "signature": signature,
        "none": encoded({"alg": "none", "typ": "dbsc+jwt"}),
        "used": signed({"jti": "used"}, ours.key),
        "id": ours.session_id,
        "name": ours.short_name,
        "short": ours.cookie(ours.short_name),
    }
    text = data[1:].decode("latin-1").replace("\r", " ").replace("\n", " ")
    for word, meaning in words.items():
        text = text.replace(f"{{{word}}}", meaning)
    if what == b"c":
        check_cookie(ours, text)
    else:
        check_post(ours, what, text, challenge)


def check_post(ours: Device, what: bytes, text: str, challenge: str) -> None:
    """A new short cookie is only for a proof of this key that answers this challenge."""
    path = "/device-bound/register" if what == b"r" else "/device-bound/refresh"
    headers = {ID: text} if what == b"i" else {ID: ours.session_id, PROOF: text}
    environ = request_environ(path, "POST", headers=headers)
    status, _, answered = send(ours.app, environ)
    assert status in (200, 403, 429)
    if "Set-Cookie" in answered:
        assert what not in (b"i", b"r")
        assert is_proof(ours, text, challenge)


def is_proof(ours: Device, text: str, challenge: str) -> bool:
    text = text.strip(" ").partition(";")[0].strip('" ')
    header, claims, signature = text.split(".")
    raw = decoded(signature)
    x, y = (int.from_bytes(decoded(ours.jwk[name])) for name in ("x", "y"))
    numbers = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    try:
        numbers.public_key().verify(der, f"{header}.{claims}".encode(), ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return bool(json.loads(decoded(claims))["jti"] == challenge and len(raw) == 64)


def decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def check_cookie(ours: Device, text: str) -> None:
    """The long cookie opens the session only beside the short cookie, as it was sent."""
    name, value = re.escape(ours.short_name), re.escape(ours.cookie(ours.short_name))
    is_there = re.search(rf"(?:\A|;)[ \t]*{name}[ \t]*=[ \t]*{value}[ \t]*(?=;|\Z)", text)
    environ = request_environ("/me") | {"HTTP_COOKIE": f"{text};{ours.name}={ours.cookie()}"}
    if re.search(rf"(?:\A|;)[ \t]*{ours.name}[ \t]*=", text):
        return  # another long cookie may count
    with mock.patch.object(binding, "GRACE_MS", 0):
        assert send(ours.app, environ)[0] == (200 if is_there else 401)
