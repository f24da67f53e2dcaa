"""Servers that may evict keys: they can lose a user's index and keep the user's sessions."""

from __future__ import annotations

import logging
import time
import typing as t

from ..errors import StoreUnavailable

log: logging.Logger = logging.getLogger("flask_kvsession")

_SECONDS_BETWEEN_QUESTIONS = 300.0
_SAFE_POLICY = "noeviction"
_REMEDY = (
    "Set maxmemory-policy to noeviction, and give the sessions a Redis of their own. Until then,"
    " each list, revocation, update and login looks through all keys of the server."
)


class EvictionPolicy:
    """Whether the server may evict keys, asked again every 5 minutes.

    Requests read records and not indexes. So a policy by the time of the last use evicts indexes
    first, and a list that is made from the index then misses sessions that are still valid.
    """

    def __init__(self) -> None:
        self._may_evict = False
        self._next_question = 0.0
        self._warned_of: str | None = None

    def may_evict(self, ask: t.Callable[[], bytes]) -> bool:
        """`ask` gives the server's `INFO memory`."""
        if time.monotonic() < self._next_question:
            return self._may_evict
        try:
            policy = _policy_in(ask())
        except StoreUnavailable as error:
            if error.__cause__ is None or not is_forbidden(error.__cause__):
                raise
            policy = "unknown, because INFO is forbidden"
        self._next_question = time.monotonic() + _SECONDS_BETWEEN_QUESTIONS
        self._may_evict = policy != _SAFE_POLICY
        if self._may_evict and policy != self._warned_of:
            self._warned_of = policy
            log.warning(
                "The Redis server may evict sessions (maxmemory-policy: %s). %s", policy, _REMEDY
            )
        return self._may_evict


def is_forbidden(error: BaseException) -> bool:
    """Whether the server's access rules forbid a command, or a proxy does not know it."""
    text = str(error).lower()
    return type(error).__name__ == "NoPermissionError" or "unknown command" in text


def _policy_in(info: bytes) -> str:
    for line in info.decode(errors="replace").splitlines():
        if line.startswith("maxmemory_policy:"):
            return line.partition(":")[2].strip()
    return "unknown"
