"""All settings, read and checked once, in one frozen object.

This is the only place that reads `app.config`. Every message names the key, says what was given
(never a password) and what to do.
"""

from __future__ import annotations

import dataclasses
import difflib
import keyword
import math
import re
import typing as t
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import iscoroutinefunction
from urllib.parse import parse_qsl, urlsplit

from . import renamed
from .errors import ConfigurationError
from .record import Record
from .token import UserId

FLASK_LOGINS_USER, FLASK_LOGINS_FRESH = "_user_id", "_fresh"
"""The keys of the session under which Flask-Login keeps who is signed in, and whether a password
was given for it."""
_KEYS_OF_FLASK = (
    FLASK_LOGINS_FRESH,
    "_flashes",
    "_id",
    "_permanent",
    "_remember",
    "_remember_seconds",
)

PREFIX = "KVSESSION_"

_LATER_SCHEMES = {"redis+sentinel": "Redis Sentinel", "redis+cluster": "Redis Cluster"}
_HOST_NAME = r"(?=.{1,254}\Z)\.?[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*"
_SCHEMES = ("redis", "rediss", "unix", "embedded")
_ORIGIN = r"[a-z][a-z0-9+.-]*://([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[1-9]\d{0,4})?"
_FLASKS_OWN = {
    "cookie_name": "SESSION_COOKIE_NAME",
    "cookie_domain": "SESSION_COOKIE_DOMAIN",
    "cookie_path": "SESSION_COOKIE_PATH",
    "cookie_samesite": "SESSION_COOKIE_SAMESITE",
    "cookie_partitioned": "SESSION_COOKIE_PARTITIONED",
    "cookie_secure": "SESSION_COOKIE_SECURE",
    "idle_timeout": "PERMANENT_SESSION_LIFETIME",
}
"""What an app that has `flask.session` says by Flask's own settings."""

_DEFAULT_PORT = r"http://.*:80|https://.*:443"


class _Wrong(Exception):
    """What is wrong with a value, and the remedy; the setting's key is added by the caller."""


def _boolean(value: t.Any) -> bool:
    if not isinstance(value, bool):
        remedy = "; a value from the environment is text and has to be converted first"
        is_text = isinstance(value, str)
        raise _Wrong(f"must be True or False, not {_shown(value)}{remedy if is_text else ''}")
    return value


def _duration(value: t.Any) -> timedelta:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number or isinstance(value, timedelta)):
        raise _Wrong(f"must be a timedelta or a number of seconds, not {_shown(value)}")
    try:
        duration = timedelta(seconds=value) if number else value
    except (OverflowError, ValueError):
        raise _Wrong(f"is not a usable number of seconds: {_shown(value)}") from None
    if not timedelta(milliseconds=1) <= duration <= timedelta(days=36500):
        raise _Wrong(f"must be from 1 millisecond to 100 years, not {_shown(value)}")
    return t.cast(timedelta, duration)


def _text(pattern: str, remedy: str) -> Callable[[t.Any], str]:
    def check(value: t.Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise _Wrong(f"{remedy}, not {_shown(value)}")
        return value

    return check


def _positive(value: t.Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _Wrong(f"must be a whole number of at least 1, not {_shown(value)}")
    return value


def _limit(value: t.Any) -> t.Any:
    return value if callable(value) else _positive(value)


def _samesite(value: t.Any) -> str:
    words = {"lax": "Lax", "strict": "Strict", "none": "None"}
    if not isinstance(value, str) or value.lower() not in words:
        raise _Wrong(f'must be "Lax", "Strict" or "None", not {_shown(value)}')
    return words[value.lower()]


def _name_in_g(value: t.Any) -> str:
    is_name = isinstance(value, str) and value.isidentifier() and not keyword.iskeyword(value)
    # flask.g has methods of these names, which would be shadowed.
    if not is_name or value in ("get", "pop", "setdefault") or value.startswith("__"):
        raise _Wrong(f"must be a name that flask.g does not use, or None, not {_shown(value)}")
    return t.cast(str, value)


def _cookie_name(value: t.Any) -> str:
    name = _text(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "may hold only a cookie name's characters")(value)
    if name.lower().startswith(("__host-", "__secure-")):
        raise _Wrong(
            "must be given without a prefix, since __Host- is added by itself where the cookie is"
            f" Secure, its path is / and it has no domain, not {_shown(value)}"
        )
    return name


def _user_id_key(value: t.Any) -> str:
    key = _text(r"(?s).+", 'must be a key of the session, such as "user_id"')(value)
    if key in _KEYS_OF_FLASK or not key.isprintable():
        raise _Wrong(
            "must be the key that says who is signed in, which Flask and Flask-Login do not use for"
            f" something else, not {_shown(value)}"
        )
    return key


def _paths(value: t.Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, tuple | list):
        raise _Wrong(f'must be a tuple of paths such as ("/dashboard/*",), not {_shown(value)}')
    for path in value:
        stem = path.removesuffix("/*") if isinstance(path, str) else "*"
        if "*" in stem or not path.startswith("/"):
            raise _Wrong(
                f'has {_shown(path)}; a path begins with "/", and "*" may stand only for all below'
                ' it, as in "/dashboard/*"'
            )
    return tuple(value)


def _origins(value: t.Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, tuple | list):
        example = '("https://admin.example.com",)'
        raise _Wrong(f"must be a tuple of origins such as {example}, not {_shown(value)}")
    for origin in value:
        is_one = isinstance(origin, str) and re.fullmatch(_ORIGIN, origin, re.ASCII)
        # One that no browser sends would never match, and look as if it did.
        if not is_one or re.fullmatch(_DEFAULT_PORT, origin):
            raise _Wrong(
                f"has {_shown(origin)}; an origin is written as browsers send it: scheme://host or"
                " scheme://host:port in lower case, with nothing after it and no default port"
            )
    return tuple(value)


def _function(value: t.Any) -> t.Any:
    if not callable(value) or iscoroutinefunction(value):
        raise _Wrong(f"must be a function that is given an IP address, not {_shown(value)}")
    return value


def _url(value: t.Any) -> str:
    # The URL may hold a password, also where it is malformed, so it is never quoted.
    if value == "":
        raise _Wrong(
            "is empty; say where the server is, redis://HOST:6379/0 or embedded://PATH, or leave"
            " the setting out"
        )
    scheme = value.partition("://")[0] if isinstance(value, str) and "://" in value else ""
    if scheme in _LATER_SCHEMES:
        raise _Wrong(
            f"names {_LATER_SCHEMES[scheme]}, which this version cannot connect to by URL yet;"
            " pass a ready client: KVSession(app, redis=client)"
        )
    if scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise _Wrong(f"must begin with one of {known}{_did_you_mean(scheme, _SCHEMES)}")
    if scheme == "embedded":
        if value == "embedded://":
            raise _Wrong("names no folder; say embedded://PATH")
    elif not _is_readable(value):
        raise _Wrong(
            "cannot be read; its form is redis://[[user]:password@]host[:port][/db][?option=value]"
            " or unix://[[user]:password@]/path, where port and db are numbers, and special"
            " characters of the password are quoted with urllib.parse.quote(password, safe='')"
        )
    return t.cast(str, value)


def _is_readable(url: str) -> bool:
    """Whether every part of the URL is one that redis-py reads: it would silently pass over the
    rest, such as what an unquoted "/" in the password has made a path."""
    try:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        is_whole = parts.port != 0 and not {"[", "]"} & set(user)
        if parts.query:
            parse_qsl(parts.query, strict_parsing=True)
    except ValueError:
        return False
    if parts.scheme == "unix":
        is_whole, form = not host, r"/.+"
    else:
        form = r"(/\d*)?"
    return is_whole and not parts.fragment and re.fullmatch(form, parts.path) is not None


def _optional(check: Callable[[t.Any], t.Any]) -> Callable[[t.Any], t.Any]:
    return lambda value: None if value is None else check(value)


def _setting(check: Callable[[t.Any], t.Any], default: t.Any) -> t.Any:
    return field(default=default, metadata={"check": check})


def _timeout(default: timedelta) -> t.Any:
    """A duration that is capped by those that are set, as long as it is not set itself."""
    return field(default=None, metadata={"check": _optional(_duration), "unset": default})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How sessions behave. The field `idle_timeout` is the setting `KVSESSION_IDLE_TIMEOUT`.

    Raises `ConfigurationError` for a bad value or a combination that cannot work.
    """

    redis_url: str | None = field(default=None, metadata={"check": _optional(_url)}, repr=False)
    key_prefix: str = _setting(
        _text(r"[A-Za-z0-9_.:-]+", "may hold only letters, digits and _ . : -"), "kvs"
    )
    g_name: str | None = _setting(_optional(_name_in_g), "session")

    cookie_name: str = _setting(_cookie_name, "kvsession")
    cookie_domain: str | None = _setting(
        _optional(_text(_HOST_NAME, "must be a host name, or None")),
        None,
    )
    cookie_path: str = _setting(
        _text(r"/[^;,\s\x00-\x20\x7f]*", 'must be a path that begins with "/"'), "/"
    )
    cookie_samesite: str = _setting(_samesite, "Lax")
    cookie_partitioned: bool = _setting(_boolean, False)
    cookie_secure: bool | None = _setting(_optional(_boolean), None)
    """None: on, unless the app is in debug or testing mode."""

    idle_timeout: timedelta = _timeout(timedelta(days=7))
    absolute_timeout: timedelta = _timeout(timedelta(days=30))
    unremembered_timeout: timedelta = _timeout(timedelta(hours=12))
    anonymous_timeout: timedelta = _timeout(timedelta(days=1))
    renewal_interval: timedelta = _timeout(timedelta(minutes=5))
    fresh_for: timedelta = _setting(_duration, timedelta(minutes=15))
    max_sessions_per_user: int | Callable[[UserId], int | None] | None = _setting(
        _optional(_limit), None
    )

    login_view: str | None = _setting(_optional(_text(r".+", "must be an endpoint")), None)
    confirm_view: str | None = _setting(_optional(_text(r".+", "must be an endpoint")), None)
    protected_paths: tuple[str, ...] = _setting(_paths, ())
    trusted_origins: tuple[str, ...] = _setting(_origins, ())
    """Other sites whose pages may post here, besides the app's own."""

    fresh_to_revoke: bool = _setting(_boolean, False)
    """Whether the devices pages ask for the password before they end a session."""
    locate: Callable[[str], str | None] | None = _setting(_optional(_function), None)
    """Names the place of an IP address for the devices pages; None for an unknown one."""

    as_flask_session: bool = _setting(_boolean, False)
    """Whether `flask.session` is this session too."""
    user_id_key: str | None = _setting(_optional(_user_id_key), None)
    """The key whose value says who is signed in, in an app that signs users in by itself."""
    migrate_cookie_session: bool = _setting(_boolean, False)
    """Whether what is in Flask's own signed cookie is carried into a new session, once."""

    store_timeout: timedelta = _setting(_duration, timedelta(seconds=1))
    max_session_bytes: int = _setting(_positive, 64 * 1024)
    record_ip: bool = _setting(_boolean, True)
    record_user_agent: bool = _setting(_boolean, True)

    def __post_init__(self) -> None:
        given = {setting.name: getattr(self, setting.name) for setting in dataclasses.fields(self)}
        object.__setattr__(self, "_given", given)
        for setting in dataclasses.fields(self):
            self._check(setting)
        self._fill_in_timeouts()
        self._check_timeouts()
        self._check_cookie()
        self._check_flask_session()

    @classmethod
    def from_config(cls, config: Mapping[str, t.Any]) -> Settings:
        """The settings of an app's config; keys without the prefix `KVSESSION_` are not ours."""
        known = {key_of(setting.name): setting.name for setting in dataclasses.fields(cls)}
        given = {key: value for key, value in config.items() if key.startswith(PREFIX)}
        for key in given:
            if key not in known:
                hint = _did_you_mean(key, known) or "; see the README's list, or remove it"
                raise ConfigurationError(_sentence(f"{key} is not a setting{hint}"))
        for key in renamed.CONFIG.keys() & config.keys():
            raise ConfigurationError(renamed.renamed_message(key, renamed.CONFIG[key]))
        if given.get(key_of("as_flask_session")) is True:
            for name in _FLASKS_OWN.keys() & {known[key] for key in given}:
                raise ConfigurationError(
                    f"{key_of(name)} has no effect with {key_of('as_flask_session')}; set"
                    f" {_FLASKS_OWN[name]} instead."
                )
        return cls(**{known[key]: value for key, value in given.items()})

    def with_flasks_lifetime(self, config: Mapping[str, t.Any]) -> Settings:
        """The same with Flask's `PERMANENT_SESSION_LIFETIME` as idle timeout, if `flask.session` is
        ours; it is no more than the absolute timeout then."""
        if not self.as_flask_session:
            return self
        try:
            lifetime = _duration(config["PERMANENT_SESSION_LIFETIME"])
        except _Wrong as wrong:
            raise ConfigurationError(f"PERMANENT_SESSION_LIFETIME {wrong}.") from None
        given = t.cast("dict[str, t.Any]", vars(self)["_given"])
        return Settings(**given | {"idle_timeout": min(lifetime, self.absolute_timeout)})

    def idle_timeout_of(self, record: Record) -> timedelta:
        """How long this kind of session lives without activity."""
        if record.is_visitors and not (self.as_flask_session and record.remembered):
            return self.anonymous_timeout
        return self.idle_timeout if record.remembered else self.unremembered_timeout

    def expires(self, record: Record) -> int:
        """When the session ends (ms), by today's settings: idle or absolute, whichever is first."""
        idle_end = record.seen + in_ms(self.idle_timeout_of(record))
        return min(idle_end, self.absolute_end(record))

    def absolute_end(self, record: Record) -> int:
        """When the session ends (ms) whatever its activity."""
        return record.created + in_ms(self.absolute_timeout)

    def session_limit(self, user_id: UserId) -> int | None:
        """How many sessions this user may have; None for any number."""
        limit = self.max_sessions_per_user
        if not callable(limit):
            return limit
        try:
            return t.cast(int | None, _optional(_positive)(limit(user_id)))
        except _Wrong as wrong:
            raise ConfigurationError(
                f"What {key_of('max_sessions_per_user')} returns {wrong}."
            ) from None

    def _check(self, setting: dataclasses.Field[t.Any]) -> None:
        try:
            value = setting.metadata["check"](getattr(self, setting.name))
        except _Wrong as wrong:
            raise ConfigurationError(_sentence(f"{key_of(setting.name)} {wrong}")) from None
        object.__setattr__(self, setting.name, value)

    def _fill_in_timeouts(self) -> None:
        """What is not set takes its default, or less where something that is set asks for less."""

        def fill_in(name: str, *caps: timedelta | None) -> None:
            if getattr(self, name) is None:
                default = _defaults[name]
                values = [default, *(cap for cap in caps if cap is not None)]
                object.__setattr__(self, name, min(values))

        idle, absolute = self.idle_timeout, self.absolute_timeout
        fill_in("absolute_timeout")
        fill_in("idle_timeout", absolute)
        fill_in("unremembered_timeout", absolute, idle)
        fill_in("anonymous_timeout", absolute, idle)
        fill_in("renewal_interval", self._shortest_idle_timeout / 2)

    @property
    def _shortest_idle_timeout(self) -> timedelta:
        return min(self.idle_timeout, self.unremembered_timeout, self.anonymous_timeout)

    def _check_timeouts(self) -> None:
        for name in ("idle_timeout", "unremembered_timeout", "anonymous_timeout"):
            if getattr(self, name) > self.absolute_timeout:
                raise ConfigurationError(
                    f"{key_of(name)} ({getattr(self, name)}) is longer than"
                    f" {key_of('absolute_timeout')} ({self.absolute_timeout}), so it would never"
                    " apply; shorten the one or lengthen the other."
                )
        if self.renewal_interval > self._shortest_idle_timeout / 2:
            raise ConfigurationError(
                f"{key_of('renewal_interval')} ({self.renewal_interval}) is more than half of the"
                f" shortest idle timeout ({self._shortest_idle_timeout}), so active users could be"
                " signed out; shorten it."
            )

    def _check_cookie(self) -> None:
        insecure = self.cookie_secure is False
        if insecure and self.cookie_samesite == "None":
            raise ConfigurationError(
                f'{key_of("cookie_samesite")} "None" needs {key_of("cookie_secure")} True:'
                " browsers refuse the cookie otherwise."
            )
        if insecure and self.cookie_partitioned:
            raise ConfigurationError(
                f"{key_of('cookie_partitioned')} needs {key_of('cookie_secure')} True:"
                " browsers refuse the cookie otherwise."
            )

    def _check_flask_session(self) -> None:
        if self.user_id_key is not None and not self.as_flask_session:
            raise ConfigurationError(
                f"{key_of('user_id_key')} needs {key_of('as_flask_session')} True: otherwise what"
                " the app says in flask.session is not seen; or sign users in with login_user()."
            )
        if self.migrate_cookie_session and not self.as_flask_session:
            raise ConfigurationError(
                f"{key_of('migrate_cookie_session')} needs {key_of('as_flask_session')} True:"
                " otherwise flask.session goes on being the signed cookie."
            )


class RememberCookie(t.NamedTuple):
    """Flask-Login's remember cookie."""

    name: str
    is_sent_again: bool
    """With every response."""

    @classmethod
    def from_config(cls, config: Mapping[str, t.Any]) -> RememberCookie:
        """By Flask-Login's settings in `app.config`, which it reads at each use."""
        return cls(
            config.get("REMEMBER_COOKIE_NAME", "remember_token"),
            bool(config.get("REMEMBER_COOKIE_REFRESH_EACH_REQUEST")),
        )


_defaults: t.Final[dict[str, timedelta]] = {
    setting.name: setting.metadata["unset"]
    for setting in dataclasses.fields(Settings)
    if "unset" in setting.metadata
}


def key_of(name: str) -> str:
    """The key in `app.config` of a field of `Settings`."""
    return PREFIX + name.upper()


def in_ms(duration: timedelta) -> int:
    return math.floor(duration / timedelta(milliseconds=1))


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    stem, by_stem = word.removeprefix(PREFIX), {name.removeprefix(PREFIX): name for name in known}
    close = difflib.get_close_matches(stem, by_stem, n=1, cutoff=0.75)
    longer = [name for name in by_stem if name.startswith(f"{stem}_")]
    if not close and len(longer) == 1:
        close = longer
    return f"; did you mean {by_stem[close[0]]}?" if close else ""


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _shown(value: t.Any) -> str:
    """What was given, as a message quotes it."""
    try:
        shown = repr(value)
    except Exception:  # an int too large to print, an object that is broken
        return f"a value of type {type(value).__name__}"
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
