"""Bytes to replies, and bytes through a socket with a deadline."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
import typing as t
from collections.abc import Iterator

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse

from flask_kvsession.connection.channel import Channel
from flask_kvsession.connection.resp import ReplyReader, pack

LINES = st.text("abc é-:$*+", max_size=8).map(str.encode)
REPLIES = st.recursive(
    st.one_of(
        st.binary(max_size=40).map(lambda data: b"$%d\r\n%b\r\n" % (len(data), data)),
        st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number),
        LINES.map(lambda line: b"+%b\r\n" % line),
        st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"$0\r\n\r\n", b"*0\r\n"]),
    ),
    lambda items: st.lists(items, max_size=4).map(
        lambda given: b"*%d\r\n%b" % (len(given), b"".join(given))
    ),
    max_leaves=12,
)
ERRORS = [
    *(b"-ERR no\r\n", b"-MOVED 7 127.0.0.1:7000\r\n", b"-ASK 7 127.0.0.1:7000\r\n"),
    *(b"-NOSCRIPT no\r\n", b"-WRONGTYPE no\r\n", b"-READONLY no\r\n", b"-LOADING no\r\n"),
    *(b"-NOPERM no\r\n", b"-TRYAGAIN no\r\n", b"-CLUSTERDOWN no\r\n", b"-\xff\r\n"),
]


def read_all(reply: bytes, cuts: t.Iterable[int]) -> t.Any:
    """What the reader makes of a reply that arrives in pieces, and that no byte is left."""
    places = sorted({cut % len(reply) for cut in cuts} - {0})
    pieces = [reply[a:b] for a, b in zip([0, *places], [*places, len(reply)], strict=True)]
    reader = ReplyReader(iter(pieces).__next__)
    try:
        return reader.read()
    finally:
        assert reader.is_empty
        assert next(iter(reader._receive.__self__), None) is None  # type: ignore[attr-defined]


def redis_py_connection() -> t.Any:
    return t.cast(t.Any, redis.Connection)(protocol=2)


def read_by_redis_py(reply: bytes) -> t.Any:
    connection, server = redis_py_connection(), socket.socketpair()
    with server[0], server[1]:
        connection._sock = server[0]
        connection._parser.on_connect(connection)
        server[1].sendall(reply)
        try:
            return connection.read_response(disable_decoding=True)
        finally:
            connection._sock = None


@given(REPLIES, st.lists(st.integers(0, 10_000), max_size=5))
def test_a_reply_in_pieces_is_what_redis_py_makes_of_it(reply: bytes, cuts: list[int]) -> None:
    """However a reply is cut, it is read as redis-py reads it, and no byte of it is left."""
    assert read_all(reply, cuts) == read_by_redis_py(reply)


@pytest.mark.parametrize("reply", ERRORS)
def test_an_error_reply_is_the_error_of_redis_py(reply: bytes) -> None:
    """An error reply is raised with the class and the text that redis-py gives it."""
    with pytest.raises(redis.RedisError) as theirs:
        read_by_redis_py(reply)
    with pytest.raises(redis.RedisError) as ours:
        read_all(reply, [3])
    assert type(ours.value) is type(theirs.value)
    assert str(ours.value) == str(theirs.value)


def test_an_error_inside_a_list_is_an_item() -> None:
    """An error in a list does not hide the items after it."""
    first, second = read_all(b"*2\r\n-ERR no\r\n:5\r\n", [])
    assert isinstance(first, redis.ResponseError)
    assert second == 5


@pytest.mark.parametrize(
    "reply",
    [
        *(b"\r\n", b"x\r\n", b"%1\r\n", b"$\r\n", b"$x\r\n", b"$-2\r\n", b"$+1\r\n", b"$1_0\r\n"),
        *(b"*\r\n", b"*-2\r\n", b"*1.0\r\n", b":\r\n", b":1x\r\n", b":--1\r\n", b":+1\r\n"),
        *(b"-MOVED\r\n", b"-MOVED 7 x\r\n", b"-ASK 7 x:y\r\n"),
        *(b":%b\r\n" % (b"9" * 5_000), b"$%b\r\n" % (b"9" * 5_000)),
        *(b"$1\r\nab\r\n", b"$2\r\na\r\n\r\n", b"*1\r\n" * 9 + b":1\r\n", b"*1\r\n" * 5_000),
    ],
    ids=lambda reply: repr(reply[:12]),
)
def test_a_malformed_reply_is_refused(reply: bytes) -> None:
    """Bytes that are no reply raise `InvalidResponse`, and no other exception."""
    with pytest.raises(InvalidResponse, match="malformed"):
        ReplyReader(iter([reply, b"\r\n" * 4]).__next__).read()


@given(st.lists(st.one_of(st.binary(max_size=20), st.text(max_size=9), st.integers()), min_size=1))
def test_a_packed_command_is_what_redis_py_packs(command: list[t.Any]) -> None:
    """A command has the bytes that redis-py sends for it."""
    with contextlib.suppress(UnicodeEncodeError):
        theirs = redis_py_connection().pack_command("SET", *command)
        assert pack(["SET", *command]) == b"".join(theirs)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the other end of its socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        channel.end = time.monotonic() + 30
        yield channel, theirs


def test_more_than_fits_into_the_socket_is_sent_as_a_whole(
    ends: tuple[Channel, socket.socket],
) -> None:
    """Data of several MB are sent as a whole to a peer that reads slowly."""
    channel, peer = ends
    data, received = bytes(range(256)) * 20_000, bytearray()

    def read() -> None:
        while len(received) < len(data):
            received.extend(peer.recv(40_000))

    reader = threading.Thread(target=read)
    reader.start()
    channel.send(data)
    reader.join(30)
    assert bytes(received) == data


def test_without_poll_the_channel_waits_by_select(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `select.poll` is missing (Windows, eventlet), a channel sends, receives and ends its
    wait at the deadline as elsewhere."""
    monkeypatch.delattr(select, "poll")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        channel.end = time.monotonic() + 30
        assert channel.is_silent
        theirs.sendall(b"x")
        assert channel.receive() == b"x"
        channel.end = time.monotonic() + 0.05
        with pytest.raises(TimeoutError):
            channel.send(bytes(50_000_000))


@pytest.mark.parametrize("act", ["send", "receive"])
def test_a_peer_that_does_nothing_ends_the_wait_at_the_deadline(
    ends: tuple[Channel, socket.socket], act: str
) -> None:
    """Sending to a peer that does not read, and receiving from one that does not send, ends with
    `TimeoutError`."""
    channel, _ = ends
    channel.end = time.monotonic() + 0.05
    with pytest.raises(TimeoutError):
        channel.send(bytes(50_000_000)) if act == "send" else channel.receive()


def test_a_closed_connection_is_seen(ends: tuple[Channel, socket.socket]) -> None:
    """A channel is silent until the peer sends something or closes; the end of the stream is a
    `ConnectionError`."""
    channel, peer = ends
    assert channel.is_silent
    peer.sendall(b"x")
    assert not channel.is_silent
    assert channel.receive() == b"x"
    peer.close()
    assert not channel.is_silent
    with pytest.raises(ConnectionError):
        channel.receive()
