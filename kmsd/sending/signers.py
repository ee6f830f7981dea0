"""Whose signature a response bears, found out here and not by the chain (decisions.md 24).

What was signed stands in two rows: what was asked (handles, public key, ids) in the request's, the answer in the
response's. Finding out costs 140 µs, so it is done where the chain refuses a signer, and not for each good response.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kmsd.config import Settings
from kmsd.operations.kinds import Kind
from kmsd.ports import ClaimedResponse
from kmsd.sending.calldata import contract_of
from kmsd.wire.eip712 import Domain
from kmsd.wire.errors import WireError
from kmsd.wire.signatures import recover
from kmsd.wire.v0_11 import typed_data

UNUSABLE = b""
"""Instead of an address: no key recovers from the signature."""


def _handles(event: Any) -> list[bytes]:
    return [material.ct_handle for material in event.sns_materials]


DIGESTS: dict[Kind, Callable[[Domain, Any, Mapping[str, Any]], bytes]] = {
    Kind.PUBLIC_DECRYPTION: lambda domain, event, answer: typed_data.public_decryption_digest(
        domain, _handles(event), answer["decrypted_result"], answer["extra_data"]
    ),
    Kind.USER_DECRYPTION: lambda domain, event, answer: typed_data.user_decryption_digest(
        domain, event.public_key, _handles(event), answer["user_decrypted_shares"], answer["extra_data"]
    ),
    Kind.PREP_KEYGEN: lambda domain, event, answer: typed_data.prep_keygen_digest(domain, event.prep_keygen_id),
    Kind.KEYGEN: lambda domain, event, answer: typed_data.keygen_digest(
        domain, event.prep_keygen_id, event.key_id, answer["key_digests"]
    ),
    Kind.CRSGEN: lambda domain, event, answer: typed_data.crsgen_digest(
        domain, event.crs_id, event.max_bit_length, answer["crs_digest"]
    ),
}
"""What a party signs, from the request's record and the response's columns."""


def signer_of(settings: Settings, response: ClaimedResponse, event: Any) -> bytes:
    """The 20-byte address that signed `response` to the request `event`; UNUSABLE where none recovers."""
    contract = contract_of(settings, response.kind)
    domain = Domain(contract.domain_name, contract.domain_version, settings.gateway_chain_id, contract.address)
    try:
        return recover(DIGESTS[response.kind](domain, event, response.fields), response.fields["signature"])
    except (WireError, KeyError, TypeError, AttributeError):
        return UNUSABLE
