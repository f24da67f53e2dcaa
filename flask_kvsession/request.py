"""One request's session: load, log in, log out, rotate, commit, and the decision about the cookie.

`current.request_session()` gives that of the current request.
"""

from __future__ import annotations

import logging
import sys
import time
import typing as t
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property, partial

from flask import g, has_app_context

from . import binding, codec, signals
from .app_state import AppState
from .cookie_changes import CookieChanges
from .data import NO_CHANGES, Changes
from .errors import KVSessionError, LoginRequired, StoreUnavailable
from .events import RequestEvents
from .presented import NOTHING_PRESENTED, look_up, shows_device
from .record import (
    Client,
    Encoded,
    Record,
    Stored,
    Tombstone,
    end_in_ms,
    new_record,
)
from .response import answer_failure, forbid_storing, vary_by_cookie
from .rotation import Standing, judge, rotated_explicitly, successor_of, with_step
from .session import Session
from .settings import ROLE_KEYS, CsrfKeys
from .store import Login, Merge, OnEnd, SessionStore, WatchedSession
from .token import Token, UserId, new_session_id, user_hash

if t.TYPE_CHECKING:
    from flask.wrappers import Request, Response

log: logging.Logger = logging.getLogger("flask_kvsession")

Data = Mapping[str, bytes]
"""A session's data: each value encoded, under its key."""

T = t.TypeVar("T")
Owner = t.TypeVar("Owner")

BEGAN = "_kvsession_began"
"""The attribute of a request with the monotonic time, s, at which it entered the app."""

_READ_TOO_LATE = (
    "A session was first read after its response had begun, for example in a streamed response. The"
    " response could not get the header Vary: Cookie any more, so a shared cache may give it to"
    " other users. Read the session in the view, and pass the values to the stream."
)


class RequestSession:
    """One request's session: its mapping, its writes to the store, and its cookie.

    A subclass for apps that sign users in in another way may replace:

    - `session_class`, the mapping that the app sees;
    - `check_verb`, which refuses `login_user` and `logout_user`;
    - `log_out`, `confirm`, `rotate` and `change_data`, the verbs, and `require_user`, which they
      and guards ask;
    - `apply_pending`, for a login that is not in the store yet;
    - `save`, the one write at the end of a request, and its parts `create_anonymous_session`,
      `change_secret` and `update`;
    - `with_data`, which gives changed data to a record.
    """

    session_class: t.ClassVar[type[Session]] = Session

    _cached: Stored | None = None
    """The session as the near cache gave it; None if it was loaded from Redis."""

    _is_finished = True  # set to False by __init__: if that fails, __del__ reports nothing

    def __init__(self, app: AppState, request: Request) -> None:
        self.has_logged_out: bool = False
        """Whether this request has signed its browser out."""
        self.is_guarded = False
        """Whether a guard has let this request through, so that its response is private."""
        self._app = app
        # The request holds this object. Weak references avoid a cycle, so that both are freed with
        # the request and not later by the garbage collector.
        self._request = weakref.proxy(request)
        self._created = time.monotonic()
        self._token: Token | None = None
        """The token that opens this browser's session. The stored secret differs after a rotation
        by another request."""
        self._presented = NOTHING_PRESENTED
        load = weakly(self, RequestSession._load)
        self.session: Session = self.session_class(load, app.now, app.settings)
        self._is_finished = False

    @cached_property
    def events(self) -> RequestEvents:
        """What this request reports. Most requests report nothing, so it is made when needed."""
        return RequestEvents(self._app, self._request, self.session)

    @cached_property
    def _cookies(self) -> CookieChanges:
        """What the response does with the cookies; made when there is something to do."""
        return CookieChanges(self._app, self._request)

    def __del__(self) -> None:
        """Reports changes that can no longer be saved."""
        if self._is_finished or sys.is_finalizing():
            return
        with suppress(KVSessionError):  # an unstorable value in a list that was changed in place
            if self.has_unsaved_changes():
                self._app.warn_once(
                    "Changes to the session were lost: their request ended without Flask's"
                    " after_request functions, which save them. This happens in"
                    " test_request_context(), in a socket event, and if an exception leaves the"
                    " app. Change the session in a view, or call the app's process_response before"
                    " the context ends."
                )

    # Verbs

    def log_in(
        self,
        user_id: UserId,
        data: Mapping[str, t.Any],
        remember: bool,
        end_at: datetime | None = None,
    ) -> None:
        """Ends the current session and creates this user's session at once.

        An anonymous session's data are carried over, pending changes too, but no CSRF token, and
        `role` and `roles` only if this request has set them. A user's data are not carried over.
        """
        user_hash(user_id)  # raises for an unusable id, before anything else happens
        end = None if end_at is None else end_in_ms(end_at, self._app.now())
        encoded = codec.encode_all(data)
        self.forget_csrf_tokens()
        csrf_keys = self.csrf_keys

        def merge(current: Record | None, *, is_gone: bool = False) -> Data:
            if current is not None and not current.is_anonymous:
                return encoded
            changes = self.session.changes()
            roles_left = ROLE_KEYS - (self.session.assigned & changes.set.keys())
            data = changes.applied_to(_data_of(current))
            kept = {k: v for k, v in data.items() if k not in csrf_keys | roles_left}
            return kept | encoded

        with self.events.sent_at_end():
            self.create_user_session(user_id, merge, remember=remember, end_at=end)

    def log_out(self) -> bool:
        """Ends this browser's session in Redis at once. What is left is an empty anonymous one.

        Returns whether it was a user's session.
        """
        self.forget_csrf_tokens()
        with self.events.sent_at_end():
            ended = self.delete_session()
        return ended is not None and not ended.record.is_anonymous

    def confirm(self) -> None:
        """Makes the session fresh, with a new secret; raises `LoginRequired` if nobody is signed
        in."""
        self.require_user()
        with self.events.sent_at_end():
            if not self.change_secret(confirm=True):
                raise LoginRequired(ended=self.session.ended)

    def rotate(self) -> None:
        """Gives the session a new secret; does nothing without a session."""
        with self.events.sent_at_end():
            self.change_secret()

    def change_data(self, function: Callable[[dict[str, t.Any]], object]) -> None:
        """Writes what `function` makes of the newest data, at once, and this request's pending
        changes with it. If the session has ended meanwhile, it is empty from now on."""
        self.session.require_open()
        self.use_newest()
        changes = self.session.changes_by(function)
        with self.events.sent_at_end():
            if stored := self.session.stored:
                self._change_stored_data(stored, changes)
            elif (data := changes.applied_to({})) and not self._drops_anonymous_writes():
                self.create_anonymous_session(data)

    def end_reason(self) -> str | None:
        """Why this browser's session ended: the reason of an end from outside, or `"expired"` if
        the browser names a session that does not exist any more. None if a user is signed in."""
        if self.session.is_authenticated:
            return None
        presented = self._presented
        ended = self.session.ended or presented.end_reason
        return ended or ("expired" if presented.names_no_session else None)

    def shows_bound_device(self) -> bool:
        """Whether this request has proved that it comes from the device to which its session is
        bound."""
        self.session.require_loaded()
        own = self._presented.own
        return bool(own and shows_device(self._app, self._request, own, self._get_began))

    def require_user(self) -> UserId:
        """The id of the signed-in user; raises `LoginRequired` if nobody is signed in."""
        self.session.require_loaded()
        user_id = self.session.user_id
        if user_id is None:
            refusal = LoginRequired(ended=self.session.ended or self._presented.end_reason)
            self.events.log_refusal(refusal)
            raise refusal
        return user_id

    def use_newest(self) -> None:
        """Reads the session from Redis if it is still as the near cache gave it, which may not know
        the changes of the last second. The changes of this request stay pending.

        What must not follow an older state calls it first: a guard of a fresh login, a revocation.
        After a login, a logout or a new secret, the request's own token no longer says which
        session it has, and Redis was asked anyway.
        """
        stored = self.session.stored
        if stored is None or stored is not self._cached or self._is_finished:
            return
        with self._store_calls():
            loaded = self._look_up(in_redis=True)
        self.session.follow(loaded)

    def apply_pending(self) -> None:
        """Carries out a login or logout that would follow only at the end of the request.

        What looks at the sessions in Redis calls it first: this one must be among them.
        """

    def watch(self, on_end: OnEnd | None = None) -> WatchedSession:
        """Watches this browser's session. Without a session, the result never ends."""
        self.session.require_loaded()
        self.apply_pending()
        stored = self.session.stored
        if stored is None:
            return WatchedSession()
        watched = self._app.store.watch(stored, on_end)
        self.session.follow_end_of(watched)
        return watched

    def check_verb(self, verb: str) -> None:
        """Raises `ConfigurationError` if this app has another way to sign users in and out."""

    # The end of the request

    def finish(self, response: Response) -> Response:
        """Commits once, and adds `Vary` and `Set-Cookie` to the response.

        If the commit fails, the response becomes the app's answer to `StoreUnavailable`: an
        exception raised here would become a 500. The same happens if Flask has just made a 500 of
        a failure of the store, which an error handler or an `after_request` function has raised.
        """
        try:
            self._commit()
            failure = self.session.failure
            if failure and _is_being_handled(failure):
                answer_failure(self._app.app, response, failure)
            elif failure and self._app.settings.on_store_failure == "anonymous":
                # The page may say "sign in" to a signed-in user: no cache may keep it.
                response.headers.setdefault("Cache-Control", "no-store")
        except StoreUnavailable as failure:
            answer_failure(self._app.app, response, failure)
        finally:  # acts that were done before a failure stay done, so their cookie is sent
            if self.session.accessed:
                vary_by_cookie(response)
            if self.is_guarded and self._app.settings.guarded_no_store:
                forbid_storing(response)
            if "_cookies" in vars(self):
                self._cookies.apply(response)
            if self.has_logged_out:
                self._clear_site_data(response)
        return response

    def _clear_site_data(self, response: Response) -> None:
        """Tells the browser to forget private pages (`KVSESSION_CLEAR_SITE_DATA`)."""
        types = self._app.settings.clear_site_data
        if not types:
            return
        # "*" would also delete the cookie of a login that followed the logout.
        is_next_login = types == "*" and self.session.is_authenticated
        value = '"cache", "storage"' if is_next_login else f'"{types}"'
        response.headers.add("Clear-Site-Data", value)

    def _commit(self) -> None:
        """Saves the changes, and then the changes that signal receivers have made.

        The signals of the second save are sent after the session is closed. If a receiver then
        changes the session, the change raises.
        """
        if self._is_finished:
            return
        self._is_finished = True
        # What has ended before is not saved. A session that ends from here on stays ended, but it
        # must not become an anonymous one, with the changes, half-way through the commit.
        watched = self.session.stop_following_ends()
        try:
            self._save_if_loaded()
            if "events" in vars(self) and self.events.send():
                self._save_if_loaded()
        finally:
            self.session.is_closed = True
            self.session.follow_end_of(*watched)
            if "events" in vars(self):
                self.events.send()

    def close(self) -> None:
        """Ends a request that has nothing to commit: from now on a change of its session raises."""
        self._is_finished = True
        self.session.is_closed = True

    def has_unsaved_changes(self) -> bool:
        return self.session.is_loaded and bool(self.session.changes())

    def _save_if_loaded(self) -> None:
        if not self.session.is_loaded or self.session.failure:
            return
        if self.session.is_interrupted:
            log.warning("a change of the session was interrupted, so its changes are not saved")
            return
        changes = self.session.changes()
        if changes is not NO_CHANGES:
            self.session.modified = True  # tests read it after the request
        self.save(changes)

    def save(self, changes: Changes) -> None:
        """The one write of this request to the store, if it needs one."""
        stored = self.session.stored
        if stored is None:
            if changes.set and not self._drops_anonymous_writes():
                self.create_anonymous_session(changes.set)
            return
        has_changes = changes is not NO_CHANGES
        if has_changes and stored.record.is_anonymous and not self._changed_data(stored.record):
            stored = self._delete_if_unchanged(stored)
        if stored is not None:
            self.update(stored, changes)

    def _change_stored_data(self, loaded: Stored, changes: Changes) -> None:
        with self._store_calls() as store:
            outcome = store.update(loaded, self._step(changes, store.now()), once=True)
        if not (outcome.written and outcome.stored):
            self.session.rebase(outcome.stored)
            return
        self._follow_update(loaded.record, outcome.stored, changes, None)
        if outcome.stored.record.is_anonymous and not outcome.stored.record.data:
            self.session.rebase(self._delete_if_unchanged(outcome.stored))

    def _drops_anonymous_writes(self) -> bool:
        """Whether an anonymous session would get the cookie of a user whose secret was replaced
        while this request was under way. It can, if there is one name for both."""
        return bool(self._presented.replaced) and self._app.cookie.has_one_name

    # Acts: each changes the store, then this session, the cookie and the pending signals

    def create_user_session(
        self,
        user_id: UserId,
        merge: Merge,
        *,
        remember: bool,
        authenticated: bool = True,
        end_at: int | None = None,
    ) -> None:
        """A login: creates the user's session in place of the current session.

        `merge` chooses the new data from the current session's record. If `merge` refuses the
        login, the browser has no session afterwards.
        """
        self.session.require_open()
        with self._store_calls() as store:
            old = self.session.stored
            user = user_hash(user_id)
            token = Token.for_session(new_session_id(user))
            record = new_record(
                token,
                now=store.now(),
                client=self._client,
                user_id=user_id,
                remembered=remember,
                authenticated=authenticated,
                end_at=end_at,
                data=merge(old.record if old else None) or {},
            )
            offer = self._new_offer(token.session_id)
            record = binding.with_offer(record, offer, record.created) if offer else record
            new, on_revoked = Stored.of(token.session_id, record), self.events.queue_revoked
            presented, self._presented = self._presented, NOTHING_PRESENTED
            # Who has just proved to be this user may also end the user's session of this browser
            # that the browser could not open.
            own = [stored for stored in presented.unproven if stored.user_hash == user]
            others = [*presented.others, *own]
            login = store.login(new, old, merge, on_revoked, others, presented.unread)
        if login.stored is None:
            self.session.rebase(None)
            return
        self._use(login.stored, token)
        if offer:
            self._cookies.clear_short_cookies()
            self._cookies.offer_binding(offer)
        self._warn_if_cookie_will_be_lost()
        self.events.queue_logouts(login.ended)
        self._app.warn_of_many_logins(login.stored.user_hash, self._client)
        undo = partial(self._undo_login, login)
        self.events.queue_for_current(signals.user_logged_in, undo=undo)

    def _undo_login(self, login: Login) -> None:
        """Follows a receiver of `user_logged_in` that has raised: ends the new session.

        The data of an anonymous session that the login has replaced go into a new one. A user's
        session that the login has replaced stays ended.
        """
        new = login.stored
        assert new, "only a login that was carried out is announced"
        if ended := self._app.store.undo_login(new):
            self.events.queue_logouts([ended])
        if self.session.failure:
            self._cookies.clear(self._app.cookie.name)
        elif self.session.id == new.id:
            self.drop()
            if login.replaced and login.replaced.record.is_anonymous:
                self._restore_anonymous_session(login.replaced.record)

    def _restore_anonymous_session(self, record: Record) -> None:
        with suppress(StoreUnavailable):  # the exception of the receiver is the one to raise
            self.create_anonymous_session(
                record.encoded_data(),
                remembered=record.remembered,
                replaces=record,
                previous_user_keys=record.previous_user_keys or (),
            )

    def create_anonymous_session(
        self,
        data: Data,
        *,
        remembered: bool = True,
        replaces: Record | None = None,
        previous_user_keys: Collection[str] = (),
    ) -> None:
        """The first write of an anonymous browser. If the data remain after a logout, `replaces` is
        the record of the ended session, and `previous_user_keys` the keys of its user's data."""
        with self._store_calls() as store:
            token = Token.for_session(new_session_id(None))
            record = new_record(
                token,
                now=store.now(),
                client=self._client,
                remembered=remembered,
                previous_user_keys=previous_user_keys,
                previous_end_reason=self._lasting_end_reason(),
                data=data,
            )
            store.create(new := Stored.of(token.session_id, record), replaces)
        self._use(new, token)

    def _lasting_end_reason(self) -> str | None:
        """Why the browser's session was ended. One that is bound and not proven may go on."""
        return None if self._presented.unproven else self.session.ended

    def delete_session(self) -> Stored | None:
        """A logout: ends each session that the request's tokens open.

        Returns the browser's own session as it was when it ended; None if there was none, or if it
        had ended before.
        """
        with self._store_calls() as store:
            stored = self.session.stored
            _, ended = store.remove(stored) if stored else (True, None)
            presented, self._presented = self._presented, NOTHING_PRESENTED
            others = store.end_others([*presented.others, *presented.replaced], presented.unread)
        self.drop()
        self.has_logged_out = True
        self.events.queue_logouts([ended, *others] if ended else others)
        return ended

    def change_secret(
        self, *, confirm: bool = False, remembered: bool | None = None
    ) -> Stored | None:
        """Gives the session a new secret, and writes the pending changes with it.

        If this request's token is no longer valid, because another request has changed the secret,
        that secret stays and this response sends no cookie. Returns the session; None if there is
        none. `remembered` changes whether the cookie outlives the browser; None leaves it.
        """
        self.session.require_open()
        with self._store_calls() as store:
            loaded = self.session.stored
            if loaded is None:
                return None
            now, client, changes = store.now(), self._client, self.session.changes()
            token = Token.for_session(loaded.id)
            offer = self._new_offer(loaded.id) if confirm else None

            def change(current: Record) -> Record:
                new = self.with_data(current, changes.applied_to(current.data))
                new = new.with_activity(now, client)
                new = new if remembered is None else new.with_remembered(remembered)
                new = new.with_authentication(now) if confirm else new
                new = binding.with_offer(new, offer, now) if offer else new
                return (
                    rotated_explicitly(new, token, now) if self._may_rotate(new, confirm) else new
                )

            stored = store.update(loaded, change).stored
        if stored and token.matches(stored.record.secret):
            self._use(stored, token)
            if offer and offer.is_open(stored.record, now):
                self._cookies.offer_binding(offer)
            self.events.queue_for_current(signals.token_rotated)
        else:
            self.session.rebase(stored)
        if stored and confirm:
            self.events.queue_for_current(signals.login_confirmed)
        return stored

    def _may_rotate(self, record: Record, confirm: bool) -> bool:
        """Whether this request's own token may get a new secret. In the grace only a password may:
        otherwise a thief with an old token could take the session over."""
        standing = judge(record, self._token, self._get_began) if self._token else Standing.UNKNOWN
        return standing.is_valid and (confirm or standing is not Standing.IN_GRACE)

    def update(self, stored: Stored, changes: Changes, *, remembered: bool | None = None) -> None:
        """Writes the changes, or a renewal or periodic rotation if one is due. If only one of the
        latter fails, that is only logged.

        `remembered` changes whether the cookie outlives the browser; None leaves it.
        """
        now, interval = self._app.now(), self._app.settings.milliseconds.renewal_interval
        is_due = now - stored.record.seen >= interval
        is_due = is_due or self._with_rotation_step(stored.record, now) is not stored.record
        has_changes = changes is not NO_CHANGES
        if not has_changes and not is_due and remembered is None:
            return
        try:
            outcome = self._app.store.update(stored, self._step(changes, now, remembered))
        except StoreUnavailable as failure:
            if has_changes or remembered is not None:
                self.session.fail(failure)
                raise
            return  # the next request does it
        # A session that has ended meanwhile stays ended, and its changes are dropped.
        if outcome.written and outcome.stored:
            self._follow_update(stored.record, outcome.stored, changes, remembered)

    def _step(
        self, changes: Changes, now: int, remembered: bool | None = None
    ) -> Callable[[Record], Record | None]:
        """What one write makes of a record: its data after the changes, and a renewal or periodic
        rotation if one is due. None: nothing is to be written."""
        interval = self._app.settings.milliseconds.renewal_interval
        is_activity = self._app.settings.is_activity(self._request.path)
        client = self._client

        def change(current: Record) -> Record | None:
            edited = self.with_data(current, changes.applied_to(current.data))
            new = current
            if is_activity and now - current.seen >= interval:
                new = binding.without_ended_offer(edited, now).with_activity(now, client)
            elif edited != current:
                new = edited.with_client(client) if is_activity else edited
            is_other_age = remembered is not None and remembered != new.remembered
            if is_other_age:
                new = new.with_remembered(bool(remembered))
            new = self._with_rotation_step(new, now, is_wanted=is_other_age)
            return None if new is current else new

        return change

    def _with_rotation_step(self, record: Record, now: int, *, is_wanted: bool = False) -> Record:
        """The record after what this request's secret asks for: see `rotation.with_step`."""
        timeouts = self._app.settings.milliseconds
        due_after, grace = timeouts.rotation_interval, timeouts.rotation_grace
        if not (due_after or is_wanted or record.before) or self._token is None:
            return record
        if judge(record, self._token, self._get_began) is not Standing.CURRENT:
            return record
        return with_step(record, self._token, now, due_after, grace, is_wanted=is_wanted)

    def _follow_update(
        self, before: Record, stored: Stored, saved: Changes, remembered: bool | None
    ) -> None:
        """Gives the browser the cookie that a written update asks for, and queues its signals."""
        token, record = self._token, stored.record
        self.session.rebase(stored, saved)
        if token and remembered is not None and token.matches(record.secret):
            self._cookies.set(stored, token)  # the same token, with another age
        if record.before:
            self._hand_on_successor(stored)
        if record.rotated != before.rotated:
            self.events.queue_for_current(signals.token_rotated)
        if (record.seen, record.ip, record.agent) != (before.seen, before.ip, before.agent):
            self.events.queue_activity(before, record)

    def drop(self) -> None:
        """Follows the end of the current session: drops pending changes and deletes the cookies,
        also those of sessions that had ended before."""
        if (stored := self.session.stored) and not stored.record.is_anonymous:
            self.has_logged_out = True
        self.session.rebase(None)
        self._cookies.clear(self._app.cookie.name, self._app.cookie.anonymous_name)
        if self._app.settings.device_bound:
            self._cookies.clear_short_cookies()

    def _delete_if_unchanged(self, stored: Stored) -> Stored | None:
        """Deletes an anonymous session that this request has emptied.

        If another request has written to the session meanwhile, the session stays and is returned.
        If the session had ended before, the cookie stays: it may be the cookie of a newer login.
        """
        with self._store_calls() as store:
            gone, current = store.remove(stored, if_unchanged=True)
        if not gone:
            return current
        if current:
            self.session.rebase(None)
            self._cookies.clear(self._app.cookie.anonymous_name)
        return None

    def with_data(self, current: Record, data: Mapping[str, Encoded]) -> Record:
        """The record `current` with the data `data`, which this request has changed."""
        return current.with_data(data)

    @property
    def csrf_keys(self) -> Set[str]:
        """The keys of CSRF tokens in the session. No login carries these tokens over."""
        return CsrfKeys.from_config(self._app.app.config)

    def forget_csrf_tokens(self) -> None:
        """Removes the CSRF tokens that extensions keep in `flask.g` beside those in the session, so
        that the next form gets a new one."""
        if has_app_context():  # session_transaction() of a test client has none
            for key in self.csrf_keys:
                if isinstance(g.get(key), str):
                    g.pop(key)

    # How it works

    def _load(self) -> Stored | Tombstone | None:
        if self._is_finished:
            self._app.warn_once(_READ_TOO_LATE)
        return self._look_up()

    def _look_up(self, *, in_redis: bool = False) -> Stored | Tombstone | None:
        """What the request's tokens open."""
        self._presented = presented = look_up(
            self._app, self._request, self._get_began, in_redis=in_redis
        )
        for info in presented.stolen:
            self.events.report_theft(info, self._client)
        for stored in presented.unproven:
            self.events.log_unproven(stored, self._client)
        own = presented.own
        self._cached = own.stored if own and own.is_cached else None
        if own and own.stored:
            self._token = own.token
            if own.standing is Standing.SUPERSEDED:
                self._hand_on_successor(own.stored)
            return own.stored
        return Tombstone(presented.end_reason) if presented.end_reason else None

    def _get_began(self) -> int:
        return self._began

    @cached_property
    def _began(self) -> int:
        """The time at which the request entered the app, ms of the server's clock."""
        entered = getattr(self._request, BEGAN, self._created)
        return self._app.now() - int((time.monotonic() - entered) * 1000)

    def _hand_on_successor(self, stored: Stored) -> None:
        """Gives the browser the successor of its secret, if a periodic rotation has superseded that
        and no request has shown the successor yet."""
        token = self._token
        if token and judge(stored.record, token, self._get_began) is Standing.SUPERSEDED:
            self._cookies.set(stored, successor_of(stored.record, token))

    @contextmanager
    def _store_calls(self) -> Iterator[SessionStore]:
        """If the store fails in the block, this request has no session from then on."""
        self.session.require_loaded()
        try:
            yield self._app.store
        except StoreUnavailable as failure:
            self.session.fail(failure)
            raise

    def _use(self, stored: Stored, token: Token) -> None:
        """Makes `stored` this browser's session, and sends `token` in the cookie."""
        self.session.rebase(stored)
        self._token = token
        if not stored.record.is_anonymous:
            self._cookies.clear(self._app.cookie.anonymous_name)
        self._cookies.set(stored, token)

    def _new_offer(self, session_id: str) -> binding.Offer | None:
        """An offer to bind this session to the device, if the app makes such offers."""
        url = self._app.registration_url()
        return None if url is None else binding.Offer.for_session(session_id, url)

    def _changed_data(self, record: Record) -> Data:
        return self.session.changes().applied_to(record.encoded_data())

    @property
    def _client(self) -> Client:
        settings = self._app.settings
        return Client.of(
            self._request.remote_addr if settings.record_ip else None,
            self._request.environ.get("HTTP_USER_AGENT") if settings.record_user_agent else None,
        )

    def _warn_if_cookie_will_be_lost(self) -> None:
        if self._app.cookie.secure and not self._request.is_secure:
            self._app.warn_of_plain_http(self._request.host)


def _data_of(record: Record | None) -> Data:
    return record.encoded_data() if record else {}


def weakly(owner: Owner, method: Callable[[Owner], T]) -> Callable[[], T]:
    """`method`, bound to `owner` without a strong reference to it."""
    return partial(_call_if_alive, weakref.ref(owner), method)


def _call_if_alive(reference: Callable[[], Owner | None], method: Callable[[Owner], T]) -> T:
    owner = reference()
    if owner is None:
        raise KVSessionError(
            "The session was first read after its request had ended; read the values in the"
            " request, and pass them to the code that runs later."
        )
    return method(owner)


def _is_being_handled(failure: StoreUnavailable) -> bool:
    """Whether Flask is currently handling this failure as an error (500)."""
    return failure is sys.exception()
