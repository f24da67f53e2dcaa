"""How soon other processes see a revocation with the near cache, and what a report costs them."""

from __future__ import annotations

import multiprocessing
import threading
import time
import typing as t
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from flask_kvsession.connection import connect
from flask_kvsession.record import Client, Stored, new_record
from flask_kvsession.settings import Settings
from flask_kvsession.store import SessionStore
from flask_kvsession.token import Token, new_session_id, user_hash

PROCESSES = 3
_PREFIX = "near-cache"
_SECONDS_BETWEEN_READS = 0.0005
_SECONDS_BETWEEN_WRITES = 0.002


@dataclass(frozen=True)
class Reports:
    """What was measured of the reports that Redis sends to processes with a near cache."""

    delays: list[float]
    """For each process and revocation, the ms from the call to the first read that sees it."""
    written: int
    """How many sessions were changed, for the next figure."""
    microseconds: float
    """The CPU time that one change costs another process."""


def measure_reports(socket_path: str, *, revocations: int, writes: int) -> Reports:
    store = _store(socket_path, near_cache=False)
    with _readers(socket_path) as readers:
        delays = [delay for _ in range(revocations) for delay in _revoke_one(store, readers)]
    with _readers(socket_path, has_load=False, count=1) as [idle]:
        microseconds = _cost(store, idle, writes)
    store.close()
    return Reports(delays, writes, microseconds)


def _store(socket_path: str, *, near_cache: bool) -> SessionStore:
    settings = Settings(near_cache=near_cache, key_prefix=_PREFIX, store_timeout=60)  # type: ignore[arg-type]
    return SessionStore(connect(f"unix://{socket_path}"), settings)


def _new_session(store: SessionStore, user: str) -> tuple[Token, Stored]:
    token = Token.for_session(new_session_id(user_hash(user)))
    record = new_record(token, now=store.now(), client=Client(), user_id=user, data={"n": b"0"})
    store.create(new := Stored.of(token.session_id, record))
    return token, new


def _revoke_one(store: SessionStore, readers: list[Connection]) -> Iterator[float]:
    token, _ = _new_session(store, "ada")
    for reader in readers:
        reader.send(str(token))
    for reader in readers:
        reader.recv()
    began = time.monotonic()
    store.revoke_one("ada", token.session_id)
    for reader in readers:
        yield (reader.recv() - began) * 1000


def _cost(store: SessionStore, idle: Connection, writes: int) -> float:
    """The CPU time that the idle process takes while another one writes, less that of as much time
    without writes; in microseconds for each write."""
    _, stored = _new_session(store, "ada")
    before = _cpu_seconds(idle)
    began = time.monotonic()
    for number in range(writes):
        change = stored.record.with_data({"n": b"%d" % number})
        stored = t.cast(Stored, store.commit(stored, change)[1])
        time.sleep(_SECONDS_BETWEEN_WRITES / 2)
    seconds = time.monotonic() - began
    between = _cpu_seconds(idle)
    time.sleep(seconds)
    after = _cpu_seconds(idle)
    return ((between - before) - (after - between)) / writes * 1_000_000


def _cpu_seconds(idle: Connection) -> float:
    idle.send(None)
    return float(idle.recv())


@contextmanager
def _readers(
    socket_path: str, *, has_load: bool = True, count: int = PROCESSES
) -> Iterator[list[Connection]]:
    """Processes with a near cache, and the pipes to them."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(count):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_read, args=(theirs, socket_path, has_load), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        for pipe in pipes:
            pipe.recv()
        yield pipes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _read(pipe: Connection, socket_path: str, has_load: bool) -> None:
    """What a reader runs: for each token that it gets, it reads the session until that has ended,
    and sends the time."""
    store = _store(socket_path, near_cache=True)
    store.tracker.start()
    while not store.tracker.is_proven():
        time.sleep(0.01)
    if has_load:
        threading.Thread(target=_write_for_ever, args=(store,), daemon=True).start()
    pipe.send("ready")
    while True:
        text = pipe.recv()
        if text is None:
            pipe.send(time.process_time())
            continue
        token = t.cast(Token, Token.parse(text))
        while not store.look_up(token).is_cached:
            time.sleep(_SECONDS_BETWEEN_READS)
        pipe.send("cached")
        while store.load(token):
            time.sleep(_SECONDS_BETWEEN_READS)
        pipe.send(time.monotonic())


def _write_for_ever(store: SessionStore) -> None:
    _, stored = _new_session(store, f"writer {time.monotonic_ns()}")
    number = 0
    while True:
        number += 1
        change = stored.record.with_data({"n": b"%d" % number})
        stored = t.cast(Stored, store.commit(stored, change)[1])
        time.sleep(_SECONDS_BETWEEN_WRITES)
