"""Regression tests for advisories of other session packages, each named by its advisory."""

from __future__ import annotations

import ast
import base64
import logging
import pickle
import secrets
import threading
import typing as t
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
import redis
from flask import Flask, g, redirect
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import flask_kvsession as kvs

from .support.apps import Do, MakeApp, store_of
from .support.browsers import SignIn, browser_with, cookies_of, id_of, token_of
from .support.clock import Clock
from .support.commands import CountCommands, Keys


def living(client: redis.Redis, keys: Keys) -> list[str]:
    """The keys of records that are not what is left of an ended session."""
    found = {key: t.cast("bytes | None", client.get(key)) for key in keys() if ":s:" in key}
    return [key for key, raw in found.items() if raw and not raw.startswith(b'{"ended"')]


def send_raw(app: Flask, cookies: str, path: str = "/me", **kwargs: t.Any) -> TestResponse:
    """A GET with this very Cookie header, which the test client's own jar would replace."""
    browser = app.test_client(use_cookies=False)
    return browser.get(path, environ_overrides={"HTTP_COOKIE": cookies}, **kwargs)


def rotate() -> object:
    """`rotate_token`, in an expression."""
    verb: Callable[[], object] = kvs.rotate_token
    return verb()


class TestCaching:
    """CVE-2023-30861, CVE-2026-27205, CVE-2026-35192: a cache served one user's response or cookie
    to another user."""

    TOUCHES: t.ClassVar[dict[str, Callable[[], object]]] = {
        "get": lambda: g.session.get("x"),
        "in": lambda: "x" in g.session,
        "not in": lambda: "x" not in g.session,
        "len": lambda: len(g.session),
        "bool": lambda: bool(g.session),
        "iter": lambda: list(g.session),
        "keys": lambda: list(g.session.keys()),
        "==": lambda: g.session == {},
        "pop": lambda: g.session.pop("x", None),
        "clear": lambda: g.session.clear(),
        "is_authenticated": lambda: kvs.current_session.is_authenticated,
        "is_fresh": lambda: kvs.current_session.is_fresh,
        "id": lambda: kvs.current_session.id,
        "new": lambda: kvs.current_session.new,
        "ended": lambda: kvs.current_session.ended,
        "list_sessions": lambda: kvs.list_sessions("ada"),
        "rotate_token": lambda: kvs.rotate_token(),
        "logout_user": lambda: kvs.logout_user(),
        "a guard": lambda: kvs.login_required(lambda: None)(),
        "a role": lambda: kvs.roles_required("admin")(lambda: None)(),
    }

    @pytest.mark.parametrize(
        "who",
        ["nobody", "junk", "anonymous", "user"],
        ids=["no session", "junk cookie", "anonymous session", "user session"],
    )
    @pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
    def test_each_use_of_the_session_adds_vary_cookie(
        self, app: Flask, client: FlaskClient, do: Do, who: str, touch: Callable[[], object]
    ) -> None:
        """Each use of the session adds `Vary: Cookie` to the response."""
        if who == "junk":
            client.set_cookie("kvsession", "junk")
        elif who != "nobody":
            client.post("/login/ada" if who == "user" else "/data", json={"x": 1})
        response = do(client, touch)
        assert "Cookie" in response.headers["Vary"].split(", ")

    @pytest.mark.parametrize("vary", ["Accept-Encoding", "cookie", "Accept, Cookie", "*"])
    def test_vary_of_the_app_is_kept_and_extended(
        self, app: Flask, client: FlaskClient, vary: str
    ) -> None:
        """The extension adds Cookie to the app's own `Vary` and repeats no name."""

        @app.get("/x")
        def view() -> t.Any:
            g.session.get("x")
            return "x", {"Vary": vary}

        names = client.get("/x").headers["Vary"].lower().split(", ")
        assert {"cookie", *vary.lower().split(", ")} == set(names)
        assert len(names) == len(set(names))

    @pytest.mark.parametrize(
        ("act", "data"),
        [
            (lambda: g.session.update(x=1), {}),
            (lambda: kvs.login_user("ada"), {}),
            (lambda: kvs.logout_user(), {"x": 1}),
            (lambda: kvs.rotate_token(), {"x": 1}),
        ],
        ids=["first write", "login", "logout", "rotation"],
    )
    def test_response_with_a_set_cookie_is_no_store(
        self, app: Flask, client: FlaskClient, act: Callable[[], object], data: dict[str, int]
    ) -> None:
        """A response with a Set-Cookie is `no-store`, although the app made it public."""

        @app.get("/x")
        def view() -> t.Any:
            act()
            return "x", {"Cache-Control": "public, max-age=3600", "Expires": "0"}

        client.post("/data", json=data)
        response = client.get("/x")
        assert len(cookies_of(response)) == 1
        assert response.headers.getlist("Cache-Control") == ["no-store"]
        assert response.headers["Vary"] == "Cookie"

    def test_response_of_a_renewal_keeps_the_apps_cache_control(
        self, app: Flask, sign_in: SignIn, clock: Clock
    ) -> None:
        """The response of a renewal has `Vary: Cookie`, no Set-Cookie and the app's
        Cache-Control."""

        @app.get("/x")
        @kvs.login_required
        def view() -> t.Any:
            return "x", {"Cache-Control": "private, max-age=60"}

        browser = sign_in(app)
        clock.advance(minutes=6)
        response = browser.get("/x")
        assert response.headers["Vary"] == "Cookie"
        assert response.headers["Cache-Control"] == "private, max-age=60"
        assert "Set-Cookie" not in response.headers


class TestResurrection:
    """CVE-2025-46336, CVE-2025-32441, connect-redis#328, better-auth#11073: a request in flight
    wrote an ended session back."""

    ENDS: t.ClassVar[dict[str, Callable[[Flask, FlaskClient], object]]] = {
        "revoke_all": lambda app, same: store_of(app).revoke_all("ada"),
        "revoke": lambda app, same: store_of(app).revoke_one("ada", id_of(same)),
        "logout": lambda app, same: same.post("/logout"),
        "login": lambda app, same: same.post("/login/ada"),
    }
    WRITES: t.ClassVar[dict[str, tuple[Callable[[], object], bool]]] = {
        "save": (lambda: g.session.update(x=1), False),
        "nested save": (lambda: g.session["list"].append(1), False),
        "clear": (lambda: g.session.clear(), False),
        "renewal": (lambda: None, True),
        "rotation": (lambda: kvs.rotate_token(), False),
        "save and rotation": (lambda: (g.session.update(x=1), rotate())[0], False),
        "update_all": (lambda: kvs.update_all_sessions("ada", {"x": 1}), False),
    }

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    @pytest.mark.parametrize(("write", "late"), WRITES.values(), ids=WRITES)
    def test_request_in_flight_does_not_bring_an_ended_session_back(
        self,
        app: Flask,
        sign_in: SignIn,
        do: Do,
        clock: Clock,
        redis_client: redis.Redis,
        keys: Keys,
        write: Callable[[], object],
        late: bool,
        end: Callable[[Flask, FlaskClient], object],
    ) -> None:
        """A request that loaded its session before the session ended writes nothing and sends no
        cookie."""
        arrived, go_on = threading.Event(), threading.Event()
        browser = sign_in(app, data={"list": []})
        token = token_of(browser)
        parked = browser_with(app, token)
        clock.advance(minutes=6 if late else 0)

        def act() -> None:
            assert g.session.user_id == "ada"
            arrived.set()
            assert go_on.wait(10)
            write()

        with ThreadPoolExecutor(1) as pool:
            try:
                response = pool.submit(do, parked, act)
                assert arrived.wait(10)
                end(app, browser)
                before = len(living(redis_client, keys))
            finally:
                go_on.set()
        assert response.result().status_code == 200
        assert not cookies_of(response.result())
        assert len(living(redis_client, keys)) == before
        assert browser_with(app, token).get("/me").status_code == 401
        assert len(store_of(app).sessions_of("ada")) == before


class TestFlooding:
    """CVE-2015-5143, -5963, -5964: reads, random ids and logouts filled the store."""

    def test_a_thousand_requests_without_a_write_make_no_key(
        self, app: Flask, keys: Keys, count_commands: CountCommands
    ) -> None:
        """Reads, refusals and logouts make no key, and only a token-shaped cookie costs a read."""
        store_of(app).now()
        paths = [("GET", "/data"), ("GET", "/me"), ("POST", "/logout"), ("GET", "/untouched")]
        with count_commands() as commands:
            for n in range(250):
                for method, path in paths:
                    token = [None, "junk", secrets.token_urlsafe(60)[:62]][n % 3]
                    response = browser_with(app, token).open(path, method=method)
                    assert response.status_code in (200, 401)
        assert keys() == set()
        assert Counter(commands.names) == {"GET": 83 * 3}

    @pytest.mark.parametrize(
        "value",
        [
            "", "=", "short", "x" * 61, "x" * 63, "x" * 1_000_000, "*" * 62, "?" * 62,
            "{x}" + "a" * 59, "../" * 20 + "ab", ":" * 62, "a" * 61 + ".", "a" * 61 + "é",
            '"' + "a" * 60 + '"', '"\\141' + "a" * 57 + '"', "a" * 31 + "\x00" + "a" * 30,
            "\xff\xfe" + "a" * 60, "a" * 62 + "\n", " " + "a" * 61, "%61" + "a" * 59,
            "eyJfZnJlc2giOmZhbHNlfQ.Zz1.abc", "kvs:{AbC}:s:0123456789abcdef",
        ],
        ids=lambda value: repr(value)[:20],
    )  # fmt: skip
    def test_cookie_without_the_shape_of_a_token_costs_no_redis_call(
        self, app: Flask, keys: Keys, count_commands: CountCommands, value: str
    ) -> None:
        """A cookie without the shape of a token opens no session, makes no key and costs no Redis
        call."""
        store_of(app).now()
        with count_commands() as commands:
            for path in ("/me", "/data"):
                response = send_raw(app, f"kvsession={value}", path)
                assert response.status_code == (401 if path == "/me" else 200)
        assert not commands.names
        with count_commands() as commands:
            send_raw(app, f"kvsession={'A' * 62}")
        assert commands.names == ["GET"]
        assert keys() == set()

    def test_ten_thousand_cookies_give_no_session_and_no_error(
        self, app: Flask, keys: Keys
    ) -> None:
        """A request with 10,000 cookies is refused without an error and makes no key."""
        for name in ("c{}", "kvsession"):
            cookies = "; ".join(f"{name.format(n)}={'a' * 40}{n:022}" for n in range(10_000))
            assert send_raw(app, cookies).status_code == 401
        assert keys() == set()


class TestFixation:
    """CVE-2018-1000519, CVE-2022-38054, CVE-2022-25896: a token from before the login was valid
    after the login."""

    @pytest.mark.parametrize(
        "planted",
        ["unknown", "anonymous", "attacker", "ended", "victim"],
        ids=["unknown", "anonymous", "of the attacker", "ended", "of the victim"],
    )
    def test_planted_token_opens_nothing_after_the_victims_login(
        self, app: Flask, sign_in: SignIn, planted: str
    ) -> None:
        """After a login over a planted token, the user has a new token and the planted token is
        invalid."""
        attacker = (
            sign_in(app, "mallory") if planted in ("attacker", "ended") else app.test_client()
        )
        if planted == "anonymous":
            attacker.post("/data", json={"x": 1})
        elif planted == "unknown":
            attacker.set_cookie("kvsession", secrets.token_urlsafe(60)[:62])
        elif planted == "ended":
            store_of(app).revoke_all("mallory")
        elif planted == "victim":
            attacker = sign_in(app, "ada")
        token = token_of(attacker)
        victim = browser_with(app, token)
        victim.post("/login/ada")
        new = token_of(victim) or ""
        assert new[3:19] != (token or "")[3:19]
        assert new[19:40] not in (token or "")
        assert victim.get("/me").get_json()["user"] == "ada"
        assert attacker.get("/me").status_code == 401

    def test_token_from_before_a_logout_stays_invalid_after_the_next_login(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """A token from before a logout stays invalid after the next login."""
        browser = sign_in(app)
        old = token_of(browser)
        browser.post("/logout")
        browser.post("/login/ada")
        assert browser_with(app, old).get("/me").status_code == 401


class TestIncompleteRevocation:
    """CVE-2026-82311, CVE-2023-20862: some sessions outlived a revocation of all sessions or a
    logout."""

    UUID_1 = UUID("12345678-1234-5678-1234-567812345678")

    @pytest.mark.parametrize(
        ("signed_in", "revoked"),
        [(42, "42"), ("42", 42), (UUID_1, str(UUID_1)), (str(UUID_1), UUID_1), (-1, "-1")],
        ids=repr,
    )
    def test_user_id_of_another_type_finds_the_same_sessions(
        self, app: Flask, client: FlaskClient, do: Do, signed_in: t.Any, revoked: t.Any
    ) -> None:
        """All verbs find a user's sessions by a user id of another type with the same text."""
        do(client, lambda: kvs.login_user(signed_in))
        with app.app_context():
            assert len(kvs.list_sessions(revoked)) == 1
            assert kvs.update_all_sessions(revoked, {"x": 1}) == 1
            assert kvs.revoke_all_sessions(revoked) == 1
        assert client.get("/me").status_code == 401

    def test_similar_user_ids_are_different_users(
        self, app: Flask, client: FlaskClient, do: Do
    ) -> None:
        """User ids that only look alike belong to different users."""
        do(client, lambda: kvs.login_user("42"))
        with app.app_context():
            for other in ("042", "42 ", " 42", "+42", "4２", 420, 4, "42\n", "42\0", -42):
                assert kvs.revoke_all_sessions(other) == 0
        assert client.get("/me").status_code == 200

    def test_hundreds_of_sessions_of_one_user_all_end(
        self, make_app: MakeApp, sign_in: SignIn
    ) -> None:
        """`revoke_all_sessions` ends all 300 sessions of a user."""
        app = make_app("unlimited", max_sessions_per_user=None)
        browsers = [sign_in(app) for _ in range(300)]
        with app.app_context():
            assert kvs.revoke_all_sessions("ada") == 300
            assert kvs.list_sessions("ada") == []
        assert {browser.get("/me").status_code for browser in browsers} == {401}

    def test_login_during_a_revocation_of_all_sessions_ends_too(
        self, app: Flask, sign_in: SignIn, do: Do, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """`revoke_all` also ends a session that is created after its first read of the index."""
        sign_in(app)
        store, later = store_of(app), app.test_client()
        real = store.revoke

        def revoke(user: str, ids: list[str], reason: str, expected: bytes = b"") -> t.Any:
            if token_of(later) is None:
                later.post("/login/ada")
            return real(user, ids, reason, expected)

        store.revoke = revoke  # type: ignore[method-assign]
        assert len(store.revoke_all("ada")) == 2
        assert living(redis_client, keys) == []

    def test_write_after_a_logout_goes_into_an_anonymous_session(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """A write after a logout in the same request goes into an anonymous session."""
        browser = sign_in(app, data={"role": "admin"})

        def act() -> None:
            kvs.logout_user()
            g.session["message"] = "bye"

        do(browser, act)
        assert browser.get("/me").status_code == 401
        assert browser.get("/data").get_json() == {"message": "bye"}


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> t.Any:
        return Path.touch, (self.path,)


class TestPlantedPickle:
    """CVE-2021-33026: write access to the store allowed code to run in the app."""

    @pytest.mark.parametrize("protocol", [0, 2, 5])
    @pytest.mark.parametrize("place", ["record", "base64", "data", "value", "index"])
    def test_pickle_in_redis_is_never_loaded(
        self,
        app: Flask,
        sign_in: SignIn,
        do: Do,
        redis_client: redis.Redis,
        keys: Keys,
        tmp_path: Path,
        protocol: int,
        place: str,
    ) -> None:
        """A pickle in place of a record, in its data or in the index is not loaded and causes no
        error."""
        payload = pickle.dumps(Payload(tmp_path / "run"), protocol)
        browser = sign_in(app, data={"x": "PLANTED"})
        (key,) = [key for key in keys() if ":s:" in key]
        (index,) = [key for key in keys() if ":u:" in key]
        record = t.cast(bytes, redis_client.get(key))
        encoded = base64.b64encode(payload)
        if place == "index":
            redis_client.zadd(index, {encoded: 9e15, b"A" * 19: 9e15})
        else:
            planted = {
                "record": payload,
                "base64": encoded,
                "data": record.replace(b"PLANTED", encoded),
                "value": record.replace(b'"PLANTED"', b'{" b":"%b"}' % encoded),
            }
            redis_client.set(key, planted[place])
        assert do(browser, lambda: repr(g.session.get("x"))).status_code == 200
        if place != "value":  # JSON has no bytes, so the view cannot show that value
            expected = 200 if place in ("data", "index") else 401
            assert browser.get("/me").status_code == expected
        assert browser.post("/data", json={"y": 1}).status_code == 200
        with app.app_context():
            kvs.list_sessions("ada")
            kvs.revoke_all_sessions("ada")
        assert browser.get("/me").status_code == 401
        assert not (tmp_path / "run").exists()

    def test_package_names_no_pickle_eval_or_exec(self) -> None:
        """No module of the package uses pickle, marshal, shelve, yaml, eval or exec. A text may
        name EVAL, a command of Redis."""
        for path in Path(kvs.__file__).parent.rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            names = {getattr(node, key, "") for node in nodes for key in ("id", "attr", "module")}
            names |= {
                alias.name
                for node in nodes
                for alias in getattr(node, "names", [])
                if isinstance(alias, ast.alias)
            }
            assert not names & {"pickle", "marshal", "shelve", "eval", "exec", "yaml"}


class TestForgedCookie:
    """CVE-2025-71402: a forged cookie ended another user's session."""

    FORGE: t.ClassVar[dict[str, Callable[[str], str]]] = {
        "right id only": lambda token: token[:19] + secrets.token_urlsafe(43)[:43],
        "right id and family": lambda token: token[:40] + secrets.token_urlsafe(22)[:22],
        "right id and rotating half": lambda token: (
            token[:19] + secrets.token_urlsafe(21)[:21] + token[40:]
        ),
        "one character off": lambda token: token[:-2] + ("A" if token[-2] != "A" else "B") + "A",
        "halves swapped": lambda token: token[:19] + token[40:] + token[19:40],
        "another case": lambda token: token[:19] + token[19:].swapcase(),
    }
    ACTS: t.ClassVar[dict[str, Callable[[], object]]] = {
        "read": lambda: g.session.get("x"),
        "write": lambda: g.session.update(x="evil"),
        "clear": lambda: g.session.clear(),
        "logout": lambda: kvs.logout_user(),
        "login": lambda: kvs.login_user("mallory"),
        "login as the victim": lambda: kvs.login_user("ada"),
        "rotate": lambda: kvs.rotate_token(),
        "confirm": lambda: kvs.confirm_login(),
        "revoke": lambda: kvs.revoke_session(kvs.current_session.id or ""),
        "revoke all": lambda: kvs.revoke_all_sessions(),
        "list": lambda: kvs.list_sessions(),
    }

    @pytest.mark.parametrize("forge", FORGE.values(), ids=FORGE)
    @pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
    def test_forged_cookie_does_not_change_the_session_it_names(
        self,
        app: Flask,
        sign_in: SignIn,
        do: Do,
        redis_client: redis.Redis,
        keys: Keys,
        forge: Callable[[str], str],
        act: Callable[[], object],
    ) -> None:
        """A cookie with a valid session id and a wrong secret changes neither the record nor its
        expiry."""
        victim = sign_in(app, data={"x": 1})
        token = token_of(victim) or ""
        (key,) = living(redis_client, keys)
        before = redis_client.get(key), redis_client.expiretime(key)
        forger = browser_with(app, forge(token))
        assert forger.get("/me").status_code == 401
        assert do(forger, act).status_code in (200, 401)
        assert (redis_client.get(key), redis_client.expiretime(key)) == before
        assert victim.get("/me").get_json()["data"] == {"x": 1}

    def test_forged_cookie_gets_the_response_of_an_unknown_cookie(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """A forged cookie gets the same response as an unknown cookie."""
        token = token_of(sign_in(app)) or ""
        forged, unknown = (
            browser_with(app, text).get("/me") for text in (token[:19] + "A" * 43, "A" * 62)
        )
        assert forged.data == unknown.data
        assert dict(forged.headers) == dict(unknown.headers)


class TestFreshnessBypass:
    """GHSA-f66q-9rf6-8795: a session became fresh without an authentication."""

    def test_stale_session_becomes_fresh_only_by_confirm_login(
        self, app: Flask, sign_in: SignIn, clock: Clock, do: Do
    ) -> None:
        """Activity, data, rotations and other sessions' logins leave a stale session stale."""
        app.route("/delete-account", methods=["GET", "POST"])(
            kvs.fresh_login_required(lambda: "deleted")
        )
        browser = sign_in(app)
        clock.advance(minutes=16)
        tries: list[Callable[[], object]] = [
            lambda: g.session.update(authenticated=9e15, is_fresh=True, _fresh=True, fresh=True),
            lambda: kvs.rotate_token(),
            lambda: kvs.update_all_sessions("ada", {"authenticated_at": 9e15}),
            lambda: kvs.revoke_all_sessions(except_current=True),
            lambda: g.session.clear(),
        ]
        for act in tries:
            assert do(browser, act).status_code == 200
            other = sign_in(app)
            do(other, kvs.confirm_login)
            for method in ("GET", "POST", "HEAD"):
                response = browser.open("/delete-account?fresh=1", method=method)
                assert response.status_code == 401
            clock.advance(minutes=6)
        do(browser, kvs.confirm_login)
        assert browser.post("/delete-account").text == "deleted"


class TestIdInLogs:
    """CVE-2023-20866: a log contained the secret of a session."""

    def test_logs_at_the_lowest_level_hold_no_secret(
        self, app: Flask, sign_in: SignIn, do: Do, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No log record of any level holds a secret."""
        caplog.set_level(logging.NOTSET)
        browser = sign_in(app)
        tokens = [token_of(browser) or ""]
        for act in (kvs.rotate_token, kvs.confirm_login, kvs.list_sessions):
            do(browser, act)
            clock.advance(minutes=6)
            tokens.append(token_of(browser) or "")
        browser.set_cookie("kvsession", tokens[0])
        browser.get("/me")
        with app.app_context():
            kvs.revoke_all_sessions("ada")
        lines = [record.getMessage() + str(record.args) for record in caplog.records]
        assert any(tokens[0][:19] in line for line in lines)
        assert not any(t[19:40] in line or t[40:] in line for t in tokens for line in lines)


class TestRepliesCrossing:
    """CVE-2023-28858, -28859: after a timeout, the reply to one user's command went to another
    user."""

    REQUESTS = 600

    @pytest.fixture
    def stalling(self, redis_client: redis.Redis) -> Iterator[None]:
        """The server answers nobody for a while, again and again."""
        done = threading.Event()

        def stall() -> None:
            while not done.wait(0.03):
                redis_client.client_pause(20)
                redis_client.ping()  # answered when the pause is over

        with ThreadPoolExecutor(1) as pool:
            stalled = pool.submit(stall)
            yield
            done.set()
        stalled.result()
        redis_client.client_unpause()

    @pytest.mark.without_near_cache
    def test_requests_with_timeouts_get_only_their_own_replies(
        self, make_app: MakeApp, stalling: None
    ) -> None:
        """Requests that share connections and time out get their own user's response or 503."""
        app = make_app(store_timeout=0.01)
        users = ["ada", "bob"]
        browsers = {user: app.test_client() for user in users}
        for user, browser in browsers.items():
            steady(browser, "POST", f"/login/{user}")
        tokens = {user: token_of(browser) for user, browser in browsers.items()}

        def visit(n: int) -> tuple[str, int, object]:
            user = users[n % 2]
            browser = browser_with(app, tokens[user])
            if n % 4 < 2:
                response = browser.get("/me")
                body = response.get_json(silent=True) or {}
                return user, response.status_code, body.get("user")
            response = browser.post("/data", json={f"k{n % 8}": user})
            return user, response.status_code, user

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(visit, range(self.REQUESTS)))
        statuses = Counter(status for _, status, _ in answers)
        assert set(statuses) == {200, 503}
        assert statuses[503] >= 20
        assert all(user == found for user, status, found in answers if status == 200)
        for user in users:
            data = steady(browser_with(app, tokens[user]), "GET", "/data").get_json()
            assert set(data.values()) == {user}


def steady(browser: FlaskClient, method: str, path: str) -> TestResponse:
    """The first answer that is no 503."""
    tries = (browser.open(path, method=method) for _ in range(100))
    return next(response for response in tries if response.status_code != 503)


class TestOpenRedirect:
    """CVE-2023-49438: an unsafe `next` passed the check and led to another site."""

    @pytest.mark.parametrize(
        "target",
        [
            "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
            "/\n/evil.example", "https:evil.example", "https:///evil.example", " //evil.example",
            "/.//evil.example", "/a/..//evil.example", "/%2e//evil.example?/../..",
            "/%5c%5cevil.example/..//evil.example\\", "javascript:alert(1)//", "http://[::1",
        ],
    )  # fmt: skip
    def test_login_with_an_unsafe_next_stays_within_the_site(
        self, make_app: MakeApp, target: str
    ) -> None:
        """A login with an unsafe `next` in the query or in the form redirects to the default."""
        app = make_app()

        @app.post("/sign-in")
        def sign_in() -> t.Any:
            kvs.login_user("ada")
            return redirect(kvs.next_url("/home"), 302)

        for way in ({"query_string": {"next": target}}, {"data": {"next": target}}):
            response = app.test_client().post("/sign-in", **way)
            assert response.location == "/home"
            assert len(cookies_of(response)) == 1


class TestCookieParsing:
    """CVE-2023-23934: a cookie without a name was read as a cookie with a name."""

    @pytest.mark.parametrize(
        "cookies",
        [
            "={name}={token}",
            "=={name}={token}",
            "\xa0{name}={token}",
            "{name}\xa0={token}",
            "x={name}={token}",
            "{upper}={token}",
            "\x1c{name}={token}",
            '"{name}"={token}',
            "{name}[]={token}",
        ],
    )
    @pytest.mark.parametrize("secure", [True, False])
    def test_cookie_whose_name_differs_is_ignored(
        self, make_app: MakeApp, secure: bool, cookies: str
    ) -> None:
        """Only a cookie with exactly the session cookie's name opens a session."""
        app = make_app(cookie_secure=secure)
        name = "__Host-kvsession" if secure else "kvsession"
        url = "https://localhost"
        browser = app.test_client()
        browser.post("/login/mallory", json={}, base_url=url)
        token = token_of(browser, name)
        header = cookies.format(name=name, upper=name.upper(), token=token)
        assert send_raw(app, header, base_url=url).status_code == 401
        assert send_raw(app, f"{name}={token}", base_url=url).status_code == 200

    def test_two_different_session_cookies_are_both_ignored(
        self, app: Flask, sign_in: SignIn
    ) -> None:
        """If a browser sends two different session cookies, both are ignored."""
        mine, planted = token_of(sign_in(app, "ada")), token_of(sign_in(app, "mallory"))
        for pair in ((mine, planted), (planted, mine)):
            header = "; ".join(f"kvsession={token}" for token in pair)
            assert send_raw(app, header).status_code == 401
        header = f"kvsession={mine}; kvsession={mine}; kvsession=junk"
        assert send_raw(app, header).status_code == 200
