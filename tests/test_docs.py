"""The documents name what exists, and everything that users need."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from docs import reference
from flask_kvsession import Settings, __all__, signals
from flask_kvsession.settings import PREFIX, config_key

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
PROOFS = re.findall(r"`((?:\w+/)*test_\w+\.py)((?:::\w+)*)`", SECURITY)

ASVS = {
    "3.1": [1],
    "3.3": [1, 2, 3, 4, 5],
    "3.4": [3, 4, 5, 6],
    "3.5": [1, 2, 3, 4, 8],
    "3.7": [2],
    "7.1": [1, 2, 3],
    "7.2": [1, 2, 3, 4],
    "7.3": [1, 2],
    "7.4": [1, 2, 3, 4, 5],
    "7.5": [1, 2, 3],
    "7.6": [1, 2],
    "8.2": [2],
    "8.3": [1, 2],
    "11.5": [1],
    "14.2": [1],
    "14.3": [1, 2],
    "16.2": [1, 5],
    "16.3": [1, 2, 3],
    "16.4": [1],
    "16.5": [1, 2, 3],
}
"""The requirements of OWASP ASVS 5.0 that concern sessions."""


def test_every_test_that_the_security_table_names_exists() -> None:
    """Each test file, class and test that `docs/security.md` names is there under that name."""
    sources = {file: (TESTS / file).read_text() for file, _ in PROOFS}
    missing = [
        f"{file}::{name}"
        for file, names in sorted(set(PROOFS))
        for name in names.split("::")[1:]
        if not re.search(rf"(class|def) {name}\b", sources[file])
    ]
    assert len(PROOFS) > 150
    assert missing == []


def test_every_test_that_the_reliability_page_names_exists() -> None:
    """Each test that `docs/reliability.md` names is there under that name."""
    proofs = re.findall(r"`((?:\w+/)*test_\w+\.py)::(\w+)`", RELIABILITY)
    missing = [
        f"{file}::{name}"
        for file, name in proofs
        if not re.search(rf"def {name}\b", (TESTS / file).read_text())
    ]
    assert len(proofs) > 40
    assert missing == []


def test_the_security_page_has_a_row_for_each_requirement() -> None:
    """Each requirement of ASVS that concerns sessions has a row, and the row names a test."""
    rows = [line.split(" | ") for line in SECURITY.splitlines() if re.match(r"\| \d+\.\d", line)]
    assert {len(row) for row in rows} == {4}
    assert [row[0] for row in rows if "`test_" not in row[3] and "/test_" not in row[3]] == []
    proved: set[str] = set()
    for row in rows:
        numbers = re.findall(r"\d+\.\d+\.\d+", row[0])
        if " to " in row[0]:  # 3.3.1 to 3.3.3
            stem, first = numbers[0].rsplit(".", 1)
            last = numbers[1].rsplit(".", 1)[1]
            numbers = [f"{stem}.{n}" for n in range(int(first), int(last) + 1)]
        proved.update(numbers)
    required = {f"{section}.{n}" for section, numbers in ASVS.items() for n in numbers}
    assert required - proved == set()


def test_the_readme_states_the_default_of_each_setting() -> None:
    """The README's table gives the default of each setting, also of each timeout and of the number
    of sessions (OWASP ASVS 5.0, 7.1.1 and 7.1.2)."""
    settings = Settings()
    stated = _defaults_in_the_readme()
    actual = {name: reference.in_words(getattr(settings, name)) for name in stated}
    assert {n: text for n, text in stated.items() if text != actual[n]} == {"cookie_secure": SECURE}
    assert len(stated) == len(dataclasses.fields(Settings))


SECURE = "on, unless in debug or testing mode"


def _defaults_in_the_readme() -> dict[str, str]:
    """The default of each setting in the README's table, as Python. A row with several settings has
    one default for all, or one for each."""
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Settings") : text.index("## Signals")]
    found = {}
    for names, default in re.findall(r"^\| ((?:`[A-Z_]+`,? ?)+) \| ([^|]*)\|", table, re.MULTILINE):
        keys = re.findall(r"[A-Z_]+", names)
        values = [default.strip()] if len(keys) == 1 else default.strip().split(", ")
        for key, value in zip(keys, values * (len(keys) // len(values)), strict=True):
            found[key.lower()] = _as_python(value)
    return found


def _as_python(text: str) -> str:
    if text in ("", "none"):
        return "None"
    if re.fullmatch(r"`\"?[\w/]+\"?`", text):
        return '"{}"'.format(text.strip('`"'))
    return text.strip("`")


def test_every_setting_has_a_meaning_in_the_reference() -> None:
    """Each field of `Settings` has a docstring, from which the page of settings is made."""
    assert reference.docstrings_of_fields().keys() == {
        field.name for field in dataclasses.fields(Settings)
    }


def test_the_page_of_settings_names_type_default_and_meaning() -> None:
    """An entry has the key, the type as a user writes it, the default in words and the meaning."""
    text = reference.settings_as_markdown()
    entry = text[text.index("KVSESSION_ROTATION_GRACE") :].partition("```")[0]
    assert entry.splitlines()[:3] == [
        "KVSESSION_ROTATION_GRACE",
        ":type: `timedelta | seconds`",
        ":default: `5 minutes`",
    ]
    assert "The secret before a periodic rotation" in entry
    assert ':type: `False | "cache" | "*"`' in text
    assert ":default: `64 KiB`" in text


def test_the_page_of_public_names_has_each_of_them() -> None:
    """Each name of `__all__` is on the page; signals and errors are added by their modules."""
    text = (ROOT / "docs" / "api.md").read_text()
    named = set(
        re.findall(r"^\.\. (?:auto)?(?:class|function|data):: (\w+)\b(?!\.)", text, re.MULTILINE)
    )
    assert named == {*__all__} - {"errors", "signals"}
    assert "automodule:: flask_kvsession.errors" in text
    listed = re.findall(r"flask_kvsession\.signals\.(\w+)", reference.signals_as_markdown())
    assert listed == signals.__all__


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
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("example/*.md")]
    broken = [
        (document.name, target)
        for document in documents
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []
