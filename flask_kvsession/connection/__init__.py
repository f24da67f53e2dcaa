"""Makes a Redis client from a URL. Its commands have a deadline.

`client` makes the client. `embedded` runs the private server behind an `embedded://PATH` URL.
"""

from __future__ import annotations

from .client import check_url, connect
from .embedded import EmbeddedServer

__all__ = ["EmbeddedServer", "check_url", "connect"]
