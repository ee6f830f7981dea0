"""Responses: stored with the completion of their request (QU6), claimed and settled by the sender."""

import logging
from collections.abc import Sequence
from typing import Any

from kmsd.operations.kinds import Kind
from kmsd.ports import Answered, ClaimedResponse, ResponseFate, ResponseOutcome
from kmsd.store.connections import Session
from kmsd.store.divergence import compare_ceremony
from kmsd.store.part import Part, by_kind, mark
from kmsd.store.queue import MAX_WORDS, after_late, transition
from kmsd.store.recording import event_of
from kmsd.store.tables import RESPONSE_TABLES, Row, request_query, response_query
from kmsd.wire.errors import WireError
from kmsd.wire.ids import from_db, to_db

log = logging.getLogger("kmsd.store")

Key = tuple[Kind, int]


class Responses(Part):
    """Responses on their way."""

    async def answered(self, items: Sequence[Answered]) -> Sequence[bool]:
        """Store responses and complete their requests; True also for a request that is completed already."""
        applied = [False] * len(items)
        for kind, indexes in by_kind(items, lambda item: item.lease.kind).items():
            part = [items[index] for index in indexes]
            late = mark(applied, indexes, await self._store_answers(kind, part))
            if late:
                leases = [items[index].lease for index in late]
                await after_late(self._database, kind, leases, [True] * len(late))
                keys = [to_db(lease.id) for lease in leases]
                mark(applied, late, await self._database.single("answered", request_query("completed", kind), keys))
        return applied

    async def _store_answers(self, kind: Kind, items: Sequence[Answered]) -> Sequence[Row]:
        """The rows that say which applied; where ours differ from what the committee agreed on, that is said."""
        diverging: list[Key] = []
        ids = [to_db(item.lease.id) for item in items]

        async def compare(session: Session) -> None:
            diverging.clear()
            for key in ids:
                diverging.extend(await compare_ceremony(session, kind, key))

        arguments = (
            ids,
            [item.lease.owner for item in items],
            [RESPONSE_TABLES[kind].encode(item.fields) for item in items],
            [item.otlp_context for item in items],
            [item.created_at for item in items],
            [item.note for item in items],
        )
        sql = response_query("answered", kind)
        rows = await transition(self._database, "answered", kind, sql, arguments, then=compare)
        diverging += [(kind, from_db(row["diverging"])) for row in rows if row["diverging"] is not None]
        self._database.diverging(diverging)
        return [row for row in rows if row["ord"] is not None]

    async def claim_responses(self, kind: Kind, owner: int, limit: int) -> Sequence[ClaimedResponse]:
        """Lease up to `limit` due responses of `kind`, longest due first."""
        rows = await self._database.single("claim_responses", response_query("claim_responses", kind), owner, limit)
        claimed, bad = _decoded(kind, sorted(rows, key=lambda row: (row["due_at"], row["created_at"])))
        if bad:
            await self._database.run("quarantine_rows", lambda session: _quarantine(session, kind, owner, bad))
        return claimed

    async def leased_responses(self, kind: Kind, owner: int) -> Sequence[int]:
        """Ids of the responses of `kind` under process that `owner` holds."""
        rows = await self._database.single("leased_responses", response_query("leased_responses", kind), owner)
        return [from_db(row["id"]) for row in rows]

    async def load_responses(self, keys: Sequence[Key]) -> Sequence[ClaimedResponse]:
        """Responses by key whatever their state; missing ones, and ones that cannot be decoded, are left out."""
        found: dict[Key, ClaimedResponse] = {}
        for kind, indexes in by_kind(keys, lambda key: key[0]).items():
            ids = [to_db(keys[index][1]) for index in indexes]
            rows = await self._database.single("load_responses", response_query("load_responses", kind), ids)
            found.update({(kind, one.id): one for one in _decoded(kind, rows)[0]})
        return [found[key] for key in keys if key in found]

    async def load_requests(self, keys: Sequence[Key]) -> Sequence[Any]:
        """What each response answers, as the event's record; None where that is gone or cannot be decoded."""
        found: dict[Key, Any] = {}
        for kind, indexes in by_kind(keys, lambda key: key[0]).items():
            ids = [to_db(keys[index][1]) for index in indexes]
            for row in await self._database.single("load_requests", request_query("load_requests", kind), ids):
                row_id = from_db(row["id"])
                found[kind, row_id] = event_of(kind, row_id, row)[0]
        return [found.get(key) for key in keys]

    async def lease_responses(self, keys: Sequence[Key], owner: int) -> Sequence[bool]:
        """Take over the leases of responses that are neither completed nor failed."""
        return await self._lease("lease_responses", keys, owner)

    async def reopen_responses(self, keys: Sequence[Key], owner: int) -> Sequence[bool]:
        """Lease completed responses again, and those that this owner has reopened already."""
        return await self._lease("reopen_responses", keys, owner)

    async def _lease(self, verb: str, keys: Sequence[Key], owner: int) -> Sequence[bool]:
        grouped = by_kind(keys, lambda key: key[0])

        async def work(session: Session) -> list[bool]:
            applied = [False] * len(keys)
            for kind, indexes in grouped.items():
                ids = [to_db(keys[index][1]) for index in indexes]
                mark(applied, indexes, await session.fetch(response_query(verb, kind), ids, owner))
            return applied

        return await self._database.run(verb, work) if keys else []

    async def settle_responses(self, outcomes: Sequence[ResponseOutcome]) -> Sequence[bool]:
        """Ends of tries at sending."""
        if not outcomes:
            return []
        return await self._database.run("settle_responses", lambda session: settle(session, outcomes))


async def settle(session: Session, outcomes: Sequence[ResponseOutcome]) -> list[bool]:
    """Write outcomes inside the caller's transaction; True for each that applied."""
    applied = [False] * len(outcomes)
    for kind, indexes in by_kind(outcomes, lambda outcome: outcome.lease.kind).items():
        part = [outcomes[index] for index in indexes]
        rows = await session.fetch(
            response_query("settle_responses", kind),
            [to_db(outcome.lease.id) for outcome in part],
            [outcome.lease.owner for outcome in part],
            [outcome.fate.value for outcome in part],
            [_words(outcome) for outcome in part],
            [outcome.delay for outcome in part],
            [outcome.counted for outcome in part],
            [outcome.tx_hash for outcome in part],
        )
        mark(applied, indexes, rows)
    return applied


def _words(outcome: ResponseOutcome) -> str | None:
    if outcome.last_error is None:
        return "the transaction failed" if outcome.fate is ResponseFate.FAILED else None
    return outcome.last_error[:MAX_WORDS]


def _decoded(kind: Kind, rows: Sequence[Row]) -> tuple[list[ClaimedResponse], list[tuple[bytes, str]]]:
    claimed: list[ClaimedResponse] = []
    bad: list[tuple[bytes, str]] = []
    table = RESPONSE_TABLES[kind]
    for row in rows:
        try:
            claimed.append(
                ClaimedResponse(
                    kind=kind,
                    id=from_db(row["id"]),
                    fields=table.decode(row),
                    created_at=row["created_at"],
                    otlp_context=row["otlp_context"],
                    attempts=row["attempts"],
                    error_counter=row["error_counter"],
                    budget_age=row["budget_age"],
                    lease=row["lease_owner"] or 0,
                )
            )
        except (WireError, KeyError, TypeError, ValueError) as error:
            bad.append((row["id"], f"the row cannot be decoded: {error}"))
    return claimed, bad


async def _quarantine(session: Session, kind: Kind, owner: int, bad: Sequence[tuple[bytes, str]]) -> None:
    for key, words in bad:
        log.error("response of %s, row %s: %s; it is in quarantine", kind.value, key.hex(), words)
        await session.fetch(response_query("quarantine_row", kind), key, owner, words[:MAX_WORDS])
