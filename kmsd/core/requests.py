"""Builders of every Core request from plain values (wire/kms-core.md 6, era v0.11).

Pure. Context and epoch ids stay absent in this era. Requests with ciphertexts are framed by hand and come in chunks, in
which the ciphertexts are the caller's own `bytes`: a message of 96 MiB is neither encoded nor copied, and one of 99 kB
costs a few microseconds instead of 150.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from kmsd.core.pb.kms import v1 as kms
from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.wire import ids
from kmsd.wire.addresses import to_checksum
from kmsd.wire.eip712 import Domain
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11.structs import CORE_KEY_TYPES, KeyDigest

_FORMATS = {
    "compressed_on_cpu": CiphertextFormat.BigCompressed,
    "compressed_on_gpu": CiphertextFormat.BigCompressed,
    "uncompressed_on_cpu": CiphertextFormat.BigExpanded,
    "uncompressed_on_gpu": CiphertextFormat.BigExpanded,
}
_CORE_KEY_NAMES = {key_type: name for name, key_type in CORE_KEY_TYPES.items()}


class Ciphertext(NamedTuple):
    """One ciphertext to decrypt: its 32-byte handle, the object's bytes, and the format its bucket named."""

    handle: bytes
    body: bytes
    format: CiphertextFormat


def ciphertext_format(header: str | None) -> CiphertextFormat | None:
    """The format that an `x-amz-meta-Ct-Format` header names; None if it is absent or unknown.

    The caller then asks another bucket, and takes BigExpanded only if none names one (decisions.md 19a): a wrong format
    makes the Core burn the id.
    """
    return _FORMATS.get(header) if header is not None else None


def public_decryption(
    request_id: int, ciphertexts: Sequence[Ciphertext], key_id: int, domain: Domain, extra_data: bytes
) -> Sequence[bytes]:
    """PublicDecryptionRequest in chunks. `extra_data` are the event's bytes as they are."""
    message = _Chunks()
    message.nested(1, _request_id(request_id))
    for ciphertext in ciphertexts:
        message.ciphertext(2, ciphertext)
    message.nested(3, _request_id(key_id))
    message.nested(4, _domain(domain))
    message.scalar(5, extra_data)
    return message.finish()


def user_decryption(
    request_id: int,
    ciphertexts: Sequence[Ciphertext],
    key_id: int,
    domain: Domain,
    extra_data: bytes,
    user_address: bytes,
    public_key: bytes,
) -> Sequence[bytes]:
    """UserDecryptionRequest in chunks. `public_key` is the event's, verbatim; `user_address` has 20 bytes."""
    message = _Chunks()
    message.nested(1, _request_id(request_id))
    for ciphertext in ciphertexts:
        message.ciphertext(2, ciphertext)
    message.nested(3, _request_id(key_id))
    message.scalar(4, to_checksum(user_address).encode())
    message.scalar(5, public_key)
    message.nested(6, _domain(domain))
    message.scalar(7, extra_data)
    return message.finish()


def key_gen_preproc(prep_keygen_id: int, params_type: int, domain: Domain) -> bytes:
    """KeyGenPreprocRequest. The event's epoch id is not forwarded in this era."""
    return bytes(
        kms.KeyGenPreprocRequest(
            request_id=_id_message(prep_keygen_id),
            params=kms.FheParameter(params_type),
            domain=domain_message(domain),
        )
    )


def key_gen(key_id: int, prep_keygen_id: int, domain: Domain) -> bytes:
    """KeyGenRequest. `params` stays absent: the Core takes those of the preprocessing."""
    return bytes(
        kms.KeyGenRequest(
            request_id=_id_message(key_id), preproc_id=_id_message(prep_keygen_id), domain=domain_message(domain)
        )
    )


def crs_gen(crs_id: int, max_bit_length: int, params_type: int, domain: Domain) -> bytes:
    """CrsGenRequest. `max_num_bits` is present even when it is 0."""
    return bytes(
        kms.CrsGenRequest(
            request_id=_id_message(crs_id),
            params=kms.FheParameter(params_type),
            max_num_bits=ids.max_num_bits(max_bit_length),
            domain=domain_message(domain),
        )
    )


def init() -> bytes:
    """InitRequest (PRSS), always with id 1, whatever the event."""
    return bytes(kms.InitRequest(request_id=_id_message(ids.PRSS_INIT_ID)))


def initiate_resharing(
    key_reshare_id: int,
    key_id: int,
    prep_keygen_id: int,
    params_type: int,
    domain: Domain,
    key_digests: Iterable[KeyDigest],
) -> bytes:
    """InitiateResharingRequest with the key's digests, without which the Core fails (decisions.md 17).

    Raises WireError for a key type that the Core has no name for.
    """
    digests = [kms.KeyDigest(key_type=core_key_name(part.key_type), digest=part.digest) for part in key_digests]
    return bytes(
        kms.InitiateResharingRequest(
            request_id=_id_message(key_reshare_id),
            key_id=_id_message(key_id),
            key_parameters=kms.FheParameter(params_type),
            domain=domain_message(domain),
            preproc_id=_id_message(prep_keygen_id),
            key_digests=digests,
        )
    )


def poll(request_id: int) -> bytes:
    """The body of every `Get…Result`: a RequestId."""
    return _request_id(request_id)


def core_key_name(key_type: int) -> str:
    """The Core's text for a `KeyType`. Raises WireError for a type without one."""
    for known, name in _CORE_KEY_NAMES.items():
        if known == key_type:
            return name
    raise WireError(f"the Core has no name for key type {key_type}")


def domain_message(domain: Domain) -> kms.Eip712DomainMsg:
    """The domain as the Core takes it: chain id in 32 bytes, contract in EIP-55 form, no salt."""
    return kms.Eip712DomainMsg(
        name=domain.name,
        version=domain.version,
        chain_id=domain.chain_id.to_bytes(32, "big"),
        verifying_contract=to_checksum(domain.verifying_contract),
    )


def _id_message(id_: int) -> kms.RequestId:
    return kms.RequestId(request_id=ids.to_core(id_))


def _request_id(id_: int) -> bytes:
    return b"\x0a\x40" + ids.to_core(id_).encode()


@lru_cache(maxsize=16)
def _domain(domain: Domain) -> bytes:
    return bytes(domain_message(domain))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field with its tag; field numbers up to 15."""
    return bytes((number << 3 | 2,)) + _varint(len(payload)) + payload


class _Chunks:
    """Collects a message: small fields are joined, ciphertexts stay chunks of their own."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._small: list[bytes] = []

    def nested(self, number: int, message: bytes) -> None:
        """A message field; present even if empty."""
        self._small.append(_field(number, message))

    def scalar(self, number: int, value: bytes) -> None:
        """A bytes or string field; absent if empty, as proto3 has it."""
        if value:
            self._small.append(_field(number, value))

    def ciphertext(self, number: int, ciphertext: Ciphertext) -> None:
        """A TypedCiphertext; the FHE type is byte 30 of the handle."""
        if len(ciphertext.handle) != 32:
            raise WireError(f"a handle has 32 bytes, not {len(ciphertext.handle)}")
        fhe_type = ciphertext.handle[30]
        head = b"\x0a" + _varint(len(ciphertext.body)) if ciphertext.body else b""
        tail = b"\x10" + _varint(fhe_type) if fhe_type else b""
        tail += _field(3, ciphertext.handle)
        if ciphertext.format:
            tail += b"\x20" + _varint(int(ciphertext.format))
        size = len(head) + len(ciphertext.body) + len(tail)
        self._small += (bytes((number << 3 | 2,)), _varint(size), head)
        self._flush()
        self._chunks.append(ciphertext.body)
        self._small.append(tail)

    def finish(self) -> Sequence[bytes]:
        """The whole message."""
        self._flush()
        return tuple(self._chunks)

    def _flush(self) -> None:
        if self._small:
            self._chunks.append(b"".join(self._small))
            self._small.clear()
