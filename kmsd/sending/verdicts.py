"""Turns answers of the chain about a response into what becomes of its row, and closes the gate where that is due."""

import logging
from collections.abc import Sequence

import trio

from kmsd.chain.outcomes import (
    REFUSED_IN_A_ROW,
    Next,
    Situation,
    after_revert,
    confirmed,
    retry_delay,
    retry_fate,
)
from kmsd.config import Settings
from kmsd.observe.metrics import Metrics
from kmsd.operations.table import OPERATIONS
from kmsd.ports import DependencyDown, Entropy, Lease, ResponseFate, ResponseOutcome, Store
from kmsd.sending.gate import Gate
from kmsd.sending.questions import Call, Questions
from kmsd.sending.signers import signer_of
from kmsd.sending.works import Key, Work
from kmsd.wire.addresses import ZERO_ADDRESS
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11.errors import RevertClass, RevertReason
from kmsd.wire.v0_11.views import GET_KMS_NODE

log = logging.getLogger("kmsd.sender")

REGISTRY_AGE = 1.0
"""Seconds for which our registered signer is believed while responses are refused for it."""


class Verdicts:
    """What reverts mean here: knows our signer, counts refusals for registration in a row."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        wallet: bytes,
        questions: Questions,
        gate: Gate,
        metrics: Metrics,
        entropy: Entropy,
    ) -> None:
        self._settings = settings
        self._store = store
        self._wallet = wallet
        self._questions = questions
        self._gate = gate
        self._metrics = metrics
        self._entropy = entropy
        self._refused_in_a_row: list[Key] = []
        self._registered: bytes | None = None
        self._registered_at = float("-inf")

    async def prepare(self, reverts: Sequence[tuple[Work | None, RevertReason]]) -> None:
        """Where `reverts` are about a signer, find out who ours is and who signed. Raises DependencyDown."""
        classes = {revert.revert_class for _, revert in reverts}
        if self._settings.kms_signer_address is None and classes & {
            RevertClass.SIGNER_REFUSED,
            RevertClass.ALREADY_RESPONDED,
        }:
            await self._read_registered_signer()
        refused = [
            work
            for work, revert in reverts
            if work is not None and work.signed_by is None and revert.revert_class is RevertClass.SIGNER_REFUSED
        ]
        if refused:
            events = await self._store.load_requests([work.key for work in refused])
            for work, event in zip(refused, events, strict=True):
                work.signed_by = signer_of(self._settings, work.response, event) if event is not None else None

    def after(self, work: Work, revert: RevertReason, *, mined: bool) -> ResponseOutcome:
        """What becomes of the response whose call or transaction was reverted. `prepare` comes first."""
        situation = Situation(
            wallet=self._wallet,
            mined=mined,
            known_signer=self._settings.kms_signer_address or self._registered,
            signed_by=work.signed_by,
            registration_refusals=len([key for key in self._refused_in_a_row if key != work.key]),
        )
        decision = confirmed(after_revert(revert, situation), work.response.error_counter)
        if decision.registration and work.key not in self._refused_in_a_row:
            self._refused_in_a_row = [*self._refused_in_a_row[-REFUSED_IN_A_ROW:], work.key]
        self._count_error(work)
        self._metrics.inc("kms_connector_tx_sender_reverts", revert.name or "no reason")
        if decision.refusal is not None:
            self._gate.close(decision.refusal, decision.words)
            return ResponseOutcome(self._lease(work), ResponseFate.PENDING, decision.words, delay=self._gate.trial_in)
        if decision.next is Next.COMPLETE:
            self.accepted()
            log.info("accepted", extra=self.facts(work) | {"words": decision.words})
            return ResponseOutcome(self._lease(work), ResponseFate.COMPLETED, decision.words)
        if decision.next is Next.FAIL:
            return self._fail(work, decision.words)
        return self.again(work, decision.words)

    def again(self, work: Work, words: str, *, reason: str = "reverted") -> ResponseOutcome:
        """Back to the queue with back-off, or failed when the budget is spent. `reason` is one of REASONS."""
        response = work.response
        fate = retry_fate(response.kind, response.budget_age, self._settings.decryption_time_budget)
        delay = retry_delay(response.error_counter + 1, self._entropy.random())
        if fate is ResponseFate.FAILED:
            words = f"time budget spent; {words}"
            self._metrics.inc("kms_connector_failures", response.kind.value, "time budget")
            log.error("response failed", extra=self.facts(work) | {"words": words})
            return ResponseOutcome(self._lease(work), fate, words, counted=True)
        self._metrics.inc("kms_connector_retries", response.kind.value, reason)
        log.warning("response to be sent again", extra=self.facts(work) | {"delay": round(delay, 1), "words": words})
        return ResponseOutcome(self._lease(work), fate, words, delay=delay, counted=True)

    def failed(self, work: Work, words: str) -> ResponseOutcome:
        """Refused for good by ourselves: no transaction can carry it."""
        self._count_error(work)
        return self._fail(work, words)

    def signed(self, works: Sequence[Work]) -> None:
        """Their transactions are journaled: time the stage that ends with that."""
        for work in works:
            seconds = trio.current_time() - work.since
            self._metrics.observe("kms_connector_stage_seconds", seconds, "sign", work.response.kind.value)

    def completed(self, work: Work, tx_hash: bytes) -> ResponseOutcome:
        """Mined with status 1."""
        self.accepted()
        log.info("accepted", extra=self.facts(work) | {"tx": f"0x{tx_hash.hex()}"})
        return ResponseOutcome(self._lease(work), ResponseFate.COMPLETED, tx_hash=tx_hash)

    def facts(self, work: Work) -> dict[str, object]:
        """Which response a line of the log is about, its try, and the seconds since it was taken up."""
        return {
            **work.facts,
            "chain": self._settings.gateway_chain_id,
            "attempt": work.response.attempts,
            "seconds": round(trio.current_time() - work.since, 3),
        }

    def accepted(self) -> None:
        """A response of ours was accepted: registration is right."""
        self._refused_in_a_row.clear()

    def _fail(self, work: Work, words: str) -> ResponseOutcome:
        response = work.response
        self._metrics.inc("kms_connector_failures", response.kind.value, "reverted")
        log.error("response failed", extra=self.facts(work) | {"words": words})
        return ResponseOutcome(self._lease(work), ResponseFate.FAILED, words, counted=True)

    def _lease(self, work: Work) -> Lease:
        return Lease(work.response.kind, work.response.id, work.response.lease)

    def _count_error(self, work: Work) -> None:
        response = OPERATIONS[work.response.kind].response
        assert response is not None
        self._metrics.inc("kms_connector_tx_sender_gateway_tx_sent_errors", response.label)

    async def _read_registered_signer(self) -> None:
        now = trio.current_time()
        if now - self._registered_at < REGISTRY_AGE:
            return
        try:
            call = Call(self._settings.gateway_config_contract.address, GET_KMS_NODE.encode(self._wallet))
            signer = GET_KMS_NODE.decode_return(await self._questions.view(call)).signer_address
        except WireError as error:
            raise DependencyDown("gateway", f"getKmsNode: {error}") from error
        self._registered = signer if signer != ZERO_ADDRESS else None
        self._registered_at = now
