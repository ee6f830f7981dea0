"""The simulated store and Postgres are given the same random operations, and must give the same answers.

What depends on the clock is left out of the comparison (ages), or made the same (pauses are none or for ever).
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from store_world import answer, arrival, block, digest, event_of, first_core, request_id

from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import BY_STREAM, DECRYPTIONS, OPERATIONS, WITH_RESPONSE
from kmsd.ports import (
    BlockRef,
    ChainFact,
    Claimed,
    ClaimedResponse,
    Failed,
    Finished,
    JournalEntry,
    Lane,
    Lease,
    Log,
    QuarantinedLog,
    RangeRecord,
    RejectedResult,
    ResponseFate,
    ResponseOutcome,
    Rewind,
    Sent,
    TryAgain,
    TxState,
)
from kmsd.store.postgres import PostgresStore
from kmsd.wire.v0_11 import events
from kmsd.wire.v0_11.structs import KeyDigest

from .world.lives import Life, Link, Trace
from .world.rows import Database
from .world.store import Wakes
from .world.store_sender import SimStore

OPERATIONS_OF_A_SEED = 140
FOR_EVER = 100_000.0
STATUSES = ("pending", "under_process", "completed", "failed")
NODES = ("main", "second")
COUNTERS = 4
WALLET = b"\x07" * 20


def normal(value: Any) -> Any:
    """Without what depends on the clock, and in an order of its own where the order means nothing."""
    if isinstance(value, (Claimed, ClaimedResponse)):
        return attrs.evolve(value, budget_age=0.0)
    if isinstance(value, JournalEntry):
        return attrs.evolve(value, signed_at=0.0)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, tuple)):
        return [normal(one) for one in value]
    if attrs.has(type(value)):
        return {one.name: normal(getattr(value, one.name)) for one in attrs.fields(type(value))}
    return value


class Twins:
    """Both stores; `ask` gives the answer of one after it was compared with the other's."""

    def __init__(self, real: PostgresStore, twin: SimStore, tick: Callable[[], None]) -> None:
        self.real = real
        self.twin = twin
        self._tick = tick
        self.said: list[str] = []

    async def ask(self, verb: str, *arguments: Any, **named: Any) -> Any:
        """One verb of both."""
        self._tick()
        self.said.append(f"{verb} {arguments} {named}")
        answers = []
        for store in (self.real, self.twin):
            try:
                answers.append(await getattr(store, verb)(*arguments, **named))
            except Exception as error:
                answers.append(type(error).__name__)
        assert normal(answers[0]) == normal(answers[1]), "\n".join(self.said[-12:])
        return answers[1]

    async def compare(self) -> None:
        """Everything that can be read."""
        found = []
        for store in (self.real, self.twin):
            rows = await store.listed(STATUSES, changed_after=0.0, limit=10_000)
            listed = sorted((r.kind.value, r.id, r.is_response, r.status, r.last_error or "") for r in rows)
            ends = [
                (await store.cursor(node, stream), list(await store.range_ends(node, stream)))
                for node in NODES
                for stream in Stream
            ]
            refs = [sorted(await store.stored_after(stream, 0), key=repr) for stream in Stream]
            keys = [(kind, request_id(kind, n)) for kind in WITH_RESPONSE for n in range(1, COUNTERS + 1)]
            responses = normal(sorted(await store.load_responses(keys), key=lambda r: (r.kind.value, r.id)))
            backlog = await store.backlog()
            counts = sorted((c.kind.value, c.is_response, c.status, c.rows) for c in backlog.counts)
            allowed = [await store.key_allowance(request_id(Kind.KEYGEN, n)) for n in range(1, COUNTERS + 1)]
            found.append((listed, ends, refs, responses, counts, backlog.quarantined, backlog.unconfirmed, allowed))
        assert found[0] == found[1], "\n".join(self.said[-12:])


class Scene:
    """Draws what happens next."""

    def __init__(self, chance: random.Random, twins: Twins) -> None:
        self.chance = chance
        self.twins = twins
        self.owners: list[int] = []
        self.claimed: list[Claimed] = []
        self.responses: list[ClaimedResponse] = []
        self.height = 100
        self.forks = 0

    async def step(self) -> None:
        """One operation."""
        steps = (self.hear, self.hear, self.claim, self.claim, self.transition, self.transition, self.transition)
        steps += (self.claim_response, self.settle, self.rewind, self.fact, self.small)
        await self.chance.choice(steps)()

    async def enrol(self, name: str) -> None:
        """A daemon begins, or begins again."""
        self.owners.append(await self.twins.ask("enrol", name, ["worker"]))

    def _block(self, number: int) -> BlockRef:
        return block(number, str(self.forks))

    async def hear(self) -> None:
        """A range of a node with some requests, new, again, or with another meaning."""
        node, stream = self.chance.choice(NODES), self.chance.choice(tuple(Stream))
        cursor = await self.twins.ask("cursor", node, stream)
        self.height += 1
        end = self._block(self.height)
        arrivals = []
        for place in range(self.chance.randrange(4)):
            kind = self.chance.choice(BY_STREAM[stream])
            counter = self.chance.randrange(1, COUNTERS + 1)
            salt = "" if self.chance.random() < 0.8 else "x"
            at = end if self.chance.random() < 0.7 else self._block(self.chance.randrange(100, self.height + 1))
            arrivals.append(arrival(kind, counter, at, salt=salt, log_index=place))
        bad = []
        if self.chance.random() < 0.2:
            log = Log(b"\xd1" * 20, (b"\1" * 32,), b"?", end.number, end.hash, digest("bad", self.height), 9)
            bad.append(QuarantinedLog(node, log, "cannot be decoded"))
        expected = cursor if self.chance.random() < 0.9 else BlockRef(1, b"\1" * 32)
        owner = self.chance.choice(self.owners)
        outcome = await self.twins.ask(
            "record_range",
            RangeRecord(
                node,
                stream,
                expected,
                end,
                tuple(arrivals),
                tuple(bad),
                needs_confirmation=stream is Stream.KEY_MANAGEMENT and self.chance.random() < 0.7,
                owner=owner if self.chance.random() < 0.5 else None,
                hand_over={kind: self.chance.randrange(3) for kind in DECRYPTIONS},
            ),
        )
        self.claimed += outcome.leased

    async def claim(self) -> None:
        """Some rows are leased."""
        owner, limit = self.chance.choice(self.owners), self.chance.randrange(1, 4)
        if self.chance.random() < 0.5:
            self.claimed += await self.twins.ask("claim", self.chance.choice(DECRYPTIONS), owner, 100)
        else:
            found = await self.twins.ask("claim_ceremonies", owner, first_core, limit)
            self.claimed += found if isinstance(found, list) else []

    def _lease(self) -> Lease:
        """Of a row that somebody had in hand, perhaps long ago, perhaps in another's name."""
        if self.claimed and self.chance.random() < 0.9:
            row = self.chance.choice(self.claimed[-6:])
            owner = row.lease if self.chance.random() < 0.85 else self.chance.choice(self.owners)
            return Lease(row.kind, row.id, owner)
        kind = self.chance.choice(tuple(OPERATIONS))
        return Lease(kind, request_id(kind, self.chance.randrange(1, COUNTERS + 1)), self.chance.choice(self.owners))

    def _pause(self) -> float:
        return self.chance.choice((0.0, 0.0, FOR_EVER))

    async def transition(self) -> None:
        """A try at a row ends, or gets on."""
        leases = list({(lease.kind, lease.id): lease for lease in (self._lease(), self._lease())}.values())
        what = self.chance.choice(("sent", "answered", "finished", "try_again", "failed"))
        items: list[Any] = []
        for lease in leases:
            coin = self.chance.random() < 0.5
            if what == "sent":
                items.append(Sent(lease, "http://core-0", coin))
            elif what == "answered" and lease.kind in WITH_RESPONSE:
                items.append(answer(lease, lease.id & 0xFF))
            elif what == "finished":
                items.append(Finished(lease, "done" if coin else None))
            elif what == "try_again":
                items.append(
                    TryAgain(
                        lease,
                        self._pause(),
                        "words",
                        counted=coin,
                        clear_sent=self.chance.random() < 0.3,
                        mark_sent=self.chance.random() < 0.2,
                        refusal="NOT_FOUND" if self.chance.random() < 0.2 else None,
                        core_shard="http://core-1" if self.chance.random() < 0.2 else None,
                    )
                )
            elif what == "failed":
                items.append(Failed(lease, "no", coin))
        if items:
            await self.twins.ask(what, items)

    async def claim_response(self) -> None:
        """Some responses are leased."""
        owner, kind = self.chance.choice(self.owners), self.chance.choice(WITH_RESPONSE)
        if self.chance.random() < 0.7:
            self.responses += await self.twins.ask("claim_responses", kind, owner, 100)
        else:
            key = (kind, request_id(kind, self.chance.randrange(1, COUNTERS + 1)))
            await self.twins.ask(self.chance.choice(("lease_responses", "reopen_responses")), [key], owner)

    def _outcome(self) -> ResponseOutcome | None:
        if not self.responses:
            return None
        row = self.chance.choice(self.responses[-6:])
        owner = row.lease if self.chance.random() < 0.8 else self.chance.choice(self.owners)
        fate = self.chance.choice(tuple(ResponseFate))
        words = self.chance.choice((None, "words"))
        return ResponseOutcome(
            Lease(row.kind, row.id, owner), fate, words, self._pause(), self.chance.random() < 0.5, digest("tx")
        )

    async def settle(self) -> None:
        """A try at sending ends."""
        outcome = self._outcome()
        if outcome is not None:
            await self.twins.ask("settle_responses", [outcome])

    async def rewind(self) -> None:
        """The chain went another way."""
        node, stream = self.chance.choice(NODES), self.chance.choice(tuple(Stream))
        cursor = await self.twins.ask("cursor", node, stream)
        if cursor is None:
            return
        back = max(1, cursor.number - self.chance.randrange(1, 6))
        orphaned = tuple(await self.twins.twin.stored_after(stream, back))
        self.forks += 1
        to = BlockRef(back, b"" if self.chance.random() < 0.2 else self._block(back).hash)
        await self.twins.ask("rewind", Rewind(node, stream, cursor, to, orphaned, "another way"))

    async def fact(self) -> None:
        """The committee agreed."""
        node, counter = self.chance.choice(NODES), self.chance.randrange(1, COUNTERS + 1)
        stream = self.chance.choice(tuple(Stream))
        cursor = await self.twins.ask("cursor", node, stream)
        self.height += 1
        end = self._block(self.height)
        salt = self.chance.choice(("", "", "x"))
        record: Any
        if stream is Stream.DECRYPTION:
            one = request_id(Kind.PUBLIC_DECRYPTION, counter)
            record = events.PublicDecryptionResponse(one, digest("result", one & 0xFF, *salt), (), b"")
            name = "PublicDecryptionResponse"
        elif self.chance.random() < 0.5:
            one, name = request_id(Kind.CRSGEN, counter), "ActivateCrs"
            record = events.ActivateCrs(one, (), digest("crs", one & 0xFF, *salt))
        else:
            one, name = request_id(Kind.KEYGEN, counter), "ActivateKey"
            digests = (KeyDigest(0, digest("server", one & 0xFF)), KeyDigest(1, digest("public", one & 0xFF, *salt)))
            record = events.ActivateKey(one, (), digests)
        fact = ChainFact(name, one, record, end.number, end.hash, 0)
        await self.twins.ask("record_range", RangeRecord(node, stream, cursor, end, facts=(fact,)))

    async def small(self) -> None:
        """Questions, and verbs of the daemon's life."""
        kind, owner = self.chance.choice(tuple(OPERATIONS)), self.chance.choice(self.owners)
        counter = self.chance.randrange(1, COUNTERS + 1)
        what = self.chance.randrange(11)
        if what == 0:
            await self.enrol(self.chance.choice(("a", "b")))
        elif what == 1:
            await self.twins.ask("beat", owner)
        elif what == 2:
            await self.twins.ask("leave", owner)
            await self.enrol(self.chance.choice(("a", "b")))
        elif what == 3:
            held = [sorted(await one.leased(kind, owner)) for one in (self.twins.real, self.twins.twin)]
            assert held[0] == held[1]
        elif what == 4:
            await self.twins.ask("key_digests", request_id(Kind.KEYGEN, counter))
        elif what == 5:
            await self.twins.ask("keygen_was_sent", event_of(Kind.KEYGEN, counter).prep_keygen_id)
        elif what == 6:
            await self.twins.ask("prep_keygen_known", request_id(Kind.PREP_KEYGEN, counter))
        elif what == 7:
            await self.twins.ask("expire", finished_after=-1.0, failed_after=-1.0, limit=100)
        elif what == 8:
            await self.twins.ask("open_requests")
        elif what == 9:
            await self.twins.ask("publish_floor", self.chance.choice(tuple(Stream)), NODES)
        else:
            await self.twins.ask("reject", [RejectedResult(kind, request_id(kind, counter), "core", "why", b"raw")])


def twin_of(clock: Callable[[], float]) -> SimStore:
    """A simulated store without any trouble."""
    link = Link("database", random.Random(1), Trace(), lambda *_: None)
    link.latency = (0.0, 0.0)
    return SimStore(Database(clock=clock), link, Life("twin", 1), Wakes())


@asynccontextmanager
async def both(real: PostgresStore) -> AsyncIterator[Twins]:
    """A clock that ticks with each operation, as the database's does."""
    instant = [1_700_000_000.0]

    def tick() -> None:
        instant[0] += 0.01

    yield Twins(real, twin_of(lambda: instant[0]), tick)


@pytest.mark.parametrize("seed", range(4))
async def test_both_stores_answer_alike(store: PostgresStore, seed: int) -> None:
    async with both(store) as twins:
        scene = Scene(random.Random(seed), twins)
        await scene.enrol("a")
        await scene.enrol("b")
        for number in range(OPERATIONS_OF_A_SEED):
            await scene.step()
            if number % 4 == 3:
                await twins.compare()


def entry(chance: random.Random, nonce: int, attempt: int) -> JournalEntry:
    """A transaction of the journal."""
    counter = chance.randrange(1, COUNTERS + 1)
    filler = chance.random() < 0.2
    return JournalEntry(
        nonce=nonce,
        attempt=attempt,
        kind=None if filler else Kind.CRSGEN,
        id=None if filler else request_id(Kind.CRSGEN, counter),
        calldata_hash=digest("call", counter),
        raw=b"raw",
        tx_hash=digest("tx", nonce, attempt),
        gas_limit=21_000,
        max_fee_per_gas=5,
        max_priority_fee_per_gas=1,
        signed_at=1_700_000_000.0,
    )


async def test_both_lanes_answer_alike(store: PostgresStore) -> None:
    chance = random.Random(5)
    async with both(store) as twins, AsyncExitStack() as stack:
        epoch = await twins.ask("enrol", "a", ["sender"])
        lanes: list[Lane] = [
            await stack.enter_async_context(one.open_lane(1, WALLET, epoch)) for one in (twins.real, twins.twin)
        ]

        async def ask(call: Callable[[Lane], Awaitable[Any]]) -> Any:
            answers = [await call(lane) for lane in lanes]
            assert normal(answers[0]) == normal(answers[1])
            return answers[1]

        nonces = attempts = 0
        for _ in range(40):
            known = await ask(lambda lane: lane.entries())
            await ask(lambda lane: lane.highest_nonce())
            if known and chance.random() < 0.6:
                one = chance.choice(known)
                state = chance.choice(tuple(TxState))
                block_number = chance.choice((None, 7))
                new = attrs.evolve(one, state=state, block_number=block_number, receipt_status=None, error="words")
                await ask(lambda lane, new=new: lane.settle([new], ()))  # type: ignore[misc]
            elif chance.random() < 0.7:
                new_one = entry(chance, nonces, 0)
                nonces += 1
                await ask(lambda lane, new_one=new_one: lane.append([new_one]))  # type: ignore[misc]
            elif nonces:
                attempts += 1
                dearer = entry(chance, chance.randrange(nonces), attempts)
                await ask(lambda lane, dearer=dearer: lane.append([dearer]))  # type: ignore[misc]


async def test_the_comparison_can_fail(store: PostgresStore) -> None:
    async with both(store) as twins:
        await twins.ask("enrol", "a", ["worker"])
        twins.twin.db.last_epoch += 1
        with pytest.raises(AssertionError):
            await twins.ask("enrol", "b", ["worker"])
    assert trio.current_time() > 0
