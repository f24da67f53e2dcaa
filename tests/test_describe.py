"""The names that the devices pages give to devices, times and places."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]

from flask_kvsession.devices.describe import _parsed, ago, describe
from flask_kvsession.devices.geo import MaxMindFile
from flask_kvsession.errors import ConfigurationError

from .support.devices import parsed_user_agents

WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
LINUX = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
FIREFOX, GECKO = "Mozilla/5.0", "Gecko/20100101 Firefox/140.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like"
IPAD = "Mozilla/5.0 (iPad; CPU OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
ANDROID = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("user_agent", "name", "kind"),
    [
        (f"{WINDOWS} Chrome/140.0.0.0 Safari/537.36", "Chrome on Windows", "computer"),
        (f"{WINDOWS} Chrome/140.0.0.0 Safari/537.36 Edg/140.0", "Edge on Windows", "computer"),
        (f"{WINDOWS} Chrome/140.0.0.0 Safari/537.36 OPR/120.0.0.0", "Opera on Windows", "computer"),
        (f"{MAC} Version/18.5 Safari/605.1.15", "Safari on macOS", "computer"),
        (f"{LINUX} HeadlessChrome/140.0.0.0 Safari/537.36", "Chrome on Linux", "computer"),
        (f"{FIREFOX} (X11; Linux x86_64; rv:140.0) {GECKO}", "Firefox on Linux", "computer"),
        (f"{IPHONE} Gecko) Version/18.5 Mobile/15E1 Safari/604.1", "Safari on iPhone", "phone"),
        (f"{IPHONE} Gecko) CriOS/140.0 Mobile/15E1 Safari/604.1", "Chrome on iPhone", "phone"),
        (f"{IPHONE} Gecko) FxiOS/140.0 Mobile/15E1 Safari/605.1", "Firefox on iPhone", "phone"),
        (f"{IPHONE} Gecko) Mobile/15E148", "App on iPhone", "phone"),
        (f"{IPAD} Version/16.5 Mobile/15E148 Safari/604.1", "Safari on iPad", "tablet"),
        (f"{ANDROID} Chrome/140.0.0.0 Mobile Safari/537.36", "Chrome on Android", "phone"),
        (f"{ANDROID} Chrome/140.0.0.0 Safari/537.36", "Chrome on Android", "tablet"),
        (f"{ANDROID} SamsungBrowser/28.0 Mobile Safari/9", "Samsung Internet on Android", "phone"),
        (f"{FIREFOX} (Android 14; Mobile; rv:140.0) {GECKO}", "Firefox on Android", "phone"),
        ("curl/8.5.0", "curl", "program"),
        ("python-requests/2.32.3", "Python Requests", "program"),
        ("Lagerhaus/2.1 (build 7)", "Lagerhaus", "unknown"),
        ("/", None, "unknown"),
        ("", None, "unknown"),
        ("\x01\x02\x7f\u200b", None, "unknown"),
        ("Lager\x00haus/2", "Lagerhaus", "unknown"),
        (None, None, "unknown"),
    ],
    ids=str,
)
def test_a_user_agent_gives_browser_and_system_without_versions_and_a_kind(
    user_agent: str | None, name: str | None, kind: str
) -> None:
    """The device has the plain names of browser and system, and a kind."""
    device = describe(user_agent)
    assert (device.name, device.kind) == (name, kind)


@pytest.mark.parametrize("junk", ["\x00", "x" * 512, "(((((", "Mozilla/5.0 (" * 40, "ÿ" * 512])
def test_a_strange_user_agent_gives_a_short_name_or_none(junk: str) -> None:
    """Whatever the user agent is, the name has at most 80 characters."""
    assert len(describe(junk).name or "") <= 80


def test_only_the_beginning_of_a_user_agent_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser gets at most 256 characters, and user agents with the same beginning once."""
    parsed = parsed_user_agents(monkeypatch)
    start = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0 ".ljust(
        256, "x"
    )
    names = {describe(start + str(number) * 256).name for number in range(5)}
    assert (names, parsed) == ({"Firefox on Linux"}, [start])


def test_memory_for_user_agents_is_bounded() -> None:
    """After many different user agents, at most 1,024 are in memory."""
    for number in range(1100):
        describe(f"MyApp{number}/2.1")
    assert _parsed.cache_info().currsize == 1024


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (timedelta(minutes=-5), "a minute ago"),
        (timedelta(0), "a minute ago"),
        (timedelta(minutes=5, seconds=1), "5 minutes ago"),
        (timedelta(hours=3), "3 hours ago"),
        (timedelta(days=2), "2 days ago"),
    ],
    ids=str,
)
def test_a_time_in_words_is_at_least_a_minute_ago_even_if_clocks_differ(
    passed: timedelta, words: str
) -> None:
    """The words are no finer than a minute and never name the future."""
    assert ago(datetime.now(UTC) - passed) == words


class TestMaxMindFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Test-City")
        names = {"city": {"names": {"en": "Lyon"}}, "country": {"names": {"en": "France"}}}
        names["country"]["names"]["de"] = "Frankreich"
        writer.insert_network(IPSet(["203.0.113.0/24"]), names)
        writer.insert_network(IPSet(["2001:db8::/32"]), {"country": names["country"]})
        writer.insert_network(IPSet(["198.51.100.0/24"]), {"city": "no name", "country": {}})
        path = tmp_path / "test.mmdb"
        writer.to_db_file(str(path))
        return path

    @pytest.mark.parametrize(
        ("ip", "place"),
        [
            ("203.0.113.7", "Lyon, France"),
            ("2001:db8::7", "France"),
            ("198.51.100.1", None),
            ("127.0.0.1", None),
            ("::1", None),
            ("unknown", None),
            ("fe80::1%eth0", None),
            ("", None),
        ],
    )
    def test_an_address_gives_city_and_country_as_far_as_the_file_has_them(
        self, path: Path, ip: str, place: str | None
    ) -> None:
        """An address that is invalid or not in the file gives None."""
        assert MaxMindFile(path)(ip) == place

    def test_the_place_is_in_the_configured_language_else_in_english(self, path: Path) -> None:
        """A part without a name in the configured language has its English name."""
        assert MaxMindFile(path, language="de")("203.0.113.7") == "Lyon, Frankreich"

    def test_a_missing_file_is_an_error_when_the_object_is_made(self, tmp_path: Path) -> None:
        """A wrong path raises immediately, not at the first address."""
        with pytest.raises(FileNotFoundError):
            MaxMindFile(tmp_path / "nowhere.mmdb")

    def test_without_maxminddb_the_error_says_what_to_install(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without maxminddb, the error names the extra to install."""
        monkeypatch.setitem(sys.modules, "maxminddb", None)
        with pytest.raises(ConfigurationError, match=r"pip install .*\[geo\]"):
            MaxMindFile(path)
