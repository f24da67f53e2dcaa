"""One request of an app whose session is `flask.session`: logins by a key, and `permanent`."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Collection, Mapping, Set
from contextlib import suppress
from functools import partial

from ..data import NO_CHANGES, Changes
from ..errors import ConfigurationError, LoginRequired, StoreUnavailable
from ..record import Encoded, Record, Stored
from ..request import Data, RequestSession, weakly
from ..settings import FLASK_LOGIN_FRESH_KEY, FLASK_LOGIN_USER_KEY, ROLE_KEYS, config_key
from ..token import UserId, user_hash
from . import current_user, signed_cookie
from .owners import DataOwners
from .session import FlaskSession
from .transition import LoginTransition, previous_user_keys_of

if t.TYPE_CHECKING:
    from flask.wrappers import Request

    from ..app_state import AppState


class FlaskRequestSession(RequestSession):
    """Carries out what the app changes in `flask.session`: a change of `KVSESSION_USER_ID_KEY` is a
    login or a logout, and a change of `permanent` gives the browser another cookie."""

    session_class: t.ClassVar[type[FlaskSession]] = FlaskSession
    session: FlaskSession

    def __init__(self, app: AppState, request: Request) -> None:
        super().__init__(app, request)
        self._has_signed_data = False
        """Whether the browser sent data in Flask's signed cookie."""
        self._imported = NO_CHANGES
        """The changes that the load itself has made."""
        self.session.on_load = weakly(self, FlaskRequestSession._on_load)
        if current_user.decides(app.app, app.settings.user_id_key):
            self.session.is_decided_elsewhere = True
            self.session.accepts_user = partial(current_user.accepts_user_of, app.app)
        self.session.forget_csrf_tokens = weakly(self, FlaskRequestSession._forget_csrf_tokens)

    # Replaced methods of the core

    def check_verb(self, verb: str) -> None:
        """Raises `ConfigurationError` in an app with `KVSESSION_USER_ID_KEY`: two ways to sign a
        user in would contradict each other."""
        key = self._app.settings.user_id_key
        if key is None:
            return
        remedy = f"assign session[{key!r}] to log in, and delete it to log out"
        if key == FLASK_LOGIN_USER_KEY:
            remedy = f"call the {verb} of Flask-Login"
        raise ConfigurationError(
            f"{verb} of Flask-KVSession-Redis cannot be used in this app, because"
            f" {config_key('user_id_key')} is {key!r}; {remedy}."
        )

    def require_user(self) -> UserId:
        try:
            return super().require_user()
        except LoginRequired as refusal:
            # Flask-Login's sign-in page would send a user whom it knows straight back.
            is_known = self.session.is_decided_elsewhere and current_user.knows_somebody(
                self._app.app
            )
            refusal.can_sign_in = not is_known
            raise

    def confirm(self) -> None:
        self.require_user()
        with self.events.sent_at_end():
            self._apply_user_change()
            self._mark_as_fresh()
            super().confirm()

    def rotate(self) -> None:
        with self.events.sent_at_end():
            self._apply_user_change()
            super().rotate()

    def change_data(self, function: Callable[[dict[str, t.Any]], object]) -> None:
        # A pending login by the key, or a change of `permanent`, is not a change of data.
        self.session.require_open()
        with self.events.sent_at_end():
            self._save_if_loaded()
            super().change_data(function)

    def apply_pending(self) -> None:
        if self.session.is_loaded and not self.session.is_closed:
            with self.events.sent_at_end():
                self._apply_user_change()

    def log_out(self) -> bool:
        had_user = self.session.user_id_by_key is not None
        return super().log_out() or had_user

    def save(self, changes: Changes) -> None:
        session = self.session
        if FLASK_LOGIN_USER_KEY in session.assigned and session.user_id_by_key is None:
            self._app.warn_once(
                "Flask-Login has signed in a user whose sessions are neither listed nor revoked;"
                f' set {config_key("user_id_key")} = "{FLASK_LOGIN_USER_KEY}".'
            )
        if self._apply_user_change():
            return
        had_session = self.session.stored is not None
        super().save(changes)
        if not had_session and not self.session and self._has_cookie_to_clear():
            self.has_logged_out: bool = self._is_logout_by_clear()
            self.drop()

    def create_anonymous_session(
        self,
        data: Data,
        *,
        remembered: bool | None = None,
        replaces: Record | None = None,
        previous_user_keys: Collection[str] = (),
    ) -> None:
        if owners := self.session.owners:
            previous_user_keys = previous_user_keys or owners.previous_user_keys & data.keys()
        super().create_anonymous_session(
            data,
            remembered=self.session.permanent if remembered is None else remembered,
            replaces=replaces,
            previous_user_keys=previous_user_keys,
        )

    def change_secret(
        self, *, confirm: bool = False, remembered: bool | None = None
    ) -> Stored | None:
        if remembered is None:
            remembered = self.session.requested_permanent
        return super().change_secret(confirm=confirm, remembered=remembered)

    def update(self, stored: Stored, changes: Changes, *, remembered: bool | None = None) -> None:
        session = self.session
        if session.is_confirmed:
            self.change_secret(confirm=True)
        elif session.is_put_back:
            self.change_secret()
        elif session.permanent != stored.record.remembered:
            # The browser needs a cookie of another age: see docs/decisions.md.
            super().update(stored, changes, remembered=session.permanent)
        else:
            super().update(stored, changes, remembered=remembered)

    def has_unsaved_changes(self) -> bool:
        # Imported data are not lost: the next request imports them again.
        return super().has_unsaved_changes() and self.session.changes() != self._imported

    def with_data(self, current: Record, data: Mapping[str, Encoded]) -> Record:
        """The record with these data. In an anonymous one, data that this request has set while
        nobody was signed in are no longer a previous user's."""
        new, owners = super().with_data(current, data), self.session.owners
        if owners is None or not current.is_anonymous:
            return new
        keys = previous_user_keys_of(current) - owners.released_keys
        if left := owners.previous_user_keys:
            keys |= left & self.session.changes().set.keys()
        return new.with_previous_user_keys(keys & data.keys())

    # Data from before this package

    def _on_load(self) -> None:
        """Imports the browser's signed cookie if `KVSESSION_MIGRATE_COOKIE_SESSION` is on and the
        browser sends no token.

        A browser that sends a token was moved over before. If its signed cookie were imported
        again, that would undo a revocation.
        """
        is_moving = self._app.settings.migrate_cookie_session
        may_import = is_moving and not self._app.cookie.tokens_in(self._request)
        if may_import:
            self.session.import_data(signed_cookie.read(self._app.app, self._request))
            self._has_signed_data = bool(self.session)
        for hook in self._app.load_hooks:
            hook(self.session, may_import)
        if may_import or self._app.load_hooks:
            self._imported = self.session.changes()

    # Logins and logouts by `KVSESSION_USER_ID_KEY`

    def _apply_user_change(self) -> bool:
        """Carries out a pending login or logout by the key, with all other changes. Returns whether
        one was pending."""
        if not self.session.is_user_change_pending and not self._is_logout_of_replaced_secret():
            return False
        user_id = self.session.user_id_by_key
        if user_id is None:
            self._log_out_by_key()
        else:
            self._log_in_by_key(user_id)
        return True

    def _log_in_by_key(self, user_id: UserId) -> None:
        session, transition, user = self.session, self._transition(), user_hash(user_id)
        is_assigned = self._app.settings.user_id_key in session.assigned

        def merge(current: Record | None, *, is_gone: bool = False) -> Data | None:
            if is_gone and not is_assigned:
                return None  # a session that was only imported, and has ended, stays ended
            return transition.data_for_login(current, is_gone=is_gone)

        # Do not inherit `permanent` from another user's session.
        is_same_user = session.loaded_user_hash in (None, user)
        remember = session.permanent if is_same_user else bool(session.requested_permanent)
        authenticated = self._is_authenticated_by_key()
        self.create_user_session(user_id, merge, remember=remember, authenticated=authenticated)

    def _log_out_by_key(self) -> None:
        """Ends the user's session. The remaining data go into a new anonymous session.

        If the session was ended from outside, or replaced, only data that this request has assigned
        remain. If they cannot be written, the logout still counts as done.
        """
        transition, permanent = self._transition(), bool(self.session.requested_permanent)
        ended = self.delete_session()
        before = ended.record if ended else None
        data, previous_user_keys = transition.data_after_logout(before)
        if data:
            with suppress(StoreUnavailable):
                self.create_anonymous_session(
                    data,
                    remembered=permanent,
                    replaces=before,
                    previous_user_keys=previous_user_keys,
                )

    def _transition(self) -> LoginTransition:
        session, owners = self.session, t.cast(DataOwners, self.session.owners)
        return LoginTransition(
            user_id_key=t.cast(str, self._app.settings.user_id_key),
            loaded_user=owners.loaded_user,
            is_loaded=session.stored is not None,
            keys=frozenset(session),
            changes=session.changes(),
            own=owners.own_data(),
            previous_user_keys=owners.previous_user_keys,
            removed_keys=owners.removed_keys,
            left_keys=frozenset(ROLE_KEYS | self.csrf_keys),
        )

    def _forget_csrf_tokens(self) -> Set[str]:
        self.forget_csrf_tokens()
        return self.csrf_keys

    def _is_authenticated_by_key(self) -> bool:
        """Whether the user has proved who they are in this request. Imported data, a copy of the
        session, and a login by Flask-Login's remember cookie, are no proof."""
        session = self.session
        if session.get(FLASK_LOGIN_FRESH_KEY) is False:
            return False
        is_assigned = self._app.settings.user_id_key in session.assigned
        return session.is_confirmed or (is_assigned and not session.is_put_back)

    def _mark_as_fresh(self) -> None:
        """Tells Flask-Login that the user has proved who they are: it would go on to say that the
        session is not fresh, and so would `is_fresh`."""
        fresh = self.session.get(FLASK_LOGIN_FRESH_KEY)
        if self.session.is_decided_elsewhere:
            if fresh is not True:
                current_user.confirm(self._app.app)
        elif fresh is False:
            self.session[FLASK_LOGIN_FRESH_KEY] = True

    def _has_cookie_to_clear(self) -> bool:
        """Whether the browser's cookie must be deleted although it opens no session.

        Otherwise a signed cookie would bring back the data that were cleared. If `clear()` is a
        logout, it must also delete the new cookie of a concurrent rotation. After a rotation the
        token of this request opens no session.
        """
        return self._is_logout_by_clear() or self._has_signed_data

    def _is_logout_of_replaced_secret(self) -> bool:
        """Whether a logout has to end the session of a user whose secret another request has just
        replaced. To this request nobody is signed in, so its key has not changed."""
        is_logout = self._is_logout_by_clear() or self.session.has_logout_without_user
        return is_logout and bool(self._presented.replaced)

    def _is_logout_by_clear(self) -> bool:
        return self._app.settings.user_id_key is not None and self.session.is_cleared
