"""The example app, tested as a user of the package tests an app: with `flask_kvsession.testing`."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import typing as t
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.security import check_password_hash
from werkzeug.test import TestResponse

from example import auth, certificate, create_app, places, users
from example.auth import session_data
from flask_kvsession.testing import Clock, login_as

from .support.device import Device, Offer
from .support.passwords import cheap_password_hash

pytest_plugins = ["flask_kvsession.testing.plugin"]

ROOT = Path(__file__).parent.parent
ADA, BOB = "ada@example.com", "bob@example.com"
PASSWORDS = {email: password for _, email, _, password in users.DEMO_USERS}
ADAS_ID, BOBS_ID = 1, 2
IDS = {ADA: ADAS_ID, BOB: BOBS_ID}
AS_PAGE = {"Accept": "text/html"}

AppFactory = Callable[..., Flask]


@pytest.fixture
def make_app_as_shipped(tmp_path: Path, kvsession_config: dict[str, t.Any]) -> AppFactory:
    """Makes the app with its own password hash; keyword arguments are further settings."""
    config = {"TESTING": True, "DATABASE": str(tmp_path / "users.sqlite"), **kvsession_config}

    def make(**settings: object) -> Flask:
        return create_app({**config, **settings})

    return make


@pytest.fixture
def make_app(make_app_as_shipped: AppFactory, monkeypatch: pytest.MonkeyPatch) -> AppFactory:
    """Makes the app with a cheap password hash; keyword arguments are further settings."""
    monkeypatch.setattr(users, "generate_password_hash", cheap_password_hash)
    monkeypatch.setattr(users, "NOBODYS_HASH", cheap_password_hash("nobody's"))
    return make_app_as_shipped


@pytest.fixture
def app(make_app: AppFactory) -> Flask:
    return make_app()


def sign_in(app: Flask, email: str, *, agent: str = "Test") -> FlaskClient:
    """A browser in which the user is signed in, as `auth.sign_in` does it."""
    client = app.test_client()
    client.environ_base["HTTP_USER_AGENT"] = agent
    with app.app_context():
        user = users.get(IDS[email])
    assert user is not None
    login_as(client, user.id, session_data(user))
    return client


def is_signed_in(client: FlaskClient) -> bool:
    return client.get("/api/me").status_code == 200


def other_session_ids(client: FlaskClient) -> list[str]:
    """The sessions that the devices page offers to end."""
    page = client.get("/account/devices/", headers=AS_PAGE).text
    return re.findall(r"/account/devices/([\w-]{19})/revoke", page)


def token_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("kvsession")
    assert cookie is not None
    return cookie.value


def set_cookie(response: TestResponse) -> str:
    return response.headers.get("Set-Cookie", "")


class TestSigningIn:
    def test_leads_back_to_the_requested_page(self, app: Flask) -> None:
        """An anonymous browser that opens a guarded page is sent to sign in and from there back to
        that page."""
        client = app.test_client()
        response = client.get("/account/password", headers=AS_PAGE)
        assert response.location == "/sign-in?next=/account/password"
        form = {"email": ADA, "password": PASSWORDS[ADA]}
        assert client.post(response.location, data=form).location == "/account/password"

    @pytest.mark.parametrize(
        "target", ["//evil.example", "https://evil.example", "/\\evil.example"]
    )
    def test_with_next_on_another_site_leads_to_the_dashboard(
        self, app: Flask, target: str
    ) -> None:
        """A `next` that names another site leads to the dashboard."""
        form = {"email": ADA, "password": PASSWORDS[ADA], "next": target}
        assert app.test_client().post("/sign-in", data=form).location == "/"

    def test_answers_alike_for_a_wrong_password_and_an_unknown_address(self, app: Flask) -> None:
        """A wrong password and an unknown address get the same response."""
        client = app.test_client()
        known, unknown = (
            client.post("/sign-in", data={"email": email, "password": "wrong"})
            for email in (ADA, "eve@example.com")
        )
        assert known.status_code == unknown.status_code == 401
        assert known.text.replace(f'value="{ADA}"', 'value="eve@example.com"') == unknown.text
        assert not set_cookie(known)

    def test_sign_in_with_an_unknown_address_checks_one_hash_too(
        self, make_app_as_shipped: AppFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An unknown address costs one check of a hash that is made by the same method as real
        hashes."""
        app = make_app_as_shipped()
        checked: list[str] = []
        real_check = check_password_hash

        def check(password_hash: str, password: str) -> bool:
            checked.append(password_hash.partition("$")[0])
            return real_check(password_hash, password)

        monkeypatch.setattr(users, "check_password_hash", check)
        for email in (ADA, "eve@example.com"):
            app.test_client().post("/sign-in", data={"email": email, "password": "wrong"})
        assert len(checked) == 2
        assert len(set(checked)) == 1

    @pytest.mark.parametrize("remember", [True, False])
    def test_remember_box_decides_whether_the_cookie_outlives_the_browser(
        self, app: Flask, remember: bool
    ) -> None:
        """The cookie has `Max-Age` only if the box was ticked."""
        form = {"email": ADA, "password": PASSWORDS[ADA]} | ({"remember": "on"} if remember else {})
        response = app.test_client().post("/sign-in", data=form)
        assert ("Max-Age" in set_cookie(response)) is remember

    def test_page_gives_an_anonymous_browser_no_cookie(self, app: Flask) -> None:
        """The sign-in page reads the session, but creates none."""
        response = app.test_client().get("/sign-in")
        assert response.status_code == 200
        assert not set_cookie(response)

    def test_page_sends_a_signed_in_user_to_the_requested_page(self, app: Flask) -> None:
        """A signed-in user gets no form, but the page that `next` names, or the dashboard."""
        client = sign_in(app, ADA)
        assert client.get("/sign-in?next=/account/").location == "/account/"
        assert client.get("/sign-in?signed_out=yes").location == "/"

    def test_page_tells_a_revoked_device_why_until_the_next_sign_in(self, app: Flask) -> None:
        """The page of a device that was signed out from outside says so."""
        laptop, phone = sign_in(app, ADA), sign_in(app, ADA)
        assert "signed out" not in app.test_client().get("/sign-in").text
        laptop.post("/account/devices/revoke-others")
        phone.get("/", headers=AS_PAGE)
        assert auth.REASONS["revoked"] in phone.get("/sign-in").text
        form = {"email": ADA, "password": PASSWORDS[ADA]}
        assert phone.post("/sign-in", data=form).location == "/"

    def test_page_tells_why_an_unused_device_is_signed_out(
        self, app: Flask, kvsession_clock: Clock
    ) -> None:
        """After the idle timeout the page says that the device was not used."""
        client = sign_in(app, ADA)
        kvsession_clock.advance(days=8)
        assert auth.REASONS["expired"] in client.get("/sign-in").text

    @pytest.mark.parametrize("ticked", [True, False])
    def test_a_wrong_password_keeps_the_remember_box(self, app: Flask, ticked: bool) -> None:
        """After a wrong password the box is as the user left it; at first it is ticked."""
        client = app.test_client()
        box = r'<input name="remember" type="checkbox" checked>'
        assert box in client.get("/sign-in").text
        form = {"email": ADA, "password": "wrong"} | ({"remember": "on"} if ticked else {})
        assert (box in client.post("/sign-in", data=form).text) is ticked

    def test_from_another_site_is_refused_without_a_cookie(self, app: Flask) -> None:
        """A sign-in form that is posted from another site is refused."""
        form = {"email": ADA, "password": PASSWORDS[ADA]}
        headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        response = app.test_client().post("/sign-in", data=form, headers=headers)
        assert response.status_code == 403
        assert not set_cookie(response)

    def test_signing_out_ends_the_session_and_clears_the_cookie(self, app: Flask) -> None:
        """Signing out ends the session, so that a kept copy of the cookie opens nothing."""
        client = sign_in(app, ADA)
        kept = token_of(client)
        response = client.post("/sign-out", follow_redirects=True)
        assert "You are signed out." in response.text
        assert client.get_cookie("kvsession") is None
        client.set_cookie("kvsession", kept)
        assert not is_signed_in(client)


class TestPages:
    def test_the_dashboard_shows_the_name_and_the_session_id_but_no_secret(
        self, app: Flask
    ) -> None:
        """The dashboard shows the user's name and the session id, but not the secret."""
        client = sign_in(app, ADA)
        page = client.get("/").text
        assert "Hello, Ada" in page
        token = token_of(client)
        assert token[:19] in page
        assert token[19:] not in page

    def test_the_dashboard_shows_the_last_five_notes_escaped(self, app: Flask) -> None:
        """The session keeps the last five notes, and the page escapes them."""
        client = sign_in(app, BOB)
        for note in ["zero", "one", "two", "three", "four", "<b>five</b>"]:
            client.post("/notes", data={"note": note})
        page = client.get("/").text
        notes = ["one", "two", "three", "four", "&lt;b&gt;five&lt;/b&gt;"]
        assert re.findall(r"<ul><li>(.*)</li></ul>", page) == ["</li><li>".join(notes)]

    def test_api_me_answers_a_user_and_an_anonymous_browser_in_json(self, app: Flask) -> None:
        """`/api/me` returns the signed-in user as JSON, and answers an anonymous browser with 401
        in JSON."""
        bob = sign_in(app, BOB).get("/api/me")
        assert bob.json == {"id": BOBS_ID, "email": BOB, "role": "member"}
        anonymous = app.test_client().get("/api/me")
        assert (anonymous.status_code, anonymous.json) == (401, {"error": "Unauthorized"})

    def test_every_response_has_a_strict_content_security_policy(self, app: Flask) -> None:
        """Every response has a content security policy that forbids foreign and inline scripts, and
        framing."""
        for path in ("/", "/sign-in", "/nowhere"):
            policy = app.test_client().get(path).headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy

    def test_an_unknown_path_is_a_404_page_that_does_not_touch_the_session(
        self, app: Flask
    ) -> None:
        """An unknown path gets a 404 page in the app's layout, without `Vary`."""
        response = app.test_client().get("/nowhere")
        assert response.status_code == 404
        assert "Keyring" in response.text
        assert "Vary" not in response.headers


class TestAccount:
    def test_devices_page_lists_only_the_users_own_sessions(self, app: Flask) -> None:
        """The devices page has the app's layout and lists only the user's own sessions."""
        laptop = sign_in(app, ADA, agent="Ada's laptop")
        sign_in(app, ADA, agent="Ada's phone")
        sign_in(app, BOB, agent="Bob's tablet")
        page = laptop.get("/account/devices/", headers=AS_PAGE).text
        assert "Your devices · Keyring" in page
        assert "Ada&#39;s phone" in page
        assert "Bob&#39;s tablet" not in page
        assert "This computer" in page

    @pytest.mark.parametrize(
        ("address", "place"),
        [
            ("127.0.0.1", "This computer"),
            ("::1", "This computer"),
            ("192.168.1.7", "Your local network"),
            ("8.8.8.8", None),
        ],
    )
    def test_sample_of_places_knows_the_addresses_of_a_demo(
        self, address: str, place: str | None
    ) -> None:
        """Loopback and private addresses have a place, others have none."""
        assert places.place_of(address) == place

    def test_devices_page_signs_out_only_the_chosen_device(self, app: Flask) -> None:
        """Signing out a device ends its session and no other."""
        laptop, phone = sign_in(app, ADA), sign_in(app, ADA)
        [phones_id] = other_session_ids(laptop)
        revoke = f"/account/devices/{phones_id}/revoke"
        page = laptop.post(revoke, headers=AS_PAGE, follow_redirects=True).text
        assert "was signed out." in page
        assert (is_signed_in(laptop), is_signed_in(phone)) == (True, False)
        gone = laptop.post(revoke, headers=AS_PAGE)
        assert gone.status_code == 404
        assert "Keyring" in gone.text

    def test_devices_page_signs_out_all_devices(self, app: Flask) -> None:
        """After signing out everywhere, the sign-in page says that the user is signed out."""
        laptop, phone = sign_in(app, ADA), sign_in(app, ADA)
        everywhere = "/account/devices/revoke-all"
        page = laptop.post(everywhere, headers=AS_PAGE, follow_redirects=True).text
        assert "You are signed out." in page
        assert not is_signed_in(phone)

    def test_devices_page_asks_for_the_password_if_the_login_is_not_fresh(
        self, app: Flask, kvsession_clock: Clock
    ) -> None:
        """If the login is no longer fresh, signing out devices asks for the password and then leads
        back to the devices page."""
        laptop, phone = sign_in(app, ADA), sign_in(app, ADA)
        kvsession_clock.advance(minutes=6)
        others = "/account/devices/revoke-others"
        confirm = laptop.post(others, headers=AS_PAGE).location
        assert confirm == "/confirm?next=/account/devices/?open%3Dothers"
        assert is_signed_in(phone)
        confirmed = laptop.post(confirm, data={"password": PASSWORDS[ADA]})
        assert confirmed.location == "/account/devices/?open=others"

    def test_a_new_password_ends_the_other_sessions(self, app: Flask) -> None:
        """A new password rotates the token of this session and ends the user's other sessions."""
        laptop, phone, bob = sign_in(app, ADA), sign_in(app, ADA), sign_in(app, BOB)
        old_token = token_of(laptop)
        form = {"current": PASSWORDS[ADA], "new": "difference engine"}
        page = laptop.post("/account/password", data=form, follow_redirects=True).text
        assert "Your password is changed. 1 other device was signed out." in page
        assert token_of(laptop) != old_token
        assert token_of(laptop)[:19] == old_token[:19]
        assert [is_signed_in(client) for client in (laptop, phone, bob)] == [True, False, True]

    def test_a_new_password_replaces_the_old_one(self, app: Flask) -> None:
        """After the change the new password signs the user in, and the old password does not."""
        form = {"current": PASSWORDS[ADA], "new": "difference engine"}
        sign_in(app, ADA).post("/account/password", data=form)
        for password, status in ((PASSWORDS[ADA], 401), ("difference engine", 303)):
            form = {"email": ADA, "password": password}
            assert app.test_client().post("/sign-in", data=form).status_code == status

    @pytest.mark.parametrize(
        ("current", "new", "complaint"),
        [
            ("wrong", "difference engine", "This is not your current password."),
            (PASSWORDS[ADA], "short", "Please use at least 12 characters."),
        ],
    )
    def test_a_refused_password_change_ends_no_session(
        self, app: Flask, current: str, new: str, complaint: str
    ) -> None:
        """A wrong current password or a short new password is refused, and no session ends."""
        laptop, phone = sign_in(app, ADA), sign_in(app, ADA)
        response = laptop.post("/account/password", data={"current": current, "new": new})
        assert response.status_code == 400
        assert complaint in response.text
        assert is_signed_in(phone)
        sign_in(app, ADA)

    def test_a_new_email_address_is_in_all_sessions_of_the_user(self, app: Flask) -> None:
        """A change of the email address changes all sessions of the user."""
        laptop, phone = sign_in(app, ADA), sign_in(app, ADA)
        laptop.post("/account/email", data={"email": "countess@example.com"})
        for client in (laptop, phone):
            assert client.get("/api/me").json == {
                "id": ADAS_ID,
                "email": "countess@example.com",
                "role": "admin",
            }

    @pytest.mark.parametrize(("email", "status"), [("BOB@example.com", 409), ("nonsense", 400)])
    def test_a_taken_or_invalid_email_address_is_refused(
        self, app: Flask, email: str, status: int
    ) -> None:
        """Another user's address, in any case, and an invalid address are refused."""
        client = sign_in(app, ADA)
        assert client.post("/account/email", data={"email": email}).status_code == status
        assert client.get("/api/me").json == {"id": ADAS_ID, "email": ADA, "role": "admin"}

    def test_email_change_asks_for_the_password_if_the_login_is_not_fresh(
        self, app: Flask, kvsession_clock: Clock
    ) -> None:
        """If the login is no longer fresh, changing the email address asks for the password."""
        client = sign_in(app, ADA)
        kvsession_clock.advance(minutes=6)
        response = client.get("/account/email", headers=AS_PAGE)
        assert response.location == "/confirm?next=/account/email"
        assert client.post("/account/email", data={"email": "eve@example.com"}).status_code == 401

        old_token = token_of(client)
        refused = client.post(response.location, data={"password": "wrong"})
        assert refused.status_code == 401
        assert "This is not your password." in refused.text
        assert token_of(client) == old_token

        confirmed = client.post(response.location, data={"password": PASSWORDS[ADA]})
        assert confirmed.location == "/account/email"
        assert token_of(client) != old_token


class TestAdmin:
    def test_page_is_refused_to_other_users_and_anonymous_browsers(self, app: Flask) -> None:
        """A user who is no admin gets a 403 page, and an anonymous browser is sent to sign in."""
        assert "People" in sign_in(app, ADA).get("/admin/").text
        refused = sign_in(app, BOB).get("/admin/", headers=AS_PAGE)
        assert refused.status_code == 403
        assert "You are signed in as Bob" in refused.text
        anonymous = app.test_client().get("/admin/", headers=AS_PAGE)
        assert anonymous.location == "/sign-in?next=/admin/"

    def test_page_lets_another_user_change_the_account(self, app: Flask) -> None:
        """The 403 page has a button that signs out, and the next sign-in leads to the page."""
        bob = sign_in(app, BOB)
        page = bob.get("/admin/", headers=AS_PAGE).text
        [action] = re.findall(r'action="(/sign-out\?next=[^"]*)"', page)
        sign_in_page = bob.post(action).location
        assert not is_signed_in(bob)
        form = {"email": ADA, "password": PASSWORDS[ADA]}
        assert bob.post(sign_in_page, data=form).location == "/admin/"

    def test_page_asks_for_the_password_if_the_login_is_not_fresh(
        self, app: Flask, kvsession_clock: Clock
    ) -> None:
        """If the login is no longer fresh, an admin is asked for the password."""
        client = sign_in(app, ADA)
        kvsession_clock.advance(minutes=6)
        assert client.get("/admin/", headers=AS_PAGE).location == "/confirm?next=/admin/"
        assert client.post(f"/admin/{BOBS_ID}/sign-out").status_code == 401

    def test_signs_out_all_sessions_of_one_user(self, app: Flask) -> None:
        """An admin signs one user out on all devices, and nobody else."""
        ada, laptop, phone = sign_in(app, ADA), sign_in(app, BOB), sign_in(app, BOB)
        assert "2 devices" in ada.get("/admin/").text
        page = ada.post(f"/admin/{BOBS_ID}/sign-out", follow_redirects=True).text
        assert "2 devices were signed out: Bob." in page
        assert "not signed in" in page
        assert [is_signed_in(client) for client in (ada, laptop, phone)] == [True, False, False]

    def test_a_changed_role_applies_to_existing_sessions(self, app: Flask) -> None:
        """A role that is given or taken away applies to existing sessions from the next request
        on."""
        ada, bob = sign_in(app, ADA), sign_in(app, BOB)
        bob.post("/notes", data={"note": "Water the ferns"})
        for role, status in (("admin", 200), ("member", 403)):
            ada.post(f"/admin/{BOBS_ID}/role", data={"role": role})
            assert bob.get("/admin/").status_code == status
        assert "Water the ferns" in bob.get("/").text

    def test_a_given_role_applies_to_later_logins(self, app: Flask) -> None:
        """A role that is given applies to the user's next login."""
        sign_in(app, ADA).post(f"/admin/{BOBS_ID}/role", data={"role": "admin"})
        assert sign_in(app, BOB).get("/admin/").status_code == 200

    def test_refuses_acts_on_oneself_unknown_users_and_unknown_roles(self, app: Flask) -> None:
        """An admin cannot change the own role, sign out an unknown user or give an unknown role."""
        ada = sign_in(app, ADA)
        assert ada.post(f"/admin/{ADAS_ID}/role", data={"role": "member"}).status_code == 403
        assert ada.post("/admin/77/sign-out").status_code == 404
        assert ada.post(f"/admin/{BOBS_ID}/role", data={"role": "emperor"}).status_code == 400
        assert ada.get("/admin/").status_code == 200


class TestStartingTheApp:
    def test_a_second_start_keeps_the_stored_users(self, make_app: AppFactory) -> None:
        """A second start of the app keeps the users as they are stored."""
        client = sign_in(make_app(), ADA)
        client.post("/account/email", data={"email": "countess@example.com"})
        with make_app().app_context():
            emails = [user.email for user in users.everyone()]
        assert emails == ["countess@example.com", BOB]

    def test_make_names_another_port_if_the_port_is_taken(self) -> None:
        """`make example` says which variable chooses another port, before it starts the app."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            command = ["make", "--old-file=.venv/.example-installed", "example", f"PORT={port}"]
            done = subprocess.run(
                [*command, f"BIN={Path(sys.executable).parent}"],
                cwd=ROOT,
                env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
                capture_output=True,
                text=True,
                check=False,
            )
        assert (
            done.stdout
            == f"Port {port} is taken; choose another one: make example PORT={port + 1}\n"
        )
        assert done.returncode != 0

    def test_the_environment_names_the_server(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """`FLASK_KVSESSION_REDIS_URL` is the server of the app."""
        monkeypatch.setattr(users, "generate_password_hash", cheap_password_hash)
        monkeypatch.setenv("FLASK_KVSESSION_REDIS_URL", "redis://127.0.0.1:1/0")
        app = create_app({"DATABASE": str(tmp_path / "users.sqlite")})
        assert app.extensions["kvsession"].settings.redis_url == "redis://127.0.0.1:1/0"

    def test_without_a_store_responses_are_503_and_keep_the_cookie(
        self, make_app: AppFactory
    ) -> None:
        """If the Redis server is unreachable, pages that use the session answer 503 and keep the
        cookie."""
        client = make_app(KVSESSION_REDIS_URL="redis://127.0.0.1:1/0").test_client()
        client.set_cookie("kvsession", "x" * 62)
        form = {"email": ADA, "password": PASSWORDS[ADA]}
        for response in (client.get("/", headers=AS_PAGE), client.post("/sign-in", data=form)):
            assert response.status_code == 503
            assert "you have not been signed out" in response.text
            assert response.headers["Retry-After"]
            assert not set_cookie(response)


class TestDeviceBound:
    """`make example-https`: the certificate, and the app that offers to bind sessions."""

    def test_the_app_binds_and_tells_a_copied_cookie_why(
        self, make_app: AppFactory, kvsession_clock: Clock
    ) -> None:
        """The devices page marks the bound session, and the sign-in page tells a browser without
        the proof why it is signed out."""
        app = make_app(KVSESSION_DEVICE_BOUND="offer")
        device = Device(app)
        form = {"email": ADA, "password": PASSWORDS[ADA]}
        device.offer = Offer.of(device.post("/sign-in", data=form))
        assert device.register().status_code == 200
        assert "Device-bound" in device.get("/account/devices/", **AS_PAGE).text
        kvsession_clock.advance(seconds=10)
        copy = device.copy(device.name)
        assert copy.get("/api/me").status_code == 401
        assert auth.REASONS["unbound"] in copy.get("/sign-in", **AS_PAGE).text

    def test_the_certificate_is_made_once_and_the_command_for_chromium_is_printed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The printed hash is that of the certificate's key, and the key is readable by its owner
        only. A certificate that ends soon is replaced."""
        certificate.main(str(tmp_path), "8443")
        first = certificate.make(tmp_path)
        options = " ".join(certificate.chromium_options(first))
        printed = " ".join(capsys.readouterr().out.replace("\\", "").split())
        assert options in printed
        assert "https://localhost:8443" in printed
        assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
        assert certificate.make(tmp_path) == first

    def test_a_certificate_that_ends_soon_is_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A certificate with less than a day left is made anew."""
        with monkeypatch.context() as short:
            short.setattr(certificate, "VALID_FOR", timedelta(hours=12))
            first = certificate.make(tmp_path)
        assert certificate.make(tmp_path) != first
