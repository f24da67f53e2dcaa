"""What a request's response does with the session cookies."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Callable
from functools import partial

from .binding import Offer
from .record import Record, Stored
from .token import Token

if t.TYPE_CHECKING:
    from flask.wrappers import Request, Response

    from .app_state import AppState


_OFFER = "Secure-Session-Registration"
"""The header by which a response offers to bind a session; no cookie has this name."""


class CookieChanges:
    """The cookies that a response sets or deletes. Of several changes of one cookie, the last one
    counts. A cookie without a change gets no Set-Cookie."""

    def __init__(self, app: AppState, request: Request) -> None:
        self._app = app
        self._request = request
        self._changes: dict[str, Callable[[Response], None]] = {}
        """By cookie name, or `_OFFER`: applied to the response."""

    def set(self, stored: Stored, token: Token) -> None:
        """Gives the browser the token of this session, under the name for its kind of session."""
        record, cookie = stored.record, self._app.cookie
        max_age = self._seconds_left(record) if record.remembered else None
        name = cookie.anonymous_name if record.is_anonymous else cookie.name
        self._changes[name] = partial(
            cookie.write, token=token, max_age=max_age, anonymous=record.is_anonymous
        )

    def offer_binding(self, offer: Offer) -> None:
        """Offers the browser to bind the session to a key of its device."""
        self._changes[_OFFER] = partial(_add_offer, offer)

    def clear(self, *names: str) -> None:
        """Deletes the cookies of these names that the request carries, and takes back those that
        were to be set. With the cookie of a user, an offer is taken back too."""
        cookie = self._app.cookie
        if cookie.name in names:
            self._changes.pop(_OFFER, None)
        carried = cookie.names_in(self._request)
        for name in names:
            self._changes.pop(name, None)
            if name in carried:
                self._changes[name] = partial(cookie.clear, name=name)

    def clear_short_cookies(self) -> None:
        """Deletes the short cookies that the request carries: they belong to former sessions."""
        for name in self._app.cookie.bound_names_in(self._request):
            self._changes[name] = partial(self._app.cookie.clear, name=name)

    def apply(self, response: Response) -> None:
        for change in self._changes.values():
            change(response)

    def _seconds_left(self, record: Record) -> int:
        """The time to the absolute end, and never more than the whole timeout: the server's time
        may have been corrected by some ms since the record was made."""
        settings = self._app.settings
        remaining = settings.absolute_end(record) - self._app.now()
        return math.ceil(min(remaining, settings.milliseconds.absolute) / 1000)


def _add_offer(offer: Offer, response: Response) -> None:
    response.headers.add(
        _OFFER,
        f'(ES256);path="{offer.url}";challenge="{offer.challenge}"'
        f';authorization="{offer.authorization}"',
    )
