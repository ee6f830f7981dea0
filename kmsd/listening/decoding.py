"""From logs to what the store takes: requests, facts about answers, and logs for quarantine (EV6; decisions.md 34)."""

from collections.abc import Sequence
from typing import Any

import attrs
import trio

from kmsd.config import Settings
from kmsd.observe.traces import OFF, Traces
from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import BY_STREAM, OPERATIONS
from kmsd.ports import Arrival, ChainFact, Entropy, Log, QuarantinedLog, Time
from kmsd.wire.contract import Event
from kmsd.wire.errors import WireError
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import events

FACTS: dict[Stream, tuple[str, ...]] = {
    Stream.DECRYPTION: ("PublicDecryptionResponse",),
    Stream.KEY_MANAGEMENT: ("ActivateKey", "ActivateCrs"),
}
"""Consensus and activation events that come with each stream's requests."""

STEP = 64
"""Logs decoded between two looks of the event loop at others."""

_KINDS: dict[bytes, Kind] = {events.BY_NAME[op.event].topic: op.kind for op in OPERATIONS.values()}
_FACTS: dict[bytes, Event[Any]] = {
    events.BY_NAME[name].topic: events.BY_NAME[name] for names in FACTS.values() for name in names
}


def topics_of(stream: Stream) -> tuple[bytes, ...]:
    """First topics of the logs that a stream is made of."""
    names = [OPERATIONS[kind].event for kind in BY_STREAM[stream]] + list(FACTS[stream])
    return tuple(events.BY_NAME[name].topic for name in names)


def contract_of(stream: Stream, settings: Settings) -> bytes:
    """Address of the contract that emits a stream."""
    contract = settings.decryption_contract if stream is Stream.DECRYPTION else settings.kms_generation_contract
    return contract.address


def kind_of(log: Log) -> Kind | None:
    """The kind of request that a log announces, None for other logs."""
    return _KINDS.get(log.topics[0]) if log.topics else None


@attrs.define
class Decoded:
    """What the logs of one range mean."""

    arrivals: list[Arrival] = attrs.field(factory=list)
    facts: list[ChainFact] = attrs.field(factory=list)
    quarantined: list[QuarantinedLog] = attrs.field(factory=list)


async def decode(logs: Sequence[Log], node: str, time: Time, entropy: Entropy, traces: Traces = OFF) -> Decoded:
    """Decode `logs` in their order. What cannot be decoded is for quarantine; nothing is dropped."""
    decoded = Decoded()
    now = time.now()
    for index, log in enumerate(logs):
        if index % STEP == STEP - 1:
            await trio.lowlevel.checkpoint()
        try:
            kind = kind_of(log)
            if kind is not None:
                decoded.arrivals.append(_arrival(kind, log, now, traces.begin(entropy)))
            else:
                decoded.facts.append(_fact(log))
        except WireError as error:
            decoded.quarantined.append(QuarantinedLog(node, log, str(error)))
    return decoded


def _arrival(kind: Kind, log: Log, now: float, trace: bytes) -> Arrival:
    record = events.decode(log)
    return Arrival(
        kind=kind,
        # PRSSInit carries no id (decisions.md 11).
        id=0 if kind is Kind.PRSS_INIT else getattr(record, OPERATIONS[kind].id_column),
        event=record,
        # What `events.content_hash` computes from the record, which the contract's canonical encoding gives at once.
        content_hash=keccak256(b"".join(log.topics) + log.data),
        tx_hash=log.tx_hash,
        block_number=log.block_number,
        block_hash=log.block_hash,
        log_index=log.log_index,
        otlp_context=trace,
        created_at=now,
    )


def _fact(log: Log) -> ChainFact:
    event = _FACTS.get(log.topics[0])
    if event is None:
        raise WireError(f"no event of this stream: topic 0x{log.topics[0].hex()}")
    record = event.decode(log)
    return ChainFact(event.name, record[0], record, log.block_number, log.block_hash, log.log_index)
