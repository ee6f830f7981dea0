"""bincode: shares, trace contexts, and wild lengths in both."""

import pytest

from kmsd.wire import bincode, otlp, plaintexts, shares
from kmsd.wire.errors import WireError


def test_trace_context() -> None:
    carrier = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": ""}
    column = otlp.encode(carrier)
    assert column == (
        (2).to_bytes(8, "little")
        + (11).to_bytes(8, "little")
        + b"traceparent"
        + (55).to_bytes(8, "little")
        + carrier["traceparent"].encode()
        + (10).to_bytes(8, "little")
        + b"tracestate"
        + bytes(8)
    )
    assert otlp.decode(column) == carrier
    assert otlp.encode({}) == otlp.EMPTY == bytes(8)
    assert otlp.decode(otlp.EMPTY) == {}
    for cut in range(len(column)):
        with pytest.raises(WireError):
            otlp.decode(column[:cut])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (b"\xff" * 8, "8 bytes needed"),
        (bincode.u64(1) + b"\xff" * 8, "bytes needed"),
        (bincode.u64(1) + bincode.byte_string(b"\xff") + bincode.string("x"), "not UTF-8"),
        (bincode.u64(2) + (bincode.string("k") + bincode.string("v")) * 2, "occurs twice"),
        (bytes(9), "1 bytes behind"),
    ],
)
def test_bad_trace_context(column: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        otlp.decode(column)


PAYLOAD = shares.SharePayload(
    b"k" * 41, b"d" * 32, (shares.SigncryptedCiphertext(5, b"c" * 9, b"h" * 32, 2),) * 2, 3, 4
)


def test_bad_shares() -> None:
    share = shares.encode(PAYLOAD)
    for cut in range(len(share)):
        with pytest.raises(WireError):
            shares.decode(share[:cut])
    with pytest.raises(WireError, match="behind the last field"):
        shares.decode(share + b"\0")
    count_at = 8 + 41 + 8 + 32
    for count in (3, 2**32, 2**63, 2**64 - 1):
        with pytest.raises(WireError):
            shares.decode(share[:count_at] + bincode.u64(count) + share[count_at + 8 :])


@pytest.mark.parametrize(
    "payload",
    [
        PAYLOAD._replace(party_id=-1),
        PAYLOAD._replace(degree=2**32),
        PAYLOAD._replace(signcrypted_ciphertexts=(shares.SigncryptedCiphertext(2**31, b"", b"", 0),)),
        PAYLOAD._replace(signcrypted_ciphertexts=(shares.SigncryptedCiphertext(0, b"", b"", -1),)),
    ],
)
def test_numbers_out_of_range(payload: shares.SharePayload) -> None:
    with pytest.raises(WireError):
        shares.encode(payload)
    with pytest.raises(WireError):
        bincode.u64(2**64)


def test_negative_type_survives() -> None:
    payload = PAYLOAD._replace(signcrypted_ciphertexts=(shares.SigncryptedCiphertext(-1, b"", b"", 0),))
    assert shares.decode(shares.encode(payload)) == payload


def test_plaintexts_that_do_not_fit() -> None:
    with pytest.raises(WireError, match="too long for Uint8"):
        plaintexts.decode((256).to_bytes(32, "big"), [2])
    with pytest.raises(WireError, match="64 bytes expected for 2 plaintexts, not 32"):
        plaintexts.decode(bytes(32), [2, 2])
    with pytest.raises(WireError, match="cannot be decrypted"):
        plaintexts.decode(bytes(32), [1])
