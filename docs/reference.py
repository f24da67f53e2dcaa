"""The settings and the signals as Markdown, from the code and its docstrings.

`docs/conf.py` puts them into the pages. The tests compare the README's table with `in_words`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import typing as t
from datetime import timedelta

from flask_kvsession import Settings, settings, signals
from flask_kvsession.settings import config_key

_UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


def settings_as_markdown() -> str:
    """One entry for each setting: its key, type and default, and what it means."""
    meanings = docstrings_of_fields()
    entries = []
    for field in dataclasses.fields(Settings):
        entries += [
            f"```{{confval}} {config_key(field.name)}",
            f":type: `{type_of(field)}`",
            f":default: `{default_of(field.name)}`",
            "",
            meanings[field.name],
            "```",
            "",
        ]
    return "\n".join(entries)


def signals_as_markdown() -> str:
    """What the module says, and one entry for each signal."""
    entries = [str(inspect.getdoc(signals)), ""]
    for name in signals.__all__:
        doc = getattr(signals, name).__doc__
        entries += [f"```{{py:data}} flask_kvsession.signals.{name}", "", doc, "```", ""]
    return "\n".join(entries)


def docstrings_of_fields() -> dict[str, str]:
    """The docstring below each field of `Settings`; a field without one is missing."""
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(settings)).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    found = {}
    for field, below in itertools.pairwise(body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found


def type_of(field: dataclasses.Field[t.Any]) -> str:
    """The type of a setting as its user writes it: `t.Literal` is the values themselves."""
    text = str(field.type).replace("timedelta", "timedelta | seconds").replace("'", '"')
    return re.sub(r"t\.Literal\[(.*?)\]", lambda match: match[1].replace(", ", " | "), text)


def default_of(name: str) -> str:
    """The default of a setting in words, such as "7 days" or "64 KiB"."""
    return in_words(getattr(Settings(), name))


def in_words(value: object) -> str:
    """A duration as "5 minutes", a large number of bytes as "64 KiB", another value as Python."""
    if isinstance(value, timedelta):
        return _duration(value.total_seconds())
    if isinstance(value, int) and value >= 1024 and value % 1024 == 0:
        return f"{value // 1024} KiB"
    if isinstance(value, int) and value >= 1000:
        return f"{value:,}"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _duration(seconds: float) -> str:
    for unit, length in _UNITS:
        count, rest = divmod(seconds, length)
        if count >= 1 and rest == 0:
            return f"{count:.0f} {unit}{'' if count == 1 else 's'}"
    raise ValueError(seconds)
