"""The nodes of a Redis Cluster, and which of them has which slot."""

from __future__ import annotations

import time
import typing as t
from collections.abc import Sequence

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, InvalidResponse, MovedError, RedisError

from .deadline import Deadline
from .node import Address, Command, Node, NodeMaker, Repeat, is_final, was_refused

_MAX_REDIRECTIONS = 5
_SECONDS_BETWEEN_QUESTIONS = 1.0

_SECONDS_OF_AN_IMPORT = 60.0
"""After an ASK to a node, the node counts as a primary for so long. It holds keys of a slot that it
gets only at the end of the move, and may have no slot before."""

_ASK_SLOTS: t.Final = Command(("CLUSTER", "SLOTS"), Repeat.READ)


class Cluster:
    """Sends each command to the primary that has the slot of the command's key."""

    heartbeat: tuple[str, ...] = ("CLUSTER", "INFO")

    def __init__(self, addresses: Sequence[Address], make_node: NodeMaker) -> None:
        self._make_node = make_node
        self._startup = list(addresses)
        self._known = list(addresses)
        """All nodes that were heard of, replicas too: each can say which primary has which slot."""
        self._nodes: dict[Address, Node] = {}
        self._owners: dict[int, Address] = {}
        """The address of the primary of each slot; empty until a node was asked."""
        self._primaries: dict[Address, None] = {}
        """The addresses in `_owners`, each once."""
        self._importing: dict[Address, float] = {}
        """Until when a node to which an ASK has led counts as a primary, by the monotonic clock."""
        self._is_outdated = True
        """Whether the next call must ask for the slots first."""
        self._next_question = 0.0

    def call(self, command: Command, deadline: Deadline) -> t.Any:
        if self._is_outdated:
            self._learn_slots(deadline)
            self._is_outdated = False
        address, prefix = self._owner_of(command), None
        for _ in range(_MAX_REDIRECTIONS):
            try:
                return self._node(address).call(command, deadline, prefix=prefix)
            except MovedError as error:  # redis-py: a MovedError is an AskError too
                address, prefix = _address_in(error, address), None
                self._owners[error.slot_id] = address
                self._primaries[address] = None
            except AskError as error:  # for this command only
                address, prefix = _address_in(error, address), ("ASKING",)
                self._importing[address] = time.monotonic() + _SECONDS_OF_AN_IMPORT
            except (RedisError, OSError) as error:
                address, prefix = self._other_owner(command, address, error, deadline), None
        raise ConnectionError("the nodes of the cluster redirect this command in a circle")

    def primaries(self, deadline: Deadline) -> list[Node]:
        now = time.monotonic()
        if now >= self._next_question:
            self._next_question = now + _SECONDS_BETWEEN_QUESTIONS
            self._learn_slots(deadline)  # a call whose node has failed must still ask by itself
        addresses = dict.fromkeys([*self._primaries, *self._importing_now()])
        return [self._node(address) for address in addresses]

    def check_heartbeat(self, reply: t.Any) -> None:
        """A node that sees no majority of its cluster may have been replaced by another one."""
        if isinstance(reply, bytes) and b"cluster_state:fail" in reply:
            raise ClusterDownError("the node sees no majority of its cluster")

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    def _other_owner(
        self, command: Command, address: Address, error: Exception, deadline: Deadline
    ) -> Address:
        """The node that has the slot now. Raises the error if no other node has the slot, or if the
        command must not be sent again."""
        if is_final(error):
            raise error
        if deadline.is_over:
            self._is_outdated = True  # the next call asks for the slots
            raise error
        self._learn_slots(deadline, besides=address)
        current = self._owner_of(command, besides=address)
        self._is_outdated = current == address  # nobody has replaced it yet: the next call asks
        may_repeat = was_refused(error) or command.repeat is not Repeat.DIFFERENT
        if current == address or not may_repeat:
            raise error
        return current

    def _owner_of(self, command: Command, *, besides: Address | None = None) -> Address:
        """The primary that has the slot of the command's key. For a command without a key, any
        primary, but `besides` only if there is no other."""
        owners = self._owners
        if command.key is None:
            return min(owners.values(), key=lambda address: address == besides)
        slot = key_slot(command.key.encode())
        if slot not in owners:
            self._is_outdated = True
            raise ConnectionError(f"no node of the cluster has the slot {slot}")
        return owners[slot]

    def _learn_slots(self, deadline: Deadline, *, besides: Address | None = None) -> None:
        """Asks one node after the other which primary has which slot. Each may take its share of
        the remaining time only. The node `besides` has just failed and is asked last."""
        known = list(dict.fromkeys([*self._owners.values(), *self._known]))
        known.sort(key=lambda address: address == besides)
        failure: Exception | None = None
        for n, address in enumerate(known):
            try:
                share = deadline.share(1 / (len(known) - n + 1))
                ranges = _ranges_in(self._node(address).call(_ASK_SLOTS, share), address)
            except (RedisError, OSError) as error:
                failure = error
                continue
            if ranges:
                self._use(ranges)
                return
        raise ConnectionError("no node of the cluster says which node has which slot") from failure

    def _use(self, ranges: list[Range]) -> None:
        heard_of = [address for _, _, addresses in ranges for address in addresses]
        self._known = list(dict.fromkeys([*heard_of, *self._startup]))
        self._owners = {
            slot: addresses[0]
            for first, last, addresses in ranges
            for slot in range(first, last + 1)
        }
        self._primaries = dict.fromkeys(addresses[0] for _, _, addresses in ranges)
        kept = {*self._known, *self._importing_now()}
        for address in [each for each in list(self._nodes) if each not in kept]:
            if node := self._nodes.pop(address, None):
                node.close()

    def _importing_now(self) -> list[Address]:
        now = time.monotonic()
        return [address for address, until in list(self._importing.items()) if now < until]

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        return node or self._nodes.setdefault(address, self._make_node(address))


Range = tuple[int, int, list[Address]]
"""The first and the last slot, and the nodes that have them, the primary first."""


def _ranges_in(reply: t.Any, asked: Address) -> list[Range]:
    """Raises `InvalidResponse` for a reply of another shape than CLUSTER SLOTS has."""
    try:
        return [
            (int(first), int(last), [_address(node[0], node[1], asked) for node in nodes])
            for first, last, *nodes in reply
            if nodes
        ]
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise InvalidResponse("the reply to CLUSTER SLOTS has another shape") from error


def _address_in(error: AskError | MovedError, asked: Address) -> Address:
    return _address(error.host.encode(), error.port, asked)


def _address(host: bytes | None, port: t.Any, asked: Address) -> Address:
    """A node that does not know its own host name sends nothing or "?" instead: it is at the host
    that was asked."""
    return (host.decode() if host and host != b"?" else asked[0]), int(port)
