"""Broadcasting: journaled bytes go out in the order of their nonces until a node has them (TX1, TX2)."""

import logging
from collections.abc import Sequence
from enum import Enum, auto

import trio

from kmsd.chain.nonces import Flight, LaneState, Window
from kmsd.chain.outcomes import Refusal, SendVerdict, send_verdict
from kmsd.config import Settings
from kmsd.failpoints import failpoint
from kmsd.ports import RpcAnswer, RpcError
from kmsd.sending.gate import Gate
from kmsd.sending.questions import Questions, cuts

log = logging.getLogger("kmsd.sender")

SEND_BATCH = 250
"""Transactions in one JSON-RPC batch: they go one batch after the other, so a distant node wants large ones."""
PRESSED_PAUSE = 0.5
"""Seconds before nonces are offered again to a node that had no room for them, or no predecessor."""
LONGEST_PAUSE = 10.0
LONGEST_WAIT = 2.5
"""Most seconds between looks for a dependency that is away: it is back that much later for us."""


class Then(Enum):
    """What happens to a nonce after a node's answer to its broadcast."""

    SENT = auto()  # a node has it, or a receipt will tell
    LATER = auto()  # offer it again after a pause
    DEARER = auto()  # offer it again with higher fees
    FILL = auto()  # ask every node; if all refuse it for good, fill the nonce


THEN: dict[SendVerdict, Then] = {
    SendVerdict.KNOWN: Then.SENT,
    SendVerdict.NONCE_TOO_LOW: Then.SENT,
    SendVerdict.SYNC_TIMEOUT: Then.SENT,
    SendVerdict.REPLACEMENT_UNDERPRICED: Then.SENT,  # replaced by a dearer one when that is due
    SendVerdict.FEE_TOO_LOW: Then.DEARER,
    SendVerdict.NONCE_TOO_HIGH: Then.LATER,
    SendVerdict.POOL_FULL: Then.LATER,
    SendVerdict.NO_FUNDS: Then.LATER,
    SendVerdict.UNSUPPORTED: Then.LATER,
    SendVerdict.UNKNOWN: Then.LATER,
    SendVerdict.REFUSED: Then.FILL,
}
"""What follows from each verdict (issue 5: one row each)."""

PRESSING = frozenset({SendVerdict.POOL_FULL, SendVerdict.NONCE_TOO_HIGH})
"""Verdicts that shrink the window."""


class Broadcaster:
    """Offers unsent nonces to the nodes, lowest first; one task."""

    def __init__(self, settings: Settings, state: LaneState, window: Window, questions: Questions, gate: Gate) -> None:
        self._settings = settings
        self._state = state
        self._window = window
        self._questions = questions
        self._gate = gate
        self._sync_works = True
        self._faults = 0
        self.too_cheap: dict[int, None] = {}
        """Nonces refused for their fees, for the repairer."""

    async def broadcast_some(self) -> float:
        """Offer the lowest unsent nonces once; seconds to wait before the next offer. Raises DependencyDown."""
        flights = self._state.to_send(SEND_BATCH)
        if not flights:
            return 0.0
        _, end = next(cuts([len(flight.last.raw) for flight in flights], SEND_BATCH))
        flights = flights[:end]
        if len(flights) == 1 and len(self._state.flights) == 1 and self._sync_works:
            answers = await self._send_sync(flights[0])
        else:
            answers = await self._questions.send([flight.last.raw for flight in flights])
        failpoint("sender.broadcast")
        return await self._read(flights, answers)

    async def _send_sync(self, flight: Flight) -> Sequence[RpcAnswer]:
        """One transaction on an idle lane: let the node wait for its receipt, so that ours is asked for at once.

        Whatever it answers, only the receipt by hash counts; a node without the method gets the ordinary one.
        """
        answer = await self._questions.send_sync(flight.last.raw)
        if answer.error is not None:
            verdict = send_verdict(answer.error, sync=True)
            if verdict is SendVerdict.UNSUPPORTED or verdict is SendVerdict.UNKNOWN:
                self._sync_works = verdict is not SendVerdict.UNSUPPORTED
                return await self._questions.send([flight.last.raw])
            if verdict is SendVerdict.SYNC_TIMEOUT:
                return (RpcAnswer(None),)
        return (answer,)

    async def _read(self, flights: Sequence[Flight], answers: Sequence[RpcAnswer]) -> float:
        now = trio.current_time()
        pause = 0.0
        pressed = dropped = False
        unknown: RpcError | None = None
        for flight, answer in zip(flights, answers, strict=True):
            attempt = flight.last.attempt
            verdict = None if answer.error is None else send_verdict(answer.error)
            then = Then.SENT if verdict is None else THEN[verdict]
            if then is Then.SENT:
                dropped = dropped or (verdict is None and flight.sent_at is not None)
                self._state.sent(flight.nonce, attempt, now)
                continue
            assert answer.error is not None
            if then is Then.DEARER:
                self.too_cheap[flight.nonce] = None
                pause = max(pause, PRESSED_PAUSE)
            elif then is Then.FILL:
                await self._refused(flight, answer.error)
                pause = max(pause, PRESSED_PAUSE)
            elif verdict is SendVerdict.NO_FUNDS:
                cost = flight.last.gas_limit * flight.last.max_fee_per_gas
                self._gate.close(Refusal.NO_FUNDS, f"the wallet cannot pay: {answer.error.message[:200]}", cost)
                pause = max(pause, PRESSED_PAUSE)
            elif verdict in PRESSING:
                pressed = True
            else:
                unknown = answer.error
        if dropped:  # what a node took before was new to it: its pool lost ours, and perhaps all of them
            self._state.resend(self._state.stale(now))
        if pressed:
            self._window.pressed()
            pause = max(pause, PRESSED_PAUSE)
        if unknown is None:
            self._faults = 0
            return pause
        return max(pause, self._after_fault(unknown))

    def _after_fault(self, error: RpcError) -> float:
        """The reference's `tx_retries` tries `tx_retry_interval` apart, then back-off."""
        self._faults += 1
        if self._faults < self._settings.tx_retries:
            return self._settings.tx_retry_interval
        log.warning("a node refuses a transaction: %s (code %d); offered again", error.message[:200], error.code)
        return min(LONGEST_PAUSE, PRESSED_PAUSE * 2.0 ** (self._faults - self._settings.tx_retries))

    async def _refused(self, flight: Flight, error: RpcError) -> None:
        """Refused for good by one node: so by all, or taken by another."""
        words: list[str] = []
        for answer in await self._questions.send_everywhere(flight.last.raw):
            if answer is None:
                return
            if answer.error is None or THEN[send_verdict(answer.error)] is not Then.FILL:
                if answer.error is None or THEN[send_verdict(answer.error)] is Then.SENT:
                    self._state.sent(flight.nonce, flight.last.attempt, trio.current_time())
                return
            words.append(answer.error.message[:200])
        if flight.is_filler:
            log.error("nonce %d: every node refuses even an empty transaction: %s", flight.nonce, words[0])
            return
        flight.refused = f"every node refuses the transaction: {words[0]}"
        self._state.unsent.discard(flight.nonce)
        log.error("nonce %d: %s; it will be filled", flight.nonce, flight.refused)


async def until_up(name: str, down: BaseException, faults: int) -> None:
    """Wait after `down` in proportion to `faults` in a row, and say so once."""
    if faults == 1:
        log.warning("%s waits: %s", name, down)
    await trio.sleep(min(LONGEST_WAIT, 0.25 * 2.0 ** min(faults - 1, 10)))
