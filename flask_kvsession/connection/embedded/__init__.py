"""A private Redis or Valkey server for development and tests.

`server` runs in the app's process. `supervisor` is a separate process, which runs the server and
stops it when no process uses it any more.
"""

from __future__ import annotations

from .server import EmbeddedServer, find_binary

__all__ = ["EmbeddedServer", "find_binary"]
