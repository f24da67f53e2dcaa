"""Everything that one run has measured, and the targets that it is compared with."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from .cases import BARE, BARE_GET, LITTLE, MANY, NEAR_CACHE, NO_CLIENT, OURS, SESSION, SIGNED
from .near_cache import Reports
from .open_connections import KINDS, Delays
from .scale import Scale
from .sizes import Sizes, ratio
from .throughput import Load
from .timing import Rows, Spread


@dataclass
class Results:
    """One run. What was not measured is empty."""

    machine: list[str]
    rounds: int
    rows: dict[str, Rows] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=dict)
    scale: Scale | None = None
    reports: Reports | None = None
    ends: Delays = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    generator: str = ""
    missing: list[str] = field(default_factory=list)
    """The contestants that could not be installed."""


@dataclass(frozen=True)
class Target:
    """What shall be reached, the figure that must not be above the limit, and what was measured.

    `instructions` is the ratio of the instructions of the same two requests.
    """

    text: str
    limit: float
    measured: Spread | None
    instructions: float | None = None

    @property
    def is_met(self) -> bool | None:
        """None if it was not measured."""
        return None if self.measured is None else self.measured.median <= self.limit


_RATIOS = (
    ("An untouched page, in bare Flask's", "untouched", BARE, 1.12),
    ("A read, in bare Flask's + one GET", "read", BARE_GET, 1.12),
    ("A read, in the signed cookie's", "read", SIGNED, 1.0),
    ("A read, in Flask-Session's", "read", SESSION, 0.55),
    ("A write of one of 2 keys, in Flask-Session's", "write", SESSION, 0.95),
    ("A write of one of 21 keys, in Flask-Session's", "write-21", SESSION, 0.95),
)
_SIZES = (
    (
        "Record and index with 2 keys, without address and agent, in Flask-Session's record",
        LITTLE,
        1.6,
    ),
    (
        "Record and index with 21 keys, without address and agent, in Flask-Session's record",
        MANY,
        1.3,
    ),
)


def targets(results: Results) -> list[Target]:
    """All targets, with what was measured for each."""
    found = [_of_times(results, *ratio) for ratio in _RATIOS]
    text = "A read with the near cache, in the signed cookie's"
    found.append(_of_times(results, text, "read", SIGNED, 0.75, ours=NEAR_CACHE))
    found.append(_of_reports(results))
    found += [_of_end(results, kind) for kind in KINDS]
    found += _of_scale(results)
    found += [_of_size(results, *size) for size in _SIZES]
    found.append(_of_round_trips(results))
    return found


def _of_times(
    results: Results, text: str, case: str, other: str, limit: float, *, ours: str = OURS
) -> Target:
    rows = results.rows.get(case, {})
    if ours not in rows or other not in rows:
        return Target(text, limit, None)
    our, their = rows[ours], rows[other]
    instructions = None
    if our.instructions and their.instructions:
        instructions = our.instructions / their.instructions
    return Target(text, limit, Spread.of_ratio(our.pinned, their.pinned), instructions)


def _of_reports(results: Results) -> Target:
    text, reports = "A revocation is seen by other processes, p99, ms", results.reports
    p99 = statistics.quantiles(reports.delays, n=100)[98] if reports else None
    return Target(text, 50, None if p99 is None else Spread.of([p99]))


def _of_end(results: Results, kind: str) -> Target:
    delays = results.ends.get(kind)
    p99 = statistics.quantiles(delays, n=100)[98] if delays else None
    text = f"A revocation ends {kind} in another process, p99, ms"
    return Target(text, 100, None if p99 is None else Spread.of([p99]))


def _of_scale(results: Results) -> list[Target]:
    if results.scale is None:
        return [
            Target("Any request with many sessions in the server, in the same with few", 1.1, None)
        ]
    return [
        Target(
            f"`{case}` with {max(times):,} sessions in the server, in the same with {min(times):,}",
            1.1,
            Spread.of_ratio(times[max(times)], times[min(times)]),
        )
        for case, times in results.scale.times.items()
    ]


def _of_size(results: Results, text: str, keys: int, limit: float) -> Target:
    if NO_CLIENT not in results.sizes or SESSION not in results.sizes:
        return Target(text, limit, None)
    return Target(text, limit, Spread.of([ratio(results.sizes, keys)]))


def _of_round_trips(results: Results) -> Target:
    text, row = "Round trips to revoke all of 1,000", results.rows.get("revoke-1000", {}).get(OURS)
    # The request reads the session first, which is one more.
    return Target(text, 2, None if row is None else Spread.of([float(row.round_trips - 1)]))
