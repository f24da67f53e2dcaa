"""Two apps with the default key prefix on one Redis accept each other's sessions."""

from __future__ import annotations

import logging

import pytest
from flask import Flask

from .support.apps import MakeApp, store_of


def apps_with(make_app: MakeApp, *names: str, **settings: str) -> list[Flask]:
    """Apps of these import names, which have used their store."""
    apps = [make_app(name, views=False, **settings) for name in names]
    for app in apps:
        store_of(app).now()
    return apps


@pytest.mark.parametrize(
    ("names", "prefix", "is_warned"),
    [
        (["shop", "admin"], "kvs", True),
        (["shop", "shop"], "kvs", False),
        (["shop", "admin"], "both", False),
        (["shop"], "kvs", False),
    ],
    ids=["two apps", "two workers of one app", "a chosen prefix", "one app"],
)
def test_two_apps_with_the_default_prefix_are_warned_once(
    make_app: MakeApp,
    caplog: pytest.LogCaptureFixture,
    names: list[str],
    prefix: str,
    is_warned: bool,
) -> None:
    """One warning names both apps, unless they have chosen their common prefix."""
    with caplog.at_level(logging.WARNING, "flask_kvsession"):
        apps = apps_with(make_app, *names, key_prefix=prefix)
        for app in apps:
            store_of(app).now()
    warnings = [r.message for r in caplog.records if "default KVSESSION_KEY_PREFIX" in r.message]
    assert len(warnings) == is_warned
    assert not warnings or "'shop' and 'admin'" in warnings[0]
