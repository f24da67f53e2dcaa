"""One browser's session while its request lasts: each thing that can be done to it in Redis, and
what that makes of the session, of the cookie, and of the news for the receivers of signals."""

from __future__ import annotations

import logging
import math
import typing as t
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from . import signals, signed_cookie
from .carry import MESSAGES, Carry
from .errors import KVSessionError, StoreUnavailable
from .record import Changes, Client, Ended, Former, Record, SessionInfo, Stored, new_record
from .session import Session
from .settings import to_ms
from .state import AppState
from .store import SessionStore
from .token import Token, UserId, new_session_id, user_hash

if t.TYPE_CHECKING:
    from blinker import NamedSignal
    from flask.wrappers import Request, Response

log = logging.getLogger("flask_kvsession")


class Hold:
    """What one request holds of its browser's session. Which of these things are done, and when,
    the request decides."""

    def __init__(self, app: AppState, request: Request) -> None:
        self.answer: Callable[[Response], None] | None = None
        """What is to become of the browser's cookie; None if it stays as it is."""
        self.has_signed_data = False
        """Whether the browser has brought along what Flask's own session had left there."""
        self._app = app
        self._secret: str | None = None
        """The hash of what the browser's token opens its session with; another request may have
        changed it since."""
        # Held in return, request and session would be freed by the garbage collector only.
        self._request, this = weakref.proxy(request), weakref.ref(self)
        self._news: list[tuple[NamedSignal, SessionInfo]] = []

        def alive() -> Hold:
            if hold := this():
                return hold
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

    # What can be done

    def begin(
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
            record = new_record(
                token,
                now=store.now(),
                client=self._client,
                user_id=user_id,
                remembered=remember,
                is_proved=is_proved,
                data=carry(old.record if old else None) or {},
            )
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

    def begin_visit(
        self,
        data: Mapping[str, bytes],
        permanent: bool,
        before: Record | None = None,
        former: Former | None = None,
    ) -> None:
        """The first write of a visitor makes a record; so does what a logout leaves."""
        with self._store_calls() as store:
            token = Token.for_session(new_session_id(None))
            record = new_record(
                token,
                now=store.now(),
                client=self._client,
                remembered=permanent,
                former=former,
                after=self.session.ended,
                data=data,
            )
            store.create(new := Stored.of(token.session_id, record), before)
        self._become(new, token)

    def end(self) -> Stored | None:
        """Ends this browser's session. Returns it as it was when it ended; None if there was none
        or it had gone before."""
        with self._store_calls() as store:
            stored = self.session.stored
            _, ended = store.remove(stored) if stored else (True, None)
        self.forget()
        self._note_logout(ended)
        return ended

    def end_visit(self, stored: Stored) -> Stored | None:
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

    def rotate(self, *, confirm: bool = False) -> Stored | None:
        """A new secret, with the pending changes in the same write. A secret that another request
        has changed meanwhile stays, and the browser gets no cookie from here."""
        self.session.require_open()
        with self._store_calls() as store:
            loaded = self.session.stored
            if loaded is None:
                return None
            now, client, changes = store.now(), self._client, self.session.changes()
            token, permanent = Token.for_session(loaded.id), self.session.wants_permanent

            def change(current: Record) -> Record:
                new = current.with_data(changes.applied_to(current.encoded_data()), self._own)
                new = new.seen_at(now, client)
                new = new if permanent is None else new.remembered_as(permanent)
                new = new.authenticated_now(now) if confirm else new
                return new.with_secret_of(token) if current.secret == self._secret else new

            stored = store.update(loaded, change).stored
        if stored and token.matches(stored.record.secret):
            self._become(stored, token)
            self._note(signals.token_rotated, stored)
        else:
            self.session.adopt(stored)
        if stored and confirm:
            self._note(signals.login_confirmed, stored)
        return stored

    def update(self, stored: Stored, changes: Changes) -> None:
        """Writes the changes, and that somebody was here."""
        now, client = self._app.store.now(), self._client
        interval = to_ms(self._app.settings.renewal_interval)

        def change(current: Record) -> Record | None:
            data = current.encoded_data()
            edited = changes.applied_to(data)
            if edited == data and now - current.seen < interval:
                return None
            return current.with_data(edited, self._own).seen_at(now, client)

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

    def forget(self) -> None:
        """The current session has ended: pending changes are dropped, and the cookie goes, even one
        whose session had gone before."""
        self.session.adopt(None)
        has_cookie = self._app.cookie.is_in(self._request)
        self.answer = self._app.cookie.clear if has_cookie else None

    # What is told

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tells what is done in here when all of it is done, or the rest has failed."""
        try:
            yield
        finally:
            self.tell()

    def tell(self) -> bool:
        """Tells the receivers of signals what has been done; returns whether there was anything."""
        has_news = bool(self._news)
        while self._news:
            self._app.announce(*self._news.pop(0))
        return has_news

    def _note(self, signal: NamedSignal, stored: Stored) -> None:
        """Something has been done to the current session, which is to be told."""
        self._news.append((signal, self._app.store.info(stored, is_current=True)))

    def _note_logout(self, ended: Stored | None) -> None:
        if ended and not ended.record.is_visitors:
            self._news.append((signals.user_logged_out, self._app.store.info(ended)))

    def _note_activity(self, before: Record, after: Stored, interval: int) -> None:
        if after.record.seen - before.seen >= interval:
            self._note(signals.session_renewed, after)
        if (before.ip, before.agent) != (after.record.ip, after.record.agent):
            self._note(signals.client_changed, after)

    # How it is done

    def _load(self) -> Stored | Ended | None:
        token = self._app.cookie.read(self._request)
        if token is None:
            return None
        try:
            held = self._app.store.load(token)
        except StoreUnavailable as failure:
            _log_failure(failure)
            raise
        self._secret = held.record.secret if isinstance(held, Stored) else None
        return held

    def _arrive(self) -> None:
        """Takes over what the browser has from the time before this package. One that comes with a
        token has been here since: what it has left of old must not outlive a revocation."""
        is_moving = self._app.settings.migrate_cookie_session
        is_new = is_moving and not self._app.cookie.tokens_in(self._request)
        if is_new:
            self.session.take_over(signed_cookie.read(self._app.app, self._request))
            self.has_signed_data = bool(self.session)
        for meet in self._app.arrivals:
            meet(self.session, is_new)

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

    def _become(self, stored: Stored, token: Token) -> None:
        """This browser's session is now `stored`, which it opens with `token`."""
        self.session.adopt(stored)
        self._secret = stored.record.secret
        max_age = self._seconds_left(stored.record) if stored.record.remembered else None
        self.answer = partial(self._app.cookie.write, token=token, max_age=max_age)

    def _seconds_left(self, record: Record) -> int:
        """Of the absolute timeout. What is known of the server's time may be some ms older by now
        than when the record was made, so never more than all of it."""
        settings = self._app.settings
        left = settings.absolute_end(record) - self._app.store.now()
        return math.ceil(min(left, to_ms(settings.absolute_timeout)) / 1000)

    @property
    def _own(self) -> Collection[str]:
        """The keys of what is the browser's own from now on, whose it ever was. `flash` assigns the
        list with what was said to a former user, too."""
        return self.session.assigned - {MESSAGES}

    @property
    def _client(self) -> Client:
        settings = self._app.settings
        return Client.of(
            self._request.remote_addr if settings.record_ip else None,
            self._request.user_agent.string if settings.record_user_agent else None,
        )

    def _warn_of_plain_http(self) -> None:
        if self._app.cookie.secure and not self._request.is_secure:
            self._app.warn_of_plain_http()


def _log_failure(failure: StoreUnavailable) -> None:
    cause = failure.__cause__
    log.error("the session store is unavailable: %s", cause if cause else failure.description)
