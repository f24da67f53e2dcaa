"""Existing apps: `flask.session` as this package's session, and logins by a session key.

An app that only uses `g.session` runs none of this. `install` is called once by `init_app`, if
`KVSESSION_AS_FLASK_SESSION` is set. From then on the app's requests use two subclasses of the core:
`session.FlaskSession` and `request.FlaskRequestSession`.

`interface` is what Flask calls, `flask_cookie` checks Flask's settings of the cookie, and
`current_user` follows Flask-Login. `owners` decides which data go along when the user changes, and
`transition` does the same with what other requests have written meanwhile. `coerce` makes storable
values of what other extensions put into `flask.session`. `signed_cookie` and `remember` carry over
what browsers had before this package.
"""

from __future__ import annotations

from .interface import install
from .remember import remember_in_session

__all__ = ["install", "remember_in_session"]
