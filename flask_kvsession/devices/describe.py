"""Describe a session for people: "Firefox on Linux", "5 minutes ago".

The extra `[devices]` installs the two libraries for this. Without them the pages show the user
agent unchanged and the exact time. The libraries are imported at the first description, so that an
app that never shows the pages does not load them.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

if t.TYPE_CHECKING:
    from ua_parser import Result

Kind = t.Literal["computer", "phone", "tablet", "program", "unknown"]

MAX_PARSED_CHARS = 256
"""How much of a user agent is parsed: the time grows with its length, and names come early."""

_SYSTEM_NAMES = {"Mac OS X": "macOS"}
_APPLE_MODELS = ("iPhone", "iPad")
_BROWSER_NAMES = {"Mobile Safari UI/WKWebView": "App", "Chrome Mobile WebView": "App"}
_VARIANT_WORDS = re.compile(r"^Headless|\b(Mobile|iOS)\b")
_MOBILE = re.compile(r"\bMobile\b")


@dataclass(frozen=True, slots=True)
class Device:
    """The names in a user agent, without versions.

    Browsers no longer update the versions in the user agent, so the versions are often wrong.
    """

    browser: str | None = None
    system: str | None = None
    kind: Kind = "unknown"

    @property
    def name(self) -> str | None:
        """The name in English. The pages build the name in the app's language themselves."""
        if self.browser and self.system:
            return f"{self.browser} on {self.system}"
        return self.browser or self.system


def describe(user_agent: str | None) -> Device:
    """The device that sends this user agent."""
    user_agent = "".join(filter(str.isprintable, user_agent or "")).strip()
    if not user_agent:
        return Device()
    try:
        import ua_parser  # noqa: F401
    except ImportError:
        return Device(browser=user_agent)
    return _parsed(user_agent[:MAX_PARSED_CHARS])


def ago(moment: datetime) -> str | None:
    """The time since `moment` in words, at least "a minute ago". None without humanize."""
    try:
        import humanize
    except ImportError:
        return None
    # `moment` comes from the store's clock. If that clock is ahead of this worker's clock, the
    # difference is negative and humanize would say "from now".
    passed = max(datetime.now(UTC) - moment, timedelta(minutes=1))
    return humanize.naturaltime(passed, minimum_unit="seconds")


@lru_cache(maxsize=1024)
def _parsed(user_agent: str) -> Device:
    """The device, from memory if this user agent was parsed before. At most 1,024 are kept."""
    import ua_parser

    return _device_from(user_agent, ua_parser.parse(user_agent))


def _device_from(user_agent: str, parsed: Result) -> Device:
    browser = parsed.user_agent.family if parsed.user_agent else None
    system = parsed.os.family if parsed.os else None
    model = parsed.device.family if parsed.device else ""
    if browser is None and system is None:
        # The parser does not know it. For "MyApp/2.1 (build 7)" the name is "MyApp".
        return Device(browser=user_agent.partition("/")[0][:40].strip() or None)
    return Device(
        browser=_browser_name(browser) if browser else None,
        system=model if model in _APPLE_MODELS else _SYSTEM_NAMES.get(system or "", system),
        kind=_kind(user_agent, model, system),
    )


def _browser_name(family: str) -> str:
    """One name for all variants of a browser: the pages show the system beside it."""
    return _BROWSER_NAMES.get(family) or _VARIANT_WORDS.sub("", family).strip() or family


def _kind(user_agent: str, model: str, system: str | None) -> Kind:
    if system is None:
        return "program"
    if model == "iPad":
        return "tablet"
    if system == "Android":
        return "phone" if _MOBILE.search(user_agent) else "tablet"
    return "phone" if system == "iOS" else "computer"
