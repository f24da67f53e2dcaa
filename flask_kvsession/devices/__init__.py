"""The devices pages: a user sees where they are signed in, and signs devices out.

Every URL answers with a page or with JSON. `views` answers the requests, and `rows` makes the rows
of the list. `notice` names once what was signed out. `describe` turns a user agent into "Firefox on
Linux", without ua-parser by `patterns`. `texts` translates into the app's language, and `geo` names
the place of an IP address. The templates are in `templates/kvsession/`. `static/` has the
stylesheet, the script, and `openapi.json`, which describes the JSON.
"""

from __future__ import annotations

from .views import sessions_blueprint

__all__ = ["sessions_blueprint"]
