"""The data of the session that a login or logout by the key begins."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..data import Changes
from ..record import Record


@dataclass(frozen=True, slots=True)
class LoginTransition:
    """A request at the moment when it commits a login or a logout.

    `owners.DataOwners` has applied the rules to the session of this request. Here they apply to
    what other requests have written meanwhile.
    """

    user_id_key: str
    loaded_user: str | None
    """The user to whom the loaded data belong; None for an anonymous session."""
    is_loaded: bool
    """Whether the loaded session was in the store."""
    keys: frozenset[str]
    """The keys in the session now."""
    changes: Changes
    own: dict[str, bytes] = field(repr=False)
    """The data that this request has assigned, also with an equal value."""
    previous_user_keys: frozenset[str]
    """The keys that a user has left in the session; after a logout."""
    removed_keys: frozenset[str]
    """The keys of data that a previous user has left and the login has removed."""
    left_keys: frozenset[str]
    """The keys that no login takes over: CSRF tokens and roles."""

    def data_for_login(self, current: Record | None, *, is_gone: bool = False) -> dict[str, bytes]:
        """The data of the login.

        `current` is the record that the login replaces, as it is now. If a user's session is gone,
        its data have gone with it.
        """
        if self.loaded_user is not None:
            return self.own if is_gone else self._applied_to(current)
        left = self.left_keys | previous_user_keys_of(current)
        # What another request has set again meanwhile is no longer the previous user's.
        removed = frozenset(self.changes.removed) - self.removed_keys
        changes = Changes(self.changes.set, removed, self.changes.cleared)
        data = changes.applied_to(current.encoded_data() if current else {})
        own = {key: value for key, value in self.own.items() if key in left}
        return {key: value for key, value in data.items() if key not in left} | own

    def data_after_logout(self, ended: Record | None) -> tuple[dict[str, bytes], frozenset[str]]:
        """The data that a logout leaves to the browser, and the keys of the user's data in them.

        If the session had ended before (`ended` is None), only data that this request has assigned
        are left.
        """
        data = self.own if self.is_loaded and not ended else self._applied_to(ended)
        browsers_own = self.keys - self.previous_user_keys
        return data, frozenset(data.keys() - browsers_own - {self.user_id_key})

    def _applied_to(self, record: Record | None) -> dict[str, bytes]:
        return self.changes.applied_to(record.encoded_data() if record else {})


def previous_user_keys_of(record: Record | None) -> frozenset[str]:
    """The keys of the data that a previous user has left in an anonymous session."""
    return frozenset(record.previous_user_keys or ()) if record else frozenset()
