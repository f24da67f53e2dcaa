"""Names of places from a MaxMind file such as GeoLite2-City.mmdb. Needs the extra `[geo]`."""

from __future__ import annotations

import typing as t
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigurationError


class MaxMindFile:
    """Names the place of an IP address: `KVSESSION_LOCATE = MaxMindFile("GeoLite2-City.mmdb")`.

    The name is "Lyon, France", or only the part that the file has. It is in `language` if the file
    has that language, else in English. It is None for an address that is not in the file. The file
    is opened immediately, so that a wrong path fails when the app starts.
    """

    def __init__(self, path: str | Path, *, language: str = "en") -> None:
        try:
            import maxminddb
        except ImportError:
            raise ConfigurationError(
                'MaxMindFile needs maxminddb; pip install "Flask-KVSession-Redis[geo]".'
            ) from None
        self._reader = maxminddb.open_database(path)
        self._language = language

    def __call__(self, ip_address: str) -> str | None:
        record: t.Any = None
        with suppress(ValueError):  # not an IP address, or an IPv6 address and an IPv4 file
            record = self._reader.get(ip_address)
        if not isinstance(record, dict):
            return None
        parts = (self._name(record.get(part)) for part in ("city", "country"))
        return ", ".join(part for part in parts if part) or None

    def _name(self, part: t.Any) -> str | None:
        names = part.get("names", {}) if isinstance(part, dict) else {}
        return names.get(self._language) or names.get("en")
