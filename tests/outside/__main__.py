"""Runs other projects' test suites with KVSession as `flask.session`.

Each suite comes from its source distribution and runs twice: with Flask's own session and with
KVSession. A test that fails only with KVSession must be in the list of deviations, and a test in
that list must fail. Run it with `python -m tests.outside` or `make outside`. The folder `.outside`
keeps the downloads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
import venv
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from ..support.sdists import unpack

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".outside"
REQUIREMENTS = ROOT / "requirements" / "outside.txt"
MOST_DEVIATIONS = 6

NOT_SENT_AGAIN = "law 9: a cookie is sent when a session is created, not at every change or request"
NO_KEY = "KVSession needs no SECRET_KEY: a session works without one and outlives a change of it"


@dataclass(frozen=True)
class Suite:
    """A project and its version, the least number of its tests that pass, its
    `KVSESSION_USER_ID_KEY`, and the tests that must fail, each with the reason."""

    project: str
    version: str
    least: int
    user_id_key: str | None = None
    deviations: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return FOLDER / f"{self.project}-{self.version}"


SUITES = [
    Suite(
        "flask",
        "3.1.3",
        least=480,
        deviations={
            "tests.test_basic::test_session_using_samesite_attribute": NOT_SENT_AGAIN,
            "tests.test_basic::test_session_cookie_setting": NOT_SENT_AGAIN,
            "tests.test_basic::test_session_refresh_vary": NOT_SENT_AGAIN,
            "tests.test_basic::test_missing_session": NO_KEY,
            "tests.test_basic::test_session_secret_key_fallbacks": NO_KEY,
            "tests.test_testing::test_session_transactions_no_null_sessions": NO_KEY,
        },
    ),
    Suite("flask-login", "0.6.3", least=110, user_id_key="_user_id"),
    Suite("flask-wtf", "1.3.0", least=80),
    Suite("flask-dance", "7.1.0", least=200, user_id_key="_user_id"),
]


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    python = make_environment()
    complaints = [line for suite in SUITES for line in check(suite, python)]
    if sum(len(suite.deviations) for suite in SUITES) > MOST_DEVIATIONS:
        complaints.append(f"there are more than {MOST_DEVIATIONS} deviations")
    for line in complaints:
        print(f"FAILED {line}")
    return 1 if complaints else 0


def make_environment() -> str:
    """Makes the virtual environment for the suites and returns the path of its Python."""
    folder = FOLDER / "venv"
    stamp, wanted = folder / "installed.txt", REQUIREMENTS.read_text() + sys.version
    python = str(folder / "bin" / "python")
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        pins = [f"{suite.project}=={suite.version}" for suite in SUITES]
        pip(python, "install", "-e", f"{ROOT}[async,embedded]", "-r", str(REQUIREMENTS), *pins)
        stamp.write_text(wanted)
    return python


def pip(python: str, command: str, *args: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([python, "-m", "pip", command, *quiet, *args], check=True)


def check(suite: Suite, python: str) -> list[str]:
    """Runs a suite without and with KVSession, prints the counts and returns the complaints."""
    if not suite.folder.exists():
        unpack(suite.project, suite.version, FOLDER, FOLDER).rename(suite.folder)
    before = run(suite, python)
    done_file = suite.folder / "done.json"
    done_file.unlink(missing_ok=True)
    after = run(suite, python, "-p", "swap", done_file=done_file)
    done: dict[str, int] = json.loads(done_file.read_text())

    failed = {name for name, ok in after.items() if not ok and before.get(name)}
    passed = {name for name, ok in after.items() if ok}
    known = set(suite.deviations)
    print(
        f"{suite.project} {suite.version}: {len(passed)} passed with KVSession in"
        f" {done['apps']} apps ({done['sessions']} sessions opened), {len(failed)} deviate,"
        f" {len(after) - len(passed) - len(failed)} fail without KVSession too"
    )
    return [
        *(f"{suite.project}: {name} fails only with KVSession" for name in failed - known),
        *(f"{suite.project}: {name} is listed but does not fail" for name in known - failed),
        *(f"{suite.project}: {name} was not run" for name in before.keys() - after.keys()),
        *([f"{suite.project}: only {len(passed)} passed"] if len(passed) < suite.least else []),
        *([f"{suite.project}: KVSession opened no session"] if not done["sessions"] else []),
    ]


def run(suite: Suite, python: str, *options: str, done_file: Path | None = None) -> dict[str, bool]:
    """Maps the name of every test that was not skipped to True if the test passed."""
    report = suite.folder / "report.xml"
    report.unlink(missing_ok=True)
    # Not the root of this project: each suite has a package `tests` of its own.
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent),
        "KVSESSION_OUTSIDE_DONE": str(done_file),
        **({"KVSESSION_OUTSIDE_KEY": suite.user_id_key} if suite.user_id_key else {}),
    }
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        f"--junitxml={report}",
        *options,
        "tests",
    ]
    done = subprocess.run(
        command, cwd=suite.folder, env=environment, capture_output=True, text=True, check=False
    )
    if not report.exists():
        sys.exit(f"the tests of {suite.project} could not be run:\n{done.stdout}{done.stderr}")
    return dict(_outcomes(ET.parse(report)))


def _outcomes(report: ET.ElementTree[t.Any]) -> t.Iterator[tuple[str, bool]]:
    for case in report.iter("testcase"):
        parts = {child.tag for child in case}
        if "skipped" not in parts:
            yield f"{case.get('classname')}::{case.get('name')}", not parts & {"failure", "error"}


if __name__ == "__main__":
    sys.exit(main())
