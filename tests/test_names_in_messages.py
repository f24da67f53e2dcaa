"""Every setting that a message, a comment, a template or a document names exists."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from flask import Flask

from flask_kvsession.settings import Settings, config_key

ROOT = Path(__file__).parent.parent
PACKAGE, EXAMPLE, DOCS = ROOT / "flask_kvsession", ROOT / "example", ROOT / "docs"

SUFFIXES = {".py", ".html", ".js", ".json", ".lua", ".md"}

OWN = {config_key(setting.name) for setting in dataclasses.fields(Settings)}
FLASK = set(Flask.default_config)
ENVIRONMENT = {"KVSESSION_EMBEDDED_SERVER", "KVSESSION_TEST_REQUIRE"}
FOREIGN = {
    "SESSION_KEY_BITS",  # Flask-KVSession
    "SESSION_RANDOM_SOURCE",  # Flask-KVSession
    "SESSION_PROTECTION",  # Flask-Login
    "SESSION_REDIS",  # Flask-Session
    "SESSION_TYPE",  # Flask-Session
}
KNOWN = OWN | FLASK | ENVIRONMENT | FOREIGN

# Also finds names such as KVSESSIONFOO_BAR, which a careless search and replace once produced.
SETTING = re.compile(
    r"(?<![A-Za-z0-9_])(?:FLASK_)?"
    r"(?:[A-Z0-9]*KVSESSION[A-Z0-9_]+|(?:PERMANENT_)?SESSION[A-Z0-9]*_[A-Z0-9_]*)\*?"
)


def files() -> list[Path]:
    """Everything that a user reads: the package, the example and the documents."""
    found = [path for folder in (PACKAGE, EXAMPLE, DOCS) for path in folder.rglob("*")]
    return sorted(path for path in [*found, ROOT / "README.md"] if path.suffix in SUFFIXES)


def unknown_settings(text: str) -> list[str]:
    """The words of `text` that look like a setting and are none."""
    return [word for word in SETTING.findall(text) if not is_known(word)]


def is_known(word: str) -> bool:
    word = word.removeprefix("FLASK_")  # from_prefixed_env() reads FLASK_X as the setting X
    if word.endswith(("_", "_*")):  # a group of settings, such as SESSION_COOKIE_*
        return any(name.startswith(word.rstrip("*")) for name in KNOWN)
    return word in KNOWN


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_is_named_exists(path: Path) -> None:
    """A message never tells a user to set something that does not exist."""
    assert unknown_settings(path.read_text(encoding="utf-8")) == []


def test_every_setting_that_the_code_names_exists() -> None:
    """A key that `config_key` composes from a literal is the key of a field."""
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    names = {name for text in texts for name in re.findall(r"config_key\([\"'](\w+)", text)}
    assert names
    assert {config_key(name) for name in names} <= OWN


@pytest.mark.parametrize(
    "invented",
    [
        "KVSESSION_IDLE_TIMEOT",
        "KVSESSIONFLASK_LOGINS_USER_ID_KEY",
        "KVSESSIONS_IDLE_TIMEOUT",
        "KVSESSION_COOKIES_*",
        "KVSESSION_COOKIES_",
        "FLASK_KVSESSION_NONSENSE",
        "XKVSESSION_REDIS_URL",
        "SESSION_COOKIE_SECRET",
        "SESSIONS_COOKIE_NAME",
        "PERMANENT_SESSION_TIMEOUT",
    ],
)
def test_an_invented_setting_is_found(invented: str) -> None:
    """The check fails for a name that does not exist, whatever stands around it."""
    for text in (invented, f"set `{invented}` = 1", f'"{invented}."', f"({invented})\n"):
        assert unknown_settings(text) == [invented]


def test_a_real_setting_and_a_group_of_settings_are_accepted() -> None:
    """Names of our own settings, of Flask's, and their common beginnings are no findings."""
    text = """KVSESSION_IDLE_TIMEOUT, `SESSION_COOKIE_*`, f"KVSESSION_{key}", SESSION_TYPE,
    PERMANENT_SESSION_LIFETIME and FLASK_KVSESSION_REDIS_URL; class TestSession, MAX_SESSION_X"""
    assert unknown_settings(text) == []
