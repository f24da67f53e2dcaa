"""Law 1: the secret is only in the cookie. What Redis holds signs no user in.

Each token that an app hands out in a Set-Cookie header is searched for, whole, in parts and
encoded, in everything that anybody but the browser may see.
"""

from __future__ import annotations

import base64
import functools
import gc
import hmac
import logging
import re
import traceback
import typing as t
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import timedelta
from itertools import product

import pytest
import redis
from flask import Flask, got_request_exception, redirect, request, session
from flask.testing import FlaskClient
from werkzeug.debug import DebuggedApplication
from werkzeug.test import TestResponse
from werkzeug.wrappers import Response

import flask_kvsession as kvs
from flask_kvsession import signals
from flask_kvsession.connection.link import Link
from flask_kvsession.errors import StoreUnavailable
from flask_kvsession.token import Token

from .support.apps import Do, MakeApp, state_of, store_of
from .support.browsers import (
    SignIn,
    anonymous_token_of,
    token_of,
    unknown_token,
    user_token_of,
)
from .support.clock import Clock
from .support.commands import CountCommands, Keys

_TOKEN = re.compile(r"(?<![\w-])[\w-]{62}(?![\w-])", re.ASCII)
INTERVAL = timedelta(hours=1)
AS_FLASK = "KVSESSION_AS_FLASK_SESSION"


def forms_of(text: str) -> Iterator[bytes]:
    """The forms in which 11 characters of a secret may be written: as they are, in hex, in base64,
    and as the bytes for which they stand; the latter two at each alignment."""
    for form in (text, text[::-1]):
        yield form.encode()
        yield form.encode().hex().encode()
        for alignment in range(3):
            encoded = base64.b64encode(b"\0" * alignment + form.encode())
            yield encoded[4 if alignment else 0 : -4]
    for alignment in range(4):
        raw = base64.urlsafe_b64decode(text[alignment : alignment + 8])
        yield raw
        yield raw.hex().encode()


def parts_of(token: str) -> list[str]:
    """The family and the rotating half of a secret, each in two pieces."""
    return [token[19:30], token[29:40], token[40:51], token[51:62]]


class Watch:
    """The tokens that an app has handed out, and everything that anybody but a browser sees."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        self.seen: list[tuple[str, bytes]] = []

    def see(self, where: str, *things: object) -> None:
        for thing in things:
            text = thing if isinstance(thing, str) else f"{thing!r} {thing}"
            self.seen.append((where, thing if isinstance(thing, bytes) else ascii_of(text)))

    def see_error(self, where: str, error: BaseException) -> None:
        """An error with its causes, and the local variables of the package's functions."""
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        reports: list[traceback.TracebackException | None] = [report]
        for each in reports:
            if each is not None:
                frames = [f for f in each.stack if "flask_kvsession" in f.filename]
                self.see(where, *each.format_exception_only(), *(f.locals for f in frames))
                reports += [each.__cause__, each.__context__]
        self.see(where, *vars(error).values())

    def send(self, browser: FlaskClient, method: str, url: str, **kwargs: t.Any) -> TestResponse:
        response = browser.open(url, method=method, **kwargs)
        for name, text in response.headers:
            if name == "Set-Cookie":
                value = text.partition("=")[2].partition(";")[0]
                self.tokens |= {value} if Token.parse(value) else set()
                text = text.replace(value, "") if value else text
            self.see(f"header {name} of {url}", text)
        self.see(f"body of {url}", response.data)
        return response

    def leaks(self) -> list[tuple[str, str]]:
        """Where a part of a token's secret was seen, and the part."""
        parts = {part for token in self.tokens for part in parts_of(token)}
        forms = {form: part for part in parts for form in forms_of(part)}
        seen = set(self.seen)
        # A set of short pieces makes the search for thousands of forms quick.
        pieces = {text[at : at + 6] for _, text in seen for at in range(len(text) - 5)}
        likely = {form: part for form, part in forms.items() if form[:6] in pieces}
        return sorted({(where, likely[f]) for f in likely for where, text in seen if f in text})


def ascii_of(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace")


class TestWatch:
    @pytest.mark.parametrize(
        "leak",
        [
            lambda token: token,
            lambda token: token[19:40],
            lambda token: f"x{token[40:]}",
            lambda token: token[40:51],
            lambda token: token.encode().hex(),
            lambda token: base64.b64encode(token.encode()),
            lambda token: base64.b64encode(b"x" + token[19:].encode()),
            lambda token: base64.b64encode(b"xy" + token[40:].encode()),
            lambda token: base64.urlsafe_b64decode(token[40:60]),
            lambda token: [{"secret": token[19:]}],
        ],
    )
    def test_leak_of_a_part_or_of_an_encoded_secret_is_found(
        self, leak: Callable[[str], object]
    ) -> None:
        """The search of these tests finds a secret whole, in parts and encoded."""
        watch, token = Watch(), unknown_token()
        watch.tokens.add(token)
        parsed = Token.parse(token)
        assert parsed
        watch.see("hash", repr(parsed), parsed.secret_hash, parsed.session_id)
        assert watch.leaks() == []
        watch.see("leak", leak(token))
        assert [where for where, _ in watch.leaks()][:1] == ["leak"]


MODES: dict[str, dict[str, t.Any]] = {
    "plain": {},
    "rotation": {"rotation_interval": INTERVAL},
    "flask session": {"as_flask_session": True, "rotation_interval": INTERVAL},
    "user id key": {
        "as_flask_session": True,
        "user_id_key": "user_id",
        "rotation_interval": INTERVAL,
        "migrate_cookie_session": True,
    },
}
"""The settings of apps that use sessions in different ways."""


@pytest.fixture
def watch() -> Iterator[Watch]:
    """What the test sees. The objects from before it are left out of the search for objects: a
    process has 300,000 of them."""
    gc.freeze()
    yield Watch()
    gc.unfreeze()


@pytest.fixture(params=MODES)
def busy_app(request: pytest.FixtureRequest, make_app: MakeApp, watch: Watch) -> Flask:
    """An app in each mode, with views that show what may be shown."""
    settings = MODES[request.param]
    app = make_app(views=False, login_view="sign_in_page", max_sessions_per_user=1, **settings)
    app.config.update(PROPAGATE_EXCEPTIONS=False, SECRET_KEY="secret")
    app.register_blueprint(kvs.sessions_blueprint, url_prefix="/devices")
    add_views(app, watch, by_key="user_id_key" in settings)
    for name in signals.__all__:
        getattr(signals, name).connect(watch_signal(watch, name), app, weak=False)
    got_request_exception.connect(
        lambda sender, exception, **extra: watch.see_error("exception", exception), app, weak=False
    )
    return app


def watch_signal(watch: Watch, name: str) -> Callable[..., None]:
    def receive(sender: Flask, **extra: t.Any) -> None:
        is_first = not any(where == f"signal {name}" for where, _ in watch.seen)
        watch.see(f"signal {name}", sender, extra)
        if is_first:
            see_every_object(watch)

    return receive


@functools.cache  # a process has 300,000 objects of some thousand classes
def is_class_of_ours(kind: Hashable) -> bool:
    return str(getattr(kind, "__module__", "")).startswith("flask_kvsession")


def is_ours(thing: object) -> bool:
    kind: t.Any = type(thing)
    return is_class_of_ours(kind)


def see_every_object(watch: Watch) -> set[str]:
    """The repr of every living object of the package. Returns the names of their classes."""
    tracked = [thing for thing in gc.get_objects() if is_ours(thing)]
    # The garbage collector does not track an object of texts and numbers only, such as a token.
    referents = gc.get_referents(*tracked)
    parts = [thing for thing in referents if is_ours(thing)]
    ours = {id(thing): thing for thing in [*tracked, *parts]}.values()
    for thing in ours:
        watch.see(f"repr of {type(thing).__name__}", repr(thing))
    return {type(thing).__name__ for thing in ours}


def add_views(app: Flask, watch: Watch, *, by_key: bool) -> None:
    data = session if app.config.get(AS_FLASK) else kvs.current_session

    @app.post("/in/<user>")
    def sign_in(user: str) -> Response:
        remember = "unremembered" not in request.args
        if by_key:
            session["user_id"], session.permanent = user, remember
        else:
            kvs.login_user(user, {"x": 1}, remember=remember)
        return redirect(kvs.next_url("/look"), 303)

    @app.post("/out")
    def sign_out() -> dict[str, t.Any]:
        data.pop("user_id", None) if by_key else kvs.logout_user()
        return {}

    @app.route("/write", methods=["GET", "POST"])
    def write() -> dict[str, t.Any]:
        data["list"] = [*data.get("list", []), 1]
        return {}

    @app.post("/act/<name>")
    def act(name: str) -> dict[str, t.Any]:
        return {"done": getattr(kvs, name)() is None}

    @app.get("/sign-in")
    def sign_in_page() -> str:
        return f"{kvs.session_ended_reason()} {kvs.next_url('/')}"

    @app.get("/look")
    def look() -> dict[str, t.Any]:
        watch.see("data", dict(data))
        watch.see("proxies", session, kvs.current_session, state_of(app).settings)
        kinds = see_every_object(watch)
        return {"kinds": sorted(kinds), "ended": kvs.session_ended_reason()}

    @app.get("/guarded")
    @kvs.login_required
    def guarded() -> str:
        return f"<p>{kvs.current_session} {kvs.list_sessions()}</p>"

    @app.post("/fail")
    def fail() -> t.NoReturn:
        data["x"] = 2
        data["list"] = [object()]
        raise RuntimeError("from a view")


PAGE = {"Accept": "text/html"}
REQUESTS: list[tuple[str, str, dict[str, str]]] = [
    ("POST", "/write", {}),
    ("POST", "/in/ada?next=/guarded", {}),
    ("GET", "/guarded", PAGE),
    ("GET", "/look", {}),
    ("POST", "/act/rotate_token", {}),
    ("POST", "/act/confirm_login", {}),
    ("GET", "/devices/", PAGE),
    ("GET", "/devices/", {}),
    ("POST", "/fail", {}),
    ("POST", "/act/list_sessions", {}),
    ("GET", "/guarded?later", PAGE),
    ("GET", "/look?again", {}),
    ("POST", "/write", {}),
    ("POST", "/in/bob?unremembered", {}),
    ("POST", "/out", {}),
    ("GET", "/guarded", PAGE),
    ("POST", "/write", {}),
]
"""What each browser does. Between the requests an hour passes where the path has a query."""


def see_redis(watch: Watch, client: redis.Redis, keys: Iterable[str]) -> None:
    for key in keys:
        is_index = ":u:" in key
        value = client.zrange(key, 0, -1, withscores=True) if is_index else client.get(key)
        watch.see("Redis", key, value)


class TestSecretIsOnlyInTheCookie:
    def test_no_part_of_any_token_is_anywhere_but_in_set_cookie(
        self,
        busy_app: Flask,
        watch: Watch,
        redis_client: redis.Redis,
        keys: Keys,
        clock: Clock,
        count_commands: CountCommands,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Redis, its commands, logs, warnings, signals, reprs, errors, pages and URLs hold no part
        of a token. The successor of a periodic rotation is searched for before it is shown, too."""
        caplog.set_level(logging.DEBUG)
        with warnings.catch_warnings(record=True) as warned, count_commands() as commands:
            warnings.simplefilter("always")
            other = busy_app.test_client()
            watch.send(other, "POST", "/in/ada")
            for _ in range(2):
                visitor, browser = busy_app.test_client(), busy_app.test_client()
                watch.send(visitor, "POST", "/write")
                for method, url, headers in REQUESTS:
                    clock.advance(minutes=61 if "?" in url else 6)
                    if url.startswith("/in/bob"):  # beside the user's cookie
                        name = "session" if busy_app.config.get(AS_FLASK) else "kvsession"
                        planted = anonymous_token_of(visitor, name) or ""
                        browser.set_cookie(f"{name}-anonymous", planted)
                    watch.send(browser, method, url, headers=headers)
                    see_redis(watch, redis_client, keys())
                watch.send(other, "GET", "/guarded", headers=PAGE)  # its session has ended
                watch.send(other, "GET", "/sign-in")
        watch.see("commands", *commands.sent)
        watch.see("warnings", *[str(warning) for warning in warned])
        watch.see("log", caplog.text)
        watch.see("log", *[(line.getMessage(), line.args) for line in caplog.records])
        places = {where for where, _ in watch.seen}
        kinds = {"Token", "Stored", "Record", "RequestSession", "AppState", "Presented", "Found"}
        assert len(watch.tokens) >= 12
        assert {"Redis", "commands", "log", "exception", "header Location of /guarded"} <= places
        assert len({place for place in places if place.startswith("signal")}) >= 3
        assert kinds <= {place.removeprefix("repr of ").removeprefix("Flask") for place in places}
        assert watch.leaks() == []

    @pytest.mark.parametrize("failing", range(1, 4))
    def test_error_of_any_call_of_the_store_shows_no_secret(
        self,
        busy_app: Flask,
        watch: Watch,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        clock: Clock,
        failing: int,
    ) -> None:
        """If the server refuses a call and quotes the command, no error, local variable, log line
        or response shows a secret."""
        caplog.set_level(logging.DEBUG)
        real, calls = Link.exchange, list[bool]()

        def exchange(link: Link, command: t.Any, end: float) -> t.Any:
            if calls and calls.pop():
                raise redis.ResponseError(f"cannot do this: {command!r}")
            return real(link, command, end)

        def answer(error: StoreUnavailable) -> tuple[str, int]:
            watch.see_error("StoreUnavailable", error)
            return f"{error} {error.description}", 503

        monkeypatch.setattr(Link, "exchange", exchange)
        busy_app.register_error_handler(StoreUnavailable, answer)
        browser = busy_app.test_client()
        statuses = set()
        for method, url, headers in REQUESTS:
            clock.advance(minutes=61 if "?" in url else 6)
            calls[:] = [True] + [False] * (failing - 1)  # the last one is the next call
            statuses.add(watch.send(browser, method, url, headers=headers).status_code)
            calls.clear()
            watch.send(browser, method, url, headers=headers)
        watch.see("log", caplog.text)
        assert 503 in statuses
        assert "cannot do this" in caplog.text
        assert "StoreUnavailable" in {where for where, _ in watch.seen}
        assert len(watch.tokens) >= 5
        assert watch.leaks() == []

    def test_error_while_the_cookie_is_written_shows_no_secret(
        self, app: Flask, client: FlaskClient, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the response cannot take the cookie, the package's local variables show no secret."""

        def fail(self: Response, key: str, value: str, **options: object) -> t.NoReturn:
            watch.tokens.add(value)
            raise RuntimeError("this cookie is refused")

        monkeypatch.setattr(app.response_class, "set_cookie", fail)
        with pytest.raises(RuntimeError) as caught:
            client.post("/login/ada")
        watch.see_error("error", caught.value)
        assert len(watch.tokens) == 1
        assert len(watch.seen) >= 3
        assert watch.leaks() == []

    def test_page_of_the_debugger_shows_no_secret(
        self, app: Flask, sign_in: SignIn, do: Do, watch: Watch
    ) -> None:
        """The page of Werkzeug's debugger for an error in a view shows no secret."""
        browser = sign_in(app)
        watch.tokens.add(token_of(browser) or "")
        app.wsgi_app = DebuggedApplication(app.wsgi_app, evalex=False)  # type: ignore[method-assign]

        def rotate_and_fail() -> None:
            kvs.rotate_token()
            raise RuntimeError(f"{kvs.current_session!r}")

        response = do(browser, rotate_and_fail, headers=PAGE)
        assert response.status_code == 500
        assert "werkzeug" in response.text and "rotate_and_fail" in response.text
        watch.see("page", response.text)
        assert watch.leaks() == []


class Dump:
    """What a thief reads in Redis: every key and value, and what can be made of them."""

    def __init__(self, client: redis.Redis, keys: Iterable[str]) -> None:
        self.ids: set[str] = set()
        texts: list[str] = []
        for key in keys:
            _, shard, kind, name = key.replace("{", "").replace("}", "").split(":")
            index = client.zrange(key, 0, -1) if kind == "u" else [client.get(key)]
            texts += [
                key,
                *[t.cast(bytes, value).decode() for value in t.cast("list[t.Any]", index)],
            ]
            self.ids |= {shard + name} if kind == "s" else set()
        self.runs = {run for text in texts for run in re.findall(r"[\w-]+", text, re.ASCII)}
        self.nonces = set(re.findall(r'"nonce":"([^"]+)"', "".join(texts)))

    def tokens(self) -> Iterator[str]:
        """Each session id with each text as its secret, each pair of texts as its two halves, and
        the successors that a nonce gives for them; and each text that is a token itself."""
        long = {run[at : at + 43] for run in self.runs for at in range(len(run) - 42)}
        halves = {half for run in self.runs for half in (run[:22], run[-22:]) if len(run) >= 21}
        pairs = {a[:21] + b[:22] for a, b in product(halves, halves) if len(b) >= 22}
        yield from (run[at : at + 62] for run in self.runs for at in range(len(run) - 61))
        for session_id, secret in product(self.ids, long | pairs):
            token = Token(session_id, secret)
            yield str(token)
            yield from (str(token.successor(nonce)) for nonce in self.nonces)


class TestDumpSignsNoUserIn:
    """Whoever has read Redis cannot be any user."""

    @pytest.fixture
    def app(self, make_app: MakeApp) -> Flask:
        return make_app(rotation_interval=INTERVAL)

    def test_no_token_made_of_a_dump_opens_a_session(
        self,
        app: Flask,
        sign_in: SignIn,
        do: Do,
        clock: Clock,
        redis_client: redis.Redis,
        keys: Keys,
    ) -> None:
        """No key, value or part of one, alone or combined, opens a session. The sessions are in the
        middle of a periodic rotation, in its grace, rotated explicitly, anonymous and ended."""
        rotating, in_grace, rotated, ended = (
            sign_in(app, user) for user in ("ada", "bob", "eve", "dan")
        )
        clock.advance(INTERVAL + timedelta(minutes=1))
        visitor = app.test_client()
        visitor.post("/data", json={"x": 1})
        rotating.get("/data")
        for _ in range(2):
            in_grace.get("/data")
        do(rotated, kvs.rotate_token)
        with app.app_context():
            kvs.revoke_all_sessions("dan")
        dump = Dump(redis_client, keys())
        assert len(dump.ids) == 5 and len(dump.nonces) == 1
        tried = list(dict.fromkeys(dump.tokens()))
        assert len(tried) > 1000
        thief = app.test_client(use_cookies=False)
        for at in range(0, len(tried), 4):
            for name in ("kvsession", "kvsession-anonymous"):
                cookie = "; ".join(f"{name}={token}" for token in tried[at : at + 4])
                response = thief.get("/data", headers={"Cookie": cookie})
                assert (response.status_code, response.get_json()) == (200, {})
                assert "Set-Cookie" not in response.headers
        for token in tried:
            found = store_of(app).look_up(t.cast(Token, Token.parse(token)))
            assert not found.standing.is_valid and found.end_reason is None
        assert [b.get("/me").status_code for b in (rotating, in_grace, rotated, ended)] == [
            *(200, 200, 200, 401)
        ]
        assert visitor.get("/data").get_json() == {"x": 1}

    def test_successor_in_a_dump_needs_the_secret_before(
        self, app: Flask, sign_in: SignIn, clock: Clock, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """In the middle of a periodic rotation, the nonce gives the successor from the old secret,
        and from no text of the dump."""
        browser = sign_in(app)
        old = Token.parse(user_token_of(browser) or "")
        clock.advance(INTERVAL + timedelta(minutes=1))
        browser.get("/data")
        successor = user_token_of(browser)
        dump = Dump(redis_client, keys())
        (nonce,) = dump.nonces
        assert old and str(old.successor(nonce)) == successor != str(old)
        assert successor not in set(dump.tokens())
        keys_of_hmac = {run for run in dump.runs if len(run) >= 20}
        digests = [hmac.digest(key.encode(), nonce.encode(), "sha256") for key in keys_of_hmac]
        assert successor[40:] not in {base64.urlsafe_b64encode(d).decode()[:22] for d in digests}
        assert not [run for run in dump.runs if successor[40:] in run or successor[19:40] in run]
