"""A session's data as one request sees them, and the changes that the request has made."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress

import msgspec

from . import codec
from .errors import UnstorableValue
from .record import Encoded, size_of

Encode = Callable[[str, t.Any], tuple[t.Any, bytes]]
"""Takes a key and a value; gives the value to keep in the session, and its encoding."""

_IMMUTABLE: t.Final = (str, int, float, bool, type(None), bytes)
"""A value of these types cannot be changed in place, so one that was only read is not compared."""

AnyEncoded = t.TypeVar("AnyEncoded", bound=Encoded)

_NOT_DECODED: t.Final = object()
"""Stands for a value that has not been read yet and is still encoded in the base."""


class Changes(msgspec.Struct, frozen=True):
    """A request's changes: keys that it set (encoded), keys that it removed, and whether it cleared
    the data first."""

    set: Mapping[str, bytes] = {}
    removed: Collection[str] = ()
    cleared: bool = False

    def __repr__(self) -> str:
        return f"<Changes: {len(self.set)} keys set, {len(self.removed)} removed>"

    def __bool__(self) -> bool:
        return bool(self.set or self.removed or self.cleared)

    def applied_to(self, data: Mapping[str, AnyEncoded]) -> dict[str, AnyEncoded | bytes]:
        """`data` after these changes. `data` may hold what other requests wrote meanwhile."""
        if self.cleared:
            return dict(self.set)
        kept = {k: v for k, v in data.items() if k not in self.removed} if self.removed else data
        return {**kept, **self.set}


NO_CHANGES: t.Final = Changes()


class ChangesByFunction(Changes, frozen=True, kw_only=True):
    """A request's changes, and on top of them those that a function makes in a dict of the data.

    The function is called once for each version of the data that the changes are applied to.
    """

    function: Callable[[dict[str, t.Any]], object]
    encode: Encode
    fixed_keys: Collection[str] = ()
    """The keys whose values the function must not change."""

    def __bool__(self) -> bool:
        return True

    def applied_to(self, data: Mapping[str, AnyEncoded]) -> dict[str, AnyEncoded | bytes]:
        before = super().applied_to(data)
        values = {key: codec.decode(key, encoded) for key, encoded in before.items()}
        self.function(values)
        after: dict[str, AnyEncoded | bytes] = {}
        for key, value in values.items():
            codec.check_key(key)
            after[key] = self.encode(key, value)[1]
        for key in self.fixed_keys:
            if bytes(before.get(key, b"")) != bytes(after.get(key, b"")):
                raise ValueError(
                    f"The key {key!r} says whose session it is, so change_session cannot change"
                    " this key; assign it to the session itself."
                )
        return after


def encode_exact(key: str, value: t.Any) -> tuple[t.Any, bytes]:
    """The value itself, and its encoding; raises `UnstorableValue` as `codec.encode` does."""
    return value, codec.encode(key, value)


class TrackedData:
    """The data at the last load or commit (the base), and the values on top of it.

    A value is decoded when it is first read, and then kept. So a change inside a list or dict is
    detected: the value's encoding then differs from the base.
    """

    __slots__ = (
        "_assigned",
        "_base",
        "_compared",
        "_encode",
        "_is_stored",
        "_sizes",
        "_values",
        "is_cleared",
    )

    def __init__(
        self, encode: Encode = encode_exact, base: Mapping[str, Encoded] | None = None
    ) -> None:
        """`base` has the data of a stored record; None if there is none. It is not changed."""
        self._encode = encode
        self._start(base)

    def _start(self, base: Mapping[str, Encoded] | None) -> None:
        self._is_stored = base is not None
        self._base: Mapping[str, Encoded] = base or {}
        self._values: dict[str, t.Any] = dict.fromkeys(self._base, _NOT_DECODED)
        self._sizes: dict[str, int] | None = None
        self._assigned: set[str] = set()
        self._compared: dict[str, None] = {}
        """In order, the keys whose values may differ from the base: put in, or read and mutable."""
        self.is_cleared: bool = False

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: str) -> t.Any:
        value = self._values[key]
        if value is _NOT_DECODED:
            value = self._values[key] = codec.decode(key, self._base[key])
            if type(value) not in _IMMUTABLE:
                self._compared[key] = None
        return value

    @property
    def assigned(self) -> frozenset[str]:
        """The keys that were assigned since the last load or commit, also with an equal value."""
        return frozenset(self._assigned)

    def loaded(self, key: str) -> bytes | None:
        """The encoding of the value at the last load or commit; None if there was none."""
        encoded = self._base.get(key)
        return None if encoded is None else bytes(encoded)

    def encoded(self, key: str) -> bytes:
        """The encoding of the value as it is now; raises `UnstorableValue` as `changes` does."""
        value = self._values[key]
        return bytes(self._base[key]) if value is _NOT_DECODED else self._encode(key, value)[1]

    def sizes(self) -> dict[str, int]:
        """The size of each item, in bytes, as it was loaded or put in.

        The sizes are computed when they are first needed: a read does not need them.
        """
        if self._sizes is None:
            self._sizes = {key: size_of(key, bytes(self._base[key])) for key in self._values}
        return self._sizes

    def assign(self, key: str, value: t.Any, size: int) -> None:
        """Sets a value on behalf of the app. The item takes `size` bytes."""
        self.put(key, value, size)
        self._assigned.add(key)

    def replace(self, key: str, value: t.Any) -> None:
        """Assigns a value that has not been encoded yet; raises `UnstorableValue`."""
        value, encoded = self._encode(key, value)
        self.assign(key, value, size_of(key, encoded))

    def put(self, key: str, value: t.Any, size: int) -> None:
        """Sets a value that the app has not assigned in this request."""
        self.sizes()[key] = size
        if key not in self._values:
            self._compared.pop(key, None)  # the order is that of the values
        self._values[key] = value
        self._compared[key] = None

    def remove(self, key: str) -> None:
        """Removes an item; raises `KeyError` if there is none."""
        del self._values[key]
        if self._sizes is not None:
            del self._sizes[key]
        self._assigned.discard(key)

    def take(self, key: str) -> tuple[t.Any, int]:
        """Removes an item; returns its value and size, which `put` takes."""
        value, size = self[key], self.sizes()[key]
        self.remove(key)
        return value, size

    def start_over(self) -> None:
        """Treats all data in the store as removed. The items that are here, all of them assigned
        since the load, stay."""
        here = (key for key, value in self._values.items() if value is not _NOT_DECODED)
        self._compared = dict.fromkeys(here)
        self.is_cleared = True

    def clear(self) -> None:
        """Removes all items; the commit also removes what other requests have added meanwhile."""
        self._values, self._sizes, self._assigned, self._compared = {}, {}, set(), {}
        self.is_cleared = True

    def changes(self) -> Changes:
        """The changes since the last load or commit; `NO_CHANGES` if there are none.

        Raises `UnstorableValue` if a list or dict was given an unstorable value in place.
        """
        has_all = len(self._base) == len(self._values) and not self.is_cleared
        if has_all and not self._compared:
            return NO_CHANGES
        base, changed = {} if self.is_cleared else self._base, dict[str, bytes]()
        for key in self._compared:
            if key in self._values:
                encoded, before = self.encoded(key), base.get(key)
                if before is None or encoded != bytes(before):
                    changed[key] = encoded
        changes = Changes(
            set=changed,
            removed=frozenset(base.keys() - self._values.keys()),
            # Other requests may have written to a session that was empty when it was loaded.
            cleared=self.is_cleared and self._is_stored,
        )
        return changes or NO_CHANGES

    def rebase(self, base: Mapping[str, Encoded] | None, saved: Changes | None = None) -> None:
        """Makes the data of a stored record the new base; None means an empty base. Pending changes
        are dropped. `saved` has the changes that were just written, if there are such.

        If the app has read a list and the new base has an equal list, the app's object stays in the
        session. So a later change of this object is still detected.
        """
        read = {key: value for key, value in self._values.items() if value is not _NOT_DECODED}
        known = {} if saved is None else {**self._base, **saved.set}
        self._start(base)
        for key in read.keys() & self._base.keys():
            with suppress(UnstorableValue):
                encoded = known.get(key) or self._encode(key, read[key])[1]
                if bytes(encoded) == bytes(self._base[key]):
                    self._values[key] = read[key]
                    self._compared[key] = None
