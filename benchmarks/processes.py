"""The processes that a benchmark starts: servers, and the workers of the contestants.

Each process is ended by its own id.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import typing as t
from collections.abc import Sequence
from pathlib import Path

import redis

from flask_kvsession.connection.embedded import find_binary

ROOT = Path(__file__).parent.parent
START_SECONDS = 20
_NOT_COUNTED = ("HELLO", "CLIENT", "ROLE")
"""The handshake of a connection, and the heartbeat of the near cache."""

# The root is the last entry of the path, so that an environment with another `flask_kvsession`
# imports that one.
_BOOT = "import sys; sys.path.append({root!r}); from benchmarks.worker import main; main()"


class Server:
    """A Redis or Valkey server that keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.socket_path = str(folder / "s")
        options = {"port": "0", "unixsocket": self.socket_path, "dir": str(folder), "save": ""}
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([find_binary(), *arguments], stdout=subprocess.DEVNULL)
        self.client = redis.Redis(unix_socket_path=self.socket_path)
        _wait_until(self.client.ping, self._process)

    def pin(self, cpus: set[int]) -> None:
        """Lets the server run on these CPUs only."""
        pin(self._process, cpus)

    def round_trips(self, act: t.Callable[[], object]) -> int:
        """The number of commands that clients send while `act` runs, without those of scripts."""
        with self.client.monitor() as monitor:  # type: ignore[no-untyped-call]
            act()
            self.client.echo("the end")
            sent = []
            for entry in monitor.listen():
                if entry["command"] == "ECHO the end":
                    break
                if entry["client_type"] != "lua" and not entry["command"].startswith(_NOT_COUNTED):
                    sent.append(entry["command"])
        return len(sent)

    def close(self) -> None:
        self.client.close()
        end(self._process)


class Worker:
    """The process of one contestant (see `worker`).

    `python` is the interpreter of another environment, if the contestant has one. `before` is put
    before the command, such as valgrind with its options.
    """

    def __init__(
        self,
        contestant: str,
        socket_path: str,
        *,
        python: str | None = None,
        before: Sequence[str] = (),
    ) -> None:
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environ["PYTHONHASHSEED"] = "0"  # the counts of two runs are then the same
        if python is None:
            environ["PYTHONPATH"] = str(ROOT)
        boot = _BOOT.format(root=str(ROOT))
        self.process = subprocess.Popen(
            [*before, python or sys.executable, "-P", "-c", boot, contestant, socket_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
        )

    def order(self, name: str, *arguments: t.Any) -> t.Any:
        """Gives an order and waits for its answer. Raises `RuntimeError` if the worker has
        ended."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker has ended at {name} {arguments}")
        return json.loads(answer)

    def pin(self, cpus: set[int]) -> None:
        pin(self.process, cpus)

    def close(self) -> None:
        end(self.process)


def pin(process: subprocess.Popen[t.Any], cpus: set[int]) -> None:
    """Lets a process, with all its threads, run on these CPUs only."""
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        os.sched_setaffinity(int(thread), cpus)


def end(process: subprocess.Popen[t.Any]) -> None:
    """Ends a process, and waits until it has ended."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def _wait_until(ready: t.Callable[[], object], process: subprocess.Popen[t.Any]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            ready()
            return
        except (redis.RedisError, OSError):
            time.sleep(0.01)
    end(process)
    raise RuntimeError("the process did not start in time")
