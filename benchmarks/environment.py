"""The environment of Flask-KVSession-Invenio.

It has the same import name as this package, so it needs an environment of its own.
"""

from __future__ import annotations

import subprocess
import venv

from .processes import ROOT

FOLDER = ROOT / ".bench"
_REQUIREMENTS = ("flask-kvsession-invenio>=1.0", "redis>=6.2")


def make_environment() -> str | None:
    """The path of the environment's Python; None if the package could not be installed."""
    folder = FOLDER / "invenio"
    python, stamp = str(folder / "bin" / "python"), folder / "installed.txt"
    wanted = "\n".join(_REQUIREMENTS)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*command, *_REQUIREMENTS], check=False).returncode:
        return None
    stamp.write_text(wanted)
    return python


def version_of(python: str, distribution: str) -> str:
    """The version of a distribution in the environment of this Python."""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
