"""gunicorn in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .servers import LOOPBACK, free_ports, wait_until

ROOT = Path(__file__).parents[2]

NOT_COUNTED = {"COVERAGE_PROCESS_CONFIG": ""}
"""For the environment of a process in which exceptions come at random: coverage would not count it.
An exception inside of coverage leaves its lock locked, and the process hangs."""


@contextmanager
def gunicorn(app: str, options: str, environ: dict[str, str], ready: str = "/") -> Iterator[int]:
    """Serves the app `module:name`; gives the port. It is ready when the path `ready` answers."""
    [port] = free_ports(1)
    arguments = f"{options} --bind {LOOPBACK}:{port} --log-level error --graceful-timeout 1"
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", app],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "GUNICORN_CMD_ARGS": arguments} | environ,
    )
    try:
        wait_until(lambda: _answers(f"http://{LOOPBACK}:{port}{ready}"), ignoring=OSError)
        yield port
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=5):
        return True
