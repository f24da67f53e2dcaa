"""Cluster: a primary dies, hangs or is exchanged, and slots move, under load."""

from __future__ import annotations

import sys
import time
import typing as t
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis.crc import key_slot

import flask_kvsession as kvs
from flask_kvsession.errors import StoreUnavailable
from flask_kvsession.token import Token, user_hash

from ..support.apps import MakeApp, store_of
from ..support.browsers import SignIn, token_of
from ..support.figures import BUSY_MACHINE, DEADLINE, TIMEOUT, Figure
from ..support.near_cache import is_kept, prove
from ..support.requests import Answers, ask, load
from ..support.servers import LOOPBACK, ClusterGroup, Server, free_ports, wait_until

USERS = ["ada", "bob", "eve", "dan", "zoe", "kim"]


@pytest.fixture
def app(make_app: MakeApp, cluster: ClusterGroup) -> Flask:
    return make_app(redis_url=cluster.url, store_timeout=TIMEOUT)


def slot_of(app: Flask, user: str) -> int:
    return key_slot(store_of(app)._server.index_key(user_hash(user)).encode())


def users_on(app: Flask, cluster: ClusterGroup, node: Server, count: int) -> list[str]:
    """Users whose sessions this node has."""
    names = (f"user{n}" for n in range(1000))
    return [
        name
        for name, _ in zip(
            (name for name in names if cluster.owner(slot_of(app, name)) is node),
            range(count),
            strict=False,
        )
    ]


def read_and_write(browser: FlaskClient, user: str, answers: Answers) -> None:
    ask(browser, user, answers)
    began = time.monotonic()
    status = browser.post("/data", json={"at": began}).status_code
    answers.note(str(status), time.monotonic() - began)


def replicated(cluster: ClusterGroup) -> None:
    for node in cluster.nodes:
        if node.info("replication")["role"] == "master":
            assert node.run("WAIT", "1", "2000") == 1


def service_back(app: Flask, answers: Answers, promoted: float) -> float:
    time.sleep(2)
    return max(0.0, answers.last_failure - promoted)


@pytest.mark.parametrize("fault", ["killed", pytest.param("hung", marks=pytest.mark.quick)])
def test_service_is_back_after_a_primary_has_failed(
    app: Flask, cluster: ClusterGroup, sign_in: SignIn, figure: Figure, fault: str
) -> None:
    """If a primary is killed or hangs under load, no request takes longer than the deadline, and
    every request is answered within 5 s of the promotion. Every replicated session survives."""
    browsers = {user: sign_in(app, user) for user in USERS}
    replicated(cluster)
    victim = cluster.owner(slot_of(app, "ada"))
    replica = cluster.replica_of(victim)
    with load(app, USERS, read_and_write) as answers:
        time.sleep(0.3)
        victim.kill() if fault == "killed" else victim.stop()
        began = time.monotonic()
        wait_until(lambda: replica.info("replication")["role"] == "master")
        promoted = time.monotonic()
        back = service_back(app, answers, promoted)
    assert set(answers.counts) <= {"200", "503"}
    assert answers.slowest < DEADLINE
    assert back < 5
    assert [browsers[user].get("/me").status_code for user in USERS] == [200] * len(USERS)
    figure(
        f"Cluster: primary {fault}",
        f"promoted after {promoted - began:.1f} s, service back {back:.2f} s later,"
        f" slowest request {answers.slowest:.2f} s",
    )


def test_an_ordered_failover_is_not_visible(
    app: Flask, cluster: ClusterGroup, figure: Figure
) -> None:
    """If a replica takes over while its primary lives, requests fail for a moment at most."""
    victim = cluster.owner(slot_of(app, "ada"))
    replica = cluster.replica_of(victim)
    with load(app, USERS, read_and_write) as answers:
        time.sleep(0.3)
        replica.run("CLUSTER", "FAILOVER")
        wait_until(lambda: replica.info("replication")["role"] == "master")
        promoted = time.monotonic()
        back = service_back(app, answers, promoted)
    assert set(answers.counts) <= {"200", "503"}
    assert back < 5
    failed = answers.counts["503"]
    figure("Cluster: CLUSTER FAILOVER", f"{failed} requests 503, the last after {back:.2f} s")


def move_slot(cluster: ClusterGroup, slot: int, source: Server, target: Server) -> None:
    """Moves a slot with its keys, as an operator does it; each key pauses in between."""
    names = cluster.names
    target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
    source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
    while keys := source.run("CLUSTER", "GETKEYSINSLOT", slot, 1):
        time.sleep(0.05)
        source.run("MIGRATE", LOOPBACK, target.port, "", 0, 5000, "KEYS", *keys)
    time.sleep(0.05)
    for node in (target, source, *cluster.nodes):
        if node.info("replication")["role"] == "master":
            node.run("CLUSTER", "SETSLOT", slot, "NODE", names[target.port])


@pytest.mark.quick
def test_a_near_cache_is_told_of_changes_after_a_slot_has_moved(
    make_app: MakeApp, cluster: ClusterGroup, sign_in: SignIn
) -> None:
    """After a slot has moved, a revocation at its new node is seen. The cache is not emptied."""
    app = make_app(redis_url=cluster.url, store_timeout=TIMEOUT, near_cache=True)
    other = make_app("other", redis_url=cluster.url, store_timeout=TIMEOUT)
    prove(app)
    browsers = {user: sign_in(app, user) for user in USERS}
    slot = slot_of(app, "ada")
    source = cluster.owner(slot)
    [target] = [node for node in cluster.nodes[:3] if node is not source][:1]
    epoch = store_of(app).tracker.epoch
    move_slot(cluster, slot, source, target)
    for browser in browsers.values():
        wait_until(lambda browser=browser: browser.get("/me") and is_kept(browser))  # type: ignore[misc]
    store_of(other).revoke_all("ada")
    wait_until(lambda: not is_kept(browsers["ada"]))
    assert browsers["ada"].get("/me").status_code == 401
    assert store_of(app).tracker.epoch == epoch


@pytest.mark.quick
def test_a_near_cache_is_told_of_changes_on_a_node_that_has_no_slot_yet(
    make_app: MakeApp, cluster: ClusterGroup, sign_in: SignIn, new_node: Server
) -> None:
    """While the first slot moves to a new node, that node has sessions and no slot. Their
    revocation by another process is seen, by the near cache and by who watches them."""
    app = make_app(redis_url=cluster.url, store_timeout=TIMEOUT, near_cache=True)
    other = make_app("other", redis_url=cluster.url, store_timeout=TIMEOUT)
    prove(app)
    browser = sign_in(app, "ada")
    slot = slot_of(app, "ada")
    source, epoch = cluster.owner(slot), store_of(app).tracker.epoch
    new_node.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.run("CLUSTER", "MYID"))
    source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", new_node.run("CLUSTER", "MYID"))
    keys = source.run("CLUSTER", "GETKEYSINSLOT", slot, 10)
    source.run("MIGRATE", LOOPBACK, new_node.port, "", 0, 5000, "KEYS", *keys)

    assert browser.get("/me").status_code == 200
    wait_until(lambda: store_of(app).tracker.epoch > epoch)
    wait_until(lambda: browser.get("/me") and is_kept(browser))
    token = Token.parse(str(token_of(browser)))
    stored = store_of(app).load(token) if token else None
    assert stored
    watched = store_of(app).watch(stored)
    assert store_of(other).revoke_one("ada", stored.id)
    wait_until(lambda: browser.get("/me").status_code == 401, 2)
    assert watched.wait(5)


@pytest.fixture
def new_node(cluster: ClusterGroup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A primary that has joined the cluster and has no slot."""
    port, bus = free_ports(2)
    options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
    node = Server(tmp_path_factory.mktemp("n"), *options, port=port)
    try:
        node.run("CLUSTER", "SET-CONFIG-EPOCH", 100)
        cluster.nodes[0].run("CLUSTER", "MEET", LOOPBACK, port, bus)
        known_by = [node, *cluster.nodes]
        wait_until(lambda: all(len(each.peers()) == len(known_by) for each in known_by))
        wait_until(lambda: "cluster_state:ok" in node.run("CLUSTER", "INFO"))
        yield node
    finally:
        node.kill()


@pytest.mark.quick
def test_reads_of_a_slot_that_moves_are_answered(
    app: Flask, cluster: ClusterGroup, figure: Figure
) -> None:
    """While a slot moves to another node and back, all reads of its sessions are answered: MOVED
    and ASK are not visible."""
    slot, users = slot_of(app, "ada"), ["ada"] * 4
    home = cluster.owner(slot)
    away = next(n for n in cluster.nodes if n is not home and "master" in n.myself())
    with load(app, users) as answers:
        for source, target in ((home, away), (away, home)) * 3:
            move_slot(cluster, slot, source, target)
            time.sleep(0.05)
    assert set(answers.counts) == {"200"}
    figure("Cluster: slot moves", f"6 times: {answers.counts['200']} reads, all 200")


@pytest.mark.quick
def test_acts_of_a_slot_that_moves_are_answered(
    make_app: MakeApp, cluster: ClusterGroup, figure: Figure
) -> None:
    """While a slot moves to another node and back, logins beyond the limit, changes, logouts, lists
    and revocations of its sessions are answered, although the two keys of an act are on two nodes
    (TRYAGAIN). Afterwards the index has exactly the living sessions."""
    app = make_app(redis_url=cluster.url, store_timeout=TIMEOUT, max_sessions_per_user=3)
    slot = slot_of(app, "ada")
    home = cluster.owner(slot)
    away = next(n for n in cluster.nodes if n is not home and "master" in n.myself())
    with load(app, ["ada"] * 4, do_everything) as answers:
        for source, target in ((home, away), (away, home)):
            move_slot(cluster, slot, source, target)
            time.sleep(0.05)
    assert set(answers.counts) == {"200"}
    living = {stored.id for stored in store_of(app).sessions_of("ada")}
    entries = home.run("ZRANGE", store_of(app)._server.index_key(user_hash("ada")), 0, -1)
    assert set(entries) == living
    assert len(living) <= 3
    figure("Cluster: slot moves", f"twice: {answers.counts['200']} acts, all 200")


def do_everything(browser: FlaskClient, user: str, answers: Answers) -> None:
    """Each act on a session. The other browsers of the user, or the limit, may have ended it."""
    store = store_of(browser.application)
    acts: dict[str, Callable[[], object]] = {
        "login": lambda: browser.post(f"/login/{user}").status_code,
        "change": lambda: browser.post("/data", json={"x": time.monotonic()}).status_code,
        "list": lambda: store.sessions_of(user),
        "revoke": lambda: store.revoke_one(user, store.sessions_of(user)[-1].id),
        "logout": lambda: browser.post("/logout").status_code,
    }
    for name, act in acts.items():
        began = time.monotonic()
        try:
            answer = str(result if isinstance(result := act(), int) else 200)
        except StoreUnavailable:
            answer = f"{name}: 503"
        except IndexError:  # no session to revoke
            answer = "200"
        answers.note(answer, time.monotonic() - began)


@pytest.mark.quick
def test_a_moved_slot_costs_one_redirection_and_then_none(
    app: Flask, cluster: ClusterGroup, sign_in: SignIn
) -> None:
    """After MOVED, the next command for the slot goes straight to its new node."""
    browser, slot = sign_in(app, "ada"), slot_of(app, "ada")
    home = cluster.owner(slot)
    away = next(n for n in cluster.nodes if n is not home and "master" in n.myself())
    move_slot(cluster, slot, home, away)

    def sent(node: Server) -> int:
        stats = node.info("commandstats").get("cmdstat_get", "calls=0")
        refused = node.info("errorstats").get("errorstat_MOVED", "count=0")
        return int(stats.split(",")[0].split("=")[1]) + int(refused.split("=")[1])

    browser.get("/me")
    before = sent(home)
    for _ in range(5):
        assert browser.get("/me").status_code == 200
    assert sent(home) == before


@pytest.mark.quick
def test_a_url_that_names_one_node_survives_the_loss_of_that_node(
    make_app: MakeApp, cluster: ClusterGroup, figure: Figure
) -> None:
    """If the URL names one node and that node hangs, a process that has asked it before goes on
    with the other nodes."""
    victim = cluster.nodes[0]
    url = f"redis+cluster://{LOOPBACK}:{victim.port}"
    app = make_app(redis_url=url, store_timeout=TIMEOUT)
    browsers = {user: app.test_client() for user in USERS}
    for user, browser in browsers.items():
        assert browser.post(f"/login/{user}").status_code == 200
    replicated(cluster)
    replica = cluster.replica_of(victim)
    victim.stop()
    on_victim = next(user for user in USERS if cluster_slot_is_on(app, user, 0))
    answers = Answers()
    assert ask(browsers[on_victim], on_victim, answers) == "503"
    wait_until(lambda: cluster.owner(0, asked=cluster.nodes[1]) is replica)
    wait_until(lambda: "cluster_state:ok" in cluster.nodes[1].run("CLUSTER", "INFO"))
    # The first request after it: while requests are rare, each is the one that asks the old node.
    assert ask(browsers[on_victim], on_victim, answers) == "200"
    for browser in browsers.values():
        wait_until(lambda browser=browser: browser.get("/me").status_code == 200)  # type: ignore[misc]
    figure("Cluster: the only node of the URL hangs", "200 after the promotion")


def cluster_slot_is_on(app: Flask, user: str, third: int) -> bool:
    return slot_of(app, user) * 3 // 16384 == third


def test_a_new_process_starts_although_the_first_nodes_of_its_url_fail(
    make_app: MakeApp, cluster: ClusterGroup
) -> None:
    """If the first node of the URL hangs and the second is gone, a new process learns the slots
    from the third."""
    cluster.nodes[0].stop()
    cluster.nodes[1].kill()
    app = make_app(redis_url=cluster.url, store_timeout=2 * TIMEOUT)
    user = next(user for user in USERS if cluster_slot_is_on(app, user, 2))
    began = time.monotonic()
    status = app.test_client().post(f"/login/{user}").status_code
    assert time.monotonic() - began < 2 * TIMEOUT + BUSY_MACHINE
    assert status in (200, 503)  # 503 if the cluster has noticed by now
    client: t.Any = store_of(app)._server._client
    assert client._owners


@pytest.mark.quick
def test_a_plain_url_of_a_cluster_node_is_a_configuration_error(
    make_app: MakeApp, cluster: ClusterGroup
) -> None:
    """With `redis://` and a node of a cluster, the error names `redis+cluster://`."""
    app = make_app(redis_url=f"redis://{LOOPBACK}:{cluster.nodes[0].port}")
    user = next(user for user in USERS if cluster_slot_is_on(app, user, 1))
    with pytest.raises(kvs.errors.ConfigurationError, match=r"redis\+cluster://"):
        app.test_client().post(f"/login/{user}")


@pytest.mark.quick
def test_threads_are_answered_while_another_asks_for_the_slots(
    app: Flask, cluster: ClusterGroup
) -> None:
    """While threads ask again and again which node has which slot, every request is answered."""
    client: t.Any = store_of(app)._server._client
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads change in the middle of an update
    try:
        with load(app, USERS, read_and_write) as answers:
            until = time.monotonic() + 2
            while time.monotonic() < until:
                client._is_outdated = True
                time.sleep(0.0005)
    finally:
        sys.setswitchinterval(interval)
    assert set(answers.counts) == {"200"}
