"""Views of era v0.11, for `eth_call`: `IS_ALLOWED.encode(handle, account)`, `IS_ALLOWED.decode_return(data)`.

Arguments in the order of the contract; the types say which. Views of the host chain's ACL stand last.
(wire/gateway.md 2.1, 6.1, 7)
"""

from typing import Any, NamedTuple

from kmsd.wire.abi import ADDRESS, BOOL, BYTES, BYTES32, STRING, UINT64, UINT256, array, fixed_bytes, struct, tuple_of
from kmsd.wire.contract import Function, view, view_returning_many
from kmsd.wire.v0_11.structs import (
    COPROCESSOR,
    DELEGATION_ACCOUNTS,
    HANDLE_CONTRACT_PAIRS,
    HOST_CHAIN,
    KEY_DIGESTS,
    KMS_NODE,
    PARAMS_TYPE,
    SNS_MATERIALS,
    KeyDigest,
)


class Eip712DomainView(NamedTuple):
    """What a contract says about its domain (EIP-5267). `fields` is 0x0f for name, version, chain id and contract."""

    fields: bytes
    name: str
    version: str
    chain_id: int
    verifying_contract: bytes
    salt: bytes
    extensions: tuple[int, ...]


class KeyMaterials(NamedTuple):
    """Where the parties store a key, and its digests in signed order."""

    storage_urls: tuple[str, ...]
    key_digests: tuple[KeyDigest, ...]


class CrsMaterials(NamedTuple):
    """Where the parties store a CRS, and its digest."""

    storage_urls: tuple[str, ...]
    crs_digest: bytes


_NOTHING = tuple_of()
_ADDRESSES = array(ADDRESS)

# Any contract of the Gateway
EIP712_DOMAIN = view_returning_many(
    "eip712Domain",
    _NOTHING,
    struct(Eip712DomainView, fixed_bytes(1), STRING, STRING, UINT256, ADDRESS, BYTES32, array(UINT256)),
)
GET_VERSION = view("getVersion", _NOTHING, STRING)

# Decryption
IS_DECRYPTION_DONE = view("isDecryptionDone", tuple_of(UINT256), BOOL)
IS_PUBLIC_DECRYPTION_READY = view("isPublicDecryptionReady", tuple_of(array(BYTES32), BYTES), BOOL)
IS_USER_DECRYPTION_READY = view("isUserDecryptionReady", tuple_of(ADDRESS, HANDLE_CONTRACT_PAIRS, BYTES), BOOL)
IS_DELEGATED_USER_DECRYPTION_READY = view(
    "isDelegatedUserDecryptionReady", tuple_of(DELEGATION_ACCOUNTS, HANDLE_CONTRACT_PAIRS, BYTES), BOOL
)
GET_DECRYPTION_CONSENSUS_TX_SENDERS = view("getDecryptionConsensusTxSenders", tuple_of(UINT256), _ADDRESSES)
PAUSED = view("paused", _NOTHING, BOOL)

# KMSGeneration; the views of one id revert while it is not generated
GET_ACTIVE_KEY_ID = view("getActiveKeyId", _NOTHING, UINT256)
GET_ACTIVE_CRS_ID = view("getActiveCrsId", _NOTHING, UINT256)
GET_KEY_MATERIALS = view_returning_many(
    "getKeyMaterials", tuple_of(UINT256), struct(KeyMaterials, array(STRING), KEY_DIGESTS)
)
GET_CRS_MATERIALS = view_returning_many(
    "getCrsMaterials", tuple_of(UINT256), struct(CrsMaterials, array(STRING), BYTES)
)
GET_KEY_PARAMS_TYPE = view("getKeyParamsType", tuple_of(UINT256), PARAMS_TYPE)
GET_CRS_PARAMS_TYPE = view("getCrsParamsType", tuple_of(UINT256), PARAMS_TYPE)
GET_CONSENSUS_TX_SENDERS = view("getConsensusTxSenders", tuple_of(UINT256), _ADDRESSES)

# GatewayConfig; an unknown sender gives the all-zero record
GET_COPROCESSOR = view("getCoprocessor", tuple_of(ADDRESS), COPROCESSOR)
GET_COPROCESSOR_TX_SENDERS = view("getCoprocessorTxSenders", _NOTHING, _ADDRESSES)
GET_COPROCESSOR_SIGNERS = view("getCoprocessorSigners", _NOTHING, _ADDRESSES)
GET_COPROCESSOR_MAJORITY_THRESHOLD = view("getCoprocessorMajorityThreshold", _NOTHING, UINT256)
GET_KMS_NODE = view("getKmsNode", tuple_of(ADDRESS), KMS_NODE)
GET_KMS_SIGNERS = view("getKmsSigners", _NOTHING, _ADDRESSES)
GET_KMS_TX_SENDERS = view("getKmsTxSenders", _NOTHING, _ADDRESSES)
IS_KMS_TX_SENDER = view("isKmsTxSender", tuple_of(ADDRESS), BOOL)
IS_KMS_SIGNER = view("isKmsSigner", tuple_of(ADDRESS), BOOL)
GET_MPC_THRESHOLD = view("getMpcThreshold", _NOTHING, UINT256)
GET_PUBLIC_DECRYPTION_THRESHOLD = view("getPublicDecryptionThreshold", _NOTHING, UINT256)
GET_USER_DECRYPTION_THRESHOLD = view("getUserDecryptionThreshold", _NOTHING, UINT256)
GET_KMS_GEN_THRESHOLD = view("getKmsGenThreshold", _NOTHING, UINT256)
IS_HOST_CHAIN_REGISTERED = view("isHostChainRegistered", tuple_of(UINT256), BOOL)
GET_HOST_CHAIN = view("getHostChain", tuple_of(UINT256), HOST_CHAIN)
GET_HOST_CHAINS = view("getHostChains", _NOTHING, array(HOST_CHAIN))

# CiphertextCommits
GET_SNS_CIPHERTEXT_MATERIALS = view("getSnsCiphertextMaterials", tuple_of(array(BYTES32)), SNS_MATERIALS)
IS_CIPHERTEXT_MATERIAL_ADDED = view("isCiphertextMaterialAdded", tuple_of(BYTES32), BOOL)

# ACL, on the host chain that the handle names
IS_ALLOWED = view("isAllowed", tuple_of(BYTES32, ADDRESS), BOOL)
IS_ALLOWED_FOR_DECRYPTION = view("isAllowedForDecryption", tuple_of(BYTES32), BOOL)
IS_HANDLE_DELEGATED_FOR_USER_DECRYPTION = view(
    "isHandleDelegatedForUserDecryption", tuple_of(ADDRESS, ADDRESS, ADDRESS, BYTES32), BOOL
)
"""Arguments: delegator, delegate, contract, handle."""
PERSIST_ALLOWED = view("persistAllowed", tuple_of(BYTES32, ADDRESS), BOOL)
GET_USER_DECRYPTION_DELEGATION_EXPIRATION_DATE = view(
    "getUserDecryptionDelegationExpirationDate", tuple_of(ADDRESS, ADDRESS, ADDRESS), UINT64
)
"""Arguments: delegator, delegate, contract; returns Unix seconds."""

VIEWS: dict[bytes, Function[Any, Any]] = {f.selector: f for f in tuple(globals().values()) if isinstance(f, Function)}
"""All views of this module by selector."""
