"""The blueprint with the two URLs that browsers call, and the answer to them.

By the draft, a browser ends a binding when it gets a 4xx other than 403, 407 and 429. So nothing of
the app may answer here: no guard, no check of a CSRF token, no error handler. `answer` is called by
the first `before_request` function of the app, and its response ends the request for all others.
"""

from __future__ import annotations

import logging
import typing as t

from flask import Blueprint, current_app, request
from werkzeug.exceptions import NotFound

from ..errors import StoreUnavailable

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Response

log: logging.Logger = logging.getLogger("flask_kvsession")

device_bound_blueprint: Blueprint = Blueprint(
    "kvsession_device_bound", __name__, url_prefix="/device-bound"
)


@device_bound_blueprint.post("/register", endpoint="register")
@device_bound_blueprint.post("/refresh", endpoint="refresh")
def not_offered() -> t.NoReturn:
    """Answer 404, with which a browser ends its binding. It is called only if
    `KVSESSION_DEVICE_BOUND` is False: with `"offer"`, `answer` answers before."""
    raise NotFound


def endpoint_of(app: Flask, name: str) -> str | None:
    """The endpoint with which the app has registered one of the URLs; None if it has not."""
    return next(
        (
            endpoint
            for endpoint, view in app.view_functions.items()
            if view is not_offered and endpoint.rpartition(".")[2] == name
        ),
        None,
    )


def answer() -> Response | None:
    """The answer to a browser's registration or refresh; None for any other request.

    Whatever fails, the answer is 503, after which the binding lives on.
    """
    endpoint = request.endpoint
    if endpoint is None or request.method != "POST":
        return None
    if current_app.view_functions.get(endpoint) is not not_offered:
        return None
    from . import endpoints  # needs the extra

    try:
        response: Response = getattr(endpoints, endpoint.rpartition(".")[2])()
    except StoreUnavailable as failure:
        response = current_app.make_response(failure.get_response(request.environ))
    except Exception:
        log.exception("a device could not be answered")
        response = current_app.make_response(StoreUnavailable().get_response(request.environ))
    response.headers["Cache-Control"] = "no-store"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return response
