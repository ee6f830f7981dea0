"""The Gateway's contracts as far as kmsd sees them: views, and the rules for responses (wire/gateway.md 3 and 6)."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import attrs

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.sandbox.core_double_results import crs_digest, key_digests
from kmsd.sandbox.handles import clear_value
from kmsd.sandbox.node_double_contracts import Execution
from kmsd.wire import signatures
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11 import events, typed_data, views
from kmsd.wire.v0_11.calls import decode_call
from kmsd.wire.v0_11.errors import ERRORS

from . import parties as p
from .parties import Content

KIND_OF = {op.response.function: kind for kind, op in OPERATIONS.items() if op.response is not None}
GAS = 200_000
ALREADY = {
    Kind.PUBLIC_DECRYPTION: "KmsNodeAlreadySigned",
    Kind.USER_DECRYPTION: "KmsNodeAlreadySigned",
    Kind.PREP_KEYGEN: "KmsAlreadySignedForPrepKeygen",
    Kind.KEYGEN: "KmsAlreadySignedForKeygen",
    Kind.CRSGEN: "KmsAlreadySignedForCrsgen",
}
NOT_REQUESTED = {
    Kind.PUBLIC_DECRYPTION: "DecryptionNotRequested",
    Kind.USER_DECRYPTION: "DecryptionNotRequested",
    Kind.PREP_KEYGEN: "PrepKeygenNotRequested",
    Kind.KEYGEN: "KeygenNotRequested",
    Kind.CRSGEN: "CrsgenNotRequested",
}
Key = tuple[Kind, int]


@attrs.frozen
class Included:
    """A request as a chain announced it; `preparation` is that of a keygen."""

    content: Content
    id: int
    preparation: int

    @property
    def event(self) -> Any:
        """The announced record."""
        return p.event(self.content, self.id, self.preparation)


@attrs.define(eq=False)
class State:
    """The contracts' state after a block, and the wallet's nonce. Shared between blocks; copied before it changes."""

    requests: Mapping[Key, Included] = attrs.field(factory=dict)
    votes: Mapping[Key, Any] = attrs.field(factory=dict)
    done: Mapping[Key, bytes] = attrs.field(factory=dict)
    counters: Mapping[Kind, int] = attrs.field(factory=dict)
    mined: Mapping[bytes, dict[str, Any]] = attrs.field(factory=dict)
    nonce: int = 0

    def copy(self) -> "State":
        """To be changed."""
        return State(
            dict(self.requests), dict(self.votes), dict(self.done), dict(self.counters), dict(self.mined), self.nonce
        )


@attrs.define
class Registry:
    """What GatewayConfig knows of us, and what makes transactions cost more than estimates said."""

    registered: bool = True
    factor: float = 1.0


def respond(state: State, registry: Registry, sender: bytes, data: bytes) -> tuple[Execution, Key | None]:
    """A response function's execution on `state`, which is not changed; the vote that it would add."""
    try:
        name, arguments = decode_call(data)
    except WireError:
        return Execution(gas=30_000, reverted=b""), None
    kind, request_id = KIND_OF[name], arguments[0]

    def error(name: str, *values: Any) -> tuple[Execution, None]:
        return Execution(gas=60_000, reverted=ERRORS[name].encode(*values)), None

    if sender != p.WALLET or not registry.registered:
        return error("NotKmsTxSender", sender)
    included = state.requests.get((kind, request_id))
    if included is None:
        return error(NOT_REQUESTED[kind], request_id)
    try:
        signer = recovered(_digest(kind, included, arguments), arguments.signature)
    except WireError:
        return error("ECDSAInvalidSignature")
    if signer != p.SIGNER:
        return error("NotKmsSigner", signer)
    if (kind, request_id) in state.votes:
        return error(ALREADY[kind], request_id, signer)
    return Execution(gas=GAS), (kind, request_id)


@lru_cache(maxsize=16384)
def recovered(digest: bytes, signature: bytes) -> bytes:
    """The signer's address; the same few answers come in every world."""
    return signatures.recover(digest, signature)


def _digest(kind: Kind, included: Included, arguments: Any) -> bytes:
    event = included.event
    if kind is Kind.PUBLIC_DECRYPTION:
        return typed_data.public_decryption_digest(
            p.DECRYPTION_DOMAIN, handles(event), arguments.decrypted_result, arguments.extra_data
        )
    if kind is Kind.USER_DECRYPTION:
        return typed_data.user_decryption_digest(
            p.DECRYPTION_DOMAIN,
            event.public_key,
            handles(event),
            arguments.user_decrypted_share,
            arguments.extra_data,
        )
    if kind is Kind.PREP_KEYGEN:
        return typed_data.prep_keygen_digest(p.GENERATION_DOMAIN, included.id)
    if kind is Kind.KEYGEN:
        return typed_data.keygen_digest(p.GENERATION_DOMAIN, included.preparation, included.id, arguments.key_digests)
    return typed_data.crsgen_digest(p.GENERATION_DOMAIN, included.id, event.max_bit_length, arguments.crs_digest)


def handles(event: Any) -> list[bytes]:
    """The handles of a decryption."""
    return [one.ct_handle for one in event.sns_materials]


def right_answer(included: Included) -> bytes | None:
    """What the committee agrees on; None for kinds about which nothing is announced."""
    kind = included.content.kind
    if kind is Kind.PUBLIC_DECRYPTION:
        return b"".join(clear_value(one).to_bytes(32, "big") for one in handles(included.event))
    if kind is Kind.CRSGEN:
        return crs_digest(included.id, included.event.max_bit_length)
    if kind is Kind.KEYGEN:
        return b"".join(part.digest for part in key_digests(included.id))
    return None


def announcement(included: Included) -> tuple[bytes, tuple[bytes, ...], bytes] | None:
    """Emitter, topics and data of the event by which the committee's agreement is announced."""
    kind, answer = included.content.kind, right_answer(included)
    if kind is Kind.PUBLIC_DECRYPTION:
        assert answer is not None
        return p.DECRYPTION, *events.encode(events.PublicDecryptionResponse(included.id, answer, (), b""))
    if kind is Kind.CRSGEN:
        assert answer is not None
        return p.KMS_GENERATION, *events.encode(events.ActivateCrs(included.id, ("s3://x",), answer))
    if kind is Kind.KEYGEN:
        return p.KMS_GENERATION, *events.encode(events.ActivateKey(included.id, ("s3://x",), key_digests(included.id)))
    return None


def view(state: State, registry: Registry, data: bytes) -> Execution:
    """A view of Decryption, KMSGeneration or GatewayConfig."""
    function = views.VIEWS.get(data[:4])
    if function is None:
        return Execution(reverted=b"")
    argument = function.decode(data)[0] if len(data) > 4 else None
    if function is views.IS_DECRYPTION_DONE:
        done = any((kind, argument) in state.done for kind in (Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION))
        return Execution(output=function.encode_return(done))
    if function is views.GET_COPROCESSOR:
        url = p.BUCKETS.get(argument, "")
        return Execution(output=function.encode_return((argument if url else bytes(20), bytes(20), url)))
    if function is views.GET_KMS_NODE:
        known = argument == p.WALLET and registry.registered
        node = (p.WALLET, p.SIGNER, "", "") if known else (bytes(20), bytes(20), "", "")
        return Execution(output=function.encode_return(node))
    if function is views.GET_KEY_MATERIALS and (argument == p.OLD_KEY or (Kind.KEYGEN, argument) in state.done):
        return Execution(output=function.encode_return((("s3://x",), key_digests(argument))))
    return Execution(reverted=b"")
