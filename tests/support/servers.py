"""Real server processes of the tests' own: one server, Sentinels with their servers, a cluster.

All of them listen on loopback and on a unix socket, keep their data in memory, and are ended by
their own process id.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import subprocess
import time
import typing as t
from collections.abc import Callable
from functools import partial
from pathlib import Path

import redis

from flask_kvsession.connection.embedded import find_binary

LOOPBACK = "127.0.0.1"
START_SECONDS = 60.0
"""How long a busy machine may take until a server has started, or a cluster has formed."""

_PORTS = range(10_000, 32_000)

SERVICE = "main"
SLOTS = 16384


class ServerEnded(Exception):
    """A server ended while it was starting; with the end of its log."""


class Server:
    """A server of one test's own, to be ill-treated."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        port: int = 0,
        config: str = "",
        program: str = "",
        password: str = "",
    ) -> None:
        """`config` is the text of a configuration file, which a Sentinel needs. `password` is what
        the options demand."""
        self.path = str(folder / "s")
        self.port = port
        self.password = password
        self.folder = folder
        self._config = config
        self._command = [
            program or find_binary(),
            *("--port", str(port), "--bind", LOOPBACK, "--unixsocket", self.path, "--save", ""),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        return LOOPBACK, self.port

    def start(self, *options: str) -> None:
        """Raises `ServerEnded` if the process ends instead of answering."""
        self.begin(*options)
        wait_until(self._has_started)

    def _has_started(self) -> bool:
        if self._process and self._process.poll() is not None:
            raise ServerEnded((self.folder / "log").read_text()[-2000:])
        return self.answers()

    def begin(self, *options: str) -> None:
        """Starts the process and does not wait until it answers."""
        command = [*self._command, *options]
        if self._config:
            path = self.folder / "config"
            path.write_text(self._config)
            command.insert(1, str(path))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)

    def answers(self) -> bool:
        try:
            return bool(self.run("PING"))
        except redis.RedisError:
            return False

    def run(self, *command: t.Any) -> t.Any:
        """The reply to a command that a plain client sends to the unix socket: as the server sends
        it, with text instead of bytes."""
        with self.client(protocol=2, decode_responses=True) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def client(self, **options: t.Any) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.path, password=self.password or None, **options)

    def info(self, section: str) -> dict[str, str]:
        return _fields(self.run("INFO", section))

    def connections(self) -> int:
        """How many clients are connected, without the one that asks."""
        return len(self.run("CLIENT", "LIST", "TYPE", "NORMAL").splitlines()) - 1

    def peers(self) -> dict[str, str]:
        """The flags of each node of the cluster, as this node sees them."""
        lines = [line.split() for line in self.run("CLUSTER", "NODES").splitlines()]
        return {fields[1]: fields[2] for fields in lines}

    def myself(self) -> str:
        """This node's flags in the cluster, and the name of its primary."""
        lines = [line.split() for line in self.run("CLUSTER", "NODES").splitlines()]
        return next(f"{line[2]} {line[3]}" for line in lines if "myself" in line[2])

    def send(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def stop(self) -> None:
        """Stops the process as a hung machine does: its connections stay open."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        if self._process and self._process.poll() is None:
            self.resume()
            self._process.kill()
            self._process.wait()


class SentinelGroup:
    """A primary with one replica, and three Sentinels that watch them."""

    def __init__(
        self,
        folder: Path,
        *,
        down_after: float = 1.0,
        sentinel_password: str = "",
        password: str = "",
    ) -> None:
        self.password = password
        self._servers: list[Server] = []
        try:
            self._form(folder, down_after, sentinel_password)
        except BaseException:
            self.close()
            raise

    def _form(self, folder: Path, down_after: float, sentinel_password: str) -> None:
        password = self.password
        common = ["--repl-diskless-sync-delay", "0"]
        if password:
            common += ["--requirepass", password, "--masterauth", password]
        first, second, *ports = free_ports(5)
        self.primary = self._server(folder / "a", *common, port=first)
        replica_of = ["--replicaof", f"{LOOPBACK} {first}"]
        self.replica = self._server(folder / "b", *common, *replica_of, port=second)
        wait_until(lambda: self.replica.info("replication")["master_link_status"] == "up")
        self.sentinels = [
            self._sentinel(folder / f"s{n}", port, down_after, sentinel_password)
            for n, port in enumerate(ports)
        ]
        for sentinel in self.sentinels:
            wait_until(partial(self._knows_all, sentinel))

    @property
    def url(self) -> str:
        hosts = ",".join(f"{LOOPBACK}:{sentinel.port}" for sentinel in self.sentinels)
        login = f":{self.password}@" if self.password else ""
        return f"redis+sentinel://{login}{hosts}/{SERVICE}"

    def close(self) -> None:
        for server in self._servers:
            server.kill()

    def _server(self, folder: Path, *options: str, port: int) -> Server:
        folder.mkdir()
        self._servers.append(Server(folder, *options, port=port, password=self.password))
        return self._servers[-1]

    def _sentinel(self, folder: Path, port: int, down_after: float, password: str) -> Server:
        folder.mkdir()
        lines = [
            f"sentinel monitor {SERVICE} {LOOPBACK} {self.primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {down_after * 1000:.0f}",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        if self.password:
            lines.append(f"sentinel auth-pass {SERVICE} {self.password}")
        if password:
            lines += [f"requirepass {password}", f"sentinel sentinel-pass {password}"]
        config = "\n".join(lines) + "\n"
        self._servers.append(
            Server(folder, "--sentinel", port=port, config=config, password=password)
        )
        return self._servers[-1]

    def _knows_all(self, sentinel: Server) -> bool:
        reply = sentinel.run("SENTINEL", "MASTER", SERVICE)
        state = dict(zip(reply[::2], reply[1::2], strict=True))
        return (state["num-slaves"], state["num-other-sentinels"]) == ("1", "2")


class ClusterGroup:
    """A cluster of three primaries, each with one replica."""

    def __init__(self, folder: Path, *, node_timeout: float = 1.0, replicas: int = 1) -> None:
        self.nodes: list[Server] = []
        try:
            self._start(folder, node_timeout, replicas)
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path, node_timeout: float, replicas: int) -> None:
        count = 3 * (1 + replicas)
        ports = free_ports(2 * count)
        for n, (port, bus) in enumerate(zip(ports[:count], ports[count:], strict=True)):
            (folder / f"n{n}").mkdir()
            self.nodes.append(
                Server(
                    folder / f"n{n}",
                    *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                    *("--cluster-node-timeout", f"{node_timeout * 1000:.0f}"),
                    *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
                    port=port,
                )
            )
        self._bus = dict(zip(ports[:count], ports[count:], strict=True))
        self._form(replicas)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes)

    @property
    def names(self) -> dict[int, str]:
        """The cluster's name of the node at each port."""
        return {node.port: str(node.run("CLUSTER", "MYID")) for node in self.nodes}

    def owner(self, slot: int, asked: Server | None = None) -> Server:
        """The primary that has this slot, as a node that answers says."""
        asked = asked or next(node for node in self.nodes if node.answers())
        for first, last, primary, *_ in asked.run("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == primary[1])
        raise AssertionError("no node has the slot")

    def replica_of(self, primary: Server) -> Server:
        name = self.names[primary.port]
        for node in self.nodes:
            if node is not primary and f"slave {name}" in node.myself():
                return node
        raise AssertionError("the primary has no replica")

    def is_healthy(self) -> bool:
        """Whether all nodes say that the cluster works, and each replica has its primary's data."""
        for node in self.nodes:
            if not node.answers() or "cluster_state:ok" not in node.run("CLUSTER", "INFO"):
                return False
            info = node.info("replication")
            if info["role"] == "slave" and info["master_link_status"] != "up":
                return False
        return all(self._links_are_up(node) for node in self.nodes)

    def close(self) -> None:
        for node in self.nodes:
            node.kill()

    def _form(self, replicas: int) -> None:
        primaries, first = self.nodes[:3], self.nodes[0]
        for n, node in enumerate(primaries):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            node.run("CLUSTER", "ADDSLOTSRANGE", SLOTS * n // 3, SLOTS * (n + 1) // 3 - 1)
        for n, node in enumerate(self.nodes[3:]):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", n + 4)
        for node in self.nodes[1:]:
            first.run("CLUSTER", "MEET", LOOPBACK, node.port, self._bus[node.port])
        for node in self.nodes:
            wait_until(lambda node=node: len(node.peers()) == len(self.nodes))  # type: ignore[misc]
        for n, node in enumerate(self.nodes[3:]):
            name = self.names[primaries[n % 3].port]
            wait_until(partial(_replicates, node, name))
        wait_until(self.is_healthy)

    def _links_are_up(self, node: Server) -> bool:
        return len(node.peers()) == len(self.nodes) and not any(
            "fail" in flags or "handshake" in flags for flags in node.peers().values()
        )


def wait_until(
    condition: Callable[[], object],
    seconds: float = START_SECONDS,
    *,
    ignoring: type[Exception] = redis.RedisError,
) -> float:
    """Calls the function until its result is true. Returns how many seconds that took."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(ignoring):
            if condition():
                return time.monotonic() - began
        assert time.monotonic() < began + seconds, "it did not become true in time"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now. They are below those that the kernel gives to
    outgoing connections."""
    ports: list[int] = []
    with contextlib.ExitStack() as sockets:
        while len(ports) < count:
            each, port = sockets.enter_context(socket.socket()), secrets.choice(_PORTS)
            with contextlib.suppress(OSError):
                each.bind((LOOPBACK, port))
                ports.append(port)
    return ports


def _replicates(node: Server, name: str) -> bool:
    """Makes the node a replica. It refuses until it has heard of the primary."""
    return bool(node.run("CLUSTER", "REPLICATE", name))


def _fields(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
