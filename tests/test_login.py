"""Signing in."""

from __future__ import annotations

import typing as t

from flask.testing import FlaskClient


def test_a_login_opens_guarded_views(client: FlaskClient) -> None:
    """After a login the same browser may enter, and its data are there."""
    assert client.get("/me").status_code == 401
    client.post("/login/ada", json={"data": {"role": "admin"}})
    assert client.get("/me").get_json()["data"] == {"role": "admin"}


def test_a_login_costs_one_round_trip(client: FlaskClient, count_commands: t.Any) -> None:
    """A first login writes the session in one round trip."""
    client.post("/login/warm-up")
    client.delete_cookie("kvsession")
    with count_commands() as commands:
        client.post("/login/ada")
    assert commands.names == ["EVALSHA"]
