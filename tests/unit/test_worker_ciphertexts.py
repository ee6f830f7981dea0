"""Ciphertexts under a budget: fairness, sizes, formats, resting buckets, the registry (WK2, WK4; decisions.md 19a)."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock
from worker_world import BUCKET_1, BUCKET_2, COPRO_1, COPRO_2, BlobsDouble, Clock, World, material

from kmsd.blobs.bucket_order import FIRST_REST, LONGEST_REST, MAX_BUCKETS, BucketOrder
from kmsd.blobs.budget import ByteBudget
from kmsd.blobs.ciphertexts import COMPRESSED, EXPANDED_PER_BIT, CiphertextMissing, Ciphertexts
from kmsd.blobs.registry import EMPTY_FOR, MAX_SENDERS, BucketRegistry
from kmsd.core.call import MAX_MESSAGE
from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.ports import Blob, BlobFault, CoreMethod, DependencyDown
from kmsd.wire.handles import FHE_TYPES
from kmsd.wire.v0_11 import views
from kmsd.wire.v0_11.structs import SnsMaterial

FALLBACK = "http://fallback/x"
MIB = 1 << 20

# ---------------------------------------------------------------------------------------------------------------------
# The budget


@pytest.mark.guarantee("WK4")
async def test_bytes_are_granted_in_order_and_a_large_request_is_not_overtaken(autojump_clock: MockClock) -> None:
    budget = ByteBudget(100)
    first = await budget.reserve(60, budget.ticket())
    granted: list[str] = []

    async def ask(name: str, size: int) -> None:
        reservation = await budget.reserve(size, budget.ticket())
        granted.append(name)
        assert budget.used <= 100
        await trio.sleep(1.0)
        reservation.release()

    async with trio.open_nursery() as nursery:
        for name, size in (("large", 90), ("small", 30), ("tiny", 1)):
            nursery.start_soon(ask, name, size)
            await trio.testing.wait_all_tasks_blocked()
        assert (granted, budget.waiting) == ([], 3), "40 bytes are free, but the large one was first"
        first.release()
    assert granted[0] == "large"
    assert sorted(granted[1:]) == ["small", "tiny"], "which fit together"
    assert (budget.used, budget.waiting) == (0, 0)


async def test_who_asks_again_keeps_its_place(autojump_clock: MockClock) -> None:
    budget = ByteBudget(100)
    early, late = budget.ticket(), budget.ticket()
    held = await budget.reserve(100, budget.ticket())
    granted: list[str] = []

    async def ask(name: str, ticket: object) -> None:
        (await budget.reserve(100, ticket)).release()  # type: ignore[arg-type]
        granted.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "late", late)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, "early", early)
        await trio.testing.wait_all_tasks_blocked()
        held.release()
    assert granted == ["early", "late"]


async def test_what_is_larger_than_the_budget_runs_alone() -> None:
    budget = ByteBudget(100)
    alone = await budget.reserve(1000, budget.ticket())
    with trio.move_on_after(0.01) as waited:
        await budget.reserve(1, budget.ticket())
    assert waited.cancelled_caught
    alone.shrink(40)
    (await budget.reserve(60, budget.ticket())).release()
    alone.release()
    alone.release()
    assert (budget.used, budget.waiting) == (0, 0)


async def test_who_gives_up_waiting_holds_nothing_and_blocks_nobody(autojump_clock: MockClock) -> None:
    budget = ByteBudget(100)
    held = await budget.reserve(50, budget.ticket())
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def impatient() -> None:
            with scope:
                await budget.reserve(100, budget.ticket())

        async def behind() -> None:
            (await budget.reserve(50, budget.ticket())).release()

        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(behind)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    held.release()
    assert (budget.used, budget.waiting) == (0, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


class CountingBlobs(BlobsDouble):
    """Counts the bytes that downloads may hold at once, by what they were allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.open = self.most = 0

    async def get(self, url: str, *, max_bytes: int, patience: float) -> Blob:
        self.open += max_bytes
        self.most = max(self.most, self.open)
        try:
            return await super().get(url, max_bytes=max_bytes, patience=patience)
        finally:
            self.open -= max_bytes


@asynccontextmanager
async def fetching(
    blobs: BlobsDouble, *, budget: int = 100 * MIB, fallback: Sequence[str] = (), limit: int = 66 * MIB
) -> AsyncIterator[tuple[Ciphertexts, ByteBudget, BucketRegistry]]:
    """Ciphertexts from two buckets."""
    urls = {COPRO_1: BUCKET_1, COPRO_2: BUCKET_2}

    async def ask(senders: Sequence[bytes]) -> Sequence[str]:
        return [urls[sender] for sender in senders]

    bytes_ = ByteBudget(budget)
    registry = BucketRegistry(ask, refresh=60.0, metrics=Metrics(), time=Clock())
    ciphertexts = Ciphertexts(
        blobs,
        registry,
        bytes_,
        fallback_urls=fallback,
        limit=limit,
        patience=8.0,
        metrics=Metrics(),
        health=Health(Clock()),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.run)
        yield ciphertexts, bytes_, registry
        nursery.cancel_scope.cancel()


def objects(
    blobs: BlobsDouble, count: int, size: int, *, first: int = 1, buckets: Sequence[str] = ()
) -> list[SnsMaterial]:
    """So many ciphertexts of a size, in these buckets (all)."""
    found = []
    for number in range(first, first + count):
        one, body = material(number, size=size)
        for bucket in buckets or (BUCKET_1, BUCKET_2):
            blobs.objects[f"{bucket}/{one.sns_ciphertext_digest.hex()}"] = body
        found.append(one)
    return found


@pytest.mark.guarantee("WK4")
async def test_never_more_than_the_budget_is_downloaded_or_held(autojump_clock: MockClock) -> None:
    blobs = CountingBlobs()
    materials = objects(blobs, 40, 300_000)
    held = most = 0
    async with fetching(blobs, budget=1_300_000) as (ciphertexts, budget, _):

        async def one(number: int) -> None:
            nonlocal held, most
            payload = await ciphertexts.fetch(materials[number : number + 1])
            with payload as bodies:
                held += len(bodies[0].body)
                most = max(most, held + blobs.open)
                assert budget.used <= budget.limit
                await trio.sleep(0.5)
                held -= len(bodies[0].body)

        await _all(one, len(materials))
        assert budget.used == 0
    assert most <= 1_300_000 + 1_052_800, "the budget, and the first guess that ran while nothing was known"
    assert blobs.most <= 1_300_000


async def _all(work: object, count: int) -> None:
    with trio.fail_after(600.0):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(work, number)  # type: ignore[arg-type]


async def test_one_larger_object_teaches_the_size_of_all_of_its_type(autojump_clock: MockClock) -> None:
    """32 ciphertexts that are larger than guessed: fetched again once, not once for each."""
    blobs = BlobsDouble()
    materials = objects(blobs, 32, 3 * MIB // 2)
    async with fetching(blobs) as (ciphertexts, budget, _):
        with await ciphertexts.fetch(materials) as bodies:
            assert [len(one.body) for one in bodies] == [3 * MIB // 2] * 32
            assert budget.used == 48 * MIB
    assert len(blobs.gets) <= 65


async def test_real_sizes_need_no_second_download(autojump_clock: MockClock) -> None:
    blobs = BlobsDouble()
    materials = objects(blobs, 8, 1_050_262)  # 64 bits, expanded, as the real Core makes them
    async with fetching(blobs) as (ciphertexts, _, _):
        with await ciphertexts.fetch(materials):
            pass
    assert len(blobs.gets) == 8


def test_the_largest_request_of_the_gateway_fits_into_one_message() -> None:
    """1,024 booleans, each of which counts 2 of 2,048 bits (wire/kms-core.md 8)."""
    assert 1024 * max(COMPRESSED, EXPANDED_PER_BIT * FHE_TYPES[0].bits) < MAX_MESSAGE


@pytest.mark.guarantee("WK4")
async def test_no_request_holds_more_than_the_core_takes(autojump_clock: MockClock) -> None:
    """Whatever buckets say about sizes, one request's ciphertexts never exceed the Core's largest message."""
    blobs = CountingBlobs()
    materials = objects(blobs, 4, 30 * MIB)
    async with fetching(blobs, budget=134_217_728) as (ciphertexts, budget, _):
        with pytest.raises(CiphertextMissing, match="larger than the limit") as info:
            await ciphertexts.fetch(materials)
        assert not info.value.outage
        assert budget.used == 0
        with await ciphertexts.fetch(materials[:3]) as bodies:
            assert sum(len(one.body) for one in bodies) == 90 * MIB
    assert blobs.most <= MAX_MESSAGE


async def test_a_size_beyond_the_limit_is_the_buckets_fault(autojump_clock: MockClock) -> None:
    blobs = BlobsDouble()
    (one,) = objects(blobs, 1, 5000, buckets=[BUCKET_2])
    blobs.objects[f"{BUCKET_1}/{one.sns_ciphertext_digest.hex()}"] = bytes(20_000)
    async with fetching(blobs, limit=10_000) as (ciphertexts, _, _):
        with await ciphertexts.fetch([one]) as (body,):
            assert len(body.body) == 5000


# ---------------------------------------------------------------------------------------------------------------------
# Formats (decisions.md 19a)

NAMED = [
    ("compressed_on_cpu", None, CiphertextFormat.BigCompressed),
    (None, "compressed_on_gpu", CiphertextFormat.BigCompressed),
    ("unheard_of", "compressed_on_cpu", CiphertextFormat.BigCompressed),
    (None, "uncompressed_on_cpu", CiphertextFormat.BigExpanded),
    (None, None, CiphertextFormat.BigExpanded),
    ("unheard_of", None, CiphertextFormat.BigExpanded),
]


@pytest.mark.guarantee("WK2")
@pytest.mark.parametrize(("first", "second", "expected"), NAMED)
async def test_a_bucket_that_names_the_format_is_preferred(
    autojump_clock: MockClock, first: str | None, second: str | None, expected: CiphertextFormat
) -> None:
    blobs = BlobsDouble()
    blobs.formats = {BUCKET_1: first, BUCKET_2: second}
    materials = objects(blobs, 8, 500)
    async with fetching(blobs) as (ciphertexts, _, _):
        for one in materials:
            with await ciphertexts.fetch([one]) as (body,):
                assert body.format is expected
    if expected is CiphertextFormat.BigCompressed or second == "uncompressed_on_cpu":
        return
    assert len(blobs.gets) <= 8 + 2, "buckets that never name it are not all asked each time"


async def test_the_only_bucket_that_answers_need_not_name_it(autojump_clock: MockClock) -> None:
    blobs = BlobsDouble()
    blobs.formats = {BUCKET_1: None}
    blobs.faults = {BUCKET_2: BlobFault.CONNECT}
    (one,) = objects(blobs, 1, 500)
    async with fetching(blobs) as (ciphertexts, _, _):
        with await ciphertexts.fetch([one]) as (body,):
            assert body.format is CiphertextFormat.BigExpanded


# ---------------------------------------------------------------------------------------------------------------------
# Which bucket, and for how long


@pytest.mark.guarantee("WK2", "WK3")
async def test_a_slow_bucket_is_left_early_while_another_was_not_asked(autojump_clock: MockClock) -> None:
    blobs = BlobsDouble()
    blobs.delay = {BUCKET_1: 1e6}
    materials = objects(blobs, 4, 500)
    async with fetching(blobs) as (ciphertexts, _, _):
        began = trio.current_time()
        for one in materials:
            with await ciphertexts.fetch([one]):
                pass
    assert trio.current_time() - began < 2 * 2.0 + 1.0, "a quarter of its patience, and then it rests"


async def test_a_slow_bucket_gets_its_whole_patience_when_the_others_fail(autojump_clock: MockClock) -> None:
    blobs = BlobsDouble()
    blobs.delay = {BUCKET_1: 5.0}
    blobs.faults = {BUCKET_2: BlobFault.NOT_FOUND}
    (one,) = objects(blobs, 1, 500)
    async with fetching(blobs) as (ciphertexts, _, _):
        with await ciphertexts.fetch([one]) as (body,):
            assert len(body.body) == 500


@pytest.mark.guarantee("WK2")
async def test_the_fallback_is_asked_after_the_coprocessors_own(autojump_clock: MockClock) -> None:
    blobs = BlobsDouble()
    (one,) = objects(blobs, 1, 500, buckets=[FALLBACK])
    async with fetching(blobs, fallback=[FALLBACK]) as (ciphertexts, _, _):
        with await ciphertexts.fetch([one]):
            pass
    assert sorted(blobs.gets[:2]) == [BUCKET_1, BUCKET_2]
    assert blobs.gets[2:] == [FALLBACK]


@pytest.mark.parametrize(
    ("faults", "outage"),
    [
        ((BlobFault.NOT_FOUND, BlobFault.NOT_FOUND), False),
        ((BlobFault.NOT_FOUND, BlobFault.WRONG_BYTES), False),
        ((BlobFault.NOT_FOUND, BlobFault.CONNECT), True),
        ((BlobFault.HTTP_STATUS, BlobFault.TOO_LARGE), True),
    ],
)
async def test_an_outage_is_told_from_a_ciphertext_that_is_not_there(
    autojump_clock: MockClock, faults: tuple[BlobFault, BlobFault], outage: bool
) -> None:
    blobs = BlobsDouble()
    blobs.faults = dict(zip((BUCKET_1, BUCKET_2), faults, strict=True))
    (one,) = objects(blobs, 1, 500)
    async with fetching(blobs) as (ciphertexts, budget, _):
        with pytest.raises(CiphertextMissing) as info:
            await ciphertexts.fetch([one])
        assert info.value.outage is outage
        assert all(fault.value in info.value.words for fault in faults)
        assert budget.used == 0


def test_a_bucket_rests_longer_each_time_and_one_download_tries_it_again() -> None:
    order = BucketOrder()
    urls = ["http://a", "http://b"]
    rest, now = FIRST_REST, 100.0
    for _ in range(8):
        order.bad("http://a", BlobFault.STALLED, now)
        assert order.order(urls, [], b"\0", now + 0.9 * rest) == ["http://b", "http://a"]
        now += rest
        assert order.order(urls, [], b"\0", now) == ["http://a", "http://b"], "its trial"
        assert order.order(urls, [], b"\0", now) == ["http://b", "http://a"], "the others wait for its outcome"
        now += FIRST_REST
        rest = min(LONGEST_REST, 2 * rest)
    order.good("http://a", names_format=True)
    assert order.order(urls, [], b"\0", now) == ["http://a", "http://b"]


def test_what_is_about_the_object_does_not_blame_the_bucket() -> None:
    order = BucketOrder()
    for fault in (BlobFault.NOT_FOUND, BlobFault.TOO_LARGE):
        order.bad("http://a", fault, 1.0)
    assert order.state("http://a").faults == 0


def test_healthy_buckets_share_the_load_and_memory_is_bounded() -> None:
    order = BucketOrder()
    urls = [f"http://{number}" for number in range(4)]
    assert {order.order(urls, [], bytes([key]), 0.0)[0] for key in range(4)} == set(urls)
    for number in range(MAX_BUCKETS + 50):
        order.bad(f"http://x{number}", BlobFault.CONNECT, 1.0)
    assert order.state("http://x0").faults == 0
    assert order.state(f"http://x{MAX_BUCKETS}").faults == 1


# ---------------------------------------------------------------------------------------------------------------------
# The registry


class Contract:
    """What GatewayConfig says."""

    def __init__(self) -> None:
        self.urls: dict[bytes, str] = {}
        self.down = False
        self.asked = 0

    async def ask(self, senders: Sequence[bytes]) -> Sequence[str]:
        self.asked += 1
        await trio.sleep(0.01)
        if self.down:
            raise DependencyDown("gateway", "down")
        return [self.urls.get(sender, "") for sender in senders]


@asynccontextmanager
async def registering(contract: Contract) -> AsyncIterator[BucketRegistry]:
    registry = BucketRegistry(contract.ask, refresh=60.0, metrics=Metrics(), time=Clock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.run)
        yield registry
        nursery.cancel_scope.cancel()


async def test_buckets_are_read_again_and_what_was_known_outlives_an_outage(autojump_clock: MockClock) -> None:
    contract = Contract()
    contract.urls = {COPRO_1: "http://old"}
    async with registering(contract) as registry:
        assert await registry.urls([COPRO_1]) == (["http://old"], None)
        contract.urls[COPRO_1] = "http://new"
        assert (await registry.urls([COPRO_1]))[0] == ["http://old"]
        assert contract.asked == 1
        await trio.sleep(70.0)
        assert (await registry.urls([COPRO_1]))[0] == ["http://new"]
        contract.down = True
        await trio.sleep(500.0)
        assert await registry.urls([COPRO_1]) == (["http://new"], None)
        urls, down = await registry.urls([COPRO_1, COPRO_2])
        assert urls == ["http://new"]
        assert down is not None


async def test_a_doubt_makes_it_be_read_again_soon(autojump_clock: MockClock) -> None:
    contract = Contract()
    contract.urls = {COPRO_1: "http://old"}
    async with registering(contract) as registry:
        await registry.urls([COPRO_1])
        contract.urls[COPRO_1] = "http://new"
        await trio.sleep(6.0)
        registry.doubt([COPRO_1, COPRO_2])
        await trio.sleep(6.0)
        assert (await registry.urls([COPRO_1]))[0] == ["http://new"]
        asked = contract.asked
        for _ in range(100):
            registry.doubt([COPRO_1])
        await trio.sleep(6.0)
        assert contract.asked - asked <= 2


async def test_a_bucket_that_is_registered_late_is_found(autojump_clock: MockClock) -> None:
    contract = Contract()
    async with registering(contract) as registry:
        assert await registry.urls([COPRO_1]) == ([], None)
        contract.urls[COPRO_1] = "  http://late\n"
        assert await registry.urls([COPRO_1]) == ([], None)
        await trio.sleep(EMPTY_FOR + 1.0)
        assert await registry.urls([COPRO_1]) == (["http://late"], None)


async def test_the_registry_is_bounded(autojump_clock: MockClock) -> None:
    contract = Contract()
    async with registering(contract) as registry:
        for number in range(MAX_SENDERS + 20):
            await registry.urls([number.to_bytes(20, "big")])
        assert len(registry._known) == MAX_SENDERS


async def test_a_coprocessor_that_moves_is_followed_through_the_worker(autojump_clock: MockClock) -> None:
    """No bucket of the old address serves; the request waits, and gets its ciphertext from the new one (W8)."""
    world = World()
    row = world.public(1)
    body = next(iter(world.blobs.objects.values()))
    world.blobs.objects.clear()
    async with world.running():
        await world.until(lambda: row.last_error is not None)
        new = "http://bucket-3/y"
        for node in (world.gateway, world.gateway_two):
            node.returns[views.GET_COPROCESSOR.encode(COPRO_1)] = views.GET_COPROCESSOR.encode_return(
                (COPRO_1, COPRO_1, new)
            )
        world.blobs.objects[f"{new}/{row.event.sns_materials[0].sns_ciphertext_digest.hex()}"] = body
        await world.until_settled(200.0)
    assert row.status == "completed"
    assert row.error_counter == 0


@pytest.mark.guarantee("WK2")
async def test_nothing_wrong_ever_reaches_the_core(autojump_clock: MockClock) -> None:
    """Both buckets serve wrong bytes: the request waits, and the Core hears nothing."""
    world = World()
    row = world.public(1)
    world.blobs.wrong = {BUCKET_1, BUCKET_2}
    async with world.running():
        await trio.sleep(120.0)
        assert world.core.count(CoreMethod.PUBLIC_DECRYPT) == 0
        assert "not the bytes that the event names" in (row.last_error or "")
        world.blobs.wrong = {BUCKET_1}
        await world.until_settled()
    assert row.status == "completed"


@pytest.mark.guarantee("WK4")
async def test_payloads_are_let_go_before_the_wait_for_the_core(autojump_clock: MockClock) -> None:
    """A budget for three ciphertexts, a Core that takes a minute: all sixty are there at once all the same."""
    world = World(ciphertext_memory=3 * MIB)
    for number in range(1, 61):
        world.public(number, size=900_000)
    world.core.latency = 60.0
    async with world.running():
        await world.until(lambda: world.core.open[CoreMethod.GET_PUBLIC_DECRYPTION_RESULT] == 60, 50.0)
        assert world.worker._toolbox.tools.ciphertexts._budget.used == 0
        await world.until_settled()
    assert world.store.counts() == {"completed": 60}
