"""Fuzz target: `next_url` and the `next` that a guard writes, judged by a browser's URL parser."""

from __future__ import annotations

import re
from functools import cache
from urllib.parse import urlencode

from ada_url import URL
from flask import Flask, redirect
from werkzeug.test import EnvironBuilder

import flask_kvsession as kvs

from .site import make_app, request_environ, send

SITE = "https://app.example"
PAGES = ["/x/y", "/", "//x", "/after?next=/a"]
"""Pages of the site on which a browser may follow the URL."""

ORDINARY = re.compile(
    r"/(?:[a-z0-9_~-][a-z0-9._~-]*(?:/[a-z0-9_~-][a-z0-9._~-]*)*/?)?"
    r"(?:\?[a-z0-9=&%/._~-]*)?(?:#[a-z0-9=&%/._~-]*)?"
)
"""Paths that every app has. `next_url` must accept them."""

SEEDS = [
    *(b"/", b"/ok?u=//evil", b"/a/b?c=d#e", b"/dashboard", b"", b" ", b"dashboard", b"?a", b"#a"),
    *(b"//evil", b"/\\evil", b"\\\\evil", b"///evil", b"https:evil", b"http:///evil", b"/\t/evil"),
    *(b" //evil", b"javascript:alert(1)", b"https://app@evil", b"http://[::1", b"/\r\n/evil"),
    *(b"/.//evil", b"/..//evil", b"/%2e//evil", b"/a/..//evil", b"/a/.%2E//evil", b"/a/.. //evil"),
    *(
        b"/.\xe2\x80\x8b//evil",
        b"/\x00/evil",
        b"/\x7f/evil",
        b"/\xc2\x85/evil",
        b"\xef\xbb\xbf//evil",
    ),
    *(b"/\xef\xbc\x8fevil", b"/%5Cevil", b"/%2F%2Fevil", b"/;//evil", b"/a?b#//evil", b"/@evil"),
    *(b"/%09/evil", b"/./.", b"/.. ", b"/..#", b"/..?//evil", b"/.//?#", b"/a//..//../..//evil"),
    *(b"/.//evil#/../../a", b"/.//evil?/../../a", b"/..//evil?#/../..", b"/.//evil/b#/../../.."),
    b"/" + b"x" * 20_000,
    b"/\xff\xfe",
    b"/a\r\nSet-Cookie: a=b",
    b"https://app.example/x",
]


@cache
def app() -> Flask:
    app = make_app(KVSESSION_LOGIN_VIEW="untouched", KVSESSION_PROTECTED_PATHS=("/*",))

    @app.get("/<path:path>")
    def page(path: str) -> str:
        return path

    return app


def fuzz_next_url(data: bytes) -> None:
    """The data are the parameter `next` in UTF-8, and the path and query of a guarded page."""
    text = data.decode("utf-8", "replace")
    chosen = next_by_form(text)
    assert chosen in (text, "/default")
    assert chosen == text or len(text) > 2048 or not ORDINARY.fullmatch(text), "it is refused"
    environ = environ_of_next(text) | {"PATH_INFO": "/after"}
    with app().request_context(environ):
        location = redirect(kvs.next_url("/default")).headers["Location"]
    for url in (chosen, location):
        assert_stays(url)
    check_guard(data)


def check_guard(data: bytes) -> None:
    """A guard redirects to the sign-in page, with a `next` that `next_url` accepts or with none."""
    path, _, query = data.decode("latin-1").partition("?")
    environ = request_environ("/") | {"HTTP_ACCEPT": "text/html"}
    status, _, headers = send(app(), environ | {"PATH_INFO": "/" + path, "QUERY_STRING": query})
    assert status in (302, 308, 401, 404), status
    if status == 302:
        assert_stays(headers["Location"])
        wanted = URL(headers["Location"], base=SITE).search
        with app().request_context(EnvironBuilder("/after" + wanted).get_environ()):
            assert_stays(chosen := kvs.next_url("/default"))
            assert chosen != "/default" or wanted in ("", "?next=/default")


def next_by_form(text: str) -> str:
    with app().request_context(environ_of_next(text)):
        return kvs.next_url("/default")


def environ_of_next(text: str) -> dict[str, object]:
    kind = "application/x-www-form-urlencoded"
    body = urlencode({"next": text}).encode()
    return request_environ("/untouched", "POST", data=body, content_type=kind)


def assert_stays(url: str) -> None:
    """A browser that follows the URL, or the path of the page that it gets, stays on the site."""
    for page in PAGES:
        there = URL(url, base=SITE + page)
        assert there.origin == SITE, (url, there.href)
        again = URL(there.pathname, base=there.href)
        assert again.origin == SITE, (url, there.pathname)
