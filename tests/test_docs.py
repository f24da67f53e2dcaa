"""The documents name what exists, and everything that users need."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from flask_kvsession import Settings, __all__, signals
from flask_kvsession.settings import PREFIX, config_key

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
PROOFS = re.findall(r"`(test_\w+\.py)((?:::\w+)*)`", (ROOT / "docs" / "security.md").read_text())


def test_every_test_that_the_security_table_names_exists() -> None:
    """Each test file, class and test that `docs/security.md` names is there under that name."""
    sources = {file: (TESTS / file).read_text() for file, _ in PROOFS}
    missing = [
        f"{file}::{name}"
        for file, names in sorted(set(PROOFS))
        for name in names.split("::")[1:]
        if not re.search(rf"(class|def) {name}\b", sources[file])
    ]
    assert len(PROOFS) > 40
    assert missing == []


def test_the_readme_names_exactly_the_settings_that_exist() -> None:
    """The README's table of settings misses no setting and has no other row."""
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Settings") : text.index("## Signals")]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {f"{PREFIX}{word}" for row in rows for word in re.findall(r"`([A-Z_]+)`", row)}
    assert named == {config_key(setting.name) for setting in dataclasses.fields(Settings)}


def test_the_readme_names_every_public_name() -> None:
    """Every function, class, guard and signal that the package exports is in the README."""
    text = (ROOT / "README.md").read_text()
    assert [name for name in [*__all__, *signals.__all__] if name not in text] == []


def test_every_relative_link_of_a_document_leads_to_a_file() -> None:
    """Every file that a document links to exists."""
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("example/*.md")]
    broken = [
        (document.name, target)
        for document in documents
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []
