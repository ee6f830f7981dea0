"""Repairs of the line: dearer replacements, fillers for holes and refused nonces, forgotten bytes (TX2, TX5)."""

import logging
from collections.abc import Sequence

import trio

from kmsd.chain.fees import Fees, replacement_fees
from kmsd.chain.nonces import MAX_REPLACEMENTS, RESEND_AFTER, LaneState
from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.sending.broadcaster import Broadcaster
from kmsd.sending.journal import Draft, Journal, redraft
from kmsd.sending.preparer import Market
from kmsd.sending.questions import Call, Questions, Tip

log = logging.getLogger("kmsd.sender")

HOLE_ATTEMPT = 1000
"""Attempt number of a hole's filler: the journal may hold earlier attempts of that nonce, finished long ago."""
FILLER_GAS_PERCENT = 150
STUCK_ALERT = "transaction stuck at fee cap"


class Repairer:
    """Looks after the head of the line; nothing above it can be mined first."""

    def __init__(
        self,
        settings: Settings,
        wallet: bytes,
        state: LaneState,
        journal: Journal,
        questions: Questions,
        market: Market,
        broadcaster: Broadcaster,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._settings = settings
        self._wallet = wallet
        self._state = state
        self._journal = journal
        self._questions = questions
        self._market = market
        self._broadcaster = broadcaster
        self._metrics = metrics
        self._health = health
        self._head = -1
        self._head_at = 0.0
        self._hole: int | None = None
        self._hole_since = 0.0

    async def repair(self, tip: Tip) -> None:
        """What the tip shows to be due now; new attempts wait for the broadcaster. Raises DependencyDown."""
        now = trio.current_time()
        if tip.head != self._head:
            self._head, self._head_at = tip.head, now
        await self._fill_refused()
        await self._fill_holes(tip, now)
        await self._replace(now)
        self._resend(now)

    async def _replace(self, now: float) -> None:
        """Dearer attempts for nonces that nodes found too cheap, and for those that wait too long on a moving chain."""
        cheap = [self._state.flights[n] for n in self._broadcaster.too_cheap if n in self._state.flights]
        self._broadcaster.too_cheap.clear()
        overdue = self._state.overdue(now, self._settings.tx_resubmit_after) if self._chain_moves(now) else []
        flights = list({flight.nonce: flight for flight in (*cheap, *overdue)}.values())[:MAX_REPLACEMENTS]
        if not flights:
            if not self._state.flights:
                self._health.clear(STUCK_ALERT)
            return
        market = (await self._market.conditions()).market
        drafts: list[Draft] = []
        for flight in flights:
            last = flight.last
            fees = replacement_fees(
                Fees(last.max_fee_per_gas, last.max_priority_fee_per_gas), market, self._settings.max_fee_per_gas
            )
            if fees is not None:
                drafts.append(redraft(last, fees))
                continue
            flight.taken_at = now  # looked at again after another `tx_resubmit_after`
            self._state.resend((flight.nonce,))
            self._health.alert(
                STUCK_ALERT,
                f"nonce {flight.nonce} is not mined and cannot be replaced by a dearer one: it offers "
                f"{last.max_fee_per_gas} wei, max_fee_per_gas is {self._settings.max_fee_per_gas}, the market's base "
                f"fee {market.base_fee}",
            )
        await self._sign(drafts, "kms_connector_tx_sender_replacements_counter")

    async def _fill_refused(self) -> None:
        """Empty self-transfers over nonces whose transaction every node refused for good."""
        flights = [f for f in self._state.flights.values() if f.refused is not None and not f.is_filler]
        if flights:
            market = (await self._market.conditions()).market
            gas = await self._filler_gas()
            drafts = []
            for flight in flights:
                last = flight.last
                old = Fees(last.max_fee_per_gas, last.max_priority_fee_per_gas)
                fees = replacement_fees(old, market, self._settings.max_fee_per_gas) or old
                drafts.append(Draft(flight.nonce, last.attempt + 1, None, self._wallet, b"", gas, fees))
            await self._sign(drafts, "kms_connector_tx_sender_fillers_counter")

    async def _fill_holes(self, tip: Tip, now: float) -> None:
        """Empty self-transfers into nonces that nothing of ours occupies, once the line stood still there for long."""
        holes = self._state.holes(tip.mined_count)
        if not holes or holes[0] != tip.mined_count:
            self._hole = None
            return
        if self._hole != holes[0]:
            self._hole, self._hole_since = holes[0], now
            log.warning("nonces %d to %d are missing before ours; filled if they stay so", holes[0], holes[-1])
        if now - self._hole_since < self._settings.tx_resubmit_after or not self._chain_moves(now):
            return
        market = (await self._market.conditions()).market
        gas = await self._filler_gas()
        cap = self._settings.max_fee_per_gas
        max_fee = 2 * market.base_fee + market.priority
        fees = Fees(max_fee if cap is None else min(max_fee, cap), min(market.priority, cap or market.priority))
        drafts = [Draft(n, HOLE_ATTEMPT, None, self._wallet, b"", gas, fees) for n in holes]
        entries = await self._journal.sign(drafts)
        self._state.add(entries)
        self._metrics.inc("kms_connector_tx_sender_fillers_counter", by=float(len(entries)))
        log.warning("filled %d missing nonces from %d on", len(entries), holes[0])
        self._hole = None

    def _chain_moves(self, now: float) -> bool:
        """False while the node shows the same head for long: then waiting is nobody's fault, and its nonces are old."""
        return now - self._head_at < self._settings.tx_resubmit_after

    async def _filler_gas(self) -> int:
        estimate = (await self._questions.estimates((Call(self._wallet, b""),)))[0]
        gas = estimate if isinstance(estimate, int) else 21_000
        return gas * FILLER_GAS_PERCENT // 100

    def _resend(self, now: float) -> None:
        head = self._state.head_of_line()
        if head is not None and head.sent_at is not None and now - head.sent_at > RESEND_AFTER:
            self._state.resend(self._state.stale(now)[:MAX_REPLACEMENTS])

    async def _sign(self, drafts: Sequence[Draft], metric: str) -> None:
        if not drafts:
            return
        entries = await self._journal.sign(drafts)
        for entry in entries:
            if entry.nonce in self._state.flights:
                self._state.replace(entry)
        self._metrics.inc(metric, by=float(len(entries)))
        log.warning("%s for nonces from %d on: %d", metric.split("_")[-2], entries[0].nonce, len(entries))
