"""What `flask kvsession check` judges. Each check is a function that yields results."""

from __future__ import annotations

import typing as t
from collections.abc import Iterable, Iterator
from enum import Enum

from ..app_state import AppState
from ..errors import ConfigurationError, StoreUnavailable
from ..settings import Settings
from ..store import LISTENING, Expiries, ServerFacts, explain

_OLDEST = (6, 2)
_FULL = 0.9
_CLOCK_SECONDS = 1.0
_OTHERS = 0.01
"""A session that is renewed while it is looked at may seem to have other timeouts."""
_NODES_SECONDS = 0.1
"""How far the clocks of a cluster may differ: an expiry is written by one and judged by another."""
_WITH_ANOTHER_WAY: t.Final = {
    "evalsha": "each act sends its whole script",
    "eval": "a script that the server has forgotten fails",
    "ping": "a connection that a firewall has forgotten is found out late",
    "info": "the server is taken for one that evicts sessions, and this command sees less",
    "scan": "stats, repair and revoke-everyone do not work",
    "client|tracking": "there is no near cache, and each read asks the server",
    "role": "the near cache does not see that the server has become a replica",
}


class Level(Enum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Result(t.NamedTuple):
    """What one check has found, and what to do about it (empty if it is ok)."""

    name: str
    level: Level
    found: str
    remedy: str = ""


def run(state: AppState) -> Iterator[Result]:
    """All results, in their order. If the server cannot be used, one error says why, and only what
    needs no server is judged besides."""
    try:
        servers = state.store.inspection.servers()
    except (StoreUnavailable, ConfigurationError) as error:
        yield Result("connection", Level.ERROR, _sentence(error), "Correct it first.")
    else:
        for facts in servers:
            yield from check_server(facts, state.settings)
        yield from check_clocks(servers)
        yield from check_scripts(state)
        yield from check_prefix(state)
    yield from check_cookie(state)


def check_server(facts: ServerFacts, settings: Settings) -> Iterator[Result]:
    yield check_connection(facts, settings)
    yield from check_rights(facts, settings)
    if facts.info:
        yield check_version(facts.info)
        yield from check_persistence(facts.info)
        yield from check_memory(facts.info)


def check_connection(facts: ServerFacts, settings: Settings) -> Result:
    found = f"{facts.name} answers in {facts.milliseconds:.1f} ms"
    if facts.milliseconds > settings.store_timeout.total_seconds() * 100:
        return Result(
            "connection",
            Level.WARNING,
            f"{found}, more than a tenth of KVSESSION_STORE_TIMEOUT",
            "Put the server into the network of the app, or raise KVSESSION_STORE_TIMEOUT.",
        )
    return Result("connection", Level.OK, found)


def check_version(info: t.Mapping[str, str]) -> Result:
    if "valkey_version" in info:
        return Result("server", Level.OK, f"Valkey {info['valkey_version']}")
    version = info.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= _OLDEST:
        return Result("server", Level.OK, f"Redis {version}")
    return Result(
        "server",
        Level.ERROR,
        f"Redis {version or 'of an unknown version'}",
        "Use Redis 6.2 or later, or Valkey.",
    )


def check_persistence(info: t.Mapping[str, str]) -> Iterator[Result]:
    if info.get("aof_enabled") == "1":
        if info.get("aof_last_write_status", "ok") == "ok":
            yield Result("persistence", Level.OK, "append-only file")
        else:
            yield Result(
                "persistence",
                Level.ERROR,
                "the last write to the append-only file failed",
                "Look at the disk and the log of the server.",
            )
        return
    yield Result(
        "persistence",
        Level.WARNING,
        "no append-only file: a restart loses the logins and the revocations since the last"
        " snapshot",
        "Set appendonly yes and appendfsync everysec.",
    )


def check_memory(info: t.Mapping[str, str]) -> Iterator[Result]:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        yield Result("eviction", Level.OK, policy)
    else:
        yield Result(
            "eviction",
            Level.WARNING,
            f"{policy}: the server may remove sessions that are valid, and each list and revocation"
            " looks through all keys",
            "Set maxmemory-policy noeviction, and give the sessions a server of their own.",
        )
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if limit and used > limit * _FULL:
        yield Result(
            "memory",
            Level.WARNING,
            f"{used / limit:.0%} of maxmemory is in use; when it is full, logins fail",
            "Raise maxmemory.",
        )


def check_rights(facts: ServerFacts, settings: Settings) -> Iterator[Result]:
    unneeded = set() if settings.near_cache else set(LISTENING)
    forbidden = [name for name in facts.forbidden if name not in unneeded]
    missing = [name for name in forbidden if name not in _WITH_ANOTHER_WAY]
    if {"eval", "evalsha"} <= set(forbidden):
        missing += ["eval", "evalsha"]
    for name in forbidden:
        if name not in missing:
            yield Result(
                "rights",
                Level.WARNING,
                f"{facts.name} forbids {name.upper()}: {_WITH_ANOTHER_WAY[name]}",
                f"ACL SETUSER ... +{name}",
            )
    if missing:
        yield Result(
            "rights",
            Level.ERROR,
            f"{facts.name} forbids {', '.join(name.upper() for name in missing)}",
            f"ACL SETUSER ... {' '.join(f'+{name}' for name in missing)}",
        )
    for reason in facts.refused:
        yield Result(
            "rights",
            Level.ERROR,
            f"{facts.name} refuses commands on the app's keys: {reason}",
            "Allow the keys of KVSESSION_KEY_PREFIX: ACL SETUSER ... ~PREFIX:*"
            if "permissions" in reason
            else "Use a primary server whose memory is not full.",
        )
    if not forbidden and not facts.refused:
        yield Result("rights", Level.OK, "all commands that the sessions need are allowed")


def check_clocks(servers: list[ServerFacts]) -> Iterator[Result]:
    aheads = [facts.clock_ahead for facts in servers]
    if max(aheads) - min(aheads) > _NODES_SECONDS:
        yield Result(
            "clock",
            Level.WARNING,
            f"the clocks of the servers differ by {max(aheads) - min(aheads):.1f} s",
            "Synchronise them (NTP): timeouts are measured by the servers' clocks.",
        )
    furthest = max(aheads, key=abs)
    if abs(furthest) > _CLOCK_SECONDS:
        yield Result(
            "clock",
            Level.WARNING,
            f"the server's clock is {abs(furthest):.1f} s"
            f" {'ahead of' if furthest > 0 else 'behind'} this machine's",
            "Synchronise both (NTP). It harms no session, but the times of logs do not agree.",
        )
    else:
        yield Result("clock", Level.OK, f"differs by {abs(furthest) * 1000:.0f} ms")


def check_scripts(state: AppState) -> Iterator[Result]:
    try:
        state.store.inspection.try_session()
    except (StoreUnavailable, ConfigurationError) as error:
        yield Result(
            "scripts",
            Level.ERROR,
            f"no session could be made: {_sentence(error)}",
            "Correct what the other lines name.",
        )
    else:
        yield Result("scripts", Level.OK, "a session was made and removed again")


def check_prefix(state: AppState) -> Iterator[Result]:
    prefix = state.settings.key_prefix
    try:
        inspection = state.store.inspection
        strangers, expiries = inspection.strangers(), inspection.expiries()
    except StoreUnavailable:
        return  # the rights name SCAN
    problems = [*_stranger_problems(prefix, strangers), *_expiry_problems(prefix, expiries)]
    for found, remedy in problems:
        yield Result("prefix", Level.WARNING, found, remedy)
    if not problems:
        is_default = prefix == Settings.key_prefix
        note = ", the default: a second app on this server needs another one" if is_default else ""
        yield Result("prefix", Level.OK, f"{prefix!r}{note}")


def _stranger_problems(prefix: str, strangers: list[str]) -> Iterator[tuple[str, str]]:
    if strangers:
        yield (
            f"keys of another program begin with {prefix!r}, such as {strangers[0]!r}",
            "Set KVSESSION_KEY_PREFIX to a prefix that nothing else uses on this server.",
        )


def _expiry_problems(prefix: str, expiries: Expiries) -> Iterator[tuple[str, str]]:
    if expiries.others > expiries.sessions * _OTHERS:
        yield (
            f"{expiries.others} of {expiries.sessions} sessions have other timeouts than this app:"
            f" another app has the prefix {prefix!r} too and accepts them, or the timeouts were"
            " changed lately",
            "Give each app a KVSESSION_KEY_PREFIX of its own. After a change of the timeouts, each"
            " session gets the new ones with its next renewal.",
        )


def check_cookie(state: AppState) -> Iterator[Result]:
    """The attributes that OWASP ASVS 5.0 requires of a session cookie (3.3.1 to 3.3.4)."""
    cookie, keys = state.cookie, state.cookie.keys
    problems = list(_cookie_problems(state))
    for level, found, remedy in problems:
        yield Result("cookie", level, found, remedy)
    if not problems:
        yield Result(
            "cookie",
            Level.OK,
            f"{cookie.name}: Secure, HttpOnly, SameSite={cookie.samesite} ({keys.name})",
        )


def _cookie_problems(state: AppState) -> Iterable[tuple[Level, str, str]]:
    cookie, keys, app = state.cookie, state.cookie.keys, state.app
    in_development = app.debug or app.testing
    if not cookie.secure:
        mode = " in debug or testing mode" if in_development else ""
        yield (
            Level.WARNING if in_development else Level.ERROR,
            f"{cookie.name} is not Secure{mode} (ASVS 3.3.1)",
            "Run this check without debug and testing mode."
            if in_development
            else f"Set {keys.secure} = True, and serve the app by https.",
        )
    elif not cookie.name.startswith(("__Host-", "__Secure-")):
        yield (
            Level.WARNING,
            f"{cookie.name} has no prefix, so another host of the domain can set it (ASVS 3.3.1)",
            f'Set {keys.name} = "__Host-session".',
        )
    elif not cookie.name.startswith("__Host-"):
        yield (
            Level.WARNING,
            f"{cookie.name} is sent to other hosts or set by them (ASVS 3.3.3)",
            f"Remove {keys.domain} and {keys.path}, so that the name begins with __Host-.",
        )
    if cookie.samesite not in ("Lax", "Strict"):
        yield (
            Level.WARNING,
            f"{cookie.name} has SameSite={cookie.samesite}: other sites send it along (ASVS 3.3.2)",
            "Use Lax or Strict, unless the app is embedded in other sites.",
        )
    if not cookie.httponly:
        yield (
            Level.ERROR,
            f"{cookie.name} is not HttpOnly: a script of a page can read it (ASVS 3.3.4)",
            "Remove SESSION_COOKIE_HTTPONLY = False.",
        )


def _sentence(error: StoreUnavailable | ConfigurationError) -> str:
    return explain(error) if isinstance(error, StoreUnavailable) else str(error)
