"""The keeper: a small process beside the app that runs its embedded server and ends it.

An app can die without a last word (SIGKILL, a crash), so it cannot be trusted to end its server.
The keeper can: everyone who uses the server holds a shared lock, which the kernel drops when they
die, and the keeper waits for the exclusive one. `embedded` runs this file as a script, in an
interpreter that sees nothing but the standard library, and imports the names both sides share. The
keeper's working directory is the server's folder, so that both find their files if it is moved.
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

USERS = "users.lock"  # shared by all who use the server; the keeper's alone when nobody is left
KEEPER = "keeper.lock"  # the keeper's for life; what is written in it is the socket's path
READY = b"ready"

_PATIENCE = 5.0  # seconds for a server to end before it is killed
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds before a dead server is started again
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def answers(socket_path: str) -> bool:
    """Whether a server is there and ready; one that still loads its data is not."""
    with socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
        server.settimeout(1.0)
        server.connect(socket_path)
        server.sendall(b"PING\r\n")
        return server.recv(64).startswith(b"+PONG")
    return False


def is_private(folder: str) -> bool:
    """Whether nobody else could have put anything there; the temporary folder is everybody's."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(folder)
        mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        return mine and not found.st_mode & 0o077
    return False


def is_current(lock: int, path: str) -> bool:
    """Whether the open lock is still the file at the path, not one deleted in the meantime."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), os.stat(path))
    return False


def read_address(lock: int) -> str:
    """The socket's path that the last keeper wrote in its lock; empty before the first one."""
    return os.fsdecode(os.pread(lock, 1024, 0))


def main(folder: str, binary: str, socket_path: str, lock: int, *, ephemeral: bool) -> None:
    """Keep a server in the folder until nobody uses it. The lock is KEEPER's, held already."""
    if os.fork():
        return  # the app waits for this process only, so the keeper never becomes its zombie
    os.chdir(folder)
    os.umask(0o077)
    _obey_only_in_turn()
    _end_when_unused(os.open(USERS, os.O_RDWR))
    try:
        _make_private(os.path.dirname(socket_path))
        _end_orphans({read_address(lock), socket_path})
        _write_address(lock, socket_path)
        _keep(_command(binary, socket_path), socket_path, lock)
    finally:
        if ephemeral and not _is_replaced(lock):
            _remove_data()


def _obey_only_in_turn() -> None:
    """Signals wait until `_keep` asks for them, so that none is lost between two steps."""
    signal.signal(signal.SIGCHLD, lambda *_: None)  # some systems drop a signal nobody handles
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _end_when_unused(users: int) -> None:
    def wait() -> None:
        try:
            fcntl.flock(users, fcntl.LOCK_EX)  # never given back: newcomers wait for our end
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _make_private(folder: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    if not is_private(folder):
        sys.exit(f"{folder} should be a folder that only this user can enter; remove it.")


def _end_orphans(socket_paths: set[str]) -> None:
    """End the server of a keeper that was killed: two must never append to one file."""
    for path in socket_paths:
        if is_private(os.path.dirname(path)) and not _shut_down(path):
            sys.exit("A server that was left behind in this folder does not end; end it yourself.")


def _shut_down(socket_path: str) -> bool:
    """Whether no server is there any more: it hangs up without a word once its data are safe."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(_PATIENCE)
        try:
            server.connect(socket_path)
            server.sendall(b"SHUTDOWN\r\n")
            return not server.recv(1024)
        except TimeoutError:
            return False
        except OSError:
            return True  # there was none, or it was ending already


def _write_address(lock: int, socket_path: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, os.fsencode(socket_path), 0)


def _command(binary: str, socket_path: str) -> list[str]:
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


def _keep(command: list[str], socket_path: str, lock: int) -> None:
    """Have a server running until told to end, by a signal or because nobody uses it."""
    server = _start(command)
    try:
        _await_first_answer(server, socket_path)
        pause = _FIRST_PAUSE
        while signal.sigwait(_SIGNALS) == signal.SIGCHLD and not _is_replaced(lock):
            if server.poll() is None:
                continue  # it was only stopped or continued
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            server = _start(command)
    finally:
        _stop(server, socket_path)
        if not _is_replaced(lock):
            _remove_socket(socket_path)


def _is_replaced(lock: int) -> bool:
    """Whether somebody emptied the folder, locks too, and a newer keeper is at work in it."""
    return os.path.exists(KEEPER) and not is_current(lock, KEEPER)


def _await_first_answer(server: subprocess.Popen[bytes], socket_path: str) -> None:
    """A server that cannot even start is given up; its own last words are in the log."""
    while not signal.sigpending() and not answers(socket_path):
        time.sleep(0.005)
    if server.poll() is not None:
        sys.exit(1)
    _tell_ready()


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=sys.stderr, preexec_fn=_before_exec)


def _before_exec() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if sys.platform == "linux":  # elsewhere the next keeper ends what a killed one left behind
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _tell_ready() -> None:
    """Tell who started us, and let go of the pipe, whose end they wait for."""
    with contextlib.suppress(BrokenPipeError):  # they died in the meantime
        os.write(1, READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _stop(server: subprocess.Popen[bytes], socket_path: str) -> None:
    """By a command at first, which is obeyed at once; a signal waits for the next tenth second."""
    if server.poll() is None:  # else the one at this address may be a newer keeper's
        _shut_down(socket_path)
    server.terminate()
    try:
        server.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _remove_socket(socket_path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket_path)  # a killed server leaves it
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(socket_path))


def _remove_data() -> None:
    """Renamed first, so that a newcomer makes a new folder and never finds half of the old one."""
    import shutil  # slow to import, and wanted only here

    with contextlib.suppress(OSError):  # somebody deleted it, or it may not be renamed
        folder = os.getcwd()
        doomed = f"{folder}.{os.getpid()}"
        os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


if __name__ == "__main__":
    folder, binary, socket_path, lock, ephemeral = sys.argv[1:]
    main(folder, binary, socket_path, int(lock), ephemeral=ephemeral == "ephemeral")
