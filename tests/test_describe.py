"""The names that the devices pages give to devices and places."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]

from flask_kvsession.devices.describe import Device, _described, describe
from flask_kvsession.devices.geo import MaxMindFile
from flask_kvsession.errors import ConfigurationError

from .support.devices import parsed_user_agents

WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
LINUX = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
FIREFOX, GECKO = "Mozilla/5.0", "Gecko/20100101 Firefox/140.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like"
IPAD = "Mozilla/5.0 (iPad; CPU OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
CHROMEBOOK = LINUX.replace("Linux x86_64", "CrOS x86_64 14541.0.0")
ANDROID = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko)"
WEBVIEW = ANDROID.replace("; K", "; K Build/QQ3A.200805.001; wv")

COMMON = [
    (f"{WINDOWS} Chrome/140.0.0.0 Safari/537.36", "Chrome", "140", "Windows", "computer"),
    (f"{WINDOWS} Chrome/140.0.0.0 Safari/537.36 Edg/141.0", "Edge", "141", "Windows", "computer"),
    (f"{WINDOWS} Chrome/140.0.0.0 Safari/9 OPR/120.0.0.0", "Opera", "120", "Windows", "computer"),
    (f"{MAC} Version/18.5 Safari/605.1.15", "Safari", "18", "macOS", "computer"),
    (f"{LINUX} HeadlessChrome/140.0.0.0 Safari/537.36", "Chrome", "140", "Linux", "computer"),
    (f"{CHROMEBOOK} Chrome/140.0.0.0 Safari/537.36", "Chrome", "140", "ChromeOS", "computer"),
    (f"{FIREFOX} (X11; Linux x86_64; rv:140.0) {GECKO}", "Firefox", "140", "Linux", "computer"),
    (f"{IPHONE} Gecko) Version/18.5 Mobile/15E1 Safari/604.1", "Safari", "18", "iPhone", "phone"),
    (f"{IPHONE} Gecko) CriOS/140.0 Mobile/15E1 Safari/604.1", "Chrome", "140", "iPhone", "phone"),
    (f"{IPHONE} Gecko) FxiOS/140.0 Mobile/15E1 Safari/605.1", "Firefox", "140", "iPhone", "phone"),
    (f"{IPHONE} Gecko) Mobile/15E148", "App", None, "iPhone", "phone"),
    (f"{IPAD} Version/16.5 Mobile/15E148 Safari/604.1", "Safari", "16", "iPad", "tablet"),
    (f"{ANDROID} Chrome/140.0.0.0 Mobile Safari/537.36", "Chrome", "140", "Android", "phone"),
    (f"{ANDROID} Chrome/140.0.0.0 Safari/537.36", "Chrome", "140", "Android", "tablet"),
    (
        f"{ANDROID} SamsungBrowser/28.0 Mobile Safari/9",
        "Samsung Internet",
        "28",
        "Android",
        "phone",
    ),
    (f"{FIREFOX} (Android 14; Mobile; rv:140.0) {GECKO}", "Firefox", "140", "Android", "phone"),
    (f"{WEBVIEW} Version/4.0 Chrome/140.0.0.0 Mobile Safari/9", "App", None, "Android", "phone"),
    ("curl/8.5.0", "curl", "8", None, "program"),
    ("Lagerhaus/2.1 (build 7)", "Lagerhaus", None, None, "unknown"),
    ("/", None, None, None, "unknown"),
    ("", None, None, None, "unknown"),
    ("\x01\x02\x7f\u200b", None, None, None, "unknown"),
    ("Lager\x00haus/2", "Lagerhaus", None, None, "unknown"),
    (None, None, None, None, "unknown"),
]


@pytest.fixture(params=["ua-parser", "patterns"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With ua-parser and without it."""
    if request.param == "patterns":
        monkeypatch.setitem(sys.modules, "ua_parser", None)
    _described.cache_clear()
    yield
    _described.cache_clear()


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("user_agent", "browser", "version", "system", "kind"), COMMON, ids=[str(c[0]) for c in COMMON]
)
def test_a_user_agent_gives_browser_major_version_system_and_kind_with_each_parser(
    user_agent: str | None, browser: str | None, version: str | None, system: str | None, kind: str
) -> None:
    """ua-parser and the patterns give the same names, major version and kind."""
    device = describe(user_agent)
    assert (device.browser, device.version, device.system, device.kind) == (
        browser,
        version,
        system,
        kind,
    )


@pytest.mark.parametrize(
    ("device", "name", "with_version"),
    [
        (Device("Firefox", "140", "Linux"), "Firefox on Linux", "Firefox 140"),
        (Device("App", None, "iPhone"), "App on iPhone", "App"),
        (Device("curl", "8"), "curl", "curl 8"),
        (Device(system="Linux"), "Linux", None),
        (Device(), None, None),
    ],
)
def test_the_name_has_no_version_and_the_browser_has_one_if_it_is_known(
    device: Device, name: str | None, with_version: str | None
) -> None:
    """`name` is for the JSON, and `browser_and_version` for the page."""
    assert (device.name, device.browser_and_version) == (name, with_version)


@pytest.mark.usefixtures("parser")
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
    assert _described.cache_info().currsize == 1024


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
