"""All settings, read and checked once, in one frozen object.

This is the only place that reads `app.config`. Every message names the key, says what was given
(never a password) and what to do.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing as t
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from .errors import ConfigurationError
from .record import Record
from .token import UserId

PREFIX = "KVSESSION_"

_LATER_SCHEMES = {"redis+sentinel": "Redis Sentinel", "redis+cluster": "Redis Cluster"}
_SCHEMES = ("redis", "rediss", "unix", "embedded")


class _Wrong(Exception):
    """What is wrong with a value, and the remedy; the setting's key is added by the caller."""


def _boolean(value: t.Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(
            f"must be True or False, not {value!r}; a value from the environment"
            " is text and has to be converted first"
        )
    return value


def _duration(value: t.Any) -> timedelta:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number or isinstance(value, timedelta)):
        raise _Wrong(f"must be a timedelta or a number of seconds, not {value!r}")
    try:
        duration = timedelta(seconds=value) if number else value
    except (OverflowError, ValueError):
        raise _Wrong(f"is not a usable number of seconds: {value!r}") from None
    if not timedelta(milliseconds=1) <= duration <= timedelta(days=36500):
        raise _Wrong(f"must be from 1 millisecond to 100 years, not {value!r}")
    return t.cast(timedelta, duration)


def _text(pattern: str, remedy: str) -> Callable[[t.Any], str]:
    def check(value: t.Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise _Wrong(f"{remedy}, not {value!r}")
        return value

    return check


def _positive(value: t.Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _Wrong(f"must be a whole number of at least 1, not {value!r}")
    return value


def _limit(value: t.Any) -> t.Any:
    return value if callable(value) else _positive(value)


def _samesite(value: t.Any) -> str:
    words = {"lax": "Lax", "strict": "Strict", "none": "None"}
    if not isinstance(value, str) or value.lower() not in words:
        raise _Wrong(f'must be "Lax", "Strict" or "None", not {value!r}')
    return words[value.lower()]


def _paths(value: t.Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, tuple | list):
        raise _Wrong(f'must be a tuple of paths such as ("/dashboard/*",), not {value!r}')
    for path in value:
        stem = path.removesuffix("/*") if isinstance(path, str) else "*"
        if "*" in stem or not path.startswith("/"):
            raise _Wrong(
                f'has {path!r}; a path begins with "/", and "*" may stand only for all below it,'
                ' as in "/dashboard/*"'
            )
    return tuple(value)


def _url(value: t.Any) -> str:
    # The URL may hold a password, also where it is malformed, so it is never quoted.
    scheme = value.partition("://")[0] if isinstance(value, str) and "://" in value else ""
    if scheme in _LATER_SCHEMES:
        raise _Wrong(
            f"names {_LATER_SCHEMES[scheme]}, which this version cannot connect to by URL yet;"
            " pass a ready client: KVSession(app, redis=client)"
        )
    if scheme not in _SCHEMES:
        raise _Wrong(
            "must begin with one of "
            + ", ".join(f"{known}://" for known in _SCHEMES)
            + _did_you_mean(scheme, [*_SCHEMES, *_LATER_SCHEMES])
        )
    try:
        urlsplit(value).port  # noqa: B018 - read for the error it may raise
    except ValueError:
        raise _Wrong(
            "has a host or port that cannot be read; quote special characters"
            " of the password with urllib.parse.quote"
        ) from None
    if scheme == "embedded" and not value.removeprefix("embedded://"):
        raise _Wrong("names no folder; say embedded://PATH")
    return t.cast(str, value)


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

    redis_url: str | None = _setting(_optional(_url), None)
    key_prefix: str = _setting(
        _text(r"[A-Za-z0-9_.:-]+", "may hold only letters, digits and _ . : -"), "kvs"
    )
    g_name: str | None = _setting(
        _optional(_text(r"[^\W\d]\w*", "must be a Python name, or None")), "session"
    )

    cookie_name: str = _setting(
        _text(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "may hold only a cookie name's characters"),
        "kvsession",
    )
    cookie_domain: str | None = _setting(
        _optional(_text(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", "must be a host name, or None")),
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

    store_timeout: timedelta = _setting(_duration, timedelta(seconds=1))
    max_session_bytes: int = _setting(_positive, 64 * 1024)
    record_ip: bool = _setting(_boolean, True)
    record_user_agent: bool = _setting(_boolean, True)

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            self._check(setting)
        self._fill_in_timeouts()
        self._check_timeouts()
        self._check_cookie()

    @classmethod
    def from_config(cls, config: Mapping[str, t.Any]) -> Settings:
        """The settings of an app's config; keys without the prefix `KVSESSION_` are not ours."""
        known = {key_of(setting.name): setting.name for setting in dataclasses.fields(cls)}
        given = {key: value for key, value in config.items() if key.startswith(PREFIX)}
        for key in given:
            if key not in known:
                raise ConfigurationError(
                    f"{key} is not a setting{_did_you_mean(key, list(known)) or '; remove it'}."
                )
        return cls(**{known[key]: value for key, value in given.items()})

    def idle_timeout_of(self, record: Record) -> timedelta:
        """How long this kind of session lives without activity."""
        if record.is_visitors:
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
            raise ConfigurationError(f"{key_of(setting.name)} {wrong}.") from None
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
        if self.cookie_name.lower().startswith(("__host-", "__secure-")):
            raise ConfigurationError(
                f"{key_of('cookie_name')} must be given without a prefix; __Host- is added"
                " by itself where the cookie is Secure, its path is / and it has no domain."
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


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
