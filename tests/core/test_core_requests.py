"""Requests are byte for byte those of the golden vectors, and of betterproto2 for anything else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.core import requests
from kmsd.core.pb.kms import v1 as kms
from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.wire import ids
from kmsd.wire.addresses import parse_address, to_checksum
from kmsd.wire.eip712 import Domain
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11.structs import KeyDigest, KeyType

VECTORS = {
    vector["name"]: vector
    for vector in json.loads((Path(__file__).parents[1] / "vectors" / "kms-core.json").read_text())["protobuf"]
}
DECRYPTION = Domain("Decryption", "1", 54321, parse_address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
KMS_GENERATION = Domain("KMSGeneration", "1", 54321, parse_address("0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"))
PREP, KEY, CRS, RESHARE = (kind << 248 | 1 for kind in (3, 4, 5, 6))


def _wire(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["wire_hex"])


def _ciphertexts(name: str, field: str) -> list[requests.Ciphertext]:
    return [
        requests.Ciphertext(
            bytes.fromhex(item["external_handle"][2:]),
            bytes.fromhex(item["ciphertext"][2:]),
            CiphertextFormat(item["ciphertext_format"]["number"]),
        )
        for item in VECTORS[name]["fields"][field]
    ]


@pytest.mark.parametrize(
    ("name", "extra_data"),
    [
        ("PublicDecryptionRequest as built by connector v0.11.0", b"\0"),
        ("PublicDecryptionRequest, empty extra_data", b""),
    ],
)
def test_public_decryption_vectors(name: str, extra_data: bytes) -> None:
    chunks = requests.public_decryption(1 << 248 | 7, _ciphertexts(name, "ciphertexts"), KEY, DECRYPTION, extra_data)
    assert b"".join(chunks) == _wire(name)


def test_user_decryption_vector() -> None:
    name = "UserDecryptionRequest as built by connector v0.11.0"
    user = parse_address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
    chunks = requests.user_decryption(
        2 << 248 | 9, _ciphertexts(name, "typed_ciphertexts"), KEY, DECRYPTION, b"\0", user, bytes(range(1, 9))
    )
    assert b"".join(chunks) == _wire(name)


@pytest.mark.parametrize(
    ("name", "built"),
    [
        ("RequestId (poll request body for every Get*Result)", requests.poll(1 << 248 | 7)),
        ("InitRequest as built by connector v0.11.0", requests.init()),
        (
            "KeyGenPreprocRequest as built by connector v0.11.0 (params=Default)",
            requests.key_gen_preproc(PREP, 0, KMS_GENERATION),
        ),
        (
            "KeyGenPreprocRequest as built by connector v0.11.0 (params=Test)",
            requests.key_gen_preproc(PREP, 1, KMS_GENERATION),
        ),
        ("KeyGenRequest as built by connector v0.11.0", requests.key_gen(KEY, PREP, KMS_GENERATION)),
        (
            "CrsGenRequest as built by connector v0.11.0 (maxBitLength 2048, Default)",
            requests.crs_gen(CRS, 2048, 0, KMS_GENERATION),
        ),
        ("CrsGenRequest maxBitLength 0, Test", requests.crs_gen(CRS, 0, 1, KMS_GENERATION)),
        (
            "InitiateResharingRequest as built by connector v0.11.0",
            requests.initiate_resharing(RESHARE, KEY, PREP, 0, KMS_GENERATION, ()),
        ),
    ],
)
def test_ceremony_vectors(name: str, built: bytes) -> None:
    assert built == _wire(name)


def test_resharing_carries_the_digests_by_the_cores_names() -> None:
    digests = (KeyDigest(KeyType.SERVER, b"\x01" * 32), KeyDigest(KeyType.PUBLIC, b"\x02" * 32))
    message = kms.InitiateResharingRequest.parse(
        requests.initiate_resharing(RESHARE, KEY, PREP, 0, KMS_GENERATION, digests)
    )
    assert [(part.key_type, part.digest) for part in message.key_digests] == [
        ("ServerKey", b"\x01" * 32),
        ("PublicKey", b"\x02" * 32),
    ]
    with pytest.raises(WireError):
        requests.initiate_resharing(RESHARE, KEY, PREP, 0, KMS_GENERATION, [KeyDigest(3, b"")])


def test_ciphertexts_are_not_copied() -> None:
    body = bytes(2_000_000)
    handle = b"\x11" * 32
    chunks = requests.public_decryption(
        1, [requests.Ciphertext(handle, body, CiphertextFormat.BigExpanded)] * 2, KEY, DECRYPTION, b""
    )
    assert sum(chunk is body for chunk in chunks) == 2


def test_a_handle_has_32_bytes() -> None:
    with pytest.raises(WireError):
        requests.public_decryption(1, [requests.Ciphertext(b"x", b"y", CiphertextFormat(2))], KEY, DECRYPTION, b"")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("compressed_on_cpu", CiphertextFormat.BigCompressed),
        ("compressed_on_gpu", CiphertextFormat.BigCompressed),
        ("uncompressed_on_cpu", CiphertextFormat.BigExpanded),
        ("uncompressed_on_gpu", CiphertextFormat.BigExpanded),
        ("Compressed_on_cpu", None),
        ("", None),
        (None, None),
    ],
)
def test_format_of_a_bucket(header: str | None, expected: CiphertextFormat | None) -> None:
    assert requests.ciphertext_format(header) == expected


_IDS = st.integers(0, 2**256 - 1)
_BYTES = st.binary(max_size=300)
_CIPHERTEXTS = st.lists(
    st.builds(
        requests.Ciphertext,
        st.binary(min_size=32, max_size=32),
        st.one_of(_BYTES, st.integers(16_000, 17_000).map(bytes)),
        st.sampled_from(list(CiphertextFormat)),
    ),
    max_size=4,
)
_DOMAINS = st.builds(
    Domain,
    st.text(max_size=20),
    st.text(max_size=3),
    st.integers(0, 2**256 - 1),
    st.binary(min_size=20, max_size=20),
)


def _typed(ciphertexts: list[requests.Ciphertext]) -> list[kms.TypedCiphertext]:
    return [
        kms.TypedCiphertext(
            ciphertext=item.body, fhe_type=item.handle[30], external_handle=item.handle, ciphertext_format=item.format
        )
        for item in ciphertexts
    ]


def _id(number: int) -> kms.RequestId:
    return kms.RequestId(request_id=ids.to_core(number))


@settings(deadline=None)
@given(_IDS, _CIPHERTEXTS, _IDS, _DOMAINS, _BYTES)
def test_public_decryption_is_what_betterproto_makes(
    request_id: int, ciphertexts: list[requests.Ciphertext], key_id: int, domain: Domain, extra_data: bytes
) -> None:
    message = kms.PublicDecryptionRequest(
        request_id=_id(request_id),
        ciphertexts=_typed(ciphertexts),
        key_id=_id(key_id),
        domain=requests.domain_message(domain),
        extra_data=extra_data,
    )
    built = requests.public_decryption(request_id, ciphertexts, key_id, domain, extra_data)
    assert b"".join(built) == bytes(message)


@settings(deadline=None)
@given(_IDS, _CIPHERTEXTS, _IDS, _DOMAINS, _BYTES, st.binary(min_size=20, max_size=20), _BYTES)
def test_user_decryption_is_what_betterproto_makes(
    request_id: int,
    ciphertexts: list[requests.Ciphertext],
    key_id: int,
    domain: Domain,
    extra_data: bytes,
    user: bytes,
    public_key: bytes,
) -> None:
    message: Any = kms.UserDecryptionRequest(
        request_id=_id(request_id),
        typed_ciphertexts=_typed(ciphertexts),
        key_id=_id(key_id),
        client_address=to_checksum(user),
        enc_key=public_key,
        domain=requests.domain_message(domain),
        extra_data=extra_data,
    )
    built = requests.user_decryption(request_id, ciphertexts, key_id, domain, extra_data, user, public_key)
    assert b"".join(built) == bytes(message)
