"""Builds the distributions for a package index: `make dist` writes them to dist/.

An index shows the README without the repository, so there its links and pictures must be whole
URLs. In the repository they are relative, so that they work in every checkout and under every name
of the repository. The name is in one place: `Source` in pyproject.toml.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
BRANCH = "main"

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def with_whole_urls(readme: str, source: str) -> str:
    """The text with each relative link made a URL of the repository, whose address is `source`."""

    def whole(match: re.Match[str]) -> str:
        is_picture, text, path = match.groups()
        view = "raw" if is_picture else "blob"
        return f"{is_picture}[{text}]({source}/{view}/{BRANCH}/{path})"

    return _LINK.sub(whole, readme)


def build(outdir: Path) -> None:
    """Builds the sdist and the wheel from the files of the repository's own sdist."""
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run_build("--sdist", "--outdir", name, str(ROOT))
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        readme = next(folder.glob("*/README.md"))
        readme.write_text(with_whole_urls(readme.read_text(), source))
        _run_build("--outdir", str(outdir), str(readme.parent))


def _run_build(*options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist"))
