"""The fuzz targets with the inputs to begin with, and with what Hypothesis makes.

`KVSESSION_FUZZ=20000 pytest --timeout=0 tests/fuzz` tries more inputs. `make fuzz` searches longer,
and by coverage.
"""

from __future__ import annotations

import logging
import os
import typing as t
from collections.abc import Iterator
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..support.strategies import quick
from . import cross_origin, session_values
from .targets import TARGETS

EXAMPLES = int(os.environ.get("KVSESSION_FUZZ", 60))
SEEDS = [(name, seed) for name, target in TARGETS.items() for seed in target.seeds]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The targets fail thousands of requests on purpose."""
    with caplog.at_level(logging.CRITICAL, "fuzz"):
        yield


@pytest.mark.parametrize(("name", "seed"), SEEDS, ids=lambda value: repr(value)[:40])
def test_input_that_was_once_dangerous_passes(name: str, seed: bytes) -> None:
    """No target fails for its known nasty inputs."""
    TARGETS[name].run(seed)


@pytest.mark.parametrize("name", sorted(TARGETS.keys() - {"session_values"}))
@given(data=st.data())
@settings(quick, max_examples=EXAMPLES)
def test_no_input_makes_a_target_fail(name: str, data: st.DataObject) -> None:
    """No target fails for random bytes, nor for its known inputs after random edits."""
    TARGETS[name].run(data.draw(st.binary(max_size=300) | edited(TARGETS[name].seeds)))


@given(st.tuples(*map(st.sampled_from, cross_origin.CHOICES)))
@settings(quick, max_examples=EXAMPLES * 5)
def test_guard_decides_by_the_table_for_any_combination_of_headers(lines: tuple[str, ...]) -> None:
    """`cross_origin_guard` decides as the table does for usual and nasty values of each header."""
    cross_origin.fuzz_cross_origin_guard("\n".join(lines).encode("latin-1"))


@given(session_values.any_values)
@settings(quick, max_examples=EXAMPLES * 3)
def test_value_of_any_kind_comes_back_the_same_or_is_refused(value: t.Any) -> None:
    """Every value that the encoder accepts comes back equal and of the same type."""
    session_values.check_value(value)


def edited(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """A seed in which some places are replaced by bytes or by parts of other seeds."""
    part = st.binary(max_size=4) | st.builds(slice_of, st.sampled_from(seeds), places, places)
    edits = st.lists(st.tuples(places, places, part), min_size=1, max_size=4)
    return st.builds(lambda seed, edits: reduce(edit, edits, seed), st.sampled_from(seeds), edits)


places = st.integers(0, 400)


def slice_of(seed: bytes, begin: int, length: int) -> bytes:
    begin %= len(seed) + 1
    return seed[begin : begin + length % 40]


def edit(text: bytes, change: tuple[int, int, bytes]) -> bytes:
    begin, length, part = change
    begin %= len(text) + 1
    return text[:begin] + part + text[begin + length % 12 :]
