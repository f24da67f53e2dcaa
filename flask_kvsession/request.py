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

from flask import current_app, g, request

from . import codec, signals, signed_cookie
from .errors import ConfigurationError, LoginRequired, StoreUnavailable
from .record import Changes, Client, Ended, Record, Stored, new_record
from .session import Session
from .settings import in_ms, key_of
from .state import AppState, app_state
from .store import SessionStore
from .token import Token, UserId, new_session_id, user_hash

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.wrappers import Request, Response

log = logging.getLogger("flask_kvsession")

Data = dict[str, bytes]
"""A session's data: each value encoded, under its key."""

_ATTRIBUTE = "_kvsession"
_MESSAGES, _FRESH = "_flashes", "_fresh"
"""Where Flask keeps flashed messages, and Flask-Login whether a password was given."""

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
        self._request, this = weakref.proxy(request), weakref.proxy(self)
        self._answer: Callable[[Response], None] | None = None
        self._is_committed = False
        self._has_signed_data = False
        self._g_before: t.Any = None
        self.session = Session(
            load=lambda: this._load(),
            now=lambda: app.store.now(),
            settings=app.settings,
            legacy=lambda: this._signed_data(),
        )

    # Verbs

    def login(self, user_id: UserId, data: Mapping[str, t.Any], remember: bool) -> None:
        """Ends the session there is and begins a user's, in Redis at once. A visitor's data goes
        into it, pending changes too; another user's never does."""
        user_hash(user_id)
        given = codec.encode_all(data)

        def carry(old: Record | None) -> Data:
            return dict(given) if old and not old.is_visitors else self._changed(old) | given

        self._begin(user_id, carry, remember=remember)

    def logout(self) -> None:
        """Ends this browser's session in Redis at once; leaves a visitor's, empty."""
        with self._store_calls() as store:
            stored = self.session.stored
            _, ended = store.remove(stored) if stored else (True, None)
        self.forget()
        if ended and not ended.record.is_visitors:
            self._app.announce(signals.user_logged_out, store.info(ended))

    def confirm(self) -> None:
        """Makes the session fresh, with a new secret; raises `LoginRequired` for a visitor."""
        self.require_user()
        self._follow_user_id_key()
        if not self._confirm():
            raise LoginRequired(ended=self.session.ended)

    def rotate(self) -> None:
        """Gives the session a new secret; does nothing where there is no session."""
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
        _rewrite(response, app.make_response(app.handle_user_exception(failure)))

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
        session, assigned = self.session, self.session.assigned
        # What was only carried over, or restored by Flask-Login's remember cookie, proves nothing.
        is_assigned = self._app.settings.user_id_key in assigned
        is_proved = is_assigned and session.get(_FRESH) is not False

        def carry_assigned(record: Record | None) -> Data:
            own = {key: value for key, value in self._changed(record).items() if key in assigned}
            return own | self._own_messages(own)

        before = session.stored.record.user_hash if session.stored else None
        if before in (None, user_hash(user_id)):
            carry, remember = self._changed, session.permanent
        else:  # Somebody else's data say nothing of this user, nor that they were remembered.
            carry, remember = carry_assigned, bool(session.wants_permanent)
        # A session that is only carried over, and has ended meanwhile, stays ended.
        self._begin(
            user_id, carry, remember=remember, is_proved=is_proved, is_carried=not is_assigned
        )

    def _own_messages(self, data: Data) -> Data:
        """The messages that this request has flashed, without those before them: `flash` assigns
        the whole list, and what was said to somebody else is not for this user."""
        stored = self.session.stored
        earlier = stored.record.encoded_data().get(_MESSAGES) if stored else None
        if earlier is None or _MESSAGES not in data:
            return {}
        said, all_said = (
            codec.decode(_MESSAGES, encoded) for encoded in (earlier, data[_MESSAGES])
        )
        is_list = isinstance(said, list) and isinstance(all_said, list)
        if not is_list or all_said[: len(said)] != said:
            return {}
        return {_MESSAGES: codec.encode(_MESSAGES, all_said[len(said) :])}

    def _is_confirmed_by_key(self) -> bool:
        """Whether Flask-Login's `confirm_login` was called: nothing else says so, but a login."""
        session = self.session
        is_by_key = self._app.settings.user_id_key is not None and session.is_authenticated
        return is_by_key and _FRESH in session.assigned and session[_FRESH] is True

    def _log_out_by_key(self) -> None:
        """Ends the user's session. What data remain go on in a visitor's, unless there is a newer
        one or the session was ended from outside: then only what this request has set."""
        changes, permanent = self.session.changes(), bool(self.session.wants_permanent)
        with self._store_calls() as store:
            stored = self.session.stored
            assert stored is not None, "nobody is logged out who was not logged in"
            _, ended = store.remove(stored)
        self.forget()
        if ended:
            self._app.announce(signals.user_logged_out, store.info(ended))
        remaining = changes.applied_to(ended.record.encoded_data() if ended else {})
        if remaining:
            self._begin_visit(remaining, permanent)

    # How it is done

    def _begin(
        self,
        user_id: UserId,
        carry: Callable[[Record | None], Data],
        *,
        remember: bool,
        is_proved: bool = True,
        is_carried: bool = False,
    ) -> None:
        """Makes a user's session in place of the one there is, whose data `carry` chooses from."""
        self.session.require_open()
        with self._store_calls() as store:
            old, replaced = self.session.stored, None
            token = Token.for_session(new_session_id(user_hash(user_id)))
            data = carry(old.record if old else None)
            record = self._new_record(token, data, user_id, remember, is_proved)
            over_limit = store.create(new := Stored.of(token.session_id, record))
            with self._undone_on_failure(new):
                if old:
                    new, replaced = store.replace(old, new, carry)
                    if is_carried and not replaced:
                        store.remove(new)
                        self.session.adopt(None)
                        return
                rest = [session_id for session_id in over_limit if not old or session_id != old.id]
                revoked = store.enforce_limit(user_id, rest, new.id)
        self._become(new, token)
        self._warn_of_plain_http()
        if replaced and not replaced.record.is_visitors:
            self._app.announce(signals.user_logged_out, store.info(replaced))
        for info in revoked:
            self._app.announce(signals.session_revoked, info)
        self._app.announce(signals.user_logged_in, store.info(new, is_current=True))

    def _load(self) -> Stored | Ended | None:
        token = self._app.cookie.read(self._request)
        if token is None:
            return None
        try:
            return self._app.store.load(token)
        except StoreUnavailable as failure:
            _log_failure(failure)
            raise

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
    ) -> Record:
        return new_record(
            token,
            now=self._app.store.now(),
            client=self._client,
            user_id=user_id,
            remembered=remember,
            is_proved=is_proved,
            data=data,
        )

    def _changed(self, record: Record | None) -> Data:
        """The data of this record, with the pending changes on top."""
        return self.session.changes().applied_to(record.encoded_data() if record else {})

    def _signed_data(self) -> Mapping[str, t.Any]:
        """What a visitor brings along from the time before this package."""
        if not self._app.settings.migrate_cookie_session:
            return {}
        data = signed_cookie.read(self._app.app, self._request)
        self._has_signed_data = bool(data)
        return data

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
        if stored is None:
            return False
        info = self._app.store.info(stored, is_current=True)
        self._app.announce(signals.login_confirmed, info)
        return True

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
        self._app.announce(signals.token_rotated, store.info(stored, is_current=True))
        return stored

    def _commit(self) -> None:
        if self._is_committed:
            return
        self._is_committed = True
        try:
            if self.session.is_touched and not self.session.failure:
                self._write()
        finally:
            self.session.close()

    def _write(self) -> None:
        """Makes the one change in the store that this request is to make, if any."""
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

        def change(current: Record) -> Record | None:
            data = current.encoded_data()
            edited = changes.applied_to(data)
            if edited == data and now - current.seen < interval:
                return None
            return current.with_data(edited).seen_at(now, client)

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
            self._announce_activity(stored.record, outcome.stored, interval)

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

    def _announce_activity(self, before: Record, after: Stored, interval: int) -> None:
        info = self._app.store.info(after, is_current=True)
        if after.record.seen - before.seen >= interval:
            self._app.announce(signals.session_renewed, info)
        if (before.ip, before.agent) != (after.record.ip, after.record.agent):
            self._app.announce(signals.client_changed, info)

    def _begin_visit(self, data: Mapping[str, bytes], permanent: bool) -> None:
        """The first write of a visitor makes a record."""
        with self._store_calls() as store:
            token = Token.for_session(new_session_id(None))
            record = self._new_record(token, data, remember=permanent)
            store.create(new := Stored.of(token.session_id, record))
        self._become(new, token)


def request_state() -> RequestState:
    """The current request's hold on its session."""
    return state_of(current_app, request._get_current_object())  # type: ignore[attr-defined]


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
