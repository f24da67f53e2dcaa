"""A browser that binds its sessions to a key, as the draft of DBSC says, on a bad network."""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass, field

from joserfc.jwk import ECKey

from ..support.device import CHALLENGE, ID, OFFER, PROOF, SKIPPED, Offer, signed
from .browser import Exchange, Owner

DEVICE = "device-bound"
"""The act of a registration and of a refresh: the first part of their paths."""

_MAX_PROOFS = 3
"""How many challenges of one refresh a browser answers."""


@dataclass(eq=False)
class Bound:
    """A binding of a browser."""

    session_id: str
    cookie: str
    """The name of its short cookie."""
    refresh_url: str
    key: ECKey
    is_refreshing: bool = False
    waiting: list[Exchange] = field(default_factory=list)
    """The requests that wait for the end of a refresh."""


class BoundOwner(Owner):
    """An owner in a browser with DBSC. The bindings survive a restart of the browser."""

    def __init__(self, *args: t.Any) -> None:
        super().__init__(*args)
        self.bindings: dict[str, Bound] = {}

    def restart(self) -> None:
        super().restart()
        for bound in self.bindings.values():
            for exchange in bound.waiting:
                exchange.is_over = True
            bound.is_refreshing, bound.waiting = False, []

    # Requests wait for the short cookies of all bindings

    def prepare(self, exchange: Exchange) -> None:
        skipped = exchange.notes.setdefault("skipped", {})
        for bound in self.bindings.values():
            is_missing = self.jar.value(bound.cookie, self.scheduler.now) is None
            if exchange.act != DEVICE and is_missing and bound.session_id not in skipped:
                bound.waiting.append(exchange)
                if not bound.is_refreshing:
                    self._refresh(bound, exchange.is_perfect)
                return
        if skipped:
            exchange.more_headers[SKIPPED] = ", ".join(skipped.values())
        self.dispatch(exchange)

    def _refresh(
        self, bound: Bound, is_perfect: bool, proof: str | None = None, n: int = 0
    ) -> None:
        bound.is_refreshing = True
        headers = {ID: bound.session_id} | ({} if proof is None else {PROOF: proof})
        exchange = self.send(bound.refresh_url, headers=headers, is_perfect=is_perfect)
        exchange.notes |= {"bound": bound, "proofs": n}

    def _end_refresh(self, bound: Bound, failure: str | None) -> None:
        bound.is_refreshing, waiting, bound.waiting = False, bound.waiting, []
        for exchange in waiting:
            if failure:
                exchange.notes["skipped"][bound.session_id] = failure
            self.prepare(exchange)

    # Replies

    def on_reply(self, exchange: Exchange) -> None:
        reply = exchange.reply
        assert reply
        if exchange.act == DEVICE:
            self._on_device_reply(exchange)
            return
        if offer := Offer.parse(reply.headers.get(OFFER, "")):
            self._register(offer, exchange.is_perfect)
        super().on_reply(exchange)

    def on_loss(self, exchange: Exchange) -> None:
        if exchange.act != DEVICE:
            super().on_loss(exchange)
        elif bound := exchange.notes.get("bound"):
            self._end_refresh(bound, "unreachable")

    def _register(self, offer: Offer, is_perfect: bool) -> None:
        key = ECKey.generate_key("P-256")
        claims = {"jti": offer.challenge, "authorization": offer.authorization}
        proof = signed(claims, key, jwk=dict(key.as_dict(private=False)))
        exchange = self.send(offer.path, headers={PROOF: proof}, is_perfect=is_perfect)
        exchange.notes["key"] = key

    def _on_device_reply(self, exchange: Exchange) -> None:
        reply = exchange.reply
        assert reply
        bound: Bound | None = exchange.notes.get("bound")
        if bound is None:
            if reply.status == 200:
                self._bind(json.loads(reply.body), exchange.notes["key"])
            return
        if reply.status == 403 and exchange.notes["proofs"] < _MAX_PROOFS:
            challenge = re.fullmatch(r'"([^"]+)";id="[^"]+"', reply.headers[CHALLENGE])
            assert challenge
            proof = signed({"jti": challenge[1]}, bound.key)
            self._refresh(bound, exchange.is_perfect, proof, exchange.notes["proofs"] + 1)
            return
        if reply.status == 200 and json.loads(reply.body).get("continue") is False:
            self.bindings.pop(bound.session_id, None)
        self._end_refresh(bound, None if reply.status == 200 else "server_error")

    def _bind(self, instructions: dict[str, t.Any], key: ECKey) -> None:
        session_id = instructions["session_identifier"]
        name = instructions["credentials"][0]["name"]
        self.bindings[session_id] = Bound(session_id, name, instructions["refresh_url"], key)
