"""`ports.Store` of one life over the simulated database: connections, owners, the worker's verbs, counts.

Every verb is one transaction: its effect happens at one instant, whole or not at all, and its answer may be lost. The
rules are those of sql/queries; `test_sim_store_twins.py` holds both against each other.
"""

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES, DECRYPTIONS
from kmsd.ports import (
    Answered,
    Backlog,
    CeremonyRoute,
    Claimed,
    DependencyDown,
    Failed,
    Finished,
    Identity,
    IdentityMismatch,
    KeyAllowance,
    Lease,
    Listed,
    OwnerCount,
    QueueCount,
    RejectedResult,
    Sent,
    TryAgain,
    Wake,
)
from kmsd.store.ceremonies import Ceremony, Preparations, decide
from kmsd.store.keys import ALLOWED
from kmsd.store.owners import DEAD_AFTER, SETTLING
from kmsd.store.queue import EARLIER_MEANING, MAX_WORDS

from .lives import Life, Link
from .rows import Database, Owner, Request, Response, Row
from .store_facts import compare_ceremony, compare_decryption

T = TypeVar("T")
TIMEOUT = 15.0
"""Seconds of patience with one statement."""


class Wakes:
    """Who listens for notifications. Only other backends' commits are heard; some get lost."""

    def __init__(self) -> None:
        self._listeners: dict[Life, trio.MemorySendChannel[Wake]] = {}

    def tell(self, writer: Life | None, wakes: Sequence[Wake]) -> None:
        """A commit of `writer`."""
        for life, send in list(self._listeners.items()):
            if life is writer:
                continue
            for wake in dict.fromkeys(wakes):
                try:
                    send.send_nowait(wake)
                except (trio.WouldBlock, trio.BrokenResourceError):
                    pass

    def open(self, life: Life) -> trio.MemoryReceiveChannel[Wake]:
        """Listen."""
        send, receive = trio.open_memory_channel[Wake](64)
        self._listeners[life] = send
        return receive

    def close(self, life: Life) -> None:
        """Listen no more."""
        send = self._listeners.pop(life, None)
        if send is not None:
            send.close()

    def cut(self) -> None:
        """All connections end."""
        for life in list(self._listeners):
            self.close(life)


class UniqueViolation(Exception):
    """What Postgres says of a second row where there may be one."""


class Session:
    """A connection that holds a lock: alive until its server side notices that it is not."""

    def __init__(self) -> None:
        self.alive = True


class StoreBase:
    """Connections and transactions."""

    def __init__(self, database: Database, link: Link, life: Life, wakes: Wakes) -> None:
        self.db = database
        self._link = link
        self._life = life
        self._wakes = wakes
        self._answering_since: float | None = None
        self._noise: list[Wake] = []

    async def run(self, verb: str, work: Callable[[float], T], *, write: bool = True) -> T:
        """`work(now)` as one transaction."""
        noise: list[Wake] = []

        def commit() -> T:
            self._noise = noise
            result = work(self.db.clock())
            self._wakes.tell(self._life, noise)
            return result

        try:
            result = await self._link.exchange(self._life, f"db.{verb}", commit, deadline=TIMEOUT, write=write)
        except DependencyDown:
            self._answering_since = None
            raise
        if self._answering_since is None:
            self._answering_since = trio.current_time()
        return result

    async def read(self, verb: str, work: Callable[[float], T]) -> T:
        """`work(now)`, which changes nothing."""
        return await self.run(verb, work, write=False)

    def notify(self, kind: Kind, *, is_response: bool) -> None:
        """The running transaction says, when it commits, that there are rows."""
        self._noise.append(Wake(kind, is_response))


class Owners(StoreBase):
    """The verbs of a daemon's life on the database."""

    _presence: Session | None = None
    _name: str = ""

    async def adopt(self, identity: Identity) -> None:
        """Record or compare whose database this is."""

        def work(now: float) -> None:
            self.db.identity = self.db.identity or identity
            if self.db.identity != identity:
                raise IdentityMismatch("the database belongs to another network")

        await self.run("adopt", work)

    async def enrol(self, instance_name: str, roles: Sequence[str]) -> int:
        """A new epoch; earlier selves' rows back to the queue, if the name is free."""

        def work(now: float) -> int:
            self.db.last_epoch += 1
            epoch = self.db.last_epoch
            self.db.owners[epoch] = Owner(instance_name, now)
            self._connect(instance_name)
            self._succeed(epoch)
            return epoch

        return await self.run("enrol", work)

    async def beat(self, owner: int) -> bool:
        """Heartbeat."""

        def work(now: float) -> bool:
            known = self.db.owners.get(owner)
            if known is None:
                return False
            known.heartbeat_at = now
            self._connect(known.name)
            if self.db.names.get(known.name) is not self._presence:
                self._succeed(owner)
            return True

        return await self.run("beat", work)

    def _connect(self, name: str) -> None:
        if self._presence is not None and name != self._name:
            self._close(self._presence, self._name)
        if self._presence is None or not self._presence.alive:
            self._presence, self._name = Session(), name
            presence = self._presence
            self._life.on_death.append(lambda: self._close(presence, name))

    def _close(self, presence: Session, name: str) -> None:
        presence.alive = False
        if self.db.names.get(name) is presence:
            del self.db.names[name]

    def _succeed(self, epoch: int) -> None:
        holder = self.db.names.get(self._name)
        if holder is not None and holder is not self._presence:
            return
        self.db.names[self._name] = self._presence
        earlier = [n for n, owner in self.db.owners.items() if owner.name == self._name and n < epoch]
        if earlier:
            self.release(earlier)

    async def leave(self, owner: int) -> int:
        """Give back every lease of `owner` and remove it."""
        rows = await self.run("leave", lambda now: sum(count.rows for count in self.release([owner])))
        if self._presence is not None:
            self._close(self._presence, self._name)
        return rows

    async def reclaim(self, *, unowned_after: float) -> Sequence[OwnerCount]:
        """Rows of the dead, and of nobody, back to the queue."""
        since = self._answering_since
        settled = since is not None and trio.current_time() - since >= SETTLING

        def work(now: float) -> list[OwnerCount]:
            counts: list[OwnerCount] = []
            if settled:
                silent = [n for n, owner in self.db.owners.items() if owner.heartbeat_at < now - DEAD_AFTER]
                if silent:
                    counts += self.release(silent)
            if unowned_after < math.inf:
                rows_of_all = [
                    row for _, kind, is_response in self.db.tables() for row in self.db.table(kind, is_response)
                ]
                holders = {row.owner for row in rows_of_all if row.status == "under_process" and row.owner is not None}
                if lost := sorted(holders - self.db.owners.keys()):
                    counts += self.release(lost)
            for name, kind, is_response in self.db.tables():
                rows = [
                    row
                    for row in self.db.table(kind, is_response)
                    if row.status == "under_process" and row.owner is None and row.updated_at < now - unowned_after
                ]
                for row in rows:
                    self.db.change("reclaim", None, row, status="pending")
                if rows:
                    counts.append(OwnerCount(None, name, len(rows)))
            return counts

        return await self.run("reclaim", work)

    def release(self, owners: Sequence[int]) -> list[OwnerCount]:
        """Everything that these owners held goes back, and they are gone."""
        db, counts = self.db, []
        for name, kind, is_response in db.tables():
            found: dict[int, int] = {}
            for row in db.table(kind, is_response):
                if row.status == "under_process" and row.owner in owners:
                    assert row.owner is not None
                    found[row.owner] = found.get(row.owner, 0) + 1
                    db.change("release", row.owner, row, status="pending", owner=None)
            counts += [OwnerCount(owner, name, rows) for owner, rows in sorted(found.items())]
        now = db.clock()
        for request in list(db.requests.values()):
            if request.stale_owner is not None and request.stale_owner in owners:
                db.change("release_stale", None, request, stale_owner=None, due=now)
        db.withdrawn = [attrs.evolve(w, owner=None) if w.owner in owners else w for w in db.withdrawn]
        db.slots = {core: slot for core, slot in db.slots.items() if slot[2] not in owners}
        for owner in owners:
            db.owners.pop(owner, None)
        return counts

    async def expire(self, *, finished_after: float, failed_after: float, limit: int) -> int:
        """Finished decryptions past their retention go; their ids are remembered."""

        def work(now: float) -> int:
            gone = 0
            for kind in DECRYPTIONS:
                for request in list(self.db.table(kind, False)):
                    response = self.db.responses.get(request.key)
                    if gone < limit and _is_old(request, response, now, finished_after, failed_after):
                        gone += 1
                        self.db.finished[request.key] = None
                        self.db.remove("expire", request)
                        if response is not None:
                            self.db.remove("expire", response)
            return gone

        return await self.run("expire", work)

    @asynccontextmanager
    async def wakes(self) -> AsyncIterator[AsyncIterator[Wake]]:
        """Notifications of other lives; each kind once at the beginning."""
        await self.run("listen", lambda now: None, write=False)
        receive = self._wakes.open(self._life)

        async def heard() -> AsyncIterator[Wake]:
            for _, kind, is_response in self.db.tables():
                yield Wake(kind, is_response)
            async for wake in receive:
                yield wake
            raise DependencyDown("database", "the connection for notifications ended")

        wakes = heard()
        try:
            yield wakes
        finally:
            self._wakes.close(self._life)
            await wakes.aclose()  # type: ignore[attr-defined]


def _is_old(request: Row, response: Row | None, now: float, finished_after: float, failed_after: float) -> bool:
    if request.status == "completed" and request.updated_at < now - finished_after:
        return response is None or (
            (response.status == "completed" and response.updated_at < now - finished_after)
            or (response.status == "failed" and response.updated_at < now - failed_after)
        )
    if request.status == "failed" and request.updated_at < now - failed_after:
        return response is None or response.status not in ("pending", "under_process")
    return False


class WorkerVerbs(Owners):
    """Claims and transitions of requests."""

    async def claim(self, kind: Kind, owner: int, limit: int) -> Sequence[Claimed]:
        """Lease due requests, longest due first."""

        def work(now: float) -> list[Claimed]:
            rows = [row for row in self.db.requests.values() if row.kind is kind and row.status == "pending"]
            due = sorted((row for row in rows if row.due <= now), key=lambda row: (row.due, row.created_at))
            return [self._lease("claim", row, owner).claimed(now) for row in due[:limit]]

        return await self.run(f"claim.{kind.value}", work)

    def _lease(self, verb: str, row: Request, owner: int, **more: Any) -> Request:
        return self.db.change(verb, owner, row, status="under_process", owner=owner, attempts=row.attempts + 1, **more)

    async def claim_ceremonies(self, owner: int, route: CeremonyRoute, limit: int) -> Sequence[Claimed]:
        """Lease whose turn it is; the decision itself is kmsd's own."""

        def work(now: float) -> list[Claimed]:
            db = self.db
            rows = {
                row.key: row
                for row in db.requests.values()
                if row.kind in CEREMONIES and row.status in ("pending", "under_process")
            }
            ceremonies = [_ceremony(row, now) for row in rows.values()]
            if not any(one.due for one in ceremonies):
                return []
            sending = {
                (one.kind, one.id, one.lease_owner)
                for one in ceremonies
                if one.status == "under_process" and not one.already_sent
            }
            busy = [core for core, slot in db.slots.items() if slot in sending]
            turns = decide(ceremonies, self._preparations(), busy, route, limit)
            claimed = []
            for turn in (*turns.sends, *turns.polls):
                row = rows[turn.ceremony.kind, turn.ceremony.id]
                core = row.core_shard if row.already_sent else turn.core
                leased = self._lease("claim", row, owner, core_shard=core)
                claimed.append(leased.claimed(now))
                if not row.already_sent:
                    if any(slot[:2] == row.key for core, slot in db.slots.items() if core != turn.core):
                        raise UniqueViolation(f"kmsd_ceremony holds {row.kind} {row.id} already")
                    db.slots[turn.core] = (*row.key, owner)
            for key, why in turns.held_back.items():
                if rows[key].last_error != why:
                    db.change("explain", None, rows[key], last_error=why)
            return claimed

        return await self.run("claim_ceremonies", work)

    def _preparations(self) -> Preparations:
        db = self.db
        keygens = [row for row in db.requests.values() if row.kind is Kind.KEYGEN]
        of_keygen = {row.id: row.event.prep_keygen_id for row in keygens}
        asked = frozenset(of_keygen.values())
        return Preparations(
            of_keygen=of_keygen,
            known=frozenset(one for one in asked if (Kind.PREP_KEYGEN, one) in db.requests),
            answered=frozenset(one for one in asked if (Kind.PREP_KEYGEN, one) in db.responses),
            used=frozenset(row.event.prep_keygen_id for row in keygens if _keygen_used(row)),
        )

    async def leased(self, kind: Kind, owner: int) -> Sequence[int]:
        """Requests that wait for a task of `owner`, also for one that had them before a reorganisation."""

        def work(now: float) -> list[int]:
            held = [row.id for row in self.db.requests.values() if row.kind is kind and _waits_for(row, owner)]
            held += [w.key[1] for w in self.db.withdrawn if w.key[0] is kind and w.owner == owner]
            return list(dict.fromkeys(held))

        return await self.read("leased", work)

    async def sent(self, items: Sequence[Sent]) -> Sequence[bool]:
        """The Core took them; a ceremony's slot is free."""

        def work(now: float) -> list[bool]:
            applied = []
            for item in items:
                row = self._mine(item.lease)
                applied.append(row is not None)
                if row is not None:
                    refusal = None if item.fresh else row.refusal
                    self.db.change(
                        "sent", item.lease.owner, row, already_sent=True, core_shard=item.core_shard, refusal=refusal
                    )
                else:
                    self._end_stale(item.lease, taken=True, ended=False)
                self._free_slot(item.lease)
            return applied

        return await self.run("sent", work)

    async def answered(self, items: Sequence[Answered]) -> Sequence[bool]:
        """Responses and the completion of their requests, together."""

        def work(now: float) -> list[bool]:
            return [self._answer(item, now) for item in items]

        return await self.run("answered", work)

    def _answer(self, item: Answered, now: float) -> bool:
        lease, db = item.lease, self.db
        applied = self._complete("answered", lease, item.note)
        if applied:
            there = db.responses.get((lease.kind, lease.id))
            if there is None or there.status == "failed":
                created = item.created_at if there is None else there.created_at
                fresh = Response(
                    lease.kind, lease.id, dict(item.fields), item.otlp_context, created, now, now, updated_at=now
                )
                db.put("answered", lease.owner, fresh)
                self.notify(lease.kind, is_response=True)
        done = applied or self._is_completed(lease)
        if not done:
            self._end_stale(lease, taken=True, ended=True)
        if lease.kind in CEREMONIES:
            self._free_slot(lease)
            compare_ceremony(db, lease.kind, lease.id)
        elif lease.kind is Kind.PUBLIC_DECRYPTION:
            compare_decryption(db, lease.id)
        return done

    async def finished(self, items: Sequence[Finished]) -> Sequence[bool]:
        """Complete without a response."""

        def work(now: float) -> list[bool]:
            applied = []
            for item in items:
                done = self._complete("finished", item.lease, item.note) or self._is_completed(item.lease)
                if not done:
                    self._end_stale(item.lease, taken=False, ended=True)
                self._free_slot(item.lease)
                applied.append(done)
            return applied

        return await self.run("finished", work)

    def _complete(self, verb: str, lease: Lease, note: str | None) -> bool:
        row = self.db.requests.get((lease.kind, lease.id))
        if row is None or row.status == "completed":
            return False
        ours = row.status == "under_process" and row.owner == lease.owner
        if not ours and lease.owner <= row.content_epoch:
            return False
        self.db.change(verb, lease.owner, row, status="completed", owner=None, note=note or row.note)
        return True

    def _is_completed(self, lease: Lease) -> bool:
        row = self.db.requests.get((lease.kind, lease.id))
        return row is not None and row.status == "completed"

    async def try_again(self, items: Sequence[TryAgain]) -> Sequence[bool]:
        """Back to pending."""

        def work(now: float) -> list[bool]:
            applied = []
            for item in items:
                row = self._mine(item.lease)
                applied.append(row is not None)
                if row is not None:
                    self.db.change(
                        "try_again",
                        item.lease.owner,
                        row,
                        status="pending",
                        owner=None,
                        due=now + item.delay,
                        last_error=item.last_error[:MAX_WORDS],
                        error_counter=row.error_counter + item.counted,
                        already_sent=(row.already_sent or item.mark_sent) and not item.clear_sent,
                        refusal=item.refusal or row.refusal,
                        core_shard=item.core_shard or row.core_shard,
                    )
                else:
                    self._end_stale(item.lease, taken=item.mark_sent, ended=True)
                self._free_slot(item.lease)
            return applied

        return await self.run("try_again", work)

    async def failed(self, items: Sequence[Failed]) -> Sequence[bool]:
        """Failed with words."""

        def work(now: float) -> list[bool]:
            applied = []
            for item in items:
                row = self._mine(item.lease)
                applied.append(row is not None)
                if row is not None:
                    self.db.change(
                        "failed",
                        item.lease.owner,
                        row,
                        status="failed",
                        owner=None,
                        last_error=item.last_error[:MAX_WORDS],
                        error_counter=row.error_counter + item.counted,
                    )
                else:
                    self._end_stale(item.lease, taken=False, ended=True)
                self._free_slot(item.lease)
            return applied

        return await self.run("failed", work)

    def _mine(self, lease: Lease) -> Request | None:
        row = self.db.requests.get((lease.kind, lease.id))
        mine = row is not None and row.status == "under_process" and row.owner == lease.owner
        return row if mine else None

    def _free_slot(self, lease: Lease) -> None:
        if lease.kind in CEREMONIES:
            ours = (lease.kind, lease.id, lease.owner)
            self.db.slots = {core: slot for core, slot in self.db.slots.items() if slot != ours}

    def _end_stale(self, lease: Lease, *, taken: bool, ended: bool) -> None:
        db = self.db
        row = db.requests.get((lease.kind, lease.id))
        if row is not None and row.stale_owner == lease.owner:
            columns: dict[str, Any] = {}
            if ended:
                columns |= {"stale_owner": None, "due": db.clock()}
            if taken and row.status == "pending":
                columns |= {"status": "failed", "last_error": EARLIER_MEANING}
            if columns:
                db.change("end_stale", lease.owner, row, **columns)
        if ended:
            db.withdrawn = [
                attrs.evolve(w, owner=None) if w.key == (lease.kind, lease.id) and w.owner == lease.owner else w
                for w in db.withdrawn
            ]

    async def reject(self, items: Sequence[RejectedResult]) -> None:
        """Keep answers that failed their checks."""
        await self.run("reject", lambda now: self.db.rejected.extend(items))

    # -- keys

    async def key_digests(self, key_id: int) -> Sequence[Any]:
        """Digests of a key that was generated here."""

        def work(now: float) -> Sequence[Any]:
            response = self.db.responses.get((Kind.KEYGEN, key_id))
            return tuple(response.fields["key_digests"]) if response is not None else ()

        return await self.read("key_digests", work)

    async def keygen_was_sent(self, prep_keygen_id: int) -> bool:
        """Whether a keygen used up this preparation."""

        def work(now: float) -> bool:
            keygens = [row for row in self.db.requests.values() if row.kind is Kind.KEYGEN]
            return any(_keygen_used(row) for row in keygens if row.event.prep_keygen_id == prep_keygen_id)

        return await self.read("keygen_was_sent", work)

    async def prep_keygen_known(self, prep_keygen_id: int) -> bool:
        """Whether the preparation is here."""
        return await self.read("prep_keygen_known", lambda now: (Kind.PREP_KEYGEN, prep_keygen_id) in self.db.requests)

    async def key_allowance(self, key_id: int) -> KeyAllowance:
        """What the registry allows under a key."""

        def work(now: float) -> KeyAllowance:
            state = self.db.keys.get(("key", key_id))
            if state is not None:
                return ALLOWED[state]
            return KeyAllowance.NOTHING if (Kind.KEYGEN, key_id) in self.db.requests else KeyAllowance.ALL

        return await self.read("key_allowance", work)

    async def key_activated(self, key_id: int, reason: str) -> None:
        """The contract gives this key's materials; a state that is there stays."""
        await self.run("key_activated", lambda now: self.db.keys.setdefault(("key", key_id), "active"))

    # -- counts

    async def open_requests(self) -> Mapping[tuple[Kind, bool], int]:
        """Rows neither completed nor failed."""

        def work(now: float) -> dict[tuple[Kind, bool], int]:
            counts = {}
            for _, kind, is_response in self.db.tables():
                rows = [row for row in self.db.table(kind, is_response) if row.status in ("pending", "under_process")]
                if rows:
                    counts[kind, is_response] = len(rows)
            return counts

        return await self.read("open_requests", work)

    async def listed(self, statuses: Sequence[str], *, changed_after: float, limit: int) -> Sequence[Listed]:
        """Rows in one of `statuses`, oldest change first."""

        def work(now: float) -> list[Listed]:
            rows = [
                row
                for _, kind, is_response in self.db.tables()
                for row in self.db.table(kind, is_response)
                if row.status in statuses and row.updated_at >= changed_after
            ]
            rows.sort(key=lambda row: row.updated_at)
            return [Listed(row.kind, row.id, row.is_response, row.status, row.last_error) for row in rows[:limit]]

        return await self.read("listed", work)

    async def backlog(self) -> Backlog:
        """Counts and ages."""

        def work(now: float) -> Backlog:
            counts = []
            for _, kind, is_response in self.db.tables():
                for status in ("pending", "under_process", "failed"):
                    ages = [now - r.created_at for r in self.db.table(kind, is_response) if r.status == status]
                    counts.append(QueueCount(kind, is_response, status, len(ages), max(0.0, *ages, 0.0)))
            waiting = [row for row in self.db.requests.values() if row.unconfirmed and row.status == "pending"]
            return Backlog(counts, len(self.db.quarantine), len([row for row in waiting if row.kind in CEREMONIES]))

        return await self.read("backlog", work)

    async def key_registry(self) -> Sequence[Mapping[str, Any]]:
        """Every key and CRS that is known, with its state."""

        def work(now: float) -> list[Mapping[str, Any]]:
            made = {("key", row.id) for row in self.db.requests.values() if row.kind is Kind.KEYGEN}
            made |= {("crs", row.id) for row in self.db.requests.values() if row.kind is Kind.CRSGEN}
            return [
                {"kind": kind, "id": f"{one:064x}", "state": self.db.keys.get((kind, one), "pre-activation")}
                for kind, one in sorted(made | set(self.db.keys))
            ]

        return await self.read("key_registry", work)


def _ceremony(row: Request, now: float) -> Ceremony:
    return Ceremony(
        kind=row.kind,
        id=row.id,
        status=row.status,
        already_sent=row.already_sent,
        due=row.status == "pending" and row.due <= now,
        unconfirmed=row.unconfirmed,
        block_number=row.block_number,
        log_index=row.log_index,
        created_at=row.created_at,
        core_shard=row.core_shard,
        lease_owner=row.owner,
        last_error=row.last_error,
    )


def _waits_for(row: Request, owner: int) -> bool:
    return row.stale_owner == owner or (row.status == "under_process" and row.owner == owner)


def _keygen_used(row: Request) -> bool:
    return row.already_sent or row.status == "completed"
