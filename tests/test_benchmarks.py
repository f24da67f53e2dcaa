"""The benchmarks run, and their page has every row."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.cases import CASES, HUGE, LABELS, LITTLE, MANY, session_data
from benchmarks.open_connections import KINDS
from benchmarks.results import Results, Target, targets
from benchmarks.timing import Row, Spread

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can pin a process to one CPU")
def test_a_quick_run_of_two_cases_writes_tables_and_a_chart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of two cases with two contestants prints and writes the rows of those that take part,
    and draws their bars."""
    cases = ["--case", "read", "--case", "write"]
    contestants = ["--contestant", "bare-get", "--contestant", "ours"]
    assert main(["--quick", *cases, *contestants, "--output", str(tmp_path)]) == 0
    page = (tmp_path / "benchmarks.md").read_text()
    assert page in capsys.readouterr().out
    rows = rows_of(page, CASES["read"].title)
    assert list(rows) == [LABELS["bare-get"], LABELS["ours"]]
    assert [row[-2] for row in rows.values()] == ["1", "1"], "each read is one round trip"
    rows = rows_of(page, CASES["write"].title)
    assert [row[-2] for row in rows.values()] == ["2"], "a write is one round trip more"
    assert rows_of(page, "Targets")["A read, in bare Flask's + one GET"][-1] in ("yes", "no")
    assert (tmp_path / "images" / "benchmarks.svg").read_text().count("<rect") == 3


def test_the_page_has_a_table_for_each_case_and_a_row_for_each_target() -> None:
    """`docs/benchmarks.md` has all contestants of each case and all measured targets, so it is from
    one complete run."""
    page = PAGE.read_text()
    for case in CASES.values():
        assert list(rows_of(page, case.title)) == [LABELS[name] for name in case.contestants]
    unmeasured = [name for name, row in rows_of(page, "Targets").items() if row[-1] not in ANSWERS]
    assert unmeasured == []
    for title in ("Memory of one session in the server", "Requests per second"):
        assert LABELS["ours"] in rows_of(page, title)
    assert len(rows_of(page, "Reports of the near cache")) == 4
    assert list(rows_of(page, "Open connections")) == list(KINDS)


ANSWERS = ("yes", "no")


def rows_of(page: str, title: str) -> dict[str, list[str]]:
    """The rows of the table below a heading, by their first cell, without the head."""
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)[2:]
    return {first: rest for first, *rest in (re.split(r" \| ?", line) for line in lines)}


def test_a_target_is_met_up_to_its_limit() -> None:
    """A target is met if the median is at most the limit; without a figure it is neither met nor
    missed."""
    measured = [Spread.of([ratio]) for ratio in (1.1, 1.11)]
    assert [Target("", 1.1, spread).is_met for spread in measured] == [True, False]
    assert Target("", 1.1, None).is_met is None


def test_a_target_compares_times_of_the_same_round() -> None:
    """The figure is the median of the ratios of each round, and not the ratio of two medians,
    because the whole machine is slower in some rounds."""
    rows = {"bare": Row(pinned=[10.0, 30.0, 20.0]), "ours": Row(pinned=[11.0, 33.0, 24.0])}
    target = targets(Results([], 3, rows={"untouched": rows}))[0]
    assert target.measured and target.measured.median == pytest.approx(1.1)


@pytest.mark.parametrize("keys", [LITTLE, MANY, HUGE])
def test_session_data_has_the_number_of_keys(keys: int) -> None:
    """The data of a session have as many keys as the tables say."""
    assert len(session_data(keys)) == keys
