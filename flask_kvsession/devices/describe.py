"""Describe a user agent for people: "Firefox 140 on Linux", and the kind of device.

The extra `[devices]` installs `ua-parser`, which knows thousands of browsers and devices. Without
it, `patterns` knows the common ones. The library is imported at the first description, so that an
app that never shows the pages does not load it.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from functools import lru_cache

from .patterns import Names, find_names

Kind = t.Literal["computer", "phone", "tablet", "program", "unknown"]

MAX_PARSED_CHARS = 256
"""How much of a user agent is parsed: the time grows with its length, and names come early."""

_SYSTEM_NAMES = {"Mac OS X": "macOS", "Chrome OS": "ChromeOS"}
_APPLE_MODELS = ("iPhone", "iPad")
_BROWSER_NAMES = {"Mobile Safari UI/WKWebView": "App", "Chrome Mobile WebView": "App"}
_VARIANT_WORDS = re.compile(r"^Headless|\b(Mobile|iOS)\b")
_MOBILE = re.compile(r"\bMobile\b")


@dataclass(frozen=True, slots=True)
class Device:
    """The names in a user agent.

    `version` is the browser's major version. There is no version of the system, because browsers no
    longer update it.
    """

    browser: str | None = None
    version: str | None = None
    system: str | None = None
    kind: Kind = "unknown"

    @property
    def name(self) -> str | None:
        """The name in English, without the version. The pages build the name in the app's language
        themselves."""
        if self.browser and self.system:
            return f"{self.browser} on {self.system}"
        return self.browser or self.system

    @property
    def browser_and_version(self) -> str | None:
        """ "Firefox 140"; only "Firefox" if the version is unknown."""
        return f"{self.browser} {self.version}" if self.browser and self.version else self.browser


def describe(user_agent: str | None) -> Device:
    """The device that sends this user agent."""
    user_agent = "".join(filter(str.isprintable, user_agent or "")).strip()
    return _described(user_agent[:MAX_PARSED_CHARS]) if user_agent else Device()


@lru_cache(maxsize=1024)
def _described(user_agent: str) -> Device:
    """The device, from memory if this user agent was parsed before. At most 1,024 are kept."""
    try:
        names = _parse(user_agent)
    except ImportError:
        names = find_names(user_agent)
    browser, version, system = names
    if browser is None and system is None:
        # Nobody knows it. For "MyApp/2.1 (build 7)" the name is "MyApp".
        return Device(browser=user_agent.partition("/")[0][:40].strip() or None)
    return Device(browser, version, system, _kind(user_agent, system))


def _parse(user_agent: str) -> Names:
    """The names that ua-parser finds; raises `ImportError` if it is not installed."""
    import ua_parser

    parsed = ua_parser.parse(user_agent)
    browser, version = None, None
    if parsed.user_agent:
        browser, version = _browser_name(parsed.user_agent.family), parsed.user_agent.major
    system = parsed.os.family if parsed.os else None
    model = parsed.device.family if parsed.device else ""
    return Names(
        browser,
        None if browser == "App" else version,
        model if model in _APPLE_MODELS else _SYSTEM_NAMES.get(system or "", system),
    )


def _browser_name(family: str) -> str:
    """One name for all variants of a browser: the pages show the system beside it."""
    return _BROWSER_NAMES.get(family) or _VARIANT_WORDS.sub("", family).strip() or family


def _kind(user_agent: str, system: str | None) -> Kind:
    if system is None:
        return "program"
    if system == "iPad":
        return "tablet"
    if system == "Android":
        return "phone" if _MOBILE.search(user_agent) else "tablet"
    return "phone" if system in ("iPhone", "iOS") else "computer"
