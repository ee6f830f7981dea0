"""NOTIFY from other processes as wake-ups: hints only, polling is the floor.

Notifications of our own backends are left out (decisions.md 4): what this daemon wrote itself it already knows.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from kmsd.operations.table import OPERATIONS
from kmsd.ports import DependencyDown, Wake
from kmsd.store.connections import DATABASE, Session
from kmsd.store.part import Part

PROBE_INTERVAL = 5.0
"""Seconds between two looks whether the connection is still answered."""
PROBE_DEADLINE = 5.0


def _channels() -> dict[str, Wake]:
    channels = {operation.channel: Wake(kind, False) for kind, operation in OPERATIONS.items()}
    for kind, operation in OPERATIONS.items():
        if operation.response is not None:
            channels[operation.response.channel] = Wake(kind, True)
    return channels


CHANNELS = _channels()
"""What each channel says."""


class Notifications(Part):
    """The verb `wakes`."""

    @asynccontextmanager
    async def wakes(self) -> AsyncIterator[AsyncIterator[Wake]]:
        """Wakes from now on, beginning with one of each: what was written before LISTEN is found by looking.

        The iterator raises DependencyDown when the connection ends.
        """
        async with self._database.dedicated() as session:
            inbox = _Inbox(self._database.owns_backend)
            session.on_end(inbox.end)
            with self._database.faults(), trio.fail_after(self._database.statement_timeout):
                for channel in CHANNELS:
                    await session.listen(channel, inbox.hear)
            for wake in CHANNELS.values():
                inbox.put(wake)
            yield inbox.wakes(session)


class _Inbox:
    """Wakes that nobody has taken yet, each at most once."""

    def __init__(self, is_ours: Any) -> None:
        self._is_ours = is_ours
        self._waiting: dict[Wake, None] = {}
        self._send, self._receive = trio.open_memory_channel[None](1)

    def hear(self, connection: Any, pid: int, channel: str, payload: Any) -> None:
        """One notification."""
        if not self._is_ours(pid):
            self.put(CHANNELS[channel])

    def put(self, wake: Wake) -> None:
        """Keep `wake` for the reader."""
        self._waiting[wake] = None
        self._ring()

    def _ring(self) -> None:
        try:
            self._send.send_nowait(None)
        except trio.WouldBlock:
            pass

    def end(self, connection: Any = None) -> None:
        """No more will come: wake the reader, which looks at the connection."""
        self._ring()

    async def wakes(self, session: Session) -> AsyncIterator[Wake]:
        """What has gathered, then what comes. Raises DependencyDown at the end.

        A connection that nothing has closed may be dead all the same: it is asked now and then.
        """
        while not session.closed:
            with trio.move_on_after(PROBE_INTERVAL) as silence:
                await self._receive.receive()
            if silence.cancelled_caught and not await _answers(session):
                break
            while self._waiting:
                wake = next(iter(self._waiting))
                del self._waiting[wake]
                yield wake
        raise DependencyDown(DATABASE, "the connection for notifications ended")


async def _answers(session: Session) -> bool:
    try:
        with trio.fail_after(PROBE_DEADLINE):
            await session.fetch("SELECT 1")
    except Exception:
        return False
    return True
