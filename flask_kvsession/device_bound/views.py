"""The blueprint with the two URLs that browsers call, and the answer to them.

The draft says that a browser ends a binding when it gets a 4xx other than 403, 407 and 429. And a
registration whose answer is lost signs the user out. So nothing of the app may change an answer: no
guard, no check of a CSRF token, no hook, no error handler. An app with the blueprint answers these
requests in `full_dispatch_request`, before Flask calls any function of the app.
"""

from __future__ import annotations

import logging
import typing as t

from flask import Blueprint, current_app, request

from ..errors import StoreUnavailable

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.sansio.blueprints import BlueprintSetupState
    from flask.wrappers import Response

log: logging.Logger = logging.getLogger("flask_kvsession")

_ENDPOINTS = "kvsession.device_endpoints"
"""The key in `app.extensions` of the endpoints of the blueprint, each with what it does."""

device_bound_blueprint: Blueprint = Blueprint(
    "kvsession_device_bound", __name__, url_prefix="/device-bound"
)


@device_bound_blueprint.post("/register", endpoint="register")
@device_bound_blueprint.post("/refresh", endpoint="refresh")
def answer() -> Response:
    """Answer a registration or a refresh. Whatever fails, the answer is 503, after which the
    binding lives on."""
    name = device_endpoints(current_app)[t.cast(str, request.endpoint)]
    try:
        from . import endpoints  # needs the extra

        response: Response = getattr(endpoints, name)()
    except StoreUnavailable as failure:
        response = current_app.make_response(failure.get_response(request.environ))
    except Exception:
        log.exception("a device could not be answered; it needs the extra [device-bound]")
        response = current_app.make_response(StoreUnavailable().get_response(request.environ))
    response.headers["Cache-Control"] = "no-store"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


def device_endpoints(app: Flask) -> dict[str, str]:
    """The endpoints of the blueprint in this app: `register` and `refresh`, once for each time that
    it was registered."""
    found: dict[str, str] = app.extensions.setdefault(_ENDPOINTS, {})
    return found


@device_bound_blueprint.record
def _answer_first(setup: BlueprintSetupState) -> None:
    app = t.cast("Flask", setup.app)
    found, prefix = device_endpoints(app), f"{setup.name_prefix}.{setup.name}".lstrip(".")
    if not found:
        dispatch: t.Any = app.full_dispatch_request

        def full_dispatch_request(*context: t.Any) -> t.Any:  # Flask 3.2 passes the context
            is_ours = request.endpoint in found and request.method == "POST"
            return answer() if is_ours else dispatch(*context)

        # mypy: Flask means subclasses to replace it, but the app is the user's own object.
        app.full_dispatch_request = full_dispatch_request  # type: ignore[method-assign]
    found.update({f"{prefix}.{name}": name for name in ("register", "refresh")})
