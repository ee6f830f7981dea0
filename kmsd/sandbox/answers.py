"""What a scripted party answers to a request: the same values as the Core doubles, signed with its own key. Pure."""

from collections.abc import Callable
from typing import Any

from kmsd.sandbox.accounts import Call
from kmsd.sandbox.contracts import Deployment
from kmsd.sandbox.core_double_results import Signer, crs_digest, key_digests
from kmsd.sandbox.handles import clear_value
from kmsd.wire import shares
from kmsd.wire.handles import fhe_type_of
from kmsd.wire.v0_11 import calls, events, typed_data
from kmsd.wire.v0_11.structs import SnsMaterial

GAS = 3_000_000
"""Gas limit of an answer, with room for the vote that reaches the threshold."""


class ScriptedParty:
    """Party number `number` (1 is the first) of a deployment, as far as answering goes."""

    def __init__(self, deployment: Deployment, number: int) -> None:
        self.deployment = deployment
        self.party = deployment.parties[number - 1]
        self._signer = Signer(
            self.party.signer.key, party_id=number, degree=deployment.thresholds.mpc, centralized=False
        )

    def answer(self, request: Any) -> Call | None:
        """The transaction that answers an event's record; None for a request that has no answer."""
        build = _ANSWERS.get(type(request))
        return None if build is None else build(self.deployment, self._signer, request)


def public_decryption(deployment: Deployment, signer: Signer, request: events.PublicDecryptionRequest) -> Call:
    """One word for each clear value; extra data is empty, as Cores of this era sign it."""
    handles = [material.ct_handle for material in request.sns_materials]
    result = b"".join(clear_value(handle).to_bytes(32, "big") for handle in handles)
    signature = signer.sign(typed_data.public_decryption_digest(deployment.decryption_domain, handles, result, b""))
    data = calls.public_decryption_response(request.decryption_id, result, signature, b"")
    return Call(deployment.decryption, data, GAS + 60_000 * len(handles))


def user_decryption(deployment: Deployment, signer: Signer, request: events.UserDecryptionRequest) -> Call:
    """A share of real shape and size, whose box shows the clear value."""
    domain = deployment.decryption_domain
    handles = [material.ct_handle for material in request.sns_materials]
    linker = typed_data.user_decryption_linker(domain, request.public_key, handles, request.user_address)
    parts = tuple(_share_of(signer, material) for material in request.sns_materials)
    share = shares.encode(shares.SharePayload(signer.verification_key, linker, parts, signer.party_id, signer.degree))
    digest = typed_data.user_decryption_digest(domain, request.public_key, handles, share, b"")
    data = calls.user_decryption_response(request.decryption_id, share, signer.sign(digest), b"")
    return Call(deployment.decryption, data, GAS + 80_000 * len(handles))


def prep_keygen(deployment: Deployment, signer: Signer, request: events.PrepKeygenRequest) -> Call:
    """The preparation is done."""
    digest = typed_data.prep_keygen_digest(deployment.kms_generation_domain, request.prep_keygen_id)
    data = calls.prep_keygen_response(request.prep_keygen_id, signer.sign(digest))
    return Call(deployment.kms_generation, data, GAS)


def keygen(deployment: Deployment, signer: Signer, request: events.KeygenRequest) -> Call:
    """The digests of the sandbox's key with this id."""
    digests = key_digests(request.key_id)
    domain = deployment.kms_generation_domain
    digest = typed_data.keygen_digest(domain, request.prep_keygen_id, request.key_id, digests)
    data = calls.keygen_response(request.key_id, digests, signer.sign(digest))
    return Call(deployment.kms_generation, data, GAS)


def crsgen(deployment: Deployment, signer: Signer, request: events.CrsgenRequest) -> Call:
    """The digest of the sandbox's CRS with this id."""
    crs = crs_digest(request.crs_id, request.max_bit_length & 0xFFFFFFFF)
    domain = deployment.kms_generation_domain
    digest = typed_data.crsgen_digest(domain, request.crs_id, request.max_bit_length, crs)
    data = calls.crsgen_response(request.crs_id, crs, signer.sign(digest))
    return Call(deployment.kms_generation, data, GAS)


def _share_of(signer: Signer, material: SnsMaterial) -> shares.SigncryptedCiphertext:
    handle = material.ct_handle
    kind = fhe_type_of(handle).number
    secret = signer.signcrypted(handle, clear_value(handle), kind)
    return shares.SigncryptedCiphertext(kind, secret, handle, 1 if kind == 0 else 2)


_ANSWERS: dict[type, Callable[[Deployment, Signer, Any], Call]] = {
    events.PublicDecryptionRequest: public_decryption,
    events.UserDecryptionRequest: user_decryption,
    events.PrepKeygenRequest: prep_keygen,
    events.KeygenRequest: keygen,
    events.CrsgenRequest: crsgen,
}
