"""A sample for `KVSESSION_LOCATE`: names the place of an IP address on the devices pages.

It knows only the addresses that a demo sees. A real app asks a file of places:
`KVSESSION_LOCATE = MaxMindFile("GeoLite2-City.mmdb")`, from `flask_kvsession.devices.geo`.
"""

from __future__ import annotations

from ipaddress import ip_address


def place_of(address: str) -> str | None:
    """The place, or None if it is unknown."""
    parsed = ip_address(address)
    if parsed.is_loopback:
        return "This computer"
    return "Your local network" if parsed.is_private else None
