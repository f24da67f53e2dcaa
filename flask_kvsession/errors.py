"""Everything this package raises: one base, and children that each add one fact."""

from __future__ import annotations

import json
import typing as t

from werkzeug.exceptions import Forbidden, HTTPException, ServiceUnavailable, Unauthorized

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.sansio.response import Response

__all__ = [
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
    """The base of every error of this package."""


class ConfigurationError(KVSessionError):
    """A setting, or the set-up of the extension, cannot work; the message says what to change."""


class UnstorableValue(KVSessionError, TypeError):
    """A value would not come back from the store as it was given; the message names its key."""


class SessionTooLarge(KVSessionError, ValueError):
    """The data would be larger than `KVSESSION_MAX_SESSION_BYTES`; the session stays as it was."""

    @classmethod
    def by(cls, cause: str, size: int, most: int) -> SessionTooLarge:
        return cls(
            f"{cause} would bring the session's data to {size} bytes, and"
            f" KVSESSION_MAX_SESSION_BYTES allows {most}; keep large things elsewhere and only"
            " their ids in the session."
        )


class StoreUnavailable(KVSessionError, ServiceUnavailable):
    """The store failed, so nobody knows who is signed in: 503 with `Retry-After`.

    The cookie is left as it is. Never raised for a session that merely does not exist.
    """

    description = "The session store cannot be reached just now. Please try again in a moment."

    def __init__(self, description: str | None = None, response: Response | None = None) -> None:
        super().__init__(description, response, retry_after=1)

    def get_headers(
        self, environ: WSGIEnvironment | None = None, scope: dict[str, t.Any] | None = None
    ) -> list[tuple[str, str]]:
        return [*super().get_headers(environ, scope), ("Cache-Control", "no-store")]


class _Refusal(KVSessionError, HTTPException):
    """A request that is refused: a short JSON body, unless a handler of the app says it better."""

    error: t.ClassVar[str]

    def get_body(
        self, environ: WSGIEnvironment | None = None, scope: dict[str, t.Any] | None = None
    ) -> str:
        return json.dumps({"error": self.error})

    def get_headers(
        self, environ: WSGIEnvironment | None = None, scope: dict[str, t.Any] | None = None
    ) -> list[tuple[str, str]]:
        # The same URL redirects a browser and answers others, signed in or not: caches must know.
        return [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            ("Vary", "Accept, Cookie"),
        ]


class LoginRequired(_Refusal, Unauthorized):
    """Nobody is signed in: 401.

    `ended` tells an app's handler why, where the session was ended from outside: `"revoked"`
    or `"limit"`; it is None for a visitor and after expiry.
    """

    error = "Unauthorized"
    description = "Please sign in."

    def __init__(
        self,
        description: str | None = None,
        response: Response | None = None,
        *,
        ended: str | None = None,
    ) -> None:
        super().__init__(description, response)
        self.ended = ended


class FreshLoginRequired(_Refusal, Unauthorized):
    """Somebody is signed in but proved it too long ago: 401. See `confirm_login`."""

    error = "FreshLoginRequired"
    description = "Please confirm your password."


class RoleRequired(_Refusal, Forbidden):
    """Somebody is signed in but has none of the roles asked for: 403."""

    error = "Forbidden"
    description = "This account may not do that."
