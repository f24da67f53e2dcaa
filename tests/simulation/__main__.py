"""Runs many lives of each scenario and prints a table of figures.

`python -m tests.simulation --runs 1000 --seed 1`, or `make simulate`. If a law is broken, it names
the seeds and ends with an error. `--scenario mix --seed 25 --trace` prints one life event by event.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from flask_kvsession.connection import EmbeddedServer

from .observer import Figures
from .scenarios import NEVER, SCENARIOS, broken_laws, figures_of, simulation

CHUNK = 50
"""The number of lives that a process runs in one app."""

FIRST = ("lives", "requests", "judged", "lost", "logins", "logouts", "successors")


def main() -> int:
    arguments = _arguments()
    logging.disable(logging.CRITICAL)  # thefts and many logins are warnings
    server = EmbeddedServer(tempfile.mkdtemp(prefix="kvsession-simulation-"), ephemeral=True)
    try:
        names = arguments.scenario or list(SCENARIOS)
        if arguments.trace:
            return _print_trace(names[0], server.socket_path, arguments.seed)
        seeds = range(arguments.seed, arguments.seed + arguments.runs)
        with _processes(arguments.jobs) as pool:
            chunks = [seeds[n : n + CHUNK] for n in range(0, len(seeds), CHUNK)]
            results = {
                name: [
                    pool.submit(figures_of, SCENARIOS[name], server.socket_path, chunk)
                    for chunk in chunks
                ]
                for name in names
            }
            figures = {name: _sum(r.result() for r in these) for name, these in results.items()}
    finally:
        server.close()
    _print_table(figures)
    broken = [line for name in names for line in broken_laws(SCENARIOS[name], figures[name])]
    print("", *(broken or ["No law is broken."]), sep="\n")
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="lives of each scenario")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the first life")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="parallel processes")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS))
    parser.add_argument("--trace", action="store_true", help="print one life, event by event")
    return parser.parse_args()


def _processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        count,
        multiprocessing.get_context("spawn"),
        initializer=logging.disable,
        initargs=(logging.CRITICAL,),
    )


def _sum(parts: Iterable[Figures]) -> Figures:
    total = Figures()
    for part in parts:
        total.add(part)
    return total


def _print_trace(name: str, socket_path: str, seed: int) -> int:
    with simulation(SCENARIOS[name], socket_path) as running:
        for time, *event in running.live(seed).trace:
            print(f"{time:10.2f}", *event)
    return 0


def _print_table(figures: dict[str, Figures]) -> None:
    counted = {name for each in figures.values() for name in each.counts}
    rows = [*FIRST, *sorted((counted | set(NEVER)) - set(FIRST))]
    width = max(map(len, rows))
    print(" " * width, *(f"{name:>9}" for name in figures))
    for row in rows:
        print(f"{row:{width}}", *(f"{each.counts[row]:9,}" for each in figures.values()))
    for name, each in figures.items():
        if later := sorted(seconds / 60 for seconds in each.found_after if seconds):
            at_once = len(each.found_after) - len(later)
            print(
                f"{name}: {at_once} found at the first use, the others within"
                f" {statistics.median(later):.0f} minutes (half of them),"
                f" {later[int(len(later) * 0.9)]:.0f} minutes (90 %)"
            )


if __name__ == "__main__":
    sys.exit(main())
