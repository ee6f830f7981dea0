"""Who may decrypt what: which questions to ask the host chain's ACL, and when a user's request may be believed.

Pure (wire/gateway.md 2.1, 6.4, 7). Nothing here answers "allowed": it names what must be true, all of it (WK1).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kmsd.wire import signatures
from kmsd.wire.addresses import to_checksum
from kmsd.wire.eip712 import Domain
from kmsd.wire.errors import WireError
from kmsd.wire.handles import chain_id_of
from kmsd.wire.v0_11 import typed_data, views
from kmsd.wire.v0_11.calls import DelegatedUserDecryptionRequestArgs, UserRequest, decode_user_request
from kmsd.wire.v0_11.events import UserDecryptionRequest


class Malformed(Exception):
    """The request can never be allowed; `words` say why."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class Question(NamedTuple):
    """One view of the ACL of one host chain that must answer true."""

    chain_id: int
    calldata: bytes

    def words(self) -> str:
        """What it asks, for people: the view with its arguments in hexadecimal."""
        view = views.VIEWS[self.calldata[:4]]
        arguments = ", ".join("0x" + argument.hex() for argument in view.decode(self.calldata))
        return f"{view.name}({arguments}) on host chain {self.chain_id}"


def public_questions(handles: Iterable[bytes]) -> list[Question]:
    """What must be true for a public decryption. Raises Malformed for a handle that is none, or none at all."""
    questions = [Question(_chain_id(handle), views.IS_ALLOWED_FOR_DECRYPTION.encode(handle)) for handle in handles]
    if not questions:
        raise Malformed("the request has no handles")
    return questions


def user_questions(request: UserRequest) -> list[Question]:
    """What must be true for a direct or delegated user decryption, for each pair of handle and contract."""
    questions: list[Question] = []
    for handle, contract in request.ct_handle_contract_pairs:
        chain_id = _chain_id(handle)
        if isinstance(request, DelegatedUserDecryptionRequestArgs):
            delegator, delegate = request.delegation_accounts
            delegated = views.IS_HANDLE_DELEGATED_FOR_USER_DECRYPTION.encode(delegator, delegate, contract, handle)
            questions.append(Question(chain_id, delegated))
            owner = delegator
        else:
            owner = request.user_address
        questions += (
            Question(chain_id, views.IS_ALLOWED.encode(handle, owner)),
            Question(chain_id, views.IS_ALLOWED.encode(handle, contract)),
        )
    return questions


def read_user_request(
    calldata: bytes,
    to: bytes | None,
    event: UserDecryptionRequest,
    decryption: Domain,
) -> UserRequest:
    """The request behind a user decryption's event, if it may be believed.

    It must have gone to the Decryption contract, say the same as the event, and bear the user's (or delegate's)
    signature. `decryption` is the contract's domain; what users sign has the host chain's id in it instead of the
    Gateway's. Raises Malformed.
    """
    if to != decryption.verifying_contract:
        raise Malformed(
            f"its transaction went to {to_checksum(to) if to is not None else 'no contract'}, "
            "not to the Decryption contract"
        )
    try:
        request = decode_user_request(calldata)
    except WireError as error:
        raise Malformed(f"its transaction's calldata is unusable: {error}") from None
    _must_agree(request, event)
    _must_be_signed(request, user_of(request), decryption)
    return request


def user_of(request: UserRequest) -> bytes:
    """Who asks and signs: the user, or the delegate of a delegated request."""
    if isinstance(request, DelegatedUserDecryptionRequestArgs):
        return request.delegation_accounts.delegate_address
    return request.user_address


def _must_agree(request: UserRequest, event: UserDecryptionRequest) -> None:
    handles: Sequence[bytes] = [pair.ct_handle for pair in request.ct_handle_contract_pairs]
    for what, said, logged in (
        ("handles", handles, [material.ct_handle for material in event.sns_materials]),
        ("user", user_of(request), event.user_address),
        ("public key", request.public_key, event.public_key),
        ("extra data", request.extra_data, event.extra_data),
    ):
        if said != logged:
            raise Malformed(f"its transaction's calldata and its event name different {what}")
    if not handles:
        raise Malformed("the request has no handles")
    if any(_chain_id(handle) != request.contracts_info.chain_id for handle in handles):
        raise Malformed("a handle is of another host chain than the user's permission")
    if any(pair.contract_address not in request.contracts_info.addresses for pair in request.ct_handle_contract_pairs):
        raise Malformed("a handle is used through a contract that the user's permission does not name")


def _must_be_signed(request: UserRequest, user: bytes, decryption: Domain) -> None:
    host = Domain(decryption.name, decryption.version, request.contracts_info.chain_id, decryption.verifying_contract)
    contracts, validity = request.contracts_info.addresses, request.request_validity
    if isinstance(request, DelegatedUserDecryptionRequestArgs):
        digest = typed_data.delegated_user_request_digest(
            host,
            request.public_key,
            contracts,
            request.delegation_accounts.delegator_address,
            validity.start_timestamp,
            validity.duration_days,
            request.extra_data,
        )
    else:
        digest = typed_data.user_request_digest(
            host, request.public_key, contracts, validity.start_timestamp, validity.duration_days, request.extra_data
        )
    try:
        signer = signatures.recover(digest, request.signature)
    except WireError as error:
        raise Malformed(f"the user's signature is unusable: {error}") from None
    if signer != user:
        raise Malformed(f"signed by {to_checksum(signer)}, not by the user {to_checksum(user)}")


def _chain_id(handle: bytes) -> int:
    try:
        return chain_id_of(handle)
    except WireError as error:
        raise Malformed(str(error)) from None
