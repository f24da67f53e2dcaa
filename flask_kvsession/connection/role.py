"""Whether a server is a primary."""

from __future__ import annotations

import typing as t

from redis.exceptions import ReadOnlyError, ResponseError

from .deadline import Deadline
from .link import Link

ASK_ROLE: t.Final = ("ROLE",)


def require_primary(link: Link, deadline: Deadline) -> None:
    """Raises `ReadOnlyError` if the server is a replica. A server that does not allow the question
    counts as a primary."""
    try:
        reply = link.exchange(ASK_ROLE, deadline.end)
    except ResponseError:
        return
    check_role(reply)


def check_role(reply: t.Any) -> None:
    """Raises `ReadOnlyError` if this reply to `ROLE` is that of a replica."""
    if isinstance(reply, list) and reply[:1] == [b"slave"]:
        raise ReadOnlyError("the server is a replica")
