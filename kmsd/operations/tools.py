"""Everything that a flow works with, in one record; `worker.py` makes it once."""

from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def stage(self, name: str, row: Claimed, **facts: str) -> Iterator[None]:
        """Count and time what a request is in the middle of (`kms_connector_in_flight`, `…_stage_seconds`).

        Where the request is traced it is a span too, with `facts` as attributes.
        """
        kind = row.kind.value
        self.metrics.inc("kms_connector_in_flight", name, kind)
        began = trio.current_time()
        error = ""
        try:
            yield
        except BaseException as fault:
            error = f"{type(fault).__name__}: {fault}"
            raise
        finally:
            seconds = trio.current_time() - began
            self.metrics.inc("kms_connector_in_flight", name, kind, by=-1.0)
            self.metrics.observe("kms_connector_stage_seconds", seconds, name, kind)
            if self.traces.on:
                facts |= {"kind": kind, "id": ids.short(row.id), "attempt": str(row.attempts)}
                self.traces.span(row.otlp_context, STAGES[name], seconds, facts, error)
