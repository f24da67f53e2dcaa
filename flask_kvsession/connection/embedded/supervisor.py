"""The supervisor: a small process that runs the embedded server and stops it when it is unused.

The app cannot reliably stop the server itself, because the app may be killed (SIGKILL, a crash).
Therefore every user of the server holds a shared lock, and the kernel releases the lock when the
user's process ends. The supervisor waits for the exclusive lock, then stops the server.

`server` runs this file as a script, in an interpreter that sees only the standard library. It also
imports the names that both sides need. The supervisor's working directory is the server's folder,
so both still find their files if the folder is moved.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

USER_LOCK = "users.lock"  # each user holds it shared; the stopping supervisor holds it exclusively
SUPERVISOR_LOCK = "supervisor.lock"  # the running supervisor holds it; it contains the socket path
READY_MESSAGE = b"ready"

_STOP_TIMEOUT = 5.0  # seconds that a server gets to stop before it is killed
_FIRST_RESTART_DELAY, _LONGEST_RESTART_DELAY = 0.1, 2.0  # seconds
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def is_ready(socket_path: str) -> bool:
    """Whether a server answers PING with PONG. A server that is still loading data does not."""
    with socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
        server.settimeout(1.0)
        server.connect(socket_path)
        server.sendall(b"PING\r\n")
        return server.recv(64).startswith(b"+PONG")
    return False


def is_private_folder(path: str) -> bool:
    """Whether `path` is a real folder that only this user can enter.

    The check is needed because every user can create a folder or a symlink in the system's
    temporary folder.
    """
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(path)
        is_own_folder = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        return is_own_folder and not status.st_mode & 0o077
    return False


def is_same_file(descriptor: int, path: str) -> bool:
    """Whether the open file is still the file at `path`. False if it was deleted or replaced."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def read_socket_path(lock: int) -> str:
    """The socket path that the latest supervisor wrote into its lock file; empty if none did."""
    return os.fsdecode(os.pread(lock, 1024, 0))


def main(folder: str, binary: str, socket_path: str, lock: int, *, ephemeral: bool) -> None:
    """Run a server in the folder until it has no user. `lock` is SUPERVISOR_LOCK, already held."""
    if os.fork():
        # The app waits only for this first process. The child is then no child of the app, so it
        # never becomes a zombie of the app.
        return
    os.chdir(folder)
    os.umask(0o077)
    _block_signals()
    _terminate_when_unused(os.open(USER_LOCK, os.O_RDWR))
    try:
        _create_private_folder(os.path.dirname(socket_path))
        _shut_down_orphans({read_socket_path(lock), socket_path})
        _write_socket_path(lock, socket_path)
        _supervise(_server_command(binary, socket_path), socket_path, lock)
    finally:
        if ephemeral and not _is_replaced(lock):
            _remove_folder()


def _block_signals() -> None:
    """Queue signals until `_supervise` reads them, so that none is lost between two steps."""
    signal.signal(signal.SIGCHLD, lambda *_: None)  # some systems discard a signal without handler
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _terminate_when_unused(user_lock: int) -> None:
    """Send this process SIGTERM when nobody holds the user lock any more."""

    def wait() -> None:
        try:
            # Hold the lock until this process ends: new users wait until the server has stopped.
            fcntl.flock(user_lock, fcntl.LOCK_EX)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _create_private_folder(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    if not is_private_folder(path):
        sys.exit(f"{path} must be a folder that only this user can enter; remove it.")


def _shut_down_orphans(socket_paths: set[str]) -> None:
    """Stop a server whose supervisor was killed: two servers must never write to one data file."""
    for path in socket_paths:
        if is_private_folder(os.path.dirname(path)) and not _shut_down(path):
            sys.exit(f"An old server at {path} is still running and does not stop; kill it.")


def _shut_down(socket_path: str) -> bool:
    """Send SHUTDOWN and return whether no server runs at `socket_path` any more.

    A server that has saved its data closes the connection without a reply.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(_STOP_TIMEOUT)
        try:
            server.connect(socket_path)
            server.sendall(b"SHUTDOWN\r\n")
            return not server.recv(1024)
        except TimeoutError:
            return False
        except OSError:
            return True  # no server was there, or it was already stopping


def _write_socket_path(lock: int, socket_path: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, os.fsencode(socket_path), 0)


def _server_command(binary: str, socket_path: str) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "loglevel": "notice",
    }
    return [binary, *(word for name, value in options.items() for word in (f"--{name}", value))]


def _supervise(command: list[str], socket_path: str, lock: int) -> None:
    """Run the server and restart it after a crash, until a signal asks this process to stop."""
    server = _start_server(command)
    try:
        _wait_until_ready(server, socket_path)
        delay = _FIRST_RESTART_DELAY
        while signal.sigwait(_SIGNALS) == signal.SIGCHLD and not _is_replaced(lock):
            if server.poll() is None:
                continue  # SIGCHLD also reports that a process was paused or continued
            time.sleep(delay)
            delay = min(2 * delay, _LONGEST_RESTART_DELAY)
            server = _start_server(command)
    finally:
        _stop_server(server, socket_path)
        if not _is_replaced(lock):
            _remove_socket(socket_path)


def _is_replaced(lock: int) -> bool:
    """Whether the folder was emptied and a newer supervisor has made a new lock file in it."""
    return os.path.exists(SUPERVISOR_LOCK) and not is_same_file(lock, SUPERVISOR_LOCK)


def _wait_until_ready(server: subprocess.Popen[bytes], socket_path: str) -> None:
    """Wait for the first answer and report it. Exit if the server could not start."""
    while not signal.sigpending() and not is_ready(socket_path):
        time.sleep(0.005)
    if server.poll() is not None:
        sys.exit(1)
    _report_ready()


def _start_server(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=sys.stderr, preexec_fn=_before_exec)


def _before_exec() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # Ask Linux to stop the server if its supervisor is killed. On other systems the next
    # supervisor stops such a server (`_shut_down_orphans`).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _report_ready() -> None:
    """Write READY_MESSAGE to stdout, then close the pipe: the app reads until its end."""
    with contextlib.suppress(BrokenPipeError):  # the app's process ended in the meantime
        os.write(1, READY_MESSAGE)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _stop_server(server: subprocess.Popen[bytes], socket_path: str) -> None:
    """Stop the server by SHUTDOWN, then by SIGTERM, then by SIGKILL.

    SHUTDOWN comes first because the server executes it immediately. It handles a signal only ten
    times a second.
    """
    # If our server has ended, the socket path may belong to the server of a newer supervisor.
    if server.poll() is None:
        _shut_down(socket_path)
    server.terminate()
    try:
        server.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _remove_socket(socket_path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket_path)  # a killed server leaves its socket behind
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(socket_path))


def _remove_folder() -> None:
    """Remove the working directory with all data.

    It is renamed first, so that a new user makes a new folder and never finds a half-removed one.
    """
    import shutil  # imported here because it is slow to import and only needed here

    with contextlib.suppress(OSError):  # the folder was deleted, or it cannot be renamed
        folder: str = os.getcwd()
        renamed = f"{folder}.{os.getpid()}"
        os.rename(folder, renamed)
        shutil.rmtree(renamed, ignore_errors=True)


if __name__ == "__main__":
    _folder, _binary, _socket_path, _lock, _ephemeral = sys.argv[1:]
    main(_folder, _binary, _socket_path, int(_lock), ephemeral=_ephemeral == "ephemeral")
