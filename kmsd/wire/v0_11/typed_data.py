"""The EIP-712 digests of era v0.11: five answers, two requests, and the linker of a user's share.

Each gives the 32 bytes that are signed. Domains (wire/gateway.md 4): answers are signed in the domain of the contract
that takes them, with the Gateway's chain id; requests of users in the domain of Decryption with the *host* chain's id.
The digest of a decryption does not hold its id.
"""

from collections.abc import Iterable

from kmsd.wire.eip712 import (
    Domain,
    address_array_word,
    address_word,
    bytes32_array_word,
    bytes_word,
    struct_hash,
    typehash,
    uint_word,
)
from kmsd.wire.v0_11.structs import KeyDigest

PUBLIC_DECRYPT_VERIFICATION = typehash(
    "PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult,bytes extraData)"
)
USER_DECRYPT_RESPONSE_VERIFICATION = typehash(
    "UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare,bytes extraData)"
)
USER_DECRYPTION_LINKER = typehash("UserDecryptionLinker(bytes publicKey,bytes32[] handles,address userAddress)")
PREP_KEYGEN_VERIFICATION = typehash("PrepKeygenVerification(uint256 prepKeygenId)")
KEY_DIGEST = typehash("KeyDigest(uint8 keyType,bytes digest)")
KEYGEN_VERIFICATION = typehash(
    "KeygenVerification(uint256 prepKeygenId,uint256 keyId,KeyDigest[] keyDigests)KeyDigest(uint8 keyType,bytes digest)"
)
CRSGEN_VERIFICATION = typehash("CrsgenVerification(uint256 crsId,uint256 maxBitLength,bytes crsDigest)")
USER_DECRYPT_REQUEST_VERIFICATION = typehash(
    "UserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,uint256 startTimestamp,"
    "uint256 durationDays,bytes extraData)"
)
DELEGATED_USER_DECRYPT_REQUEST_VERIFICATION = typehash(
    "DelegatedUserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,address delegatorAddress,"
    "uint256 startTimestamp,uint256 durationDays,bytes extraData)"
)

# ---------------------------------------------------------------------------------------------------------------------
# Answers


def public_decryption_digest(
    domain: Domain, ct_handles: Iterable[bytes], decrypted_result: bytes, extra_data: bytes
) -> bytes:
    """What a party signs for a public decryption. Handles in the order of the request; `extra_data` of the answer."""
    return domain.digest(
        struct_hash(
            PUBLIC_DECRYPT_VERIFICATION,
            bytes32_array_word(ct_handles),
            bytes_word(decrypted_result),
            bytes_word(extra_data),
        )
    )


def user_decryption_digest(
    domain: Domain, public_key: bytes, ct_handles: Iterable[bytes], user_decrypted_share: bytes, extra_data: bytes
) -> bytes:
    """What a party signs for its share. Key and handles of the request, in its order; `extra_data` of the answer."""
    return domain.digest(
        struct_hash(
            USER_DECRYPT_RESPONSE_VERIFICATION,
            bytes_word(public_key),
            bytes32_array_word(ct_handles),
            bytes_word(user_decrypted_share),
            bytes_word(extra_data),
        )
    )


def user_decryption_linker(domain: Domain, public_key: bytes, handles: Iterable[bytes], user_address: bytes) -> bytes:
    """The `digest` inside a share: it ties the share to key, handles and user (wire/kms-core.md 5)."""
    return domain.digest(
        struct_hash(
            USER_DECRYPTION_LINKER, bytes_word(public_key), bytes32_array_word(handles), address_word(user_address)
        )
    )


def prep_keygen_digest(domain: Domain, prep_keygen_id: int) -> bytes:
    """What a party signs for a prep keygen."""
    return domain.digest(struct_hash(PREP_KEYGEN_VERIFICATION, uint_word(prep_keygen_id)))


def keygen_digest(domain: Domain, prep_keygen_id: int, key_id: int, key_digests: Iterable[KeyDigest]) -> bytes:
    """What a party signs for a keygen. The order of the digests is part of it."""
    digests = b"".join(
        struct_hash(KEY_DIGEST, uint_word(part.key_type), bytes_word(part.digest)) for part in key_digests
    )
    return domain.digest(
        struct_hash(KEYGEN_VERIFICATION, uint_word(prep_keygen_id), uint_word(key_id), bytes_word(digests))
    )


def crsgen_digest(domain: Domain, crs_id: int, max_bit_length: int, crs_digest: bytes) -> bytes:
    """What a party signs for a crsgen; `max_bit_length` as in the request (wire/gateway.md 4)."""
    return domain.digest(
        struct_hash(CRSGEN_VERIFICATION, uint_word(crs_id), uint_word(max_bit_length), bytes_word(crs_digest))
    )


# ---------------------------------------------------------------------------------------------------------------------
# Requests of users


def user_request_digest(
    domain: Domain,
    public_key: bytes,
    contract_addresses: Iterable[bytes],
    start_timestamp: int,
    duration_days: int,
    extra_data: bytes,
) -> bytes:
    """What a user signs to ask for a decryption; `domain` with the host chain's id."""
    return domain.digest(
        struct_hash(
            USER_DECRYPT_REQUEST_VERIFICATION,
            bytes_word(public_key),
            address_array_word(contract_addresses),
            uint_word(start_timestamp),
            uint_word(duration_days),
            bytes_word(extra_data),
        )
    )


def delegated_user_request_digest(
    domain: Domain,
    public_key: bytes,
    contract_addresses: Iterable[bytes],
    delegator_address: bytes,
    start_timestamp: int,
    duration_days: int,
    extra_data: bytes,
) -> bytes:
    """What a delegate signs to ask for a decryption of the delegator's; `domain` with the host chain's id."""
    return domain.digest(
        struct_hash(
            DELEGATED_USER_DECRYPT_REQUEST_VERIFICATION,
            bytes_word(public_key),
            address_array_word(contract_addresses),
            address_word(delegator_address),
            uint_word(start_timestamp),
            uint_word(duration_days),
            bytes_word(extra_data),
        )
    )
