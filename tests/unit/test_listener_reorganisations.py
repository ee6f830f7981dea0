"""A chain that goes another way: noticed by the stored hash, read again from the fork (EV5)."""

import pytest
import trio
import trio.testing
from listener_world import Chain, World, crsgen_request, public_request, world

from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import BlockRef


@pytest.mark.guarantee("EV5")
@pytest.mark.parametrize("depth", [1, 2, 7, 40])
async def test_orphans_are_withdrawn_and_the_new_history_is_read(
    autojump_clock: trio.testing.MockClock, depth: int
) -> None:
    w = world(length=60)
    async with w.listening():
        await w.read_up_to(60)
        for number in range(1, 51):
            w.chain.mine(public_request(number), crsgen_request(number))
            await trio.sleep(2)
        await w.stored(*range(1, 51))
        await w.stored(*range(1, 51), kind=Kind.CRSGEN)
        kept = 50 - depth
        w.chain.reorganise(depth, [], [public_request(kept + 1, b"other")], *[[] for _ in range(depth)])
        await w.stored(*range(1, kept + 2))
        await w.stored(*range(1, kept + 1), kind=Kind.CRSGEN)
        await w.read_up_to(w.chain.head)
    assert len({ref.id for ref in w.store.withdrawn if ref.kind is Kind.PUBLIC_DECRYPTION}) >= depth
    assert w.store.rows[Kind.PUBLIC_DECRYPTION, 1 << 248 | kept + 1].arrival.event.extra_data == b"other"
    assert w.store.cursors["main", Stream.DECRYPTION] == BlockRef(w.chain.head, w.chain.blocks[-1].hash)
    assert w.metrics.value("kms_connector_listener_reorganisations", "main", "decryption") == 1
    assert w.metrics.value("kms_connector_listener_withdrawn", "public_decryption_request") == depth


@pytest.mark.guarantee("EV5")
async def test_a_request_that_moves_to_another_block_is_stored_again(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        w.chain.mine()
        await w.read_up_to(12)
        w.chain.reorganise(2, [], [public_request(1)], [])
        await w.read_up_to(13)
        await w.stored(1)
    row = w.store.rows[Kind.PUBLIC_DECRYPTION, 1 << 248 | 1]
    assert row.arrival.block_hash == w.chain.blocks[12].hash


@pytest.mark.guarantee("EV5")
async def test_what_was_sent_is_reported_and_stays(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        await w.stored(1)
        w.store.rows[Kind.PUBLIC_DECRYPTION, 1 << 248 | 1].already_sent = True
        w.chain.reorganise(1, [], [])
        await w.read_up_to(12)
    assert w.ids() == [1]
    assert [ref.id & 0xFF for ref in w.store.reported] == [1]
    assert "was sent to the Core, but its block 11 was orphaned" in caplog.text


@pytest.mark.guarantee("EV5")
async def test_a_row_is_kept_while_any_reachable_node_has_its_block(autojump_clock: trio.testing.MockClock) -> None:
    """One node takes a fork that the network drops again: nothing is withdrawn."""
    w = world(nodes=2)
    strayed = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        w.chain.mine()
        await w.read_up_to(12)
        strayed.chain = fork = strayed.chain.copy()
        fork.reorganise(2, [], [], [])
        await w.store.until(lambda: w.store.cursors["main", Stream.DECRYPTION].hash == fork.blocks[-1].hash)
        assert w.ids() == [1]
        assert w.store.withdrawn == []
        strayed.chain = w.nodes[1].chain
        strayed.chain.mine()
        strayed.chain.mine()
        await w.read_up_to(14)
    assert w.ids() == [1]
    assert w.store.withdrawn == []


@pytest.mark.guarantee("EV5")
async def test_both_nodes_follow_the_new_history_and_the_orphan_goes(autojump_clock: trio.testing.MockClock) -> None:
    w = world(nodes=2)
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1), public_request(2))
        w.chain.mine()
        await w.read_up_to(12)
        for node in w.nodes:
            node.latency = 0.3 if node.name == "second" else 0.001
        w.chain.reorganise(2, [], [public_request(1)], [])
        await w.read_up_to(13)
        await w.stored(1)
        await trio.sleep(10)
    assert w.ids() == [1]


@pytest.mark.guarantee("EV5")
async def test_a_chain_that_returns_to_where_it_was(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        w.chain.mine()
        await w.read_up_to(12)
        original = list(w.chain.blocks)
        w.chain.reorganise(2, [], [], [])
        await w.store.until(lambda: not w.ids())
        await w.read_up_to(13)
        w.chain.blocks[:] = original
        w.chain.mine()
        w.chain.mine(public_request(2))
        await w.stored(1, 2)


@pytest.mark.guarantee("EV4")
@pytest.mark.guarantee("EV5")
async def test_what_a_stray_node_withdrew_and_died_the_other_brings_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One node takes a fork while the other is away, so the fork's orphans go; then it is the other that was right."""
    w = world(nodes=2)
    stray, right = w.nodes
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1), crsgen_request(1))
        w.chain.mine()
        await w.read_up_to(12)
        right.down = True
        stray.chain = stray.chain.copy()
        stray.chain.reorganise(2, [], [], [])
        await w.store.until(lambda: not w.ids() and not w.ids(Kind.CRSGEN))
        stray.down, right.down = True, False
        right.chain.mine(public_request(2))
        await w.stored(1, 2)
        await w.stored(1, kind=Kind.CRSGEN)


@pytest.mark.guarantee("EV5")
async def test_two_daemons_and_a_chain_that_returns_to_where_it_was(autojump_clock: trio.testing.MockClock) -> None:
    """What one daemon remembers as stored may have been withdrawn by the other."""
    w = world()
    other = World(w.nodes, w.store, w.settings)
    async with w.listening(), other.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        w.chain.mine()
        await w.read_up_to(12)
        for _ in range(10):
            original = list(w.chain.blocks)
            w.chain.reorganise(len(original) - 11, *[[] for _ in original[10:]])
            await w.store.until(lambda: not w.ids())
            await w.read_up_to(w.chain.head)
            w.chain.blocks[:] = original
            w.chain.mine()
            w.chain.mine()
            await w.stored(1)
            await w.read_up_to(w.chain.head)


@pytest.mark.guarantee("EV5")
async def test_a_chain_that_is_cut_back_and_stays_short(autojump_clock: trio.testing.MockClock) -> None:
    """The new history does not reach the cursor for long: its requests are served all the same."""
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        for number in range(1, 31):
            w.chain.mine(public_request(number))
            await trio.sleep(1.1)
        await w.stored(*range(1, 31))
        w.chain.reorganise(25, [], [public_request(6, b"new")], [])
        await w.stored(*range(1, 7), seconds=15)
    assert w.store.rows[Kind.PUBLIC_DECRYPTION, 1 << 248 | 6].arrival.event.extra_data == b"new"
    assert w.store.cursors["main", Stream.DECRYPTION] == BlockRef(w.chain.head, w.chain.blocks[-1].hash)


@pytest.mark.guarantee("EV5")
async def test_deeper_than_every_remembered_range_end(autojump_clock: trio.testing.MockClock) -> None:
    w = world(length=600)
    async with w.listening():
        await w.read_up_to(600)
        for number in range(1, 301):
            w.chain.mine(public_request(number))
            await trio.sleep(1.1)
        await w.stored(*range(1, 301))
        w.chain.reorganise(300, *[[public_request(number, b"new")] for number in range(1, 302)])
        await w.stored(*range(1, 302), seconds=300)
    assert all(row.arrival.event.extra_data == b"new" for row in w.store.rows.values())


@pytest.mark.guarantee("EV5")
async def test_while_down(autojump_clock: trio.testing.MockClock) -> None:
    """The reorganisation happens while kmsd is stopped; the hash in the database tells."""
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        w.chain.mine(public_request(2))
        await w.stored(1, 2)
        await w.read_up_to(12)
    w.chain.reorganise(2, [public_request(3)], [], [], [])
    async with w.listening():
        await w.stored(3)


@pytest.mark.guarantee("EV5")
@pytest.mark.parametrize("verb", ["rewind", "range_ends", "stored_after"])
async def test_faults_during_the_rewind(autojump_clock: trio.testing.MockClock, verb: str) -> None:
    w = world()
    faults = iter(["down"] * 5)
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        await w.stored(1)
        w.store.fail = lambda asked: next(faults, None) if asked == verb else None
        w.chain.reorganise(1, [], [public_request(2)])
        await w.stored(2)


@pytest.mark.guarantee("EV5")
async def test_confirmations_keep_a_shallow_reorganisation_out(autojump_clock: trio.testing.MockClock) -> None:
    w = world(confirmations=3)
    async with w.listening():
        await w.read_up_to(7)
        for number in range(1, 30):
            w.chain.mine(public_request(number))
            await trio.sleep(1.1)
            if number % 5 == 0:
                w.chain.reorganise(2, [public_request(number - 1)], [public_request(number)])
        for _ in range(3):
            w.chain.mine()
        await w.stored(*range(1, 30))
    assert w.store.withdrawn == []
    assert w.metrics.value("kms_connector_listener_reorganisations", "main", "decryption") == 0


async def test_a_node_that_shows_a_shorter_chain_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """It lost blocks, or a balancer asks a backend that is behind: neither a fork nor a reason to stop."""
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        await w.stored(1)
        w.nodes[0].lag = 5
        await trio.sleep(30)
        assert w.store.cursors["main", Stream.DECRYPTION].number == 11
        w.nodes[0].lag = 0
        w.chain.mine(public_request(2))
        await w.stored(1, 2)
    assert w.store.withdrawn == []


async def test_chains_part_when_copied() -> None:
    chain = Chain(3)
    other = chain.copy()
    assert chain.mine().hash != other.mine().hash
