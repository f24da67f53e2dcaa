"""A real signal handler that raises at random moments, thousands of times, in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.figures import Figure
from ..support.gunicorn import NOT_COUNTED
from ..support.servers import Server, free_ports

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that listens on TCP too: redis-py has its notifications on TCP only."""
    [port] = free_ports(1)
    server = Server(tmp_path_factory.mktemp("s"), port=port)
    yield server
    server.kill()


def run(server: Server, kind: str, exception: str, count: int) -> dict[str, t.Any]:
    program = [sys.executable, "-m", "tests.faults.interrupted"]
    done = subprocess.run(
        [*program, server.path, str(server.port), kind, exception, str(count)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | NOT_COUNTED,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, t.Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("kind", "exception", "count"),
    [
        pytest.param("url", "TimeLimit", 200, marks=pytest.mark.quick),
        pytest.param("ready", "TimeLimitError", 200, marks=pytest.mark.quick),
        ("url", "TimeLimit", 2000),
        ("url", "TimeLimitError", 2000),
        ("few", "TimeLimit", 2000),
        ("ready", "TimeLimit", 2000),
    ],
)
def test_nobody_is_answered_as_another_after_interruptions(
    server: Server, figure: Figure, kind: str, exception: str, count: int
) -> None:
    """Whenever a signal handler raises, nobody is answered as another user or as nobody, the next
    request is answered, and no connection and no file descriptor is left behind."""
    found = run(server, kind, exception, count)
    answers, checks = found["answers"], found["checks"]
    interrupted = answers.get("interrupted", 0) + answers.get("500", 0)
    assert interrupted >= count
    assert set(answers) <= {"200", "500", "interrupted"}
    assert set(checks) == {"200"}
    assert found["connections"] == 1
    if kind != "ready":
        assert found["new files"] <= 1
    figure(
        "exception between command and reply",
        f"{kind}, {exception}: {interrupted} times, {sum(checks.values())} checks all 200,"
        f" {found['connections']} connections at the end",
    )
