"""Measures all cases, prints the tables and writes them: `python -m benchmarks`, or `make bench`.

`--quick` takes less than a minute; it prints rough figures and writes nothing. `--case` and
`--contestant` choose what is measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import instructions, machine
from .cases import CASES, INVENIO, LABELS
from .chart import chart
from .environment import make_environment
from .near_cache import measure_reports
from .open_connections import measure_open_connections
from .processes import ROOT, Server, Worker
from .report import page
from .results import Results
from .scale import measure_scale
from .sizes import measure_sizes
from .throughput import generator_name, measure_throughput
from .timing import measure

PAGE, CHART = Path("benchmarks.md"), Path("images") / "benchmarks.svg"

_ROUNDS, _QUICK_ROUNDS = 31, 5
_SESSIONS, _QUICK_SESSIONS = (1_000, 100_000, 1_000_000), (1_000, 10_000)
_REVOCATIONS, _WRITES = 300, 5_000
_CONNECTIONS = 200
"""How many connections of each kind are opened and ended."""
_QUICK_DIVISOR = 4
"""The batches of a quick run are smaller by this factor."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        results = _measure(arguments, Path(folder))
    text = page(results, CHART.as_posix())
    print(text)
    if arguments.output:
        (arguments.output / CHART).parent.mkdir(parents=True, exist_ok=True)
        (arguments.output / CHART).write_text(chart(results.rows))
        (arguments.output / PAGE).write_text(text)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="rough figures in less than a minute")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these requests")
    parser.add_argument("--contestant", action="append", choices=list(LABELS), help="only these")
    parser.add_argument("--output", type=Path, help="the folder to write to; default: docs")
    arguments = parser.parse_args(argv)
    arguments.whole = not (arguments.case or arguments.contestant)
    if arguments.output is None and arguments.whole and not arguments.quick:
        arguments.output = ROOT / "docs"
    return arguments


def _measure(arguments: argparse.Namespace, folder: Path) -> Results:
    wanted = [name for name in arguments.contestant or LABELS if machine.installed(name)]
    pythons = _other_pythons(wanted)
    names = [name for name in wanted if name != INVENIO or name in pythons]
    server = Server(folder / "server")
    workers: dict[str, Worker] = {}
    rounds = _QUICK_ROUNDS if arguments.quick else _ROUNDS
    try:
        results = Results(machine.describe(server.client, pythons.get(INVENIO)), rounds)
        results.missing = [name for name in arguments.contestant or LABELS if name not in names]
        for name in names:
            workers[name] = Worker(name, server.socket_path, python=pythons.get(name))
        if arguments.whole:
            results.sizes = measure_sizes(workers, server)
        for name in arguments.case or CASES:
            _say(CASES[name].title)
            divisor = _QUICK_DIVISOR if arguments.quick else 1
            rows = measure(CASES[name], workers, server, rounds=rounds, divisor=divisor)
            results.rows[name] = rows
        if arguments.whole:
            _measure_more(results, arguments.quick, server, workers, folder)
        if not arguments.quick and instructions.can_count():
            _say("Instructions")
            instructions.count_all(results.rows, server.socket_path, folder, pythons)
    finally:
        for worker in workers.values():
            worker.close()
        server.close()
    return results


def _measure_more(
    results: Results, quick: bool, server: Server, workers: dict[str, Worker], folder: Path
) -> None:
    """Measures requests per second, the near cache's reports, open connections, and servers with
    many sessions."""
    _say("Requests per second")
    passes, seconds = (1, 1) if quick else (3, 5)
    results.generator = generator_name()
    results.loads = measure_throughput(server.socket_path, workers, passes=passes, seconds=seconds)
    _say("Reports of the near cache")
    divisor = 10 if quick else 1
    results.reports = measure_reports(
        server.socket_path, revocations=_REVOCATIONS // divisor, writes=_WRITES // divisor
    )
    _say("Open connections")
    results.ends = measure_open_connections(server.socket_path, _CONNECTIONS // divisor)
    _say("Many sessions")
    counts = _QUICK_SESSIONS if quick else _SESSIONS
    results.scale = measure_scale(counts, folder, rounds=results.rounds)


def _other_pythons(names: Sequence[str]) -> dict[str, str]:
    """The interpreters of the contestants that have an environment of their own."""
    python = make_environment() if INVENIO in names else None
    return {INVENIO: python} if python else {}


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
