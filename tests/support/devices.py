"""The content of the devices page, and the work that it costs."""

from __future__ import annotations

import re

import pytest
import ua_parser

from flask_kvsession.devices import describe


def parsed_user_agents(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Forgets the user agents that were parsed so far; the list grows with each one from now on."""
    parsed: list[str] = []
    real = ua_parser.parse

    def parse(user_agent: str) -> ua_parser.Result:
        parsed.append(user_agent)
        return real(user_agent)

    monkeypatch.setattr(ua_parser, "parse", parse)
    describe._described.cache_clear()
    return parsed


def names_on(page: str) -> list[str]:
    """The devices on a page, from top to bottom."""
    names = re.findall(r'<li class="kvs-row kvs-session">.*?<h3>(.*?)</h3>', page, re.DOTALL)
    return [re.sub(r"\s*<.*", "", name).strip() for name in names]


def badges_on(page: str) -> list[list[str]]:
    """The marks of each device on a page."""
    headings = re.findall(r"<h3>(.*?)</h3>", page, re.DOTALL)
    return [re.findall(r'<span class="kvs-badge[^>]*>(.*?)<', heading) for heading in headings]
