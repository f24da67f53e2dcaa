"""The devices pages: looking, and ending sessions."""

from __future__ import annotations

import re
import typing as t
from datetime import UTC, datetime, timedelta

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError

from .conftest import (
    Clock,
    CountCommands,
    Keys,
    MakeApp,
    browser_with,
    cookies_of,
    is_clearing,
    token_of,
)

LIST = "/devices/"
AS_PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
NOBODYS_ID = "x" * 19
READS = ["GET", "ZRANGEBYSCORE", "MGET"]


def add_devices(app: Flask) -> Flask:
    """Puts the pages into an app, and the two views that they lead to."""
    app.register_blueprint(kvs.sessions_blueprint, url_prefix=LIST.rstrip("/"))
    app.add_url_rule("/sign-in", "sign_in", lambda: "sign in")
    app.add_url_rule("/confirm", "confirm", lambda: "confirm")
    return app


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return add_devices(make_app(login_view="sign_in", confirm_view="confirm"))


def id_of(browser: FlaskClient) -> str:
    return (token_of(browser) or "")[:19]


def signed_in(*browsers: FlaskClient) -> list[bool]:
    return [browser.get("/me").status_code == 200 for browser in browsers]


def page_of(browser: FlaskClient, path: str = LIST) -> str:
    response = browser.get(path, headers=AS_PAGE)
    assert response.status_code == 200
    return response.text


def sessions_of(browser: FlaskClient) -> list[dict[str, t.Any]]:
    body = browser.get(LIST).get_json()
    assert body.keys() == {"sessions"}
    return t.cast(list[dict[str, t.Any]], body["sessions"])


def names_on(page: str) -> list[str]:
    """The devices on a page, from top to bottom."""
    names = re.findall(r'<li class="kvs-row kvs-session">.*?<h3>(.*?)</h3>', page, re.DOTALL)
    return [re.sub(r"\s*<.*", "", name).strip() for name in names]


def revoking(session_id: str) -> list[tuple[str, str]]:
    return [
        ("POST", f"{LIST}{session_id}/revoke"),
        ("DELETE", f"{LIST}{session_id}"),
        ("POST", f"{LIST}revoke-others"),
        ("POST", f"{LIST}revoke-all"),
    ]


class Browsers:
    """Makes browsers of one user, each with a user agent and an address of its own."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    def __call__(self, agent: str, user: str = "ada", ip: str = "192.0.2.1") -> FlaskClient:
        browser = self.app.test_client()
        browser.environ_base.update(HTTP_USER_AGENT=agent, REMOTE_ADDR=ip)
        browser.post(f"/login/{user}")
        return browser


@pytest.fixture
def browser_of(app: Flask) -> Browsers:
    return Browsers(app)


class TestLooking:
    def test_this_device_comes_first(self, browser_of: Browsers, clock: Clock) -> None:
        """The current session is first, with a badge; the rest come by last activity."""
        laptop = browser_of("laptop")
        for agent in ("phone", "tablet", "toaster"):
            clock.advance(hours=1)
            browser_of(agent)
        page = page_of(laptop)
        assert names_on(page) == ["laptop", "toaster", "tablet", "phone"]
        assert page.count("This device</span>") == 1
        assert page.index("laptop") < page.index("This device</span>") < page.index("toaster")
        assert [row["device"] for row in sessions_of(laptop)] == names_on(page)

    def test_only_ones_own(self, browser_of: Browsers) -> None:
        """Nobody sees another user's sessions."""
        browser_of("bob's", user="bob")
        assert names_on(page_of(browser_of("ada's"))) == ["ada&#39;s"]

    def test_what_is_told_of_a_session(self, browser_of: Browsers) -> None:
        """Browser and system, address, last activity and sign-in date, and the user agent whole."""
        browser_of(FIREFOX, ip="2001:db8::7")
        page = page_of(browser_of("laptop"))
        assert "Firefox on Linux" in page
        assert "2001:db8::7" in page
        seen = sessions_of(browser_of("x"))[-1]["last_seen_at"][:19]
        assert re.search(rf'Active <time datetime="{seen}[^"]*">a minute ago</time>', page)
        assert f'Signed in on <time datetime="{datetime.now(UTC):%Y-%m-%d}">' in page
        assert f"<code>{FIREFOX}</code>" in page

    def test_the_json(self, browser_of: Browsers, clock: Clock) -> None:
        """Without text/html in `Accept` the list is JSON, with times in ISO 8601."""
        laptop = browser_of(FIREFOX)
        clock.advance(minutes=6)
        (row,) = sessions_of(laptop)
        times = [datetime.fromisoformat(row.pop(f"{name}_at")) for name in ("created", "last_seen")]
        assert times[0] == times[1]  # renewed after this answer only
        assert times[0].utcoffset() == timedelta(0)
        assert datetime.fromisoformat(row.pop("expires_at")) - times[1] == timedelta(days=7)
        assert row == {
            "id": id_of(laptop),
            "current": True,
            "device": "Firefox on Linux",
            "ip_address": "192.0.2.1",
            "location": None,
        }

    @pytest.mark.parametrize(
        ("accept", "is_page"),
        [
            ("text/html", True),
            (AS_PAGE["Accept"], True),
            ("application/json", False),
            ("*/*", False),
            ("", False),
            ("text/html;q=0", False),
            ("\x00;;,q=,/", False),
        ],
    )
    def test_accept_chooses(self, browser_of: Browsers, accept: str, is_page: bool) -> None:
        """Who names text/html gets a page; anybody else, garbage too, gets JSON."""
        response = browser_of("x").get(LIST, headers={"Accept": accept})
        assert response.status_code == 200
        assert response.is_json is not is_page

    def test_it_costs_two_round_trips(
        self, browser_of: Browsers, count_commands: CountCommands
    ) -> None:
        """Beyond the session's own read, the list is two reads, for one session and for many."""
        laptop = browser_of("laptop")
        for headers in (AS_PAGE, {}):
            for _ in range(2):
                with count_commands() as commands:
                    laptop.get(LIST, headers=headers)
                assert commands.names == READS
                browser_of("another")

    def test_nothing_secret_is_shown(self, browser_of: Browsers) -> None:
        """Pages and JSON have public ids, and no part of a token beyond them."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        for text in (page_of(laptop), laptop.get(LIST).text):
            assert id_of(phone) in text
            for browser in (laptop, phone):
                assert (token_of(browser) or "")[19:40] not in text
                assert (token_of(browser) or "")[40:] not in text

    def test_markup_in_a_user_agent_is_text(self, browser_of: Browsers) -> None:
        """HTML in a user agent is shown, not obeyed, wherever it stands."""
        browser_of("<script>alert(1)</script>")
        browser_of('"><b onclick=x>/1.0')
        page = page_of(browser_of("'><i>"))
        assert "<script" not in page
        assert "<b " not in page
        assert "<i>" not in page
        assert "&lt;script&gt;alert(1)" in page

    def test_what_was_not_recorded_is_left_out(self, make_app: MakeApp) -> None:
        """Without user agent and address there is still a row, and null in the JSON."""
        app = add_devices(make_app(record_ip=False, record_user_agent=False))
        laptop = Browsers(app)("laptop")
        page = page_of(laptop)
        assert names_on(page) == ["Unknown device"]
        assert "in its own words" not in page
        assert "127.0.0.1" not in page
        (row,) = sessions_of(laptop)
        assert row["device"] is row["ip_address"] is row["location"] is None

    def test_alone(self, browser_of: Browsers) -> None:
        """With one session there are no others to sign out, and the page says so."""
        laptop = browser_of("laptop")
        page = page_of(laptop)
        assert "You are signed in nowhere else." in page
        assert "revoke-others" not in page
        assert '/revoke"' not in page
        assert "sign-out" in page
        assert "revoke-all" in page

    def test_with_others(self, browser_of: Browsers) -> None:
        """Each other session has its own form, the current one signs out, and the consequence
        stands before the button."""
        phone, laptop = browser_of("phone"), browser_of("laptop")
        page = page_of(laptop)
        assert f'action="{LIST}{id_of(phone)}/revoke"' in page
        assert f"{id_of(laptop)}/revoke" not in page
        for consequence, button in [
            ("phone is signed out at once.", "Yes, sign it out"),
            ("The other device is signed out at once; you stay", "Yes, sign out all others"),
            ("All your devices are signed out at once, this one too.", "Yes, sign out everywhere"),
        ]:
            assert page.index(consequence) < page.index(button)

    def test_a_visitor_is_sent_to_sign_in(self, app: Flask) -> None:
        """A visitor's browser is sent to sign in and comes back; a program gets 401."""
        visitor = app.test_client()
        assert visitor.get(LIST, headers=AS_PAGE).location == "/sign-in?next=/devices/"
        response = visitor.get(LIST)
        assert (response.status_code, response.get_json()) == (401, {"error": "Unauthorized"})

    def test_the_stylesheet_needs_no_session(
        self, app: Flask, browser_of: Browsers, count_commands: CountCommands
    ) -> None:
        """The stylesheet is for everybody, may be cached, and costs no look at the session."""
        (path,) = re.findall(r'href="(.*\.css)"', page_of(browser_of("x")))
        with count_commands() as commands:
            response = app.test_client().get(path)
            response.close()
        assert (response.status_code, len(commands)) == (200, 0)
        assert "no-store" not in response.headers.get("Cache-Control", "")
        assert "Vary" not in response.headers


class TestManySessions:
    @pytest.fixture
    def laptop(self, browser_of: Browsers) -> FlaskClient:
        """One browser of a user who has 499 others."""
        for number in range(499):
            browser_of(f"device {number}")
        return browser_of("laptop")

    def test_a_page_shows_some(self, laptop: FlaskClient, count_commands: CountCommands) -> None:
        """A page shows this device and twenty others, still in two round trips, and all pages
        together show every session once."""
        with count_commands() as commands:
            page = page_of(laptop)
        assert commands.names == READS
        assert len(names_on(page)) == 21
        assert "Page 1 of 25" in page
        seen = names_on(page)
        while following := re.search(r'rel="next" href="([^"]+)"', page):
            page = page_of(laptop, following[1])
            seen += names_on(page)
        assert sorted(seen) == sorted(["laptop", *(f"device {number}" for number in range(499))])
        assert "Page 25 of 25" in page

    def test_the_json_has_all(self, laptop: FlaskClient, count_commands: CountCommands) -> None:
        """A program gets all sessions at once, in the same two round trips."""
        with count_commands() as commands:
            rows = sessions_of(laptop)
        assert len(rows) == 500
        assert commands.names == READS

    def test_one_stays_where_one_was(self, laptop: FlaskClient) -> None:
        """Signing out a device of the third page leads back to the third page."""
        page = page_of(laptop, f"{LIST}?page=3")
        action = re.findall(r'action="([^"]+/revoke\?[^"]*)"', page)[0]
        response = laptop.post(action, headers=AS_PAGE)
        assert response.location in (f"{LIST}?page=3&ended=1", f"{LIST}?ended=1&page=3")

    def test_a_page_that_is_none(self, laptop: FlaskClient) -> None:
        """What is no page number means the first page, and one too large the last."""
        for number in ("0", "-1", "x", "", "1e3", "²", "٣", "9" * 99):
            assert "Page 1 of 25" in page_of(laptop, f"{LIST}?page={number}"), number
        for number, shown in (("7", 7), ("007", 7), ("26", 25), ("9999", 25)):
            assert f"Page {shown} of 25" in page_of(laptop, f"{LIST}?page={number}")


class TestRevoking:
    @pytest.mark.parametrize("which", [0, 1], ids=["post", "delete"])
    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_one(self, browser_of: Browsers, which: int, as_page: bool) -> None:
        """Ending one session signs out that device and no other; the number is in the answer."""
        laptop, phone, tablet = browser_of("laptop"), browser_of("phone"), browser_of("tablet")
        method, path = revoking(id_of(phone))[which]
        response = laptop.open(path, method=method, headers=AS_PAGE if as_page else {})
        if as_page:
            assert (response.status_code, response.location) == (303, f"{LIST}?ended=1")
            assert "1 device was signed out." in page_of(laptop, response.location)
        else:
            assert (response.status_code, response.get_json()) == (200, {"revoked": 1})
        assert signed_in(laptop, phone, tablet) == [True, False, True]

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_all_others(self, browser_of: Browsers, as_page: bool) -> None:
        """All others end, and nobody else's; a second time there is nothing left to end."""
        laptop, phone, tablet = browser_of("laptop"), browser_of("phone"), browser_of("tablet")
        bob = browser_of("phone", user="bob")
        for count, message in ((2, "2 devices were signed out."), (0, "Nothing was left")):
            headers = AS_PAGE if as_page else {}
            response = laptop.post(f"{LIST}revoke-others", headers=headers)
            if as_page:
                assert response.location == f"{LIST}?ended={count}"
                assert message in page_of(laptop, response.location)
            else:
                assert response.get_json() == {"revoked": count}
        assert signed_in(laptop, phone, tablet, bob) == [True, False, False, True]

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_everywhere(self, browser_of: Browsers, as_page: bool) -> None:
        """Everything ends, here too: the cookie goes, and a browser is led to sign in."""
        laptop, phone, bob = browser_of("x"), browser_of("x"), browser_of("x", user="bob")
        token = token_of(laptop)
        response = laptop.post(f"{LIST}revoke-all", headers=AS_PAGE if as_page else {})
        if as_page:
            assert (response.status_code, response.location) == (303, "/sign-in?ended=2")
        else:
            assert response.get_json() == {"revoked": 2}
        assert is_clearing(cookies_of(response)[0])
        assert signed_in(phone, bob, browser_with(laptop.application, token)) == [
            False,
            True,
            False,
        ]

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_the_current_one_by_its_id(self, browser_of: Browsers, as_page: bool) -> None:
        """Ending the current session by its id is signing out."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        path = f"{LIST}{id_of(laptop)}/revoke"
        response = laptop.post(path, headers=AS_PAGE if as_page else {})
        assert response.location == "/sign-in?ended=1" if as_page else response.is_json
        assert is_clearing(cookies_of(response)[0])
        assert signed_in(laptop, phone) == [False, True]

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_signing_out(self, browser_of: Browsers, as_page: bool) -> None:
        """Signing out ends this session alone; who is not signed in is led the same way."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        for count in (1, 0):
            response = laptop.post(f"{LIST}sign-out", headers=AS_PAGE if as_page else {})
            if as_page:
                assert (response.status_code, response.location) == (303, f"/sign-in?ended={count}")
            else:
                assert response.get_json() == {"revoked": count}
        assert signed_in(laptop, phone) == [False, True]

    def test_without_a_login_view(self, make_app: MakeApp) -> None:
        """Without `KVSESSION_LOGIN_VIEW` a page says that one is signed out, and how many were."""
        browser_of = Browsers(add_devices(make_app()))
        browser_of("phone")
        response = browser_of("laptop").post(f"{LIST}revoke-all", headers=AS_PAGE)
        assert response.status_code == 200
        assert "You are signed out" in response.text
        assert "2 devices were signed out." in response.text
        response = browser_of("laptop").post(f"{LIST}sign-out", headers=AS_PAGE)
        assert "You are signed out" in response.text
        assert is_clearing(cookies_of(response)[0])

    def test_a_login_view_that_is_not_there(self, make_app: MakeApp) -> None:
        """An endpoint that the app does not have is an error that names the setting."""
        app = add_devices(make_app(login_view="nowhere"))
        with pytest.raises(ConfigurationError, match="KVSESSION_LOGIN_VIEW is 'nowhere'"):
            Browsers(app)("laptop").post(f"{LIST}sign-out", headers=AS_PAGE)

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    @pytest.mark.parametrize("which", [0, 1], ids=["post", "delete"])
    def test_what_is_not_there_to_end(
        self, browser_of: Browsers, keys: Keys, which: int, as_page: bool
    ) -> None:
        """Another user's id, an ended one, an unknown one and what is none: one and the same 404,
        to the letter, and nobody is signed out."""
        bob, ada, phone = browser_of("x", user="bob"), browser_of("x"), browser_of("x")
        ada.post(f"{LIST}{id_of(phone)}/revoke")
        shard_of_ada = id_of(ada)[:3] + "x" * 16
        before, answers = keys(), set()
        for session_id in (id_of(bob), id_of(phone), NOBODYS_ID, shard_of_ada, "x", "%00", "{a}*"):
            method, path = revoking(session_id)[which]
            response = ada.open(path, method=method, headers=AS_PAGE if as_page else {})
            assert response.status_code == 404
            answers.add((response.text, str(response.headers)))
        ((text, _),) = answers
        assert "No such device" in text if as_page else text.strip() == '{"error":"NotFound"}'
        assert keys() == before
        assert signed_in(ada, bob) == [True, True]

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH"])
    def test_only_by_a_method_that_may_change_things(
        self, browser_of: Browsers, method: str
    ) -> None:
        """Looking at a URL that ends sessions is answered 405, and ends none."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        paths = [path for _, path in revoking(id_of(phone))] + [f"{LIST}sign-out"]
        for path in paths:
            assert laptop.open(path, method=method).status_code == 405
        assert signed_in(laptop, phone) == [True, True]

    @pytest.mark.parametrize(
        "body",
        [
            {"data": "{not json", "content_type": "application/json"},
            {"json": {"user_id": "bob", "session_id": NOBODYS_ID}},
            {"data": {"user_id": "bob", "id": NOBODYS_ID}},
            {"data": '{"user_id": "bob"}', "content_type": "text/plain"},
            {"data": b"\xff\x00" * 5_000_000, "content_type": "multipart/form-data; boundary=x"},
            {"query_string": {"user_id": "bob"}},
        ],
        ids=["broken", "json", "form", "text", "huge", "query"],
    )
    def test_what_is_sent_along_means_nothing(
        self, browser_of: Browsers, body: dict[str, t.Any]
    ) -> None:
        """Whatever the body, it is one's own sessions that end, and those the URL names."""
        ada, phone, bob = browser_of("x"), browser_of("x"), browser_of("x", user="bob")
        response = ada.post(f"{LIST}revoke-others", **body)
        assert (response.status_code, response.get_json()) == (200, {"revoked": 1})
        assert signed_in(ada, phone, bob) == [True, False, True]

    def test_a_visitor_comes_back_to_the_list(self, app: Flask) -> None:
        """A post by who is no more signed in leads to the list after the sign-in: the post itself
        cannot be repeated."""
        for method, path in revoking(NOBODYS_ID):
            visitor = app.test_client()
            response = visitor.open(path, method=method, headers=AS_PAGE)
            assert response.location == "/sign-in?next=/devices/"
            assert visitor.open(path, method=method).status_code == 401

    @pytest.mark.parametrize(
        ("ended", "message"),
        [
            ("0", "Nothing was left to sign out."),
            ("1", "1 device was signed out."),
            ("3", "3 devices were signed out."),
            ("0012", "12 devices were signed out."),
            *((junk, None) for junk in ["", "-1", "+1", "1.5", "1e3", "3 ", "٣", "²", "1" * 5]),
            *((junk, None) for junk in ["<b>3</b>", "3\n", "many", "[1]"]),
        ],
    )
    def test_the_message(self, browser_of: Browsers, ended: str, message: str | None) -> None:
        """The number in the URL becomes a message only if it is one, and nothing else of it."""
        laptop = browser_of("laptop")
        page = laptop.get(LIST, query_string={"ended": ended}, headers=AS_PAGE).text
        said = re.findall(r'role="status">(.*?)</p>', page)
        assert said == ([message] if message else [])
        assert f"<title>{message + ' ' if message else ''}Your devices</title>" in page


class TestLostIndex:
    """An evicted index lists nothing; the session in use is known all the same."""

    @pytest.fixture
    def laptop(self, browser_of: Browsers, redis_client: redis.Redis, keys: Keys) -> FlaskClient:
        laptop = browser_of("laptop")
        redis_client.delete(*[key for key in keys() if ":u:" in key])
        return laptop

    def test_this_device_is_shown(self, laptop: FlaskClient) -> None:
        """The current session is on the page and in the JSON."""
        assert names_on(page_of(laptop)) == ["laptop"]
        assert [row["current"] for row in sessions_of(laptop)] == [True]

    def test_everywhere_is_here_too(self, laptop: FlaskClient) -> None:
        """Signing out everywhere signs out here."""
        response = laptop.post(f"{LIST}revoke-all")
        assert response.get_json() == {"revoked": 1}
        assert is_clearing(cookies_of(response)[0])
        assert signed_in(laptop) == [False]


class TestFreshToRevoke:
    @pytest.fixture
    def app(self, make_app: MakeApp) -> Flask:
        views = {"login_view": "sign_in", "confirm_view": "confirm"}
        return add_devices(make_app(fresh_to_revoke=True, **views))

    def test_a_stale_browser_confirms_first(self, browser_of: Browsers, clock: Clock) -> None:
        """Some while after signing in nothing can be ended: a browser is sent to confirm and from
        there back to the list, a program gets 401."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        clock.advance(hours=1)
        for method, path in revoking(id_of(phone)):
            response = laptop.open(path, method=method, headers=AS_PAGE)
            assert (response.status_code, response.location) == (
                302,
                "/confirm?next=/devices/?confirmed%3D1",
            )
            refused = laptop.open(path, method=method)
            assert refused.status_code == 401
            assert refused.get_json() == {"error": "FreshLoginRequired"}
        assert signed_in(laptop, phone) == [True, True]

    def test_a_fresh_one_does_not(self, browser_of: Browsers) -> None:
        """Just after signing in, ending sessions asks for nothing, and the page says nothing."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        assert "asked for your password" not in page_of(laptop)
        assert laptop.post(f"{LIST}{id_of(phone)}/revoke").status_code == 200

    def test_looking_and_leaving_are_free(self, browser_of: Browsers, clock: Clock) -> None:
        """A stale session may see the list, which says what will be asked, and may sign out."""
        laptop = browser_of("laptop")
        clock.advance(hours=1)
        assert "You will be asked for your password first, and then choose again." in page_of(
            laptop
        )
        assert len(sessions_of(laptop)) == 1
        assert laptop.post(f"{LIST}sign-out").get_json() == {"revoked": 1}

    def test_back_to_the_very_page(self, browser_of: Browsers, clock: Clock) -> None:
        """Who was on the second page of the list comes back to it."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        clock.advance(hours=1)
        path = f"{LIST}{id_of(phone)}/revoke?page=2"
        assert (
            laptop.post(path, headers=AS_PAGE).location
            == "/confirm?next=/devices/?page%3D2%26confirmed%3D1"
        )

    def test_one_is_told_to_choose_again(self, browser_of: Browsers) -> None:
        """Back from there the page says that nothing was signed out yet; it says so to nobody who
        would have to confirm first."""
        page = page_of(browser_of("laptop"), f"{LIST}?confirmed=1")
        assert "Nothing is signed out yet: choose again." in page

    def test_a_link_cannot_say_so(self, browser_of: Browsers, clock: Clock) -> None:
        """Who has confirmed nothing is not told so, whatever the URL."""
        laptop = browser_of("laptop")
        clock.advance(hours=1)
        assert 'role="status"' not in page_of(laptop, f"{LIST}?confirmed=1")

    def test_without_a_confirm_view(self, make_app: MakeApp, clock: Clock) -> None:
        """An app without one says that one has to sign in again, before and after; programs get
        401 as ever."""
        app = add_devices(make_app(fresh_to_revoke=True, login_view="sign_in"))
        laptop = Browsers(app)("laptop")
        Browsers(app)("phone")
        clock.advance(hours=1)
        assert "For that you have to sign in again first." in page_of(laptop)
        others = f"{LIST}revoke-others"
        refused = laptop.post(others, headers=AS_PAGE)
        assert refused.status_code == 401
        assert "Please sign in again first" in refused.text
        assert f'href="{LIST}"' in refused.text
        assert laptop.post(others).get_json() == {"error": "FreshLoginRequired"}
        assert len(sessions_of(laptop)) == 2


class TestOtherSites:
    @pytest.mark.parametrize(
        "origin",
        [
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "nonsense"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        ],
        ids=str,
    )
    def test_end_nothing(
        self, browser_of: Browsers, count_commands: CountCommands, origin: dict[str, str]
    ) -> None:
        """Another site's page can end nothing, with testing on too, and causes no call to Redis."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        with count_commands() as commands:
            for method, path in [*revoking(id_of(phone)), ("POST", f"{LIST}sign-out")]:
                response = laptop.open(path, method=method, headers=AS_PAGE | origin)
                assert response.status_code == 403
        assert len(commands) == 0
        assert signed_in(laptop, phone) == [True, True]

    @pytest.mark.parametrize(
        "origin",
        [
            {"Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "http://localhost"},
            {"Sec-Fetch-Site": "cross-site", "Origin": "https://admin.example.com"},
            {"Origin": "https://admin.example.com"},
        ],
        ids=str,
    )
    def test_ones_own_and_trusted_ones_may(self, make_app: MakeApp, origin: dict[str, str]) -> None:
        """The app's own pages and those of `KVSESSION_TRUSTED_ORIGINS` may post."""
        app = add_devices(make_app(trusted_origins=["https://admin.example.com"]))
        laptop = Browsers(app)("laptop")
        assert laptop.post(f"{LIST}revoke-others", headers=origin).status_code == 200


def answers(browser: FlaskClient, phone_id: str) -> t.Iterator[TestResponse]:
    """Every kind of answer there is, as page and as JSON."""
    for headers in (AS_PAGE, {}):
        yield browser.get(LIST, headers=headers)
        yield browser.get(f"{LIST}?ended=1", headers=headers)
        yield browser.post(f"{LIST}{NOBODYS_ID}/revoke", headers=headers)
        yield browser.post(f"{LIST}revoke-others", headers=headers)
        yield browser.post(f"{LIST}revoke-others", headers={"Sec-Fetch-Site": "cross-site"})
        yield browser.application.test_client().get(LIST, headers=headers)
    yield browser.post(f"{LIST}sign-out", headers=AS_PAGE)


def test_no_answer_is_kept_or_embedded(browser_of: Browsers) -> None:
    """Every answer, refusals too, is kept in no cache and not embedded by other sites, and says
    what it depends on."""
    laptop, phone = browser_of("laptop"), browser_of("phone")
    seen = set()
    for response in answers(laptop, id_of(phone)):
        seen.add(response.status_code)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert {"Accept", "Cookie"} <= set(response.vary)
    assert seen == {200, 302, 303, 401, 403, 404}


def test_a_store_that_is_down(make_app: MakeApp) -> None:
    """When Redis cannot be reached, the pages say so: nobody looks signed out, nothing ended."""
    app = add_devices(make_app(redis_url="redis://127.0.0.1:1/0", login_view="sign_in"))
    browser = browser_with(app, "x" * 62)
    for method, path in [("GET", LIST), *revoking(NOBODYS_ID), ("POST", f"{LIST}sign-out")]:
        response = browser.open(path, method=method, headers=AS_PAGE)
        assert response.status_code == 503
        assert not cookies_of(response)
