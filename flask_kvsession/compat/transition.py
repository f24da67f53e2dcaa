"""Chooses the data that stay in a `flask.session` when its user changes.

In apps with `KVSESSION_USER_ID_KEY`, the user's id and the user's data are in the same mapping. If
another user signs in in the same browser, the previous user's data are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import codec
from ..data import Changes
from ..record import PreviousUser, Record

MESSAGES_KEY = "_flashes"
"""The key under which Flask keeps flashed messages."""

_NO_USER = ""
"""A value that is not the hash of any user."""


@dataclass(frozen=True, slots=True)
class LoginTransition:
    """A request at the moment when it signs a user in or out."""

    loaded: Record | None
    """The record as it was loaded."""
    loaded_user_hash: str | None
    """The hash of the user to whom the loaded data belong; None for an anonymous session."""
    changes: Changes
    assigned: frozenset[str]
    """The keys that the request has assigned, also with an equal value."""

    def data_for_login(
        self, user: str, current: Record | None, *, is_gone: bool = False
    ) -> dict[str, bytes]:
        """The data of the login of the user with this hash.

        `current` is the record that the login replaces, as it is now. If it is gone (`is_gone`),
        the data of its user are dropped.
        """
        data = self.changes.applied_to(current.encoded_data() if current else {})
        if self.loaded_user_hash is None:
            previous = current.previous_user if current else None
            others_keys = previous.keys if previous and previous.user != user else []
        else:
            others_keys = list(data) if is_gone or self.loaded_user_hash != user else []
        kept = {k: v for k, v in data.items() if k not in others_keys or k in self.assigned}
        if MESSAGES_KEY in others_keys and MESSAGES_KEY in kept:
            kept |= self._new_messages(kept.pop(MESSAGES_KEY))
        return kept

    def data_after_logout(
        self, ended: Record | None
    ) -> tuple[dict[str, bytes], PreviousUser | None]:
        """The data that remain in the browser after a logout, and the keys of the user's data.

        All data are the user's, except data that this request has assigned. If the session had
        ended before (`ended` is None), only the assigned data remain.
        """
        kept = self.data_for_login(_NO_USER, self.loaded)
        if self.loaded_user_hash is None or (self.loaded and not ended):
            return kept, None
        data = self.changes.applied_to(ended.encoded_data() if ended else {})
        keys = sorted(key for key, value in data.items() if kept.get(key) != value)
        return data, PreviousUser(self.loaded_user_hash, keys) if keys else None

    def _new_messages(self, encoded_messages: bytes) -> dict[str, bytes]:
        """The messages that this request has flashed. `flash` assigns the whole list, in which the
        earlier messages are for the previous user."""
        encoded = self.loaded.encoded_data().get(MESSAGES_KEY) if self.loaded else None
        earlier = codec.decode(MESSAGES_KEY, encoded) if encoded else []
        messages = codec.decode(MESSAGES_KEY, encoded_messages)
        if not isinstance(earlier, list) or not isinstance(messages, list):
            return {}
        if messages[: len(earlier)] == earlier:
            new = messages[len(earlier) :]
        else:  # the request took the earlier messages out first
            new = [message for message in messages if message not in earlier]
        return {MESSAGES_KEY: codec.encode(MESSAGES_KEY, new)}
