"""Mistakes of a first day: the error says what was wrong and what to write instead."""

from __future__ import annotations

import copy
import pickle
import typing as t
from collections.abc import Callable
from decimal import Decimal

import pytest
from flask import Flask, g, session

import flask_kvsession as kvs
from flask_kvsession.errors import ConfigurationError

from .support.apps import Do, MakeApp, in_context
from .support.browsers import AS_PAGE

Act = Callable[[], object]
untyped: t.Any = kvs
"""The package as code without type annotations uses it."""


def message_of(act: Act, error: type[BaseException]) -> str:
    with pytest.raises(error) as raised:
        act()
    return str(raised.value)


class TestOutsideARequest:
    @pytest.mark.parametrize(
        ("name", "act"),
        [
            ("login_user", lambda: kvs.login_user("ada")),
            ("logout_user", kvs.logout_user),
            ("confirm_login", kvs.confirm_login),
            ("rotate_token", kvs.rotate_token),
            ("change_session", lambda: kvs.change_session(dict.clear)),
            ("session_ended_reason", kvs.session_ended_reason),
        ],
    )
    def test_verb_that_needs_the_session_says_so(self, app: Flask, name: str, act: Act) -> None:
        """A verb of the current session names itself and the remedy."""
        with app.app_context():
            message = message_of(act, RuntimeError)
        assert message.startswith(f"{name} was called outside a request")
        assert "call it in a view" in message

    @pytest.mark.parametrize(
        ("name", "act"),
        [
            ("list_sessions", kvs.list_sessions),
            ("revoke_session", lambda: kvs.revoke_session("x")),
            ("revoke_all_sessions", kvs.revoke_all_sessions),
        ],
    )
    def test_verb_that_takes_a_user_asks_for_one(self, app: Flask, name: str, act: Act) -> None:
        """A verb that may be called with a user id says that it needs one here."""
        with app.app_context():
            message = message_of(act, RuntimeError)
        assert message.startswith(f"{name} was called outside a request without a user id")
        assert "user_id=user.id" in message


class TestArguments:
    @pytest.mark.parametrize("data", ["admin", ["admin"], 1])
    def test_data_that_are_no_dict_are_refused(self, app: Flask, do: Do, data: t.Any) -> None:
        """`login_user("1", "admin")` and `update_all_sessions("1", "admin")` say that they take a
        dict, and nobody is signed in."""
        messages: list[str] = []

        def act() -> None:
            for verb in (kvs.login_user, kvs.update_all_sessions):
                messages.append(message_of(lambda verb=verb: verb("1", data), TypeError))  # type: ignore[misc]
            assert not g.session.is_authenticated

        assert do(app.test_client(), act).status_code == 200
        assert [message.partition(" takes")[0] for message in messages] == [
            "login_user",
            "update_all_sessions",
        ]
        assert all("as a dict, such as {'role': " in message for message in messages)

    @pytest.mark.parametrize("user_id", [1.5, Decimal(1), b"1", ["1"], object()], ids=type)
    def test_user_id_of_another_type_proposes_str(self, user_id: t.Any) -> None:
        """An id of another type, such as an ObjectId, is refused with the remedy."""
        from flask_kvsession.token import user_hash

        message = message_of(lambda: user_hash(user_id), ValueError)
        assert "pass user.id, or str(user.id)" in message
        assert type(user_id).__name__ in message

    @pytest.mark.parametrize("name", ["login_required", "fresh_login_required"])
    @pytest.mark.parametrize("args", [(), ("admin",), (print, print)], ids=len)
    def test_guard_with_parentheses_is_refused(self, name: str, args: t.Any) -> None:
        """`@login_required()` and `@login_required("admin")` say that there are no parentheses."""
        message = message_of(lambda: getattr(untyped, name)(*args), TypeError)
        assert f"write @{name}, without ()" in message

    def test_role_guard_without_roles_is_refused(self) -> None:
        """`@roles_required` without roles says how to name them."""
        for act in (lambda: untyped.roles_required(print), lambda: untyped.roles_required()):
            assert '@roles_required("admin")' in message_of(act, TypeError)


class TestLoginView:
    @pytest.fixture
    def app(self, make_app: MakeApp) -> Flask:
        app = make_app(login_view="sign_in")
        app.add_url_rule("/<lang>/sign-in", "sign_in", lambda lang: lang)
        return app

    def test_view_whose_url_needs_a_value_is_named_with_the_value(self, app: Flask) -> None:
        """If the URL of the view needs a value, the error names the setting, the URL and the value,
        and no missing endpoint."""
        browser = app.test_client()
        message = message_of(lambda: browser.get("/me", headers=AS_PAGE), ConfigurationError)
        assert "KVSESSION_LOGIN_VIEW is 'sign_in'" in message
        assert "/<lang>/sign-in needs a value for lang" in message
        assert "url_defaults" in message

    def test_value_from_url_defaults_is_used(self, app: Flask) -> None:
        """The remedy that the error names works."""
        app.url_defaults(lambda endpoint, values: values.setdefault("lang", "en"))
        response = app.test_client().get("/me", headers=AS_PAGE)
        assert response.location == "/en/sign-in?next=/me"

    def test_unknown_endpoint_is_named(self, make_app: MakeApp) -> None:
        """An endpoint that does not exist is called so."""
        browser = make_app(login_view="/login").test_client()
        message = message_of(lambda: browser.get("/me", headers=AS_PAGE), ConfigurationError)
        assert "no such endpoint" in message


class TestFlaskSession:
    """Code that was written for Flask-Session."""

    @pytest.mark.parametrize(
        ("name", "now"), [("sid", "session.id"), ("regenerate", "rotate_token()")]
    )
    @pytest.mark.parametrize("as_flask_session", [True, False])
    def test_name_of_flask_session_says_what_replaces_it(
        self, make_app: MakeApp, name: str, now: str, as_flask_session: bool
    ) -> None:
        """`session.sid` and `.regenerate` name their replacements, on both sessions."""
        app = make_app(as_flask_session=as_flask_session)
        messages: list[str] = []

        @app.get("/x")
        def view() -> str:
            found = session if as_flask_session else g.session
            messages.append(message_of(lambda: getattr(found, name), AttributeError))
            return ""

        assert app.test_client().get("/x").status_code == 200
        assert messages[0].startswith(f"{name} is a name of Flask-Session")
        assert now in messages[0]

    def test_session_interface_says_what_replaces_regenerate(self, make_app: MakeApp) -> None:
        """`app.session_interface.regenerate(session)` names `rotate_token()`."""
        interface: t.Any = make_app(as_flask_session=True).session_interface
        message = message_of(lambda: interface.regenerate, AttributeError)
        assert "rotate_token()" in message


@pytest.mark.parametrize("name", ["proxy", "session"])
@pytest.mark.parametrize("as_flask_session", [True, False])
def test_session_cannot_be_pickled(make_app: MakeApp, name: str, as_flask_session: bool) -> None:
    """A session, and the proxy to it, raise an error that says what to pickle. A copy works."""
    app = make_app(as_flask_session=as_flask_session)

    @app.get("/x")
    def view() -> str:
        g.session["x"] = [1]
        found: t.Any = g.session if name == "proxy" else g.session._get_current_object()
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            message = message_of(lambda p=protocol: pickle.dumps(found, p), TypeError)  # type: ignore[misc]
            assert "pass dict(session)" in message
        assert pickle.loads(pickle.dumps(dict(found))) == {"x": [1]}
        assert copy.copy(found) == copy.deepcopy(found) == {"x": [1]}
        return ""

    assert app.test_client().get("/x").status_code == 200


def test_verbs_with_a_user_id_work_outside_a_request(app: Flask) -> None:
    """With a user id nothing is asked for."""
    in_context(app, lambda: kvs.list_sessions("ada"))
