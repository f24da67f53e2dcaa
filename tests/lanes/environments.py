"""The Pythons of this machine, and virtual environments with a built package."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = "async,device-bound,devices,embedded,geo,valkey"


@dataclass(frozen=True)
class Lane:
    """A Python, the versions of the requirements, and what is installed: the wheel or the sdist."""

    python: str
    interpreter: Path
    versions: str
    package: Path

    @property
    def name(self) -> str:
        kind = "wheel" if self.package.suffix == ".whl" else "sdist"
        return f"Python {self.python}, {self.versions} versions, {kind}"


def interpreter(version: str) -> Path | None:
    """A Python of this version, on PATH or of pyenv; None if there is none."""
    of_pyenv = Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")
    on_path = shutil.which(f"python{version}")
    for found in [*([Path(on_path)] if on_path else []), *sorted(of_pyenv)]:
        # A shim of pyenv may lead to no Python.
        if subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return found
    return None


def build(into: Path) -> tuple[Path, Path]:
    """Builds the package, and returns the wheel and the source distribution."""
    shutil.rmtree(into, ignore_errors=True)
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), str(ROOT)])
    (wheel,), (sdist,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return wheel, sdist


def make_environment(lane: Lane, folder: Path) -> Path:
    """Makes a clean environment in `folder` with the lane's package and all extras, and returns its
    Python."""
    run([str(lane.interpreter), "-m", "venv", "--clear", str(folder)])
    python = folder / "bin" / "python"
    install(lane, python, f"{lane.package}[{EXTRAS}]")
    return python


def install(lane: Lane, python: Path, *what: str) -> None:
    """Installs more into the environment, with the lane's versions."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if lane.versions == "lowest":
        file = python.parent.parent / "lowest.txt"
        file.write_text("\n".join(lowest_versions()) + "\n")
        command += ["--constraint", str(file)]
    run([*command, *what])


def lowest_versions() -> list[str]:
    """The lower bound of each requirement in pyproject.toml, as a version to install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    needed = itertools.chain.from_iterable(lists)
    found = (re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", line) for line in needed)
    return sorted({f"{match[1]}=={match[2]}" for match in found if match})


def versions(python: Path) -> str:
    """The versions of the most important requirements, such as "flask 3.1.3"."""
    listed = run([str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"])
    installed = {line["name"].lower(): line["version"] for line in json.loads(listed)}
    return ", ".join(f"{name} {installed[name]}" for name in ("flask", "redis", "msgspec"))


def run(command: list[str]) -> str:
    """Runs a command and returns what it printed. Raises `RuntimeError` with it if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
