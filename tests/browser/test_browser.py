"""The example in a real browser, from signing in to signing out."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

import pytest

from example.auth import REASONS
from example.users import DEMO_USERS

from ..support.chromium import Screenshot

if t.TYPE_CHECKING:
    from playwright.sync_api import Page

NAME = DEMO_USERS[0][0]
NARROWEST, WIDE = 320, 1100

OpenPage = Callable[..., "Page"]


def sign_in(page: Page, user: tuple[str, ...] = DEMO_USERS[0]) -> None:
    """Signs in by keyboard: the page puts the cursor into the first field."""
    name, email, _, password = user
    page.goto("/")
    wait_for_heading(page, "Sign in")
    page.keyboard.type(email)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    wait_for_heading(page, f"Hello, {name}")


def wait_for_heading(page: Page, text: str) -> None:
    """Wait until the next page is loaded: a click returns before that."""
    from playwright.sync_api import expect

    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def test_a_session_lasts_from_sign_in_over_an_app_restart_to_sign_out(
    open_page: OpenPage, restart_example: Callable[[], None], screenshot: Screenshot
) -> None:
    """Two devices sign in; one revokes the other, survives the app's restart and signs out."""
    laptop = open_page(agent="Laptop", width=WIDE)
    phone = open_page(agent="Phone", width=NARROWEST)
    sign_in(laptop)
    sign_in(phone)

    laptop.get_by_role("link", name="Devices", exact=True).click()
    device = laptop.get_by_role("listitem").filter(has_text="Phone")
    device.locator("summary", has_text="Sign out").click()
    screenshot(laptop, "two-sessions")
    device.get_by_role("button", name="Yes, sign it out").click()
    assert "Phone" in laptop.get_by_role("status").inner_text()
    phone.reload()
    wait_for_heading(phone, "Sign in")
    assert phone.get_by_role("status").inner_text() == REASONS["revoked"]
    screenshot(phone, "revoked")

    restart_example()
    laptop.goto("/")
    wait_for_heading(laptop, f"Hello, {NAME}")

    laptop.get_by_role("navigation").get_by_role("button", name="Sign out").click()
    assert laptop.get_by_role("status").inner_text() == "You are signed out."
    laptop.goto("/account/")
    wait_for_heading(laptop, "Sign in")


@pytest.mark.parametrize("width", [NARROWEST, WIDE])
def test_an_admin_is_asked_before_a_user_becomes_an_admin_or_is_signed_out(
    open_page: OpenPage, screenshot: Screenshot, width: int
) -> None:
    """Both acts ask first, say what they do, and apply to the user's next click. A user without
    the role can change the account on the error page."""
    ada, bob = open_page(agent="Ada", width=width), open_page(agent="Bob", width=width)
    sign_in(ada)
    sign_in(bob, DEMO_USERS[1])
    bob.goto("/admin/")
    wait_for_heading(bob, "Not for this account")
    screenshot(bob, f"other-account-{width}")

    ada.goto("/admin/")
    ada.locator("summary", has_text="Make an admin").click()
    screenshot(ada, f"ask-{width}")
    ada.get_by_role("button", name="Yes, make an admin").click()
    assert ada.get_by_role("status").inner_text() == "The role of Bob is now: admin."
    bob.reload()
    wait_for_heading(bob, "People")

    ada.locator("summary", has_text="Sign out everywhere").click()
    screenshot(ada, f"ask-sign-out-{width}")
    ada.get_by_role("button", name="Yes, sign out everywhere").click()
    assert ada.get_by_role("status").inner_text() == "1 device was signed out: Bob."
    bob.reload()
    wait_for_heading(bob, "Sign in")


@pytest.mark.parametrize("width", [NARROWEST, WIDE])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_fits_the_window_and_logs_no_browser_error(
    open_page: OpenPage, screenshot: Screenshot, width: int, dark: bool
) -> None:
    """No page is wider than the window, and the browser's console stays empty."""
    page = open_page(agent="Laptop", width=width, dark=dark)
    console_messages: list[str] = []
    page.on("console", lambda message: console_messages.append(message.text))

    def visit(path: str, name: str) -> None:
        page.goto(path)
        screenshot(page, f"{name}-{width}{'-dark' if dark else ''}")
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0, name

    visit("/sign-in", "sign-in")
    sign_in(page)
    visit("/", "dashboard")
    visit("/account/", "account")
    visit("/account/devices/", "devices")
    visit("/account/email", "email")
    visit("/account/password", "password")
    visit("/confirm", "confirm")
    visit("/admin/", "people")
    assert console_messages == []
