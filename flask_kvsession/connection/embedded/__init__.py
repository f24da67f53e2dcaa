"""A private Redis or Valkey server for development and tests.

`server` is what an app's process uses. `supervisor` is the separate process that runs the server
and stops it after the last user has gone.
"""

from __future__ import annotations

from .server import EmbeddedServer, find_binary

__all__ = ["EmbeddedServer", "find_binary"]
