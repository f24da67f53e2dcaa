"""Tests the built package with each Python of this machine, and with lowest and newest versions.

`python -m tests.lanes`, or `make lanes`. In each lane the wheel, or once the source distribution,
is installed into a clean environment, and the app of docs/start.md runs in an empty folder. Then
the test suite runs there. With `--quick`, only the lane with the lowest versions runs tests, and
only those of the core.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from .environments import (
    PYTHONS,
    ROOT,
    Lane,
    build,
    install,
    interpreter,
    make_environment,
    versions,
)
from .quick_start import follow

FOLDER = ROOT / ".lanes"
CORE = (
    *("login", "logout", "revocation", "timeouts", "values", "guards", "signals", "rotation"),
    *("anonymous_sessions", "flask_session", "user_id_key", "devices", "ready_clients", "limit"),
)
WITH_TARGETS_OF_THEIR_OWN = ("browser", "faults", "live", "simulation", "fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes, as in CI")
    quick = parser.parse_args().quick
    results = [is_good(lane, quick) for lane in lanes()]
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) else 1


def lanes() -> list[Lane]:
    """Each Python with the newest versions; the oldest also with the lowest, and from the sdist."""
    wheel, sdist = build(FOLDER / "dist")
    pythons = [(version, found) for version in PYTHONS if (found := interpreter(version))]
    for version in sorted({*PYTHONS} - {version for version, _ in pythons}):
        print(f"Python {version} is not on this machine")
    oldest = pythons[0]
    return [
        Lane(*oldest, "lowest", wheel),
        *(Lane(*python, "newest", wheel) for python in pythons),
        Lane(*oldest, "newest", sdist),
    ]


def is_good(lane: Lane, quick: bool) -> bool:
    """Runs one lane, and prints what has failed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lane") as folder:
        try:
            python = make_environment(lane, Path(folder, "venv"))
            follow(python, Path(folder, "app"))
            if lane.package.suffix == ".whl" and (lane.versions == "lowest" or not quick):
                run_tests(lane, python, quick)
            found = versions(python)
        except Exception:
            print(f"FAILED {lane.name}\n{traceback.format_exc()}")
            return False
    print(f"{lane.name} ({found}): good ({time.monotonic() - began:.0f} s)", flush=True)
    return True


def run_tests(lane: Lane, python: Path, quick: bool) -> None:
    """Runs the suite, or the core of it, in the environment of the lane."""
    install(lane, python, "-r", str(ROOT / "requirements" / "dev.txt"))
    chosen = [f"tests/test_{name}.py" for name in CORE] if quick else ["tests"]
    chosen += [f"--ignore=tests/{name}" for name in WITH_TARGETS_OF_THEIR_OWN]
    command = [str(python), "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout.splitlines()[-1])
    if done.returncode:
        raise RuntimeError(done.stdout[-5000:] + done.stderr[-2000:])


if __name__ == "__main__":
    sys.exit(main())
