"""The content of the devices page."""

from __future__ import annotations

import re


def names_on(page: str) -> list[str]:
    """The devices on a page, from top to bottom."""
    names = re.findall(r'<li class="kvs-row kvs-session">.*?<h3>(.*?)</h3>', page, re.DOTALL)
    return [re.sub(r"\s*<.*", "", name).strip() for name in names]
