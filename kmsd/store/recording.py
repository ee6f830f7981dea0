"""Requests on their way into their tables: new ones, and ids that are heard of again (decisions.md 9, 11 and 12).

Everything here runs inside the caller's transaction: that of a range, or of a replayed log.
"""

from collections.abc import Sequence
from typing import Any

import attrs

from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES
from kmsd.ports import Arrival, Claimed, RangeRecord
from kmsd.store.arrivals import Again, Stored, hear_again
from kmsd.store.connections import Session
from kmsd.store.queue import MAX_WORDS
from kmsd.store.sql import query
from kmsd.store.tables import REQUEST_TABLES, Row, request_query
from kmsd.wire.errors import WireError
from kmsd.wire.ids import PRSS_INIT_ID, from_db, short, to_db
from kmsd.wire.v0_11 import events


@attrs.define
class Tally:
    """What a transaction of the listener has done so far."""

    stored: dict[Kind, int] = attrs.field(factory=dict)
    duplicates: int = 0
    replaced: int = 0
    conflicts: int = 0
    leased: list[Claimed] = attrs.field(factory=list)
    fresh: list[Arrival] = attrs.field(factory=list)
    diverging: list[tuple[Kind, int]] = attrs.field(factory=list)


def _carried(arrival: Arrival) -> tuple[Any, ...]:
    return (
        to_db(arrival.id),
        arrival.tx_hash,
        arrival.block_number,
        arrival.block_hash,
        arrival.log_index,
        arrival.content_hash,
        arrival.otlp_context,
        arrival.created_at,
    )


async def record_arrivals(
    session: Session, record: RangeRecord, kind: Kind, arrivals: Sequence[Arrival], tally: Tally
) -> None:
    """Store requests of one kind inside the caller's transaction; of `record` only what applies to all of them."""
    if kind is Kind.PRSS_INIT:
        arrivals = await _numbered(session, arrivals)
    first = {arrival.id: arrival for arrival in reversed(arrivals)}
    unconfirmed = record.needs_confirmation and kind in CEREMONIES
    table = REQUEST_TABLES[kind]
    ordered = [arrival for arrival in arrivals if first[arrival.id] is arrival]
    rows = await session.fetch(
        request_query("arrive", kind),
        [_carried(arrival) for arrival in ordered],
        [table.encode(arrival.event) for arrival in ordered],
        record.node,
        unconfirmed,
        record.owner,
        record.hand_over.get(kind, 0) if record.owner is not None else 0,
    )
    fresh = {from_db(row["id"]): row["leased"] for row in rows}
    tally.stored[kind] = len(fresh)
    tally.fresh += [arrival for arrival in ordered if arrival.id in fresh]
    if record.owner is not None:
        tally.leased += [_leased(arrival, record.owner, record.node) for arrival in ordered if fresh.get(arrival.id)]
    if unconfirmed:
        for arrival in arrivals:
            await _sight(session, record.node, arrival)
    again = [arrival for arrival in arrivals if first[arrival.id] is not arrival or arrival.id not in fresh]
    if again:
        await _record_again(session, record, kind, again, tally)


def _leased(arrival: Arrival, owner: int, node: str) -> Claimed:
    return Claimed(
        kind=arrival.kind,
        id=arrival.id,
        event=arrival.event,
        tx_hash=arrival.tx_hash,
        block_number=arrival.block_number,
        block_hash=arrival.block_hash,
        log_index=arrival.log_index,
        already_sent=False,
        error_counter=0,
        attempts=1,
        core_shard=None,
        refusal=None,
        budget_age=0.0,
        created_at=arrival.created_at,
        otlp_context=arrival.otlp_context,
        lease=owner,
        reporting_node=node,
    )


async def _numbered(session: Session, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """PRSSInit has no id on chain: the first is 1, another transaction's the next number (decisions.md 11)."""
    await session.fetch(query("lock_prss"))
    rows = await session.fetch(query("prss_rows"))
    known = {row["tx_hash"]: from_db(row["id"]) for row in rows if row["tx_hash"] is not None}
    unnamed = [from_db(row["id"]) for row in rows if row["tx_hash"] is None]
    highest = max((from_db(row["id"]) for row in rows), default=PRSS_INIT_ID - 1)
    numbered = []
    for arrival in arrivals:
        number = known.get(arrival.tx_hash)
        if number is None and unnamed:
            number = unnamed.pop()
            await session.fetch(query("adopt_prss"), to_db(number), arrival.tx_hash)
        elif number is None:
            highest += 1
            number = highest
        known[arrival.tx_hash] = number
        numbered.append(attrs.evolve(arrival, id=number))
    return numbered


async def _sight(session: Session, node: str, arrival: Arrival) -> None:
    await session.fetch(
        query("add_sighting"),
        arrival.kind.value,
        to_db(arrival.id),
        node,
        arrival.content_hash,
        arrival.tx_hash,
        arrival.block_number,
        arrival.block_hash,
        arrival.log_index,
    )


async def _record_again(
    session: Session, record: RangeRecord, kind: Kind, arrivals: Sequence[Arrival], tally: Tally
) -> None:
    """Ids that are there already. Nearly always the same request in the same log, shown by another node."""
    rows = await session.fetch(request_query("existing", kind), list({to_db(arrival.id): None for arrival in arrivals}))
    known = {from_db(row["id"]): row for row in rows}
    for arrival in arrivals:
        row = known.get(arrival.id)
        if row is None:  # finished long ago (QU9)
            tally.duplicates += 1
            continue
        if row["content_hash"] is not None:
            what = await _again(session, record, arrival, _stored(row, row["content_hash"]))
            if what is Again.NOTHING:
                tally.duplicates += 1
                continue
        await _act(session, record, arrival, tally)


def _stored(row: Row, content_hash: bytes) -> Stored:
    return Stored(
        status=row["status"],
        already_sent=row["already_sent"],
        content_hash=content_hash,
        tx_hash=row["tx_hash"],
        block_hash=row["block_hash"],
        log_index=row["log_index"],
        reporting_node=row["reporting_node"],
        unconfirmed=row["unconfirmed"],
        orphaned=row["orphaned"],
    )


async def _again(session: Session, record: RangeRecord, arrival: Arrival, stored: Stored) -> Again:
    needs_confirmation = record.needs_confirmation and arrival.kind in CEREMONIES
    witnesses = 0
    if needs_confirmation:
        witnesses = await session.value(
            query("count_sightings"),
            arrival.kind.value,
            to_db(arrival.id),
            arrival.content_hash,
            arrival.block_hash,
            arrival.log_index,
        )
    return hear_again(stored, arrival, record.node, needs_confirmation=needs_confirmation, witnesses=witnesses)


async def _act(session: Session, record: RangeRecord, arrival: Arrival, tally: Tally) -> None:
    """Decide once more with the row locked, and do it."""
    kind, key = arrival.kind, to_db(arrival.id)
    row = await session.row(request_query("existing_locked", kind), key)
    if row is None:
        tally.duplicates += 1
        return
    event, words = event_of(kind, arrival.id, row)
    content_hash = row["content_hash"]
    if content_hash is None:
        # Stored by the Rust connector; one that cannot be decoded differs from everything.
        content_hash = events.content_hash(event) if event is not None else b""
    what = await _again(session, record, arrival, _stored(row, content_hash))
    waits = what in (Again.RELOCATE_UNCONFIRMED, Again.REPLACE_UNCONFIRMED)
    if what is Again.CONFIRM:
        await session.fetch(request_query("confirm", kind), key)
        tally.duplicates += 1
    elif what in (Again.RELOCATE, Again.RELOCATE_UNCONFIRMED):
        place = (arrival.tx_hash, arrival.block_number, arrival.block_hash, arrival.log_index)
        await session.fetch(request_query("relocate", kind), key, *place, arrival.content_hash, record.node, waits)
        tally.duplicates += 1
    elif what in (Again.REPLACE, Again.REPLACE_UNCONFIRMED):
        reason = words or f"replaced: node {record.node} has another request of this id in block {arrival.block_number}"
        await keep_withdrawn(session, kind, key, event, reason, record.node, with_lease=False)
        carried = ([_carried(arrival)], [REQUEST_TABLES[kind].encode(arrival.event)], record.node, waits)
        await session.fetch(request_query("replace", kind), *carried)
        tally.replaced += 1
    elif what is Again.CONFLICT:
        await _quarantine_conflict(session, record, arrival)
        tally.conflicts += 1
    else:
        tally.duplicates += 1


def event_of(kind: Kind, request_id: int, row: Row) -> tuple[Any, str]:
    """The request that a row holds, or None and why it cannot be told."""
    try:
        return REQUEST_TABLES[kind].decode(request_id, row), ""
    except (WireError, KeyError, TypeError, ValueError) as error:
        return None, f"the row could not be decoded: {error}"


async def keep_withdrawn(
    session: Session, kind: Kind, key: bytes, event: Any, reason: str, node: str, *, with_lease: bool
) -> None:
    """Copy a row to the withdrawn ones, with the log that says the same; `with_lease`: a task may still be at work."""
    topics, data = events.encode(event) if event is not None else (None, None)
    await session.fetch(request_query("keep_withdrawn", kind), key, reason[:MAX_WORDS], node, topics, data, with_lease)


async def _quarantine_conflict(session: Session, record: RangeRecord, arrival: Arrival) -> None:
    topics, data = events.encode(arrival.event)
    reason = (
        f"{arrival.kind.value} {short(arrival.id)} means another request here: node {record.node} contradicts one that "
        "was already sent to the Core, or that two nodes agree on"
    )
    await session.fetch(
        query("quarantine_log"),
        "conflict",
        reason,
        record.node,
        arrival.kind.value,
        to_db(arrival.id),
        None,
        list(topics),
        data,
        arrival.tx_hash,
        arrival.block_number,
        arrival.block_hash,
        arrival.log_index,
    )
