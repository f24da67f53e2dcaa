"""Requests per second under gunicorn, with wrk or a small load generator of our own."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cases import BARE, OURS, SESSION, SIGNED
from .processes import ROOT, START_SECONDS, Worker, end

CONTESTANTS = (BARE, SIGNED, SESSION, OURS)
WORKERS = 2
CONNECTIONS = 4


@dataclass(frozen=True)
class Load:
    """What a load generator has seen. The percentiles are in milliseconds."""

    per_second: float
    p50: float
    p99: float


def generator_name() -> str:
    return "wrk" if shutil.which("wrk") else "a load generator in Python"


def measure_throughput(
    socket_path: str, workers: Mapping[str, Worker], *, passes: int, seconds: int
) -> dict[str, Load]:
    """For each contestant the pass with the median of requests per second. The contestants take
    turns."""
    loads: dict[str, list[Load]] = {name: [] for name in CONTESTANTS if name in workers}
    for _ in range(passes):
        for name, seen in loads.items():
            cookie = "" if name == BARE else workers[name].order("cookie", "read")
            path = "/untouched" if name == BARE else "/read"
            seen.append(_load(name, socket_path, path, cookie, seconds))
    return {
        name: sorted(seen, key=lambda load: load.per_second)[len(seen) // 2]
        for name, seen in loads.items()
    }


def _load(name: str, socket_path: str, path: str, cookie: str, seconds: int) -> Load:
    port = free_port()
    app = f"benchmarks.contestants:make_app({name!r}, {socket_path!r})"
    options = ["-w", str(WORKERS), "-b", f"127.0.0.1:{port}", "--log-level", "error"]
    gunicorn = subprocess.Popen([sys.executable, "-m", "gunicorn", *options, app], cwd=ROOT)
    try:
        wait_for(port, path, cookie)
        run = _wrk if shutil.which("wrk") else _generate
        run(port, path, cookie, 1)  # both workers have connections now
        return run(port, path, cookie, seconds)
    finally:
        end(gunicorn)


def _wrk(port: int, path: str, cookie: str, seconds: int) -> Load:
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-H", f"Cookie: {cookie}"]
    command = ["wrk", *options, f"http://127.0.0.1:{port}{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text:
        raise RuntimeError(f"some responses have another status than 200:\n{text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not rate:
        raise RuntimeError(f"wrk has measured nothing:\n{text}")
    return Load(float(rate[1]), _percentile(text, 50), _percentile(text, 99))


def _percentile(text: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", text, re.MULTILINE)
    if not found:
        raise RuntimeError(f"wrk has not printed the percentile {percent}:\n{text}")
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _generate(port: int, path: str, cookie: str, seconds: int) -> Load:
    """Sends requests in as many threads as wrk has connections."""
    taken: list[float] = []

    def send_until(stop: float) -> None:
        while time.monotonic() < stop:
            start = time.perf_counter()
            get(port, path, cookie)
            taken.append((time.perf_counter() - start) * 1000)

    stop = time.monotonic() + seconds
    threads = [threading.Thread(target=send_until, args=(stop,)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(len(taken) / seconds, _share(taken, 0.5), _share(taken, 0.99))


def _share(figures: Sequence[float], share: float) -> float:
    return sorted(figures)[int(share * (len(figures) - 1))]


def get(port: int, path: str, cookie: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers={"Cookie": cookie})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200 or (cookie and body != b"reader"):
        raise RuntimeError(f"{path}: {response.status} {body!r}")


def wait_for(port: int, path: str, cookie: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            get(port, path, cookie)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
