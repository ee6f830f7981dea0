"""Transactions of era v0.11: the five answers, the requests whose calldata matters, and the owner's commands.

Builders give the calldata of an answer; `decode_call` and `decode_user_request` read calldata. The views are in
`kmsd.wire.v0_11.views`. (wire/gateway.md 2.2, 2.3)
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from kmsd.wire.abi import ADDRESS, BYTES, BYTES32, UINT256, array, struct
from kmsd.wire.contract import Function, transaction
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11.structs import (
    CONTRACTS_INFO,
    DELEGATION_ACCOUNTS,
    HANDLE_CONTRACT_PAIRS,
    KEY_DIGESTS,
    PARAMS_TYPE,
    REQUEST_VALIDITY,
    ContractsInfo,
    DelegationAccounts,
    HandleContractPair,
    KeyDigest,
    RequestValidity,
)

# ---------------------------------------------------------------------------------------------------------------------
# Answers


class PublicDecryptionResponseArgs(NamedTuple):
    """Arguments of `publicDecryptionResponse`."""

    decryption_id: int
    decrypted_result: bytes
    signature: bytes
    extra_data: bytes


class UserDecryptionResponseArgs(NamedTuple):
    """Arguments of `userDecryptionResponse`."""

    decryption_id: int
    user_decrypted_share: bytes
    signature: bytes
    extra_data: bytes


class PrepKeygenResponseArgs(NamedTuple):
    """Arguments of `prepKeygenResponse`."""

    prep_keygen_id: int
    signature: bytes


class KeygenResponseArgs(NamedTuple):
    """Arguments of `keygenResponse`."""

    key_id: int
    key_digests: tuple[KeyDigest, ...]
    signature: bytes


class CrsgenResponseArgs(NamedTuple):
    """Arguments of `crsgenResponse`."""

    crs_id: int
    crs_digest: bytes
    signature: bytes


PUBLIC_DECRYPTION_RESPONSE = transaction(
    "publicDecryptionResponse", struct(PublicDecryptionResponseArgs, UINT256, BYTES, BYTES, BYTES)
)
USER_DECRYPTION_RESPONSE = transaction(
    "userDecryptionResponse", struct(UserDecryptionResponseArgs, UINT256, BYTES, BYTES, BYTES)
)
PREP_KEYGEN_RESPONSE = transaction("prepKeygenResponse", struct(PrepKeygenResponseArgs, UINT256, BYTES))
KEYGEN_RESPONSE = transaction("keygenResponse", struct(KeygenResponseArgs, UINT256, KEY_DIGESTS, BYTES))
CRSGEN_RESPONSE = transaction("crsgenResponse", struct(CrsgenResponseArgs, UINT256, BYTES, BYTES))


def public_decryption_response(
    decryption_id: int, decrypted_result: bytes, signature: bytes, extra_data: bytes
) -> bytes:
    """Calldata of the answer to a public decryption. `extra_data` is the Core's, never the event's (gateway.md 10)."""
    return PUBLIC_DECRYPTION_RESPONSE.encode(decryption_id, decrypted_result, signature, extra_data)


def user_decryption_response(
    decryption_id: int, user_decrypted_share: bytes, signature: bytes, extra_data: bytes
) -> bytes:
    """Calldata of the answer to a user decryption. `extra_data` is the Core's, never the event's (gateway.md 10)."""
    return USER_DECRYPTION_RESPONSE.encode(decryption_id, user_decrypted_share, signature, extra_data)


def prep_keygen_response(prep_keygen_id: int, signature: bytes) -> bytes:
    """Calldata of the answer to a prep keygen."""
    return PREP_KEYGEN_RESPONSE.encode(prep_keygen_id, signature)


def keygen_response(key_id: int, key_digests: Iterable[KeyDigest], signature: bytes) -> bytes:
    """Calldata of the answer to a keygen; the digests in the Core's order, which is signed.

    Raises WireError for a key type that this era's contract refuses.
    """
    return KEYGEN_RESPONSE.encode(key_id, tuple(key_digests), signature)


def crsgen_response(crs_id: int, crs_digest: bytes, signature: bytes) -> bytes:
    """Calldata of the answer to a crsgen."""
    return CRSGEN_RESPONSE.encode(crs_id, crs_digest, signature)


# ---------------------------------------------------------------------------------------------------------------------
# Requests of users


class PublicDecryptionRequestArgs(NamedTuple):
    """Arguments of `publicDecryptionRequest`."""

    ct_handles: tuple[bytes, ...]
    extra_data: bytes


class UserDecryptionRequestArgs(NamedTuple):
    """Arguments of `userDecryptionRequest`; `signature` is the user's."""

    ct_handle_contract_pairs: tuple[HandleContractPair, ...]
    request_validity: RequestValidity
    contracts_info: ContractsInfo
    user_address: bytes
    public_key: bytes
    signature: bytes
    extra_data: bytes


class DelegatedUserDecryptionRequestArgs(NamedTuple):
    """Arguments of `delegatedUserDecryptionRequest`; `signature` is the delegate's."""

    ct_handle_contract_pairs: tuple[HandleContractPair, ...]
    request_validity: RequestValidity
    delegation_accounts: DelegationAccounts
    contracts_info: ContractsInfo
    public_key: bytes
    signature: bytes
    extra_data: bytes


UserRequest = UserDecryptionRequestArgs | DelegatedUserDecryptionRequestArgs

PUBLIC_DECRYPTION_REQUEST = transaction(
    "publicDecryptionRequest", struct(PublicDecryptionRequestArgs, array(BYTES32), BYTES)
)
USER_DECRYPTION_REQUEST = transaction(
    "userDecryptionRequest",
    struct(
        UserDecryptionRequestArgs,
        HANDLE_CONTRACT_PAIRS,
        REQUEST_VALIDITY,
        CONTRACTS_INFO,
        ADDRESS,
        BYTES,
        BYTES,
        BYTES,
    ),
)
DELEGATED_USER_DECRYPTION_REQUEST = transaction(
    "delegatedUserDecryptionRequest",
    struct(
        DelegatedUserDecryptionRequestArgs,
        HANDLE_CONTRACT_PAIRS,
        REQUEST_VALIDITY,
        DELEGATION_ACCOUNTS,
        CONTRACTS_INFO,
        BYTES,
        BYTES,
        BYTES,
    ),
)


def decode_user_request(calldata: bytes) -> UserRequest:
    """The arguments of the transaction behind a user decryption; the selector says which of the two forms it is.

    Raises WireError for any other calldata.
    """
    selector = calldata[:4]
    if selector == USER_DECRYPTION_REQUEST.selector:
        return USER_DECRYPTION_REQUEST.decode(calldata)
    if selector == DELEGATED_USER_DECRYPTION_REQUEST.selector:
        return DELEGATED_USER_DECRYPTION_REQUEST.decode(calldata)
    raise WireError(f"no user decryption request: selector 0x{selector.hex()}")


# ---------------------------------------------------------------------------------------------------------------------
# The owner's commands of key management


class KeygenArgs(NamedTuple):
    """Arguments of `keygen`; `params_type` as in `ParamsType`."""

    params_type: int


class CrsgenRequestArgs(NamedTuple):
    """Arguments of `crsgenRequest`."""

    max_bit_length: int
    params_type: int


class PrssInitArgs(NamedTuple):
    """`prssInit` has no arguments."""


class KeyReshareSameSetArgs(NamedTuple):
    """Arguments of `keyReshareSameSet`."""

    key_id: int


KEYGEN = transaction("keygen", struct(KeygenArgs, PARAMS_TYPE))
CRSGEN_REQUEST = transaction("crsgenRequest", struct(CrsgenRequestArgs, UINT256, PARAMS_TYPE))
PRSS_INIT = transaction("prssInit", struct(PrssInitArgs))
KEY_RESHARE_SAME_SET = transaction("keyReshareSameSet", struct(KeyReshareSameSetArgs, UINT256))

# ---------------------------------------------------------------------------------------------------------------------
# Tables

RESPONSES: dict[str, Function[Any, Any]] = {
    f.name: f
    for f in (
        PUBLIC_DECRYPTION_RESPONSE,
        USER_DECRYPTION_RESPONSE,
        PREP_KEYGEN_RESPONSE,
        KEYGEN_RESPONSE,
        CRSGEN_RESPONSE,
    )
}
"""The five answers by name."""

FUNCTIONS: dict[bytes, Function[Any, Any]] = {
    f.selector: f
    for f in (
        *RESPONSES.values(),
        PUBLIC_DECRYPTION_REQUEST,
        USER_DECRYPTION_REQUEST,
        DELEGATED_USER_DECRYPTION_REQUEST,
        KEYGEN,
        CRSGEN_REQUEST,
        PRSS_INIT,
        KEY_RESHARE_SAME_SET,
    )
}
"""All functions of this module by selector."""


def decode_call(calldata: bytes) -> tuple[str, tuple[Any, ...]]:
    """Name and arguments (the function's `…Args` record) of a call. Raises WireError for an unknown selector."""
    function = FUNCTIONS.get(calldata[:4])
    if function is None:
        raise WireError(f"no function of era v0.11 has the selector 0x{calldata[:4].hex()}")
    return function.name, function.decode(calldata)
