"""One request: its session opened at first touch, changed in place, committed once, and what the
cookie is to become. Also the login logic."""

from __future__ import annotations

import logging
import math
import sys
import typing as t
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from flask import current_app, g, has_request_context, request

from . import codec, signals, signed_cookie
from .carry import MESSAGES, Carry, Data, Luggage
from .errors import ConfigurationError, KVSessionError, LoginRequired, StoreUnavailable
from .record import Changes, Client, Ended, Former, Record, SessionInfo, Stored, new_record
from .session import Session
from .settings import in_ms, key_of
from .state import AppState, app_state
from .store import SessionStore
from .token import Token, UserId, new_session_id, user_hash

if t.TYPE_CHECKING:
    from blinker import NamedSignal
    from flask import Flask
    from flask.wrappers import Request, Response

log = logging.getLogger("flask_kvsession")

_ATTRIBUTE = "_kvsession"
_FRESH = "_fresh"
"""Where Flask-Login keeps whether a password was given."""

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
    """One request's hold on its session. It hangs on the request object, not on `g`, which can
    outlive a request or be shared by two."""

    def __init__(self, app: AppState, request: Request) -> None:
        self._app = app
        # Held in return, request and session would be freed by the garbage collector only.
        self._request, this = weakref.proxy(request), weakref.ref(self)
        self._answer: Callable[[Response], None] | None = None
        self._news: list[tuple[NamedSignal, SessionInfo]] = []
        self._is_committed = False
        self._has_signed_data = False
        self._g_before: t.Any = None

        def alive() -> RequestState:
            if state := this():
                return state
            raise KVSessionError(
                "The session was first looked at when its request was over; look at it in the"
                " request, and give what goes on afterwards what it needs."
            )

        self.session = Session(
            load=lambda: alive()._load(),
            now=lambda: app.store.now(),
            settings=app.settings,
            arrive=lambda: alive()._arrive(),
        )

    # Verbs

    def login(self, user_id: UserId, data: Mapping[str, t.Any], remember: bool) -> None:
        """Ends the session there is and begins a user's, in Redis at once. A visitor's data goes
        into it, pending changes too; another user's never does."""
        user_hash(user_id)
        given = codec.encode_all(data)

        def carry(current: Record | None, *, is_gone: bool = False) -> Data:
            is_users = current is not None and not current.is_visitors
            return dict(given) if is_users else self._changed(current) | given

        with self._telling():
            self._begin(user_id, carry, remember=remember)

    def logout(self) -> None:
        """Ends this browser's session in Redis at once; leaves a visitor's, empty."""
        with self._store_calls() as store:
            stored = self.session.stored
            _, ended = store.remove(stored) if stored else (True, None)
        self.forget()
        with self._telling():
            self._note_logout(ended)

    def confirm(self) -> None:
        """Makes the session fresh, with a new secret; raises `LoginRequired` for a visitor."""
        self.require_user()
        with self._telling():
            self._follow_user_id_key()
            if not self._confirm():
                raise LoginRequired(ended=self.session.ended)

    def rotate(self) -> None:
        """Gives the session a new secret; does nothing where there is no session."""
        with self._telling():
            self._follow_user_id_key()
            self._rotate()

    def require_user(self) -> UserId:
        """The id of who is signed in; raises `LoginRequired` for a visitor."""
        self.session.require()
        user_id = self.session.user_id
        if user_id is None:
            raise LoginRequired(ended=self.session.ended)
        return user_id

    def forget(self) -> None:
        """The current session has ended: pending changes are dropped, and the cookie goes, even one
        whose session had gone before."""
        self.session.adopt(None)
        has_cookie = self._app.cookie.is_in(self._request)
        self._answer = self._app.cookie.clear if has_cookie else None

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
            if self._answer:
                self._answer(response)
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
        if key is not None:
            raise ConfigurationError(
                f"{verb} is not for this app, since {key_of('user_id_key')} is {key!r}: assign"
                f" session[{key!r}] to log in, and delete it to log out."
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
        self._begin(user_id, carry, remember=remember, is_proved=self._is_proved_by_key())

    def _is_proved_by_key(self) -> bool:
        """Whether this request has said that the user is who they are. What was only carried over,
        or restored by Flask-Login's remember cookie, proves nothing."""
        assigned, fresh = self.session.assigned, self.session.get(_FRESH)
        is_assigned = self._app.settings.user_id_key in assigned
        is_confirmed = _FRESH in assigned and fresh is True
        return is_confirmed or (is_assigned and fresh is not False)

    def _luggage(self) -> Luggage:
        session = self.session
        loaded = session.stored.record if session.stored else None
        return Luggage(loaded, session.came_as, session.changes(), session.assigned)

    def _is_confirmed_by_key(self) -> bool:
        """Whether Flask-Login's `confirm_login` was called: nothing else says so, but a login."""
        session = self.session
        is_by_key = self._app.settings.user_id_key is not None and session.is_authenticated
        return is_by_key and _FRESH in session.assigned and session[_FRESH] is True

    def _log_out_by_key(self) -> None:
        """Ends the user's session. What data remain go on in a visitor's, unless there is a newer
        one or the session was ended from outside: then only what this request has set."""
        luggage, permanent = self._luggage(), bool(self.session.wants_permanent)
        with self._store_calls() as store:
            stored = self.session.stored
            _, ended = store.remove(stored) if stored else (True, None)
        self.forget()
        self._note_logout(ended)
        before = ended.record if ended else None
        remaining, former = luggage.into_visit(before)
        if remaining:
            self._begin_visit(remaining, permanent, before, former)

    # How it is done

    def _begin(
        self,
        user_id: UserId,
        carry: Carry,
        *,
        remember: bool,
        is_proved: bool = True,
    ) -> None:
        """Makes a user's session in place of the one there is, whose data `carry` chooses from."""
        self.session.require_open()
        with self._store_calls() as store:
            old, replaced = self.session.stored, None
            token = Token.for_session(new_session_id(user_hash(user_id)))
            data = carry(old.record if old else None) or {}
            record = self._new_record(token, data, user_id, remember, is_proved)
            new = Stored.of(token.session_id, record)
            over_limit = store.create(new, old.record if old else None)
            standing: Stored | None = new
            with self._undone_on_failure(new):
                replaced_id = old.id if old else ""
                for info in store.enforce_limit(user_id, over_limit, new.id, replaced_id):
                    self._news.append((signals.session_revoked, info))
                # Last, since it cannot be undone: what the session held would be lost.
                if old:
                    standing, replaced = store.replace(old, new, carry)
        if standing is None:
            self.session.adopt(None)
            return
        self._become(standing, token)
        self._warn_of_plain_http()
        self._note_logout(replaced)
        self._note(signals.user_logged_in, standing)

    def _load(self) -> Stored | Ended | None:
        token = self._app.cookie.read(self._request)
        if token is None:
            return None
        try:
            return self._app.store.load(token)
        except StoreUnavailable as failure:
            _log_failure(failure)
            raise

    def _note(self, signal: NamedSignal, stored: Stored) -> None:
        """Something has been done to the current session, which is to be told."""
        self._news.append((signal, self._app.store.info(stored, is_current=True)))

    def _note_logout(self, ended: Stored | None) -> None:
        if ended and not ended.record.is_visitors:
            self._news.append((signals.user_logged_out, self._app.store.info(ended)))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tells what is done in here when all of it is done, or the rest has failed."""
        try:
            yield
        finally:
            self._tell()

    def _tell(self) -> bool:
        """Tells the receivers of signals what has been done; returns whether there was anything."""
        has_news = bool(self._news)
        while self._news:
            self._app.announce(*self._news.pop(0))
        return has_news

    @property
    def _client(self) -> Client:
        settings = self._app.settings
        return Client.of(
            self._request.remote_addr if settings.record_ip else None,
            self._request.user_agent.string if settings.record_user_agent else None,
        )

    @contextmanager
    def _store_calls(self) -> Iterator[SessionStore]:
        """A failure of the store in here is one of the whole request's session."""
        self.session.require()
        try:
            yield self._app.store
        except StoreUnavailable as failure:
            _log_failure(failure)
            self.session.fail(failure)
            raise

    def _become(self, stored: Stored, token: Token) -> None:
        """This browser's session is now `stored`, which it opens with `token`."""
        self.session.adopt(stored)
        max_age = self._seconds_left(stored.record) if stored.record.remembered else None
        self._answer = partial(self._app.cookie.write, token=token, max_age=max_age)

    def _seconds_left(self, record: Record) -> int:
        """Of the absolute timeout. What is known of the server's time may be some ms older by now
        than when the record was made, so never more than all of it."""
        settings = self._app.settings
        left = settings.absolute_end(record) - self._app.store.now()
        return math.ceil(min(left, in_ms(settings.absolute_timeout)) / 1000)

    def _new_record(
        self,
        token: Token,
        data: Mapping[str, bytes],
        user_id: UserId | None = None,
        remember: bool = True,
        is_proved: bool = True,
        former: Former | None = None,
    ) -> Record:
        return new_record(
            token,
            now=self._app.store.now(),
            client=self._client,
            user_id=user_id,
            remembered=remember,
            is_proved=is_proved,
            former=former,
            data=data,
        )

    def _changed(self, record: Record | None) -> Data:
        """The data of this record, with the pending changes on top."""
        return self.session.changes().applied_to(record.encoded_data() if record else {})

    def _arrive(self) -> None:
        """Takes over what the browser has from the time before this package. One that comes with a
        token has been here since: what it has left of old must not outlive a revocation."""
        is_moving = self._app.settings.migrate_cookie_session
        is_new = is_moving and self._app.cookie.read(self._request) is None
        if is_new:
            self.session.take_over(signed_cookie.read(self._app.app, self._request))
            self._has_signed_data = bool(self.session)
        for meet in self._app.arrivals:
            meet(self.session, is_new)

    @contextmanager
    def _undone_on_failure(self, new: Stored) -> Iterator[None]:
        """A login that fails half-way is not reported done, so nobody should see its session."""
        try:
            yield
        except Exception:
            try:
                self._app.store.remove(new)
            except StoreUnavailable:
                log.warning("session %s of a failed login is left until it expires", new.id)
            raise

    def _warn_of_plain_http(self) -> None:
        if self._app.cookie.secure and not self._request.is_secure:
            self._app.warn_of_plain_http()

    def _confirm(self) -> bool:
        """Makes the session fresh; False if it is gone."""
        stored = self._rotate(confirm=True)
        if stored:
            self._note(signals.login_confirmed, stored)
        return stored is not None

    def _rotate(self, *, confirm: bool = False) -> Stored | None:
        """A new secret, with the pending changes in the same write. A secret that another request
        has changed meanwhile stays, and the browser gets no cookie from here."""
        self.session.require_open()
        with self._store_calls() as store:
            loaded = self.session.stored
            if loaded is None:
                return None
            now, client, changes = store.now(), self._client, self.session.changes()
            token, permanent = Token.for_session(loaded.id), self.session.permanent

            def change(current: Record) -> Record:
                new = current.with_data(changes.applied_to(current.encoded_data()))
                new = new.seen_at(now, client).remembered_as(permanent)
                new = new.authenticated_now(now) if confirm else new
                return new if current.secret != loaded.record.secret else new.with_secret_of(token)

            stored = store.update(loaded, change).stored
        if stored is None or not token.matches(stored.record.secret):
            self.session.adopt(stored)
            return stored
        self._become(stored, token)
        self._note(signals.token_rotated, stored)
        return stored

    def _commit(self) -> None:
        """Writes, and once more what receivers of signals have changed then. What those change who
        are told of that could not be written, so it raises."""
        if self._is_committed:
            return
        self._is_committed = True
        try:
            self._write()
            if self._tell():
                self._write()
        finally:
            self.session.close()
            self._tell()

    def _write(self) -> None:
        """Makes the one change in the store that this request is to make, if any."""
        if not self.session.is_touched or self.session.failure:
            return
        changes, stored = self.session.changes(), self.session.stored
        if changes:
            self.session.modified = True  # tests look at it when a request is over
        if self._follow_user_id_key():
            return
        if stored is None:
            if changes.set:
                self._begin_visit(changes.set, self.session.permanent)
            elif self._has_signed_data and not self.session:
                self.forget()  # or the signed cookie would bring back what was just cleared
            return
        if stored.record.is_visitors and changes and not self._changed(stored.record):
            stored = self._end_visit(stored)
        if stored is None:
            return
        if self._is_confirmed_by_key():
            self._confirm()
        elif self.session.permanent != stored.record.remembered:
            self._rotate()  # the browser needs another cookie, and its secret is not known here
        else:
            self._update(stored, changes)

    def _update(self, stored: Stored, changes: Changes) -> None:
        """Writes the changes, and that somebody was here."""
        now, client = self._app.store.now(), self._client
        interval = in_ms(self._app.settings.renewal_interval)
        # `flash` assigns the list with what was said to a former user, too.
        own = self.session.assigned - {MESSAGES}

        def change(current: Record) -> Record | None:
            data = current.encoded_data()
            edited = changes.applied_to(data)
            if edited == data and now - current.seen < interval:
                return None
            return current.with_data(edited, own).seen_at(now, client)

        try:
            outcome = self._app.store.update(stored, change)
        except StoreUnavailable as failure:
            _log_failure(failure)
            if changes:
                self.session.fail(failure)
                raise
            return  # Only the renewal is lost; the next request will try again.
        # A session that has gone meanwhile stays gone, and its changes with it.
        if outcome.written and outcome.stored:
            self.session.adopt(outcome.stored)
            self._note_activity(stored.record, outcome.stored, interval)

    def _end_visit(self, stored: Stored) -> Stored | None:
        """A visitor's session without data is none. Returns it after all where another request has
        put something there meanwhile. One that has gone already leaves the browser's cookie, which
        may be that of a login."""
        with self._store_calls() as store:
            gone, held = store.remove(stored, if_unchanged=True)
        if not gone:
            return held
        if held:
            self.forget()
        return None

    def _note_activity(self, before: Record, after: Stored, interval: int) -> None:
        if after.record.seen - before.seen >= interval:
            self._note(signals.session_renewed, after)
        if (before.ip, before.agent) != (after.record.ip, after.record.agent):
            self._note(signals.client_changed, after)

    def _begin_visit(
        self,
        data: Mapping[str, bytes],
        permanent: bool,
        before: Record | None = None,
        former: Former | None = None,
    ) -> None:
        """The first write of a visitor makes a record; so does what a logout leaves."""
        with self._store_calls() as store:
            token = Token.for_session(new_session_id(None))
            record = self._new_record(token, data, remember=permanent, former=former)
            store.create(new := Stored.of(token.session_id, record), before)
        self._become(new, token)


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


def _log_failure(failure: StoreUnavailable) -> None:
    cause = failure.__cause__
    log.error("the session store is unavailable: %s", cause if cause else failure.description)


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
