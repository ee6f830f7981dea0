"""The journal of a wallet, open for the one writer that holds its lock (TX1, TX4; decisions.md 20)."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio

from kmsd.operations.kinds import Kind
from kmsd.ports import JournalEntry, LaneLost, ResponseOutcome, TxState
from kmsd.store.connections import Database, Session
from kmsd.store.part import Part
from kmsd.store.queue import MAX_WORDS
from kmsd.store.responses import settle
from kmsd.store.sql import query
from kmsd.wire.ids import from_db, to_db
from kmsd.wire.keccak import keccak256

LOCK_INTERVAL = 1.0
"""Seconds between two tries for the wallet's lock."""


def lock_key(chain_id: int, wallet: bytes) -> int:
    """The advisory lock of a wallet: the first 8 bytes of keccak("kmsd/sender" ‖ chain id ‖ address), signed.

    The chain id as 32 bytes big-endian.
    """
    digest = keccak256(b"kmsd/sender" + chain_id.to_bytes(32, "big") + wallet)
    return int.from_bytes(digest[:8], "big", signed=True)


class PostgresLane:
    """One tenure. Every method raises LaneLost when the lock may be gone, and DependencyDown when it is open whether a
    write happened."""

    def __init__(self, database: Database, session: Session, chain_id: int, wallet: bytes, epoch: int) -> None:
        self._database = database
        self._session = session
        self._lane = (chain_id, wallet)
        self._epoch = epoch
        self._turn = trio.Lock()

    async def entries(self) -> Sequence[JournalEntry]:
        """All entries not FINAL or DROPPED, by nonce and attempt."""
        async with self._turn:
            with self._watched():
                rows = await self._session.fetch(query("journal_entries"), *self._lane)
        return [
            JournalEntry(
                nonce=row["nonce"],
                attempt=row["attempt"],
                kind=Kind(row["kind"]) if row["kind"] is not None else None,
                id=from_db(row["id"]) if row["id"] is not None else None,
                calldata_hash=row["calldata_hash"],
                raw=row["raw"],
                tx_hash=row["tx_hash"],
                gas_limit=row["gas_limit"],
                max_fee_per_gas=int(row["max_fee_per_gas"]),
                max_priority_fee_per_gas=int(row["max_priority_fee_per_gas"]),
                state=TxState(row["state"]),
                signed_at=row["signed_at"],
                block_number=row["block_number"],
                block_hash=row["block_hash"],
                receipt_status=row["receipt_status"],
                error=row["error"],
            )
            for row in rows
        ]

    async def highest_nonce(self) -> int | None:
        """The highest nonce ever journaled."""
        async with self._turn:
            with self._watched():
                row = await self._session.row(query("highest_nonce"), *self._lane, self._epoch)
        if row is None:
            raise LaneLost("a newer tenure has the lane")
        highest: int | None = row[0]
        return highest

    async def append(self, entries: Sequence[JournalEntry]) -> None:
        """Commit signed transactions; nothing of them may be broadcast before this returns."""
        if not entries:
            return
        async with self._turn:
            with self._watched():
                rows = await self._session.fetch(
                    query("journal_append"),
                    *self._lane,
                    self._epoch,
                    max(entry.nonce for entry in entries),
                    [entry.nonce for entry in entries],
                    [entry.attempt for entry in entries],
                    [entry.kind.value if entry.kind is not None else None for entry in entries],
                    [to_db(entry.id) if entry.id is not None else None for entry in entries],
                    [entry.calldata_hash for entry in entries],
                    [entry.raw for entry in entries],
                    [entry.tx_hash for entry in entries],
                    [entry.gas_limit for entry in entries],
                    [entry.max_fee_per_gas for entry in entries],
                    [entry.max_priority_fee_per_gas for entry in entries],
                    [entry.state.value for entry in entries],
                    [entry.signed_at for entry in entries],
                )
        if len(rows) != len(entries):
            raise LaneLost("a newer tenure has the lane")

    async def settle(self, entries: Sequence[JournalEntry], outcomes: Sequence[ResponseOutcome] = ()) -> Sequence[bool]:
        """New states of entries and of their responses in one transaction; True per applied outcome."""
        async with self._turn:
            with self._watched():
                await self._session.refresh()
                if not outcomes:
                    await self._write(entries)
                    return []
                await self._session.execute("BEGIN")
                await self._write(entries)
                applied = await settle(self._session, outcomes)
                await self._session.execute("COMMIT")
        return applied

    async def _write(self, entries: Sequence[JournalEntry]) -> None:
        """Write states of entries, of none too: the statement holds the lane or finds it gone."""
        written = await self._session.value(
            query("journal_settle"),
            *self._lane,
            self._epoch,
            [entry.nonce for entry in entries],
            [entry.attempt for entry in entries],
            [entry.state.value for entry in entries],
            [entry.block_number for entry in entries],
            [entry.block_hash for entry in entries],
            [entry.receipt_status for entry in entries],
            [entry.error[:MAX_WORDS] if entry.error is not None else None for entry in entries],
        )
        if written is None:
            raise LaneLost("a newer tenure has the lane")

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """A deadline around statements; a connection on which one failed is cut, and the lane is lost with it."""
        if self._session.closed:
            raise LaneLost("the connection that held the wallet's lock is gone")
        try:
            with self._database.faults(), trio.fail_after(self._database.statement_timeout):
                yield
        except BaseException:
            self._database.cut(self._session)
            raise


class Lanes(Part):
    """The verb `open_lane`."""

    @asynccontextmanager
    async def open_lane(self, chain_id: int, wallet: bytes, owner: int) -> AsyncIterator[PostgresLane]:
        """Wait for the wallet's lock, then its lane until the end of the block."""
        async with self._database.dedicated() as session:
            epoch = await self._take(session, chain_id, wallet, owner)
            self._database.answered()
            yield PostgresLane(self._database, session, chain_id, wallet, epoch)

    async def _take(self, session: Session, chain_id: int, wallet: bytes, owner: int) -> int:
        key = lock_key(chain_id, wallet)
        timeout = self._database.statement_timeout
        while True:
            with self._database.faults(), trio.fail_after(timeout):
                if await session.value(query("try_lane_lock"), key):
                    return int(await session.value(query("open_lane"), chain_id, wallet, owner))
            await trio.sleep(LOCK_INTERVAL)
