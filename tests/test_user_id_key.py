"""Apps that sign users in by themselves: `KVSESSION_USER_ID_KEY` names the key that says who."""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from flask import Flask, flash, get_flashed_messages, request, session
from flask.testing import FlaskClient

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError, SessionTooLarge, StoreUnavailable

from .support.apps import Do, MakeApp, store_of
from .support.browsers import browser_with, token_of
from .support.clock import Clock
from .support.commands import CountCommands, Keys
from .support.signals import Recorder, recorded_signals

KEY = "user_id"
A_UUID = UUID("12345678-1234-5678-1234-567812345678")


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app like the tutorial's: it says who is signed in by `session["user_id"]`."""
    return with_views(make_app(as_flask_session=True, user_id_key=KEY, views=False))


def with_views(app: Flask) -> Flask:
    @app.post("/in/<user>")
    def sign_in(user: str) -> t.Any:
        session[KEY] = user
        session.update(request.get_json(silent=True) or {})
        return {}

    @app.post("/out")
    def sign_out() -> t.Any:
        del session[KEY]
        return {}

    @app.post("/clear")
    def clear() -> t.Any:
        session.clear()
        return {}

    @app.post("/put")
    def put() -> t.Any:
        session.update(request.get_json())
        return {}

    @app.get("/who")
    def who() -> t.Any:
        return {"user": kvs.current_session.user_id, "data": dict(session)}

    @app.get("/guarded")
    @kvs.login_required
    def guarded() -> t.Any:
        return {}

    return app


def user_of(client: FlaskClient) -> t.Any:
    return client.get("/who").get_json()["user"]


def data_of(client: FlaskClient) -> t.Any:
    return client.get("/who").get_json()["data"]


def id_of(client: FlaskClient) -> str:
    return (token_of(client, "session") or "")[:19]


def sessions_of(app: Flask, user: t.Any) -> list[str]:
    return [found.id for found in store_of(app).sessions_of(user)]


def sign_in(app: Flask, user: str = "ada", **data: t.Any) -> FlaskClient:
    client = app.test_client()
    client.post(f"/in/{user}", json=data)
    return client


@pytest.fixture
def told(app: Flask) -> Iterator[Recorder]:
    with recorded_signals(app) as recorder:
        yield recorder


class TestLogin:
    def test_assigning_the_key_is_one(self, app: Flask, told: Recorder) -> None:
        """The user is known to guards, to the list and to signals, as after `login_user`."""
        client = sign_in(app)
        assert client.get("/guarded").status_code == 200
        assert sessions_of(app, "ada") == [id_of(client)]
        assert told.users == [("user_logged_in", "ada")]
        assert told.ids == [id_of(client)]

    def test_the_user_is_known_at_once(self, client: FlaskClient, do: Do) -> None:
        """`user_id` follows the key in the same request; id and token come at its end."""
        seen: list[object] = []

        def act() -> None:
            seen.append(kvs.current_session.user_id)
            session[KEY] = 42
            seen.extend([kvs.current_session.user_id, kvs.current_session.is_authenticated])
            seen.extend([kvs.current_session.id, kvs.current_session.is_fresh])

        do(client, act)
        assert seen == [None, 42, True, None, False]

    def test_it_is_fresh(self, client: FlaskClient, do: Do, clock: Clock) -> None:
        """Who has just signed in has proved who they are."""
        do(client, lambda: session.update({KEY: 1}))
        fresh = lambda: {"fresh": kvs.current_session.is_fresh}  # noqa: E731
        assert do(client, fresh).get_json() == {"fresh": True}
        clock.advance(minutes=16)
        assert do(client, fresh).get_json() == {"fresh": False}

    def test_after_a_remember_cookie_it_is_not(self, client: FlaskClient, do: Do) -> None:
        """Where Flask-Login has put `_fresh` = False beside the key, nobody has proved anything."""
        do(client, lambda: session.update({KEY: 1, "_fresh": False}))
        seen: list[object] = []
        do(client, lambda: seen.append(kvs.current_session.is_fresh))
        do(client, lambda: seen.append(kvs.current_session.authenticated_at))
        assert seen == [False, None]

    def test_a_visitors_data_are_kept(self, app: Flask, keys: Keys) -> None:
        """What a visitor had goes into the login, and the visitor's session is gone."""
        client = app.test_client()
        client.post("/put", json={"cart": [1]})
        visitors = token_of(client, "session")
        client.post("/in/ada", json={"next": "/"})
        assert data_of(client) == {KEY: "ada", "cart": [1], "next": "/"}
        assert user_of(browser(app, visitors)) is None
        assert len(keys()) == 2  # the user's session and the index

    def test_the_same_value_again_is_one(self, app: Flask, told: Recorder) -> None:
        """Signing in again gives a new id and token, keeps the data, and ends the former one."""
        client = sign_in(app, cart=[1])
        first = token_of(client, "session")
        client.post("/in/ada")
        assert id_of(client) != (first or "")[:19]
        assert data_of(client) == {KEY: "ada", "cart": [1]}
        assert user_of(browser(app, first)) is None
        assert sessions_of(app, "ada") == [id_of(client)]
        names = [name for name, _ in told.users]
        assert names == ["user_logged_in", "user_logged_out", "user_logged_in"]

    def test_another_value_is_a_switch(self, app: Flask, told: Recorder) -> None:
        """The former user's session ends, and of its data nothing goes along but what this
        request has assigned."""
        client = sign_in(app, is_admin=True, theme="dark")
        client.post("/in/bob", json={"theme": "dark"})
        assert data_of(client) == {KEY: "bob", "theme": "dark"}
        assert sessions_of(app, "ada") == []
        assert sessions_of(app, "bob") == [id_of(client)]
        assert told.users[1:] == [("user_logged_out", "ada"), ("user_logged_in", "bob")]

    def test_messages_to_the_former_user_stay_behind(self, app: Flask, do: Do) -> None:
        """`flash` assigns the list with all messages; a switch takes along those of its request."""
        client = sign_in(app)
        do(client, lambda: flash("Welcome, ada."))

        def act() -> None:
            session[KEY] = "bob"
            flash("Welcome, bob.")

        do(client, act)
        seen: list[t.Any] = []
        do(client, lambda: seen.extend(get_flashed_messages()))
        assert seen == ["Welcome, bob."]

    @pytest.mark.parametrize(
        ("before", "then", "left"),
        [
            ([["message", "Hi"]], [["message", "Hi"], ["message", "Hi"]], [["message", "Hi"]]),
            ([["a", "1"], ["a", "2"]], [["a", "2"], ["b", "3"]], [["b", "3"]]),
            ("text", [["a", "1"]], None),
            ([["a", "1"]], 5, None),
        ],
    )
    def test_what_is_new_among_messages(
        self, app: Flask, before: t.Any, then: t.Any, left: t.Any
    ) -> None:
        """A message in the same words is new, one of those before is not, and what is no list of
        messages stays behind."""
        client = sign_in(app)
        client.post("/put", json={"_flashes": before})
        client.post("/in/bob", json={"_flashes": then})
        assert data_of(client) == {KEY: "bob"} | ({"_flashes": left} if left else {})

    def test_messages_after_those_were_shown(self, app: Flask, do: Do) -> None:
        """So it does where the page of that request has shown those before."""
        client = sign_in(app)
        do(client, lambda: flash("Welcome, ada."))

        def act() -> None:
            get_flashed_messages()
            session[KEY] = "bob"
            flash("Welcome, bob.")

        do(client, act)
        assert data_of(client)["_flashes"] == [["message", "Welcome, bob."]]

    def test_the_tutorials_way(self, app: Flask, do: Do) -> None:
        """`clear()` and then assigning drops what a visitor had, and signs in."""
        client = app.test_client()
        client.post("/put", json={"cart": [1]})

        def act() -> None:
            session.clear()
            session[KEY] = 7

        do(client, act)
        assert data_of(client) == {KEY: 7}
        assert sessions_of(app, 7) == [id_of(client)]

    def test_reading_and_renewing_are_none(self, app: Flask, told: Recorder, clock: Clock) -> None:
        """A request that does not assign the key leaves the session the one it is."""
        client = sign_in(app)
        first = token_of(client, "session")
        client.post("/put", json={"a": 1})
        clock.advance(hours=1)
        user_of(client)
        assert token_of(client, "session") == first
        assert [name for name, _ in told.users] == ["user_logged_in", "session_renewed"]

    @pytest.mark.parametrize("value", ["ada", 42, 0, A_UUID, "a:b", "{a}", "x" * 10_000])
    def test_ids_keep_their_type(self, app: Flask, do: Do, value: t.Any) -> None:
        """A str, an int or a UUID comes back as it was, and is what list and revoke take."""
        client = app.test_client()
        do(client, lambda: session.update({KEY: value}))
        seen: list[t.Any] = []
        do(client, lambda: seen.append(kvs.current_session.user_id))
        assert seen == [value]
        assert type(seen[0]) is type(value)
        with app.app_context():
            assert [info.user_id for info in kvs.list_sessions(value)] == [value]
            assert kvs.revoke_all_sessions(value) == 1

    @pytest.mark.parametrize("value", [True, 1.5, b"a", ["ada"], {"id": 1}])
    def test_what_is_no_id_is_refused(
        self, client: FlaskClient, do: Do, keys: Keys, value: t.Any
    ) -> None:
        """The assignment raises and names the key and the setting; nobody is signed in."""

        def act() -> None:
            with pytest.raises(ValueError, match=r"session\['user_id'\] is KVSESSION_USER_ID_KEY"):
                session[KEY] = value

        do(client, act)
        assert keys() == set()

    def test_round_trips(self, app: Flask, count_commands: CountCommands) -> None:
        """A login is one beyond the read, one more where it replaces a session."""
        sign_in(app, "bob")
        client = app.test_client()
        with count_commands() as first:
            client.post("/in/ada")
        with count_commands() as again:
            client.post("/in/ada")
        assert first.names == ["EVALSHA"]
        assert again.names == ["GET", "EVALSHA", "EVALSHA"]

    def test_the_limit_of_sessions(self, make_app: MakeApp, clock: Clock) -> None:
        """`KVSESSION_MAX_SESSIONS_PER_USER` holds for these logins too."""
        settings: dict[str, t.Any] = {"as_flask_session": True, "user_id_key": KEY, "views": False}
        app = with_views(make_app(max_sessions_per_user=1, **settings))
        first = sign_in(app)
        clock.advance(seconds=1)
        second = sign_in(app)
        assert (user_of(first), user_of(second)) == (None, "ada")

    def test_permanent_is_remembered(self, client: FlaskClient, do: Do, clock: Clock) -> None:
        """A permanent session's login is, and any other ends with the browser."""

        def act(permanent: bool) -> None:
            session.permanent = permanent
            session[KEY] = 1

        [cookie] = do(client, lambda: act(True)).headers.getlist("Set-Cookie")
        assert "Max-Age" in cookie
        [cookie] = do(client, lambda: act(False)).headers.getlist("Set-Cookie")
        assert "Max-Age" not in cookie
        clock.advance(hours=12)
        assert do(client, lambda: {"user": kvs.current_session.user_id}).get_json()["user"] is None


class TestLogout:
    @pytest.mark.parametrize("path", ["/out", "/clear"])
    def test_without_the_key_it_is_one(
        self, app: Flask, told: Recorder, keys: Keys, path: str
    ) -> None:
        """Deleting the key, or everything, ends the session; the cookie goes."""
        client = sign_in(app)
        token = token_of(client, "session")
        client.post(path)
        assert token_of(client, "session") is None
        assert user_of(browser(app, token)) is None
        assert keys() == set()
        assert told.users[1:] == [("user_logged_out", "ada")]

    @pytest.mark.parametrize("nobody", [None, ""])
    def test_a_value_for_nobody_is_one(
        self, app: Flask, do: Do, told: Recorder, nobody: str | None
    ) -> None:
        """None and "" are nobody."""
        client = sign_in(app)
        do(client, lambda: session.update({KEY: nobody}))
        assert user_of(client) is None
        assert sessions_of(app, "ada") == []
        assert told.users[1:] == [("user_logged_out", "ada")]

    def test_what_remains_goes_on(self, app: Flask, do: Do) -> None:
        """What data remain, such as a flashed message, are a new visitor's."""
        client = sign_in(app, cart=[1])
        token = token_of(client, "session") or ""

        def act() -> None:
            flash("You are signed out.")
            session.pop(KEY)

        do(client, act)
        seen: list[object] = []
        do(client, lambda: seen.extend([get_flashed_messages(), session["cart"]]))
        assert seen == [["You are signed out."], [1]]
        assert user_of(client) is None
        assert id_of(client) != token[:19]
        assert user_of(browser(app, token)) is None

    def test_the_user_is_nobody_at_once(self, app: Flask, do: Do) -> None:
        """`user_id` is None in the same request, and guards close."""
        client = sign_in(app)
        seen: list[object] = []

        def act() -> None:
            session.pop(KEY)
            seen.append(kvs.current_session.user_id)
            with pytest.raises(kvs.errors.LoginRequired):
                kvs.list_sessions()

        do(client, act)
        assert seen == [None]

    def test_out_and_in_again(self, app: Flask, do: Do, told: Recorder) -> None:
        """A logout and a login in one request are the login."""
        client = sign_in(app)

        def act() -> None:
            session.pop(KEY)
            session[KEY] = "bob"

        do(client, act)
        assert user_of(client) == "bob"
        assert sessions_of(app, "ada") == []

    def test_in_and_out_again_is_nothing(self, client: FlaskClient, do: Do, keys: Keys) -> None:
        """A visitor who was signed in and out in one request is one without a session."""

        def act() -> None:
            session[KEY] = "ada"
            session.pop(KEY)

        assert not do(client, act).headers.getlist("Set-Cookie")
        assert keys() == set()


class TestFormerUsers:
    """What a user leaves behind at a logout is not for the next one in the same browser."""

    def test_the_next_user_does_not_get_it(self, app: Flask) -> None:
        """A role that a logout left in the session says nothing of who signs in next."""
        client = sign_in(app, role="admin")
        client.post("/out")
        assert data_of(client) == {"role": "admin"}
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob"}

    def test_the_same_user_does(self, app: Flask) -> None:
        """Who comes back finds what they left."""
        client = sign_in(app, cart=[1])
        client.post("/out")
        client.post("/in/ada")
        assert data_of(client) == {KEY: "ada", "cart": [1]}

    def test_what_is_set_after_the_logout_goes_along(self, app: Flask) -> None:
        """What the visitor puts into the session then is theirs, also under a former key."""
        client = sign_in(app, cart=[1], role="admin", theme="dark")
        client.post("/out")
        client.post("/put", json={"cart": [2], "language": "de"})
        client.post("/in/bob", json={"theme": "dark"})
        assert data_of(client) == {KEY: "bob", "cart": [2], "language": "de", "theme": "dark"}

    def test_what_the_logout_sets_goes_along(self, app: Flask, do: Do) -> None:
        """What the request sets that signs out is for whoever comes next; messages are new ones."""
        client = sign_in(app, role="admin")
        do(client, lambda: flash("To ada."))

        def act() -> None:
            session.pop(KEY)
            session["seen"] = True
            flash("Good bye.")

        do(client, act)
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob", "seen": True}

    def test_after_clear_nothing_is_left(self, app: Flask, do: Do) -> None:
        """What is set after `clear()` is no former user's."""
        client = sign_in(app, role="admin")

        def act() -> None:
            session.clear()
            flash("Good bye.")

        do(client, act)
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob", "_flashes": [["message", "Good bye."]]}

    def test_what_another_request_wrote_meanwhile(self, app: Flask, do: Do) -> None:
        """A late write to what is left there does not make it the next user's."""
        client = sign_in(app, role="admin")
        client.post("/out")
        token = token_of(client, "session")

        def act() -> None:
            session[KEY] = "bob"
            browser(app, token).post("/put", json={"cart": [1]})

        do(client, act)
        assert data_of(client) == {KEY: "bob", "cart": [1]}

    def test_messages_to_a_former_user(self, app: Flask, do: Do) -> None:
        """What was said to the former user is not shown to the next one, whatever the visitor was
        told in between."""
        client = sign_in(app)
        do(client, lambda: flash("Welcome, ada."))
        client.post("/out")
        do(client, lambda: flash("Please sign in."))
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob"}

    @pytest.mark.parametrize(
        ("act", "cleared"),
        [(lambda: session.clear(), True), (lambda: session.pop("x", None), False)],
        ids=["clear", "look"],
    )
    def test_signing_out_with_a_token_of_before(
        self, app: Flask, do: Do, act: Callable[[], None], cleared: bool
    ) -> None:
        """Another request may have rotated the token meanwhile: `clear()` takes the cookie away
        though it opens nothing, or the logout would be for nothing. Nothing else does."""
        client = sign_in(app)
        late = browser(app, token_of(client, "session"))
        do(client, kvs.confirm_login)
        cookies = do(late, act).headers.getlist("Set-Cookie")
        assert [("Max-Age=0" in cookie) for cookie in cookies] == ([True] if cleared else [])

    def test_signing_out_of_a_revoked_session(self, app: Flask, do: Do) -> None:
        """What a session held that was revoked meanwhile is not left to a visitor, but what the
        request has set."""
        client = sign_in(app, roles=["admin"])

        def act() -> None:
            session["roles"].append("owner")
            session["seen"] = True
            session.pop(KEY)
            store_of(app).revoke_all("ada")

        do(client, act)
        assert data_of(client) == {"seen": True}

    def test_it_does_not_show(self, app: Flask, do: Do) -> None:
        """That something is a former user's is no part of the mapping."""
        client = sign_in(app, role="admin")
        client.post("/out")
        assert data_of(client) == {"role": "admin"}
        do(client, lambda: session.pop("role"))
        assert token_of(client, "session") is None


class TestRevocation:
    def test_signing_in_while_revoked(self, app: Flask, do: Do) -> None:
        """The same user again is a login even if the session was revoked meanwhile, but without
        what that held: the revocation may have been to take a role away."""
        client = sign_in(app, role="admin", theme="dark")

        def act() -> None:
            session[KEY] = "ada"
            session["theme"] = "dark"
            store_of(app).revoke_all("ada")

        do(client, act)
        assert data_of(client) == {KEY: "ada", "theme": "dark"}
        assert sessions_of(app, "ada") == [id_of(client)]

    def test_list_and_revoke(self, app: Flask, do: Do) -> None:
        """One browser lists the user's sessions, and signs the other one out."""
        laptop, phone = sign_in(app), sign_in(app)
        assert do(laptop, lambda: {"n": len(kvs.list_sessions())}).get_json() == {"n": 2}
        do(laptop, lambda: {"n": kvs.revoke_session(id_of(phone))})
        assert (user_of(laptop), user_of(phone)) == ("ada", None)
        assert data_of(phone) == {}

    def test_revoking_the_current_one(self, app: Flask, do: Do) -> None:
        """Nobody is signed in then, whatever else the request does."""
        client = sign_in(app)

        def act() -> None:
            session["a"] = 1
            kvs.revoke_all_sessions()
            assert kvs.current_session.user_id is None

        do(client, act)
        assert user_of(client) is None
        assert token_of(client, "session") is None

    def test_a_new_password(self, app: Flask, do: Do) -> None:
        """Signing in anew and ending all others keeps only this browser."""
        laptop, phone = sign_in(app), sign_in(app)

        def act() -> None:
            session[KEY] = "ada"
            kvs.revoke_all_sessions(except_current=True)

        do(laptop, act)
        assert (user_of(laptop), user_of(phone)) == ("ada", None)
        assert sessions_of(app, "ada") == [id_of(laptop)]

    @pytest.mark.parametrize("path", ["/put", "/out"])
    def test_a_request_in_flight_brings_nothing_back(self, app: Flask, path: str) -> None:
        """A session revoked while a request changes it, or logs out, stays revoked, and nothing of
        its data is left for anybody."""
        in_view, revoked = threading.Event(), threading.Event()

        @app.after_request
        def wait(response: t.Any) -> t.Any:
            if request.headers.get("X-Wait"):
                in_view.set()
                assert revoked.wait(10)
            return response

        client = sign_in(app, secret="s")

        def post() -> None:
            client.post(path, json={"a": 1}, headers={"X-Wait": "1"})

        thread = threading.Thread(target=post)
        thread.start()
        assert in_view.wait(10)
        assert store_of(app).revoke_all("ada")
        revoked.set()
        thread.join()
        assert sessions_of(app, "ada") == []
        assert client.get("/who").get_json() == {"user": None, "data": {}}

    def test_of_two_logouts_at_once_one_is_told(self, app: Flask, told: Recorder) -> None:
        """Two requests that log the same session out log it out once."""
        barrier = threading.Barrier(2)

        @app.after_request
        def wait(response: t.Any) -> t.Any:
            if request.path == "/out":
                barrier.wait(10)
            return response

        token = token_of(sign_in(app), "session")
        threads = [
            threading.Thread(target=lambda: browser(app, token).post("/out")) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told.users[1:] == [("user_logged_out", "ada")]


class TestVerbs:
    @pytest.mark.parametrize(
        "verb", [lambda: kvs.login_user("ada"), kvs.logout_user], ids=["login", "logout"]
    )
    def test_ours_name_the_key(self, app: Flask, do: Do, verb: Callable[[], object]) -> None:
        """`login_user` and `logout_user` would say it a second time, so they raise."""
        client = sign_in(app)

        def act() -> None:
            with pytest.raises(ConfigurationError, match=r"KVSESSION_USER_ID_KEY is 'user_id'"):
                verb()

        do(client, act)
        assert user_of(client) == "ada"

    def test_confirm_makes_fresh(self, app: Flask, do: Do, clock: Clock) -> None:
        """`confirm_login` is for these apps too."""
        client = sign_in(app)
        clock.advance(hours=1)
        do(client, kvs.confirm_login)
        assert do(client, lambda: {"f": kvs.current_session.is_fresh}).get_json() == {"f": True}

    def test_flask_logins_confirmation_counts(
        self, app: Flask, do: Do, clock: Clock, told: Recorder
    ) -> None:
        """What Flask-Login's `confirm_login` does, setting `_fresh`, makes fresh, with a new token;
        so does it where it was set before."""
        client = sign_in(app, _fresh=True)
        is_fresh = lambda: {"fresh": kvs.current_session.is_fresh}  # noqa: E731
        for _ in range(2):
            clock.advance(hours=1)
            assert do(client, is_fresh).get_json() == {"fresh": False}
            before = token_of(client, "session")
            do(client, lambda: session.update(_fresh=True))
            assert do(client, is_fresh).get_json() == {"fresh": True}
            assert token_of(client, "session") != before
        assert ("login_confirmed", "ada") in told.users

    def test_flask_logins_doubt_counts(self, app: Flask, do: Do) -> None:
        """Where Flask-Login has set `_fresh` to False, for a changed client, nobody is fresh."""
        client = sign_in(app, _fresh=True)
        do(client, lambda: session.update(_fresh=False))
        assert do(client, lambda: {"f": kvs.current_session.is_fresh}).get_json() == {"f": False}

    def test_an_older_confirmation_does_not(self, app: Flask, do: Do, clock: Clock) -> None:
        """That `_fresh` is among the data proves nothing anew."""
        client = sign_in(app, _fresh=True)
        clock.advance(hours=1)
        do(client, lambda: session.update(a=1))
        do(client, lambda: session.setdefault("_fresh", True))
        assert do(client, lambda: {"f": kvs.current_session.is_fresh}).get_json() == {"f": False}

    @pytest.mark.parametrize("verb", [kvs.rotate_token, kvs.confirm_login])
    def test_those_that_act_at_once_log_in_first(
        self, app: Flask, client: FlaskClient, do: Do, verb: Callable[[], object]
    ) -> None:
        """A verb that acts at once finds the user signed in, whom the request has assigned."""
        seen: list[object] = []

        def act() -> None:
            session[KEY] = "ada"
            verb()
            seen.append(kvs.current_session.id)

        do(client, act)
        assert seen == [id_of(client)]
        assert sessions_of(app, "ada") == seen

    def test_the_key_is_not_for_all(self, app: Flask) -> None:
        """`update_all_sessions` changes data, and not whose sessions they are."""
        client = sign_in(app)
        with app.app_context():
            for change in ({"changes": {KEY: "bob"}}, {"changes": {}, "remove": [KEY]}):
                with pytest.raises(ValueError, match="says whose the sessions are"):
                    kvs.update_all_sessions("ada", **change)
            assert kvs.update_all_sessions("ada", {"role": "reader"}) == 1
        assert data_of(client) == {KEY: "ada", "role": "reader"}


class TestFailures:
    def test_a_login_that_fails_is_503(self, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        """A login that could not be written is no redirect to the dashboard, and no cookie."""
        client = app.test_client()

        def fail(*args: t.Any) -> t.NoReturn:
            raise StoreUnavailable

        monkeypatch.setattr(store_of(app), "create", fail)
        response = client.post("/in/ada")
        assert response.status_code == 503
        assert not response.headers.getlist("Set-Cookie")
        monkeypatch.undo()
        assert sessions_of(app, "ada") == []

    def test_a_limit_that_cannot_be_enforced(
        self, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A login that fails there leaves the visitor what they had."""
        settings: dict[str, t.Any] = {"as_flask_session": True, "user_id_key": KEY, "views": False}
        app = with_views(make_app(max_sessions_per_user=1, **settings))
        first, second = sign_in(app), app.test_client()
        second.post("/put", json={"cart": [1]})

        def fail(*args: t.Any) -> t.NoReturn:
            raise StoreUnavailable

        monkeypatch.setattr(store_of(app), "limit", fail)
        assert second.post("/in/ada").status_code == 503
        monkeypatch.undo()
        assert data_of(second) == {"cart": [1]}
        assert sessions_of(app, "ada") == [id_of(first)]

    def test_a_logout_that_fails_is_503(self, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        """A logout that could not be done keeps the cookie, and the user signed in."""
        client = sign_in(app)

        def fail(*args: t.Any, **kwargs: t.Any) -> t.NoReturn:
            raise StoreUnavailable

        monkeypatch.setattr(store_of(app), "remove", fail)
        response = client.post("/out")
        assert response.status_code == 503
        assert not response.headers.getlist("Set-Cookie")
        monkeypatch.undo()
        assert user_of(client) == "ada"

    def test_a_visitors_session_that_cannot_follow(
        self, app: Flask, do: Do, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the logout was done and what remains could not be written, it stays done: with a
        memory that is full nobody could sign out."""
        client = sign_in(app, cart=[1])

        def fail(*args: t.Any) -> t.NoReturn:
            raise StoreUnavailable

        monkeypatch.setattr(store_of(app), "create", fail)
        response = client.post("/out")
        assert response.status_code == 200
        assert token_of(client, "session") is None
        monkeypatch.undo()
        assert sessions_of(app, "ada") == []


class TestReceivers:
    """What is written by who is told of a login at the end of the request."""

    def test_it_is_saved(self, app: Flask) -> None:
        """A receiver may still change the session."""

        def receive(sender: Flask, **extra: t.Any) -> None:
            session["greeted"] = True

        with kvs.signals.user_logged_in.connected_to(receive, app):
            client = sign_in(app)
        assert data_of(client) == {KEY: "ada", "greeted": True}

    def test_it_may_sign_out(self, app: Flask) -> None:
        """An app may sign out whoever comes from elsewhere."""
        client = sign_in(app, cart=[1])

        def receive(sender: Flask, **extra: t.Any) -> None:
            session.clear()

        with kvs.signals.client_changed.connected_to(receive, app):
            client.post("/put", json={"a": 1}, headers={"User-Agent": "another"})
        assert token_of(client, "session") is None
        assert sessions_of(app, "ada") == []

    def test_of_what_it_changed_no_more(self, app: Flask, do: Do) -> None:
        """Whoever is told of that in turn cannot change anything: it raises, and is not lost."""
        seen: list[str] = []

        def receive(sender: Flask, **extra: t.Any) -> None:
            try:
                session[KEY] = "bob"
            except kvs.errors.KVSessionError as error:
                seen.append(str(error))

        with kvs.signals.user_logged_in.connected_to(receive, app):
            client = sign_in(app)
        assert user_of(client) == "bob"
        assert sessions_of(app, "ada") == []
        assert [message[:43] for message in seen] == ["The session was changed after its request w"]

    def test_one_that_fails_loses_nothing(self, app: Flask, keys: Keys) -> None:
        """What a logout leaves is stored before anybody is told."""
        client = sign_in(app, cart=[1])

        def receive(sender: Flask, **extra: t.Any) -> None:
            raise RuntimeError("of the receiver")

        with (
            kvs.signals.user_logged_out.connected_to(receive, app),
            pytest.raises(RuntimeError, match="of the receiver"),
        ):
            client.post("/out")
        assert [key.count(":s:") for key in keys()] == [1]


class TestTurningItOn:
    def test_a_switch_leaves_all_behind(self, make_app: MakeApp) -> None:
        """Whose data they were is known by the key, where the session is not a user's yet."""
        settings: dict[str, t.Any] = {"as_flask_session": True, "views": False}
        before, after = make_app(**settings), make_app(user_id_key=KEY, **settings)
        with_views(before), with_views(after)
        client = before.test_client()
        for path in ("/in/bob", "/out"):
            client.post("/put", json={KEY: "ada", "role": "admin"})
            moved = browser(after, token_of(client, "session"))
            moved.post(path)
            moved.post("/in/bob")
            assert data_of(moved) == {KEY: "bob"}

    def test_what_ended_meanwhile_stays_ended(self, make_app: MakeApp) -> None:
        """A request that only carries a session over makes none where that has ended meanwhile."""
        settings: dict[str, t.Any] = {"as_flask_session": True, "views": False}
        before, after = make_app(**settings), make_app(user_id_key=KEY, **settings)
        with_views(before)
        client = before.test_client()
        client.post("/put", json={KEY: "ada"})
        token = token_of(client, "session")

        @after.get("/parked")
        def parked() -> t.Any:
            user = kvs.current_session.user_id
            browser(after, token).get("/who")
            store_of(after).revoke_all("ada")
            return {"user": user}

        with_views(after)
        late = browser(after, token)
        assert late.get("/parked").get_json() == {"user": "ada"}
        assert sessions_of(after, "ada") == []
        assert user_of(late) is None

    def test_who_was_signed_in_stays_so(self, make_app: MakeApp, clock: Clock) -> None:
        """Sessions from before the setting become the user's, listed, at their next request."""
        settings: dict[str, t.Any] = {"as_flask_session": True, "views": False}
        before, after = make_app(**settings), make_app(user_id_key=KEY, **settings)
        with_views(before), with_views(after)
        client = before.test_client()
        client.post("/put", json={KEY: "ada", "cart": [1]})
        moved = browser(after, token_of(client, "session"))
        assert moved.get("/guarded").status_code == 200
        assert sessions_of(after, "ada") == [id_of(moved)]
        assert data_of(moved) == {KEY: "ada", "cart": [1]}
        assert store_of(after).sessions_of("ada")[0].record.authenticated is None


def test_a_login_that_is_too_large(make_app: MakeApp) -> None:
    """A login whose data are too large is refused where they are assigned, and nobody signed in."""
    app = make_app(as_flask_session=True, user_id_key=KEY, max_session_bytes=100, views=False)
    with_views(app)
    with pytest.raises(SessionTooLarge):
        app.test_client().post("/in/ada", json={"big": "x" * 100})
    assert sessions_of(app, "ada") == []


def test_a_logout_over_a_lowered_limit(make_app: MakeApp) -> None:
    """Who has more data than is allowed by now can sign out, and keeps what remains."""
    settings: dict[str, t.Any] = {"as_flask_session": True, "user_id_key": KEY, "views": False}
    app = with_views(make_app(**settings))
    lowered = with_views(make_app(max_session_bytes=100, **settings))
    client = browser(lowered, token_of(sign_in(app, big="x" * 200), "session"))
    assert client.post("/out").status_code == 200
    assert data_of(client) == {"big": "x" * 200}
    assert sessions_of(app, "ada") == []


def test_the_idle_timeout_of_a_user(app: Flask, clock: Clock) -> None:
    """A user's session that is not permanent lives for `KVSESSION_UNREMEMBERED_TIMEOUT`."""
    client = sign_in(app)
    clock.advance(timedelta(hours=11))
    assert user_of(client) == "ada"
    clock.advance(timedelta(hours=13))
    assert user_of(client) is None


def browser(app: Flask, token: str | None) -> FlaskClient:
    client = browser_with(app, None)
    if token:
        client.set_cookie("session", token)
    return client
