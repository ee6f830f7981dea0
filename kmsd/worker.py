"""The worker: every request in the queue gets its answer from the Core (guarantees WK1 to WK6, QU3 to QU6).

    claim rows while there is room            working/claims.py: a loop for each kind of decryption, one for ceremonies
    or get them fresh from the listener       handover.py, working/hands.py
    serve each row in a task of its own       operations/decryption.py, operations/ceremonies.py
    write how it ended, wake the sender       operations/transitions.py

Each family has room of its own, so ten thousand stuck decryptions leave the ceremonies running and the other way round.
What a task cannot bring to an end goes back to the queue, with words and a time for the next try. Nothing is lost when
this sibling is restarted: rows that were in hand are given back first, and rows that are ours in the database but in
nobody's hand are found by looking.
"""

import logging
from collections.abc import Mapping

import trio

from kmsd.chain.chain import Chain
from kmsd.config import Settings
from kmsd.handover import Handover
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import OFF, Traces
from kmsd.operations.flows import FLOWS
from kmsd.operations.kinds import Kind
from kmsd.operations.outcomes import LeaseLost, Outcome, Setback, conclude, setback_of
from kmsd.operations.retry import Limits, Reason
from kmsd.operations.table import OPERATIONS, Family
from kmsd.ownership import Ownership
from kmsd.ports import Answered, Blobs, Claimed, Core, Entropy, Failed, Finished, Store, Time, TryAgain
from kmsd.wakeups import WakeUps
from kmsd.wire import ids
from kmsd.working.claims import Claims, give_back
from kmsd.working.hands import Hands
from kmsd.working.toolbox import Toolbox

log = logging.getLogger("kmsd.worker")


class Worker:
    """The sibling that serves requests."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        ownership: Ownership,
        wakeups: WakeUps,
        core: Core,
        blobs: Blobs,
        gateway: Chain,
        hosts: Mapping[int, Chain],
        metrics: Metrics,
        health: Health,
        time: Time,
        entropy: Entropy,
        traces: Traces = OFF,
    ) -> None:
        self._toolbox = Toolbox(
            settings, store, wakeups, core, blobs, gateway, hosts, metrics, health, time, entropy, traces
        )
        self._tools = tools = self._toolbox.tools
        self._hands = Hands(settings.task_limit)
        self._claims = Claims(
            settings, store, ownership, wakeups, self._hands, tools.core, tools.transitions, health, metrics, entropy
        )
        self._limits = Limits(settings.max_decryption_attempts, settings.decryption_time_budget)

    @property
    def handover(self) -> Handover:
        """Where the listener delivers fresh rows."""
        return self._hands

    @property
    def in_flight(self) -> Mapping[Kind, int]:
        """Requests in hand by kind."""
        return self._hands.by_kind()

    @property
    def progressing(self) -> int:
        """Calls open at the Core: what is being worked on there, however long it takes."""
        return self._tools.core.open_calls

    def stop_intake(self) -> None:
        """Claim no more; what is in hand goes on to its end."""
        self._hands.stop()

    async def run(self) -> None:
        """Serve for ever. Only unexpected exceptions come out."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._toolbox.run)
            left = self._hands.open(lambda row: nursery.start_soon(self._serve, row))
            try:
                await give_back(left, self._tools.transitions)
                await self._claims.run()
            finally:
                self._hands.close()

    async def _serve(self, row: Claimed) -> None:
        """One row, from the lease to a written end."""
        began = trio.current_time()
        outcome, reason = await self._attempt(row)
        if outcome is not None:
            try:
                with self._tools.stage("store", row, outcome=type(outcome).__name__):
                    applied = await self._tools.transitions.conclude(outcome)
            except Exception:
                log.exception("an outcome could not be written", extra=_facts(row))  # the sweep finds the row again
            else:
                self._tell(row, outcome, reason, applied, trio.current_time() - began)
        if not isinstance(outcome, TryAgain):
            self._tools.grants.drop(row)
        self._hands.let_go(row)

    async def _attempt(self, row: Claimed) -> tuple[Outcome | None, Reason | None]:
        """How a try at the row ended, with the reason if it did not succeed; no outcome when the lease was lost."""
        try:
            return await FLOWS[row.kind](row, self._tools), None
        except LeaseLost:
            log.warning("the lease was lost: the request was withdrawn, or belongs to another now", extra=_facts(row))
            return None, None
        except Exception as error:
            setback = setback_of(error)
            if setback.reason is Reason.UNEXPECTED:
                log.exception("unexpected error while serving a request", extra=_facts(row))
            return self._conclude(row, setback)

    def _conclude(self, row: Claimed, setback: Setback) -> tuple[Outcome, Reason]:
        conclusion = conclude(row, setback, self._limits, self._tools.entropy.random())
        return conclusion.outcome, conclusion.reason

    def _tell(self, row: Claimed, outcome: Outcome, reason: Reason | None, applied: bool, seconds: float) -> None:
        """After the commit: wake who goes on with it, count it, write one line."""
        tools, operation = self._tools, OPERATIONS[row.kind]
        facts = _facts(row) | {"chain": tools.settings.gateway_chain_id, "seconds": round(seconds, 3)}
        if not applied:
            log.warning("the end of a try came too late: the row is no longer ours", extra=facts)
            return
        if isinstance(outcome, Answered):
            tools.wakeups.ring(row.kind, is_response=True)
            if operation.family is Family.DECRYPTION:
                age = tools.time.now() - row.created_at
                tools.metrics.observe("kms_connector_worker_decryption_latency_seconds", age, operation.label)
            log.info("answered", extra=facts)
        elif isinstance(outcome, Finished):
            if operation.family is Family.DECRYPTION:
                tools.metrics.inc("kms_connector_already_finished", operation.label)
            log.info("finished", extra=facts | {"note": outcome.note})
        elif isinstance(outcome, TryAgain):
            assert reason is not None
            self._hands.due_in(row.kind, outcome.delay)
            tools.metrics.inc("kms_connector_retries", row.kind.value, reason.value)
            log.info(
                "to be tried again",
                extra=facts | {"reason": reason.value, "delay": round(outcome.delay, 1), "words": outcome.last_error},
            )
        else:
            assert isinstance(outcome, Failed)
            assert reason is not None
            tools.metrics.inc("kms_connector_failures", row.kind.value, reason.value)
            log.error("failed", extra=facts | {"reason": reason.value, "words": outcome.last_error})
        if operation.family is Family.CEREMONY:
            tools.wakeups.ring(row.kind, is_response=False)  # the next in chain order may be waiting for this one


def _facts(row: Claimed) -> dict[str, object]:
    """Which operation a line of the log is about."""
    return {"kind": row.kind.value, "id": ids.short(row.id), "attempt": row.attempts}
