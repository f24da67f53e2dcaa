"""The commands. Each asks the store, and prints a table, or JSON for a program."""

from __future__ import annotations

import functools
import json
import logging
import sys
import typing as t
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

import click
from flask.cli import AppGroup

from .. import api, record
from ..app_state import app_state
from ..devices.describe import describe
from ..errors import KVSessionError, StoreUnavailable
from ..record import SessionInfo, Tombstone
from ..store import explain
from ..token import is_session_id
from . import checks
from .render import Column, bars, counted, facts, indented, size, table, terminal_width
from .statistics import Statistics

if t.TYPE_CHECKING:
    from click.decorators import FC

kvsession: AppGroup = AppGroup("kvsession", help="Looks at the sessions of the app, and ends them.")

_LIST_COLUMNS = (
    Column("SESSION"),
    Column("DEVICE", shrinks=True, rank=1),
    Column("ADDRESS", shrinks=True, rank=3),
    Column("LAST SEEN (UTC)", rank=2),
    Column("CREATED (UTC)", rank=6),
    Column("EXPIRES (UTC)", rank=5),
    Column("BOUND", rank=4),
)
_TITLES = {"id": "Session", "user_id": "User", "ip_address": "Address", "data_bytes": "Data"}
_KEYS_WITHOUT_BAR = 5000
_COLORS = {"ok": "green", "warning": "yellow", "error": "red"}

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
_yes = click.option("--yes", is_flag=True, help="Do not ask before.")


def command(name: str) -> Callable[[FC], FC]:
    """Makes a command whose failures are one sentence and the exit code 1."""

    def decorate(function: FC) -> FC:
        @functools.wraps(function)
        def run(*args: t.Any, **kwargs: t.Any) -> None:
            with _sentences():
                function(*args, **kwargs)

        return t.cast("FC", kvsession.command(name)(_as_json(run)))

    return decorate


@command("list")
@click.argument("user")
def list_(user: str, as_json: bool) -> None:
    """Lists the sessions of USER, newest activity first."""
    infos = api.list_sessions(user)
    if as_json:
        _print_json([_as_dict(info) for info in infos])
    elif infos:
        _print(table(_LIST_COLUMNS, list(map(_row, infos)), terminal_width()))
    else:
        _note(f"User {user} has no session.")


@command("show")
@click.argument("session_id", metavar="ID")
def show(session_id: str, as_json: bool) -> None:
    """Shows the session ID. Of its data it shows the keys and their sizes, and no values."""
    found = app_state().store.current(session_id) if is_session_id(session_id) else None
    if found is None:
        raise click.ClickException(f"There is no session {session_id}.")
    if isinstance(found, Tombstone):
        shown: dict[str, t.Any] = {"id": session_id, "ended": found.ended}
    else:
        shown = _as_dict(app_state().store.info(found)) | {"data_bytes": found.record.sizes()}
    if as_json:
        _print_json(shown)
    else:
        _print(facts(list(_pairs(shown)), terminal_width()))


@command("revoke")
@click.argument("user")
@click.option("--session", "session_id", metavar="ID", help="The session to end.")
@click.option("--all", "everything", is_flag=True, help="End all sessions of USER.")
@_yes
def revoke(user: str, session_id: str | None, everything: bool, yes: bool, as_json: bool) -> None:
    """Ends sessions of USER: one, or all."""
    if (session_id is None) is not everything:
        raise click.UsageError("Say which: --session ID, or --all.")
    infos = [info for info in api.list_sessions(user) if session_id in (None, info.id)]
    if session_id and not infos:
        raise click.ClickException(f"User {user} has no session {session_id}.")
    if infos:
        _confirm(f"End {counted(len(infos), 'session')} of user {user}?", yes)
    if session_id:
        ended = int(api.revoke_session(session_id, user))
    else:
        ended = api.revoke_all_sessions(user)
    _print_ended(ended, as_json)


@command("revoke-everyone")
@click.option("--anonymous", is_flag=True, help="End anonymous sessions too.")
@_yes
def revoke_everyone(anonymous: bool, yes: bool, as_json: bool) -> None:
    """Signs all users out. It may be interrupted and started again.

    Sessions that begin meanwhile may stay. No signals are sent.
    """
    maintenance = app_state().store.maintenance
    _confirm("End the sessions of ALL users?", yes)
    ended = 0
    try:
        with _progress("Ending sessions", maintenance.count_keys()) as advance:
            for batch in maintenance.revoke_everyone(anonymous=anonymous):
                ended += batch.ended
                advance(batch.keys)
    except (StoreUnavailable, KeyboardInterrupt) as error:
        raise _stopped(error, f"{counted(ended, 'session')} ended") from error
    _print_ended(ended, as_json)


@command("stats")
def stats(as_json: bool) -> None:
    """Counts sessions, users, devices and bytes.

    It also shows when sessions were last used.
    """
    store = app_state().store
    maintenance, sums = store.maintenance, Statistics(store.now())
    with _progress("Counting", maintenance.count_keys()) as advance:
        for seen in maintenance.sessions():
            sums.add(seen)
            advance(seen.keys)
    if as_json:
        _print_json(vars(sums) | {"now": record.from_ms(sums.now)})
    else:
        _print(_statistics(sums))


@command("repair")
@_yes
def repair(yes: bool, as_json: bool) -> None:
    """Finds and repairs faults of the indexes.

    These are entries without a session, and sessions without an entry. It changes nothing without
    --yes. The exit code is 1 if something is left to repair.
    """
    maintenance = app_state().store.maintenance
    entries = records = skipped = 0
    with _progress("Looking", maintenance.count_keys()) as advance:
        for batch in maintenance.repair(is_dry=not yes):
            entries += batch.entries
            records += batch.records
            skipped += batch.skipped
            advance(batch.keys)
    found = {"entries_without_session": entries, "sessions_without_entry": records}
    if as_json:
        _print_json(found | {"skipped": skipped, "repaired": yes})
    else:
        _print(
            [
                f"{counted(entries, 'index entry').replace('entrys', 'entries')} without a session",
                f"{counted(records, 'session')} without an index entry",
            ]
        )
        if skipped:
            _note(f"{skipped} were skipped, because the cluster is moving them. Run this again.")
        if (entries or records) and not yes:
            _note("Nothing was changed. Repair it: flask kvsession repair --yes")
    if skipped or ((entries or records) and not yes):
        sys.exit(1)


@command("check")
@click.option("--strict", is_flag=True, help="The exit code is 1 for a warning too.")
def check(strict: bool, as_json: bool) -> None:
    """Checks the server and the settings.

    The exit code is 1 if there is an error.
    """
    results = list(checks.run(app_state()))
    if as_json:
        _print_json([each._asdict() | {"level": each.level.value} for each in results])
    else:
        for each in results:
            _print_result(each)
    bad = {checks.Level.ERROR, checks.Level.WARNING} if strict else {checks.Level.ERROR}
    if any(each.level in bad for each in results):
        sys.exit(1)


# Failures and questions


@contextmanager
def _sentences() -> Iterator[None]:
    """Turns an error of this package into one sentence. Without this handler, Python would print
    the log lines of the same error too, if the app has not set logging up."""
    log, handler = logging.getLogger("flask_kvsession"), logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    except StoreUnavailable as unavailable:
        raise click.ClickException(explain(unavailable)) from unavailable
    except (KVSessionError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        log.removeHandler(handler)


def _stopped(error: BaseException, done: str) -> click.ClickException:
    why = f"{explain(error)} " if isinstance(error, StoreUnavailable) else ""
    return click.ClickException(f"{why}Stopped: {done}. Run the command again for the others.")


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)


@contextmanager
def _progress(label: str, keys: int | None) -> Iterator[Callable[[int], object]]:
    """Shows a bar in the terminal while keys are looked at. Gives the function that advances it."""
    if not sys.stderr.isatty() or (keys is not None and keys < _KEYS_WITHOUT_BAR):
        yield lambda count: None
        return
    with click.progressbar(length=keys or 0, label=label, file=sys.stderr) as bar:
        yield bar.update
        bar.update(max(0, (keys or 0) - bar.pos))  # keys of other apps


# What is printed


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _note(text: str) -> None:
    """For a person: not on the output that a program reads."""
    click.echo(text, err=True)


def _print_json(value: t.Any) -> None:
    click.echo(json.dumps(value, default=_in_json, indent=2))


def _print_ended(ended: int, as_json: bool) -> None:
    if as_json:
        _print_json({"ended": ended})
    else:
        click.echo(f"{counted(ended, 'session')} ended.")


def _print_result(result: checks.Result) -> None:
    level, width = result.level.value, terminal_width()
    if width is None:
        click.echo("\t".join([level, result.name, result.found, result.remedy]).rstrip())
        return
    head, *rest = indented(f"{result.name}: {result.found}", 9, width)
    click.echo(f"{click.style(f'{level:<7}', fg=_COLORS[level])}{head[7:]}")
    _print([*rest, *indented(f"-> {result.remedy}", 9, width)] if result.remedy else rest)


def _statistics(sums: Statistics) -> Iterator[str]:
    width = terminal_width()
    yield from facts(
        [
            ("Sessions", f"{sums.sessions:,}"),
            ("Users", f"{sums.users:,}"),
            ("Anonymous sessions", f"{sums.anonymous:,}"),
            ("Tombstones", f"{sums.tombstones:,}"),
            ("Unreadable records", f"{sums.unreadable:,}"),
            ("Size of the records", size(sums.bytes)),
        ],
        width,
    )
    if sums.sessions:
        yield from ("", "Devices")
        yield from bars(dict(sums.devices.most_common(10)), width)
        yield from ("", "Last activity")
        yield from bars(sums.last_activity, width)


def _row(info: SessionInfo) -> list[str]:
    return [
        info.id,
        describe(info.user_agent).name or "",
        info.ip_address or "",
        *(f"{each:%Y-%m-%d %H:%M}" for each in (info.last_seen_at, info.created_at)),
        f"{info.expires_at:%Y-%m-%d %H:%M}",
        "yes" if info.is_device_bound else "no",
    ]


def _as_dict(info: SessionInfo) -> dict[str, t.Any]:
    return {
        "id": info.id,
        "user_id": info.user_id,
        "device": describe(info.user_agent).name,
        "user_agent": info.user_agent,
        "ip_address": info.ip_address,
        "created_at": info.created_at,
        "last_seen_at": info.last_seen_at,
        "authenticated_at": info.authenticated_at,
        "expires_at": info.expires_at,
        "remembered": info.remembered,
        "device_bound": info.is_device_bound,
    }


def _pairs(shown: dict[str, t.Any]) -> Iterator[tuple[str, str]]:
    """The names and values of a session for a person."""
    for name, value in shown.items():
        title = _TITLES.get(name) or name.removesuffix("_at").replace("_", " ").capitalize()
        if isinstance(value, dict):
            sizes = [f"{key} ({counted(count, 'byte')})" for key, count in value.items()]
            yield title, ", ".join(sizes) or "none"
        elif isinstance(value, datetime):
            yield title, f"{value:%Y-%m-%d %H:%M:%S} UTC"
        elif isinstance(value, bool):
            yield title, "yes" if value else "no"
        elif value is not None:
            yield title, str(value)


def _in_json(value: object) -> str:
    """A time in ISO 8601; a UUID as its text."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
