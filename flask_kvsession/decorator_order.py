"""Finds guards that stand above a route decorator, where they guard nothing.

    @login_required     # replaces the name `page` below, which nobody calls
    @app.get("/page")   # has registered the function itself
    def page(): ...

Flask gives no sign of it, and the page is open. A guard cannot see the mistake when it is applied:
a blueprint registers its views later, and `app.add_url_rule(..., view_func=login_required(view))`
looks the same. So the first request looks at what the app has registered.
"""

from __future__ import annotations

import sys
import typing as t
import weakref
from collections.abc import Callable, Iterator
from inspect import isfunction

from flask import has_request_context

from .errors import ConfigurationError

if t.TYPE_CHECKING:
    from .app_state import AppState

View = Callable[..., t.Any]

_guarded: weakref.WeakKeyDictionary[View, weakref.ref[View]] = weakref.WeakKeyDictionary()
"""For each function that a guard was applied to, the function that the guard has returned."""


def note(view: View, guarded: View) -> None:
    """Notes that a guard has made `guarded` of `view`. In a request it is not noted: the check of
    the app is over then."""
    if not has_request_context():
        for inner in filter(isfunction, _chain(view)):
            _guarded[inner] = weakref.ref(guarded)


def require_guards_below_routes(state: AppState) -> None:
    """Raises `ConfigurationError` if the app calls a function to which a guard was applied, and the
    result of the guard is used nowhere."""
    registered = list(_registered(state))
    used = {id(function) for _, view in registered for function in _chain(view)}
    for what, view in registered:
        reference = _guarded.get(view) if isfunction(view) else None
        guarded = reference() if reference else None
        if reference and id(guarded) not in used and _is_lost(view, guarded):
            raise ConfigurationError(
                f"A guard of {view.__qualname__}() has no effect, because it stands above the"
                f" decorator of {what}, which has registered the function without the guard; put"
                " the guard below, next to the function."
            )


def _registered(state: AppState) -> Iterator[tuple[str, View]]:
    for endpoint, view in state.app.view_functions.items():
        yield f"the route {endpoint!r}", view
    for functions in state.app.before_request_funcs.values():
        for function in functions:
            yield "before_request", function


def _is_lost(view: View, guarded: View | None) -> bool:
    """Whether nothing uses the result of the guard. Otherwise another app may use it.

    In a module, the result has only replaced the name of the function. In a function such as
    `create_app`, it was freed when that function ended.
    """
    if "<locals>" in view.__qualname__:
        return guarded is None
    module = sys.modules.get(view.__module__)
    return guarded is not None and getattr(module, view.__name__, None) is guarded


def _chain(view: View) -> Iterator[View]:
    """The function, and those that its decorators have wrapped."""
    seen: set[int] = set()
    following: View | None = view
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = getattr(following, "__wrapped__", None)
