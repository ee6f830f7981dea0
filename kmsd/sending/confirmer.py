"""Confirming: one look at the chain for everything in flight, receipts by hash, reorganisations noticed."""

import logging
from collections.abc import Mapping, Sequence

import attrs
import trio

from kmsd.chain.gas import MAX_OUT_OF_GAS, GasTable, after_out_of_gas, may_be_out_of_gas
from kmsd.chain.jsonrpc import Receipt
from kmsd.chain.nonces import Flight, LaneState, Window
from kmsd.chain.transactions import decode
from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import RECEIPT, Traces
from kmsd.operations.table import OPERATIONS
from kmsd.ports import JournalEntry, Lease, ResponseFate, ResponseOutcome, Store, Time, TxState
from kmsd.sending.journal import Journal
from kmsd.sending.preparer import FOREIGN_ALERT, Market
from kmsd.sending.questions import BATCH, Call, Questions, Tip, Unanswered
from kmsd.sending.receipts import Receipts
from kmsd.sending.verdicts import Verdicts
from kmsd.sending.works import Key, Work, Works
from kmsd.wire.v0_11.errors import RevertReason

log = logging.getLogger("kmsd.sender")

FOREIGN_AFTER = 5.0
"""Seconds for which a mined nonce may lack a receipt of ours before it counts as another program's."""
MAX_TRACES = 4
"""Transactions traced in one pass, where the call repeated does not tell why one failed; not every node traces."""
CONFIRM_BATCH = 256
"""Nonces settled in one pass: between two of them the chain is looked at again, so that the window knows its room."""
FINAL_BATCH = 512
"""Entries declared final in one statement."""


@attrs.define
class Mined:
    """What a pass over receipts found: new states, ends of responses, and responses to try again at once.

    `done[i]` is the work that `outcomes[i]` ends. Of responses that nobody has in hand, because their rows were settled
    before, `late` are successes, and `orphans` have to be looked at again.
    """

    entries: list[JournalEntry] = attrs.field(factory=list)
    outcomes: list[ResponseOutcome] = attrs.field(factory=list)
    done: list[Work] = attrs.field(factory=list)
    again: list[Work] = attrs.field(factory=list)
    orphans: list[Key] = attrs.field(factory=list)
    late: list[ResponseOutcome] = attrs.field(factory=list)
    gas_used: int = 0

    def end(self, work: Work, outcome: ResponseOutcome) -> None:
        """This response's try is over."""
        self.done.append(work)
        self.outcomes.append(outcome)


class Confirmer:
    """Owns delivery: a nonce leaves its hands only by a receipt of ours, or by proof that another program used it."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        works: Works,
        state: LaneState,
        window: Window,
        journal: Journal,
        questions: Questions,
        market: Market,
        gas: GasTable,
        verdicts: Verdicts,
        metrics: Metrics,
        health: Health,
        time: Time,
        traces: Traces,
        *,
        epoch: int,
    ) -> None:
        self._settings = settings
        self._store = store
        self._works = works
        self._state = state
        self._window = window
        self._journal = journal
        self._questions = questions
        self._receipts = Receipts(questions)
        self._market = market
        self._gas = gas
        self._verdicts = verdicts
        self._metrics = metrics
        self._health = health
        self._time = time
        self._traces = traces
        self._epoch = epoch
        self.more = False
        """True when the last look left mined nonces for the next one."""

    async def look(self) -> Tip:
        """One pass: what was mined is settled, what fell out of the chain flies again. Raises DependencyDown."""
        sentinel = self._state.sentinel()
        tip = await self._questions.tip(sentinel.tx_hash if sentinel is not None else None)
        await self._market.see_count(tip.mined_count)
        self._metrics.set("kms_connector_tx_sender_chain_nonce", float(tip.mined_count))
        if sentinel is not None and (tip.sentinel is None or tip.sentinel.block_hash != sentinel.block_hash):
            self._receipts.forget()
            await self._check_watched(tip.head)
        before = self._state.unmined
        self._state.mined_count = tip.mined_count
        self._window.mined(before - self._state.unmined, before)
        mined = self._state.below(tip.mined_count)
        self.more = len(mined) > CONFIRM_BATCH
        for flight in self._state.flights.values():
            if flight.nonce >= tip.mined_count:
                flight.missing_since = None
        await self._receipts.look_into_blocks(tip.head, mined)
        if mined:
            await self._confirm(mined[:CONFIRM_BATCH])
        deep = self._state.deep(tip.head, FINAL_BATCH)
        if len(deep) == FINAL_BATCH or (deep and not self._state.flights):
            final = [entry for landed in deep for entry in (landed.mined, *landed.others)]
            await self._journal.settle([attrs.evolve(entry, state=TxState.FINAL) for entry in final])
            for landed in deep:
                self._state.watched.pop(landed.mined.nonce, None)
        return tip

    async def _confirm(self, flights: Sequence[Flight]) -> None:
        """Settle the flights whose nonces are mined."""
        found = await self._receipts.of(flights)
        reasons = await self._reasons([pair for pair in found.values() if pair[1].status != 1])
        mined = Mined()
        for flight in flights:
            if flight.nonce in found:
                entry, receipt = found[flight.nonce]
                self._landed(flight, entry, receipt, reasons.get(flight.nonce), mined)
            else:
                self._missing(flight, mined)
        if not mined.entries:
            return
        again = [*mined.again, *(await self._reopen(mined.orphans))]
        await self._journal.settle(mined.entries, [*mined.outcomes, *mined.late])
        for entry in mined.entries:
            if entry.state is TxState.MINED:
                self._state.mined(entry)
            else:
                self._state.land(entry.nonce)
        self._count(mined)
        self._trace(found, reasons)
        self._works.settled(mined.outcomes)
        self._works.enqueue(again)

    def _landed(
        self, flight: Flight, entry: JournalEntry, receipt: Receipt, reason: RevertReason | str | None, mined: Mined
    ) -> None:
        """One nonce with a receipt of ours."""
        mined.entries.append(
            attrs.evolve(
                entry,
                raw=b"",  # the journal has it
                state=TxState.MINED,
                block_number=receipt.block_number,
                block_hash=receipt.block_hash,
                receipt_status=receipt.status,
                error=str(reason)[:500] if reason is not None else None,
            )
        )
        mined.gas_used += receipt.gas_used
        work = self._works.get(flight.key)
        if work is None:
            if flight.key is not None and receipt.status == 1 and entry.kind is not None:
                lease = Lease(*flight.key, self._epoch)
                mined.late.append(ResponseOutcome(lease, ResponseFate.COMPLETED, tx_hash=entry.tx_hash))
            elif flight.key is not None:
                mined.orphans.append(flight.key)
            return
        if entry.kind is None:
            mined.end(work, self._verdicts.again(work, flight.refused or "its nonce was filled", reason="gateway"))
        elif receipt.status == 1:
            mined.end(work, self._verdicts.completed(work, entry.tx_hash))
            seconds = max(0.0, self._time.now() - entry.signed_at)
            self._metrics.observe("kms_connector_stage_seconds", seconds, "confirm", work.response.kind.value)
        elif isinstance(reason, RevertReason):
            self._gas.forget(work.response.kind, len(work.calldata))
            mined.end(work, self._verdicts.after(work, reason, mined=True))
        elif may_be_out_of_gas(receipt.gas_used, entry.gas_limit):
            self._out_of_gas(work, entry, mined)
        else:
            mined.end(work, self._verdicts.again(work, reason or "mined with status 0, but the same call succeeds now"))

    def _out_of_gas(self, work: Work, entry: JournalEntry, mined: Mined) -> None:
        """Tried again at once with twice the limit; the third time in a row is an attempt (decisions.md 25a)."""
        self._gas.forget(work.response.kind, len(work.calldata))
        work.gas_floor = after_out_of_gas(entry.gas_limit)
        work.out_of_gas += 1
        work.suspect = True
        words = f"nonce {entry.nonce} ran out of gas at its limit of {entry.gas_limit}"
        if work.out_of_gas >= MAX_OUT_OF_GAS:
            mined.end(
                work, self._verdicts.again(work, f"{words}, the {work.out_of_gas}. time in a row", reason="out of gas")
            )
        else:
            log.warning("%s; tried again with at least %d", words, work.gas_floor)
            mined.again.append(work)

    def _missing(self, flight: Flight, mined: Mined) -> None:
        """A mined nonce without a receipt of ours: a lagging node at first, then another program's transaction."""
        now = trio.current_time()
        if flight.missing_since is None:
            flight.missing_since = now
        if now - flight.missing_since < FOREIGN_AFTER:
            return
        words = f"nonce {flight.nonce} was used by a transaction that is not ours"
        self._health.alert(FOREIGN_ALERT, f"{words}: another program uses this wallet; give it one of its own")
        mined.entries += [attrs.evolve(e, state=TxState.DROPPED, error=words) for e in flight.attempts]
        work = self._works.get(flight.key)
        if work is not None:
            work.suspect = True
            mined.again.append(work)
        elif flight.key is not None:
            mined.orphans.append(flight.key)

    async def _reopen(self, keys: Sequence[Key]) -> list[Work]:
        """Responses that were completed, until a reorganisation undid that and their transactions failed."""
        if not keys:
            return []
        reopened = await self._store.reopen_responses(keys, self._epoch)
        rows = await self._store.load_responses([key for key, ours in zip(keys, reopened, strict=True) if ours])
        return [Work(row, suspect=True) for row in rows]

    async def _reasons(self, failed: Sequence[tuple[JournalEntry, Receipt]]) -> dict[int, RevertReason | str | None]:
        """By nonce, why transactions were reverted: the same call again, without a gas limit (TX7)."""
        if not failed:
            return {}
        transactions = [decode(entry.raw, with_sender=False).transaction for entry, _ in failed]
        replays = await self._questions.replays([Call(t.to, t.data) for t in transactions])
        reasons: dict[int, RevertReason | str | None] = {}
        traces = MAX_TRACES if self._settings.trace_reverted_tx else 0
        for (entry, receipt), replay in zip(failed, replays, strict=True):
            reason: RevertReason | str | None = None
            if isinstance(replay, Unanswered):
                reason = f"mined with status 0; the node does not say why ({replay.error.message[:200]})"
            elif replay is not None:
                reason = replay
            elif traces > 0 and not may_be_out_of_gas(receipt.gas_used, entry.gas_limit):
                traces -= 1
                traced = await self._questions.trace(entry.tx_hash)
                reason = f"mined with status 0: {traced}; the same call succeeds now" if traced is not None else None
            reasons[entry.nonce] = reason
        works = {entry.nonce: self._works.get(self._state.flights[entry.nonce].key) for entry, _ in failed}
        await self._verdicts.prepare([(works[n], r) for n, r in reasons.items() if isinstance(r, RevertReason)])
        return reasons

    async def _check_watched(self, head: int) -> None:
        """The sentinel's block seems gone: ask for watched transactions by hash, newest first, until some stand."""
        sentinel = self._state.sentinel()
        if sentinel is None or head < (sentinel.block_number or 0):
            return  # a node that lags
        moved: list[JournalEntry] = []
        lost: list[JournalEntry] = []
        watched = [landed.mined for landed in reversed(self._state.watched.values())]
        for start in range(0, len(watched), BATCH):
            part = watched[start : start + BATCH]
            changed = len(moved) + len(lost)
            for entry, receipt in zip(part, await self._questions.receipts([e.tx_hash for e in part]), strict=True):
                if receipt is None or receipt.status != entry.receipt_status:
                    # gone, or mined anew with another end: in flight again, and settled like any other
                    lost.append(attrs.evolve(entry, state=TxState.SIGNED, block_number=None, block_hash=None))
                elif receipt.block_hash != entry.block_hash:
                    moved.append(attrs.evolve(entry, block_number=receipt.block_number, block_hash=receipt.block_hash))
            if len(moved) + len(lost) == changed:
                break
        if not moved and not lost:
            return
        log.warning("reorganisation: %d transactions moved, %d undone and in flight again", len(moved), len(lost))
        await self._journal.settle([*moved, *lost])
        for entry in moved:
            self._state.watched[entry.nonce].mined = entry
        if lost:
            fallen = dict.fromkeys(entry.nonce for entry in lost)
            attempts: dict[int, list[JournalEntry]] = {}
            for entry in await self._journal.entries():
                if entry.nonce in fallen:
                    attempts.setdefault(entry.nonce, []).append(entry)
            for entries in attempts.values():
                self._state.fell_out(entries)

    def _trace(
        self, found: Mapping[int, tuple[JournalEntry, Receipt]], reasons: Mapping[int, RevertReason | str | None]
    ) -> None:
        for nonce, (entry, receipt) in found.items() if self._traces.on else ():
            work = self._works.get((entry.kind, entry.id) if entry.kind is not None and entry.id is not None else None)
            if work is not None:
                facts = {**work.facts, "nonce": nonce, "tx": f"0x{entry.tx_hash.hex()}", "block": receipt.block_number}
                words = "" if receipt.status == 1 else f"reverted: {reasons.get(nonce)}"
                seconds = self._time.now() - entry.signed_at
                self._traces.span(work.response.otlp_context, RECEIPT, seconds, facts, words)

    def _count(self, mined: Mined) -> None:
        now = self._time.now()
        self._metrics.inc("kms_connector_tx_sender_gas_used_counter", by=float(mined.gas_used))
        for work, outcome in zip(mined.done, mined.outcomes, strict=True):
            response = OPERATIONS[work.response.kind].response
            if response is not None and outcome.fate is ResponseFate.COMPLETED and outcome.tx_hash is not None:
                self._metrics.inc("kms_connector_tx_sender_gateway_tx_sent_counter", response.label)
                self._metrics.observe(
                    "kms_connector_tx_sender_response_forwarding_latency_seconds",
                    max(0.0, now - work.response.created_at),
                    response.label,
                )
