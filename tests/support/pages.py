"""The code of the documentation's pages, run as a user would run it."""

from __future__ import annotations

import re
import textwrap
import typing as t
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"

_BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def pages() -> list[str]:
    """The paths of all pages, relative to `docs/`."""
    return sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def run(page: str) -> dict[str, t.Any]:
    """Runs the Python blocks of a page as one module, and returns its names."""
    module: dict[str, t.Any] = {"__name__": "page"}
    for line, source in blocks(page):
        run_block(page, line, source, module)
    return module


def run_block(page: str, line: int, source: str, module: dict[str, t.Any]) -> None:
    """Runs one block with the names of `module`. An error has the line of the page."""
    exec(compile("\n" * line + source, page, "exec"), module)


def blocks(page: str) -> list[tuple[int, str]]:
    """The Python blocks of a page: the number of lines above it, and its source."""
    text = (DOCS / page).read_text()
    return [
        (text.count("\n", 0, match.start(2)), textwrap.dedent(match[2]))
        for match in _BLOCK.finditer(text)
    ]
