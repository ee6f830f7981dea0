"""Hashing and signatures against eth-account and eth-keys, and the strictness of the contracts."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak

from kmsd.wire import eip712, signatures
from kmsd.wire.addresses import parse_address, to_checksum
from kmsd.wire.errors import WireError
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import typed_data

KEY = bytes(31) + b"\x17"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def test_keccak_of_every_size_around_its_blocks() -> None:
    data = bytes(range(256)) * 4
    for size in range(600):
        assert keccak256(data[:size]) == keccak(data[:size])
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


def test_keccak_in_threads_at_once() -> None:
    bodies = [bytes((number,)) * (100_000 + number) for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(keccak256, bodies)) == [keccak(body) for body in bodies]


def test_there_and_back() -> None:
    for n in range(20):
        digest = keccak256(bytes((n,)))
        signature = signatures.sign(digest, KEY)
        assert signatures.recover(digest, signature) == signatures.address_of(KEY)
        assert signature == bytes(Account.unsafe_sign_hash(digest, KEY).signature)
    assert to_checksum(signatures.address_of(KEY)) == Account.from_key(KEY).address


def test_public_keys() -> None:
    generator = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
    assert signatures.address_of_public_key(generator) == signatures.address_of(bytes(31) + b"\1")
    for bad in (b"", generator[:-1], b"\2" + b"\xff" * 32):
        with pytest.raises(WireError, match="not a SEC1 public key"):
            signatures.address_of_public_key(bad)


def test_what_the_contracts_refuse() -> None:
    digest = keccak256(b"digest")
    signature = signatures.sign(digest, KEY)
    s = int.from_bytes(signature[32:64], "big")
    high_s = signature[:32] + (ORDER - s).to_bytes(32, "big") + bytes((55 - signature[64],))
    for bad, words in (
        (signature[:64], "65 bytes"),
        (signature + b"\0", "65 bytes"),
        (b"", "65 bytes"),
        (signature[:64] + bytes((signature[64] - 27,)), "27 or 28"),
        (signature[:64] + b"\x1d", "27 or 28"),
        (high_s, "high s"),
        (bytes(64) + b"\x1b", "no key recovers"),
        (b"\xff" * 32 + signature[32:], "no key recovers"),
        (signature[:32] + bytes(32) + b"\x1b", "no key recovers"),
    ):
        with pytest.raises(WireError, match=words):
            signatures.recover(digest, bad)
    with pytest.raises(WireError, match="a digest has 32 bytes"):
        signatures.recover(digest[:31], signature)


@pytest.mark.parametrize("key", [b"", bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32, KEY[1:]])
def test_bad_private_keys_are_refused_and_not_shown(key: bytes) -> None:
    for use in (signatures.address_of, lambda k: signatures.sign(bytes(32), k)):
        with pytest.raises(WireError, match="not a private key") as error:
            use(key)
        assert not key or key.hex() not in str(error.value)
        assert not key or repr(key) not in str(error.value)
    with pytest.raises(WireError, match="a digest has 32 bytes"):
        signatures.sign(bytes(31), KEY)


def test_digest_as_eth_account_has_it() -> None:
    contract = parse_address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
    handles = [b"h" * 32, b"i" * 32]
    message = encode_typed_data(
        domain_data={
            "name": "Décryption",
            "version": "1",
            "chainId": 2**200,
            "verifyingContract": to_checksum(contract),
        },
        message_types={
            "PublicDecryptVerification": [
                {"name": "ctHandles", "type": "bytes32[]"},
                {"name": "decryptedResult", "type": "bytes"},
                {"name": "extraData", "type": "bytes"},
            ]
        },
        message_data={"ctHandles": handles, "decryptedResult": b"r" * 64, "extraData": b""},
    )
    domain = eip712.Domain("Décryption", "1", 2**200, contract)
    expected = keccak(b"\x19" + message.version + message.header + message.body)
    assert typed_data.public_decryption_digest(domain, handles, b"r" * 64, b"") == expected


def test_fields_out_of_range() -> None:
    domain = eip712.Domain("Decryption", "1", 1, bytes(20))
    for bad in (
        lambda: typed_data.public_decryption_digest(domain, [bytes(31)], b"", b""),
        lambda: typed_data.user_decryption_linker(domain, b"", [], bytes(21)),
        lambda: typed_data.prep_keygen_digest(domain, 2**256),
        lambda: typed_data.user_request_digest(domain, b"", [bytes(19)], 0, 0, b""),
        lambda: eip712.Domain("Decryption", "1", -1, bytes(20)).separator,
        lambda: eip712.Domain("Decryption", "1", 1, bytes(19)).separator,
    ):
        with pytest.raises(WireError):
            bad()
