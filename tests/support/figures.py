"""What the fault tests measure by: the deadline of their apps, and the figures of a run.

They measure with generous limits: the machine that runs them may be busy.
"""

from __future__ import annotations

from collections.abc import Callable

TIMEOUT = 1.0
"""`KVSESSION_STORE_TIMEOUT` of most fault tests, s: the default."""

BUSY_MACHINE = 1.0
"""How much a busy machine may add to a measured time, s."""

DEADLINE = TIMEOUT + 0.5 + BUSY_MACHINE
"""How long a request may take at most while the store fails, s."""

Figure = Callable[[str, object], None]
"""The type of the fixture `figure`."""
