"""The sender's verbs of the simulated store: responses, and the lane with its journal behind the wallet's lock."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from kmsd.operations.kinds import Kind
from kmsd.ports import (
    ClaimedResponse,
    DependencyDown,
    JournalEntry,
    LaneLost,
    ResponseFate,
    ResponseOutcome,
    TxState,
)
from kmsd.store.lanes import LOCK_INTERVAL

from .lives import Life, Link
from .rows import Database, Response
from .rows import Lane as LaneRow
from .store import TIMEOUT, Session, StoreBase, UniqueViolation, Wakes, WorkerVerbs
from .store_listener import ListenerVerbs

T = TypeVar("T")
Key = tuple[Kind, int]


class SenderVerbs(StoreBase):
    """Responses on their way."""

    async def claim_responses(self, kind: Kind, owner: int, limit: int) -> Sequence[ClaimedResponse]:
        """Lease due responses, longest due first."""

        def work(now: float) -> list[ClaimedResponse]:
            rows = [row for row in self.db.responses.values() if row.kind is kind and row.status == "pending"]
            due = sorted((row for row in rows if row.due <= now), key=lambda row: (row.due, row.created_at))
            return [
                self.db.change(
                    "claim_response", owner, row, status="under_process", owner=owner, attempts=row.attempts + 1
                ).claimed(now)
                for row in due[:limit]
            ]

        return await self.run(f"claim_responses.{kind.value}", work)

    async def leased_responses(self, kind: Kind, owner: int) -> Sequence[int]:
        """Responses under process that `owner` holds."""

        def work(now: float) -> list[int]:
            rows = self.db.table(kind, True)
            return [row.id for row in rows if row.status == "under_process" and row.owner == owner]

        return await self.read("leased_responses", work)

    async def load_responses(self, keys: Sequence[Key]) -> Sequence[ClaimedResponse]:
        """Rows by key whatever their state."""

        def work(now: float) -> list[ClaimedResponse]:
            found = [self.db.responses.get(key) for key in keys]
            return [row.claimed(now) for row in found if row is not None]

        return await self.read("load_responses", work)

    async def load_requests(self, keys: Sequence[Key]) -> Sequence[Any]:
        """What each response answers; None for a request that is gone."""

        def work(now: float) -> list[Any]:
            rows = [self.db.requests.get(key) for key in keys]
            return [row.event if row is not None else None for row in rows]

        return await self.read("load_requests", work)

    async def lease_responses(self, keys: Sequence[Key], owner: int) -> Sequence[bool]:
        """Take over the leases of what is neither completed nor failed."""

        def work(now: float) -> list[bool]:
            applied = []
            for key in keys:
                row = self.db.responses.get(key)
                applied.append(row is not None and row.status in ("pending", "under_process"))
                if row is not None and applied[-1]:
                    self.db.change("take_over", owner, row, status="under_process", owner=owner)
            return applied

        return await self.run("lease_responses", work)

    async def reopen_responses(self, keys: Sequence[Key], owner: int) -> Sequence[bool]:
        """Lease again what is completed, or already reopened by this owner."""

        def work(now: float) -> list[bool]:
            applied = []
            for key in keys:
                row = self.db.responses.get(key)
                applied.append(
                    row is not None
                    and (row.status == "completed" or (row.status == "under_process" and row.owner == owner))
                )
                if row is not None and applied[-1]:
                    self.db.change("reopen", owner, row, status="under_process", owner=owner, budget_started_at=now)
            return applied

        return await self.run("reopen_responses", work)

    async def settle_responses(self, outcomes: Sequence[ResponseOutcome]) -> Sequence[bool]:
        """Ends of tries at sending."""
        return await self.run("settle_responses", lambda now: settle(self.db, outcomes, now, self.notify_of))

    def notify_of(self, row: Response) -> None:
        """A response is pending again."""
        self.notify(row.kind, is_response=True)

    @asynccontextmanager
    async def open_lane(self, chain_id: int, wallet: bytes, owner: int) -> AsyncIterator["SimLane"]:
        """Wait for the wallet's lock, then the lane."""
        session, place = Session(), (chain_id, wallet)
        db, life = self.db, self._life

        def close() -> None:
            session.alive = False
            if db.lane_locks.get(place) is session:
                del db.lane_locks[place]

        life.on_death.append(close)
        db.lane_sessions.append(session)

        def take(now: float) -> int | None:
            if not session.alive:
                raise DependencyDown("database", "connection lost")
            if db.lane_locks.setdefault(place, session) is not session:
                return None
            lane = db.lanes.setdefault(place, LaneRow())
            lane.epoch, lane.owner = lane.epoch + 1, owner
            return lane.epoch

        try:
            while (epoch := await self.run("take_lane", take)) is None:  # noqa: ASYNC110 - as the real one asks
                await trio.sleep(LOCK_INTERVAL)
            yield SimLane(db, self._link, life, session, db.lanes[place], epoch)
        finally:
            close()
            life.on_death.remove(close)
            db.lane_sessions.remove(session)


def settle(
    db: Database, outcomes: Sequence[ResponseOutcome], now: float, notify: Callable[[Response], None]
) -> list[bool]:
    """Write outcomes inside a transaction; True for each that applied."""
    applied = []
    for outcome in outcomes:
        row = db.responses.get((outcome.lease.kind, outcome.lease.id))
        completes = outcome.fate is ResponseFate.COMPLETED and row is not None and row.status != "completed"
        ours = row is not None and row.status == "under_process" and row.owner == outcome.lease.owner
        applied.append(completes or ours)
        if row is None or not applied[-1]:
            continue
        words = outcome.last_error
        if words is None and outcome.fate is ResponseFate.FAILED:
            words = "the transaction failed"
        changed = db.change(
            f"settle.{outcome.fate.value}",
            outcome.lease.owner,
            row,
            status=outcome.fate.value,
            owner=None,
            due=now + outcome.delay if outcome.fate is ResponseFate.PENDING else row.due,
            last_error=words,
            error_counter=row.error_counter + outcome.counted,
            tx_hash=outcome.tx_hash or row.tx_hash,
        )
        if outcome.fate is ResponseFate.PENDING:
            notify(changed)
    return applied


class SimLane:
    """`ports.Lane` over a session that holds the wallet's lock."""

    def __init__(self, db: Database, link: Link, life: Life, session: Session, lane: LaneRow, epoch: int) -> None:
        self._db = db
        self._link = link
        self._life = life
        self._session = session
        self._lane = lane
        self._epoch = epoch

    async def _run(self, verb: str, work: Callable[[float], T], *, write: bool) -> T:
        def statement() -> T:
            if not self._session.alive:
                raise DependencyDown("database", "connection lost")
            return work(self._db.clock())

        if not self._session.alive:
            raise LaneLost("the connection that held the wallet's lock is gone")
        try:
            return await self._link.exchange(self._life, f"lane.{verb}", statement, deadline=TIMEOUT, write=write)
        except BaseException:
            self._session.alive = False  # after any error the connection is cut
            raise

    def _check(self) -> None:
        if self._lane.epoch != self._epoch:
            raise LaneLost("a newer tenure has the lane")

    async def entries(self) -> Sequence[JournalEntry]:
        """All entries not FINAL or DROPPED."""

        def work(now: float) -> list[JournalEntry]:
            journal = self._lane.journal
            unfinished = (TxState.SIGNED, TxState.MINED)
            return [journal[key] for key in sorted(journal) if journal[key].state in unfinished]

        return await self._run("entries", work, write=False)

    async def highest_nonce(self) -> int | None:
        """The highest nonce ever journaled."""

        def work(now: float) -> int | None:
            self._check()
            return self._lane.highest_nonce

        return await self._run("highest_nonce", work, write=False)

    async def append(self, entries: Sequence[JournalEntry]) -> None:
        """Commit signed transactions."""
        if not entries:
            return

        def work(now: float) -> None:
            self._check()
            journal = self._lane.journal
            for entry in entries:
                if (entry.nonce, entry.attempt) in journal:
                    raise UniqueViolation(f"kmsd_transactions has nonce {entry.nonce} attempt {entry.attempt}")
            for entry in entries:
                self._db.on_journal("append", self._lane, None, entry)
                journal[entry.nonce, entry.attempt] = entry
            highest = max(entry.nonce for entry in entries)
            self._lane.highest_nonce = max(highest, self._lane.highest_nonce or 0)

        await self._run("append", work, write=True)

    async def settle(self, entries: Sequence[JournalEntry], outcomes: Sequence[ResponseOutcome] = ()) -> Sequence[bool]:
        """New states of entries and of their responses, together."""

        def work(now: float) -> list[bool]:
            self._check()
            for entry in entries:
                before = self._lane.journal.get((entry.nonce, entry.attempt))
                if before is None:
                    continue
                done = entry.state in (TxState.FINAL, TxState.DROPPED)
                after = attrs.evolve(
                    before,
                    state=entry.state,
                    block_number=entry.block_number,
                    block_hash=entry.block_hash,
                    receipt_status=entry.receipt_status,
                    error=entry.error,
                    raw=b"" if done else before.raw,
                )
                self._db.on_journal("settle", self._lane, before, after)
                self._lane.journal[entry.nonce, entry.attempt] = after
            return settle(self._db, outcomes, now, lambda row: None)

        return await self._run("settle", work, write=True)


class SimStore(ListenerVerbs, WorkerVerbs, SenderVerbs):
    """`kmsd.ports.Store` of one life."""


def cut_connections(database: Database, wakes: Wakes) -> None:
    """Every connection ends at once: its locks are free, its client learns of it when it next uses it."""
    database.names.clear()
    for place, session in list(database.lane_locks.items()):
        del database.lane_locks[place]
        assert isinstance(session, Session)
        session.alive = False
    for session in database.lane_sessions:
        session.alive = False
    wakes.cut()
