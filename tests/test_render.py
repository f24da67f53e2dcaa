"""Tables and bars of the command line."""

from __future__ import annotations

import io
import sys

import pytest

from flask_kvsession.cli.render import (
    Column,
    bars,
    counted,
    facts,
    indented,
    size,
    table,
    width_of,
)

COLUMNS = (
    Column("SESSION"),
    Column("DEVICE", shrinks=True, rank=1),
    Column("ADDRESS", shrinks=True, rank=2),
    Column("EXPIRES", rank=3),
)
ROWS = [
    ["AbC0123456789abcdef", "Firefox on Linux", "192.0.2.7", "2026-01-02"],
    ["AbCdef0123456789abc", "A browser with a very long name", "2001:db8::7", "2026-01-03"],
]
SNAPSHOTS = {
    100: """\
SESSION              DEVICE                           ADDRESS      EXPIRES
AbC0123456789abcdef  Firefox on Linux                 192.0.2.7    2026-01-02
AbCdef0123456789abc  A browser with a very long name  2001:db8::7  2026-01-03""",
    64: """\
SESSION              DEVICE              ADDRESS      EXPIRES
AbC0123456789abcdef  Firefox on Linux    192.0.2.7    2026-01-02
AbCdef0123456789abc  A browser with a …  2001:db8::7  2026-01-03""",
    50: """\
SESSION              DEVICE            ADDRESS
AbC0123456789abcdef  Firefox on Linux  192.0.2.7
AbCdef0123456789abc  A browser with …  2001:db8::7""",
    40: """\
SESSION              DEVICE
AbC0123456789abcdef  Firefox on Linux
AbCdef0123456789abc  A browser with a v…""",
    10: """\
SESSION
AbC0123456789abcdef
AbCdef0123456789abc""",
}


@pytest.mark.parametrize("width", SNAPSHOTS)
def test_a_table_fits_the_terminal(width: int) -> None:
    """In a narrow terminal, texts are cut first, and then columns are left out. The session id is
    always whole, because it is copied."""
    lines = table(COLUMNS, ROWS, width)
    assert "\n".join(lines) == SNAPSHOTS[width]
    assert width < 20 or max(map(width_of, lines)) <= width


def test_a_table_in_a_pipe_has_tabs_and_whole_texts() -> None:
    """A program that reads the table can split each line at its tabs."""
    lines = table(COLUMNS, ROWS, None)
    assert [line.split("\t") for line in lines] == [[c.title for c in COLUMNS], *ROWS]


@pytest.mark.parametrize("width", [None, 80])
def test_control_characters_do_not_reach_the_terminal(width: int | None) -> None:
    """A user agent could contain commands for the terminal, or a tab or newline that makes another
    row."""
    evil = "\x1b[2J\x9bA\tB\nC\u202e"
    text = "\n".join(
        [
            *table([Column("A"), Column("B")], [[evil, "x"]], width),
            *facts([("Name", evil)], width),
            *bars({evil: 1}, width),
            *indented(evil, 2, 80),
        ]
    )
    assert not {"\x1b", "\x9b", "\u202e"} & set(text)
    assert len(text.split("\n")) == 5
    assert text.count("\t") == (0 if width else 4)


def test_wide_characters_count_as_two_columns() -> None:
    """Chinese characters fill two columns of a terminal, and combining ones none."""
    assert [width_of(text) for text in ("ab", "中文", "e\u0301")] == [2, 4, 1]
    lines = table([Column("A"), Column("B")], [["中文", "x"], ["abcd", "y"]], 80)
    assert lines[1:] == ["中文  x", "abcd  y"]


def test_bars_have_the_proportions_of_the_counts() -> None:
    """The largest count has the longest bar, a small one at least one block, and 0 has none."""
    assert bars({"many": 1000, "half": 500, "few": 1, "none": 0}, 30) == [
        "many  1000  " + "█" * 18,
        "half   500  " + "█" * 9,
        "few      1  █",
        "none     0",
    ]


@pytest.mark.parametrize("width", [20, 30, 80, 200])
def test_bars_fit_the_terminal(width: int) -> None:
    """A long name is cut, so that there is room for the bar."""
    lines = bars({"A browser with a very long name, and more": 12345, "B": 1}, width)
    assert max(map(width_of, lines)) <= width
    assert "█" in lines[0]


def test_sizes_and_counts_are_written_for_people() -> None:
    """A size has the unit that fits, and a noun its plural."""
    assert [size(count) for count in (0, 1023, 1536, 3 * 1024**2, 5 * 1024**3)] == [
        *("0 bytes", "1023 bytes", "1.5 KiB", "3.0 MiB", "5.0 GiB")
    ]
    assert [counted(n, "session") for n in (0, 1, 1200)] == [
        *("0 sessions", "1 session", "1,200 sessions")
    ]


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "█"), ("ascii", "#")])
def test_bars_are_made_of_signs_that_the_output_has(
    monkeypatch: pytest.MonkeyPatch, encoding: str, sign: str
) -> None:
    """If the encoding of the output lacks the block, the bars are made of #."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    assert bars({"Firefox": 2}, 40) == [f"Firefox  2  {sign * 28}"]
