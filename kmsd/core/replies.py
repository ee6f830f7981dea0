"""The frames that replies are made of, read without h2: half of a call's CPU (docs/performance.md).

h2 makes several objects of every frame, and a text for a log that nobody keeps. Nearly all that a Core sends is HEADERS
and DATA on streams whose request has left completely, without padding and in one piece. These are taken here, in their
order among the others; everything else (settings, windows, pings, resets, whatever is odd) goes to grpclib and h2 as it
came. What is private in h2 and used here is guarded by `tests/core/test_core_grpclib_canary.py`.
"""

from typing import Any

from grpclib.protocol import H2Protocol
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.stream import StreamClosedBy, StreamState
from hpack import HPACKError

from kmsd.core.call import Call

_HEAD = 9
"""Bytes of a frame's head: length (3), type, flags, stream id (4); RFC 9113, 4.1."""
_DATA, _HEADERS = 0, 1
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x4, 0x8, 0x20


class ReplyReader:
    """Stands before `protocol` and takes from what is received the frames of plain replies to Calls."""

    def __init__(self, protocol: H2Protocol) -> None:
        self._protocol = protocol
        self._h2: H2Connection = protocol.connection._connection
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take in what was received; whole frames are handled at once, the rest when it is complete."""
        data = self._rest + data if self._rest else data
        end, at, passed = len(data), 0, 0  # what lies between `passed` and `at` is h2's
        try:
            while at + _HEAD <= end and not self._protocol.connection.is_closing():
                size = int.from_bytes(data[at : at + 3], "big")
                after = at + _HEAD + size
                if size > self._h2.max_inbound_frame_size:
                    raise ProtocolError(f"a frame of {size} bytes")
                if after > end:
                    break
                if data[at + 3] <= _HEADERS:
                    self._pass_on(data[passed:at])
                    stream_id = int.from_bytes(data[at + 5 : at + _HEAD], "big")
                    is_taken = self._take(data[at + 3], data[at + 4], stream_id, data[at + _HEAD : after])
                    passed = after if is_taken else at
                at = after
        except (ProtocolError, HPACKError):
            self._protocol.processor.close("Protocol error")
            return
        self._pass_on(data[passed:at])
        self._rest = data[at:]

    def _pass_on(self, frames: bytes) -> None:
        if frames:
            self._protocol.data_received(frames)

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> bool:
        """Handle a frame of a plain reply; False for any other. Raises ProtocolError, HPACKError."""
        call = self._protocol.processor.streams.get(stream_id)
        stream: Any = self._h2.streams.get(stream_id)
        if not isinstance(call, Call) or stream is None or flags & _PADDED:
            return False
        machine = stream.state_machine
        if machine.state is not StreamState.HALF_CLOSED_LOCAL:
            return False
        ends = flags & _END_STREAM
        if kind == _DATA:
            if call.headers is None:
                return False
            if payload:
                self._h2._inbound_flow_control_window_manager.window_consumed(len(payload))
                stream._inbound_window_manager.window_consumed(len(payload))
                call.add(payload, len(payload))
        else:
            is_first = call.headers is None
            if not flags & _END_HEADERS or flags & _PRIORITY or not (is_first or ends):
                return False
            headers: Any = self._h2.decoder.decode(payload)
            if is_first and not ends and any(name == ":status" and value[:1] == "1" for name, value in headers):
                return True  # informational; the reply's own headers follow
            if is_first:
                call.headers, machine.headers_received = headers, True
            else:
                call.trailers, machine.trailers_received = headers, True
        if ends:
            machine.state, machine.stream_closed_by = StreamState.CLOSED, StreamClosedBy.RECV_END_STREAM
            call.__ended__()
        return True
