"""`flask kvsession`: the sessions, for an operator.

`commands` has the commands, `checks` what `check` judges, `statistics` what `stats` counts, and
`render` tables and bars.
"""

from __future__ import annotations

from .commands import kvsession

__all__ = ["kvsession"]
