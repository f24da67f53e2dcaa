"""Names of Flask-KVSession raise an error that says what replaces them."""

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
def test_import_of_an_old_name_says_what_replaces_it(name: str) -> None:
    """The `ImportError` names the old name and its replacement."""
    with pytest.raises(ImportError, match=f"^{name} is a name of Flask-KVSession.*it is .*\\.$"):
        exec(f"from flask_kvsession import {name}", {})


def test_import_of_an_unknown_name_raises_the_usual_error() -> None:
    """A name that never existed gets the message of Python itself."""
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec("from flask_kvsession import nonsense", {})
    assert not hasattr(importlib.import_module("flask_kvsession"), "nonsense")


@pytest.mark.parametrize("name", renamed.ATTRIBUTES)
def test_use_of_an_old_attribute_says_what_replaces_it(name: str) -> None:
    """The `AttributeError` of session and extension names the old name and its replacement."""
    session = Session(lambda: None, lambda: 0, Settings())
    for thing in (session, kvs.KVSession()):
        with pytest.raises(
            AttributeError,
            match=f"^{name} is a name of Flask-(KV)?Session; in Flask-KVSession-Redis it is ",
        ):
            getattr(thing, name)
    with pytest.raises(AttributeError, match="'Session' object has no attribute 'nonsense'"):
        session.nonsense  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("key", renamed.CONFIG)
def test_an_old_config_key_is_refused(key: str) -> None:
    """`init_app` raises for a key that would have no effect."""
    app = Flask("app")
    app.config[key] = 64
    with pytest.raises(ConfigurationError, match=f"^{key} is a name of Flask-KVSession.*remove it"):
        kvs.KVSession(app)


def test_the_guide_names_every_old_name() -> None:
    """The migration table in `docs/flask-session.md` is complete."""
    guide, names = GUIDE.read_text(), [*renamed.EXPORTS, *renamed.CONFIG]
    assert [name for name in [*names, "regenerate", "destroy"] if name not in guide] == []
