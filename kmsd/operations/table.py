"""What an operation is: one row for each of the seven kinds (rule 3 of the design).

Listener, worker, sender, gc, metrics, commands and documents are written over this table. A new kind, or a new era of
the protocol, is a new row plus the few functions that really differ (`decryption.py`, `ceremonies.py`).
"""

from enum import StrEnum

import attrs

from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import CoreMethod


class Family(StrEnum):
    """Decryptions come by the thousand and may be given up; ceremonies are rare, serialised and never given up."""

    DECRYPTION = "decryption"
    CEREMONY = "ceremony"


@attrs.frozen
class Response:
    """The answer that goes back to the Gateway: its table, label, channel, function, and room for gas.

    `gas_percent` is the least percentage of an estimate to use as the limit, so that the vote that crosses the
    threshold has room (decisions.md 25a; measured in wire/gateway.md section 3.3).
    """

    table: str
    id_column: str
    label: str
    channel: str
    function: str
    gas_percent: int


@attrs.frozen
class Operation:
    """One kind of request. `event` is its name on chain, `event_type` its value of the database enum."""

    kind: Kind
    family: Family
    stream: Stream
    event: str
    event_type: str
    label: str
    request_table: str
    id_column: str
    channel: str
    short: str
    send: CoreMethod
    poll: CoreMethod | None
    response: Response | None


def _operation(
    kind: Kind,
    *,
    event: str,
    event_type: str,
    request_table: str,
    id_column: str,
    channel: str,
    short: str,
    send: CoreMethod,
    poll: CoreMethod | None,
    label: str,
    gas_percent: int | None = None,
) -> Operation:
    """Fill what follows from the kind's name: family, stream, and the response's table, label and function."""
    family = Family.DECRYPTION if kind.value.endswith("decryption") else Family.CEREMONY
    stem = kind.value
    words = stem.split("_")
    response = None
    if gas_percent is not None:
        response = Response(
            table=f"{stem}_responses",
            id_column=id_column,
            label=f"{stem}_response",
            channel=f"{stem}_response_available",
            function=words[0] + "".join(w.capitalize() for w in words[1:]) + "Response",
            gas_percent=gas_percent,
        )
    return Operation(
        kind=kind,
        family=family,
        stream=Stream.DECRYPTION if family is Family.DECRYPTION else Stream.KEY_MANAGEMENT,
        event=event,
        event_type=event_type,
        label=label,
        request_table=request_table,
        id_column=id_column,
        channel=channel,
        short=short,
        send=send,
        poll=poll,
        response=response,
    )


OPERATIONS: dict[Kind, Operation] = {
    op.kind: op
    for op in (
        _operation(
            Kind.PUBLIC_DECRYPTION,
            event="PublicDecryptionRequest",
            event_type="PublicDecryptionRequest",
            label="public_decryption_request",
            request_table="public_decryption_requests",
            id_column="decryption_id",
            channel="public_decryption_request_available",
            short="pub",
            send=CoreMethod.PUBLIC_DECRYPT,
            poll=CoreMethod.GET_PUBLIC_DECRYPTION_RESULT,
            gas_percent=175,
        ),
        _operation(
            Kind.USER_DECRYPTION,
            event="UserDecryptionRequest",
            event_type="UserDecryptionRequest",
            label="user_decryption_request",
            request_table="user_decryption_requests",
            id_column="decryption_id",
            channel="user_decryption_request_available",
            short="user",
            send=CoreMethod.USER_DECRYPT,
            poll=CoreMethod.GET_USER_DECRYPTION_RESULT,
            gas_percent=125,
        ),
        _operation(
            Kind.PREP_KEYGEN,
            event="PrepKeygenRequest",
            event_type="PrepKeygenRequest",
            label="prep_keygen_request",
            request_table="prep_keygen_requests",
            id_column="prep_keygen_id",
            channel="prep_keygen_request_available",
            short="prep",
            send=CoreMethod.KEY_GEN_PREPROC,
            poll=CoreMethod.GET_KEY_GEN_PREPROC_RESULT,
            gas_percent=160,
        ),
        _operation(
            Kind.KEYGEN,
            event="KeygenRequest",
            event_type="KeygenRequest",
            label="keygen_request",
            request_table="keygen_requests",
            id_column="key_id",
            channel="keygen_request_available",
            short="key",
            send=CoreMethod.KEY_GEN,
            poll=CoreMethod.GET_KEY_GEN_RESULT,
            gas_percent=400,
        ),
        _operation(
            Kind.CRSGEN,
            event="CrsgenRequest",
            event_type="CrsgenRequest",
            label="crsgen_request",
            request_table="crsgen_requests",
            id_column="crs_id",
            channel="crsgen_request_available",
            short="crs",
            send=CoreMethod.CRS_GEN,
            poll=CoreMethod.GET_CRS_GEN_RESULT,
            gas_percent=400,
        ),
        _operation(
            Kind.PRSS_INIT,
            event="PRSSInit",
            event_type="PrssInit",
            label="prss_init",
            request_table="prss_init",
            id_column="id",
            channel="prss_init_available",
            short="prss",
            send=CoreMethod.INIT,
            poll=None,
        ),
        _operation(
            Kind.KEY_RESHARE,
            event="KeyReshareSameSet",
            event_type="KeyReshareSameSet",
            label="key_reshare_same_set",
            request_table="key_reshare_same_set",
            id_column="key_reshare_id",
            channel="key_reshare_same_set_available",
            short="reshare",
            send=CoreMethod.INITIATE_RESHARING,
            poll=CoreMethod.GET_RESHARING_RESULT,
        ),
    )
}

DECRYPTIONS = tuple(op.kind for op in OPERATIONS.values() if op.family is Family.DECRYPTION)
CEREMONIES = tuple(op.kind for op in OPERATIONS.values() if op.family is Family.CEREMONY)
WITH_RESPONSE = tuple(op.kind for op in OPERATIONS.values() if op.response is not None)
BY_STREAM: dict[Stream, tuple[Kind, ...]] = {
    stream: tuple(op.kind for op in OPERATIONS.values() if op.stream is stream) for stream in Stream
}
