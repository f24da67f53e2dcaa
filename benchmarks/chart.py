"""The chart: bars of the times on one CPU, as SVG. It is readable on light and dark pages."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from .cases import CASES, LABELS, OURS
from .timing import Rows

SHOWN = ("untouched", "read", "write", "login")

_WIDTH, _LEFT, _RIGHT = 800, 260, 70
_BAR, _STEP, _GROUP = 14, 20, 34

_STYLE = """\
<style>
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .bar { fill: #8c959f; }
  .ours { fill: #0969da; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .bar { fill: #7d8590; }
    .ours { fill: #4493f8; }
  }
</style>"""


def chart(rows: Mapping[str, Rows]) -> str:
    """The SVG document, with the cases of `SHOWN` that were measured."""
    shown = {case: rows[case] for case in SHOWN if case in rows}
    most = max((_median(row.pinned) for by in shown.values() for row in by.values()), default=1.0)
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    height, parts = 8, []
    for case, by_contestant in shown.items():
        parts += [_text(0, height + 16, f"{CASES[case].title}, µs", "title")]
        height += _GROUP - 6
        for name, row in by_contestant.items():
            parts += _bar(height, name, _median(row.pinned), scale)
            height += _STEP
        height += 10
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
            f' width="{_WIDTH}" height="{height}" role="img">',
            "<title>Time of one request with each kind of session, in microseconds</title>",
            _STYLE,
            *parts,
            "</svg>\n",
        )
    )


def _bar(top: int, name: str, time: float, scale: float) -> Iterator[str]:
    kind, width = "bar ours" if name == OURS else "bar", time * scale
    yield _text(_LEFT - 10, top + 11, LABELS[name], "", ' text-anchor="end"')
    yield (
        f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
    )
    yield _text(_LEFT + width + 6, top + 11, f"{time:,.0f}", "")


def _text(x: float, y: float, text: str, kind: str, more: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{more}>{text}</text>'


def _median(times: list[float]) -> float:
    return statistics.median(times)
