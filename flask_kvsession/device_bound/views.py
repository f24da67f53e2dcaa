"""The blueprint with the two URLs that browsers call, and the answer to them.

The draft says that a browser ends a binding when it gets a 4xx other than 403, 407 and 429. So
nothing of the app may answer here: no guard, no check of a CSRF token, no error handler. `answer`
is called by the first `before_request` function of the app. Its response ends the request for all
other functions, and `leave` gives those of `after_request` an empty session.
"""

from __future__ import annotations

import logging
import typing as t

from flask import Blueprint, current_app, request
from werkzeug.exceptions import NotFound

from ..current import request_session
from ..errors import StoreUnavailable

if t.TYPE_CHECKING:
    from flask.wrappers import Response

    from ..app_state import AppState

log: logging.Logger = logging.getLogger("flask_kvsession")

device_bound_blueprint: Blueprint = Blueprint(
    "kvsession_device_bound", __name__, url_prefix="/device-bound"
)


@device_bound_blueprint.post("/register", endpoint="register")
@device_bound_blueprint.post("/refresh", endpoint="refresh")
def not_installed() -> t.NoReturn:
    """Answer 404 in an app without the extra `[device-bound]`. With it, `answer` answers first."""
    raise NotFound


def answer(app: AppState) -> Response | None:
    """The answer to a browser's registration or refresh; None for any other request.

    Whatever fails, the answer is 503, after which the binding lives on.
    """
    name = app.device_endpoints.get(request.endpoint or "")
    if name is None or request.method != "POST":
        return None
    request_session().leave()
    from . import endpoints  # needs the extra

    try:
        response: Response = getattr(endpoints, name)()
    except StoreUnavailable as failure:
        response = current_app.make_response(failure.get_response(request.environ))
    except Exception:
        log.exception("a device could not be answered")
        response = current_app.make_response(StoreUnavailable().get_response(request.environ))
    response.headers["Cache-Control"] = "no-store"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return response
