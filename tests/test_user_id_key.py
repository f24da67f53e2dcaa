"""`KVSESSION_USER_ID_KEY`: apps that sign users in by assigning a key of `flask.session`."""

from __future__ import annotations

import json
import threading
import typing as t
from collections.abc import Callable, Iterator
from copy import copy
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
import redis
from flask import (
    Flask,
    Response,
    flash,
    g,
    get_flashed_messages,
    request,
    session,
    stream_with_context,
)
from flask.testing import FlaskClient
from werkzeug.exceptions import Forbidden

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


def switch_and_sign_out() -> None:
    session[KEY] = "eve"
    del session[KEY]


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
    def test_assigning_the_key_logs_the_user_in(self, app: Flask, told: Recorder) -> None:
        """Assigning the key signs the user in for guards, for the index of sessions and for
        signals, like `login_user`."""
        client = sign_in(app)
        assert client.get("/guarded").status_code == 200
        assert sessions_of(app, "ada") == [id_of(client)]
        assert told.users == [("user_logged_in", "ada")]
        assert told.ids == [id_of(client)]

    def test_user_id_follows_the_assigned_key_at_once(self, client: FlaskClient, do: Do) -> None:
        """`user_id` follows the key within the request, and `id` is None until the commit."""
        seen: list[object] = []

        def act() -> None:
            seen.append(kvs.current_session.user_id)
            session[KEY] = 42
            seen.extend([kvs.current_session.user_id, kvs.current_session.is_authenticated])
            seen.extend([kvs.current_session.id, kvs.current_session.is_fresh])

        do(client, act)
        assert seen == [None, 42, True, None, False]

    def test_a_login_by_the_key_is_fresh_for_15_minutes(
        self, client: FlaskClient, do: Do, clock: Clock
    ) -> None:
        """A login by the key is fresh for `KVSESSION_FRESH_FOR`."""
        do(client, lambda: session.update({KEY: 1}))
        fresh = lambda: {"fresh": kvs.current_session.is_fresh}  # noqa: E731
        assert do(client, fresh).get_json() == {"fresh": True}
        clock.advance(minutes=16)
        assert do(client, fresh).get_json() == {"fresh": False}

    def test_a_login_with_fresh_false_is_not_fresh(self, client: FlaskClient, do: Do) -> None:
        """A login is not fresh if `_fresh` = False is assigned with the key, as Flask-Login does
        for a remember cookie."""
        do(client, lambda: session.update({KEY: 1, "_fresh": False}))
        seen: list[object] = []
        do(client, lambda: seen.append(kvs.current_session.is_fresh))
        do(client, lambda: seen.append(kvs.current_session.authenticated_at))
        assert seen == [False, None]

    def test_a_login_takes_over_the_anonymous_data_and_ends_that_session(
        self, app: Flask, keys: Keys
    ) -> None:
        """A login carries over the data of the anonymous session and ends that session."""
        client = app.test_client()
        client.post("/put", json={"cart": [1]})
        anonymous_token = token_of(client, "session")
        client.post("/in/ada", json={"next": "/"})
        assert data_of(client) == {KEY: "ada", "cart": [1], "next": "/"}
        assert user_of(browser(app, anonymous_token)) is None
        assert len(keys()) == 2  # the user's session and the index

    def test_assigning_the_same_user_again_replaces_the_session(
        self, app: Flask, told: Recorder
    ) -> None:
        """A second login of the same user creates a new session with the same data and ends the old
        session."""
        client = sign_in(app, cart=[1])
        first = token_of(client, "session")
        client.post("/in/ada")
        assert id_of(client) != (first or "")[:19]
        assert data_of(client) == {KEY: "ada", "cart": [1]}
        assert user_of(browser(app, first)) is None
        assert sessions_of(app, "ada") == [id_of(client)]
        names = [name for name, _ in told.users]
        assert names == ["user_logged_in", "user_logged_out", "user_logged_in"]

    def test_assigning_another_user_ends_the_session_and_drops_its_data(
        self, app: Flask, told: Recorder
    ) -> None:
        """A login of another user ends the previous user's session and keeps only data that this
        request assigns."""
        client = sign_in(app, is_admin=True, theme="dark")
        client.post("/in/bob", json={"theme": "dark"})
        assert data_of(client) == {KEY: "bob", "theme": "dark"}
        assert sessions_of(app, "ada") == []
        assert sessions_of(app, "bob") == [id_of(client)]
        assert told.users[1:] == [("user_logged_out", "ada"), ("user_logged_in", "bob")]

    def test_a_login_of_another_user_drops_messages_to_the_previous_user(
        self, app: Flask, do: Do
    ) -> None:
        """A login of another user keeps only the messages that its own request flashes."""
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
        ids=["repeated text", "earlier message gone", "no list before", "no list then"],
    )
    def test_a_login_of_another_user_keeps_only_messages_new_to_the_list(
        self, app: Flask, do: Do, before: t.Any, then: t.Any, left: t.Any
    ) -> None:
        """A message with a repeated text is new, an earlier message is not, and a value other than
        a list of messages is dropped."""
        client = sign_in(app)
        client.post("/put", json={"_flashes": before})
        do(client, lambda: session.update({"_flashes": then, KEY: "bob"}))
        assert data_of(client) == {KEY: "bob"} | ({"_flashes": left} if left else {})

    def test_a_login_of_another_user_keeps_new_messages_after_old_were_shown(
        self, app: Flask, do: Do
    ) -> None:
        """A login of another user keeps the new message if the same request has already shown the
        old messages."""
        client = sign_in(app)
        do(client, lambda: flash("Welcome, ada."))

        def act() -> None:
            get_flashed_messages()
            session[KEY] = "bob"
            flash("Welcome, bob.")

        do(client, act)
        assert data_of(client)["_flashes"] == [["message", "Welcome, bob."]]

    def test_clear_before_assigning_the_key_drops_the_anonymous_data(
        self, app: Flask, do: Do
    ) -> None:
        """`clear()` and then the assignment, as in Flask's tutorial, drops the anonymous data and
        signs the user in."""
        client = app.test_client()
        client.post("/put", json={"cart": [1]})

        def act() -> None:
            session.clear()
            session[KEY] = 7

        do(client, act)
        assert data_of(client) == {KEY: 7}
        assert sessions_of(app, 7) == [id_of(client)]

    def test_a_session_with_a_pending_login_of_another_user_is_not_fresh(
        self, app: Flask, do: Do
    ) -> None:
        """Between the assignment of another user and the commit, the session is not fresh, although
        the previous user's login is."""
        client, seen = sign_in(app), list[bool]()

        def act() -> None:
            seen.append(kvs.current_session.is_fresh)
            session[KEY] = "bob"
            seen.append(kvs.current_session.is_fresh)

        do(client, act)
        assert seen == [True, False]

    @pytest.mark.parametrize(
        "change",
        [lambda: session.update({KEY: "bob"}), lambda: session.clear()],
        ids=["login", "logout"],
    )
    def test_modified_false_after_a_login_or_logout_leaves_the_session_as_it_was(
        self, app: Flask, do: Do, change: Callable[[], object]
    ) -> None:
        """With `modified = False` a login or logout by the key is dropped like any other change."""
        client = sign_in(app)
        before = token_of(client, "session")

        def act() -> None:
            change()
            session.modified = False

        do(client, act)
        assert token_of(client, "session") == before
        assert user_of(client) == "ada"

    def test_a_request_that_does_not_assign_the_key_is_no_login(
        self, app: Flask, told: Recorder, clock: Clock
    ) -> None:
        """A write or a renewal without an assignment of the key keeps the session and its token."""
        client = sign_in(app)
        first = token_of(client, "session")
        client.post("/put", json={"a": 1})
        clock.advance(hours=1)
        user_of(client)
        assert token_of(client, "session") == first
        assert [name for name, _ in told.users] == ["user_logged_in", "session_renewed"]

    @pytest.mark.parametrize("value", ["ada", 42, 0, A_UUID, "a:b", "{a}", "x" * 10_000])
    def test_a_user_id_keeps_its_type_and_serves_list_and_revoke(
        self, app: Flask, do: Do, value: t.Any
    ) -> None:
        """A str, int or UUID under the key comes back with its type, and `list_sessions` and
        `revoke_all_sessions` accept it."""
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
    def test_assigning_an_invalid_user_id_raises_and_creates_no_session(
        self, client: FlaskClient, do: Do, keys: Keys, value: t.Any
    ) -> None:
        """The assignment of an invalid user id raises an error that names the key and the
        setting."""

        def act() -> None:
            with pytest.raises(ValueError, match=r"session\['user_id'\] is KVSESSION_USER_ID_KEY"):
                session[KEY] = value

        do(client, act)
        assert keys() == set()

    def test_a_login_costs_one_command_and_one_more_over_a_session(
        self, app: Flask, count_commands: CountCommands
    ) -> None:
        """A login costs one command beyond the read, and one more if it replaces a session."""
        sign_in(app, "bob")
        client = app.test_client()
        with count_commands() as first:
            client.post("/in/ada")
        with count_commands() as again:
            client.post("/in/ada")
        assert first.names == ["EVALSHA"]
        assert again.names == ["GET", "EVALSHA", "EVALSHA"]

    def test_the_limit_ends_the_least_recently_used_session(
        self, make_app: MakeApp, clock: Clock
    ) -> None:
        """`KVSESSION_MAX_SESSIONS_PER_USER` also applies to logins by the key."""
        settings: dict[str, t.Any] = {"as_flask_session": True, "user_id_key": KEY, "views": False}
        app = with_views(make_app(max_sessions_per_user=1, **settings))
        first = sign_in(app)
        clock.advance(seconds=1)
        second = sign_in(app)
        assert (user_of(first), user_of(second)) == (None, "ada")

    def test_only_a_login_in_a_permanent_session_is_remembered(
        self, client: FlaskClient, do: Do, clock: Clock
    ) -> None:
        """A login is remembered only if the session is permanent."""

        def act(permanent: bool) -> None:
            session.permanent = permanent
            session[KEY] = 1

        [cookie] = do(client, lambda: act(True)).headers.getlist("Set-Cookie")
        assert "Max-Age" in cookie
        [cookie] = do(client, lambda: act(False)).headers.getlist("Set-Cookie")
        assert "Max-Age" not in cookie
        clock.advance(hours=12)
        assert do(client, lambda: {"user": kvs.current_session.user_id}).get_json()["user"] is None


def regenerate() -> None:
    data = dict(session)
    session.clear()
    session.update(data)


def regenerate_item_by_item() -> None:
    data = copy(session)
    session.clear()
    for key, value in data.items():
        session[key] = value


def keep_the_user_only() -> None:
    user_id = session[KEY]
    session.clear()
    session[KEY] = user_id


def pop_and_set() -> None:
    session[KEY] = session.pop(KEY)


def delete_and_set_anew() -> None:
    user_id = session[KEY]
    del session[KEY]
    session[KEY] = str(user_id) if isinstance(user_id, str) else user_id


def set_to_itself() -> None:
    session.update(dict(session))


class TestCopies:
    """A request that takes the user's id out of the session and puts it back proves nothing."""

    @pytest.mark.parametrize("user", ["ada", 7, 10**6, A_UUID], ids=repr)
    @pytest.mark.parametrize(
        "act", [regenerate, regenerate_item_by_item, pop_and_set, delete_and_set_anew]
    )
    def test_a_copy_is_no_login(
        self,
        app: Flask,
        do: Do,
        told: Recorder,
        clock: Clock,
        act: Callable[[], None],
        user: t.Any,
    ) -> None:
        """The session gets a new token and keeps its times; it does not become fresh."""
        self.copy_is_no_login(app, do, told, clock, act, user)

    @pytest.mark.parametrize("user", ["ada", 10**6, A_UUID], ids=repr)
    @pytest.mark.parametrize("act", [keep_the_user_only, set_to_itself])
    def test_the_users_id_from_the_session_is_no_login(
        self,
        app: Flask,
        do: Do,
        told: Recorder,
        clock: Clock,
        act: Callable[[], None],
        user: t.Any,
    ) -> None:
        """The same if the request only assigns the object that it has read from the session."""
        self.copy_is_no_login(app, do, told, clock, act, user)

    def copy_is_no_login(
        self,
        app: Flask,
        do: Do,
        told: Recorder,
        clock: Clock,
        act: Callable[[], None],
        user: t.Any,
    ) -> None:
        client = app.test_client()
        do(client, lambda: session.update({KEY: user, "_fresh": True}))
        with app.app_context():
            (before,) = kvs.list_sessions(user)
        old = token_of(client, "session")
        clock.advance(hours=1)
        do(client, act)
        with app.app_context():
            (after,) = kvs.list_sessions(user)
        assert (after.authenticated_at, after.created_at) == (
            before.authenticated_at,
            before.created_at,
        )
        assert token_of(client, "session") != old
        assert user_of(browser(app, old)) is None
        seen: list[t.Any] = []
        do(client, lambda: seen.append((kvs.current_session.user_id, kvs.current_session.is_fresh)))
        assert seen == [(user, False)]
        assert told.users.count(("user_logged_in", user)) == 1

    @pytest.mark.parametrize("user", ["ada", 7, 10**6], ids=repr)
    @pytest.mark.parametrize("clears", [True, False])
    def test_the_users_id_from_a_database_is_a_login(
        self, app: Flask, do: Do, clock: Clock, user: t.Any, clears: bool
    ) -> None:
        """A second login of the same user, with and without `clear()` before, makes the session
        fresh, also if a hook has read the user's id before."""
        client = app.test_client()
        do(client, lambda: session.update({KEY: user}))
        before = id_of(client)
        clock.advance(hours=1)

        def act() -> None:
            assert session.get(KEY) == user
            if clears:
                session.clear()
            session[KEY] = json.loads(json.dumps(user))

        do(client, act)
        seen: list[bool] = []
        do(client, lambda: seen.append(kvs.current_session.is_fresh))
        assert seen == [True]
        assert id_of(client) != before

    def test_a_copy_keeps_the_session_fresh_and_permanent(self, app: Flask, do: Do) -> None:
        """A copy keeps the session as fresh as it was, and permanent, with its data."""
        client = app.test_client()

        def log_in() -> None:
            session.permanent = True
            session.update({KEY: "ada", "cart": [1]})

        do(client, log_in)
        (cookie,) = do(client, regenerate).headers.getlist("Set-Cookie")
        assert "Max-Age" in cookie
        seen: list[t.Any] = []
        do(client, lambda: seen.append((kvs.current_session.is_fresh, dict(session))))
        assert seen == [(True, {KEY: "ada", "cart": [1]})]

    def test_a_copy_that_is_discarded_changes_nothing(self, app: Flask, do: Do) -> None:
        """With `modified = False` a copy sends no cookie."""

        def act() -> None:
            regenerate()
            session.modified = False

        assert not do(sign_in(app), act).headers.getlist("Set-Cookie")

    def test_confirm_login_marks_a_session_as_fresh(self, app: Flask, do: Do) -> None:
        """`confirm_login` also lifts `_fresh` = False in an app without Flask-Login."""
        client = sign_in(app, _fresh=False)
        do(client, kvs.confirm_login)
        assert do(client, lambda: {"f": kvs.current_session.is_fresh}).get_json() == {"f": True}


class TestLogout:
    @pytest.mark.parametrize("path", ["/out", "/clear"])
    def test_deleting_the_key_or_all_data_ends_the_session(
        self, app: Flask, told: Recorder, keys: Keys, path: str
    ) -> None:
        """Deleting the key or all data ends the session and clears the cookie."""
        client = sign_in(app)
        token = token_of(client, "session")
        client.post(path)
        assert token_of(client, "session") is None
        assert user_of(browser(app, token)) is None
        assert keys() == set()
        assert told.users[1:] == [("user_logged_out", "ada")]

    @pytest.mark.parametrize("nobody", [None, ""], ids=["None", "empty"])
    def test_assigning_none_or_an_empty_user_id_ends_the_session(
        self, app: Flask, do: Do, told: Recorder, nobody: str | None
    ) -> None:
        """Assigning None or "" to the key ends the session."""
        client = sign_in(app)
        do(client, lambda: session.update({KEY: nobody}))
        assert user_of(client) is None
        assert sessions_of(app, "ada") == []
        assert told.users[1:] == [("user_logged_out", "ada")]

    def test_remaining_data_go_to_a_new_anonymous_session(self, app: Flask, do: Do) -> None:
        """Data that remain after a logout, such as a flashed message, are in a new anonymous
        session."""
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

    def test_user_id_is_none_and_verbs_raise_at_once(self, app: Flask, do: Do) -> None:
        """After the key is removed, `user_id` is None and verbs raise `LoginRequired` in the same
        request."""
        client = sign_in(app)
        seen: list[object] = []

        def act() -> None:
            session.pop(KEY)
            seen.append(kvs.current_session.user_id)
            with pytest.raises(kvs.errors.LoginRequired):
                kvs.list_sessions()

        do(client, act)
        assert seen == [None]

    def test_a_logout_and_a_login_in_one_request_are_the_login(
        self, app: Flask, do: Do, told: Recorder
    ) -> None:
        """If one request removes the key and assigns another user, that user is signed in."""
        client = sign_in(app)

        def act() -> None:
            session.pop(KEY)
            session[KEY] = "bob"

        do(client, act)
        assert user_of(client) == "bob"
        assert sessions_of(app, "ada") == []

    def test_a_login_and_a_logout_in_one_request_create_no_session(
        self, client: FlaskClient, do: Do, keys: Keys
    ) -> None:
        """If one request of an anonymous browser assigns and removes the key, no session is created
        and no cookie is sent."""

        def act() -> None:
            session[KEY] = "ada"
            session.pop(KEY)

        assert not do(client, act).headers.getlist("Set-Cookie")
        assert keys() == set()


class TestRolesAndCsrfTokens:
    """What an anonymous browser may not bring into a login."""

    def test_a_login_drops_roles_and_csrf_tokens_of_the_anonymous_browser(self, app: Flask) -> None:
        """A login keeps the cart of an anonymous browser, but no role and no CSRF token."""
        client = app.test_client()
        planted = {"role": "admin", "roles": ["admin"], "csrf_token": "x", "_csrf_token": "x"}
        client.post("/put", json={"cart": [1], **planted})
        client.post("/in/ada")
        assert data_of(client) == {KEY: "ada", "cart": [1]}

    @pytest.mark.parametrize(
        "act",
        [
            lambda: session.update({"role": "user", "roles": ["user"], KEY: "ada"}),
            lambda: session.update({KEY: "ada", "role": "user", "roles": ["user"]}),
        ],
        ids=["before the key", "after the key"],
    )
    @pytest.mark.parametrize("planted", [{}, {"role": "admin", "roles": ["admin"]}])
    def test_roles_that_the_login_request_sets_are_kept(
        self, client: FlaskClient, do: Do, planted: t.Any, act: Callable[[], None]
    ) -> None:
        """A login keeps the roles that its own request sets, before or after the key."""
        do(client, lambda: session.update(planted))
        do(client, act)
        assert do(client, lambda: dict(session)).get_json() == {
            KEY: "ada",
            "role": "user",
            "roles": ["user"],
        }

    def test_a_hook_that_assigns_a_planted_role_again_does_not_set_it(
        self, app: Flask, client: FlaskClient
    ) -> None:
        """Before the key, the assignment of the value that is there already sets no role."""

        @app.before_request
        def keep_role() -> None:
            if KEY not in session:
                session["role"] = session.get("role", "guest")

        client.post("/put", json={"role": "admin"})
        client.post("/in/ada")
        assert data_of(client) == {KEY: "ada"}

    def test_a_role_changed_in_place_by_the_login_request_is_dropped(
        self, client: FlaskClient, do: Do
    ) -> None:
        """A planted list of roles does not go along because the login request appends to it."""
        do(client, lambda: session.update(roles=["admin"]))

        def act() -> None:
            session.setdefault("roles", []).append("user")
            session[KEY] = "ada"

        do(client, act)
        assert do(client, lambda: dict(session)).get_json() == {KEY: "ada"}

    @pytest.mark.parametrize("key", ["role", "csrf_token"])
    @pytest.mark.parametrize("own", ["x", None])
    def test_a_value_planted_during_the_login_is_dropped(
        self, app: Flask, client: FlaskClient, do: Do, key: str, own: str | None
    ) -> None:
        """A role or CSRF token that another request writes to the anonymous session during the
        login does not go along, and the login's own value does."""
        client.post("/put", json={key: "x"})
        token = token_of(client, "session")

        def act() -> None:
            session[KEY] = "ada"
            if own:
                session[key] = own
            browser(app, token).post("/put", json={key: "planted", "cart": [1]})

        do(client, act)
        assert data_of(client) == {KEY: "ada", "cart": [1]} | ({key: own} if own else {})

    def test_a_csrf_token_set_before_the_key_is_dropped(self, client: FlaskClient, do: Do) -> None:
        """A CSRF token that the login request sets before the key does not go along."""
        do(client, lambda: session.update({"csrf_token": "x", KEY: "ada", "_csrf_token": "y"}))
        assert do(client, lambda: dict(session)).get_json() == {KEY: "ada", "_csrf_token": "y"}

    @pytest.mark.parametrize("setting", ["WTF_CSRF_FIELD_NAME", "CSRF_COOKIE_NAME"])
    def test_a_csrf_token_under_a_configured_key_is_dropped(
        self, app: Flask, client: FlaskClient, setting: str
    ) -> None:
        """A login drops the CSRF token under the key that the app's settings name."""
        app.config[setting] = "my_token"
        client.post("/put", json={"my_token": "x"})
        client.post("/in/ada")
        assert data_of(client) == {KEY: "ada"}

    @pytest.mark.parametrize("first", [None, "bob"], ids=["login", "switch"])
    def test_the_csrf_token_in_g_is_removed_with_that_of_the_session(
        self, client: FlaskClient, do: Do, first: str | None
    ) -> None:
        """A login and a switch remove the token that Flask-WTF keeps in `g`, and nothing else."""
        do(client, lambda: session.update({KEY: first}))
        extension = object()
        seen: list[object] = []

        def act() -> None:
            g.csrf_token, g.csrf, g.cart = "x", extension, "y"
            session[KEY] = "ada"
            seen.extend([g.get("csrf_token"), g.csrf, g.cart])

        do(client, act)
        assert seen == [None, extension, "y"]

    def test_a_second_login_of_the_same_user_keeps_role_and_csrf_token(self, app: Flask) -> None:
        """If the user's id is assigned again, nothing leaves the session: an app that does so in
        each request can show forms."""
        client = sign_in(app, role="admin", csrf_token="x")
        client.post("/in/ada")
        assert data_of(client) == {KEY: "ada", "role": "admin", "csrf_token": "x"}

    def test_a_client_of_tests_can_sign_in_by_session_transaction(self, app: Flask) -> None:
        """A test signs a user in by `session_transaction()`, where there is no app context."""
        client = app.test_client()
        client.post("/put", json={"role": "admin"})
        with client.session_transaction() as data:
            data[KEY] = "ada"
        assert data_of(client) == {KEY: "ada"}


class TestFormerUsers:
    """A login in the session of another user."""

    @pytest.mark.parametrize("logout_first", [True, False])
    def test_a_hook_that_keeps_the_role_current_makes_no_admin(
        self, app: Flask, logout_first: bool
    ) -> None:
        """An admin's role, which a hook assigns in each request, does not go to the next user."""

        @app.before_request
        def keep_role() -> None:
            if user := session.get(KEY):
                session["role"] = "admin" if user == "admin" else "user"

        @app.get("/admin")
        @kvs.roles_required("admin")
        def admin() -> t.Any:
            return {}

        client = sign_in(app, "admin")
        assert client.get("/admin").status_code == 200
        if logout_first:
            client.post("/out")
        client.post("/in/bob")
        with client.session_transaction() as data:
            assert "role" not in data
        assert client.get("/admin").status_code == 403

    def test_the_former_users_data_are_out_of_the_session_at_once(self, app: Flask, do: Do) -> None:
        """After the key names another user, the same request reads no data of the former user."""
        client = sign_in(app, role="admin")
        seen: list[t.Any] = []

        def act() -> None:
            session["cart"] = [1]
            session[KEY] = "bob"
            seen.append(dict(session))
            session["theme"] = "dark"

        do(client, act)
        assert seen == [{KEY: "bob"}]
        assert data_of(client) == {KEY: "bob", "theme": "dark"}

    @pytest.mark.parametrize("between", [None, "clear"])
    def test_a_concurrent_write_to_the_former_users_session_stays_there(
        self, app: Flask, do: Do, between: str | None
    ) -> None:
        """What a request of the former user writes during the switch does not go along."""
        client = sign_in(app, role="admin")
        token = token_of(client, "session")

        def act() -> None:
            session.pop(KEY)
            if between:
                session.clear()
            session[KEY] = "bob"
            browser(app, token).post("/put", json={"secret": 1})

        do(client, act)
        assert data_of(client) == {KEY: "bob"}

    @pytest.mark.parametrize("end", [lambda: session.clear(), lambda: switch_and_sign_out()])
    def test_a_copy_of_the_former_users_data_is_not_set_again(
        self, app: Flask, do: Do, end: Callable[[], None]
    ) -> None:
        """Code that copies the session, clears it and puts the data back gives them to nobody
        else."""
        client = sign_in(app, role="admin", cart=[1])

        def act() -> None:
            session["role"] = "owner"
            data = {key: session[key] for key in session if key != KEY}
            end()
            session.update(data)
            session[KEY] = "bob"

        do(client, act)
        assert data_of(client) == {KEY: "bob"}

    def test_a_copy_of_the_users_own_data_keeps_all_of_them(self, app: Flask, do: Do) -> None:
        """A user's own session, copied, cleared and filled again, keeps its data, wherever the key
        is among them."""
        client = app.test_client()
        client.post("/put", json={"cart": [1]})
        client.post("/in/ada", json={"role": "admin", "csrf_token": "x"})
        before = data_of(client)

        def act(*, backwards: bool) -> None:
            data = dict(session)
            session.clear()
            session.update(reversed(data.items()) if backwards else data.items())

        for backwards in (False, True):
            do(client, partial(act, backwards=backwards))
            assert data_of(client) == before


class TestPreviousUsers:
    """Data that a user leaves at a logout do not pass to the next user of the same browser."""

    def test_another_user_does_not_get_the_remaining_data(self, app: Flask) -> None:
        """A login of another user drops the data that the previous user's logout has left."""
        client = sign_in(app, role="admin")
        client.post("/out")
        assert data_of(client) == {"role": "admin"}
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob"}

    def test_a_role_taken_away_after_the_logout_does_not_come_back(self, app: Flask) -> None:
        """A login of the same user drops the data that the user's logout has left: a role may have
        been taken away meanwhile."""
        client = sign_in(app, role="admin", is_admin=True)
        client.post("/out")
        with app.app_context():
            kvs.update_all_sessions("ada", {}, remove=["role", "is_admin"])
        client.post("/in/ada")
        assert data_of(client) == {KEY: "ada"}

    def test_a_login_and_a_logout_in_one_request_leave_the_data_as_they_were(
        self, app: Flask, do: Do
    ) -> None:
        """If one request signs a user in and out again, the data that a previous user and the
        anonymous browser have left are there as before, and those of the user are the user's."""
        client = sign_in(app, theme="dark")
        do(client, lambda: flash("To ada."))
        client.post("/out")
        client.post("/put", json={"cart": [1], "role": "guest", "csrf_token": "x"})
        before = data_of(client)

        def act() -> None:
            session[KEY] = "bob"
            flash("To bob.")
            assert dict(session).keys() == {KEY, "cart", "_flashes"}
            session["secret"] = 1
            del session[KEY]

        do(client, act)
        messages = [["message", "To ada."], ["message", "To bob."]]
        assert data_of(client) == before | {"secret": 1, "_flashes": messages}
        client.post("/in/eve")
        assert data_of(client) == {KEY: "eve", "cart": [1]}

    def test_a_logout_then_a_login_and_a_logout_leave_the_first_users_data(
        self, app: Flask, do: Do
    ) -> None:
        """If one request signs a user out, and another user in and out, the data of the first user
        are left to the anonymous session."""
        client = sign_in(app, cart=[1])

        def act() -> None:
            for user in (None, "bob", None):
                session[KEY] = user

        do(client, act)
        assert data_of(client) == {KEY: None, "cart": [1]}

    def test_data_that_a_login_has_removed_do_not_come_back_from_the_store(
        self, app: Flask, do: Do
    ) -> None:
        """If a user changes the anonymous browser's data, signs out and in again in one request,
        the data are out of the session, and so is their old value in the store."""
        client = app.test_client()
        client.post("/put", json={"cart": [1]})

        def act() -> None:
            session.update({KEY: "ada", "cart": [2]})
            del session[KEY]
            session[KEY] = "ada"
            assert dict(session) == {KEY: "ada"}

        do(client, act)
        assert data_of(client) == {KEY: "ada"}

    def test_a_message_flashed_before_the_key_goes_along_and_comes_back_once(
        self, app: Flask, do: Do
    ) -> None:
        """A login keeps the message that its request has flashed before the key, and no message to
        a previous user. A logout in the same request brings these back."""
        client = sign_in(app)
        do(client, lambda: flash("To ada."))
        client.post("/out")
        seen: list[t.Any] = []

        def act() -> None:
            flash("To bob.")
            for user in ("bob", None):
                session[KEY] = user
                seen.append([message for _, message in session["_flashes"]])

        do(client, act)
        assert seen == [["To bob."], ["To ada.", "To bob."]]

    def test_data_of_a_user_who_signs_in_and_out_without_a_session_are_not_passed_on(
        self, app: Flask, do: Do
    ) -> None:
        """If the first request of a browser signs a user in and out, the user's data do not go to
        the next user."""
        client = app.test_client()
        do(client, lambda: (session.update({KEY: "bob", "secret": 1}), session.pop(KEY)))
        assert data_of(client) == {"secret": 1}
        client.post("/in/eve")
        assert data_of(client) == {KEY: "eve"}

    def test_the_record_marks_no_data_that_are_gone(
        self, app: Flask, do: Do, keys: Keys, redis_client: redis.Redis
    ) -> None:
        """The record names the keys of a previous user's data, as long as the data are there."""

        def remove(key: str) -> None:
            session.pop(key)

        client = sign_in(app, role="admin", theme="dark")
        client.post("/out")
        client.post("/put", json={"cart": [1]})
        marked = [["role", "theme"], ["theme"], None]
        for drop in ("role", "theme", "cart"):
            [record] = [json.loads(t.cast(bytes, redis_client.get(key))) for key in keys()]
            assert record.get("previous_user_keys") == marked.pop(0)
            do(client, partial(remove, drop))

    def test_clear_also_removes_what_a_login_of_the_request_has_removed(
        self, app: Flask, do: Do
    ) -> None:
        """After `clear()`, a logout in the same request brings no data of the anonymous session
        back."""
        client = sign_in(app, theme="dark")
        client.post("/out")

        def act() -> None:
            session[KEY] = "bob"
            session.clear()
            session[KEY] = "eve"
            del session[KEY]

        do(client, act)
        assert data_of(client) == {}

    def test_data_that_a_user_has_put_in_again_are_that_users(self, app: Flask, do: Do) -> None:
        """If a user who signs in and out in one request puts the same data in again after
        `clear()`, the data belong to that user from then on."""
        client = app.test_client()
        do(client, lambda: session.update({KEY: None, "cart": [1]}))

        def act() -> None:
            session.clear()
            session.update({KEY: "bob", "cart": [1]})
            session[KEY] = None

        do(client, act)
        assert data_of(client) == {KEY: None, "cart": [1]}
        client.post("/in/eve")
        assert data_of(client) == {KEY: "eve"}

    def test_an_equal_value_stays_the_previous_users(self, app: Flask) -> None:
        """The assignment of an equal value, as by a hook in each request, does not take data from
        the previous user."""
        client = sign_in(app, seen=1, cart=[1])
        client.post("/out")
        client.post("/put", json={"seen": 1, "cart": [2]})
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob", "cart": [2]}

    def test_data_set_again_during_the_login_go_along(self, app: Flask, do: Do) -> None:
        """What another request sets again during the login is no longer the previous user's."""
        client = sign_in(app, cart=[1], theme="dark")
        client.post("/out")
        token = token_of(client, "session")

        def act() -> None:
            session[KEY] = "bob"
            browser(app, token).post("/put", json={"cart": [2]})

        do(client, act)
        assert data_of(client) == {KEY: "bob", "cart": [2]}

    def test_data_changed_while_another_request_deletes_them_stay_the_previous_users(
        self, app: Flask, do: Do
    ) -> None:
        """If one request changes a previous user's list in place and another deletes it, the list
        is still not for the next user."""
        client = sign_in(app, cart=[1])
        client.post("/out")
        other = browser(app, token_of(client, "session"))

        def act() -> None:
            session["cart"].append(2)
            do(other, lambda: (session.pop("cart"), session.update(theme="dark")))

        do(client, act)
        assert data_of(client) == {"cart": [1, 2], "theme": "dark"}
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob", "theme": "dark"}

    def test_messages_flashed_after_the_previous_users_were_shown_go_along(
        self, app: Flask, do: Do
    ) -> None:
        """If the previous user's messages were shown, later messages go to the next user."""
        client = sign_in(app)
        do(client, lambda: flash("To ada."))
        client.post("/out")
        do(client, get_flashed_messages)
        do(client, lambda: flash("Please sign in."))
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob", "_flashes": [["message", "Please sign in."]]}

    def test_a_new_message_with_the_text_of_an_earlier_one_is_kept(
        self, app: Flask, do: Do
    ) -> None:
        """A login keeps the message that it flashes, although the previous user had a message with
        the same text."""
        client = sign_in(app)
        do(client, lambda: flash("Welcome."))
        client.post("/out")

        def sign_in_and_greet() -> None:
            session[KEY] = "bob"
            flash("Welcome.")

        do(client, sign_in_and_greet)
        assert data_of(client) == {KEY: "bob", "_flashes": [["message", "Welcome."]]}

    def test_a_message_of_the_logout_request_alone_goes_along(self, app: Flask, do: Do) -> None:
        """A message that the logout request flashes before it removes the key is for the next page,
        whoever signs in there."""

        def say_good_bye() -> None:
            flash("Good bye.")
            session.pop(KEY)

        client = sign_in(app)
        do(client, say_good_bye)
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob", "_flashes": [["message", "Good bye."]]}

    def test_an_odd_value_for_messages_breaks_no_login(self, app: Flask, do: Do) -> None:
        """A value that is no list of messages is dropped like other data of a previous user."""
        client = sign_in(app, _flashes="odd")
        client.post("/out")
        do(client, lambda: (session.update({KEY: "bob", "_flashes": "other"}), session.pop(KEY)))
        client.post("/in/eve")
        assert data_of(client) == {KEY: "eve"}

    def test_data_assigned_after_the_logout_go_to_the_next_user(self, app: Flask) -> None:
        """Data that are assigned after the logout go along into the next login, also under a key of
        the previous user."""
        client = sign_in(app, cart=[1], role="admin", theme="dark")
        client.post("/out")
        client.post("/put", json={"cart": [2], "language": "de"})
        client.post("/in/bob", json={"theme": "dark"})
        assert data_of(client) == {KEY: "bob", "cart": [2], "language": "de", "theme": "dark"}

    def test_data_assigned_by_the_logout_request_go_to_the_next_user(
        self, app: Flask, do: Do
    ) -> None:
        """Data that the logout request assigns go along into the next login, but a list with
        messages to the previous user does not."""
        client = sign_in(app, role="admin")
        do(client, lambda: flash("To ada."))

        def act() -> None:
            session.pop(KEY)
            session["seen"] = True
            flash("Good bye.")

        do(client, act)
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob", "seen": True}

    def test_data_assigned_after_clear_go_to_the_next_user(self, app: Flask, do: Do) -> None:
        """Data that are assigned after `clear()` do not belong to the previous user."""
        client = sign_in(app, role="admin")

        def act() -> None:
            session.clear()
            flash("Good bye.")

        do(client, act)
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob", "_flashes": [["message", "Good bye."]]}

    def test_a_concurrent_write_does_not_pass_on_the_previous_users_data(
        self, app: Flask, do: Do
    ) -> None:
        """A write to the anonymous session during another user's login is kept, and the previous
        user's data are still dropped."""
        client = sign_in(app, role="admin")
        client.post("/out")
        token = token_of(client, "session")

        def act() -> None:
            session[KEY] = "bob"
            browser(app, token).post("/put", json={"cart": [1]})

        do(client, act)
        assert data_of(client) == {KEY: "bob", "cart": [1]}

    def test_messages_to_the_previous_user_are_not_passed_to_the_next(
        self, app: Flask, do: Do
    ) -> None:
        """A login of another user drops a list that contains a message to the previous user."""
        client = sign_in(app)
        do(client, lambda: flash("Welcome, ada."))
        client.post("/out")
        do(client, lambda: flash("Please sign in."))
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob"}

    @pytest.mark.parametrize(
        ("act", "cleared"),
        [(lambda: session.clear(), True), (lambda: session.pop("x", None), False)],
        ids=["clear", "no change"],
    )
    def test_with_a_token_from_before_a_rotation_only_clear_deletes_the_cookie(
        self, app: Flask, do: Do, act: Callable[[], None], cleared: bool
    ) -> None:
        """If another request has rotated the token, `clear()` still deletes the cookie, and a
        request that changes nothing leaves the cookie."""
        client = sign_in(app)
        late = browser(app, token_of(client, "session"))
        do(client, kvs.confirm_login)
        cookies = do(late, act).headers.getlist("Set-Cookie")
        assert [("Max-Age=0" in cookie) for cookie in cookies] == ([True] if cleared else [])

    def test_a_logout_of_a_revoked_session_keeps_only_newly_assigned_data(
        self, app: Flask, do: Do
    ) -> None:
        """If the session is revoked during a logout, only data that the logout request assigns
        remain."""
        client = sign_in(app, roles=["admin"])

        def act() -> None:
            session["roles"].append("owner")
            session["seen"] = True
            session.pop(KEY)
            store_of(app).revoke_all("ada")

        do(client, act)
        assert data_of(client) == {"seen": True}

    def test_the_mark_of_the_previous_user_is_not_in_the_mapping(self, app: Flask, do: Do) -> None:
        """The mark that data belong to a previous user is not part of the mapping."""
        client = sign_in(app, role="admin")
        client.post("/out")
        assert data_of(client) == {"role": "admin"}
        do(client, lambda: session.pop("role"))
        assert token_of(client, "session") is None


class TestRevocation:
    def test_a_login_over_a_revoked_session_succeeds_without_its_data(
        self, app: Flask, do: Do
    ) -> None:
        """If the session is revoked during a login of the same user, the login drops its data,
        because the revocation may have taken a role away."""
        client = sign_in(app, role="admin", theme="dark")
        do(client, lambda: flash("Before."))

        def act() -> None:
            session[KEY] = "ada"
            session["theme"] = "dark"
            flash("After.")
            store_of(app).revoke_all("ada")

        do(client, act)
        messages = [["message", "After."]]
        assert data_of(client) == {KEY: "ada", "theme": "dark", "_flashes": messages}
        assert sessions_of(app, "ada") == [id_of(client)]

    def test_one_browser_lists_and_revokes_the_session_of_another(self, app: Flask, do: Do) -> None:
        """A browser lists all sessions of its user and revokes the other one."""
        laptop, phone = sign_in(app), sign_in(app)
        assert do(laptop, lambda: {"n": len(kvs.list_sessions())}).get_json() == {"n": 2}
        do(laptop, lambda: {"n": kvs.revoke_session(id_of(phone))})
        assert (user_of(laptop), user_of(phone)) == ("ada", None)
        assert data_of(phone) == {}

    def test_revoking_the_current_session_logs_out_at_once(self, app: Flask, do: Do) -> None:
        """After the current session is revoked, no user is signed in, although the request has
        pending changes."""
        client = sign_in(app)

        def act() -> None:
            session["a"] = 1
            kvs.revoke_all_sessions()
            assert kvs.current_session.user_id is None

        do(client, act)
        assert user_of(client) is None
        assert token_of(client, "session") is None

    def test_a_login_and_revoke_all_except_current_keep_only_this_browser(
        self, app: Flask, do: Do
    ) -> None:
        """A login followed by `revoke_all_sessions(except_current=True)` keeps only this browser
        signed in."""
        laptop, phone = sign_in(app), sign_in(app)

        def act() -> None:
            session[KEY] = "ada"
            kvs.revoke_all_sessions(except_current=True)

        do(laptop, act)
        assert (user_of(laptop), user_of(phone)) == ("ada", None)
        assert sessions_of(app, "ada") == [id_of(laptop)]

    @pytest.mark.parametrize("path", ["/put", "/out"])
    def test_a_request_in_flight_does_not_bring_a_revoked_session_back(
        self, app: Flask, path: str
    ) -> None:
        """A session that is revoked while a request changes it or logs out stays revoked, and its
        data are gone."""
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

    def test_a_clear_beside_a_login_of_the_same_browser_leaves_its_cookie_alone(
        self, app: Flask, do: Do
    ) -> None:
        """If a request clears an anonymous session that a login of the same browser has just
        replaced, its response sends no cookie, because the browser has the login's cookie by
        then."""
        client = app.test_client()
        client.post("/put", json={"cart": [1]})
        other_tab = browser(app, token_of(client, "session"))

        def act() -> None:
            assert session["cart"] == [1]
            client.post("/in/ada")
            session.clear()

        assert "Set-Cookie" not in do(other_tab, act).headers
        assert user_of(client) == "ada"

    @pytest.mark.parametrize("has_anonymous_session", [False, True])
    def test_a_clear_with_a_token_that_was_just_replaced_ends_the_users_session(
        self, app: Flask, do: Do, told: Recorder, has_anonymous_session: bool
    ) -> None:
        """If a tab clears the session while the response of `confirm_login` in another tab is on
        its way, the user's session ends, also if the tab has an anonymous session too."""
        client = sign_in(app)
        other_tab = browser(app, token_of(client, "session"))
        if has_anonymous_session:
            anonymous = app.test_client()
            anonymous.post("/put", json={"cart": [1]})
            other_tab.set_cookie("session-anonymous", token_of(anonymous, "session") or "")
        do(client, kvs.confirm_login)
        assert other_tab.post("/clear").status_code == 200
        assert sessions_of(app, "ada") == []
        assert user_of(client) is None
        assert told.users[-1] == ("user_logged_out", "ada")
        assert token_of(other_tab, "session") is None

    @pytest.mark.parametrize("has_anonymous_session", [False, True])
    def test_a_pop_with_a_token_that_was_just_replaced_ends_the_users_session(
        self, app: Flask, do: Do, told: Recorder, has_anonymous_session: bool
    ) -> None:
        """The same is true for a logout by `session.pop(key, None)`. Data of the anonymous session
        stay."""
        client = sign_in(app)
        other_tab = browser(app, token_of(client, "session"))
        if has_anonymous_session:
            anonymous = app.test_client()
            anonymous.post("/put", json={"cart": [1]})
            other_tab.set_cookie("session-anonymous", token_of(anonymous, "session") or "")
        do(client, kvs.confirm_login)
        assert do(other_tab, lambda: session.pop(KEY, None)).status_code == 200
        assert sessions_of(app, "ada") == []
        assert user_of(client) is None
        assert told.users[-1] == ("user_logged_out", "ada")
        assert data_of(other_tab) == ({"cart": [1]} if has_anonymous_session else {})

    def test_two_logouts_at_once_send_one_signal(self, app: Flask, told: Recorder) -> None:
        """Two concurrent logouts of one session send `user_logged_out` once."""
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
    def test_login_user_and_logout_user_raise_and_name_the_key(
        self, app: Flask, do: Do, verb: Callable[[], object]
    ) -> None:
        """`login_user` and `logout_user` raise `ConfigurationError`, because the key already says
        which user is signed in."""
        client = sign_in(app)

        def act() -> None:
            with pytest.raises(ConfigurationError, match=r"KVSESSION_USER_ID_KEY is 'user_id'"):
                verb()

        do(client, act)
        assert user_of(client) == "ada"

    def test_confirm_login_makes_the_session_fresh(self, app: Flask, do: Do, clock: Clock) -> None:
        """`confirm_login` makes a session fresh whose user was signed in by the key."""
        client = sign_in(app)
        clock.advance(hours=1)
        do(client, kvs.confirm_login)
        assert do(client, lambda: {"f": kvs.current_session.is_fresh}).get_json() == {"f": True}

    def test_assigning_fresh_true_makes_fresh_and_rotates_the_token(
        self, app: Flask, do: Do, clock: Clock, told: Recorder
    ) -> None:
        """Assigning `_fresh` = True, as Flask-Login's `confirm_login` does, makes the session fresh
        and rotates the token."""
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

    def test_fresh_that_is_assigned_and_removed_again_changes_nothing(
        self, app: Flask, do: Do, clock: Clock
    ) -> None:
        """If a request assigns `_fresh` and removes it again, the session stays as it was."""
        client = sign_in(app)
        clock.advance(hours=1)
        before = token_of(client, "session")
        do(client, lambda: (session.update(_fresh=True), session.pop("_fresh")))
        assert do(client, lambda: {"f": kvs.current_session.is_fresh}).get_json() == {"f": False}
        assert token_of(client, "session") == before

    def test_assigning_fresh_false_makes_the_session_not_fresh(self, app: Flask, do: Do) -> None:
        """After `_fresh` = False is assigned, as Flask-Login does for a changed client, the session
        is not fresh."""
        client = sign_in(app, _fresh=True)
        do(client, lambda: session.update(_fresh=False))
        assert do(client, lambda: {"f": kvs.current_session.is_fresh}).get_json() == {"f": False}

    def test_a_stored_fresh_true_does_not_make_fresh_again(
        self, app: Flask, do: Do, clock: Clock
    ) -> None:
        """A stored `_fresh` = True that is not assigned again does not make the session fresh."""
        client = sign_in(app, _fresh=True)
        clock.advance(hours=1)
        do(client, lambda: session.update(a=1))
        do(client, lambda: session.setdefault("_fresh", True))
        assert do(client, lambda: {"f": kvs.current_session.is_fresh}).get_json() == {"f": False}

    @pytest.mark.parametrize("verb", [kvs.rotate_token, kvs.confirm_login])
    def test_a_verb_that_acts_at_once_commits_the_pending_login_first(
        self, app: Flask, client: FlaskClient, do: Do, verb: Callable[[], object]
    ) -> None:
        """`rotate_token` and `confirm_login` first log in the user whom the request has
        assigned."""
        seen: list[object] = []

        def act() -> None:
            session[KEY] = "ada"
            verb()
            seen.append(kvs.current_session.id)

        do(client, act)
        assert seen == [id_of(client)]
        assert sessions_of(app, "ada") == seen

    def test_update_all_sessions_refuses_to_change_the_key(self, app: Flask) -> None:
        """`update_all_sessions` raises `ValueError` for a change of the key and accepts other
        changes."""
        client = sign_in(app)
        with app.app_context():
            for change in ({"changes": {KEY: "bob"}}, {"changes": {}, "remove": [KEY]}):
                with pytest.raises(ValueError, match="says whose session it is"):
                    kvs.update_all_sessions("ada", **change)
            assert kvs.update_all_sessions("ada", {"role": "reader"}) == 1
        assert data_of(client) == {KEY: "ada", "role": "reader"}


class TestFailures:
    def test_a_failed_login_is_503_without_a_cookie(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A login that could not be stored is answered with 503 and sets no cookie."""
        client = app.test_client()

        def fail(*args: t.Any) -> t.NoReturn:
            raise StoreUnavailable

        monkeypatch.setattr(store_of(app), "create", fail)
        response = client.post("/in/ada")
        assert response.status_code == 503
        assert not response.headers.getlist("Set-Cookie")
        monkeypatch.undo()
        assert sessions_of(app, "ada") == []

    def test_a_login_whose_limit_fails_keeps_the_anonymous_session(
        self, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A login that fails at the limit of sessions leaves the anonymous session and the user's
        other session."""
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

    def test_a_failed_logout_is_503_and_keeps_the_user_signed_in(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A logout that could not be carried out is answered with 503 and keeps the cookie."""
        client = sign_in(app)

        def fail(*args: t.Any, **kwargs: t.Any) -> t.NoReturn:
            raise StoreUnavailable

        monkeypatch.setattr(store_of(app), "remove", fail)
        response = client.post("/out")
        assert response.status_code == 503
        assert not response.headers.getlist("Set-Cookie")
        monkeypatch.undo()
        assert user_of(client) == "ada"

    def test_a_logout_succeeds_if_the_remaining_data_cannot_be_stored(
        self, app: Flask, do: Do, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A logout succeeds even if the remaining data cannot be stored, so that a user can sign
        out when memory is full."""
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
    """Changes of the session by receivers of signals that are sent at the commit."""

    def test_changes_by_a_receiver_are_saved(self, app: Flask) -> None:
        """A change by a receiver of `user_logged_in` is saved."""

        def receive(sender: Flask, **extra: t.Any) -> None:
            session["greeted"] = True

        with kvs.signals.user_logged_in.connected_to(receive, app):
            client = sign_in(app)
        assert data_of(client) == {KEY: "ada", "greeted": True}

    def test_a_receiver_that_clears_the_session_logs_out(self, app: Flask) -> None:
        """A receiver of `client_changed` that clears the session ends the session."""
        client = sign_in(app, cart=[1])

        def receive(sender: Flask, **extra: t.Any) -> None:
            session.clear()

        with kvs.signals.client_changed.connected_to(receive, app):
            client.post("/put", json={"a": 1}, headers={"User-Agent": "another"})
        assert token_of(client, "session") is None
        assert sessions_of(app, "ada") == []

    def test_a_write_by_a_receiver_in_the_second_commit_raises(self, app: Flask, do: Do) -> None:
        """A receiver's login of another user is committed; a write by the receiver of that second
        login raises."""
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

    def test_a_receiver_that_raises_does_not_lose_the_remaining_data(
        self, app: Flask, keys: Keys
    ) -> None:
        """The data that remain after a logout are stored before `user_logged_out` is sent."""
        client = sign_in(app, cart=[1])

        def receive(sender: Flask, **extra: t.Any) -> None:
            raise RuntimeError("of the receiver")

        with (
            kvs.signals.user_logged_out.connected_to(receive, app),
            pytest.raises(RuntimeError, match="of the receiver"),
        ):
            client.post("/out")
        assert [key.count(":s:") for key in keys()] == [1]


class TestLoginRefusedByAReceiver:
    """If a receiver of `user_logged_in` raises, no login by the key remains."""

    @pytest.fixture(autouse=True)
    def refusing(self, app: Flask) -> Iterator[None]:
        app.config["PROPAGATE_EXCEPTIONS"] = False

        def receive(sender: Flask, session: kvs.SessionInfo, **extra: t.Any) -> None:
            if session.user_id == "eve":
                raise Forbidden

        with kvs.signals.user_logged_in.connected_to(receive, app):
            yield

    def test_at_the_commit_the_answer_is_500_and_no_login_remains(self, app: Flask) -> None:
        """A login by the key is done at the commit: Flask answers 500, and nobody is signed in."""
        client = app.test_client()
        client.post("/put", json={"cart": [1]})
        response = client.post("/in/eve")
        assert response.status_code == 500
        assert sessions_of(app, "eve") == []
        assert (user_of(client), data_of(client)) == (None, {"cart": [1]})

    def test_an_earlier_step_lets_the_app_answer_403(self, app: Flask, do: Do) -> None:
        """If the view calls `rotate_token` after it has set the key, the login is done there, and
        the refusal is the app's own answer."""

        def act() -> None:
            session[KEY] = "eve"
            kvs.rotate_token()

        client = app.test_client()
        assert do(client, act).status_code == 403
        assert sessions_of(app, "eve") == []
        assert (user_of(client), data_of(client)) == (None, {})

    def test_a_refused_switch_signs_the_browser_out(self, app: Flask) -> None:
        """A switch of users that is refused leaves neither of the users signed in."""
        client = sign_in(app, cart=[1])
        client.post("/in/eve")
        assert sessions_of(app, "ada") == sessions_of(app, "eve") == []
        assert (user_of(client), data_of(client)) == (None, {})

    def test_data_of_a_user_who_signed_out_stay_that_users(self, app: Flask) -> None:
        """Data that a former user left are still the former user's after a refused login: the next
        login drops them."""
        client = sign_in(app, role="admin")
        client.post("/out")
        client.post("/in/eve")
        assert data_of(client) == {"role": "admin"}
        client.post("/in/bob")
        assert data_of(client) == {KEY: "bob"}


class TestSettingAddedToExistingSessions:
    def test_another_user_does_not_get_data_from_before_the_setting(
        self, make_app: MakeApp
    ) -> None:
        """A login of another user drops data from before the setting, because the stored key names
        their user."""
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

    @pytest.mark.parametrize("path", ["/in/bob", "/who"])
    def test_data_of_login_user_from_before_the_setting_go_to_nobody(
        self, make_app: MakeApp, path: str
    ) -> None:
        """A user of `login_user` is signed out when the setting comes, and the next login drops the
        data of that user."""
        settings: dict[str, t.Any] = {"as_flask_session": True}
        before = make_app(**settings)
        after = with_views(make_app(user_id_key=KEY, views=False, **settings))
        client = before.test_client()
        client.post("/login/ada", json={"data": {"is_admin": True}})
        moved = browser(after, token_of(client, "session"))
        for step in (path, "/in/bob"):
            moved.open(step, method="GET" if step == "/who" else "POST")
        assert data_of(moved) == {KEY: "bob"}

    def test_a_session_that_ends_during_its_conversion_stays_ended(self, make_app: MakeApp) -> None:
        """A request that would only convert a session from before the setting creates no session
        and sends no signal if that session has ended meanwhile. It then reads an empty session."""
        settings: dict[str, t.Any] = {"as_flask_session": True, "views": False}
        before, after = make_app(**settings), make_app(user_id_key=KEY, **settings)
        with_views(before)
        client = before.test_client()
        client.post("/put", json={KEY: "ada"})
        token = token_of(client, "session")

        @after.get("/parked")
        def parked() -> t.Any:
            assert kvs.current_session.user_id == "ada"
            browser(after, token).get("/who")
            store_of(after).revoke_all("ada")
            recorder.received.clear()
            read = (f"{kvs.current_session.user_id} {dict(session)}" for _ in range(1))
            return Response(stream_with_context(read))  # reads after the commit

        with_views(after)
        late = browser(after, token)
        with recorded_signals(after) as recorder:
            assert late.get("/parked").text == "None {}"
        assert recorder.received == []
        assert sessions_of(after, "ada") == []
        assert user_of(late) is None

    def test_a_user_from_before_the_setting_stays_signed_in(
        self, make_app: MakeApp, clock: Clock
    ) -> None:
        """A session from before the setting becomes a listed session of its user at the next
        request, without `authenticated_at`."""
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


def test_a_login_with_too_large_data_raises_and_signs_no_user_in(make_app: MakeApp) -> None:
    """The assignment of data over `KVSESSION_MAX_SESSION_BYTES` raises, and the request signs
    no user in."""
    app = make_app(as_flask_session=True, user_id_key=KEY, max_session_bytes=100, views=False)
    with_views(app)
    with pytest.raises(SessionTooLarge):
        app.test_client().post("/in/ada", json={"big": "x" * 100})
    assert sessions_of(app, "ada") == []


def test_a_logout_with_data_over_a_lowered_size_limit_succeeds(make_app: MakeApp) -> None:
    """A user whose data exceed a lowered `KVSESSION_MAX_SESSION_BYTES` can log out, and the data
    remain."""
    settings: dict[str, t.Any] = {"as_flask_session": True, "user_id_key": KEY, "views": False}
    app = with_views(make_app(**settings))
    lowered = with_views(make_app(max_session_bytes=100, **settings))
    client = browser(lowered, token_of(sign_in(app, big="x" * 200), "session"))
    assert client.post("/out").status_code == 200
    assert data_of(client) == {"big": "x" * 200}
    assert sessions_of(app, "ada") == []


def test_a_session_that_is_not_permanent_ends_after_unremembered_timeout(
    app: Flask, clock: Clock
) -> None:
    """A user's session that is not permanent ends after `KVSESSION_UNREMEMBERED_TIMEOUT` without
    activity."""
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
