"""The session cookie: the token that a request carries, and the Set-Cookie of a response."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from .settings import Settings, config_key
from .token import Token

if t.TYPE_CHECKING:
    from flask import Flask
    from werkzeug.wrappers import Request, Response


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The cookie's name and attributes in one app."""

    name: str
    domain: str | None
    path: str
    secure: bool
    samesite: str | None
    partitioned: bool
    httponly: bool
    secure_key: str
    """The setting that decides about `secure`."""

    @classmethod
    def from_settings(cls, settings: Settings, *, development: bool) -> SessionCookie:
        """The cookie by these settings. `development`: the app is in debug or testing mode.

        The name gets the prefix `__Host-` if browsers accept it with these attributes. Such a
        cookie cannot be set by another host of the domain, nor over plain http (OWASP ASVS 5.0,
        3.3.1).
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
            httponly=True,
            secure_key=config_key("cookie_secure"),
        )

    @classmethod
    def from_flask_app(cls, app: Flask) -> SessionCookie:
        """The cookie of `flask.session`, by the getters of the app's session interface."""
        interface = app.session_interface
        return cls(
            name=interface.get_cookie_name(app),
            domain=interface.get_cookie_domain(app),
            path=interface.get_cookie_path(app),
            secure=interface.get_cookie_secure(app),
            samesite=interface.get_cookie_samesite(app),
            partitioned=interface.get_cookie_partitioned(app),
            httponly=interface.get_cookie_httponly(app),
            secure_key="SESSION_COOKIE_SECURE",
        )

    def is_in(self, request: Request) -> bool:
        """Whether the request carries a cookie of this name, whatever its value is."""
        return self.name in request.cookies

    def read(self, request: Request) -> Token | None:
        """The token of the request. None without a token, and for two tokens that differ.

        Nothing tells which of two tokens this app has set, and the wrong one could be a session
        that an attacker planted in the browser.
        """
        tokens = self.tokens_in(request)
        return tokens[0] if len(tokens) == 1 else None

    def tokens_in(self, request: Request) -> list[Token]:
        """The different values of cookies of this name that have the shape of a token."""
        texts = set(request.cookies.getlist(self.name))
        return [token for text in texts if (token := Token.parse(text))]

    def write(self, response: Response, token: Token, max_age: int | None) -> None:
        """Gives the browser this token for `max_age` seconds. None: until the browser is closed."""
        response.set_cookie(self.name, str(token), max_age=max_age, **self._attributes())
        _forbid_caching(response)

    def clear(self, response: Response) -> None:
        """Deletes the cookie. Browsers demand the attributes with which the cookie was set."""
        response.delete_cookie(self.name, **self._attributes())
        _forbid_caching(response)

    def _attributes(self) -> dict[str, t.Any]:
        return {
            "domain": self.domain,
            "path": self.path,
            "secure": self.secure,
            "httponly": self.httponly,
            "samesite": self.samesite,
            "partitioned": self.partitioned,
        }


def _forbid_caching(response: Response) -> None:
    # Not response.cache_control: directives that the app has set (public, max-age) must go.
    response.headers["Cache-Control"] = "no-store"
