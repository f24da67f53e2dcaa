"""Knows what the users of one life did, says what must follow, and counts what does not.

It sees what a user, a browser and an administrator see: requests, replies, cookies, and whether a
session's record exists. It does not read secrets or times in records.
"""

from __future__ import annotations

import math
import re
import typing as t
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from ..support.device import SKIPPED
from .browser import Browser, Cookie, Exchange, Owner, Thief
from .device import DEVICE
from .site import EPOCH_MS, Site


class State(Enum):
    """What a user may expect."""

    IN = "signed in"
    OUT = "signed out"
    UNSURE = "the reply of a login, logout or rotation is missing, or was late"


@dataclass
class Expectation:
    """What one browser's user may expect, and why."""

    state: State = State.OUT
    acts_under_way: int = 0
    """Logins, logouts and rotations whose reply is still missing."""
    changes: int = 0
    """Counts what may change the expectation. A request is judged if it stays equal meanwhile."""
    overwritten_by: str | None = None
    """What has replaced the cookie of the last login, although that opened the user's session."""
    is_signed_out: bool = False
    """Whether the last judged request was answered as anonymous against the expectation."""


@dataclass
class Issued:
    """A token that the app has sent to a browser."""

    order: int
    by_act: bool
    """Whether a login or an explicit rotation has made it."""
    shown: float | None = None
    """When the first request that carried it was answered."""


@dataclass
class Theft:
    """What became of one copied cookie."""

    session_id: str
    first_use: float | None = None
    """When the thief was first accepted as the user."""
    last_use: float = 0.0
    found: float | None = None
    later_owner: bool = False
    """Whether the owner has used this session again after the first use."""


@dataclass
class Figures:
    """The counts of one life, or of many."""

    counts: Counter[str] = field(default_factory=Counter)
    seeds: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The seeds of the lives in which something was counted that is rare."""
    found_after: list[float] = field(default_factory=list)
    """For each thief that was found: seconds from the first use to the alarm."""

    def add(self, other: Figures) -> None:
        self.counts.update(other.counts)
        self.found_after += other.found_after
        for name, seeds in other.seeds.items():
            self.seeds[name] += seeds


class Observer:
    """Observes one life."""

    def __init__(self, site: Site, seed: str, interval: float, grace: float) -> None:
        self.figures = Figures()
        self.trace: list[tuple[t.Any, ...]] = []
        """All that has happened, in order. Two runs of one seed have equal traces."""
        self._site = site
        self._seed = seed
        self._interval = interval
        self._grace = grace
        self._expected: dict[Browser, Expectation] = defaultdict(Expectation)
        self._owners: list[Owner] = []
        self._issued: dict[str, Issued] = {}
        self._users: dict[str, str] = {}
        """By session id: the user whose login has created the session."""
        self._ended: dict[str, float] = {}
        """By session id: when a logout, a login over it, or a revocation was answered."""
        self._rotations: dict[str, list[Exchange]] = defaultdict(list)
        """By session id: the requests that asked for an explicit rotation."""
        self._explained: set[str] = set()
        """Sessions that no browser may hold a token of, and why is known."""
        self._acknowledged: dict[str, set[str]] = defaultdict(set)
        """By session id: the keys whose write was acknowledged."""
        self._taken: Counter[str] = Counter()
        """By id of an anonymous session: the logins and logouts that have carried its cookie."""
        self._thefts: dict[Thief, Theft] = {}
        self._bound_at: dict[str, float] = {}
        """By session id: when it was bound to its device."""
        self._bound_in_browser: dict[str, float] = {}
        """By session id: when the reply to the registration has arrived."""
        self._used_by_thief: set[str] = set()

    def add_owner(self, owner: Owner) -> None:
        self._owners.append(owner)

    # What happens

    def on_sent(self, exchange: Exchange) -> None:
        self._note("sent", exchange, exchange.path, exchange.header)
        self._count("requests")
        expected = self._expected[exchange.browser]
        if exchange.act == "revoke":
            for other in self._others(exchange):
                self._expected[other].acts_under_way += 1
                self._expected[other].changes += 1
        if exchange.changes_secret:
            exchange.notes["is_alone"] = not expected.acts_under_way
            expected.acts_under_way += 1
            expected.changes += 1
        exchange.notes["changes"] = expected.changes
        exchange.notes["state"] = expected.state
        exchange.notes["written"] = set(self._acknowledged[_id_of(exchange.anonymous_token)])

    def on_entered(self, exchange: Exchange) -> None:
        self._note("entered", exchange)
        exchange.notes["issued"] = len(self._issued)
        session_id = _id_of(exchange.user_token)
        if exchange.act in ("login", "logout"):
            self._taken[_id_of(exchange.anonymous_token)] += 1
        if exchange.act in ("confirm", "rotate"):
            for named in {session_id, _id_of(exchange.anonymous_token)}:
                self._rotations[named].append(exchange)
        if isinstance(exchange.browser, Thief):
            self._used_by_thief |= {session_id, _id_of(exchange.anonymous_token)}
            return
        for theft in self._thefts.values():
            is_later = theft.first_use is not None and exchange.sent > theft.first_use
            if is_later and theft.session_id == session_id:
                theft.later_owner = True

    def on_answered(self, exchange: Exchange) -> None:
        reply = exchange.reply
        assert reply
        self._note("answered", exchange, reply.status, reply.seen.user, *map(_short, reply.cookies))
        if reply.status == 503 and SKIPPED in exchange.more_headers:
            self._count("pages after a failed refresh")
            return
        if reply.status >= 500:
            self._alarm("failures")
        if exchange.act == DEVICE:
            self._follow_device(exchange)
            return
        self._note_issued(exchange)
        self._check_end_is_kept(exchange)
        self._check_old_token(exchange)
        if isinstance(exchange.browser, Thief):
            self._follow_thief(exchange)
        else:
            self._check_expectation(exchange)
        if reply.status == 200:
            self._follow_act(exchange)

    def on_cookie(self, exchange: Exchange, name: str, cookie: Cookie) -> None:
        """A Set-Cookie header has arrived, and is about to be applied."""
        old = exchange.browser.user_token
        is_other = name == self._site.user_cookie and old and old != cookie.value
        if not is_other or old is None or isinstance(exchange.browser, Thief):
            return
        if self._is_loss(old, cookie.value):
            cause = self._cause_of_cookie(exchange)
            self._alarm(f"overwritten by {cause}")
            self._expected[exchange.browser].overwritten_by = cause
            self._explained.update((_id_of(old), _id_of(cookie.value)))

    def on_arrived(self, exchange: Exchange) -> None:
        reply, expected = exchange.reply, self._expected[exchange.browser]
        assert reply
        self._note("arrived", exchange)
        if isinstance(exchange.browser, Thief):
            return
        if exchange.act == DEVICE:
            self._bound_in_browser[exchange.notes.get("bound id", "")] = self._now
            return
        if exchange.act == "write" and reply.status == 200:
            self._acknowledge(exchange)
        if exchange.act == "revoke":
            self._end_revocation(exchange)
        if exchange.changes_secret:
            expected.acts_under_way -= 1
            expected.changes += 1
            expected.state = self._state_after(exchange)
            if exchange.act == "login":
                expected.overwritten_by = None
                expected.is_signed_out = False
        elif expected.state is State.UNSURE and self._is_judged(exchange) and reply.seen.user:
            expected.state = State.IN  # the user sees that they are signed in

    def on_lost(self, exchange: Exchange) -> None:
        self._note("lost", exchange)
        self._count("lost")
        if exchange.act == DEVICE:
            if session_id := exchange.notes.get("bound id"):
                self._count("bindings whose reply was lost")
                self._make_unsure(session_id)
            return
        if exchange.act == "revoke":
            self._end_revocation(exchange)
        if exchange.changes_secret and not isinstance(exchange.browser, Thief):
            expected = self._expected[exchange.browser]
            expected.acts_under_way -= 1
            expected.changes += 1
            expected.state = State.UNSURE
            self._explained.update(self._ids_of(exchange))

    def on_restart(self, browser: Browser) -> None:
        expected = self._expected[browser]
        expected.changes += 1
        cookie = browser.jar.cookies.get(self._site.user_cookie)
        if cookie and cookie.expires is None:
            expected.state = State.UNSURE
            self._explained.add(_id_of(cookie.value))

    def on_copied(self, thief: Thief) -> None:
        token = thief.user_token
        assert token
        self._thefts[thief] = Theft(_id_of(token))

    def on_alarm(self, session_id: str) -> None:
        """The app has sent `token_reused`."""
        self.trace.append((self._now, "alarm", session_id))
        if session_id not in self._used_by_thief:
            self._alarm("false alarms")
        self._make_unsure(session_id)
        for theft in self._thefts.values():
            if theft.session_id == session_id and theft.found is None:
                theft.found = self._now

    # The end of the life

    def check_settled(self) -> list[Owner]:
        """Counts browsers that are locked out. Returns those that have to sign in again first."""
        return [o for o in self._owners if o.wants_in and not self._is_accepted(o)]

    def count_locked_out(self, owners: list[Owner]) -> None:
        for owner in owners:
            if not owner.has_left and not self._is_accepted(owner):
                self._alarm("locked out")

    def finish(self) -> Figures:
        """Compares what is in the store with what must be there."""
        tokens = [b.user_token for b in (*self._owners, *self._thefts)]
        held = {_id_of(token) for token in tokens}
        for session_id in self._site.session_ids():
            raw = self._site.record(session_id)
            if raw is None:
                continue
            record = msgspec.json.decode(raw)
            if self._acknowledged[session_id] - record["data"].keys():
                self._alarm("data lost")
            if session_id in self._ended:
                # A thief who cannot use the user's cookie uses the anonymous one, and rotates it.
                is_thiefs = record.get("user") is None and session_id in self._used_by_thief
                if not is_thiefs:
                    self._alarm("ended sessions that are left")
            elif record.get("user") is not None and session_id not in held:
                is_explained = session_id in self._explained
                self._alarm(
                    "sessions left by lost or late replies" if is_explained else "orphan sessions"
                )
        for theft in self._thefts.values():
            self._count_theft(theft)
        self._count("lives")
        return self.figures

    # What must follow

    def _check_expectation(self, exchange: Exchange) -> None:
        expected, reply = self._expected[exchange.browser], exchange.reply
        assert reply
        is_in = reply.seen.user is not None
        if not self._is_judged(exchange) or exchange.act == "login":
            return
        if not is_in and self._is_late_for_its_device(exchange):
            self._count("requests that were late for their short cookie")
            return
        self._count("judged")
        if expected.state is State.OUT and is_in:
            self._alarm("signed in after a logout")
        if expected.state is State.IN and not is_in:
            session_id = _id_of(exchange.user_token)
            if session_id in self._used_by_thief and self._site.record(session_id) is None:
                self._make_unsure(session_id)  # the alarm follows when that request ends
                return
            if not expected.is_signed_out:
                cause = expected.overwritten_by
                self._alarm(f"signed out after {cause}" if cause else "signed out")
            expected.is_signed_out = True
        elif is_in:
            expected.is_signed_out = False

    def _is_judged(self, exchange: Exchange) -> bool:
        """Whether nothing has happened since the request was sent that may change its answer."""
        expected = self._expected[exchange.browser]
        under_way = expected.acts_under_way - exchange.changes_secret * (not exchange.is_over)
        return under_way == 0 and exchange.notes["changes"] == expected.changes

    def _check_end_is_kept(self, exchange: Exchange) -> None:
        """A session that has ended is never opened again."""
        assert exchange.reply
        session_id, seen = _id_of(exchange.user_token), exchange.reply.seen
        ended = self._ended.get(session_id)
        if ended is None or exchange.entered <= ended or seen.user is None:
            return
        if session_id == (self._id_in_cookies(exchange) or seen.session_id):
            self._alarm("ended sessions that came back")

    def _check_old_token(self, exchange: Exchange) -> None:
        """A secret that was replaced longer ago than the grace opens no session, and ends it."""
        session_id, issued = (
            _id_of(exchange.user_token),
            self._issued.get(exchange.user_token or ""),
        )
        if not issued or session_id in self._ended:
            return
        later = [i for i in self._issued_of(session_id) if i.order > issued.order]
        shown = [i.shown for i in later if i.shown is not None]
        is_old = any(time + self._grace < exchange.entered for time in shown)
        assert exchange.reply
        is_open = exchange.reply.seen.user is not None
        if not is_old or any(i.by_act for i in later):
            if is_open or session_id not in self._bound_at:  # without the proof it was not shown
                issued.shown = min(issued.shown or exchange.answered, exchange.answered)
            return
        if is_open or self._site.record(session_id) is not None:
            self._alarm("thieves missed")

    def _follow_act(self, exchange: Exchange) -> None:
        """Notes which sessions an act has begun or ended."""
        assert exchange.reply
        if exchange.act in ("login", "logout"):
            self._count(f"{exchange.act}s")
            if self._must_end(exchange, exchange.user_token):
                self._end(_id_of(exchange.user_token), exchange)
            if self._is_judged(exchange) and self._must_end(exchange, exchange.anonymous_token):
                self._end(_id_of(exchange.anonymous_token), exchange)
        elif exchange.changes_secret:
            self._count("explicit rotations")
        if exchange.act == "login" and (new := self._id_in_cookies(exchange)):
            self._users[new] = exchange.path.split("/")[2]
            is_first = self._taken[_id_of(exchange.anonymous_token)] == 1
            if not exchange.user_token and is_first and self._is_judged(exchange):
                self._acknowledged[new] |= exchange.notes["written"]
        if exchange.act == "revoke":
            self._count("revocations")
            user, own = exchange.reply.seen.user, exchange.reply.seen.session_id
            for session_id, its_user in self._users.items():
                began = min(i.order for i in self._issued_of(session_id))
                if its_user == user and session_id != own and began < exchange.notes["issued"]:
                    self._end(session_id, exchange)

    def _must_end(self, exchange: Exchange, token: str | None) -> bool:
        """Whether a login or logout has to end the session of this token.

        It has to, if no explicit rotation has replaced the token. A logout has to end it also if
        one explicit rotation has replaced the token less than 10 s before the logout began. A
        request without the proof of its device ends nothing.
        """
        if not token or token not in self._issued:
            return False
        assert exchange.reply
        if _id_of(token) in self._bound_at and exchange.reply.seen.user is None:
            return False
        if not self._rotations_of(token):
            return True
        return exchange.act == "logout" and self._was_just_replaced(exchange, token)

    def _was_just_replaced(self, exchange: Exchange, token: str) -> bool:
        """Whether one explicit rotation has replaced the token less than 10 s before."""
        later = self._rotations_of(token)
        return len(later) == 1 and exchange.entered < later[0].entered + 10

    def _rotations_of(self, token: str) -> list[Exchange]:
        """The explicit rotations that have replaced this token, or may just be doing so."""
        order, later = self._issued[token].order, []
        for rotation in self._rotations[_id_of(token)]:
            made = rotation.notes.get("made", "")
            is_later = _id_of(made) == _id_of(token) and self._issued[made].order > order
            if rotation.reply is None or is_later:
                later.append(rotation)
        return later

    def _end(self, session_id: str, exchange: Exchange) -> None:
        self._ended.setdefault(session_id, exchange.answered)

    def _state_after(self, exchange: Exchange) -> State:
        """What the user may expect after this act. It is certain if no other act was under way."""
        expected, reply = self._expected[exchange.browser], exchange.reply
        assert reply
        is_last = exchange.notes["changes"] == expected.changes - 1  # it has arrived, nothing else
        if not is_last or not exchange.notes["is_alone"] or reply.status != 200:
            return State.UNSURE
        if exchange.act == "login":
            return State.IN
        return State.OUT if exchange.act == "logout" else expected.state

    def _acknowledge(self, exchange: Exchange) -> None:
        assert exchange.reply
        session_id = self._id_in_cookies(exchange) or exchange.reply.seen.session_id
        if session_id:
            self._acknowledged[session_id].add(exchange.path.split("/")[2])

    def _end_revocation(self, exchange: Exchange) -> None:
        for other in self._others(exchange):
            expected = self._expected[other]
            expected.acts_under_way -= 1
            expected.changes += 1
            expected.state = State.UNSURE

    # Cookies

    def _is_loss(self, old: str, new: str) -> bool:
        """Whether a browser loses the cookie of a session that was still its user's."""
        if _id_of(new) != _id_of(old):
            return _id_of(old) in self._users and self._site.record(_id_of(old)) is not None
        return self._issued[new].order < self._issued[old].order

    def _cause_of_cookie(self, exchange: Exchange) -> str:
        assert exchange.reply
        if exchange.changes_secret:
            return "a late reply of the user's own act"
        if exchange.reply.seen.user is None:
            token = exchange.user_token
            is_known = token in self._issued and self._was_just_replaced(exchange, token or "")
            return "a request with a just replaced secret" if is_known else "an anonymous request"
        return "a late successor"

    def _note_issued(self, exchange: Exchange) -> None:
        for _, value in self._cookies_of(exchange):
            if value:
                exchange.notes["made"] = value
                if value in self._issued:
                    continue
                self._issued[value] = Issued(len(self._issued), exchange.changes_secret)
                if not exchange.changes_secret and _id_of(value) in self._users:
                    self._count("successors")

    def _issued_of(self, session_id: str) -> list[Issued]:
        return [i for token, i in self._issued.items() if _id_of(token) == session_id]

    def _id_in_cookies(self, exchange: Exchange) -> str | None:
        """The session whose cookie the reply sets; None if it sets none."""
        return next((_id_of(value) for _, value in self._cookies_of(exchange) if value), None)

    def _cookies_of(self, exchange: Exchange) -> list[tuple[str, str]]:
        assert exchange.reply
        pairs = (line.partition(";")[0].partition("=") for line in exchange.reply.cookies)
        return [(name, value) for name, _, value in pairs]

    # Bindings

    def _follow_device(self, exchange: Exchange) -> None:
        """Counts a binding and a refresh that the server has carried out."""
        assert exchange.reply
        if exchange.reply.status != 200 or not exchange.reply.cookies:
            return
        if "bound" in exchange.notes:
            self._count("refreshes")
            return
        self._count("bindings")
        session_id = msgspec.json.decode(exchange.reply.body)["session_identifier"]
        exchange.notes["bound id"] = session_id
        self._bound_at[session_id] = exchange.answered

    def _is_late_for_its_device(self, exchange: Exchange) -> bool:
        """Whether the request came more than 10 s after the end of its short cookie; or after the
        binding, if the browser had not got the cookie when it sent the request."""
        session_id = _id_of(exchange.user_token)
        end = self._end_of_short_cookie(exchange)
        if end is None and exchange.sent < self._bound_in_browser.get(session_id, math.inf):
            end = self._bound_at.get(session_id)
        return end is not None and exchange.entered >= end + 10

    def _end_of_short_cookie(self, exchange: Exchange) -> float | None:
        """The end that the value of the request's short cookie names, in simulated seconds."""
        session_id = re.escape(_id_of(exchange.user_token))
        found = re.search(rf"-bound-{session_id}=(\d+)\.", exchange.header)
        return (int(found[1]) - EPOCH_MS) / 1000 if found else None

    # Thieves

    def _follow_thief(self, exchange: Exchange) -> None:
        assert exchange.reply
        theft = self._thefts[t.cast(Thief, exchange.browser)]
        if exchange.reply.seen.user is not None and theft.session_id in self._bound_at:
            end = self._end_of_short_cookie(exchange) or self._bound_at[theft.session_id]
            if exchange.entered >= end + 10:
                self._alarm("thieves accepted without the device")
        if exchange.reply.seen.user is not None:
            theft.last_use = exchange.entered
            if theft.first_use is None:
                theft.first_use = exchange.entered

    def _count_theft(self, theft: Theft) -> None:
        if theft.found is not None:
            self._count("thieves found")
            first_use = theft.found if theft.first_use is None else theft.first_use
            self.figures.found_after.append(max(0.0, theft.found - first_use))
        elif theft.first_use is None:
            self._count("thieves whose copy opened nothing")
        elif not theft.later_owner:
            self._count("thieves not found: the owner never came back")
        elif self._site.record(theft.session_id) is None:
            self._count("thieves not found: the session ended before")
        elif theft.last_use - theft.first_use < 2 * self._interval:
            self._count("thieves not found: the thief soon stopped")
        else:
            self._alarm("thieves not found in two rotation intervals")

    def _make_unsure(self, session_id: str) -> None:
        for owner in self._owners:
            if _id_of(owner.user_token) == session_id:
                self._expected[owner].state = State.UNSURE
                self._expected[owner].changes += 1

    # How it works

    @property
    def _now(self) -> float:
        return self._site.scheduler.now

    def _is_accepted(self, owner: Owner) -> bool:
        return owner.last_user is not None

    def _others(self, exchange: Exchange) -> list[Owner]:
        return [owner for owner in self._owners if owner is not exchange.browser]

    def _ids_of(self, exchange: Exchange) -> set[str]:
        ids = {_id_of(exchange.user_token)}
        if exchange.reply and (new := self._id_in_cookies(exchange)):
            ids.add(new)
        return ids

    def _count(self, name: str) -> None:
        self.figures.counts[name] += 1

    def _alarm(self, name: str) -> None:
        self._count(name)
        self.figures.seeds[name].append(self._seed)
        self.trace.append((self._now, name))

    def _note(self, event: str, exchange: Exchange, *more: t.Any) -> None:
        self.trace.append((self._now, event, exchange.browser.name, exchange.act, *more))


def _id_of(token: str | None) -> str:
    """The session id in a token; an empty string without a token."""
    return (token or "")[:19]


def _short(line: str) -> str:
    """A Set-Cookie header without the date, which is of the real time."""
    return "; ".join(part for part in line.split("; ") if not part.startswith("Expires="))
