"""Who is signed in: this package's guards, pages and session agree with Flask-Login."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

import pytest
from flask import Flask, abort, g, redirect, request, session
from flask.testing import FlaskClient
from flask_login import (  # type: ignore[import-untyped]
    UserMixin,
    encode_cookie,
    login_user,
    logout_user,
)
from werkzeug.exceptions import ServiceUnavailable

import flask_kvsession as kvs
from flask_kvsession.compat import remember_in_session

from ..support.apps import Do, Install
from ..support.browsers import AS_PAGE
from ..support.clock import Clock
from ..support.commands import Keys
from ..support.flask_login_app import (
    IGNORE_UTCNOW,
    PASSWORDS,
    REMEMBER,
    User,
    create_app,
    facts,
    guarded_app,
    signed_cookie,
    signed_in,
    who,
)
from ..support.flask_sessions import (
    DEVICES,
    browser_of,
    clears,
    cookies_set,
    devices,
    id_of,
    token,
)

pytestmark = IGNORE_UTCNOW

Load = Callable[[str], t.Any]


@pytest.fixture
def app(install: Install) -> Flask:
    return guarded_app(install)


def answers(browser: FlaskClient) -> list[int]:
    """The status codes of all pages that this package guards."""
    paths = ["/ours", "/fresh", "/role", "/protected/x", DEVICES]
    return [browser.get(path).status_code for path in paths]


def load_with(app: Flask, load: Load) -> None:
    app.login_manager.user_loader(load)  # type: ignore[attr-defined]


def raises(error: Exception) -> Load:
    def load(user_id: str) -> t.NoReturn:
        raise error

    return load


class Inactive(User):
    is_active = False


class Renamed(User):
    """A user whose id has changed since the login."""

    def get_id(self) -> str:
        return "another id"


REFUSE: dict[str, Load] = {
    "no such user": lambda user_id: None,
    "an inactive user": Inactive,
    "abort(404)": lambda user_id: abort(404),
    "another user": lambda user_id: User("bob"),
    "a user with a new id": Renamed,
}


@pytest.mark.parametrize("load", REFUSE.values(), ids=REFUSE)
def test_a_user_whom_flask_login_refuses_is_not_signed_in(app: Flask, load: Load) -> None:
    """If Flask-Login's `current_user` is not the session's user, no guard and no page lets the
    browser in."""
    browser = signed_in(app)
    browser.post("/cart/pen")
    with browser.session_transaction() as data:
        data["role"] = "reader"
    assert answers(browser) == [200] * 5
    load_with(app, load)
    assert answers(browser) == [401] * 5
    assert browser.post(f"{DEVICES}revoke-others").status_code == 401
    with browser:
        browser.get("/health")
        current = kvs.current_session
        assert (current.user_id, current.is_authenticated, current.is_fresh) == (None, False, False)


@pytest.mark.parametrize("verb", [kvs.list_sessions, kvs.revoke_all_sessions, kvs.confirm_login])
def test_verbs_refuse_a_user_whom_flask_login_refuses(
    app: Flask, do: Do, verb: Callable[[], object]
) -> None:
    """Functions for the current user raise `LoginRequired` if Flask-Login does not know the
    user, and do nothing."""
    browser = signed_in(app)
    load_with(app, REFUSE["no such user"])
    assert do(browser, verb).status_code == 401
    load_with(app, User)
    assert devices(browser) == ["laptop"]


def test_a_refused_user_can_sign_out(app: Flask, keys: Keys) -> None:
    """The sign-out button ends the session, although Flask-Login refuses the user or cannot load
    it."""
    for load in (REFUSE["no such user"], raises(RuntimeError())):
        browser = signed_in(app)
        load_with(app, load)
        assert browser.post(f"{DEVICES}sign-out").get_json() == {"revoked": 1}
        load_with(app, User)
        assert token(browser) is None
    assert not keys()


def test_a_refused_user_is_signed_in_again_when_the_loader_knows_it(app: Flask) -> None:
    """The session itself stays, so that a failure of the user loader signs nobody out."""
    browser = signed_in(app)
    load_with(app, REFUSE["no such user"])
    assert browser.get("/ours").status_code == 401
    load_with(app, User)
    assert browser.get("/ours").status_code == 200


@pytest.mark.parametrize("error", [RuntimeError("no database"), ServiceUnavailable()], ids=repr)
def test_an_error_of_the_user_loader_is_not_taken_for_no_user(app: Flask, error: Exception) -> None:
    """If the user loader fails, the guarded pages fail too, and no browser is sent to sign in."""
    app.config["PROPAGATE_EXCEPTIONS"] = False
    browser = signed_in(app)
    load_with(app, raises(error))
    assert browser.get("/ours").status_code >= 500
    assert browser.get("/protected/x", headers=AS_PAGE).status_code >= 500
    load_with(app, User)
    assert browser.get("/ours").status_code == 200


@pytest.mark.parametrize("refresh", [True, False])
def test_a_page_that_does_not_ask_who_is_signed_in_needs_no_user_loader(
    install: Install, refresh: bool
) -> None:
    """The remember cookie is taken care of without the user loader, so a page that shows no user
    works while the loader fails."""
    app = guarded_app(install, {"REMEMBER_COOKIE_REFRESH_EACH_REQUEST": refresh})
    remember_in_session(app)
    browser = signed_in(app)
    load_with(app, raises(RuntimeError("no database")))
    assert browser.get("/cart").status_code == 200
    with app.app_context():
        browser.set_cookie(REMEMBER, encode_cookie("ada"))
    response = browser.get("/cart")
    assert response.status_code == 200
    assert clears(*cookies_set(response, REMEMBER))


@pytest.mark.parametrize("path", ["/ours", "/notes"])
def test_the_two_sign_in_pages_do_not_redirect_for_ever(app: Flask, path: str) -> None:
    """A browser of a deleted user gets the sign-in page, although the page sends a user whom this
    package takes for signed in back."""

    @app.before_request
    def skip_the_sign_in_page() -> t.Any:
        if request.path == "/login" and kvs.current_session.is_authenticated:
            return redirect(request.args["next"])
        return None

    browser = signed_in(app)
    load_with(app, REFUSE["no such user"])
    response = browser.get(path, headers=AS_PAGE, follow_redirects=True)
    assert (response.status_code, response.request.path) == (200, "/login")


@pytest.mark.parametrize("name", ["another user", "a user with a new id"])
def test_a_browser_that_flask_login_knows_is_not_sent_to_sign_in(app: Flask, name: str) -> None:
    """If Flask-Login knows another user than the session's, the refusal is a 401: its sign-in page
    would send the browser back."""
    browser = signed_in(app)
    load_with(app, REFUSE[name])
    assert browser.get("/ours", headers=AS_PAGE).status_code == 401


def test_a_user_of_the_request_loader_alone_has_no_session(app: Flask) -> None:
    """A user whom Flask-Login's request loader names gets into no page of a session: neither
    without a session nor in the session of another user."""
    app.login_manager.request_loader(lambda request: User("bob"))  # type: ignore[attr-defined]
    browser, ada = browser_of(app), signed_in(app)
    assert browser.get("/ours", headers=AS_PAGE).status_code == 401
    load_with(app, REFUSE["no such user"])
    assert (browser.get("/facts").get_json(), ada.get("/facts").get_json()) == (
        {"user": None, "signed in": False, "fresh": False, "Flask-Login": True},
    ) * 2


def test_flask_login_loads_the_user_once_in_a_request(app: Flask) -> None:
    """Guards, pages and facts cause one call of the user loader in a request, and none in a
    request that does not ask who is signed in."""
    calls: list[str] = []

    def load(user_id: str) -> User:
        calls.append(user_id)
        return User(user_id)

    load_with(app, load)
    browser = signed_in(app)
    for path in ("/protected/x", "/fresh", "/facts", DEVICES):
        calls.clear()
        assert browser.get(path).status_code == 200
        assert calls == ["ada"]
    calls.clear()
    browser.get("/health")
    assert browser.post("/cart/pen").get_json() == ["pen"]
    assert calls == []


def test_the_user_loader_may_read_the_session(app: Flask) -> None:
    """While Flask-Login loads the user, the session says whose it is, without an endless
    recursion."""
    seen: list[t.Any] = []

    def load(user_id: str) -> User:
        seen.append((g.session.user_id, g.session.is_authenticated, session["_user_id"]))
        return User(user_id)

    load_with(app, load)
    browser = signed_in(app)
    for path in ("/ours", "/"):
        seen.clear()
        assert browser.get(path).status_code == 200
        assert set(seen) == {("ada", True, "ada")}


def test_facts_follow_a_login_and_a_logout_at_once(app: Flask, do: Do) -> None:
    """After a login and after a logout by Flask-Login, the facts follow within the request."""
    seen: list[t.Any] = []

    def act() -> None:
        for step in (lambda: None, lambda: login_user(User("ada")), logout_user):
            step()
            seen.append(tuple(facts().values()))

    do(browser_of(app), act)
    assert seen == [
        (None, False, False, False),
        ("ada", True, False, True),
        (None, False, False, False),
    ]


def test_another_apps_context_does_not_change_who_is_signed_in(app: Flask, do: Do) -> None:
    """Within the context of another app, the session asks the Flask-Login of its own app."""
    browser, other, seen = signed_in(app), Flask("other"), list[bool]()

    def act() -> None:
        with other.app_context():
            seen.append(kvs.current_session.is_authenticated)

    do(browser, act)
    load_with(app, REFUSE["no such user"])
    do(browser, act)
    assert seen == [True, False]


def test_session_transaction_does_not_ask_flask_login(app: Flask) -> None:
    """The session of `session_transaction()` says whose it is, also within another request."""
    browser = signed_in(app)
    load_with(app, REFUSE["no such user"])
    with browser.session_transaction() as data:
        assert t.cast(kvs.Session, data).user_id == "ada"
    with app.test_request_context(), browser.session_transaction() as data:
        assert t.cast(kvs.Session, data).user_id == "ada"


def test_facts_can_be_read_after_the_commit(app: Flask) -> None:
    """After the request the facts can be read, although Flask-Login cannot mark the session of a
    changed client any more. Such a session counts as not signed in."""
    browser = signed_in(app)
    for agent, is_in in (("laptop", True), ("another", False)):
        browser.environ_base["HTTP_USER_AGENT"] = agent
        with browser:
            browser.get("/health")
            assert kvs.current_session.is_authenticated is is_in


def test_an_app_without_flask_logins_key_decides_by_its_own_key(install: Install) -> None:
    """If `KVSESSION_USER_ID_KEY` is not Flask-Login's key, Flask-Login is not asked."""
    app = install(create_app(), "user_id")
    load_with(app, raises(RuntimeError()))
    app.add_url_rule("/ours", "ours", kvs.login_required(lambda: "in"))
    browser = browser_of(app)
    with browser.session_transaction() as data:
        data["user_id"] = "ada"
    assert browser.get("/ours").text == "in"


class TestConfirm:
    @pytest.fixture
    def app(self, install: Install) -> Flask:
        app = guarded_app(install, fresh_to_revoke=True)

        @app.post("/confirm-here")
        def confirm_here() -> str:
            kvs.confirm_login()
            return "confirmed"

        return app

    def test_confirm_login_lifts_flask_logins_not_fresh(self, app: Flask) -> None:
        """After `confirm_login` of this package, Flask-Login and this package both take the session
        for fresh, also in later requests of a changed client."""
        browser, other = signed_in(app), signed_in(app, "phone")
        browser.environ_base["HTTP_USER_AGENT"] = "changed"
        assert who(browser, "/payment") is None
        path = f"{DEVICES}{id_of(other)}/revoke"
        assert browser.post(path, headers=AS_PAGE).location.startswith("/confirm?")
        before = token(browser)
        assert browser.post("/confirm-here").text == "confirmed"
        assert token(browser) != before
        for _ in range(2):
            assert who(browser, "/payment") == "ada"
            assert browser.get("/fresh").status_code == 200
        assert browser.post(path, headers=AS_PAGE).location == DEVICES

    def test_confirm_login_in_the_first_request_of_a_signed_cookie(self, install: Install) -> None:
        """`confirm_login` makes a session fresh that the same request has carried over."""
        app = guarded_app(install, migrate_cookie_session=True)

        @app.post("/sure")
        def make_sure() -> str:
            kvs.confirm_login()
            return "confirmed"

        browser = browser_of(app)
        browser.set_cookie("session", signed_cookie(app, _user_id="ada", _fresh=True))
        assert browser.post("/sure").text == "confirmed"
        assert browser.get("/fresh").status_code == 200
        assert who(browser, "/payment") == "ada"

    def test_confirm_login_of_flask_login_makes_an_old_login_fresh(
        self, app: Flask, clock: Clock
    ) -> None:
        """Flask-Login's `confirm_login` makes a session fresh again that it never took for not
        fresh."""
        browser = signed_in(app)
        clock.advance(hours=1)
        assert browser.get("/fresh").status_code == 401
        browser.post("/confirm", data={"password": PASSWORDS["ada"]})
        assert browser.get("/fresh").status_code == 200

    def test_a_confirmation_by_either_package_may_call_the_other(self, app: Flask) -> None:
        """An app whose receiver of Flask-Login's signal calls `confirm_login` of this package
        confirms without an endless recursion."""
        from flask_login import user_login_confirmed

        def confirm_too(sender: Flask, **extra: t.Any) -> None:
            kvs.confirm_login()

        browser = signed_in(app)
        with user_login_confirmed.connected_to(confirm_too, app):
            browser.environ_base["HTTP_USER_AGENT"] = "changed"
            assert browser.post("/confirm-here").status_code == 200
            browser.post("/confirm", data={"password": PASSWORDS["ada"]})
        assert browser.get("/fresh").status_code == 200


def test_a_hostile_user_object_never_signs_somebody_else_in(app: Flask) -> None:
    """A user object that names another user, or fails, lets the browser into no page."""
    app.config["PROPAGATE_EXCEPTIONS"] = False
    browser = signed_in(app)
    signed_in(app, "phone", "bob")

    class NoId(UserMixin):  # type: ignore[misc]
        pass

    for load in (lambda user_id: "bob", lambda user_id: NoId(), lambda user_id: User("bob")):
        load_with(app, load)
        assert browser.get(DEVICES).status_code in (401, 500)
        assert browser.get("/ours").status_code in (401, 500)
    load_with(app, User)
    assert devices(browser) == ["laptop"]
