"""Everything that a flow works with, in one record; `worker.py` makes it once."""

import attrs
import trio

from kmsd.blobs.ciphertexts import Ciphertexts
from kmsd.chain.access import Access
from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import STAGES, Traces
from kmsd.operations.core_desk import CoreDesk
from kmsd.operations.gateway import GatewayQuestions
from kmsd.operations.grants import Grants
from kmsd.operations.keys import Keys
from kmsd.operations.transitions import Transitions
from kmsd.ports import Claimed, Entropy, Store, Time
from kmsd.wakeups import WakeUps
from kmsd.wire import ids
from kmsd.wire.eip712 import Domain


@attrs.frozen
class Tools:
    """The rooms and ports that flows use. `decryption` and `kms_generation` are the EIP-712 domains of answers."""

    settings: Settings
    store: Store
    core: CoreDesk
    access: Access
    grants: Grants
    ciphertexts: Ciphertexts
    gateway: GatewayQuestions
    keys: Keys
    transitions: Transitions
    decryption: Domain
    kms_generation: Domain
    wakeups: WakeUps
    metrics: Metrics
    health: Health
    time: Time
    entropy: Entropy
    traces: Traces

    def stage(self, name: str, row: Claimed, **facts: str) -> "Stage":
        """Count and time what a request is in the middle of (`kms_connector_in_flight`, `…_stage_seconds`).

        Where the request is traced it is a span too, with `facts` as attributes.
        """
        return Stage(self.metrics, self.traces, name, row, facts)


class Stage:
    """What `Tools.stage` gives: a plain context manager, since five of them are entered for each request."""

    __slots__ = ("_began", "_facts", "_metrics", "_name", "_row", "_traces")

    def __init__(self, metrics: Metrics, traces: Traces, name: str, row: Claimed, facts: dict[str, str]) -> None:
        self._metrics, self._traces, self._name, self._row, self._facts = metrics, traces, name, row, facts
        self._began = 0.0

    def __enter__(self) -> None:
        self._metrics.inc("kms_connector_in_flight", self._name, self._row.kind.value)
        self._began = trio.current_time()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        name, row = self._name, self._row
        seconds = trio.current_time() - self._began
        self._metrics.inc("kms_connector_in_flight", name, row.kind.value, by=-1.0)
        self._metrics.observe("kms_connector_stage_seconds", seconds, name, row.kind.value)
        if self._traces.on:
            facts = {"kind": row.kind.value, "id": ids.short(row.id), "attempt": str(row.attempts)}
            words = f"{kind.__name__}: {error}" if kind is not None else ""
            self._traces.span(row.otlp_context, STAGES[name], seconds, self._facts | facts, words)
