"""Storing one proven range: requests, facts, quarantine and cursor in one transaction, then saying that there is work.

(EV1, EV6; decisions.md 4 and 12)
"""

import logging
from collections.abc import Mapping
from contextlib import nullcontext

import trio

from kmsd.chain.scan import Scanned
from kmsd.failpoints import failpoint
from kmsd.listening.around import Around
from kmsd.listening.decoding import Decoded, decode, kind_of
from kmsd.listening.witnesses import LogKey, Witnesses
from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import DECRYPTIONS, OPERATIONS
from kmsd.ports import BlockRef, RangeOutcome, RangeRecord
from kmsd.wire import ids

log = logging.getLogger("kmsd.listener")


class Recorder:
    """Stores the ranges of one stream of one node."""

    def __init__(self, around: Around, node: str, stream: Stream, witnesses: Witnesses) -> None:
        self._around = around
        self._node = node
        self._stream = stream
        self._witnesses = witnesses

    async def record(self, expected: BlockRef | None, found: Scanned) -> bool:
        """Commit what is new in the range; False when the cursor is no longer `expected`, and nothing was written.

        Raises DependencyDown, which leaves open whether the commit happened: read the cursor again. Rows that it may
        have leased to this daemon are found and given back by the worker, which looks at once.
        """
        around = self._around
        if found.strays:
            around.metrics.inc("kms_connector_listener_strays", self._node, by=found.strays)
            log.warning("node %s answered with %d logs that nobody had asked for", self._node, found.strays)
        news = [one for one in found.logs if not self._witnesses.known_to(self._node, one)]
        began = trio.current_time()
        decoded = await decode(news, self._node, around.time, around.entropy, around.traces)
        counts = _counts(decoded)
        owner = around.ownership.current
        reserved = self._reserve(counts) if owner is not None else {}
        record = RangeRecord(
            node=self._node,
            stream=self._stream,
            expected=expected,
            end=found.end.ref,
            arrivals=decoded.arrivals,
            quarantined=decoded.quarantined,
            facts=decoded.facts,
            needs_confirmation=self._stream is Stream.KEY_MANAGEMENT and len(around.nodes) > 1,
            owner=owner if reserved else None,
            hand_over=reserved,
        )
        failpoint("listener.before_record")
        with around.handover.leasing() if reserved else nullcontext():
            try:
                outcome = await around.store.record_range(record)
            except BaseException:
                self._cancel(reserved)
                raise
            failpoint("listener.after_record")
            handed = self._deliver(outcome, reserved)
        if not outcome.committed:
            log.info("the cursor of %s on node %s was moved by another daemon", self._stream.value, self._node)
            return False
        self._witnesses.saw(self._node, news, record.end.number, trio.current_time(), self._ceremonies(decoded))
        self._count(decoded, counts, outcome)
        if around.traces.on:
            self._trace(outcome, trio.current_time() - began)
        for kind, count in counts.items():
            # A ceremony may have waited for just this second report of it.
            if kind not in DECRYPTIONS or outcome.stored.get(kind, count) > handed.get(kind, 0):
                around.wakeups.ring(kind, is_response=False)
        return True

    def _reserve(self, counts: Mapping[Kind, int]) -> dict[Kind, int]:
        """How many fresh decryptions of each kind this daemon's worker takes at once."""
        handover = self._around.handover
        reserved = {kind: handover.reserve(kind, counts[kind]) for kind in DECRYPTIONS if kind in counts}
        return {kind: count for kind, count in reserved.items() if count > 0}

    def _deliver(self, outcome: RangeOutcome, reserved: Mapping[Kind, int]) -> dict[Kind, int]:
        """Give leased rows to the worker, cancel unused reservations; how many of each kind went."""
        handed: dict[Kind, int] = {}
        for claimed in outcome.leased:
            handed[claimed.kind] = handed.get(claimed.kind, 0) + 1
        if outcome.leased:
            self._around.handover.deliver(outcome.leased)
        for kind, count in handed.items():
            self._around.metrics.inc("kms_connector_listener_handed_over", OPERATIONS[kind].label, by=count)
        self._cancel({kind: count - handed.get(kind, 0) for kind, count in reserved.items()})
        return handed

    def _cancel(self, reserved: Mapping[Kind, int]) -> None:
        for kind, count in reserved.items():
            if count > 0:
                self._around.handover.cancel(kind, count)

    def _trace(self, outcome: RangeOutcome, seconds: float) -> None:
        """The first span of each operation that this commit began."""
        for one in outcome.fresh:
            facts = {"kind": one.kind.value, "id": ids.short(one.id), "node": self._node, "block": one.block_number}
            self._around.traces.root(one.otlp_context, seconds, facts | {"request_tx": f"0x{one.tx_hash.hex()}"})

    def _ceremonies(self, decoded: Decoded) -> dict[LogKey, str]:
        if self._stream is not Stream.KEY_MANAGEMENT:
            return {}
        return {(one.block_hash, one.log_index): f"{one.kind.value} {ids.to_core(one.id)}" for one in decoded.arrivals}

    def _count(self, decoded: Decoded, counts: Mapping[Kind, int], outcome: RangeOutcome) -> None:
        metrics = self._around.metrics
        for kind, count in counts.items():
            label, stored = OPERATIONS[kind].label, outcome.stored.get(kind, 0)
            metrics.inc("kms_connector_gw_listener_event_received_counter", label, by=stored)
            metrics.inc("kms_connector_listener_events_duplicate", label, by=max(0, count - stored))
        for one in decoded.quarantined:
            bad = kind_of(one.log)
            if bad is not None:
                metrics.inc("kms_connector_gw_listener_event_received_errors", OPERATIONS[bad].label)
            log.error(
                "log %d of block %d (transaction 0x%s) cannot be decoded and is in quarantine: %s",
                one.log.log_index,
                one.log.block_number,
                one.log.tx_hash.hex(),
                one.reason,
            )
        metrics.inc("kms_connector_listener_events_replaced", self._stream.value, by=outcome.replaced)
        metrics.inc("kms_connector_listener_events_conflicting", self._stream.value, by=outcome.conflicts)
        if outcome.conflicts:
            log.error(
                "%d events of %s up to block %d contradict requests that were already sent to the Core; see quarantine",
                outcome.conflicts,
                self._stream.value,
                max((one.block_number for one in decoded.arrivals), default=0),
            )


def _counts(decoded: Decoded) -> dict[Kind, int]:
    """Requests by kind, in the order of the operations' table."""
    counts = dict.fromkeys(OPERATIONS, 0)
    for one in decoded.arrivals:
        counts[one.kind] += 1
    return {kind: count for kind, count in counts.items() if count}
