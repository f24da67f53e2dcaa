"""The types of the public API, as an app's own mypy sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def mypy(request: pytest.FixtureRequest) -> list[str]:
    """The mypy command in strict mode, without this project's settings."""
    cache = request.config.cache
    folder = str(cache.mkdir("mypy_typing_api")) if cache else "/dev/null"
    return [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", folder]


def test_mypy_agrees_with_each_line_of_the_typed_example(mypy: list[str]) -> None:
    """Mypy accepts the right uses and refuses the wrong uses of every public name in
    `typing_api.py`."""
    pytest.importorskip("mypy")
    command = [*mypy, str(HERE / "typing_api.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_typed_example_uses_every_public_name() -> None:
    """No public name is missing from `typing_api.py`."""
    import flask_kvsession

    text = (HERE / "typing_api.py").read_text()
    imports, uses = text.split("app = Flask(__name__)", 1)
    assert [name for name in flask_kvsession.__all__ if name not in imports] == []
    assert [name for name in flask_kvsession.__all__ if name not in uses] == []
