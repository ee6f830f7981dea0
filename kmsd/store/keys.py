"""The registry of keys as the worker asks it (decisions.md 33)."""

from collections.abc import Mapping, Sequence
from typing import Any

from kmsd.operations.key_states import STATES
from kmsd.ports import KeyAllowance
from kmsd.store.connections import Session
from kmsd.store.part import Part
from kmsd.store.sql import query
from kmsd.store.tables import key_digests_from
from kmsd.wire.ids import to_db

ALLOWED: Mapping[str, KeyAllowance] = {state.value: rule.allows for state, rule in STATES.items()}
"""What each state allows, by the words under which it is stored."""


async def activate(
    session: Session,
    kind: str,
    object_id: int,
    reason: str,
    *,
    block_number: int | None = None,
    storage_urls: Sequence[str] | None = None,
) -> None:
    """The chain activated a key ("key") or CRS ("crs"); a state that the operator set stays."""
    key = to_db(object_id)
    row = await session.row(query("lock_key"), kind, key)
    before = row["state"] if row is not None else None
    await session.fetch(
        query("activate_object"),
        kind,
        key,
        reason,
        block_number,
        list(storage_urls) if storage_urls is not None else None,
    )
    if row is None or not row["by_operator"]:
        await session.fetch(query("note_key_change"), kind, key, before, "active", reason, "chain")


class Keys(Part):
    """What is known of keys."""

    async def key_digests(self, key_id: int) -> Sequence[Any]:
        """Digests of a key that was generated here, in signed order; empty if it was not."""
        rows = await self._database.single("key_digests", query("key_digests"), to_db(key_id))
        return key_digests_from(rows[0]["key_digests"]) if rows else ()

    async def key_allowance(self, key_id: int) -> KeyAllowance:
        """What is allowed under a key. One that is generated here and not activated yet allows nothing, one that nobody
        here knows everything: the Gateway itself asks for it."""
        (row,) = await self._database.single("key_allowance", query("key_state"), "key", to_db(key_id))
        if row["state"] is not None:
            return ALLOWED[row["state"]]
        return KeyAllowance.NOTHING if row["generated_here"] else KeyAllowance.ALL

    async def key_activated(self, key_id: int, reason: str) -> None:
        """The contract gives this key's materials: it is active unless the operator says otherwise."""
        await self._database.run("key_activated", lambda session: activate(session, "key", key_id, reason))

    async def keygen_was_sent(self, prep_keygen_id: int) -> bool:
        """True once a keygen used up this preparation."""
        rows = await self._database.single("keygen_was_sent", query("keygen_was_sent"), to_db(prep_keygen_id))
        return bool(rows[0][0])

    async def prep_keygen_known(self, prep_keygen_id: int) -> bool:
        """True when there is a preparation of that id here."""
        rows = await self._database.single("prep_keygen_known", query("prep_keygen_known"), to_db(prep_keygen_id))
        return bool(rows[0][0])
