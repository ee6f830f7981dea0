"""The Core as the flows see it: which shard has a request, calls that are counted, who signs the answers."""

import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from kmsd.core.methods import METHODS
from kmsd.core.status import NOT_USABLE
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.ports import Claimed, Core, CoreAnswer, CoreMethod, Shard, StatusCode
from kmsd.redact import endpoint
from kmsd.wire import ids
from kmsd.wire.addresses import to_checksum

log = logging.getLogger("kmsd.worker")

SIGNERS_DIFFER = "signers differ"

MAX_SIGNERS = 16
"""Different signers remembered; one is right, two are an alert."""


class CoreDesk:
    """Routes requests to shards (decisions.md 15) and makes the calls. `signer` is `kms_signer_address` or None."""

    def __init__(self, core: Core, signer: bytes | None, metrics: Metrics, health: Health) -> None:
        self._core = core
        self.signer = signer
        self._metrics = metrics
        self._health = health
        self._by_endpoint = {shard.endpoint: shard for shard in core.shards}
        self._signers: dict[bytes, None] = {}
        self._last_signer: dict[str, bytes] = {}
        self._unusable: dict[str, set[CoreMethod]] = {shard.endpoint: set() for shard in core.shards}
        self.open_calls = 0
        metrics.on_read(self._publish)

    def route(self, kind: Kind, request_id: int, prep_keygen_id: int | None, stored: str | None) -> str:
        """The endpoint text of a request's shard: the stored one while configured; a keygen follows its preparation."""
        if stored in self._by_endpoint:
            return stored
        shards = self._core.shards
        place = prep_keygen_id if kind is Kind.KEYGEN and prep_keygen_id is not None else request_id
        return shards[ids.shard_of(place, len(shards))].endpoint

    def shard_of(self, row: Claimed) -> tuple[Shard, bool]:
        """The row's shard, and whether that is where it was sent: if not, it counts as not sent at all."""
        chosen = self.route(row.kind, row.id, getattr(row.event, "prep_keygen_id", None), row.core_shard)
        return self._by_endpoint[chosen], row.already_sent and row.core_shard in (chosen, None)

    def slot(self, shard: Shard) -> AbstractAsyncContextManager[None]:
        """Room for one decryption in flight at the shard."""
        return self._core.window(shard).slot()

    async def ask(self, shard: Shard, method: CoreMethod, request: Any, *, deadline: float) -> CoreAnswer:
        """Make one call, counted by status. Its transport faults are answers."""
        began = trio.current_time()
        self.open_calls += 1
        try:
            answer = await self._core.call(shard, method, request, deadline=deadline)
        finally:
            self.open_calls -= 1
        name = endpoint(shard.endpoint)
        self._metrics.inc("kms_connector_core_calls", name, method.value, answer.status.name)
        self._metrics.observe("kms_connector_core_call_seconds", trio.current_time() - began, method.value)
        if answer.status is StatusCode.OK:
            self._health.ok(f"core {name}")
        operation = METHODS[method].operation
        if operation is not None and not answer.local:
            complaint = f"{method} with {words_of(answer)}" if answer.status in NOT_USABLE else None
            self._judge(shard, operation, complaint)
        return answer

    def signed_by(self, shard: Shard, signer: bytes) -> None:
        """An answer of the shard was signed by `signer`: report it where none is configured (WK6)."""
        if self._last_signer.get(shard.endpoint) == signer:
            return
        self._last_signer[shard.endpoint] = signer
        if len(self._signers) < MAX_SIGNERS:
            self._signers[signer] = None
        name = endpoint(shard.endpoint)
        if self.signer is None:
            log.info("core %s signs as %s; set kms_signer_address to insist on it", name, to_checksum(signer))
            different = sorted(map(to_checksum, self._signers))
            if len(different) > 1:
                self._health.alert(SIGNERS_DIFFER, f"the Core's answers are signed by {' and '.join(different)}")

    def _judge(self, shard: Shard, operation: CoreMethod, complaint: str | None) -> None:
        """One operation may be unusable while the others go on: the alert is over when the last of them is."""
        unusable, name = self._unusable[shard.endpoint], endpoint(shard.endpoint)
        if complaint is not None:
            unusable.add(operation)
            self._health.alert(f"core unusable {name}", f"core {name} answers {complaint}")
        elif operation in unusable:
            unusable.discard(operation)
            if not unusable:
                self._health.clear(f"core unusable {name}")

    def _publish(self) -> None:
        """Gauges of the shards, at the moment when metrics are read."""
        for shard in self._core.shards:
            window, name = self._core.window(shard), endpoint(shard.endpoint)
            self._metrics.set("kms_connector_core_window", float(window.limit), name)
            self._metrics.set("kms_connector_core_in_flight", float(window.in_flight), name)
            self._metrics.set("kms_connector_core_paused", float(bool(self._unusable[shard.endpoint])), name)


def words_of(answer: CoreAnswer) -> str:
    """Status and the Core's words, for an operator."""
    return f"{answer.status.name} {answer.detail}".strip()
