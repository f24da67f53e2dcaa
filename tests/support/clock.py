"""The clock of the fixture `clock`: the one that apps' tests have too."""

from __future__ import annotations

from flask_kvsession.testing import Clock

__all__ = ["Clock"]
