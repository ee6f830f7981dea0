"""The listener over a small world: nothing is skipped, whatever nodes and database do (EV1 to EV4, EV6, EV7)."""

import itertools
from typing import Any

import pytest
import trio
import trio.testing
from listener_world import (
    DECRYPTION,
    ChainNode,
    RawLog,
    World,
    activate_crs,
    activate_key,
    crsgen_request,
    public_request,
    raw,
    user_request,
    world,
)

from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import BlockRef, DependencyDown, RpcAnswer, RpcError
from kmsd.wire import otlp
from kmsd.wire.v0_11 import events


async def test_requests_of_all_kinds_facts_and_cursor(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1), user_request(1), crsgen_request(1))
        w.chain.mine(activate_crs(1), activate_key(), events.PrssInit())
        await w.read_up_to(12)
    assert set(w.store.rows) == {
        (Kind.PUBLIC_DECRYPTION, 1 << 248 | 1),
        (Kind.USER_DECRYPTION, 2 << 248 | 1),
        (Kind.CRSGEN, 5 << 248 | 1),
        (Kind.PRSS_INIT, 0),
    }
    assert [fact.name for fact in w.store.facts] == ["ActivateCrs", "ActivateKey"]
    arrival = w.store.rows[Kind.USER_DECRYPTION, 2 << 248 | 1].arrival
    assert arrival.event == user_request(1)
    assert arrival.content_hash == events.content_hash(user_request(1))
    assert (arrival.block_number, arrival.log_index) == (11, 1)
    trace = otlp.decode(arrival.otlp_context)["traceparent"].split("-")
    assert [len(part) for part in trace] == [2, 32, 16, 2]
    assert w.store.cursors["main", Stream.DECRYPTION] == BlockRef(12, w.chain.blocks[12].hash)
    assert w.metrics.value("kms_connector_gw_listener_event_received_counter", "public_decryption_request") == 1


@pytest.mark.guarantee("EV1")
async def test_events_and_cursor_are_one_record_from_scanned_ranges_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each record's arrivals lie in the range between the expected cursor and its end, and the ends follow on."""
    w = world(get_logs_batch_size=3)
    async with w.listening():
        await w.read_up_to(10)
        for number in range(1, 30):
            w.chain.mine(public_request(number))
        await w.read_up_to(39)
    records = [record for record in w.store.records if record.stream is Stream.DECRYPTION]
    assert records[0].expected is None
    for before, after in itertools.pairwise(records):
        assert after.expected == before.end
    for record in records[1:]:
        assert record.expected is not None
        for arrival in record.arrivals:
            assert record.expected.number < arrival.block_number <= record.end.number
        assert record.end == BlockRef(record.end.number, w.chain.blocks[record.end.number].hash)
    assert w.ids() == list(range(1, 30))


@pytest.mark.guarantee("EV1")
async def test_killed_anywhere_the_next_start_goes_on_where_the_store_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    w = world(get_logs_batch_size=2)
    async with w.listening():
        await w.read_up_to(10)
    for number in range(1, 41):
        w.chain.mine(public_request(number))
        async with w.listening():
            await trio.sleep(0.0007 * number)  # dies in the middle of something else each time
    async with w.listening():
        await w.stored(*range(1, 41))


@pytest.mark.guarantee("EV2")
@pytest.mark.parametrize("verb", ["record_range", "cursor"])
async def test_database_down_for_long_loses_nothing(autojump_clock: trio.testing.MockClock, verb: str) -> None:
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        w.store.fail = lambda asked: "down" if asked in (verb, "record_range") else None
        for number in range(1, 200):
            w.chain.mine(public_request(number))
            await trio.sleep(5)
        assert w.ids() == []
        w.store.fail = lambda asked: None
        healed = trio.current_time()
        await w.stored(*range(1, 200))
        assert trio.current_time() - healed < 15


@pytest.mark.guarantee("EV2")
@pytest.mark.parametrize("fault", ["down", "errors", "garbage", "nonsense logs"])
async def test_node_faults_only_add_latency(autojump_clock: trio.testing.MockClock, fault: str) -> None:
    w = world()
    node = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        node.down = fault == "down"
        if fault == "errors":
            node.refuse = lambda call: RpcAnswer(None, RpcError(-32000, "internal error"))
        elif fault == "garbage":
            node.refuse = lambda call: RpcAnswer("<html>")
        elif fault == "nonsense logs":
            node.refuse = lambda call: RpcAnswer([{"address": 7}]) if call.method == "eth_getLogs" else None
        for number in range(1, 100):
            w.chain.mine(public_request(number))
            await trio.sleep(10)
        assert w.ids() == []
        node.down, node.refuse = False, lambda call: None
        healed = trio.current_time()
        await w.stored(*range(1, 100))
        assert trio.current_time() - healed < 15


@pytest.mark.guarantee("EV3")
async def test_a_node_that_does_not_have_the_block_yet(autojump_clock: trio.testing.MockClock) -> None:
    """Behind a balancer the head comes from one backend and the range from another, which lacks it."""
    w = world()
    node = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        head = node._answer

        def lagging(call: Any) -> RpcAnswer | None:
            if call.method == "eth_getBlockByNumber" and call.params[0] == "latest":
                return head(call)
            if call.method == "eth_getLogs":
                return RpcAnswer([])
            return RpcAnswer(None) if int(call.params[0], 16) > 10 else None

        node.refuse = lagging
        await trio.sleep(30)
        assert w.store.cursors["main", Stream.DECRYPTION].number == 10, "an unproven range moved the cursor"
        node.refuse = lambda call: None
        await w.stored(1)


@pytest.mark.guarantee("EV3")
async def test_a_reorganisation_between_the_two_looks_proves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    node = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine()
        looks = 0

        def reorganise_once() -> None:
            nonlocal looks
            looks += 1
            if looks == 3:  # after the head and the cursor's block: between the range's last block and the logs
                w.chain.reorganise(1, [public_request(1)])

        node.between = reorganise_once
        await w.stored(1)
    assert w.store.cursors["main", Stream.DECRYPTION].hash in {block.hash for block in w.chain.blocks}


@pytest.mark.guarantee("EV3")
async def test_split_batches_of_a_balancer_are_caught_by_the_overlap(autojump_clock: trio.testing.MockClock) -> None:
    """`eth_getLogs` of a batch is answered by a backend that is two blocks behind, with an empty list."""
    w = world(rescan_overlap=2)
    node = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        node.lying_lag = 1
        for number in range(1, 20):
            w.chain.mine(public_request(number))
            await trio.sleep(2)
        node.lying_lag = 0
        w.chain.mine()
        await w.stored(*range(1, 20))


@pytest.mark.guarantee("EV4")
async def test_what_one_node_omits_another_reports(autojump_clock: trio.testing.MockClock) -> None:
    w = world(nodes=2)
    first, second = w.nodes
    first.omits = lambda log: int(log["blockNumber"], 16) % 2 == 0
    second.omits = lambda log: int(log["blockNumber"], 16) % 3 == 0
    async with w.listening():
        await w.read_up_to(10)
        for number in range(1, 100):
            w.chain.mine(*[] if (10 + number) % 6 == 0 else [public_request(number)])
            await trio.sleep(0.7)
        await w.stored(*[number for number in range(1, 100) if (10 + number) % 6])
        await trio.sleep(5)
    missed = "kms_connector_listener_events_missed_by_node"
    assert w.metrics.value(missed, "main") > 10
    assert w.metrics.value(missed, "second") > 5


@pytest.mark.guarantee("EV4")
async def test_a_dead_node_costs_nothing_and_returns(autojump_clock: trio.testing.MockClock) -> None:
    w = world(nodes=2)
    dead, alive = w.nodes
    async with w.listening():
        await w.read_up_to(10)
        dead.down = True
        for number in range(1, 50):
            w.chain.mine(public_request(number))
            mined = trio.current_time()
            await w.stored(*range(1, number + 1))
            assert trio.current_time() - mined < 3
        assert w.store.cursors["main", Stream.DECRYPTION].number == 10
        dead.down = False
        await w.read_up_to(59)
        assert alive.ranges


@pytest.mark.guarantee("EV4")
async def test_a_node_dead_for_long_is_alerted_and_holds_the_floor_no_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    w = world(nodes=2)
    dead, _ = w.nodes
    async with w.listening():
        await w.read_up_to(10)
        dead.down = True
        for _ in range(30):
            w.chain.mine()
            await trio.sleep(18)
        assert w.store.floors[Stream.DECRYPTION] == 10, "a node that was away for less than 10 min holds the floor"
        assert not w.health.alerts
        for _ in range(10):
            w.chain.mine()
            await trio.sleep(18)
        assert w.store.floors[Stream.DECRYPTION] > 45
        assert [alert.key for alert in w.health.alerts] == ["gateway node main is behind"]
        dead.down = False
        await w.read_up_to(50)
        await trio.sleep(15)
        assert not w.health.alerts
        assert w.store.floors[Stream.DECRYPTION] == 50


@pytest.mark.guarantee("EV4")
async def test_a_ceremony_that_one_node_alone_reports_is_alerted_within_ten_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    w = world(nodes=2)
    liar = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        block = w.chain.mine()
        forged = raw(crsgen_request(1))
        mined = w.chain.mine()
        liar.adds = [
            {
                "address": "0x" + forged.address.hex(),
                "topics": ["0x" + topic.hex() for topic in forged.topics],
                "data": "0x" + forged.data.hex(),
                "blockNumber": hex(block.number),
                "blockHash": "0x" + block.hash.hex(),
                "transactionHash": "0x" + "77" * 32,
                "logIndex": "0x0",
            }
        ]
        await w.stored(1, kind=Kind.CRSGEN)
        await trio.sleep(10)
        words = w.health.alerts[0].words
        assert "crsgen" in words
        assert "reported by node main alone" in words
        assert "not reported by: second" in words
        assert w.store.rows[Kind.CRSGEN, 5 << 248 | 1].confirmed_by == {"main"}
        assert all(r.needs_confirmation is (r.stream is Stream.KEY_MANAGEMENT) for r in w.store.records)
        assert mined.number == 12


async def test_a_ceremony_that_both_report_wakes_the_worker_again(autojump_clock: trio.testing.MockClock) -> None:
    w = world(nodes=2)
    late = w.nodes[1]
    async with w.listening():
        await w.read_up_to(10)
        late.down = True
        w.chain.mine(crsgen_request(1))
        await w.stored(1, kind=Kind.CRSGEN)
        assert await w.wakeups.requests[Kind.CRSGEN].wait(1)
        await trio.sleep(10)
        assert w.health.alerts
        late.down = False
        assert await w.wakeups.requests[Kind.CRSGEN].wait(30)
        assert w.store.rows[Kind.CRSGEN, 5 << 248 | 1].confirmed_by == {"main", "second"}
        await trio.sleep(3)
        assert not w.health.alerts


async def test_one_node_alone_needs_no_confirmation(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(crsgen_request(1))
        await w.stored(1, kind=Kind.CRSGEN)
        await trio.sleep(30)
    assert not any(record.needs_confirmation for record in w.store.records)
    assert not w.health.alerts


@pytest.mark.guarantee("EV6")
async def test_an_undecodable_log_goes_to_quarantine_and_stops_nothing(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    good = raw(public_request(1))
    bad = [
        RawLog(DECRYPTION, good.topics, good.data[:-32]),
        RawLog(DECRYPTION, good.topics[:1], good.data),
        RawLog(DECRYPTION, good.topics, b"\xff" * 64),
    ]
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1), *bad, public_request(2))
        w.chain.mine(public_request(3))
        await w.stored(1, 2, 3)
        await w.read_up_to(12)
    assert [one.log.log_index for one in w.store.quarantine] == [1, 2, 3]
    assert all(one.node == "main" and one.reason for one in w.store.quarantine)
    assert [one.log.data for one in w.store.quarantine] == [one.data for one in bad]
    assert w.metrics.value("kms_connector_gw_listener_event_received_errors", "public_decryption_request") == 3


async def test_logs_that_nobody_asked_for_are_dropped_and_counted(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    node = w.nodes[0]
    async with w.listening():
        await w.read_up_to(10)
        block = w.chain.mine(public_request(1))
        ours = dict(block.logs[0])
        node.adds = [
            {**ours, "address": "0x" + "99" * 20, "logIndex": "0x1"},
            {**ours, "topics": ["0x" + "98" * 32], "logIndex": "0x2"},
            {**ours, "removed": True, "logIndex": "0x3", "data": "0x"},
            {**ours, "blockNumber": "0x1", "blockHash": "0x" + w.chain.blocks[1].hash.hex(), "logIndex": "0x4"},
        ]
        await w.stored(1)
        await w.read_up_to(11)
    assert w.ids() == [1]
    assert not w.store.quarantine
    assert w.metrics.value("kms_connector_listener_strays", "main") >= 4


# ---------------------------------------------------------------------------------------------------------------------
# Where reading begins


@pytest.mark.guarantee("EV7")
async def test_an_empty_cursor_begins_at_the_head_and_says_so(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    w = world(length=0)
    for number in range(1, 6):
        w.chain.mine(public_request(number))
    async with w.listening():
        await w.read_up_to(5)
        w.chain.mine(public_request(6))
        await w.store.until(lambda: 6 in w.ids())
    assert not {1, 2, 3} & set(w.ids())
    assert "reading from the head, block 5; earlier requests are not served" in caplog.text
    assert min(first for first, _ in w.nodes[0].ranges) >= 3


@pytest.mark.guarantee("EV7")
async def test_the_beginning_does_not_move_with_the_head_while_faults_last(
    autojump_clock: trio.testing.MockClock,
) -> None:
    w = world()
    w.store.fail = lambda verb: "down" if verb == "record_range" else None
    async with w.listening():
        await trio.sleep(5)
        w.chain.mine(public_request(1))
        await trio.sleep(60)
        w.chain.mine(public_request(2))
        await trio.sleep(60)
        w.store.fail = lambda verb: None
        await w.stored(1, 2)


@pytest.mark.guarantee("EV7")
async def test_a_configured_block_counts_only_without_a_cursor(autojump_clock: trio.testing.MockClock) -> None:
    w = world(length=0, decryption_from_block_number=3, kms_operation_from_block_number=0)
    for number in range(1, 6):
        w.chain.mine(public_request(number), crsgen_request(number))
    async with w.listening():
        await w.stored(3, 4, 5)
        await w.stored(1, 2, 3, 4, 5, kind=Kind.CRSGEN)
        await w.read_up_to(5)
    w.nodes[0].ranges.clear()
    async with w.listening():
        w.chain.mine(public_request(6))
        await w.stored(3, 4, 5, 6)
    assert min(first for first, _ in w.nodes[0].ranges) >= 4, "the configured block was used again"


@pytest.mark.guarantee("EV7")
async def test_a_new_node_begins_where_its_stream_stands(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    async with w.listening():
        await w.read_up_to(10)
    for number in range(1, 6):
        w.chain.mine(public_request(number))
    w.nodes.append(ChainNode("second", w.chain))
    w.nodes[0].down = True
    async with w.listening():
        await w.stored(1, 2, 3, 4, 5)


@pytest.mark.guarantee("EV7")
async def test_the_cursor_of_the_rust_connector_is_adopted_with_some_blocks_to_spare(
    autojump_clock: trio.testing.MockClock,
) -> None:
    w = world(length=0)
    for number in range(1, 301):
        w.chain.mine(public_request(number))
    w.store.rust_cursor = 250
    async with w.listening():
        await w.read_up_to(300)
    assert w.ids() == list(range(151, 301))


async def test_confirmations_delay_reading(autojump_clock: trio.testing.MockClock) -> None:
    w = world(confirmations=3)
    async with w.listening():
        await w.read_up_to(7)
        w.chain.mine(public_request(1))
        w.chain.mine()
        w.chain.mine()
        await trio.sleep(20)
        assert w.ids() == []
        w.chain.mine()
        await w.stored(1)
    assert w.store.cursors["main", Stream.DECRYPTION].number == 11


# ---------------------------------------------------------------------------------------------------------------------
# Limits of nodes, catching up


async def test_a_backlog_is_read_within_the_nodes_limits(autojump_clock: trio.testing.MockClock) -> None:
    w = world(decryption_from_block_number=0, kms_operation_from_block_number=0)
    node = w.nodes[0]
    node.max_blocks, node.max_logs = 37, 40
    for number in range(1, 1001):
        w.chain.mine(public_request(2 * number - 1), public_request(2 * number))
    async with w.listening():
        await w.stored(*range(1, 2001), seconds=120)
    assert all(last - first < 37 for first, last in node.ranges[-5:])


async def test_one_block_beyond_a_limit_of_logs_is_still_read(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    w.nodes[0].max_logs = 20
    async with w.listening():
        await w.read_up_to(10)
        for block in range(10):
            w.chain.mine(*[public_request(20 * block + number) for number in range(1, 21)])
        await w.stored(*range(1, 201))


async def test_a_full_range_that_the_node_cannot_answer_in_time_gets_shorter(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A node that is cut off by long ranges, but answers otherwise, is asked for less."""
    w = world(decryption_from_block_number=0, kms_operation_from_block_number=0)
    node = w.nodes[0]
    node.chain.mine(public_request(1))
    for _ in range(2000):
        node.chain.mine()
    answer = node.batch

    async def slow(calls: Any, *, deadline: float) -> Any:
        for call in calls:
            if call.method == "eth_getLogs":
                asked = call.params[0]
                if int(asked["toBlock"], 16) - int(asked["fromBlock"], 16) > 100:
                    await trio.sleep(deadline)
                    node.down = True
                    try:
                        return await answer(calls, deadline=deadline)
                    finally:
                        node.down = False
        return await answer(calls, deadline=deadline)

    node.batch = slow  # type: ignore[method-assign]
    async with w.listening():
        await w.read_up_to(2011, seconds=600)
    assert w.ids() == [1]


@pytest.mark.guarantee("EV2")
async def test_a_range_that_is_too_much_for_the_database_gets_shorter_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Where one statement's deadline is too short for so many rows, the next try asks for half of them."""
    w = world(decryption_from_block_number=0)
    for block in range(64):
        w.chain.mine(*[public_request(10 * block + number) for number in range(1, 11)])
    store, tries = w.store.record_range, []

    async def record_range(record: Any) -> Any:
        if record.stream is Stream.DECRYPTION:
            tries.append(len(record.arrivals))
            if len(record.arrivals) > 100:
                raise DependencyDown("database", "no answer within the deadline", too_slow=True)
        return await store(record)

    w.store.record_range = record_range  # type: ignore[method-assign]
    async with w.listening():
        await w.stored(*range(1, 641))
    sizes = [size for size in tries if size]
    refused = sizes[: next(n for n, size in enumerate(sizes) if size <= 100)]
    assert len(refused) > 1
    assert all(shorter <= longer // 2 + 10 for longer, shorter in zip(refused, sizes[1:], strict=False))


async def test_memory_of_a_range_is_bounded_by_shorter_ranges(autojump_clock: trio.testing.MockClock) -> None:
    w = world(decryption_from_block_number=0)
    for block in range(150):
        w.chain.mine(*[public_request(100 * block + number) for number in range(1, 101)])
    async with w.listening():
        await w.stored(*range(1, 15001))
    sizes = [len(r.arrivals) for r in w.store.records if r.stream is Stream.DECRYPTION]
    assert sizes[0] <= 6400
    assert max(sizes[1:]) <= 2500


# ---------------------------------------------------------------------------------------------------------------------
# Hand-over


async def test_fresh_rows_are_handed_to_the_worker_as_far_as_it_has_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    w = world()
    w.hands.room[Kind.PUBLIC_DECRYPTION] = 3
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(*[public_request(number) for number in range(1, 6)], crsgen_request(1))
        await w.stored(1, 2, 3, 4, 5)
        assert await w.wakeups.requests[Kind.PUBLIC_DECRYPTION].wait(1), "two rows are left for a claim"
        await w.stored(1, kind=Kind.CRSGEN)
    assert [claimed.id & 0xFF for claimed in w.hands.delivered] == [1, 2, 3]
    assert {claimed.lease for claimed in w.hands.delivered} == {7}
    assert not any(w.hands.reserved.values())
    assert w.store.rows[Kind.CRSGEN, 5 << 248 | 1].owner is None


async def test_all_handed_over_rings_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    w.hands.room[Kind.PUBLIC_DECRYPTION] = 30
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        await w.stored(1)
        await w.read_up_to(11)
    assert not await w.wakeups.requests[Kind.PUBLIC_DECRYPTION].wait(0.1)
    assert w.hands.room[Kind.PUBLIC_DECRYPTION] == 29


async def test_no_hand_over_while_not_enrolled(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    w.hands.room[Kind.PUBLIC_DECRYPTION] = 3
    w.owner.current = None
    async with w.listening():
        await w.read_up_to(10)
        w.chain.mine(public_request(1))
        await w.stored(1)
    assert w.hands.delivered == []
    assert w.store.rows[Kind.PUBLIC_DECRYPTION, 1 << 248 | 1].owner is None


async def test_reservations_are_cancelled_when_the_commit_fails(autojump_clock: trio.testing.MockClock) -> None:
    w = world()
    w.hands.room[Kind.PUBLIC_DECRYPTION] = 3
    async with w.listening():
        await w.read_up_to(10)
        w.store.fail = lambda verb: "down" if verb == "record_range" else None
        w.chain.mine(public_request(1))
        await trio.sleep(10)
        assert w.hands.room[Kind.PUBLIC_DECRYPTION] == 3
        w.store.fail = lambda verb: None
        await w.stored(1)
    assert len(w.hands.delivered) == 1


@pytest.mark.guarantee("EV1")
async def test_a_commit_whose_answer_is_lost_is_not_repeated(autojump_clock: trio.testing.MockClock) -> None:
    """Whether it happened is asked of the cursor. (Rows that it leased are found by the worker's own sweep.)"""
    w = world()
    w.hands.room[Kind.PUBLIC_DECRYPTION] = 3
    async with w.listening():
        await w.read_up_to(10)
        w.store.fail = lambda verb: "lose" if verb == "record_range" else None
        for number in range(1, 4):
            w.chain.mine(public_request(number))
            await trio.sleep(5)
        w.store.fail = lambda verb: None
        await w.stored(1, 2, 3)
        w.chain.mine(public_request(4))
        await w.stored(1, 2, 3, 4)
        await trio.sleep(5)
    ends = [record.end.number for record in w.store.records if record.stream is Stream.DECRYPTION]
    assert ends == sorted(set(ends))
    assert not any(w.hands.reserved.values())


@pytest.mark.guarantee("EV1")
@pytest.mark.parametrize("fault", ["down", "lose"])
async def test_a_backlog_through_a_failing_database_has_no_gap(
    autojump_clock: trio.testing.MockClock, fault: str
) -> None:
    """The range read ahead belongs to one cursor only: after a fault the store says which one it is."""
    w = world(decryption_from_block_number=0, kms_operation_from_block_number=0, get_logs_batch_size=3)
    for number in range(1, 201):
        w.chain.mine(public_request(number))
    asked = itertools.count()

    def fail(verb: str) -> str | None:
        return fault if verb == "record_range" and next(asked) % 3 == 1 else None

    w.store.fail = fail
    w.store.latency = 0.01
    async with w.listening():
        await w.stored(*range(1, 201), seconds=3600)


async def test_two_daemons_on_one_database_read_together(autojump_clock: trio.testing.MockClock) -> None:
    w = world(get_logs_batch_size=5)
    other = World(w.nodes, w.store, w.settings)
    async with w.listening(), other.listening():
        await w.read_up_to(10)
        for number in range(1, 200):
            w.chain.mine(public_request(number))
            await trio.sleep(0.3)
        await w.stored(*range(1, 200))
    ends = [r.end.number for r in w.store.records if r.stream is Stream.DECRYPTION]
    assert ends == sorted(set(ends))
