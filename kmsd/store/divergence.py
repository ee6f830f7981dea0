"""Our answers against what the committee agreed on (decisions.md 34).

A Core with a wrong key gives a signed, wrong plaintext without any error; the chain can show it.
"""

from typing import Any

from kmsd.operations.kinds import Kind
from kmsd.ports import ChainFact
from kmsd.store.connections import Session
from kmsd.store.sql import query
from kmsd.store.tables import KEY_TYPES, PUBLIC_DECRYPTION_FACT
from kmsd.wire.ids import from_db, to_db
from kmsd.wire.v0_11.structs import KeyType

_FACT_OF = {Kind.KEYGEN: "ActivateKey", Kind.CRSGEN: "ActivateCrs"}
_KIND_OF = {name: kind for kind, name in _FACT_OF.items()}
_TYPE_BYTES = {text: bytes([value]) for value, text in KEY_TYPES.items()}

Key = tuple[Kind, int]


def value_of(fact: ChainFact) -> bytes:
    """What our own answer must equal."""
    event: Any = fact.event
    if fact.name == PUBLIC_DECRYPTION_FACT:
        return bytes(event.decrypted_result)
    if fact.name == "ActivateCrs":
        return bytes(event.crs_digest)
    return _digests((KEY_TYPES[KeyType(key_type)], digest) for key_type, digest in event.key_digests)


async def compare_ceremony(session: Session, kind: Kind, key: bytes) -> list[Key]:
    """Compare our key or CRS with the activated one, as far as both are known; itself if it differs, newly found."""
    name = _FACT_OF.get(kind)
    if name is None:
        return []
    fact = await session.row(query("chain_fact"), name, key)
    ours = await _ours(session, kind, key)
    if fact is None or ours is None or fact["value"] == ours:
        return []
    found = await session.fetch(query("add_divergence"), kind.value, key, ours, fact["value"], fact["block_number"])
    return [(kind, from_db(key))] if found else []


async def compare_fact(session: Session, fact: ChainFact) -> list[Key]:
    """The same, when the activation is heard of."""
    return await compare_ceremony(session, _KIND_OF[fact.name], to_db(fact.id))


async def _ours(session: Session, kind: Kind, key: bytes) -> bytes | None:
    if kind is Kind.CRSGEN:
        digest: bytes | None = await session.value(query("crs_digest"), key)
        return digest
    digests = await session.value(query("key_digests"), key)
    return None if digests is None else _digests((item[0], item[1]) for item in digests)


def _digests(parts: Any) -> bytes:
    return b"".join(sorted(_TYPE_BYTES[key_type] + bytes(digest) for key_type, digest in parts))
