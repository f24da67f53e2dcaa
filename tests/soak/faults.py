"""Random faults of a server and of the way to it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import redis

from ..support.proxy import Proxy
from ..support.servers import Server


class Faults:
    """Injects one fault after the other, with pauses, until `stop` is called."""

    def __init__(self, server: Server, proxy: Proxy, seed: int) -> None:
        self.injected: Counter[str] = Counter()
        self._server = server
        self._proxy = proxy
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._kinds: dict[str, Callable[[], object]] = {
            "hung": self._hang,
            "killed": self._kill,
            "connections dropped": lambda: server.run("CLIENT", "KILL", "TYPE", "normal"),
            "connections forgotten": proxy.forget_connections,
            "connections cut": proxy.cut_connections,
            "replies lost": lambda: self._while_proxy_drops("on_reply"),
            "requests lost": lambda: self._while_proxy_drops("on_request"),
            "writes paused": lambda: server.run("CLIENT", "PAUSE", str(self._ms()), "WRITE"),
            "all paused": lambda: server.run("CLIENT", "PAUSE", str(self._ms()), "ALL"),
            "scripts flushed": lambda: server.run("SCRIPT", "FLUSH"),
        }

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the faults, and waits until the server answers."""
        self._stopping.set()
        self._thread.join()
        self._proxy.on_reply = self._proxy.on_request = lambda chunk: True
        self._server.resume()
        self._server.run("CLIENT", "UNPAUSE")

    def _run(self) -> None:
        while not self._stopping.wait(self._random.uniform(0.02, 0.6)):
            kind = self._random.choice(list(self._kinds))
            try:
                self._kinds[kind]()
            except redis.RedisError:
                continue  # the server is paused
            self.injected[kind] += 1

    def _ms(self) -> int:
        return self._random.choice([20, 200, 900])

    def _hang(self) -> None:
        self._server.stop()
        time.sleep(self._random.choice([0.05, 0.3, 0.9]))
        self._server.resume()

    def _kill(self) -> None:
        self._server.kill()
        time.sleep(self._random.choice([0.0, 0.3]))
        self._server.start()

    def _while_proxy_drops(self, what: str) -> None:
        drop = random.Random(self._random.random())
        setattr(self._proxy, what, lambda chunk: drop.random() > 0.3)
        time.sleep(self._random.uniform(0.05, 0.5))
        setattr(self._proxy, what, lambda chunk: True)
