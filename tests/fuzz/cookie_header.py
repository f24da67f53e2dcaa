"""Fuzz target: the reader of the Cookie header."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from flask import Flask
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from flask_kvsession.cookie import PresentedTokens

from ..support.apps import state_of, store_of
from ..support.browsers import anonymous_token_of, unknown_token, user_token_of
from .site import make_app, request_environ, send

MODES: dict[bytes, tuple[dict[str, object], str, str]] = {
    b"h": ({}, "kvsession", "kvsession-anonymous"),
    b"s": ({"KVSESSION_COOKIE_SECURE": True}, "__Host-kvsession", "__Host-kvsession-anonymous"),
    b"f": ({"KVSESSION_AS_FLASK_SESSION": True}, "session", "session"),
}
"""For the first byte of the data: the config, and the names of the two cookies."""

SEEDS = [
    *(b"h", b"h;", b"h=", b"hkvsession", b"hkvsession=", b"h={ada}", b"hkvsession={ada}"),
    *(b"s__Host-kvsession={ada}", b"s\xa0__Host-kvsession={ada}", b"skvsession={ada}"),
    b"fsession={ada}; session={visitor}",
    b"hkvsession={ada}; kvsession={bob}",
    b"hkvsession={ada}; kvsession={ada}; kvsession=",
    b"hkvsession-anonymous={ada}; kvsession={ada}",
    b"hkvsession={visitor}; kvsession-anonymous={visitor}",
    b"h" + b"; ".join(b"kvsession={unknown%d}" % n for n in range(5)) + b"; kvsession={ada}",
    b'htheme="x; kvsession={ada}; zz=y"',
    b'hkvsession="{ada}"; a=b',
    b'hkvsession=""{ada}""',
    b'hkvsession="{ada}; kvsession={ada}"',
    b'hkvsession="\\141{ada}"',
    b"h =kvsession={ada}",
    b"h\tkvsession\t=\t{ada}\t",
    b"hkvsession={ada}\n; kvsession={ada}\x00",
    b"hkvsession=\xff\xfe{ada}, kvsession={ada}",
    b"hkvsession=" + b"A" * 62 + b"; kvsession=*?{x}../:",
    b"hKVSESSION={ada}; $Version=1; $Path=/",
    b"hkvsession=eyJ1c2VyX2lkIjoiYWRhIn0.aaaa.bbbb",
    b"h" + b"kvsession=junk; " * 1000,
]


class Site:
    """An app with the sessions of two users and of one anonymous browser."""

    def __init__(self, config: dict[str, object], name: str, anonymous_name: str) -> None:
        self.app, self.name, self.anonymous_name = make_app(**config), name, anonymous_name
        ada, bob, visitor = (self.app.test_client() for _ in range(3))
        https = "https://localhost"
        ada.post("/login/ada", base_url=https)
        bob.post("/login/bob", base_url=https)
        visitor.post("/data", json={"cart": 1}, base_url=https)
        anonymous = user_token_of(visitor, name) or anonymous_token_of(visitor, name)
        self.tokens = {"visitor": str(anonymous)}
        self.tokens |= {f"unknown{number}": unknown_token() for number in range(5)}
        for user, browser in {"ada": ada, "bob": bob}.items():
            self.tokens[user] = str(user_token_of(browser, name))


@cache
def site(mode: bytes) -> Site:
    return Site(*MODES[mode])


def fuzz_cookie_header(data: bytes) -> None:
    """The first byte chooses an app. The rest is the Cookie header, in which `{ada}` and the like
    stand for tokens."""
    ours = site(data[:1] if data[:1] in MODES else b"h")
    header = data[1:]
    for who, token in ours.tokens.items():
        header = header.replace(b"{%s}" % who.encode(), token.encode())
    cookies = cookies_by_pattern(header, ours.name, ours.anonymous_name)
    tokens = list(dict.fromkeys(token for _, token in cookies))[:4]
    user_tokens = [t for t in tokens if (ours.name, t) in cookies]

    found = tokens_read(ours.app, header)
    assert [str(token) for token in found.user] == user_tokens
    assert {str(token) for token in [*found.user, *found.anonymous]} == set(tokens)

    users = {user for user in ("ada", "bob") if ours.tokens[user] in user_tokens}
    with session_ids_looked_up(ours.app) as looked_up:
        status, body, _ = send(ours.app, environ("/me", header))
    assert looked_up <= {token[:19] for token in tokens}
    assert status == (200 if len(users) == 1 else 401)
    assert all(f'"user":"{user}"' in body.replace(" ", "") for user in users if status == 200)

    status, body, headers = send(ours.app, environ("/data", header))
    assert status == 200
    assert "Set-Cookie" not in headers
    is_visitor = not users and ours.tokens["visitor"] in tokens
    assert body.strip() == ('{"cart":1}' if is_visitor else "{}")


def cookies_by_pattern(header: bytes, *names: str) -> list[tuple[str, str]]:
    """The names and values of the cookies that have one of these names and the form of a token. The
    package splits the header; this searches it."""
    name = "|".join(map(re.escape, names))
    pattern = rf'(?:\A|;)[ \t]*({name})[ \t]*=[ \t]*("?)([A-Za-z0-9_-]{{62}})\2[ \t]*(?=;|\Z)'
    found = re.finditer(pattern.encode(), header)
    return [(match[1].decode(), match[3].decode()) for match in found]


def environ(path: str, header: bytes) -> dict[str, object]:
    return request_environ(path) | {"HTTP_COOKIE": header.decode("latin-1")}


def tokens_read(app: Flask, header: bytes) -> PresentedTokens:
    environ = EnvironBuilder().get_environ() | {"HTTP_COOKIE": header.decode("latin-1")}
    return state_of(app).cookie.tokens_in(Request(environ))


@contextmanager
def session_ids_looked_up(app: Flask) -> Iterator[set[str]]:
    """The ids of the sessions that the block asks the server for, with at most four reads."""
    server, looked_up = store_of(app)._server, list[str]()
    real, found = server._call, set[str]()

    def call(command: tuple[object, ...], *args: t.Any, **options: t.Any) -> t.Any:
        assert command[0] == "GET", command
        looked_up.append(str(command[1]))
        return real(command, *args, **options)

    server._call = call  # type: ignore[method-assign]
    try:
        yield found
    finally:
        server._call = real  # type: ignore[method-assign]
    for key in looked_up:
        match = re.fullmatch(r"kvs:\{([A-Za-z0-9_-]{3})\}:s:([A-Za-z0-9_-]{16})", key)
        assert match, key
        found.add(match[1] + match[2])
    assert len(looked_up) <= 4
