"""Everything that a store can do."""

from __future__ import annotations

import typing as t

import flask_kvsession as kvs
from flask_kvsession.record import Client, Stored, new_record
from flask_kvsession.token import Token, new_session_id, user_hash


def sign_in(store: kvs.SessionStore, user_id: t.Any, data: dict[str, bytes] | None = None) -> Token:
    """A new session, as a login makes it."""
    token = Token.for_session(new_session_id(user_hash(user_id)))
    client = Client("127.0.0.1", "Ünïcode-☃")
    record = new_record(token, now=store.now(), client=client, user_id=user_id, data=data or {})
    new = Stored.of(token.session_id, record)
    store.login(new, None, lambda *args, **kwargs: {}, lambda info: None)
    while store.now() <= record.seen:
        pass  # of two logins in one ms neither is the earlier
    return token


def exercise(store: kvs.SessionStore) -> None:
    """Everything that a store can do, with what must be seen."""
    first, second, third = (sign_in(store, "ä{b}", {"x": b'"\xe2\x98\x83"'}) for _ in range(3))
    loaded = store.load(second)
    assert isinstance(loaded, Stored)
    assert loaded.record.encoded_data() == {"x": b'"\xe2\x98\x83"'}
    assert {stored.id for stored in store.sessions_of("ä{b}")} == {
        second.session_id,
        third.session_id,
    }
    assert store.update_all("ä{b}", {"role": "r"}, ["x"]) == 2
    outcome = store.update(
        loaded, lambda record: record.with_data(record.encoded_data() | {"y": b"1"})
    )
    assert outcome.stored and outcome.written
    assert outcome.stored.record.encoded_data() == {"role": b'"r"', "y": b"1"}
    assert store.revoke_one("ä{b}", first.session_id) is None
    revoked = store.revoke_one("ä{b}", third.session_id)
    assert revoked and revoked.user_agent == "Ünïcode-☃"
    assert store.remove(outcome.stored)[0]
    sign_in(store, "ä{b}")
    assert len(store.revoke_all("ä{b}")) == 1
    assert store.sessions_of("ä{b}") == []
    store.set_index_entry(user_hash("ä{b}"), second.session_id, 1000)
    store.set_index_entry(user_hash("ä{b}"), second.session_id, None)
    assert store.sessions_of("ä{b}") == []
    assert store.load(second) is None
    maintain(store)


def maintain(store: kvs.SessionStore) -> None:
    """What an operator can do, on a store without valid sessions."""
    token, user, maintenance = sign_in(store, "ä{b}"), user_hash("ä{b}"), store.maintenance
    store.set_index_entry(user, token.session_id, None)
    store.set_index_entry(user, second := new_session_id(user), 10_000)
    for is_dry in (True, False):
        found = list(maintenance.repair(is_dry=is_dry))
        assert sum(each.entries for each in found) == sum(each.records for each in found) == 1
    assert [stored.id for stored in store.sessions_of("ä{b}")] == [token.session_id] != [second]
    assert sum(each.ended for each in maintenance.revoke_everyone()) == 1
    assert sum(len(seen.stored) for seen in maintenance.sessions()) == 0
    store.inspection.try_session()
    assert all(facts.info for facts in store.inspection.servers())
