"""What a tool for tracing sees of the sessions' commands."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

import pytest
import redis
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flask_kvsession.store.server import Server

from .support.apps import MakeApp
from .support.browsers import token_of
from .support.near_cache import catch_up, prove

GetSpans = t.Callable[[], tuple[ReadableSpan, ...]]


@pytest.fixture
def spans() -> Iterator[GetSpans]:
    """The spans of OpenTelemetry's instrumentation of redis-py."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = RedisInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield exporter.get_finished_spans
    finally:
        instrumentor.uninstrument()


def test_each_command_of_the_sessions_is_a_span(make_app: MakeApp, spans: GetSpans) -> None:
    """With the setting, a login, a read and a write are traced, and no span has a token."""
    client = make_app(trace_commands=True).test_client()
    client.post("/login/ada")
    token = str(token_of(client))
    client.post("/data", json={"x": 1})
    assert client.get("/data").get_json() == {"x": 1}
    names = [span.name for span in spans() if span.name not in ("TIME", "INFO")]  # asked once
    assert names == ["EVALSHA", "GET", "EVALSHA", "GET"]
    assert token[19:] not in "".join(span.to_json() for span in spans())


def test_a_traced_app_may_have_a_near_cache(make_app: MakeApp, spans: GetSpans) -> None:
    """With both settings, a read from the near cache sends no command, so it is no span."""
    app = make_app(trace_commands=True, near_cache=True)
    client = app.test_client()
    client.post("/login/ada")
    prove(app)
    catch_up(app)
    assert client.get("/me").status_code == 200
    before = len(spans())
    assert client.get("/me").status_code == 200
    assert len(spans()) == before
    app.extensions["kvsession"].store.close()


def test_without_the_setting_no_command_is_a_span(make_app: MakeApp, spans: GetSpans) -> None:
    """By default the commands do not pass through redis-py's client."""
    client = make_app().test_client()
    client.post("/login/ada")
    assert client.get("/me").status_code == 200
    assert spans() == ()


def test_a_failure_is_traced_and_is_still_a_503(
    make_app: MakeApp, spans: GetSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a command ends its span as an error, and the response is the usual one."""
    app = make_app(trace_commands=True)
    client = app.test_client()
    client.post("/login/ada")
    server: Server = app.extensions["kvsession"].store._server
    traced = t.cast(t.Any, server._client)

    def fail(*args: object) -> None:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(traced._servers, "call", fail)
    assert client.get("/me").status_code == 503
    assert spans()[-1].name == "GET"
    assert not spans()[-1].status.is_ok
