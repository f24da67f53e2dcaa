"""The wheel, the source distribution and their metadata."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "flask_kvsession"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(built.glob("*.whl")))


def package_files() -> set[str]:
    files = (path for path in PACKAGE.rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_has_the_whole_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """The wheel has every file of the package, scripts and type marker included, and no other
    file."""
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == package_files()
    assert "flask_kvsession/store/lua/commit.lua" in names
    assert "flask_kvsession/py.typed" in names
    assert "flask_kvsession/devices/templates/kvsession/sessions.html" in names
    assert "flask_kvsession/devices/static/devices.css" in names
    assert "flask_kvsession/devices/static/devices.js" in names


def test_the_source_distribution_has_all_that_tests_need(built: Path) -> None:
    """The source distribution has the tests, the example and the files that make needs."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "setup.cfg", "requirements/dev.txt", "tests/conftest.py"} <= names
    assert {"README.md", "CHANGELOG.md", "LICENSE", "example/__init__.py"} <= names
    assert {"CONTRIBUTING.md", "SECURITY.md", ".pre-commit-config.yaml"} <= names
    assert {"docs/conf.py", "docs/guides/limits.md", "requirements/docs.txt"} <= names
    assert {"benchmarks/__main__.py", "requirements/bench.txt", "docs/benchmarks.md"} <= names


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_metadata_name_the_distribution_and_carry_the_readme(metadata: Message) -> None:
    """The metadata give the name, the oldest Python and the extras, and hold the README."""
    assert metadata["Name"] == "Flask-KVSession-Redis"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = {"async", "device-bound", "devices", "embedded", "geo", "valkey"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert str(metadata.get_payload()).strip() == readme.strip()


def test_on_a_package_index_the_links_of_the_readme_are_whole_urls(tmp_path: Path) -> None:
    """In what `make dist` builds, the links and pictures of the README lead to files of the
    repository, by the address in pyproject.toml."""
    subprocess.run([sys.executable, ".ci/dist.py", str(tmp_path)], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(wheel.read(name).decode())
    urls = dict(url.split(", ") for url in message.get_all("Project-URL", []))
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", str(message.get_payload()))
    found = [
        (is_picture, re.fullmatch(rf"{urls['Source']}/(raw|blob)/main/([^#]+)(#.*)?", link))
        for is_picture, link in links
        if not link.startswith("#")
    ]
    assert len(found) > 10
    for is_picture, match in found:
        assert match is not None, links
        assert match[1] == ("raw" if is_picture else "blob")
        assert (ROOT / match[2]).is_file()


def test_the_package_without_extras_needs_five_libraries(metadata: Message) -> None:
    """The package without extras needs five libraries, with lower bounds only."""
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {line.split(">=")[0] for line in needed} == {
        "blinker",
        "flask",
        "msgspec",
        "redis",
        "werkzeug",
    }
    assert not any(sign in line for line in needed for sign in ("<", "==", "~"))


def test_importing_the_package_opens_no_connection_and_warns_of_nothing(
    wheel: zipfile.ZipFile,
) -> None:
    """The import of the package from the wheel opens no connection, starts no process and makes no
    warning."""
    program = (
        "import socket, subprocess\n"
        "def fail(*a, **k): raise AssertionError('import did something')\n"
        "socket.socket.connect = subprocess.Popen.__init__ = fail\n"
        "import flask_kvsession as kvs\n"
        "assert all(hasattr(kvs, name) for name in kvs.__all__)\n"
        "print(kvs.__file__)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    environment = {"PYTHONPATH": str(wheel.filename)}
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ".whl/flask_kvsession" in done.stdout


def test_the_list_of_public_names_is_sorted() -> None:
    """`__all__` is sorted, so that a reader finds a name quickly."""
    import flask_kvsession as kvs

    assert sorted(kvs.__all__) == kvs.__all__


def test_no_tracked_file_names_a_package_registry() -> None:
    """No tracked file is a lock file or holds the address of a package registry."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:  # no checkout but an unpacked source distribution
        listed.stdout = "\n".join(package_files())
    files = [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
    assert files
    locks = {"uv.lock", "poetry.lock", "pylock.toml", "pdm.lock", "package-lock.json"}
    assert not locks & {path.name for path in files}
    hosts = (
        b"files.python" + b"hosted.org",
        b"pypi" + b".org",
        b"registry.npm" + b"js.org",
        b"deb.deb" + b"ian.org",
    )
    assert [path for path in files for host in hosts if host in path.read_bytes()] == []
