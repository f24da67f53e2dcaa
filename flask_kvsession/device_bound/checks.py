"""Checks that the offers of an app can work."""

from __future__ import annotations

import importlib.util
import typing as t
from datetime import timedelta
from functools import partial

from flask import url_for

from ..cookie import SessionCookie
from ..errors import ConfigurationError
from ..settings import config_key
from .views import device_endpoints

if t.TYPE_CHECKING:
    from flask import Flask

    from ..app_state import AppState

_SAFE_LIFETIME = timedelta(minutes=4)
"""Chromium 156 renews a short cookie that ends within 2 minutes with each page, and signs at most 6
times in 9 minutes."""

_KEY = f'{config_key("device_bound")} = "offer"'


def install(state: AppState) -> None:
    """Raises `ConfigurationError` if the app offers to bind sessions and that cannot work. What the
    app may still change is checked at the first request."""
    if not state.configured.device_bound:
        return
    if importlib.util.find_spec("joserfc") is None:
        raise ConfigurationError(
            f'{_KEY} needs joserfc; pip install "Flask-KVSession-Redis[device-bound]".'
        )
    if not state.flask_cookie:
        _require_possible_cookie(SessionCookie.from_settings(state.configured, development=False))
    state.first_use_checks.append(_check_at_first_use)
    state.registration_url = partial(_registration_url, state)


def require_endpoints(app: Flask) -> None:
    """Raises `ConfigurationError` if browsers cannot call the app. It is called for requests only:
    a process that only revokes sessions needs no blueprint."""
    found = device_endpoints(app)
    if not found:
        raise ConfigurationError(
            f"{_KEY} needs the URLs that browsers call; add"
            " app.register_blueprint(device_bound_blueprint), from flask_kvsession."
        )
    for rule in app.url_map.iter_rules():
        is_elsewhere = rule.subdomain or rule.host or app.url_map.host_matching
        if rule.endpoint in found and (rule.arguments or is_elsewhere):
            raise ConfigurationError(
                f"{_KEY} needs URLs without a variable part, on the one host of the app, but"
                f" device_bound_blueprint has {rule.rule!r}; register it with another url_prefix,"
                " without a subdomain or host, in an app without host_matching."
            )


def _registration_url(state: AppState) -> str | None:
    """The path at which browsers bind a session. None, with a warning, if it is on another host
    than this request: a binding there would not protect this one."""
    found = device_endpoints(state.app)
    endpoint = next((endpoint for endpoint, name in found.items() if name == "register"), None)
    if endpoint is None:
        return None
    url = url_for(endpoint)
    if url.startswith("/") and not url.startswith("//"):
        return url
    state.warn_once(
        f"A login came on another host than that of device_bound_blueprint ({url!r:.100}), so its"
        f" session is not bound; use {config_key('device_bound')} in apps with one host."
    )
    return None


def _check_at_first_use(state: AppState) -> None:
    """Checks what is known only then: Flask's own settings, and where the app logs warnings."""
    if state.flask_cookie:
        _require_possible_cookie(state.flask_cookie(state.app))
    if state.configured.device_bound_lifetime < _SAFE_LIFETIME:
        state.warn_once(
            f"{config_key('device_bound_lifetime')} is shorter than 4 minutes. Browsers limit how"
            " often a device signs, so a user who opens a page every few seconds will be signed"
            f" out; set {config_key('device_bound_lifetime')} to 4 minutes or more."
        )


def _require_possible_cookie(cookie: SessionCookie) -> None:
    """The short cookie has the prefix `__Host-`, which browsers accept with these attributes only.
    The session's cookie must have them too: it would be sent to more hosts than the short one."""
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
