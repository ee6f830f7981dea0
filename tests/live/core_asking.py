"""Requests that the Core tests send, made from a number, and the checks of their results."""

from typing import Any

from kmsd.core import requests, results
from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.core.results import Result
from kmsd.sandbox.ciphertexts import fake_ciphertext, fake_public_key
from kmsd.wire.addresses import parse_address
from kmsd.wire.eip712 import Domain
from kmsd.wire.v0_11.structs import KeyDigest, KeyType

KEY = 4 << 248 | 1
KEY_TEXT = f"{KEY:064x}"
DECRYPTION = Domain("Decryption", "1", 54321, parse_address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
KMS_GENERATION = Domain("KMSGeneration", "1", 54321, parse_address("0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"))
USER = b"\x33" * 20
PUBLIC_KEY = fake_public_key(b"user")
HANDLES = tuple(
    bytes([number]) * 21 + b"\xff" + (12345).to_bytes(8, "big") + bytes((kind, 0)) for number, kind in ((1, 5), (2, 8))
)
DIGESTS = (KeyDigest(KeyType.SERVER, b"\x01" * 32), KeyDigest(KeyType.PUBLIC, b"\x02" * 32))


def public_id(number: int) -> int:
    return 1 << 248 | number


def user_id(number: int) -> int:
    return 2 << 248 | number


def ciphertexts(size: int = 200) -> list[requests.Ciphertext]:
    return [
        requests.Ciphertext(handle, fake_ciphertext(handle, 5 + position, size), CiphertextFormat.BigCompressed)
        for position, handle in enumerate(HANDLES)
    ]


def public(number: int, **changes: Any) -> Any:
    asked = {"ciphertexts": ciphertexts(), "key_id": KEY, "domain": DECRYPTION, "extra_data": b""} | changes
    return requests.public_decryption(public_id(number), **asked)


def user(number: int, **changes: Any) -> Any:
    asked: dict[str, Any] = {
        "ciphertexts": ciphertexts(),
        "key_id": KEY,
        "domain": DECRYPTION,
        "extra_data": b"",
        "user_address": USER,
        "public_key": PUBLIC_KEY,
    }
    return requests.user_decryption(user_id(number), **(asked | changes))


def check_public(message: Any, number: int, signer: str | None) -> Result:
    return results.public_decryption(
        message,
        request_id=public_id(number),
        handles=HANDLES,
        extra_data=b"",
        domain=DECRYPTION,
        expected_signer=None if signer is None else parse_address(signer),
    )


def check_user(message: Any, signer: str | None) -> Result:
    return results.user_decryption(
        message,
        handles=HANDLES,
        user_address=USER,
        public_key=PUBLIC_KEY,
        extra_data=b"",
        domain=DECRYPTION,
        expected_signer=None if signer is None else parse_address(signer),
    )
