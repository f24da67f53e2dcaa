"""What a person reads of a session: "Firefox on Linux", "5 minutes ago".

Both are better with the extra `[devices]`, and plainer without: the user agent as it came, and
the exact time. Neither library is imported before there is something to describe.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

if t.TYPE_CHECKING:
    from ua_parser import Result

Kind = t.Literal["computer", "phone", "tablet", "program", "unknown"]

_SYSTEMS = {"Mac OS X": "macOS"}
_APPLES = ("iPhone", "iPad")
_BROWSERS = {"Mobile Safari UI/WKWebView": "App", "Chrome Mobile WebView": "App"}
_SAME_BROWSER = re.compile(r"^Headless|\b(Mobile|iOS)\b")
_MOBILE = re.compile(r"\bMobile\b")


@dataclass(frozen=True, slots=True)
class Device:
    """What a user agent tells of itself. Families only: the versions in it are frozen, and lie."""

    browser: str | None = None
    system: str | None = None
    kind: Kind = "unknown"

    @property
    def name(self) -> str | None:
        """In English; the pages put it together in the app's language."""
        if self.browser and self.system:
            return f"{self.browser} on {self.system}"
        return self.browser or self.system


def describe(user_agent: str | None) -> Device:
    """The device that sends this user agent."""
    user_agent = "".join(filter(str.isprintable, user_agent or "")).strip()
    if not user_agent:
        return Device()
    try:
        import ua_parser
    except ImportError:
        return Device(browser=user_agent)
    return _read(user_agent, ua_parser.parse(user_agent))


def ago(moment: datetime) -> str | None:
    """How long ago that was, in words; None without the library that has them."""
    try:
        import humanize
    except ImportError:
        return None
    # What the server's clock is ahead of this worker's would read as "from now".
    passed = max(datetime.now(UTC) - moment, timedelta(minutes=1))
    return humanize.naturaltime(passed, minimum_unit="seconds")


def _read(user_agent: str, found: Result) -> Device:
    browser = found.user_agent.family if found.user_agent else None
    system = found.os.family if found.os else None
    model = found.device.family if found.device else ""
    if browser is None and system is None:
        # Of "MyApp/2.1 (build 7)" the first word is a better name than none.
        return Device(browser=user_agent.partition("/")[0][:40].strip() or None)
    return Device(
        browser=_tidy(browser) if browser else None,
        system=model if model in _APPLES else _SYSTEMS.get(system or "", system),
        kind=_kind(user_agent, model, system),
    )


def _tidy(browser: str) -> str:
    """One name for one browser: what it runs on is told beside it."""
    return _BROWSERS.get(browser) or _SAME_BROWSER.sub("", browser).strip() or browser


def _kind(user_agent: str, model: str, system: str | None) -> Kind:
    if system is None:
        return "program"
    if model == "iPad":
        return "tablet"
    if system == "Android":
        return "phone" if _MOBILE.search(user_agent) else "tablet"
    return "phone" if system == "iOS" else "computer"
