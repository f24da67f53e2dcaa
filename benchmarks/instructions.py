"""Instructions of one request, counted by valgrind. Two runs differ by less than 1 %."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .cases import CASES, LABELS
from .processes import Worker
from .timing import Rows

_FOR_COUNTS = 10


def can_count() -> bool:
    return all(shutil.which(program) for program in ("valgrind", "vgdb"))


def count_all(
    rows: Mapping[str, Rows], socket_path: str, folder: Path, pythons: Mapping[str, str]
) -> None:
    """Adds the instructions to the rows of each case. `pythons` has the interpreters of
    contestants that have an environment of their own."""
    for contestant in LABELS:
        cases = [case for case, by_contestant in rows.items() if contestant in by_contestant]
        if not cases:
            continue
        counter = _Counter(contestant, socket_path, folder, pythons.get(contestant))
        try:
            for case in cases:
                rows[case][contestant].instructions = counter.count(case)
        finally:
            counter.worker.close()


class _Counter:
    """A worker under valgrind, which counts only while prepared requests are sent."""

    def __init__(self, contestant: str, socket_path: str, folder: Path, python: str | None) -> None:
        self._file = folder / f"callgrind-{contestant}"
        self._dumps = 0
        options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={self._file}"]
        before = ["valgrind", "-q", *options]
        self.worker = Worker(contestant, socket_path, python=python, before=before)

    def count(self, case_name: str) -> int:
        """The instructions of one request of this kind."""
        number = min(_FOR_COUNTS, CASES[case_name].batch)
        self.worker.order("prepare", case_name, number)
        self.worker.order("time")  # what happens only once has happened
        self._tell("instrumentation", "on")
        self._tell("zero")
        self.worker.order("time")  # nothing is prepared: the cost of an order itself
        of_order = self._instructions()
        self._tell("instrumentation", "off")
        self.worker.order("prepare", case_name, number)
        self._tell("instrumentation", "on")
        self._tell("zero")
        self.worker.order("time")
        of_requests = self._instructions()
        self._tell("instrumentation", "off")
        return round((of_requests - of_order) / number)

    def _instructions(self) -> int:
        """The instructions since the last `zero`."""
        self._tell("dump")
        self._dumps += 1
        dump = self._file.with_name(f"{self._file.name}.{self._dumps}")
        found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
        dump.unlink()
        if not found:
            raise RuntimeError("valgrind has counted nothing")
        return int(found[1])

    def _tell(self, *command: str) -> None:
        pid = f"--pid={self.worker.process.pid}"
        subprocess.run(["vgdb", pid, *command], check=True, capture_output=True)
