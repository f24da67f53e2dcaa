"""The memory that one session takes in the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .cases import LITTLE, MANY, NO_CLIENT, SESSION, SIZED
from .processes import Server, Worker

_LOGIN = {LITTLE: "login", MANY: "login-21"}


@dataclass(frozen=True)
class Size:
    """What one login stores: the bytes of the record, and of the index if there is one."""

    record: int
    index: int

    @property
    def total(self) -> int:
        return self.record + self.index


Sizes = dict[str, dict[int, Size]]
"""For each contestant and number of keys, the size."""


def measure_sizes(workers: Mapping[str, Worker], server: Server) -> Sizes:
    """The sizes after one login each. The server must have no other clients."""
    return {
        name: {keys: _size(workers[name], server, case) for keys, case in _LOGIN.items()}
        for name in SIZED
        if name in workers
    }


def ratio(sizes: Sizes, keys: int) -> float:
    """Our record and index with the same facts as Flask-Session's record, in sizes of that."""
    return sizes[NO_CLIENT][keys].total / sizes[SESSION][keys].total


def _size(worker: Worker, server: Server, case: str) -> Size:
    before = set(server.client.scan_iter(count=10_000))
    worker.order("check", case)
    new = set(server.client.scan_iter(count=10_000)) - before
    kinds: dict[bool, int] = {True: 0, False: 0}
    for key in new:
        is_record = server.client.type(key) == b"string"
        kinds[is_record] += int(server.client.memory_usage(key, samples=0) or 0)
    return Size(record=kinds[True], index=kinds[False])
