"""What the figures were measured with, in general terms."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path

import redis

from .cases import INVENIO, LABELS, NO_REFRESH, SESSION
from .environment import version_of

_DISTRIBUTIONS = ("Flask", "Werkzeug", "redis", "msgspec", "Flask-Session", "gunicorn")


def installed(contestant: str) -> bool:
    """Whether this environment has what a contestant needs."""
    return contestant not in (SESSION, NO_REFRESH) or bool(
        importlib.util.find_spec("flask_session")
    )


def describe(client: redis.Redis, invenio_python: str | None) -> list[str]:
    """The machine and the versions, one line each."""
    versions = [f"{name} {_version(name)}" for name in _DISTRIBUTIONS if _version(name)]
    if invenio_python:
        versions.append(f"{LABELS[INVENIO]} {version_of(invenio_python, LABELS[INVENIO])}")
    return [
        f"{_cpu()}, {os.cpu_count()} cores, {platform.system()}, with a load average of"
        f" {os.getloadavg()[0]:.1f} before the run",
        f"{platform.python_implementation()} {platform.python_version()}",
        f"{_server(client)}, on the same machine, through a Unix socket",
        ", ".join(versions),
    ]


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _server(client: redis.Redis) -> str:
    facts = client.info("server")
    if "valkey_version" in facts:
        return f"Valkey {facts['valkey_version']}"
    return f"Redis {facts['redis_version']}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
