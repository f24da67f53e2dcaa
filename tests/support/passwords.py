"""A cheap password hash. Werkzeug's default takes about 50 ms."""

from __future__ import annotations

from functools import partial

from werkzeug.security import generate_password_hash

cheap_password_hash = partial(generate_password_hash, method="pbkdf2:sha256:1")
"""Replaces `generate_password_hash` in an app that hashes passwords."""
