"""All fuzz targets, each with the inputs to begin with."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

from . import cookie_header, cross_origin, device_proof, next_url, session_values, stored_record


class Target(t.NamedTuple):
    run: Callable[[bytes], None]
    seeds: list[bytes]


TARGETS = {
    "cookie_header": Target(cookie_header.fuzz_cookie_header, cookie_header.SEEDS),
    "record": Target(stored_record.fuzz_record, stored_record.SEEDS),
    "stored_record": Target(stored_record.fuzz_stored_record, stored_record.SEEDS),
    "next_url": Target(next_url.fuzz_next_url, next_url.SEEDS),
    "cross_origin_guard": Target(cross_origin.fuzz_cross_origin_guard, cross_origin.SEEDS),
    "device_proof": Target(device_proof.fuzz_device_proof, device_proof.SEEDS),
    "session_values": Target(session_values.fuzz_session_values, session_values.SEEDS),
}
