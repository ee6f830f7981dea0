"""The listener's verbs of the simulated store: a range with its cursor in one transaction, and reorganisations."""

from collections.abc import Sequence
from typing import Any

import attrs

from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import BY_STREAM, CEREMONIES
from kmsd.ports import Arrival, BlockRef, Claimed, QuarantinedLog, RangeOutcome, RangeRecord, Rewind, StoredRef
from kmsd.store.arrivals import Again, Stored, hear_again
from kmsd.store.ingest import FACTS
from kmsd.wire.ids import PRSS_INIT_ID

from .rows import Request, Sighting, Withdrawn
from .store import StoreBase
from .store_facts import record_fact

NEVER = float("inf")


@attrs.define
class _Tally:
    stored: dict[Kind, int] = attrs.field(factory=dict)
    duplicates: int = 0
    replaced: int = 0
    conflicts: int = 0
    leased: list[Claimed] = attrs.field(factory=list)
    fresh: list[Arrival] = attrs.field(factory=list)


class ListenerVerbs(StoreBase):
    """What the chain says."""

    async def cursor(self, node: str, stream: Stream) -> BlockRef | None:
        """How far `node` was read."""
        return await self.read("cursor", lambda now: self.db.cursors.get((node, stream)))

    async def lowest_cursor(self, stream: Stream) -> BlockRef | None:
        """The lowest cursor over all nodes; else the Rust connector's."""

        def work(now: float) -> BlockRef | None:
            known = [ref for (_, one), ref in self.db.cursors.items() if one is stream]
            if known:
                return min(known)
            floor = self.db.floors.get(stream)
            return BlockRef(floor, b"") if floor is not None else None

        return await self.read("lowest_cursor", work)

    async def range_ends(self, node: str, stream: Stream) -> Sequence[BlockRef]:
        """Ends of scanned ranges, newest first."""

        def work(now: float) -> list[BlockRef]:
            ends = self.db.ends.get((node, stream), {})
            return [BlockRef(number, ends[number]) for number in sorted(ends, reverse=True)[:256]]

        return await self.read("range_ends", work)

    async def record_range(self, record: RangeRecord) -> RangeOutcome:
        """Rows, quarantine, facts, cursor and hand-over leases, all or nothing."""

        def work(now: float) -> RangeOutcome:
            if not self._move(record.node, record.stream, record.expected, record.end):
                return RangeOutcome(committed=False)
            tally = _Tally()
            arrivals = list({(one.kind, one.block_hash, one.log_index): one for one in record.arrivals}.values())
            for kind in BY_STREAM[record.stream]:
                ours = [one for one in arrivals if one.kind is kind]
                if ours:
                    self._record(record, kind, ours, now, tally)
            for bad in record.quarantined:
                place = (bad.log.block_hash, bad.log.log_index, "log")
                self.db.quarantine.setdefault(place, (bad, None, now))
            for fact in record.facts:
                record_fact(self.db, fact)
            ends = self.db.ends[record.node, record.stream]
            for number in sorted(ends)[:-256]:
                del ends[number]
            self.db.on_cursor(record.node, record.stream, record.expected, record.end)
            return RangeOutcome(
                committed=True,
                stored=tally.stored,
                duplicates=tally.duplicates,
                replaced=tally.replaced,
                conflicts=tally.conflicts,
                leased=tally.leased,
                fresh=tally.fresh,
            )

        return await self.run("record_range", work)

    def _move(self, node: str, stream: Stream, expected: BlockRef | None, to: BlockRef) -> bool:
        if self.db.cursors.get((node, stream)) != expected:
            return False
        self.db.cursors[node, stream] = to
        self.db.ends.setdefault((node, stream), {})[to.number] = to.hash
        return True

    def _record(self, record: RangeRecord, kind: Kind, arrivals: Sequence[Arrival], now: float, tally: _Tally) -> None:
        db = self.db
        if kind is Kind.PRSS_INIT:
            arrivals = self._numbered(arrivals)
        first = {arrival.id: arrival for arrival in reversed(arrivals)}
        unconfirmed = record.needs_confirmation and kind in CEREMONIES
        fresh: dict[int, bool] = {}
        place = 0
        hand_over = record.hand_over.get(kind, 0) if record.owner is not None else 0
        for arrival in [one for one in arrivals if first[one.id] is one]:
            key = (kind, arrival.id)
            if key in db.requests or key in db.finished:
                continue
            place += 1
            earlier = [w for w in db.withdrawn if w.key == key]
            stale = max((w.owner for w in earlier if w.owner is not None), default=None)
            leased = place <= hand_over and stale is None
            row = Request(
                kind=kind,
                id=arrival.id,
                event=arrival.event,
                content_hash=arrival.content_hash,
                tx_hash=arrival.tx_hash,
                block_number=arrival.block_number,
                block_hash=arrival.block_hash,
                log_index=arrival.log_index,
                otlp_context=arrival.otlp_context,
                created_at=arrival.created_at,
                reporting_node=record.node,
                due=now if stale is None else NEVER,
                budget_started_at=now,
                status="under_process" if leased else "pending",
                owner=record.owner if leased else None,
                unconfirmed=unconfirmed,
                attempts=int(leased),
                stale_owner=stale,
                content_epoch=db.last_epoch if earlier else 0,
            )
            db.put("arrive", record.owner if leased else None, row)
            fresh[arrival.id] = leased
            if leased:
                tally.leased.append(row.claimed(now))
            else:
                self.notify(kind, is_response=False)
        tally.stored[kind] = len(fresh)
        tally.fresh += [one for one in arrivals if first[one.id] is one and one.id in fresh]
        if unconfirmed:
            for arrival in arrivals:
                db.sightings[kind, arrival.id, record.node] = Sighting(
                    arrival.content_hash, arrival.block_number, arrival.block_hash, arrival.log_index
                )
        for arrival in arrivals:
            if first[arrival.id] is not arrival or arrival.id not in fresh:
                self._hear_again(record, arrival, now, tally)

    def _numbered(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        known = {row.tx_hash: row.id for row in self.db.requests.values() if row.kind is Kind.PRSS_INIT}
        highest = max(known.values(), default=PRSS_INIT_ID - 1)
        numbered = []
        for arrival in arrivals:
            if arrival.tx_hash not in known:
                highest += 1
                known[arrival.tx_hash] = highest
            numbered.append(attrs.evolve(arrival, id=known[arrival.tx_hash]))
        return numbered

    def _hear_again(self, record: RangeRecord, arrival: Arrival, now: float, tally: _Tally) -> None:
        db, kind = self.db, arrival.kind
        row = db.requests.get((kind, arrival.id))
        if row is None:
            tally.duplicates += 1
            return
        needs_confirmation = record.needs_confirmation and kind in CEREMONIES
        this = (arrival.content_hash, arrival.block_hash, arrival.log_index)
        witnesses = sum(
            (s.content_hash, s.block_hash, s.log_index) == this
            for (one, request_id, _), s in db.sightings.items()
            if needs_confirmation and (one, request_id) == (kind, arrival.id)
        )
        stored = Stored(
            status=row.status,
            already_sent=row.already_sent,
            content_hash=row.content_hash,
            tx_hash=row.tx_hash,
            block_hash=row.block_hash,
            log_index=row.log_index,
            reporting_node=row.reporting_node,
            unconfirmed=row.unconfirmed,
            orphaned=row.orphaned,
        )
        what = hear_again(stored, arrival, record.node, needs_confirmation=needs_confirmation, witnesses=witnesses)
        waits = what in (Again.RELOCATE_UNCONFIRMED, Again.REPLACE_UNCONFIRMED)
        place: dict[str, Any] = {
            "tx_hash": arrival.tx_hash,
            "block_number": arrival.block_number,
            "block_hash": arrival.block_hash,
            "log_index": arrival.log_index,
            "content_hash": arrival.content_hash,
            "reporting_node": record.node,
            "unconfirmed": waits,
            "orphaned": False,
        }
        if what is Again.CONFLICT:
            key = (arrival.block_hash, arrival.log_index, "conflict")
            db.quarantine.setdefault(key, (None, row.key, now))
            tally.conflicts += 1
            return
        if what in (Again.REPLACE, Again.REPLACE_UNCONFIRMED):
            db.withdrawn.append(Withdrawn(row.key, row.content_hash, None, "replaced", now))
            stale = row.owner if row.status == "under_process" else row.stale_owner
            db.change(
                "replace",
                None,
                row,
                **place,
                event=arrival.event,
                otlp_context=arrival.otlp_context,
                created_at=arrival.created_at,
                status="pending",
                owner=None,
                stale_owner=stale,
                due=now if stale is None else NEVER,
                content_epoch=db.last_epoch,
                budget_started_at=now,
                attempts=0,
                error_counter=0,
                last_error=None,
                refusal=None,
                core_shard=None,
                note=None,
            )
            self.notify(kind, is_response=False)
            tally.replaced += 1
            return
        tally.duplicates += 1
        if what is Again.CONFIRM and row.unconfirmed:
            db.change("confirm", None, row, unconfirmed=False, due=min(row.due, now))
            self.notify(kind, is_response=False)
        elif what in (Again.RELOCATE, Again.RELOCATE_UNCONFIRMED):
            db.change("relocate", None, row, **place)

    async def stored_after(self, stream: Stream, block_number: int) -> Sequence[StoredRef]:
        """Requests of blocks after `block_number`."""

        def work(now: float) -> list[StoredRef]:
            rows = sorted(
                (row for row in self.db.requests.values() if row.block_number > block_number),
                key=lambda row: row.block_number,
            )
            return [
                StoredRef(
                    row.kind,
                    row.id,
                    row.block_number,
                    row.block_hash,
                    row.already_sent or row.status == "completed",
                )
                for kind in BY_STREAM[stream]
                for row in rows
                if row.kind is kind
            ]

        return await self.read("stored_after", work)

    async def rewind(self, rewind: Rewind) -> bool:
        """Move the cursor back, withdraw what fell and was not sent, mark what was."""

        def work(now: float) -> bool:
            db, key = self.db, (rewind.node, rewind.stream)
            if not self._move(rewind.node, rewind.stream, rewind.expected, rewind.to):
                return False
            db.ends[key] = {n: h for n, h in db.ends.get(key, {}).items() if n <= rewind.to.number}
            kinds = BY_STREAM[rewind.stream]
            db.sightings = {
                (kind, one, node): s
                for (kind, one, node), s in db.sightings.items()
                if not (node == rewind.node and s.block_number > rewind.to.number and kind in kinds)
            }
            db.facts = {
                (name, one): fact
                for (name, one), fact in db.facts.items()
                if not (name in FACTS[rewind.stream] and fact[1] > rewind.to.number)
            }
            for ref in rewind.orphaned:
                self._orphan(ref, rewind, now)
            return True

        return await self.run("rewind", work)

    def _orphan(self, ref: StoredRef, rewind: Rewind, now: float) -> None:
        db = self.db
        row = db.requests.get((ref.kind, ref.id))
        if row is None or (row.block_number, row.block_hash) != (ref.block_number, ref.block_hash):
            return
        if row.already_sent or row.status == "completed":
            db.change("orphan", None, row, orphaned=True, note=f"its block was orphaned: {rewind.reason}")
            return
        owner = row.owner if row.status == "under_process" else row.stale_owner
        db.withdrawn.append(Withdrawn(row.key, row.content_hash, owner, rewind.reason, now))
        db.sightings = {key: s for key, s in db.sightings.items() if key[:2] != row.key}
        db.remove("withdraw", row)

    async def publish_floor(self, stream: Stream, nodes: Sequence[str]) -> None:
        """`last_block_polled` becomes the lowest cursor of `nodes`."""

        def work(now: float) -> None:
            known = [ref.number for (node, one), ref in self.db.cursors.items() if one is stream and node in nodes]
            if known:
                self.db.floors[stream] = min(known)

        await self.run("publish_floor", work)


def quarantined_logs(quarantine: Any) -> list[QuarantinedLog]:
    """Logs that could not be decoded."""
    return [bad for bad, _, _ in quarantine.values() if bad is not None]
