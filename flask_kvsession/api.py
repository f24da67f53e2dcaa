"""The functions that a view calls. Each is thin: the session and the store do the work."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from inspect import iscoroutinefunction

from flask import has_request_context
from werkzeug.local import LocalProxy

from . import signals
from .app_state import app_state
from .current import request_session, session_of_request
from .errors import KVSessionError
from .record import SessionInfo
from .request import RequestSession
from .session import Session
from .token import UserId


class _Whose(Enum):
    CURRENT_USER = "the current session's user"


_CURRENT_USER = _Whose.CURRENT_USER


class SessionProxy(LocalProxy[Session]):
    """Stands for the session of the current request."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: t.SupportsIndex) -> t.NoReturn:
        Session.__reduce_ex__(self._get_current_object(), protocol)


current_session: Session = t.cast(Session, SessionProxy(session_of_request))
"""This request's session; `g.session` is the same object. It works wherever there is a request."""


def login_user(
    user_id: UserId,
    data: Mapping[str, t.Any] | None = None,
    *,
    remember: bool = True,
    end_at: datetime | None = None,
) -> Session:
    """Begins a session for this user, stores it at once, and sets its cookie. Returns the session.

    The browser's previous session ends. If it was anonymous, its data are carried over; `data` is
    added and takes precedence. The data of a user's session are not carried over. With
    `remember=False` the cookie ends with the browser, and the idle timeout is
    `KVSESSION_UNREMEMBERED_TIMEOUT`. At `end_at`, an aware datetime, the session ends whatever its
    activity; a timeout may end it earlier, and `confirm_login` does not move that end. If the user
    now has more than `KVSESSION_MAX_SESSIONS_PER_USER` sessions, the least recently used ones are
    revoked (OWASP ASVS 5.0, 7.2.4 and 7.1.2).

    Raises `ValueError` for an unusable user id and for an `end_at` that is naive or past,
    `UnstorableValue`, `SessionTooLarge`, and `StoreUnavailable` if the login could not be done;
    nobody is signed in then.
    """
    current = _session_for("login_user")
    current.check_verb("login_user")
    if not isinstance(data, Mapping | None):
        raise TypeError(
            "login_user takes the data as a dict, such as {'role': 'admin'}, not as a"
            f" {type(data).__name__}."
        )
    current.log_in(user_id, data or {}, bool(remember), end_at)
    return current.session


def logout_user() -> None:
    """Ends this browser's session at once and deletes its cookie.

    `current_session` is then an empty anonymous session. Without a session, only the cookie is
    deleted (OWASP ASVS 5.0, 7.4.1).
    """
    current = _session_for("logout_user")
    current.check_verb("logout_user")
    current.log_out()


def confirm_login() -> None:
    """Makes the session fresh and gives it a new secret, at once. Call it after you have checked
    the user's password again. With `KVSESSION_DEVICE_BOUND` it offers the browser to bind the
    session, if that is not bound yet.

    Raises `LoginRequired` if nobody is signed in (OWASP ASVS 5.0, 7.2.4).
    """
    _session_for("confirm_login").confirm()


def rotate_token() -> None:
    """Gives the session a new secret at once, for example after the user's rights have changed. The
    old cookie then opens no session. If there is no session, this does nothing."""
    _session_for("rotate_token").rotate()


def change_session(function: Callable[[dict[str, t.Any]], object]) -> Session:
    """Changes this session's data atomically, and stores them at once. Returns the session.

    `function` gets the newest data as a dict and changes it. If another request was faster, it is
    called again with the data of that request. So it must do nothing else, such as sending a mail,
    and must not be async. Use it where two changes of one key must both count: counters and carts.

    Changes that this request has made before are in the dict and are stored too. Objects that it
    has read from the session before are not changed: read them again. For an anonymous browser
    without a session, it creates one. If the session has ended meanwhile, nothing is stored, and
    the session is empty.

    Raises what `function` raises, `UnstorableValue` and `SessionTooLarge`, and stores nothing then;
    raises `StoreUnavailable` if it is unknown whether the change was stored.
    """
    if not callable(function) or iscoroutinefunction(function):
        raise TypeError(
            "change_session takes a function (not async) that changes the dict that it gets."
        )
    current = _session_for("change_session")
    current.change_data(function)
    return current.session


def session_ended_reason() -> str | None:
    """Why this browser's session ended, for the sign-in page.

    `"revoked"`, `"limit"` or `"stolen"` if it was ended from outside; `"expired"` if the browser
    still has the cookie of a session that does not exist any more; `"unbound"` if the session is
    bound to a device, and the request did not prove to be from it. None if a user is signed in,
    after a logout, and for a browser that has not signed in yet.
    """
    return _session_for("session_ended_reason").end_reason()


def list_sessions(
    user_id: UserId | t.Literal[_Whose.CURRENT_USER] = _CURRENT_USER,
) -> list[SessionInfo]:
    """The sessions of this user, newest activity first; empty if there are none.

    Without `user_id` it lists the sessions of the signed-in user, and raises `LoginRequired` if
    nobody is signed in.
    """
    (user, current), store = _user_and_current_id(user_id, "list_sessions"), app_state().store
    return [store.info(found, is_current=found.id == current) for found in store.sessions_of(user)]


def revoke_session(
    session_id: str, user_id: UserId | t.Literal[_Whose.CURRENT_USER] = _CURRENT_USER
) -> bool:
    """Ends one session of this user from outside. Returns False if the user has no such session,
    also if it is a session of another user.

    If it is the current session, its cookie is deleted and pending changes are dropped. A later
    write in the same request creates an anonymous session.
    """
    return revoke_one(session_id, user_id) is not None


def revoke_one(
    session_id: str, user_id: UserId | t.Literal[_Whose.CURRENT_USER] = _CURRENT_USER
) -> SessionInfo | None:
    """Does what `revoke_session` does. Returns the session as it was, or None."""
    _use_newest(user_id, "revoke_session")
    user, current = _user_and_current_id(user_id, "revoke_session")
    ended = app_state().store.revoke_one(user, session_id)
    _after_revocation([ended] if ended else [], current)
    return ended


def revoke_all_sessions(
    user_id: UserId | t.Literal[_Whose.CURRENT_USER] = _CURRENT_USER,
    *,
    except_current: bool = False,
) -> int:
    """Ends all sessions of this user from outside; with `except_current`, all but this request's.

    Returns the number of ended sessions. Raises `KVSessionError` if `except_current` is given and
    no request can be seen; Flask 3.2 hides it in `app.app_context()` too (OWASP ASVS 5.0, 7.4.2 and
    7.4.3).
    """
    return len(revoke_many(user_id, except_current=except_current))


def revoke_many(
    user_id: UserId | t.Literal[_Whose.CURRENT_USER] = _CURRENT_USER,
    *,
    except_current: bool = False,
) -> list[SessionInfo]:
    """Does what `revoke_all_sessions` does. Returns the sessions as they were."""
    if except_current and not has_request_context():
        raise KVSessionError(
            "revoke_all_sessions was called with except_current=True outside a request, so there is"
            " no current session to keep; call it in a view, and not in a block with"
            " app.app_context()."
        )
    _use_newest(user_id, "revoke_all_sessions")
    user, current = _user_and_current_id(user_id, "revoke_all_sessions")
    ended = app_state().store.revoke_all(user, spare=current if except_current else None)
    _after_revocation(ended, current)
    return ended


def update_all_sessions(
    user_id: UserId, changes: Mapping[str, t.Any], *, remove: Iterable[str] = ()
) -> int:
    """Changes data in all of a user's sessions, for example because a role was taken away. Returns
    the number of sessions.

    The next request of each session sees the changes. The current request does not. Raises
    `SessionTooLarge` if the changes do not fit into one of the sessions; the other sessions have
    the changes then (OWASP ASVS 5.0, 8.3.2).
    """
    if isinstance(remove, str | bytes):
        raise TypeError("remove must be a collection of keys, such as ['role'], not one str.")
    if not isinstance(changes, Mapping):
        raise TypeError(
            "update_all_sessions takes the changes as a dict, such as {'role': 'reader'}, not as a"
            f" {type(changes).__name__}."
        )
    if has_request_context():
        request_session().apply_pending()
    return app_state().store.update_all(user_id, changes, remove)


def _use_newest(user_id: UserId | t.Literal[_Whose.CURRENT_USER], verb: str) -> None:
    """A session that has just been ended must not end the user's other sessions."""
    if user_id is _CURRENT_USER:
        _session_of_user(verb).use_newest()


def _session_for(verb: str) -> RequestSession:
    """The current request's session; raises `RuntimeError` outside a request, as Flask does."""
    if not has_request_context():
        raise RuntimeError(
            f"{verb} was called outside a request, so there is no session; call it in a view, and"
            " not in a block with app.app_context()."
        )
    return request_session()


def _session_of_user(verb: str) -> RequestSession:
    """The current request's session, for a verb that was given no user id."""
    if not has_request_context():
        raise RuntimeError(
            f"{verb} was called outside a request without a user id, so it is not known whose"
            f" sessions are meant; pass the user's id, as in {verb}(..., user_id=user.id)."
        )
    return request_session()


def _user(user_id: UserId | t.Literal[_Whose.CURRENT_USER], verb: str) -> UserId:
    return _session_of_user(verb).require_user() if user_id is _CURRENT_USER else user_id


def _user_and_current_id(
    user_id: UserId | t.Literal[_Whose.CURRENT_USER], verb: str
) -> tuple[UserId, str | None]:
    _user(user_id, verb)  # Another extension may sign a user in when it is asked
    current = _current_id()  # a pending login is done here, unless its session has just ended
    return _user(user_id, verb), current


def _current_id() -> str | None:
    """The id of this request's session; None outside a request.

    Raises `StoreUnavailable` if the request could not load its session: without its id, "all but
    the current one" would be all.
    """
    if not has_request_context():
        return None
    current = request_session()
    current.session.require_loaded()
    current.apply_pending()
    return current.session.id


def _after_revocation(ended: list[SessionInfo], current: str | None) -> None:
    if any(info.id == current for info in ended):
        request_session().drop()
    for info in ended:
        app_state().send_signal(signals.session_revoked, info)
