"""The answers to a browser that registers a key, or refreshes the short cookie.

Neither looks at the session's cookie. A registration is known by the offer, which only the response
to the login had, and a refresh by the id of the session and by the key. So a rotation of the cookie
that is under way disturbs neither.
"""

from __future__ import annotations

import logging
import typing as t

from flask import current_app, jsonify, request, url_for

from .. import binding, signals
from ..app_state import app_state
from ..record import Record, Stored
from ..token import is_session_id
from .proof import InvalidProof, Proof, item_in

if t.TYPE_CHECKING:
    from flask.sansio.scaffold import Scaffold
    from flask.wrappers import Response

log: logging.Logger = logging.getLogger("flask_kvsession")

_ID, _RESPONSE, _CHALLENGE = (
    "Sec-Secure-Session-Id",
    "Secure-Session-Response",
    "Secure-Session-Challenge",
)


def register() -> Response:
    """Binds a session to the key in the browser's answer to the offer of its login."""
    try:
        proof = Proof.parse(request.headers.get(_RESPONSE))
        offer = binding.Offer(proof.challenge, proof.authorization)
        stored = _session(offer.session_id)
        if stored is None or not offer.is_open(stored.record, app_state().now()):
            raise InvalidProof("the offer is unknown, already used, or older than 5 minutes")
        key = proof.new_key()
    except InvalidProof as problem:
        return _refusal(f"a registration: {problem}")

    now = app_state().now()
    device = binding.to_key(key, now)

    def bind(current: Record) -> Record | None:
        return binding.with_device(current, device) if offer.is_open(current, now) else None

    # The binding has a random secret. So if the reply to a first attempt was lost, the record tells
    # that this request has written it.
    outcome = app_state().store.update(stored, bind)
    if outcome.stored is None or outcome.stored.record.device != device:
        return _refusal("a registration: another request has used the offer")
    _announce(outcome.stored)
    return _renewed(outcome.stored)


def refresh() -> Response:
    """Gives the browser a challenge, or for the answer to one a new short cookie."""
    session_id = item_in(request.headers.get(_ID))
    stored = _session(session_id)
    if stored is None or not binding.is_bound(stored.record):
        return _end(session_id)
    if _RESPONSE not in request.headers:
        return _challenge(stored)
    if binding.has_answered_too_many(stored.record, app_state().now()):
        return _error("TooManyProofs", 429)
    try:
        challenge = _answered_challenge(stored)
    except InvalidProof as problem:
        log.warning("refused the proof of a device for session %s: %s", stored.id, problem)
        return _challenge(stored)

    def use_up(current: Record) -> Record | None:
        now = app_state().now()
        if not binding.is_open_challenge(challenge, current, now):
            return None
        return binding.with_answered(current, challenge, now)

    outcome = app_state().store.update(stored, use_up, once=True)
    if outcome.stored is None:
        return _end(session_id)
    return _renewed(outcome.stored) if outcome.written else _challenge(outcome.stored)


def _answered_challenge(stored: Stored) -> str:
    """The open challenge that the device has signed; raises `InvalidProof`."""
    proof = Proof.parse(request.headers.get(_RESPONSE))
    now = app_state().now()
    if not binding.is_open_challenge(proof.challenge, stored.record, now):
        raise InvalidProof("it answers no open challenge of the session")
    assert stored.record.device, "the session is bound"
    proof.require_signature_of(stored.record.device.key)
    return proof.challenge


def _session(session_id: str | None) -> Stored | None:
    if session_id is None or not is_session_id(session_id):
        return None
    current = app_state().store.current(session_id)
    return current if isinstance(current, Stored) else None


# Responses


def _renewed(stored: Stored) -> Response:
    """The short cookie, and the instructions to the browser."""
    response = jsonify(_instructions(stored))
    app_state().write_short_cookie(response, stored)
    return response


def _instructions(stored: Stored) -> dict[str, t.Any]:
    """What the browser shall do (W3C draft of DBSC, "JSON Session Instruction Format"). The origin
    is that of the request, which a proxy may hide from the app."""
    cookie = app_state().cookie
    excluded = [{"type": "exclude", "domain": "*", "path": path} for path in _static_paths()]
    return {
        "session_identifier": stored.id,
        "refresh_url": url_for(".refresh"),
        "scope": {"include_site": False, "scope_specification": excluded},
        "credentials": [
            {
                "type": "cookie",
                "name": cookie.bound_name(stored.id),
                "attributes": cookie.bound_attributes,
            }
        ],
        # A link on another site, such as a mail, must find the user signed in.
        "allowed_refresh_initiators": ["*"],
    }


def _static_paths() -> list[str]:
    """The folders of static files, which no session protects: they need not wait for a refresh."""
    rules, settings = current_app.url_map.iter_rules(), app_state().settings
    owners: dict[str, Scaffold] = {f"{n}.static": b for n, b in current_app.blueprints.items()}
    owners["static"] = current_app
    static = {endpoint for endpoint, owner in owners.items() if owner.has_static_folder}
    folders = {r.rule.partition("<")[0].rstrip("/") for r in rules if r.endpoint in static}
    public = (folder for folder in folders if folder and not settings.protects_part_of(folder))
    return sorted(request.script_root + folder for folder in public)


def _end(session_id: str | None) -> Response:
    """Tells the browser that there is nothing to refresh: the session has ended."""
    return jsonify({"session_identifier": session_id, "continue": False})


def _challenge(stored: Stored) -> Response:
    response = _error("ProofRequired", 403)
    challenge = binding.new_challenge(stored.record, app_state().now())
    response.headers[_CHALLENGE] = f'"{challenge}";id="{stored.id}"'
    return response


def _refusal(what: str) -> Response:
    """A 403 without a challenge, after which the browser has no binding. Nothing is ended here."""
    log.warning("refused %s", what)
    return _error("InvalidProof", 403)


def _error(name: str, status: int) -> Response:
    response = jsonify(error=name)
    response.status_code = status
    return response


def _announce(stored: Stored) -> None:
    """Sends the signal. What its receivers raise must not end the binding in the browser."""
    state = app_state()
    try:
        state.send_signal(signals.device_bound, state.store.info(stored))
    except Exception:
        log.exception("a receiver of device_bound has failed")
