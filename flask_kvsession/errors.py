"""The exceptions of this package. All of them derive from `KVSessionError`."""

from __future__ import annotations

import json
import typing as t

from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import Forbidden, HTTPException, ServiceUnavailable, Unauthorized
from werkzeug.http import parse_accept_header

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.sansio.response import Response

__all__ = [
    "BoundDeviceRequired",
    "ConfigurationError",
    "FreshLoginRequired",
    "KVSessionError",
    "LoginRequired",
    "RoleRequired",
    "SessionTooLarge",
    "StoreUnavailable",
    "UnstorableValue",
]


class KVSessionError(Exception):
    """The base class of every error of this package."""


class ConfigurationError(KVSessionError):
    """A setting or the set-up of the extension is invalid. The message says what to change."""


class UnstorableValue(KVSessionError, TypeError):
    """A value or key cannot be stored in the session. The message names it and the remedy."""


class SessionTooLarge(KVSessionError, ValueError):
    """A write would make the data larger than `KVSESSION_MAX_SESSION_BYTES`.

    The session is unchanged.
    """

    @classmethod
    def caused_by(cls, write: str, size: int, limit: int) -> SessionTooLarge:
        """The error for a write after which the data would have `size` bytes."""
        return cls(
            f"{write} would make the session's data {size} bytes long, and"
            f" KVSESSION_MAX_SESSION_BYTES allows {limit}; store large values elsewhere, and only"
            " their ids in the session."
        )


def wants_page(environ: WSGIEnvironment) -> bool:
    """Whether a browser asks for a page: `Accept` names text/html."""
    return any(
        kind.partition(";")[0].strip().lower() == "text/html" and quality > 0
        for kind, quality in parse_accept_header(environ.get("HTTP_ACCEPT"), MIMEAccept)
    )


class StoreUnavailable(KVSessionError, ServiceUnavailable):
    """The session store failed: 503 with `Retry-After: 1`.

    The body is `{"error": "StoreUnavailable"}`, or a page if the request asks for one.

    It is unknown whether the user is signed in, so the browser keeps its cookie. This error is
    never raised because a session does not exist.
    """

    description: str = "The session store is unavailable. Please try again in a moment."

    def __init__(self, description: str | None = None, response: Response | None = None) -> None:
        super().__init__(description, response, retry_after=1)

    def get_body(
        self, environ: WSGIEnvironment | None = None, scope: dict[str, t.Any] | None = None
    ) -> str:
        if environ is None or wants_page(environ):
            return super().get_body(environ, scope)
        return json.dumps({"error": "StoreUnavailable"})

    def get_headers(
        self, environ: WSGIEnvironment | None = None, scope: dict[str, t.Any] | None = None
    ) -> list[tuple[str, str]]:
        headers = dict(super().get_headers(environ, scope))
        if environ is not None and not wants_page(environ):
            headers["Content-Type"] = "application/json"
        # Whether the body is a page depends on Accept; whether there is an error, on the cookie.
        more = {"Cache-Control": "no-store", "Vary": "Accept, Cookie"}
        return list((headers | more).items())


class _RequestRefused(KVSessionError, HTTPException):
    """A guard refused the request. The body is JSON, unless the app has an error handler."""

    error: t.ClassVar[str]

    def get_body(
        self, environ: WSGIEnvironment | None = None, scope: dict[str, t.Any] | None = None
    ) -> str:
        return json.dumps({"error": self.error})

    def get_headers(
        self, environ: WSGIEnvironment | None = None, scope: dict[str, t.Any] | None = None
    ) -> list[tuple[str, str]]:
        # The same URL redirects a browser, and its response depends on the session.
        return [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            ("Vary", "Accept, Cookie"),
        ]


class LoginRequired(_RequestRefused, Unauthorized):
    """No user is signed in: 401.

    `ended` says why, for the app's error handler: `"revoked"`, `"limit"` or `"stolen"` if the
    session was ended from outside, and `"unbound"` if it is bound to a device and the request did
    not prove to be from it. It is None for an anonymous session and after expiry.
    """

    error = "Unauthorized"
    description: str = "Please sign in."

    def __init__(
        self,
        description: str | None = None,
        response: Response | None = None,
        *,
        ended: str | None = None,
    ) -> None:
        super().__init__(description, response)
        self.ended = ended
        self.can_sign_in = True
        """False if the sign-in page would send this browser straight back."""


class FreshLoginRequired(_RequestRefused, Unauthorized):
    """The user is signed in, but authenticated too long ago: 401. See `confirm_login`."""

    error = "FreshLoginRequired"
    description: str = "Please confirm your password."


class BoundDeviceRequired(_RequestRefused, Unauthorized):
    """The user is signed in, but the browser has not proved that it is the device to which the
    session is bound, or no device is bound: 401. See `bound_device_required`."""

    error = "BoundDeviceRequired"
    description: str = "This page needs a browser that has bound the sign-in to its device."


class RoleRequired(_RequestRefused, Forbidden):
    """The user is signed in, but has none of the required roles: 403."""

    error = "Forbidden"
    description: str = "This account may not do that."
