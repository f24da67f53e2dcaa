"""The devices pages in a real browser: without scripts, by keyboard, in narrow windows and in dark
colours. The app has no layout of its own, so the pages use our base page."""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Iterator

import pytest
from flask import Flask, redirect
from werkzeug.serving import make_server

import flask_kvsession as kvs

from ..support.apps import MakeApp
from ..support.chromium import Screenshot

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

LINUX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)
NARROWEST, WIDE = 320, 1000
STRANGE = "<b>Unbreakable" + "x" * 400 + "</b>"


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app(login_view="sign_in", views=False, locate={"127.0.0.1": "Lyon, France"}.get)
    app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")

    @app.get("/sign-in/<user>")
    def sign_in_as(user: str) -> t.Any:
        kvs.login_user(user)
        return redirect("/devices/", 303)

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
        self, agent: str, *, width: int = WIDE, dark: bool = False, scripts: bool = False
    ) -> Page:
        context = self.browser.new_context(
            base_url=self.url,
            user_agent=agent,
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
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
    assert "This device" in row(laptop, "Firefox on Linux").inner_text()
    other = row(laptop, "Safari on iPhone")
    assert "Lyon, France 127.0.0.1" in other.inner_text()
    assert "Active a minute ago" in other.inner_text()
    question = other.get_by_text("Safari on iPhone is signed out at once.")
    assert not question.is_visible()
    other.locator("summary", has_text="Sign out").click()
    assert question.is_visible()
    assert is_signed_in(phone)
    other.locator("summary", has_text="Cancel").click()
    assert not question.is_visible()
    other.locator("summary", has_text="Sign out").click()
    other.get_by_role("button", name="Yes, sign it out").click()
    assert laptop.get_by_role("status").inner_text() == "1 device was signed out."
    assert laptop.get_by_text("You are not signed in on any other device.").is_visible()
    assert not is_signed_in(phone)
    assert is_signed_in(laptop)


def test_signing_out_all_others_keeps_this_device_and_everywhere_does_not(
    open_list: Profiles,
) -> None:
    """ "All others" keeps this device; "everywhere" leads this device to the sign-in page."""
    phone, laptop = open_list(IPHONE), open_list(LINUX)
    confirm(laptop, "Sign out all other devices", "Yes, sign out all others")
    assert laptop.get_by_role("status").inner_text() == "1 device was signed out."
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
    row(laptop, "Firefox on Linux").get_by_role("button", name="Sign out").click()
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
    """Tab goes from top to bottom, Enter opens and answers the question, and focus is visible."""
    phone, laptop = open_list(IPHONE), open_list(LINUX, scripts=True)
    where = "() => document.activeElement.innerText.split(':')[0].trim()"
    reached = []
    for _ in range(4):
        laptop.keyboard.press("Tab")
        reached.append(laptop.evaluate(where))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert laptop.evaluate(outline) == "solid"
    assert reached == ["Details", "Sign out", "Details", "Sign out"]
    laptop.keyboard.press("Enter")
    laptop.keyboard.press("Tab")
    assert laptop.evaluate(where) == "Yes, sign it out"
    laptop.keyboard.press("Enter")
    laptop.wait_for_url("**/devices/?ended=1")
    assert not is_signed_in(phone)


@pytest.mark.parametrize(
    ("width", "dark"),
    [(NARROWEST, False), (600, False), (WIDE, False), (NARROWEST, True)],
    ids=["narrow", "600", "wide", "narrow, dark"],
)
def test_list_fits_the_window_and_axe_finds_no_violation(
    open_list: Profiles, screenshot: Screenshot, width: int, dark: bool
) -> None:
    """In each width and colour scheme, nothing is wider than the window and axe reports nothing."""
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    open_list(IPHONE)
    open_list(STRANGE)
    page = open_list(LINUX, width=width, dark=dark, scripts=True)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) is dark
    for step in ("folded", "unfolded"):
        screenshot(page, f"devices-{step}-{width}{'-dark' if dark else ''}")
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0
        found = Axe().run(page, options={"resultTypes": ["violations"]})
        assert found.violations_count == 0, found.generate_report()
        for opener in page.locator("summary:visible").all():
            opener.click()
    page.goto("/devices/?ended=3")
    assert Axe().run(page).violations_count == 0


LONG = {
    "Sign out": "Sur cet appareil, se déconnecter",
    "Sign out all other devices": "Auf allen anderen Geräten abmelden",
    "This device": "Das Gerät, das Sie gerade verwenden",
    "Details": "Sicherheitseinstellungseinzelheiten",
    "All other devices": "Alle Geräte außer dem, das gerade benutzt wird",
    "%(browser)s on %(system)s": "%(browser)s, ein Programm auf einem Gerät mit %(system)s",
}
OVERLAPS = """() => {
  const shown = [...document.querySelectorAll(
    '.kvs h3, .kvs-badge, .kvs p, .kvs-icon, .kvs-button, .kvs-more, .kvs-more summary')]
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


def test_signing_out_follows_a_redirect_to_a_sign_in_page_on_another_site(
    app: Flask, open_list: Profiles, url: str
) -> None:
    """The content security policy does not block a redirect to another origin after signing out."""
    elsewhere = url.replace("127.0.0.1", "localhost") + "/elsewhere"
    app.add_url_rule("/elsewhere", "elsewhere", lambda: "<title>Elsewhere</title>")
    app.view_functions["sign_in"] = lambda: redirect(elsewhere, 303)
    laptop = open_list(LINUX)
    row(laptop, "Firefox on Linux").get_by_role("button", name="Sign out").click()
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
