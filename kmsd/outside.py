"""Opens the real outside world: nodes, store, Core, blobs, wallet, each while its dependency may be down."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import attrs

from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.ports import Blobs, Core, Entropy, Node, Store, Time, Wallet


@attrs.frozen
class Outside:
    """One set of ports for one daemon. `migrate` brings the database's schema up to date."""

    gateway: Sequence[Node]
    hosts: Mapping[int, Sequence[Node]]
    store: Store
    core: Core
    blobs: Blobs
    wallet: Wallet | None
    time: Time
    entropy: Entropy
    migrate: Callable[[], Awaitable[None]]
