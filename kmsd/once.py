"""`kmsd --once`: read up to the head of the start, work until nothing can proceed, say what was done (PR6).

Exit status: 0 all done, 1 something failed, 3 something is left (decisions.md 29 and 35); each is named.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs
import trio

from kmsd.config import Settings
from kmsd.listener import Listener
from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.ports import DependencyDown, Listed, Store, Time
from kmsd.sender import Sender
from kmsd.wire import ids
from kmsd.worker import Worker

log = logging.getLogger("kmsd.once")

EXIT_FAILED = 1
EXIT_LEFT = 3
LOOK_INTERVAL = 0.25
"""Seconds between looks at the queue."""
NAMED = 1_000
"""Requests named in a summary; past that they are counted."""


@attrs.frozen
class Summary:
    """What one replay did. `served` counts requests completed, `failed` and `left` name the others with their words.

    `beyond` counts requests after the head of the start, which the next run serves.
    """

    head: int
    served: Mapping[Kind, int]
    failed: Sequence[Listed]
    left: Sequence[Listed]
    beyond: Mapping[Kind, int]
    seconds: float

    @property
    def exit_status(self) -> int:
        """0, 1 or 3."""
        if self.failed:
            return EXIT_FAILED
        return EXIT_LEFT if self.left else 0

    def as_json(self) -> str:
        """One line for scripts."""
        return json.dumps(
            {
                "head": self.head,
                "served": {kind.value: count for kind, count in self.served.items()},
                "failed": [_named(row) for row in self.failed],
                "left": [_named(row) for row in self.left],
                "beyond_head": {kind.value: count for kind, count in self.beyond.items()},
                "seconds": round(self.seconds, 3),
                "exit_status": self.exit_status,
            }
        )

    def as_text(self) -> str:
        """Lines for a person."""
        lines = [f"read to block {self.head}; {self.seconds:.1f} s"]
        lines += [f"  served  {count:>6}  {kind.value}" for kind, count in self.served.items() if count]
        lines += [f"  FAILED  {_words(row)}" for row in self.failed]
        lines += [f"  left    {_words(row)}" for row in self.left]
        lines += [
            f"  beyond that head: {count} {kind.value}; run kmsd again to serve them"
            for kind, count in self.beyond.items()
            if count
        ]
        return "\n".join(lines)


class Surroundings(Protocol):
    """What `Once` needs of the daemon."""

    settings: Settings
    store: Store
    time: Time
    listener: Listener | None
    worker: Worker | None
    sender: Sender | None


class Once:
    """One catch-up replay over the daemon's running worker and sender."""

    def __init__(self, around: Surroundings, from_block: int | None, as_json: bool) -> None:
        self._around = around
        self._from_block = from_block
        self._as_json = as_json

    async def run(self, stop: trio.Event) -> int:
        """Replay, print the summary, give the exit status. Ends early, as left, when `stop` is set."""
        started, begun = self._around.time.now(), trio.current_time()
        head = 0
        beyond: Mapping[Kind, int] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, stop, nursery.cancel_scope)
            head = await self._read()
            await self._until_nothing_proceeds()
            beyond = await self._beyond(head)
            nursery.cancel_scope.cancel()
        rows = await self._around.store.listed(("pending", "under_process", "failed"), changed_after=0.0, limit=NAMED)
        done = await self._around.store.listed(("completed",), changed_after=started, limit=1_000_000)
        served = dict.fromkeys(OPERATIONS, 0)
        for row in done:
            if not row.is_response:
                served[row.kind] += 1
        recent_failures = await self._around.store.listed(("failed",), changed_after=started, limit=NAMED)
        summary = Summary(
            head=head,
            served=served,
            failed=recent_failures,
            left=[row for row in rows if row.status != "failed"],
            beyond=beyond,
            seconds=trio.current_time() - begun,
        )
        sys.stdout.write((summary.as_json() if self._as_json else summary.as_text()) + "\n")
        sys.stdout.flush()
        return summary.exit_status

    async def _read(self) -> int:
        """Read every stream up to the head of now; outages of nodes or database only delay it."""
        listener = self._around.listener
        if listener is None:
            return 0
        while True:
            try:
                head = await listener.head()
                if self._from_block is not None:
                    await listener.rewind_to(self._from_block)
                    self._from_block = None
                await listener.read_to(head)
                return head
            except DependencyDown as down:
                log.warning("reading waits: %s", down)
                await trio.sleep(1.0)

    async def _beyond(self, head: int) -> Mapping[Kind, int]:
        listener = self._around.listener
        if listener is None:
            return {}
        with trio.move_on_after(self._around.settings.rpc_timeout):
            try:
                return await listener.count_after(head)
            except DependencyDown as down:
                log.warning("requests beyond block %d could not be counted: %s", head, down)
        return {}

    async def _until_nothing_proceeds(self) -> None:
        """Wait until the queue is empty, or nothing moved for `once_idle` seconds.

        A call open at the Core and a transaction not yet mined are progress, however long they take.
        """
        last_seen: object = None
        idle_since = trio.current_time()
        while True:
            try:
                waiting = await self._around.store.open_requests()
            except DependencyDown as down:
                log.warning("the replay waits: %s", down)
                await trio.sleep(1.0)
                continue
            hands: list[Worker | Sender] = [s for s in (self._around.worker, self._around.sender) if s is not None]
            busy = sum(sum(sibling.in_flight.values()) for sibling in hands)
            if not waiting and not busy:
                return
            working = sum(sibling.progressing for sibling in hands)
            if waiting != last_seen or working:
                last_seen, idle_since = waiting, trio.current_time()
            elif trio.current_time() - idle_since > self._around.settings.once_idle:
                return
            await trio.sleep(LOOK_INTERVAL)


async def _cancel_when(stop: trio.Event, scope: trio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()


def _named(row: Listed) -> dict[str, str | None]:
    return {
        "kind": row.kind.value,
        "id": ids.to_core(row.id),
        "part": "response" if row.is_response else "request",
        "status": row.status,
        "reason": row.last_error,
    }


def _words(row: Listed) -> str:
    part = "response of " if row.is_response else ""
    return f"{part}{row.kind.value} 0x{ids.to_core(row.id)}: {row.last_error or row.status}"
