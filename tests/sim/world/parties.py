"""Who and where everything is in the simulated world: chains, contracts, keys, buckets, and what is asked for.

A `Content` is what somebody asks for; the chain gives it an id when it includes it, and another id after a
reorganisation. Contents and their signatures are the same in every world, so they are made once for a process.
"""

from functools import lru_cache
from typing import Any

import attrs

from kmsd.config import Contract, GatewayNode, HostChain, Settings
from kmsd.operations.kinds import Kind
from kmsd.sandbox.ciphertexts import fake_ciphertext, fake_public_key
from kmsd.sandbox.handles import clear_value, make_handle
from kmsd.wire import signatures
from kmsd.wire.eip712 import Domain
from kmsd.wire.ids import IdType, make_id
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import calls, events, typed_data
from kmsd.wire.v0_11.structs import (
    ContractsInfo,
    DelegationAccounts,
    HandleContractPair,
    RequestValidity,
    SnsMaterial,
)

GATEWAY_ID, HOST_ID = 31337, 12345
DECRYPTION, KMS_GENERATION, GATEWAY_CONFIG, ACL = (bytes([tag]) * 20 for tag in (0xD1, 0xD2, 0xD3, 0xAC))
DAPP, COPRO_1, COPRO_2 = (bytes([tag]) * 20 for tag in (0xDA, 0xC1, 0xC2))
BUCKETS = {COPRO_1: "http://bucket-1/x", COPRO_2: "http://bucket-2/x"}
OLD_KEY, OLD_PREPARATION = make_id(IdType.KEY, 1), make_id(IdType.PREP_KEYGEN, 1)
"""A key that was there before the world began: decryptions are under it, re-sharings are of it."""
USER_KEY, DELEGATOR_KEY, SIGNER_KEY, WALLET_KEY = (bytes(31) + bytes([n]) for n in (1, 2, 0x11, 7))
USER, DELEGATOR, SIGNER, WALLET = map(signatures.address_of, (USER_KEY, DELEGATOR_KEY, SIGNER_KEY, WALLET_KEY))
DECRYPTION_DOMAIN = Domain("Decryption", "1", GATEWAY_ID, DECRYPTION)
GENERATION_DOMAIN = Domain("KMSGeneration", "1", GATEWAY_ID, KMS_GENERATION)
HOST_DOMAIN = Domain("Decryption", "1", HOST_ID, DECRYPTION)
ID_TYPES = {
    Kind.PUBLIC_DECRYPTION: IdType.PUBLIC_DECRYPTION,
    Kind.USER_DECRYPTION: IdType.USER_DECRYPTION,
    Kind.PREP_KEYGEN: IdType.PREP_KEYGEN,
    Kind.KEYGEN: IdType.KEY,
    Kind.CRSGEN: IdType.CRS,
    Kind.KEY_RESHARE: IdType.KEY_RESHARE,
}
FIRST_COUNTERS = {Kind.PREP_KEYGEN: 2, Kind.KEYGEN: 2}


def material(number: int) -> SnsMaterial:
    """The `number`-th ciphertext as events name it."""
    handle = make_handle(number, HOST_ID, (5, 0, 8, 2)[number % 4])
    return SnsMaterial(handle, OLD_KEY, _blob_digest(handle), (COPRO_1, COPRO_2))


def blob(handle: bytes) -> bytes:
    """The ciphertext behind a handle."""
    return fake_ciphertext(handle, clear_value(handle), 200)


@lru_cache(maxsize=4096)
def _blob_digest(handle: bytes) -> bytes:
    return keccak256(blob(handle))


@attrs.frozen
class Content:
    """One request before the chain gives it an id. `variant`: "good", "denied" (the ACL never allows it), "late" (the
    ACL allows it after a while), "delegated", "garbage" (a log that cannot be decoded)."""

    kind: Kind
    number: int
    variant: str = "good"

    @property
    def materials(self) -> tuple[SnsMaterial, ...]:
        """The ciphertexts of a decryption."""
        return tuple(material(16 * self.number + place) for place in range(1 + self.number % 2))

    @property
    def tx_hash(self) -> bytes:
        """Of the transaction that asks; the same wherever it is included."""
        return keccak256(b"request" + repr((self.kind.value, self.number, self.variant)).encode())

    def calldata(self) -> bytes:
        """Of that transaction."""
        return user_calldata(self) if self.kind is Kind.USER_DECRYPTION else b"\0\0\0\0"


@lru_cache(maxsize=4096)
def event(content: Content, request_id: int, preparation: int) -> Any:
    """What the chain announces for `content` under an id; `preparation` is that of a keygen."""
    kind = content.kind
    if kind is Kind.PUBLIC_DECRYPTION:
        return events.PublicDecryptionRequest(request_id, content.materials, b"\0")
    if kind is Kind.USER_DECRYPTION:
        return events.UserDecryptionRequest(request_id, content.materials, USER, fake_public_key(USER), b"\0")
    if kind is Kind.PREP_KEYGEN:
        return events.PrepKeygenRequest(request_id, 0, content.number % 2)
    if kind is Kind.KEYGEN:
        return events.KeygenRequest(preparation, request_id)
    if kind is Kind.CRSGEN:
        return events.CrsgenRequest(request_id, 64 << content.number % 3, 1)
    if kind is Kind.PRSS_INIT:
        return events.PrssInit()
    return events.KeyReshareSameSet(OLD_PREPARATION, OLD_KEY, request_id, content.number % 2)


@lru_cache(maxsize=4096)
def log_words(content: Content, request_id: int, preparation: int) -> tuple[tuple[str, ...], str]:
    """Topics and data of the log in hexadecimal, for JSON."""
    topics, data = events.encode(event(content, request_id, preparation))
    if content.variant == "garbage":
        data = data[: len(data) // 2 + 1]
    return tuple("0x" + topic.hex() for topic in topics), "0x" + data.hex()


@lru_cache(maxsize=4096)
def user_calldata(content: Content) -> bytes:
    """The signed calldata behind a user decryption, direct or delegated."""
    pairs = tuple(HandleContractPair(one.ct_handle, DAPP) for one in content.materials)
    validity, key = RequestValidity(1_699_999_000, 10), fake_public_key(USER)
    info = ContractsInfo(HOST_ID, (DAPP,))
    if content.variant == "delegated":
        digest = typed_data.delegated_user_request_digest(
            HOST_DOMAIN, key, (DAPP,), DELEGATOR, validity.start_timestamp, 10, b"\0"
        )
        accounts = DelegationAccounts(DELEGATOR, USER)
        signature = signatures.sign(digest, USER_KEY)
        return calls.DELEGATED_USER_DECRYPTION_REQUEST.encode(pairs, validity, accounts, info, key, signature, b"\0")
    digest = typed_data.user_request_digest(HOST_DOMAIN, key, (DAPP,), validity.start_timestamp, 10, b"\0")
    return calls.USER_DECRYPTION_REQUEST.encode(
        pairs, validity, info, USER, key, signatures.sign(digest, USER_KEY), b"\0"
    )


def settings(*, name: str, nodes: int, shards: int, **more: Any) -> Settings:
    """A configuration of one daemon in this world; nothing in it is ever opened."""
    names = ("main", "second")[:nodes]
    defaults: dict[str, Any] = {
        "healthcheck_interval": 30.0,
        "gauge_update_interval": 30.0,
        "decryption_polling": 2.0,
        "key_management_polling": 4.0,
        "db_long_event_polling": 6.0,
        "decryption_from_block_number": 0,
        "kms_operation_from_block_number": 0,
        "shutdown_grace": 5.0,
        "tx_resubmit_after": 10.0,
        "s3_get_timeout": 10.0,
        "core_poll_timeout": 75.0,
        "rpc_timeout": 5.0,
        "host_rpc_call_timeout": 5.0,
        "kms_signer_address": SIGNER,
    }
    return Settings(
        database_url="postgresql://nowhere",
        instance_name=name,
        gateway_chain_id=GATEWAY_ID,
        gateway_nodes=tuple(GatewayNode(one, f"http://{one}") for one in names),
        decryption_contract=Contract(DECRYPTION, "Decryption"),
        kms_generation_contract=Contract(KMS_GENERATION, "KMSGeneration"),
        gateway_config_contract=Contract(GATEWAY_CONFIG, "GatewayConfig"),
        host_chains=(HostChain(HOST_ID, "http://host", ACL),),
        kms_core_endpoints=tuple(f"http://core-{n}:50051" for n in range(shards)),
        **(defaults | more),
    )
