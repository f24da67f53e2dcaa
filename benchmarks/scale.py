"""Our requests on servers that hold different numbers of sessions."""

from __future__ import annotations

import secrets
import typing as t
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from .cases import CASES, OURS
from .processes import Server, Worker
from .timing import ONE_CPU, take_turns

CASE_NAMES = ("read", "login", "list-10")
_PER_PIPELINE = 5000


@dataclass
class Scale:
    """For each case and number of sessions the times, one for each round; and for each number the
    memory of the server for one session."""

    times: dict[str, dict[int, list[float]]]
    bytes_per_session: dict[int, int]


def measure_scale(counts: Sequence[int], folder: Path, *, rounds: int) -> Scale:
    """Fills one server for each number of sessions, and measures them in turns."""
    servers: list[Server] = []
    workers: dict[str, Worker] = {}
    memory: dict[int, int] = {}
    try:
        for count in counts:
            servers.append(server := Server(folder / f"s{count}"))
            workers[str(count)] = worker = Worker(OURS, server.socket_path)
            worker.order("check", "login")
            memory[count] = _fill(server.client, count)
            server.pin(ONE_CPU)
            worker.pin(ONE_CPU)
        times = {name: _times(name, workers, rounds) for name in CASE_NAMES}
    finally:
        for worker in workers.values():
            worker.close()
        for server in servers:
            server.close()
    return Scale(times, memory)


def _times(name: str, workers: dict[str, Worker], rounds: int) -> dict[int, list[float]]:
    case = CASES[name]
    for worker in workers.values():
        worker.order("check", name)
    times = take_turns(case, workers, rounds=rounds, batch=case.batch)
    return {int(count): figures for count, figures in times.items()}


def _fill(client: redis.Redis, count: int) -> int:
    """Copies the one session in the server so often, with an index for each copy. Returns the bytes
    of one copy."""
    record_key = next(client.scan_iter(match="*:s:*"))
    index_key = next(client.scan_iter(match="*:u:*"))
    record, lifetime = t.cast(bytes, client.get(record_key)), client.pttl(record_key)
    expires = t.cast(float, client.zscore(index_key, _only_member(client, index_key)))
    prefix = record_key.split(b":")[0].decode()
    before = client.info("memory")["used_memory"]
    for start in range(0, count, _PER_PIPELINE):
        pipeline = client.pipeline(transaction=False)
        for _ in range(min(_PER_PIPELINE, count - start)):
            shard, session, user = (
                secrets.token_hex(2)[:3],
                secrets.token_hex(8),
                secrets.token_hex(10),
            )
            pipeline.set(f"{prefix}:{{{shard}}}:s:{session}", record, px=lifetime)
            index = f"{prefix}:{{{shard}}}:u:{shard}{user[:19]}"
            pipeline.zadd(index, {shard + session: expires})
            pipeline.pexpire(index, lifetime)
        pipeline.execute()
    after = client.info("memory")["used_memory"]
    return int((after - before) / count)


def _only_member(client: redis.Redis, index_key: bytes) -> bytes:
    (member,) = t.cast(list[bytes], client.zrange(index_key, 0, -1))
    return member
