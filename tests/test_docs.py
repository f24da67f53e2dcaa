"""The documents say what is there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from flask_kvsession import Settings, __all__, signals
from flask_kvsession.settings import PREFIX, config_key

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
PROOFS = re.findall(r"`(test_\w+\.py)((?:::\w+)*)`", (ROOT / "docs" / "security.md").read_text())


@pytest.mark.parametrize(("file", "names"), sorted(set(PROOFS)))
def test_each_proof_of_security_exists(file: str, names: str) -> None:
    """Every test that the security table names is there, under that name."""
    source = (TESTS / file).read_text()
    for name in names.split("::")[1:]:
        assert re.search(rf"(class|def) {name}\b", source)


def test_the_readme_names_every_setting() -> None:
    """No setting is missing from the README, and none stands there that does not exist."""
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Settings") : text.index("## Signals")]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {f"{PREFIX}{word}" for row in rows for word in re.findall(r"`([A-Z_]+)`", row)}
    assert named == {config_key(setting.name) for setting in dataclasses.fields(Settings)}


def test_the_readme_names_every_public_name() -> None:
    """Every verb, guard and signal is in the README."""
    text = (ROOT / "README.md").read_text()
    assert [name for name in [*__all__, *signals.__all__] if name not in text] == []


def test_relative_links_lead_somewhere() -> None:
    """Every file that a document links to is there."""
    for document in [ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "example" / "README.md"]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), (document, target)
