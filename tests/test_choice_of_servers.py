"""Which server gets a command, and what becomes of odd answers of a cluster and of Sentinels.

The servers here are made up, since real ones do not give these answers on demand. tests/faults has
real ones.
"""

from __future__ import annotations

import os
import typing as t
from collections.abc import Callable

import pytest
import redis
from redis.connection import UnixDomainSocketConnection
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError, ResponseError

from flask_kvsession.connection import Command, Deadline, Repeat
from flask_kvsession.connection.cluster import Cluster
from flask_kvsession.connection.link import Link
from flask_kvsession.connection.node import Address, Node, NodeMaker
from flask_kvsession.connection.role import require_primary
from flask_kvsession.connection.sentinel import Sentinels
from flask_kvsession.connection.single import SingleServer
from flask_kvsession.errors import StoreUnavailable
from flask_kvsession.settings import Settings
from flask_kvsession.store.server import Server

A, B, C = ("h", 1), ("h", 2), ("h", 3)
GET = Command(("GET", "{x}"), Repeat.READ, "{x}")
SLOT = key_slot(b"{x}")

Answer = Callable[[Command], t.Any]


class MadeUp:
    """Nodes whose answers a test chooses."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = {("h", int(name[1:])): answer for name, answer in answers.items()}
        self.asked: list[tuple[int, str]] = []
        self.closed: list[Address] = []

    def __call__(self, address: Address) -> Node:
        return t.cast(Node, MadeUpNode(self, address))


class MadeUpNode:
    def __init__(self, nodes: MadeUp, address: Address) -> None:
        self._nodes = nodes
        self._address = address

    def call(self, command: Command, deadline: Deadline, *, prefix: object = None) -> t.Any:
        self._nodes.asked.append((self._address[1], str(command.args[0])))
        return self._nodes.answers[self._address](command)

    def close(self) -> None:
        self._nodes.closed.append(self._address)


def cluster_of(nodes: MadeUp, *addresses: Address) -> Cluster:
    return Cluster(addresses, t.cast(NodeMaker, nodes))


def slots(*ranges: tuple[int, int, Address]) -> list[t.Any]:
    return [[first, last, [host.encode(), port]] for first, last, (host, port) in ranges]


def answering(slots: t.Any, reply: t.Any = b"reply") -> Answer:
    """A node that answers CLUSTER SLOTS with `slots`, and everything else with `reply`."""

    def answer(command: Command) -> t.Any:
        chosen = slots if command.args[0] == "CLUSTER" else reply
        if isinstance(chosen, Exception):
            raise chosen
        return chosen

    return answer


def test_nodes_that_redirect_in_a_circle_are_a_failure() -> None:
    """A command that two nodes send to each other ends with an error, not never."""
    all_at_a = slots((0, 16383, A))
    nodes = MadeUp(
        n1=answering(all_at_a, MovedError(f"{SLOT} h:2")),
        n2=answering(all_at_a, MovedError(f"{SLOT} h:1")),
    )
    with pytest.raises(ConnectionError, match="in a circle"):
        cluster_of(nodes, A).call(GET, Deadline(1))


def test_a_node_that_imports_its_first_slot_counts_as_a_primary() -> None:
    """After an ASK, the node is one of the primaries, and stays the same object after the slots
    were asked for again."""
    nodes = MadeUp(
        n1=answering(slots((0, 16383, A)), AskError(f"{SLOT} h:2")),
        n2=answering(slots((0, 16383, A))),
    )
    cluster = cluster_of(nodes, A)
    [a] = cluster.primaries(Deadline(1))
    assert cluster.call(GET, Deadline(1)) == b"reply"
    first = cluster.primaries(Deadline(1))
    cluster._next_question = 0.0
    assert cluster.primaries(Deadline(1)) == first == [a, cluster._node(B)]
    assert nodes.closed == []


def test_a_slot_without_a_node_is_a_failure_and_asked_for_again() -> None:
    """If no node has the slot, the call fails, and the next call asks for the slots again."""
    nodes = MadeUp(n1=answering(slots((0, SLOT - 1, A))))
    cluster = cluster_of(nodes, A)
    with pytest.raises(ConnectionError, match=f"no node of the cluster has the slot {SLOT}"):
        cluster.call(GET, Deadline(1))
    nodes.answers[A] = answering(slots((0, 16383, A)))
    assert cluster.call(GET, Deadline(1)) == b"reply"


@pytest.mark.parametrize(
    "odd", [[], b"OK", 5, None, [[0]], [[0, 1, 2]], [["x", "y", [b"h", 1]]], ResponseError("no")]
)
def test_an_odd_answer_about_the_slots_leads_to_the_next_node(odd: t.Any) -> None:
    """A node that does not say which node has which slot is passed over. If none does, the call
    fails."""
    nodes = MadeUp(n1=answering(odd), n2=answering(slots((0, 16383, B))))
    assert cluster_of(nodes, A, B).call(GET, Deadline(1)) == b"reply"
    with pytest.raises(ConnectionError, match="no node of the cluster says"):
        cluster_of(nodes, A).call(GET, Deadline(1))


def test_a_node_that_has_left_the_cluster_is_closed() -> None:
    """After new slots were learned, connections to nodes that are no longer there are closed."""
    nodes = MadeUp(
        n1=answering(slots((0, SLOT, B), (SLOT + 1, 16383, A))),
        n2=answering(slots((0, 16383, C)), redis.ConnectionError("gone")),
        n3=answering(slots((0, 16383, C))),
    )
    cluster = cluster_of(nodes, A)
    nodes.answers[A] = answering(slots((0, SLOT, B), (SLOT + 1, 16383, A)))
    cluster.call(Command(("TIME",), Repeat.READ), Deadline(1))
    nodes.answers[A] = answering(slots((0, 16383, C)))
    assert cluster.call(GET, Deadline(1)) == b"reply"
    assert nodes.closed == [B]
    cluster.close()
    assert set(nodes.closed) == {A, B, C}


@pytest.mark.parametrize(
    "odd", [None, b"OK", [b"h"], [b"h", b"x"], [1, 2], ResponseError("no"), OSError()]
)
def test_an_odd_answer_of_a_sentinel_leads_to_the_next_one(odd: t.Any) -> None:
    """A Sentinel that names no address is passed over. If none does, the call fails."""
    nodes = MadeUp(n3=answering(None))

    def sentinel(reply: t.Any) -> Node:
        return MadeUp(n1=answering(None, reply))(A)

    class Maker(NodeMaker):
        def __call__(self, address: Address) -> Node:
            return nodes(address)

    maker = Maker(UnixDomainSocketConnection, {})
    group = Sentinels("main", [sentinel(odd), sentinel([b"h", b"3"])], maker)
    nodes.answers[C] = answering(None, b"reply")
    assert group.call(GET, Deadline(1)) == b"reply"
    with pytest.raises(ConnectionError, match="no Sentinel names a primary"):
        Sentinels("main", [sentinel(odd)], maker).call(GET, Deadline(1))


def test_the_primary_of_a_sentinel_is_asked_for_by_listeners_and_by_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who listens asks at most once a second. A call that is due asks although a listener has just
    asked. If no Sentinel answers, the known primary is listened to."""
    now = 1000.0
    monkeypatch.setattr("flask_kvsession.connection.sentinel.time.monotonic", lambda: now)
    sentinels, servers = MadeUp(n1=answering(None, [b"h", b"2"])), MadeUp(n2=answering(None))

    class Maker(NodeMaker):
        def __call__(self, address: Address) -> Node:
            return servers(address)

    group = Sentinels("main", [sentinels(A)], Maker(UnixDomainSocketConnection, {}))
    first = group.primaries(Deadline(1))
    for _ in range(3):
        assert group.primaries(Deadline(1)) == first
    asked = len(sentinels.asked)
    group.call(GET, Deadline(1))
    assert len(sentinels.asked) == asked + 1
    now += 1
    sentinels.answers[A] = answering(None, OSError("gone"))
    assert group.primaries(Deadline(1)) == first
    assert len(sentinels.asked) == asked + 2


@pytest.mark.parametrize(
    ("role", "is_primary"),
    [
        ([b"master", 0, []], True),
        ([b"slave", b"h", 1], False),
        (ResponseError("NOPERM"), True),
        (b"?", True),
    ],
)
def test_a_new_connection_to_a_replica_is_refused(role: t.Any, is_primary: bool) -> None:
    """A server that says that it is a replica is not used. One that does not say it is."""

    class MadeUpLink:
        def exchange(self, command: t.Any, deadline: Deadline) -> t.Any:
            if isinstance(role, Exception):
                raise role
            return role

    link = t.cast(Link, MadeUpLink())
    if is_primary:
        require_primary(link, Deadline(1))
    else:
        with pytest.raises(ReadOnlyError):
            require_primary(link, Deadline(1))


def test_the_primaries_of_a_cluster_are_asked_for_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each primary is named once, by the same object as long as it is one. A node that a
    redirection names is one of them at once."""
    moved = MovedError(f"{SLOT} h:3")
    nodes = MadeUp(
        n1=answering(slots((0, 99, A), (100, 199, A), (200, 16383, B))),
        n2=answering([], moved),
        n3=answering([]),
    )
    cluster = cluster_of(nodes, A)
    kept: dict[Address, Node] = {}
    monkeypatch.setattr(cluster, "_node", lambda address: kept.setdefault(address, nodes(address)))
    now = 1000.0
    monkeypatch.setattr("flask_kvsession.connection.cluster.time.monotonic", lambda: now)
    assert cluster.primaries(Deadline(1)) == cluster.primaries(Deadline(1)) == [kept[A], kept[B]]
    assert len(nodes.asked) == 1
    cluster.call(GET, Deadline(1))
    assert cluster.primaries(Deadline(1)) == [kept[A], kept[B], kept[C]]
    now += 1
    assert cluster.primaries(Deadline(1)) == [kept[A], kept[B]]


@pytest.mark.parametrize(
    ("info", "is_refused"), [(b"cluster_state:ok\r\n", False), (b"cluster_state:fail\r\n", True)]
)
def test_a_node_without_a_majority_may_miss_writes(info: bytes, is_refused: bool) -> None:
    """The heartbeat of a cluster is refused if the node says that its cluster has failed."""
    cluster = cluster_of(MadeUp(), A)
    if is_refused:
        with pytest.raises(ClusterDownError):
            cluster.check_heartbeat(info)
    else:
        cluster.check_heartbeat(info)


PING = Command(("PING",), Repeat.READ)


@pytest.fixture
def node(socket_path: str) -> t.Iterator[Node]:
    """A node with one idle connection."""
    node = Node(UnixDomainSocketConnection, {"path": socket_path})
    assert node.call(PING, Deadline(5)) == b"PONG"
    yield node
    node.close()


def test_a_child_process_uses_no_connection_of_its_parent(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process the idle connections are left alone."""
    [parents] = node._idle
    pid = os.getpid() + 1
    monkeypatch.setattr("flask_kvsession.connection.node.os.getpid", lambda: pid)
    assert node.call(PING, Deadline(5)) == b"PONG"
    [own] = node._idle
    assert own is not parents
    assert not parents.is_closed
    parents.close()


def test_an_idle_connection_whose_check_is_interrupted_is_closed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception from outside that comes while a connection is chosen loses that one only."""
    [link] = node._idle

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Link, "lease", interrupt)
        with pytest.raises(KeyboardInterrupt):
            node.call(PING, Deadline(5))
    assert link.is_closed
    assert node.call(PING, Deadline(5)) == b"PONG"


def test_a_call_of_the_store_whose_time_is_over_names_the_problem(node: Node) -> None:
    """A loop of acts ends with the description of what kept it busy."""
    server = Server(SingleServer(node), Settings())
    server.require_time("too busy")
    with pytest.raises(StoreUnavailable, match="too busy"):
        server.bounded(0).require_time("too busy")
