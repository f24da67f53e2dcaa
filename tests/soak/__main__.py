"""Runs the soak test, prints its figures, and exits with 1 if something that must hold did not."""

from __future__ import annotations

import argparse
import gc
import os
import random
import secrets
import sys
import tempfile
import time
import typing as t
from array import array
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis
from flask import Flask

from ..support.apps import close
from ..support.proxy import Proxy
from ..support.servers import Server
from .faults import Faults
from .model import Broken
from .site import BROWSERS_OF_A_USER, User, create_app

THREADS = 6
USERS = 12
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""What was acknowledged must outlive a killed server."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvs-soak-", dir="/tmp") as folder:
        server = Server(Path(folder), *DURABLE)
        proxy = Proxy(server.path)
        try:
            return soak(server, proxy, options.seconds, options.seed)
        finally:
            proxy.close()
            server.kill()


def soak(server: Server, proxy: Proxy, seconds: float, seed: int) -> int:
    prefix = f"soak{secrets.token_hex(4)}"
    app = create_app(f"unix://{proxy.path}", prefix)
    users = [User(app, f"user{n}") for n in range(USERS)]
    faults, acts, problems = Faults(server, proxy, seed), Counter[str](), list[str]()
    end = time.monotonic() + seconds
    blocks = array("q")  # a list of ints would be blocks itself, and count as growth
    faults.start()

    def work(number: int) -> None:
        choice = random.Random(seed * 1000 + number)
        with ThreadPoolExecutor(4) as pool:
            while time.monotonic() < end and not problems:
                user = choice.choice(users)
                if not user.lock.acquire(timeout=0.1):
                    continue
                try:
                    acts[user.act(choice, pool)] += 1
                except Broken as problem:
                    problems.append(str(problem))
                finally:
                    user.lock.release()
                if number == 0:
                    blocks.append(sys.getallocatedblocks())

    with ThreadPoolExecutor(THREADS) as workers:
        for each in [workers.submit(work, number) for number in range(THREADS)]:
            each.result()
    faults.stop()
    problems += _problems_at_the_end(app, users, server, prefix)
    close(app)
    gc.collect()
    time.sleep(0.2)
    print(f"seed {seed}, {seconds:.0f} s, {USERS * BROWSERS_OF_A_USER} browsers, {THREADS} threads")
    print(f"acts: {sum(acts.values())} ({_listed(acts)})")
    print(f"faults: {sum(faults.injected.values())} ({_listed(faults.injected)})")
    problems += _problems_of_memory(blocks)
    connections = server.connections()
    print(f"connections after the end: {connections}")
    if connections > 1:
        problems.append(f"{connections} connections are left")
    for problem in problems:
        print(f"BROKEN: {problem}")
    print("all held" if not problems else f"{len(problems)} problems, seed {seed}")
    return 1 if problems else 0


def _problems_at_the_end(app: Flask, users: list[User], server: Server, prefix: str) -> list[str]:
    """Looks at all browsers and at all keys, after the faults have ended."""
    problems: list[str] = []
    for user in users:
        try:
            user.look_at_all()
        except Broken as problem:
            problems.append(f"at the end: {problem}")
    with server.client() as client:
        problems += _problems_of_keys(client, prefix)
    return problems


def _problems_of_keys(client: redis.Redis, prefix: str) -> list[str]:
    keys = {key.decode() for key in client.scan_iter(f"{prefix}:*", count=1000)}
    problems = [f"{key} never expires" for key in sorted(keys) if client.ttl(key) == -1]
    indexed = set[str]()
    for index in (key for key in keys if ":u:" in key):
        base = index.split(":u:")[0]
        shard = base.rpartition("{")[2].rstrip("}")
        ids = t.cast("list[bytes]", client.zrange(index, 0, -1))
        indexed |= {f"{base}:s:{each.decode().removeprefix(shard)}" for each in ids}
    for key in sorted(key for key in keys if ":s:" in key):
        record = client.get(key)
        is_users = record and b'"ended"' not in record[:9] and b',"user":' in record
        if is_users and key not in indexed:
            problems.append(f"{key} is in no index")
        if not is_users and key in indexed:
            problems.append(f"{key} is no session of a user, and is in an index")
    problems += [f"{key} is in an index and does not exist" for key in sorted(indexed - keys)]
    return problems


def _problems_of_memory(samples: array[int]) -> list[str]:
    """Compares the least blocks that Python had allocated in each fifth of the time. The memory of
    the process grows a little more, because the C library returns it in large pieces only."""
    size = len(samples) // 5
    fifths = [samples[size * n : size * (n + 1)] for n in range(5)]
    blocks = [min(fifth) for fifth in fifths]
    print(f"allocated blocks: {', '.join(map(str, blocks))}; memory: {_memory_kb()} kB")
    return ["the allocated blocks have grown"] if blocks[-1] > blocks[0] * 1.1 + 2000 else []


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.most_common())


def _memory_kb() -> int:
    pages = int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


if __name__ == "__main__":
    sys.exit(main())
