"""While a cluster moves a slot, the server refuses each command on several keys of it (TRYAGAIN).

Here every such command is refused, so that each act takes its other way. tests/faults moves a real
slot.
"""

from __future__ import annotations

import typing as t

import pytest
from flask import Flask

import flask_kvsession as kvs
from flask_kvsession.store.server import Server, SlotIsMoving

from .support.apps import MakeApp, store_of
from .support.browsers import SignIn, id_of, may_enter
from .support.clock import Clock
from .support.commands import Keys
from .support.exercise import exercise


@pytest.fixture(autouse=True)
def moving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses each command with more than one key."""
    real = Server._call

    def call(server: Server, command: tuple[t.Any, ...], *args: t.Any, **options: t.Any) -> t.Any:
        keys = int(command[2]) if command[0] in ("EVALSHA", "EVAL") else len(command) - 1
        if keys > 1 and command[0] in ("EVALSHA", "EVAL", "MGET"):
            raise SlotIsMoving
        return real(server, command, *args, **options)

    monkeypatch.setattr(Server, "_call", call)


def test_a_store_can_do_everything(make_app: MakeApp) -> None:
    """All acts have the same results as on several keys."""
    exercise(store_of(make_app(max_sessions_per_user=2)))


def test_the_limit_ends_the_least_recently_used_session(
    make_app: MakeApp, sign_in: SignIn, clock: Clock
) -> None:
    """The limit holds, and spares the newest and the replaced session."""
    app = make_app(max_sessions_per_user=2)
    first, second = sign_in(app), sign_in(app)
    clock.advance(minutes=6)
    first.get("/me")
    third = sign_in(app)
    assert may_enter(first, second, third) == [True, False, True]
    third.post("/login/ada")
    assert may_enter(first, third) == [True, True]
    assert second.get("/me").status_code == 401


def test_logout_revocation_and_renewal_keep_the_index_right(
    app: Flask, sign_in: SignIn, clock: Clock, keys: Keys
) -> None:
    """The index has exactly the living sessions."""
    one, two, three = (sign_in(app) for _ in range(3))
    one.post("/logout")
    clock.advance(minutes=6)
    two.get("/me")
    store = store_of(app)
    assert {each.id for each in store.sessions_of("ada")} == {id_of(two), id_of(three)}
    assert store.revoke_one("ada", id_of(three))
    assert [each.id for each in store.sessions_of("ada")] == [id_of(two)]
    with app.app_context():
        assert kvs.revoke_all_sessions("ada") == 1
    assert not [key for key in keys() if ":u:" in key]
