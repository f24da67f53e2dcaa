"""Where to go after the login: never out of the site."""

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
    "/@evil",
    "/:80",
    "/;a=b",
    "/é/ü",
    "/%5Cevil",
    "/%2F%2Fevil",
    "/%09/evil",
    "/a b",
    "/" + "x" * 2000,
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
    "/" + "x" * 20_000,
]


@pytest.fixture
def app(app: Flask) -> Flask:
    @app.route("/after", methods=["GET", "POST"])
    def after() -> Response:
        return redirect(kvs.next_url("/default"))

    return app


def wanted(app: Flask, url: str, *, form: bool) -> str:
    """What `next_url` makes of this `next`, in the form or in the query."""
    parts = {"data": {"next": url}} if form else {"query_string": {"next": url}}
    with app.test_request_context("/after", method="POST", **parts):
        assert request.values["next"] == url
        return kvs.next_url("/default")


@pytest.mark.parametrize("form", [True, False], ids=["form", "query"])
@pytest.mark.parametrize("url", SAFE, ids=lambda url: repr(url)[:30])
def test_a_path_of_the_site_is_followed(app: Flask, url: str, form: bool) -> None:
    """A path within the site, whatever its query says, is given back as it was."""
    assert wanted(app, url, form=form) == url


@pytest.mark.parametrize("form", [True, False], ids=["form", "query"])
@pytest.mark.parametrize("url", UNSAFE, ids=lambda url: repr(url)[:30])
def test_anything_else_is_the_default(app: Flask, url: str, form: bool) -> None:
    """What leads, or in some browser might lead, out of the site gives the default."""
    assert wanted(app, url, form=form) == "/default"


def test_without_a_next_it_is_the_default(client: FlaskClient) -> None:
    """A request that names nothing goes to the default."""
    assert client.post("/after").location == "/default"


def test_the_default_is_the_apps_own_word(app: Flask) -> None:
    """The default is not judged: it is not the visitor's."""
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
def test_the_form_comes_before_the_query(
    client: FlaskClient, form: str | None, query: str, location: str
) -> None:
    """A `next` in the form decides, also where it is not safe."""
    data = {} if form is None else {"next": form}
    assert client.post("/after", query_string={"next": query}, data=data).location == location


def test_of_several_the_first_counts(client: FlaskClient) -> None:
    """A second `next` cannot slip past the first."""
    assert client.post("/after?next=/a&next=//evil").location == "/a"
    assert client.post("/after?next=//evil&next=/a").location == "/default"


@pytest.mark.parametrize(
    "query", ["next=%ff%fe", "next=%ED%A0%80", "next=/%00", "next=%2F%2Fevil", "next[]=/a"]
)
def test_broken_queries_are_no_error(client: FlaskClient, query: str) -> None:
    """What is not UTF-8, a NUL and other spellings give the default, and never an error."""
    assert client.post(f"/after?{query}").location == "/default"


def test_json_is_not_asked(client: FlaskClient) -> None:
    """A `next` in a JSON body counts for nothing."""
    assert client.post("/after", json={"next": "/a"}).location == "/default"


def test_it_leaves_no_trace(client: FlaskClient) -> None:
    """Asking for the `next` does not touch the session."""
    assert "Vary" not in client.post("/after?next=/a").headers
