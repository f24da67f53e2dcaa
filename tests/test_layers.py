"""The house: a module imports only from below it, as `docs` draws it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import flask_kvsession

PACKAGE = Path(flask_kvsession.__file__).parent
TESTS = Path(__file__).parent

ROWS = [
    ["extension"],
    ["devices", "cli", "testing", "remember", "guards"],
    ["api", "interface"],
    ["request", "hold", "signed_cookie", "state"],
    ["store", "nearcache", "connection", "cookie"],
    ["session", "settings"],
    ["carry", "record", "validators", "plain", "codec", "token", "signals", "renamed", "errors"],
]
"""From top to bottom: a module may import what is below it, or to its right in its row."""

ORDER = [name for row in ROWS for name in row]
SCRIPT = PACKAGE / "connection" / "embedded" / "supervisor.py"
"""Runs as a script, in an interpreter that sees only the standard library."""

STORE_ROW = ROWS[4]
PURE = ROWS[5] + ROWS[6]


def modules() -> dict[str, list[Path]]:
    """The files of each module of the package; a folder is one module."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found.setdefault(path.relative_to(PACKAGE).with_suffix("").parts[0], []).append(path)
    return found


MODULES = modules()
each_module = pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(module: str, *, for_types: bool = True) -> Iterator[str]:
    """What the module imports, anywhere in it: `.store` for what is the package's own, top names
    for the rest. Without `for_types`, what stands under `if TYPE_CHECKING:` is left out."""
    for path in MODULES[module]:
        yield from imports_of_file(path, for_types=for_types)


def imports_of_file(path: Path, *, for_types: bool = True) -> Iterator[str]:
    depth = len(path.relative_to(PACKAGE).parts)
    nodes = [tree_of(path)] if for_types else list(_at_run_time(tree_of(path)))
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            yield from (_named(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield _named(node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (f".{name.split('.')[0]}" for name in names)


def _named(name: str) -> str:
    package, _, rest = name.partition(".")
    return f".{rest.split('.')[0]}" if package == "flask_kvsession" else package


def _at_run_time(tree: ast.Module) -> Iterator[ast.AST]:
    for node in tree.body:
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node


def test_each_module_has_its_place() -> None:
    """Every module of the package has its place in the house."""
    assert set(MODULES) - {"__init__"} <= set(ORDER)


@each_module
def test_imports_go_downward(module: str) -> None:
    """A module imports only what is below it, or to its right."""
    allowed = {f".{name}" for name in ORDER[ORDER.index(module) + 1 :]}
    own = {name for name in imports(module) if name.startswith(".")}
    assert own <= allowed


def test_the_supervisor_imports_only_the_standard_library() -> None:
    """The supervisor runs in an interpreter that sees nothing else, so it imports nothing else."""
    relative = [node for node in ast.walk(tree_of(SCRIPT)) if getattr(node, "level", 0)]
    assert relative == []
    assert set(imports_of_file(SCRIPT)) <= sys.stdlib_module_names


@each_module
def test_redis_is_known_in_the_stores_row_alone(module: str) -> None:
    """`redis` is imported only where Redis is spoken to."""
    assert "redis" not in imports(module) or module in STORE_ROW


@each_module
def test_flask_is_known_from_the_request_up(module: str) -> None:
    """Below `request` nobody imports Flask, unless for types."""
    if module in [*STORE_ROW, *PURE]:
        assert "flask" not in imports(module, for_types=False)


@each_module
def test_http_is_known_from_the_cookie_up(module: str) -> None:
    """Below `cookie` nobody imports Werkzeug, but for the errors that are responses."""
    if module in [*STORE_ROW, *PURE] and module not in ("cookie", "errors"):
        assert not {"werkzeug", "flask", "http"} & set(imports(module))


@each_module
def test_the_config_is_read_in_the_settings_alone(module: str) -> None:
    """Everybody else may only hand an app's config to what reads it in `settings`."""
    if module == "settings":
        return
    for path in MODULES[module]:
        handed_over = {
            id(arg)
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_config")
            for arg in node.args
        }
        reads = [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Attribute) and node.attr == "config"
            if id(node) not in handed_over
        ]
        assert reads == []


@each_module
def test_only_the_request_knows_g(module: str) -> None:
    """`flask.g` is filled by `request`, and read by nobody below the apps' own tools."""
    if module in ("request", "devices", "testing"):
        return
    names = {
        alias.name
        for path in MODULES[module]
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.module == "flask"
        for alias in node.names
    }
    assert "g" not in names


def test_the_session_never_knows_the_store() -> None:
    """The session loads through a callable."""
    assert ".store" not in imports("session")


def test_no_test_file_imports_another_test_file() -> None:
    """A test file imports what it shares from `tests.support`: fixtures come by their name."""
    offenders = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path in TESTS.rglob("*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
        if name.rpartition(".")[2].startswith(("test_", "conftest"))
    ]
    assert offenders == []
