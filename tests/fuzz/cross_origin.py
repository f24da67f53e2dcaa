"""Fuzz target: `cross_origin_guard`, judged by a table over parts that a browser's URL parser has
read."""

from __future__ import annotations

import re
from functools import cache

from ada_url import URL
from flask import Flask, Response
from werkzeug.middleware.proxy_fix import ProxyFix

import flask_kvsession as kvs

from .site import make_app, request_environ, send

KINDS: dict[str, tuple[str, ...]] = {
    "0": (),
    "1": ("https://partner.example",),
    "2": ("https://partner.example:8443", "http://[::1]:3000"),
    "o": (),
    "p": (),
}
"""For the first line of the data: the trusted origins. `o`: the view handles OPTIONS itself. `p`:
the app is behind a proxy."""

FIELDS = ["REQUEST_METHOD", "HTTP_HOST", "HTTP_ORIGIN", "HTTP_SEC_FETCH_SITE"]
FIELDS += ["HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO", "HTTP_REFERER", "wsgi.url_scheme"]
ABSENT = "-"
ORDINARY_HOST = re.compile(r"[a-z0-9]{1,20}(?:\.[a-z][a-z0-9]{0,20}){0,4}(?::[1-9][0-9]{0,3})?")
WEB = ("http", "https")
HANDLED = "/handled"
"""A path whose view handles OPTIONS itself. At the other path Flask answers OPTIONS."""

HOSTS = [
    *("app.example", "app.example:8443", "app.example:80", "app.example:443", "evil.example"),
    *("[::1]:3000", "127.0.0.1:5000", "APP.example", "a@evil", "", ABSENT),
]
ORIGINS = [
    *(f"{scheme}://{host}" for scheme in ("http", "https") for host in HOSTS[:-1]),
    *("https://evil-app.example", "https://evil.app.example", "https://app.example.evil", "null"),
    *("https://partner.example", "https://partner.example:8443", "https://partner.example:84"),
    *("https://app.example@evil", "https://evil@app.example", "https://app.example/", ABSENT),
    *("https://app.example\\@evil", "ftp://app.example", "//app.example", "app.example", ""),
]
CHOICES = [
    [*KINDS],
    ["POST", "PUT", "PATCH", "DELETE", "GET", "HEAD", "OPTIONS", "TRACE", "post"],
    HOSTS,
    ORIGINS,
    [
        "same-origin",
        "none",
        "same-site",
        "cross-site",
        "unknown",
        "Same-Origin",
        "",
        ABSENT,
        ABSENT,
    ],
    HOSTS + [f"evil.example, {host}" for host in HOSTS[:3]],
    ["http", "https", ABSENT],
    ["https://app.example/", "https://evil.example/", ABSENT],
    ["http", "https"],
]
"""What a property test chooses each line of the data from."""

SEEDS = [
    "\n".join(lines).encode()
    for lines in [
        ["0", "POST", "app.example", "https://app.example", "same-origin", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "https://app.example", "-", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "https://app.example", "-", "-", "-", "-", "http"],
        ["0", "POST", "app.example:443", "https://app.example", "-", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "https://evil.example", "-", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "https://evil.example", "none", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "https://app.example", "cross-site", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "https://app.example", "", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "https://evil-app.example", "-", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "https://app.example.evil", "-", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "https://app.example:8443", "-", "-", "-", "-", "https"],
        ["0", "POST", "app.example:8443", "https://app.example", "-", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "null", "-", "-", "-", "-", "https"],
        ["0", "POST", "", "null", "-", "-", "-", "-", "https"],
        ["0", "POST", "-", "http://localhost", "-", "-", "-", "-", "http"],
        ["0", "POST", "app.example", "-", "same-site", "-", "-", "-", "https"],
        ["0", "POST", "app.example", "-", "-", "-", "-", "https://evil.example/", "https"],
        [
            "1",
            "POST",
            "app.example",
            "https://partner.example",
            "cross-site",
            "-",
            "-",
            "-",
            "https",
        ],
        ["1", "POST", "app.example", "https://partner.example:443", "-", "-", "-", "-", "https"],
        ["2", "PUT", "app.example", "http://[::1]:3000", "same-site", "-", "-", "-", "https"],
        ["2", "POST", "[::1]:3000", "http://[::1]:3000", "-", "-", "-", "-", "http"],
        ["0", "GET", "app.example", "https://evil.example", "cross-site", "-", "-", "-", "https"],
        [
            "0",
            "OPTIONS",
            "app.example",
            "https://evil.example",
            "cross-site",
            "-",
            "-",
            "-",
            "http",
        ],
        [
            "o",
            "OPTIONS",
            "app.example",
            "https://evil.example",
            "cross-site",
            "-",
            "-",
            "-",
            "http",
        ],
        [
            "0",
            "POST",
            "in.example",
            "https://app.example",
            "-",
            "app.example",
            "https",
            "-",
            "http",
        ],
        [
            "p",
            "POST",
            "in.example",
            "https://app.example",
            "-",
            "app.example",
            "https",
            "-",
            "http",
        ],
        [
            "p",
            "POST",
            "a.example",
            "https://a.example",
            "-",
            "a.example, b.example",
            "-",
            "-",
            "http",
        ],
        ["0", "POST", "app.example", "http://app.example@evil", "-", "-", "-", "-", "http"],
        ["0", "POST", "a@evil", "http://a@evil", "-", "-", "-", "-", "http"],
        ["0", "POST", "app.example", "http://app.example\\@evil", "-", "-", "-", "-", "http"],
        ["0", "POST", "app.example/x", "http://app.example/x", "-", "-", "-", "-", "http"],
        ["0", "POST", "\xe9.example", "http://\xe9.example", "-", "-", "-", "-", "http"],
        ["0", "POST", "[", "http://[", "-", "-", "-", "-", "http"],
        ["0", "GEt", "app.example", "https://evil.example", "cross-site", "-", "-", "-", "https"],
        ["0", "post", "APP.example", "http://app.example", "-", "-", "-", "-", "http"],
    ]
]


@cache
def app(kind: str) -> Flask:
    app = make_app(KVSESSION_TRUSTED_ORIGINS=KINDS[kind])
    app.url_map.strict_slashes = False
    app.before_request(kvs.cross_origin_guard)
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "post", "TRACE"]

    def view() -> Response:
        return Response("the view")

    app.add_url_rule("/guarded", "guarded", view, methods=methods)
    app.add_url_rule(HANDLED, "handled", view, methods=[*methods, "OPTIONS"])
    if kind == "p":
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=0, x_proto=1, x_host=1)  # type: ignore[method-assign]
    return app


def fuzz_cross_origin_guard(data: bytes) -> None:
    """Each line of the data is a field of the request; the first one chooses the app and the path.
    `-` is an absent field."""
    kind, *lines = data.decode("latin-1").split("\n")
    kind = kind if kind in KINDS else "0"
    given = dict(zip(FIELDS, lines, strict=False))
    given = {name: text for name, text in given.items() if text != ABSENT}
    given["wsgi.url_scheme"] = "https" if given.get("wsgi.url_scheme") == "https" else "http"
    path = HANDLED if kind == "o" else "/guarded"
    environ = request_environ(path, "POST")
    environ.pop("HTTP_HOST")
    status, body, _ = send(app(kind), environ | given)
    method = given.get("REQUEST_METHOD", "POST").upper()  # so Werkzeug reads and routes it
    if status == 405:
        return  # no view has this method
    if status == 400:
        assert not ORDINARY_HOST.fullmatch(requested_host(kind, given)), "Werkzeug refuses the host"
        return
    assert status in (200, 403), status
    if method == "OPTIONS" and path != HANDLED:
        assert body != "the view", "Flask answers it, and no view runs"
        assert status == 200 or not ORDINARY_HOST.fullmatch(requested_host(kind, given))
        return
    verdict = decide(kind, method, given)
    assert verdict is None or (status == 200) == verdict, (status, verdict, given)


def decide(kind: str, method: str, given: dict[str, str]) -> bool | None:
    """Whether the request passes, by the text of "Cross-site requests". None: both are safe."""
    if method in ("GET", "HEAD"):
        return True
    origin, site = given.get("HTTP_ORIGIN"), given.get("HTTP_SEC_FETCH_SITE", "")
    if site in ("same-origin", "none"):
        return True
    if origin in KINDS[kind]:
        return True
    if site:
        return False
    if origin is None:
        return True
    return is_same_host(kind, origin, given)


def is_same_host(kind: str, origin: str, given: dict[str, str]) -> bool | None:
    """Whether the origin's host and port are those of the request. None if they are, but no browser
    writes the origin or the host so: both answers are safe."""
    scheme, host = given["wsgi.url_scheme"], requested_host(kind, given)
    if kind == "p":
        scheme = last(given.get("HTTP_X_FORWARDED_PROTO")) or scheme
    there = parsed(origin)
    if there is None or there.host == "":
        return False
    ours = [parsed(f"{each}//{host}/") for each in (there.protocol, f"{scheme}:")]
    if there.host not in {url.host for url in ours if url}:
        return False
    is_usual = there.origin == origin == f"{there.protocol}//{host}" and scheme in WEB
    # Werkzeug takes a host without a default port, and the server's name and port without Host. So
    # an origin of the other scheme may differ.
    is_exact = not host.endswith((":80", ":443")) and "HTTP_HOST" in given
    return True if is_usual and is_exact else None


def requested_host(kind: str, given: dict[str, str]) -> str:
    forwarded = last(given.get("HTTP_X_FORWARDED_HOST")) if kind == "p" else None
    return forwarded or given.get("HTTP_HOST", "localhost")


def parsed(url: str) -> URL | None:
    try:
        return URL(url)
    except ValueError:
        return None


def last(text: str | None) -> str | None:
    return text.split(",")[-1].strip(" ") if text else None
