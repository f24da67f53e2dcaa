"""`flask kvsession` on a cluster, with Sentinels, and while a slot moves."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Iterator

import pytest
from flask import Flask

from flask_kvsession.record import Tombstone
from flask_kvsession.token import user_hash

from ..support.apps import MakeApp, store_of
from ..support.figures import TIMEOUT
from ..support.servers import LOOPBACK, ClusterGroup, SentinelGroup

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterGroup]:
    """A cluster of three primaries that no test breaks."""
    group = ClusterGroup(tmp_path_factory.mktemp("c"), replicas=0)
    yield group
    group.close()


@pytest.fixture
def app(make_app: MakeApp, cluster: ClusterGroup) -> Flask:
    app = make_app(redis_url=cluster.url, store_timeout=TIMEOUT)
    app.testing = False
    return app


def run(app: Flask, *args: str) -> tuple[int, t.Any]:
    """The exit code of the command, and its JSON."""
    result = app.test_cli_runner().invoke(args=["kvsession", *args, "--json"])
    return result.exit_code, json.loads(result.stdout)


def slot_of(cluster: ClusterGroup, key: str) -> int:
    return int(cluster.nodes[0].run("CLUSTER", "KEYSLOT", key))


def test_everyone_on_every_primary_is_signed_out(
    app: Flask, cluster: ClusterGroup, prefix: str
) -> None:
    """The sessions of all primaries are counted and end, and no index is left."""
    for n in range(60):
        store_user(app, f"user{n}")
    kept = {node.port: len(node.run("KEYS", f"{prefix}:*")) for node in cluster.nodes}
    assert min(kept.values()) > 0
    assert run(app, "stats")[1]["sessions"] == 60
    assert run(app, "repair") == (
        0,
        {
            "entries_without_session": 0,
            "sessions_without_entry": 0,
            "skipped": 0,
            "repaired": False,
        },
    )
    assert run(app, "revoke-everyone", "--yes") == (0, {"ended": 60})
    left = [key for node in cluster.nodes for key in node.run("KEYS", f"{prefix}:*")]
    assert len(left) == 60
    assert not [key for key in left if ":u:" in key]
    assert run(app, "stats")[1]["tombstones"] == 60


def store_user(app: Flask, user: str) -> str:
    """Signs a user in, and returns the id of the session."""
    return str(app.test_client().post(f"/login/{user}").get_json()["id"])


def test_each_primary_is_checked(app: Flask, cluster: ClusterGroup) -> None:
    """Each primary has its own lines, and one that forbids a command is named."""
    code, results = run(app, "check")
    names = [each["found"].split()[0] for each in results if each["name"] == "connection"]
    assert sorted(names) == sorted(f"{LOOPBACK}:{node.port}" for node in cluster.nodes)
    assert (code, {each["level"] for each in results}) == (0, {"ok", "warning"})
    assert {each["name"] for each in results if each["level"] == "warning"} == {"persistence"}
    victim = cluster.nodes[1]
    victim.run("ACL", "SETUSER", "default", "-zcard")
    try:
        code, results = run(app, "check")
    finally:
        victim.run("ACL", "SETUSER", "default", "+zcard")
    errors = [each["found"] for each in results if each["level"] == "error"]
    assert (code, errors) == (1, [f"{LOOPBACK}:{victim.port} forbids ZCARD"])


def test_sessions_end_while_their_slot_moves(
    app: Flask, cluster: ClusterGroup, redis_slot_moves: t.Callable[[str], None]
) -> None:
    """Of a user whose record has moved and whose index has not, the session ends too. `repair`
    cannot judge such a user, says so, and changes nothing."""
    session_id = store_user(app, "ada")
    server = store_of(app)._server
    redis_slot_moves(server.record_key(session_id))
    assert run(app, "stats")[1]["sessions"] == 1
    code, found = run(app, "repair", "--yes")
    assert (code, found["skipped"] > 0) == (1, True)
    assert server.ids_in_index(user_hash("ada")) == [session_id]
    assert run(app, "revoke-everyone", "--yes")[1] == {"ended": 1}
    assert isinstance(store_of(app).current(session_id), Tombstone)
    assert server.ids_in_index(user_hash("ada")) == []


@pytest.fixture
def redis_slot_moves(cluster: ClusterGroup) -> Iterator[t.Callable[[str], None]]:
    """Begins to move the slot of a key to another primary, with this key only. At the end the slot
    is moved back."""
    begun: list[tuple[int, str]] = []
    names = cluster.names

    def move(key: str) -> None:
        slot = slot_of(cluster, key)
        source = cluster.owner(slot)
        target = next(node for node in cluster.nodes if node is not source)
        target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
        source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
        source.run("MIGRATE", LOOPBACK, target.port, "", 0, 5000, "KEYS", key)
        begun.append((slot, names[source.port]))

    yield move
    for slot, name in begun:
        for node in cluster.nodes:
            node.run("CLUSTER", "SETSLOT", slot, "NODE", name)


def test_the_primary_that_sentinels_name_is_used(make_app: MakeApp, group: SentinelGroup) -> None:
    """With Sentinels the commands work on the primary."""
    app = make_app(redis_url=group.url, store_timeout=TIMEOUT)
    store_user(app, "ada")
    results = run(app, "check")[1]
    assert results[0]["found"].startswith(f"{LOOPBACK}:{group.primary.port} ")
    assert run(app, "revoke-everyone", "--yes") == (0, {"ended": 1})
