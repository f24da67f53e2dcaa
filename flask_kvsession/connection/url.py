"""From a URL to the servers that it names."""

from __future__ import annotations

import codecs
import typing as t
import weakref
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from redis.connection import Connection, UnixDomainSocketConnection, parse_url

from ..errors import ConfigurationError
from .cluster import Cluster
from .embedded import EmbeddedServer
from .link import USED_OPTIONS
from .node import Address, Node, NodeMaker
from .sentinel import Sentinels
from .servers import Servers
from .single import SingleServer

_EMBEDDED_SCHEME = "embedded://"
_PORTS = {"sentinel": 26379, "cluster": 6379}
_SENTINELS_LOGIN = {"sentinel_username": "username", "sentinel_password": "password"}

_IGNORED_OPTIONS: t.Final = {
    *("socket_timeout", "socket_connect_timeout", "timeout", "retry_on_timeout"),
    *("health_check_interval", "protocol", "decode_responses", "encoding", "encoding_errors"),
    *("legacy_responses", "socket_read_size", "lib_name", "lib_version"),
}
"""Options that URLs have for other programs. Here the store decides: `KVSESSION_STORE_TIMEOUT`
bounds each call, and replies are bytes."""


def connect(url: str, *, ephemeral: bool = False) -> Servers:
    """The servers that `url` names. Connections are opened at the first command.

    For an `embedded://` URL, this function starts or joins the server immediately. The server stops
    after the last of these objects has been garbage-collected. With `ephemeral`, the server then
    also deletes its folder.
    """
    if not url.startswith(_EMBEDDED_SCHEME):
        return _servers_of(url)
    server = EmbeddedServer(url.removeprefix(_EMBEDDED_SCHEME), ephemeral=ephemeral)
    client = SingleServer(Node(UnixDomainSocketConnection, {"path": server.socket_path}))
    # Do not close at interpreter exit: the app's own exit handlers may still use sessions.
    # The kernel releases the server's lock when the process ends.
    weakref.finalize(client, server.close).atexit = False
    return client


def check_url(url: str) -> None:
    """Raises `ConfigurationError` if the URL has options that cannot work. Does not connect."""
    if not url.startswith(_EMBEDDED_SCHEME):
        _servers_of(url)


def _servers_of(url: str) -> Servers:
    scheme, _, kind = url.partition("://")[0].partition("+")
    if not kind:
        maker = _parsed(url)
        return SingleServer(Node(maker.connection_class, maker.options, maker.max_connections))
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    addresses = [_address(host, _PORTS[kind]) for host in hosts.split(",")]
    service, _, db = parts.path.strip("/").partition("/") if kind == "sentinel" else ("", "", "")
    query, sentinels_login = _without_sentinels_login(parts.query)
    maker = _parsed(f"{scheme}://{user}{at}h/{db}?{query}")
    if kind == "cluster":
        return Cluster(addresses, maker)
    return Sentinels(service, [_sentinel(a, maker, sentinels_login) for a in addresses], maker)


def _address(text: str, default_port: int) -> Address:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or default_port


def _without_sentinels_login(query: str) -> tuple[str, dict[str, str]]:
    """The query without `sentinel_username` and `sentinel_password`, and these two."""
    pairs = parse_qsl(query)
    login = {key: value for key, value in pairs if key in _SENTINELS_LOGIN}
    rest = urlencode([pair for pair in pairs if pair[0] not in _SENTINELS_LOGIN])
    return rest, {_SENTINELS_LOGIN[key]: value for key, value in login.items()}


def _parsed(url: str) -> NodeMaker:
    """What a `redis://`, `rediss://` or `unix://` URL says. No message quotes it, because it may
    contain a password."""
    try:
        options: dict[str, t.Any] = parse_url(url)  # type: ignore[no-untyped-call]
        codecs.lookup(options.get("encoding", "utf-8"))
        redis.Redis.from_url(url).connection_pool.make_connection()
        limit = options.pop("max_connections", None)
        connection_class = options.pop("connection_class", Connection)
        options = {k: v for k, v in options.items() if k not in _IGNORED_OPTIONS}
        is_usable = not options.keys() - USED_OPTIONS
    except (TypeError, ValueError, LookupError, redis.RedisError):
        is_usable = False
    if not is_usable:
        raise ConfigurationError(
            "KVSESSION_REDIS_URL has an option that is unknown, or an option with an invalid value;"
            " use options of redis.Redis.from_url for the address, the credentials and TLS, such as"
            " db, client_name, max_connections or ssl_ca_certs."
        ) from None
    return NodeMaker(connection_class, options, limit)


def _sentinel(address: Address, maker: NodeMaker, login: dict[str, str]) -> Node:
    """A Sentinel has users of its own, so it gets none of the servers' credentials."""
    options = {k: v for k, v in maker.options.items() if k not in ("username", "password", "db")}
    return NodeMaker(maker.connection_class, {**options, **login})(address)
