"""A pytest plugin for Flaskr's own tests: every Flaskr app that they create uses KVSession.

The environment variable `FLASKR_SETTINGS` holds the settings in JSON.
"""

from __future__ import annotations

import json
import os
import typing as t
from importlib import import_module

from flask import Flask

import flask_kvsession as kvs

flaskr = import_module("flaskr")
create_plain_app = flaskr.create_app


def create_app(test_config: dict[str, t.Any] | None = None) -> Flask:
    app: Flask = create_plain_app(test_config)
    app.config.update(json.loads(os.environ["FLASKR_SETTINGS"]))
    kvs.KVSession(app)
    return app


vars(flaskr)["create_app"] = create_app
