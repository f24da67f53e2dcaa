"""Fixtures of the fault tests, and the table of measured figures at the end of a run."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from ..support.apps import MakeApp
from ..support.figures import TIMEOUT, Figure
from ..support.proxy import Proxy
from ..support.servers import ClusterGroup, SentinelGroup, Server


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """`figure(row, value)` records what a test has measured for a row of docs/reliability.md."""
    return lambda row, value: record_property("figure", [row, str(value)])


def pytest_terminal_summary(terminalreporter: t.Any) -> None:
    rows = [
        (*value, report.nodeid.rpartition("::")[2])
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "figure"
    ]
    if rows:
        terminalreporter.section("measured")
        widths = [max(len(row[n]) for row in rows) for n in range(2)]
        for row, value, test in sorted(rows):
            terminalreporter.line(f"{row:<{widths[0]}}  {value:<{widths[1]}}  {test}")


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that a test may break."""
    server = Server(tmp_path_factory.mktemp("s"), "--enable-debug-command", "local")
    yield server
    server.kill()


@pytest.fixture
def proxy(own_server: Server) -> Iterator[Proxy]:
    """A proxy in front of `own_server`."""
    proxy = Proxy(own_server.path)
    yield proxy
    proxy.close()


@pytest.fixture
def app(make_app: MakeApp, own_server: Server) -> Flask:
    """An app on `own_server`."""
    return make_app(redis_url=f"unix://{own_server.path}", store_timeout=TIMEOUT)


@pytest.fixture
def app_behind_proxy(make_app: MakeApp, proxy: Proxy) -> Flask:
    """An app whose connections to `own_server` go through `proxy`."""
    return make_app(redis_url=f"unix://{proxy.path}", store_timeout=TIMEOUT)


@pytest.fixture
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    """Three Sentinels, a primary and a replica. They start faster than they recover, so each test
    has its own."""
    group = SentinelGroup(tmp_path_factory.mktemp("g"))
    yield group
    group.close()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterGroup]:
    """A cluster of three primaries, each with one replica."""
    group = ClusterGroup(tmp_path_factory.mktemp("c"))
    yield group
    group.close()
