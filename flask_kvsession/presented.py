"""The sessions that a request's cookies name, and which of them the request belongs to.

A session that is bound to a device also needs the short cookie (`binding`).
"""

from __future__ import annotations

import typing as t

import msgspec

from . import binding
from .errors import StoreUnavailable
from .record import SessionInfo, Stored
from .rotation import Standing
from .store import Found
from .token import Token

if t.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed.wsgi import WSGIEnvironment
    from flask.wrappers import Request

    from .app_state import AppState


_OPENED = "kvsession.opened"
"""The key of a WSGI environ with the tokens that have opened a session in it. No header of a
request can set this key."""

_FAILED = ("server_error", "unreachable")
"""Why a browser, by its header `Secure-Session-Skipped`, has no short cookie: we did not answer."""


class Presented(msgspec.Struct, frozen=True):
    """The result of looking up a request's tokens."""

    own: Found | None = None
    """The session that the request belongs to, and the token that opens it."""
    others: Sequence[Stored] = ()
    """Further sessions that tokens of the request open. A login and a logout end them."""
    unread: Sequence[Token] = ()
    """Tokens of the anonymous cookie, not looked up because another token opens a session."""
    replaced: Sequence[Stored] = ()
    """Sessions whose secret was replaced by an explicit rotation while this request was under way.
    They are not open to it, but a logout ends them."""
    stolen: Sequence[SessionInfo] = ()
    """Sessions that were ended because a token of the request was copied."""
    end_reason: str | None = None
    """Why a session that a token belongs to was ended from outside."""
    names_no_session: bool = False
    """Whether a token names a session that does not exist; it has probably expired."""
    unproven: Sequence[Stored] = ()
    """Sessions that are bound to a device, without a proof that the request comes from it."""


NOTHING_PRESENTED: t.Final = Presented()
UNPROVEN: t.Final = Standing.UNPROVEN


def look_up(
    app: AppState, request: Request, get_began: Callable[[], int], *, in_redis: bool = False
) -> Presented:
    """Looks up the request's tokens. `get_began` gives the time (ms) at which the request began.
    With `in_redis`, nothing comes from the near cache.

    The request belongs to a user's session if its tokens open one, else to an anonymous session. A
    request without a token costs no call of Redis.
    """
    tokens = app.cookie.tokens_in(request)
    if not (tokens.user or tokens.anonymous):
        return NOTHING_PRESENTED
    look_up_token = app.store.look_up_in_redis if in_redis else app.store.look_up

    def judged(token: Token) -> Found:
        found = look_up_token(token, get_began)
        if found.stored and found.stored.record.device and app.settings.device_bound:
            return _unless_unproven(app, request, found, get_began)
        return found

    found = [judged(token) for token in tokens.user]
    if len(found) == 1 and found[0].standing.is_valid:  # the usual case
        _remember(request.environ, found[0])
        return Presented(own=found[0], unread=tokens.anonymous)
    found = [_as_opened_before(request.environ, each) for each in found]
    own = _user_session_among(app, found)
    if own:
        unread = tokens.anonymous
    else:
        for token in tokens.anonymous:
            found.append(_as_opened_before(request.environ, judged(token)))
        if any(each.standing is UNPROVEN and _failed_to_refresh(request, each) for each in found):
            raise StoreUnavailable
        own, unread = _anonymous_session_among(app, found), []
    stolen = [info for each in found if (info := _end_if_stolen(app, each, found, get_began))]
    open_sessions = {each.stored.id: each.stored for each in _valid(found) if each.stored}
    if own and own.stored:
        open_sessions.pop(own.stored.id)
    unproven = [each.stored for each in found if each.standing is UNPROVEN and each.stored]
    replaced = (each.stored for each in found if each.standing is Standing.REPLACED)
    reasons = [each.end_reason for each in found if each.end_reason]
    return Presented(
        own=own,
        others=list(open_sessions.values()),
        unread=unread,
        replaced=[stored for stored in replaced if stored],
        stolen=stolen,
        end_reason="stolen" if stolen else "unbound" if unproven else next(iter(reasons), None),
        names_no_session=any(not each.stored and not each.end_reason for each in found),
        unproven=unproven,
    )


def shows_device(
    app: AppState, request: Request, found: Found, get_began: Callable[[], int]
) -> bool:
    """Whether the session is bound to a device, and the request has its short cookie."""
    stored = found.stored
    if stored is None or not binding.is_bound(stored.record):
        return False
    values = app.cookie.bound_values_in(request, stored.id)
    return binding.is_any_valid(values, stored.record, get_began())


def _unless_unproven(
    app: AppState, request: Request, found: Found, get_began: Callable[[], int]
) -> Found:
    """A token of a session that is bound opens it only together with the short cookie."""
    record = found.stored.record if found.stored and found.standing.is_valid else None
    if record is None or not binding.is_bound(record):
        return found
    if shows_device(app, request, found, get_began) or binding.is_under_way(record, get_began()):
        return found
    return msgspec.structs.replace(found, standing=UNPROVEN)


def _failed_to_refresh(request: Request, found: Found) -> bool:
    """Whether the browser says that this server has not answered the refresh of this session. Then
    it is unknown whether the request comes from the device. A thief who says it gains nothing: the
    answer is 503."""
    for item in request.headers.get("Secure-Session-Skipped", "").split(","):
        reason, *parameters = (part.strip(" \t") for part in item.split(";"))
        ids = [p.partition("=")[2] for p in parameters if p.startswith("session_identifier=")]
        is_ours = not ids or ids[0].strip('"') == found.token.session_id
        if is_ours and reason in _FAILED:
            return True
    return False


def _remember(environ: WSGIEnvironment, found: Found) -> None:
    """Notes that this token has opened its session in this environ."""
    if found.stored:
        environ.setdefault(_OPENED, {})[found.token] = found.stored.identity


def _as_opened_before(environ: WSGIEnvironment, found: Found) -> Found:
    """A token that has opened its session in this environ before opens it as in the grace, as long
    as the session lives.

    Events of a socket come with the environ of its handshake, and so with a secret that pages of
    the same browser have had replaced since. Such a secret is no sign of a copied cookie.
    """
    if found.standing.is_valid:
        _remember(environ, found)
    elif found.stored and environ.get(_OPENED, {}).get(found.token) == found.stored.identity:
        return msgspec.structs.replace(found, standing=Standing.IN_GRACE)
    return found


def _valid(found: list[Found]) -> list[Found]:
    """The tokens that open a session, the better secret of a session first."""
    return sorted((f for f in found if f.standing.is_valid), key=lambda f: f.standing.value)


def _user_session_among(app: AppState, found: list[Found]) -> Found | None:
    """The session of the one user. None for two users' sessions: nothing tells which of them an
    attacker may have planted. A session without the proof of its device counts too."""
    users: dict[str, Found] = {}
    for each in [*_valid(found), *(each for each in found if each.standing is UNPROVEN)]:
        if each.stored and not each.stored.record.is_anonymous:
            users.setdefault(each.stored.id, each)
    if len(users) > 1:
        app.warn_of_two_sessions()
    only = next(iter(users.values())) if len(users) == 1 else None
    return only if only and only.standing.is_valid else None


def _anonymous_session_among(app: AppState, found: list[Found]) -> Found | None:
    """The first anonymous session. With one cookie name for all sessions, it may be a user's by the
    app's own means: of two, none is taken then."""
    anonymous: dict[str, Found] = {}
    for each in _valid(found):
        if each.stored and each.stored.record.is_anonymous:
            anonymous.setdefault(each.stored.id, each)
    if len(anonymous) > 1 and app.cookie.has_one_name:
        app.warn_of_two_sessions()
        return None
    return next((each for each in found if each in anonymous.values()), None)


def _end_if_stolen(
    app: AppState, each: Found, found: list[Found], get_began: Callable[[], int]
) -> SessionInfo | None:
    """Ends the session of a token that was copied: its secret was replaced, and is used again.

    A browser that shows the current secret of the session as well is the owner's: it still has an
    old cookie of another path.
    """
    if each.standing is not Standing.REUSED or each.stored is None:
        return None
    current = [f for f in found if f.standing.is_valid or f.standing is UNPROVEN]
    is_owner = any(f.stored and f.stored.id == each.stored.id for f in current)
    return None if is_owner else app.store.end_stolen(each, get_began)
