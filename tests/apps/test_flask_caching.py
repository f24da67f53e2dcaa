"""Flask-Caching beside the session: shared pages, pages of each user, and memoized results."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from itertools import count

import pytest
from flask import Flask, make_response, redirect, session
from flask_caching import Cache

from ..support.apps import Install
from ..support.commands import Keys
from ..support.flask_sessions import browser_of, cookies_set, devices, sign_out_elsewhere, token


@pytest.fixture(params=["SimpleCache", "RedisCache"])
def plain_app(request: pytest.FixtureRequest, socket_path: str, prefix: str) -> Iterator[Flask]:
    """An app with a cache in memory, and one with a cache beside the sessions in Redis."""
    app = Flask("cached")
    app.config.update(
        TESTING=True,
        SECRET_KEY="only for tests",
        CACHE_TYPE=request.param,
        CACHE_REDIS_URL=f"unix://{socket_path}",
        CACHE_KEY_PREFIX=f"cache-of-{prefix}",
    )
    cache = Cache(app)
    numbers = count(1)

    @app.post("/login/<user>")
    def login(user: str) -> t.Any:
        session["user_id"] = user
        return redirect("/", 302)

    @app.post("/logout")
    def logout() -> t.Any:
        session.clear()
        return redirect("/", 302)

    @app.get("/")
    def index() -> t.Any:
        return {"user": session.get("user_id")}

    @app.get("/shared")
    @cache.cached()
    def shared() -> t.Any:
        session["seen"] = True
        response = make_response(str(next(numbers)))
        response.headers["X-From"] = "the view"
        return response

    @app.get("/mine")
    @cache.cached(make_cache_key=lambda *args, **kwargs: f"mine-{session.get('user_id')}")
    def mine() -> t.Any:
        return f"{session.get('user_id')}'s, number {next(numbers)}"

    @app.get("/news")
    @cache.cached(unless=lambda: "user_id" in session)
    def news() -> t.Any:
        return str(next(numbers))

    @cache.memoize()
    def work_out(user: str) -> int:
        return next(numbers)

    @app.get("/result")
    def result() -> t.Any:
        return str(work_out(session["user_id"]))

    yield app
    backend = getattr(cache.cache, "_write_client", None)
    if backend:
        backend.close()


def test_each_user_has_separate_cached_pages_and_results(plain_app: Flask, either: Install) -> None:
    """Each user gets cached pages and results of that user only, from the login to the logout."""
    app = either(plain_app, "user_id")
    laptop, phone, bobs = (browser_of(app, agent) for agent in ("laptop", "phone", "tablet"))
    laptop.post("/login/ada")
    phone.post("/login/ada")
    bobs.post("/login/bob")
    assert laptop.get("/mine").text == phone.get("/mine").text == "ada's, number 1"
    assert bobs.get("/mine").text == "bob's, number 2"
    assert laptop.get("/result").text == phone.get("/result").text
    assert laptop.get("/result").text != bobs.get("/result").text
    laptop.post("/logout")
    assert laptop.get("/").get_json() == {"user": None}
    assert laptop.get("/mine").text.startswith("None's")
    assert phone.get("/mine").text == "ada's, number 1"


def test_a_page_cached_for_anonymous_browsers_is_not_cached_for_users(
    plain_app: Flask, either: Install
) -> None:
    """A page that is cached unless a user is signed in is shared by anonymous browsers only."""
    app = either(plain_app, "user_id")
    user, anonymous = browser_of(app), browser_of(app)
    user.post("/login/ada")
    assert anonymous.get("/news").text == anonymous.get("/news").text
    assert user.get("/news").text != user.get("/news").text


def test_a_cached_response_carries_no_session_cookie(plain_app: Flask, either: Install) -> None:
    """A browser that gets a cached response keeps its own session, or none."""
    app = either(plain_app, "user_id")
    first, second, user = browser_of(app), browser_of(app), browser_of(app)
    user.post("/login/ada")
    before = token(user)
    assert len(cookies_set(first.get("/shared"))) == 1
    for browser in (second, user):
        response = browser.get("/shared")
        assert (response.text, response.headers["X-From"]) == ("1", "the view")
        assert not cookies_set(response)
    assert (token(second), token(user)) == (None, before)
    assert user.get("/").get_json() == {"user": "ada"}


def test_a_revoked_browser_no_longer_gets_the_users_cached_page(
    plain_app: Flask, install: Install, keys: Keys
) -> None:
    """After the revocation a browser does not get the page that is cached for the user."""
    app = install(plain_app, "user_id")
    laptop, phone = browser_of(app), browser_of(app, "phone")
    for browser in (laptop, phone):
        browser.post("/login/ada")
        browser.get("/mine")
    assert devices(laptop) == ["laptop", "phone"]
    sign_out_elsewhere(laptop, phone)
    assert phone.get("/mine").text.startswith("None's")
    assert laptop.get("/mine").text.startswith("ada's")


def test_clearing_a_cache_in_the_same_redis_keeps_the_sessions(
    plain_app: Flask, install: Install
) -> None:
    """A user stays signed in when a cache in the same Redis is cleared."""
    app = install(plain_app, "user_id")
    laptop = browser_of(app)
    laptop.post("/login/ada")
    (cache,) = app.extensions["cache"].values()
    with app.app_context():
        cache.clear()
    assert laptop.get("/").get_json() == {"user": "ada"}
