"""The devices pages: where am I signed in, is that me, and out with it. For people and as JSON.

`views` answers requests, `describe` makes "Firefox on Linux" of a user agent, `texts` lets an app
translate, `geo` names the place of an IP address. The templates are `templates/kvsession/*.html`,
the JSON is described by `openapi.json`.
"""

from __future__ import annotations

from .views import sessions_blueprint

__all__ = ["sessions_blueprint"]
