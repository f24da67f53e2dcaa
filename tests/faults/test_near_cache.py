"""The near cache while a primary is exchanged: Sentinel, a cluster, TLS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from flask import Flask

import flask_kvsession as kvs

from ..support.apps import MakeApp, in_context, store_of
from ..support.browsers import SignIn, id_of
from ..support.certificates import Certificates, start_with_tls
from ..support.figures import TIMEOUT
from ..support.near_cache import catch_up, is_kept, prove
from ..support.servers import SERVICE, ClusterGroup, SentinelGroup, wait_until

pytestmark = pytest.mark.without_near_cache  # these tests choose when the process is told


def pair(make_app: MakeApp, url: str) -> tuple[Flask, Flask]:
    """An app with a near cache that is in use, and another worker without one."""
    settings = {"redis_url": url, "store_timeout": TIMEOUT}
    app = make_app(near_cache=True, near_cache_max_age=3600, **settings)
    prove(app)
    return app, make_app("other", **settings)


def kill(group: SentinelGroup) -> None:
    group.primary.kill()


def fail_over(group: SentinelGroup) -> None:
    group.sentinels[0].run("SENTINEL", "FAILOVER", SERVICE)


@pytest.mark.quick
@pytest.mark.parametrize("exchange", [kill, fail_over])
def test_after_a_failover_the_near_cache_listens_to_the_new_primary(
    make_app: MakeApp,
    group: SentinelGroup,
    sign_in: SignIn,
    exchange: Callable[[SentinelGroup], None],
) -> None:
    """A session from before a failover is read again from the new primary, and a revocation there
    is seen."""
    app, other = pair(make_app, group.url)
    browser = sign_in(app)
    assert group.primary.run("WAIT", "1", "1000") == 1
    catch_up(app)
    browser.get("/me")
    assert is_kept(browser)
    old = store_of(app).tracker._run.tracks[0].node
    exchange(group)
    wait_until(lambda: listens_elsewhere(app, old))
    assert not is_kept(browser)
    wait_until(lambda: browser.get("/me").status_code == 200 and is_kept(browser))
    in_context(other, lambda: kvs.revoke_session(id_of(browser), "ada"))
    wait_until(lambda: not is_kept(browser))
    assert browser.get("/me").status_code == 401


def listens_elsewhere(app: Flask, node: object) -> bool:
    tracker = store_of(app).tracker
    return tracker.is_proven() and all(track.node is not node for track in tracker._run.tracks)


@pytest.mark.quick
def test_a_near_cache_listens_to_each_primary_of_a_cluster(
    make_app: MakeApp, cluster: ClusterGroup, sign_in: SignIn
) -> None:
    """Sessions on all primaries are kept, and a revocation on each of them is seen. After the loss
    of a primary, its replica is listened to."""
    app, other = pair(make_app, cluster.url)
    assert len(store_of(app).tracker._run.tracks) == 3
    users = [f"user{n}" for n in range(12)]
    browsers = {user: sign_in(app, user) for user in users}
    catch_up(app)
    for user in users:
        assert browsers[user].get("/me").status_code == 200
        assert is_kept(browsers[user])
    for user in users[:6]:
        in_context(other, partial(kvs.revoke_all_sessions, user))
    catch_up(app)
    assert [is_kept(browsers[user]) for user in users] == [False] * 6 + [True] * 6
    for node in cluster.nodes:
        if node.info("replication")["role"] == "master":
            assert node.run("WAIT", "1", "2000") == 1
    epoch = store_of(app).tracker.epoch
    cluster.nodes[0].kill()
    wait_until(lambda: store_of(app).tracker.epoch > epoch and store_of(app).tracker.is_proven())
    for user in users[6:]:
        wait_until(lambda user=user: browsers[user].get("/me").status_code == 200)  # type: ignore[misc]
        in_context(other, partial(kvs.revoke_all_sessions, user))
        catch_up(app)
        assert browsers[user].get("/me").status_code == 401


@pytest.mark.quick
def test_a_near_cache_listens_by_tls(
    make_app: MakeApp, tmp_path_factory: pytest.TempPathFactory, sign_in: SignIn
) -> None:
    """Reports come by TLS too, several of them in one record."""
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    server, port = start_with_tls(tmp_path_factory.mktemp("t"), certificates)
    try:
        url = f"rediss://localhost:{port}?ssl_ca_certs={certificates.authority}"
        app, other = pair(make_app, url)
        browsers = [sign_in(app, "ada") for _ in range(20)]
        catch_up(app)
        for browser in browsers:
            browser.get("/me")
        assert all(is_kept(browser) for browser in browsers)
        in_context(other, lambda: kvs.revoke_all_sessions("ada"))
        catch_up(app)
        assert not any(is_kept(browser) for browser in browsers)
    finally:
        server.kill()
