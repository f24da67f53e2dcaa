"""Requests of many users at once, whose answers are checked."""

from __future__ import annotations

import threading
import time
import typing as t
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from flask import Flask
from flask.testing import FlaskClient

AS_ANOTHER = "as another"
"""The answer 200 in the name of another user."""


@dataclass
class Answers:
    """What requests were answered, and how long the slowest one took."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    last_failure: float = 0.0
    """When the last answer that was no success came, by the monotonic clock."""

    def note(self, answer: str, seconds: float) -> None:
        self.counts[answer] += 1
        self.slowest = max(self.slowest, seconds)
        if answer != "200":
            self.last_failure = time.monotonic()


def ask(browser: FlaskClient, user: str, answers: Answers, path: str = "/me") -> str:
    """Sends one request as this user, notes the answer and returns it."""
    began = time.monotonic()
    response = browser.get(path)
    answer = str(response.status_code)
    if answer == "200" and response.get_json()["user"] != user:
        answer = AS_ANOTHER
    answers.note(answer, time.monotonic() - began)
    return answer


def at_once(count: int, threads: int, act: Callable[[int], object]) -> float:
    """Calls `act` with 0 to `count` - 1 in so many threads. Returns the seconds that it took."""
    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(act, range(count)))
    return time.monotonic() - began


@contextmanager
def load(
    app: Flask, users: t.Sequence[str], act: Callable[[FlaskClient, str, Answers], object] = ask
) -> Iterator[Answers]:
    """While the block runs, one thread for each user, who is signed in, sends requests."""
    answers, is_over = Answers(), threading.Event()
    failures: list[BaseException] = []
    browsers = [app.test_client() for _ in users]
    for browser, user in zip(browsers, users, strict=True):
        assert browser.post(f"/login/{user}").status_code == 200

    def run(browser: FlaskClient, user: str) -> None:
        try:
            while not is_over.is_set():
                act(browser, user, answers)
                time.sleep(0.002)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=run, args=pair) for pair in zip(browsers, users, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert failures == []
