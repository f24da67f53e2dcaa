"""The names of the old Flask-KVSession lead to the new ones."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from flask import Flask

import flask_kvsession as kvs
from flask_kvsession import renamed
from flask_kvsession.errors import ConfigurationError
from flask_kvsession.session import Session
from flask_kvsession.settings import Settings

GUIDE = Path(__file__).parent.parent / "docs" / "flask-session.md"


@pytest.mark.parametrize("name", renamed.EXPORTS)
def test_an_old_import_says_the_new_name(name: str) -> None:
    """`from flask_kvsession import` an old name fails with a sentence that has the new one."""
    with pytest.raises(ImportError, match=f"^{name} is a name of Flask-KVSession.*it is .*\\.$"):
        exec(f"from flask_kvsession import {name}", {})


def test_other_names_are_missing_as_ever() -> None:
    """What never was is the error that Python gives."""
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec("from flask_kvsession import nonsense", {})
    assert not hasattr(importlib.import_module("flask_kvsession"), "nonsense")


@pytest.mark.parametrize("name", renamed.ATTRIBUTES)
def test_an_old_method_says_the_new_name(name: str) -> None:
    """A method of the old session or extension fails with a sentence that has the new one."""
    session = Session(lambda: None, lambda: 0, Settings())
    for thing in (session, kvs.KVSession()):
        with pytest.raises(AttributeError, match=f"^{name} is a name of Flask-KVSession"):
            getattr(thing, name)
    with pytest.raises(AttributeError, match="'Session' object has no attribute 'nonsense'"):
        session.nonsense  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("key", renamed.CONFIG)
def test_an_old_setting_is_refused(key: str) -> None:
    """A setting that would be without effect is an error when the app is set up."""
    app = Flask("app")
    app.config[key] = 64
    with pytest.raises(ConfigurationError, match=f"^{key} is a name of Flask-KVSession.*remove it"):
        kvs.KVSession(app)


@pytest.mark.parametrize("name", [*renamed.EXPORTS, *renamed.CONFIG, "regenerate", "destroy"])
def test_the_guide_names_it(name: str) -> None:
    """The table of the guide has every name of old."""
    assert name in GUIDE.read_text()
