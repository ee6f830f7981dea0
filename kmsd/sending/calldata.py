"""From a response row to the call that carries it, and back to nothing else: the sender never changes a payload."""

from kmsd.config import Contract, Settings
from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import OPERATIONS
from kmsd.ports import ClaimedResponse
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11.calls import RESPONSES

COLUMNS: dict[Kind, tuple[str, ...]] = {
    Kind.PUBLIC_DECRYPTION: ("decrypted_result", "signature", "extra_data"),
    Kind.USER_DECRYPTION: ("user_decrypted_shares", "signature", "extra_data"),
    Kind.PREP_KEYGEN: ("signature",),
    Kind.KEYGEN: ("key_digests", "signature"),
    Kind.CRSGEN: ("crs_digest", "signature"),
}
"""Columns of each response table in the order of the function's arguments after the id."""


def contract_of(settings: Settings, kind: Kind) -> Contract:
    """The contract that takes responses of `kind`, and in whose domain they are signed."""
    is_decryption = OPERATIONS[kind].stream is Stream.DECRYPTION
    return settings.decryption_contract if is_decryption else settings.kms_generation_contract


def response_call(settings: Settings, response: ClaimedResponse) -> tuple[bytes, bytes]:
    """Contract address and calldata for a response. Raises WireError for fields that no call can carry."""
    operation = OPERATIONS[response.kind]
    if operation.response is None:
        raise WireError(f"{response.kind} has no response function")
    try:
        arguments = [response.fields[column] for column in COLUMNS[response.kind]]
    except KeyError as missing:
        raise WireError(f"the response row lacks {missing}") from None
    to = contract_of(settings, response.kind).address
    try:
        return to, RESPONSES[operation.response.function].encode(response.id, *arguments)
    except (TypeError, AttributeError) as error:
        raise WireError(f"a field of another type than its column's: {error}") from error
