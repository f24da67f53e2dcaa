"""The session as an app sees it: a mapping of its data, and facts about who it belongs to.

It loads at first touch through a callable, notes what the request changes, and knows nothing of
the store or of HTTP.
"""

from __future__ import annotations

import logging
import threading
import typing as t
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from copy import deepcopy
from datetime import datetime

from . import codec, plain, renamed
from .errors import KVSessionError, SessionTooLarge, StoreUnavailable, UnstorableValue
from .record import Changes, Ended, Record, Stored, from_ms, size_of
from .settings import FLASK_LOGIN_FRESH_KEY, Settings, config_key, to_ms
from .token import UserId, user_hash

log = logging.getLogger("flask_kvsession")

_ON_DEMAND: t.Final = object()
"""Stands for a value that nobody has asked for yet, so that it is still encoded."""


class Session(MutableMapping[str, t.Any]):
    """This request's session. Reading creates nothing; the first write makes a record.

    A value comes back in the next request equal and of the same type, or assigning it raises
    `UnstorableValue`. Changes inside a list or dict are noticed. The facts below are never part of
    the mapping, and are None for a visitor who has no record.
    """

    def __init__(
        self,
        load: Callable[[], Stored | Ended | None],
        now: Callable[[], int],
        settings: Settings,
        arrive: Callable[[], None] = lambda: None,
    ) -> None:
        """`arrive` is called once the session is loaded, before anybody has seen it."""
        self.accessed = False
        """Whether this response may depend on who asks for it, and so needs `Vary: Cookie`."""
        self._load = load
        self._arrive = arrive
        self._now = now
        self._settings = settings
        self._loading = threading.RLock()
        self._is_loaded = False
        self._is_closed = False
        self._failure: StoreUnavailable | None = None
        self._stored: Stored | None = None
        self._loaded_id: str | None = None
        self._ended: str | None = None
        self._came_as: str | None = None
        self._base: dict[str, bytes] = {}
        self._values: dict[str, t.Any] = {}
        self._sizes: dict[str, int] = {}
        self._assigned: set[str] = set()
        self._is_cleared = False
        self._is_modified: bool | None = None
        self._wants_permanent: bool | None = None

    # The mapping

    def __getitem__(self, key: str) -> t.Any:
        self._touch()
        value = self._values[key]
        if value is _ON_DEMAND:
            value = self._values[key] = codec.decode(key, self._base[key])
        return value

    def __setitem__(self, key: str, value: t.Any) -> None:
        value, size = self._checked(key, value)
        self.require_open()
        self._put(key, value, size)
        self._assigned.add(key)
        self._note_change()

    def __delitem__(self, key: str) -> None:
        self._touch()
        if key not in self._values:
            raise KeyError(key)
        # Whoever looks at flashed messages takes them out: a test, when the request is over.
        if not (self._is_closed and self._settings.as_flask_session):
            self.require_open()
        del self._values[key], self._sizes[key]
        self._note_change()

    def setdefault(self, key: str, default: t.Any = None) -> t.Any:
        """The value in the session, so that changes inside it are noticed."""
        if key not in self:
            self[key] = default
        return self[key]

    def __iter__(self) -> Iterator[str]:
        self._touch()
        return iter(self._values)

    def __len__(self) -> int:
        self._touch()
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        self._touch()
        return key in self._values

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self))

    def popitem(self) -> tuple[str, t.Any]:
        """Takes out the last item, as of a dict."""
        for key in reversed(self):
            return key, self.pop(key)
        raise KeyError("the session is empty")

    def __or__(self, other: Mapping[str, t.Any]) -> dict[str, t.Any]:
        return dict(self) | dict(other)

    def __ror__(self, other: Mapping[str, t.Any]) -> dict[str, t.Any]:
        return dict(other) | dict(self)

    def __ior__(self, other: Mapping[str, t.Any]) -> t.Self:
        self.update(other)
        return self

    def copy(self) -> dict[str, t.Any]:
        """What the session holds, as a dict."""
        return dict(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, t.Any]) -> dict[str, t.Any]:
        return deepcopy(dict(self), memo)

    def clear(self) -> None:
        """Removes all data, also what other requests put there since this one began."""
        self.require_open()
        self._values, self._sizes = {}, {}
        self._is_cleared = True
        # What a hook has said before, of every page, is not said again in this request.
        if self._settings.as_flask_session and self._wants_permanent is None:
            self._wants_permanent = False
        self._note_change()

    if not t.TYPE_CHECKING:  # which would take any name then

        def __getattr__(self, name):
            """Says of a name of old what it is called now."""
            renamed.raise_renamed_attribute(self, name)

    def __repr__(self) -> str:
        if not self._is_loaded:
            return "<Session, not loaded>"
        return f"<Session {self.id or 'of a visitor without one'}>"

    # Facts

    @property
    def id(self) -> str | None:
        """The public handle; may be shown, logged and used in a URL."""
        stored = self._touch()
        return stored.id if stored else None

    @property
    def user_id(self) -> UserId | None:
        """The id given to `login_user`, in its type; None for a visitor. With
        `KVSESSION_USER_ID_KEY` it is that key's value, at once; the login is at the commit."""
        record, key = self._record(), self._settings.user_id_key
        if key is None:
            return record.user_id if record else None
        value = self.get(key)
        return value if _is_user_id(value) else None

    @property
    def is_authenticated(self) -> bool:
        """Whether a user is signed in."""
        return self.user_id is not None

    @property
    def is_fresh(self) -> bool:
        """Whether the user proved who they are within `KVSESSION_FRESH_FOR`."""
        record = self._record()
        if record is None or record.authenticated is None or self.is_login_pending:
            return False
        if self._settings.user_id_key is not None and self.get(FLASK_LOGIN_FRESH_KEY) is False:
            return False  # Flask-Login says so, of a client that has changed
        return self._now() - record.authenticated < to_ms(self._settings.fresh_for)

    @property
    def created_at(self) -> datetime | None:
        record = self._record()
        return from_ms(record.created) if record else None

    @property
    def last_seen_at(self) -> datetime | None:
        """The last activity, exact to `KVSESSION_RENEWAL_INTERVAL`."""
        record = self._record()
        return from_ms(record.seen) if record else None

    @property
    def authenticated_at(self) -> datetime | None:
        """When the user last proved who they are; activity never moves it."""
        record = self._record()
        return from_ms(record.authenticated) if record and record.authenticated else None

    @property
    def expires_at(self) -> datetime | None:
        """When the session ends unless there is more activity."""
        record = self._record()
        return from_ms(self._settings.expires(record)) if record else None

    @property
    def ip_address(self) -> str | None:
        record = self._record()
        return record.ip if record else None

    @property
    def user_agent(self) -> str | None:
        record = self._record()
        return record.agent if record else None

    @property
    def remembered(self) -> bool | None:
        """False if the cookie ends with the browser."""
        record = self._record()
        return record.remembered if record else None

    @property
    def ended(self) -> str | None:
        """Why the session that this browser came with is no more, if it was ended from outside:
        `"revoked"` or `"limit"`; until somebody signs in. None after logout and expiry, which leave
        nothing behind."""
        self._touch()
        return self._ended

    @property
    def new(self) -> bool:
        """Whether this is not the session that the request came with, or it came with none."""
        return self.id is None or self.id != self._loaded_id

    @property
    def modified(self) -> bool:
        """Whether this request has changed the data; changes inside a list or dict count. Nothing
        need be set: what has changed is written. Set to False, it keeps what has been changed so
        far from being written, as in Flask."""
        if self._is_modified is not None:
            return self._is_modified
        return self._is_loaded and bool(self.changes())

    @modified.setter
    def modified(self, value: bool) -> None:
        self._is_modified = bool(value)

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser. With `KVSESSION_AS_FLASK_SESSION` it is False
        until it is set, as in Flask, and the idle timeout of such a session is
        `PERMANENT_SESSION_LIFETIME`."""
        record = self._record()
        if self._wants_permanent is not None:
            return self._wants_permanent
        return record.remembered if record else not self._settings.as_flask_session

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self.require_open()
        self._wants_permanent = bool(value)

    # For the request that owns it

    @property
    def is_touched(self) -> bool:
        """Whether anybody has looked, so that there may be something to write."""
        return self._is_loaded

    @property
    def is_login_pending(self) -> bool:
        """Whether the app has signed somebody in or out by `KVSESSION_USER_ID_KEY`."""
        key, record = self._settings.user_id_key, self._record()
        if key is None or self._is_modified is False:
            return False
        user = self._user_by_key()
        if user is not None and key in self._assigned:
            return True  # the same user again is a login too
        # A session from before the setting has the key, and is a visitor's as yet.
        return user != self._came_as or user != (record.user_hash if record else None)

    @property
    def came_as(self) -> str | None:
        """The hash of the user whom the data name, or whose the session is, as they were loaded or
        written last; None for a visitor."""
        record = self._record()
        return self._came_as or (record.user_hash if record else None)

    @property
    def wants_permanent(self) -> bool | None:
        """What this request has said of `permanent`; None if nothing."""
        return self._wants_permanent

    @property
    def assigned(self) -> frozenset[str]:
        """The keys that this request has given a value, be it the one they had."""
        return frozenset(self._assigned & self._values.keys())

    @property
    def is_cleared(self) -> bool:
        """Whether `clear()` was called since the last load or write."""
        return self._is_cleared

    @property
    def failure(self) -> StoreUnavailable | None:
        """What the store failed with, so that nobody knows whose session this is."""
        return self._failure

    @property
    def stored(self) -> Stored | None:
        """What the store held at the last load or write; raises again after a failed load."""
        self.require()
        return self._stored

    def require(self) -> None:
        """Raises `StoreUnavailable` if this request could not tell who is signed in."""
        self._touch()
        if self._failure:
            raise self._failure

    def require_open(self) -> None:
        """Raises unless what is changed now can still be written, and a cookie still be sent."""
        self.require()
        if self._is_closed:
            raise KVSessionError(
                "The session was changed after its request was committed, so the change would be"
                " lost; change it in the view, not in a streamed response."
            )

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def changes(self) -> Changes:
        """What this request has done to the data since the last load or write.

        Raises `UnstorableValue` for something unstorable put into a list or dict in place.
        """
        if self._is_modified is False:
            return Changes(set={})
        base: Mapping[str, bytes] = {} if self._is_cleared else self._base
        encoded = (
            (key, self._encode(key, value)[1])
            for key, value in self._values.items()
            if value is not _ON_DEMAND
        )
        return Changes(
            set={key: new for key, new in encoded if new != base.get(key)},
            removed=frozenset(base.keys() - self._values.keys()),
            # Of a session that was empty when it was loaded, what others have written since.
            cleared=self._is_cleared and self._stored is not None,
        )

    def adopt(self, stored: Stored | None) -> None:
        """Becomes the session `stored` in place, or a visitor's without a record; no change is
        pending then. A list that the app took out of the mapping before is still the one in it,
        where it holds what is stored, so that its later changes are noticed too."""
        asked_for = {k: value for k, value in self._values.items() if value is not _ON_DEMAND}
        self._is_loaded = True
        self._is_cleared = False
        self._wants_permanent = None
        self._assigned = set()
        self._stored = stored
        self._came_as = stored.record.user_hash if stored else None
        self._base = stored.record.encoded_data() if stored else {}
        self._sizes = {key: size_of(key, encoded) for key, encoded in self._base.items()}
        self._values = dict.fromkeys(self._base, _ON_DEMAND)
        for key in asked_for.keys() & self._base.keys():
            with suppress(UnstorableValue):
                if self._encode(key, asked_for[key])[1] == self._base[key]:
                    self._values[key] = asked_for[key]

    def take_over(self, brought: Mapping[str, t.Any]) -> None:
        """Puts in what the browser has brought along from elsewhere. It is written like any change,
        but signs nobody in anew. What cannot be stored, or no longer fits in, is left out."""
        for key in sorted(brought, key=lambda key: key != self._settings.user_id_key):
            if key == "_permanent":  # where Flask's own session keeps it
                self._wants_permanent = bool(brought[key])
                continue
            try:
                self._put(key, *self._checked(key, brought[key]))
            except (KVSessionError, ValueError) as error:
                log.warning("what a browser has brought along was left out: %s", error)

    def fail(self, failure: StoreUnavailable) -> None:
        """From now on the mapping reads as empty, and writes, guards and verbs raise."""
        self._is_loaded = True
        self._failure = failure
        self._stored = None
        self._base, self._values, self._sizes = {}, {}, {}
        self._assigned = set()
        self._is_cleared = False

    def close(self) -> None:
        """The response has been decided: reads go on working, writes raise."""
        self._is_closed = True

    def _touch(self) -> Stored | None:
        if not self._is_closed:
            self.accessed = True
        with self._loading:  # a view may hand its request to threads
            if not self._is_loaded:
                self._open()
        return self._stored

    def _open(self) -> None:
        try:
            held = self._load()
        except StoreUnavailable as failure:
            self.fail(failure)
            raise
        if isinstance(held, Ended):
            self._ended, held = held.ended, None
        elif held:
            self._ended, self._loaded_id = held.record.after or None, held.id
        self.adopt(held)
        self._arrive()
        if self._settings.user_id_key is not None:
            self._came_as = self._user_by_key()

    def _user_by_key(self) -> str | None:
        user_id = self.user_id
        return None if user_id is None else user_hash(user_id)

    def _record(self) -> Record | None:
        stored = self._touch()
        return stored.record if stored else None

    def _encode(self, key: str, value: t.Any) -> tuple[t.Any, bytes]:
        """The value as the session holds it, and its bytes."""
        if self._settings.as_flask_session:
            return plain.encode(key, value)
        return value, codec.encode(key, value)

    def _checked(self, key: str, value: t.Any) -> tuple[t.Any, int]:
        """The value as the session can hold it under this key, and its size there."""
        codec.check_key(key)
        value, encoded = self._encode(key, value)
        if key == self._settings.user_id_key:
            _check_user_id(key, value)
        return value, size_of(key, encoded)

    def _put(self, key: str, value: t.Any, size: int) -> None:
        self._check_size(key, size)
        self._values[key], self._sizes[key] = value, size

    def _note_change(self) -> None:
        """A change after `modified = False` counts again."""
        if self._is_modified is False:
            self._is_modified = None

    def _check_size(self, key: str, new_size: int) -> None:
        before = sum(self._sizes.values())
        size, most = before - self._sizes.get(key, 0) + new_size, self._settings.max_session_bytes
        if size > max(before, most):
            raise SessionTooLarge.caused_by(f"session[{key!r:.100}]", size, most)


def _is_user_id(value: t.Any) -> bool:
    try:
        user_hash(value)
    except ValueError:
        return False
    return True


def _check_user_id(key: str, value: t.Any) -> None:
    """Refuses what names nobody, unless it says so."""
    if value is None or value == "" or _is_user_id(value):
        return
    raise ValueError(
        f"session[{key!r}] is {config_key('user_id_key')}, so it must be a str, an int or a UUID,"
        f" such as user.id, or None; a value of type {type(value).__name__} was given."
    )
