"""What a real browser sends when another site posts back, as some identity providers do."""

from __future__ import annotations

import threading
import typing as t

from flask import Flask, g, redirect, request
from werkzeug.serving import make_server

from ..support.apps import MakeApp

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_lax_cookie_comes_with_the_get_after_the_post(make_app: MakeApp, browser: Browser) -> None:
    """The post of another site has no cookie; the GET to which its answer 303 leads has it."""
    app = make_app(views=False)
    seen: list[tuple[str, bool]] = []
    add_pages(app, seen)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = server.server_port
    app.config["OWN"] = f"http://localhost:{port}"  # another site than 127.0.0.1
    try:
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(f"http://localhost:{port}/begin")
            page.goto(f"http://127.0.0.1:{port}/provider")
            page.get_by_role("button").click()
            page.wait_for_url("**/use")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert seen == [("post", False), ("get", True)]


def add_pages(app: Flask, seen: list[tuple[str, bool]]) -> None:
    @app.get("/begin")
    def begin() -> str:
        g.session["state"] = "x"
        return "begun"

    @app.get("/provider")
    def provider() -> str:
        own = app.config["OWN"]
        return f'<form method="post" action="{own}/answer"><button>Back</button></form>'

    @app.post("/answer")
    def answer() -> t.Any:
        seen.append(("post", bool(request.cookies)))
        return redirect("/use", 303)

    @app.get("/use")
    def use() -> str:
        seen.append(("get", bool(request.cookies)))
        return "used"
