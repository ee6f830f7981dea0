"""`userDecryptedShare`: the Core's answer to a user decryption as it goes on chain (wire/kms-core.md 4.2).

The bytes are bincode of the Core's `UserDecryptionResponsePayload`; the contract does not look inside, the signature
covers them, and the user's client decodes them.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kmsd.wire import bincode


class SigncryptedCiphertextLike(Protocol):
    """The fields of one signcrypted ciphertext; the generated message of the Core has them by the same names."""

    @property
    def fhe_type(self) -> int: ...
    @property
    def signcrypted_ciphertext(self) -> bytes: ...
    @property
    def external_handle(self) -> bytes: ...
    @property
    def packing_factor(self) -> int: ...


class SharePayloadLike(Protocol):
    """The fields of the payload; the generated message of the Core has them by the same names."""

    @property
    def verification_key(self) -> bytes: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def signcrypted_ciphertexts(self) -> Sequence[SigncryptedCiphertextLike]: ...
    @property
    def party_id(self) -> int: ...
    @property
    def degree(self) -> int: ...


class SigncryptedCiphertext(NamedTuple):
    """One handle's share: int32 type, opaque ciphertext, 32-byte handle, uint32 packing factor."""

    fhe_type: int
    signcrypted_ciphertext: bytes
    external_handle: bytes
    packing_factor: int


class SharePayload(NamedTuple):
    """A party's shares of one request: its key, the linker digest (32 bytes), the shares, its number, the degree."""

    verification_key: bytes
    digest: bytes
    signcrypted_ciphertexts: tuple[SigncryptedCiphertext, ...]
    party_id: int
    degree: int


def encode(payload: SharePayloadLike) -> bytes:
    """The share's bytes from a `SharePayload` or the Core's message. Raises WireError for a number out of range."""
    parts = [
        bincode.byte_string(payload.verification_key),
        bincode.byte_string(payload.digest),
        bincode.u64(len(payload.signcrypted_ciphertexts)),
    ]
    for share in payload.signcrypted_ciphertexts:
        parts += (
            bincode.i32(share.fhe_type),
            bincode.byte_string(share.signcrypted_ciphertext),
            bincode.byte_string(share.external_handle),
            bincode.u32(share.packing_factor),
        )
    parts += (bincode.u32(payload.party_id), bincode.u32(payload.degree))
    return b"".join(parts)


def decode(share: bytes) -> SharePayload:
    """The payload in a share's bytes. Raises WireError for truncated or left-over bytes."""
    reader = bincode.BincodeReader(share)
    verification_key, digest = reader.byte_string(), reader.byte_string()
    ciphertexts = tuple(
        # Arguments are read in this order; each takes bytes, so a wild count ends at the end of the data.
        [
            SigncryptedCiphertext(reader.i32(), reader.byte_string(), reader.byte_string(), reader.u32())
            for _ in range(reader.u64())
        ]
    )
    payload = SharePayload(verification_key, digest, ciphertexts, reader.u32(), reader.u32())
    reader.end()
    return payload
