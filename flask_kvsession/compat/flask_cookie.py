"""Checks whether browsers accept the cookie of `flask.session` as Flask's own settings make it.

A browser drops an impossible cookie without a word, and then no user can sign in.
"""

from __future__ import annotations

import typing as t

from .. import validators
from ..errors import ConfigurationError

if t.TYPE_CHECKING:
    from ..app_state import AppState


def require_possible_cookie(state: AppState) -> None:
    """Raises `ConfigurationError` for a combination of `SESSION_COOKIE_*` that browsers refuse."""
    app, interface = state.app, state.app.session_interface
    name, samesite = interface.get_cookie_name(app), interface.get_cookie_samesite(app)
    if len(name.encode()) > validators.MAX_COOKIE_NAME_CHARS:
        raise ConfigurationError(
            f"SESSION_COOKIE_NAME must have at most {validators.MAX_COOKIE_NAME_CHARS} characters,"
            " because browsers drop a cookie that is too large; shorten the name."
        )
    reason = _reason_for_secure(name, samesite, interface.get_cookie_partitioned(app))
    if reason and not interface.get_cookie_secure(app):
        raise ConfigurationError(
            f"{reason} needs SESSION_COOKIE_SECURE True: browsers reject the cookie otherwise."
        )
    if not _has_prefix(name, "__host-"):
        return
    if (path := interface.get_cookie_path(app)) != "/":
        raise ConfigurationError(
            f"SESSION_COOKIE_NAME {name!r} needs the path '/', not {path!r}: set"
            " SESSION_COOKIE_PATH = '/', or use the prefix __Secure-. Without"
            " SESSION_COOKIE_PATH, Flask uses APPLICATION_ROOT."
        )
    if domain := interface.get_cookie_domain(app):
        raise ConfigurationError(
            f"SESSION_COOKIE_NAME {name!r} must have no domain, not {domain!r}: remove"
            " SESSION_COOKIE_DOMAIN, or use the prefix __Secure-."
        )


def _reason_for_secure(name: str, samesite: t.Any, partitioned: bool) -> str | None:
    """The setting with which browsers accept only a Secure cookie; None if there is none."""
    if samesite is not None:
        try:
            samesite = validators.samesite(samesite)
        except validators.InvalidValue as error:
            raise ConfigurationError(f"SESSION_COOKIE_SAMESITE {error}.") from None
    if samesite == "None":
        return 'SESSION_COOKIE_SAMESITE "None"'
    if partitioned:
        return "SESSION_COOKIE_PARTITIONED True"
    if _has_prefix(name, "__host-", "__secure-"):
        return f"SESSION_COOKIE_NAME {name!r}"
    return None


def _has_prefix(name: str, *prefixes: str) -> bool:
    return name.lower().startswith(prefixes)  # browsers ignore the case (RFC 6265bis, 5.7)
