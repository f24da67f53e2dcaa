"""Whose data are in a `flask.session` in which a key says who is signed in.

The rules apply at once when that key is assigned or removed:

1. A login takes over the data of the anonymous browser, but no CSRF token, and `role` and `roles`
   only if the same request has set them.
2. Data that are in the session while a user is signed in belong to that user. A logout leaves them
   to the anonymous session. The next login drops them, unless they were set again in between.
3. If the key names another user, the former user's data are removed.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Collection, Set
from contextlib import suppress
from enum import Enum

from .. import codec
from ..data import TrackedData
from ..errors import UnstorableValue
from ..settings import ROLE_KEYS

MESSAGES_KEY = "_flashes"
"""The key under which Flask keeps flashed messages."""


class Other(Enum):
    """An owner of data other than a user of this request."""

    BROWSER = "the anonymous browser"
    REQUEST = "this request, which has set the data while nobody was signed in"
    LEFT = "a user who has left the data at a logout"


Owner = str | Other
"""The id of a user who was signed out in this request, and whose value was then assigned again; or
one of the others."""


class _Removed(t.NamedTuple):
    """An item that a login of this request has removed from the anonymous session."""

    value: t.Any
    size: int
    owner: Owner


class DataOwners:
    """Follows the changes of one request since its last load or commit.

    While a user is signed in, all data are that user's. While nobody is, each item has an `Owner`.
    """

    def __init__(
        self,
        data: TrackedData,
        user_id_key: str,
        *,
        user: str | None,
        loaded_user: str | None,
        previous_user_keys: Set[str],
        forget_csrf_tokens: Callable[[], Set[str]],
    ) -> None:
        self.loaded_user = loaded_user
        """The user to whom the loaded data belong; None for an anonymous session."""
        self._data = data
        self._user_id_key = user_id_key
        self._user = user
        self._loaded_keys = frozenset(previous_user_keys)
        self._forget_csrf_tokens = forget_csrf_tokens
        self._owners: dict[str, Owner] = dict.fromkeys(previous_user_keys, Other.LEFT)
        """The owners, but for data of `BROWSER`; empty while a user is signed in."""
        self._left_values: dict[tuple[str, bytes], str] = {}
        """Key and encoding of what users had when they were signed out in this request."""
        self._removed: dict[str, _Removed] = {}
        """What a login has removed. A logout in the same request puts it back."""
        self._taken_over: dict[str, tuple[bytes, Owner]] = {}
        """What a login of this request has taken over: its encoding and owner then."""

    # The changes

    def assigned(self, key: str) -> None:
        """The app has assigned a key other than the user's id."""
        if self._user is None:
            self._owners[key] = self._owner_of_assigned(key)

    def deleted(self, key: str) -> None:
        """The app has deleted a key other than the user's id."""
        self._owners.pop(key, None)

    def before_clear(self) -> None:
        """All data are about to be removed, the user's id too."""
        if self._user is not None:
            self._note_left_values(self._keys(), self._user)
        self._user = None
        self._owners, self._removed, self._taken_over = {}, {}, {}

    def user_changed(self, user: str | None) -> None:
        """The app has assigned or deleted the user's id. `user` is signed in from now on."""
        before, self._user = self._user, user
        if user == before:
            return
        if before is None:
            self._sign_in(user)
        elif user is None:
            self._sign_out(before)
        else:
            self._switch(before)

    # The owners, for the commit

    @property
    def previous_user_keys(self) -> frozenset[str]:
        """The keys of the data in the session that a previous user has left."""
        browsers_own = (Other.BROWSER, Other.REQUEST)
        return frozenset(k for k, owner in self._owners.items() if owner not in browsers_own)

    @property
    def released_keys(self) -> frozenset[str]:
        """The keys that this request has set while nobody was signed in."""
        return frozenset(k for k, owner in self._owners.items() if owner is Other.REQUEST)

    @property
    def removed_keys(self) -> frozenset[str]:
        """The keys of data that a previous user has left and a login has removed."""
        return self._loaded_keys & self._removed.keys()

    def own_data(self) -> dict[str, bytes]:
        """The data that this request has assigned, encoded; of a list of messages, the new ones."""
        own = {key: self._data.encoded(key) for key in self._data.assigned}
        if MESSAGES_KEY in own and not (self._data.is_cleared or MESSAGES_KEY in self._removed):
            own[MESSAGES_KEY] = codec.encode(MESSAGES_KEY, self._split_messages()[1])
        return own

    # How it works

    def _keys(self) -> set[str]:
        return set(self._data) - {self._user_id_key}

    def _owner_of(self, key: str) -> Owner:
        return self._owners.get(key, Other.BROWSER)

    def _owner_of_assigned(self, key: str) -> Owner:
        """A value that equals what a previous user has left stays that user's: code that copies
        the session, or assigns a value again on every page, must not give it to the next user."""
        loaded = self._data.loaded(key)
        if loaded is None and not self._left_values:
            return Other.REQUEST
        encoded = self._data.encoded(key)
        if user := self._left_values.get((key, encoded)):
            return user
        has_earlier_messages = key == MESSAGES_KEY and bool(self._split_messages()[0])
        if encoded != loaded and not has_earlier_messages:
            return Other.REQUEST
        if self.loaded_user is not None:
            return self.loaded_user
        return Other.LEFT if key in self._loaded_keys else Other.BROWSER

    def _sign_in(self, user: str | None) -> None:
        own = {key for key, owner in self._owners.items() if owner == user}
        leaving = self.previous_user_keys | (ROLE_KEYS - self.released_keys)
        leaving = (leaving | self._forget_csrf_tokens()) - own
        for key in leaving & self._keys():
            self._remove(key)
        self._taken_over = {}
        for key in self._keys() - own:
            if encoded := self._encoded(key):
                self._taken_over[key] = (encoded, self._owner_of(key))
        self._owners = {}
        if self.loaded_user is not None:
            self._data.start_over()  # what other requests write to that user's session stays there

    def _remove(self, key: str) -> None:
        new: list[t.Any] = []
        if key == MESSAGES_KEY:
            earlier, new = self._split_messages()
            self._data.replace(key, earlier)
        value, size = self._data.take(key)
        self._removed[key] = _Removed(value, size, self._owner_of(key))
        if new:
            self._data.replace(key, new)

    def _sign_out(self, user: str) -> None:
        for key in self._keys():
            before, owner = self._taken_over.get(key, (None, Other.LEFT))
            self._owners[key] = owner if before == self._encoded(key) else Other.LEFT
        self._note_left_values(self.previous_user_keys, user)
        if MESSAGES_KEY in self._owners and not self._split_messages()[0]:
            self._owners[MESSAGES_KEY] = Other.REQUEST
        for key, removed in self._removed.items():
            self._put_back(key, removed)
        self._removed, self._taken_over = {}, {}

    def _put_back(self, key: str, removed: _Removed) -> None:
        if key in self._data:
            if key != MESSAGES_KEY or not isinstance(removed.value, list):
                return
            self._data.replace(key, removed.value + self._data[key])
        else:
            self._data.put(key, removed.value, removed.size)
        self._owners[key] = removed.owner

    def _switch(self, before: str) -> None:
        self._note_left_values(self._keys(), before)
        self._forget_csrf_tokens()
        new_messages = self._split_messages()[1]
        user_id, size = self._data.take(self._user_id_key)
        self._data.clear()
        self._data.assign(self._user_id_key, user_id, size)
        if new_messages:
            self._data.replace(MESSAGES_KEY, new_messages)
        self._taken_over = {}

    def _note_left_values(self, keys: Collection[str], user: str) -> None:
        for key in keys:
            taken_over = self._taken_over.get(key, (None, None))[0]
            if (encoded := self._encoded(key)) and encoded != taken_over:
                self._left_values[key, encoded] = user

    def _encoded(self, key: str) -> bytes | None:
        """None if a list or dict was given an unstorable value in place."""
        with suppress(UnstorableValue):
            return self._data.encoded(key)
        return None

    def _split_messages(self) -> tuple[t.Any, list[t.Any]]:
        """The earlier messages in the session, and those that this request has flashed.

        `flash` assigns the whole list, and earlier messages are not for the next user.
        """
        messages: t.Any = []
        if MESSAGES_KEY in self._data:
            messages = self._data[MESSAGES_KEY]
        encoded = self._data.loaded(MESSAGES_KEY)
        loaded = codec.decode(MESSAGES_KEY, encoded) if encoded else []
        if not isinstance(loaded, list) or not isinstance(messages, list):
            return messages, []
        if messages[: len(loaded)] == loaded:
            return loaded, messages[len(loaded) :]
        # The request took the earlier messages out first.
        return (
            [message for message in messages if message in loaded],
            [message for message in messages if message not in loaded],
        )
