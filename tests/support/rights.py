"""A user of the server with the access rights that the package needs. All tests run with no
others."""

from __future__ import annotations

import redis

from flask_kvsession.store.rights import LISTENING, NEEDED

USER, PASSWORD = "app", "only-for-tests"


def allow(client: redis.Redis, *without: str) -> None:
    """Makes the user `USER`, who may send these commands and no others."""
    client.acl_setuser(
        USER,
        enabled=True,
        reset=True,
        passwords=[f"+{PASSWORD}"],
        keys=["*"],
        commands=[f"+{name}" for name in NEEDED + LISTENING if name not in without],
    )


def url_of(socket_path: str) -> str:
    """The URL of a server, for that user."""
    return f"unix://{USER}:{PASSWORD}@{socket_path}"
