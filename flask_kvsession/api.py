"""The verbs that a view speaks. Each is thin: the request's session and the store do the work."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Mapping
from enum import Enum

from flask import has_request_context
from werkzeug.local import LocalProxy

from . import signals
from .record import SessionInfo
from .request import request_state
from .session import Session
from .state import app_state
from .token import UserId


class _Whose(Enum):
    CURRENT_USER = "the current session's user"


_CURRENT_USER = _Whose.CURRENT_USER

current_session: Session = t.cast(Session, LocalProxy(lambda: request_state().session))
"""This request's session, the same object as `g.session`; works in every hook of a request."""


def login_user(
    user_id: UserId, data: Mapping[str, t.Any] | None = None, *, remember: bool = True
) -> Session:
    """Begins a session for this user, at once, and sets its cookie; returns it.

    Whatever session there was ends. A visitor's data are carried over, with `data` on top; a
    user's never. With `remember=False` the cookie ends with the browser and the idle timeout is
    `KVSESSION_UNREMEMBERED_TIMEOUT`. Beyond `KVSESSION_MAX_SESSIONS_PER_USER` the user's least
    recently used sessions are revoked (OWASP ASVS 5.0, 7.2.4 and 7.1.2).

    Raises `ValueError` for what is no user id, `UnstorableValue`, `SessionTooLarge`, and
    `StoreUnavailable` if the login could not be done; nobody is signed in then.
    """
    state = request_state()
    state.require_own("login_user")
    state.login(user_id, data or {}, bool(remember))
    return state.session


def logout_user() -> None:
    """Ends this browser's session at once and clears its cookie; `current_session` is then a
    visitor's, empty. Without a session it only clears the cookie (OWASP ASVS 5.0, 7.4.1)."""
    state = request_state()
    state.require_own("logout_user")
    state.logout()


def confirm_login() -> None:
    """Says that the user has just proved again who they are: the session is fresh, and has a new
    secret, at once. Raises `LoginRequired` for a visitor (OWASP ASVS 5.0, 7.2.4)."""
    request_state().confirm()


def rotate_token() -> None:
    """Gives the session a new secret at once, say after a change of rights; the old cookie is then
    worthless. Does nothing for a visitor without a session."""
    request_state().rotate()


def list_sessions(
    user_id: UserId | t.Literal[_Whose.CURRENT_USER] = _CURRENT_USER,
) -> list[SessionInfo]:
    """The sessions of this user, newest activity first; empty if there are none.

    Left out, `user_id` means who is signed in; raises `LoginRequired` for a visitor.
    """
    user, current, store = _user(user_id), _current_id(), app_state().store
    return [store.info(found, is_current=found.id == current) for found in store.sessions_of(user)]


def revoke_session(
    session_id: str, user_id: UserId | t.Literal[_Whose.CURRENT_USER] = _CURRENT_USER
) -> bool:
    """Ends one session of this user from outside; False if the user has no such session, be it
    another's or nobody's. Revoking the current one clears its cookie and drops pending changes;
    what is written after that makes a visitor's session."""
    user, current = _user(user_id), _current_id()
    ended = app_state().store.revoke_one(user, session_id)
    _after_revocation([ended] if ended else [], current)
    return ended is not None


def revoke_all_sessions(
    user_id: UserId | t.Literal[_Whose.CURRENT_USER] = _CURRENT_USER,
    *,
    except_current: bool = False,
) -> int:
    """Ends all sessions of this user from outside, or all but the current one; returns how many
    (OWASP ASVS 5.0, 7.4.2 and 7.4.3)."""
    user, current = _user(user_id), _current_id()
    ended = app_state().store.revoke_all(user, spare=current if except_current else None)
    _after_revocation(ended, current)
    return len(ended)


def update_all_sessions(
    user_id: UserId, changes: Mapping[str, t.Any], *, remove: Iterable[str] = ()
) -> int:
    """Changes data in all of a user's sessions, say because a role was taken away; returns how
    many. Each session's next request sees it, and of the current one too only the next (OWASP
    ASVS 5.0, 8.3.2)."""
    if isinstance(remove, str | bytes):
        raise TypeError("remove takes several keys, such as ['role'], not one.")
    return app_state().store.update_all(user_id, changes, remove)


def _user(user_id: UserId | t.Literal[_Whose.CURRENT_USER]) -> UserId:
    return request_state().require_user() if user_id is _CURRENT_USER else user_id


def _current_id() -> str | None:
    """The id of this request's session; None outside a request. Raises `StoreUnavailable` where
    the request could not tell: "all but the current one" would then be all."""
    if not has_request_context():
        return None
    session = request_state().session
    session.require()
    return session.id


def _after_revocation(ended: list[SessionInfo], current: str | None) -> None:
    if any(info.id == current for info in ended):
        request_state().forget()
    for info in ended:
        app_state().announce(signals.session_revoked, info)
