"""Fixtures of pytest: a throw-away server, settings for an app of one test, and a clock.

They are opt-in: `pytest_plugins = ["flask_kvsession.testing.plugin"]` in the top `conftest.py`.
"""

from __future__ import annotations

import secrets
import typing as t
from collections.abc import Iterator

import pytest

from ..connection import EmbeddedServer
from .clock import Clock, movable_clock


@pytest.fixture(scope="session")
def kvsession_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a private server of this test process. Its data are deleted at the end.

    A project that has a server for its tests overrides this fixture, and returns that URL.
    """
    server = EmbeddedServer(tmp_path_factory.mktemp("kvsession"), ephemeral=True)
    yield f"unix://{server.socket_path}"
    server.close()


@pytest.fixture
def kvsession_config(kvsession_server: str) -> dict[str, t.Any]:
    """Settings for the apps of one test: the server, and a key prefix that no other test uses. A
    busy machine may take long to answer, so the timeout of the store is 10 seconds."""
    return {
        "KVSESSION_REDIS_URL": kvsession_server,
        "KVSESSION_KEY_PREFIX": f"test-{secrets.token_hex(8)}",
        "KVSESSION_STORE_TIMEOUT": 10,
    }


@pytest.fixture
def kvsession_clock() -> Iterator[Clock]:
    """A clock that moves the time of all sessions until the end of the test."""
    with movable_clock() as clock:
        yield clock
