"""What a device has signed: a JWT by ES256 (W3C draft of DBSC, "DBSC Proof JWT Syntax").

It needs joserfc, from the extra `[device-bound]`.
"""

from __future__ import annotations

import re
import typing as t

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

MAX_CHARS = 4096
"""The length of the longest proof that is looked at. A browser's has about 500 characters."""

_ERRORS = (JoseError, ValueError, TypeError, KeyError, RecursionError)
"""What a hostile text can raise in the library."""

_ITEM = re.compile(r'("?)([A-Za-z0-9_.-]+)\1 *(?:;[^,]*)?')


class InvalidProof(Exception):
    """A text proves nothing. The message says why, and contains nothing of the text."""


class _PublicKey(msgspec.Struct):
    kty: t.Literal["EC"]
    crv: t.Literal["P-256"]
    x: str
    y: str


class _Header(msgspec.Struct):
    alg: t.Literal["ES256"]
    typ: t.Literal["dbsc+jwt"]
    jwk: _PublicKey | None = None


class _Claims(msgspec.Struct):
    jti: str
    authorization: str = ""

    def __repr__(self) -> str:
        """Shows no secret."""
        return "<_Claims>"


class Proof(msgspec.Struct, frozen=True):
    """What a text says, before its signature is checked."""

    text: str
    header: _Header
    challenge: str
    authorization: str

    def __repr__(self) -> str:
        """Shows no secret: the proof may not have been used yet."""
        return f"<Proof of {len(self.text)} characters>"

    @classmethod
    def parse(cls, header: str | None) -> Proof:
        """The proof in this header of a request."""
        text = item_in(header)
        if text is None or len(text) > MAX_CHARS:
            raise InvalidProof("the header has no proof, or more than one, or is too long")
        try:
            signed = jws.extract_compact(text.encode())
            claims = msgspec.json.decode(signed.payload, type=_Claims)
            parsed = msgspec.convert(signed.protected, _Header)
        except _ERRORS as error:
            raise InvalidProof(f"not a proof of this kind: {type(error).__name__}") from None
        return cls(text, parsed, claims.jti, claims.authorization)

    def new_key(self) -> str:
        """The public key that the proof itself names, and that has signed it."""
        jwk = self.header.jwk
        if jwk is None:
            raise InvalidProof("there is no public key in it")
        self.require_signature_of(f"{jwk.x}.{jwk.y}")
        return f"{jwk.x}.{jwk.y}"

    def require_signature_of(self, key: str) -> None:
        """Raises `InvalidProof` unless the owner of this public key has signed the proof."""
        x, _, y = key.partition(".")
        try:
            public = ECKey.import_key({"kty": "EC", "crv": "P-256", "x": x, "y": y})
            jws.deserialize_compact(self.text, public, algorithms=["ES256"])
        except _ERRORS as error:
            raise InvalidProof(f"not signed by the key: {type(error).__name__}") from None


def item_in(header: str | None) -> str | None:
    """The one value of a header, with or without the quotes of a structured field: Chromium 156
    sends none. None if there is no such value, or more than one."""
    found = _ITEM.fullmatch((header or "").strip(" "))
    return found[2] if found else None
