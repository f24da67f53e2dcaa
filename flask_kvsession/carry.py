"""Which data go along when a login takes a session's place.

In apps that sign users in by themselves the data lie beside the key that says who is signed in.
What is another user's stays behind, whoever signs in next in the same browser.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from . import codec
from .record import Changes, Former, Record

Data = dict[str, bytes]
"""A session's data: each value encoded, under its key."""

MESSAGES = "_flashes"
"""Where Flask keeps flashed messages."""
_ANYBODY_ELSE = ""
"""The hash of no user."""


class Carry(t.Protocol):
    """Chooses the data of a login from the record whose place it takes. It is asked again where
    that has changed meanwhile, or is gone; None then means that there should be no login."""

    def __call__(self, current: Record | None, *, is_gone: bool = False) -> Data | None: ...


@dataclass(frozen=True, slots=True)
class Luggage:
    """What a request has in hand when it signs somebody in or out: the record it has loaded, the
    hash of the user it came as, its changes, and the keys it has given a value, be it the one they
    had."""

    loaded: Record | None
    owner: str | None
    changes: Changes
    assigned: frozenset[str]

    def into_login(self, user: str, current: Record | None, *, is_gone: bool = False) -> Data:
        """The data of the session of the user with this hash that takes the place of `current`,
        which is the record as it is by now. If it is gone, a user's data went with it."""
        data = self.changes.applied_to(current.encoded_data() if current else {})
        if self.owner is None:
            former = current.former if current else None
            foreign = former.keys if former and former.user != user else []
        else:
            foreign = list(data) if is_gone or self.owner != user else []
        taken = {k: v for k, v in data.items() if k not in foreign or k in self.assigned}
        if MESSAGES in foreign and MESSAGES in taken:
            taken |= self._new_messages(taken.pop(MESSAGES))
        return taken

    def into_visit(self, ended: Record | None) -> tuple[Data, Former | None]:
        """The data that a logout leaves to a visitor, and which of them are the user's: all but
        what this request has set. Nothing else is left of a session that had ended already."""
        own = self.into_login(_ANYBODY_ELSE, self.loaded)
        if self.owner is None or (self.loaded and not ended):
            return own, None
        data = self.changes.applied_to(ended.encoded_data() if ended else {})
        theirs = sorted(key for key, value in data.items() if own.get(key) != value)
        return data, Former(self.owner, theirs) if theirs else None

    def _new_messages(self, all_said: bytes) -> Data:
        """The messages that this request has flashed, without those before them: `flash` assigns
        the whole list, and what was said to somebody else is not for this user."""
        encoded = self.loaded.encoded_data().get(MESSAGES) if self.loaded else None
        said = codec.decode(MESSAGES, encoded) if encoded else []
        messages = codec.decode(MESSAGES, all_said)
        if not isinstance(said, list) or not isinstance(messages, list):
            return {}
        if messages[: len(said)] == said:
            new = messages[len(said) :]
        else:  # those before were taken out first
            new = [message for message in messages if message not in said]
        return {MESSAGES: codec.encode(MESSAGES, new)}
