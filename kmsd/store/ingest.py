"""The listener's verbs: ranges with their cursor in one transaction, and reorganisations (EV1, EV5, EV6)."""

from collections.abc import Sequence
from typing import Any

from kmsd.failpoints import failpoint
from kmsd.operations.kinds import Stream
from kmsd.operations.table import BY_STREAM, OPERATIONS
from kmsd.ports import (
    Arrival,
    BlockRef,
    QuarantinedLog,
    RangeOutcome,
    RangeRecord,
    Rewind,
    StoredRef,
)
from kmsd.store.connections import Session
from kmsd.store.facts import record_facts
from kmsd.store.part import Part, by_kind
from kmsd.store.queue import MAX_WORDS
from kmsd.store.recording import Tally, event_of, keep_withdrawn, record_arrivals
from kmsd.store.sql import query
from kmsd.store.tables import PUBLIC_DECRYPTION_FACT, request_query
from kmsd.wire.ids import from_db, to_db

FACTS = {
    Stream.DECRYPTION: [PUBLIC_DECRYPTION_FACT],
    Stream.KEY_MANAGEMENT: ["ActivateKey", "ActivateCrs"],
}

TRIM_BLOCKS = 64
"""Blocks after which range ends that are no longer needed are taken away."""


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
            if not await _move_cursor(session, record.node, record.stream, record.expected, record.end):
                return None
            tally = Tally()
            arrivals = _once_each(record.arrivals)
            for kind, indexes in by_kind(arrivals, lambda arrival: arrival.kind).items():
                await record_arrivals(session, record, kind, [arrivals[index] for index in indexes], tally)
            for bad in record.quarantined:
                await _quarantine_log(session, bad)
            await record_facts(session, record.facts, tally)
            if _is_time_to_trim(record):
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
            fresh=tally.fresh,
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


def _is_time_to_trim(record: RangeRecord) -> bool:
    """Old range ends are taken away once in so many blocks: doing so reads all that are kept."""
    return record.expected is None or record.expected.number // TRIM_BLOCKS != record.end.number // TRIM_BLOCKS


async def _move_cursor(session: Session, node: str, stream: Stream, expected: BlockRef | None, to: BlockRef) -> bool:
    where = (node, stream.value, to.number, to.hash)
    if expected is None:
        return await session.value(query("first_cursor"), *where) is not None
    return await session.value(query("move_cursor"), *where, expected.number, expected.hash) is not None


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


async def _orphan(session: Session, ref: StoredRef, rewind: Rewind) -> None:
    """One request of an orphaned block: the row decides what becomes of it."""
    key = to_db(ref.id)
    row = await session.row(request_query("existing_locked", ref.kind), key)
    if row is None or (row["block_number"], row["block_hash"]) != (ref.block_number, ref.block_hash):
        return
    if row["already_sent"] or row["status"] == "completed":
        await session.fetch(request_query("mark_orphaned", ref.kind), key, f"its block was orphaned: {rewind.reason}")
        return
    event, _ = event_of(ref.kind, ref.id, row)
    await keep_withdrawn(session, ref.kind, key, event, rewind.reason, rewind.node, with_lease=True)
    await session.fetch(query("drop_sightings_of"), ref.kind.value, key)
    await session.fetch(request_query("delete_request", ref.kind), key)
