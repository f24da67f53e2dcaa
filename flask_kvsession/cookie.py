"""The session cookie: which token a request carries, and the Set-Cookie of a response."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from .settings import Settings
from .token import Token

if t.TYPE_CHECKING:
    from flask import Flask
    from werkzeug.wrappers import Request, Response


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The cookie's name and attributes, settled for one app."""

    name: str
    domain: str | None
    path: str
    secure: bool
    samesite: str | None
    partitioned: bool
    httponly: bool = True

    @classmethod
    def settled(cls, settings: Settings, *, development: bool) -> SessionCookie:
        """The cookie of these settings, for an app that is in debug or testing mode or is not.

        Its name gets the prefix `__Host-` wherever browsers accept that: it then cannot be set
        by another host of the domain, nor over plain http (OWASP ASVS 5.0, 3.3.1).
        """
        needs_secure = settings.cookie_samesite == "None" or settings.cookie_partitioned
        secure = settings.cookie_secure
        if secure is None:
            secure = needs_secure or not development
        host_only = secure and settings.cookie_path == "/" and settings.cookie_domain is None
        return cls(
            name=f"__Host-{settings.cookie_name}" if host_only else settings.cookie_name,
            domain=settings.cookie_domain,
            path=settings.cookie_path,
            secure=secure,
            samesite=settings.cookie_samesite,
            partitioned=settings.cookie_partitioned,
        )

    @classmethod
    def of_flask(cls, app: Flask) -> SessionCookie:
        """The cookie of `flask.session`, as the app's session interface gives it today."""
        interface = app.session_interface
        return cls(
            name=interface.get_cookie_name(app),
            domain=interface.get_cookie_domain(app),
            path=interface.get_cookie_path(app),
            secure=interface.get_cookie_secure(app),
            samesite=interface.get_cookie_samesite(app),
            partitioned=interface.get_cookie_partitioned(app),
            httponly=interface.get_cookie_httponly(app),
        )

    def is_in(self, request: Request) -> bool:
        """Whether the request carries a cookie of this name, whatever is in it."""
        return self.name in request.cookies

    def read(self, request: Request) -> Token | None:
        """The token of the request; None for none, for junk, and for two that differ.

        Which of two the browser was given by us cannot be told, and the wrong guess would put a
        visitor into a session that somebody else planted.
        """
        tokens = self.tokens_in(request)
        return tokens[0] if len(tokens) == 1 else None

    def tokens_in(self, request: Request) -> list[Token]:
        """All that the request has in cookies of this name and could be a token; seldom more than
        one."""
        texts = set(request.cookies.getlist(self.name))
        return [token for text in texts if (token := Token.parse(text))]

    def write(self, response: Response, token: Token, max_age: int | None) -> None:
        """Gives the browser this token for `max_age` seconds; None: until the browser is closed."""
        response.set_cookie(self.name, str(token), max_age=max_age, **self._attributes())
        _keep_out_of_caches(response)

    def clear(self, response: Response) -> None:
        """Takes the token away, with the attributes it was given with: browsers insist."""
        response.delete_cookie(self.name, **self._attributes())
        _keep_out_of_caches(response)

    def _attributes(self) -> dict[str, t.Any]:
        return {
            "domain": self.domain,
            "path": self.path,
            "secure": self.secure,
            "httponly": self.httponly,
            "samesite": self.samesite,
            "partitioned": self.partitioned,
        }


def _keep_out_of_caches(response: Response) -> None:
    # Not response.cache_control: what the app allowed (public, max-age) must go.
    response.headers["Cache-Control"] = "no-store"
