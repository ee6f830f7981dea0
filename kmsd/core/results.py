"""Checks of the Core's results before they are stored (WK6, decisions.md 19; shapes of wire/kms-core.md 4).

Pure. Each function takes the reply and what was asked, and returns a `Result`, or raises ResultRejected. A shape that
is not understood is a rejection, never an omission. The signature is recovered over exactly what will go on chain.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from kmsd.core.pb.kms import v1 as kms
from kmsd.wire import ids, plaintexts, shares, signatures
from kmsd.wire.addresses import to_checksum
from kmsd.wire.eip712 import Domain
from kmsd.wire.errors import WireError
from kmsd.wire.handles import fhe_type_of
from kmsd.wire.v0_11 import typed_data
from kmsd.wire.v0_11.structs import CORE_KEY_TYPES, KeyDigest, KeyType

MAX_PARTIES = 1024
"""Party numbers and sharing degrees above this are nonsense."""


class ResultRejected(Exception):
    """A result of the Core that must not be stored; `reason` says what is wrong with it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@attrs.frozen
class Result:
    """A verified result: the response table's columns by name, and who signed it (20 bytes)."""

    fields: Mapping[str, Any]
    signer: bytes


def public_decryption(
    reply: kms.PublicDecryptionResponse,
    *,
    request_id: int,
    handles: Sequence[bytes],
    extra_data: bytes,
    domain: Domain,
    expected_signer: bytes | None,
) -> Result:
    """Check a PublicDecryptionResponse. Fields: decrypted_result, signature, extra_data.

    `handles` in the order of the request; each plaintext must have its handle's type and fit into it.
    """
    payload = reply.payload
    if payload is None:
        raise ResultRejected("the response has no payload")
    _same_id("request id", payload.request_id, request_id)
    if len(payload.plaintexts) != len(handles):
        raise ResultRejected(f"{len(payload.plaintexts)} plaintexts for {len(handles)} handles")
    for position, (plaintext, handle) in enumerate(zip(payload.plaintexts, handles, strict=True)):
        _same_type(position, plaintext.fhe_type, handle)
        width = fhe_type_of(handle).plaintext_bytes
        if any(plaintext.bytes[width:]):
            raise ResultRejected(f"plaintext {position} does not fit into the {width} bytes of its type")
    _extra_data(reply.extra_data, extra_data)
    try:
        decrypted_result = plaintexts.encode(payload.plaintexts)
    except WireError as error:
        raise ResultRejected(str(error)) from error
    digest = typed_data.public_decryption_digest(domain, handles, decrypted_result, reply.extra_data)
    signer = _signer(digest, reply.external_signature, expected_signer)
    fields = {
        "decrypted_result": decrypted_result,
        "signature": reply.external_signature,
        "extra_data": reply.extra_data,
    }
    return Result(fields, signer)


def user_decryption(
    reply: kms.UserDecryptionResponse,
    *,
    handles: Sequence[bytes],
    user_address: bytes,
    public_key: bytes,
    extra_data: bytes,
    domain: Domain,
    expected_signer: bytes | None,
) -> Result:
    """Check a UserDecryptionResponse. Fields: user_decrypted_shares, signature, extra_data.

    The reply carries no request id: its `digest` (the linker) ties it to key, handles and user.
    """
    payload = reply.payload
    if payload is None:
        raise ResultRejected("the response has no payload")
    if payload.digest != typed_data.user_decryption_linker(domain, public_key, handles, user_address):
        raise ResultRejected("the linker digest is not that of this key, these handles and this user")
    if len(payload.signcrypted_ciphertexts) != len(handles):
        raise ResultRejected(f"{len(payload.signcrypted_ciphertexts)} shares for {len(handles)} handles")
    for position, (share, handle) in enumerate(zip(payload.signcrypted_ciphertexts, handles, strict=True)):
        if share.external_handle != handle:
            raise ResultRejected(f"share {position} is of another handle")
        _same_type(position, share.fhe_type, handle)
        if not share.signcrypted_ciphertext:
            raise ResultRejected(f"share {position} is empty")
        if share.packing_factor == 0:
            raise ResultRejected(f"share {position} has packing factor 0")
    if not payload.verification_key:
        raise ResultRejected("the response has no verification key")
    if not 1 <= payload.party_id <= MAX_PARTIES or payload.degree >= MAX_PARTIES:
        raise ResultRejected(f"party {payload.party_id} with degree {payload.degree} cannot be")
    _extra_data(reply.extra_data, extra_data)
    try:
        user_decrypted_shares = shares.encode(payload)
    except WireError as error:
        raise ResultRejected(str(error)) from error
    digest = typed_data.user_decryption_digest(domain, public_key, handles, user_decrypted_shares, reply.extra_data)
    signer = _signer(digest, reply.external_signature, expected_signer)
    fields = {
        "user_decrypted_shares": user_decrypted_shares,
        "signature": reply.external_signature,
        "extra_data": reply.extra_data,
    }
    return Result(fields, signer)


def prep_keygen(
    reply: kms.KeyGenPreprocResult, *, prep_keygen_id: int, domain: Domain, expected_signer: bytes | None
) -> Result:
    """Check a KeyGenPreprocResult. Fields: signature."""
    _same_id("preprocessing id", reply.preprocessing_id, prep_keygen_id)
    digest = typed_data.prep_keygen_digest(domain, prep_keygen_id)
    return Result({"signature": reply.external_signature}, _signer(digest, reply.external_signature, expected_signer))


def keygen(
    reply: kms.KeyGenResult, *, key_id: int, prep_keygen_id: int, domain: Domain, expected_signer: bytes | None
) -> Result:
    """Check a KeyGenResult. Fields: key_digests (tuple of KeyDigest, in the signed order), signature."""
    _same_id("key id", reply.request_id, key_id)
    _same_id("preprocessing id", reply.preprocessing_id, prep_keygen_id)
    digests = _key_digests(reply.key_digests)
    digest = typed_data.keygen_digest(domain, prep_keygen_id, key_id, digests)
    signer = _signer(digest, reply.external_signature, expected_signer)
    return Result({"key_digests": digests, "signature": reply.external_signature}, signer)


def crsgen(
    reply: kms.CrsGenResult, *, crs_id: int, max_bit_length: int, domain: Domain, expected_signer: bytes | None
) -> Result:
    """Check a CrsGenResult. Fields: crs_digest, signature."""
    _same_id("CRS id", reply.request_id, crs_id)
    if reply.max_num_bits != max_bit_length:
        raise ResultRejected(f"the CRS is for {reply.max_num_bits} bits, {max_bit_length} were asked for")
    if len(reply.crs_digest) != 32:
        raise ResultRejected(f"the CRS digest has {len(reply.crs_digest)} bytes, not 32")
    digest = typed_data.crsgen_digest(domain, crs_id, max_bit_length, reply.crs_digest)
    signer = _signer(digest, reply.external_signature, expected_signer)
    return Result({"crs_digest": reply.crs_digest, "signature": reply.external_signature}, signer)


def resharing(
    reply: kms.ResharingResultResponse,
    *,
    key_reshare_id: int,
    key_id: int,
    prep_keygen_id: int,
    domain: Domain,
    expected_signer: bytes | None,
) -> Result:
    """Check a ResharingResultResponse. It has no response on chain, so there are no fields, only the signer."""
    _same_id("reshare id", reply.request_id, key_reshare_id)
    _same_id("key id", reply.key_id, key_id)
    _same_id("preprocessing id", reply.preprocessing_id, prep_keygen_id)
    digests = _key_digests(reply.key_digests)
    digest = typed_data.keygen_digest(domain, prep_keygen_id, key_id, digests)
    return Result({}, _signer(digest, reply.external_signature, expected_signer))


def _same_id(what: str, found: kms.RequestId | None, expected: int) -> None:
    if found is None:
        raise ResultRejected(f"the {what} is missing")
    try:
        same = ids.from_core(found.request_id) == expected
    except WireError as error:
        raise ResultRejected(f"the {what} is no id: {error}") from error
    if not same:
        raise ResultRejected(f"the {what} is {found.request_id}, not {ids.to_core(expected)}")


def _same_type(position: int, found: int, handle: bytes) -> None:
    if found != handle[30]:
        raise ResultRejected(f"value {position} has FHE type {found}, its handle says {handle[30]}")


def _extra_data(found: bytes, asked: bytes) -> None:
    """v0.13.0-rc.1 answers with none; later Cores echo the request's."""
    if found and found != asked:
        raise ResultRejected("the extra data is neither empty nor that of the request")


def _key_digests(found: Sequence[kms.KeyDigest]) -> tuple[KeyDigest, ...]:
    digests: list[KeyDigest] = []
    for part in found:
        key_type = CORE_KEY_TYPES.get(part.key_type)
        if key_type is None:
            raise ResultRejected(f"unknown key type {part.key_type[:40]!r}")
        if len(part.digest) != 32:
            raise ResultRejected(f"the digest of {part.key_type} has {len(part.digest)} bytes, not 32")
        digests.append(KeyDigest(key_type, part.digest))
    if sorted(part.key_type for part in digests) != [KeyType.SERVER, KeyType.PUBLIC]:
        names = ", ".join(part.key_type for part in found) or "none"
        raise ResultRejected(f"digests of ServerKey and PublicKey are needed, the result has: {names}")
    return tuple(digests)


def _signer(digest: bytes, signature: bytes, expected: bytes | None) -> bytes:
    try:
        signer = signatures.recover(digest, signature)
    except WireError as error:
        raise ResultRejected(f"the signature is unusable: {error}") from error
    if expected is not None and signer != expected:
        raise ResultRejected(f"signed by {to_checksum(signer)}, expected {to_checksum(expected)}")
    return signer
