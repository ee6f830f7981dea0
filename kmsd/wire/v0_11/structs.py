"""Structs and enums that events, functions and views of era v0.11 share (wire/gateway.md 1, 5.3, 6.1).

Each is a NamedTuple and, in capitals, the ABI type that reads and writes it.
"""

from enum import IntEnum
from typing import NamedTuple

from kmsd.wire.abi import ADDRESS, BYTES, BYTES32, STRING, UINT256, array, enum8, struct


class ParamsType(IntEnum):
    """FHE parameters of a key or CRS; the Core's `FheParameter` has the same numbers."""

    DEFAULT = 0
    TEST = 1


class KeyType(IntEnum):
    """What a key digest is of."""

    SERVER = 0
    PUBLIC = 1


CORE_KEY_TYPES: dict[str, KeyType] = {"ServerKey": KeyType.SERVER, "PublicKey": KeyType.PUBLIC}
"""The Core's `KeyDigest.key_type`; exact, case-sensitive; any other text is refused (wire/kms-core.md 4.3)."""


class SnsMaterial(NamedTuple):
    """A ciphertext to decrypt: handle, key, keccak-256 of the object in the buckets, and whose buckets have it."""

    ct_handle: bytes
    key_id: int
    sns_ciphertext_digest: bytes
    coprocessor_tx_senders: tuple[bytes, ...]


class KeyDigest(NamedTuple):
    """The digest (32 bytes) of one part of a key; `key_type` as in `KeyType`."""

    key_type: int
    digest: bytes


class HandleContractPair(NamedTuple):
    """A handle and the host-chain contract through which it is used."""

    ct_handle: bytes
    contract_address: bytes


class RequestValidity(NamedTuple):
    """From when (Unix seconds) and for how many days a user's permission holds."""

    start_timestamp: int
    duration_days: int


class ContractsInfo(NamedTuple):
    """The host chain and the contracts that a user's permission names."""

    chain_id: int
    addresses: tuple[bytes, ...]


class DelegationAccounts(NamedTuple):
    """Whose handles they are, and who may decrypt them."""

    delegator_address: bytes
    delegate_address: bytes


class KmsNode(NamedTuple):
    """A KMS party as GatewayConfig knows it; all zero and empty for an unknown sender."""

    tx_sender_address: bytes
    signer_address: bytes
    ip_address: str
    storage_url: str


class Coprocessor(NamedTuple):
    """A coprocessor as GatewayConfig knows it; all zero and empty for an unknown sender."""

    tx_sender_address: bytes
    signer_address: bytes
    s3_bucket_url: str


class HostChain(NamedTuple):
    """A host chain as GatewayConfig knows it."""

    chain_id: int
    fhevm_executor_address: bytes
    acl_address: bytes
    name: str
    website: str


PARAMS_TYPE = enum8(len(ParamsType))
KEY_TYPE = enum8(len(KeyType))

SNS_MATERIAL = struct(SnsMaterial, BYTES32, UINT256, BYTES32, array(ADDRESS))
SNS_MATERIALS = array(SNS_MATERIAL)
KEY_DIGESTS = array(struct(KeyDigest, KEY_TYPE, BYTES))
HANDLE_CONTRACT_PAIRS = array(struct(HandleContractPair, BYTES32, ADDRESS))
REQUEST_VALIDITY = struct(RequestValidity, UINT256, UINT256)
CONTRACTS_INFO = struct(ContractsInfo, UINT256, array(ADDRESS))
DELEGATION_ACCOUNTS = struct(DelegationAccounts, ADDRESS, ADDRESS)
KMS_NODE = struct(KmsNode, ADDRESS, ADDRESS, STRING, STRING)
COPROCESSOR = struct(Coprocessor, ADDRESS, ADDRESS, STRING)
HOST_CHAIN = struct(HostChain, UINT256, ADDRESS, ADDRESS, STRING, STRING)
