"""Place names from a MaxMind file, such as GeoLite2-City.mmdb; needs the extra `[geo]`."""

from __future__ import annotations

import typing as t
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigurationError


class MaxMindFile:
    """Names the place of an IP address: `KVSESSION_LOCATE = MaxMindFile("GeoLite2-City.mmdb")`.

    "Lyon, France", or what the file knows of it, in `language` where it has that, else in English;
    None for an address that it does not know. The file is opened at once, so a wrong path is an
    error when the app starts.
    """

    def __init__(self, path: str | Path, *, language: str = "en") -> None:
        try:
            import maxminddb
        except ImportError:
            raise ConfigurationError(
                'MaxMindFile needs maxminddb: pip install "Flask-KVSession-Redis[geo]".'
            ) from None
        self._reader = maxminddb.open_database(path)
        self._language = language

    def __call__(self, ip_address: str) -> str | None:
        found: t.Any = None
        with suppress(ValueError):  # no IP address, or IPv6 and a file of IPv4
            found = self._reader.get(ip_address)
        if not isinstance(found, dict):
            return None
        parts = (self._name(found.get(part)) for part in ("city", "country"))
        return ", ".join(part for part in parts if part) or None

    def _name(self, part: t.Any) -> str | None:
        names = part.get("names", {}) if isinstance(part, dict) else {}
        return names.get(self._language) or names.get("en")
