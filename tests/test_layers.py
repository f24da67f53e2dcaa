"""The rules of imports: which module of the package, and which test file, may import what.

Each rule is one test, whose failure names all modules that break it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import flask_kvsession

PACKAGE = Path(flask_kvsession.__file__).parent
TESTS = Path(__file__).parent

ROWS = [
    ["extension"],
    ["compat", "cli", "devices", "testing", "device_bound"],
    ["guards", "decorator_order"],
    ["api", "open_connections"],
    ["current"],
    ["request"],
    ["cookie_changes", "presented", "events", "response", "app_state"],
    ["cookie", "store", "session"],
    ["connection", "data"],
    ["settings", "rotation", "binding"],
    ["record", "validators"],
    ["codec", "token", "signals", "renamed"],
    ["errors"],
]
"""The layers of the package, from top to bottom. A module may import modules of lower rows, and
modules to its right in its own row. docs/architecture.md shows the same layers."""

ORDER = [name for row in ROWS for name in row]
ABOVE_THE_COOKIE = ORDER[: ORDER.index("cookie")]
SCRIPT = PACKAGE / "connection" / "embedded" / "supervisor.py"
"""Runs as a script, in an interpreter that sees only the standard library."""


def modules() -> dict[str, list[Path]]:
    """The files of each module of the package; a folder is one module."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found.setdefault(path.relative_to(PACKAGE).with_suffix("").parts[0], []).append(path)
    return found


MODULES = modules()
NAMES = [name for name in MODULES if name != "__init__"]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(module: str, *, for_types: bool = True) -> Iterator[str]:
    """The names that the module imports, anywhere in it: `.store` for a module of the package, the
    top name for any other. Without `for_types`, imports under `if TYPE_CHECKING:` are left out."""
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


def found_in(offenders: dict[str, set[str]]) -> dict[str, set[str]]:
    """The modules that break a rule, each with what breaks it."""
    return {module: names for module, names in offenders.items() if names}


def test_each_module_of_the_package_has_its_place() -> None:
    """Every module of the package stands in a row of `ROWS`."""
    assert set(NAMES) - set(ORDER) == set()


def test_each_module_imports_only_modules_below_it() -> None:
    """A module imports only modules of a lower row, or modules to its right in its own row."""
    offenders = {}
    for module in NAMES:
        allowed = {f".{name}" for name in ORDER[ORDER.index(module) + 1 :]}
        offenders[module] = {name for name in imports(module) if name.startswith(".")} - allowed
    assert found_in(offenders) == {}


def test_the_supervisor_imports_only_the_standard_library() -> None:
    """The supervisor runs in an interpreter that has nothing but the standard library."""
    relative = [node for node in ast.walk(tree_of(SCRIPT)) if getattr(node, "level", 0)]
    assert relative == []
    assert set(imports_of_file(SCRIPT)) <= sys.stdlib_module_names


def test_no_module_imports_random() -> None:
    """Every random value comes from `secrets`: the numbers of `random` can be predicted (OWASP ASVS
    5.0, 11.5.1)."""
    offenders = {module for module in NAMES if "random" in imports(module)}
    assert offenders == set()


def test_click_is_imported_only_by_the_command_line() -> None:
    """Only `cli` imports `click`."""
    assert {module for module in NAMES if "click" in imports(module)} == {"cli"}


def test_redis_is_imported_only_by_store_and_connection() -> None:
    """Only `store` and `connection` import `redis`."""
    offenders = {module for module in NAMES if "redis" in imports(module)}
    assert offenders - {"store", "connection"} == set()


def test_http_is_not_imported_below_the_cookie() -> None:
    """The modules from `cookie` downward import no HTTP library, except for type annotations. The
    errors, which are responses, may import Werkzeug."""
    low = [module for module in NAMES if module not in ABOVE_THE_COOKIE]
    offenders = {
        module: {"werkzeug", "flask", "http"} & set(imports(module, for_types=False))
        for module in low
    }
    assert found_in(offenders) == {"errors": {"werkzeug"}}


def test_only_the_extension_imports_compat() -> None:
    """No module below `extension` imports `compat`: a plain app runs none of it."""
    offenders = {module for module in NAMES if ".compat" in imports(module)}
    assert offenders == {"extension"}


WORDS_OF_COMPAT = re.compile(
    r"user_id_key|USER_ID_KEY|_flashes|_fresh\b(?<!is_fresh)|_permanent|\bpermanent\b|flask_login"
    r"|Flask-Login|FLASK_LOGIN|signed_cookie|signed cookie|remember_token",
)


def test_no_core_module_names_what_belongs_to_compat() -> None:
    """A reader of the core meets no key of Flask-Login, no `user_id_key`, no `permanent` and no
    signed cookie. Only the settings, which check all keys, and the helpers for tests, which sign
    users of all apps in, name them."""
    offenders = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for module in NAMES
        if module not in ("compat", "testing", "settings", "validators", "renamed")
        for path in MODULES[module]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if WORDS_OF_COMPAT.search(line)
    ]
    assert offenders == []


def test_the_config_is_read_only_in_settings() -> None:
    """Every other module may only pass an app's config to the functions of `settings` that read
    it."""
    readers = (".from_config",)
    offenders = []
    for path in [path for name in NAMES if name != "settings" for path in MODULES[name]]:
        nodes = list(ast.walk(tree_of(path)))
        handed_over = {
            id(arg)
            for node in nodes
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(readers)
            for arg in node.args
        }
        offenders += [
            f"{path.relative_to(PACKAGE)}:{node.lineno}"
            for node in nodes
            if isinstance(node, ast.Attribute) and node.attr == "config"
            if id(node) not in handed_over
        ]
    assert offenders == []


def test_flask_g_is_used_only_to_forget_csrf_tokens() -> None:
    """Only `forget_csrf_tokens` uses `flask.g`: an app that overwrites `g.session` breaks
    nothing."""
    importers = {
        module
        for module in NAMES
        for path in MODULES[module]
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.module == "flask"
        if "g" in [alias.name for alias in node.names]
    }
    users = {
        function.name
        for function in ast.walk(tree_of(PACKAGE / "request.py"))
        if isinstance(function, ast.FunctionDef)
        if any(isinstance(node, ast.Name) and node.id == "g" for node in ast.walk(function))
    }
    assert (importers, users) == ({"request"}, {"forget_csrf_tokens"})


def test_the_session_does_not_import_the_store() -> None:
    """The session loads its record through a callable."""
    assert ".store" not in imports("session")


def test_only_the_plugin_of_pytest_imports_pytest() -> None:
    """The package, and the helpers for apps' tests too, run without pytest."""
    importers = {
        str(path.relative_to(PACKAGE))
        for name in NAMES
        for path in MODULES[name]
        if "pytest" in imports_of_file(path)
    }
    assert importers == {"testing/plugin.py"}


def test_no_test_file_imports_another_test_file() -> None:
    """What several test files use is imported from `tests.support`."""
    imports_test = re.compile(
        r"^ *(from [\w.]*\b(test_|conftest)|(from [\w.]+ )?import .*\b(test_\w+|conftest)\b)", re.M
    )
    offenders = [
        f"{path.relative_to(TESTS)}: {match[0].strip()}"
        for path in TESTS.rglob("*.py")
        if (match := imports_test.search(path.read_text()))
    ]
    assert offenders == []
