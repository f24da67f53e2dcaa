"""Turns a finished response into the app's answer to a failure of the store."""

from __future__ import annotations

import typing as t

from flask import request
from flask.globals import app_ctx

from .errors import StoreUnavailable

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Response

REPRESENTATION_HEADERS = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
    "Content-Location",
    "Content-Range",
    "Content-Type",
    "ETag",
    "Expires",
    "Last-Modified",
    "Location",
    "Set-Cookie",
)
"""Headers that describe the replaced body (RFC 9110, 8), and cookies for a change that was not
saved."""


def answer_failure(app: Flask, response: Response, failure: StoreUnavailable) -> None:
    """Rewrites the response, in place, into the response of the app's handler for `failure`."""
    try:
        answer = _handle(app, failure)
    except StoreUnavailable:  # Flask raises it with TRAP_HTTP_EXCEPTIONS
        answer = failure.get_response(request.environ)
    _rewrite(response, app.make_response(answer))


def vary_by_cookie(response: Response) -> None:
    """Adds `Vary: Cookie`. (`response.vary.add` parses and rewrites the header, which costs a read
    of the session 5 % more.)"""
    if response.headers.getlist("Vary"):
        response.vary.add("Cookie")
    else:
        response.headers.add("Vary", "Cookie")


def forbid_storing(response: Response) -> None:
    """Makes the response `no-store`, unless the app has chosen a Cache-Control.

    `send_file` without `max_age` says `no-cache`, which nobody has chosen.
    """
    chosen = response.headers.get("Cache-Control")
    if chosen is None or (chosen == "no-cache" and response.direct_passthrough):
        response.headers["Cache-Control"] = "no-store"


def _handle(app: Flask, failure: StoreUnavailable) -> t.Any:
    """The result of the app's error handler.

    `handle_user_exception` gets the same arguments as from Flask. So every override that works in
    Flask works here too: in a subclass of either version's signature, or put on the app by an
    extension. Flask 3.2 passes the context first. `has_request` is new in its contexts.
    """
    handle: t.Any = app.handle_user_exception
    context = t.cast(t.Any, app_ctx)._get_current_object()
    if hasattr(context, "has_request"):
        return handle(context, failure)
    return handle(failure)


def _rewrite(response: Response, other: Response) -> None:
    """Makes `response` the response `other`.

    Headers that the app's hooks add to every response (CORS, CSP) stay. Headers that describe the
    previous body are removed.
    """
    close = getattr(response.response, "close", None)
    if close:
        close()
    for name in REPRESENTATION_HEADERS:
        response.headers.pop(name, None)
    response.vary.update(other.vary)
    response.status = other.status
    response.response = other.response
    response.direct_passthrough = other.direct_passthrough
    for name in {name for name, _ in other.headers if name != "Vary"}:
        response.headers.setlist(name, other.headers.getlist(name))
