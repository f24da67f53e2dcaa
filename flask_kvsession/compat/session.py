"""`flask.session`: the core's mapping, with the other features of Flask's own session."""

from __future__ import annotations

import logging
import typing as t
from collections.abc import Callable, Iterator, Mapping, Set

from ..data import Changes
from ..errors import KVSessionError
from ..record import Stored, Tombstone
from ..session import Session, in_one_step
from ..settings import FLASK_LOGIN_FRESH_KEY, Settings, config_key
from ..token import UserId, check_user_id, user_hash
from . import coerce
from .owners import DataOwners
from .transition import previous_user_keys_of

log: logging.Logger = logging.getLogger("flask_kvsession")


class FlaskSession(Session):
    """This request's session as `flask.session`.

    A value of a subclass of a storable type becomes its base type. With `KVSESSION_USER_ID_KEY`,
    the value of that key is the id of the signed-in user.
    """

    __slots__ = (
        "_confirmed_user_hash",
        "_is_copied",
        "_is_key_deleted",
        "_is_permanent_reset",
        "_is_put_back",
        "_loaded_user_hash",
        "_requested_permanent",
        "_taken_user_id",
        "accepts_user",
        "forget_csrf_tokens",
        "has_logout_without_user",
        "is_decided_elsewhere",
        "on_load",
        "owners",
    )

    def __init__(
        self,
        load: Callable[[], Stored | Tombstone | None],
        now: Callable[[], int],
        settings: Settings,
    ) -> None:
        super().__init__(load, now, settings)
        self._loaded_user_hash: str | None = None
        self._requested_permanent: bool | None = None
        self._confirmed_user_hash: str | None = None
        self._taken_user_id: object = None
        self._forget_changes()
        self.on_load: Callable[[], None] = lambda: None
        """Called after the load, before the app sees the session."""
        self.is_decided_elsewhere: bool = False
        """Whether Flask-Login decides who is signed in, and reports each login."""
        self.accepts_user: Callable[[FlaskSession], bool] = lambda session: True
        """Whether Flask-Login accepts the user whom the key names."""
        self.forget_csrf_tokens: Callable[[], Set[str]] = frozenset
        """Removes the CSRF tokens in `flask.g`; gives the keys of those in the session."""
        self.has_logout_without_user: bool = False
        """Whether the app has signed out although nobody was signed in, for example because another
        request has just replaced the token."""
        self.owners: DataOwners | None = None
        """Whose the data are; None without `KVSESSION_USER_ID_KEY`."""

    @property
    def user_id(self) -> UserId | None:
        """The id of the signed-in user; None for an anonymous session.

        With `KVSESSION_USER_ID_KEY`, the value of that key, from its assignment on. The login in
        Redis follows at the commit. With Flask-Login, None too if its `current_user` is not this
        user: the account may have been deactivated.
        """
        if self._settings.user_id_key is None:
            return super().user_id
        self._touch()
        return None if self.failure or not self.accepts_user(self) else self.user_id_by_key

    @property
    def is_fresh(self) -> bool:
        """Whether the user proved who they are within `KVSESSION_FRESH_FOR`."""
        # Flask-Login sets False if the client has changed. It looks when it is asked for the user.
        if self.user_id is None or self.is_user_change_pending:
            return False
        is_by_key = self._settings.user_id_key is not None
        if is_by_key and self.get(FLASK_LOGIN_FRESH_KEY) is False:
            return False
        return super().is_fresh

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser; False until it is set, as in Flask.

        The idle timeout of a permanent session is `PERMANENT_SESSION_LIFETIME`.
        """
        record = self._record()
        if self.requested_permanent is not None:
            return self.requested_permanent
        return record.remembered if record else False

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self.require_open()
        self._requested_permanent = bool(value)
        self._is_permanent_reset = False

    @in_one_step
    def __setitem__(self, key: str, value: t.Any) -> None:
        if key != self._settings.user_id_key:
            super().__setitem__(key, value)
            if self.owners is not None:
                self.owners.assigned(key)
            return
        self._note_taken_user_id()
        super().__setitem__(key, value)
        self._is_put_back = self._is_key_deleted or self._is_taken(value)
        if self.owners is not None:
            self.owners.user_changed(self._user_by_key())

    @in_one_step
    def __delitem__(self, key: str) -> None:
        if key != self._settings.user_id_key:
            super().__delitem__(key)
            if self.owners is not None:
                self.owners.deleted(key)
            return
        self._note_taken_user_id()
        self._is_key_deleted = True
        super().__delitem__(key)
        if self.owners is not None:
            self.owners.user_changed(None)

    def pop(self, key: str, *default: t.Any) -> t.Any:
        if key == self._settings.user_id_key and key not in self:
            self.note_logout()
        return super().pop(key, *default)

    def __iter__(self) -> Iterator[str]:
        items = super().__iter__()
        self._is_copied = True
        return items

    @in_one_step
    def clear(self) -> None:
        """Removes all data, also data that other requests add meanwhile, and sets `permanent` to
        False.

        If this request has set `permanent` before, it keeps that value: a hook that sets it for
        every page is not called again in this request.
        """
        self.require_open()
        self._note_taken_user_id()
        if self.owners is not None:
            self.owners.before_clear()
        super().clear()
        # What was copied before may now be put back.
        self._is_key_deleted = self._is_key_deleted or self._is_copied
        if self._requested_permanent is None:
            self._requested_permanent = False
            self._is_permanent_reset = True

    # For the `FlaskRequestSession` that owns it

    @property
    def requested_permanent(self) -> bool | None:
        """The value of `permanent` that this request has set; None if it has set none."""
        if self._is_permanent_reset and self.is_put_back:
            return None
        return self._requested_permanent

    @property
    def user_id_by_key(self) -> UserId | None:
        """The user whom `KVSESSION_USER_ID_KEY` names, also one whom Flask-Login does not
        accept."""
        key = self._settings.user_id_key
        value = None if key is None else self.get(key)
        return value if _is_user_id(value) else None

    def note_login(self) -> None:
        """Flask-Login has just signed the user in, or confirmed the login."""
        if self.get(FLASK_LOGIN_FRESH_KEY) is True:
            self._confirmed_user_hash = self._user_hash_by_key()

    def note_logout(self) -> None:
        """The app or Flask-Login has just signed out whoever is signed in."""
        if self.user_id_by_key is None:
            self.has_logout_without_user = True

    @property
    def is_put_back(self) -> bool:
        """Whether the app has assigned the user's id again and this is no login: it took the id
        out of the session before, for example to copy, clear and update the session."""
        if self._settings.user_id_key not in self.assigned or self._modified is False:
            return False
        user = self._user_hash_by_key()
        if user is None or user != self._loaded_user_hash:
            return False
        if self.is_decided_elsewhere:
            return self._confirmed_user_hash != user
        return self._is_put_back

    @property
    def is_confirmed(self) -> bool:
        """Whether the app has marked the user's login as fresh in this request."""
        user = self._user_hash_by_key()
        is_marked = FLASK_LOGIN_FRESH_KEY in self.assigned and self[FLASK_LOGIN_FRESH_KEY] is True
        if user is None or not is_marked:
            return False
        if self.is_decided_elsewhere and self._was_marked_fresh():
            return self._confirmed_user_hash == user
        return not self.is_put_back

    @property
    def is_cleared(self) -> bool:
        """Whether `clear()` was called since the last load or commit."""
        return self._data.is_cleared

    @property
    def loaded_user_hash(self) -> str | None:
        """The hash of the user to whom the data belonged at the last load or commit; None for an
        anonymous session."""
        stored = self._touch()
        return self._loaded_user_hash or (stored.user_hash if stored else None)

    @property
    def is_user_change_pending(self) -> bool:
        """Whether the app has signed a user in or out by `KVSESSION_USER_ID_KEY` since the last
        load or commit."""
        key, stored = self._settings.user_id_key, self._touch()
        if key is None or self._modified is False or self.is_interrupted:
            return False
        user = self._user_hash_by_key()
        if user is not None and key in self.assigned and not self.is_put_back:
            return True  # the same user again is a login too
        # A session that began before KVSESSION_USER_ID_KEY was set has the key and no user.
        return user != self._loaded_user_hash or user != (stored.user_hash if stored else None)

    @in_one_step
    def import_data(self, data: Mapping[str, t.Any]) -> None:
        """Adds data from the browser's old cookies. They are written like any change, but do not
        count as a login. Values that are unstorable or too large are left out."""
        # The user id comes first, because the size limit may leave no room for it later.
        for key in sorted(data, key=lambda key: key != self._settings.user_id_key):
            if key == "_permanent":  # Flask's own session keeps `permanent` under this key
                self._requested_permanent = bool(data[key])
                continue
            try:
                value, size = self._checked(key, data[key])
                self._check_size(key, size)
            except (KVSessionError, ValueError) as error:
                log.warning("a value of an imported cookie was left out: %s", error)
            else:
                self._data.put(key, value, size)
                if self.owners is not None and key == self._settings.user_id_key:
                    self.owners.user_changed(self._user_by_key())

    # How it works

    def _take_over(self, stored: Stored | None, saved: Changes | None = None) -> None:
        super()._take_over(stored, saved)
        self._forget_changes()
        is_by_key = self._settings.user_id_key is not None
        self._loaded_user_hash = stored.user_hash if stored and is_by_key else None
        self._follow_owners()

    def _follow_newer(self, stored: Stored) -> None:
        # What this request has said about its user and `permanent` refers to the data that it saw.
        self._stored = stored

    def _open(self) -> None:
        super()._open()
        self.on_load()
        if self._settings.user_id_key is not None:
            self._loaded_user_hash = self._user_hash_by_key()
            self._follow_owners()

    @staticmethod
    def _encode(key: str, value: t.Any) -> tuple[t.Any, bytes]:
        return coerce.encode(key, value)

    def _forget_changes(self) -> None:
        """Forgets what this request has said about its user since the last load or commit."""
        self._requested_permanent = self._confirmed_user_hash = self._taken_user_id = None
        self._is_permanent_reset = False
        self._is_copied = self._is_key_deleted = self._is_put_back = False

    def _note_taken_user_id(self) -> None:
        """Keeps the object that the app got from the session as the user's id."""
        if self._taken_user_id is None:
            self._taken_user_id = self.user_id_by_key

    def _is_taken(self, value: t.Any) -> bool:
        """Whether this is the very object that the session gave, and not one from a database.

        Python has only one object for each small int and each single character. They tell nothing.
        """
        if isinstance(value, int):
            is_shared = -5 <= value <= 256
        else:
            is_shared = isinstance(value, str) and len(value) == 1
        return value is self._taken_user_id and not is_shared

    def _was_marked_fresh(self) -> bool:
        data = self._stored.record.encoded_data() if self._stored else {}
        return data.get(FLASK_LOGIN_FRESH_KEY) == b"true"

    def _follow_owners(self) -> None:
        """From now on, follows whose the data are that the session has now."""
        key, stored = self._settings.user_id_key, self._stored
        if key is None:
            return
        user = loaded_user = self._user_by_key()
        previous_user_keys: Set[str] = previous_user_keys_of(stored.record if stored else None)
        if stored and user is None and not stored.record.is_anonymous:
            # The session of `login_user` before KVSESSION_USER_ID_KEY was set.
            loaded_user, previous_user_keys = str(stored.record.user_id), set(self._data) - {key}
        self.owners = DataOwners(
            self._data,
            key,
            user=user,
            loaded_user=loaded_user,
            previous_user_keys=previous_user_keys,
            forget_csrf_tokens=lambda: self.forget_csrf_tokens(),
        )

    def _user_by_key(self) -> str | None:
        user_id = self.user_id_by_key
        return None if user_id is None else str(user_id)

    def _user_hash_by_key(self) -> str | None:
        user_id = self.user_id_by_key
        return None if user_id is None else user_hash(user_id)

    def _checked(self, key: str, value: t.Any) -> tuple[t.Any, int]:
        value, size = super()._checked(key, value)
        if key == self._settings.user_id_key:
            _require_user_id(key, value)
        return value, size

    def _require_deletable(self) -> None:
        # Flask removes flashed messages when they are read. A test reads them after the request.
        if not self.is_closed:
            super()._require_deletable()


def _is_user_id(value: t.Any) -> bool:
    try:
        check_user_id(value)
    except ValueError:
        return False
    return True


def _require_user_id(key: str, value: t.Any) -> None:
    if value is None or value == "" or _is_user_id(value):
        return
    raise ValueError(
        f"session[{key!r}] is {config_key('user_id_key')}, so it must be a str, an int or a UUID,"
        f" or None, not a value of type {type(value).__name__}; assign user.id, or str(user.id) if"
        " that is of another type."
    )
