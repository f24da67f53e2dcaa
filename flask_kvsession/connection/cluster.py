"""The nodes of a Redis Cluster, and which of them has which slot."""

from __future__ import annotations

import typing as t
from collections.abc import Sequence

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from .deadline import Deadline
from .node import Address, Command, Node, NodeMaker, Repeat, was_refused

_MAX_REDIRECTIONS = 5
_ASK_SLOTS: t.Final = Command(("CLUSTER", "SLOTS"), Repeat.READ)


class Cluster:
    """Sends each command to the primary that has the slot of the command's key."""

    def __init__(self, addresses: Sequence[Address], make_node: NodeMaker) -> None:
        self._make_node = make_node
        self._startup = list(addresses)
        self._nodes: dict[Address, Node] = {}
        self._owners: dict[int, Address] = {}
        """The address of the primary of each slot; empty until a node was asked."""

    def call(self, command: Command, deadline: Deadline) -> t.Any:
        if not self._owners:
            self._learn_slots(deadline)
        address, prefix = self._owner_of(command), None
        for _ in range(_MAX_REDIRECTIONS):
            try:
                return self._node(address).call(command, deadline, prefix=prefix)
            except AskError as error:  # for this command only
                address, prefix = _address_in(error, address), ("ASKING",)
            except MovedError as error:
                address, prefix = _address_in(error, address), None
                self._owners[error.slot_id] = address
            except (RedisError, OSError) as error:
                address, prefix = self._other_owner(command, address, error, deadline), None
        raise ConnectionError("the nodes of the cluster redirect this command in a circle")

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    def _other_owner(
        self, command: Command, address: Address, error: Exception, deadline: Deadline
    ) -> Address:
        """The node that has the slot now. Raises the error if no other node has the slot, or if the
        command must not be sent again."""
        is_moving = isinstance(error, ClusterDownError)
        if isinstance(error, TryAgainError) or (
            isinstance(error, ResponseError) and not (is_moving or was_refused(error))
        ):
            raise error
        may_repeat = is_moving or was_refused(error) or command.repeat is not Repeat.DIFFERENT
        if deadline.is_over:
            self._owners.clear()  # the next call asks for the slots
            raise error
        self._learn_slots(deadline, besides=address)
        current = self._owner_of(command)
        if current == address or not may_repeat:
            raise error
        return current

    def _owner_of(self, command: Command) -> Address:
        if command.key is None:
            return next(iter(self._owners.values()))
        slot = key_slot(command.key.encode())
        if slot not in self._owners:
            raise ConnectionError(f"no node of the cluster has the slot {slot}")
        return self._owners[slot]

    def _learn_slots(self, deadline: Deadline, *, besides: Address | None = None) -> None:
        """Asks one node after the other which primary has which slot. Each may take its share of
        the remaining time only. The node `besides` has just failed and is asked last."""
        known = list(dict.fromkeys([*self._owners.values(), *self._startup]))
        known.sort(key=lambda address: address == besides)
        failure: Exception | None = None
        for n, address in enumerate(known):
            try:
                share = deadline.share(1 / (len(known) - n + 1))
                ranges = self._node(address).call(_ASK_SLOTS, share)
            except (RedisError, OSError) as error:
                failure = error
                continue
            self._owners = {
                slot: (primary[0].decode() or address[0], int(primary[1]))
                for first, last, primary, *_ in ranges
                for slot in range(first, last + 1)
            }
            return
        raise ConnectionError("no node of the cluster says which node has which slot") from failure

    def _node(self, address: Address) -> Node:
        if address not in self._nodes:
            self._nodes[address] = self._make_node(address)
        return self._nodes[address]


def _address_in(error: AskError | MovedError, asked: Address) -> Address:
    """The address of a redirection. An empty host means the host of the node that was asked."""
    return error.host or asked[0], int(error.port)
