"""The devices pages in a real browser: without scripts, by keyboard, in narrow windows and in dark
colours. The app has no layout of its own, so the pages use our base page."""

from __future__ import annotations

import re
import threading
import typing as t
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from flask import Flask, redirect, request
from werkzeug.serving import make_server

import flask_kvsession as kvs

from ..support.apps import MakeApp
from ..support.chromium import Screenshot
from ..support.clock import Clock

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

LINUX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)
NARROWEST, WIDE = 320, 1000
IPHONE_SIGNED_OUT = "Safari 18 on iPhone (Lyon, France) was signed out."
STRANGE = "<b>Unbreakable" + "x" * 400 + "</b>"


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app(
        login_view="sign_in",
        confirm_view="confirm",
        fresh_to_revoke=True,
        views=False,
        locate={"127.0.0.1": "Lyon, France"}.get,
    )
    app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")

    @app.get("/sign-in/<user>")
    def sign_in_as(user: str) -> t.Any:
        kvs.login_user(user, remember="short" not in request.args)
        return redirect("/devices/", 303)

    @app.get("/confirm")
    def confirm() -> t.Any:
        kvs.confirm_login()
        return redirect(kvs.next_url("/devices/"), 303)

    app.add_url_rule("/favicon.ico", "icon", lambda: ("", 204))
    app.add_url_rule("/sign-in", "sign_in", lambda: "<title>Sign in</title>")
    return app


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """The app, served."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Profiles:
    """Opens the list in separate browser profiles, each with its own login."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url
        self.contexts: list[BrowserContext] = []
        self.console_messages: list[str] = []

    def __call__(
        self,
        agent: str,
        *,
        width: int = WIDE,
        dark: bool = False,
        scripts: bool = False,
        locale: str = "en-GB",
        zone: str = "Asia/Tokyo",
    ) -> Page:
        context = self.browser.new_context(
            base_url=self.url,
            user_agent=agent,
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
            locale=locale,
            timezone_id=zone,
        )
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.console_messages.append(message.text))
        page.goto("/sign-in/ada")
        return page


@pytest.fixture
def open_list(browser: Browser, url: str) -> Iterator[Profiles]:
    profiles = Profiles(browser, url)
    yield profiles
    for context in profiles.contexts:
        context.close()
    assert profiles.console_messages == []


def row(page: Page, device: str) -> t.Any:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=device))


def confirm(page: Page, opener: str, button: str) -> None:
    """Open the question and answer yes."""
    page.locator("summary:visible", has_text=opener).click()
    page.get_by_role("button", name=button).click()


def wait_for_title(page: Page, title: str) -> None:
    """Wait until the next page is loaded: a click returns before that."""
    from playwright.sync_api import expect

    expect(page).to_have_title(title)


def is_signed_in(page: Page) -> bool:
    page.goto("/devices/")
    return page.title() == "Your devices"


def test_without_scripts_a_device_is_signed_out_after_a_question(open_list: Profiles) -> None:
    """Without scripts, the list shows both devices and signs the other one out after a question."""
    phone, laptop = open_list(IPHONE, width=NARROWEST), open_list(LINUX)
    assert "This device" in row(laptop, "Firefox 140 on Linux").inner_text()
    other = row(laptop, "Safari 18 on iPhone")
    assert "Lyon, France 127.0.0.1" in other.inner_text()
    assert re.search(r"Active .+, \d\d:\d\d UTC", other.inner_text())
    question = other.get_by_text("Safari 18 on iPhone is signed out at once.")
    assert not question.is_visible()
    other.locator("summary", has_text="Sign out").click()
    assert question.is_visible()
    assert is_signed_in(phone)
    other.locator("summary", has_text="Cancel").click()
    assert not question.is_visible()
    other.locator("summary", has_text="Sign out").click()
    other.get_by_role("button", name="Yes, sign it out").click()
    assert laptop.get_by_role("status").inner_text() == IPHONE_SIGNED_OUT
    assert laptop.get_by_text("You are signed in on this device only.").is_visible()
    assert not is_signed_in(phone)
    assert is_signed_in(laptop)


def test_signing_out_all_others_keeps_this_device_and_everywhere_does_not(
    open_list: Profiles,
) -> None:
    """ "All others" keeps this device; "everywhere" leads this device to the sign-in page."""
    phone, laptop = open_list(IPHONE), open_list(LINUX)
    confirm(laptop, "Sign out all other devices", "Yes, sign out all others")
    assert laptop.get_by_role("status").inner_text() == IPHONE_SIGNED_OUT
    assert not is_signed_in(phone)
    phone.goto("/sign-in/ada")
    laptop.reload()
    confirm(laptop, "Sign out everywhere", "Yes, sign out everywhere")
    wait_for_title(laptop, "Sign in")
    assert not is_signed_in(laptop)
    assert not is_signed_in(phone)


def test_signing_out_the_current_row_leads_to_sign_in_and_keeps_the_other_device(
    open_list: Profiles,
) -> None:
    """ "Sign out" on the current row ends only the current session."""
    phone, laptop = open_list(IPHONE), open_list(LINUX)
    row(laptop, "Firefox 140 on Linux").get_by_role("button", name="Sign out").click()
    wait_for_title(laptop, "Sign in")
    assert is_signed_in(phone)


def test_the_user_agent_is_visible_only_after_opening_the_details(open_list: Profiles) -> None:
    """The full user agent is hidden until "Details" is opened."""
    laptop = open_list(LINUX)
    agent = laptop.get_by_text(LINUX)
    assert not agent.is_visible()
    laptop.get_by_text("Details").click()
    assert agent.is_visible()


def test_a_device_can_be_signed_out_with_tab_and_enter_alone(open_list: Profiles) -> None:
    """Tab goes from top to bottom, Enter opens and answers the question, and focus is visible.
    After the post, focus is on the message."""
    phone, laptop = open_list(IPHONE), open_list(LINUX, scripts=True)
    reached = []
    for _ in range(5):
        laptop.keyboard.press("Tab")
        reached.append(laptop.evaluate(FOCUS))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert laptop.evaluate(outline) == "solid"
    all_others = "Sign out all other devices"
    assert reached == ["Details", "Sign out", all_others, "Details", "Sign out"]
    laptop.keyboard.press("Enter")
    laptop.keyboard.press("Tab")
    assert laptop.evaluate(FOCUS) == "Yes, sign it out"
    laptop.keyboard.press("Enter")
    laptop.wait_for_function(f"({FOCUS})() === '{IPHONE_SIGNED_OUT}'")
    assert not is_signed_in(phone)


def test_escape_closes_the_question_and_returns_focus_to_its_button(open_list: Profiles) -> None:
    """Escape closes the open question from anywhere on the page, and open details inside them."""
    open_list(IPHONE)
    laptop = open_list(LINUX, scripts=True)
    other = row(laptop, "Safari 18 on iPhone")
    question = other.get_by_text("is signed out at once.")
    other.locator("summary", has_text="Sign out").click()
    other.get_by_role("button", name="Yes, sign it out").focus()
    laptop.keyboard.press("Escape")
    assert not question.is_visible()
    assert laptop.evaluate(FOCUS) == "Sign out"
    other.locator("summary", has_text="Sign out").click()
    laptop.get_by_text("Details").first.click()
    for still_open in (True, False):
        laptop.keyboard.press("Escape")
        assert question.is_visible() is still_open
        assert laptop.locator("details[open]").count() == int(still_open)


def test_the_message_is_not_shown_again_on_reload_or_from_the_history(
    open_list: Profiles,
) -> None:
    """A reload, the way back and the way forward show the list without the message."""
    open_list(IPHONE)
    laptop = open_list(LINUX, scripts=True)
    confirm(laptop, "Sign out all other devices", "Yes, sign out all others")
    message = laptop.get_by_role("status")
    message.wait_for()
    laptop.goto("/sign-in")
    laptop.go_back()
    row(laptop, "Firefox 140 on Linux").wait_for()
    message.wait_for(state="detached")
    laptop.reload()
    assert message.count() == 0


def test_a_page_from_the_browser_s_memory_is_loaded_again(open_list: Profiles) -> None:
    """A page that the browser has kept in memory loads again: its list may be out of date."""
    phone, laptop = open_list(IPHONE), open_list(LINUX, scripts=True)
    row(phone, "Safari 18 on iPhone").get_by_role("button", name="Sign out").click()
    wait_for_title(phone, "Sign in")
    assert row(laptop, "Safari 18 on iPhone").count() == 1
    laptop.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    row(laptop, "Safari 18 on iPhone").wait_for(state="detached")


@pytest.mark.parametrize(
    ("locale", "language", "zone", "today", "earlier"),
    [
        ("en-GB", "en", "Asia/Tokyo", "today, %H:%M", "%-d Nov 2025, %H:%M"),
        ("de-AT", "en", "America/New_York", "today, %-I:%M %p", "Nov %-d, 2025, %-I:%M %p"),
        ("en-GB", "de", "Asia/Kolkata", "heute, %H:%M", "%d.11.2025, %H:%M"),
        ("en-GB", "", "Asia/Tokyo", "today, %H:%M", "%-d Nov 2025, %H:%M"),
        ("en-GB", "no such", "Asia/Tokyo", "today, %H:%M", "%-d Nov 2025, %H:%M"),
    ],
)
def test_a_script_shows_times_in_the_reader_s_time_zone_and_the_page_s_language(
    open_list: Profiles, locale: str, language: str, zone: str, today: str, earlier: str
) -> None:
    """With scripts, a time is local, in the language of the page and the reader's own form."""
    laptop = open_list(LINUX, scripts=True, locale=locale, zone=zone)
    for moment, form in (
        (datetime.now(UTC), today),
        (datetime(2025, 11, 9, 22, 5, tzinfo=UTC), earlier),
    ):
        shown = laptop.evaluate(SHOW_TIME, [language, moment.isoformat()])
        expected = moment.astimezone(ZoneInfo(zone)).strftime(form)
        assert shown.replace("\u202f", " ") == expected


SHOW_TIME = """async ([language, moment]) => {
  document.documentElement.lang = language;
  document.querySelector('.kvs').innerHTML = `<time datetime="${moment}"></time>`;
  await new Promise((loaded) => {
    const script = document.createElement('script');
    script.src = document.querySelector('script[src]').src + '?again';
    script.onload = loaded;
    document.head.append(script);
  });
  return document.querySelector('.kvs time').textContent;
}"""
FOCUS = "() => document.activeElement.innerText.split(':')[0].trim()"


def test_after_confirming_the_browser_is_at_the_open_question(
    app: Flask, open_list: Profiles, clock: Clock
) -> None:
    """With a stale login the button says "Continue". After the password, focus is on the question,
    also without scripts."""
    phone, laptop = open_list(IPHONE), open_list(LINUX, width=NARROWEST)
    clock.advance(hours=1)
    laptop.reload()
    confirm(laptop, "Sign out: Safari 18", "Continue")
    question = laptop.get_by_text("You have confirmed that it is you.")
    question.wait_for()
    assert laptop.locator(":focus").get_attribute("id") == question.get_attribute("id")
    assert laptop.locator("details[open]").count() == 1
    assert is_signed_in(phone)
    laptop.get_by_role("button", name="Yes, sign it out").click()
    assert laptop.get_by_role("status").inner_text() == IPHONE_SIGNED_OUT


def test_eight_devices_fit_on_two_screens_of_a_phone(
    open_list: Profiles, screenshot: Screenshot
) -> None:
    """At 360 pixels, the list of eight devices is not longer than two screens of 800 pixels."""
    for agent in (IPHONE, "curl/8.5.0", IPHONE, LINUX, "Lagerhaus/2", IPHONE, LINUX):
        open_list(agent)
    page = open_list(LINUX, width=360, scripts=True)
    screenshot(page, "devices-eight-360")
    assert page.locator(".kvs-session").count() == 8
    assert page.evaluate("document.documentElement.scrollHeight") <= 1600


@pytest.mark.parametrize(
    ("width", "dark"),
    [(NARROWEST, False), (600, False), (WIDE, False), (NARROWEST, True)],
    ids=["narrow", "600", "wide", "narrow, dark"],
)
def test_list_fits_the_window_and_axe_finds_no_violation(
    open_list: Profiles, screenshot: Screenshot, width: int, dark: bool
) -> None:
    """In each width and colour scheme, nothing is wider than the window, each target has 24 pixels
    or more, and axe reports nothing, also of the message after an act."""
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    open_list(IPHONE)
    open_list(STRANGE)
    open_list(LINUX).goto("/sign-in/ada?short=1")
    page = open_list(LINUX, width=width, dark=dark, scripts=True)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) is dark
    for step in ("folded", "unfolded"):
        screenshot(page, f"devices-{step}-{width}{'-dark' if dark else ''}")
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0
        assert page.evaluate(SMALL_TARGETS) == []
        found = Axe().run(page, options=AXE)
        assert found.violations_count == 0, found.generate_report()
        for opener in page.locator("summary:visible").all():
            opener.click()
    page.get_by_role("button", name="Yes, sign out everywhere").wait_for()
    page.reload()
    confirm(page, "Sign out all other devices", "Yes, sign out all others")
    page.get_by_role("status").wait_for()
    screenshot(page, f"devices-message-{width}{'-dark' if dark else ''}")
    found = Axe().run(page, options=AXE)
    assert found.violations_count == 0, found.generate_report()


AXE = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
SMALL_TARGETS = """() => [...document.querySelectorAll('a, button, summary')]
  .map((e) => [e.innerText, e.getBoundingClientRect()])
  .filter(([, box]) => box.width && (box.width < 24 || box.height < 24))
  .map(([text]) => text)"""


LONG = {
    "Sign out": "Sur cet appareil, se déconnecter",
    "Sign out all other devices": "Auf allen anderen Geräten abmelden",
    "This device": "Das Gerät, das Sie gerade verwenden",
    "Details": "Sicherheitseinstellungseinzelheiten",
    "Sign out everywhere": "Von allen Geräten ohne Ausnahme abmelden",
    "Other devices": "Alle Geräte außer dem, das gerade benutzt wird",
    "New": "Neu hinzugekommen",
    "%(browser)s on %(system)s": "%(browser)s, ein Programm auf einem Gerät mit %(system)s",
}
OVERLAPS = """() => {
  const shown = [...document.querySelectorAll(
    '.kvs h2:not(.kvs-hidden), .kvs h3, .kvs-badge, .kvs p, .kvs-icon, .kvs-button, .kvs-more,'
    + '.kvs-more summary')]
    .filter(e => e.checkVisibility() && e.getClientRects().length);
  const boxes = shown.map(e => [e, e.getBoundingClientRect()]);
  const found = shown.filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth)
    .map(e => 'too wide: ' + e.innerText);
  for (const [a, p] of boxes) for (const [b, q] of boxes)
    if (a !== b && !a.contains(b) && !b.contains(a)
        && p.left < q.right - 1 && q.left < p.right - 1
        && p.top < q.bottom - 1 && q.top < p.bottom - 1)
      found.push(a.innerText + ' / ' + b.innerText);
  return found;
}"""


@pytest.mark.parametrize("width", [NARROWEST, 600, WIDE])
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_long_translations_in_both_directions_do_not_overlap(
    app: Flask, open_list: Profiles, screenshot: Screenshot, width: int, direction: str
) -> None:
    """With long texts, left-to-right and right-to-left, no part covers another or is too wide."""
    app.jinja_env.globals["gettext"] = lambda message: LONG.get(message, message)
    open_list(IPHONE)
    page = open_list(LINUX, width=width, scripts=True)
    page.evaluate(f"document.documentElement.dir = '{direction}'")
    for step in ("folded", "unfolded"):
        screenshot(page, f"devices-long-{direction}-{step}-{width}")
        assert page.evaluate(OVERLAPS) == []
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0
        for opener in page.locator(".kvs-confirm > summary:visible").all():
            opener.click()


@pytest.mark.parametrize("width", [NARROWEST, WIDE])
def test_in_browsers_without_details_content_the_question_is_below_its_row(
    open_list: Profiles, screenshot: Screenshot, width: int
) -> None:
    """Without `::details-content`, each question has the whole width and covers nothing."""
    open_list(IPHONE)
    page = open_list(LINUX, width=width, scripts=True)
    page.route("**/devices.css", without_details_content)
    page.reload()
    for number, opener in enumerate(page.locator(".kvs-confirm > summary").all()):
        opener.click()
        screenshot(page, f"devices-older-{number}-{width}")
        assert page.evaluate(OVERLAPS) == []
        question, card = page.locator(".kvs-consequence:visible"), page.locator(".kvs-card").first
        widths = [t.cast(t.Any, each.bounding_box())["width"] for each in (question, card)]
        assert widths[0] > widths[1] - 50


def without_details_content(route: Route) -> None:
    style = route.fetch().text()
    assert "selector(::details-content)" in style
    older = style.replace("selector(::details-content)", "selector(::unknown)")
    route.fulfill(body=older, content_type="text/css")


def test_signing_out_follows_a_redirect_to_a_sign_in_page_on_another_site(
    app: Flask, open_list: Profiles, url: str
) -> None:
    """The content security policy does not block a redirect to another origin after signing out."""
    elsewhere = url.replace("127.0.0.1", "localhost") + "/elsewhere"
    app.add_url_rule("/elsewhere", "elsewhere", lambda: "<title>Elsewhere</title>")
    app.view_functions["sign_in"] = lambda: redirect(elsewhere, 303)
    laptop = open_list(LINUX)
    row(laptop, "Firefox 140 on Linux").get_by_role("button", name="Sign out").click()
    wait_for_title(laptop, "Elsewhere")


def test_axe_reports_a_heading_with_too_little_contrast(open_list: Profiles) -> None:
    """The accessibility check above can fail."""
    from axe_playwright_python.sync_playwright import Axe

    page = open_list(LINUX, scripts=True)
    page.evaluate("document.querySelector('h1').style.color = '#ddd'")
    assert Axe().run(page).violations_count > 0


def test_a_form_on_another_site_gets_403_and_ends_no_session(
    open_list: Profiles, browser: Browser, url: str
) -> None:
    """A page of another site that posts to the list gets 403."""
    laptop = open_list(LINUX)
    page = laptop.context.new_page()
    action = f"{url}/devices/revoke-all"
    page.set_content(f'<form method="post" action="{action}"><button>Win a prize</button></form>')
    page.get_by_role("button").click()
    wait_for_title(page, "403 Forbidden")
    page.close()
    assert is_signed_in(laptop)
