"""The `Session` object that a view uses."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Mapping, MutableMapping
from copy import copy, deepcopy
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from werkzeug.local import LocalProxy

import flask_kvsession as kvs
from flask_kvsession.errors import SessionTooLarge, UnstorableValue

from .support.apps import Do, MakeApp
from .support.browsers import SignIn, id_of, token_of
from .support.clock import Clock
from .support.commands import CountCommands

FACTS = [
    "id", "user_id", "is_authenticated", "is_fresh", "created_at", "last_seen_at",
    "authenticated_at", "expires_at", "ip_address", "user_agent", "remembered", "new", "modified",
    "ended",
]  # fmt: skip
TIMES = [name for name in FACTS if name.endswith("_at")]

Act = Callable[[t.Any], object]

OPERATIONS: dict[str, Act] = {
    "set": lambda m: m.__setitem__("new", 1),
    "set over": lambda m: m.__setitem__("a", 9),
    "get": lambda m: m["a"],
    "get nested": lambda m: m["list"][1],
    "get missing": lambda m: m["missing"],
    "get a number": lambda m: m[1],
    "get()": lambda m: (m.get("a"), m.get("missing"), m.get("missing", 7), m.get(None)),
    "del": lambda m: m.__delitem__("a"),
    "del missing": lambda m: m.__delitem__("missing"),
    "in": lambda m: ("a" in m, "missing" in m, 1 in m, None in m, () in m),
    "len": lambda m: len(m),
    "bool": lambda m: bool(m),
    "iter": lambda m: list(m),
    "keys": lambda m: (list(m.keys()), "a" in m.keys(), m.keys() & {"a", "z"}),  # noqa: SIM118
    "values": lambda m: list(m.values()),
    "items": lambda m: list(m.items()),
    "dict": lambda m: dict(m),
    "unpack": lambda m: {**m},
    "==": lambda m: (m == {"a": 1}, m == dict(m), m == 1),
    "pop": lambda m: m.pop("a"),
    "pop missing": lambda m: m.pop("missing"),
    "pop default": lambda m: m.pop("missing", 5),
    "popitem": lambda m: sorted(key for key, _ in [m.popitem() for _ in list(m)]),
    "popitem takes the last": lambda m: (m.__setitem__("last", 1), m.popitem()),
    "popitem of nothing": lambda m: (m.clear(), m.popitem()),
    "clear": lambda m: m.clear(),
    "setdefault": lambda m: (m.setdefault("a", 9), m.setdefault("new", [])),
    "setdefault in place": lambda m: m.setdefault("new", []).append(1),
    "update": lambda m: m.update({"a": 2, "b": 3}, c=4),
    "update from pairs": lambda m: m.update([("a", 2), ("b", 3)]),
    "update by |=": lambda m: m.__ior__({"a": 2, "b": 3}) is m,
    "|": lambda m: m | {"a": 2, "b": 3},
    "|, the other way": lambda m: {"a": 2, "b": 3} | m,
    "reversed": lambda m: list(reversed(m)) == list(m)[::-1],
    "copy": lambda m: copy(m),
    "deepcopy": lambda m: (deepcopy(m), deepcopy(m).get("list") is m.get("list", 0)),
    "in place, a list": lambda m: m["list"].append({"x": []}),
    "in place, deep": lambda m: m["dict"]["deep"].update(er=[1]),
    "clear, then set": lambda m: (m.clear(), m.__setitem__("a", 1)),
    "del, then set": lambda m: (m.__delitem__("a"), m.__setitem__("a", 1)),
    "del, then get": lambda m: (m.__delitem__("a"), m.get("a")),
    "a snapshot of keys": lambda m: [m.pop(key) for key in list(m)],
    "unhashable": lambda m: m.get([]),
}


def outcome(act: Act, mapping: MutableMapping[str, t.Any]) -> tuple[object, dict[str, t.Any]]:
    """What an operation gave, or the kind of error, and what the mapping was afterwards."""
    try:
        result = act(mapping)
    except (KeyError, TypeError) as error:
        result = type(error)
    return result, dict(mapping)


@pytest.mark.parametrize("act", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize(
    "who", ["nobody", "anonymous", "user"], ids=["no session", "anonymous session", "user session"]
)
def test_session_behaves_as_a_dict_over_two_requests(
    app: Flask, client: FlaskClient, do: Do, act: Act, who: str
) -> None:
    """Each operation gives the result of a dict, and the next request reads what a dict would
    hold."""
    content: dict[str, t.Any] = {"a": 1, "dict": {"deep": {}}, "list": [1, [2]]}
    if who == "user":
        client.post("/login/ada", json={"data": content})
    elif who == "anonymous":
        client.post("/data", json=content)
    else:
        content = {}
    expected = outcome(act, content)
    seen: list[object] = []
    do(client, lambda: seen.append(outcome(act, g.session)))
    assert seen == [expected]
    assert client.get("/data").get_json() == expected[1]


def facts_of(client: FlaskClient, do: Do) -> dict[str, t.Any]:
    seen: list[dict[str, t.Any]] = []
    do(client, lambda: seen.append({name: getattr(g.session, name) for name in FACTS}))
    return seen[0]


class TestFacts:
    def test_request_without_a_session_has_empty_facts(self, client: FlaskClient, do: Do) -> None:
        """Without a session, `new` is True and all other facts are None or False."""
        false = {"is_authenticated": False, "is_fresh": False, "modified": False}
        assert facts_of(client, do) == dict.fromkeys(FACTS) | false | {"new": True}

    def test_anonymous_session_has_an_id_and_times_but_no_user(
        self, client: FlaskClient, do: Do
    ) -> None:
        """An anonymous session has an id, times and a client but no user."""
        client.post("/data", json={"x": 1})
        facts = facts_of(client, do)
        times = [facts.pop(name) for name in TIMES]
        assert times[0] == times[1]
        assert times[2] is None
        assert times[3] == times[0] + timedelta(days=1)
        assert facts == {
            "id": id_of(client),
            "user_id": None,
            "is_authenticated": False,
            "is_fresh": False,
            "ip_address": "127.0.0.1",
            "user_agent": client.environ_base["HTTP_USER_AGENT"],
            "remembered": True,
            "new": False,
            "modified": False,
            "ended": None,
        }

    def test_user_session_has_its_user_times_and_client(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """A user's session has the user, the times and the client of the login."""
        browser = sign_in(app, remember=False)
        facts = facts_of(browser, do)
        created, seen, authenticated, expires = (facts.pop(name) for name in TIMES)
        assert created == seen == authenticated
        assert expires == created + timedelta(hours=12)
        assert abs(created - datetime.now(UTC)) < timedelta(minutes=1)
        assert facts == {
            "id": id_of(browser),
            "user_id": "ada",
            "is_authenticated": True,
            "is_fresh": True,
            "ip_address": "127.0.0.1",
            "user_agent": browser.environ_base["HTTP_USER_AGENT"],
            "remembered": False,
            "new": False,
            "modified": False,
            "ended": None,
        }

    def test_facts_right_after_a_login_match_the_next_request(
        self, client: FlaskClient, do: Do
    ) -> None:
        """Right after `login_user`, all facts but `new` have the values of the next request."""
        seen: list[dict[str, t.Any]] = []

        def act() -> None:
            kvs.login_user("ada")
            seen.append({name: getattr(g.session, name) for name in FACTS})

        do(client, act)
        assert seen[0].pop("new") is True
        later = facts_of(client, do)
        assert later.pop("new") is False
        assert seen[0] == later

    @pytest.mark.parametrize(
        "who", ["anonymous", "user"], ids=["anonymous session", "user session"]
    )
    def test_times_are_aware_datetimes_in_utc(
        self, app: Flask, client: FlaskClient, do: Do, who: str
    ) -> None:
        """All times are aware datetimes in UTC."""
        client.post("/login/ada" if who == "user" else "/data", json={"x": 1})
        times = [time for name, time in facts_of(client, do).items() if name in TIMES and time]
        assert len(times) == (4 if who == "user" else 3)
        assert all(time.tzinfo is UTC for time in times)

    @pytest.mark.parametrize("setting", ["record_ip", "record_user_agent"])
    def test_client_fact_is_none_if_its_recording_is_off(
        self, make_app: MakeApp, setting: str
    ) -> None:
        """With `KVSESSION_RECORD_IP` or `KVSESSION_RECORD_USER_AGENT` False, that fact is None."""
        app = make_app(**{setting: False})
        app.test_client().post("/login/ada")
        with app.app_context():
            (info,) = kvs.list_sessions("ada")
        assert (info.ip_address is None) is (setting == "record_ip")
        assert (info.user_agent is None) is (setting == "record_user_agent")

    def test_forwarded_address_is_ignored_without_proxyfix(
        self, client: FlaskClient, do: Do
    ) -> None:
        """Without ProxyFix, `X-Forwarded-For` is ignored."""
        client.post("/login/ada", headers={"X-Forwarded-For": "192.0.2.66"})
        assert facts_of(client, do)["ip_address"] == "127.0.0.1"

    @pytest.mark.parametrize("agent", [None, "", "x" * 1_000_000, "é\x00\x1b[31m", "<b>"])
    def test_user_agent_of_any_content_is_cut_at_512_characters(
        self, client: FlaskClient, do: Do, agent: str | None
    ) -> None:
        """A user agent of any content is kept up to 512 characters; an empty one is None."""
        client.environ_base.pop("HTTP_USER_AGENT")
        if agent is not None:
            client.environ_base["HTTP_USER_AGENT"] = agent
        client.post("/login/ada")
        assert facts_of(client, do)["user_agent"] == ((agent or "")[:512] or None)

    def test_data_keys_cannot_overwrite_the_facts(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """Data keys with the names of facts do not change the facts."""
        browser = sign_in(app, "bob")
        before = facts_of(browser, do)
        names = [*FACTS, "v", "family", "secret", "user", "created", "data", "_id", "_user_id"]

        def act() -> None:
            g.session.update(dict.fromkeys(names, "evil"))

        do(browser, act)
        after = facts_of(browser, do)
        moved = {"last_seen_at", "expires_at"}  # a write may renew the session
        assert {n: after[n] for n in after.keys() - moved} == {
            n: before[n] for n in before.keys() - moved
        }
        assert browser.get("/data").get_json() == dict.fromkeys(names, "evil")

    @pytest.mark.parametrize("name", [name for name in FACTS if name != "modified"])
    def test_assignment_to_a_fact_raises_attribute_error(
        self, client: FlaskClient, do: Do, name: str
    ) -> None:
        """An assignment to a fact raises `AttributeError`."""

        def act() -> None:
            with pytest.raises(AttributeError):
                setattr(g.session, name, "evil")

        assert do(client, act).status_code == 200

    @pytest.mark.parametrize("name", ["role", "permanent", "sid", "_data_", "isauthenticated"])
    def test_assignment_to_an_unknown_attribute_raises_attribute_error(
        self, app: Flask, sign_in: SignIn, do: Do, name: str
    ) -> None:
        """An assignment to an attribute that is no fact raises `AttributeError` and stores nothing:
        data go into items."""
        browser = sign_in(app)

        def act() -> None:
            with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
                setattr(g.session, name, "admin")
            with pytest.raises(AttributeError):
                getattr(g.session, name)

        assert do(browser, act).status_code == 200
        assert browser.get("/data").get_json() == {}

    def test_facts_are_not_keys_of_the_mapping(self, app: Flask, sign_in: SignIn, do: Do) -> None:
        """The mapping of a session without data is empty."""
        seen: list[object] = []

        def act() -> None:
            s = g.session
            seen.append((dict(s), len(s), list(s), bool(s), [n for n in FACTS if n in s]))

        do(sign_in(app), act)
        assert seen == [({}, 0, [], False, [])]


def after_a_change(session: kvs.Session, verb: Callable[[], object]) -> None:
    session["b"] = 1
    verb()


class TestModified:
    @pytest.mark.parametrize(
        ("act", "expected"),
        [
            (lambda s: s.get("a"), False),
            (lambda s: s["list"], False),
            (lambda s: dict(s), False),
            (lambda s: s.__setitem__("b", 1), True),
            (lambda s: s.__setitem__("a", 2), True),
            (lambda s: s.__setitem__("a", True), True),
            (lambda s: s.__setitem__("a", 1), False),
            (lambda s: s.__setitem__("list", [1]), False),
            (lambda s: s["list"].append(2), True),
            (lambda s: (s["list"].append(2), s["list"].pop()), False),
            (lambda s: s.__delitem__("a"), True),
            (lambda s: (s.__setitem__("b", 1), s.__delitem__("b")), False),
            (lambda s: s.clear(), True),
            (lambda s: after_a_change(s, kvs.rotate_token), False),
            (lambda s: after_a_change(s, kvs.confirm_login), False),
            (lambda s: after_a_change(s, lambda: kvs.login_user("bob")), False),
            (lambda s: after_a_change(s, kvs.logout_user), False),
        ],
    )
    def test_modified_is_true_if_the_data_differ_from_redis(
        self, app: Flask, sign_in: SignIn, do: Do, act: Callable[[t.Any], object], expected: bool
    ) -> None:
        """`modified` is true exactly if the data differ from the data in Redis."""
        browser = sign_in(app, data={"a": 1, "list": [1]})
        seen: list[bool] = []

        def run() -> None:
            act(g.session)
            seen.append(g.session.modified)

        do(browser, run)
        assert seen == [expected]

    def test_clear_without_a_session_is_no_change(self, client: FlaskClient, do: Do) -> None:
        """`clear()` in a browser without a session leaves `modified` false."""
        seen: list[bool] = []

        def act() -> None:
            g.session.clear()
            seen.append(g.session.modified)

        do(client, act)
        assert seen == [False]

    def test_value_replaced_by_an_equal_value_is_not_written(
        self, app: Flask, sign_in: SignIn, do: Do, count_commands: CountCommands
    ) -> None:
        """A value that is replaced by an equal value costs no write."""
        browser = sign_in(app, data={"a": 1, "list": [1]})
        with count_commands() as commands:
            do(browser, lambda: g.session.update(a=1, list=[1]))
        assert commands.names == ["GET"]


class TestRefusedValues:
    @pytest.mark.parametrize(
        "act",
        [
            lambda s: s.update(bad=object()),
            lambda s: s.update(bad=float("nan")),
            lambda s: s.update(bad={1: 2}),
            lambda s: s.update(bad=["\ud800"]),
            lambda s: s.__setitem__(1, 1),
            lambda s: s.__setitem__(None, 1),
            lambda s: s.__setitem__("\ud800", 1),
            lambda s: s.setdefault("bad", object()),
            lambda s: s.update(bad="x" * 70_000),
            lambda s: s.__setitem__("k" * 70_000, 1),
        ],
    )
    def test_unstorable_value_raises_where_it_is_assigned(
        self, app: Flask, sign_in: SignIn, do: Do, act: Callable[[t.Any], object]
    ) -> None:
        """The assignment of an unstorable or too large value raises and leaves the data
        unchanged."""
        browser = sign_in(app, data={"a": 1})

        def run() -> None:
            with pytest.raises((UnstorableValue, SessionTooLarge)):
                act(g.session)
            g.session["b"] = 2

        assert do(browser, run).status_code == 200
        assert browser.get("/data").get_json() == {"a": 1, "b": 2}

    def test_error_names_the_key_and_the_place(self, client: FlaskClient, do: Do) -> None:
        """The error names the key and the place in the value."""

        def run() -> None:
            with pytest.raises(UnstorableValue, match=r"session\['cart'\]\[0\]\['price'\]"):
                g.session["cart"] = [{"price": object()}]

        assert do(client, run).status_code == 200

    def test_unstorable_value_added_in_place_fails_the_commit(
        self, app: Flask, sign_in: SignIn, do: Do
    ) -> None:
        """If an unstorable value was added to a list in place, the commit raises and writes
        nothing."""
        browser = sign_in(app, data={"list": []})

        def run() -> None:
            g.session["b"] = 2
            g.session["list"].append(object())

        with pytest.raises(UnstorableValue, match="list"):
            do(browser, run)
        assert browser.get("/data").get_json() == {"list": []}


class TestRepr:
    def test_repr_of_an_untouched_session_does_not_touch_it(
        self, client: FlaskClient, do: Do, count_commands: CountCommands
    ) -> None:
        """`repr` of an untouched session sends no command and adds no `Vary`."""
        client.post("/login/ada")
        seen: list[str] = []
        with count_commands() as commands:
            response = do(client, lambda: seen.append(repr(g.session)))
        assert seen == ["<Session, not loaded>"]
        assert not commands.names
        assert "Vary" not in response.headers

    @pytest.mark.parametrize("path", ["/data", "/login/ada"])
    def test_repr_of_a_loaded_session_shows_only_its_id(
        self, client: FlaskClient, do: Do, path: str
    ) -> None:
        """`repr` of a loaded session shows its id but no secret and no data."""
        client.post(path, json={})
        client.post("/data", json={"x": "datum"})
        seen: list[str] = []

        def act() -> None:
            assert g.session["x"] == "datum"
            seen.append(f"{g.session!r} {g.session} {kvs.current_session!r}")

        do(client, act)
        token = token_of(client) or ""
        assert seen == [" ".join([f"<Session {token[:19]}>"] * 3)]

    def test_repr_without_a_session_shows_that_there_is_none(
        self, client: FlaskClient, do: Do
    ) -> None:
        """`repr` of a request without a session shows that there is none."""
        seen: list[str] = []

        def act() -> None:
            assert not g.session
            seen.append(repr(g.session))

        do(client, act)
        assert seen == ["<Session without a record>"]


class TestCurrentSession:
    def test_current_session_and_g_session_are_one_proxy(self, client: FlaskClient, do: Do) -> None:
        """`current_session` is a proxy of the request's session, and `g.session` is that proxy."""

        def act() -> None:
            proxy = t.cast("LocalProxy[kvs.Session]", kvs.current_session)
            assert proxy is g.session
            assert type(proxy._get_current_object()) is kvs.Session
            assert isinstance(kvs.current_session, kvs.Session)
            assert isinstance(kvs.current_session, MutableMapping)
            kvs.current_session["a"] = 1
            assert g.session == kvs.current_session == {"a": 1}
            assert "a" in kvs.current_session
            assert {**kvs.current_session} == {"a": 1}
            del kvs.current_session["a"]
            assert not kvs.current_session
            assert repr(kvs.current_session) == repr(g.session)

        assert do(client, act).status_code == 200

    def test_current_session_outside_a_request_raises(self, app: Flask) -> None:
        """`current_session` outside a request raises `RuntimeError`."""
        with pytest.raises(RuntimeError, match="outside of"):
            len(kvs.current_session)
        with app.app_context(), pytest.raises(RuntimeError, match="request"):
            kvs.current_session["x"] = 1
        assert repr(kvs.current_session) == "<SessionProxy unbound>"


def test_session_is_a_mapping_but_no_dict(client: FlaskClient, do: Do) -> None:
    """A session is a `Session` and a mapping but not a dict."""

    def act() -> None:
        assert isinstance(g.session, kvs.Session)
        assert isinstance(g.session, Mapping)
        assert not isinstance(g.session, dict)

    assert do(client, act).status_code == 200


def test_values_are_decoded_anew_in_each_request(app: Flask, sign_in: SignIn, do: Do) -> None:
    """A list that was read in one request is not the list of the next request."""
    browser = sign_in(app, data={"list": [1]})
    kept: list[list[int]] = []
    do(browser, lambda: kept.append(g.session["list"]))
    kept[0].append(2)
    do(browser, lambda: kept.append(g.session["list"]))
    assert kept == [[1, 2], [1]]


def test_expired_session_has_the_facts_of_no_session(
    app: Flask, sign_in: SignIn, clock: Clock, do: Do
) -> None:
    """An expired session has the facts of a request without a session."""
    browser = sign_in(app)
    clock.advance(days=8)
    facts = facts_of(browser, do)
    assert {name for name, value in facts.items() if value} == {"new"}
