"""Runs the fuzz targets with Atheris, each for some seconds: `make fuzz`.

Each target runs in a process of its own, because Atheris ends its process. A finding is printed as
a Python literal, with which `python -m tests.fuzz TARGET --input LITERAL` repeats it, and the exit
code is not zero. Afterwards the property tests run with many examples.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROPERTY_TESTS = ["tests/test_whose_data.py", "tests/fuzz"]
EXAMPLES_A_SECOND = 33
"""So 600 seconds are about 20,000 examples of each property."""
LEAST_SECONDS = 60
"""A shorter run leaves the property tests to `make test`."""

_EXECUTIONS = re.compile(r"stat::number_of_executed_units: +(\d+)")

_WORDS = re.compile(rb"\{[a-z0-9]+\}|[A-Za-z_-]{4,30}")
"""What Atheris puts into inputs, taken from the inputs to begin with."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", nargs="?", help="only this target, in this process")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--input", type=ast.literal_eval, help="only this input, as b'...'")
    options = parser.parse_args()
    if options.target is None:
        return run_all(options.seconds)
    logging.getLogger("fuzz").setLevel(logging.CRITICAL)  # the app's own errors
    logging.getLogger("flask_kvsession").addHandler(logging.NullHandler())
    if options.input is not None:
        load_targets()[options.target].run(options.input)
        return 0
    fuzz(options.target, options.seconds)
    return 0


def run_all(seconds: int) -> int:
    """The exit code: 1 if any target or property test has failed."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = list(pool.map(partial(run_target, seconds), load_targets()))
    if seconds >= LEAST_SECONDS:
        passed.append(run_property_tests(seconds))
    return 0 if all(passed) else 1


def run_target(seconds: int, name: str) -> bool:
    """Whether the target ran in a process of its own without a finding. Prints the figures."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    executions = _EXECUTIONS.search(done.stderr)
    count = int(executions[1]) if executions else 0
    passed = done.returncode == 0 and count > 0
    report = f"{name:20} {count:10,} executions in {time.monotonic() - began:.0f} s"
    details = "" if passed else f"\n{done.stdout or done.stderr}"  # a finding is in stdout
    print(report + details, flush=True)
    return passed


def run_property_tests(seconds: int) -> bool:
    """Whether the property tests pass with many examples."""
    began, examples = time.monotonic(), seconds * EXAMPLES_A_SECOND
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--timeout=0", *PROPERTY_TESTS]
    environ = os.environ | {"KVSESSION_FUZZ": str(examples)}
    code = subprocess.run(command, cwd=ROOT, env=environ).returncode
    took = time.monotonic() - began
    print(f"{'property tests':20} {examples:10,} examples of each in {took:.0f} s")
    return code == 0


def load_targets() -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", importlib.import_module("tests.fuzz.targets").TARGETS)


def fuzz(name: str, seconds: int) -> None:
    """Runs one target until the time is over; then the process ends."""
    atheris = importlib.import_module("atheris")  # it has no type hints
    with atheris.instrument_imports(include=["flask_kvsession"]):
        target = load_targets()[name]

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except BaseException:
            print(f"A finding. To repeat it: python -m tests.fuzz {name} --input {data!a}")
            raise

    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as words:
        for number, seed in enumerate(target.seeds):
            Path(folder, str(number)).write_bytes(seed)
        for word in {word for seed in target.seeds for word in _WORDS.findall(seed)}:
            words.write(b'"%s"\n' % word)
        words.flush()
        limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048"]
        more = [
            "-print_final_stats=1",
            "-max_len=4096",
            f"-artifact_prefix={folder}/",
            f"-dict={words.name}",
        ]
        atheris.Setup([sys.argv[0], *limits, *more, folder], run)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
