"""secp256k1 signatures as the chain has them: 65 bytes r ‖ s ‖ v, v 27 or 28, low s (wire/gateway.md 4)."""

from functools import lru_cache

import coincurve

from kmsd.wire.errors import WireError
from kmsd.wire.keccak import keccak256

SIGNATURE_BYTES = 65

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_ORDER = _ORDER // 2


def recover(digest: bytes, signature: bytes) -> bytes:
    """The 20-byte address of the key that signed the 32-byte `digest`.

    As strict as the contracts (OpenZeppelin's ECDSA): raises WireError unless the signature has 65 bytes, v is 27 or
    28, s is in the lower half of the group's order, and a public key comes out of it.
    """
    if len(digest) != 32:
        raise WireError(f"a digest has 32 bytes, not {len(digest)}")
    if len(signature) != SIGNATURE_BYTES:
        raise WireError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    v = signature[64]
    if v not in (27, 28):
        raise WireError(f"the last byte of a signature is 27 or 28, not {v}")
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise WireError("the signature has a high s")
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature[:64] + bytes((v - 27,)), digest, hasher=None)
    except ValueError:
        raise WireError("no key recovers from the signature") from None
    return _address(key)


def sign(digest: bytes, private_key: bytes) -> bytes:
    """Sign a 32-byte `digest`: 65 bytes r ‖ s ‖ v, low s, deterministic (RFC 6979).

    Raises WireError for another length of `digest` or a number that is no private key; the key is in no message.
    """
    if len(digest) != 32:
        raise WireError(f"a digest has 32 bytes, not {len(digest)}")
    signature = _private(private_key).sign_recoverable(digest, hasher=None)
    return bytes(signature[:64]) + bytes((signature[64] + 27,))


def address_of(private_key: bytes) -> bytes:
    """The 20-byte address of a 32-byte private key. Raises WireError for bytes that are none."""
    return _address(_private(private_key).public_key)


def address_of_public_key(public_key: bytes) -> bytes:
    """The 20-byte address of a SEC1 public key, compressed (33 bytes) or not (65). Raises WireError for bad bytes."""
    try:
        return _address(coincurve.PublicKey(public_key))
    except ValueError:
        raise WireError(f"not a SEC1 public key of secp256k1 ({len(public_key)} bytes)") from None


@lru_cache(maxsize=4)
def _private(private_key: bytes) -> coincurve.PrivateKey:
    if len(private_key) != 32 or not 0 < int.from_bytes(private_key, "big") < _ORDER:
        raise WireError("not a private key of secp256k1 (32 bytes, not zero, below the group's order)")
    return coincurve.PrivateKey(private_key)


def _address(key: coincurve.PublicKey) -> bytes:
    return keccak256(key.format(compressed=False)[1:])[12:]
