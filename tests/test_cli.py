"""`flask kvsession`: the operator lists, shows, ends, counts and repairs sessions."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import typing as t
import uuid
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import pytest
import redis
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession import signals
from flask_kvsession.cli import kvsession
from flask_kvsession.cli.render import width_of
from flask_kvsession.store import keyspace
from flask_kvsession.token import user_hash

from .support.apps import MakeApp, store_of
from .support.browsers import SignIn, token_of
from .support.clock import Clock
from .support.commands import Keys
from .support.rights import url_of

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

Run = Callable[..., Result]


@pytest.fixture
def run(app: Flask) -> Run:
    """`run("list", "ada")` runs `flask kvsession list ada`. The output is not a terminal."""

    def run(*args: str, of: Flask = app, **options: t.Any) -> Result:
        return of.test_cli_runner().invoke(args=["kvsession", *args], **options)

    return run


def in_json(result: Result) -> t.Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def is_signed_in(browser: FlaskClient) -> bool:
    return browser.get("/me").status_code == 200


def id_of(browser: FlaskClient) -> str:
    return str(browser.get("/me").get_json()["id"])


class TestList:
    def test_each_session_is_one_line(
        self, app: Flask, run: Run, sign_in: SignIn, clock: Clock
    ) -> None:
        """The sessions of the user are listed, the newest activity first, with tabs in a pipe."""
        first = sign_in(app)
        clock.advance(seconds=1)
        browsers = [first, sign_in(app)]
        sign_in(app, "bob")
        titles, *lines = run("list", "ada").stdout.splitlines()
        assert titles.split("\t")[:3] == ["SESSION", "DEVICE", "ADDRESS"]
        assert [line.split("\t")[0] for line in lines] == [id_of(b) for b in browsers[::-1]]
        assert {line.split("\t")[2] for line in lines} == {"127.0.0.1"}

    def test_json_has_all_facts(self, app: Flask, run: Run) -> None:
        """A program gets each session's facts, and times in ISO 8601."""
        browser = app.test_client()
        browser.post("/login/ada", headers={"User-Agent": FIREFOX})
        [info] = store_of(app).sessions_of("ada")
        [shown] = in_json(run("list", "ada", "--json"))
        assert shown["id"] == info.id
        assert (shown["user_id"], shown["device"]) == ("ada", "Firefox on Linux")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", shown["expires_at"])

    def test_a_user_without_sessions_is_no_failure(self, run: Run) -> None:
        """The output is empty, and a note goes to the error output."""
        result = run("list", "nobody")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "User nobody has no session.\n"
        assert in_json(run("list", "nobody", "--json")) == []


class TestShow:
    def test_data_are_shown_as_keys_and_sizes(self, app: Flask, run: Run, sign_in: SignIn) -> None:
        """No value of the data is shown: it may be personal."""
        browser = sign_in(app, data={"phone": "555-0100"})
        result = run("show", id_of(browser))
        assert "User\tada" in result.stdout
        assert "Data\tphone (19 bytes)" in result.stdout
        assert "555-0100" not in result.stdout
        assert in_json(run("show", id_of(browser), "--json"))["data_bytes"] == {"phone": 19}

    def test_a_uuid_is_shown_as_text(self, app: Flask, run: Run) -> None:
        """The user id of a session may be a UUID."""
        user_id = uuid.uuid4()
        with app.test_request_context():
            session_id = kvs.login_user(user_id).id
        assert session_id
        assert in_json(run("show", session_id, "--json"))["user_id"] == str(user_id)

    def test_an_ended_session_has_its_reason(self, app: Flask, run: Run, sign_in: SignIn) -> None:
        """A session that was ended from outside shows why."""
        session_id = id_of(sign_in(app))
        store_of(app).revoke_all("ada")
        expected = {"id": session_id, "ended": "revoked"}
        assert in_json(run("show", session_id, "--json")) == expected

    @pytest.mark.parametrize("session_id", ["A" * 19, "../../etc", ""])
    def test_an_unknown_session_is_a_failure(self, run: Run, session_id: str) -> None:
        """The exit code is 1, and one sentence says that there is none."""
        result = run("show", session_id)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"Error: There is no session {session_id}.\n"


class TestRevoke:
    @pytest.mark.parametrize("options", [[], ["--all", "--session", "x"]])
    def test_which_sessions_must_be_said(
        self, app: Flask, run: Run, sign_in: SignIn, options: list[str]
    ) -> None:
        """Neither option, or both, is a wrong use: nothing ends, and the exit code is 2."""
        browser = sign_in(app)
        result = run("revoke", "ada", *options, "--yes")
        assert result.exit_code == 2
        assert "--session ID, or --all" in result.stderr
        assert is_signed_in(browser)

    def test_one_session_ends(self, app: Flask, run: Run, sign_in: SignIn) -> None:
        """Only the named session ends, and its signal is sent."""
        first, second = sign_in(app), sign_in(app)
        ended: list[str] = []

        def note(sender: Flask, session: kvs.SessionInfo) -> None:
            ended.append(session.id)

        with signals.session_revoked.connected_to(note, app):
            session_id = id_of(first)
            result = run("revoke", "ada", "--session", session_id, input="y\n")
        assert result.stderr.startswith("End 1 session of user ada?")
        assert result.stdout.endswith("1 session ended.\n")
        assert ended == [session_id]
        assert (is_signed_in(first), is_signed_in(second)) == (False, True)

    def test_a_session_of_another_user_stays(self, app: Flask, run: Run, sign_in: SignIn) -> None:
        """A session id that belongs to another user is a failure."""
        browser = sign_in(app, "bob")
        result = run("revoke", "ada", "--session", id_of(browser), "--yes")
        assert result.exit_code == 1
        assert f"User ada has no session {id_of(browser)}." in result.stderr
        assert is_signed_in(browser)

    def test_all_sessions_of_a_user_end(self, app: Flask, run: Run, sign_in: SignIn) -> None:
        """All sessions of this user end, and no session of another user."""
        browsers, other = [sign_in(app) for _ in range(3)], sign_in(app, "bob")
        assert in_json(run("revoke", "ada", "--all", "--yes", "--json")) == {"ended": 3}
        assert [is_signed_in(each) for each in [*browsers, other]] == [False] * 3 + [True]
        assert in_json(run("revoke", "ada", "--all", "--json")) == {"ended": 0}

    @pytest.mark.parametrize(("answer", "ends"), [("y\n", True), ("n\n", False), ("", False)])
    @pytest.mark.parametrize("command", [["revoke", "ada", "--all"], ["revoke-everyone"]])
    def test_without_yes_the_operator_is_asked(
        self,
        app: Flask,
        run: Run,
        sign_in: SignIn,
        command: list[str],
        answer: str,
        ends: bool,
    ) -> None:
        """Only "y" ends sessions; without any input, as in a script, nothing ends."""
        browser = sign_in(app)
        result = run(*command, input=answer)
        assert (result.exit_code, is_signed_in(browser)) == (0 if ends else 1, not ends)
        assert result.stderr.startswith("End ")


class TestRevokeEveryone:
    def test_all_users_are_signed_out_and_told_why(
        self, app: Flask, run: Run, sign_in: SignIn, keys: Keys
    ) -> None:
        """Each session gets a tombstone with the reason, and no index is left."""
        browsers = [sign_in(app, f"user{n % 40}") for n in range(60)]
        assert in_json(run("revoke-everyone", "--yes", "--json")) == {"ended": 60}
        assert not any(map(is_signed_in, browsers))
        found = {store_of(app).current(info) for info in ids_in(keys())}
        assert {getattr(each, "ended", None) for each in found} == {"revoked"}
        assert not [key for key in keys() if ":u:" in key]
        assert in_json(run("revoke-everyone", "--yes", "--json")) == {"ended": 0}

    @pytest.mark.parametrize("options", [[], ["--anonymous"]])
    def test_anonymous_sessions_end_only_if_wanted(
        self, app: Flask, run: Run, sign_in: SignIn, options: list[str]
    ) -> None:
        """A cart without a user gives nobody rights, so it stays unless `--anonymous` is given."""
        sign_in(app)
        browser = app.test_client()
        browser.post("/data", json={"cart": [1]})
        run("revoke-everyone", "--yes", *options)
        assert browser.get("/data").get_json() == ({} if options else {"cart": [1]})

    def test_sessions_whose_users_are_unknown_end_too(self, make_app: MakeApp, run: Run) -> None:
        """In an app that signs users in by means that are unknown here, every session may be a
        user's."""
        app = make_app(as_flask_session=True)
        browser = app.test_client()
        browser.post("/data", json={"name": "ada"})
        assert in_json(run("revoke-everyone", "--yes", "--json", of=app)) == {"ended": 1}
        assert browser.get("/data").get_json() == {}

    def test_an_unreadable_record_ends_too(
        self, run: Run, redis_client: redis.Redis, prefix: str
    ) -> None:
        """A record of a newer version may be valid for another worker."""
        key = f"{prefix}:{{AbC}}:s:{'x' * 16}"
        redis_client.set(key, '{"v":9,"family":"f","new":1}', px=60_000)
        assert in_json(run("revoke-everyone", "--yes", "--json")) == {"ended": 1}
        assert redis_client.get(key) == b'{"ended":"revoked","family":"f"}'

    def test_keys_of_others_stay(
        self, app: Flask, run: Run, redis_client: redis.Redis, prefix: str, sign_in: SignIn
    ) -> None:
        """Keys with a longer prefix, with a similar prefix or of another shape are not touched."""
        sign_in(app)
        names = [f"{prefix}:b:{{AbC}}:s:{'x' * 16}", f"x{prefix}:{{AbC}}:s:{'x' * 16}"]
        names += [f"{prefix}:{{AbC}}:s:{'x' * 17}", f"{prefix}:{{AbC}}:s:{'x' * 15}"]
        names += [f"{prefix}:{{AbC}}:u:AbD{'x' * 19}", f"{prefix}:other"]
        for name in names:
            redis_client.set(name, "1", px=60_000)
        assert in_json(run("revoke-everyone", "--yes", "--json")) == {"ended": 1}
        assert {redis_client.get(name) for name in names} == {b"1"}

    def test_it_goes_on_after_an_interruption(
        self, app: Flask, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was ended before an interruption stays ended, and a second run ends the others."""
        monkeypatch.setattr(keyspace, "KEYS_PER_SCAN", 10)
        browsers = [sign_in(app, f"user{n}") for n in range(50)]
        walk = store_of(app).maintenance.revoke_everyone()
        ended = 0
        while not ended:
            ended = next(walk).ended
        del walk
        assert sum(map(is_signed_in, browsers)) == 50 - ended > 0
        ended += sum(batch.ended for batch in store_of(app).maintenance.revoke_everyone())
        assert ended == 50
        assert not any(map(is_signed_in, browsers))

    def test_a_login_after_it_works(self, app: Flask, run: Run, sign_in: SignIn) -> None:
        """Users can sign in again at once."""
        browser = sign_in(app)
        run("revoke-everyone", "--yes")
        assert browser.post("/login/ada").status_code == 200
        assert len(store_of(app).sessions_of("ada")) == 1


def ids_in(keys: set[str]) -> list[str]:
    found = (re.fullmatch(r"\w+:\{(.{3})\}:s:(.{16})", key) for key in keys)
    return [match[1] + match[2] for match in found if match]


class TestStats:
    def test_sessions_users_and_devices_are_counted(
        self, app: Flask, run: Run, sign_in: SignIn
    ) -> None:
        """Sessions, users, anonymous sessions and tombstones count separately."""
        for user in ("ada", "ada", "bob"):
            app.test_client().post(f"/login/{user}", headers={"User-Agent": FIREFOX})
        app.test_client().post("/data", json={"x": 1})
        sign_in(app, "eve")
        store_of(app).revoke_all("eve")
        shown = in_json(run("stats", "--json"))
        assert {
            name: shown[name]
            for name in ("sessions", "users", "anonymous", "tombstones", "unreadable")
        } == {"sessions": 3, "users": 2, "anonymous": 1, "tombstones": 1, "unreadable": 0}
        assert shown["devices"] == {"Firefox on Linux": 3}
        assert shown["last_activity"]["last hour"] == 3
        assert 800 < shown["bytes"] < 2000

    def test_the_activity_is_shown_by_period(
        self, app: Flask, run: Run, sign_in: SignIn, clock: t.Any
    ) -> None:
        """Each session counts in the shortest period that contains its last activity."""
        sign_in(app)
        clock.advance(hours=30)
        sign_in(app, "bob")
        clock.advance(hours=2)
        lines = run("stats").stdout.splitlines()
        assert {"last hour\t0", "last 24 hours\t1", "last 7 days\t1"} <= set(lines)

    def test_unreadable_records_are_counted(
        self, run: Run, redis_client: redis.Redis, prefix: str
    ) -> None:
        """A corrupt record and a key of another type are counted, and no failure."""
        redis_client.set(f"{prefix}:{{AbC}}:s:{'x' * 16}", "{", px=60_000)
        redis_client.rpush(f"{prefix}:{{AbC}}:s:{'y' * 16}", "x")
        assert in_json(run("stats", "--json"))["unreadable"] == 2
        redis_client.delete(f"{prefix}:{{AbC}}:s:{'y' * 16}")

    def test_an_empty_store_has_sums(self, run: Run) -> None:
        """Without sessions, the sums are 0 and there is no histogram."""
        lines = run("stats").stdout.splitlines()
        assert lines[0] == "Sessions\t0"
        assert "Devices" not in lines


class TestRepair:
    @pytest.fixture
    def broken(self, app: Flask, sign_in: SignIn, redis_client: redis.Redis, prefix: str) -> str:
        """The id of a session that its index does not have. The index of another user has an entry
        without its session."""
        session_id, index = id_of(sign_in(app)), store_of(app)._server.index_key
        redis_client.delete(index(user_hash("ada")))
        gone = id_of(sign_in(app, "bob"))
        redis_client.delete(store_of(app)._server.record_key(gone))
        sign_in(app, "bob")
        return session_id

    def test_without_yes_nothing_changes(
        self, app: Flask, run: Run, broken: str, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """The faults are named, the exit code is 1, and no key changes."""
        before = {key: redis_client.dump(key) for key in keys()}
        result = run("repair")
        assert result.exit_code == 1
        assert result.stdout.splitlines() == [
            "1 index entry without a session",
            "1 session without an index entry",
        ]
        assert "flask kvsession repair --yes" in result.stderr
        assert {key: redis_client.dump(key) for key in keys()} == before

    def test_with_yes_both_are_repaired(
        self, app: Flask, run: Run, broken: str, redis_client: redis.Redis
    ) -> None:
        """The session is listed again, and the entry without a session is gone."""
        server = store_of(app)._server
        assert run("repair", "--yes").exit_code == 0
        assert server.ids_in_index(user_hash("ada")) == [broken]
        assert len(server.ids_in_index(user_hash("bob"))) == 1
        assert store_of(app).revoke_all("ada")
        assert in_json(run("repair", "--json")) == {
            "entries_without_session": 0,
            "sessions_without_entry": 0,
            "skipped": 0,
            "repaired": False,
        }

    def test_a_repaired_index_lives_as_long_as_its_session(
        self, app: Flask, run: Run, broken: str, redis_client: redis.Redis
    ) -> None:
        """The entry expires with the session."""
        run("repair", "--yes")
        server = store_of(app)._server
        lives = [
            redis_client.pttl(server.record_key(broken)),
            redis_client.pttl(server.index_key(user_hash("ada"))),
        ]
        assert abs(lives[0] - lives[1]) < 1000 < lives[0]

    def test_a_session_that_has_just_ended_is_not_entered(
        self, app: Flask, broken: str, redis_client: redis.Redis
    ) -> None:
        """A session that ends after it was read does not come into the index."""
        maintenance = store_of(app).maintenance
        # A server may give a key twice in one walk.
        seen = [stored for each in maintenance.sessions() for stored in each.stored]
        batch = next(each for each in maintenance._keys.batches() if broken in each.session_ids)
        stored = next(each for each in seen if each.id == broken)
        store_of(app).revoke(user_hash("ada"), [broken], "revoked")
        assert maintenance.repair_entry(batch, [stored], is_dry=False) == (0, 0)
        assert store_of(app)._server.ids_in_index(user_hash("ada")) == []

    def test_sound_sessions_stay(self, app: Flask, run: Run, sign_in: SignIn) -> None:
        """Without a fault nothing is found, also after logouts and revocations."""
        browser = sign_in(app)
        sign_in(app, "eve").post("/logout")
        sign_in(app, "bob")
        store_of(app).revoke_all("bob")
        app.test_client().post("/data", json={"x": 1})
        assert run("repair", "--yes").stdout.startswith("0 index entries without a session\n0 ")
        assert is_signed_in(browser)
        assert len(store_of(app).sessions_of("ada")) == 1


COMMANDS = {
    "list": ["list", "ada"],
    "show": ["show", "A" * 19],
    "revoke": ["revoke", "ada", "--all", "--yes"],
    "revoke-everyone": ["revoke-everyone", "--yes"],
    "stats": ["stats"],
    "repair": ["repair"],
}


def test_these_are_all_commands() -> None:
    """The tests below run every command; `check` has a file of its own."""
    assert set(kvsession.commands) == {*COMMANDS, "check"}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
class TestFailures:
    def test_an_unreachable_server_is_one_sentence(
        self, make_app: MakeApp, run: Run, command: list[str], tmp_path: Path
    ) -> None:
        """The exit code is 1, one sentence says why, and there is no traceback."""
        app = make_app(redis_url=f"unix://{tmp_path}/nothing")
        result = run(*command, of=app)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: The Redis server cannot be used: ")
        assert len(result.stderr.splitlines()) == 1

    def test_a_wrong_password_is_named(
        self, make_app: MakeApp, run: Run, command: list[str], socket_path: str
    ) -> None:
        """The sentence says that the password is wrong, and does not contain it."""
        app = make_app(redis_url=url_of(socket_path).replace("only-for-tests", "guessed"))
        result = run(*command, of=app)
        assert result.exit_code == 1
        assert "refuses the user name or the password" in result.stderr
        assert "KVSESSION_REDIS_URL" in result.stderr
        assert "guessed" not in result.output

    def test_a_missing_url_is_named(
        self, run: Run, command: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without debug and testing mode, the setting is missing."""
        app = Flask("plain")
        kvs.KVSession(app)
        result = run(*command, of=app)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: KVSESSION_REDIS_URL is not set")


def test_an_unusable_user_id_is_one_sentence(run: Run) -> None:
    """An empty user id is refused with the reason."""
    result = run("list", "")
    assert (result.exit_code, result.stderr) == (1, 'Error: user_id must not be "".\n')


def test_no_output_contains_a_secret(
    app: Flask, run: Run, sign_in: SignIn, caplog: pytest.LogCaptureFixture
) -> None:
    """No command prints a token, its secret, or a hash of it."""
    browser = sign_in(app, data={"x": "value-of-data"})
    [stored] = store_of(app).sessions_of("ada")
    session_id = id_of(browser)
    with caplog.at_level(logging.DEBUG):
        shown = [
            run(*args, *options).output
            for args in (["list", "ada"], ["show", session_id], ["stats"], ["check"])
            for options in ([], ["--json"])
        ]
    text = "".join([*shown, caplog.text])
    assert session_id in text
    secret = str(token_of(browser))[19:]
    secrets = [secret[:21], secret[21:]]
    secrets += [stored.record.secret, stored.record.family, "value-of-data"]
    assert not [each for each in secrets if each in text]


APP = """
from flask import Flask
from flask_kvsession import KVSession

app = Flask(__name__)
app.config.from_prefixed_env()
KVSession(app)
"""


@pytest.fixture
def folder(tmp_path: Path, socket_path: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `app.py`, whose app uses this test's sessions."""
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.setenv("FLASK_KVSESSION_REDIS_URL", url_of(socket_path))
    monkeypatch.setenv("FLASK_KVSESSION_KEY_PREFIX", prefix)
    return tmp_path


FLASK = [sys.executable, "-m", "flask", "--app", "app", "kvsession"]


def test_flask_finds_the_commands_of_the_app(app: Flask, folder: Path, sign_in: SignIn) -> None:
    """`flask --app app kvsession` works where the app calls `KVSession(app)`."""
    sign_in(app)
    done = subprocess.run(
        [*FLASK, "list", "ada"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert (len(done.stdout.splitlines()), done.stderr) == (2, "")


def test_a_failure_of_a_process_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log line of the same error is not printed too."""
    monkeypatch.setenv("FLASK_KVSESSION_REDIS_URL", f"unix://{tmp_path}/nothing")
    done = subprocess.run([*FLASK, "stats"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


@pytest.mark.parametrize("width", [100, 40])
def test_output_fits_a_real_terminal(app: Flask, folder: Path, sign_in: SignIn, width: int) -> None:
    """In a terminal of this width, no line of a table, of a histogram or of a check is longer."""
    app.test_client().post("/login/ada", headers={"User-Agent": FIREFOX})
    [info] = store_of(app).sessions_of("ada")
    for command in (["list", "ada"], ["show", info.id], ["stats"], ["check"]):
        text = in_terminal([*FLASK, *command], folder, width)
        lines = [re.sub(r"\x1b\[[\d;?]*\w", "", line) for line in text.splitlines()]
        assert len(lines) > 1
        assert max(map(width_of, lines)) <= width, text


def test_ctrl_c_stops_and_a_second_run_ends_the_others(
    app: Flask, folder: Path, sign_in: SignIn, redis_client: redis.Redis, prefix: str
) -> None:
    """After Ctrl-C one sentence says how many sessions have ended. No session is lost: the second
    run ends exactly the others."""
    sign_in(app)
    [stored], many = store_of(app).sessions_of("ada"), 100_000
    copies = {f"{prefix}:{{{n % 1000:03}}}:s:{n:016}": stored.raw for n in range(1, many)}
    redis_client.mset(copies)
    command = [*FLASK, "revoke-everyone", "--yes"]
    first = in_terminal(command, folder, 80, until=b"#-")
    stopped = re.findall(r"Stopped: ([\d,]+) sessions ended\. Run the command again", first)
    assert len(stopped) == 1, first
    [ended] = stopped
    assert 0 < (count := int(ended.replace(",", ""))) < many
    second = subprocess.run(
        [*command, "--json"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert json.loads(second.stdout) == {"ended": many - count}


def in_terminal(command: list[str], folder: Path, width: int, until: bytes | None = None) -> str:
    """What the command prints to a terminal of this width. Once it has printed `until`, it gets a
    Ctrl-C."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    # A shell without job control starts background processes, such as this test run, with SIGINT
    # ignored.
    command = ["env", "--default-signal=INT", *command]
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    try:
        while some := os.read(ours, 65536):
            shown += some
            if until and until in shown:
                process.send_signal(signal.SIGINT)
                until = None
    except OSError:  # Linux: the other side has closed the terminal
        pass
    finally:
        os.close(ours)
        process.wait(60)
    return shown.decode()
