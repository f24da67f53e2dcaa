"""The settings of an app, checked once and kept in one frozen object.

Only this module reads `app.config`. Each error message begins with the config key, and says what is
wrong and what to do. No message contains a password.
"""

from __future__ import annotations

import dataclasses
import typing as t
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

from . import renamed, validators
from .errors import ConfigurationError
from .record import Record
from .token import UserId
from .validators import InvalidValue, Validator

PREFIX = "KVSESSION_"

FLASK_LOGIN_USER_KEY = "_user_id"
"""The session key in which Flask-Login keeps the user's id."""
FLASK_LOGIN_FRESH_KEY = "_fresh"
"""The session key in which Flask-Login keeps False if its remember cookie signed the user in."""

FLASK_LOGIN_REMEMBER_KEY = "_remember"
"""The session key in which Flask-Login keeps, until the end of the request, what it will do with
its remember cookie."""
FLASK_LOGIN_SECONDS_KEY = "_remember_seconds"
"""The session key of the `duration` that Flask-Login's `login_user` was given."""
_FLASK_LOGIN_KEYS = frozenset(
    {
        FLASK_LOGIN_USER_KEY,
        FLASK_LOGIN_FRESH_KEY,
        FLASK_LOGIN_REMEMBER_KEY,
        FLASK_LOGIN_SECONDS_KEY,
        "_id",
    }
)
_MAX_UNCOUNTED_BYTES = 256

ROLE_KEYS: t.Final = frozenset({"role", "roles"})
"""The session keys in which `roles_required` looks for the user's roles."""

_FLASK_LIFETIME = "PERMANENT_SESSION_LIFETIME"
_FLASK_SETTINGS = {
    "cookie_name": "SESSION_COOKIE_NAME",
    "cookie_domain": "SESSION_COOKIE_DOMAIN",
    "cookie_path": "SESSION_COOKIE_PATH",
    "cookie_samesite": "SESSION_COOKIE_SAMESITE",
    "cookie_partitioned": "SESSION_COOKIE_PARTITIONED",
    "cookie_secure": "SESSION_COOKIE_SECURE",
    "idle_timeout": _FLASK_LIFETIME,
}
"""With `KVSESSION_AS_FLASK_SESSION`, these settings of Flask replace these fields."""


def _setting(validator: Validator, default: t.Any, *, in_repr: bool = True) -> t.Any:
    return field(default=default, repr=in_repr, metadata={"validator": validator})


def _timeout(default: timedelta) -> t.Any:
    """A duration whose default is shortened if a longer one would contradict other settings."""
    validator = validators.optional(validators.duration)
    return field(default=None, metadata={"validator": validator, "default": default})


class Milliseconds(t.NamedTuple):
    """The durations that requests compare with times, in whole milliseconds."""

    idle: int
    unremembered: int
    anonymous: int
    absolute: int
    renewal_interval: int
    fresh_for: int
    rotation_interval: int | None
    rotation_grace: int
    device_bound_lifetime: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How sessions behave. The field `idle_timeout` is the setting `KVSESSION_IDLE_TIMEOUT`.

    A duration is a `timedelta` or a number of seconds. Raises `ConfigurationError` for a value that
    is invalid, and for values that contradict each other.
    """

    redis_url: str | None = _setting(validators.optional(validators.redis_url), None, in_repr=False)
    """Where the Redis server is: `redis://`, `rediss://`, `unix://`,
    `redis+sentinel://host,host/service`, `redis+cluster://host,host` or `embedded://PATH`. None: a
    client that `KVSession` is given, or, in debug and testing mode, an embedded server. The repr of
    the settings omits it, because it may contain a password."""
    key_prefix: str = _setting(validators.key_prefix, "kvs")
    """The beginning of every key in Redis. Each app on one Redis needs its own."""
    g_name: str | None = _setting(validators.optional(validators.g_name), "session")
    """The attribute of `flask.g` that is the session; None: `flask.g` has no such attribute."""

    cookie_name: str = _setting(validators.cookie_name, "kvsession")
    """The name of the cookie of a user's session, without its prefix. A Secure cookie gets the
    prefix `__Host-` if its path is `/` and it has no domain, else `__Secure-`. The cookie of an
    anonymous session has `-anonymous` after the name."""
    cookie_domain: str | None = _setting(validators.optional(validators.host_name), None)
    """The domain whose hosts all get the cookie; None: only the host that has set it."""
    cookie_path: str = _setting(validators.cookie_path, "/")
    """The path below which browsers send the cookie."""
    cookie_samesite: str = _setting(validators.samesite, "Lax")
    """With which requests of other sites browsers send the cookie: `"Lax"`, `"Strict"` or
    `"None"`."""
    cookie_partitioned: bool = _setting(validators.boolean, False)
    """Whether the cookie is kept apart for each site that embeds the app (CHIPS)."""
    cookie_secure: bool | None = _setting(validators.optional(validators.boolean), None)
    """Whether browsers send the cookie only over https. None: on, unless the app is in debug or
    testing mode."""

    idle_timeout: timedelta = _timeout(timedelta(days=7))
    """How long a session lives without activity. It ends between this time, less one renewal
    interval, and this time after the last activity."""
    absolute_timeout: timedelta = _timeout(timedelta(days=30))
    """How long a session lives after the user last authenticated, whatever the activity; an
    anonymous session: after it was created."""
    unremembered_timeout: timedelta = _timeout(timedelta(hours=12))
    """The idle timeout after a login with `remember=False`. The cookie then ends with the
    browser."""
    anonymous_timeout: timedelta = _timeout(timedelta(days=1))
    """The idle timeout of an anonymous session."""
    renewal_interval: timedelta = _timeout(timedelta(minutes=5))
    """Activity extends the idle timeout at most once in this interval, so it causes at most one
    write in it. "Last seen" is exact to this interval. At most half the shortest idle timeout."""
    fresh_for: timedelta = _setting(validators.duration, timedelta(minutes=15))
    """How long after authentication a session is fresh."""
    rotation_interval: timedelta | None = _setting(validators.optional(validators.duration), None)
    """A session gets a new secret at this interval; None: only by a login or an explicit call."""
    rotation_grace: timedelta = _setting(validators.duration, timedelta(minutes=5))
    """The secret before a periodic rotation is valid for this time after the first request that
    showed its successor. Longer than the slowest request, shorter than the interval."""
    max_sessions_per_user: int | Callable[[UserId], int | None] | None = _setting(
        validators.optional(validators.session_limit), 100
    )
    """A number, or a function of the user's id that returns a number or None; None: no limit.
    Beyond it, the least recently used sessions are revoked. It bounds what one user can cost: the
    length of each list, and the work of each act."""

    login_view: str | None = _setting(validators.optional(validators.endpoint), None)
    """The endpoint to which a guard redirects a browser that is not signed in; None: it answers
    401."""
    confirm_view: str | None = _setting(validators.optional(validators.endpoint), None)
    """The endpoint to which a guard redirects a browser without a fresh login; None: it answers
    401."""
    protected_paths: tuple[str, ...] = _setting(validators.paths, ())
    """The paths that need a login, without a decorator. `"/account/*"` covers `/account` and all
    paths below it."""
    no_renewal_paths: tuple[str, ...] = _setting(validators.paths, ())
    """The paths whose requests are no activity, such as polling: they do not extend the idle
    timeout."""
    trusted_origins: tuple[str, ...] = _setting(validators.origins, ())
    """Other origins whose pages may send forms to this app, such as
    `"https://admin.example.com"`."""

    guarded_no_store: bool = _setting(validators.boolean, True)
    """Whether a response that a guard let through is `no-store`, unless the view says otherwise."""
    fresh_to_revoke: bool = _setting(validators.boolean, False)
    """Whether the devices pages ask for the password before they revoke a session."""
    locate: Callable[[str], str | None] | None = _setting(
        validators.optional(validators.ip_function), None
    )
    """Returns the place of an IP address for the devices pages, or None if it is unknown."""
    clear_site_data: t.Literal[False, "cache", "*"] = _setting(validators.clear_site_data, False)
    """What a browser shall forget at a logout, over https: `"cache"` (or True), so that the Back
    button shows no private page; `"*"` also all cookies and the storage of the site; False: nothing
    but the cookie."""

    device_bound: t.Literal[False, "offer"] = _setting(validators.device_bound, False)
    """`"offer"`: after a login, a browser that supports it binds the session to a key of its
    device, which cannot be copied with the cookies (DBSC). It needs `device_bound_blueprint`, https
    and the extra `[device-bound]`. False: the cookie alone opens each session."""
    device_bound_lifetime: timedelta = _setting(
        validators.device_bound_lifetime, timedelta(minutes=10)
    )
    """How long the short cookie of a bound session is valid. Then the browser must prove again that
    it has the key. At least 1 minute; below 4 minutes the log has a warning, because browsers limit
    how often a device signs."""

    as_flask_session: bool = _setting(validators.boolean, False)
    """Whether `flask.session` is this session too. Flask's own settings then define its cookie and
    its lifetime."""
    user_id_key: str | None = _setting(validators.optional(validators.user_id_key), None)
    """The session key that holds the user's id, in an app that signs users in by itself, such as
    `"user_id"`, or `"_user_id"` for Flask-Login. It needs `KVSESSION_AS_FLASK_SESSION`."""
    migrate_cookie_session: bool = _setting(validators.boolean, False)
    """Whether the data of Flask's signed session cookie move into a new session, once. It needs
    `KVSESSION_AS_FLASK_SESSION`."""

    store_timeout: timedelta = _setting(validators.duration, timedelta(seconds=1))
    """How long one call of the store may take, with connecting and trying again. Also how long a
    write is repeated if other requests keep changing the same session."""
    on_store_failure: t.Literal["unavailable", "anonymous"] = _setting(
        validators.on_store_failure, "unavailable"
    )
    """What a read of the session does if the store fails. `"unavailable"`: it raises, and the
    response is a 503. `"anonymous"`: a page that only reads finds the session empty. Guards,
    writes, logins and logouts answer 503 in both cases."""
    near_cache: bool = _setting(validators.boolean, False)
    """Whether each process keeps recently read sessions, and Redis reports their changes."""
    near_cache_size: int = _setting(validators.positive, 10_000)
    """How many sessions a process keeps at most."""
    near_cache_max_age: timedelta = _setting(validators.duration, timedelta(seconds=10))
    """How long a process keeps a session at most."""
    trace_commands: bool = _setting(validators.boolean, False)
    """Whether each command passes through redis-py's `execute_command`, which tracing patches."""
    max_session_bytes: int = _setting(validators.positive, 64 * 1024)
    """The size limit of one session's encoded data, in bytes. Flask-Login's own keys do not
    count."""
    record_ip: bool = _setting(validators.boolean, True)
    """Whether a session keeps the client's IP address."""
    record_user_agent: bool = _setting(validators.boolean, True)
    """Whether a session keeps the client's user agent."""

    def __post_init__(self) -> None:
        configured = {name: _validated(name, value) for name, value in vars(self).items()}
        vars(self).update(_with_timeouts(configured), _configured=configured)
        self._check_timeouts()
        self._check_cookie()
        self._check_flask_session()

    @classmethod
    def from_config(cls, config: Mapping[str, t.Any]) -> Settings:
        """The settings in `app.config`, from its keys that begin with `KVSESSION_`.

        If `KVSESSION_AS_FLASK_SESSION` is True, Flask's `PERMANENT_SESSION_LIFETIME` is the idle
        timeout, up to the absolute timeout.

        Raises `ConfigurationError` for an unknown key, a key that has no effect, an invalid value,
        and values that contradict each other.
        """
        values = _values_in(config)
        if values.get("as_flask_session") is True:
            _refuse_replaced_by_flask(values)
            if _FLASK_LIFETIME in config:
                values["idle_timeout"] = _flask_idle_timeout(config[_FLASK_LIFETIME], values)
        return cls(**values)

    def changed_keys(self, other: Settings) -> list[str]:
        """The config keys whose values differ between two results of `from_config`, sorted.

        A default that follows from another key does not count, nor does Flask's
        `PERMANENT_SESSION_LIFETIME`.
        """
        ours, theirs = self._configured_values(), other._configured_values()
        changed = [n for n in ours if ours[n] is not theirs[n] and ours[n] != theirs[n]]
        return sorted(config_key(name) for name in changed)

    @property
    def has_one_cookie_name(self) -> bool:
        """Whether all sessions have one cookie name: nothing then tells this package which of them
        are a user's, because the app signs users in by means that are unknown here."""
        return self.as_flask_session and self.user_id_key is None

    @property
    def reserved_keys(self) -> frozenset[str]:
        """The session keys that `update_all` and `change_session` must not change, because they
        name the user."""
        return frozenset() if self.user_id_key is None else frozenset({self.user_id_key})

    def is_protected(self, path: str) -> bool:
        return any(_path_matches(pattern, path) for pattern in self.protected_paths)

    def protects_part_of(self, folder: str) -> bool:
        """Whether some path in this folder, such as "/static", needs a login."""
        in_folder = any(path.startswith(f"{folder}/") for path in self.protected_paths)
        return in_folder or self.is_protected(f"{folder}/")

    def is_activity(self, path: str) -> bool:
        """Whether a request of this path extends the idle timeout."""
        paths = self.no_renewal_paths
        return not paths or not any(_path_matches(pattern, path) for pattern in paths)

    def counted_size(self, sizes: Mapping[str, int]) -> int:
        """The bytes that items of these sizes count towards `max_session_bytes`.

        Who is signed in must not need room in a `flask.session`: Flask-Login writes its keys on
        any page, also at a logout, and an error there would make every page fail.
        """
        total = sum(sizes.values())
        if self.as_flask_session:
            free = (sizes[key] for key in _FLASK_LOGIN_KEYS & sizes.keys())
            total -= sum(size for size in free if size <= _MAX_UNCOUNTED_BYTES)
        return total

    def expires(self, record: Record) -> int:
        """When the session expires (ms of the server's clock): at the end of its idle timeout or at
        its absolute end, whichever is earlier. A changed setting applies to existing sessions too.
        """
        timeouts = self.milliseconds
        if record.user is None and not (self.as_flask_session and record.remembered):
            idle = timeouts.anonymous
        else:
            idle = timeouts.idle if record.remembered else timeouts.unremembered
        return min(record.seen + idle, self.absolute_end(record))

    def absolute_end(self, record: Record) -> int:
        """When the session ends whatever its activity (ms of the server's clock): at the end of its
        absolute timeout, or at the `end_at` of its login, whichever is earlier."""
        end = (record.authenticated or record.created) + self.milliseconds.absolute
        return end if record.end_at is None else min(end, record.end_at)

    @cached_property
    def milliseconds(self) -> Milliseconds:
        return Milliseconds(
            idle=_to_ms(self.idle_timeout),
            unremembered=_to_ms(self.unremembered_timeout),
            anonymous=_to_ms(self.anonymous_timeout),
            absolute=_to_ms(self.absolute_timeout),
            renewal_interval=_to_ms(self.renewal_interval),
            fresh_for=_to_ms(self.fresh_for),
            rotation_interval=_to_ms(self.rotation_interval) if self.rotation_interval else None,
            rotation_grace=_to_ms(self.rotation_grace),
            device_bound_lifetime=_to_ms(self.device_bound_lifetime),
        )

    def session_limit(self, user_id: UserId) -> int | None:
        """How many sessions this user may have; None: no limit.

        Raises `ConfigurationError` if the app's function returns neither a whole number of at least
        1 nor None.
        """
        limit = self.max_sessions_per_user
        if not callable(limit):
            return limit
        validator = validators.optional(validators.positive)
        subject = f"{config_key('max_sessions_per_user')}: the number that the function returns"
        return t.cast(int | None, _validated_by(validator, subject, limit(user_id)))

    def _configured_values(self) -> dict[str, t.Any]:
        """The validated values without derived defaults: None for a timeout that is not set."""
        configured = t.cast("dict[str, t.Any]", vars(self)["_configured"])
        # from_config takes this idle timeout from Flask's setting.
        return configured | {"idle_timeout": None} if self.as_flask_session else configured

    def _check_timeouts(self) -> None:
        idle_timeouts = {name: getattr(self, name) for name in _IDLE_TIMEOUTS}
        for name, timeout in idle_timeouts.items():
            if timeout > self.absolute_timeout:
                raise ConfigurationError(
                    f"{config_key(name)} ({timeout}) is longer than"
                    f" {config_key('absolute_timeout')} ({self.absolute_timeout}) and would have no"
                    f" effect; shorten {config_key(name)} or lengthen"
                    f" {config_key('absolute_timeout')}."
                )
        shortest = min(idle_timeouts.values())
        if self.renewal_interval > shortest / 2:
            raise ConfigurationError(
                f"{config_key('renewal_interval')} ({self.renewal_interval}) is longer than half of"
                f" the shortest idle timeout ({shortest}), so the sessions of active users could"
                f" expire; shorten {config_key('renewal_interval')}."
            )

        if self.rotation_interval and self.rotation_interval <= self.rotation_grace:
            raise ConfigurationError(
                f"{config_key('rotation_interval')} ({self.rotation_interval}) must be longer than"
                f" {config_key('rotation_grace')} ({self.rotation_grace}), because a session is not"
                " rotated while its former secret is valid; lengthen the one or shorten the other."
            )

    def _check_cookie(self) -> None:
        if self.cookie_secure is not False:
            return
        needs_secure = None
        if self.cookie_samesite == "None":
            needs_secure = f'{config_key("cookie_samesite")} "None"'
        elif self.cookie_partitioned:
            needs_secure = f"{config_key('cookie_partitioned')} True"
        if needs_secure:
            raise ConfigurationError(
                f"{needs_secure} needs {config_key('cookie_secure')} True, because browsers reject"
                f" the cookie otherwise; set {config_key('cookie_secure')} = True or remove it."
            )

    def _check_flask_session(self) -> None:
        if self.as_flask_session:
            return
        if self.user_id_key is not None:
            raise ConfigurationError(
                f"{config_key('user_id_key')} needs {config_key('as_flask_session')} = True,"
                " because the user id is read from flask.session; set"
                f" {config_key('as_flask_session')} = True, or remove"
                f" {config_key('user_id_key')} and sign users in with login_user()."
            )
        if self.migrate_cookie_session:
            raise ConfigurationError(
                f"{config_key('migrate_cookie_session')} needs {config_key('as_flask_session')} ="
                " True, because flask.session remains Flask's signed cookie otherwise; set"
                f" {config_key('as_flask_session')} = True, or remove"
                f" {config_key('migrate_cookie_session')}."
            )


class RememberCookie(t.NamedTuple):
    """Flask-Login's remember cookie."""

    name: str
    refresh_each_request: bool
    """Whether Flask-Login sends the cookie with every response."""

    @classmethod
    def from_config(cls, config: Mapping[str, t.Any]) -> RememberCookie:
        """The cookie by Flask-Login's settings, which may change at any time."""
        return cls(
            config.get("REMEMBER_COOKIE_NAME", "remember_token"),
            bool(config.get("REMEMBER_COOKIE_REFRESH_EACH_REQUEST")),
        )


class CsrfKeys:
    """The session keys in which apps keep their CSRF token."""

    _KNOWN: t.Final = {"csrf_token", "_csrf_token", "csrf"}
    """The default keys of Flask-WTF, Flask-SeaSurf and WTForms."""

    @classmethod
    def from_config(cls, config: Mapping[str, t.Any]) -> frozenset[str]:
        """The keys by the settings of Flask-WTF and Flask-SeaSurf, which may change at any time."""
        configured = {config.get("WTF_CSRF_FIELD_NAME"), config.get("CSRF_COOKIE_NAME")}
        return frozenset(cls._KNOWN | {key for key in configured if isinstance(key, str)})


_FIELDS: t.Final = {setting.name: setting for setting in dataclasses.fields(Settings)}
_DEFAULTS: t.Final[dict[str, timedelta]] = {
    name: setting.metadata["default"]
    for name, setting in _FIELDS.items()
    if "default" in setting.metadata
}
_IDLE_TIMEOUTS = ("idle_timeout", "unremembered_timeout", "anonymous_timeout")


def config_key(name: str) -> str:
    """The key in `app.config` of a field of `Settings`."""
    return PREFIX + name.upper()


def _to_ms(duration: timedelta) -> int:
    """The duration in whole milliseconds, rounded down."""
    return duration // timedelta(milliseconds=1)


def _validated(name: str, value: t.Any) -> t.Any:
    return _validated_by(_FIELDS[name].metadata["validator"], config_key(name), value)


def _validated_by(validator: Validator, subject: str, value: t.Any) -> t.Any:
    """The normalised value. The message of a `ConfigurationError` begins with `subject`."""
    try:
        return validator(value)
    except InvalidValue as error:
        raise ConfigurationError(_sentence(f"{subject} {error}")) from None


def _with_timeouts(configured: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The values, with a default for each timeout that is None. The default is shortened if a
    timeout that is set requires it."""
    values = dict(configured)

    def fill_in(name: str, *limits: timedelta) -> None:
        if values[name] is None:
            values[name] = min([_DEFAULTS[name], *limits])

    fill_in("absolute_timeout")
    absolute = values["absolute_timeout"]
    fill_in("idle_timeout", absolute)
    fill_in("unremembered_timeout", absolute, values["idle_timeout"])
    fill_in("anonymous_timeout", absolute, values["idle_timeout"])
    fill_in("renewal_interval", min(values[name] for name in _IDLE_TIMEOUTS) / 2)
    return values


def _values_in(config: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The values in `config` by the names of their fields; raises for a key that has no effect."""
    for key in renamed.CONFIG.keys() & config.keys():
        raise ConfigurationError(renamed.renamed_message(key, renamed.CONFIG[key]))
    names = {config_key(name): name for name in _FIELDS}
    values = {}
    for key, value in config.items():
        if key in names:
            values[names[key]] = value
        elif key.startswith(PREFIX):
            raise ConfigurationError(_unknown_key_message(key))
    return values


def _refuse_replaced_by_flask(values: Mapping[str, t.Any]) -> None:
    for name, flask_key in _FLASK_SETTINGS.items():
        if name in values:
            raise ConfigurationError(
                f"{config_key(name)} has no effect with {config_key('as_flask_session')}; set"
                f" {flask_key} instead."
            )


def _flask_idle_timeout(lifetime: t.Any, values: Mapping[str, t.Any]) -> timedelta:
    lifetime = _validated_by(validators.duration, _FLASK_LIFETIME, lifetime)
    absolute = _validated("absolute_timeout", values.get("absolute_timeout"))
    return t.cast(timedelta, min(lifetime, absolute or _DEFAULTS["absolute_timeout"]))


def _unknown_key_message(key: str) -> str:
    # The common prefix is left out of the comparison, because it would make all keys similar.
    known = [name.upper() for name in _FIELDS]
    proposal = validators.did_you_mean(key.removeprefix(PREFIX), known, PREFIX)
    remedy = proposal or "; remove it, or see the list of settings in the README"
    return _sentence(f"{key} is not a setting{remedy}")


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _path_matches(pattern: str, path: str) -> bool:
    stem = pattern.removesuffix("/*").rstrip("/")
    # A route may answer with and without a slash at the end.
    return path.rstrip("/") == stem or (pattern.endswith("/*") and path.startswith(f"{stem}/"))
