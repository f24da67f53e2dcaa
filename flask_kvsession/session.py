"""The session as an app sees it: a mapping of its data, and facts about the session.

It loads at first touch through a callable. This module knows neither the store nor HTTP.
"""

from __future__ import annotations

import functools
import threading
import typing as t
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import deepcopy
from datetime import datetime

from . import codec, record, renamed
from .data import NO_CHANGES, Changes, ChangesByFunction, TrackedData, encode_exact
from .errors import KVSessionError, SessionTooLarge, StoreUnavailable
from .record import Record, SessionInfo, Stored, Tombstone, size_of
from .settings import Settings
from .token import UserId

T = t.TypeVar("T")
F = t.TypeVar("F", bound=Callable[..., t.Any])


def in_one_step(method: F) -> F:
    """For a method that changes several fields of the session.

    If an exception from outside interrupts the method, for example a time limit of the worker, the
    session would be half changed. Its changes are not written then: see `Session.changes`.
    """

    @functools.wraps(method)
    def call(self: Session, *args: t.Any) -> t.Any:
        self._unfinished += 1
        try:
            result = method(self, *args)
        except (KVSessionError, LookupError, TypeError, ValueError):  # of the method itself
            self._unfinished -= 1
            raise
        self._unfinished -= 1
        return result

    return t.cast(F, call)


class _Fact(t.Generic[T]):
    """A read-only attribute: a field of the session's `SessionInfo`, or None without a session."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @t.overload
    def __get__(self, session: None, owner: type) -> t.Self: ...
    @t.overload
    def __get__(self, session: Session, owner: type) -> T | None: ...
    def __get__(self, session: Session | None, owner: type) -> t.Self | T | None:
        if session is None:
            return self
        info = session.info()
        return None if info is None else t.cast(T, getattr(info, self._name))


class Watched(t.Protocol):
    """What a session follows while it is watched: see `store.watcher`."""

    id: str | None
    is_closed: bool

    @property
    def ended(self) -> bool: ...

    @property
    def reason(self) -> str | None: ...


class Session(MutableMapping[str, t.Any]):
    """This request's session. Reading creates nothing; the first write creates a record.

    A value comes back in the next request equal and of the same type, or its assignment raises
    `UnstorableValue`. Changes inside a list or dict are detected. The facts below are not part of
    the mapping. For an anonymous browser that has no record, `new` is True, and the other facts are
    None or False.
    """

    __slots__ = (
        "_data",
        "_has_ended",
        "_load",
        "_loaded_id",
        "_loading",
        "_modified",
        "_now",
        "_previous_end_reason",
        "_settings",
        "_stored",
        "_unfinished",
        "_watched",
        "accessed",
        "failure",
        "is_closed",
        "is_loaded",
    )

    def __init__(
        self,
        load: Callable[[], Stored | Tombstone | None],
        now: Callable[[], int],
        settings: Settings,
    ) -> None:
        self.accessed: bool = False
        """True once the session was read: the response varies by cookie."""
        self._load = load
        self._now = now
        self._settings = settings
        self._loading: threading.RLock | None = threading.RLock()  # None once it is loaded
        self.is_loaded: bool = False
        """Whether the session was loaded. Otherwise there is nothing to write."""
        self.is_closed: bool = False
        """Whether the changes have been committed. A later change raises."""
        self.failure: StoreUnavailable | None = None
        """The failure of the store in this request; None if the store has not failed."""
        self._unfinished = 0
        self._stored: Stored | None = None
        self._loaded_id: str | None = None
        self._previous_end_reason: str | None = None
        self._modified: bool | None = None
        self._watched: tuple[Watched, ...] = ()
        self._has_ended = False

    _data: TrackedData  # since the load

    # The mapping

    def __getitem__(self, key: str) -> t.Any:
        self._touch()
        return self._data[key]

    @in_one_step
    def __setitem__(self, key: str, value: t.Any) -> None:
        value, size = self._checked(key, value)
        self.require_open()
        self._check_size(key, size)
        self._data.assign(key, value, size)
        self._note_change()

    @in_one_step
    def __delitem__(self, key: str) -> None:
        self._touch()
        if key not in self._data:
            raise KeyError(key)
        self._require_deletable()
        self._data.remove(key)
        self._note_change()

    def setdefault(self, key: str, default: t.Any = None) -> t.Any:
        """Returns the object that the session holds, so that changes inside it are detected."""
        if key not in self:
            self[key] = default
        return self[key]

    def __iter__(self) -> Iterator[str]:
        self._touch()
        return iter(self._data)

    def __len__(self) -> int:
        self._touch()
        return len(self._data)

    def __contains__(self, key: object) -> bool:
        self._touch()
        return key in self._data

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self))

    def popitem(self) -> tuple[str, t.Any]:
        """Removes and returns the last item, as a dict does."""
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
        """The data as a dict."""
        return dict(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, t.Any]) -> dict[str, t.Any]:
        return deepcopy(dict(self), memo)

    def __reduce_ex__(self, protocol: t.SupportsIndex) -> t.NoReturn:
        raise TypeError(
            "A session cannot be pickled, because it belongs to its request; pass dict(session), or"
            " single values."
        )

    @in_one_step
    def clear(self) -> None:
        """Removes all data, also data that other requests add meanwhile."""
        self.require_open()
        self._data.clear()
        self._note_change()

    if not t.TYPE_CHECKING:  # with it, a type checker would accept any name

        def __getattr__(self, name):
            """Raises `AttributeError`; for a name of Flask-KVSession it names the new one."""
            hint = "; only facts, such as user_id, are attributes, and data are items: session[key]"
            renamed.raise_renamed_attribute(self, name, hint)

    def __repr__(self) -> str:
        if not self.is_loaded:
            return "<Session, not loaded>"
        return f"<Session {self.id or 'without a record'}>"

    # Facts

    created_at: _Fact[datetime] = _Fact(
        "The time of the login, or of an anonymous session's first write."
    )
    last_seen_at: _Fact[datetime] = _Fact(
        "The last activity, exact to `KVSESSION_RENEWAL_INTERVAL`."
    )
    authenticated_at: _Fact[datetime] = _Fact(
        "The time of the user's last authentication. Activity does not change it."
    )
    expires_at: _Fact[datetime] = _Fact(
        "The time at which the session ends if there is no more activity."
    )
    ip_address: _Fact[str] = _Fact(
        "The address of the last activity, if `KVSESSION_RECORD_IP` is on."
    )
    user_agent: _Fact[str] = _Fact(
        "The user agent of the last activity, if `KVSESSION_RECORD_USER_AGENT` is on."
    )
    remembered: _Fact[bool] = _Fact("False if the cookie ends with the browser.")
    is_device_bound: _Fact[bool] = _Fact(
        "Whether the session is bound to a key of the device (`KVSESSION_DEVICE_BOUND`)."
    )

    @property
    def id(self) -> str | None:
        """The public id of the session; may be shown, logged and used in a URL."""
        stored = self._touch()
        return stored.id if stored else None

    @property
    def user_id(self) -> UserId | None:
        """The id that `login_user` was given, in its type; None for an anonymous session."""
        record = self._record()
        return record.user_id if record else None

    @property
    def is_authenticated(self) -> bool:
        """Whether a user is signed in."""
        return self.user_id is not None

    @property
    def is_fresh(self) -> bool:
        """Whether the user authenticated within `KVSESSION_FRESH_FOR`."""
        record = self._record()
        if record is None or record.authenticated is None:
            return False
        return self._now() - record.authenticated < self._settings.milliseconds.fresh_for

    @property
    def ended(self) -> str | None:
        """Why this browser's last session was ended from outside: `"revoked"` or `"limit"`; or
        `"unbound"` if the session is bound to a device, and the request did not prove to be from
        it.

        It is kept until the next login, but `"unbound"` only as long as a request has no proof.
        None after a logout or an expiry: neither leaves a tombstone.
        """
        self._touch()
        return self._previous_end_reason

    @property
    def new(self) -> bool:
        """True if this request has created the session, or if there is no session."""
        return self.id is None or self.id != self._loaded_id

    @property
    def modified(self) -> bool:
        """Whether this request has changed the data; changes inside a list or dict count.

        You need not set it: changes are written anyway. If you set it to False, the changes so far
        are not written, as in Flask.
        """
        if self._modified is not None:
            return self._modified
        return self.is_loaded and bool(self.changes())

    @modified.setter
    def modified(self, value: bool) -> None:
        self._modified = bool(value)

    # For the `RequestSession` that owns it

    @property
    def assigned(self) -> frozenset[str]:
        """The keys that this request has assigned, also with an equal value."""
        return self._data.assigned

    @property
    def stored(self) -> Stored | None:
        """The session at its last load or commit; raises `StoreUnavailable` after a failure."""
        if self.failure or not self.is_loaded:
            self.require_loaded()
        return self._stored

    def info(self) -> SessionInfo | None:
        """The facts of this session as lists and signals show them; None without a record."""
        stored = self._touch()
        if stored is None:
            return None
        expires = self._settings.expires(stored.record)
        binds = bool(self._settings.device_bound)
        return record.info(stored, expires=expires, binds_devices=binds, is_current=True)

    def require_loaded(self) -> None:
        """Raises `StoreUnavailable` if this request could not load its session."""
        self._touch()
        if self.failure:
            raise self.failure

    def require_open(self) -> None:
        """Raises if a change can no longer be written."""
        self.require_loaded()
        if self._has_ended:
            raise KVSessionError(
                "The session has ended while it was watched, so the change would be lost; stop when"
                " watching() says that the session has ended."
            )
        if self.is_closed:
            raise KVSessionError(
                "The session was changed after its request was committed, so the change would be"
                " lost; change the session in the view, not in a streamed response."
            )

    def changes(self) -> Changes:
        """The changes of this request since the last load or commit; `NO_CHANGES` if there are
        none, or if one of them was interrupted half-way: nobody asked for the half of a change.

        Raises `UnstorableValue` if a list or dict was given an unstorable value in place.
        """
        if self._modified is False or self._unfinished:
            return NO_CHANGES
        return self._data.changes()

    def changes_by(self, function: Callable[[dict[str, t.Any]], object]) -> ChangesByFunction:
        """The changes of this request, and those that `function` makes in a dict of the data.

        It raises `KVSessionError` when `function` changes this mapping and not its dict.
        """
        pending = self.changes()

        def checked(data: dict[str, t.Any]) -> None:
            function(data)
            if self.changes() != pending:
                raise KVSessionError(
                    "The function that change_session was given has changed the session itself;"
                    " change the dict that the function gets."
                )

        return ChangesByFunction(
            set=pending.set,
            removed=pending.removed,
            cleared=pending.cleared,
            function=checked,
            encode=self._encode,
            fixed_keys=self._settings.reserved_keys,
        )

    @property
    def is_interrupted(self) -> bool:
        """Whether an exception from outside has interrupted a change of this session half-way."""
        return self._unfinished > 0

    def rebase(self, stored: Stored | None, saved: Changes | None = None) -> None:
        """Makes this object the session `stored`; None means an anonymous session without a record.
        Pending changes are dropped. `saved` has the changes that were just written, if there are
        such."""
        self._unfinished = 1
        self._take_over(stored, saved)
        self._unfinished = 0

    def _take_over(self, stored: Stored | None, saved: Changes | None = None) -> None:
        base = stored.record.data if stored else None
        if self.is_loaded:
            self._data.rebase(base, saved)
        else:
            self._data = TrackedData(self._encode, base)
        self._has_ended = False
        self._stored = stored
        self.is_loaded = True

    def follow(self, loaded: Stored | Tombstone | None) -> None:
        """Follows a second load in one request, which has found a newer state of this session.

        Pending changes stay, and will be applied to the newer record. If the session has ended,
        this object is an anonymous session without a record.
        """
        current = self._stored
        if not isinstance(loaded, Stored) or current is None or loaded.id != current.id:
            self.rebase(loaded if isinstance(loaded, Stored) else None)
            self._previous_end_reason = loaded.ended if isinstance(loaded, Tombstone) else None
        elif loaded.raw != current.raw:
            self._follow_newer(loaded)

    def _follow_newer(self, stored: Stored) -> None:
        if self.is_interrupted or self.changes():
            self._stored = stored  # a commit applies the changes to the data of this record
        else:
            self.rebase(stored)

    def fail(self, failure: StoreUnavailable) -> None:
        """From now on the mapping reads as empty, and writes, guards and verbs raise `failure`."""
        self.is_loaded = True
        self.failure = failure
        self._stored = None
        self._data = TrackedData(self._encode)

    def follow_end_of(self, *watched: Watched) -> None:
        """If one of these sessions ends, and it is the one that this object has loaded then, this
        object becomes the empty session of an anonymous browser, and cannot be changed."""
        if watched:
            current = [each for each in self._watched if each.ended or not each.is_closed]
            self._watched = (*current, *watched)
            self._loading = threading.RLock()

    def stop_following_ends(self) -> tuple[Watched, ...]:
        """Returns what `follow_end_of` was given."""
        if self._watched:
            self._touch()
        watched, self._watched = self._watched, ()
        return watched

    # How it works

    def _touch(self) -> Stored | None:
        if not self.is_closed:
            self.accessed = True
        loading = self._loading
        if loading is not None:
            with loading:  # a view may hand its request to threads
                if not self.is_loaded:
                    self._open_or_nothing()
                for watched in self._watched:
                    self._follow_end(watched)
        return self._stored

    def _follow_end(self, watched: Watched) -> None:
        """In the thread that uses the session: the thread that is told of the end must not change
        it, because a login may just replace it."""
        if watched.ended and self._stored and self._stored.id == watched.id:
            self._previous_end_reason = watched.reason
            self.rebase(None)
            self._has_ended = True

    def _open_or_nothing(self) -> None:
        """Loads. If that is interrupted, the next touch loads anew: nothing was changed before."""
        before = self._unfinished
        try:
            self._open()
        except BaseException as error:
            if not (self.is_loaded and isinstance(error, Exception)):
                self.is_loaded, self._unfinished = False, before
            raise
        self._loading = None

    def _open(self) -> None:
        try:
            loaded = self._load()
        except StoreUnavailable as failure:
            self.fail(failure)
            if self._settings.on_store_failure == "anonymous":
                return
            raise
        if isinstance(loaded, Tombstone):
            self._previous_end_reason, loaded = loaded.ended, None
        elif loaded:
            self._previous_end_reason = loaded.record.previous_end_reason or None
            self._loaded_id = loaded.id
        self._take_over(loaded)

    def _record(self) -> Record | None:
        stored = self._touch()
        return stored.record if stored else None

    def _checked(self, key: str, value: t.Any) -> tuple[t.Any, int]:
        """The value as the session keeps it under this key, and the size of the item."""
        codec.check_key(key)
        value, encoded = self._encode(key, value)
        return value, size_of(key, encoded)

    def _check_size(self, key: str, new_size: int) -> None:
        sizes, limit = self._data.sizes(), self._settings.max_session_bytes
        before = self._settings.counted_size(sizes)
        replaced = self._settings.counted_size({key: sizes.get(key, 0)})
        size = before - replaced + self._settings.counted_size({key: new_size})
        if size > max(before, limit):
            raise SessionTooLarge.caused_by(f"session[{key!r:.100}]", size, limit)

    @staticmethod
    def _encode(key: str, value: t.Any) -> tuple[t.Any, bytes]:
        """The value to keep, and its encoding; raises `UnstorableValue`."""
        return encode_exact(key, value)

    def _require_deletable(self) -> None:
        self.require_open()

    def _note_change(self) -> None:
        """Makes changes count again after `modified = False`."""
        if self._modified is False:
            self._modified = None
