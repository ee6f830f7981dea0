"""Damaged and invented input: replies, results, frames of a server, requests to the double. One kind of error each."""

import os
from random import Random
from typing import Any

import betterproto2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_core_call import HEADERS, Wire  # the server in memory

from kmsd.core import results
from kmsd.core.call import Call
from kmsd.core.decoding import Undecodable, decode
from kmsd.core.methods import METHODS
from kmsd.core.pb.kms import v1 as kms
from kmsd.core.results import ResultRejected
from kmsd.sandbox.ciphertexts import fake_ciphertext, fake_public_key
from kmsd.sandbox.core_double_requests import Ciphertext, Decryption, Invalid, Malformed, parse_decryption
from kmsd.sandbox.core_double_results import Signer
from kmsd.wire.eip712 import Domain

pytestmark = pytest.mark.fuzz

SECONDS = float(os.environ.get("KMSD_FUZZ_SECONDS", "0"))
fuzzed = settings(
    max_examples=int(300 + SECONDS * 20),
    deadline=None,
    derandomize=SECONDS == 0,
    database=None,
    suppress_health_check=list(HealthCheck),
)

DOMAIN = Domain("Decryption", "1", 54321, b"\x22" * 20)
HANDLE = bytes(21) + b"\xff" + (12345).to_bytes(8, "big") + b"\x05\x00"
SIGNER = Signer(b"\x42" * 32, party_id=3, degree=4, centralized=False)
PUBLIC_KEY = fake_public_key(b"x")
_CIPHERTEXT = Ciphertext(fake_ciphertext(HANDLE, 7, 60), 5, HANDLE, 2)
_PUBLIC = Decryption(1 << 248 | 1, (_CIPHERTEXT,), 1, DOMAIN, b"", b"", None, None)
_USER = Decryption(2 << 248 | 1, (_CIPHERTEXT,), 1, DOMAIN, b"\x33" * 20, PUBLIC_KEY, None, None)
PUBLIC_REPLY, USER_REPLY = SIGNER.public_bytes(_PUBLIC), SIGNER.user_bytes(_USER)


def damaged(data: bytes, seed: int) -> bytes:
    """`data` cut, flipped, spliced or repeated up to four times."""
    chance = Random(seed)
    out = bytearray(data)
    for _ in range(chance.randint(0, 4)):
        at = chance.randint(0, len(out))
        match chance.randrange(5):
            case 0:
                del out[at : at + chance.randint(1, 8)]
            case 1 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 2:
                out[at:at] = chance.randbytes(chance.randint(1, 8))
            case 3:
                out[at:at] = out[chance.randint(0, len(out)) :][:40]
            case 4:
                del out[at:]
    return bytes(out)


_SEEDS = st.integers(0, 2**64 - 1)
_REPLIES = st.sampled_from(sorted({facts.reply for facts in METHODS.values()}, key=lambda reply: reply.__name__))


@fuzzed
@given(_REPLIES, st.sampled_from([PUBLIC_REPLY, USER_REPLY, b""]), _SEEDS)
def test_replies(message_type: type[betterproto2.Message], data: bytes, seed: int) -> None:
    try:
        bytes(decode(message_type, damaged(data, seed)))
    except Undecodable:
        pass


@fuzzed
@given(_SEEDS)
def test_results(seed: int) -> None:
    asked: dict[str, Any] = {
        "handles": [HANDLE],
        "extra_data": b"",
        "domain": DOMAIN,
        "expected_signer": SIGNER.address,
    }
    try:
        public = decode(kms.PublicDecryptionResponse, damaged(PUBLIC_REPLY, seed))
        result = results.public_decryption(public, request_id=1 << 248 | 1, **asked)
        assert result.fields["decrypted_result"] == (7).to_bytes(32, "big")
    except (Undecodable, ResultRejected):
        pass
    try:
        user = decode(kms.UserDecryptionResponse, damaged(USER_REPLY, seed))
        assert results.user_decryption(user, user_address=b"\x33" * 20, public_key=PUBLIC_KEY, **asked)
    except (Undecodable, ResultRejected):
        pass


@fuzzed
@given(_SEEDS, st.binary(max_size=200))
def test_frames_of_a_server(seed: int, noise: bytes) -> None:
    """Whatever comes, the calls are over when the connection is: each with one answer."""
    wire = Wire()
    calls = []
    for _ in range(3):
        call = Call(HEADERS, (b"x" * 10,))
        call.start(wire)
        wire.carry()
        calls.append((call, wire.stream))
    head = [(":status", "200"), ("content-type", "application/grpc")]
    out = b""
    for _, stream in calls:
        wire.server.send_headers(stream, head)
        wire.server.send_data(stream, b"\0\0\0\0\x02ok")
        wire.server.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        out += wire.server.data_to_send()
    try:
        wire.protocol.data_received(damaged(out, seed))
        wire.protocol.data_received(noise)
    except Exception:
        pass  # the link cuts the connection then
    wire.protocol.connection_lost(None)
    for call, _ in calls:
        assert call.answer is not None
        assert call.done.is_set()
        call.release()


@fuzzed
@given(st.booleans(), _SEEDS)
def test_requests_to_the_double(user: bool, seed: int) -> None:
    message: Any
    typed = [kms.TypedCiphertext(ciphertext=b"x" * 60, fhe_type=5, external_handle=HANDLE)]
    domain = kms.Eip712DomainMsg(name="D", version="1", chain_id=b"\x01", verifying_contract="0x" + "22" * 20)
    if user:
        message = kms.UserDecryptionRequest(typed_ciphertexts=typed, enc_key=PUBLIC_KEY)
        message.client_address = "0x" + "33" * 20
    else:
        message = kms.PublicDecryptionRequest(ciphertexts=typed)
    message.request_id = message.key_id = kms.RequestId(request_id="01" * 32)
    message.domain = domain
    assert parse_decryption(bytes(message), user=user).domain.verifying_contract == b"\x22" * 20
    try:
        parse_decryption(damaged(bytes(message), seed), user=user)
    except (Malformed, Invalid):
        pass
