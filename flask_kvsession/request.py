"""One request: what it does with its session, at once or when it ends, and what the response says
of that. Also who signs in and out by `KVSESSION_USER_ID_KEY`."""

from __future__ import annotations

import sys
import typing as t
from collections.abc import Mapping
from contextlib import suppress

from flask import current_app, g, has_request_context, request

from . import codec
from .carry import Data, Luggage
from .errors import ConfigurationError, LoginRequired, StoreUnavailable
from .hold import Hold
from .record import Record
from .session import Session
from .settings import FLASK_LOGIN_FRESH_KEY, FLASK_LOGIN_USER_KEY, config_key
from .state import AppState, app_state
from .token import UserId, user_hash

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Request, Response

_ATTRIBUTE = "_kvsession"

_SPEAKS_OF_THE_BODY = (
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


class RequestState:
    """What one request does with its session. It hangs on the request object, not on `g`, which
    can outlive a request or be shared by two."""

    def __init__(self, app: AppState, request: Request) -> None:
        self._app = app
        self._hold = Hold(app, request)
        self.session = self._hold.session
        self._is_committed = False
        self._g_before: t.Any = None

    # Verbs

    def login(self, user_id: UserId, data: Mapping[str, t.Any], remember: bool) -> None:
        """Ends the session there is and begins a user's, in Redis at once. A visitor's data goes
        into it, pending changes too; another user's never does."""
        user_hash(user_id)
        given = codec.encode_all(data)

        def carry(current: Record | None, *, is_gone: bool = False) -> Data:
            is_users = current is not None and not current.is_visitors
            return dict(given) if is_users else self._changed(current) | given

        with self._hold.telling():
            self._hold.begin(user_id, carry, remember=remember)

    def logout(self) -> None:
        """Ends this browser's session in Redis at once; leaves a visitor's, empty."""
        with self._hold.telling():
            self._hold.end()

    def forget(self) -> None:
        """The session has been ended from outside, by this very request: pending changes are
        dropped, and the cookie goes."""
        self._hold.forget()

    def confirm(self) -> None:
        """Makes the session fresh, with a new secret; raises `LoginRequired` for a visitor."""
        self.require_user()
        with self._hold.telling():
            self._follow_user_id_key()
            if not self._hold.rotate(confirm=True):
                raise LoginRequired(ended=self.session.ended)

    def rotate(self) -> None:
        """Gives the session a new secret; does nothing where there is no session."""
        with self._hold.telling():
            self._follow_user_id_key()
            self._hold.rotate()

    def require_user(self) -> UserId:
        """The id of who is signed in; raises `LoginRequired` for a visitor."""
        self.session.require()
        user_id = self.session.user_id
        if user_id is None:
            raise LoginRequired(ended=self.session.ended)
        return user_id

    # The end of the request

    def finish(self, response: Response) -> Response:
        """Commits, once, and puts on the response what it says of the session.

        A commit that fails makes the response what the app's handler for that failure gives:
        raised here, it would become a 500. So does a failure that has become one already, since it
        was raised in an error handler or in another function at the end of the request.
        """
        try:
            self._commit()
            if self.session.failure and self.session.failure is sys.exception():
                self._answer_failure(response, self.session.failure)
        except StoreUnavailable as failure:
            self._answer_failure(response, failure)
        finally:  # what has been done in Redis has been done, whatever failed after it
            if self.session.accessed:
                response.vary.add("Cookie")
            if self._hold.answer:
                self._hold.answer(response)
        return response

    def _answer_failure(self, response: Response, failure: StoreUnavailable) -> None:
        app = self._app.app
        try:
            answer = app.handle_user_exception(failure)
        except StoreUnavailable:  # TRAP_HTTP_EXCEPTIONS, which would make it a 500 here
            answer = failure.get_response()
        _rewrite(response, app.make_response(answer))

    def enter_g(self) -> None:
        """Puts the session into `g`, keeping what a request around this one had put there."""
        name = self._app.settings.g_name
        if name is not None and g.get(name) is not self.session:
            self._g_before = g.get(name)
            setattr(g, name, self.session)

    def leave_g(self) -> None:
        """Gives a request around this one, still under way, its session back. Otherwise this one
        stays, since tests look at `g` when a request is over."""
        before = self._g_before
        is_over = isinstance(before, Session) and before.is_closed
        name = self._app.settings.g_name
        if name is not None and g.get(name) is self.session and before is not None and not is_over:
            setattr(g, name, before)

    # Apps that sign users in by themselves, with `KVSESSION_USER_ID_KEY`

    def require_own(self, verb: str) -> None:
        """Raises `ConfigurationError` where it is the app that signs users in and out: two ways to
        say who is signed in would contradict each other."""
        key = self._app.settings.user_id_key
        if key is None:
            return
        remedy = f"assign session[{key!r}] to log in, and delete it to log out"
        if key == FLASK_LOGIN_USER_KEY:
            remedy = f"call the {verb} of Flask-Login"
        raise ConfigurationError(
            f"{verb} of Flask-KVSession-Redis is not for this app, since"
            f" {config_key('user_id_key')} is {key!r}; {remedy}."
        )

    def _follow_user_id_key(self) -> bool:
        """Carries out the login or logout that the app's change of the key is; returns whether it
        was one, and all changes are written then."""
        session = self.session
        if not session.is_login_pending:
            return False
        user_id = session.user_id
        if user_id is None:
            self._log_out_by_key()
        else:
            self._log_in_by_key(user_id)
        return True

    def _log_in_by_key(self, user_id: UserId) -> None:
        session, luggage, user = self.session, self._luggage(), user_hash(user_id)
        is_assigned = self._app.settings.user_id_key in luggage.assigned

        def carry(current: Record | None, *, is_gone: bool = False) -> Data | None:
            # A session that is only carried over, and has ended meanwhile, stays ended.
            is_over = is_gone and not is_assigned
            return None if is_over else luggage.into_login(user, current, is_gone=is_gone)

        # Somebody else's session does not say that this user is remembered.
        is_theirs = luggage.owner in (None, user)
        remember = session.permanent if is_theirs else bool(session.wants_permanent)
        self._hold.begin(user_id, carry, remember=remember, is_proved=self._is_proved_by_key())

    def _is_proved_by_key(self) -> bool:
        """Whether this request has said that the user is who they are. What was only carried over,
        or restored by Flask-Login's remember cookie, proves nothing."""
        assigned, fresh = self.session.assigned, self.session.get(FLASK_LOGIN_FRESH_KEY)
        is_assigned = self._app.settings.user_id_key in assigned
        is_confirmed = FLASK_LOGIN_FRESH_KEY in assigned and fresh is True
        return is_confirmed or (is_assigned and fresh is not False)

    def _luggage(self) -> Luggage:
        session = self.session
        loaded = session.stored.record if session.stored else None
        return Luggage(loaded, session.came_as, session.changes(), session.assigned)

    def _is_confirmed_by_key(self) -> bool:
        """Whether Flask-Login's `confirm_login` was called: nothing else says so, but a login."""
        session = self.session
        is_by_key = self._app.settings.user_id_key is not None and session.is_authenticated
        return (
            is_by_key
            and FLASK_LOGIN_FRESH_KEY in session.assigned
            and session[FLASK_LOGIN_FRESH_KEY] is True
        )

    def _is_ended_by_clearing(self) -> bool:
        """Whether the browser's cookie has to go though it opens nothing: a signed one would bring
        back what was cleared; and where that is a logout, the token may be one that another request
        has just replaced, and the logout must not be for nothing."""
        is_logout = self._app.settings.user_id_key is not None and self.session.is_cleared
        return is_logout or self._hold.has_signed_data

    def _log_out_by_key(self) -> None:
        """Ends the user's session. What data remain go on in a visitor's, unless there is a newer
        one or the session was ended from outside: then only what this request has set. If that
        cannot be written, the logout is done all the same."""
        luggage, permanent = self._luggage(), bool(self.session.wants_permanent)
        ended = self._hold.end()
        before = ended.record if ended else None
        remaining, former = luggage.into_visit(before)
        if remaining:
            with suppress(StoreUnavailable):
                self._hold.begin_visit(remaining, permanent, before, former)

    # The commit

    def _commit(self) -> None:
        """Writes, and once more what receivers of signals have changed then. What those change who
        are told of that could not be written, so it raises."""
        if self._is_committed:
            return
        self._is_committed = True
        try:
            self._write()
            if self._hold.tell():
                self._write()
        finally:
            self.session.close()
            self._hold.tell()

    def _write(self) -> None:
        """Makes the one change in the store that this request is to make, if any."""
        if not self.session.is_touched or self.session.failure:
            return
        changes, stored = self.session.changes(), self.session.stored
        if changes:
            self.session.modified = True  # tests look at it when a request is over
        if FLASK_LOGIN_USER_KEY in self.session.assigned and not self.session.is_authenticated:
            self._app.warn_of_flask_login()
        if self._follow_user_id_key():
            return
        if stored is None:
            if changes.set:
                self._hold.begin_visit(changes.set, self.session.permanent)
            elif not self.session and self._is_ended_by_clearing():
                self._hold.forget()
            return
        if stored.record.is_visitors and changes and not self._changed(stored.record):
            stored = self._hold.end_visit(stored)
        if stored is None:
            return
        if self._is_confirmed_by_key():
            self._hold.rotate(confirm=True)
        elif self.session.permanent != stored.record.remembered:
            self._hold.rotate()  # the browser needs another cookie: see docs/decisions.md
        else:
            self._hold.update(stored, changes)

    def _changed(self, record: Record | None) -> Data:
        """The data of this record, with the pending changes on top."""
        return self.session.changes().applied_to(record.encoded_data() if record else {})


def request_state() -> RequestState:
    """The current request's hold on its session."""
    return state_of(current_app, request._get_current_object())  # type: ignore[attr-defined]


def is_current(session: Session) -> bool:
    """Whether this is the session of the current request, if there is one."""
    state = getattr(request, _ATTRIBUTE, None) if has_request_context() else None
    return state is not None and state.session is session


def state_of(app: Flask, request: Request) -> RequestState:
    """The hold of this request of the app on its session, made when first asked for."""
    state = getattr(request, _ATTRIBUTE, None)
    if state is None:
        state = RequestState(app_state(app), request)
        setattr(request, _ATTRIBUTE, state)
    return t.cast(RequestState, state)


def _rewrite(response: Response, other: Response) -> None:
    """Makes `response` what `other` is. Headers that the app's hooks put on every response (CORS,
    CSP) stay; those that speak of the former body, or of what was not done after all, go."""
    close = getattr(response.response, "close", None)
    if close:
        close()
    for name in _SPEAKS_OF_THE_BODY:
        response.headers.pop(name, None)
    response.status = other.status
    response.response = other.response
    response.direct_passthrough = other.direct_passthrough
    for name in {name for name, _ in other.headers}:
        response.headers.setlist(name, other.headers.getlist(name))
