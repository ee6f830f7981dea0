"""Finished decryptions leave the tables, their ids do not (QU9; decisions.md 6)."""

from kmsd.operations.table import DECRYPTIONS
from kmsd.store.connections import Session
from kmsd.store.part import Part
from kmsd.store.sql import query
from kmsd.store.tables import response_query


class Retention(Part):
    """The verb `expire`."""

    async def expire(self, *, finished_after: float, failed_after: float, limit: int) -> int:
        """Delete up to `limit` decryptions past their retention, remembering their ids; how many requests went.

        Ids whose counter does not fit into 63 bits cannot be remembered and stay. What kmsd keeps about requests (its
        journal, rejected results, facts, withdrawn rows, resolved quarantine) goes with them, or by age.
        """

        async def work(session: Session) -> int:
            await session.fetch(query("retention_lock"))
            gone = 0
            for kind in DECRYPTIONS:
                if gone < limit:
                    gone += await session.value(
                        response_query("expire", kind), finished_after, failed_after, limit - gone
                    )
            return gone

        async def keepsakes(session: Session) -> None:
            await session.fetch(query("expire_facts"), finished_after)
            for name in ("expire_withdrawn", "expire_quarantine", "expire_rejected", "expire_fillers"):
                await session.fetch(query(name), failed_after)

        gone = await self._database.run("expire", work)
        if gone < limit:
            await self._database.run("expire_keepsakes", keepsakes)
        return gone
