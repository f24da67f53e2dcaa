"""Tables and bars that fit the terminal. In a pipe, a table has tabs and is not cut."""

from __future__ import annotations

import shutil
import sys
import textwrap
import typing as t
from collections.abc import Mapping, Sequence
from unicodedata import combining, east_asian_width

_GAP = "  "
_LEAST = 16
"""How far a column is shortened before another one is left out."""
_BAR = 30


class Column(t.NamedTuple):
    title: str
    shrinks: bool = False
    """Whether its texts may be cut."""
    rank: int = 0
    """If the terminal is too narrow, the column with the highest rank is left out first; one with
    rank 0 stays."""


def terminal_width() -> int | None:
    """The columns of the terminal; None if the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The lines of a table, the titles first. With `width`, no line is longer, unless the columns
    that must stay are."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if width is None:
        return ["\t".join(row) for row in [[c.title for c in columns], *cells]]
    shown = _columns_that_fit(columns, cells, width)
    widths = _shrunk(columns, _widths(columns, cells, shown), width)
    lines = [[column.title for column in columns], *cells]
    return [_GAP.join(_padded(line[n], widths[n]) for n in shown).rstrip() for line in lines]


def facts(pairs: Sequence[tuple[str, str]], width: int | None) -> list[str]:
    """The lines of a list of names and values; with `width`, a long value has several."""
    if width is None:
        return [f"{name}\t{printable(value)}" for name, value in pairs]
    by = max(len(name) for name, _ in pairs) + len(_GAP)
    lines: list[str] = []
    for name, value in pairs:
        first, *rest = indented(value, by, width) or [""]
        lines += [f"{name:<{by}}{first[by:]}".rstrip(), *rest]
    return lines


def indented(text: str, by: int, width: int) -> list[str]:
    """The text in lines of at most this width, each with so many spaces before it."""
    spaces = " " * by
    return textwrap.wrap(
        printable(text), max(width, by + _LEAST), initial_indent=spaces, subsequent_indent=spaces
    )


def bars(counts: Mapping[str, int], width: int | None) -> list[str]:
    """One line for each name, with its count and, in a terminal, a bar."""
    names = {printable(name): count for name, count in counts.items()}
    if width is None:
        return [f"{name}\t{count}" for name, count in names.items()]
    longest, most = max(map(width_of, names)), max(1, *names.values())
    digits = len(str(most))
    room = max(1, width - digits - 2 * len(_GAP))
    longest = min(longest, max(room // 2, 2))
    room = min(_BAR, room - longest)
    block = _glyph("█", "#")
    return [
        f"{_padded(name, longest)}{_GAP}{count:>{digits}}{_GAP}"
        f"{block * _length(count, most, room)}".rstrip()
        for name, count in names.items()
    ]


def printable(text: str) -> str:
    """The text without what a terminal could take for a command: user ids and names of browsers
    come from other people."""
    return "".join(char if char.isprintable() else "?" for char in text)


def width_of(text: str) -> int:
    """How many columns of a terminal the text fills."""
    return sum(0 if combining(char) else 1 + (east_asian_width(char) in "WF") for char in text)


def size(count: int) -> str:
    """A number of bytes for people."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def counted(count: int, noun: str) -> str:
    """The number and the noun, in the plural if it is not 1."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _length(count: int, most: int, room: int) -> int:
    """The length of a bar: at least 1 for a count that is not 0."""
    return max(1, round(count / most * room)) if count else 0


def _columns_that_fit(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int
) -> list[int]:
    shown = list(range(len(columns)))
    while True:
        widths = _widths(columns, cells, shown)
        least = [min(w, _LEAST) if columns[n].shrinks else w for n, w in widths.items()]
        last = max(shown, key=lambda n: columns[n].rank)
        if sum(least) + len(_GAP) * (len(shown) - 1) <= width or not columns[last].rank:
            return shown
        shown.remove(last)


def _widths(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], shown: Sequence[int]
) -> dict[int, int]:
    return {n: max([len(columns[n].title), *(width_of(row[n]) for row in cells)]) for n in shown}


def _shrunk(columns: Sequence[Column], widths: dict[int, int], width: int) -> dict[int, int]:
    """The widths, with the columns that may be cut made narrower by what is too much."""
    excess = sum(widths.values()) + len(_GAP) * (len(widths) - 1) - width
    for n in sorted((n for n in widths if columns[n].shrinks), key=lambda n: -widths[n]):
        cut = min(max(excess, 0), max(widths[n] - _LEAST, 0))
        widths[n] -= cut
        excess -= cut
    return widths


def _padded(text: str, width: int) -> str:
    if width_of(text) > width:
        ellipsis = _glyph("…", "~")
        while width_of(text) > width - 1:
            text = text[:-1]
        text += ellipsis
    return text + " " * (width - width_of(text))


def _glyph(preferred: str, plain: str) -> str:
    """The sign, or a plain one if the output has an encoding that lacks it."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        preferred.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return plain
    return preferred
