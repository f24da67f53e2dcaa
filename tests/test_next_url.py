"""`next_url` never leads out of the site."""

from __future__ import annotations

import pytest
from flask import Flask, redirect, request
from flask.testing import FlaskClient
from werkzeug.wrappers import Response

import flask_kvsession as kvs

SAFE = [
    "/",
    "/dashboard",
    "/ok?u=//evil",
    "/ok?u=https://evil.example/",
    "/a/b?c=d&e=%2F%2Fevil#f",
    "/a//evil",
    "/a//../evil",
    "/./a",
    "/a/../b",
    "/..",
    "/a/.. ",
    "/../a",
    "/.../evil",
    "/..evil//x",
    "/%2F/../a",
    "/ok?u=/.//evil",
    "/ok#/..//evil",
    "/?/.//evil",
    "/@evil",
    "/:80",
    "/;a=b",
    "/é/ü",
    "/%5Cevil",
    "/%2F%2Fevil",
    "/%09/evil",
    "/a b",
    "/" + "x" * 2047,
]
UNSAFE = [
    "",
    " ",
    "dashboard",
    "?a=b",
    "#a",
    "./a",
    "../a",
    "//evil",
    "///evil",
    "////evil",
    "/\\evil",
    "\\\\evil",
    "\\/evil",
    "/\\/evil",
    "\\evil",
    "/a\\b",
    "https://evil",
    "https:evil",
    "https:/evil",
    "http:///evil",
    "HTTPS://EVIL",
    "http://localhost/a",
    "https://localhost@evil",
    "https://app@evil",
    "http://[::1",
    "http://evil\\@localhost/",
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    "data:text/html,x",
    "mailto:a@evil",
    " //evil",
    "\t//evil",
    " /a",
    "/\t/evil",
    "/\n/evil",
    "/\r/evil",
    "/\r\n/evil",
    "/\x00/evil",
    "/\x0b/evil",
    "/\x1f/evil",
    "/\x7f/evil",
    "/a\r\nSet-Cookie: a=b",
    "\ufeff//evil",
    "\xa0//evil",
    "\u2003//evil",
    "／／evil",
    "/" + "x" * 2048,
    "/" + "x" * 20_000,
    "/.//evil",
    "/..//evil",
    "/././/evil",
    "/../..//evil",
    "/%2e//evil",
    "/%2E//evil",
    "/%2e%2E//evil",
    "/.%2e//evil",
    "/%2e.//evil",
    "/a/..//evil",
    "/a/../..//evil",
    "/a/b/../..//evil",
    "/a/./..//evil",
    "/a/..///evil",
    "/a//../..//evil",
    "/a/..//evil?b#c",
    "/.//evil?/../../a",
    "/.//evil#/../../a",
    "/.//",
    "/.//.",
    "/.//..//",
    "//../evil",
]


@pytest.fixture
def app(app: Flask) -> Flask:
    @app.route("/after", methods=["GET", "POST"])
    def after() -> Response:
        return redirect(kvs.next_url("/default"), 303)

    return app


def wanted(app: Flask, url: str, *, form: bool) -> str:
    """What `next_url` makes of this `next`, in the form or in the query."""
    parts = {"data": {"next": url}} if form else {"query_string": {"next": url}}
    with app.test_request_context("/after", method="POST", **parts):
        assert request.values["next"] == url
        return kvs.next_url("/default")


@pytest.mark.parametrize("form", [True, False], ids=["form", "query"])
@pytest.mark.parametrize("url", SAFE, ids=lambda url: repr(url)[:30])
def test_path_within_the_site_is_returned_unchanged(app: Flask, url: str, form: bool) -> None:
    """`next_url` returns a path within the site unchanged."""
    assert wanted(app, url, form=form) == url


@pytest.mark.parametrize("form", [True, False], ids=["form", "query"])
@pytest.mark.parametrize("url", UNSAFE, ids=lambda url: repr(url)[:30])
def test_unsafe_next_gives_the_default_instead(app: Flask, url: str, form: bool) -> None:
    """`next_url` returns the default for a `next` that may lead out of the site."""
    assert wanted(app, url, form=form) == "/default"


def test_request_without_a_next_gives_the_default(client: FlaskClient) -> None:
    """`next_url` returns the default if the request has no `next`."""
    assert client.post("/after").location == "/default"


def test_default_of_the_app_is_not_checked(app: Flask) -> None:
    """`next_url` does not check the default, which is the app's own."""
    with app.test_request_context("/after?next=//evil"):
        assert kvs.next_url("https://other.example/") == "https://other.example/"


@pytest.mark.parametrize(
    ("form", "query", "location"),
    [
        ("/form", "/query", "/form"),
        (None, "/query", "/query"),
        ("//evil", "/query", "/default"),
        ("", "/query", "/default"),
    ],
)
def test_next_in_the_form_comes_before_the_query(
    client: FlaskClient, form: str | None, query: str, location: str
) -> None:
    """A `next` in the form decides, also if it is unsafe."""
    data = {} if form is None else {"next": form}
    assert client.post("/after", query_string={"next": query}, data=data).location == location


def test_first_of_several_next_values_decides(client: FlaskClient) -> None:
    """If the query has several `next` values, the first one decides."""
    assert client.post("/after?next=/a&next=//evil").location == "/a"
    assert client.post("/after?next=//evil&next=/a").location == "/default"


@pytest.mark.parametrize(
    "query", ["next=%ff%fe", "next=%ED%A0%80", "next=/%00", "next=%2F%2Fevil", "next[]=/a"]
)
def test_malformed_query_gives_the_default_without_an_error(
    client: FlaskClient, query: str
) -> None:
    """A malformed query gives the default and no error."""
    assert client.post(f"/after?{query}").location == "/default"


def test_next_in_a_json_body_is_ignored(client: FlaskClient) -> None:
    """`next_url` ignores a `next` in a JSON body."""
    assert client.post("/after", json={"next": "/a"}).location == "/default"


def test_next_url_does_not_touch_the_session(client: FlaskClient) -> None:
    """`next_url` does not touch the session."""
    assert "Vary" not in client.post("/after?next=/a").headers
