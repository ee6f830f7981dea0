"""A call against an HTTP/2 server in memory: whatever the windows, the frames and the order of things."""

from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from grpclib.client import Handler
from grpclib.config import Configuration
from grpclib.protocol import H2Protocol
from h2.config import H2Configuration
from h2.exceptions import TooManyStreamsError
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.core.call import LARGE, MAX_MESSAGE, Call
from kmsd.ports import StatusCode

HEADERS = [(":method", "POST"), (":scheme", "http"), (":authority", "core"), (":path", "/x")]
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


class Wire:
    """A link whose other end is an h2 server in the same process; bytes move when `carry` says so."""

    def __init__(self, *, room: int = 1 << 30, server_settings: dict[Any, int] | None = None) -> None:
        self.out = bytearray()
        self.room = room
        self.waiting: list[Call] = []
        config = H2Configuration(
            client_side=True, header_encoding="ascii", validate_inbound_headers=False, validate_outbound_headers=False
        )
        self.protocol = H2Protocol(Handler(), Configuration().__for_client__(), config)
        self.protocol.connection_made(self)  # type: ignore[arg-type]
        self.h2 = self.protocol.connection._connection
        self.processor = self.protocol.processor
        self.server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        self.server.initiate_connection()
        if server_settings:
            self.server.update_settings(server_settings)
        self.body = bytearray()
        self.ended = False
        self.reset: int | None = None
        self.stream = 0
        self.carry()

    # transport
    def write(self, data: bytes) -> None:
        self.out += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def get_extra_info(self, name: str) -> None:
        return None

    # link
    def has_room(self) -> bool:
        return len(self.out) < self.room

    def wait_for_room(self, call: Call) -> None:
        self.waiting.append(call)

    def flush(self) -> None:
        self.out += self.h2.data_to_send()

    def carry(self, acknowledge: bool = True) -> None:
        """Move bytes both ways until there are none."""
        while True:
            data = bytes(self.out)
            self.out.clear()
            for event in self.server.receive_data(data) if data else ():
                if isinstance(event, h2.events.RequestReceived):
                    assert event.stream_id is not None
                    self.stream = event.stream_id
                elif isinstance(event, h2.events.DataReceived):
                    self.body += event.data or b""
                    if acknowledge:
                        assert event.flow_controlled_length is not None
                        self.server.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended = True
                elif isinstance(event, h2.events.StreamReset):
                    self.reset = int(event.error_code or 0)
            back = self.server.data_to_send()
            if back:
                self.protocol.data_received(back)
            waiting, self.waiting = self.waiting, []
            for call in waiting:
                call.pump()
            self.flush()
            if not self.out and not back:
                return

    def answer(self, *parts: bytes, trailers: list[tuple[str, str]] | None = None) -> None:
        """The server's whole reply, its data in these parts."""
        self.server.send_headers(self.stream, HEAD)
        for part in parts:
            self.server.send_data(self.stream, part)
            self.carry()
        self.server.send_headers(self.stream, OK if trailers is None else trailers, end_stream=True)
        self.carry()


def _frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _started(wire: Wire, *chunks: bytes) -> Call:
    call = Call(HEADERS, chunks)
    call.start(wire)
    wire.carry()
    return call


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(st.integers(0, 50), st.integers(0, 200_000)), max_size=6),
    st.sampled_from([65_535, 1_000, 1_000_000]),
    st.sampled_from([16_384, 100_000]),
    st.sampled_from([1, 5_000, 1 << 30]),
)
def test_the_request_arrives_as_it_was(sizes: list[int], window: int, frame: int, room: int) -> None:
    chunks = [
        (bytes([number + 1]) * 251 + b"!") * (size // 252) + bytes(size % 252) for number, size in enumerate(sizes)
    ]
    codes = h2.settings.SettingCodes
    wire = Wire(room=room, server_settings={codes.INITIAL_WINDOW_SIZE: window, codes.MAX_FRAME_SIZE: frame})
    _started(wire, *chunks)
    assert wire.ended
    assert bytes(wire.body) == _frame(b"".join(chunks))


def test_a_large_request_leaves_as_its_chunks() -> None:
    chunks = (b"a" * 10, b"", b"b" * LARGE, b"c", b"")
    wire = Wire(room=100_000)
    call = _started(wire, *chunks)
    assert call.sent.is_set()
    assert wire.ended
    assert bytes(wire.body) == _frame(b"".join(chunks))


def test_a_request_waits_for_the_window() -> None:
    wire = Wire()
    call = Call(HEADERS, (bytes(200_000),))
    call.start(wire)
    wire.carry(acknowledge=False)
    assert not call.sent.is_set()
    assert len(wire.body) == 65_535
    wire.server.acknowledge_received_data(65_535, wire.stream)
    wire.carry()
    assert call.sent.is_set()
    assert len(wire.body) == 200_005


@settings(deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=30))
def test_the_reply_is_read_however_it_is_cut(message: bytes, cuts: list[int]) -> None:
    wire = Wire()
    call = _started(wire, b"x")
    rest, parts = _frame(message), []
    for cut in cuts:
        parts.append(rest[:cut])
        rest = rest[cut:]
    wire.answer(*parts, rest)
    assert call.answer == (StatusCode.OK, message, "", False)
    call.release()


@pytest.mark.parametrize("status", list(StatusCode))
def test_every_status_in_trailers_and_alone(status: StatusCode) -> None:
    trailers = [("grpc-status", str(int(status))), ("grpc-message", "no%20room%20%E2%82%AC")]
    wire = Wire()
    call = _started(wire, b"x")
    wire.answer(_frame(b"m"), trailers=trailers)
    alone = _started(wire, b"x")
    wire.server.send_headers(wire.stream, HEAD + trailers, end_stream=True)
    wire.carry()
    assert call.answer is not None
    assert alone.answer is not None
    if status is StatusCode.OK:
        assert call.answer == (StatusCode.OK, b"m", "", False)
        assert alone.answer.status is StatusCode.INTERNAL  # OK without a message
    else:
        assert call.answer == alone.answer == (status, b"", "no room €", False)


@pytest.mark.parametrize(
    ("parts", "trailers", "expected"),
    [
        ((), OK, StatusCode.INTERNAL),
        ((b"\0\0\0",), OK, StatusCode.INTERNAL),
        ((b"\0\0\0\0\x05ab",), OK, StatusCode.INTERNAL),
        ((_frame(b"a") + b"more",), OK, StatusCode.INTERNAL),
        ((b"\x01" + _frame(b"a")[1:],), OK, StatusCode.INTERNAL),
        ((_frame(b"a"),), [("grpc-status", "99")], StatusCode.UNKNOWN),
        ((_frame(b"a"),), [("grpc-status", "x")], StatusCode.UNKNOWN),
        ((_frame(b"a"),), [("other", "x")], StatusCode.UNKNOWN),
    ],
    ids=["empty", "half a prefix", "truncated", "too long", "compressed", "status 99", "status x", "no status"],
)
def test_replies_that_are_none(parts: tuple[bytes, ...], trailers: list[tuple[str, str]], expected: StatusCode) -> None:
    wire = Wire()
    call = _started(wire, b"x")
    wire.answer(*parts, trailers=trailers)
    assert call.answer is not None
    assert call.answer.status is expected


@pytest.mark.parametrize(
    ("http", "expected"),
    [
        ("503", StatusCode.UNAVAILABLE),
        ("401", StatusCode.UNAUTHENTICATED),
        ("500", StatusCode.UNKNOWN),
        ("200", StatusCode.UNKNOWN),
    ],
)
def test_a_proxy_in_the_place_of_the_core(http: str, expected: StatusCode) -> None:
    wire = Wire()
    call = _started(wire, b"x")
    wire.server.send_headers(wire.stream, [(":status", http), ("content-type", "text/html")])
    wire.server.send_data(wire.stream, b"<html>no Core here</html>", end_stream=True)
    wire.carry()
    assert call.answer is not None
    assert (call.answer.status, call.answer.local) == (expected, True)


def test_an_announced_size_above_the_limit_is_refused_at_once() -> None:
    wire = Wire()
    call = _started(wire, b"x")
    wire.server.send_headers(wire.stream, HEAD)
    wire.server.send_data(wire.stream, b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big"))
    wire.carry()
    assert call.answer is not None
    assert call.answer.status is StatusCode.OUT_OF_RANGE
    call.release()
    wire.carry()
    assert wire.reset == h2.errors.ErrorCodes.CANCEL


def test_a_refusal_in_the_middle_of_the_request_is_heard() -> None:
    """As tonic does with a message that is too large: status first, then it stops reading."""
    wire = Wire()
    call = Call(HEADERS, (bytes(1_000_000),))
    call.start(wire)
    wire.carry(acknowledge=False)
    wire.server.send_headers(wire.stream, [*HEAD, ("grpc-status", "11"), ("grpc-message", "too big")], end_stream=True)
    wire.server.reset_stream(wire.stream, h2.errors.ErrorCodes.NO_ERROR)
    wire.carry()
    assert call.answer == (StatusCode.OUT_OF_RANGE, b"", "too big", False)
    assert call.sent.is_set()
    call.release()


@pytest.mark.parametrize("code", [h2.errors.ErrorCodes.REFUSED_STREAM, h2.errors.ErrorCodes.INTERNAL_ERROR])
def test_a_reset_stream_is_unavailable(code: h2.errors.ErrorCodes) -> None:
    wire = Wire()
    call = _started(wire, b"x")
    wire.server.reset_stream(wire.stream, code)
    wire.carry()
    assert call.answer is not None
    assert call.answer.status is StatusCode.UNAVAILABLE
    call.release()


def test_a_lost_connection_is_unavailable_and_release_is_safe() -> None:
    wire = Wire()
    call = _started(wire, b"x")
    wire.protocol.connection_lost(None)
    assert call.answer is not None
    assert call.answer.status is StatusCode.UNAVAILABLE
    call.release()
    call.pump()


def test_goaway_ends_the_calls() -> None:
    wire = Wire()
    call = _started(wire, b"x")
    wire.server.close_connection()
    back = wire.server.data_to_send()
    assert back
    wire.protocol.data_received(back)
    assert call.answer is not None
    assert call.answer.status is StatusCode.UNAVAILABLE


def test_an_abandoned_call_is_reset_and_its_late_reply_ignored() -> None:
    wire = Wire()
    call = _started(wire, b"x")
    stream = wire.stream
    call.release()
    wire.carry()
    assert wire.reset == h2.errors.ErrorCodes.CANCEL
    assert wire.processor.streams == {}
    assert call.answer is None
    after = _started(wire, b"y")
    assert wire.stream != stream
    wire.answer(_frame(b"z"))
    assert after.answer is not None
    assert after.answer.reply == b"z"


def test_the_peer_decides_how_many_streams_there_are() -> None:
    wire = Wire(server_settings={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    first = _started(wire, b"x")
    second = Call(HEADERS, (b"y",))
    with pytest.raises(TooManyStreamsError):
        second.start(wire)
    assert not second.started
    wire.answer(_frame(b"1"))
    first.release()
    second.start(wire)
    wire.carry()
    wire.answer(_frame(b"2"))
    assert second.answer is not None
    assert second.answer.reply == b"2"


def test_replies_beyond_the_window_keep_flowing() -> None:
    """Bytes are acknowledged as they come: 40 replies of 1 MB over one connection."""
    wire = Wire()
    for _ in range(40):
        call = _started(wire, b"x")
        wire.server.send_headers(wire.stream, HEAD)
        body = _frame(bytes(1_000_000))
        while body:
            room = min(wire.server.local_flow_control_window(wire.stream), 16_384)
            assert room > 0
            wire.server.send_data(wire.stream, body[:room])
            body = body[room:]
            wire.carry()
        wire.server.send_headers(wire.stream, OK, end_stream=True)
        wire.carry()
        assert call.answer is not None
        assert len(call.answer.reply) == 1_000_000
        call.release()
