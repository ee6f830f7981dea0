"""Replies read without h2 are those that h2 reads, however the server frames them and the network cuts them."""

import random
from typing import Any

import pytest
from grpclib.client import Handler
from grpclib.config import Configuration
from grpclib.protocol import H2Protocol
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, InformationalResponseReceived

from kmsd.core.call import Call, RawAnswer
from kmsd.core.compression import RepeatingDecoder, RepeatingEncoder
from kmsd.core.replies import ReplyReader

HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
REQUEST = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/a/B"), ("te", "trailers")]


class Client:
    """A connection without a network: what it writes is in `written`. With `reader`, replies go past h2."""

    def __init__(self, *, reader: bool) -> None:
        self.written = bytearray()
        self._closed = False
        protocol = H2Protocol(Handler(), Configuration().__for_client__(), H2Configuration(header_encoding="ascii"))
        protocol.connection_made(self)  # type: ignore[arg-type]
        self.protocol = protocol
        self.h2: H2Connection = protocol.connection._connection
        self.processor = protocol.processor
        self.processor.processors[InformationalResponseReceived] = lambda event: None  # as a Link has it
        if reader:
            self.h2.encoder, self.h2.decoder = RepeatingEncoder(), RepeatingDecoder(65536)
        self.feed = ReplyReader(protocol).feed if reader else protocol.data_received
        self.calls: list[Call] = []

    def call(self, size: int) -> None:
        call = Call(REQUEST, (bytes(size), b"!"))
        call.start(self)
        self.calls.append(call)

    def answers(self) -> list[RawAnswer | None]:
        return [call.answer for call in self.calls]

    def take(self) -> bytes:
        taken = bytes(self.written)
        self.written.clear()
        return taken

    # as Carrier, and as a transport
    def has_room(self) -> bool:
        return True

    def wait_for_room(self, call: Call) -> None: ...

    def flush(self) -> None:
        self.write(self.h2.data_to_send())

    def write(self, data: bytes | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    def get_extra_info(self, name: str) -> Any:
        return None


def reply(server: H2Connection, stream_id: int, rng: random.Random) -> None:
    """One of the ways in which a server may answer."""
    body = rng.randbytes(rng.choice((0, 3, 900, 20_000)))
    way = rng.randrange(8)
    if way == 0:
        server.send_headers(stream_id, [*HEADERS, ("grpc-status", "5"), ("grpc-message", "no")], end_stream=True)
        return
    if way == 1:
        server.reset_stream(stream_id)
        return
    if way == 2:
        server.send_headers(stream_id, [(":status", "103"), ("link", "x")])
    more = [("x-long", "y" * 20_000)] if way == 3 else [("date", str(rng.randrange(3)))]
    server.send_headers(stream_id, [*HEADERS, *more])
    message = b"\0" + len(body).to_bytes(4, "big") + body
    for at in range(0, len(message), 10_000):
        server.send_data(stream_id, message[at : at + 10_000], pad_length=7 if way == 4 else None)
    if way == 5:
        server.ping(b"12345678")
    server.send_headers(stream_id, [("grpc-status", "0" if way else "7")], end_stream=True)


@pytest.mark.parametrize("seed", range(60))
def test_answers_are_those_of_h2(seed: int) -> None:
    plain, quick = Client(reader=False), Client(reader=True)
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    rng = random.Random(seed)
    for _ in range(12):
        size = rng.choice((1, 5_000, 40_000))
        for client in (plain, quick):
            client.call(size)
        asked = quick.take()
        plain.take()
        for event in server.receive_data(asked):
            if isinstance(event, DataReceived):
                server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        reply(server, 2 * len(quick.calls) - 1, rng)
        sent = server.data_to_send()
        plain.feed(sent)
        while sent:
            cut = rng.choice((1, 8, 100, 5_000, len(sent)))
            quick.feed(sent[:cut])
            sent = sent[cut:]
        assert quick.answers() == plain.answers()
        assert quick.answers()[-1] is not None
        assert quick.h2.inbound_flow_control_window == plain.h2.inbound_flow_control_window
        assert quick.h2.open_outbound_streams == plain.h2.open_outbound_streams
        for client in (plain, quick):
            client.calls[-1].release()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\0\0\0\0\0\1", b"\0\0\1\1\4\0\0\0\1\xff", b"\0\0\3\3\0\0\0\0\1abc"])
def test_garbage_ends_the_connection_and_its_calls(garbage: bytes) -> None:
    client = Client(reader=True)
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    client.call(10)
    server.receive_data(client.take())
    client.feed(server.data_to_send())
    client.feed(garbage)
    assert client.is_closing()
    (answer,) = client.answers()
    assert answer is not None
    assert answer.local
