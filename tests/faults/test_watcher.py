"""Watched sessions while a primary is exchanged: Sentinel and a cluster."""

from __future__ import annotations

from functools import partial

import pytest
from flask import Flask

from flask_kvsession import SessionStore, WatchedSession

from ..support.apps import MakeApp, store_of
from ..support.browsers import SignIn, id_of
from ..support.figures import TIMEOUT
from ..support.servers import SERVICE, ClusterGroup, SentinelGroup, wait_until

PATIENCE = 60.0


def watch(app: Flask, sign_in: SignIn, user: str) -> WatchedSession:
    """A watched session of this user in a new browser."""
    store, session_id = store_of(app), id_of(sign_in(app, user))
    [stored] = [each for each in store.sessions_of(user) if each.id == session_id]
    return store.watch(stored)


def listening_anew(store: SessionStore, epoch: int) -> bool:
    return store.tracker.epoch > epoch and store.tracker.is_proven()


@pytest.mark.quick
def test_watched_sessions_end_after_a_failover_by_sentinel(
    make_app: MakeApp, group: SentinelGroup, sign_in: SignIn
) -> None:
    """A failover ends none of them. A revocation at the new primary is noticed."""
    app = make_app(redis_url=group.url, store_timeout=TIMEOUT)
    store = store_of(app)
    watched, stays = watch(app, sign_in, "ada"), watch(app, sign_in, "bob")
    wait_until(store.tracker.is_proven)
    assert group.primary.run("WAIT", "1", "1000") == 1
    epoch = store.tracker.epoch
    group.sentinels[0].run("SENTINEL", "FAILOVER", SERVICE)
    wait_until(lambda: listening_anew(store, epoch))
    assert not (watched.ended or stays.ended)
    wait_until(lambda: store.revoke_all("ada"), ignoring=Exception)
    assert watched.wait(PATIENCE)
    assert watched.reason == "revoked"
    assert not stays.ended


@pytest.mark.quick
def test_watched_sessions_end_on_every_primary_of_a_cluster(
    make_app: MakeApp, cluster: ClusterGroup, sign_in: SignIn
) -> None:
    """Revocations on each of three primaries are noticed, and after the loss of one of them those
    of the others and of its replica."""
    app = make_app(redis_url=cluster.url, store_timeout=TIMEOUT)
    other = store_of(make_app("other", redis_url=cluster.url, store_timeout=TIMEOUT))
    store = store_of(app)
    users = [f"user{n}" for n in range(12)]
    watched = {user: watch(app, sign_in, user) for user in users}
    wait_until(store.tracker.is_proven)
    for user in users[:6]:
        other.revoke_all(user)
        assert watched[user].wait(PATIENCE)
    for node in cluster.nodes:
        if node.info("replication")["role"] == "master":
            assert node.run("WAIT", "1", "2000") == 1
    epoch = store.tracker.epoch
    cluster.nodes[0].kill()
    wait_until(lambda: listening_anew(store, epoch))
    assert not any(watched[user].ended for user in users[6:])
    for user in users[6:]:
        wait_until(partial(other.revoke_all, user), ignoring=Exception)
        assert watched[user].wait(PATIENCE)
        assert watched[user].reason == "revoked"
