"""What the committee agreed on, in the simulated database (decisions.md 33 and 34)."""

from kmsd.operations.kinds import Kind
from kmsd.ports import ChainFact
from kmsd.store.divergence import value_of
from kmsd.store.tables import PUBLIC_DECRYPTION_FACT

from .rows import Database

OBJECTS = {"ActivateKey": "key", "ActivateCrs": "crs"}
FACT_OF = {Kind.KEYGEN: "ActivateKey", Kind.CRSGEN: "ActivateCrs"}
KIND_OF = {name: kind for kind, name in FACT_OF.items()}


def record_fact(db: Database, fact: ChainFact) -> None:
    """Keep what was agreed, activate what it activates, compare with ours."""
    value = value_of(fact)
    if fact.name == PUBLIC_DECRYPTION_FACT:
        ours = db.responses.get((Kind.PUBLIC_DECRYPTION, fact.id))
        if ours is None:
            db.facts.setdefault((fact.name, fact.id), (value, fact.block_number))
        elif ours.fields["decrypted_result"] != value:
            db.divergences.setdefault((Kind.PUBLIC_DECRYPTION, fact.id), (ours.fields["decrypted_result"], value))
        return
    db.facts[fact.name, fact.id] = (value, fact.block_number)
    db.keys[OBJECTS[fact.name], fact.id] = "active"
    compare_ceremony(db, KIND_OF[fact.name], fact.id)


def compare_decryption(db: Database, decryption_id: int) -> None:
    """An agreed result that came before ours."""
    fact = db.facts.pop((PUBLIC_DECRYPTION_FACT, decryption_id), None)
    ours = db.responses.get((Kind.PUBLIC_DECRYPTION, decryption_id))
    if fact is not None and ours is not None and ours.fields["decrypted_result"] != fact[0]:
        db.divergences.setdefault((Kind.PUBLIC_DECRYPTION, decryption_id), (ours.fields["decrypted_result"], fact[0]))


def compare_ceremony(db: Database, kind: Kind, object_id: int) -> None:
    """Our key or CRS with the activated one, as far as both are known."""
    fact = db.facts.get((FACT_OF.get(kind, ""), object_id))
    response = db.responses.get((kind, object_id))
    if fact is None or response is None:
        return
    if kind is Kind.CRSGEN:
        ours = bytes(response.fields["crs_digest"])
    else:
        ours = b"".join(sorted(bytes([int(part[0])]) + part[1] for part in response.fields["key_digests"]))
    if ours != fact[0]:
        db.divergences.setdefault((kind, object_id), (ours, fact[0]))
