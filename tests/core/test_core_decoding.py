"""The strict decoder reads what betterproto2 writes, and refuses everything that is not well formed."""

import json
from pathlib import Path
from typing import Any

import betterproto2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.core.decoding import Undecodable, decode
from kmsd.core.methods import METHODS
from kmsd.core.pb.grpc.health.v1 import HealthCheckResponse
from kmsd.core.pb.kms import v1 as kms

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "kms-core.json").read_text())["protobuf"]
REPLIES = sorted({facts.reply for facts in METHODS.values()}, key=lambda reply: reply.__name__)

_IDS = st.none() | st.builds(kms.RequestId, request_id=st.text(max_size=70))
_INT32 = st.integers(-(2**31), 2**31 - 1)
_UINT32 = st.integers(0, 2**32 - 1)
_BYTES = st.binary(max_size=200)
_PUBLIC = st.builds(
    kms.PublicDecryptionResponse,
    signature=_BYTES,
    external_signature=_BYTES,
    payload=st.none()
    | st.builds(
        kms.PublicDecryptionResponsePayload,
        verification_key=_BYTES,
        plaintexts=st.lists(st.builds(kms.TypedPlaintext, bytes=_BYTES, fhe_type=_INT32), max_size=3),
        request_id=_IDS,
    ),
    extra_data=_BYTES,
)
_USER = st.builds(
    kms.UserDecryptionResponse,
    payload=st.builds(
        kms.UserDecryptionResponsePayload,
        digest=_BYTES,
        signcrypted_ciphertexts=st.lists(
            st.builds(
                kms.TypedSigncryptedCiphertext,
                fhe_type=_INT32,
                signcrypted_ciphertext=_BYTES,
                external_handle=_BYTES,
                packing_factor=_UINT32,
            ),
            max_size=3,
        ),
        party_id=_UINT32,
        degree=_UINT32,
    ),
)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_vectors(vector: dict[str, Any]) -> None:
    message_type = getattr(kms, vector["message"].removeprefix("kms.v1."))
    wire = bytes.fromhex(vector["wire_hex"])
    assert decode(message_type, wire) == message_type.parse(wire)
    assert bytes(decode(message_type, wire)) == wire


@settings(deadline=None)
@given(st.one_of(_PUBLIC, _USER))
def test_what_betterproto_writes(message: betterproto2.Message) -> None:
    assert decode(type(message), bytes(message)) == message


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff",
        b"\x0f\x0f",
        b"\x0a\xff",
        b"\x0a\x05ab",
        b"\x1a\x02\x0a\x05",
        b"<html>oops</html>",
        b"\x0b\x0c",
        b"\x08\x05",
        b"\x1a\x03\x1a\x01\x08",
        b"\x0a",
        b"\x02\x00",
        b"\x0d\x01\x02\x03\x04",
        b"\xff" * 12 + b"\x01",
    ],
)
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(kms.PublicDecryptionResponse, garbage)


def test_text_must_be_utf8() -> None:
    with pytest.raises(Undecodable):
        decode(kms.RequestId, b"\x0a\x02\xff\xfe")


def test_unknown_fields_and_enum_values_are_kept_out_of_the_way() -> None:
    assert decode(kms.RequestId, b"\x0a\x01x\x7a\x03abc\x78\x05\x79" + bytes(8)) == kms.RequestId(request_id="x")
    assert int(decode(HealthCheckResponse, b"\x08\x63").status) == 99


@settings(deadline=None)
@given(st.sampled_from(REPLIES), st.binary(max_size=300))
def test_anything_is_a_message_or_undecodable(message_type: type[betterproto2.Message], data: bytes) -> None:
    try:
        message = decode(message_type, data)
    except Undecodable:
        return
    bytes(message)  # every field has the type that it should have: it can be encoded


@settings(deadline=None)
@given(st.one_of(_PUBLIC, _USER), st.data())
def test_damaged_messages(message: betterproto2.Message, data: st.DataObject) -> None:
    wire = bytearray(bytes(message) or b"\0")
    position = data.draw(st.integers(0, len(wire) - 1))
    wire[position] ^= data.draw(st.integers(1, 255))
    try:
        bytes(decode(type(message), bytes(wire)))
    except Undecodable:
        pass
