"""The session cookies: the tokens that a request carries, and the Set-Cookie of a response.

There are two cookie names: one for the session of a user, and one for an anonymous session. So the
response to an anonymous write, which may be late, never replaces the cookie of a user.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from .binding import SEALED_PATTERN
from .settings import Settings, config_key
from .token import ID_PATTERN, TOKEN_PATTERN, Token, is_session_id

if t.TYPE_CHECKING:
    from flask import Flask
    from werkzeug.wrappers import Request, Response

MAX_TOKENS = 4
"""The number of token-shaped cookie values of one request that are looked at."""


class PresentedTokens(msgspec.Struct, frozen=True):
    """The tokens that a request carries, in the order of its Cookie header."""

    user: list[Token]
    """Those under the name of a user's session."""
    anonymous: list[Token]
    """Those under the name of an anonymous session; empty if there is one name for both."""

    def __bool__(self) -> bool:
        return bool(self.user or self.anonymous)


class CookieKeys(t.NamedTuple):
    """The settings that decide about the cookies, for messages."""

    name: str
    domain: str
    path: str
    secure: str
    partitioned: str


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The cookies' names and attributes in one app."""

    name: str
    anonymous_name: str
    """Equal to `name` if there is one name for both kinds of session."""
    domain: str | None
    path: str
    secure: bool
    samesite: str | None
    partitioned: bool
    httponly: bool
    keys: CookieKeys

    @classmethod
    def from_settings(cls, settings: Settings, *, development: bool) -> SessionCookie:
        """The cookies by these settings. `development`: the app is in debug or testing mode.

        A Secure cookie gets the prefix `__Host-` if browsers accept it with these attributes, else
        `__Secure-`. Neither can be set over plain http, and a cookie with `__Host-` cannot be set
        by another host of the domain (OWASP ASVS 5.0, 3.3.1).
        """
        needs_secure = (
            settings.cookie_samesite == "None"
            or settings.cookie_partitioned
            or settings.device_bound
        )
        secure = settings.cookie_secure
        if secure is None:
            secure = bool(needs_secure or not development)
        host_only = settings.cookie_path == "/" and settings.cookie_domain is None
        prefix = ("__Host-" if host_only else "__Secure-") if secure else ""
        return cls(
            name=f"{prefix}{settings.cookie_name}",
            anonymous_name=f"{prefix}{settings.cookie_name}-anonymous",
            domain=settings.cookie_domain,
            path=settings.cookie_path,
            secure=secure,
            samesite=settings.cookie_samesite,
            partitioned=settings.cookie_partitioned,
            httponly=True,
            keys=CookieKeys(
                name=config_key("cookie_name"),
                domain=config_key("cookie_domain"),
                path=config_key("cookie_path"),
                secure=config_key("cookie_secure"),
                partitioned=config_key("cookie_partitioned"),
            ),
        )

    @classmethod
    def from_flask_app(cls, app: Flask, *, one_name: bool) -> SessionCookie:
        """The cookies of `flask.session`, by the getters of the app's session interface."""
        interface = app.session_interface
        name = interface.get_cookie_name(app)
        return cls(
            name=name,
            anonymous_name=name if one_name else f"{name}-anonymous",
            domain=interface.get_cookie_domain(app),
            path=interface.get_cookie_path(app),
            secure=interface.get_cookie_secure(app),
            samesite=interface.get_cookie_samesite(app),
            partitioned=interface.get_cookie_partitioned(app),
            httponly=interface.get_cookie_httponly(app),
            keys=CookieKeys(
                name="SESSION_COOKIE_NAME",
                domain="SESSION_COOKIE_DOMAIN",
                path="SESSION_COOKIE_PATH",
                secure="SESSION_COOKIE_SECURE",
                partitioned="SESSION_COOKIE_PARTITIONED",
            ),
        )

    @property
    def has_one_name(self) -> bool:
        return self.name == self.anonymous_name

    def bound_name(self, session_id: str) -> str:
        """The name of this session's short cookie. Each session has a cookie of its own: a browser
        may have the bindings of two sessions, and would renew only one of two equal names."""
        return f"{self._bound_stem}{session_id}"

    @property
    def _bound_stem(self) -> str:
        return f"__Host-{_without_prefix(self.name)}-bound-"

    def tokens_in(self, request: Request) -> PresentedTokens:
        """The first four different values of these cookies that have the shape of a token. A value
        that is under both names counts as a user's."""
        header = request.environ.get("HTTP_COOKIE")
        if not header:
            return PresentedTokens([], [])
        found = _pattern_for(self.name, self.anonymous_name).findall(header)
        if len(found) == 1 and found[0][0] == self.name:  # the usual case
            return PresentedTokens([Token.of(found[0][2])], [])
        is_user: dict[str, bool] = {}
        for name, _, text in found:
            if text in is_user or len(is_user) < MAX_TOKENS:
                is_user[text] = is_user.get(text, False) or name == self.name
        tokens = PresentedTokens([], [])
        for text in is_user:
            (tokens.user if is_user[text] else tokens.anonymous).append(Token.of(text))
        return tokens

    def names_in(self, request: Request) -> set[str]:
        """The names of these cookies that the request carries, whatever their values are."""
        return {self.name, self.anonymous_name} & {name for name, _ in _cookies_in(request)}

    def bound_names_in(self, request: Request) -> set[str]:
        """The names of all short cookies that the request carries."""
        stem = self._bound_stem
        names = {name for name, _ in _cookies_in(request) if name.startswith(stem)}
        return {name for name in names if is_session_id(name.removeprefix(stem))}

    def bound_values_in(self, request: Request, session_id: str) -> list[str]:
        """The values of this session's short cookie, at most as many as tokens are looked at."""
        found = _bound_pattern(self._bound_stem).findall(request.environ.get("HTTP_COOKIE", ""))
        return [value for each, value in found if each == session_id][:MAX_TOKENS]

    def write(
        self, response: Response, token: Token, max_age: int | None, *, anonymous: bool
    ) -> None:
        """Gives the browser this token for `max_age` seconds. None: until the browser is closed."""
        name = self.anonymous_name if anonymous else self.name
        response.set_cookie(name, str(token), max_age=max_age, **self.attributes)
        _forbid_caching(response)

    def write_bound(self, response: Response, session_id: str, value: str, max_age: int) -> None:
        """Gives the browser this short cookie of the session for `max_age` seconds. Its attributes
        are those that the prefix `__Host-` needs, whatever the session's cookie has."""
        response.set_cookie(
            self.bound_name(session_id),
            value,
            max_age=max_age,
            path="/",
            secure=True,
            httponly=True,
            samesite=self.samesite,
        )
        _forbid_caching(response)

    @property
    def bound_attributes(self) -> str:
        """The attributes of the short cookie, as they are in its Set-Cookie. Browsers compare
        them."""
        samesite = f"; SameSite={self.samesite.title()}" if self.samesite else ""
        return f"Secure; HttpOnly; Path=/{samesite}"

    def clear(self, response: Response, name: str) -> None:
        """Deletes a cookie. Browsers demand the attributes with which the cookie was set."""
        response.delete_cookie(name, **self.attributes)
        _forbid_caching(response)

    @property
    def attributes(self) -> dict[str, t.Any]:
        return {
            "domain": self.domain,
            "path": self.path,
            "secure": self.secure,
            "httponly": self.httponly,
            "samesite": self.samesite,
            "partitioned": self.partitioned,
        }


def _without_prefix(name: str) -> str:
    return name.removeprefix("__Host-").removeprefix("__Secure-")


@lru_cache(maxsize=64)
def _pattern_for(name: str, anonymous_name: str) -> re.Pattern[str]:
    r"""Finds the cookies of these names whose value is a token, as `_cookies_in` reads them.

    Its groups are the name, a quotation mark or nothing, and the token. (`\Z` and not `$`, which
    also matches before a newline at the end.)
    """
    names = "|".join(map(re.escape, (anonymous_name, name)))
    return re.compile(rf'(?:\A|;)[ \t]*({names})[ \t]*=[ \t]*("?)({TOKEN_PATTERN})\2[ \t]*(?=;|\Z)')


@lru_cache(maxsize=64)
def _bound_pattern(stem: str) -> re.Pattern[str]:
    """Finds short cookies. Its groups are the session id in the name, and the value."""
    name = f"{re.escape(stem)}({ID_PATTERN})"
    return re.compile(rf"(?:\A|;)[ \t]*{name}[ \t]*=[ \t]*({SEALED_PATTERN})[ \t]*(?=;|\Z)")


def _cookies_in(request: Request) -> t.Iterator[tuple[str, str]]:
    """The name and value of each cookie, from the raw header.

    Werkzeug's parser reads `theme="x; kvsession=…; zz=y"` as one quoted value. So a sibling domain
    that sets the cookies `theme` and `zz` could hide the session cookie.
    """
    for part in request.environ.get("HTTP_COOKIE", "").split(";"):
        name, _, value = part.partition("=")
        value = value.strip(" \t")
        # RFC 6265, 4.1.1: quotes around the whole value do not belong to it.
        is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
        yield name.strip(" \t"), value[1:-1] if is_quoted else value


def _forbid_caching(response: Response) -> None:
    # Replaces the header: directives that the app has set (public, max-age) must be removed.
    response.headers["Cache-Control"] = "no-store"
