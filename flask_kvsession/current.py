"""The `RequestSession` of the current request.

It is created at the first touch of the session, and is an attribute of the request object, not of
`flask.g`: one `g` can serve several requests.
"""

from __future__ import annotations

import typing as t

from flask import globals as flask_globals
from flask import has_request_context, request

from .app_state import app_state
from .request import RequestSession

if t.TYPE_CHECKING:
    from contextvars import ContextVar

    from flask import Flask
    from flask.wrappers import Request, Response

    from .session import Session

_ATTRIBUTE = "_kvsession"
_IS_OVER = "_kvsession_is_over"
"""The attribute of a request that has ended without touching its session."""

# In Flask 3.1 a request has a context of its own. From Flask 3.2 on, the app context holds it.
_request_context: t.Any = vars(flask_globals).get("request_ctx", flask_globals.app_ctx)

# The context variable behind the proxy: each step through the proxy costs four calls more.
_context_variable: ContextVar[t.Any] = _request_context.__wrapped__


def _context() -> t.Any:
    """The current request's context; raises `RuntimeError` outside a request."""
    context = _context_variable.get(None)
    return _request_context._get_current_object() if context is None else context


def get_request() -> Request:
    """The current request itself, not the proxy; raises `RuntimeError` outside a request."""
    this: Request = _context().request
    return this


def request_session() -> RequestSession:
    """The current request's session; raises `RuntimeError` outside a request.

    It belongs to the app that handles the request, also inside another app's context.
    """
    context = _context()
    return request_session_of(context.app, context.request)


def session_of_request() -> Session:
    """The mapping of the current request's session."""
    context = _context()
    found: RequestSession | None = vars(context.request).get(_ATTRIBUTE)
    return (found or request_session_of(context.app, context.request)).session


def request_session_of(app: Flask, request: Request) -> RequestSession:
    """This request's session, created at the first call."""
    found: RequestSession | None = vars(request).get(_ATTRIBUTE)
    if found is None:
        state = app_state(app)
        new = state.request_session_class(state, request)
        if hasattr(request, _IS_OVER):
            new.close()
        # setdefault is atomic: if threads of one request call this at once, all get one object.
        found = vars(request).setdefault(_ATTRIBUTE, new)
    return found


def is_current(session: Session) -> bool:
    """Whether this is the session of the current request, if there is one."""
    found = getattr(request, _ATTRIBUTE, None) if has_request_context() else None
    return found is not None and found.session is session


def finish_request(response: Response) -> Response:
    """Commits the current request's session, if the request has touched it; an `after_request`
    function."""
    this = get_request()
    touched: RequestSession | None = vars(this).get(_ATTRIBUTE)
    if touched is not None:
        return touched.finish(response)
    setattr(this, _IS_OVER, True)  # a later change of the session raises
    return response
