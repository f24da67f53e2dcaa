"""The devices pages: the list of sessions, and ending sessions."""

from __future__ import annotations

import hmac
import html
import re
import typing as t
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError

from .support.apps import MakeApp
from .support.browsers import (
    AS_PAGE,
    FIREFOX,
    Browsers,
    attributes_of,
    browser_with,
    cookies_of,
    id_of,
    is_clearing,
    may_enter,
    token_of,
    user_token_of,
)
from .support.clock import Clock
from .support.commands import CountCommands, Keys
from .support.devices import badges_on, names_on, parsed_user_agents

LIST = "/devices/"
UNKNOWN_ID = "x" * 19
NOTICE_COOKIE = "kvsession-notice"
READS = ["GET", "ZRANGEBYSCORE", "MGET"]


def add_devices(app: Flask) -> Flask:
    """Registers the pages in an app, and the two views that they redirect to."""
    app.register_blueprint(kvs.sessions_blueprint, url_prefix=LIST.rstrip("/"))
    app.add_url_rule("/sign-in", "sign_in", lambda: "sign in")
    app.add_url_rule("/confirm", "confirm", lambda: "confirm")
    return app


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return add_devices(make_app(login_view="sign_in", confirm_view="confirm"))


def page_of(browser: FlaskClient, path: str = LIST) -> str:
    response = browser.get(path, headers=AS_PAGE)
    assert response.status_code == 200
    return response.text


def sessions_of(browser: FlaskClient) -> list[dict[str, t.Any]]:
    body = browser.get(LIST).get_json()
    assert body.keys() == {"sessions", "page", "pages"}
    return t.cast(list[dict[str, t.Any]], body["sessions"])


def revoking(session_id: str) -> list[tuple[str, str]]:
    return [
        ("POST", f"{LIST}{session_id}/revoke"),
        ("DELETE", f"{LIST}{session_id}"),
        ("POST", f"{LIST}revoke-others"),
        ("POST", f"{LIST}revoke-all"),
    ]


@pytest.fixture
def browser_of(app: Flask) -> Browsers:
    return Browsers(app)


def notices_on(page: str) -> list[str]:
    """The messages of a page, as a reader sees them."""
    messages = re.findall(r'<p [^>]*role="status"[^>]*>(.*?)</p>', page, re.DOTALL)
    return [html.unescape(" ".join(message.split())) for message in messages]


def time_element(moment: datetime, text: str) -> str:
    return f'<time datetime="{moment.isoformat(timespec="milliseconds")}">{text}</time>'


def forms_on(page: str) -> list[tuple[str, dict[str, str]]]:
    """The target and the hidden fields of each form on a page."""
    forms = re.findall(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', page, re.DOTALL)
    return [
        (html.unescape(action), dict(re.findall(r'name="([^"]+)" value="([^"]*)"', inner)))
        for action, inner in forms
    ]


class TestList:
    def test_current_session_comes_first_then_the_others_by_last_activity(
        self, browser_of: Browsers, clock: Clock
    ) -> None:
        """The current session is first and has a badge; the others follow by last activity."""
        laptop = browser_of("laptop")
        for agent in ("phone", "tablet", "toaster"):
            clock.advance(hours=1)
            browser_of(agent)
        page = page_of(laptop)
        assert names_on(page) == ["laptop", "toaster", "tablet", "phone"]
        assert page.count("This device</span>") == 1
        assert page.index("laptop") < page.index("This device</span>") < page.index("toaster")
        assert [row["device"] for row in sessions_of(laptop)] == names_on(page)

    def test_shows_no_session_of_another_user(self, browser_of: Browsers) -> None:
        """The list has the sessions of the signed-in user only."""
        browser_of("bob's", user="bob")
        assert names_on(page_of(browser_of("ada's"))) == ["ada&#39;s"]

    def test_shows_device_address_times_and_user_agent_of_a_session(
        self, browser_of: Browsers
    ) -> None:
        """A row shows browser with major version, system, address, last activity and the full user
        agent."""
        browser_of(FIREFOX, ip="2001:db8::7")
        page = page_of(browser_of("laptop"))
        assert "Firefox 140 on Linux" in page
        assert "2001:db8::7" in page
        seen = sessions_of(browser_of("x"))[-1]["last_seen_at"]
        assert re.search(rf'Active <time datetime="{re.escape(seen)}">[^<]+</time>', page)
        assert f"<code>{FIREFOX}</code>" in page

    def test_times_are_marked_as_utc_and_those_of_today_have_no_date(
        self, browser_of: Browsers, clock: Clock
    ) -> None:
        """Without a script, a time is "today, 17:53 UTC" or "2026-11-20, 17:53 UTC"."""
        clock.advance(hours=36 - datetime.now(UTC).hour)  # noon: the day does not change meanwhile
        phone = browser_of("phone")
        seen = datetime.fromisoformat(sessions_of(phone)[0]["last_seen_at"])
        clock.advance(days=3)
        page = page_of(browser_of("laptop"))
        assert f"Active {time_element(seen, f'{seen:%Y-%m-%d, %H:%M} UTC')}" in page
        seen = datetime.fromisoformat(sessions_of(browser_of("x"))[0]["created_at"])
        page = page_of(browser_of("laptop"))
        assert f"Active {time_element(seen, f'today, {seen:%H:%M} UTC')}" in page

    def test_another_device_is_marked_as_new_for_a_day_after_its_login(
        self, browser_of: Browsers, clock: Clock
    ) -> None:
        """Another device is new for 24 hours, whatever its activity; this device never is."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        assert badges_on(page_of(laptop)) == [["This device"], ["New"]]
        clock.advance(hours=23)
        phone.get("/me")
        assert badges_on(page_of(laptop)) == [["This device"], ["New"]]
        clock.advance(hours=1, seconds=1)
        assert badges_on(page_of(laptop)) == [["This device"], []]

    def test_a_device_that_is_not_remembered_is_marked(
        self, browser_of: Browsers, clock: Clock
    ) -> None:
        """A session whose cookie ends with the browser has a mark, and a note at its end."""
        clock.advance(days=-2)
        browser_of("remembered")
        clock.advance(days=2)
        laptop = browser_of("laptop")
        laptop.post("/login/ada", json={"remember": False})
        page = page_of(laptop)
        assert badges_on(page) == [["This device", "Not remembered"], []]
        assert page.count("earlier if the browser is closed") == 1

    def test_json_has_the_same_facts_with_iso_8601_times(
        self, browser_of: Browsers, clock: Clock
    ) -> None:
        """Without text/html in `Accept` the list is JSON, with times in ISO 8601."""
        laptop = browser_of(FIREFOX)
        clock.advance(minutes=6)
        (row,) = sessions_of(laptop)
        times = [datetime.fromisoformat(row.pop(f"{name}_at")) for name in ("created", "last_seen")]
        assert times[0] == times[1]  # the renewal comes after this response
        assert times[0].utcoffset() == timedelta(0)
        assert datetime.fromisoformat(row.pop("expires_at")) - times[1] == timedelta(days=7)
        assert row == {
            "id": id_of(laptop),
            "current": True,
            "device": "Firefox on Linux",
            "ip_address": "192.0.2.1",
            "location": None,
            "device_bound": False,
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
    def test_is_a_page_only_if_accept_names_text_html(
        self, browser_of: Browsers, accept: str, is_page: bool
    ) -> None:
        """A request that accepts text/html gets a page; every other request gets JSON."""
        response = browser_of("x").get(LIST, headers={"Accept": accept})
        assert response.status_code == 200
        assert response.is_json is not is_page

    @pytest.mark.without_near_cache
    def test_costs_two_reads_beyond_the_session_for_any_number_of_sessions(
        self, browser_of: Browsers, count_commands: CountCommands
    ) -> None:
        """In addition to the session's own read, the list costs two reads."""
        laptop = browser_of("laptop")
        for headers in (AS_PAGE, {}):
            for _ in range(2):
                with count_commands() as commands:
                    laptop.get(LIST, headers=headers)
                assert commands.names == READS
                browser_of("another")

    def test_contains_session_ids_but_no_other_part_of_a_token(self, browser_of: Browsers) -> None:
        """Page and JSON contain public session ids and no secret."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        for text in (page_of(laptop), laptop.get(LIST).text):
            assert id_of(phone) in text
            for browser in (laptop, phone):
                assert (token_of(browser) or "")[19:40] not in text
                assert (token_of(browser) or "")[40:] not in text

    def test_escapes_html_in_a_user_agent(self, browser_of: Browsers) -> None:
        """HTML in a user agent is shown as text."""
        browser_of("<script>alert(1)</script>")
        browser_of('"><b onclick=x>/1.0')
        page = page_of(browser_of("'><i>"))
        assert "<script>" not in page
        assert "<b " not in page
        assert "<i>" not in page
        assert "&lt;script&gt;alert(1)" in page

    def test_omits_user_agent_and_address_if_they_are_not_recorded(self, make_app: MakeApp) -> None:
        """Without recorded user agent and address, the row has neither and the JSON has null."""
        app = add_devices(make_app(record_ip=False, record_user_agent=False))
        laptop = Browsers(app)("laptop")
        page = page_of(laptop)
        assert names_on(page) == ["Unknown device"]
        assert "User agent" not in page
        assert "127.0.0.1" not in page
        (row,) = sessions_of(laptop)
        assert row["device"] is row["ip_address"] is row["location"] is None

    def test_with_one_session_offers_no_signing_out_of_others(self, browser_of: Browsers) -> None:
        """With one session, the page says that there is no other, and only signs this one out."""
        laptop = browser_of("laptop")
        page = page_of(laptop)
        assert "You are signed in on this device only." in page
        assert [action for action, _ in forms_on(page)] == [f"{LIST}sign-out"]

    def test_with_other_sessions_has_a_form_for_each_with_the_consequence_first(
        self, browser_of: Browsers
    ) -> None:
        """Each other session has its own form, and each consequence stands before its button."""
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

    def test_without_a_login_redirects_a_browser_to_sign_in_and_gives_a_program_401(
        self, app: Flask
    ) -> None:
        """Without a login, a browser is redirected to the login view and a program gets 401."""
        anonymous = app.test_client()
        assert anonymous.get(LIST, headers=AS_PAGE).location == "/sign-in?next=/devices/"
        response = anonymous.get(LIST)
        assert (response.status_code, response.get_json()) == (401, {"error": "Unauthorized"})

    def test_stylesheet_is_cacheable_and_reads_no_session(
        self, app: Flask, browser_of: Browsers, count_commands: CountCommands
    ) -> None:
        """The stylesheet is public, may be cached and costs no call to Redis."""
        (path,) = re.findall(r'href="(.*\.css)"', page_of(browser_of("x")))
        with count_commands() as commands:
            response = app.test_client().get(path)
            response.close()
        assert (response.status_code, len(commands)) == (200, 0)
        assert "no-store" not in response.headers.get("Cache-Control", "")
        assert "Vary" not in response.headers


class TestManySessions:
    @pytest.fixture
    def app(self, make_app: MakeApp) -> Flask:
        return add_devices(make_app(login_view="sign_in", max_sessions_per_user=None))

    @pytest.fixture
    def laptop(self, browser_of: Browsers) -> FlaskClient:
        """One browser of a user who has 499 others."""
        for number in range(499):
            browser_of(f"device {number}")
        return browser_of("laptop")

    def test_each_page_shows_twenty_others_and_all_pages_show_every_session_once(
        self, laptop: FlaskClient, count_commands: CountCommands
    ) -> None:
        """A page shows the current session and twenty others, in the same two reads."""
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

    @pytest.mark.parametrize(("number", "previous"), [(2, LIST), (3, f"{LIST}?page=2")])
    def test_link_to_the_previous_page_names_no_page_if_that_is_the_first(
        self, laptop: FlaskClient, number: int, previous: str
    ) -> None:
        """The previous page of the second page has the URL of the list itself."""
        page = page_of(laptop, f"{LIST}?page={number}")
        assert re.findall(r'rel="prev" href="([^"]+)"', page) == [previous]

    def test_json_has_a_hundred_others_on_a_page_and_all_pages_have_every_session_once(
        self, laptop: FlaskClient, count_commands: CountCommands
    ) -> None:
        """The JSON has the current session and a hundred others, in the same two reads."""
        with count_commands() as commands:
            body = laptop.get(LIST).get_json()
        assert commands.names == READS
        assert (len(body["sessions"]), body["page"], body["pages"]) == (101, 1, 5)
        rows = body["sessions"]
        for page in (2, 3, 4, 5):
            body = laptop.get(f"{LIST}?page={page}").get_json()
            assert (body["page"], body["pages"]) == (page, 5)
            rows += body["sessions"]
        assert len({row["id"] for row in rows}) == len(rows) == 500
        assert [row["current"] for row in rows] == [True] + [False] * 499
        assert laptop.get(f"{LIST}?page=99").get_json()["page"] == 5
        assert laptop.get(f"{LIST}?page=x").get_json()["page"] == 1

    @pytest.mark.parametrize("headers", [AS_PAGE, {}], ids=["page", "json"])
    def test_list_parses_only_the_user_agents_that_it_shows(
        self, laptop: FlaskClient, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
    ) -> None:
        """A response parses one user agent for each session that it has, and none twice."""
        parsed = parsed_user_agents(monkeypatch)
        for _ in range(2):
            laptop.get(LIST, headers=headers)
        assert len(parsed) == len(set(parsed)) == (21 if headers else 101)

    def test_revoking_on_the_third_page_redirects_to_the_third_page(
        self, laptop: FlaskClient
    ) -> None:
        """The redirect after a revocation keeps the page number."""
        page = page_of(laptop, f"{LIST}?page=3")
        action = re.findall(r'action="([^"]+/revoke\?[^"]*)"', page)[0]
        response = laptop.post(action, headers=AS_PAGE)
        assert response.location == f"{LIST}?page=3"

    def test_an_invalid_page_number_shows_the_first_page_and_a_too_large_one_the_last(
        self, laptop: FlaskClient
    ) -> None:
        """An invalid page number means page 1; a too large number means the last page."""
        for number in ("0", "-1", "x", "", "1e3", "²", "٣", "9" * 99):
            assert "Page 1 of 25" in page_of(laptop, f"{LIST}?page={number}"), number
        for number, shown in (("7", 7), ("007", 7), ("26", 25), ("9999", 25)):
            assert f"Page {shown} of 25" in page_of(laptop, f"{LIST}?page={number}")


class TestRevocation:
    @pytest.mark.parametrize("which", [0, 1], ids=["post", "delete"])
    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_revoking_one_session_signs_out_that_device_only(
        self, browser_of: Browsers, which: int, as_page: bool
    ) -> None:
        """Revoking one session ends that session only, and the response has the number 1."""
        laptop, phone, tablet = browser_of("laptop"), browser_of("phone"), browser_of("tablet")
        method, path = revoking(id_of(phone))[which]
        response = laptop.open(path, method=method, headers=AS_PAGE if as_page else {})
        if as_page:
            assert (response.status_code, response.location) == (303, LIST)
            assert notices_on(page_of(laptop)) == ["phone (192.0.2.1) was signed out."]
        else:
            assert (response.status_code, response.get_json()) == (200, {"revoked": 1})
        assert may_enter(laptop, phone, tablet) == [True, False, True]

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_revoking_all_others_keeps_this_session_and_other_users_sessions(
        self, browser_of: Browsers, as_page: bool
    ) -> None:
        """All other sessions of the user end; a second request ends none."""
        laptop, phone, tablet = browser_of("laptop"), browser_of("phone"), browser_of("tablet")
        bob = browser_of("phone", user="bob")
        device = r"(?:phone|tablet) \(192\.0\.2\.1\)"
        for count, notice in (
            (2, rf"2 devices were signed out: {device}, {device}\."),
            (0, r"Nothing was left to sign out\."),
        ):
            headers = AS_PAGE if as_page else {}
            response = laptop.post(f"{LIST}revoke-others", headers=headers)
            if as_page:
                assert response.location == LIST
                (shown,) = notices_on(page_of(laptop))
                assert re.fullmatch(notice, shown)
            else:
                assert response.get_json() == {"revoked": count}
        assert may_enter(laptop, phone, tablet, bob) == [True, False, False, True]

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_revoking_all_ends_this_session_too_and_deletes_the_cookie(
        self, browser_of: Browsers, as_page: bool
    ) -> None:
        """All sessions of the user end, the cookie is deleted, and a browser goes to the login
        view."""
        laptop, phone, bob = browser_of("x"), browser_of("x"), browser_of("x", user="bob")
        token = token_of(laptop)
        response = laptop.post(f"{LIST}revoke-all", headers=AS_PAGE if as_page else {})
        if as_page:
            assert (response.status_code, response.location) == (303, "/sign-in?ended=2")
        else:
            assert response.get_json() == {"revoked": 2}
        assert is_clearing(cookies_of(response)[0])
        assert may_enter(phone, bob, browser_with(laptop.application, token)) == [
            False,
            True,
            False,
        ]

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_revoking_the_current_session_by_its_id_signs_out(
        self, browser_of: Browsers, as_page: bool
    ) -> None:
        """Revoking the current session by its id deletes the cookie and redirects to the login
        view."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        path = f"{LIST}{id_of(laptop)}/revoke"
        response = laptop.post(path, headers=AS_PAGE if as_page else {})
        assert response.location == "/sign-in?ended=1" if as_page else response.is_json
        assert is_clearing(cookies_of(response)[0])
        assert may_enter(laptop, phone) == [False, True]

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    def test_signing_out_ends_this_session_only_and_may_be_repeated(
        self, browser_of: Browsers, as_page: bool
    ) -> None:
        """Signing out ends the current session only, and a second request redirects too."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        for count in (1, 0):
            response = laptop.post(f"{LIST}sign-out", headers=AS_PAGE if as_page else {})
            if as_page:
                assert (response.status_code, response.location) == (303, f"/sign-in?ended={count}")
            else:
                assert response.get_json() == {"revoked": count}
        assert may_enter(laptop, phone) == [False, True]

    def test_without_a_login_view_a_page_says_that_the_user_is_signed_out(
        self, make_app: MakeApp
    ) -> None:
        """Without `KVSESSION_LOGIN_VIEW` a page says that the user is signed out, and how many
        ended, if other sessions ended too."""
        browser_of = Browsers(add_devices(make_app()))
        browser_of("phone")
        response = browser_of("laptop").post(f"{LIST}revoke-all", headers=AS_PAGE)
        assert response.status_code == 200
        assert "You are signed out" in response.text
        assert "2 devices were signed out." in response.text
        response = browser_of("laptop").post(f"{LIST}sign-out", headers=AS_PAGE)
        assert "You are signed out" in response.text
        assert "device was signed out" not in response.text
        assert is_clearing(cookies_of(response)[0])

    def test_a_login_view_that_the_app_does_not_have_is_a_configuration_error(
        self, make_app: MakeApp
    ) -> None:
        """An unknown endpoint raises an error that names the setting."""
        app = add_devices(make_app(login_view="nowhere"))
        with pytest.raises(ConfigurationError, match="KVSESSION_LOGIN_VIEW is 'nowhere'"):
            Browsers(app)("laptop").post(f"{LIST}sign-out", headers=AS_PAGE)

    @pytest.mark.parametrize("as_page", [True, False], ids=["page", "json"])
    @pytest.mark.parametrize("which", [0, 1], ids=["post", "delete"])
    def test_revoking_a_session_that_is_not_the_users_is_the_same_404_for_any_id(
        self, browser_of: Browsers, keys: Keys, which: int, as_page: bool
    ) -> None:
        """Another user's id, an ended id, an unknown id and an invalid id get an identical 404."""
        bob, ada, phone = browser_of("x", user="bob"), browser_of("x"), browser_of("x")
        ada.post(f"{LIST}{id_of(phone)}/revoke")
        shard_of_ada = id_of(ada)[:3] + "x" * 16
        before, answers = keys(), set()
        for session_id in (id_of(bob), id_of(phone), UNKNOWN_ID, shard_of_ada, "x", "%00", "{a}*"):
            method, path = revoking(session_id)[which]
            response = ada.open(path, method=method, headers=AS_PAGE if as_page else {})
            assert response.status_code == 404
            answers.add((response.text, str(response.headers)))
        ((text, _),) = answers
        assert "No such device" in text if as_page else text.strip() == '{"error":"NotFound"}'
        assert keys() == before
        assert may_enter(ada, bob) == [True, True]

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH"])
    def test_urls_that_end_sessions_answer_405_to_other_methods(
        self, browser_of: Browsers, method: str
    ) -> None:
        """GET, HEAD, PUT and PATCH on such a URL get 405 and end no session."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        paths = [path for _, path in revoking(id_of(phone))] + [f"{LIST}sign-out"]
        for path in paths:
            assert laptop.open(path, method=method).status_code == 405
        assert may_enter(laptop, phone) == [True, True]

    @pytest.mark.parametrize(
        "body",
        [
            {"data": "{not json", "content_type": "application/json"},
            {"json": {"user_id": "bob", "session_id": UNKNOWN_ID}},
            {"data": {"user_id": "bob", "id": UNKNOWN_ID}},
            {"data": '{"user_id": "bob"}', "content_type": "text/plain"},
            {"data": b"\xff\x00" * 5_000_000, "content_type": "multipart/form-data; boundary=x"},
            {"query_string": {"user_id": "bob"}},
        ],
        ids=["broken", "json", "form", "text", "huge", "query"],
    )
    def test_the_body_and_the_query_cannot_choose_another_users_sessions(
        self, browser_of: Browsers, body: dict[str, t.Any]
    ) -> None:
        """Body and query are ignored: only the user's own sessions end."""
        ada, phone, bob = browser_of("x"), browser_of("x"), browser_of("x", user="bob")
        response = ada.post(f"{LIST}revoke-others", **body)
        assert (response.status_code, response.get_json()) == (200, {"revoked": 1})
        assert may_enter(ada, phone, bob) == [True, False, True]

    def test_revoking_without_a_login_redirects_to_sign_in_and_back_to_the_list(
        self, app: Flask
    ) -> None:
        """Without a login, the redirect leads to the question after signing in, because a POST is
        not repeated."""
        for method, path in revoking(UNKNOWN_ID):
            anonymous = app.test_client()
            response = anonymous.open(path, method=method, headers=AS_PAGE)
            question = {f"{LIST}revoke-others": "others", f"{LIST}revoke-all": "all"}
            opened = question.get(path, UNKNOWN_ID)
            assert response.location == f"/sign-in?next=/devices/?open%3D{opened}"
            assert anonymous.open(path, method=method).status_code == 401


class TestNotice:
    """The notice that names what was signed out."""

    def test_it_is_shown_once_and_not_again_after_a_reload(self, browser_of: Browsers) -> None:
        """The first view of the list shows the notice and takes it from the browser."""
        laptop, phone = browser_of("laptop"), browser_of(FIREFOX)
        laptop.post(f"{LIST}{id_of(phone)}/revoke", headers=AS_PAGE)
        sessions_of(laptop)  # a program's view of the list does not take it
        expected = ["Firefox 140 on Linux (192.0.2.1) was signed out."]
        assert [notices_on(page_of(laptop)) for _ in range(3)] == [expected, [], []]
        assert laptop.get_cookie(NOTICE_COOKIE) is None

    def test_it_costs_no_call_to_redis(
        self, browser_of: Browsers, count_commands: CountCommands
    ) -> None:
        """A post and the view after it cost what they cost a program."""
        laptop = browser_of("laptop")
        costs = []
        for headers in (AS_PAGE, {}):
            phone = browser_of("phone")
            with count_commands() as commands:
                laptop.post(f"{LIST}{id_of(phone)}/revoke", headers=headers)
                laptop.get(LIST, headers=headers)
            costs.append(commands.names)
        assert costs[0] == costs[1]

    def test_it_names_three_devices_and_counts_the_rest(self, browser_of: Browsers) -> None:
        """Of eight devices, three are named: the cookie has a bounded size."""
        laptop = browser_of("laptop")
        for number in range(8):
            browser_of(f"phone{number}")
        laptop.post(f"{LIST}revoke-others", headers=AS_PAGE)
        (notice,) = notices_on(page_of(laptop))
        device = r"phone\d \(192\.0\.2\.1\)"
        expected = rf"8 devices were signed out: {device}, {device}, {device} and 5 more\."
        assert re.fullmatch(expected, notice)

    @pytest.mark.parametrize(
        "agent", ["ÿ" * 512, "y" * 240 + "Bot/1", f"{'é' * 200}/1.0 (iPhone"], ids=["1", "2", "3"]
    )
    def test_its_cookie_is_small_whatever_the_names_are(
        self, make_app: MakeApp, agent: str
    ) -> None:
        """With the longest names of devices and places, name and value have less than 4,096
        bytes."""
        app = add_devices(make_app(login_view="sign_in", locate=lambda ip: "日" * 500))
        browser_of = Browsers(app)
        laptop = browser_of("laptop")
        for _ in range(3):
            browser_of(agent)
        response = laptop.post(f"{LIST}revoke-others", headers=AS_PAGE)
        (line,) = response.headers.getlist("Set-Cookie")
        assert len(line.partition(";")[0].encode()) < 4096
        assert len(notices_on(page_of(laptop))) == 1

    def test_a_page_that_signs_this_browser_out_leaves_no_notice(
        self, browser_of: Browsers
    ) -> None:
        """A browser that was signed out gets no notice for the next user."""
        for path in ("sign-out", "revoke-all"):
            laptop = browser_of("laptop")
            laptop.post(f"{LIST}{path}", headers=AS_PAGE)
            assert laptop.get_cookie(NOTICE_COOKIE) is None

    def test_another_user_of_the_browser_does_not_see_it(self, browser_of: Browsers) -> None:
        """A notice is shown only in its own session, and another session deletes it."""
        for next_user in ("bob", "ada"):
            laptop, phone = browser_of("laptop"), browser_of("phone")
            laptop.post(f"{LIST}{id_of(phone)}/revoke", headers=AS_PAGE)
            laptop.post(f"/login/{next_user}")
            assert notices_on(page_of(laptop)) == []
            assert laptop.get_cookie(NOTICE_COOKIE) is None

    def test_no_link_and_no_other_cookie_can_make_it_appear(self, browser_of: Browsers) -> None:
        """A query, a made up cookie, and a changed one show nothing."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        laptop.post(f"{LIST}{id_of(phone)}/revoke", headers=AS_PAGE)
        cookie = laptop.get_cookie(NOTICE_COOKIE)
        assert cookie
        real = urlsafe_b64decode(cookie.value)
        changed = real.replace(b"phone", b"PHONE")
        foreign = hmac.digest(b"", b"kvsession notice " + real[32:], "sha256") + real[32:]
        for forged in (b"", changed, foreign, real[32:], bytes(32) + real[32:], real[:-1]):
            laptop.set_cookie(NOTICE_COOKIE, urlsafe_b64encode(forged).decode())
            assert notices_on(page_of(laptop, f"{LIST}?ended=3&notice=3")) == []
        for junk in ("x", "é", "a" * 9, "%", "....", "0" * 4000):
            laptop.set_cookie(NOTICE_COOKIE, junk)
            assert notices_on(page_of(laptop)) == []
        laptop.set_cookie(NOTICE_COOKIE, cookie.value)
        assert notices_on(page_of(laptop)) == ["phone (192.0.2.1) was signed out."]

    def test_its_cookie_has_the_attributes_of_the_session_cookie_and_holds_no_secret(
        self, make_app: MakeApp
    ) -> None:
        """The cookie is HttpOnly, Secure and short-lived, and holds no id and no token."""
        app = add_devices(make_app(cookie_secure=True))
        laptop, phone = app.test_client(), app.test_client()
        for browser in (laptop, phone):
            browser.environ_base["HTTP_USER_AGENT"] = "phone"
            browser.post("/login/ada", base_url="https://localhost")
        token, other = (user_token_of(each, "__Host-kvsession") for each in (laptop, phone))
        assert token and other
        response = laptop.post(
            f"{LIST}{other[:19]}/revoke", headers=AS_PAGE, base_url="https://localhost"
        )
        (line,) = response.headers.getlist("Set-Cookie")
        name, _, value = line.partition(";")[0].partition("=")
        assert name == f"__Host-{NOTICE_COOKIE}"
        assert attributes_of(line) == {"HttpOnly", "Secure", "Path=/", "SameSite=Lax", "Max-Age=60"}
        held = urlsafe_b64decode(value)
        assert b"phone" in held
        for secret in (token[19:40], token[40:], other[:19], other[19:40]):
            assert secret.encode() not in held


class TestLostIndex:
    """The user's index was evicted from Redis, so it lists no session."""

    @pytest.fixture
    def laptop(self, browser_of: Browsers, redis_client: redis.Redis, keys: Keys) -> FlaskClient:
        laptop = browser_of("laptop")
        redis_client.delete(*[key for key in keys() if ":u:" in key])
        return laptop

    def test_list_still_shows_the_current_session(self, laptop: FlaskClient) -> None:
        """Page and JSON show the current session."""
        assert names_on(page_of(laptop)) == ["laptop"]
        assert [row["current"] for row in sessions_of(laptop)] == [True]

    def test_revoking_all_still_ends_the_current_session(self, laptop: FlaskClient) -> None:
        """Revoking all sessions ends the current session and deletes its cookie."""
        response = laptop.post(f"{LIST}revoke-all")
        assert response.get_json() == {"revoked": 1}
        assert is_clearing(cookies_of(response)[0])
        assert may_enter(laptop) == [False]


class TestFreshToRevoke:
    @pytest.fixture
    def app(self, make_app: MakeApp) -> Flask:
        views = {"login_view": "sign_in", "confirm_view": "confirm"}
        return add_devices(make_app(fresh_to_revoke=True, **views))

    def test_revoking_with_a_stale_login_redirects_to_the_confirm_view_and_ends_nothing(
        self, browser_of: Browsers, clock: Clock
    ) -> None:
        """Without a fresh login, a browser is redirected to the confirm view and a program gets
        401."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        clock.advance(hours=1)
        for method, path in revoking(id_of(phone)):
            response = laptop.open(path, method=method, headers=AS_PAGE)
            assert response.status_code == 302
            assert response.location in (
                f"/confirm?next=/devices/?open%3D{id_of(phone)}",
                "/confirm?next=/devices/?open%3Dothers",
                "/confirm?next=/devices/?open%3Dall",
            )
            refused = laptop.open(path, method=method)
            assert refused.status_code == 401
            assert refused.get_json() == {"error": "FreshLoginRequired"}
        assert may_enter(laptop, phone) == [True, True]

    def test_revoking_with_a_fresh_login_works_without_a_question(
        self, browser_of: Browsers
    ) -> None:
        """With a fresh login, revoking works, and the page does not mention the password."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        assert "asked for your password" not in page_of(laptop)
        assert laptop.post(f"{LIST}{id_of(phone)}/revoke").status_code == 200

    def test_list_and_sign_out_need_no_fresh_login(
        self, browser_of: Browsers, clock: Clock
    ) -> None:
        """Without a fresh login, the list says that the password will be asked, the buttons say
        "Continue", and signing out works."""
        laptop = browser_of("laptop")
        clock.advance(hours=1)
        browser_of("phone")
        page = page_of(laptop)
        assert page.count("You will be asked for your password first.") == 3
        assert page.count('<button class="kvs-button kvs-primary"') == page.count("Continue") == 3
        assert "Yes, " not in page
        assert laptop.post(f"{LIST}sign-out").get_json() == {"revoked": 1}

    def test_confirm_view_leads_back_to_the_same_page_of_the_list(
        self, browser_of: Browsers, clock: Clock
    ) -> None:
        """The page number and the question are in the redirect to the confirm view."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        clock.advance(hours=1)
        path = f"{LIST}{id_of(phone)}/revoke?page=2"
        assert (
            laptop.post(path, headers=AS_PAGE).location
            == f"/confirm?next=/devices/?page%3D2%26open%3D{id_of(phone)}"
        )

    def test_after_confirming_the_question_is_open_and_has_focus(
        self, browser_of: Browsers
    ) -> None:
        """The list opens the question that the user came from, and says that nothing is done."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        browser_of("tablet")
        for question in (id_of(phone), "others", "all"):
            page = page_of(laptop, f"{LIST}?open={question}")
            (opened,) = re.findall(r'<details [^>]+ open>.*?<p id="([^>]+)>(.*?)<', page, re.DOTALL)
            assert opened[0] == f'kvs-ends-{question}" tabindex="-1" autofocus'
            assert "You have confirmed that it is you. Nothing is signed out yet." in opened[1]
            assert page.count("Nothing is signed out yet.") == 1

    @pytest.mark.parametrize("question", ["", "x", UNKNOWN_ID, '"><b>', "open"])
    def test_a_url_with_an_unknown_question_opens_none(
        self, browser_of: Browsers, question: str
    ) -> None:
        """An id that is not on the page, and anything else, opens nothing."""
        laptop, _ = browser_of("laptop"), browser_of("phone")
        page = laptop.get(LIST, query_string={"open": question}, headers=AS_PAGE).text
        assert not re.search(r"<details [^>]+ open>|autofocus|<b>", page)

    def test_without_a_fresh_login_an_open_question_does_not_say_that_it_was_confirmed(
        self, browser_of: Browsers, clock: Clock
    ) -> None:
        """`?open=` says nothing of a confirmation if the login is not fresh."""
        laptop, _ = browser_of("laptop"), browser_of("phone")
        clock.advance(hours=1)
        page = page_of(laptop, f"{LIST}?open=others")
        assert " open>" in page
        assert "You have confirmed" not in page

    def test_without_a_confirm_view_the_user_is_told_to_sign_in_again(
        self, make_app: MakeApp, clock: Clock
    ) -> None:
        """Without a confirm view, a page with status 401 asks the user to sign in again."""
        app = add_devices(make_app(fresh_to_revoke=True, login_view="sign_in"))
        laptop = Browsers(app)("laptop")
        Browsers(app)("phone")
        clock.advance(hours=1)
        assert "You have to sign in again first." in page_of(laptop)
        others = f"{LIST}revoke-others"
        refused = laptop.post(others, headers=AS_PAGE)
        assert refused.status_code == 401
        assert "Please sign in again first" in refused.text
        assert f'href="{LIST}"' in refused.text
        assert laptop.post(others).get_json() == {"error": "FreshLoginRequired"}
        assert len(sessions_of(laptop)) == 2


class TestPageOfAnotherUser:
    """A devices page that was opened by one user, and sent after another user has signed in."""

    @pytest.fixture(params=[False, True], ids=["", "fresh_to_revoke"])
    def app(self, make_app: MakeApp, request: pytest.FixtureRequest) -> Flask:
        views = {"login_view": "sign_in", "confirm_view": "confirm"}
        return add_devices(make_app(fresh_to_revoke=request.param, **views))

    @pytest.mark.parametrize("signs_out", [True, False])
    def test_no_form_of_a_page_of_another_user_ends_a_session(
        self, browser_of: Browsers, keys: Keys, signs_out: bool
    ) -> None:
        """Each form of ada's page gets 409 from bob, with an explanation, and ends nothing."""
        laptop, _ = browser_of("laptop"), browser_of("phone")
        bobs_phone = browser_of("phone", user="bob")
        forms = forms_on(page_of(laptop))
        assert len(forms) == 4
        if signs_out:
            laptop.post("/logout")
        laptop.post("/login/bob")
        before = keys()
        for action, fields in forms:
            response = laptop.post(action, data=fields, headers=AS_PAGE)
            assert response.status_code == 409
            assert "Another user has signed in in this browser" in response.text
            assert f'href="{LIST}"' in response.text
            assert not cookies_of(response)
        assert keys() == before
        assert may_enter(laptop, bobs_phone) == [True, True]

    def test_forms_still_work_after_the_same_user_has_signed_in_again(
        self, browser_of: Browsers
    ) -> None:
        """A page stays valid for its user, also in a new session."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        forms = dict(forms_on(page_of(laptop)))
        laptop.post("/login/ada")
        path = f"{LIST}{id_of(phone)}/revoke"
        assert laptop.post(path, data=forms[path], headers=AS_PAGE).location == LIST
        path = f"{LIST}sign-out"
        response = laptop.post(path, data=forms[path], headers=AS_PAGE)
        assert response.location == "/sign-in?ended=1"
        assert may_enter(laptop, phone) == [False, False]

    def test_forms_work_after_the_user_was_signed_out(self, browser_of: Browsers) -> None:
        """If nobody is signed in, signing out succeeds, and the other forms lead to the login."""
        laptop = browser_of("laptop")
        browser_of("phone")
        forms = forms_on(page_of(laptop))
        laptop.post("/logout")
        for action, fields in forms:
            location = laptop.post(action, data=fields, headers=AS_PAGE).location
            assert location.startswith("/sign-in?")

    def test_program_without_the_field_is_not_refused(self, browser_of: Browsers) -> None:
        """A request without the field, and one that asks for JSON, ends the user's own sessions."""
        laptop, phone, tablet = browser_of("laptop"), browser_of("phone"), browser_of("tablet")
        assert laptop.post(f"{LIST}{id_of(phone)}/revoke", headers=AS_PAGE).status_code == 303
        field = {"kvs-user": "x"}
        response = laptop.post(f"{LIST}{id_of(tablet)}/revoke", data=field)
        assert response.get_json() == {"revoked": 1}

    @pytest.mark.parametrize("value", ["", "ada", "x" * 22, "\udcff", "é" * 10_000])
    def test_form_with_any_other_user_is_refused(self, browser_of: Browsers, value: str) -> None:
        """A form whose field has any other value is refused."""
        data = f"kvs-user={quote(value, errors='surrogatepass')}"
        kind = "application/x-www-form-urlencoded"
        response = browser_of("x").post(
            f"{LIST}sign-out", data=data, content_type=kind, headers=AS_PAGE
        )
        assert response.status_code == 409

    def test_page_shows_neither_the_user_id_nor_a_secret_in_its_forms(
        self, browser_of: Browsers
    ) -> None:
        """The field is the same on all pages of a user and does not contain the user id."""
        pages = [page_of(browser_of("x", user="ada@example.com")) for _ in range(2)]
        values = {fields["kvs-user"] for page in pages for _, fields in forms_on(page)}
        assert len(values) == 1
        assert not any("ada" in page for page in pages)

    def test_error_handler_of_the_app_replaces_our_page(
        self, app: Flask, browser_of: Browsers
    ) -> None:
        """An error handler of the app for 409 gives the response."""
        app.register_error_handler(409, lambda error: ("the app's", 409))
        response = browser_of("x").post(f"{LIST}sign-out", data={"kvs-user": "x"}, headers=AS_PAGE)
        assert response.text == "the app's"


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
    def test_requests_from_other_sites_get_403_and_end_no_session(
        self, browser_of: Browsers, count_commands: CountCommands, origin: dict[str, str]
    ) -> None:
        """A request from another site gets 403 and makes no call to Redis."""
        laptop, phone = browser_of("laptop"), browser_of("phone")
        with count_commands() as commands:
            for method, path in [*revoking(id_of(phone)), ("POST", f"{LIST}sign-out")]:
                response = laptop.open(path, method=method, headers=AS_PAGE | origin)
                assert response.status_code == 403
        assert len(commands) == 0
        assert may_enter(laptop, phone) == [True, True]

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
    def test_requests_from_this_site_and_trusted_origins_are_accepted(
        self, make_app: MakeApp, origin: dict[str, str]
    ) -> None:
        """The app's own pages and `KVSESSION_TRUSTED_ORIGINS` may post."""
        app = add_devices(make_app(trusted_origins=["https://admin.example.com"]))
        laptop = Browsers(app)("laptop")
        assert laptop.post(f"{LIST}revoke-others", headers=origin).status_code == 200


def answers(browser: FlaskClient, phone_id: str) -> t.Iterator[TestResponse]:
    """Every kind of response that the blueprint has, as page and as JSON."""
    for headers in (AS_PAGE, {}):
        yield browser.get(LIST, headers=headers)
        yield browser.get(f"{LIST}?open=all", headers=headers)
        yield browser.post(f"{LIST}{UNKNOWN_ID}/revoke", headers=headers)
        yield browser.post(f"{LIST}revoke-others", headers=headers)
        yield browser.post(f"{LIST}revoke-others", headers={"Sec-Fetch-Site": "cross-site"})
        yield browser.application.test_client().get(LIST, headers=headers)
    yield browser.post(f"{LIST}sign-out", headers=AS_PAGE)


def test_every_response_forbids_caching_and_cross_origin_embedding(browser_of: Browsers) -> None:
    """Every response has no-store, same-origin, nosniff and Vary, refusals too."""
    laptop, phone = browser_of("laptop"), browser_of("phone")
    seen = set()
    for response in answers(laptop, id_of(phone)):
        seen.add(response.status_code)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert {"Accept", "Cookie"} <= set(response.vary)
    assert seen == {200, 302, 303, 401, 403, 404}


def test_every_url_answers_503_without_a_set_cookie_if_redis_is_down(make_app: MakeApp) -> None:
    """If Redis cannot be reached, every URL answers 503 and keeps the cookie."""
    app = add_devices(make_app(redis_url="redis://127.0.0.1:1/0", login_view="sign_in"))
    browser = browser_with(app, "x" * 62)
    for method, path in [("GET", LIST), *revoking(UNKNOWN_ID), ("POST", f"{LIST}sign-out")]:
        response = browser.open(path, method=method, headers=AS_PAGE)
        assert response.status_code == 503
        assert not cookies_of(response)
        assert browser.open(path, method=method).get_json() == {"error": "StoreUnavailable"}
