"""What the listener's parts share."""

from collections.abc import Sequence

import attrs

from kmsd.config import Settings
from kmsd.handover import Handover
from kmsd.observe.heartbeats import Heartbeats
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import Traces
from kmsd.ownership import Ownership
from kmsd.ports import Entropy, Node, Store, Time
from kmsd.wakeups import WakeUps


@attrs.frozen
class Around:
    """The daemon around the listener: its settings, its ports, and where fresh rows go."""

    settings: Settings
    nodes: Sequence[Node]
    store: Store
    ownership: Ownership
    wakeups: WakeUps
    handover: Handover
    metrics: Metrics
    time: Time
    entropy: Entropy
    traces: Traces
    heartbeats: Heartbeats
