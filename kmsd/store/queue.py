"""The worker's verbs: claims and transitions of requests (QU1, QU2, QU5 to QU8)."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES
from kmsd.ports import Claimed, Failed, Finished, Lease, RejectedResult, Sent, TryAgain
from kmsd.store.connections import Database, Session
from kmsd.store.part import Part, by_kind, mark
from kmsd.store.sql import query
from kmsd.store.tables import REQUEST_TABLES, Row, request_query
from kmsd.wire.errors import WireError
from kmsd.wire.ids import from_db, to_db

log = logging.getLogger("kmsd.store")

MAX_WORDS = 4_000
"""Characters kept of an error's words."""

EARLIER_MEANING = (
    "the Core was given another request under this id, which a reorganisation of the Gateway chain took back: "
    "it cannot serve this one"
)

Item = TypeVar("Item", Sent, Finished, TryAgain, Failed)


def claimed_from(kind: Kind, row: Row, owner: int) -> Claimed:
    """The record of a claimed row. Raises WireError for a row that cannot be decoded."""
    request_id = from_db(row["id"])
    return Claimed(
        kind=kind,
        id=request_id,
        event=REQUEST_TABLES[kind].decode(request_id, row),
        tx_hash=row["tx_hash"],
        block_number=row["block_number"],
        block_hash=row["block_hash"],
        log_index=row["log_index"],
        already_sent=row["already_sent"],
        error_counter=row["error_counter"],
        attempts=row["attempts"],
        core_shard=row["core_shard"],
        refusal=row["refusal"],
        budget_age=row["budget_age"],
        created_at=row["created_at"],
        otlp_context=row["otlp_context"],
        lease=owner,
        reporting_node=row["reporting_node"],
    )


class Queue(Part):
    """Requests on their way."""

    async def claim(self, kind: Kind, owner: int, limit: int) -> Sequence[Claimed]:
        """Lease up to `limit` due requests of `kind`, longest due first; bad rows go to quarantine by themselves."""
        rows = await self._database.single("claim", request_query("claim", kind), owner, limit)
        claimed, bad = self.decoded(kind, sorted(rows, key=_due), owner)
        if bad:
            await self._database.run("quarantine_rows", lambda session: quarantine(session, kind, owner, bad))
        return claimed

    @staticmethod
    def decoded(kind: Kind, rows: Sequence[Row], owner: int) -> tuple[list[Claimed], list[tuple[bytes, str]]]:
        """Records of the rows that can be decoded; key and words of those that cannot."""
        claimed: list[Claimed] = []
        bad: list[tuple[bytes, str]] = []
        for row in rows:
            try:
                claimed.append(claimed_from(kind, row, owner))
            except (WireError, KeyError, TypeError, ValueError) as error:
                bad.append((row["id"], f"the row cannot be decoded: {error}"))
        return claimed, bad

    async def leased(self, kind: Kind, owner: int) -> Sequence[int]:
        """Ids of the requests of `kind` that `owner` holds, or held before a reorganisation took them back."""
        rows = await self._database.single("leased", request_query("leased", kind), owner)
        return [from_db(row["id"]) for row in rows]

    async def sent(self, items: Sequence[Sent]) -> Sequence[bool]:
        """The Core took these requests; a ceremony's slot is free."""
        return await self._transition(
            "sent",
            items,
            lambda part: ([item.core_shard for item in part], [item.fresh for item in part]),
            taken=lambda item: True,
            ended=False,
        )

    async def finished(self, items: Sequence[Finished]) -> Sequence[bool]:
        """Complete without a response; True also for what is completed already."""
        return await self._transition(
            "finished", items, lambda part: ([item.note for item in part],), or_completed=True
        )

    async def try_again(self, items: Sequence[TryAgain]) -> Sequence[bool]:
        """Back to pending, due after each item's delay."""
        return await self._transition(
            "try_again",
            items,
            lambda part: (
                [item.delay for item in part],
                [item.last_error[:MAX_WORDS] for item in part],
                [item.counted for item in part],
                [item.clear_sent for item in part],
                [item.mark_sent for item in part],
                [item.refusal for item in part],
                [item.core_shard for item in part],
            ),
            taken=lambda item: isinstance(item, TryAgain) and item.mark_sent,
        )

    async def failed(self, items: Sequence[Failed]) -> Sequence[bool]:
        """Failed with words (QU8)."""
        return await self._transition(
            "failed",
            items,
            lambda part: ([item.last_error[:MAX_WORDS] for item in part], [item.counted for item in part]),
        )

    async def reject(self, items: Sequence[RejectedResult]) -> None:
        """Keep Core answers that failed their checks."""
        await self._database.single(
            "reject",
            query("reject"),
            [item.kind.value for item in items],
            [to_db(item.id) for item in items],
            [item.core_shard for item in items],
            [item.reason[:MAX_WORDS] for item in items],
            [item.raw for item in items],
        )

    async def _transition(
        self,
        verb: str,
        items: Sequence[Item],
        columns: Callable[[Sequence[Item]], tuple[list[Any], ...]],
        *,
        taken: Callable[[Item], bool] = lambda item: False,
        ended: bool = True,
        or_completed: bool = False,
    ) -> Sequence[bool]:
        """One statement for each kind among `items`. `taken`: the Core has what the item was about; `or_completed`:
        True also for rows that are completed already."""
        applied = [False] * len(items)
        for kind, indexes in by_kind(items, lambda item: item.lease.kind).items():
            part: list[Item] = [items[index] for index in indexes]
            leases = [item.lease for item in part]
            arguments = ([to_db(lease.id) for lease in leases], [lease.owner for lease in leases], *columns(part))
            rows = await transition(self._database, verb, kind, request_query(verb, kind), arguments)
            late = mark(applied, indexes, rows)
            if late:
                await after_late(
                    self._database,
                    kind,
                    [items[index].lease for index in late],
                    [taken(items[index]) for index in late],
                    ended=ended,
                )
            if late and or_completed:
                ids = [to_db(items[index].lease.id) for index in late]
                mark(applied, late, await self._database.single(verb, request_query("completed", kind), ids))
        return applied


async def transition(
    database: Database,
    verb: str,
    kind: Kind,
    sql: str,
    arguments: Sequence[Any],
    *,
    then: Callable[[Session], Awaitable[None]] | None = None,
) -> Sequence[asyncpg.Record]:
    """One statement over leases (ids and owners come first), which is a transaction of its own; one that moves
    ceremonies frees their slots in the same transaction, and does what is to be done `then`."""
    if kind not in CEREMONIES:
        return await database.single(verb, sql, *arguments)

    async def work(session: Session) -> Sequence[asyncpg.Record]:
        rows = await session.fetch(sql, *arguments)
        await session.fetch(query("free_slots"), *arguments[:2], kind.value)
        if then is not None:
            await then(session)
        return rows

    return await database.run(verb, work)


async def after_late(
    database: Database, kind: Kind, leases: Sequence[Lease], taken: Sequence[bool], *, ended: bool = True
) -> None:
    """Late tasks may have worked on an earlier meaning of their id: the present one is due once they have ended.

    What a crash leaves undone here is done when their owner is found dead.
    """
    ids = [to_db(lease.id) for lease in leases]
    owners = [lease.owner for lease in leases]

    async def work(session: Session) -> None:
        await session.fetch(
            request_query("end_stale", kind), ids, owners, list(taken), [ended] * len(ids), EARLIER_MEANING
        )
        if ended:
            await session.fetch(query("end_stale_withdrawn"), ids, owners, kind.value)

    await database.run("end_stale", work)


def _due(row: Row) -> tuple[float, float]:
    return row["due_at"], row["created_at"]


async def quarantine(session: Session, kind: Kind, owner: int, bad: Sequence[tuple[bytes, str]]) -> None:
    """Fail rows that cannot be decoded, and keep their content."""
    for key, words in bad:
        log.error("%s row %s: %s; it is in quarantine", kind.value, key.hex(), words)
        await session.fetch(request_query("quarantine_row", kind), key, owner, words[:MAX_WORDS])
