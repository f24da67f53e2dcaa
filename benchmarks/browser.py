"""A browser that calls an app through WSGI. It keeps cookies, and makes requests in advance."""

from __future__ import annotations

import io
import itertools
import sys
import typing as t
from dataclasses import dataclass, field

Environ = dict[str, t.Any]
WsgiApp = t.Any
"""An app of Flask, as a WSGI server calls it."""

_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_values = itertools.count(1)


@dataclass
class Browser:
    """A browser of one user, whose sessions have this number of keys."""

    app: WsgiApp
    user: str
    keys: int
    cookies: dict[str, str] = field(default_factory=dict)

    def environ(self, method: str, path: str) -> Environ:
        """A request of this browser, ready to be sent. A write sends a value of its own."""
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "app.example",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "192.0.2.7",
            "HTTP_HOST": "app.example",
            "HTTP_USER_AGENT": _AGENT,
            "HTTP_ACCEPT": "text/html,application/xhtml+xml,*/*;q=0.8",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "benchmark.user": self.user,
            "benchmark.keys": self.keys,
            "benchmark.value": f"ada+{next(_values)}@example.com",
        }
        if self.cookies:
            environ["HTTP_COOKIE"] = self.cookie_header
        return environ

    @property
    def cookie_header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def send(self, method: str, path: str) -> str:
        """Sends a request, keeps the cookies of the response and returns its body. Raises
        `RuntimeError` unless the status is 200."""
        answers: list[tuple[str, list[tuple[str, str]]]] = []
        body = call(self.app, self.environ(method, path), lambda *answer: answers.append(answer))
        status, headers = answers[0]
        if not status.startswith("200"):
            raise RuntimeError(f"{method} {path}: {status}")
        for name, line in headers:
            if name.lower() == "set-cookie":
                cookie, _, value = line.partition(";")[0].partition("=")
                self.cookies[cookie] = value
        return body.decode()


def call(app: WsgiApp, environ: Environ, start_response: t.Any) -> bytes:
    """Calls the app and takes the whole response, as a WSGI server does."""
    parts = app(environ, start_response)
    body = b"".join(parts)
    if hasattr(parts, "close"):
        parts.close()
    return body
