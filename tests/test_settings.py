"""Settings are read and checked once; messages name the key and never a password."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import re
import subprocess
import sys
import time
import traceback
import typing as t
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from flask import Flask
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError
from flask_kvsession.record import Client, Record, new_record
from flask_kvsession.settings import Settings
from flask_kvsession.token import Token, new_session_id

from .support.apps import MakeApp, add_views, state_of

DAY, HOUR, MINUTE, SECOND = (
    timedelta(days=1),
    timedelta(hours=1),
    timedelta(minutes=1),
    timedelta(seconds=1),
)
MS = timedelta(milliseconds=1)
NAN, INF = math.nan, math.inf


def at_most_two(user_id: object) -> int:
    return 2


async def later(ip_address: str) -> None:
    return None


def nowhere(ip_address: str) -> None:
    return None


DEFAULTS: dict[str, t.Any] = {
    "redis_url": None,
    "key_prefix": "kvs",
    "g_name": "session",
    "cookie_name": "kvsession",
    "cookie_domain": None,
    "cookie_path": "/",
    "cookie_samesite": "Lax",
    "cookie_partitioned": False,
    "cookie_secure": None,
    "idle_timeout": 7 * DAY,
    "absolute_timeout": 30 * DAY,
    "unremembered_timeout": 12 * HOUR,
    "anonymous_timeout": DAY,
    "renewal_interval": 5 * MINUTE,
    "fresh_for": 15 * MINUTE,
    "rotation_interval": None,
    "rotation_grace": 5 * MINUTE,
    "max_sessions_per_user": 100,
    "login_view": None,
    "confirm_view": None,
    "protected_paths": (),
    "no_renewal_paths": (),
    "trusted_origins": (),
    "guarded_no_store": True,
    "fresh_to_revoke": False,
    "locate": None,
    "clear_site_data": False,
    "device_bound": False,
    "device_bound_lifetime": 10 * MINUTE,
    "as_flask_session": False,
    "user_id_key": None,
    "migrate_cookie_session": False,
    "store_timeout": SECOND,
    "on_store_failure": "unavailable",
    "trace_commands": False,
    "near_cache": False,
    "near_cache_size": 10_000,
    "near_cache_max_age": 10 * SECOND,
    "max_session_bytes": 65_536,
    "record_ip": True,
    "record_user_agent": True,
}


class Validator(t.NamedTuple):
    """What a validator says of a bad value, with values that it accepts and refuses. A good value
    that the settings change is a `Kept`."""

    says: str
    good: list[t.Any]
    bad: list[t.Any]


class Kept(t.NamedTuple):
    given: t.Any
    settled: t.Any


NO_TEXT: list[t.Any] = [5, True, b"a", ["x"], {"x": 1}, {"x"}]

VALIDATORS: dict[str, Validator] = {
    "url": Validator(
        "must begin with one of",
        [
            "redis://localhost",
            "redis://user:p%40ss@[::1]:6380/3",
            "rediss://h:6379/0",
            "unix:///run/redis.sock?db=2",
            "redis://h?socket_timeout=2",
            "embedded://data",
            "embedded:///var/a b[1]:x",
            "embedded://data[1]",
            "embedded://data:v1",
        ],
        [],  # in the section "The URL", whose messages quote no value
    ),
    "key prefix": Validator(
        "must consist of letters, digits",
        ["a", "My_App.1:web-2"],
        ["", "a b", "{a}", "a}b", "a*", "a\n", "ä", *NO_TEXT],
    ),
    "name in g": Validator(
        "must be a Python name that is not an attribute of flask.g",
        ["login_session", "_x1"],
        [
            *("", "1a", "a-b", "a.b", "a b", "a\n", *NO_TEXT),
            *("get", "pop", "setdefault", "__class__", "__dict__", "class"),
        ],
    ),
    "cookie name": Validator(
        "must consist of the characters of a cookie name",
        ["a", "!#$%&'*+.^_`|~-9"],
        ["", "a;b", "a b", "a=b", "a,b", "ä", "a\n", "a\0", '"a"', "a(b)", "a@b", "a[b]", *NO_TEXT],
    ),
    "host name": Validator(
        "must be a host name",
        ["example.com", ".example.com", "localhost"],
        [
            *("", "a;b", "a b", "a..b", "https://a.b", "a.b:80", ".", "a.b.", "a\n", "ä.de", "a/b"),
            *("a" * 64 + ".com", "a." * 130 + "com", *NO_TEXT),
        ],
    ),
    "path": Validator(
        'must be a path that begins with "/"',
        ["/app/v1"],
        ["", "app", "/a;b", "/a b", "/a,b", "/a\n", "/a\0", *NO_TEXT],
    ),
    "SameSite": Validator(
        'must be "Lax", "Strict" or "None"',
        [Kept("lax", "Lax"), Kept("STRICT", "Strict"), "None"],
        ["", "lax ", "yes", "laxer", *NO_TEXT],
    ),
    "boolean": Validator(
        "must be True or False",
        [True, False],
        ["False", "True", "false", "0", "1", "", "on", 0, 1, 1.0, (True,), ["x"], {"x": 1}, {"x"}],
    ),
    "site data": Validator(
        'must be False, "cache" or "*"',
        ["cache", "*", Kept(True, "cache"), False],
        [
            "",
            '"cache"',
            "cookies",
            "Cache",
            "True",
            "cache,storage",
            0,
            1,
            ["cache"],
            ("*",),
            {"*"},
        ],
    ),
    "binding": Validator(
        'must be False or "offer"',
        [False],  # "offer" is in test_device_bound_setup, since it needs a blueprint
        ["", "Offer", "required", "False", True, 0, 1, None, ["offer"], {"offer"}],
    ),
    "binding's lifetime": Validator(
        "must be at least 1 minute",
        [Kept(1000, 1000 * SECOND), MINUTE, HOUR],
        [4, 30, 59.999, 59 * SECOND],
    ),
    "duration": Validator(
        "must be a timedelta or a number of seconds",
        [
            Kept(1000, 1000 * SECOND),
            Kept(1000.5, 1000 * SECOND + SECOND / 2),
            1000 * SECOND,
        ],
        ["3600", "7 days", True, b"1", Decimal(1), (1,), ["x"], {"x": 1}, {"x"}],
    ),
    "limit": Validator(
        "must be a whole number of at least 1",
        [1, at_most_two],
        [0, -1, 1.0, NAN, "5", True, False, (5,), ["x"], {"x": 1}, {"x"}],
    ),
    "endpoint": Validator(
        "must be the name of an endpoint", ["auth.sign_in"], ["", ("a",), *NO_TEXT]
    ),
    "paths": Validator(
        "must be a tuple of paths",
        [("/a/*", "/b"), Kept(["/a/*", "/"], ("/a/*", "/")), Kept(["/*"], ("/*",)), Kept([], ())],
        ["/a", "/a/*", {"/a"}, 5, {"/a": 1}],
    ),
    "origins": Validator(
        "must be a tuple of origins",
        [
            Kept(["https://a.example"], ("https://a.example",)),
            ("http://localhost:5000",),
            ("https://[::1]:8443", "app://a"),
        ],
        ["https://a.example", True, 5, {"x": 1}, {"x"}],
    ),
    "function": Validator(
        "must be a function (not async) that takes an IP address",
        [nowhere],
        ["GeoLite2-City.mmdb", True, 5, later, ["x"], {"x": 1}, {"x"}],
    ),
    "user id key": Validator("must be a session key", [], ["", ("a",), *NO_TEXT]),
    "store failure": Validator(
        'must be "unavailable" or "anonymous"', ["anonymous"], ["", "Anonymous", *NO_TEXT]
    ),
    "positive": Validator(
        "must be a whole number of at least 1",
        [1],
        [0, -1, 1.0, "65536", True, INF, ["x"], {"x": 1}, {"x"}],
    ),
}
validators = pytest.mark.parametrize("name", VALIDATORS)

KEYS: dict[str, tuple[str, ...]] = {
    "url": ("redis_url",),
    "key prefix": ("key_prefix",),
    "name in g": ("g_name",),
    "cookie name": ("cookie_name",),
    "host name": ("cookie_domain",),
    "path": ("cookie_path",),
    "SameSite": ("cookie_samesite",),
    "boolean": (
        "record_ip",
        "cookie_partitioned",
        "cookie_secure",
        "guarded_no_store",
        "fresh_to_revoke",
        "as_flask_session",
        "migrate_cookie_session",
        "record_user_agent",
        "near_cache",
        "trace_commands",
    ),
    "site data": ("clear_site_data",),
    "binding": ("device_bound",),
    "binding's lifetime": ("device_bound_lifetime",),
    "duration": (
        "idle_timeout",
        "absolute_timeout",
        "unremembered_timeout",
        "anonymous_timeout",
        "renewal_interval",
        "fresh_for",
        "rotation_interval",
        "rotation_grace",
        "store_timeout",
        "near_cache_max_age",
    ),
    "limit": ("max_sessions_per_user",),
    "endpoint": ("login_view", "confirm_view"),
    "paths": ("protected_paths", "no_renewal_paths"),
    "store failure": ("on_store_failure",),
    "origins": ("trusted_origins",),
    "function": ("locate",),
    "user id key": ("user_id_key",),
    "positive": ("max_session_bytes", "near_cache_size"),
}
"""The settings of each validator. The first of them stands for the validator in the tests that
try all its values."""

WITHOUT_NONE = {
    *("key_prefix", "cookie_name", "cookie_path", "cookie_samesite", "cookie_partitioned"),
    *("rotation_grace", "guarded_no_store"),
    *("fresh_for", "protected_paths", "trusted_origins", "fresh_to_revoke", "as_flask_session"),
    *("migrate_cookie_session", "store_timeout", "max_session_bytes", "record_ip"),
    *("record_user_agent", "clear_site_data", "no_renewal_paths", "on_store_failure"),
    *("device_bound", "device_bound_lifetime"),
    *("near_cache", "near_cache_size", "near_cache_max_age", "trace_commands"),
}
"""The settings that refuse None. To the others None means: as if the setting were not set."""

OTHER_REFUSALS: list[tuple[str, str, list[t.Any]]] = [
    (
        "idle_timeout",
        "must be from 1 millisecond to 100 years",
        [0, -1, 0.0001, timedelta(0), -DAY, 36500 * DAY + MS, 10**12, timedelta.max],
    ),
    ("idle_timeout", "must be from 1 millisecond to 100 years", [NAN, INF, 10**400]),
    (
        "cookie_name",
        "must not begin with __Host- or __Secure-",
        ["__Host-a", "__host-a", "__Secure-a", "__SECURE-"],
    ),
    (
        "protected_paths",
        "a path begins with",
        [
            *(["a"], [""], ["*"], ["/a*"], ["/*/a"], ["/a/*/*"], ["/a/**"], ["https://a/b"]),
            *([b"/a"], [None], [5]),
        ],
    ),
    (
        "trusted_origins",
        "write scheme://host or scheme://host:port in lower case",
        [
            *(["a.example"], ["https://"], ["https://a/"], ["https://a/b"], ["https://*.a"]),
            *(["https://A.example"], ["https://a:443"], ["http://a:80"], ["https://u@a"]),
            *(["null"], ["//a"], [5]),
        ],
    ),
    ("user_id_key", "the session key that holds the user's id", ["_fresh", "_permanent"]),
    ("user_id_key", "must consist of printable characters", ["\ud800"]),
]
"""Values that a validator refuses with another message than its first."""


def key_of(name: str) -> str:
    return f"KVSESSION_{name.upper()}"


def configure(**settings: t.Any) -> Settings:
    """The settings of an app with this configuration, in production mode."""
    app = Flask("app")
    app.config.update({key_of(name): value for name, value in settings.items()})
    kvs.KVSession(app)
    return state_of(app).settings


def refusal_of(**settings: t.Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as refusal:
        configure(**settings)
    return refusal.value


# Single settings


def test_the_tables_of_these_tests_name_every_setting() -> None:
    """Each setting has a default and exactly one validator in the tables of this file."""
    names = {setting.name for setting in dataclasses.fields(Settings)}
    assert names == DEFAULTS.keys()
    assert sorted(names) == sorted(key for keys in KEYS.values() for key in keys)
    assert KEYS.keys() == VALIDATORS.keys()


def test_an_unconfigured_app_has_every_default() -> None:
    """An app that sets nothing gets the defaults of the documentation's table."""
    assert dataclasses.asdict(configure()) == DEFAULTS


@validators
def test_a_validator_accepts_each_of_its_good_values(name: str) -> None:
    """Seconds become a timedelta and a list a tuple; any other good value is kept as it is."""
    key = KEYS[name][0]
    for value in VALIDATORS[name].good:
        given, settled = value if isinstance(value, Kept) else (value, value)
        found = getattr(configure(**{key: given}), key)
        assert (found, type(found)) == (settled, type(settled))


REFUSALS = [(KEYS[name][0], found.says, found.bad) for name, found in VALIDATORS.items()]
REFUSALS += OTHER_REFUSALS


@pytest.mark.parametrize(("key", "says", "values"), REFUSALS, ids=lambda part: str(part)[:30])
def test_a_validator_refuses_each_of_its_bad_values(
    key: str, says: str, values: list[t.Any]
) -> None:
    """The message begins with the key, says what is expected and quotes the given value."""
    for value in values:
        message = str(refusal_of(**{key: value}))
        assert message.startswith(f"{key_of(key)} ")
        assert says in message
        assert message.endswith(".")
        assert repr(value).strip("[]")[:100] in message


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in KEYS for key in KEYS[name]])
def test_each_setting_has_its_validator_and_names_its_own_key(name: str, key: str) -> None:
    """A bad value of the validator's kind is refused in the validator's words, under this key."""
    validator = VALIDATORS[name]
    message = str(refusal_of(**{key: (validator.bad or [5])[0]}))
    assert message.startswith(f"{key_of(key)} ")
    assert validator.says in message


def test_none_is_refused_or_means_that_a_setting_is_unset() -> None:
    """None is a bad value for some settings; for most others it means the default. For
    `KVSESSION_G_NAME` it means that the session is not in `g`, and for the limit that there is
    none."""
    for key in WITHOUT_NONE:
        assert str(refusal_of(**{key: None})).startswith(f"{key_of(key)} ")
    for key in DEFAULTS.keys() - WITHOUT_NONE - {"g_name", "max_sessions_per_user"}:
        assert configure(**{key: None}) == configure()
    assert configure(g_name=None).g_name is None
    assert configure(max_sessions_per_user=None).session_limit("ada") is None


def test_the_largest_and_smallest_durations_are_accepted() -> None:
    """A duration of 100 years and a duration of 1 millisecond are the limits."""
    assert configure(absolute_timeout=36500 * DAY).absolute_timeout == 36500 * DAY
    assert configure(renewal_interval=0.001).renewal_interval == MS


def test_a_cookie_name_may_have_256_characters_and_no_more() -> None:
    """A longer name is refused: browsers drop a cookie whose name and value have over 4,096 bytes
    (OWASP ASVS 5.0, 3.3.5)."""
    assert Settings(cookie_name="a" * 256).cookie_name == "a" * 256
    message = str(refusal_of(cookie_name="a" * 257))
    assert message.startswith("KVSESSION_COOKIE_NAME must have at most 256 characters")
    assert len(message) < 400


def test_an_int_too_large_to_print_is_refused() -> None:
    """An int that Python refuses to print raises the same error as any other bad value."""
    assert str(refusal_of(idle_timeout=10**5000)).startswith("KVSESSION_IDLE_TIMEOUT ")
    assert str(refusal_of(max_session_bytes=-(10**5000))).startswith("KVSESSION_MAX_SESSION_BYTES ")


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("idle_timeout", "7 days", "numbers such as 3600"),
        ("max_sessions_per_user", "ten", "numbers such as 3600"),
        ("protected_paths", "/account/*", 'lists such as ["/account/*"]'),
        ("trusted_origins", "https://a.example", "lists such as"),
        ("key_prefix", "123", "write '\"123\"'"),
        ("cookie_name", "true", "write '\"true\"'"),
    ],
)
def test_message_says_what_to_write_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, shown: str
) -> None:
    """The refusal of a value from the environment says how to write it there."""
    monkeypatch.setenv(f"FLASK_{key_of(name)}", text)
    app = Flask("app")
    app.config.from_prefixed_env()
    with pytest.raises(ConfigurationError, match="In the environment: ") as refused:
        kvs.KVSession(app)
    assert shown in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("record_ip", "false", False),
        ("idle_timeout", "3600", timedelta(hours=1)),
        ("protected_paths", '["/account/*"]', ("/account/*",)),
        ("key_prefix", '"123"', "123"),
        ("key_prefix", "shop", "shop"),
    ],
)
def test_what_the_messages_tell_to_write_works(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: t.Any
) -> None:
    """Each form that the messages propose gives the value that is meant."""
    monkeypatch.setenv(f"FLASK_{key_of(name)}", text)
    app = Flask("app")
    app.config.from_prefixed_env()
    kvs.KVSession(app)
    assert getattr(app.extensions["kvsession"].configured, name) == value


def test_the_text_false_from_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text "False" would count as true, so the message says that the value has to be
    converted."""
    monkeypatch.setenv(f"FLASK_{key_of('record_ip')}", "False")
    app = Flask("app")
    app.config.from_prefixed_env()
    with pytest.raises(ConfigurationError, match=r"^KVSESSION_RECORD_IP .*write true or false"):
        kvs.KVSession(app)


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings from the environment have the types that Flask reads: numbers, booleans and lists of
    JSON, and text."""
    for key, text in {
        "REDIS_URL": "redis://h:1",
        "IDLE_TIMEOUT": "3600",
        "RECORD_IP": "false",
        "PROTECTED_PATHS": '["/a/*"]',
        "COOKIE_SAMESITE": "Strict",
    }.items():
        monkeypatch.setenv(f"FLASK_KVSESSION_{key}", text)
    app = Flask("app")
    app.config.from_prefixed_env()
    kvs.KVSession(app)
    settings = state_of(app).settings
    assert settings.redis_url == "redis://h:1"
    assert settings.idle_timeout == HOUR
    assert settings.record_ip is False
    assert settings.protected_paths == ("/a/*",)
    assert settings.cookie_samesite == "Strict"


def test_setting_changed_after_its_first_use_has_no_effect() -> None:
    """A change of `app.config` after the first use of the settings has no effect, and a `Settings`
    object cannot be changed."""
    app = Flask("app")
    kvs.KVSession(app)
    settings = state_of(app).settings
    app.config["KVSESSION_IDLE_TIMEOUT"] = 1
    assert state_of(app).settings is settings
    assert settings.idle_timeout == 7 * DAY
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.idle_timeout = DAY  # type: ignore[misc]


@pytest.mark.parametrize("flask_session", [False, True], ids=["g.session", "flask.session"])
def test_setting_changed_between_init_app_and_the_first_request_raises(
    make_app: MakeApp, flask_session: bool
) -> None:
    """If a setting is changed, added or removed after `init_app`, every request raises an error
    that names it, also the request of a page that does not touch the session."""
    app = make_app(idle_timeout=60, as_flask_session=False, fresh_for=60)
    if flask_session:
        app = make_app(as_flask_session=True, fresh_for=60)
    app.config["KVSESSION_PROTECTED_PATHS"] = ("/untouched",)
    app.config["KVSESSION_ABSOLUTE_TIMEOUT"] = 3600
    del app.config["KVSESSION_FRESH_FOR"]
    for _ in range(2):
        with pytest.raises(
            ConfigurationError,
            match="KVSESSION_ABSOLUTE_TIMEOUT, KVSESSION_FRESH_FOR, KVSESSION_PROTECTED_PATHS "
            r"was changed after KVSession.*from_prefixed_env\(\) reads JSON",
        ):
            app.test_client().get("/untouched")


def test_debug_testing_and_foreign_settings_may_change_after_init_app(make_app: MakeApp) -> None:
    """Debug, testing and other extensions' settings may be changed after `init_app`."""
    app = make_app()
    app.config.update(TESTING=False, SECRET_KEY="x", SESSION_COOKIE_NAME="other")
    app.debug = True
    assert app.test_client().get("/untouched").status_code == 200


def test_settings_without_an_app_are_checked_alike() -> None:
    """`Settings` without Flask makes the same checks under the same names."""
    assert Settings(idle_timeout=60) == configure(idle_timeout=60)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"^KVSESSION_IDLE_TIMEOUT "):
        Settings(idle_timeout="60")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Settings(idle_timeot=60)  # type: ignore[call-arg]


# Flask's lifetime

FLASK_SESSION = {"KVSESSION_AS_FLASK_SESSION": True, "PERMANENT_SESSION_LIFETIME": DAY}


@pytest.mark.parametrize(
    ("config", "idle_timeout"),
    [
        ({"PERMANENT_SESSION_LIFETIME": 20 * DAY}, 20 * DAY),
        ({"PERMANENT_SESSION_LIFETIME": 3600}, HOUR),
        ({"PERMANENT_SESSION_LIFETIME": 31 * DAY}, 30 * DAY),
        ({"KVSESSION_ABSOLUTE_TIMEOUT": 3600}, HOUR),
        ({"KVSESSION_ABSOLUTE_TIMEOUT": None}, DAY),
        ({"KVSESSION_AS_FLASK_SESSION": False}, 7 * DAY),
    ],
    ids=str,
)
def test_flask_lifetime_is_the_idle_timeout_of_flask_session(
    config: dict[str, t.Any], idle_timeout: timedelta
) -> None:
    """Flask's lifetime applies to `flask.session` only, up to the absolute timeout."""
    assert Settings.from_config(FLASK_SESSION | config).idle_timeout == idle_timeout


def test_flask_lifetime_caps_the_timeouts_that_are_not_set() -> None:
    """The other idle timeouts and the renewal interval follow from Flask's lifetime."""
    settings = Settings.from_config(FLASK_SESSION | {"PERMANENT_SESSION_LIFETIME": 60})
    assert settings.unremembered_timeout == settings.anonymous_timeout == MINUTE
    assert settings.renewal_interval == MINUTE / 2


def test_a_config_without_flask_lifetime_has_the_default_idle_timeout() -> None:
    """A mapping that is not a Flask config need not hold Flask's settings."""
    assert Settings.from_config({"KVSESSION_AS_FLASK_SESSION": True}).idle_timeout == 7 * DAY


@pytest.mark.parametrize("lifetime", [None, 0, "3600", NAN])
def test_an_invalid_flask_lifetime_is_refused_for_flask_session(lifetime: t.Any) -> None:
    """The message names Flask's key, which is not read for other sessions."""
    config = FLASK_SESSION | {"PERMANENT_SESSION_LIFETIME": lifetime}
    with pytest.raises(ConfigurationError, match=r"^PERMANENT_SESSION_LIFETIME must be .*\.$"):
        Settings.from_config(config)
    assert Settings.from_config(config | {"KVSESSION_AS_FLASK_SESSION": False}) == Settings()


def test_an_invalid_absolute_timeout_is_named_for_flask_session_too() -> None:
    """The message names the absolute timeout and not the lifetime that it would cap."""
    with pytest.raises(ConfigurationError, match=r"^KVSESSION_ABSOLUTE_TIMEOUT must be"):
        Settings.from_config(FLASK_SESSION | {"KVSESSION_ABSOLUTE_TIMEOUT": "1"})


# Settings that were changed


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({}, {}, []),
        ({}, {"IDLE_TIMEOUT": 60}, ["IDLE_TIMEOUT"]),
        ({"IDLE_TIMEOUT": 60}, {}, ["IDLE_TIMEOUT"]),
        ({"IDLE_TIMEOUT": 60}, {"IDLE_TIMEOUT": MINUTE}, []),
        ({"PROTECTED_PATHS": ["/a"]}, {"PROTECTED_PATHS": ("/a",)}, []),
        (
            {"REDIS_URL": "redis://a"},
            {"RECORD_IP": False, "PROTECTED_PATHS": ["/a/*"]},
            ["PROTECTED_PATHS", "RECORD_IP", "REDIS_URL"],
        ),
        ({}, {"AS_FLASK_SESSION": True}, ["AS_FLASK_SESSION"]),
        (
            {"AS_FLASK_SESSION": True},
            {"AS_FLASK_SESSION": True, "ABSOLUTE_TIMEOUT": 60},
            ["ABSOLUTE_TIMEOUT"],
        ),
    ],
    ids=str,
)
def test_changed_keys_are_the_config_keys_with_different_values(
    before: dict[str, t.Any], after: dict[str, t.Any], changed: list[str]
) -> None:
    """Keys are reported for their normalised values; derived defaults are not reported."""
    flask = {"PERMANENT_SESSION_LIFETIME": 31 * DAY}
    one, two = (
        Settings.from_config(flask | {key_of(name): value for name, value in values.items()})
        for values in (before, after)
    )
    assert one.changed_keys(two) == two.changed_keys(one) == [key_of(name) for name in changed]


def test_a_changed_flask_lifetime_is_no_changed_key() -> None:
    """PERMANENT_SESSION_LIFETIME is often set after `init_app`, which must not be an error."""
    one, two = (
        Settings.from_config(FLASK_SESSION | {"PERMANENT_SESSION_LIFETIME": lifetime})
        for lifetime in (HOUR, DAY)
    )
    assert one != two
    assert one.changed_keys(two) == []


def test_a_list_that_changes_in_place_is_a_changed_key() -> None:
    """The settings keep a copy, so that a path that is appended later is noticed."""
    config = {"KVSESSION_PROTECTED_PATHS": ["/a"]}
    before = Settings.from_config(config)
    config["KVSESSION_PROTECTED_PATHS"].append("/b")
    assert before.protected_paths == ("/a",)
    assert before.changed_keys(Settings.from_config(config)) == ["KVSESSION_PROTECTED_PATHS"]


def test_the_user_id_key_is_reserved() -> None:
    """Without a user id key no session key is reserved."""
    assert Settings().reserved_keys == frozenset()
    settings = Settings(as_flask_session=True, user_id_key="user_id")
    assert settings.reserved_keys == {"user_id"}


# Unknown keys


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("IDLE_TIMEOT", "IDLE_TIMEOUT"),
        ("IDLE_TIME_OUT", "IDLE_TIMEOUT"),
        ("REDIS_URI", "REDIS_URL"),
        ("COKIE_NAME", "COOKIE_NAME"),
        ("COOKIE_SAME_SITE", "COOKIE_SAMESITE"),
        ("MAX_SESSION_PER_USER", "MAX_SESSIONS_PER_USER"),
        ("PROTECTED_PATH", "PROTECTED_PATHS"),
        ("LOGINVIEW", "LOGIN_VIEW"),
        ("REDIS", "REDIS_URL"),
        ("MIGRATE", "MIGRATE_COOKIE_SESSION"),
    ],
)
def test_the_refusal_of_a_misspelt_key_names_the_right_key(misspelt: str, meant: str) -> None:
    """The message for a misspelt key names the right key and does not quote the value."""
    message = str(refusal_of(**{misspelt: "redis://:s3cr3t@h"}))
    assert message.startswith(f"KVSESSION_{misspelt} is not a setting")
    assert message.endswith(f"did you mean KVSESSION_{meant}?")
    assert "s3cr3t" not in message


def test_the_refusal_of_an_ambiguous_key_proposes_no_key() -> None:
    """The message for the beginning of many keys refers to the list of keys."""
    message = str(refusal_of(COOKIE="x"))
    assert message == (
        "KVSESSION_COOKIE is not a setting; remove it, or see the list of settings in the README."
    )


@pytest.mark.parametrize("key", ["KVSESSION_", "KVSESSION_idle_timeout", "KVSESSION_REDIS_URL "])
def test_an_unknown_key_with_the_package_s_prefix_is_refused(key: str) -> None:
    """No key that begins with `KVSESSION_` is ignored."""
    app = Flask("app")
    app.config[key] = 1
    with pytest.raises(ConfigurationError) as refusal:
        kvs.KVSession(app)
    assert str(refusal.value).startswith(f"{key} is not a setting")


def test_keys_with_another_prefix_are_ignored() -> None:
    """A configuration may hold any other key, also one that resembles the package's keys."""
    app = Flask("app")
    app.config.update(KVSESSIONS_X=1, kvsession_x=1, SESSION_KVSESSION_X=1)
    kvs.KVSession(app)


# Timeouts together


@pytest.mark.parametrize(
    ("chosen", "settled"),
    [
        ({"absolute_timeout": DAY}, {"idle_timeout": DAY, "anonymous_timeout": DAY}),
        (
            {"absolute_timeout": HOUR},
            {"idle_timeout": HOUR, "unremembered_timeout": HOUR, "anonymous_timeout": HOUR},
        ),
        ({"absolute_timeout": 4 * MINUTE}, {"renewal_interval": 2 * MINUTE}),
        ({"absolute_timeout": 90 * DAY}, {"idle_timeout": 7 * DAY, "anonymous_timeout": DAY}),
        (
            {"idle_timeout": HOUR},
            {"absolute_timeout": 30 * DAY, "unremembered_timeout": HOUR, "anonymous_timeout": HOUR},
        ),
        ({"idle_timeout": 20 * DAY}, {"unremembered_timeout": 12 * HOUR, "anonymous_timeout": DAY}),
        ({"idle_timeout": MINUTE}, {"renewal_interval": MINUTE / 2}),
        ({"anonymous_timeout": MINUTE}, {"renewal_interval": MINUTE / 2, "idle_timeout": 7 * DAY}),
        ({"unremembered_timeout": MINUTE}, {"renewal_interval": MINUTE / 2}),
        (
            {"idle_timeout": 15 * MINUTE, "absolute_timeout": 12 * HOUR},
            {"unremembered_timeout": 15 * MINUTE, "renewal_interval": 5 * MINUTE},
        ),
        ({"idle_timeout": None, "absolute_timeout": HOUR}, {"idle_timeout": HOUR}),
    ],
    ids=str,
)
def test_an_unset_timeout_is_capped_by_the_timeouts_that_are_set(
    chosen: dict[str, timedelta], settled: dict[str, timedelta]
) -> None:
    """A developer who shortens one timeout need not shorten the timeouts that must not be
    longer."""
    settings = configure(**chosen)
    assert {name: getattr(settings, name) for name in settled} == settled
    assert all(getattr(settings, name) == chosen[name] for name in chosen if chosen[name])


TIMEOUTS = [
    "idle_timeout",
    "absolute_timeout",
    "unremembered_timeout",
    "anonymous_timeout",
    "renewal_interval",
]


@given(st.dictionaries(st.sampled_from(TIMEOUTS), st.timedeltas(MS, 100 * DAY)))
@hypothesis_settings(max_examples=300, deadline=None, database=None)
def test_any_timeouts_either_fit_together_or_are_refused(chosen: dict[str, timedelta]) -> None:
    """Either the message names a timeout that does not fit, or all timeouts fit and the chosen ones
    are unchanged."""
    settings, refusal = None, ""
    try:
        settings = configure(**chosen)
    except ConfigurationError as error:
        refusal = str(error)
    if settings is None:
        assert any(refusal.startswith(f"{key_of(name)} ") for name in chosen)
        return
    idle = [settings.idle_timeout, settings.unremembered_timeout, settings.anonymous_timeout]
    assert max(idle) <= settings.absolute_timeout
    assert settings.renewal_interval <= min(idle) / 2
    for name in TIMEOUTS:
        assert getattr(settings, name) == chosen.get(name, getattr(settings, name))
        assert name in chosen or getattr(settings, name) <= DEFAULTS[name]


@pytest.mark.parametrize(
    ("chosen", "key", "said"),
    [
        ({"idle_timeout": 2 * DAY, "absolute_timeout": DAY}, "IDLE_TIMEOUT", "2 days"),
        ({"idle_timeout": 31 * DAY}, "IDLE_TIMEOUT", "31 days"),
        ({"unremembered_timeout": 2, "absolute_timeout": 1}, "UNREMEMBERED_TIMEOUT", "0:00:02"),
        ({"anonymous_timeout": 2, "absolute_timeout": 1}, "ANONYMOUS_TIMEOUT", "0:00:02"),
        ({"renewal_interval": HOUR, "idle_timeout": HOUR}, "RENEWAL_INTERVAL", "1:00:00"),
        ({"renewal_interval": HOUR, "anonymous_timeout": HOUR}, "RENEWAL_INTERVAL", "1:00:00"),
        ({"renewal_interval": DAY}, "RENEWAL_INTERVAL", "1 day"),
        ({"rotation_interval": 60}, "ROTATION_INTERVAL", "0:01:00"),
        ({"rotation_interval": 9, "rotation_grace": 9}, "ROTATION_INTERVAL", "0:00:09"),
        ({"cookie_samesite": "None", "cookie_secure": False}, "COOKIE_SAMESITE", '"None"'),
        ({"cookie_partitioned": True, "cookie_secure": False}, "COOKIE_PARTITIONED", "True"),
    ],
    ids=str,
)
def test_a_combination_of_settings_that_cannot_work_is_refused(
    chosen: dict[str, t.Any], key: str, said: str
) -> None:
    """The message names the first key, the given value and the remedy."""
    message = str(refusal_of(**chosen))
    assert message.startswith(f"KVSESSION_{key} ")
    assert said in message


def test_each_kind_of_session_has_its_own_idle_timeout() -> None:
    """A remembered session, a session that is not remembered and an anonymous session have an idle
    timeout each."""
    settings = configure(idle_timeout=300, unremembered_timeout=200, anonymous_timeout=100)

    def record(user_id: str | None, remembered: bool) -> Record:
        token = Token.for_session(new_session_id(None))
        client = Client()
        return new_record(
            token, now=0, client=client, user_id=user_id, remembered=remembered, data={}
        )

    kinds = [record("ada", True), record("ada", False), record(None, True)]
    assert [settings.expires(kind) for kind in kinds] == [300_000, 200_000, 100_000]


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2", float("nan")])
def test_a_bad_limit_that_a_function_returns_is_refused(limit: t.Any) -> None:
    """The error for a function's bad limit names the setting."""
    settings = configure(max_sessions_per_user=lambda user_id: limit)
    with pytest.raises(ConfigurationError, match="KVSESSION_MAX_SESSIONS_PER_USER"):
        settings.session_limit("ada")


def test_a_limit_by_function_depends_on_the_user() -> None:
    """The function gets the user's id, and None means no limit."""
    settings = configure(max_sessions_per_user=lambda user_id: {"ada": 3}.get(user_id))
    assert settings.session_limit("ada") == 3
    assert settings.session_limit("bob") is None


# The URL

PASSWORDS = ["s3cr3t", "s3cr3t/x", "x/s3cr3t", "s3cr3t@x", "s3cr3t:x", "s3cr3t#x", "s3cr3t?x"]
PASSWORDS += ["s3cr3t[x", "s3cr3t]", "s3cr3t%zz", "s3cr3t x", "12/s3cr3t", "12#s3cr3t", "12?s3cr3t"]
BAD_URLS = [
    "reids://:{}@h",
    "http://:{}@h",
    "REDIS://:{}@h",
    ":{}@h:6379",
    "redis:{}@h",
    "redis+sentinel://:{}@h:1,h:2",
    "redis+cluster://:{}@h:1,h:x",
    "rediss+cluster://:{}@h:1?nonsense=1",
    "redis://:{}@h:port",
    "redis://:{}@h:99999",
    "redis://:{}@[::1",
    "redis://:{}@h1:1,h2:2/0",
    "redis://:{}@h?nonsense=1",
    "redis://:{}@h?db=one",
    "redis://h?socket_timeout={}",
    "redis://h?{}=1",
    "rediss://h?ssl_cert_reqs={}",
    "redis://:{}@h?protocol=9",
    "unix://:{}@/run/redis.sock?db=one",
]


def all_texts(error: BaseException) -> str:
    """Every text that an error report could show: the error, its causes and the traceback."""
    texts, queue, seen = ["".join(traceback.format_exception(error))], [error], set[int]()
    while queue:
        current = queue.pop()
        if id(current) not in seen:
            seen.add(id(current))
            texts += [str(current), repr(current), repr(current.args)]
            queue += filter(None, [current.__cause__, current.__context__])
    return "\n".join(texts)


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    """Neither the error nor its causes quote any part of the URL that may be the password."""
    for password in PASSWORDS:
        refusal = refusal_of(redis_url=url.format(password))
        assert str(refusal).startswith("KVSESSION_REDIS_URL ")
        assert "s3cr3t" not in all_texts(refusal)


@pytest.mark.parametrize("url", ["redis://:{}@h:6379/0", "redis://ada:{}@h", "rediss://:{}@h"])
def test_a_url_whose_password_ends_the_host_is_refused(url: str) -> None:
    """A password with an unquoted / # or ? never makes an app connect to another host."""
    for password in ["12/s3cr3t", "12#s3cr3t", "12?s3cr3t", "/s3cr3t", "#s3cr3t"]:
        refusal = refusal_of(redis_url=url.format(password))
        assert str(refusal).startswith("KVSESSION_REDIS_URL ")
        assert "s3cr3t" not in all_texts(refusal)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/main",
        "redis://h/0/1",
        "redis://h/-1",
        "redis://h/0#1",
        "unix://",
        "unix://@",
        "unix://redis.sock",
        "unix://run/redis.sock",
        "unix://localhost/run/redis.sock",
    ],
)
def test_a_url_that_redis_py_would_misread_is_refused(url: str) -> None:
    """A URL with a part that redis-py would ignore is an error at start-up."""
    assert str(refusal_of(redis_url=url)).startswith("KVSESSION_REDIS_URL ")


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "localhost:6379", "embedded://", 5, b"redis://h", ["redis://h"], {"a": 1}],
)
def test_the_refusal_of_a_value_that_is_no_url_names_the_schemes(url: t.Any) -> None:
    """The message says what a URL must begin with."""
    message = str(refusal_of(redis_url=url))
    assert message.startswith(
        "KVSESSION_REDIS_URL is empty" if url == "" else "KVSESSION_REDIS_URL "
    )
    assert "embedded://" in message


def test_the_refusal_of_a_misspelt_scheme_names_the_right_scheme() -> None:
    """The message for a scheme that is nearly right names the right scheme."""
    message = str(refusal_of(redis_url="redid://h"))
    assert message.startswith("KVSESSION_REDIS_URL must begin with one of redis://, ")
    assert re.search(r"did you mean redis(://)?\?$", message)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h:1,h:2/main",
        "redis+sentinel://user:p%2Fw@h,[::1]:2/main/3?ssl_cert_reqs=none",
        "rediss+sentinel://:p@h/main",
        "redis+cluster://h:1,h:2",
        "rediss+cluster://:p@h:1,h:2/0?client_name=web",
    ],
)
def test_urls_of_several_servers_are_accepted(url: str) -> None:
    """A URL of Sentinels names hosts, the service and a database; a URL of a cluster names
    hosts."""
    if "ssl_" in url:
        url = url.replace("redis+", "rediss+")
    app = Flask("app")
    app.config["KVSESSION_REDIS_URL"] = url
    kvs.KVSession(app)


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("redis+sentinel://h:1", "/service[/db]"),
        ("redis+sentinel://h:1/main/x", "/service[/db]"),
        ("redis+sentinel:///main", "/service[/db]"),
        ("redis+sentinel://h:1,/main", "/service[/db]"),
        ("redis+sentinel://h:0/main", "/service[/db]"),
        ("redis+cluster://h:1/2", "[,host[:port]]"),
        ("redis+cluster://h:x,h:2", "[,host[:port]]"),
        ("redis+cluster://", "[,host[:port]]"),
        ("redis+cluster://:12/s3cr3t@h", "[,host[:port]]"),
    ],
)
def test_a_malformed_url_of_several_servers_is_refused_with_its_form(url: str, form: str) -> None:
    """The message shows what such a URL looks like, and not the URL."""
    refusal = refusal_of(redis_url=url)
    assert form in str(refusal)
    assert "s3cr3t" not in all_texts(refusal)


def test_no_repr_shows_the_password_of_the_url() -> None:
    """No repr that a debugger or a log may show holds the URL's password."""
    app = Flask("app")
    app.config["KVSESSION_REDIS_URL"] = "redis://ada:s3cr3t@127.0.0.1:1/0"
    kvs.KVSession(app)
    state = state_of(app)
    assert "s3cr3t" not in f"{state!r} {state.settings!r} {app.extensions} {state.store!r}"
    other = Flask("other")
    with redis.Redis.from_url("redis://ada:s3cr3t@127.0.0.1:1/0") as ready:
        kvs.KVSession(other, redis=ready)
        state = state_of(other)
        assert "s3cr3t" not in f"{state!r} {state.settings!r} {other.extensions} {state.store!r}"


def test_the_log_of_a_failing_store_hides_the_password(caplog: pytest.LogCaptureFixture) -> None:
    """A store that cannot be reached is logged without its password."""
    app = Flask("app")
    app.config["KVSESSION_REDIS_URL"] = "redis://ada:s3cr3t@127.0.0.1:1/0"
    kvs.KVSession(app)
    add_views(app)
    response = app.test_client().post("/login/ada")
    assert response.status_code == 503
    assert "127.0.0.1:1" in caplog.text
    assert "s3cr3t" not in caplog.text + response.get_data(as_text=True)


# Setting up


def test_setting_up_an_app_twice_is_an_error() -> None:
    """A second `init_app` on one app raises, and the settings of the first one stay."""
    app = Flask("app")
    kvs.KVSession(app)
    state = state_of(app)
    for again in (kvs.KVSession, kvs.KVSession().init_app):
        with pytest.raises(ConfigurationError, match="once"):
            again(app)
    assert state_of(app) is state
    assert len(app.before_request_funcs[None]) == len(app.after_request_funcs[None]) == 1


def test_an_app_can_be_set_up_after_a_failed_set_up() -> None:
    """A failed set-up leaves nothing in the app."""
    app = Flask("app")
    app.config["KVSESSION_IDLE_TIMEOUT"] = 0
    with pytest.raises(ConfigurationError):
        kvs.KVSession(app)
    assert "kvsession" not in app.extensions
    assert not app.before_request_funcs
    app.config["KVSESSION_IDLE_TIMEOUT"] = 60
    kvs.KVSession(app)


def test_two_apps_of_one_extension_share_nothing(socket_path: str, prefix: str) -> None:
    """Two apps of one extension object have their own settings, cookies and sessions."""
    kv = kvs.KVSession()
    apps = []
    for name, idle in (("one", 60), ("two", 120)):
        app = Flask(name)
        app.config.update(
            TESTING=True,
            KVSESSION_REDIS_URL=f"unix://{socket_path}",
            KVSESSION_KEY_PREFIX=f"{prefix}-{name}",
            KVSESSION_COOKIE_NAME=name,
            KVSESSION_IDLE_TIMEOUT=idle,
        )
        kv.init_app(app)
        add_views(app)
        apps.append(app)
    assert vars(kv) == {}
    assert [state_of(app).settings.idle_timeout for app in apps] == [MINUTE, 2 * MINUTE]
    clients = [app.test_client() for app in apps]
    clients[0].post("/login/ada")
    token = clients[0].get_cookie("one")
    assert token
    for name in ("one", "two"):
        clients[1].set_cookie(name, token.value)
    assert clients[0].get("/me").status_code == 200
    assert clients[1].get("/me").status_code == 401
    with apps[1].app_context():
        assert kvs.list_sessions("ada") == []


@pytest.mark.parametrize("decode_responses", [True, False])
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_ready_client_is_used_instead_of_a_url(
    socket_path: str, prefix: str, decode_responses: bool, protocol: int
) -> None:
    """Any redis-py client works, whatever it decodes and whichever protocol it speaks, and no URL
    is needed."""
    app = Flask("app")
    app.config.update(TESTING=True, KVSESSION_KEY_PREFIX=prefix)
    with redis.Redis(
        unix_socket_path=socket_path, decode_responses=decode_responses, protocol=protocol
    ) as ready:
        kvs.KVSession(app, redis=ready)
        add_views(app)
        client = app.test_client()
        client.post("/login/ada", json={"data": {"a": 1}})
        client.post("/data", json={"b": 2})
        assert client.get("/me").get_json()["data"] == {"a": 1, "b": 2}
        with app.app_context():
            assert kvs.revoke_all_sessions("ada") == 1
        assert client.get("/me").status_code == 401


def test_a_client_without_an_app_is_refused(socket_path: str) -> None:
    """The message says to pass the client to `init_app`."""
    with redis.Redis(unix_socket_path=socket_path) as ready:
        with pytest.raises(ConfigurationError, match=r"kv\.init_app\(app, redis=client\)"):
            kvs.KVSession(redis=ready)
        kvs.KVSession().init_app(Flask("app"), redis=ready)


def test_using_the_session_of_an_app_without_the_extension_raises() -> None:
    """The error in an app without the extension names the remedy."""
    app = Flask("app")
    with app.test_request_context(), pytest.raises(ConfigurationError, match=r"KVSession\(app\)"):
        len(kvs.current_session)
    with app.app_context(), pytest.raises(ConfigurationError, match=r"kv\.init_app\(app\)"):
        kvs.list_sessions("ada")


# Without a URL


def test_production_without_a_url_raises_at_the_first_store_call() -> None:
    """Without a URL, set-up and pages without a session work; the first call of the store raises an
    error that names the setting."""
    app = Flask("app")
    kvs.KVSession(app)
    add_views(app)
    app.config["PROPAGATE_EXCEPTIONS"] = True
    client = app.test_client()
    assert client.get("/untouched").status_code == 200
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"^KVSESSION_REDIS_URL is not set"):
            client.post("/login/ada")
    with app.app_context(), pytest.raises(ConfigurationError, match="KVSESSION_REDIS_URL"):
        kvs.list_sessions("ada")


OWN_SERVER = """
import sys
from flask import Flask
import flask_kvsession as kvs
app = Flask("app", instance_path=sys.argv[2])
kvs.KVSession(app)
@app.post("/login")
def login():
    return {"id": kvs.login_user("ada").id}
@app.get("/me")
@kvs.login_required
def me():
    return {}
setattr(app, sys.argv[1], True)  # as is often done: after the set-up
client = app.test_client()
assert client.post("/login").status_code == 200
assert client.get("/me").status_code == 200
with app.app_context():
    print(len(kvs.list_sessions("ada")))
print(app.extensions["kvsession"].store._server._client._node._options["path"])
"""


def run_with_own_server(mode: str, folder: Path) -> tuple[int, Path]:
    """Runs a small app without a URL; returns the number of ada's sessions that the app listed, and
    the socket of its server."""
    (folder / "tmp").mkdir(exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(Path(kvs.__file__).parents[1]),
        "TMPDIR": str(folder / "tmp"),
    }
    lines = subprocess.run(
        [sys.executable, "-W", "error", "-c", OWN_SERVER, mode, str(folder / "instance")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return int(lines[0]), Path(lines[1])


USE_AT_EXIT = """
import atexit, time
from flask import Flask
import flask_kvsession as kvs
app = Flask("app")
kvs.KVSession(app)
app.testing = True

@atexit.register
def last():  # registered before the server is started, so it is called after later handlers
    time.sleep(0.5)  # long enough for a server to stop
    print(app.extensions["kvsession"].store.sessions_of("ada"))

app.extensions["kvsession"].store.now()
"""


def test_exit_handlers_of_an_app_can_still_use_its_embedded_server(tmp_path: Path) -> None:
    """The embedded server runs until the app's process has ended, so that the app's exit handlers
    can use sessions."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(kvs.__file__).parents[1]),
        "TMPDIR": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-c", USE_AT_EXIT], env=environment, capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


def vanishes(path: Path) -> bool:
    """Whether the path is gone within ten seconds."""
    for _ in range(200):
        if not path.exists():
            return True
        time.sleep(0.05)
    return False


def test_debug_without_a_url_keeps_sessions_in_the_instance_folder(tmp_path: Path) -> None:
    """In debug mode sessions outlive a restart of the app, and the server ends with the app."""
    seen, socket = run_with_own_server("debug", tmp_path)
    assert seen == 1
    assert vanishes(socket)
    assert (tmp_path / "instance" / "kvsession").is_dir()
    seen, socket = run_with_own_server("debug", tmp_path)
    assert seen == 2
    assert vanishes(socket)


def test_testing_without_a_url_leaves_nothing_behind(tmp_path: Path) -> None:
    """In testing mode all data are in a temporary folder, of which nothing is left."""
    seen, socket = run_with_own_server("testing", tmp_path)
    assert seen == 1
    assert vanishes(socket)
    assert not (tmp_path / "instance").exists()
    assert all(map(vanishes, (tmp_path / "tmp").iterdir()))


def test_the_server_of_a_collected_app_under_test_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a process the server of an app ends when the app is freed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    app = Flask("app")
    kvs.KVSession(app)
    app.testing = True
    state_of(app).store.now()
    (folder,) = (path for path in tmp_path.iterdir() if (path / "server.log").exists())
    del app
    gc.collect()
    assert vanishes(folder)


def test_two_apps_under_test_have_a_server_each(make_app: MakeApp) -> None:
    """Each app in testing mode without a URL has its own server, and so its own sessions."""
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        app.testing = True
        kvs.KVSession(app)
        add_views(app)
    client = apps[0].test_client()
    client.post("/login/ada")
    with apps[0].app_context():
        assert len(kvs.list_sessions("ada")) == 1
    with apps[1].app_context():
        assert kvs.list_sessions("ada") == []
