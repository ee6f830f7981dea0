"""The events of era v0.11: seven requests, and what the contracts say about answers (wire/gateway.md 1).

`decode(log)` gives the record of any of them, `encode(record)` the log's topics and data.
"""

from typing import Any, NamedTuple

from kmsd.wire.abi import ADDRESS, BYTES, STRING, UINT256, array
from kmsd.wire.contract import Event, LogLike, event
from kmsd.wire.errors import WireError
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11.structs import KEY_DIGESTS, PARAMS_TYPE, SNS_MATERIALS, KeyDigest, SnsMaterial

# ---------------------------------------------------------------------------------------------------------------------
# Requests


class PublicDecryptionRequest(NamedTuple):
    """Decrypt for everybody. `sns_materials` in the order that the result has to keep."""

    decryption_id: int
    sns_materials: tuple[SnsMaterial, ...]
    extra_data: bytes


class UserDecryptionRequest(NamedTuple):
    """Decrypt for one user; for a delegated request `user_address` is the delegate.

    `public_key` is the user's encryption key as the Core gets it. Direct and delegated requests look the same here:
    the transaction's calldata tells them apart (`kmsd.wire.v0_11.calls`).
    """

    decryption_id: int
    sns_materials: tuple[SnsMaterial, ...]
    user_address: bytes
    public_key: bytes
    extra_data: bytes


class PrepKeygenRequest(NamedTuple):
    """Prepare a key. `epoch_id` is always 0 in this era; `params_type` as in `ParamsType`."""

    prep_keygen_id: int
    epoch_id: int
    params_type: int


class KeygenRequest(NamedTuple):
    """Generate a key from its preparation."""

    prep_keygen_id: int
    key_id: int


class CrsgenRequest(NamedTuple):
    """Generate a common reference string for up to `max_bit_length` bits; `params_type` as in `ParamsType`."""

    crs_id: int
    max_bit_length: int
    params_type: int


class PrssInit(NamedTuple):
    """Initialise the pseudo-random secret sharing. Carries nothing."""


class KeyReshareSameSet(NamedTuple):
    """Share a key anew among the same parties. The ids need not name a key (wire/gateway.md 6.6)."""

    prep_keygen_id: int
    key_id: int
    key_reshare_id: int
    params_type: int


# ---------------------------------------------------------------------------------------------------------------------
# What the contracts say about answers


class PublicDecryptionResponseCall(NamedTuple):
    """One party's answer to a public decryption was accepted."""

    decryption_id: int
    decrypted_result: bytes
    signature: bytes
    kms_tx_sender: bytes
    extra_data: bytes


class PublicDecryptionResponse(NamedTuple):
    """A public decryption reached its threshold: the result and the signatures, in order of arrival."""

    decryption_id: int
    decrypted_result: bytes
    signatures: tuple[bytes, ...]
    extra_data: bytes


class UserDecryptionResponse(NamedTuple):
    """One party's share of a user decryption was accepted; `index_share` counts arrivals from 0."""

    decryption_id: int
    index_share: int
    user_decrypted_share: bytes
    signature: bytes
    extra_data: bytes


class UserDecryptionResponseThresholdReached(NamedTuple):
    """A user decryption has enough shares."""

    decryption_id: int


class PrepKeygenResponse(NamedTuple):
    """One party's answer to a prep keygen was accepted."""

    prep_keygen_id: int
    signature: bytes
    kms_tx_sender: bytes


class KeygenResponse(NamedTuple):
    """One party's answer to a keygen was accepted."""

    key_id: int
    key_digests: tuple[KeyDigest, ...]
    signature: bytes
    kms_tx_sender: bytes


class ActivateKey(NamedTuple):
    """A key reached its threshold. A party that has been removed since has the URL ""."""

    key_id: int
    kms_node_storage_urls: tuple[str, ...]
    key_digests: tuple[KeyDigest, ...]


class CrsgenResponse(NamedTuple):
    """One party's answer to a crsgen was accepted."""

    crs_id: int
    crs_digest: bytes
    signature: bytes
    kms_tx_sender: bytes


class ActivateCrs(NamedTuple):
    """A CRS reached its threshold. A party that has been removed since has the URL ""."""

    crs_id: int
    kms_node_storage_urls: tuple[str, ...]
    crs_digest: bytes


Request = (
    PublicDecryptionRequest
    | UserDecryptionRequest
    | PrepKeygenRequest
    | KeygenRequest
    | CrsgenRequest
    | PrssInit
    | KeyReshareSameSet
)
ResponseNotice = (
    PublicDecryptionResponseCall
    | PublicDecryptionResponse
    | UserDecryptionResponse
    | UserDecryptionResponseThresholdReached
    | PrepKeygenResponse
    | KeygenResponse
    | ActivateKey
    | CrsgenResponse
    | ActivateCrs
)
Record = Request | ResponseNotice

# ---------------------------------------------------------------------------------------------------------------------
# Tables

DECRYPTION = "Decryption"
KMS_GENERATION = "KMSGeneration"

_ID = (UINT256,)

REQUEST_EVENTS: tuple[Event[Any], ...] = (
    event(DECRYPTION, "PublicDecryptionRequest", PublicDecryptionRequest, SNS_MATERIALS, BYTES, indexed=_ID),
    event(
        DECRYPTION, "UserDecryptionRequest", UserDecryptionRequest, SNS_MATERIALS, ADDRESS, BYTES, BYTES, indexed=_ID
    ),
    event(KMS_GENERATION, "PrepKeygenRequest", PrepKeygenRequest, UINT256, UINT256, PARAMS_TYPE),
    event(KMS_GENERATION, "KeygenRequest", KeygenRequest, UINT256, UINT256),
    event(KMS_GENERATION, "CrsgenRequest", CrsgenRequest, UINT256, UINT256, PARAMS_TYPE),
    event(KMS_GENERATION, "PRSSInit", PrssInit),
    event(KMS_GENERATION, "KeyReshareSameSet", KeyReshareSameSet, UINT256, UINT256, UINT256, PARAMS_TYPE),
)
"""The seven requests."""

RESPONSE_EVENTS: tuple[Event[Any], ...] = (
    event(
        DECRYPTION,
        "PublicDecryptionResponseCall",
        PublicDecryptionResponseCall,
        BYTES,
        BYTES,
        ADDRESS,
        BYTES,
        indexed=_ID,
    ),
    event(DECRYPTION, "PublicDecryptionResponse", PublicDecryptionResponse, BYTES, array(BYTES), BYTES, indexed=_ID),
    event(DECRYPTION, "UserDecryptionResponse", UserDecryptionResponse, UINT256, BYTES, BYTES, BYTES, indexed=_ID),
    event(DECRYPTION, "UserDecryptionResponseThresholdReached", UserDecryptionResponseThresholdReached, indexed=_ID),
    event(KMS_GENERATION, "PrepKeygenResponse", PrepKeygenResponse, UINT256, BYTES, ADDRESS),
    event(KMS_GENERATION, "KeygenResponse", KeygenResponse, UINT256, KEY_DIGESTS, BYTES, ADDRESS),
    event(KMS_GENERATION, "ActivateKey", ActivateKey, UINT256, array(STRING), KEY_DIGESTS),
    event(KMS_GENERATION, "CrsgenResponse", CrsgenResponse, UINT256, BYTES, BYTES, ADDRESS),
    event(KMS_GENERATION, "ActivateCrs", ActivateCrs, UINT256, array(STRING), BYTES),
)
"""What the contracts say about answers: the four consensus events and one event for each party's answer."""

EVENTS: tuple[Event[Any], ...] = (*REQUEST_EVENTS, *RESPONSE_EVENTS)
BY_TOPIC: dict[bytes, Event[Any]] = {e.topic: e for e in EVENTS}
BY_NAME: dict[str, Event[Any]] = {e.name: e for e in EVENTS}
_BY_RECORD: dict[type, Event[Any]] = {e.record: e for e in EVENTS}


def decode(log: LogLike) -> Record:
    """The record of a log. Raises WireError for an unknown topic, a wrong number of topics, or bad data.

    The emitter is not looked at: logs are asked for by the contracts' addresses.
    """
    topics = log.topics
    found = BY_TOPIC.get(topics[0]) if topics else None
    if found is None:
        raise WireError(f"no event of era v0.11: topic {'0x' + topics[0][:32].hex() if topics else 'missing'}")
    record: Record = found.decode(log)
    return record


def encode(record: Record) -> tuple[tuple[bytes, ...], bytes]:
    """Topics and data of the log that the contract emits for this record. Raises WireError for a value out of range."""
    return _BY_RECORD[type(record)].encode(record)


def event_of(record: Record) -> Event[Any]:
    """The descriptor of a record's event."""
    return _BY_RECORD[type(record)]


def content_hash(record: Record) -> bytes:
    """32 bytes that two logs share if and only if they say the same (decisions.md 9).

    The keccak-256 of topics and data as the contract emits them, computed from the record, so that it can be had from
    a stored row as well.
    """
    topics, data = encode(record)
    return keccak256(b"".join(topics) + data)
