"""Checks of single values, one function for each kind of setting.

Each function takes a value as a user wrote it and returns the normalised value. It raises
`InvalidValue` if the value cannot be used. The functions know neither Flask nor the setting's name.
"""

from __future__ import annotations

import difflib
import json
import keyword
import re
import typing as t
from collections.abc import Callable, Iterable
from datetime import timedelta
from inspect import iscoroutinefunction
from urllib.parse import parse_qsl, urlsplit

Validator = Callable[[t.Any], t.Any]

MIN_DEVICE_BOUND_LIFETIME = timedelta(minutes=1)
MIN_DURATION, MAX_DURATION = timedelta(milliseconds=1), timedelta(days=36500)

_URL_FORMS: t.Final = {
    "redis": "redis://{login}host[:port][/db]",
    "rediss": "rediss://{login}host[:port][/db]",
    "unix": "unix://{login}/path",
    "redis+sentinel": "redis+sentinel://{login}host[:port][,host[:port]]/service[/db]",
    "rediss+sentinel": "rediss+sentinel://{login}host[:port][,host[:port]]/service[/db]",
    "redis+cluster": "redis+cluster://{login}host[:port][,host[:port]]",
    "rediss+cluster": "rediss+cluster://{login}host[:port][,host[:port]]",
    "embedded": "embedded://PATH",
}
_URL_PATHS: t.Final = {"sentinel": r"/[^/]+(/\d*)?", "cluster": r"(/0?)?", "": r"(/\d*)?"}
"""The pattern of a URL's path, by what follows the "+" in its scheme."""

_HOST_NAME = r"(?=.{1,254}\Z)\.?[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*"
_ORIGIN = r"[a-z][a-z0-9+.-]*://([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[1-9]\d{0,4})?"
_ORIGIN_WITH_DEFAULT_PORT = r"http://.*:80|https://.*:443"

_NAMES_OF_G_METHODS = ("get", "pop", "setdefault")
_KEYS_WITH_ANOTHER_MEANING = (
    "_flashes",
    "_fresh",
    "_id",
    "_permanent",
    "_remember",
    "_remember_seconds",
)
"""Session keys that Flask and Flask-Login use for something else than the user's id."""


class InvalidValue(ValueError):
    """A value cannot be used.

    The message is the end of a sentence, such as "must be True or False, not 1". The caller puts
    the name of the setting before it.
    """


ENVIRONMENT: t.Final = (
    "from_prefixed_env() reads JSON, so write true or false, numbers such as 3600 (seconds), and"
    ' lists such as ["/account/*"]; it takes everything else as text'
)
"""What Flask makes of environment variables, for messages."""


def optional(validator: Validator) -> Validator:
    """A validator that also accepts None."""
    return lambda value: None if value is None else validator(value)


def text(pattern: str, requirement: str) -> Callable[[t.Any], str]:
    """A validator for text that matches all of `pattern`; `requirement` is for the message."""

    def validate(value: t.Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise InvalidValue(f"{requirement}, not {quoted(value)}{_not_as_text(value)}")
        return value

    return validate


def boolean(value: t.Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidValue(f"must be True or False, not {quoted(value)}{_in_environment(value)}")


def clear_site_data(value: t.Any) -> t.Literal[False, "cache", "*"]:
    """False, or what browsers shall forget: `cache` or `*`. True means `cache`."""
    if isinstance(value, bool):
        return "cache" if value else False
    if value not in ("cache", "*"):
        raise InvalidValue(f'must be False, "cache" or "*", not {quoted(value)}')
    return t.cast('t.Literal["cache", "*"]', value)


def device_bound(value: t.Any) -> t.Literal[False, "offer"]:
    """False or the word."""
    if value is not False and value != "offer":
        raise InvalidValue(f'must be False or "offer", which turns it on, not {quoted(value)}')
    return t.cast('t.Literal[False, "offer"]', value)


def device_bound_lifetime(value: t.Any) -> timedelta:
    """A duration for which browsers can afford to sign: they sign rarely, and sign a user out
    rather than more often."""
    lifetime = duration(value)
    if lifetime < MIN_DEVICE_BOUND_LIFETIME:
        raise InvalidValue(
            f"must be at least 1 minute, not {quoted(value)}, because browsers limit how often a"
            " device signs, and then the user is signed out"
        )
    return lifetime


def duration(value: t.Any) -> timedelta:
    """A timedelta, or a number of seconds as a timedelta."""
    if isinstance(value, timedelta):
        converted = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            converted = timedelta(seconds=value)
        except (OverflowError, ValueError):  # infinite, not a number, or too large
            converted = timedelta.max
    else:
        raise InvalidValue(
            f"must be a timedelta or a number of seconds, not {quoted(value)}"
            f"{_in_environment(value)}"
        )
    if not MIN_DURATION <= converted <= MAX_DURATION:
        raise InvalidValue(f"must be from 1 millisecond to 100 years, not {quoted(value)}")
    return converted


def positive(value: t.Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidValue(
            f"must be a whole number of at least 1, not {quoted(value)}{_in_environment(value)}"
        )
    return value


def session_limit(value: t.Any) -> t.Any:
    """A positive number, or a function whose results the caller checks with `positive`."""
    return value if callable(value) else positive(value)


def ip_function(value: t.Any) -> t.Any:
    """A function that takes an IP address, and is not a coroutine function."""
    if not callable(value) or iscoroutinefunction(value):
        raise InvalidValue(
            f"must be a function (not async) that takes an IP address, not {quoted(value)}"
        )
    return value


key_prefix: Validator = text(
    r"[A-Za-z0-9_.:-]+", "must consist of letters, digits and the characters _ . : -"
)
endpoint: Validator = text(r".+", 'must be the name of an endpoint, such as "auth.login"')
host_name: Validator = text(_HOST_NAME, "must be a host name without scheme and port, or None")
cookie_path: Validator = text(
    r"/[^;,\s\x00-\x20\x7f]*", 'must be a path that begins with "/" and has no space, ";" or ","'
)
_cookie_token = text(  # RFC 6265, 4.1.1, and RFC 9110, 5.6.2
    r"[A-Za-z0-9!#$%&'*+.^_`|~-]+",
    "must consist of the characters of a cookie name: letters, digits and !#$%&'*+-.^_`|~",
)
_session_key = text(r"(?s).+", 'must be a session key, such as "user_id"')


MAX_COOKIE_NAME_CHARS = 256
"""Browsers drop a cookie whose name and value together have more than 4,096 bytes (RFC 6265bis;
OWASP ASVS 5.0, 3.3.5). The value, a token, has 62."""


def cookie_name(value: t.Any) -> str:
    name = _cookie_token(value)
    if len(name) > MAX_COOKIE_NAME_CHARS:
        raise InvalidValue(
            f"must have at most {MAX_COOKIE_NAME_CHARS} characters, because browsers drop a cookie"
            f" that is too large; shorten {quoted(value)}"
        )
    if name.lower().startswith(("__host-", "__secure-")):
        raise InvalidValue(
            "must not begin with __Host- or __Secure-, because the prefix is added automatically"
            f" where the cookie may have it; remove the prefix from {quoted(value)}"
        )
    return name


def samesite(value: t.Any) -> str:
    """`Lax`, `Strict` or `None` as text, written in any case."""
    words = {"lax": "Lax", "strict": "Strict", "none": "None"}
    if not isinstance(value, str) or value.lower() not in words:
        raise InvalidValue(f'must be "Lax", "Strict" or "None", not {quoted(value)}')
    return words[value.lower()]


def on_store_failure(value: t.Any) -> str:
    """One of the two words."""
    if value not in ("unavailable", "anonymous"):
        raise InvalidValue(f'must be "unavailable" or "anonymous", not {quoted(value)}')
    return t.cast(str, value)


def g_name(value: t.Any) -> str:
    """A Python name that hides no attribute of `flask.g`."""
    is_name = isinstance(value, str) and value.isidentifier() and not keyword.iskeyword(value)
    if not is_name or value in _NAMES_OF_G_METHODS or value.startswith("__"):
        raise InvalidValue(
            "must be a Python name that is not an attribute of flask.g already, or None, not"
            f" {quoted(value)}"
        )
    return t.cast(str, value)


def user_id_key(value: t.Any) -> str:
    key = _session_key(value)
    if not key.isprintable():
        raise InvalidValue(f"must consist of printable characters, not {quoted(value)}")
    if key in _KEYS_WITH_ANOTHER_MEANING:
        raise InvalidValue(
            "must be the session key that holds the user's id; Flask or Flask-Login uses"
            f" {quoted(value)} for something else"
        )
    return key


def paths(value: t.Any) -> tuple[str, ...]:
    """Paths such as `/profile`, or `/dashboard/*` for a path and everything below it."""
    if not isinstance(value, tuple | list):
        raise InvalidValue(
            f'must be a tuple of paths such as ("/dashboard/*",), not {quoted(value)}'
            f"{_in_environment(value)}"
        )
    for path in value:
        stem = path.removesuffix("/*") if isinstance(path, str) else "*"
        if "*" in stem or not path.startswith("/"):
            raise InvalidValue(
                f'must not contain {quoted(path)}: a path begins with "/", and "*" may only follow'
                ' the last "/", as in "/dashboard/*"'
            )
    return tuple(value)


def origins(value: t.Any) -> tuple[str, ...]:
    """Origins as browsers send them in the `Origin` header (RFC 6454, 6.2)."""
    if not isinstance(value, tuple | list):
        example = '("https://admin.example.com",)'
        raise InvalidValue(
            f"must be a tuple of origins such as {example}, not {quoted(value)}"
            f"{_in_environment(value)}"
        )
    for origin in value:
        is_origin = isinstance(origin, str) and re.fullmatch(_ORIGIN, origin, re.ASCII)
        # Browsers never send the default port, so an origin with it would never match.
        if not is_origin or re.fullmatch(_ORIGIN_WITH_DEFAULT_PORT, origin):
            raise InvalidValue(
                f"must not contain {quoted(origin)}: write scheme://host or scheme://host:port in"
                " lower case, without a path and without the scheme's default port"
            )
    return tuple(value)


def redis_url(value: t.Any) -> str:
    """The URL of a Redis server. No message quotes the URL, because it may contain a password."""
    if value == "":
        raise InvalidValue(
            "is empty; set it to redis://HOST:6379/0 or embedded://PATH, or remove the setting"
        )
    scheme = value.partition("://")[0] if isinstance(value, str) and "://" in value else ""
    if scheme not in _URL_FORMS:
        known = [f"{name}://" for name in _URL_FORMS]
        proposal = did_you_mean(f"{scheme}://", known)
        raise InvalidValue(f"must begin with one of {', '.join(known)}{proposal}")
    if scheme == "embedded":
        if value == "embedded://":
            raise InvalidValue("has no folder; write embedded://PATH")
    elif not _is_understood(value):
        form = _URL_FORMS[scheme].format(login="[[user]:password@]")
        raise InvalidValue(
            f"is malformed; write {form}[?option=value], where port and db are numbers, and quote"
            " special characters of the password with urllib.parse.quote(password, safe='')"
        )
    return t.cast(str, value)


def _is_understood(url: str) -> bool:
    """Whether every part of the URL has a meaning.

    redis-py silently ignores other parts. For example, an unquoted "/" in the password moves the
    rest of the URL into the path, and redis-py then connects to another server.
    """
    try:
        parts = urlsplit(url)
        user, _, hosts = parts.netloc.rpartition("@")
        _, _, kind = parts.scheme.partition("+")
        names = hosts.split(",") if kind else [hosts]
        addresses = [urlsplit(f"//{name}") for name in names]
        is_valid = all(each.port != 0 for each in addresses) and not {"[", "]"} & set(user)
        is_valid = is_valid and (not kind or all(each.hostname for each in addresses))
        if parts.query:
            parse_qsl(parts.query, strict_parsing=True)
    except ValueError:
        return False
    path = _URL_PATHS[kind]
    if parts.scheme == "unix":
        is_valid, path = not hosts, r"/.+"
    return is_valid and not parts.fragment and re.fullmatch(path, parts.path) is not None


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message that proposes the known word closest to `word`; "" if none is close.

    A known word is close if its spelling is similar, or if it is the only known word that begins
    with `word` and a "_". The message shows `prefix` before the known word.
    """
    candidates = list(known)
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.75)
    longer = [name for name in candidates if name.startswith(f"{word}_")]
    if not close and len(longer) == 1:
        close = longer
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _in_environment(value: t.Any) -> str:
    """The end of a message about text where another type is needed: an environment variable holds
    text, unless something has converted it."""
    return f". In the environment: {ENVIRONMENT}" if isinstance(value, str) else ""


def _not_as_text(value: t.Any) -> str:
    """The end of a message about another type where text is needed: the environment variable 123 is
    a number after `from_prefixed_env()`."""
    if not isinstance(value, int | float):
        return ""
    return f". In the environment: write '{json.dumps(json.dumps(value))}' if you mean the text"


def quoted(value: t.Any) -> str:
    """The repr of the value for a message, cut at 200 characters."""
    try:
        shown = repr(value)
    except Exception:  # an int with too many digits, or a broken __repr__
        return f"a value of type {type(value).__name__}"
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
