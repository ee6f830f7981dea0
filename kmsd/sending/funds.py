"""The wallet's balance: a gauge, an early warning, and the way out of a pause for want of funds."""

from kmsd.chain.nonces import LaneState
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.sending.gate import Gate
from kmsd.sending.preparer import Market
from kmsd.sending.questions import Questions

LOOK_INTERVAL = 30.0
"""Seconds between two looks at the balance while there is enough."""
LOW_INTERVAL = 5.0
"""Seconds between two looks while there is too little."""
LOW_RESPONSES = 1000
"""Responses at today's price below which the wallet counts as low: a node asks for limit × fee of each in flight."""
USUAL_GAS = 400_000
"""Gas limit that is reckoned with before the first response."""
ALERT = "wallet low on funds"


class Funds:
    """Looks at the balance of the lane's wallet."""

    def __init__(
        self,
        state: LaneState,
        gate: Gate,
        questions: Questions,
        market: Market,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._state = state
        self._gate = gate
        self._questions = questions
        self._market = market
        self._metrics = metrics
        self._health = health
        self._low = False

    @property
    def interval(self) -> float:
        """Seconds until the next look."""
        if self._gate.lacks_funds:
            return min(LOW_INTERVAL, self._gate.trial_in + 0.1)
        return LOW_INTERVAL if self._low else LOOK_INTERVAL

    async def look(self) -> None:
        """Read the balance; open the gate when a lane without funds has some again. Raises DependencyDown."""
        balance = await self._questions.balance()
        self._metrics.set("kms_connector_tx_sender_balance_wei", float(balance))
        if self._gate.lacks_funds and self._gate.trial_in == 0.0 and balance >= max(1, self._gate.needed):
            self._gate.open()
        market = (await self._market.conditions()).market
        self._metrics.set("kms_connector_tx_sender_base_fee_wei", float(market.base_fee))
        cost = self._state.last_cost or USUAL_GAS * (2 * market.base_fee + market.priority)
        self._low = balance < LOW_RESPONSES * cost
        if self._low:
            left = balance // cost if cost else 0
            self._health.alert(ALERT, f"the wallet's balance of {balance} wei covers {left} responses more")
        else:
            self._health.clear(ALERT)
