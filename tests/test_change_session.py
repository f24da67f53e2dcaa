"""`change_session`: an atomic read-modify-write of this session's data."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator

import pytest
from flask import Flask, g, session
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.errors import KVSessionError, SessionTooLarge, UnstorableValue

from .support.apps import Do, MakeApp, store_of
from .support.browsers import SignIn, browser_with, cookies_of, token_of
from .support.clock import Clock
from .support.commands import CountCommands
from .support.proxy import Proxy
from .support.races import CROWD, Stage

Data = dict[str, t.Any]


def count(data: Data) -> None:
    data["n"] = data.get("n", 0) + 1


@pytest.fixture
def token(client: FlaskClient) -> str:
    """Ada's, signed in."""
    client.post("/login/ada", json={"data": {"n": 0}})
    return token_of(client) or ""


def raised_by(do: Do, browser: FlaskClient, act: Callable[[], object]) -> BaseException:
    """The exception that an act raises in a view, which catches it and goes on."""
    raised: list[BaseException] = []

    def catch() -> None:
        try:
            act()
        except Exception as error:
            raised.append(error)

    do(browser, catch)
    return raised[0]


class TestRaces:
    """Parallel requests."""

    def test_no_increment_of_parallel_requests_is_lost(self, stage: Stage, token: str) -> None:
        """If parallel requests count the same key, each of them counts, although some of them write
        equal records."""
        stage.all_at_once([token] * CROWD, lambda: kvs.change_session(count))
        assert stage.data(token) == {"n": CROWD}

    def test_assignment_loses_increments_without_it(self, stage: Stage, token: str) -> None:
        """By mere assignment, the later of two changes of one key wins."""
        stage.all_at_once([token] * 2, lambda: count(t.cast(Data, g.session)))
        assert stage.data(token) == {"n": 1}

    def test_function_gets_what_a_faster_request_has_written(
        self, stage: Stage, token: str
    ) -> None:
        """The function is called again with the data of the faster request."""
        seen: list[Data] = []

        def append(data: Data) -> None:
            seen.append(dict(data))
            data["cart"] = [*data.get("cart", []), "tea"]

        release = stage.park(token, lambda: kvs.change_session(append))
        stage.browser(token).post("/data", json={"cart": ["milk"]})
        release()
        assert seen == [{"n": 0}, {"n": 0, "cart": ["milk"]}]
        assert stage.data(token) == {"n": 0, "cart": ["milk", "tea"]}

    def test_session_that_has_ended_meanwhile_stays_ended(self, stage: Stage, token: str) -> None:
        """If the session was revoked meanwhile, nothing is written, and the session is empty."""
        results: list[tuple[str | None, Data]] = []

        def act() -> None:
            found = kvs.change_session(count)
            results.append((found.id, dict(found)))

        release = stage.park(token, act)
        store_of(stage.app).revoke_all("ada")
        response = release()
        assert results == [(None, {})]
        assert cookies_of(response) == []
        assert stage.browser(token).get("/me").status_code == 401


class TestPendingChanges:
    """What the request has changed before."""

    def test_pending_changes_are_in_the_dict_and_are_written_with_it(
        self, do: Do, client: FlaskClient, token: str, count_commands: CountCommands
    ) -> None:
        """The function sees the request's own changes, and one write stores both."""

        def act() -> None:
            g.session["n"] = 10
            g.session["list"] = [1]
            g.session["list"].append(2)
            kvs.change_session(count)
            assert dict(g.session) == {"n": 11, "list": [1, 2]}

        with count_commands() as commands:
            do(client, act)
        assert commands.names == ["GET", "EVALSHA"]
        assert client.get("/data").get_json() == {"n": 11, "list": [1, 2]}

    def test_changes_after_the_call_are_written_at_the_end(
        self, do: Do, client: FlaskClient, token: str
    ) -> None:
        """The session is usable afterwards: a later assignment and a list that was read later."""

        def act() -> None:
            kvs.change_session(lambda data: data.update(cart=["tea"]))
            g.session["cart"].append("milk")
            g.session["x"] = 1

        do(client, act)
        assert client.get("/data").get_json() == {"n": 0, "cart": ["tea", "milk"], "x": 1}

    def test_removed_key_and_cleared_data_are_removed(
        self, do: Do, client: FlaskClient, token: str
    ) -> None:
        """The function may delete keys, and may clear the dict."""
        do(client, lambda: kvs.change_session(lambda data: data.pop("n")))
        assert client.get("/data").get_json() == {}
        do(client, lambda: kvs.change_session(lambda data: data.update(a=1, b=2)))
        do(client, lambda: kvs.change_session(dict.clear))
        assert client.get("/me").get_json()["data"] == {}

    def test_change_is_stored_although_the_view_fails_later(
        self, app: Flask, do: Do, client: FlaskClient, token: str
    ) -> None:
        """The change is stored at once, and not at the end of the request."""
        other = app.test_client()
        other.set_cookie("kvsession", token)
        seen: list[t.Any] = []

        def act() -> None:
            kvs.change_session(count)
            seen.append(other.get("/data").get_json())

        do(client, act)
        assert seen == [{"n": 1}]


class TestAnonymous:
    """A browser that is not signed in."""

    def test_browser_without_a_session_gets_one(
        self, do: Do, client: FlaskClient, count_commands: CountCommands
    ) -> None:
        """The first change creates an anonymous session and sends its cookie, in one round trip."""
        with count_commands() as commands:
            response = do(client, lambda: kvs.change_session(count) and {})
        assert commands.names.count("EVALSHA") == 1
        assert [cookie.partition("=")[0] for cookie in cookies_of(response)] == [
            "kvsession-anonymous"
        ]
        do(client, lambda: kvs.change_session(count))
        assert client.get("/data").get_json() == {"n": 2}

    def test_function_that_puts_nothing_in_creates_nothing(
        self, do: Do, client: FlaskClient, count_commands: CountCommands
    ) -> None:
        """Without data there is no session, no cookie and no command."""
        with count_commands() as commands:
            response = do(client, lambda: kvs.change_session(dict.clear) and {})
        assert (commands.names, cookies_of(response)) == ([], [])

    def test_emptied_session_is_deleted(
        self, do: Do, client: FlaskClient, keys: Callable[[], set[str]]
    ) -> None:
        """A function that removes the last item ends the anonymous session and its cookie."""
        client.post("/data", json={"x": 1})
        do(client, lambda: kvs.change_session(dict.clear))
        assert (keys(), token_of(client)) == (set(), None)

    def test_login_after_the_change_carries_the_data_over(
        self, do: Do, client: FlaskClient
    ) -> None:
        """A login in the same request takes the changed data over."""
        do(client, lambda: kvs.change_session(count) and kvs.login_user("ada"))
        assert client.get("/me").get_json()["data"] == {"n": 1}


class TestErrors:
    """What raises stores nothing."""

    def test_exception_of_the_function_is_raised_and_nothing_is_stored(
        self, do: Do, client: FlaskClient, token: str
    ) -> None:
        """The function's own exception reaches the view. Pending changes stay pending."""

        def act() -> None:
            g.session["x"] = 1
            with pytest.raises(ZeroDivisionError):
                kvs.change_session(lambda data: data.update(n=1 / 0))

        assert do(client, act).status_code == 200
        assert client.get("/data").get_json() == {"n": 0, "x": 1}

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda data: data.update(x=object()), UnstorableValue, "x"),
            (lambda data: data.update({1: 2}), UnstorableValue, "key"),
            (lambda data: data.update(x="x" * 70_000), SessionTooLarge, "MAX_SESSION_BYTES"),
            (lambda data: g.session.update(x=1), KVSessionError, "change the dict"),
        ],
        ids=["value", "key", "size", "session"],
    )
    @pytest.mark.parametrize("user", [True, False], ids=["user", "anonymous"])
    def test_impossible_change_raises(
        self, do: Do, client: FlaskClient, change: t.Any, error: t.Any, message: str, user: bool
    ) -> None:
        """A value, a key or a size that no session can have raises, and so does a function that
        changes the session itself and not its dict."""
        if user:
            client.post("/login/ada")
        raised = raised_by(do, client, lambda: kvs.change_session(change))
        assert isinstance(raised, error)
        assert message in str(raised)

    def test_what_is_no_plain_function_raises(self, do: Do, client: FlaskClient) -> None:
        """A dict and a coroutine function raise an error that says what to pass."""

        async def change(data: Data) -> None:
            data["x"] = 1

        for wrong in ({"x": 1}, change):
            raised = raised_by(do, client, lambda wrong=wrong: kvs.change_session(wrong))  # type: ignore[misc]
            assert isinstance(raised, TypeError)
            assert "function (not async)" in str(raised)

    def test_change_after_the_commit_raises(self, app: Flask, client: FlaskClient) -> None:
        """In a streamed response nothing can send the cookie any more, so the call raises."""
        raised: list[str] = []

        @app.get("/stream")
        def stream() -> t.Any:
            from flask import stream_with_context

            def pieces() -> Iterator[str]:
                try:
                    kvs.change_session(count)
                except KVSessionError as error:
                    raised.append(str(error))
                yield "x"

            return stream_with_context(pieces())

        client.get("/stream").close()
        assert "after its request" in raised[0]


def test_lost_reply_is_not_repeated(make_app: MakeApp, socket_path: str, sign_in: SignIn) -> None:
    """If the reply to the write is lost and another request counts meanwhile, the answer is a 503
    and each request has counted once: a second attempt would count twice."""
    proxy = Proxy(socket_path)
    app, other = make_app(redis_url=f"unix://{proxy.path}"), make_app()
    for each in (app, other):
        each.add_url_rule(
            "/count", "count", lambda: {"n": kvs.change_session(count)["n"]}, methods=["POST"]
        )
    browser = sign_in(app, data={"n": 0})
    token = token_of(browser)
    proxy.lose_reply_to(
        b"EVALSHA", before_hanging_up=lambda: browser_with(other, token).post("/count")
    )
    assert browser.post("/count").status_code == 503
    assert browser.get("/data").get_json() == {"n": 2}
    proxy.close()


def test_due_renewal_goes_with_the_change(
    do: Do, client: FlaskClient, token: str, clock: Clock, count_commands: CountCommands
) -> None:
    """A due renewal is part of the same write."""
    clock.advance(minutes=6)
    with count_commands() as commands:
        do(client, lambda: kvs.change_session(count))
    assert commands.names == ["GET", "EVALSHA"]
    seen: list[bool] = []
    do(client, lambda: seen.append(g.session.last_seen_at > g.session.created_at))
    assert seen == [True]


class TestFlaskSession:
    """`flask.session`, and apps that sign users in by a key."""

    @pytest.fixture
    def browser(self, make_app: MakeApp) -> FlaskClient:
        app = make_app(as_flask_session=True, user_id_key="user_id", views=False)
        app.secret_key = "x"

        def make_permanent_and_count() -> None:
            session.permanent = True
            kvs.change_session(count)

        acts: dict[str, Callable[[], object]] = {
            "in": lambda: session.update(user_id="ada", n=1),
            "out": lambda: session.pop("user_id"),
            "count": lambda: kvs.change_session(count),
            "in-and-count": lambda: (session.update(user_id="ada"), kvs.change_session(count)),
            "permanent-and-count": make_permanent_and_count,
            "user": lambda: kvs.change_session(lambda data: data.update(user_id="bob")),
        }

        @app.post("/<act>")
        def view(act: str) -> t.Any:
            try:
                acts[act]()
            except ValueError as error:
                return {"error": str(error)}
            return {"data": dict(session), "id": kvs.current_session.user_id}

        return app.test_client()

    def test_change_counts_in_a_session_of_a_user(self, browser: FlaskClient) -> None:
        """The function changes the data that `flask.session` shows."""
        browser.post("/in")
        browser.post("/count")
        assert browser.post("/count").get_json() == {
            "data": {"user_id": "ada", "n": 3},
            "id": "ada",
        }

    def test_pending_login_is_carried_out_first(self, browser: FlaskClient) -> None:
        """A login by the key in the same request is done before the change."""
        expected = {"data": {"user_id": "ada", "n": 1}, "id": "ada"}
        assert browser.post("/in-and-count").get_json() == expected
        assert browser.post("/count").get_json()["data"] == {"user_id": "ada", "n": 2}

    def test_pending_permanent_is_not_lost(self, browser: FlaskClient) -> None:
        """A session that was made permanent in the same request is permanent afterwards."""
        browser.post("/in")
        response = browser.post("/permanent-and-count")
        assert any("Max-Age" in cookie for cookie in response.headers.getlist("Set-Cookie"))

    def test_function_cannot_sign_a_user_in(self, browser: FlaskClient) -> None:
        """The key that names the user cannot be changed by the function."""
        assert "'user_id' says whose session it is" in browser.post("/user").get_json()["error"]
        browser.post("/in")
        assert "'user_id' says whose session it is" in browser.post("/user").get_json()["error"]

    def test_data_that_a_user_has_left_stay_that_users(self, browser: FlaskClient) -> None:
        """Data that a logout has left are dropped at the next login, also after a function has
        changed them: they contain the previous user's."""
        browser.post("/in")
        browser.post("/out")
        assert browser.post("/count").get_json()["data"] == {"n": 2}
        assert browser.post("/in-and-count").get_json()["data"] == {"user_id": "ada", "n": 1}
