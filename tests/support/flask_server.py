"""An app in a process of its own, started by `flask run`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 30


class FlaskServer:
    """The app of a folder, started as README.md says, always on the same port.

    `app` is the option `--app` of flask; without it flask looks for `app.py`. `installed_in` is the
    Python of an environment that has the package; without it, this checkout is used.
    """

    def __init__(
        self, folder: Path, app: str | None = None, *, installed_in: Path | None = None
    ) -> None:
        self.folder = folder
        self._python = str(installed_in or sys.executable)
        self._path = {} if installed_in else {"PYTHONPATH": str(ROOT)}
        self._options = ["--app", app] if app else []
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = ["-m", "flask", *self._options, "run", "--debug", "--no-reload"]
        # Variables of the developer's shell must not configure this app.
        own = ("FLASK_", "PYTHONPATH")
        environ = {key: value for key, value in os.environ.items() if not key.startswith(own)}
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [self._python, *command, "--port", str(self.port)],
                cwd=self.folder,
                env=environ | self._path,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url + "/sign-in", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        log = (self.folder / "server.log").read_text()
        raise AssertionError(f"The app did not start:\n{log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
