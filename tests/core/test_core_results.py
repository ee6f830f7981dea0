"""Every shape fault of a result is a rejection (WK6); golden signatures are accepted."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kmsd.core import results
from kmsd.core.pb.kms import v1 as kms
from kmsd.core.results import Result, ResultRejected
from kmsd.sandbox.ciphertexts import fake_ciphertext, fake_public_key
from kmsd.sandbox.core_double_requests import Ciphertext, Decryption
from kmsd.sandbox.core_double_results import Signer
from kmsd.wire import ids, shares
from kmsd.wire.addresses import parse_address
from kmsd.wire.eip712 import Domain
from kmsd.wire.v0_11.structs import KeyDigest

pytestmark = pytest.mark.guarantee("WK6")

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "kms-core.json").read_text())
EIP712 = {case["name"].split(",")[0].split(" (")[0]: case for case in VECTORS["eip712"]["cases"]}
GOLDEN_SIGNER = parse_address(VECTORS["eip712"]["signer"])
DECRYPTION = Domain("Decryption", "1", 54321, parse_address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
KMS_GENERATION = Domain("KMSGeneration", "1", 54321, parse_address("0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"))
PREP, KEY, CRS, RESHARE = (kind << 248 | 1 for kind in (3, 4, 5, 6))
SIGNER = Signer(b"\x42" * 32, party_id=3, degree=4, centralized=False)
USER = b"\x33" * 20
PUBLIC_KEY = fake_public_key(b"user")
STRANGER = Signer(b"\x43" * 32, party_id=3, degree=4, centralized=False)


def _handle(number: int, fhe_type: int) -> bytes:
    return bytes([number]) * 22 + (12345).to_bytes(8, "big") + bytes((fhe_type, 0))


HANDLES = (_handle(1, 5), _handle(2, 0), _handle(3, 8))


def _request(user: bool) -> Decryption:
    ciphertexts = tuple(
        Ciphertext(fake_ciphertext(handle, value, 100), handle[30], handle, 2)
        for handle, value in zip(HANDLES, (2**64 - 1, 1, 2**256 - 1), strict=True)
    )
    request_id = (2 if user else 1) << 248 | 7
    client, enc_key = (USER, PUBLIC_KEY) if user else (b"", b"")
    return Decryption(request_id, ciphertexts, KEY, DECRYPTION, client, enc_key, None, None)


def _public(reply: kms.PublicDecryptionResponse, **changes: Any) -> Result:
    asked: dict[str, Any] = {
        "request_id": 1 << 248 | 7,
        "handles": HANDLES,
        "extra_data": b"",
        "domain": DECRYPTION,
        "expected_signer": SIGNER.address,
    }
    return results.public_decryption(reply, **(asked | changes))


def _user(reply: kms.UserDecryptionResponse, **changes: Any) -> Result:
    asked: dict[str, Any] = {
        "handles": HANDLES,
        "user_address": USER,
        "public_key": PUBLIC_KEY,
        "extra_data": b"",
        "domain": DECRYPTION,
        "expected_signer": SIGNER.address,
    }
    return results.user_decryption(reply, **(asked | changes))


def _public_reply() -> kms.PublicDecryptionResponse:
    reply = kms.PublicDecryptionResponse.parse(SIGNER.public_bytes(_request(False)))
    again = SIGNER.public_reply(_request(False))
    SIGNER.sign_public(again, _request(False))
    assert reply == again  # the hand-laid reply of the double is the message's own encoding
    return reply


def _user_reply() -> kms.UserDecryptionResponse:
    reply = kms.UserDecryptionResponse.parse(SIGNER.user_bytes(_request(True)))
    again = SIGNER.user_reply(_request(True))
    SIGNER.sign_user(again, _request(True))
    assert reply == again
    return reply


# ---------------------------------------------------------------------------------------------------------------------
# What is accepted


def test_golden_public_decryption() -> None:
    sample = next(v for v in VECTORS["protobuf"] if v["message"] == "kms.v1.PublicDecryptionResponse")
    reply = kms.PublicDecryptionResponse.parse(bytes.fromhex(sample["wire_hex"]))
    case = EIP712["PublicDecryptVerification"]
    reply.external_signature = bytes.fromhex(case["signature"])
    handles = [bytes.fromhex(handle[2:]) for handle in case["message"]["ctHandles"]]
    assert reply.payload is not None
    # The golden message was written apart from the golden handles: its second value is a bool, the handle says u32.
    reply.payload.plaintexts[1] = kms.TypedPlaintext(bytes=b"\x01\0\0\0", fhe_type=4)
    result = _public(reply, handles=handles, expected_signer=GOLDEN_SIGNER)
    assert result.signer == GOLDEN_SIGNER
    assert result.fields["decrypted_result"] == bytes.fromhex(case["message"]["decryptedResult"][2:])


def test_golden_ceremonies() -> None:
    signature = bytes.fromhex(EIP712["PrepKeygenVerification"]["signature"])
    prep = kms.KeyGenPreprocResult(preprocessing_id=_id(PREP), external_signature=signature)
    assert results.prep_keygen(
        prep, prep_keygen_id=PREP, domain=KMS_GENERATION, expected_signer=GOLDEN_SIGNER
    ).fields == {"signature": signature}

    signature = bytes.fromhex(EIP712["KeygenVerification"]["signature"])
    digests = [
        kms.KeyDigest(key_type="ServerKey", digest=b"\x11" * 32),
        kms.KeyDigest(key_type="PublicKey", digest=b"\x22" * 32),
    ]
    key = kms.KeyGenResult(
        request_id=_id(KEY), preprocessing_id=_id(PREP), key_digests=digests, external_signature=signature
    )
    result = results.keygen(key, key_id=KEY, prep_keygen_id=PREP, domain=KMS_GENERATION, expected_signer=GOLDEN_SIGNER)
    assert result.fields["key_digests"] == (KeyDigest(0, b"\x11" * 32), KeyDigest(1, b"\x22" * 32))

    signature = bytes.fromhex(EIP712["CrsgenVerification"]["signature"])
    crs = kms.CrsGenResult(
        request_id=_id(CRS), crs_digest=b"\x55" * 32, max_num_bits=2048, external_signature=signature
    )
    result = results.crsgen(crs, crs_id=CRS, max_bit_length=2048, domain=KMS_GENERATION, expected_signer=GOLDEN_SIGNER)
    assert result.fields == {"crs_digest": b"\x55" * 32, "signature": signature}


def test_public_decryption_fields() -> None:
    result = _public(_public_reply(), expected_signer=None)
    assert result.signer == SIGNER.address
    assert result.fields["decrypted_result"] == (2**64 - 1).to_bytes(32, "big") + (1).to_bytes(32, "big") + b"\xff" * 32
    assert result.fields["extra_data"] == b""


def test_user_decryption_fields() -> None:
    result = _user(_user_reply(), expected_signer=None)
    assert result.signer == SIGNER.address
    payload = shares.decode(result.fields["user_decrypted_shares"])
    assert (payload.party_id, payload.degree) == (3, 4)
    assert [share.packing_factor for share in payload.signcrypted_ciphertexts] == [2, 1, 2]


@pytest.mark.parametrize(
    ("fhe_type", "size"), [(0, 1193), (2, 1193), (4, 1257), (5, 1385), (6, 1641), (7, 1769), (8, 2153)]
)
def test_share_sizes_are_the_measured_ones(fhe_type: int, size: int) -> None:
    handle = _handle(9, fhe_type)
    ciphertext = Ciphertext(fake_ciphertext(handle, 1, 100), fhe_type, handle, 2)
    request = Decryption(2 << 248 | 1, (ciphertext,), KEY, DECRYPTION, USER, PUBLIC_KEY, None, None)
    result = _user(kms.UserDecryptionResponse.parse(SIGNER.user_bytes(request)), handles=[handle])
    assert len(result.fields["user_decrypted_shares"]) == size


@pytest.mark.parametrize(("fhe_type", "size"), [(0, 1122), (2, 1122), (8, 1153)])
def test_share_sizes_of_a_centralized_core(fhe_type: int, size: int) -> None:
    handle = _handle(9, fhe_type)
    ciphertext = Ciphertext(fake_ciphertext(handle, 1, 100), fhe_type, handle, 2)
    request = Decryption(2 << 248 | 1, (ciphertext,), KEY, DECRYPTION, USER, PUBLIC_KEY, None, None)
    signer = Signer(b"\x42" * 32, party_id=3, degree=4, centralized=True)
    result = _user(kms.UserDecryptionResponse.parse(signer.user_bytes(request)), handles=[handle])
    assert len(result.fields["user_decrypted_shares"]) == size
    payload = shares.decode(result.fields["user_decrypted_shares"])
    assert (payload.party_id, payload.degree, payload.signcrypted_ciphertexts[0].packing_factor) == (1, 0, 1)


def test_echoed_extra_data_of_later_cores_is_accepted() -> None:
    reply = _public_reply()
    reply.extra_data = b"\x00"
    # Its signature then covers the extra data; here it recovers to somebody else, which is all that can be said.
    assert _public(reply, extra_data=b"\x00", expected_signer=None).signer != SIGNER.address


# ---------------------------------------------------------------------------------------------------------------------
# What is rejected

Spoil = Callable[[Any], None]


def _set(path: str, value: Any) -> Spoil:
    def spoil(reply: Any) -> None:
        *parents, last = path.split(".")
        target = reply
        for parent in parents:
            target = target[int(parent)] if parent.isdigit() else getattr(target, parent)
        setattr(target, last, value)

    return spoil


PUBLIC_FAULTS: dict[str, tuple[Spoil, str]] = {
    "no payload": (_set("payload", None), "no payload"),
    "no request id": (_set("payload.request_id", None), "missing"),
    "another request id": (_set("payload.request_id.request_id", ids.to_core(1 << 248 | 8)), "request id is"),
    "garbage request id": (_set("payload.request_id.request_id", "zz"), "no id"),
    "one value missing": (lambda r: r.payload.plaintexts.pop(), "2 plaintexts for 3"),
    "one value too many": (lambda r: r.payload.plaintexts.append(r.payload.plaintexts[0]), "4 plaintexts for 3"),
    "no values": (lambda r: r.payload.plaintexts.clear(), "0 plaintexts"),
    "order": (lambda r: r.payload.plaintexts.reverse(), "FHE type"),
    "another type": (_set("payload.plaintexts.0.fhe_type", 4), "FHE type 4"),
    "an unknown type": (_set("payload.plaintexts.0.fhe_type", 99), "FHE type 99"),
    "a negative type": (_set("payload.plaintexts.0.fhe_type", -1), "FHE type -1"),
    "too wide for its type": (_set("payload.plaintexts.0.bytes", b"\xff" * 9), "does not fit"),
    "too wide for a word": (_set("payload.plaintexts.2.bytes", b"\x01" * 33), "does not fit"),
    "padded beyond a word": (_set("payload.plaintexts.2.bytes", bytes(33)), "at most 32 bytes"),
    "foreign extra data": (_set("extra_data", b"\x01x"), "extra data"),
    "no signature": (_set("external_signature", b""), "unusable"),
    "64 bytes of signature": (_set("external_signature", b"\x01" * 64), "unusable"),
    "v of 0": (lambda r: setattr(r, "external_signature", r.external_signature[:64] + b"\0"), "unusable"),
    "another value": (_set("payload.plaintexts.0.bytes", b"\x07"), "signed by"),
}
USER_FAULTS: dict[str, tuple[Spoil, str]] = {
    "no payload": (_set("payload", None), "no payload"),
    "linker": (_set("payload.digest", b"\x77" * 32), "linker"),
    "no linker": (_set("payload.digest", b""), "linker"),
    "one share missing": (lambda r: r.payload.signcrypted_ciphertexts.pop(), "2 shares for 3"),
    "one share too many": (
        lambda r: r.payload.signcrypted_ciphertexts.append(r.payload.signcrypted_ciphertexts[0]),
        "4 shares for 3",
    ),
    "order": (lambda r: r.payload.signcrypted_ciphertexts.reverse(), "another handle"),
    "handle": (_set("payload.signcrypted_ciphertexts.1.external_handle", b"\x01" * 32), "another handle"),
    "short handle": (_set("payload.signcrypted_ciphertexts.1.external_handle", b"\x01"), "another handle"),
    "type": (_set("payload.signcrypted_ciphertexts.1.fhe_type", 2), "FHE type 2"),
    "unknown type": (_set("payload.signcrypted_ciphertexts.1.fhe_type", 99), "FHE type 99"),
    "empty share": (_set("payload.signcrypted_ciphertexts.1.signcrypted_ciphertext", b""), "is empty"),
    "packing factor": (_set("payload.signcrypted_ciphertexts.1.packing_factor", 0), "packing factor"),
    "no verification key": (_set("payload.verification_key", b""), "verification key"),
    "party 0": (_set("payload.party_id", 0), "cannot be"),
    "party of millions": (_set("payload.party_id", 10**6), "cannot be"),
    "degree of millions": (_set("payload.degree", 10**6), "cannot be"),
    "foreign extra data": (_set("extra_data", b"\x01x"), "extra data"),
    "no signature": (_set("external_signature", b""), "unusable"),
    "another share": (_set("payload.signcrypted_ciphertexts.1.signcrypted_ciphertext", b"x"), "signed by"),
    "another party": (_set("payload.party_id", 5), "signed by"),
}


@pytest.mark.parametrize(("spoil", "words"), PUBLIC_FAULTS.values(), ids=PUBLIC_FAULTS)
def test_public_decryption_rejected(spoil: Spoil, words: str) -> None:
    reply = _public_reply()
    spoil(reply)
    with pytest.raises(ResultRejected, match=words):
        _public(reply)


@pytest.mark.parametrize(("spoil", "words"), USER_FAULTS.values(), ids=USER_FAULTS)
def test_user_decryption_rejected(spoil: Spoil, words: str) -> None:
    reply = _user_reply()
    spoil(reply)
    with pytest.raises(ResultRejected, match=words):
        _user(reply)


def test_user_decryption_of_somebody_else_is_rejected() -> None:
    with pytest.raises(ResultRejected, match="linker"):
        _user(_user_reply(), user_address=b"\x34" * 20)
    with pytest.raises(ResultRejected, match="linker"):
        _user(_user_reply(), public_key=fake_public_key(b"other"))


def test_a_stranger_is_rejected_when_the_signer_is_known() -> None:
    with pytest.raises(ResultRejected, match="expected 0x"):
        _public(_public_reply(), expected_signer=STRANGER.address)


def test_an_undecryptable_type_is_rejected() -> None:
    handle = _handle(1, 1)
    reply = _public_reply()
    assert reply.payload is not None
    reply.payload.plaintexts = [kms.TypedPlaintext(bytes=b"", fhe_type=1)]
    with pytest.raises(ResultRejected):
        _public(reply, handles=[handle])


def _id(number: int) -> kms.RequestId:
    return kms.RequestId(request_id=ids.to_core(number))


CEREMONY_FAULTS: dict[str, tuple[str, Spoil, str]] = {
    "prep: another id": ("prep", _set("preprocessing_id.request_id", ids.to_core(PREP + 1)), "preprocessing id is"),
    "prep: no id": ("prep", _set("preprocessing_id", None), "missing"),
    "prep: signature": ("prep", _set("external_signature", b"\x01" * 65), "unusable"),
    "key: another id": ("key", _set("request_id.request_id", ids.to_core(KEY + 1)), "key id is"),
    "key: no id": ("key", _set("request_id", None), "missing"),
    "key: another preparation": ("key", _set("preprocessing_id.request_id", ids.to_core(PREP + 1)), "preprocessing"),
    "key: no digests": ("key", lambda r: r.key_digests.clear(), "none"),
    "key: one digest": ("key", lambda r: r.key_digests.pop(), "are needed"),
    "key: twice the same": ("key", _set("key_digests.1.key_type", "ServerKey"), "are needed"),
    "key: unknown type": ("key", _set("key_digests.0.key_type", "CompressedXofKeySet"), "unknown key type"),
    "key: short digest": ("key", _set("key_digests.0.digest", b"\x01" * 31), "31 bytes"),
    "key: order is signed": ("key", lambda r: r.key_digests.reverse(), "signed by"),
    "crs: another id": ("crs", _set("request_id.request_id", ids.to_core(CRS + 1)), "CRS id is"),
    "crs: bits": ("crs", _set("max_num_bits", 4), "for 4 bits, 2048"),
    "crs: digest": ("crs", _set("crs_digest", b""), "0 bytes"),
    "crs: another digest": ("crs", _set("crs_digest", b"\x01" * 32), "signed by"),
    "reshare: another id": ("reshare", _set("request_id.request_id", ids.to_core(RESHARE + 1)), "reshare id is"),
    "reshare: another key": ("reshare", _set("key_id.request_id", ids.to_core(KEY + 1)), "key id is"),
    "reshare: another preparation": ("reshare", _set("preprocessing_id", None), "missing"),
    "reshare: no digests": ("reshare", lambda r: r.key_digests.clear(), "none"),
}


def _ceremony(name: str, spoil: Spoil) -> Result:
    known: dict[str, Any] = {"domain": KMS_GENERATION, "expected_signer": SIGNER.address}
    if name == "prep":
        prep = copy.deepcopy(SIGNER.preproc_result(PREP, KMS_GENERATION))
        spoil(prep)
        return results.prep_keygen(prep, prep_keygen_id=PREP, **known)
    if name == "key":
        key = copy.deepcopy(SIGNER.keygen_result(KEY, PREP, KMS_GENERATION))
        spoil(key)
        return results.keygen(key, key_id=KEY, prep_keygen_id=PREP, **known)
    if name == "crs":
        crs = copy.deepcopy(SIGNER.crs_result(CRS, 2048, KMS_GENERATION))
        spoil(crs)
        return results.crsgen(crs, crs_id=CRS, max_bit_length=2048, **known)
    reshare = copy.deepcopy(SIGNER.reshare_result(RESHARE, KEY, PREP, KMS_GENERATION))
    spoil(reshare)
    return results.resharing(reshare, key_reshare_id=RESHARE, key_id=KEY, prep_keygen_id=PREP, **known)


@pytest.mark.parametrize("name", ["prep", "key", "crs", "reshare"])
def test_ceremonies_accepted(name: str) -> None:
    assert _ceremony(name, lambda reply: None).signer == SIGNER.address


@pytest.mark.parametrize(("name", "spoil", "words"), CEREMONY_FAULTS.values(), ids=CEREMONY_FAULTS)
def test_ceremonies_rejected(name: str, spoil: Spoil, words: str) -> None:
    with pytest.raises(ResultRejected, match=words):
        _ceremony(name, spoil)
