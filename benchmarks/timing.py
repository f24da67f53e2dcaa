"""Times of contestants that take turns, and the counts that have no noise."""

from __future__ import annotations

import os
import random
import statistics
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass, field

from .cases import Case
from .processes import Server, Worker

ALL_CPUS = os.sched_getaffinity(0)
ONE_CPU = {max(ALL_CPUS)}

_FOR_COUNTS = 10


@dataclass(frozen=True)
class Spread:
    """The median of some figures, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: list[float]) -> Spread:
        if len(figures) < 2:
            return cls(figures[0], figures[0], figures[0])
        low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
        return cls(statistics.median(figures), low, high)

    @classmethod
    def of_ratio(cls, figures: list[float], others: list[float]) -> Spread:
        """The ratios of the figures of the same round."""
        return cls.of([one / other for one, other in zip(figures, others, strict=True)])


@dataclass
class Row:
    """What was measured of one contestant in one case. Times are in microseconds, one for each
    round."""

    pinned: list[float] = field(default_factory=list)
    unpinned: list[float] = field(default_factory=list)
    calls: int = 0
    package_calls: int = 0
    round_trips: int = 0
    peak_bytes: int = 0
    instructions: int | None = None


Rows = dict[str, Row]
"""For each contestant its row."""


def measure(
    case: Case, workers: Mapping[str, Worker], server: Server, *, rounds: int, divisor: int = 1
) -> Rows:
    """The rows of all contestants that take part in a case. `divisor` makes batches smaller."""
    taking_part = {name: workers[name] for name in case.contestants if name in workers}
    batch = max(1, case.batch // divisor)
    rows = {name: counted(case, worker, server) for name, worker in taking_part.items()}
    pin(ONE_CPU, server, taking_part)
    for name, times in take_turns(case, taking_part, rounds=rounds, batch=batch).items():
        rows[name].pinned = times
    pin(ALL_CPUS, server, taking_part)
    for name, times in take_turns(case, taking_part, rounds=rounds, batch=batch).items():
        rows[name].unpinned = times
    return rows


def pin(cpus: set[int], server: Server, workers: Mapping[str, Worker]) -> None:
    """Lets the server and the workers run on these CPUs only."""
    server.pin(cpus)
    for worker in workers.values():
        worker.pin(cpus)


def take_turns(
    case: Case, workers: Mapping[str, Worker], *, rounds: int, batch: int
) -> dict[str, list[float]]:
    """For each worker the median time of its batch, one for each round.

    The order changes from round to round, so that no worker always follows the same other one.
    """
    times: dict[str, list[float]] = {name: [] for name in workers}
    order = random.Random(1)
    for _ in range(rounds):
        for name in order.sample(sorted(workers), len(workers)):
            workers[name].order("prepare", case.name, batch)
            times[name].append(workers[name].order("time"))
    return times


def counted(case: Case, worker: Worker, server: Server) -> Row:
    """The row of a worker, with its counts and without its times."""
    count = min(_FOR_COUNTS, case.batch)
    worker.order("check", case.name)
    _send(worker, case, count, "time")  # what happens only once has happened
    calls = _send(worker, case, count, "calls")
    peak = _send(worker, case, count, "memory")
    worker.order("prepare", case.name, 1)
    return Row(
        calls=round(calls["total"]),
        package_calls=round(calls["package"]),
        round_trips=server.round_trips(lambda: worker.order("time")),
        peak_bytes=round(peak),
    )


def _send(worker: Worker, case: Case, count: int, order: str) -> t.Any:
    worker.order("prepare", case.name, count)
    return worker.order(order)
