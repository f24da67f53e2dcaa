"""A recorder of the signals that an app sends."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flask import Flask

import flask_kvsession as kvs
from flask_kvsession import signals


@dataclass
class Recorder:
    """The signals received, in order."""

    received: list[tuple[str, kvs.SessionInfo]] = field(default_factory=list)

    @property
    def users(self) -> list[tuple[str, t.Any]]:
        """The name of each signal and the user of its session."""
        return [(name, info.user_id) for name, info in self.received]

    @property
    def ids(self) -> list[str]:
        """The session id of each signal."""
        return [info.id for _, info in self.received]


@contextmanager
def recorded_signals(app: Flask, *names: str) -> Iterator[Recorder]:
    """Records in the block the signals of these names; without names, all signals."""
    recorder = Recorder()

    def receiver_of(name: str) -> Callable[..., None]:
        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            recorder.received.append((name, session))

        return receive

    receivers = {name: receiver_of(name) for name in names or signals.__all__}
    for name, receive in receivers.items():
        getattr(signals, name).connect(receive, app)
    yield recorder
    for name, receive in receivers.items():
        getattr(signals, name).disconnect(receive, app)
