"""What `kmsd.core` uses of grpclib and h2 beyond their documents. When one of these fails after an upgrade, read
`kmsd/core/call.py` and `kmsd/core/link.py` against the new version before anything else.
"""

import inspect

import h2.connection
import pytest
import trio
from grpclib import protocol
from grpclib.client import Handler
from grpclib.config import Configuration
from h2.config import H2Configuration

from kmsd.core.call import Call


def test_the_processor_treats_a_call_as_a_stream() -> None:
    """Every attribute that the processor touches on a registered stream exists on a Call."""
    source = inspect.getsource(protocol.EventsProcessor)
    touched = {
        word.split("stream.")[1].split("(")[0].split(" ")[0].split(".")[0].strip("),:]")
        for word in source.replace("\n", " ").split(" ")
        if word.startswith(("stream.", "_stream."))
    }
    touched |= {"buffer", "window_updated", "__ended__", "__terminated__"}
    call = Call([], (b"",))
    assert not [name for name in touched if not hasattr(call, name)]
    for name in ("add", "eof", "unacked_size", "set"):
        assert callable(getattr(call, name))


def test_a_protocol_needs_of_its_transport_what_a_link_has() -> None:
    source = inspect.getsource(protocol.Connection) + inspect.getsource(protocol.H2Protocol)
    used = {
        part.split("transport.")[1].split("(")[0]
        for part in source.split()
        if "transport." in part and "(" in part.split("transport.")[1]
    }
    assert used <= {"write", "close", "is_closing", "get_extra_info"}


def test_the_names_that_a_link_takes() -> None:
    class Transport:
        written = b""

        def write(self, data: bytes) -> None:
            self.written += data

        def is_closing(self) -> bool:
            return False

        def close(self) -> None: ...

        def get_extra_info(self, name: str) -> None:
            return None

    transport = Transport()
    connection = protocol.H2Protocol(Handler(), Configuration().__for_client__(), H2Configuration(client_side=True))
    connection.connection_made(transport)  # type: ignore[arg-type]
    assert transport.written.startswith(b"PRI * HTTP/2.0")
    assert isinstance(connection.connection._connection, h2.connection.H2Connection)
    assert isinstance(connection.processor, protocol.EventsProcessor)
    release = connection.processor.register(_registered())
    release()
    connection.connection_lost(None)


def _registered() -> protocol.Stream:
    call = Call([], (b"",))
    call.id = 1
    return call  # type: ignore[return-value]


def test_keep_alive_of_grpclib_stays_off() -> None:
    """Its timers would be asyncio's; ours run in trio."""
    assert Configuration().__for_client__()._keepalive_time is None


@pytest.mark.parametrize("name", ["get_next_available_stream_id", "local_flow_control_window", "data_to_send", "ping"])
def test_h2_names(name: str) -> None:
    assert hasattr(h2.connection.H2Connection, name)


async def test_a_call_has_trio_events() -> None:
    call = Call([], (b"",))
    assert isinstance(call.done, trio.Event)
    assert not call.started
