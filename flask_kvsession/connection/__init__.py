"""From a URL or a ready client to the servers, with a deadline for each call.

`url` and `ready_client` make one of `single`, `sentinel` and `cluster`, which choose the server for
a command (`servers` is what these three have in common).
`node` sends it to one server: it keeps idle connections (`link`) and remembers that a server does
not answer (`breaker`). On a `listener` a server reports changes of keys. `role` asks a server
whether it is a primary. `traced` lets tools for tracing see each command. `embedded/` is a private
server for development and tests.
"""

from __future__ import annotations

from .deadline import Deadline
from .embedded import EmbeddedServer
from .listener import Listener, Refused, changed_keys
from .node import Command, Node, Repeat
from .ready_client import RedisClient, adopt
from .servers import Servers
from .traced import TracedServers
from .url import check_url, connect

__all__ = [
    "Command",
    "Deadline",
    "EmbeddedServer",
    "Listener",
    "Node",
    "RedisClient",
    "Refused",
    "Repeat",
    "Servers",
    "TracedServers",
    "adopt",
    "changed_keys",
    "check_url",
    "connect",
]
