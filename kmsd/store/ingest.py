"""The listener's verbs: ranges with their cursor in one transaction, and reorganisations (EV1, EV5, EV6)."""

import logging
from collections.abc import Sequence
from typing import Any

import attrs

from kmsd.failpoints import failpoint
from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import BY_STREAM, CEREMONIES, OPERATIONS
from kmsd.ports import (
    Arrival,
    BlockRef,
    ChainFact,
    Claimed,
    QuarantinedLog,
    RangeOutcome,
    RangeRecord,
    Rewind,
    StoredRef,
)
from kmsd.store.arrivals import Again, Stored, hear_again
from kmsd.store.connections import Session
from kmsd.store.divergence import PUBLIC_DECRYPTION_FACT, compare_fact, value_of
from kmsd.store.keys import activate
from kmsd.store.part import Part, by_kind
from kmsd.store.queue import MAX_WORDS
from kmsd.store.sql import query
from kmsd.store.tables import REQUEST_TABLES, Row, request_query
from kmsd.wire.errors import WireError
from kmsd.wire.ids import PRSS_INIT_ID, from_db, short, to_db
from kmsd.wire.v0_11 import events

log = logging.getLogger("kmsd.store")

FACTS = {
    Stream.DECRYPTION: [PUBLIC_DECRYPTION_FACT],
    Stream.KEY_MANAGEMENT: ["ActivateKey", "ActivateCrs"],
}
_OBJECTS = {"ActivateKey": "key", "ActivateCrs": "crs"}


@attrs.define
class Tally:
    """What a transaction of the listener has done so far."""

    stored: dict[Kind, int] = attrs.field(factory=dict)
    duplicates: int = 0
    replaced: int = 0
    conflicts: int = 0
    leased: list[Claimed] = attrs.field(factory=list)
    diverging: list[tuple[Kind, int]] = attrs.field(factory=list)


class Ingest(Part):
    """What the chain says."""

    async def cursor(self, node: str, stream: Stream) -> BlockRef | None:
        """How far `node` was read."""
        return _ref(await self._database.single("cursor", query("cursor"), node, stream.value))

    async def lowest_cursor(self, stream: Stream) -> BlockRef | None:
        """The lowest cursor over all nodes; else the Rust connector's, without a hash."""
        found = _ref(await self._database.single("lowest_cursor", query("lowest_cursor"), stream.value))
        if found is not None:
            return found
        rows = await self._database.single("lowest_cursor", query("reference_cursor"), _event_types(stream))
        number = rows[0][0]
        return BlockRef(number, b"") if number is not None else None

    async def range_ends(self, node: str, stream: Stream) -> Sequence[BlockRef]:
        """Ends of scanned ranges, newest first, at most 256."""
        rows = await self._database.single("range_ends", query("range_ends"), node, stream.value)
        return [BlockRef(*row) for row in rows]

    async def record_range(self, record: RangeRecord) -> RangeOutcome:
        """Rows, quarantine, facts, cursor and hand-over leases of one range, all or nothing."""

        async def work(session: Session) -> Tally | None:
            await session.fetch(query("ingest_lock"))
            if not await _move_cursor(session, record.node, record.stream, record.expected, record.end):
                return None
            tally = Tally()
            arrivals = _once_each(record.arrivals)
            for kind, indexes in by_kind(arrivals, lambda arrival: arrival.kind).items():
                await record_arrivals(session, record, kind, [arrivals[index] for index in indexes], tally)
            for bad in record.quarantined:
                await _quarantine_log(session, bad)
            await record_facts(session, record.facts, tally)
            await session.fetch(
                query("add_range_end"), record.node, record.stream.value, record.end.number, record.end.hash
            )
            await session.fetch(query("trim_range_ends"), record.node, record.stream.value)
            failpoint("store.range_written")
            return tally

        tally = await self._database.run("record_range", work)
        if tally is None:
            return RangeOutcome(False)
        self._database.diverging(tally.diverging)
        return RangeOutcome(
            True,
            stored=tally.stored,
            duplicates=tally.duplicates,
            replaced=tally.replaced,
            conflicts=tally.conflicts,
            leased=tally.leased,
        )

    async def stored_after(self, stream: Stream, block_number: int) -> Sequence[StoredRef]:
        """Requests of blocks after `block_number`; `already_sent` also for completed ones."""
        found: list[StoredRef] = []
        for kind in BY_STREAM[stream]:
            rows = await self._database.single("stored_after", request_query("stored_after", kind), block_number)
            found += [
                StoredRef(kind, from_db(row["id"]), row["block_number"], row["block_hash"], row["already_sent"])
                for row in rows
                if len(row["id"]) == 32
            ]
        return found

    async def rewind(self, rewind: Rewind) -> bool:
        """Move the cursor back, withdraw what fell and was not sent, mark what was; False when the cursor had moved."""

        async def work(session: Session) -> bool:
            if not await _move_cursor(session, rewind.node, rewind.stream, rewind.expected, rewind.to):
                return False
            kinds = [kind.value for kind in BY_STREAM[rewind.stream]]
            await session.fetch(query("drop_range_ends"), rewind.node, rewind.stream.value, rewind.to.number)
            await session.fetch(query("drop_sightings"), rewind.node, rewind.to.number, kinds)
            await session.fetch(query("drop_facts"), rewind.to.number, FACTS[rewind.stream])
            for ref in rewind.orphaned:
                await _orphan(session, ref, rewind)
            failpoint("store.rewind_written")
            return True

        return await self._database.run("rewind", work)

    async def publish_floor(self, stream: Stream, nodes: Sequence[str]) -> None:
        """`last_block_polled` of the stream's kinds becomes the lowest cursor of `nodes`."""
        await self._database.single(
            "publish_floor", query("publish_floor"), stream.value, list(nodes), _event_types(stream)
        )


def _event_types(stream: Stream) -> list[str]:
    return [OPERATIONS[kind].event_type for kind in BY_STREAM[stream]]


def _ref(rows: Sequence[Any]) -> BlockRef | None:
    return BlockRef(*rows[0]) if rows else None


def _once_each(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Without repetitions of one log; two requests of one id in one range stay, in their order."""
    return list({(one.kind, one.block_hash, one.log_index): one for one in arrivals}.values())


async def _move_cursor(session: Session, node: str, stream: Stream, expected: BlockRef | None, to: BlockRef) -> bool:
    where = (node, stream.value, to.number, to.hash)
    if expected is None:
        return await session.value(query("first_cursor"), *where) is not None
    return await session.value(query("move_cursor"), *where, expected.number, expected.hash) is not None


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
    event, words = _event_of(kind, arrival.id, row)
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
        await _keep_withdrawn(session, kind, key, event, reason, record.node, with_lease=False)
        carried = ([_carried(arrival)], [REQUEST_TABLES[kind].encode(arrival.event)], record.node, waits)
        await session.fetch(request_query("replace", kind), *carried)
        tally.replaced += 1
    elif what is Again.CONFLICT:
        await _quarantine_conflict(session, record, arrival)
        tally.conflicts += 1
    else:
        tally.duplicates += 1


def _event_of(kind: Kind, request_id: int, row: Row) -> tuple[Any, str]:
    """The request that a row holds, or None and why it cannot be told."""
    try:
        return REQUEST_TABLES[kind].decode(request_id, row), ""
    except (WireError, KeyError, TypeError, ValueError) as error:
        return None, f"the row could not be decoded: {error}"


async def _keep_withdrawn(
    session: Session, kind: Kind, key: bytes, event: Any, reason: str, node: str, *, with_lease: bool
) -> None:
    topics, data = events.encode(event) if event is not None else (None, None)
    await session.fetch(request_query("keep_withdrawn", kind), key, reason[:MAX_WORDS], node, topics, data, with_lease)


async def _quarantine_log(session: Session, bad: QuarantinedLog) -> None:
    await session.fetch(
        query("quarantine_log"),
        "log",
        bad.reason[:MAX_WORDS],
        bad.node,
        None,
        None,
        bad.log.address,
        list(bad.log.topics),
        bad.log.data,
        bad.log.tx_hash,
        bad.log.block_number,
        bad.log.block_hash,
        bad.log.log_index,
    )


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


async def record_facts(session: Session, facts: Sequence[ChainFact], tally: Tally) -> None:
    """Store what the committee agreed on inside the caller's transaction."""
    decryptions = list({f.id: f for f in facts if f.name == PUBLIC_DECRYPTION_FACT}.values())
    if decryptions:
        rows = await session.fetch(
            query("add_decryption_facts"),
            [to_db(fact.id) for fact in decryptions],
            [value_of(fact) for fact in decryptions],
            [fact.block_number for fact in decryptions],
            [fact.block_hash for fact in decryptions],
            [fact.log_index for fact in decryptions],
        )
        tally.diverging += [(Kind.PUBLIC_DECRYPTION, from_db(row["id"])) for row in rows]
    for fact in facts:
        if fact.name not in _OBJECTS:
            continue
        await session.fetch(
            query("add_facts"),
            [fact.name],
            [to_db(fact.id)],
            [value_of(fact)],
            [fact.block_number],
            [fact.block_hash],
            [fact.log_index],
        )
        await activate(
            session,
            _OBJECTS[fact.name],
            fact.id,
            f"{fact.name} in block {fact.block_number}",
            block_number=fact.block_number,
            storage_urls=fact.event.kms_node_storage_urls,
        )
        tally.diverging += await compare_fact(session, fact)


async def _orphan(session: Session, ref: StoredRef, rewind: Rewind) -> None:
    """One request of an orphaned block: the row decides what becomes of it."""
    key = to_db(ref.id)
    row = await session.row(request_query("existing_locked", ref.kind), key)
    if row is None or (row["block_number"], row["block_hash"]) != (ref.block_number, ref.block_hash):
        return
    if row["already_sent"] or row["status"] == "completed":
        await session.fetch(request_query("mark_orphaned", ref.kind), key, f"its block was orphaned: {rewind.reason}")
        return
    event, _ = _event_of(ref.kind, ref.id, row)
    await _keep_withdrawn(session, ref.kind, key, event, rewind.reason, rewind.node, with_lease=True)
    await session.fetch(query("drop_sightings_of"), ref.kind.value, key)
    await session.fetch(request_query("delete_request", ref.kind), key)
