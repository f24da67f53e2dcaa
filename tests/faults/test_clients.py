"""Every kind of URL and of ready client, on real servers with TLS and passwords."""

from __future__ import annotations

import ssl
import time
import typing as t
from collections.abc import Callable, Iterator

import pytest
import redis
import redis.sentinel
import valkey
import valkey.sentinel
from flask import Flask
from redis.credentials import UsernamePasswordCredentialProvider

import flask_kvsession as kvs

from ..support.apps import MakeApp, add_views
from ..support.certificates import Certificates, start_with_tls
from ..support.figures import DEADLINE, TIMEOUT, Figure
from ..support.requests import Answers, ask, at_once
from ..support.servers import (
    LOOPBACK,
    SERVICE,
    ClusterGroup,
    SentinelGroup,
    Server,
    free_ports,
    wait_until,
)

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class TlsServer(t.NamedTuple):
    server: Server
    port: int
    authority: str


@pytest.fixture(scope="module")
def tls(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[TlsServer]:
    """A server with TLS, TCP, a unix socket, and the user `web`."""
    server, port = start_with_tls(tmp_path_factory.mktemp("t"), certificates)
    server.run("ACL", "SETUSER", "web", "on", ">s3cr3t", "~*", "+@all")
    yield TlsServer(server, port, certificates.authority)
    server.kill()


@pytest.fixture(scope="module")
def tls_cluster(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[TlsServer]:
    """A cluster of one node, which names its TLS port to clients that use TLS."""
    options = ["--cluster-enabled", "yes", "--tls-cluster", "yes"]
    options += ["--cluster-port", str(free_ports(1)[0]), "--cluster-node-timeout", "500"]
    server, port = start_with_tls(tmp_path_factory.mktemp("tc"), certificates, *options)
    server.run("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: "cluster_state:ok" in server.run("CLUSTER", "INFO"))
    yield TlsServer(server, port, certificates.authority)
    server.kill()


blocking_pool_class: t.Any = redis.BlockingConnectionPool  # it has no types


def exercise(app: Flask) -> None:
    """Logs in, writes, reads, lists and revokes with the app."""
    add_views(app)
    browser = app.test_client()
    assert browser.post("/data", json={"cart": 1}).status_code == 200
    assert browser.post("/login/ada").status_code == 200
    assert browser.post("/data", json={"b": 2}).status_code == 200
    assert browser.get("/me").get_json()["data"] == {"cart": 1, "b": 2}
    with app.app_context():
        assert len(kvs.list_sessions("ada")) == 1
        assert kvs.revoke_all_sessions("ada") == 1
    assert browser.get("/me").status_code == 401


def app_with(prefix: str, client: t.Any) -> Flask:
    app = Flask("ready")
    app.config.update(TESTING=True, KVSESSION_KEY_PREFIX=prefix, KVSESSION_STORE_TIMEOUT=10)
    kvs.KVSession(app, redis=client)
    return app


def app_at(prefix: str, url: str) -> Flask:
    app = Flask("by URL")
    app.config.update(TESTING=True, KVSESSION_KEY_PREFIX=prefix, KVSESSION_STORE_TIMEOUT=10)
    app.config["KVSESSION_REDIS_URL"] = url
    kvs.KVSession(app)
    return app


CLIENTS: dict[str, Callable[[TlsServer], t.Any]] = {
    "redis": lambda tls: redis.Redis(port=tls.server.port),
    "RESP3": lambda tls: redis.Redis(port=tls.server.port, protocol=3),
    "decoding": lambda tls: redis.Redis(port=tls.server.port, decode_responses=True),
    "unix socket": lambda tls: redis.Redis(unix_socket_path=tls.server.path),
    "database 3": lambda tls: redis.Redis(port=tls.server.port, db=3),
    "user": lambda tls: redis.Redis(port=tls.server.port, username="web", password="s3cr3t"),
    "credentials": lambda tls: redis.Redis(
        port=tls.server.port,
        credential_provider=UsernamePasswordCredentialProvider("web", "s3cr3t"),
    ),
    "blocking pool": lambda tls: redis.Redis(
        connection_pool=blocking_pool_class(port=tls.server.port, max_connections=1)
    ),
    "from_url": lambda tls: redis.Redis.from_url(
        f"redis://web:s3cr3t@{LOOPBACK}:{tls.server.port}"
    ),
    "TLS": lambda tls: redis.Redis(port=tls.port, ssl=True, ssl_ca_certs=tls.authority),
    "TLS, RESP3, user": lambda tls: redis.Redis(
        port=tls.port,
        protocol=3,
        username="web",
        password="s3cr3t",
        ssl=True,
        ssl_ca_certs=tls.authority,
        ssl_min_version=ssl.TLSVersion.TLSv1_3,
    ),
    "valkey": lambda tls: valkey.Valkey(port=tls.server.port),
    "valkey, decoding": lambda tls: valkey.Valkey(port=tls.server.port, decode_responses=True),
    "valkey, unix socket": lambda tls: valkey.Valkey(unix_socket_path=tls.server.path),
    "valkey, user": lambda tls: valkey.Valkey(
        port=tls.server.port, username="web", password="s3cr3t"
    ),
    "valkey, TLS": lambda tls: valkey.Valkey(port=tls.port, ssl=True, ssl_ca_certs=tls.authority),
}


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_a_ready_client_of_each_kind_works(
    tls: TlsServer, prefix: str, make: Callable[[TlsServer], t.Any]
) -> None:
    """An app with this ready client logs in, reads, writes, lists and revokes."""
    client = make(tls)
    exercise(app_with(prefix, client))
    client.close()


URLS: dict[str, Callable[[TlsServer], str]] = {
    "redis": lambda tls: f"redis://web:s3cr3t@{LOOPBACK}:{tls.server.port}/2",
    "unix": lambda tls: f"unix://web:s3cr3t@{tls.server.path}?db=2",
    "rediss": lambda tls: f"rediss://localhost:{tls.port}?ssl_ca_certs={tls.authority}",
    "rediss with limit": lambda tls: (
        f"rediss://web:s3cr3t@localhost:{tls.port}?ssl_ca_certs={tls.authority}&max_connections=1"
    ),
}


@pytest.mark.parametrize("make", URLS.values(), ids=URLS)
def test_a_url_of_each_kind_works(
    tls: TlsServer, prefix: str, make: Callable[[TlsServer], str]
) -> None:
    """An app with this URL logs in, reads, writes, lists and revokes."""
    exercise(app_at(prefix, make(tls)))


def test_a_certificate_of_an_unknown_authority_gives_503(
    tls: TlsServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A server whose certificate is not trusted gets no command; the log says why."""
    app = app_at(prefix, f"rediss://localhost:{tls.port}")
    add_views(app)
    assert app.test_client().post("/login/ada").status_code == 503
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


def test_a_hung_tls_server_gives_503_within_the_deadline(
    tls: TlsServer, make_app: MakeApp, figure: Figure
) -> None:
    """The deadline bounds the TLS handshake, also for several threads at once that may open only so
    many connections."""
    options = f"ssl_ca_certs={tls.authority}&max_connections=8"
    url = f"rediss://web:s3cr3t@localhost:{tls.port}?{options}"
    app = make_app(redis_url=url, store_timeout=TIMEOUT)
    browser, answers = app.test_client(), Answers()
    browser.post("/login/ada")
    fresh = make_app("fresh", redis_url=url, store_timeout=TIMEOUT)
    cookie = browser.get_cookie("kvsession")
    assert cookie
    tls.server.stop()

    def act(n: int) -> None:
        time.sleep(0.1 * n)  # one after the other, so that each has a deadline of its own
        client = fresh.test_client()
        client.set_cookie("kvsession", cookie.value)
        ask(client, "ada", answers)

    at_once(8, 8, act)
    tls.server.resume()
    assert answers.counts == {"503": 8}
    assert answers.slowest < DEADLINE
    wait_until(lambda: browser.get("/me").status_code == 200)
    figure("hung during the TLS handshake", f"503 after {answers.slowest:.2f} s at most")


@pytest.mark.parametrize(
    "make",
    [
        lambda group: redis.RedisCluster(host=LOOPBACK, port=group.nodes[0].port),
        lambda group: redis.RedisCluster(host=LOOPBACK, port=group.nodes[4].port, protocol=3),
        lambda group: redis.RedisCluster.from_url(f"redis://{LOOPBACK}:{group.nodes[1].port}"),
        lambda group: valkey.ValkeyCluster(host=LOOPBACK, port=group.nodes[0].port),
    ],
    ids=["RedisCluster", "RESP3", "from_url", "ValkeyCluster"],
)
def test_a_ready_cluster_client_works(
    whole_cluster: ClusterGroup, prefix: str, make: Callable[[ClusterGroup], t.Any]
) -> None:
    """An app with a ready client of a cluster logs in, reads, writes, lists and revokes."""
    client = make(whole_cluster)
    exercise(app_with(prefix, client))
    client.close()


@pytest.mark.parametrize("cluster_class", [redis.RedisCluster, valkey.ValkeyCluster])
def test_a_ready_cluster_client_with_tls_works(
    tls_cluster: TlsServer, prefix: str, cluster_class: t.Any
) -> None:
    """The TLS options of a ready cluster client apply."""
    client = cluster_class(
        host="localhost", port=tls_cluster.port, ssl=True, ssl_ca_certs=tls_cluster.authority
    )
    exercise(app_with(prefix, client))
    client.close()


def test_a_cluster_url_with_tls_works(tls_cluster: TlsServer, prefix: str) -> None:
    """`rediss+cluster://` uses TLS for each node."""
    options = f"ssl_ca_certs={tls_cluster.authority}"
    exercise(app_at(prefix, f"rediss+cluster://localhost:{tls_cluster.port}?{options}"))


@pytest.mark.parametrize("preferred", ["ip", "hostname", "unknown-endpoint"])
def test_a_cluster_whose_nodes_do_not_know_their_names_works(
    tls_cluster: TlsServer, prefix: str, preferred: str
) -> None:
    """If a node names no host of its own, it is at the host that was asked."""
    tls_cluster.server.run("CONFIG", "SET", "cluster-preferred-endpoint-type", preferred)
    exercise(app_at(prefix, f"redis+cluster://{LOOPBACK}:{tls_cluster.server.port}"))
    tls_cluster.server.run("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterGroup]:
    """A cluster that no test breaks."""
    group = ClusterGroup(tmp_path_factory.mktemp("c"))
    yield group
    group.close()


@pytest.fixture(scope="module")
def whole_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    """Sentinels and servers that no test breaks, with a password each."""
    group = SentinelGroup(
        tmp_path_factory.mktemp("g"), password="s3rver", sentinel_password="s3ntinel"
    )
    yield group
    group.close()


@pytest.mark.parametrize("module", [redis.sentinel, valkey.sentinel])
def test_a_ready_client_of_sentinels_works(
    whole_group: SentinelGroup, prefix: str, module: t.Any
) -> None:
    """An app with `master_for(...)` logs in, reads, writes, lists and revokes."""
    exercise(app_with(prefix, sentinel_of(whole_group, module).master_for(SERVICE)))


def sentinel_of(group: SentinelGroup, module: t.Any) -> t.Any:
    return module.Sentinel(
        [sentinel.address for sentinel in group.sentinels],
        sentinel_kwargs={"password": "s3ntinel"},
        password="s3rver",
    )


def test_a_url_of_sentinels_with_passwords_works(whole_group: SentinelGroup, prefix: str) -> None:
    """A URL gives the servers' password, and the Sentinels' with `sentinel_password`."""
    exercise(app_at(prefix, f"{whole_group.url}?sentinel_password=s3ntinel"))


def test_sentinels_that_refuse_the_password_give_503(
    whole_group: SentinelGroup, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the password of the Sentinels, requests give 503. The log has no password."""
    app = app_at(prefix, whole_group.url)
    add_views(app)
    assert app.test_client().post("/login/ada").status_code == 503
    assert "no Sentinel names a primary" in caplog.text
    assert "s3rver" not in caplog.text


def test_a_service_that_no_sentinel_knows_gives_503(
    whole_group: SentinelGroup, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the service that no Sentinel knows."""
    url = whole_group.url.removesuffix(SERVICE) + "other?sentinel_password=s3ntinel"
    app = app_at(prefix, url)
    add_views(app)
    assert app.test_client().post("/login/ada").status_code == 503
    assert "'other'" in caplog.text


def test_a_client_of_sentinels_that_reads_from_replicas_is_refused(
    whole_group: SentinelGroup, prefix: str
) -> None:
    """`slave_for(...)` is refused with the remedy."""
    for module in (redis.sentinel, valkey.sentinel):
        sentinel = sentinel_of(whole_group, module)
        with pytest.raises(kvs.errors.ConfigurationError, match=r"master_for"):
            app_with(prefix, sentinel.slave_for(SERVICE))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_cluster_client_that_reads_from_replicas_is_refused(
    whole_cluster: ClusterGroup, prefix: str
) -> None:
    """A cluster client that reads from replicas is refused with the remedy."""
    for cluster_class in (redis.RedisCluster, valkey.ValkeyCluster):
        node = whole_cluster.nodes[0]
        client = cluster_class(host=LOOPBACK, port=node.port, read_from_replicas=True)
        with pytest.raises(kvs.errors.ConfigurationError, match="read_from_replicas"):
            app_with(prefix, client)
        client.close()
