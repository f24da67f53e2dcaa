"""From a ready client to its servers."""

from __future__ import annotations

import typing as t

import redis
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)

from ..errors import ConfigurationError
from .cluster import Cluster
from .link import TLS_OPTIONS, USED_OPTIONS, ConnectionClass, Options
from .node import Node, NodeMaker
from .sentinel import Sentinels
from .servers import Servers
from .single import SingleServer

if t.TYPE_CHECKING:
    import valkey

    RedisClient = redis.Redis | redis.RedisCluster | valkey.Valkey | valkey.ValkeyCluster
else:
    RedisClient = redis.Redis | redis.RedisCluster


def adopt(client: RedisClient) -> Servers:
    """The servers of a ready client.

    Connections to them have the address, the credentials and the TLS options of the ready client.
    They are not those of its pool, and its timeouts and retries do not apply: no reply to another
    command can reach a session, and `KVSESSION_STORE_TIMEOUT` bounds each call.

    Raises `ConfigurationError` if it is no client, or one that reads from replicas.
    """
    kind = type(client)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if any(".asyncio." in f"{base.__module__}." for base in kind.__mro__):
        raise _refused(name, "is an asyncio client; pass a client of the module redis instead")
    if manager := getattr(client, "nodes_manager", None):
        return _cluster_like(client, manager, name)
    pool = getattr(client, "connection_pool", None)
    if pool is None or isinstance(client, type) or not hasattr(client, "execute_command"):
        raise _refused(name, f"is no client; {_remedy(client)}")
    if sentinels := getattr(pool, "sentinel_manager", None):
        return _sentinels_like(pool, sentinels, name)
    options = dict(pool.connection_kwargs)
    connection_class = _connection_class(pool.connection_class)
    limit = pool.max_connections if pool.max_connections < 10_000 else None
    return SingleServer(Node(connection_class, _used(options, connection_class), limit))


def _cluster_like(client: t.Any, manager: t.Any, name: str) -> Servers:
    if getattr(client, "read_from_replicas", False) or getattr(
        client, "load_balancing_strategy", None
    ):
        raise _refused(
            name,
            "reads from replicas, which may still have a revoked session; pass"
            " a client without read_from_replicas and load_balancing_strategy",
        )
    given = manager.connection_kwargs
    default = SSLConnection if given.get("ssl") else Connection
    connection_class = _connection_class(given.get("connection_class") or default)
    options = _used(given, connection_class)
    options.pop("redis_connect_func", None)  # the client's own, for replicas
    nodes = [*manager.startup_nodes.values(), *manager.nodes_cache.values()]
    addresses = list(dict.fromkeys((node.host, int(node.port)) for node in nodes))
    return Cluster(addresses, NodeMaker(connection_class, options))


def _sentinels_like(pool: t.Any, manager: t.Any, name: str) -> Servers:
    if not pool.is_master:
        raise _refused(
            name,
            "reads from replicas, which may still have a revoked session; pass"
            " sentinel.master_for(...)",
        )
    connection_class = SSLConnection if "SSL" in pool.connection_class.__name__ else Connection
    options = _used(pool.connection_kwargs, connection_class)
    sentinels = []
    for sentinel in manager.sentinels:
        its = sentinel.connection_pool
        its_class = _connection_class(its.connection_class)
        sentinels.append(Node(its_class, _used(its.connection_kwargs, its_class)))

    return Sentinels(pool.service_name, sentinels, NodeMaker(connection_class, options))


def _connection_class(given: ConnectionClass) -> ConnectionClass:
    """The class itself, if it is one of redis-py's or extends one; else redis-py's of the kind."""
    if issubclass(given, AbstractConnection):
        return given
    bases = {base.__name__ for base in given.__mro__}
    if "UnixDomainSocketConnection" in bases:
        return UnixDomainSocketConnection
    return SSLConnection if "SSLConnection" in bases else Connection


def _used(options: Options, connection_class: ConnectionClass) -> dict[str, t.Any]:
    used = USED_OPTIONS | {"credential_provider", "command_packer", "redis_connect_func"}
    if not issubclass(connection_class, SSLConnection):
        used -= TLS_OPTIONS
    if issubclass(connection_class, UnixDomainSocketConnection):
        used -= {"host", "port", "socket_keepalive", "socket_keepalive_options", "socket_type"}
    return {name: value for name, value in options.items() if name in used}


def _remedy(given: object) -> str:
    if isinstance(given, str | bytes):
        return 'set app.config["KVSESSION_REDIS_URL"] to a URL, and pass no redis='
    if hasattr(given, "make_connection"):
        return "pass redis.Redis(connection_pool=pool)"
    if hasattr(given, "master_for"):
        return "pass sentinel.master_for(service)"
    return "pass redis.Redis(...) or redis.RedisCluster(...)"


def _refused(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"KVSession(redis=...): the {name} {problem}.")
