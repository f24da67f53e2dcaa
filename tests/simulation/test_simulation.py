"""A few hundred simulated lives keep all laws, and the simulation notices a broken package."""

from __future__ import annotations

import secrets
import sys
import typing as t
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from flask_kvsession import binding, presented, rotation
from flask_kvsession.cookie import SessionCookie
from flask_kvsession.record import Record
from flask_kvsession.rotation import Standing
from flask_kvsession.store import SessionStore, server
from flask_kvsession.store.server import Script
from flask_kvsession.token import Token

from .scenarios import SCENARIOS, broken_laws, figures_of, simulation
from .scheduler import Scheduler

LIVES = {
    "rotation": 50,
    "day": 30,
    "mix": 25,
    "logins": 35,
    "thief": 30,
    "by key": 30,
    "one name": 30,
    "device": 40,
}
"""The number of lives of each scenario in this suite. `make simulate` runs thousands."""


@pytest.mark.parametrize("name", LIVES)
def test_simulated_browsers_meet_nothing_that_a_law_excludes(name: str, socket_path: str) -> None:
    """In each scenario, the figures that must be 0 are 0, and known residual cases are rare."""
    scenario = SCENARIOS[name]
    figures = figures_of(scenario, socket_path, range(LIVES[name]))
    assert broken_laws(scenario, figures) == []
    assert figures.counts["judged"] > 0.6 * figures.counts["requests"]
    assert [figure for figure in scenario.reaches if not figures.counts[figure]] == []


@pytest.mark.parametrize("name", ["mix", "thief", "by key", "device"])
def test_a_life_of_one_seed_is_the_same_each_time(name: str, socket_path: str) -> None:
    """Two runs of one seed give the same trace, also after other lives in the same app."""
    with simulation(SCENARIOS[name], socket_path) as first:
        trace = first.live(3).trace
    with simulation(SCENARIOS[name], socket_path) as second:
        other = second.live(4).trace
        again = second.live(3).trace
    assert trace == again
    assert trace != other
    assert len(trace) > 100


def test_handlers_run_one_at_a_time_in_the_order_of_their_times() -> None:
    """Two handlers that pause take turns by the simulated time, and none runs beside another."""
    scheduler, seen = Scheduler(), list[tuple[str, float]]()

    def handler(name: str, pauses: list[float]) -> None:
        for pause in pauses:
            seen.append((name, scheduler.now))
            scheduler.pause(pause)
        seen.append((name, scheduler.now))

    scheduler.after(0, lambda: scheduler.start(lambda: handler("a", [2, 2])))
    scheduler.after(1, lambda: scheduler.start(lambda: handler("b", [2, 0.5])))
    scheduler.run()
    scheduler.close()
    order = [("a", 0), ("b", 1), ("a", 2), ("b", 3), ("b", 3.5), ("a", 4)]
    assert seen == order


def test_error_of_a_handler_ends_the_run() -> None:
    """An exception in a handler is raised by `Scheduler.run`, also after a pause."""
    scheduler = Scheduler()

    def handler() -> None:
        scheduler.pause(2)
        raise LookupError("wrong")

    scheduler.after(0, lambda: scheduler.start(handler))
    scheduler.after(1, lambda: None)
    with pytest.raises(LookupError, match="wrong"):
        scheduler.run()
    scheduler.close()


# The simulation can fail: each function breaks the package in one place


def give_both_cookies_one_name(patch: pytest.MonkeyPatch) -> None:
    """Anonymous sessions get the name of a user's cookie."""
    real = SessionCookie.from_settings

    def from_settings(*args: t.Any, **kwargs: t.Any) -> SessionCookie:
        cookie = real(*args, **kwargs)
        return replace(cookie, anonymous_name=cookie.name)

    patch.setattr(SessionCookie, "from_settings", from_settings)


def write_with_a_replaced_secret(patch: pytest.MonkeyPatch) -> None:
    """With one cookie name, a request with a just replaced secret creates an anonymous session."""
    patch.setattr(SessionCookie, "has_one_name", property(lambda cookie: False))


def make_random_successors(patch: pytest.MonkeyPatch) -> None:
    """The successor of a secret is random. Only the request that rotates knows the right one."""
    calls, made = Counter[tuple[str, str]](), dict[tuple[str, str], Token]()

    def successor(token: Token, nonce: str) -> Token:
        key = str(token), nonce
        calls[key] += 1
        if key not in made or calls[key] > 2:  # the hash for the record, and the cookie
            made[key] = Token(token.session_id, token.family + secrets.token_urlsafe(22)[:22])
        return made[key]

    patch.setattr(Token, "successor", successor)


def give_no_grace(patch: pytest.MonkeyPatch) -> None:
    """The secret before a periodic rotation ends at the first show of its successor."""
    real = rotation.with_step

    def with_step(
        record: Record, token: Token, now: int, due_after: int | None, grace: int, **more: t.Any
    ) -> Record:
        return real(record, token, now, due_after, 0, **more)

    _replace_everywhere(patch, real, with_step)


def take_each_unknown_secret_for_a_copy(patch: pytest.MonkeyPatch) -> None:
    """A secret of any other family ends the session, as one of the living family does."""
    real = rotation.judge

    def judge(record: Record, token: Token, began: Callable[[], int]) -> Standing:
        standing = real(record, token, began)
        return standing if standing.is_valid else Standing.REUSED

    _replace_everywhere(patch, real, judge)


def take_no_secret_for_a_copy(patch: pytest.MonkeyPatch) -> None:
    """A secret that was replaced longer ago than the grace still opens the session."""
    real = rotation.judge

    def judge(record: Record, token: Token, began: Callable[[], int]) -> Standing:
        standing = real(record, token, began)
        return Standing.IN_GRACE if standing is Standing.REUSED else standing

    _replace_everywhere(patch, real, judge)


def commit_over_other_changes(patch: pytest.MonkeyPatch) -> None:
    """A commit does not compare the stored record with the loaded one."""
    _change_script(patch, "commit", {"if current ~= ARGV[1] then": "if not current then"})


def commit_ended_sessions(patch: pytest.MonkeyPatch) -> None:
    """A commit also writes if the session has ended, by a logout or from outside."""
    _change_script(patch, "commit", {"if current ~= ARGV[1] then": "if false then"})


def leave_other_sessions_at_a_logout(patch: pytest.MonkeyPatch) -> None:
    """A logout and a login end no session but the request's own."""
    patch.setattr(SessionStore, "end_others", lambda *args: [])


def delete_only_the_cookie_at_a_logout(patch: pytest.MonkeyPatch) -> None:
    """A logout and a login leave the session before in the store."""
    patch.setattr(SessionStore, "remove", lambda store, stored, **more: (True, stored))


def revoke_nothing(patch: pytest.MonkeyPatch) -> None:
    """A revocation of all sessions ends none."""
    patch.setattr(SessionStore, "revoke_all", lambda *args, **more: [])


def ask_for_no_proof(patch: pytest.MonkeyPatch) -> None:
    """A session that is bound is opened by its long cookie alone."""
    patch.setattr(presented, "_unless_unproven", lambda app, request, found, began: found)


def let_short_cookies_last(patch: pytest.MonkeyPatch) -> None:
    """A short cookie is accepted for ever."""
    patch.setattr(binding, "GRACE_MS", 10**12)


def give_all_short_cookies_one_name(patch: pytest.MonkeyPatch) -> None:
    """A browser with two bindings has one short cookie."""
    patch.setattr(SessionCookie, "bound_name", lambda cookie, session_id: "short-bound-cookie")
    patch.setattr(
        SessionCookie,
        "bound_values_in",
        lambda cookie, request, session_id: [request.cookies.get("short-bound-cookie", "")],
    )


def end_bindings_at_an_outage(patch: pytest.MonkeyPatch) -> None:
    """A page whose refresh was not answered is answered as anonymous."""
    patch.setattr(presented, "_failed_to_refresh", lambda request, found: False)


def _replace_everywhere(patch: pytest.MonkeyPatch, real: object, new: object) -> None:
    """Replaces a function in each module of the package that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("flask_kvsession."):
            for attribute, value in list(vars(module).items()):
                if value is real:
                    patch.setattr(module, attribute, new)


def _change_script(patch: pytest.MonkeyPatch, name: str, changes: dict[str, str]) -> None:
    real = server.load_script

    def load_script(wanted: str) -> Script:
        source = real(wanted).source
        if wanted != name:
            return real(wanted)
        for old, new in changes.items():
            assert old in source
            source = source.replace(old, new)
        return Script(source, "0" * 40)  # an unknown digest: the store sends the source

    patch.setattr(server, "load_script", load_script)


@pytest.mark.parametrize(
    ("break_package", "scenario", "figure"),
    [
        (give_both_cookies_one_name, "logins", "overwritten by an anonymous request"),
        (
            write_with_a_replaced_secret,
            "one name",
            "overwritten by a request with a just replaced secret",
        ),
        (make_random_successors, "rotation", "signed out"),
        (give_no_grace, "rotation", "false alarms"),
        (take_each_unknown_secret_for_a_copy, "mix", "false alarms"),
        (take_no_secret_for_a_copy, "thief", "thieves missed"),
        (commit_over_other_changes, "rotation", "data lost"),
        (commit_ended_sessions, "logins", "ended sessions that are left"),
        (leave_other_sessions_at_a_logout, "mix", "ended sessions that are left"),
        (delete_only_the_cookie_at_a_logout, "logins", "ended sessions that came back"),
        (revoke_nothing, "mix", "ended sessions that came back"),
        (ask_for_no_proof, "device", "thieves accepted without the device"),
        (let_short_cookies_last, "device", "thieves accepted without the device"),
        (give_all_short_cookies_one_name, "device", "signed out"),
        (end_bindings_at_an_outage, "device", "signed out"),
    ],
)
def test_a_broken_package_raises_a_figure(
    break_package: Callable[[pytest.MonkeyPatch], None],
    scenario: str,
    figure: str,
    socket_path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the package is broken in one place, a figure that must be 0 rises within a few lives."""
    break_package(monkeypatch)
    with simulation(SCENARIOS[scenario], socket_path) as running:
        lives = (running.live(seed).figures for seed in range(40))
        assert any(life.counts[figure] for life in lives)
