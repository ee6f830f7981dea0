"""Claims of ceremonies: chain order, one send at a time per Core across daemons (QU4; decisions.md 12 and 16).

Which of the waiting ones may go is a pure function; the rest takes the locks and writes the leases.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import attrs

from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES
from kmsd.ports import CeremonyRoute, Claimed
from kmsd.store.connections import Session
from kmsd.store.part import Part
from kmsd.store.queue import Queue, quarantine
from kmsd.store.sql import query
from kmsd.store.tables import request_query
from kmsd.wire.ids import from_db, short, to_db

log = logging.getLogger("kmsd.store")

Key = tuple[Kind, int]


@attrs.frozen
class Ceremony:
    """What decides the turn of an unfinished ceremony. `due`: pending, and not in back-off."""

    kind: Kind
    id: int
    status: str
    already_sent: bool
    due: bool
    unconfirmed: bool
    block_number: int | None
    log_index: int | None
    created_at: float
    core_shard: str | None = None
    lease_owner: int | None = None
    last_error: str | None = None

    @property
    def place(self) -> tuple[int, int, float]:
        """Its place in chain order; rows without a block (of the Rust connector) come first, by age."""
        return (
            self.block_number if self.block_number is not None else -1,
            self.log_index if self.log_index is not None else -1,
            self.created_at,
        )


@attrs.frozen
class Preparations:
    """What is known of preparations: `of_keygen` by key id, `known` here, `answered` with a stored result, `used` by a
    keygen that was sent."""

    of_keygen: Mapping[int, int]
    known: frozenset[int]
    answered: frozenset[int]
    used: frozenset[int]


@attrs.frozen
class Turn:
    """A ceremony whose turn it is, and the Core that it goes to."""

    ceremony: Ceremony
    core: str


@attrs.frozen
class Turns:
    """Who may go now: some to be polled, at most one per free Core to be sent; and why others, though due, may not."""

    polls: Sequence[Turn]
    sends: Sequence[Turn]
    held_back: Mapping[Key, str]


def decide(
    ceremonies: Iterable[Ceremony],
    preparations: Preparations,
    busy: Iterable[str],
    route: CeremonyRoute,
    limit: int,
) -> Turns:
    """Whose turn it is. `busy` are Cores to which one is being sent just now.

    Sent ones are polled side by side. Of those to be sent, the first in chain order goes, per Core; PRSS before all,
    because until the Core has it, it can do nothing else. What is in back-off, unconfirmed, or waits for its
    preparation holds nobody up.
    """
    taken = dict.fromkeys(busy)
    polls: list[Turn] = []
    sends: list[Turn] = []
    held_back: dict[Key, str] = {}
    ready = [c for c in ceremonies if c.due and not c.unconfirmed]
    for c in sorted(ready, key=lambda c: (c.kind is not Kind.PRSS_INIT, c.place)):
        if len(polls) + len(sends) >= limit:
            break
        preparation = preparations.of_keygen.get(c.id) if c.kind is Kind.KEYGEN else None
        core = route(c.kind, c.id, preparation, c.core_shard)
        if c.already_sent:
            polls.append(Turn(c, core))
        elif (why := _obstacle(c, preparation, preparations)) is not None:
            held_back[c.kind, c.id] = why
        elif core not in taken:
            taken[core] = None
            sends.append(Turn(c, core))
    return Turns(polls, sends, held_back)


def _obstacle(ceremony: Ceremony, preparation: int | None, preparations: Preparations) -> str | None:
    if ceremony.kind is Kind.KEYGEN and preparation in preparations.known and preparation not in preparations.answered:
        assert preparation is not None
        return f"waits for the result of its preparation {short(preparation)}"
    if ceremony.kind is Kind.PREP_KEYGEN and ceremony.id in preparations.used:
        return "not sent again: its keygen was sent, which uses the preparation up"
    return None


class Ceremonies(Part):
    """The verb `claim_ceremonies`."""

    async def claim_ceremonies(self, owner: int, route: CeremonyRoute, limit: int) -> Sequence[Claimed]:
        """Lease sent ceremonies to poll, and per Core the first unsent one with its slot.

        `core_shard` of an unsent one is the Core whose slot it has.
        """

        async def work(session: Session) -> list[Claimed]:
            await session.fetch(query("ceremony_lock"))
            ceremonies = await _unfinished(session)
            if not any(one.due for one in ceremonies):
                return []
            busy = await _busy(session, ceremonies)
            turns = decide(ceremonies, await _preparations(session), busy, route, limit)
            claimed: list[Claimed] = []
            for turn in (*turns.sends, *turns.polls):
                claimed += await _lease(session, turn, owner)
            words = {(one.kind, one.id): one.last_error for one in ceremonies}
            for key, why in turns.held_back.items():
                if words[key] != why:
                    await session.fetch(request_query("explain_waiting", key[0]), to_db(key[1]), why)
            return claimed

        return await self._database.run("claim_ceremonies", work)


async def _unfinished(session: Session) -> list[Ceremony]:
    return [
        Ceremony(
            kind=kind,
            id=from_db(row["id"]),
            status=row["status"],
            already_sent=row["already_sent"],
            due=row["due"],
            unconfirmed=row["unconfirmed"],
            block_number=row["block_number"],
            log_index=row["log_index"],
            created_at=row["created_at"],
            core_shard=row["core_shard"],
            lease_owner=row["lease_owner"],
            last_error=row["last_error"],
        )
        for kind in CEREMONIES
        for row in await session.fetch(request_query("unfinished_ceremonies", kind))
        if len(row["id"]) == 32
    ]


async def _busy(session: Session, ceremonies: Iterable[Ceremony]) -> list[str]:
    """Cores to which a ceremony is being sent: its row must still be leased by the one that took the slot."""
    sending = {
        (one.kind.value, to_db(one.id), one.lease_owner)
        for one in ceremonies
        if one.status == "under_process" and not one.already_sent
    }
    slots = await session.fetch(query("ceremony_slots"))
    return [slot["core"] for slot in slots if (slot["kind"], slot["id"], slot["owner"]) in sending]


async def _preparations(session: Session) -> Preparations:
    rows = await session.fetch(query("keygens_of_preparations"))
    return Preparations(
        of_keygen={from_db(row["key_id"]): from_db(row["prep_keygen_id"]) for row in rows},
        known=frozenset(from_db(row["prep_keygen_id"]) for row in rows if row["known"]),
        answered=frozenset(from_db(row["prep_keygen_id"]) for row in rows if row["answered"]),
        used=frozenset(from_db(row["prep_keygen_id"]) for row in rows if row["keygen_sent"]),
    )


async def _lease(session: Session, turn: Turn, owner: int) -> list[Claimed]:
    kind, key = turn.ceremony.kind, to_db(turn.ceremony.id)
    # A sent one keeps the Core that has it, even if that left the configuration: its owner decides.
    core = turn.ceremony.core_shard if turn.ceremony.already_sent else turn.core
    rows = await session.fetch(request_query("lease_ceremony", kind), key, owner, core)
    claimed, bad = Queue.decoded(kind, rows, owner)
    if bad:
        await quarantine(session, kind, owner, bad)
    elif claimed and not turn.ceremony.already_sent:
        await session.fetch(query("take_slot"), turn.core, kind.value, key, owner)
    return claimed
