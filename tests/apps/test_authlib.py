"""Authlib's OAuth client: the session holds the state of the flow and the provider's answer.

The provider is a real server on this machine with the endpoints that a login needs.
"""

from __future__ import annotations

import secrets
import threading
import time
import typing as t
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from authlib.integrations.flask_client import OAuth  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749 import OAuth2Token  # type: ignore[import-untyped]
from authlib.oidc.core import UserInfo  # type: ignore[import-untyped]
from flask import Flask, redirect, request, session, url_for
from flask.testing import FlaskClient
from joserfc import jwt
from joserfc.jwk import ECKey
from werkzeug.serving import make_server

from ..support.apps import Install
from ..support.commands import Keys
from ..support.flask_sessions import (
    browser_of,
    devices,
    id_of,
    same_browser,
    sign_out_elsewhere,
    token,
)

CLAIMS = {"sub": "248289761001", "email": "ada@example.com", "email_verified": True}


def create_provider() -> Flask:
    """An OpenID provider at which everybody is Ada."""
    provider = Flask("provider")
    key = ECKey.generate_key("P-256", {"kid": "1", "alg": "ES256", "use": "sig"})
    nonces: dict[str, str] = {}

    @provider.get("/.well-known/openid-configuration")
    def configuration() -> t.Any:
        return {
            "issuer": request.url_root,
            "authorization_endpoint": url_for("authorize", _external=True),
            "token_endpoint": url_for("get_token", _external=True),
            "jwks_uri": url_for("keys", _external=True),
            "id_token_signing_alg_values_supported": ["ES256"],
        }

    @provider.get("/authorize")
    def authorize() -> t.Any:
        code = secrets.token_hex(8)
        nonces[code] = request.args["nonce"]
        return redirect(
            f"{request.args['redirect_uri']}?code={code}&state={request.args['state']}", 302
        )

    @provider.post("/token")
    def get_token() -> t.Any:
        now = int(time.time())
        claims = {
            **CLAIMS,
            "iss": request.url_root,
            "aud": "the-app",
            "iat": now,
            "exp": now + 3600,
            "nonce": nonces.pop(request.form["code"]),
        }
        return {
            "access_token": "an access token",
            "token_type": "Bearer",
            "expires_in": 3600,
            "id_token": jwt.encode({"alg": "ES256", "kid": "1"}, claims, key),
        }

    @provider.get("/keys")
    def keys() -> t.Any:
        return {"keys": [key.as_dict(private=False)]}

    return provider


@pytest.fixture(scope="module")
def provider_url() -> Iterator[str]:
    server = make_server("127.0.0.1", 0, create_provider(), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def plain_app(provider_url: str, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """An app that signs in by the provider, written as Authlib's documentation teaches."""
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")  # the provider speaks plain http
    app = Flask("oauth")
    app.config.update(TESTING=True, SECRET_KEY="only for tests")
    oauth = OAuth(app)
    oauth.register(
        "local",
        client_id="the-app",
        client_secret="only for tests",
        server_metadata_url=f"{provider_url}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid email"},
    )

    @app.get("/login")
    def login() -> t.Any:
        return oauth.local.authorize_redirect(url_for("callback", _external=True))

    @app.get("/callback")
    def callback() -> t.Any:
        received = oauth.local.authorize_access_token()
        assert type(received) is OAuth2Token and type(received["userinfo"]) is UserInfo
        session["token"] = received
        session["user"] = received["userinfo"]
        session["user_id"] = received["userinfo"]["sub"]
        return describe()

    @app.get("/me")
    def me() -> t.Any:
        return describe()

    @app.get("/logout")
    def logout() -> t.Any:
        for name in ("user", "user_id", "token"):
            session.pop(name, None)
        return describe()

    @app.get("/keys")
    def keys() -> t.Any:
        return {"keys": list(session)}

    return app


def describe() -> t.Any:
    """What the session says of the user, and the types of it."""
    user, received = session.get("user"), session.get("token")
    if user is None or received is None:
        return {"user": None}
    kinds = [type(user), type(received), type(received["userinfo"])]
    return {
        "user": {name: user[name] for name in CLAIMS},
        "access_token": received["access_token"],
        "kinds": [kind.__name__ for kind in kinds],
    }


@pytest.fixture
def app(plain_app: Flask, install: Install) -> Flask:
    return install(plain_app, "user_id")


def ask_provider(browser: FlaskClient) -> str:
    """Begins a login, and returns where the provider sends the browser back to."""
    location = browser.get("/login").location
    back = requests.get(location, allow_redirects=False, timeout=10).headers["Location"]
    return urlsplit(back)._replace(scheme="", netloc="").geturl()


def signed_in(app: Flask, agent: str = "laptop") -> FlaskClient:
    browser = browser_of(app, agent)
    assert browser.get(ask_provider(browser)).get_json()["user"] == CLAIMS
    return browser


def user_of(browser: FlaskClient) -> t.Any:
    return browser.get("/me").get_json()["user"]


def test_a_user_from_the_provider_is_signed_in_until_the_logout(
    plain_app: Flask, either: Install
) -> None:
    """A user who returns from the provider is signed in until the logout."""
    browser = signed_in(either(plain_app, "user_id"))
    assert [user_of(browser), user_of(browser)] == [CLAIMS, CLAIMS]
    assert browser.get("/me").get_json()["access_token"] == "an access token"
    browser.get("/logout")
    assert user_of(browser) is None


def test_a_callback_with_the_state_of_another_browser_is_refused(
    plain_app: Flask, either: Install
) -> None:
    """A callback is refused if the browser's session does not hold its state."""
    from authlib.integrations.base_client.errors import (  # type: ignore[import-untyped]
        MismatchingStateError,
    )

    app = either(plain_app, "user_id")
    other = ask_provider(browser_of(app))
    with pytest.raises(MismatchingStateError):
        browser_of(app).get(other)


def test_a_finished_login_leaves_no_state_in_the_session(plain_app: Flask, either: Install) -> None:
    """After the login the session holds nothing of the flow."""
    browser = signed_in(either(plain_app, "user_id"))
    assert sorted(browser.get("/keys").get_json()["keys"]) == ["token", "user", "user_id"]


def test_two_flows_in_one_browser_can_both_be_finished(plain_app: Flask, either: Install) -> None:
    """Two flows that were begun in two tabs can both be finished."""
    browser = browser_of(either(plain_app, "user_id"))
    one, other = ask_provider(browser), ask_provider(browser)
    assert browser.get(one).get_json()["user"] == CLAIMS
    assert browser.get(other).get_json()["user"] == CLAIMS


def test_userinfo_and_token_are_plain_dicts_in_the_session_at_once(app: Flask) -> None:
    """Authlib's `UserInfo` and `OAuth2Token` become plain dicts when they are assigned."""
    browser = browser_of(app)
    at_once = browser.get(ask_provider(browser)).get_json()
    assert at_once["kinds"] == ["dict", "dict", "dict"]
    assert browser.get("/me").get_json() == at_once


def test_sessions_are_listed_and_revoked_by_the_providers_sub(app: Flask) -> None:
    """The devices page lists the sessions of the provider's `sub`, and signs out the other
    browser."""
    laptop, phone = signed_in(app), signed_in(app, "phone")
    assert devices(laptop) == ["laptop", "phone"]
    sign_out_elsewhere(laptop, phone)
    assert [user_of(laptop), user_of(phone)] == [CLAIMS, None]


def test_a_login_invalidates_the_token_with_which_the_flow_began(app: Flask) -> None:
    """The session token with which the flow began opens nothing after the login."""
    browser = browser_of(app)
    back = ask_provider(browser)
    before = token(browser)
    assert before
    browser.get(back)
    assert id_of(browser) != before[:19]
    assert user_of(same_browser(browser, before)) is None


def test_repeated_flows_of_an_anonymous_browser_keep_one_record(app: Flask, keys: Keys) -> None:
    """An anonymous browser that begins several flows has one record."""
    browser = browser_of(app)
    for _ in range(3):
        ask_provider(browser)
    assert len(keys()) == 1
