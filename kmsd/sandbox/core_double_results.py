"""Results of the Core double: real shapes, real sizes, real EIP-712 signatures over empty extraData, empty extra_data.

What a committee has to agree on (plaintexts, digests of keys and of the CRS) depends on the request alone; scripted
parties of the sandbox use the same functions.
"""

import hashlib
from collections.abc import Sequence

import coincurve

from kmsd.core.pb.kms import v1 as kms
from kmsd.sandbox.ciphertexts import read_fake_ciphertext
from kmsd.sandbox.core_double_requests import Ciphertext, Decryption
from kmsd.wire import bincode, ids, plaintexts, shares
from kmsd.wire.eip712 import Domain
from kmsd.wire.handles import DECRYPTABLE, FHE_TYPES
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import typed_data
from kmsd.wire.v0_11.structs import KeyDigest, KeyType

_THRESHOLD_SHARE_BYTES = {0: 1032, 2: 1032, 3: 1032, 4: 1096, 5: 1224, 6: 1480, 7: 1608, 8: 1992}
"""Signcrypted bytes of one handle's share by FHE type (wire/kms-core.md 8)."""
_CENTRALIZED_SHARE_BASE = 960
_KEM_BYTES = 768


class Undecryptable(Exception):
    """The ciphertexts cannot be decrypted: the send succeeds, the poll is INTERNAL, the id is burnt."""


def key_digests(key_id: int) -> tuple[KeyDigest, ...]:
    """The digests of a sandbox key, in the Core's order."""
    seed = ids.to_chain(key_id)
    return (
        KeyDigest(KeyType.SERVER, keccak256(b"sandbox server key" + seed)),
        KeyDigest(KeyType.PUBLIC, keccak256(b"sandbox public key" + seed)),
    )


def crs_digest(crs_id: int, bits: int) -> bytes:
    """The digest of a sandbox CRS."""
    return keccak256(b"sandbox crs" + ids.to_chain(crs_id) + bits.to_bytes(4, "big"))


def clear_values(ciphertexts: Sequence[Ciphertext]) -> list[tuple[int, int]]:
    """(value, FHE type) of each. A value wider than its declared type is truncated, as the Core does it.

    Raises Undecryptable for garbage, a wrong format, a type that cannot be decrypted, or a bool that is none.
    """
    values: list[tuple[int, int]] = []
    for ciphertext in ciphertexts:
        fake = read_fake_ciphertext(ciphertext.head)
        if fake is None or fake.format != ciphertext.format or ciphertext.fhe_type not in DECRYPTABLE:
            raise Undecryptable
        if len(ciphertext.handle) > 32 or (ciphertext.fhe_type == 0) != (fake.fhe_type == 0):
            raise Undecryptable
        width = FHE_TYPES[ciphertext.fhe_type].plaintext_bytes
        values.append((fake.value % (1 << 8 * width), ciphertext.fhe_type))
    return values


class Signer:
    """The party's signing key and its place in the committee."""

    def __init__(self, private_key: bytes, *, party_id: int, degree: int, centralized: bool) -> None:
        self._key = coincurve.PrivateKey(private_key)
        self.party_id = 1 if centralized else party_id
        self.degree = 0 if centralized else degree
        self.centralized = centralized
        compressed = self._key.public_key.format(compressed=True)
        self.verification_key = len(compressed).to_bytes(8, "little") + compressed
        self.address = keccak256(self._key.public_key.format(compressed=False)[1:])[12:]

    def sign(self, digest: bytes) -> bytes:
        """65 bytes r ‖ s ‖ v, low s, v 27 or 28."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return bytes(signature[:64]) + bytes((signature[64] + 27,))

    def public_bytes(self, request: Decryption) -> bytes:
        """The signed and encoded answer to a public decryption, laid out by hand for speed. Raises Undecryptable."""
        parts = [_field(1, self.verification_key)]
        words = []
        for value, kind in clear_values(request.ciphertexts):
            plaintext = _field(1, value.to_bytes(FHE_TYPES[kind].plaintext_bytes, "little"))
            parts.append(_field(2, plaintext + bytes((0x10, kind)) if kind else plaintext))
            words.append(value.to_bytes(32, "big"))
        parts.append(_field(3, _field(1, ids.to_core(request.request_id).encode())))
        digest = typed_data.public_decryption_digest(request.domain, _handles(request), b"".join(words), b"")
        return self._signed_bytes(b"".join(parts), digest)

    def user_bytes(self, request: Decryption) -> bytes:
        """The signed and encoded answer to a user decryption, laid out by hand for speed. Raises Undecryptable."""
        handles = _handles(request)
        linker = typed_data.user_decryption_linker(request.domain, request.enc_key, handles, request.client)
        parts = [_field(1, self.verification_key), _field(2, linker)]
        share = [bincode.byte_string(self.verification_key), bincode.byte_string(linker)]
        share.append(bincode.u64(len(request.ciphertexts)))
        values = clear_values(request.ciphertexts)
        for ciphertext, (value, kind) in zip(request.ciphertexts, values, strict=True):
            secret = self.signcrypted(ciphertext.handle, value, kind)
            packing = 1 if self.centralized or kind == 0 else 2
            head = bytes((0x08, kind)) if kind else b""
            parts.append(_field(3, head + _field(2, secret) + _field(3, ciphertext.handle) + bytes((0x20, packing))))
            share += (bincode.i32(kind), bincode.byte_string(secret), bincode.byte_string(ciphertext.handle))
            share.append(bincode.u32(packing))
        parts.append(bytes((0x20,)) + _varint(self.party_id))
        if self.degree:
            parts.append(bytes((0x28,)) + _varint(self.degree))
        share += (bincode.u32(self.party_id), bincode.u32(self.degree))
        digest = typed_data.user_decryption_digest(request.domain, request.enc_key, handles, b"".join(share), b"")
        return self._signed_bytes(b"".join(parts), digest)

    def _signed_bytes(self, payload: bytes, digest: bytes) -> bytes:
        signature = self.sign(digest)
        # The Core signs its payload a second time for itself; nobody outside reads that, so the length is enough.
        return _field(1, signature[:64]) + _field(2, signature) + _field(3, payload)

    def public_reply(self, request: Decryption) -> kms.PublicDecryptionResponse:
        """The unsigned answer to a public decryption as a message, to be spoilt. Raises Undecryptable."""
        values = clear_values(request.ciphertexts)
        typed = [
            kms.TypedPlaintext(bytes=value.to_bytes(FHE_TYPES[kind].plaintext_bytes, "little"), fhe_type=kind)
            for value, kind in values
        ]
        payload = kms.PublicDecryptionResponsePayload(
            verification_key=self.verification_key,
            plaintexts=typed,
            request_id=kms.RequestId(request_id=ids.to_core(request.request_id)),
        )
        return kms.PublicDecryptionResponse(payload=payload)

    def sign_public(self, reply: kms.PublicDecryptionResponse, request: Decryption) -> None:
        """Sign what the reply says."""
        assert reply.payload is not None
        result = plaintexts.encode(reply.payload.plaintexts)
        digest = typed_data.public_decryption_digest(request.domain, _handles(request), result, b"")
        self._fill(reply, digest)

    def user_reply(self, request: Decryption) -> kms.UserDecryptionResponse:
        """The unsigned answer to a user decryption as a message, to be spoilt. Raises Undecryptable."""
        values = clear_values(request.ciphertexts)
        typed = [
            kms.TypedSigncryptedCiphertext(
                fhe_type=kind,
                signcrypted_ciphertext=self.signcrypted(ciphertext.handle, value, kind),
                external_handle=ciphertext.handle,
                packing_factor=1 if self.centralized or kind == 0 else 2,
            )
            for ciphertext, (value, kind) in zip(request.ciphertexts, values, strict=True)
        ]
        linker = typed_data.user_decryption_linker(request.domain, request.enc_key, _handles(request), request.client)
        payload = kms.UserDecryptionResponsePayload(
            verification_key=self.verification_key,
            digest=linker,
            signcrypted_ciphertexts=typed,
            party_id=self.party_id,
            degree=self.degree,
        )
        return kms.UserDecryptionResponse(payload=payload)

    def sign_user(self, reply: kms.UserDecryptionResponse, request: Decryption) -> None:
        """Sign what the reply says."""
        assert reply.payload is not None
        share = shares.encode(reply.payload)
        digest = typed_data.user_decryption_digest(request.domain, request.enc_key, _handles(request), share, b"")
        self._fill(reply, digest)

    def preproc_result(self, prep_keygen_id: int, domain: Domain) -> kms.KeyGenPreprocResult:
        """The answer to a preparation."""
        return kms.KeyGenPreprocResult(
            preprocessing_id=_id(prep_keygen_id),
            external_signature=self.sign(typed_data.prep_keygen_digest(domain, prep_keygen_id)),
        )

    def keygen_result(self, key_id: int, prep_keygen_id: int, domain: Domain) -> kms.KeyGenResult:
        """The answer to a keygen."""
        digests = key_digests(key_id)
        return kms.KeyGenResult(
            request_id=_id(key_id),
            preprocessing_id=_id(prep_keygen_id),
            key_digests=_digest_messages(digests),
            external_signature=self.sign(typed_data.keygen_digest(domain, prep_keygen_id, key_id, digests)),
        )

    def crs_result(self, crs_id: int, bits: int, domain: Domain) -> kms.CrsGenResult:
        """The answer to a crsgen."""
        digest = crs_digest(crs_id, bits)
        return kms.CrsGenResult(
            request_id=_id(crs_id),
            crs_digest=digest,
            max_num_bits=bits,
            external_signature=self.sign(typed_data.crsgen_digest(domain, crs_id, bits, digest)),
        )

    def reshare_result(
        self, reshare_id: int, key_id: int, prep_keygen_id: int, domain: Domain
    ) -> kms.ResharingResultResponse:
        """The answer to a re-sharing: the key's digests, signed as for its keygen."""
        digests = key_digests(key_id)
        return kms.ResharingResultResponse(
            request_id=_id(reshare_id),
            key_id=_id(key_id),
            preprocessing_id=_id(prep_keygen_id),
            key_digests=_digest_messages(digests),
            external_signature=self.sign(typed_data.keygen_digest(domain, prep_keygen_id, key_id, digests)),
        )

    def _fill(self, reply: kms.PublicDecryptionResponse | kms.UserDecryptionResponse, digest: bytes) -> None:
        reply.external_signature = self.sign(digest)
        reply.signature = reply.external_signature[:64]

    def signcrypted(self, handle: bytes, value: int, kind: int) -> bytes:
        """One handle's share: nonce ‖ u64 ‖ KEM ciphertext ‖ u64 ‖ box; the box begins with the value (LE)."""
        size = _CENTRALIZED_SHARE_BASE + FHE_TYPES[kind].plaintext_bytes
        if not self.centralized:
            size = _THRESHOLD_SHARE_BYTES[kind]
        noise = hashlib.shake_128(handle + self.party_id.to_bytes(4, "big")).digest(size)
        box = size - 12 - 8 - _KEM_BYTES - 8
        return b"".join(
            (
                noise[:12],
                _KEM_BYTES.to_bytes(8, "little"),
                noise[12 : 12 + _KEM_BYTES],
                box.to_bytes(8, "little"),
                value.to_bytes(32, "little"),
                noise[size - box + 32 :],
            )
        )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes((number << 3 | 2,)) + _varint(len(payload)) + payload


def _handles(request: Decryption) -> list[bytes]:
    return [ciphertext.handle.rjust(32, b"\0") for ciphertext in request.ciphertexts]


def _id(number: int) -> kms.RequestId:
    return kms.RequestId(request_id=ids.to_core(number))


def _digest_messages(digests: Sequence[KeyDigest]) -> list[kms.KeyDigest]:
    names = {KeyType.SERVER: "ServerKey", KeyType.PUBLIC: "PublicKey"}
    return [kms.KeyDigest(key_type=names[KeyType(part.key_type)], digest=part.digest) for part in digests]
