"""A reply that is not the one to its command is never used.

The package's own connections cannot mix replies up. A proxy or a server with a fault could.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable

import pytest
import redis

import flask_kvsession as kvs
from flask_kvsession.connection import Command, Deadline, Node, RedisClient, Servers, adopt
from flask_kvsession.errors import StoreUnavailable
from flask_kvsession.record import Record, Stored

from .support.exercise import sign_in

WRONG: dict[str, t.Any] = {
    "a number": 5,
    "a text": b"OK",
    "nothing": None,
    "an empty list": [],
    "a list of numbers": [1, 2],
    "a list of texts": [b"a", b"b", b"c"],
    "a list of lists": [[b"a"], [b"b"]],
    "a time of another shape": [b"x", b"y"],
    "too many records": [1, [b"a"] * 9, []],
}


class Mixed(Servers):
    """The real servers, but the replies to the commands of one name are wrong."""

    heartbeat = ()  # nobody listens for changes here

    def __init__(self, real: Servers) -> None:
        self.real = real
        self.wrong: dict[str, t.Any] = {}
        self.closed = 0

    def call(self, command: Command, deadline: Deadline) -> t.Any:
        reply = self.real.call(command, deadline)
        return self.wrong.get(str(command.args[0]), reply)

    def close(self) -> None:
        self.closed += 1
        self.real.close()

    def primaries(self, deadline: Deadline) -> list[Node]:
        return self.real.primaries(deadline)

    def check_heartbeat(self, reply: t.Any) -> None:
        self.real.check_heartbeat(reply)


@pytest.fixture
def mixed(socket_path: str) -> t.Iterator[Mixed]:
    ready: RedisClient = redis.Redis(unix_socket_path=socket_path)
    mixed = Mixed(adopt(ready))
    yield mixed
    mixed.close()


@pytest.fixture
def store(mixed: Mixed, prefix: str) -> kvs.SessionStore:
    return kvs.SessionStore(mixed, kvs.Settings(key_prefix=prefix, max_sessions_per_user=1))


def changed(record: Record) -> Record:
    return record.with_data({"x": b"1"})


METHODS: dict[str, tuple[str, Callable[[kvs.SessionStore, Stored], object]]] = {
    "list, index": ("ZRANGEBYSCORE", lambda store, one: store.sessions_of("ada")),
    "list, records": ("MGET", lambda store, one: store.sessions_of("ada")),
    "create": ("EVALSHA", lambda store, one: sign_in(store, "ada")),
    "commit": ("EVALSHA", lambda store, one: store.commit(one, changed(one.record))),
    "remove": ("EVALSHA", lambda store, one: store.remove(one)),
    "revoke": ("EVALSHA", lambda store, one: store.revoke_one("ada", one.id)),
    "revoke all": ("EVALSHA", lambda store, one: store.revoke_all("ada")),
    "limit": (
        "EVALSHA",
        lambda store, one: store.limit(t.cast(str, one.user_hash), [one.id], 0, "x"),
    ),
    "policy": ("INFO", lambda store, one: kvs.SessionStore.sessions_of(_unasked(store), "ada")),
    "time": ("TIME", lambda store, one: _unasked(store).now()),
}


def _unasked(store: kvs.SessionStore) -> kvs.SessionStore:
    """A store on the same servers that has asked nothing yet."""
    return kvs.SessionStore(store._server._client, store._settings)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(("command", "use"), METHODS.values(), ids=METHODS)
def test_a_reply_of_another_shape_is_a_failure_of_the_store(
    store: kvs.SessionStore,
    mixed: Mixed,
    command: str,
    use: Callable[[kvs.SessionStore, Stored], object],
    wrong: t.Any,
) -> None:
    """Each method raises `StoreUnavailable` and closes the idle connections, and nothing else
    happens. A reply that has the shape by chance is one without a session."""
    sign_in(store, "ada")
    [one] = store.sessions_of("ada")
    mixed.wrong[command] = wrong
    try:
        result = use(store, one)
    except StoreUnavailable:
        assert mixed.closed == 1
    else:
        assert result in ([], (False, None)) or command == "INFO"
    mixed.wrong.clear()
    assert isinstance(store.now(), int)


@pytest.mark.parametrize("act", ["commit", "remove", "revoke", "limit"])
def test_the_record_of_another_session_is_a_failure_of_the_store(
    store: kvs.SessionStore, mixed: Mixed, act: str
) -> None:
    """If an act returns the record of another user's session, no caller gets that record."""
    sign_in(store, "ada")
    sign_in(store, "bob")
    [one], [other] = store.sessions_of("ada"), store.sessions_of("bob")
    assert one.user_hash
    now = store.now()
    flag_and_record, records_and_ids = [now, 0, other.raw], [now, [other.raw], []]
    mixed.wrong["EVALSHA"] = flag_and_record if act in ("commit", "remove") else records_and_ids
    uses: dict[str, Callable[[], object]] = {
        "commit": lambda: store.commit(one, changed(one.record)),
        "remove": lambda: store.remove(one, if_unchanged=True),
        "revoke": lambda: store.revoke(t.cast(str, one.user_hash), [one.id], "revoked"),
        "limit": lambda: store.limit(t.cast(str, one.user_hash), [one.id], 1, one.id),
    }
    with pytest.raises(StoreUnavailable):
        uses[act]()
    assert mixed.closed == 1
