"""Checks that an app can offer device-bound sessions."""

from __future__ import annotations

import importlib.util
import typing as t
from datetime import timedelta
from functools import partial

from flask import url_for

from ..cookie import SessionCookie
from ..errors import ConfigurationError
from ..settings import config_key
from .views import endpoint_of

if t.TYPE_CHECKING:
    from ..app_state import AppState

_SAFE_LIFETIME = timedelta(minutes=4)
"""Chromium 156 renews a short cookie that ends within 2 minutes with each page, and signs at most 6
times in 9 minutes."""

_KEY = f'{config_key("device_bound")} = "offer"'


def install(state: AppState) -> None:
    """Raises `ConfigurationError` if the offer cannot work. What the app may still change is
    checked at the first request."""
    if importlib.util.find_spec("joserfc") is None:
        raise ConfigurationError(
            f'{_KEY} needs joserfc; pip install "Flask-KVSession-Redis[device-bound]".'
        )
    if not state.flask_cookie:
        _require_possible_cookie(SessionCookie.from_settings(state.configured, development=False))
    state.first_use_checks.append(_complete)


def _complete(state: AppState) -> None:
    if state.flask_cookie:
        _require_possible_cookie(state.flask_cookie(state.app))
    endpoint = endpoint_of(state.app, "register")
    if endpoint is None:
        raise ConfigurationError(
            f"{_KEY} needs the URLs that browsers call; add"
            " app.register_blueprint(device_bound_blueprint)."
        )
    state.registration_url = partial(url_for, endpoint)
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
        (not cookie.secure, f"{keys.secure} True", "the device proves itself over https only"),
        (cookie.path != "/", f"{keys.path} '/', not {cookie.path!r}", "it protects the whole site"),
        (cookie.domain, f"no {keys.domain}", "a cookie for several hosts can be set by each"),
        (cookie.partitioned, f"{keys.partitioned} False", "browsers do not bind such a cookie"),
    ]
    for is_wrong, remedy, reason in problems:
        if is_wrong:
            raise ConfigurationError(
                f"{_KEY} needs {remedy}, because {reason}; change that setting, or remove"
                f" {config_key('device_bound')}."
            )
