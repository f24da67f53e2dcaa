"""The cookie: the content of Set-Cookie, and when a response has one (law 9)."""

from __future__ import annotations

import itertools
import re
import typing as t
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from flask import Flask, Response, current_app, g, make_response, request
from flask.testing import FlaskClient
from werkzeug.http import parse_date
from werkzeug.test import TestResponse

import flask_kvsession as kvs

from .support.apps import MakeApp
from .support.browsers import token_of, unknown_token
from .support.clock import Clock
from .support.commands import CountCommands, Keys

Act = Callable[[], t.Any]

TOKEN = r"[A-Za-z0-9_-]{62}"
MONTH = 30 * 24 * 3600


class Page:
    """A browser without a cookie jar, so that a test sees and sets every header, and a view that
    calls a function of the test."""

    def __init__(self, app: Flask, base_url: str = "http://localhost") -> None:
        self.app, self.base_url, self.cookie = app, base_url, ""
        self.client = app.test_client(use_cookies=False)
        self.act: Act = lambda: None
        app.add_url_rule("/act", "act", self._view, methods=["POST"])

    def _view(self) -> t.Any:
        answer = self.act()
        return answer if isinstance(answer, Response | tuple) else {}

    def run(self, act: Act, **headers: str) -> TestResponse:
        """The response to a request with this page's cookie whose view calls `act`."""
        self.act = act
        if self.cookie:
            headers["Cookie"] = self.cookie
        return self.client.post("/act", headers=headers, base_url=self.base_url)

    def get(self, url: str) -> TestResponse:
        headers = {"Cookie": self.cookie} if self.cookie else {}
        return self.client.get(url, headers=headers, base_url=self.base_url)

    def take(self, response: TestResponse) -> str:
        """Keeps the cookies of a response, of which at most one gives a token; returns that token,
        or an empty string."""
        kept = dict(part.split("=", 1) for part in self.cookie.split("; ") if part)
        changes = dict(header.partition(";")[0].split("=", 1) for header in set_cookies(response))
        assert changes
        jar = {name: value for name, value in (kept | changes).items() if value}
        self.cookie = "; ".join(f"{name}={value}" for name, value in jar.items())
        given = [value for value in changes.values() if value]
        assert len(given) <= 1
        return given[0] if given else ""


def set_cookies(response: TestResponse) -> list[str]:
    """Every Set-Cookie header of a response."""
    return response.headers.getlist("Set-Cookie")


def max_age_of(response: TestResponse) -> int:
    (header,) = set_cookies(response)
    found = re.search(r"; Max-Age=(\d+)(;|$)", header)
    assert found, header
    return int(found[1])


def has_no_trace(response: TestResponse) -> bool:
    """Whether a response has none of the headers that a session adds."""
    return not {"Set-Cookie", "Vary", "Cache-Control"} & set(response.headers.keys())


def login() -> None:
    kvs.login_user("ada")


def login_unremembered() -> None:
    kvs.login_user("ada", remember=False)


def visit() -> None:
    g.session["visit"] = g.session.get("visit", 0) + 1


@pytest.fixture
def page(app: Flask) -> Page:
    return Page(app)


# The content of Set-Cookie

ATTRIBUTES: dict[str, tuple[dict[str, t.Any], bool, str, str]] = {
    "testing": ({}, True, "kvsession", "HttpOnly; Path=/; SameSite=Lax"),
    "production": ({}, False, "__Host-kvsession", "Secure; HttpOnly; Path=/; SameSite=Lax"),
    "secure-in-testing": (
        {"cookie_secure": True},
        True,
        "__Host-kvsession",
        "Secure; HttpOnly; Path=/; SameSite=Lax",
    ),
    "insecure": ({"cookie_secure": False}, False, "kvsession", "HttpOnly; Path=/; SameSite=Lax"),
    "name": ({"cookie_name": "sid"}, False, "__Host-sid", "Secure; HttpOnly; Path=/; SameSite=Lax"),
    "name-in-testing": ({"cookie_name": "sid"}, True, "sid", "HttpOnly; Path=/; SameSite=Lax"),
    "strict": (
        {"cookie_samesite": "strict"},
        False,
        "__Host-kvsession",
        "Secure; HttpOnly; Path=/; SameSite=Strict",
    ),
    "none": (
        {"cookie_samesite": "None"},
        False,
        "__Host-kvsession",
        "Secure; HttpOnly; Path=/; SameSite=None",
    ),
    "none-in-testing": (
        {"cookie_samesite": "None"},
        True,
        "__Host-kvsession",
        "Secure; HttpOnly; Path=/; SameSite=None",
    ),
    "partitioned": (
        {"cookie_partitioned": True},
        False,
        "__Host-kvsession",
        "Secure; HttpOnly; Path=/; SameSite=Lax; Partitioned",
    ),
    "partitioned-in-testing": (
        {"cookie_partitioned": True},
        True,
        "__Host-kvsession",
        "Secure; HttpOnly; Path=/; SameSite=Lax; Partitioned",
    ),
    "path": (
        {"cookie_path": "/app"},
        False,
        "__Secure-kvsession",
        "Secure; HttpOnly; Path=/app; SameSite=Lax",
    ),
    "path-in-testing": (
        {"cookie_path": "/app"},
        True,
        "kvsession",
        "HttpOnly; Path=/app; SameSite=Lax",
    ),
    "domain": (
        {"cookie_domain": "example.com"},
        False,
        "__Secure-kvsession",
        "Domain=example.com; Secure; HttpOnly; Path=/; SameSite=Lax",
    ),
    "dotted-domain": (
        {"cookie_domain": ".example.com"},
        False,
        "__Secure-kvsession",
        "Domain=example.com; Secure; HttpOnly; Path=/; SameSite=Lax",
    ),
    "all": (
        {
            "cookie_name": "sid",
            "cookie_domain": "example.com",
            "cookie_path": "/app",
            "cookie_samesite": "none",
            "cookie_partitioned": True,
            "cookie_secure": True,
        },
        True,
        "__Secure-sid",
        "Domain=example.com; Secure; HttpOnly; Path=/app; SameSite=None; Partitioned",
    ),
}
ARGUMENTS = ("settings", "testing", "name", "attributes")
MAIN = ("testing", "production", "all")
each_combination = pytest.mark.parametrize(ARGUMENTS, ATTRIBUTES.values(), ids=ATTRIBUTES)
main_combinations = pytest.mark.parametrize(
    ARGUMENTS, [ATTRIBUTES[kind] for kind in MAIN], ids=MAIN
)
"""For the other ways to the cookie, whose attributes come from the same function."""


def without_expires(header: str) -> str:
    return re.sub(r"Expires=[^;]+; ", "", header)


def normal(attributes: str) -> list[str]:
    """The attributes, sorted: their order has no meaning in a cookie."""
    return sorted(attributes.split("; "))


def page_of(make_app: MakeApp, settings: dict[str, t.Any], testing: bool) -> Page:
    app = make_app(**settings)
    app.testing = testing  # after `init_app`, as many apps do
    return Page(app, "https://www.example.com")


@each_combination
def test_a_login_sets_a_cookie_with_exactly_these_attributes(
    make_app: MakeApp, settings: dict[str, t.Any], testing: bool, name: str, attributes: str
) -> None:
    """The cookie of a remembered login lasts as long as the absolute timeout and has all
    attributes."""
    page = page_of(make_app, settings, testing)
    (header,) = set_cookies(page.run(login))
    cookie, _, said = header.partition("; ")
    assert re.fullmatch(f"{re.escape(name)}={TOKEN}", cookie)
    expires = re.search(r"Expires=([^;]+)", said)
    assert expires
    moment = parse_date(expires[1])
    assert moment
    from_now = (moment - moment.now(moment.tzinfo)).total_seconds()
    assert abs(from_now - MONTH) < 10
    assert normal(without_expires(said)) == normal(f"Max-Age={MONTH}; {attributes}")


@main_combinations
def test_the_cookie_of_an_unremembered_login_ends_with_the_browser(
    make_app: MakeApp, settings: dict[str, t.Any], testing: bool, name: str, attributes: str
) -> None:
    """With `remember=False` the cookie has neither Max-Age nor Expires, and all other
    attributes."""
    page = page_of(make_app, settings, testing)
    (header,) = set_cookies(page.run(login_unremembered))
    cookie, _, said = header.partition("; ")
    assert re.fullmatch(f"{re.escape(name)}={TOKEN}", cookie)
    assert normal(said) == normal(attributes)


@main_combinations
def test_a_logout_deletes_the_cookie_with_the_same_attributes(
    make_app: MakeApp, settings: dict[str, t.Any], testing: bool, name: str, attributes: str
) -> None:
    """A logout sends an empty, expired cookie with the attributes of the login's cookie, since
    browsers ignore any other."""
    page = page_of(make_app, settings, testing)
    page.take(page.run(login))
    (header,) = set_cookies(page.run(kvs.logout_user))
    cookie, _, said = header.partition("; ")
    assert cookie == f"{name}="
    expired = "Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0"
    assert normal(said) == normal(f"{expired}; {attributes}")


@main_combinations
def test_the_first_write_of_an_anonymous_browser_sets_a_cookie_of_its_own_name(
    make_app: MakeApp, settings: dict[str, t.Any], testing: bool, name: str, attributes: str
) -> None:
    """The cookie of an anonymous session has a name of its own and the attributes of a user's
    cookie, and opens that session."""
    page = page_of(make_app, settings, testing)
    response = page.run(visit)
    (header,) = set_cookies(response)
    cookie, _, said = header.partition("; ")
    assert re.fullmatch(f"{re.escape(name)}-anonymous={TOKEN}", cookie)
    assert normal(without_expires(said)) == normal(f"Max-Age={MONTH}; {attributes}")
    page.take(response)
    assert page.get("/data").get_json() == {"visit": 1}


@pytest.mark.parametrize("mode", ["debug", "testing"])
def test_debug_and_testing_set_after_init_app_make_the_cookie_insecure(
    make_app: MakeApp, mode: str
) -> None:
    """In debug and in testing mode the cookie works on plain http, also if the mode is set after
    `init_app`."""
    app = make_app()
    app.testing = False
    setattr(app, mode, True)
    (header,) = set_cookies(Page(app).run(login))
    assert header.startswith("kvsession=")
    assert "Secure" not in header


def test_a_cookie_without_its_prefix_opens_nothing_in_production(make_app: MakeApp) -> None:
    """A cookie without __Host-, which another host of the domain could have set, is not read."""
    app = make_app()
    app.testing = False
    page = Page(app, "https://www.example.com")
    token = page.take(page.run(login))
    assert page.get("/me").status_code == 200
    names = ["kvsession", "__host-kvsession", "__Secure-kvsession", "\xa0__Host-kvsession"]
    for name in [*names, "__Host-kvsession\xa0", "__Host-", "__Host-KVSESSION"]:
        page.cookie = f"{name}={token}"
        assert page.get("/me").status_code == 401, name


def test_a_secure_cookie_on_plain_http_is_warned_of_once(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """A Secure cookie on plain http makes one warning for each host, at login, that names the host,
    the setting and ProxyFix."""
    app = make_app(cookie_secure=True)
    hosts = ["a.example", "b.example:8000"]
    for path, host in itertools.product(("/data", "/login/ada", "/login/ada"), hosts):
        app.test_client().post(path, base_url=f"http://{host}", json={})
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == len(hosts)
    for host, warning in zip(hosts, warnings, strict=True):
        assert all(word in warning for word in (host, "KVSESSION_COOKIE_SECURE", "ProxyFix"))


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:5000", "app.localhost", "127.0.0.1:8000", "127.0.1.1", "[::1]:1"],
)
def test_the_own_machine_is_not_warned_of(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    """Browsers send a Secure cookie to their own machine without https, so nothing is warned of."""
    Page(make_app(cookie_secure=True), f"http://{host}").run(login)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_host_that_only_looks_like_the_own_machine_is_warned_of(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """`localhost.example` and `127.0.0.1.example` are other machines."""
    app = make_app(cookie_secure=True)
    for host in ("localhost.example", "127.0.0.1.example", "notlocalhost"):
        app.test_client().post("/login/ada", base_url=f"http://{host}")
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 3


def test_a_cookie_that_the_browser_returns_makes_no_warning(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither https nor a cookie without Secure on plain http is warned of."""
    Page(make_app(cookie_secure=True), "https://localhost").run(login)
    Page(make_app(), "http://localhost").run(login)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


# The responses with Set-Cookie


def test_only_a_new_session_a_rotation_and_a_logout_send_a_cookie(page: Page, clock: Clock) -> None:
    """A read, a write and a renewal send no cookie; an act that changes the secret sends one."""
    tokens = [page.take(page.run(visit))]
    assert not set_cookies(page.run(visit))
    assert not set_cookies(page.get("/data"))
    for act in (login, kvs.rotate_token, kvs.confirm_login, login_unremembered, kvs.rotate_token):
        tokens.append(page.take(page.run(act)))
        assert not set_cookies(page.run(visit))
        assert not set_cookies(page.get("/me"))
        clock.advance(minutes=10)
        assert not set_cookies(page.get("/me"))
    assert len(set(tokens)) == 6
    assert page.take(page.run(kvs.logout_user)) == ""


@pytest.mark.parametrize(
    ("acts", "ends_as"),
    [
        ([login, kvs.logout_user], "out"),
        ([kvs.logout_user, login], "in"),
        ([login, login], "in"),
        ([login, kvs.rotate_token, kvs.confirm_login], "in"),
        ([login, kvs.rotate_token, kvs.logout_user], "out"),
        ([login, kvs.revoke_all_sessions], "out"),
        ([login, lambda: kvs.revoke_session(g.session.id)], "out"),
        ([kvs.logout_user, kvs.logout_user], "out"),
        ([kvs.logout_user, visit], "anonymous"),
        ([login, kvs.logout_user, visit], "anonymous"),
        ([login, kvs.revoke_all_sessions, visit], "anonymous"),
        ([visit, login], "in"),
        ([visit, login, kvs.logout_user, visit], "anonymous"),
        ([login, login_unremembered], "in"),
    ],
)
def test_a_response_gives_at_most_one_token_and_it_is_of_the_last_act(
    page: Page, acts: list[Act], ends_as: str
) -> None:
    """However many acts a view does, at most one Set-Cookie gives a token, that of the last act.
    There is no Set-Cookie if the browser had no cookie and gets none."""

    def do_all() -> None:
        for act in acts:
            act()

    for before in (None, visit, login):
        page.cookie = ""
        if before:
            page.take(page.run(before))
        response = page.run(do_all)
        if ends_as == "out" and not before:
            assert not set_cookies(response)
            continue
        token = page.take(response)
        assert bool(token) == (ends_as != "out")
        assert page.get("/me").status_code == (200 if ends_as == "in" else 401)
        if ends_as != "in":
            data = {"visit": 1} if ends_as == "anonymous" else {}
            assert page.get("/data").get_json() == data


@pytest.mark.parametrize(
    "act", [login, kvs.logout_user, visit, kvs.rotate_token], ids=lambda act: act.__name__
)
def test_a_response_that_sets_the_cookie_is_no_store(make_app: MakeApp, act: Act) -> None:
    """A response with the cookie is kept out of every cache, whatever the view allowed."""
    page = Page(make_app())
    if act is not visit:
        page.take(page.run(login))

    def act_and_allow() -> Response:
        act()
        response = make_response("done")
        response.cache_control.public = True
        response.cache_control.max_age = 3600
        return response

    response = page.run(act_and_allow)
    assert len(set_cookies(response)) == 1
    assert response.headers.getlist("Cache-Control") == ["no-store"]
    assert response.headers.getlist("Vary") == ["Cookie"]


def test_a_response_without_set_cookie_keeps_the_view_s_cache_control(page: Page) -> None:
    """A view's own Cache-Control is unchanged if no cookie is sent."""
    page.take(page.run(login))

    def read_and_allow() -> Response:
        len(g.session)
        response = make_response("done")
        response.cache_control.max_age = 60
        return response

    assert page.run(read_and_allow).headers["Cache-Control"] == "max-age=60"


def test_a_cookie_that_the_view_sets_is_kept(page: Page) -> None:
    """The session's cookie is added to the cookies that the view sets."""

    def set_another() -> Response:
        login()
        response = make_response("done")
        response.set_cookie("theme", "dark")
        return response

    headers = set_cookies(page.run(set_another))
    assert [header.partition("=")[0] for header in headers] == ["theme", "kvsession"]


# Vary


READS: list[Act] = [
    lambda: g.session.get("a"),
    lambda: "a" in g.session,
    lambda: len(g.session),
    lambda: bool(g.session),
    lambda: list(g.session),
    lambda: dict(g.session),
    lambda: g.session == {},
    lambda: g.session.pop("a", None),
    lambda: kvs.current_session.user_id,
    lambda: kvs.current_session.is_authenticated,
    lambda: kvs.current_session.is_fresh,
    lambda: kvs.current_session.id,
    lambda: kvs.current_session.new,
    lambda: kvs.current_session.ended,
    lambda: kvs.current_session.expires_at,
    lambda: kvs.list_sessions("ada"),
    kvs.rotate_token,
]


@pytest.mark.parametrize("is_user", [True, False], ids=["user", "anonymous"])
def test_a_response_that_read_the_session_varies_by_cookie(page: Page, is_user: bool) -> None:
    """A response that may depend on the session says `Vary: Cookie` (CVE-2023-30861,
    CVE-2026-27205)."""
    if is_user:
        page.take(page.run(login))
    for number, read in enumerate(READS):
        response = page.run(read)
        assert response.status_code == 200, number
        assert response.headers.getlist("Vary") == ["Cookie"], number


@pytest.mark.parametrize(
    ("theirs", "together"),
    [
        ("Cookie", "Cookie"),
        ("cookie", "cookie"),
        ("Accept-Encoding", "Accept-Encoding, Cookie"),
        ("Accept-Encoding, Cookie, Origin", "Accept-Encoding, Cookie, Origin"),
    ],
)
def test_vary_cookie_is_added_to_the_view_s_own_vary(
    page: Page, theirs: str, together: str
) -> None:
    """Other parts of Vary stay, and Cookie is not repeated."""

    def read() -> Response:
        len(g.session)
        response = make_response("done")
        response.headers["Vary"] = theirs
        return response

    assert page.run(read).headers["Vary"] == together


@pytest.mark.parametrize("url", ["/me", "/missing", "/broken", "/redirected"])
def test_an_error_or_redirect_that_read_the_session_varies_by_cookie(
    make_app: MakeApp, url: str
) -> None:
    """A 401, 404, 500 or redirect that read the session says `Vary: Cookie` (CVE-2026-35192)."""
    app = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.errorhandler(404)
    def not_found(error: Exception) -> tuple[str, int]:
        return f"not found, {g.session.user_id}", 404

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError(g.session.user_id)

    @app.get("/redirected")
    def redirected() -> Response:
        return t.cast(Response, current_app.redirect(f"/{g.session.user_id}", 302))

    response = Page(app).get(url)
    assert response.status_code in (302, 401, 404, 500)
    assert "Cookie" in response.vary
    assert not set_cookies(response)


@pytest.mark.parametrize(
    "cookie",
    ["", "kvsession=junk", f"kvsession={'A' * 62}", "other=1", "login"],
    ids=["none", "junk", "unknown", "another", "signed-in"],
)
def test_a_page_that_does_not_touch_the_session_has_no_trace_of_it(
    page: Page, count_commands: CountCommands, cookie: str
) -> None:
    """An untouched session costs no Redis call and adds no header, whatever cookie was sent."""
    if cookie == "login":
        page.take(page.run(login))
    else:
        page.cookie = cookie
    acts: list[Act] = [
        lambda: None,
        lambda: repr(g.session),
        lambda: repr(kvs.current_session),
        lambda: g.session is not None,
        lambda: request.cookies.get("kvsession"),
        lambda: kvs.next_url("/"),
        lambda: kvs.cross_origin_guard(),
    ]
    with count_commands() as commands:
        for number, act in enumerate(acts):
            response = page.run(act)
            assert response.status_code == 200, number
            assert has_no_trace(response), number
    assert len(commands) == 0


# Sessions that cannot be opened


@pytest.fixture
def stale(page: Page, app: Flask, redis_client: redis.Redis, keys: Keys, clock: Clock) -> t.Any:
    """Gives the page a cookie that opens nothing, for the reason that the test names."""

    def make(why: str) -> None:
        token = page.take(page.run(login))
        (key,) = [key for key in keys() if ":s:" in key]
        if why == "unknown":
            page.cookie = f"kvsession={unknown_token()}"
        elif why == "wrong secret":
            page.cookie = f"kvsession={token[:19]}{unknown_token()[19:]}"
        elif why == "logged out":
            page.run(kvs.logout_user)
        elif why == "revoked":
            with app.app_context():
                assert kvs.revoke_all_sessions("ada") == 1
        elif why == "expired":
            clock.advance(days=8)
        elif why == "corrupt":
            redis_client.set(key, "{", ex=60)
        elif why == "future":
            raw = t.cast(bytes, redis_client.get(key))
            redis_client.set(key, raw.replace(b'"v":1', b'"v":2'), ex=60)
        elif why == "another type":
            redis_client.delete(key)
            redis_client.lpush(key, "x")
        else:
            page.cookie = f"kvsession={why}"

    return make


STALE = ["unknown", "wrong secret", "logged out", "revoked", "expired", "corrupt", "future"]
STALE += ["another type", "junk", ""]
KINDS = ["unknown", "wrong secret", "revoked", "expired", "corrupt", "another type", "junk"]
"""One of each kind: no record, a tombstone, a record that is too old or unreadable, no token."""


@pytest.mark.parametrize("why", STALE)
def test_reading_a_session_that_cannot_be_opened_keeps_the_cookie(
    page: Page, stale: t.Any, why: str
) -> None:
    """A browser whose session cannot be opened is anonymous and keeps its cookie, since a parallel
    response may just have set a better one (CVE-2025-71402)."""
    stale(why)
    for act in (
        lambda: None,
        lambda: dict(g.session),
        lambda: g.session.user_id,
        lambda: g.session.clear(),
        kvs.rotate_token,
        lambda: kvs.list_sessions("ada"),
    ):
        response = page.run(act)
        assert response.status_code == 200
        assert not set_cookies(response)
    response = page.get("/me")
    assert response.status_code == 401
    assert not set_cookies(response)


@pytest.mark.parametrize("why", KINDS)
def test_a_write_over_a_session_that_cannot_be_opened_makes_a_new_one(
    page: Page, stale: t.Any, why: str, keys: Keys
) -> None:
    """An anonymous write gets a new id and a new secret; a presented one is never used
    (fixation)."""
    stale(why)
    presented = page.cookie.partition("=")[2]
    before = keys()
    token = page.take(page.run(visit))
    assert token[:19] != presented[:19]
    assert token[19:] != presented[19:]
    assert before < keys()
    assert page.get("/data").get_json() == {"visit": 1}


@pytest.mark.parametrize("why", KINDS)
def test_a_logout_clears_a_cookie_that_opens_nothing(
    page: Page, stale: t.Any, why: str, keys: Keys
) -> None:
    """A logout deletes the browser's cookie, whatever the cookie opens, and changes no key."""
    stale(why)
    before = keys()
    response = page.run(kvs.logout_user)
    assert page.take(response) == ""
    assert response.headers["Cache-Control"] == "no-store"
    assert keys() == before


def test_a_logout_without_a_cookie_sends_no_cookie(page: Page) -> None:
    """For a browser that sent no cookie there is nothing to delete."""
    assert not set_cookies(page.run(kvs.logout_user))


@pytest.mark.parametrize("act", [kvs.logout_user, kvs.revoke_all_sessions, login])
def test_the_old_cookie_opens_nothing_after_logout_revoke_or_login(page: Page, act: Act) -> None:
    """A cookie that was kept over a logout, a revocation or a new login is worthless (OWASP ASVS
    5.0, 7.4.1 and 7.2.4)."""
    page.take(page.run(login))
    page.run(act)
    assert page.get("/me").status_code == 401


@pytest.mark.parametrize("act", [kvs.rotate_token, kvs.confirm_login])
def test_the_old_cookie_opens_nothing_after_an_explicit_rotation(page: Page, act: Act) -> None:
    """After an explicit rotation only the new secret opens the session, whose id is the same."""
    old = page.take(page.run(login))
    new = page.take(page.run(act))
    assert new[:19] == old[:19]
    assert new[19:40] != old[19:40]
    assert new[40:] != old[40:]
    assert page.get("/me").status_code == 200
    page.cookie = f"kvsession={old}"
    assert page.get("/me").status_code == 401


# Max-Age


def keep_alive(page: Page, clock: Clock, days: int) -> None:
    """Sends a request on each of these days."""
    for _ in range(days):
        clock.advance(days=1)
        assert page.get("/me").status_code == 200


@pytest.mark.parametrize("act", [kvs.rotate_token])
def test_max_age_is_the_remaining_absolute_timeout(page: Page, clock: Clock, act: Act) -> None:
    """A rotation after ten of thirty days gives the cookie the remaining twenty days."""
    assert max_age_of(page.run(login)) == MONTH
    page.take(page.run(login))
    keep_alive(page, clock, 10)
    response = page.run(act)
    assert MONTH * 2 // 3 - 5 <= max_age_of(response) <= MONTH * 2 // 3
    page.take(response)
    keep_alive(page, clock, 19)
    response = page.run(act)
    assert MONTH // 30 - 10 <= max_age_of(response) <= MONTH // 30
    page.take(response)
    clock.advance(days=1)
    assert page.get("/me").status_code == 401


def test_a_login_over_a_session_restarts_the_absolute_timeout(page: Page, clock: Clock) -> None:
    """The cookie of a login over an older session lasts for the whole absolute timeout."""
    page.take(page.run(login))
    keep_alive(page, clock, 10)
    assert max_age_of(page.run(login)) == MONTH


def test_max_age_is_the_absolute_timeout_in_whole_seconds(make_app: MakeApp) -> None:
    """The cookie lasts as long as the absolute timeout that is set, rounded up to whole seconds."""
    for given, expected in ((3600, 3600), (timedelta(days=400), 34_560_000), (90.5, 91)):
        assert max_age_of(Page(make_app(absolute_timeout=given)).run(login)) == expected


def test_name_and_value_of_a_cookie_have_at_most_4096_bytes(make_app: MakeApp) -> None:
    """Browsers store the cookie also with the longest name that the settings allow (OWASP ASVS 5.0,
    3.3.5)."""
    app = make_app(cookie_name="x" * 256, cookie_path="/act", cookie_secure=True)
    page = Page(app, "https://localhost")
    for act in (login, visit):
        (header,) = set_cookies(page.run(act))
        name, _, value = header.partition(";")[0].partition("=")
        assert len(name) >= len("__Secure-") + 256
        assert len(value) == 62
        assert len(name) + len(value) <= 4096


def test_a_rotation_of_an_unremembered_session_keeps_a_session_cookie(page: Page) -> None:
    """A cookie that ends with the browser still ends with the browser after a rotation."""
    page.take(page.run(login_unremembered))
    for act in (kvs.rotate_token, kvs.confirm_login):
        response = page.run(act)
        (header,) = set_cookies(response)
        assert "Max-Age" not in header
        assert "Expires" not in header
        page.take(response)


@pytest.mark.parametrize("remember", ["on", "", "false", None, 1, 0], ids=repr)
def test_a_raw_form_value_for_remember_signs_in_or_is_refused(
    page: Page, remember: t.Any, keys: Keys
) -> None:
    """A checkbox's raw value either raises and makes no session, or signs in."""

    def login_as_the_form_says() -> tuple[str, int]:
        try:
            kvs.login_user("ada", remember=remember)
        except (TypeError, ValueError):
            return "refused", 400
        return "in", 200

    response = page.run(login_as_the_form_says)
    if response.status_code == 400:
        assert keys() == set()
        return
    page.take(response)
    assert page.get("/me").status_code == 200


# The cookie in a browser


def test_a_browser_keeps_the_token_from_login_to_logout(client: FlaskClient) -> None:
    """A browser sends the cookie that a login set, and a logout deletes it."""
    client.post("/login/ada")
    assert re.fullmatch(TOKEN, str(token_of(client)))
    client.post("/logout")
    assert token_of(client) is None


def test_a_cookie_path_limits_the_session_to_a_part_of_the_site(make_app: MakeApp) -> None:
    """With a path the browser sends the cookie only below that path, and a logout there deletes
    it."""
    app = make_app(cookie_path="/app")

    @app.post("/app/<word>")
    def word(word: str) -> dict[str, t.Any]:
        if word == "out":
            kvs.logout_user()
        return {"user": g.session.user_id}

    client = app.test_client()
    client.post("/login/ada")
    assert client.get("/me").status_code == 401
    assert client.post("/app/who").get_json() == {"user": "ada"}
    client.post("/app/out")
    assert client.get_cookie("kvsession", path="/app") is None
