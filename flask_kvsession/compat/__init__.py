"""Existing apps: `flask.session` as this package's session, and logins by a session key.

An app that only uses `g.session` runs none of this. `install` is called once by `init_app`, if
`KVSESSION_AS_FLASK_SESSION` is set. From then on the app's requests use two subclasses of the core:
`session.FlaskSession` and `request.FlaskRequestSession`.

`interface` has the methods that Flask calls. `transition` chooses the data that stay when the user
changes. `coerce` converts values of other extensions to storable values. `signed_cookie` imports
Flask's signed cookie, and `remember` replaces Flask-Login's remember cookie.
"""

from __future__ import annotations

from .interface import install
from .remember import remember_in_session

__all__ = ["install", "remember_in_session"]
