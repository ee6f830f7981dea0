"""What the committee agreed on: results, activations of keys and CRSs (decisions.md 33 and 34)."""

from collections.abc import Sequence

from kmsd.operations.kinds import Kind
from kmsd.ports import ChainFact
from kmsd.store.connections import Session
from kmsd.store.divergence import compare_fact, value_of
from kmsd.store.keys import activate
from kmsd.store.recording import Tally
from kmsd.store.sql import query
from kmsd.store.tables import PUBLIC_DECRYPTION_FACT
from kmsd.wire.ids import from_db, to_db

_OBJECTS = {"ActivateKey": "key", "ActivateCrs": "crs"}


async def record_facts(session: Session, facts: Sequence[ChainFact], tally: Tally) -> None:
    """Store what the committee agreed on inside the caller's transaction."""
    decryptions = list({f.id: f for f in facts if f.name == PUBLIC_DECRYPTION_FACT}.values())
    if decryptions:
        rows = await session.fetch(
            query("add_decryption_facts"),
            [to_db(fact.id) for fact in decryptions],
            [value_of(fact) for fact in decryptions],
            [fact.block_number for fact in decryptions],
            [fact.block_hash for fact in decryptions],
            [fact.log_index for fact in decryptions],
        )
        tally.diverging += [(Kind.PUBLIC_DECRYPTION, from_db(row["id"])) for row in rows]
    for fact in facts:
        if fact.name not in _OBJECTS:
            continue
        await session.fetch(
            query("add_facts"),
            [fact.name],
            [to_db(fact.id)],
            [value_of(fact)],
            [fact.block_number],
            [fact.block_hash],
            [fact.log_index],
        )
        await activate(
            session,
            _OBJECTS[fact.name],
            fact.id,
            f"{fact.name} in block {fact.block_number}",
            block_number=fact.block_number,
            storage_urls=fact.event.kms_node_storage_urls,
        )
        tally.diverging += await compare_fact(session, fact)
