"""The process of one contestant. It reads orders, one line of JSON each, and answers likewise.

An order prepares requests (`prepare`), and a second one sends them (`time`, `calls`, `memory`), so
that the figures of the second one have no preparation in them.
"""

from __future__ import annotations

import itertools
import json
import logging
import statistics
import sys
import time
import tracemalloc
import typing as t
from types import FrameType

from .browser import Browser, Environ, call
from .cases import CASES, NEAR_CACHE, OURS, Case
from .contestants import make_app

PACKAGE = "/flask_kvsession/"
JUNK = "x" * 70


def main() -> None:
    """Obeys until the input ends. The arguments are the contestant and the server's socket."""
    # One address signs in more often than the package finds usual; its warnings are not printed.
    logging.getLogger("flask_kvsession").addHandler(logging.NullHandler())
    worker = Orders(*sys.argv[1:3])
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, order)(*arguments)), flush=True)


class Orders:
    """The orders that a worker obeys."""

    def __init__(self, contestant: str, socket_path: str) -> None:
        self._contestant = contestant
        self._app = make_app(contestant, socket_path).wsgi_app
        self._prefix = f"user-{time.time_ns()}"
        self._users = itertools.count()
        self._browsers: dict[str, Browser] = {}
        self._ready: list[Environ] = []

    def prepare(self, case_name: str, count: int) -> int:
        """Makes the requests that the next order sends."""
        case = CASES[case_name]
        self._ready = [self._browser(case).environ(case.method, case.path) for _ in range(count)]
        return count

    def check(self, case_name: str) -> None:
        """Sends one request of this kind. Raises `RuntimeError` if the response is not as it must
        be."""
        case = CASES[case_name]
        answer = self._browser(case).send(case.method, case.path)
        if case.answer not in (None, answer):
            raise RuntimeError(f"{self._contestant}, {case.name}: {answer}")

    def cookie(self, case_name: str) -> str:
        """The Cookie header of a browser that is ready for this kind of request."""
        return self._browser(CASES[case_name]).cookie_header

    def time(self) -> float:
        """The median time of the prepared requests, in microseconds."""
        app, clock, taken = self._app, time.perf_counter_ns, []
        for environ in self._ready:
            start = clock()
            call(app, environ, _start_response)
            taken.append(clock() - start)
        self._ready = []
        return statistics.median(taken) / 1000 if taken else 0.0

    def calls(self) -> dict[str, float]:
        """For each request, the calls of Python functions, and how many are of the package."""
        counts = [_count_calls(self._app, environ) for environ in self._ready]
        total, package = (statistics.median(column) for column in zip(*counts, strict=True))
        return {"total": total, "package": package if self._contestant in (OURS, NEAR_CACHE) else 0}

    def memory(self) -> float:
        """The most bytes that Python has allocated at one time for one request."""
        peaks = []
        tracemalloc.start()
        for environ in self._ready:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            call(self._app, environ, _start_response)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
        return statistics.median(peaks)

    def _browser(self, case: Case) -> Browser:
        """A browser in the state that the case needs; the same one again where that is possible."""
        if case.once or case.cookie == "none":
            return self._new_browser(case)
        if case.name not in self._browsers:
            self._browsers[case.name] = self._new_browser(case)
        return self._browsers[case.name]

    def _new_browser(self, case: Case) -> Browser:
        browser = Browser(self._app, f"{self._prefix}-{next(self._users)}", case.keys)
        if case.cookie == "none":
            return browser
        for _ in range(case.sessions):
            browser.cookies.clear()  # each login is the one of another device
            browser.send("POST", "/login")
        if case.cookie == "junk":
            browser.cookies = dict.fromkeys(browser.cookies, JUNK)
        elif case.cookie == "unknown":
            Browser(self._app, browser.user, case.keys, dict(browser.cookies)).send(
                "POST", "/logout"
            )
        return browser


def _start_response(*answer: t.Any) -> None:
    pass


def _count_calls(app: t.Any, environ: Environ) -> tuple[int, int]:
    total = package = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal total, package
        if event == "call":
            total += 1
            package += PACKAGE in frame.f_code.co_filename

    sys.setprofile(count)
    try:
        call(app, environ, _start_response)
    finally:
        sys.setprofile(None)
    return total, package


if __name__ == "__main__":
    main()
