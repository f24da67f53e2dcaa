"""Source distributions of other projects, for their examples and tests."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest


def unpack_installed(name: str, cache: pytest.Cache, into: Path) -> Path:
    """The unpacked source of the installed version of a package. Skips the test if the source
    cannot be fetched."""
    try:
        return unpack(name, version(name), cache.mkdir("sdists"), into)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the source of {name} cannot be fetched: {error.stderr[-500:]}")


def unpack(name: str, release: str, kept_in: Path, into: Path) -> Path:
    """Unpacks the source of a package into the folder `into`. The archive is downloaded once, into
    `kept_in`."""
    archive = kept_in / f"{name}-{release}.tar.gz"
    if not archive.exists():
        _fetch(name, release, archive)
    with tarfile.open(archive) as opened:
        top = opened.getnames()[0].partition("/")[0]
        opened.extraction_filter = getattr(tarfile, "data_filter", None)  # new in Python 3.11.4
        opened.extractall(into)
    return into / top


def _fetch(name: str, release: str, archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", name, "--dest", folder, f"{name}=={release}"]
        subprocess.run(command, capture_output=True, text=True, check=True)
        (fetched,) = Path(folder).iterdir()
        fetched.replace(archive)  # atomic, since several processes may fetch the archive
