"""What one node shows as its head: pushed where it has a WebSocket, polled otherwise (decisions.md 37).

A head is only a reason to look. It is coalesced (the newest one counts) and may lag, repeat, go back or be missing;
the ranges themselves are asked for and proven elsewhere.
"""

import logging
import math
from collections.abc import Mapping

import trio

from kmsd.chain.bloom import Interest
from kmsd.chain.scan import Unproven, latest_block
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Stream
from kmsd.ports import DependencyDown, Entropy, Head, Node, Time

log = logging.getLogger("kmsd.listener")

PUSHED_POLLING = 10.0
"""Seconds between polls while heads are pushed: the floor under a subscription that says nothing."""
STAYS_BELOW = 10.0
"""Seconds after which a head below the cursor is looked into: a node that lags, or a chain that was cut back?"""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 3.0
"""Seconds before a node that does not answer is asked again, doubling, with jitter of a half."""


def pause_after(failures: int, entropy: Entropy, first: float = FIRST_PAUSE) -> float:
    """Seconds to wait after the `failures`-th failure in a row (1, 2, …)."""
    return float(min(LONGEST_PAUSE, first * 2.0 ** min(failures - 1, 10)) * (0.5 + 0.5 * entropy.random()))


class HeadFeed:
    """The head of one node, for its streams to wait on.

    `head` is the newest number shown (None: nothing yet), `answered_at` the clock of trio when the node last answered.
    """

    def __init__(
        self,
        node: Node,
        interests: Mapping[Stream, Interest],
        metrics: Metrics,
        time: Time,
        entropy: Entropy,
        *,
        interval: float,
        deadline: float,
    ) -> None:
        self._node = node
        self._interests = interests
        self._metrics = metrics
        self._time = time
        self._entropy = entropy
        self._interval = interval
        self._deadline = deadline
        self._changed = trio.Event()
        self._hits = dict.fromkeys(interests, -1)
        self._pushing = False
        self._unsubscribed = trio.Event()
        self._unsubscribed.set()
        self.head: int | None = None
        self.answered_at = trio.current_time()

    async def run(self) -> None:
        """Follow the node's head for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            if self._node.heads() is not None:
                nursery.start_soon(self._follow)

    async def news(self, stream: Stream, cursor: int, *, confirmations: int, not_before: float) -> int:
        """Wait for blocks after `cursor` that are worth reading, or for a head that stays below it; the head's number.

        At once when a pushed head may hold logs of `stream`; for any other head not before that clock of trio.
        """
        below_since = math.inf
        while True:
            changed, now, due = self._changed, trio.current_time(), math.inf
            if self.head is not None and self.head - confirmations > cursor:
                due = now if cursor < self._hits[stream] <= self.head - confirmations else not_before
            elif self.head is not None and self.head < cursor:
                below_since = min(below_since, now)
                due = below_since + STAYS_BELOW
            if self.head is not None and due <= now:
                await trio.lowlevel.checkpoint()
                return self.head
            with trio.move_on_at(due):
                await changed.wait()

    async def look(self) -> int:
        """Ask for the head now. Raises DependencyDown, Unproven."""
        block = await latest_block(self._node, deadline=self._deadline)
        self._show(block.number)
        return block.number

    def _show(self, number: int) -> None:
        self.answered_at = trio.current_time()
        if number != self.head:
            self._metrics.set("kms_connector_node_head_block", number, self._node.name)
            self._metrics.set("kms_connector_node_head_timestamp_seconds", self._time.now(), self._node.name)
            self.head = number
            self._changed.set()
            self._changed = trio.Event()

    def _pushed(self, head: Head) -> None:
        self._metrics.inc("kms_connector_node_heads_pushed", self._node.name)
        # A head that does not follow the last one hides others, whose filters nobody saw.
        follows = self.head is not None and head.number == self.head + 1
        for stream, interest in self._interests.items():
            if not follows or interest.may_be_in(head.logs_bloom):
                self._hits[stream] = head.number
        self._show(head.number)

    async def _poll(self) -> None:
        failures = 0
        while True:
            started = trio.current_time()
            try:
                await self.look()
            except (DependencyDown, Unproven) as fault:
                failures += 1
                log.debug("head of node %s: %s", self._node.name, fault)
                await trio.sleep(pause_after(failures, self._entropy))
                continue
            failures = 0
            with (
                trio.move_on_at(started + max(self._interval, PUSHED_POLLING)) if self._pushing else trio.CancelScope()
            ):
                await self._unsubscribed.wait()
                await trio.sleep_until(started + self._interval)

    async def _follow(self) -> None:
        failures = 0
        while True:
            subscription = self._node.heads()
            if subscription is None:
                return
            try:
                async with subscription as heads:
                    log.info("node %s pushes its heads", self._node.name)
                    self._pushing, self._unsubscribed, failures = True, trio.Event(), 0
                    async for head in heads:
                        self._pushed(head)
                log.warning("node %s no longer pushes its heads; polling instead", self._node.name)
                self._metrics.inc("kms_connector_node_subscriptions_lost", self._node.name)
            except DependencyDown as down:
                log.log(logging.DEBUG if failures else logging.WARNING, "%s; polling instead", down)
            finally:
                self._pushing = False
                self._unsubscribed.set()
            failures += 1
            await trio.sleep(pause_after(failures, self._entropy))
