"""Fuzz targets: the decoder of records, alone and behind the store."""

from __future__ import annotations

import logging
import pickle
import sys
import time
import typing as t
from base64 import urlsafe_b64encode
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

import msgspec
import redis
from flask import Flask

from flask_kvsession import codec, record
from flask_kvsession.errors import KVSessionError
from flask_kvsession.record import Record, Tombstone, UnreadableRecord
from flask_kvsession.token import Token, user_hash

from ..support.apps import store_of
from ..support.strategies import shape
from .site import make_app, request_environ, send, server

TOKEN = "AbC0123456789abcdef" + "f" * 21 + "r" * 22
KEY = "kvs:{AbC}:s:0123456789abcdef"
_USER = user_hash("ada")
INDEX = f"kvs:{{{_USER[:3]}}}:u:{_USER}"
"""The index of the user of most records, which names the record of this target."""

GOOD = (
    b'{"v":1,"family":"{family}","secret":"{secret}","user":"ada","created":{now},"seen":{now},'
    b'"authenticated":null,"ip":null,"agent":null,"remembered":true,"data":{"x":1}}'
)


class _Planted:
    """Unpickled, it looks for a name, which the audit hook sees."""

    def __reduce__(self) -> t.Any:
        return Path.exists, (Path(),)


SEEDS = [
    GOOD,
    GOOD.replace(b'"ada"', b"null"),
    GOOD.replace(b'"ada"', b'{" u":"12345678123456781234567812345678"}'),
    GOOD.replace(b'"v":1', b'"v":99'),
    GOOD.replace(b'"ada"', b"true"),
    GOOD.replace(b'"ada"', b'""'),
    GOOD.replace(b'"ada"', b'{" s":[[]]}'),
    GOOD.replace(b"{secret}", b"\xc3\xa9"),
    GOOD.replace(b'"seen":{now}', b'"seen":99999999999999999'),
    GOOD.replace(b"{now}", b"-99999999999999999999"),
    GOOD.replace(b'"created":{now}', b'"created":-99999999999999999').replace(
        b'"authenticated":null', b'"authenticated":{now}'
    ),
    GOOD.replace(b'"authenticated":null', b'"authenticated":253402300800000'),
    GOOD.replace(b"{now}", b"{now}0000"),
    GOOD.replace(
        b'"ip":null', b'"rotated":{now},"before":{"secret":"{other}","nonce":"n"},"ip":""'
    ),
    GOOD.replace(b"{secret}", b"{other}").replace(
        b'"ip":null', b'"rotated":{now},"before":{"secret":"{secret}","nonce":"n"},"ip":""'
    ),
    GOOD.replace(b"{secret}", b"{other}").replace(
        b'"ip":null', b'"rotated":{now},"before":{"secret":"{secret}","until":1},"ip":"1"'
    ),
    GOOD.replace(b"1}}", b'{" d":["2024-01-01",0,"../../etc/passwd"]}}}'),
    *(
        GOOD.replace(b"1}}", value + b"}}")
        for value in [
            *(b'{" c":"x"}', b'{" e":[99999999999,0,0]}', b'{" o":[]}', b'{" o":{}}'),
            *(b'{" d":["2024-01-01",0,"Europe"]}', b'{" s":[[]]}', b'{" u":5}', b'{" t":5}'),
        ]
    ),
    GOOD.replace(b"1}}", b'{" c":"1e999999999"}}}'),
    GOOD.replace(b"1}}", b'{" s":[{" c":"1e999999999999999"}]}}}'),
    GOOD.replace(b"1}}", b'{" i":"' + b"9" * 5000 + b'"}}}'),
    GOOD.replace(b"1}}", b"9" * 5000 + b"}}"),
    GOOD.replace(b"1}}", b"[" * 2000 + b"]" * 2000 + b"}}"),
    GOOD.replace(b"1}}", b'{" y":"yesterday"}}}'),
    GOOD.replace(b"1}}", b'"\\ud800"}}'),
    GOOD.replace(b'"x"', b'"\\u0000"'),
    *(b"5", b"true", b'"text"', b'{"user":null}', b'{"secret":"{secret}","user":null}'),
    GOOD[:-20],
    GOOD * 2,
    b'{"ended":"revoked","family":"{family}"}',
    b'{"ended":5}',
    b'{"ended":',
    *(b"", b"hello", b"[]", b"{}", b"null", b"\xff\xfe{}", b"[" * 2000),
    *(pickle.dumps(_Planted(), protocol) for protocol in (0, 2, 5)),
]

REQUESTS = [("/values", "GET"), ("/list", "GET"), ("/data", "POST"), ("/logout", "POST")]
_SLOWEST = 2.0
"""Seconds of processor time for at most a few KB. The decoder needs less than a millisecond."""


def fuzz_record(data: bytes) -> None:
    """The data are a record, in which `{secret}` and the like stand for the fields of a token."""
    raw = filled_in(data, now=10**12)
    _hear_of_unpickling()
    began = time.process_time()
    read = decoded(raw)
    if isinstance(read, Record):
        assert record.decode(record.encode(read)) == read
        assert read.user_id is None or type(read.user_id).__name__ in ("str", "int", "UUID")
        assert (read.user_id is None) == read.is_anonymous
        for encoded in read.data.values():
            check_value(bytes(encoded))
    elif isinstance(read, Tombstone):
        assert raw.startswith(b'{"ended":')
        assert record.decode(record.encode(read)) == read
    else:
        assert read is None
    assert not _unpickled
    assert time.process_time() - began < _SLOWEST


def fuzz_stored_record(data: bytes) -> None:
    """As `fuzz_record`, but the record is in the store and its token is in the cookie."""
    app, client, lines = site()
    raw = filled_in(data, now=store_of(app).now())
    read = decoded(raw)
    has_bad_value = isinstance(read, Record) and not all(map(is_readable, read.data.values()))
    for path, method in REQUESTS:
        client.set(KEY, raw, px=60_000)
        client.zadd(INDEX, {TOKEN[:19]: 9e15})
        lines.clear()
        environ = request_environ(path, method, json={"y": 1} if path == "/data" else None)
        status, _, _ = send(app, environ | {"HTTP_COOKIE": f"kvsession={TOKEN}"})
        if status == 500:
            assert path == "/values" and has_bad_value, f"{path}: {raw!r}"
            lines.clear()  # Flask has logged the error that the view raised
        elif status == 401:
            assert path in ("/values", "/list")
        else:
            assert status == 200
            assert path not in ("/values", "/list") or names_user(read)
        if not isinstance(read, Record):
            assert client.get(KEY) == raw, "what cannot be read is left alone"
        assert all(line.isprintable() for line in lines), lines
    check_scripts(app, client, raw)


def check_scripts(app: Flask, client: redis.Redis, raw: bytes) -> None:
    """The scripts that read a record themselves never fail, and end no session of other tokens."""
    store, token = store_of(app), t.cast(Token, Token.parse(TOKEN))
    client.set(KEY, raw, px=60_000)
    store.remove_anonymous(token)
    if client.get(KEY) is None:
        assert token.secret_hash.encode() in raw
    client.set(KEY, raw, px=60_000)
    store.limit("AbC" + "u" * 19, [token.session_id], 1, "newest")


def filled_in(data: bytes, now: int) -> bytes:
    fields = {b"secret": "f" * 21 + "r" * 22, b"other": "g" * 21 + "s" * 22, b"family": "f" * 21}
    for name, text in fields.items():
        data = data.replace(b"{%s}" % name, hash_of(text).encode())
    return data.replace(b"{now}", b"%d" % now)


def hash_of(text: str) -> str:
    return urlsafe_b64encode(sha256(text.encode()).digest()).decode().rstrip("=")


def decoded(raw: bytes) -> Record | Tombstone | None:
    try:
        return record.decode(raw)
    except UnreadableRecord:
        return None


def names_user(read: Record | Tombstone | None) -> bool:
    """Whether the record names a user and has the hash of the token that the target sends."""
    if not isinstance(read, Record) or read.user_id is None:
        return False
    return hash_of("f" * 21 + "r" * 22) in (read.secret, read.before and read.before.secret)


def is_readable(encoded: msgspec.Raw) -> bool:
    with suppress(KVSessionError):
        codec.decode("x", bytes(encoded))
        return True
    return False


def check_value(encoded: bytes) -> None:
    """A value that can be decoded is refused when it is encoded, or comes back the same."""
    with suppress(KVSessionError):
        value = codec.decode("x", encoded)
        assert shape(codec.decode("x", codec.encode("x", value))) == shape(value)


_unpickled: list[str] = []


@cache
def _hear_of_unpickling() -> None:
    def hear(event: str, args: tuple[t.Any, ...]) -> None:
        if event == "pickle.find_class":
            _unpickled.append(str(args))

    sys.addaudithook(hear)  # it cannot be removed


class _Lines(logging.Handler):
    """Keeps the package's lines of the level ERROR."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@cache
def site() -> tuple[Flask, redis.Redis, list[str]]:
    handler = _Lines()
    logging.getLogger("flask_kvsession").addHandler(handler)
    client = redis.Redis(unix_socket_path=server().socket_path)
    return make_app(), client, handler.lines
