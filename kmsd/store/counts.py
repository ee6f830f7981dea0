"""Counts and lists: for gauges, commands and `--once`."""

from collections.abc import Mapping, Sequence

from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES
from kmsd.ports import Backlog, Listed, QueueCount
from kmsd.store.connections import Session
from kmsd.store.owners import all_tables
from kmsd.store.part import Part
from kmsd.store.sql import query
from kmsd.store.tables import request_query, table_query
from kmsd.wire.ids import from_db


class Counts(Part):
    """What is in the tables."""

    async def open_requests(self) -> Mapping[tuple[Kind, bool], int]:
        """Rows neither completed nor failed, where there are any."""

        async def work(session: Session) -> dict[tuple[Kind, bool], int]:
            found = {}
            for _, kind, is_response in all_tables():
                rows = await session.value(table_query("count_open", kind, is_response=is_response))
                if rows:
                    found[kind, is_response] = rows
            return found

        return await self._database.run("open_requests", work)

    async def listed(self, statuses: Sequence[str], *, changed_after: float, limit: int) -> Sequence[Listed]:
        """Rows in one of `statuses` that changed at or after the instant, oldest change first."""

        async def work(session: Session) -> list[tuple[float, Listed]]:
            found = []
            for _, kind, is_response in all_tables():
                sql = table_query("listed", kind, is_response=is_response)
                for row in await session.fetch(sql, list(statuses), changed_after, limit):
                    if len(row["id"]) == 32:
                        listed = Listed(kind, from_db(row["id"]), is_response, row["status"], row["last_error"])
                        found.append((row["changed_at"], listed))
            return found

        found = await self._database.run("listed", work)
        return [listed for _, listed in sorted(found, key=lambda pair: pair[0])[:limit]]

    async def backlog(self) -> Backlog:
        """Counts and ages of all unfinished rows, read from partial indexes."""

        async def work(session: Session) -> Backlog:
            counts = [
                QueueCount(kind, is_response, row["status"], row["rows"], max(0.0, row["oldest_age"]))
                for _, kind, is_response in all_tables()
                for row in await session.fetch(table_query("backlog", kind, is_response=is_response))
            ]
            unconfirmed = [await session.value(request_query("count_unconfirmed", kind)) for kind in CEREMONIES]
            return Backlog(counts, await session.value(query("count_quarantined")), sum(unconfirmed))

        return await self._database.run("backlog", work)
