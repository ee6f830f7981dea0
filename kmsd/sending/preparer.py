"""From a response in the queue to a journaled transaction: call, gas, fees, nonce, signature, commit."""

import logging
from collections.abc import Iterable, Sequence

import trio

from kmsd.chain.fees import Fees, first_fees
from kmsd.chain.gas import SIZE_CLASS, GasTable
from kmsd.chain.nonces import LaneState, Window
from kmsd.chain.outcomes import Refusal, SendVerdict, send_verdict
from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.traces import TRANSACTION, Traces
from kmsd.ports import JournalEntry, ResponseOutcome, Store
from kmsd.sending.calldata import response_call
from kmsd.sending.gate import Gate
from kmsd.sending.journal import Draft, Journal
from kmsd.sending.questions import Call, Conditions, Questions, Unanswered
from kmsd.sending.verdicts import Verdicts
from kmsd.sending.works import Work, Works
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11.errors import RevertReason

log = logging.getLogger("kmsd.sender")

BATCH = 128
"""Responses signed and committed together with a local key."""
REMOTE_BATCH = 32
"""The same with a remote signer, which is asked for each signature."""
CONDITIONS_AGE = 2.0
"""Seconds for which fees, limits and nonces by the chain are believed."""
FEES_ALERT = "gateway fees above cap"
FOREIGN_ALERT = "another program uses the wallet"
LARGE_JUMP = 1000
"""Nonces used by others that no single node is believed to tell, where there are several."""


class Market:
    """Fees, nonces by the chain and the block's gas limit, asked again when they are old."""

    def __init__(self, questions: Questions, gas: GasTable, state: LaneState, health: Health) -> None:
        self._questions = questions
        self._gas = gas
        self._state = state
        self._health = health
        self._conditions: Conditions | None = None
        self._asked_at = float("-inf")

    async def conditions(self) -> Conditions:
        """What new transactions depend on. Raises DependencyDown."""
        now = trio.current_time()
        idle = not self._state.flights
        if self._conditions is None or now - self._asked_at > CONDITIONS_AGE:
            self._conditions = await self._questions.conditions()
            self._asked_at = now
            self._gas.block_gas_limit = self._conditions.block_gas_limit
            # with nothing of ours in flight, pending transactions are another program's: keep clear of them too
            await self.see_count(self._conditions.pending_count if idle else self._conditions.mined_count)
        return self._conditions

    async def see_count(self, count: int) -> None:
        """The chain has `count` transactions of the wallet; more than we signed means that another program did."""
        known = self._state.next_nonce
        if count > known + LARGE_JUMP and len(self._questions.nodes) > 1:
            count = min(await self._questions.mined_counts(), default=known)
        if count <= known:
            return
        if known:
            self._health.alert(
                FOREIGN_ALERT,
                f"nonces {known} to {count - 1} were used by a program that is not the sender of this database; "
                "give it a wallet of its own",
            )
        self._state.next_nonce = count


class Preparer:
    """Signs and journals what is in the queue while the window has room; one task."""

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
        gate: Gate,
        verdicts: Verdicts,
        health: Health,
        traces: Traces,
        *,
        remote: bool,
    ) -> None:
        self._settings = settings
        self._store = store
        self._works = works
        self._state = state
        self._window = window
        self._journal = journal
        self._questions = questions
        self._market = market
        self._gas = gas
        self._gate = gate
        self._verdicts = verdicts
        self._health = health
        self._traces = traces
        self._batch = REMOTE_BATCH if remote else BATCH

    def room(self) -> int:
        """How many may be signed now."""
        if self._gate.is_open:
            flying = len(self._state.flights)
            return min(self._batch, self._window.size - self._state.unmined, 2 * self._window.size - flying)
        return 0 if self._gate.lacks_funds or self._gate.trial_in > 0.0 else 1

    async def prepare_some(self) -> Sequence[JournalEntry]:
        """Take what the queue and the window allow, and journal it; the entries to broadcast.

        Nothing taken is lost: what could not be journaled is in the queue again. Raises DependencyDown.
        """
        taken = self._works.take(self.room())
        if not taken:
            return ()
        entries: Sequence[JournalEntry] = ()
        works: list[Work] = []
        try:
            fees = await self._fees()
            limits = await self._limits(await self._encode(taken)) if fees is not None else {}
            if fees is None or not limits:
                return ()
            works = list(limits)
            first = self._state.next_nonce
            drafts = [
                Draft(first + i, 0, work.key, work.to, work.calldata, limits[work], fees)
                for i, work in enumerate(works)
            ]
            entries = await self._journal.sign(drafts)
            self._state.add(entries)
            self._verdicts.signed(works[: len(entries)])
            if self._traces.on:
                for work, entry in zip(works, entries, strict=False):
                    self._trace(work, entry)
            return entries
        finally:
            signed = dict.fromkeys(works[: len(entries)])
            self._works.put_back([work for work in taken if work not in signed])

    def _trace(self, work: Work, entry: JournalEntry) -> None:
        facts = {**work.facts, "nonce": entry.nonce, "tx": f"0x{entry.tx_hash.hex()}"}
        self._traces.span(work.response.otlp_context, TRANSACTION, trio.current_time() - work.since, facts)

    async def _encode(self, works: Iterable[Work]) -> list[Work]:
        """The works whose call could be built; the others fail."""
        ready: list[Work] = []
        failed: list[ResponseOutcome] = []
        for work in works:
            try:
                if not work.calldata:
                    work.to, work.calldata = response_call(self._settings, work.response)
                ready.append(work)
            except WireError as error:
                failed.append(self._verdicts.failed(work, f"no call can carry this response: {error}"))
        await self._settle(failed)
        return ready

    async def _limits(self, works: Iterable[Work]) -> dict[Work, int]:
        """A gas limit for each work that may be sent; the others are settled by what the node said."""
        limits: dict[Work, int] = {}
        unknown = self._known_limits(works, limits)
        # first one of each size class and all suspects, then, with what that taught, whoever is left
        for pick in (self._one_of_each, list):
            if unknown:
                asked = pick(unknown)
                await self._estimate(asked, limits)
                unknown = self._known_limits([work for work in unknown if work not in asked], limits)
        return limits

    def _known_limits(self, works: Iterable[Work], limits: dict[Work, int]) -> list[Work]:
        """Put limits that need no question into `limits`; the works that need one."""
        now = trio.current_time()
        unknown = []
        for work in works:
            response = work.response
            suspect = work.suspect or not self._gate.is_open or response.error_counter > 0
            limit = self._gas.limit(response.kind, len(work.calldata), now, work.gas_floor)
            if limit is None or suspect:
                unknown.append(work)
            else:
                limits[work] = limit
        return unknown

    def _one_of_each(self, works: Sequence[Work]) -> list[Work]:
        seen: dict[tuple[str, int], None] = {}
        picked = []
        for work in works:
            size_class = (work.response.kind, len(work.calldata) // SIZE_CLASS)
            if work.suspect or size_class not in seen:
                seen[size_class] = None
                picked.append(work)
        return picked

    async def _estimate(self, works: Sequence[Work], limits: dict[Work, int]) -> None:
        answers = await self._questions.estimates([Call(work.to, work.calldata) for work in works])
        reverts = [(w, answer) for w, answer in zip(works, answers, strict=True) if isinstance(answer, RevertReason)]
        await self._verdicts.prepare(reverts)
        settled: list[ResponseOutcome] = []
        now = trio.current_time()
        for work, answer in zip(works, answers, strict=True):
            if isinstance(answer, int):
                self._gas.learn(work.response.kind, len(work.calldata), answer, now)
                limits[work] = self._gas.limit_from(work.response.kind, answer, work.gas_floor)
                work.suspect = False
                self._verdicts.accepted()
                self._gate.open()
            elif isinstance(answer, RevertReason):
                settled.append(self._verdicts.after(work, answer, mined=False))
            else:
                settled.append(self._after_error(work, answer))
        await self._settle(settled)

    def _after_error(self, work: Work, answer: Unanswered) -> ResponseOutcome:
        words = f"the node cannot estimate it: {answer.error.message[:200]} (code {answer.error.code})"
        if send_verdict(answer.error) is SendVerdict.NO_FUNDS:
            self._gate.close(Refusal.NO_FUNDS, f"the wallet cannot pay for a response: {answer.error.message[:200]}", 1)
        return self._verdicts.again(work, words, reason="gateway")

    async def _fees(self) -> Fees | None:
        """Fees for new transactions; None while the cap forbids any."""
        conditions = await self._market.conditions()
        fees = first_fees(conditions.market, self._settings.max_fee_per_gas)
        if fees is None:
            self._health.alert(
                FEES_ALERT,
                f"the base fee is {conditions.market.base_fee} wei, max_fee_per_gas {self._settings.max_fee_per_gas}: "
                "responses wait until it falls, or until the cap is raised",
            )
        else:
            self._health.clear(FEES_ALERT)
        return fees

    async def _settle(self, settled: Sequence[ResponseOutcome]) -> None:
        if settled:
            await self._store.settle_responses(settled)
            self._works.settled(settled)
