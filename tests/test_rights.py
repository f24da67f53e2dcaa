"""The access rights of the user whom the app is on the Redis server (ACL)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.connection import EmbeddedServer
from flask_kvsession.store.rights import LISTENING, NEEDED

from .support.apps import MakeApp, store_of
from .support.rights import allow, url_of

DOCS = Path(__file__).parent.parent / "docs"
DEPLOYMENT, NEAR_CACHE = DOCS / "deployment.md", DOCS / "near-cache.md"
RARELY = {"ping", "info", "scan", "eval", "evalsha"}
"""Without one of these everything works: see the tests below, and test_eviction.py."""


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path_factory.mktemp("rights"), ephemeral=True)
    yield server
    server.close()


@pytest.fixture
def client(make_app: MakeApp, own_server: EmbeddedServer) -> FlaskClient:
    """A browser of an app on a server of its own, whose index expires soon."""
    with redis.Redis(unix_socket_path=own_server.socket_path) as direct:
        allow(direct)
    app = make_app(redis_url=url_of(own_server.socket_path), max_sessions_per_user=1)
    return app.test_client()


def use(client: FlaskClient) -> set[int]:
    """What an app does with sessions; returns the statuses of the responses."""
    app = client.application
    other = app.test_client()
    statuses = {client.post("/login/ada", json={"data": {"x": 1}}).status_code}
    statuses |= {other.post("/login/ada").status_code, other.get("/me").status_code}
    statuses |= {other.post("/data", json={"x": 2}).status_code}
    try:
        store_of(app).sessions_of("ada")
        store_of(app).revoke_all("ada")
    except kvs.errors.StoreUnavailable:
        statuses.add(503)
    other.post("/login/ada")
    statuses |= {other.post("/logout").status_code}
    return statuses


def test_these_rights_are_enough(client: FlaskClient) -> None:
    """With these rights nothing fails."""
    assert use(client) == {200}


@pytest.mark.parametrize("command", sorted(set(NEEDED) - RARELY))
def test_each_right_is_needed(
    client: FlaskClient, own_server: EmbeddedServer, command: str
) -> None:
    """Without any one of these rights something fails."""
    with redis.Redis(unix_socket_path=own_server.socket_path) as direct:
        allow(direct, command)
        assert 503 in use(client)


@pytest.mark.parametrize("command", ["evalsha", "eval", "info", "scan", "ping"])
def test_without_a_right_that_has_another_way_everything_works(
    client: FlaskClient, own_server: EmbeddedServer, command: str
) -> None:
    """A server may forbid one of `EVALSHA` and `EVAL`. The others are for evicting servers and for
    connections that were not used for long."""
    assert use(client) == {200}  # the server learns the scripts
    with redis.Redis(unix_socket_path=own_server.socket_path) as direct:
        allow(direct, command)
        assert use(client) == {200}


@pytest.mark.parametrize(
    ("guide", "commands"), [(DEPLOYMENT, NEEDED), (NEAR_CACHE, LISTENING)], ids=["all", "near"]
)
def test_a_guide_names_these_rights(guide: Path, commands: tuple[str, ...]) -> None:
    """Each guide shows an ACL with exactly these commands. The tests of the near cache run with
    no others."""
    [rule] = re.findall(r"^ACL SETUSER .*$", guide.read_text(), re.M)
    assert set(re.findall(r"\+(\S+)", rule)) == set(commands)


class TestCommandLine:
    """The commands of an operator, whose user lacks a right."""

    @pytest.fixture
    def ada(self, client: FlaskClient) -> FlaskClient:
        client.post("/login/ada")
        return client

    def run(
        self, client: FlaskClient, own_server: EmbeddedServer, without: str, *args: str
    ) -> tuple[int, str]:
        with redis.Redis(unix_socket_path=own_server.socket_path) as direct:
            allow(direct, without)
        result = client.application.test_cli_runner().invoke(args=["kvsession", *args])
        return result.exit_code, result.output

    def test_without_info_the_number_of_keys_is_unknown(
        self, ada: FlaskClient, own_server: EmbeddedServer
    ) -> None:
        """Counting needs no INFO, which only says how far it is."""
        code, output = self.run(ada, own_server, "info", "stats")
        assert code == 0
        assert "Sessions\t1" in output

    def test_without_scan_the_walk_is_refused(
        self, ada: FlaskClient, own_server: EmbeddedServer
    ) -> None:
        """What looks at all keys says which command the server refuses."""
        code, output = self.run(ada, own_server, "scan", "stats")
        assert code == 1
        assert "to run the 'scan' command" in output

    def test_without_zrem_nothing_is_reported_as_repaired(
        self, ada: FlaskClient, own_server: EmbeddedServer
    ) -> None:
        """If an index entry cannot be removed, the repair fails."""
        store = store_of(ada.application)
        with redis.Redis(unix_socket_path=own_server.socket_path) as direct:
            [session] = store.sessions_of("ada")
            direct.delete(store._server.record_key(session.id))
        code, output = self.run(ada, own_server, "zrem", "repair", "--yes")
        assert code == 1
        assert "0 index entries" not in output
