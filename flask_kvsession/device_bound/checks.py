"""Finds the endpoints of an app for device-bound sessions, and checks that its offers can work."""

from __future__ import annotations

import importlib.util
import typing as t
from datetime import timedelta
from functools import partial
from inspect import unwrap

from flask import url_for

from ..cookie import SessionCookie
from ..errors import ConfigurationError
from ..settings import config_key
from .views import not_installed

if t.TYPE_CHECKING:
    from flask import Flask
    from werkzeug.routing import Rule

    from ..app_state import AppState

_SAFE_LIFETIME = timedelta(minutes=4)
"""Chromium 156 renews a short cookie that ends within 2 minutes with each page, and signs at most 6
times in 9 minutes."""

_KEY = f'{config_key("device_bound")} = "offer"'


def install(state: AppState) -> None:
    """Raises `ConfigurationError` if the app offers to bind sessions and that cannot work. What the
    app may still change is checked at the first request."""
    if state.configured.device_bound:
        if not _has_extra():
            raise ConfigurationError(
                f'{_KEY} needs joserfc; pip install "Flask-KVSession-Redis[device-bound]".'
            )
        if not state.flask_cookie:
            cookie = SessionCookie.from_settings(state.configured, development=False)
            _require_possible_cookie(cookie)
    state.first_use_checks.append(_find_endpoints)


def _has_extra() -> bool:
    return importlib.util.find_spec("joserfc") is not None


def _find_endpoints(state: AppState) -> None:
    """Browsers are answered also if the app offers nothing: their sessions may be bound, by another
    worker or before the setting was changed."""
    rules = {rule.endpoint.rpartition(".")[2]: rule for rule in _rules(state.app)}
    if state.configured.device_bound:
        _check_offer(state, rules)
    if rules and _has_extra():
        state.device_endpoints = {rule.endpoint: name for name, rule in rules.items()}
        state.registration_url = partial(url_for, rules["register"].endpoint)


def _rules(app: Flask) -> list[Rule]:
    """The rules of the blueprint, whose view an extension may have wrapped."""
    ours = {e for e, view in app.view_functions.items() if unwrap(view) is not_installed}
    return [rule for rule in app.url_map.iter_rules() if rule.endpoint in ours]


def _check_offer(state: AppState, rules: dict[str, Rule]) -> None:
    if not rules:
        raise ConfigurationError(
            f"{_KEY} needs the URLs that browsers call; add"
            " app.register_blueprint(device_bound_blueprint), from flask_kvsession."
        )
    for rule in rules.values():
        if rule.arguments or rule.subdomain or rule.host:
            raise ConfigurationError(
                f"{_KEY} needs URLs without a variable part, on the host of the app, but"
                f" device_bound_blueprint has {rule.rule!r}; register it with another url_prefix,"
                " and without a subdomain or host."
            )
    if state.flask_cookie:
        _require_possible_cookie(state.flask_cookie(state.app))
    if state.configured.device_bound_lifetime < _SAFE_LIFETIME:
        state.warn_once(
            f"{config_key('device_bound_lifetime')} is shorter than 4 minutes. Browsers limit how"
            " often a device signs, so a user who opens a page every few seconds will be signed"
            f" out; set {config_key('device_bound_lifetime')} to 4 minutes or more."
        )


def _require_possible_cookie(cookie: SessionCookie) -> None:
    """The short cookie has the attributes of the session's cookie and the prefix `__Host-`, which
    browsers accept with these only."""
    keys = cookie.keys
    problems = [
        (not cookie.secure, f"{keys.secure} = True", "the device proves itself over https only"),
        (
            cookie.path != "/",
            f"{keys.path} = '/' instead of {cookie.path!r}",
            "it protects the whole site",
        ),
        (
            cookie.domain,
            f"{keys.domain} to be unset",
            "other hosts of that domain could set the cookie",
        ),
        (
            cookie.partitioned,
            f"{keys.partitioned} = False",
            "browsers do not bind a session with such a cookie",
        ),
    ]
    for is_wrong, remedy, reason in problems:
        if is_wrong:
            raise ConfigurationError(
                f"{_KEY} needs {remedy}, because {reason}; change that setting, or remove"
                f" {config_key('device_bound')}."
            )
