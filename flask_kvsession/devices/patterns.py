"""The common browsers and systems, by patterns in their user agents.

`describe` uses them if `ua-parser`, which knows many more, is not installed.
"""

from __future__ import annotations

import re
import typing as t

# The order matters: most browsers name Chrome and Safari too.
_BROWSERS = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\bEdg(?:e|A|iOS)?/(\d+)", "Edge"),
        (r"\b(?:OPR|OPT)/(\d+)", "Opera"),
        (r"\bSamsungBrowser/(\d+)", "Samsung Internet"),
        (r"\bVivaldi/(\d+)", "Vivaldi"),
        (r"\bYaBrowser/(\d+)", "Yandex Browser"),
        (r"\b(?:Firefox|FxiOS)/(\d+)", "Firefox"),
        (r"; wv\)()", "App"),
        (r"(?:\b|Headless)(?:Chrome|CriOS)/(\d+)", "Chrome"),
        (r"\bVersion/(\d+)\S* (?:Mobile/\w+ )?Safari/", "Safari"),
        (r"\((?:iPhone|iPad)\b.* Mobile/()", "App"),
    )
]

_SYSTEMS = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\(iPhone\b", "iPhone"),
        (r"\(iPad\b", "iPad"),
        (r"\bAndroid\b", "Android"),
        (r"\bWindows\b", "Windows"),
        (r"\bMacintosh\b", "macOS"),
        (r"\bCrOS\b", "ChromeOS"),
        (r"\bLinux\b", "Linux"),
    )
]

_PROGRAM = re.compile(r"(curl|Wget|okhttp|Go-http-client|python-requests|python-httpx)/(\d+)")


class Names(t.NamedTuple):
    """What the patterns have found: None for what they do not know."""

    browser: str | None
    version: str | None
    system: str | None


def find_names(user_agent: str) -> Names:
    """The names in a user agent, and the major version of the browser."""
    if program := _PROGRAM.match(user_agent):
        return Names(program[1], program[2], None)
    system = next((name for pattern, name in _SYSTEMS if pattern.search(user_agent)), None)
    for pattern, browser in _BROWSERS:
        if found := pattern.search(user_agent):
            return Names(browser, found[1] or None, system)
    return Names(None, None, system)
