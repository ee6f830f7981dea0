"""Daemons as owners of leases: enrolling, beating, leaving, and taking rows back from the dead (decisions.md 1)."""

import logging
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import trio

from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES, DECRYPTIONS, OPERATIONS
from kmsd.ports import Identity, IdentityMismatch, OwnerCount
from kmsd.store.connections import Database, Session
from kmsd.store.part import Part
from kmsd.store.sql import query
from kmsd.store.tables import request_query, table_query

log = logging.getLogger("kmsd.store")

DEAD_AFTER = 12.0
"""Seconds of silence after which an owner is dead, by the database's clock."""
SETTLING = 8.0
"""Seconds for which the database must have answered us without a break before we judge others by their silence: after
an outage nobody has beaten for a while, and the living need a moment to be heard."""
BEAT_DEADLINE = 4.0
"""Seconds within which a heartbeat must be written."""
PREDECESSOR_PATIENCE = 2.0
"""Seconds to wait for the name's lock while an earlier self of ours may still be dying."""


def all_tables() -> Iterator[tuple[str, Kind, bool]]:
    """Name, kind and whether it holds responses, of each of the twelve tables."""
    for kind, operation in OPERATIONS.items():
        yield operation.request_table, kind, False
        if operation.response is not None:
            yield operation.response.table, kind, True


class Owners(Part):
    """The verbs of a daemon's life on the database."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._presence: Session | None = None
        self._turn = trio.Lock()
        self._name: str | None = None
        self._holds_name = False

    async def adopt(self, identity: Identity) -> None:
        """Record or compare whose database this is."""

        async def work(session: Session) -> None:
            await session.fetch(
                query("write_meta"),
                identity.gateway_chain_id,
                identity.decryption_contract,
                identity.kms_generation_contract,
            )
            row = await session.row(query("read_meta"))
            assert row is not None
            there = Identity(int(row[0]), row[1], row[2])
            if there != identity:
                raise IdentityMismatch(
                    "the database belongs to another network: it was made for "
                    f"{_network(there)}, the configuration says {_network(identity)}; "
                    "configure that network, or another database_url"
                )

        await self._database.run("adopt", work)

    async def enrol(self, instance_name: str, roles: Sequence[str]) -> int:
        """Insert the owner row, take the name's lock, give earlier selves' rows back to the queue; the epoch."""
        async with self._turn, self._guarded():
            session = await self._connected(instance_name)
            with trio.fail_after(self._database.statement_timeout):
                epoch = int(await session.value(query("add_owner"), instance_name, list(roles)))
                await self._succeed(session, instance_name, epoch)
        return epoch

    async def beat(self, owner: int) -> bool:
        """Heartbeat over a connection of its own; False when the owner row is gone."""
        async with self._turn, self._guarded():
            session = await self._connected(self._name)
            with trio.fail_after(min(BEAT_DEADLINE, self._database.statement_timeout)):
                alive = await session.value(query("beat"), owner) is not None
                if alive and not self._holds_name and self._name is not None:
                    await self._succeed(session, self._name, owner, patience=0.0)
        return alive

    async def leave(self, owner: int) -> int:
        """Give back every lease of `owner` and remove it; the number of rows given back."""

        async def work(session: Session) -> int:
            return sum(count.rows for count in await release(session, [owner]))

        rows = await self._database.run("leave", work)
        async with self._turn:
            self._part()
        return rows

    async def reclaim(self, *, unowned_after: float) -> Sequence[OwnerCount]:
        """Rows of dead owners, back; with a finite `unowned_after` also those of owners that are no more, and of none
        after so many seconds under process.
        """
        since = self._database.answering_since
        settled = since is not None and trio.current_time() - since >= SETTLING

        async def work(session: Session) -> list[OwnerCount]:
            counts: list[OwnerCount] = []
            if settled:
                silent = [row[0] for row in await session.fetch(query("silent_owners"), DEAD_AFTER)]
                if silent:
                    log.warning("owners %s are silent for %g s: dead", silent, DEAD_AFTER)
                    counts += await release(session, silent)
            looked = list(all_tables()) if unowned_after < math.inf else []
            lost: dict[int, None] = {}
            for _, kind, is_response in looked:
                found = await session.fetch(table_query("lost_leases", kind, is_response=is_response))
                lost |= {int(row[0]): None for row in found}
            if lost:
                counts += await release(session, sorted(lost))
            for name, kind, is_response in looked:
                rows = await session.value(
                    table_query("release_unowned", kind, is_response=is_response), float(unowned_after)
                )
                if rows:
                    counts.append(OwnerCount(None, name, rows))
            return counts

        return await self._database.run("reclaim", work)

    def close_presence(self) -> None:
        """Let go of the name's lock; leases stay."""
        self._part()

    async def _connected(self, name: str | None) -> Session:
        """The connection that holds the name's lock, opened again when it is gone."""
        if self._presence is not None and (self._presence.closed or name != self._name):
            self._part()
        if self._presence is None:
            self._presence = await self._database.connect()
            self._name = name
            self._holds_name = False
        return self._presence

    async def _succeed(
        self, session: Session, name: str, epoch: int, *, patience: float = PREDECESSOR_PATIENCE
    ) -> None:
        """Take the name's lock and the rows of earlier epochs of the name; nothing while another process has it."""
        earlier = [row[0] for row in await session.fetch(query("earlier_owners"), name, epoch)]
        deadline = trio.current_time() + (patience if earlier else 0.0)
        while not (locked := await session.value(query("try_name_lock"), name)):
            if trio.current_time() >= deadline:
                break
            await trio.sleep(0.05)
        self._holds_name = bool(locked)
        if not locked:
            log.warning("another daemon is called %s too: give each its own instance_name", name)
            return
        if earlier:
            await session.execute("BEGIN")
            counts = await release(session, earlier)
            await session.execute("COMMIT")
            log.info("took %d rows over from earlier selves of %s", sum(count.rows for count in counts), name)

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        """After any error the presence connection is of no use."""
        try:
            with self._database.faults():
                yield
        except BaseException:
            self._part()
            raise
        self._database.answered()

    def _part(self) -> None:
        if self._presence is not None:
            self._database.cut(self._presence)
        self._presence = None
        self._holds_name = False


async def release(session: Session, owners: Sequence[int]) -> list[OwnerCount]:
    """Everything that these owners held goes back, and they are gone; how many rows of which table."""
    counts = []
    for name, kind, is_response in all_tables():
        for row in await session.fetch(table_query("release", kind, is_response=is_response), owners):
            counts.append(OwnerCount(row["lease_owner"], name, row["rows"]))
    for kind in (*DECRYPTIONS, *CEREMONIES):
        await session.fetch(request_query("release_stale", kind), owners)
    await session.fetch(query("release_withdrawn"), owners)
    await session.fetch(query("free_slots_of_owners"), owners)
    await session.fetch(query("remove_owners"), owners)
    return counts


def _network(identity: Identity) -> str:
    return (
        f"chain {identity.gateway_chain_id} with Decryption at 0x{identity.decryption_contract.hex()} "
        f"and KMSGeneration at 0x{identity.kms_generation_contract.hex()}"
    )
