"""`KVSESSION_CLEAR_SITE_DATA`: a logout tells the browser to forget private pages."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

import pytest
from flask import Flask, flash, g, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs

from .support.apps import MakeApp
from .support.browsers import AS_PAGE, Browsers, SignIn, id_of, token_of

HEADER = "Clear-Site-Data"


def add_views(app: Flask) -> Flask:
    app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")

    @app.post("/switch")
    def switch() -> t.Any:
        kvs.logout_user()
        kvs.login_user("bob")
        return {}

    @app.post("/revoke-current")
    def revoke_current() -> t.Any:
        kvs.revoke_session(g.session.id)
        return {}

    @app.post("/revoke-others")
    def revoke_others() -> t.Any:
        return {"n": kvs.revoke_all_sessions(except_current=True)}

    return app


@pytest.fixture(params=["cache", "*"])
def app(make_app: MakeApp, request: pytest.FixtureRequest) -> Flask:
    return add_views(make_app(clear_site_data=request.param))


def expected(app: Flask) -> list[str]:
    """The header as the specification quotes it."""
    return [f'"{app.config["KVSESSION_CLEAR_SITE_DATA"]}"']


def sent(response: TestResponse) -> list[str]:
    return response.headers.getlist(HEADER)


Path = Callable[[FlaskClient], str]

LOGOUTS: dict[str, Path] = {
    "logout_user": lambda browser: "/logout",
    "revoke_session": lambda browser: "/revoke-current",
    "sign out": lambda browser: "/devices/sign-out",
    "revoke": lambda browser: f"/devices/{id_of(browser)}/revoke",
    "revoke all": lambda browser: "/devices/revoke-all",
}


@pytest.mark.parametrize("headers", [AS_PAGE, {}], ids=["page", "json"])
@pytest.mark.parametrize("path", LOGOUTS.values(), ids=LOGOUTS)
def test_each_way_to_sign_out_of_this_browser_sends_the_header(
    app: Flask, sign_in: SignIn, path: Path, headers: dict[str, str]
) -> None:
    """Each act that ends the current session sends the header once, quoted."""
    browser = sign_in(app)
    response = browser.post(path(browser), headers=headers)
    assert response.status_code in (200, 303)
    assert sent(response) == expected(app)
    assert token_of(browser) is None


def test_logout_without_a_session_sends_the_header(app: Flask) -> None:
    """A logout of a browser whose session has ended clears its private pages too."""
    for path in ("/logout", "/devices/sign-out"):
        assert sent(app.test_client().post(path)) == expected(app)


def test_responses_that_sign_nobody_out_do_not_send_the_header(app: Flask) -> None:
    """Logins, reads, writes, an emptied anonymous session and the end of other sessions of the user
    do not send the header."""
    browser_of = Browsers(app)
    anonymous = app.test_client()
    app.add_url_rule("/empty", "empty", lambda: (g.session.clear(), "")[1], methods=["POST"])
    responses = [
        anonymous.post("/data", json={"x": 1}),
        anonymous.post("/empty"),
        anonymous.post("/login/ada"),
        anonymous.post("/login/ada"),
        anonymous.get("/me"),
        app.test_client().get("/me"),
    ]
    phone, laptop = browser_of("phone"), browser_of("laptop")
    responses.append(laptop.post(f"/devices/{id_of(phone)}/revoke"))
    responses += [laptop.post("/revoke-others"), phone.get("/me")]
    assert [sent(response) for response in responses] == [[]] * len(responses)


def test_setting_is_off_by_default(make_app: MakeApp, sign_in: SignIn) -> None:
    """Without the setting, a logout sends no header."""
    assert sent(sign_in(make_app()).post("/logout")) == []


def test_true_means_cache(make_app: MakeApp, sign_in: SignIn) -> None:
    """The value True sends `"cache"`."""
    assert sent(sign_in(make_app(clear_site_data=True)).post("/logout")) == ['"cache"']


@pytest.mark.parametrize(("setting", "header"), [("cache", '"cache"'), ("*", '"cache", "storage"')])
def test_login_after_a_logout_keeps_its_cookie(
    make_app: MakeApp, sign_in: SignIn, setting: str, header: str
) -> None:
    """If the request signs the next user in, the header does not delete that user's cookie."""
    browser = sign_in(add_views(make_app(clear_site_data=setting)))
    assert sent(browser.post("/switch")) == [header]
    assert browser.get("/me").get_json()["user"] == "bob"


def test_header_of_the_app_stays_beside_ours(make_app: MakeApp) -> None:
    """What the view itself asks the browser to forget stays in the response."""
    app = make_app(clear_site_data="cache")

    @app.post("/out")
    def out() -> t.Any:
        kvs.logout_user()
        return {}, 200, {HEADER: '"cookies"'}

    assert sent(app.test_client().post("/out")) == ['"cookies"', '"cache"']


def test_logout_that_failed_does_not_send_the_header(make_app: MakeApp) -> None:
    """A logout that could not be done is a 503 without the header."""
    app = make_app(redis_url="redis://127.0.0.1:1/0", clear_site_data="cache")
    browser = app.test_client()
    browser.set_cookie("kvsession", "x" * 62)
    response = browser.post("/logout")
    assert (response.status_code, sent(response)) == (503, [])


class TestByKey:
    """Logouts by `KVSESSION_USER_ID_KEY`."""

    @pytest.fixture
    def browser(self, make_app: MakeApp) -> FlaskClient:
        app = make_app(
            as_flask_session=True, user_id_key="user_id", clear_site_data="cache", views=False
        )
        app.secret_key = "x"
        app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")

        def flash_and_pop() -> None:
            session.pop("user_id")
            flash("Good bye.")

        acts: dict[str, Callable[[], object]] = {
            "in": lambda: session.update(user_id="ada", cart=[1]),
            "pop": lambda: session.pop("user_id"),
            "none": lambda: session.update(user_id=None),
            "clear": lambda: session.clear(),
            "flash": flash_and_pop,
            "put": lambda: session.update(x=1),
            "empty": lambda: session.pop("x"),
        }

        @app.post("/<act>")
        def view(act: str) -> t.Any:
            acts[act]()
            return {}

        return app.test_client()

    @pytest.mark.parametrize("path", ["/pop", "/none", "/clear", "/flash", "/devices/sign-out"])
    def test_each_logout_by_the_key_sends_the_header(self, browser: FlaskClient, path: str) -> None:
        """Each way to remove the user's key sends the header."""
        assert sent(browser.post("/in")) == []
        assert sent(browser.post(path)) == ['"cache"']

    def test_clear_with_an_unknown_token_sends_the_header(self, browser: FlaskClient) -> None:
        """`clear()` is a logout also if the browser's token opens no session any more."""
        browser.set_cookie("session", "x" * 62)
        assert sent(browser.post("/clear")) == ['"cache"']

    def test_emptied_anonymous_session_does_not_send_the_header(self, browser: FlaskClient) -> None:
        """The end of an anonymous session and a login again are no logouts."""
        paths = ("/put", "/empty", "/in", "/in")
        assert [sent(browser.post(path)) for path in paths] == [[]] * 4
