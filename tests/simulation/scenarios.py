"""The kinds of lives, and the laws that each kind must keep."""

from __future__ import annotations

import math
import random
import typing as t
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from flask import Flask

import flask_kvsession as kvs

from .browser import Owner, Thief
from .device import BoundOwner
from .observer import Figures, Observer
from .scheduler import Scheduler
from .site import Kind, Site

INTERVAL, GRACE = 900.0, 300.0
"""Of the periodic rotation, in seconds; in one scenario it is rarer."""

_ROTATION = {"ROTATION_INTERVAL": INTERVAL, "ROTATION_GRACE": GRACE}
_READS_AND_WRITES = {"page": 6.0, "write": 2.0, "form": 1.0}
_ALL_ACTS = {
    **_READS_AND_WRITES,
    "confirm": 0.7,
    "rotate": 0.7,
    "logout": 0.7,
    "login": 0.3,
    "restart": 0.2,
}
_SIGNED_OUT = {"page": 1.0, "write": 1.0, "form": 1.0, "login": 3.0}

BY_ANONYMOUS = "overwritten by an anonymous request"
BY_SUCCESSOR = "overwritten by a late successor"
AFTER_SUCCESSOR = "signed out after a late successor"

NEVER = (
    "failures",
    "false alarms",
    BY_ANONYMOUS,
    BY_SUCCESSOR,
    "overwritten by a request with a just replaced secret",
    "orphan sessions",
    "data lost",
    "locked out",
    "signed out",
    AFTER_SUCCESSOR,
    "signed in after a logout",
    "ended sessions that are left",
    "ended sessions that came back",
    "thieves missed",
    "thieves not found in two rotation intervals",
    "thieves accepted without the device",
)
"""The figures that must be 0, unless a scenario names a known residual case."""


def _late_successors(share: float) -> dict[str, float]:
    """The known residual case of DESIGN, law 9, in at most this share of the lives."""
    return {BY_SUCCESSOR: share, AFTER_SUCCESSOR: share}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A kind of lives. Times are in seconds."""

    name: str
    reaches: tuple[str, ...]
    """The figures that must not be 0: otherwise the lives do not test what they are for."""
    kind: Kind = "core"
    settings: Mapping[str, t.Any] = field(default_factory=lambda: dict(_ROTATION))
    seconds: float = 9000.0
    gap: float = 400.0
    """The mean time between two acts of a user."""
    poll: float = 600.0
    """The time between two polls of a tab."""
    lost: float = 0.05
    """The share of replies that are lost. A fifth of it is the share of lost requests."""
    slow: float = 0.03
    """The share of ways that take up to some minutes."""
    remembered: float = 0.8
    """The share of logins after which the cookie outlives the browser."""
    weights_in: Mapping[str, float] = field(default_factory=lambda: dict(_ALL_ACTS))
    weights_out: Mapping[str, float] = field(default_factory=lambda: dict(_SIGNED_OUT))
    begins_signed_in: bool = False
    """Whether the first login is done before the network loses anything."""
    browsers: int = 1
    has_other_users: bool = False
    has_thief: bool = False
    known: Mapping[str, float] = field(default_factory=dict)
    """The figures of known residual cases, each with the largest share of the lives."""


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        # Only periodic rotation, and a bad network.
        Scenario(
            name="rotation",
            begins_signed_in=True,
            weights_in=_READS_AND_WRITES,
            reaches=("lost", "successors"),
        ),
        # An ordinary working day, with a rotation every hour.
        Scenario(
            name="day",
            settings={"ROTATION_INTERVAL": 3600, "ROTATION_GRACE": GRACE},
            seconds=8 * 3600.0,
            gap=1200.0,
            poll=1800.0,
            lost=0.01,
            slow=0.005,
            weights_in=_READS_AND_WRITES | {"confirm": 0.3, "logout": 0.3, "restart": 0.3},
            known=_late_successors(1 / 700),
            reaches=("lost", "successors", "explicit rotations", "logouts"),
        ),
        # All acts of two browsers of one user, often at the moment when a rotation is due.
        Scenario(
            name="mix",
            slow=0.01,
            browsers=2,
            weights_in=_ALL_ACTS | {"revoke": 0.2},
            known=_late_successors(0.05),
            reaches=("lost", "successors", "explicit rotations", "logouts", "revocations"),
        ),
        # Many logins and logouts of several users, without periodic rotation, on a slow network.
        Scenario(
            name="logins",
            settings={},
            seconds=3600.0,
            gap=90.0,
            poll=300.0,
            slow=0.1,
            has_other_users=True,
            weights_in=_ALL_ACTS | {"logout": 3.0, "login": 1.0},
            reaches=("lost", "explicit rotations", "logouts", "logins"),
        ),
        Scenario(
            name="thief",
            seconds=4 * 3600.0,
            has_thief=True,
            weights_in=_READS_AND_WRITES | {"logout": 0.1},
            known=_late_successors(0.02),
            reaches=("thieves found",),
        ),
        Scenario(
            name="by key",
            kind="by_key",
            slow=0.01,
            has_other_users=True,
            known=_late_successors(0.05),
            reaches=("lost", "successors", "explicit rotations", "logouts"),
        ),
        # Sessions that are bound to the device, with periodic rotations, and a thief.
        Scenario(
            name="device",
            kind="device",
            slow=0.01,
            remembered=0.5,
            has_thief=True,
            known=_late_successors(0.05),
            reaches=(
                "lost",
                "successors",
                "explicit rotations",
                "logouts",
                "bindings",
                "refreshes",
            ),
        ),
        # With one name, the response to an anonymous write may replace the user's cookie.
        Scenario(
            name="one name",
            kind="one_name",
            slow=0.01,
            known=_late_successors(0.05) | {BY_ANONYMOUS: 3.0},
            reaches=("lost", "successors", "explicit rotations", "logouts", BY_ANONYMOUS),
        ),
    )
}


@dataclass
class Simulation:
    """The lives of one scenario, one after another, in one app."""

    scenario: Scenario
    site: Site
    observer: Observer | None = None

    def live(self, seed: int) -> Observer:
        """One life, which depends on the seed only. Returns what was observed."""
        text = f"{seed}"
        scenario, site, scheduler = self.scenario, self.site, self.site.scheduler
        scheduler.now = 0.0
        site.random = random.Random(f"{text} {scenario.name}")
        self.observer = observer = Observer(site, text, INTERVAL, GRACE)
        kind = BoundOwner if scenario.kind == "device" else Owner
        owners = [
            kind(f"browser-{n}", site, scenario, observer, text) for n in range(scenario.browsers)
        ]
        for owner in owners:
            observer.add_owner(owner)
            owner.begin()
        if scenario.has_thief:
            thief = Thief("thief", site, scenario, observer, text)
            moment = thief.random.uniform(0.05, 0.6) * scenario.seconds
            scheduler.after(moment, lambda: thief.steal(owners[0]))
        scheduler.run()
        for owner in owners:
            owner.settle()
        scheduler.run()
        again = observer.check_settled()
        for owner in again:
            owner.log_in_again()
            scheduler.run()
            owner.settle()
        scheduler.run()
        observer.count_locked_out(again)
        observer.finish()
        site.delete_keys()
        return observer


@contextmanager
def simulation(scenario: Scenario, socket_path: str) -> Iterator[Simulation]:
    """A scenario's app on the server with this socket."""
    site = Site(scenario.kind, Scheduler())
    with site.opened(socket_path, **scenario.settings) as opened:
        simulation = Simulation(scenario, opened)

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            assert simulation.observer
            simulation.observer.on_alarm(session.id)

        with kvs.signals.token_reused.connected_to(receive, opened.app):
            yield simulation
        opened.scheduler.close()


def figures_of(scenario: Scenario, socket_path: str, seeds: Iterable[int]) -> Figures:
    """The figures of all lives of these seeds together."""
    figures = Figures()
    with simulation(scenario, socket_path) as running:
        for seed in seeds:
            figures.add(running.live(seed).figures)
    return figures


def broken_laws(scenario: Scenario, figures: Figures) -> list[str]:
    """One line for each law that the lives have broken, with the seeds.

    A known residual case breaks a law if it is more frequent than its share of the lives and chance
    (three standard deviations) explain.
    """
    lives, counts = figures.counts["lives"], figures.counts
    shares = dict.fromkeys(NEVER, 0.0) | dict(scenario.known)
    return [
        f"{scenario.name}: {name}: {counts[name]} in {lives} lives, at most {share:.2%};"
        f" seeds {', '.join(figures.seeds[name][:10])}"
        for name, share in shares.items()
        if counts[name] > share * lives + 3 * math.sqrt(share * lives)
    ]
