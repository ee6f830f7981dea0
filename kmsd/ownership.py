"""This daemon as an owner of leases: its epoch, its heartbeat (decisions.md 1)."""

import logging
from collections.abc import Sequence

import trio

from kmsd.ports import DependencyDown, Store

log = logging.getLogger("kmsd.ownership")

BEAT_INTERVAL = 3.0
"""Seconds between heartbeats; an owner is dead when its beat is 12 s old."""


class Ownership:
    """The epoch under which this process leases rows.

    While it is not enrolled (database down at start, or declared dead after a long pause) nothing is claimed: siblings
    await `epoch()`. An epoch that was declared dead is never used again; its late successes may still complete rows.
    """

    def __init__(self, store: Store, instance_name: str, roles: Sequence[str]) -> None:
        self._store = store
        self._instance_name = instance_name
        self._roles = tuple(roles)
        self._epoch: int | None = None
        self._enrolled = trio.Event()
        self._left = False

    @property
    def current(self) -> int | None:
        """The epoch if enrolled."""
        return self._epoch

    async def epoch(self) -> int:
        """The current epoch, waiting until there is one."""
        while self._epoch is None:
            await self._enrolled.wait()
        return self._epoch

    async def run(self) -> None:
        """Enrol and beat until `leave`; a database that is down is asked again every second."""
        while not self._left:
            try:
                if self._epoch is None:
                    self._epoch = await self._store.enrol(self._instance_name, self._roles)
                    self._enrolled.set()
                    log.info("owner epoch %d as %s", self._epoch, self._instance_name)
                elif not await self._store.beat(self._epoch) and not self._left:
                    log.error("owner epoch %d was declared dead while this process lived; enrolling again", self._epoch)
                    self._epoch = None
                    self._enrolled = trio.Event()
                    continue
            except DependencyDown as down:
                log.warning("%s; heartbeat waits", down)
                await trio.sleep(1.0)
                continue
            await trio.sleep(BEAT_INTERVAL)

    async def leave(self) -> int:
        """Give back every lease and stop being an owner, for good; rows given back. Raises DependencyDown."""
        self._left = True
        if self._epoch is None:
            return 0
        epoch, self._epoch = self._epoch, None
        return await self._store.leave(epoch)
