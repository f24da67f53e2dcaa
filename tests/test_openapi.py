"""Schemathesis checks the devices pages against the OpenAPI description in the package."""

from __future__ import annotations

import json
import typing as t
from importlib import resources

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

import flask_kvsession as kvs

from .support.apps import MakeApp
from .support.browsers import SignIn, token_of

PREFIX = "/account/sessions"
DESCRIPTION = PREFIX + "/kvsession-static/openapi.json"
OPERATIONS = {
    ("GET", "/"),
    ("DELETE", "/{session_id}"),
    ("POST", "/{session_id}/revoke"),
    ("POST", "/revoke-others"),
    ("POST", "/revoke-all"),
    ("POST", "/sign-out"),
}


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app()
    app.register_blueprint(kvs.sessions_blueprint, url_prefix=PREFIX)
    return app


def description() -> dict[str, t.Any]:
    text = resources.files("flask_kvsession.devices").joinpath("static/openapi.json").read_text()
    return t.cast(dict[str, t.Any], json.loads(text))


def test_the_app_serves_the_openapi_description_below_the_url_prefix(app: Flask) -> None:
    """The description is served without a login, below the prefix of the pages."""
    response = app.test_client().get(DESCRIPTION)
    assert response.content_type == "application/json"
    assert response.get_json() == description()
    response.close()


def test_the_description_lists_exactly_the_urls_of_the_blueprint(app: Flask) -> None:
    """Every URL of the blueprint is described, and no other."""
    described = {
        (method.upper(), path)
        for path, item in description()["paths"].items()
        for method in item
        if method != "parameters"
    }
    built = {
        (method, rule.rule.removeprefix(PREFIX).replace("<", "{").replace(">", "}"))
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("kvsession.") and not rule.endpoint.endswith(".static")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == built == OPERATIONS


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS), ids=str)
def test_a_valid_request_gets_a_described_response(
    app: Flask, sign_in: SignIn, method: str, path: str
) -> None:
    """Every response to a valid request has a described status and body."""
    answers = try_out(app, sign_in, method, path, GenerationMode.POSITIVE)
    assert answers == ({200, 404} if "session_id" in path else {200})


@pytest.mark.parametrize(
    ("method", "path"), sorted(pair for pair in OPERATIONS if "session_id" in pair[1]), ids=str
)
def test_an_invalid_session_id_gets_a_described_refusal(
    app: Flask, sign_in: SignIn, method: str, path: str
) -> None:
    """No invalid id gets 200, and every refusal is a described response."""
    assert 200 not in try_out(app, sign_in, method, path, GenerationMode.NEGATIVE)


def test_the_refusal_of_a_request_from_another_site_is_described(
    app: Flask, sign_in: SignIn
) -> None:
    """The refusal has the content type and the body that the description names."""
    headers = {"Sec-Fetch-Site": "cross-site"}
    response = sign_in(app).post(f"{PREFIX}/revoke-all", headers=headers)
    described = description()["components"]["responses"]["CrossSite"]["content"]
    assert response.status_code == 403
    assert response.get_json() == described[response.content_type]["example"]


def test_the_refusal_without_redis_is_described(make_app: MakeApp) -> None:
    """The 503 has the headers, the content type and the body that the description names."""
    app = make_app(redis_url="redis://127.0.0.1:1/0")
    app.register_blueprint(kvs.sessions_blueprint, url_prefix=PREFIX)
    browser = app.test_client()
    browser.set_cookie("kvsession", "x" * 62)
    response = browser.get(f"{PREFIX}/")
    described = description()["components"]["responses"]["Unavailable"]
    assert response.status_code == 503
    assert response.get_json() == described["content"][response.content_type]["example"]
    assert set(described["headers"]) <= set(response.headers.keys())


def try_out(app: Flask, sign_in: SignIn, method: str, path: str, mode: GenerationMode) -> set[int]:
    """Send generated requests, each from a newly signed-in browser; return the status codes.

    About half of the valid ids belong to a session of that user.
    """
    described = description()
    described["components"]["securitySchemes"]["session"]["name"] = "kvsession"  # while testing
    schema = schemathesis.openapi.from_dict(described)
    schema.app = app
    schema.config.update(base_url=f"http://localhost{PREFIX}")
    seen: set[int] = set()

    @schema.auth(refresh_interval=None)
    class SignedIn:
        def get(self, case: t.Any, context: t.Any) -> str | None:
            return token_of(sign_in(app))

        def set(self, case: t.Any, data: str, context: t.Any) -> None:
            case.cookies = {"kvsession": data}

    @given(case=schema[path][method].as_strategy(generation_mode=mode), own=st.booleans())
    @settings(
        max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    def check(case: t.Any, own: bool) -> None:
        if own and mode is GenerationMode.POSITIVE and case.path_parameters:
            case.path_parameters["session_id"] = (token_of(sign_in(app)) or "")[:19]
        seen.add(case.call_and_validate().status_code)

    check()
    return seen
