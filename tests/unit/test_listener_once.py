"""What `kmsd --once` asks of the listener: the head, reading up to it, going back, counting what is beyond."""

import pytest
import trio
import trio.testing
from listener_world import crsgen_request, public_request, world

from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import DependencyDown


async def test_reads_up_to_the_head_of_the_start_and_no_further(autojump_clock: trio.testing.MockClock) -> None:
    w = world(length=0, decryption_from_block_number=0, kms_operation_from_block_number=0)
    for number in range(1, 501):
        w.chain.mine(public_request(number), crsgen_request(number))
    listener = w.listener()
    head = await listener.head()
    w.chain.mine(public_request(501))
    await listener.read_to(head)
    assert w.ids() == list(range(1, 501))
    assert w.ids(Kind.CRSGEN) == list(range(1, 501))
    assert w.store.cursors["main", Stream.DECRYPTION].number == head == 500
    beyond = await listener.count_after(head)
    assert {kind: count for kind, count in beyond.items() if count} == {Kind.PUBLIC_DECRYPTION: 1}
    assert await listener.count_after(501) == dict.fromkeys(Kind, 0)


async def test_a_dead_node_is_left_behind(autojump_clock: trio.testing.MockClock) -> None:
    w = world(nodes=2, decryption_from_block_number=0)
    w.chain.mine(public_request(1))
    w.nodes[0].down = True
    listener = w.listener()
    head = await listener.head()
    with trio.fail_after(60):
        await listener.read_to(head)
    assert w.ids() == [1]


async def test_an_omitting_node_does_not_end_the_reading_of_the_other(autojump_clock: trio.testing.MockClock) -> None:
    w = world(nodes=2, decryption_from_block_number=0)
    fast, slow = w.nodes
    fast.omits = lambda log: True
    slow.latency = 2.0
    w.chain.mine(public_request(1))
    listener = w.listener()
    await listener.read_to(await listener.head())
    assert w.ids() == [1]


async def test_all_nodes_down(autojump_clock: trio.testing.MockClock) -> None:
    w = world(nodes=2)
    for node in w.nodes:
        node.down = True
    listener = w.listener()
    with pytest.raises(DependencyDown, match=r"^gateway: .*node main.*node second"):
        await listener.head()
    with pytest.raises(DependencyDown):
        await listener.count_after(3)


async def test_reading_waits_for_the_only_node(autojump_clock: trio.testing.MockClock) -> None:
    w = world(decryption_from_block_number=0)
    w.chain.mine(public_request(1))
    listener = w.listener()
    head = await listener.head()
    w.nodes[0].down = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.read_to, head)
        await trio.sleep(120)
        assert w.ids() == []
        w.nodes[0].down = False
    assert w.ids() == [1]


@pytest.mark.guarantee("EV7")
async def test_a_replay_goes_back_and_repeats_nothing(autojump_clock: trio.testing.MockClock) -> None:
    w = world(length=0, decryption_from_block_number=0, kms_operation_from_block_number=0)
    for number in range(1, 21):
        w.chain.mine(public_request(number))
    first = w.listener()
    await first.read_to(20)
    before = dict(w.store.rows)
    w.nodes[0].ranges.clear()
    second = w.listener()
    await second.rewind_to(5)
    assert {ref.number for ref in w.store.cursors.values()} == {4}
    await second.read_to(20)
    assert min(first for first, _ in w.nodes[0].ranges) <= 5
    assert w.store.rows == before
    assert w.store.withdrawn == []


async def test_a_replay_without_cursors_begins_at_its_block(autojump_clock: trio.testing.MockClock) -> None:
    w = world(length=0)
    for number in range(1, 21):
        w.chain.mine(public_request(number))
    listener = w.listener()
    await listener.rewind_to(7)
    await listener.read_to(20)
    assert w.ids() == list(range(7, 21))


async def test_a_replay_beyond_the_cursor_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    w = world(length=0, decryption_from_block_number=0)
    for number in range(1, 21):
        w.chain.mine(public_request(number))
    await w.listener().read_to(10)
    listener = w.listener()
    await listener.rewind_to(15)
    await listener.read_to(20)
    assert w.ids() == list(range(1, 21))


async def test_a_replay_with_a_dead_node_goes_on_with_the_other(autojump_clock: trio.testing.MockClock) -> None:
    w = world(nodes=2, length=0, decryption_from_block_number=0, kms_operation_from_block_number=0)
    for number in range(1, 21):
        w.chain.mine(public_request(number))
    await w.listener().read_to(20)
    w.nodes[0].down = True
    listener = w.listener()
    await listener.rewind_to(5)
    assert w.store.cursors["main", Stream.DECRYPTION].number == 20
    assert w.store.cursors["second", Stream.DECRYPTION].number == 4
    w.nodes[1].down = True
    with pytest.raises(DependencyDown):
        await w.listener().rewind_to(3)
