"""The golden vectors of kms-core.json that concern codecs. Its protobuf messages are tested in tests/core."""

import json
from pathlib import Path
from typing import Any

import pytest

from kmsd.wire import bincode, eip712, ids, plaintexts, shares, signatures
from kmsd.wire.addresses import parse_address, to_checksum
from kmsd.wire.errors import WireError
from kmsd.wire.handles import FHE_TYPES
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import typed_data
from kmsd.wire.v0_11.structs import KeyDigest

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "kms-core.json").read_text())
SHARES = VECTORS["user_decrypted_share"]["samples"]
PLAINTEXTS = VECTORS["abi_encode_plaintexts"]["cases"]


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def test_no_section_is_left_untested() -> None:
    messages = {"grpc", "health", "protobuf"}
    here = {
        "shard_choice": 2,
        "request_id_samples": 6,
        "max_num_bits": 2,
        "abi_encode_plaintexts": 3,
        "user_decrypted_share": 3,
        "size_model": 2,
        "eip712": 5,
    }
    assert set(VECTORS) == {"meta", *messages, *here}
    assert {name: len(VECTORS[name]) for name in here} == here
    assert len(VECTORS["shard_choice"]["samples"]) == 45
    assert len(VECTORS["max_num_bits"]["samples"]) == 6
    assert len(PLAINTEXTS) == 9
    assert len(VECTORS["abi_encode_plaintexts"]["errors"]) == 3
    assert len(SHARES) == 3
    assert len(VECTORS["user_decrypted_share"]["locked_reference_formats"]) == 2
    assert len(VECTORS["eip712"]["cases"]) == 6
    assert len(VECTORS["size_model"]["per_type"]) == 8


@pytest.mark.parametrize("sample", VECTORS["shard_choice"]["samples"])
def test_shard(sample: dict[str, Any]) -> None:
    assert ids.shard_of(ids.from_core(sample["request_id"]), sample["n"]) == sample["shard"]


@pytest.mark.parametrize("sample", VECTORS["request_id_samples"])
def test_request_id(sample: dict[str, str]) -> None:
    number = ids.parse_id(sample["uint256"])
    assert number == int(sample["uint256"])
    assert ids.to_core(number) == sample["hex"]
    assert ids.from_core(sample["hex"]) == number
    assert ids.parse_id(sample["hex"]) == number


@pytest.mark.parametrize("sample", VECTORS["max_num_bits"]["samples"])
def test_max_num_bits(sample: dict[str, Any]) -> None:
    assert ids.max_num_bits(int(sample["maxBitLength"])) == sample["max_num_bits"]


@pytest.mark.parametrize("case", PLAINTEXTS, ids=lambda case: str(case["name"]))
def test_plaintexts(case: dict[str, Any]) -> None:
    values = tuple(plaintexts.Plaintext(unhex(p["bytes_le"]), p["fhe_type"]) for p in case["plaintexts"])
    result = unhex(case["decryptedResult"])
    assert plaintexts.encode(values) == result
    decoded = plaintexts.decode(result, [value.fhe_type for value in values])
    assert plaintexts.encode(decoded) == result
    for value, back in zip(values, decoded, strict=True):
        assert back.fhe_type == value.fhe_type
        assert int.from_bytes(back.bytes, "little") == int.from_bytes(value.bytes, "little")
        assert len(back.bytes) == FHE_TYPES[value.fhe_type].plaintext_bytes


@pytest.mark.parametrize("number", [1, 9, 10, 11, *range(12, 84)])
def test_plaintext_of_a_type_that_cannot_be_decrypted(number: int) -> None:
    with pytest.raises(WireError, match="cannot be decrypted"):
        plaintexts.encode([plaintexts.Plaintext(b"\1", number)])


def test_plaintext_too_long() -> None:
    with pytest.raises(WireError, match="at most 32 bytes"):
        plaintexts.encode([plaintexts.Plaintext(bytes(33), 8)])


@pytest.mark.parametrize("number", [84, 255, -1, 2**31 - 1])
def test_plaintext_of_an_unknown_type_is_refused_not_omitted(number: int) -> None:
    """The reference omits the word of an unknown type; decisions.md 19 says otherwise."""
    with pytest.raises(WireError, match="unknown FHE type"):
        plaintexts.encode([plaintexts.Plaintext(b"\1", 0), plaintexts.Plaintext(b"\1", number)])


@pytest.mark.parametrize("sample", SHARES, ids=lambda sample: str(sample["name"]))
def test_share(sample: dict[str, Any]) -> None:
    raw = unhex(sample["hex"])
    payload = shares.decode(raw)
    assert shares.encode(payload) == raw
    assert len(raw) == sample["len"]
    if "annotated" in sample:
        assert b"".join(unhex(part["hex"]) for part in sample["annotated"]) == raw


def test_share_fields() -> None:
    parts = {part["part"]: unhex(part["hex"]) for part in SHARES[0]["annotated"]}
    payload = shares.decode(unhex(SHARES[0]["hex"]))
    assert payload.digest == parts["digest"]
    (ciphertext,) = payload.signcrypted_ciphertexts
    assert ciphertext.signcrypted_ciphertext == parts["[0].signcrypted_ciphertext"]
    assert ciphertext.external_handle == parts["[0].external_handle"]
    assert (ciphertext.fhe_type, ciphertext.packing_factor, payload.party_id, payload.degree) == (5, 2, 3, 4)
    assert len(shares.decode(unhex(SHARES[1]["hex"])).signcrypted_ciphertexts) == 2
    assert shares.decode(unhex(SHARES[2]["hex"])) == shares.SharePayload(b"", b"", (), 0, 0)


def test_locked_reference_formats() -> None:
    """Structs that only the Core writes, in the bincode that we share with it."""
    typed, signcryption = (unhex(s["hex"]) for s in VECTORS["user_decrypted_share"]["locked_reference_formats"])
    assert bincode.byte_string(bytes((1, 2, 3, 4, 5))) + bincode.i32(8) == typed
    assert typed + bincode.byte_string(bytes((222, 173, 190, 239))) == signcryption
    reader = bincode.BincodeReader(signcryption)
    assert (reader.byte_string(), reader.i32(), reader.byte_string()) == (b"\1\2\3\4\5", 8, bytes.fromhex("deadbeef"))
    reader.end()


@pytest.mark.parametrize("name", VECTORS["size_model"]["per_type"])
def test_share_size(name: str) -> None:
    model = VECTORS["size_model"]["per_type"][name]
    ciphertext = shares.SigncryptedCiphertext(5, bytes(model["user_decrypt_signcrypted_ct_bytes"]), bytes(32), 2)
    share = shares.encode(shares.SharePayload(bytes(41), bytes(32), (ciphertext,), 1, 4))
    assert len(share) == model["user_decrypted_share_bytes_one_handle"]


@pytest.mark.parametrize("case", VECTORS["eip712"]["cases"], ids=lambda case: str(case["name"]))
def test_eip712(case: dict[str, Any]) -> None:
    d, m = case["domain"], case["message"]
    domain = eip712.Domain(d["name"], d["version"], d["chainId"], parse_address(d["verifyingContract"]))
    handles = [unhex(h) for h in m.get("ctHandles", m.get("handles", ()))]
    digest = {
        "PublicDecryptVerification": lambda: typed_data.public_decryption_digest(
            domain, handles, unhex(m["decryptedResult"]), unhex(m["extraData"])
        ),
        "UserDecryptResponseVerification": lambda: typed_data.user_decryption_digest(
            domain, unhex(m["publicKey"]), handles, unhex(m["userDecryptedShare"]), unhex(m["extraData"])
        ),
        "UserDecryptionLinker": lambda: typed_data.user_decryption_linker(
            domain, unhex(m["publicKey"]), handles, parse_address(m["userAddress"])
        ),
        "PrepKeygenVerification": lambda: typed_data.prep_keygen_digest(domain, int(m["prepKeygenId"])),
        "KeygenVerification": lambda: typed_data.keygen_digest(
            domain,
            int(m["prepKeygenId"]),
            int(m["keyId"]),
            [KeyDigest(k["keyType"], unhex(k["digest"])) for k in m["keyDigests"]],
        ),
        "CrsgenVerification": lambda: typed_data.crsgen_digest(
            domain, int(m["crsId"]), int(m["maxBitLength"]), unhex(m["crsDigest"])
        ),
    }[case["type_string"].split("(")[0]]()
    assert domain.separator == unhex(case["domain_separator"])
    assert eip712.typehash(case["type_string"]) == unhex(case["type_hash"])
    assert digest == unhex(case["digest"])
    assert digest == keccak256(b"\x19\x01" + domain.separator + unhex(case["struct_hash"]))
    key = unhex(VECTORS["eip712"]["signing_key"].split(" ")[0])
    assert signatures.sign(digest, key) == unhex(case["signature"])
    assert to_checksum(signatures.recover(digest, unhex(case["signature"]))) == VECTORS["eip712"]["signer"]
