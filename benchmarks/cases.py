"""The requests that are measured."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

BARE, BARE_GET, SIGNED = "bare", "bare-get", "signed-cookie"
SESSION, NO_REFRESH, INVENIO = "flask-session", "flask-session-no-refresh", "invenio"
OURS, NO_CLIENT, NEAR_CACHE = "ours", "ours-no-client", "ours-near-cache"

LABELS: t.Final = {
    BARE: "bare Flask",
    BARE_GET: "bare Flask + one redis-py GET",
    SIGNED: "Flask's signed cookie",
    SESSION: "Flask-Session",
    NO_REFRESH: "Flask-Session, no refresh",
    INVENIO: "Flask-KVSession-Invenio",
    OURS: "Flask-KVSession-Redis",
    NO_CLIENT: "Flask-KVSession-Redis, without address and user agent",
    NEAR_CACHE: "Flask-KVSession-Redis, near cache",
}

STORED = (SESSION, NO_REFRESH, INVENIO, OURS)
SESSIONS = (SIGNED, *STORED)
READERS = (BARE_GET, *SESSIONS, NEAR_CACHE)
SIZED = (*STORED, NO_CLIENT)
"""The contestants whose sessions are measured in the server."""

LITTLE, MANY, HUGE = 2, 21, 200
"""The number of keys in a session."""

Cookie = t.Literal["own", "none", "junk", "unknown"]


@dataclass(frozen=True)
class Case:
    """One kind of request.

    `answer` is the body of the response, if it is always the same. `keys` is the number of keys in
    the session, and `sessions` the number of sessions that the user has. `once`: the request ends
    the session, so each request needs a browser of its own. `batch` is the number of requests in
    one turn.
    """

    name: str
    title: str
    method: str
    path: str
    contestants: tuple[str, ...] = SESSIONS
    answer: str | None = None
    keys: int = LITTLE
    sessions: int = 1
    cookie: Cookie = "own"
    once: bool = False
    batch: int = 100


CASES: t.Final = {
    case.name: case
    for case in (
        Case(
            "untouched",
            "A page that does not touch the session, for a browser that is signed in",
            "GET",
            "/untouched",
            (BARE, *SESSIONS),
        ),
        Case("read", "Read one of 2 keys", "GET", "/read", READERS, "reader"),
        Case(
            "read-21",
            "Read one of 21 keys",
            "GET",
            "/read",
            READERS,
            "reader",
            keys=MANY,
        ),
        # A browser accepts no signed cookie of this size.
        Case("read-200", "Read one of 200 keys", "GET", "/read", STORED, "reader", keys=HUGE),
        Case("write", "Write one of 2 keys", "POST", "/write", (*SESSIONS, NEAR_CACHE)),
        Case("write-21", "Write one of 21 keys", "POST", "/write", keys=MANY),
        Case("login", "Login with 2 keys", "POST", "/login", cookie="none"),
        Case("login-21", "Login with 21 keys", "POST", "/login", keys=MANY, cookie="none"),
        Case("logout", "Logout", "POST", "/logout", once=True, batch=50),
        Case(
            "junk",
            "Read with a cookie that is no token",
            "GET",
            "/read",
            answer="None",
            cookie="junk",
        ),
        Case(
            "unknown",
            "Read after the session has ended",
            "GET",
            "/read",
            STORED,
            "None",
            cookie="unknown",
        ),
        Case(
            "list-10", "List 10 sessions", "GET", "/sessions", (OURS,), "10", sessions=10, batch=50
        ),
        Case(
            "list-100",
            "List 100 sessions",
            "GET",
            "/sessions",
            (OURS,),
            "100",
            sessions=100,
            batch=10,
        ),
        Case(
            "revoke-100",
            "Revoke all of 100 sessions",
            "POST",
            "/revoke",
            (OURS,),
            sessions=100,
            once=True,
            batch=2,
        ),
        Case(
            "revoke-1000",
            "Revoke all of 1,000 sessions",
            "POST",
            "/revoke",
            (OURS,),
            sessions=1000,
            once=True,
            batch=1,
        ),
    )
}


def session_data(keys: int) -> dict[str, t.Any]:
    """What an app keeps in a session, with this number of keys. All contestants can store it."""
    data: dict[str, t.Any] = {"role": "reader", "email": "ada@example.com"}
    kinds: tuple[t.Any, ...] = (
        "2026-01-01T09:30:00Z",
        1234,
        True,
        ["news", "sport"],
        "ada lovelace",
    )
    for number in range(keys - len(data)):
        data[f"setting_{number}"] = kinds[number % len(kinds)]
    return data
