"""A program: a process that has used the store forks, and all processes use it at once.

    python -m tests.faults.forked URL CHILDREN COUNT

Each process sends COUNT requests of two users. The program prints as JSON what all of them were
answered.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter

from flask import Flask

import flask_kvsession as kvs

from ..support.apps import add_views
from ..support.requests import Answers, ask


def main(url: str, children: str, count: str) -> dict[str, int]:
    app = Flask("forked")
    app.config.update(TESTING=True, KVSESSION_REDIS_URL=url, KVSESSION_STORE_TIMEOUT=10)
    kvs.KVSession(app)
    add_views(app)
    browsers = {user: app.test_client() for user in ("ada", "bob")}
    for user, browser in browsers.items():
        browser.post(f"/login/{user}")
        browser.get("/me")

    def use() -> dict[str, int]:
        answers = Answers()
        for _ in range(int(count)):
            for user, browser in browsers.items():
                ask(browser, user, answers)
        return dict(answers.counts)

    pipes: list[int] = []
    for _ in range(int(children)):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, json.dumps(use()).encode())
            os._exit(0)
        os.close(writer)
        pipes.append(reader)
    total: Counter[str] = Counter(use())
    for reader in pipes:
        with os.fdopen(reader) as file:
            total.update(json.loads(file.read()))
    return dict(total)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
