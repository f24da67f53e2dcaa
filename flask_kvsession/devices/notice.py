"""The notice that names the devices which were just signed out, and is shown once.

A post that signs devices out is followed by a redirect to the list. The notice travels from the one
to the other in a cookie of its own, which the list deletes when it shows the notice. So a reload
and the browser's history do not show it again, and no link can make it appear. The cookie costs no
call to Redis, and it cannot fail after the devices are signed out.

The notice is authenticated with a hash that only Redis and the workers have. So neither a sibling
domain, which can set cookies here, nor another user of the browser can make the list say anything.
"""

from __future__ import annotations

import hmac
import typing as t
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

import msgspec
from flask import request

from ..app_state import app_state
from ..current import request_session
from ..record import SessionInfo
from .describe import Device, describe
from .rows import Locator

if t.TYPE_CHECKING:
    from werkzeug.wrappers import Response

SECONDS = 60
"""How long the browser keeps the notice if it does not follow the redirect."""

MAX_NAMED = 3
"""How many devices a notice names. A cookie is limited to 4 KB."""

_MAX_PLACE_CHARS = 80
_PURPOSE = b"kvsession notice "


class SignedOut(msgspec.Struct, frozen=True, array_like=True):
    """A device that was signed out."""

    device: Device
    where: str | None
    """Its place, else its address; None if neither is known."""


class Notice(msgspec.Struct, frozen=True, array_like=True):
    """How many devices were signed out, and the names of the first ones."""

    count: int
    devices: list[SignedOut]


def notice_of(ended: Sequence[SessionInfo]) -> Notice:
    """The notice of these sessions, which were just ended."""
    locate = Locator()
    return Notice(len(ended), [_signed_out(session, locate) for session in ended[:MAX_NAMED]])


def _signed_out(session: SessionInfo, locate: Locator) -> SignedOut:
    where = locate(session.ip_address) or session.ip_address
    return SignedOut(describe(session.user_agent), where and where[:_MAX_PLACE_CHARS])


def send_notice(response: Response, notice: Notice) -> None:
    """Gives the notice to the browser, for the next view of the list in this session."""
    payload = msgspec.json.encode(notice)
    value = urlsafe_b64encode(_signature(payload) + payload).decode()
    response.set_cookie(_cookie_name(), value, max_age=SECONDS, **app_state().cookie.attributes)


def received_notice() -> Notice | None:
    """The notice that this request carries. None if there is none, or if it is not authentic."""
    try:
        value = urlsafe_b64decode(request.cookies.get(_cookie_name(), ""))
        signature, payload = value[:32], value[32:]
        if hmac.compare_digest(signature, _signature(payload)):
            return msgspec.json.decode(payload, type=Notice)
    except (ValueError, msgspec.MsgspecError):
        pass
    return None


def delete_notice(response: Response) -> None:
    """Takes the notice from the browser, if the request carries one."""
    if _cookie_name() in request.cookies:
        response.delete_cookie(_cookie_name(), **app_state().cookie.attributes)


def _cookie_name() -> str:
    return f"{app_state().cookie.name}-notice"


def _signature(payload: bytes) -> bytes:
    """Depends on the session: its family's hash, which a login and `confirm_login` make new."""
    stored = request_session().session.stored
    assert stored, "the list and its posts need a session"
    return hmac.digest(stored.record.family.encode(), _PURPOSE + payload, "sha256")
