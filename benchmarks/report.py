"""The page with all tables, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator

from .cases import CASES, LABELS, LITTLE, MANY, OURS
from .near_cache import PROCESSES, Reports
from .open_connections import LOADS, Delays
from .results import Results, targets
from .scale import Scale
from .sizes import Size, Sizes
from .throughput import CONNECTIONS, WORKERS, Load
from .timing import Row, Rows, Spread

_INTRODUCTION = """\
# Benchmarks

`make bench` wrote this page; every figure is from one run. Do not edit it.

![Time of one request]({chart})

Measured with:

{machine}

How to read the tables:

- A time is the median of {rounds} rounds, with the quartiles in parentheses. Each round takes the
  median of a batch of requests. The contestants take turns, in an order that changes.
- Each contestant is a small app in a process of its own, called in process through WSGI. No HTTP
  server and no network is in the times. A network adds its own time to each round trip.
- *One CPU*: the app and the server share one CPU. *Any CPU*: the system places them.
- *Ours takes*: our time divided by this contestant's time in the same round, on one CPU. Below 1
  this package is faster.
- Figures with almost no noise: the instructions of the app's process (valgrind), the calls of
  Python functions, the commands sent to the server, and the most memory that Python allocated at
  one time (tracemalloc). All are of the whole request, with Flask's part.
- The contestants do not do the same. The signed cookie cannot be revoked or listed, and an old
  cookie stays valid. Flask-Session and Flask-KVSession-Invenio keep no index of a user's sessions,
  and of two concurrent changes they keep the later one. Flask's session cookie is not permanent
  here, as is its default; a permanent one is signed again for each response.
- An app has a `SECRET_KEY` only if its session needs one: with it, Flask prepares its own session
  for each request. Flask-Session is measured with its default, which writes at each request, and
  with `SESSION_REFRESH_EACH_REQUEST = False`, which lets a session expire although it is used.
- *Near cache*: this package with `NEAR_CACHE = True`. The process has read the session before.
- This package has its default settings, but for `MAX_SESSIONS_PER_USER = 1000`, which the last
  cases need.
"""

_TARGETS = """\
Each figure is a ratio of our time, or size, to the one named, or what the row says. A target is met
if the median of the times on one CPU is within it. The ratio of the instructions has almost no
noise, but it has neither the system's part in it nor the server's.
"""


def page(results: Results, chart: str) -> str:
    """The whole page. `chart` is the link to the chart."""
    sections = [
        _INTRODUCTION.format(
            chart=chart,
            machine="\n".join(f"- {line}" for line in results.machine),
            rounds=results.rounds,
        )
    ]
    if results.missing:
        names = ", ".join(LABELS[name] for name in results.missing)
        sections.append(f"Could not be installed, so it is not in the tables: {names}.\n")
    sections.append(f"## Targets\n\n{_TARGETS}\n" + _targets(results))
    sections += [f"## {CASES[case].title}\n\n{_case(rows)}" for case, rows in results.rows.items()]
    if results.sizes:
        sections.append("## Memory of one session in the server\n\n" + _sizes(results.sizes))
    if results.scale:
        sections.append("## Many sessions in the server\n\n" + _scale(results.scale))
    if results.reports:
        sections.append("## Reports of the near cache\n\n" + _reports(results.reports))
    if results.ends:
        sections.append("## Open connections\n\n" + _ends(results.ends))
    if results.loads:
        sections.append("## Requests per second\n\n" + _loads(results))
    return "\n".join(sections)


def _targets(results: Results) -> str:
    words = {True: "yes", False: "no", None: "not measured"}
    return _table(
        ("what", "target, at most", "measured", "by instructions", "met"),
        (
            (
                target.text,
                f"{target.limit:g}",
                "" if target.measured is None else _ratio(target.measured),
                "" if target.instructions is None else f"{target.instructions:.2f}",
                words[target.is_met],
            )
            for target in targets(results)
        ),
    )


def _case(rows: Rows) -> str:
    ours = rows.get(OURS)
    return _table(
        (
            "",
            "µs, one CPU",
            "µs, any CPU",
            "ours takes",
            "1,000 instructions",
            "Python calls",
            "round trips",
            "peak kB",
        ),
        (_row(LABELS[name], row, ours) for name, row in rows.items()),
    )


def _row(label: str, row: Row, ours: Row | None) -> Iterator[str]:
    yield label
    yield _time(row.pinned)
    yield _time(row.unpinned)
    is_other = ours is not None and ours is not row
    yield _ratio(Spread.of_ratio(ours.pinned, row.pinned)) if ours and is_other else ""
    yield "" if row.instructions is None else f"{row.instructions / 1000:,.0f}"
    in_package = f" ({row.package_calls:,} in the package)" if row.package_calls else ""
    yield f"{row.calls:,}{in_package}"
    yield str(row.round_trips)
    yield f"{row.peak_bytes / 1000:.1f}"


def _sizes(sizes: Sizes) -> str:
    table = _table(
        ("after a login", "bytes with 2 keys", "bytes with 21 keys"),
        (
            (LABELS[name], *(_size(by_keys[keys]) for keys in (LITTLE, MANY)))
            for name, by_keys in sizes.items()
        ),
    )
    return (
        f"{table}\nBy `MEMORY USAGE`, which counts the key too. The user agent has 68 characters.\n"
    )


def _size(size: Size) -> str:
    return f"{size.record} + {size.index} (index)" if size.index else str(size.record)


def _scale(scale: Scale) -> str:
    counts = list(scale.bytes_per_session)
    table = _table(
        ("sessions in the server", *(f"{count:,}" for count in counts)),
        (
            *(
                (f"`{case}`, µs", *(_time(times[count]) for count in counts))
                for case, times in scale.times.items()
            ),
            ("bytes for each session", *(f"{scale.bytes_per_session[n]:,}" for n in counts)),
        ),
    )
    return f"{table}\nThis package only, on one CPU. The bytes are the growth of `used_memory`.\n"


def _reports(reports: Reports) -> str:
    percentiles = statistics.quantiles(reports.delays, n=100)
    table = _table(
        ("what", "measured"),
        (
            ("from a revocation until another process sees it, p50", f"{percentiles[49]:.1f} ms"),
            ("the same, p99", f"{percentiles[98]:.1f} ms"),
            ("the same, at most", f"{max(reports.delays):.1f} ms"),
            ("CPU time for each change, in each process", f"{reports.microseconds:.0f} µs"),
        ),
    )
    return (
        f"{table}\n{len(reports.delays)} times. {PROCESSES} processes with a near cache read the"
        " session every half millisecond, each with a thread that writes another session 500 times"
        " a second. A fourth process revokes. The CPU time is that of a process that does nothing"
        " else. On any CPU.\n"
    )


def _ends(ends: Delays) -> str:
    rows = []
    for kind, delays in ends.items():
        percentiles = statistics.quantiles(delays, n=100)
        figures = (percentiles[49], percentiles[98], max(delays))
        rows.append((kind, *(f"{each:.1f}" for each in figures)))
    table = _table(("from a revocation to the end of", "p50, ms", "p99, ms", "at most, ms"), rows)
    return (
        f"{table}\n{len(delays)} of each kind, each with a session of its own, in two workers of"
        f" gunicorn (gthread). Meanwhile {LOADS} processes send requests. Another process revokes"
        " one session after the other. On any CPU.\n"
    )


def _loads(results: Results) -> str:
    table = _table(
        ("", "requests per second", "p50, ms", "p99, ms"),
        ((LABELS[name], *_load(load)) for name, load in results.loads.items()),
    )
    return (
        f"{table}\nA page that reads the session, bare Flask's without one: gunicorn with {WORKERS}"
        f" sync workers, {CONNECTIONS} connections of {results.generator}. All share the machine's"
        " CPUs.\n"
    )


def _load(load: Load) -> Iterator[str]:
    yield f"{load.per_second:,.0f}"
    yield f"{load.p50:.2f}"
    yield f"{load.p99:.2f}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _time(times: list[float]) -> str:
    spread = Spread.of(times)
    return f"{spread.median:,.0f} ({spread.low:,.0f} to {spread.high:,.0f})"


def _ratio(spread: Spread) -> str:
    if spread.low == spread.high:
        return f"{spread.median:.3g}"
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"
