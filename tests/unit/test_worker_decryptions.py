"""Decryptions through the whole worker: the good way, and every way in which it can go wrong (WK1 to WK6, QU5)."""

import itertools
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from worker_world import (
    BUCKET_1,
    KEY_ID,
    USER,
    World,
)

from kmsd.core.pb.kms import v1 as kms
from kmsd.operations.kinds import Kind
from kmsd.ports import BlobFault, CoreMethod, KeyAllowance, StatusCode
from kmsd.wire.v0_11.views import IS_DECRYPTION_DONE

SEND, POLL = CoreMethod.PUBLIC_DECRYPT, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT
LABEL = "public_decryption_request"


async def test_the_good_way(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1, handles=3)
    woken = world.wakeups.responses[Kind.PUBLIC_DECRYPTION]
    async with world.running():
        assert await woken.wait(30.0), "the sender is woken"
    assert row.status == "completed"
    assert row.fields is not None
    assert set(row.fields) == {"decrypted_result", "signature", "extra_data"}
    assert len(row.fields["decrypted_result"]) == 3 * 32
    assert world.core.count(SEND) == world.core.count(POLL) == 1
    assert world.metrics.value("kms_connector_worker_event_received_counter", LABEL) == 1
    assert world.metrics.value("kms_connector_worker_grpc_request_sent_counter", LABEL) == 1
    assert world.metrics.value("kms_connector_worker_grpc_response_polled_counter", LABEL) == 1
    assert world.metrics.value("kms_connector_worker_s3_ciphertext_retrieval_counter") == 3
    assert world.metrics.value("kms_connector_worker_decryption_latency_seconds", LABEL) == 1


async def test_user_decryptions_are_served_direct_and_delegated(autojump_clock: MockClock) -> None:
    world = World()
    rows = [world.user(1), world.user(2, delegated=True)]
    async with world.running():
        await world.until_settled()
    assert [row.status for row in rows] == ["completed", "completed"], [row.last_error for row in rows]
    assert all(row.fields is not None and "user_decrypted_shares" in row.fields for row in rows)


async def test_a_thousand_go_through_few_statements_and_requests(autojump_clock: MockClock) -> None:
    world = World()
    for number in range(1, 1001):
        world.public(number)
    async with world.running():
        await world.until_settled()
    assert world.store.counts() == {"completed": 1000}
    assert world.store.statements["claim"] < 60
    assert world.store.statements["answered"] < 500
    assert world.host.requests < 200


@pytest.mark.guarantee("WK5")
async def test_a_row_that_the_core_has_is_only_polled_for(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1)
    async with world.running():
        await world.until_settled()
    row.status, row.already_sent, row.fields = "pending", True, None
    world.host.down = world.gateway.down = world.gateway_two.down = True
    world.blobs.objects.clear()
    before = len(world.core.calls)
    async with World.running(world):
        world.wakeups.ring(Kind.PUBLIC_DECRYPTION, is_response=False)
        await world.until_settled()
    assert row.status == "completed"
    assert [method for _, method, _ in world.core.calls[before:]] == [POLL]


# ---------------------------------------------------------------------------------------------------------------------
# Answers of the Core (WK5): every row of the table of design.md, on send and on poll

TRIED_AGAIN = {
    StatusCode.UNAVAILABLE,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.UNKNOWN,
    StatusCode.CANCELLED,
    StatusCode.NOT_FOUND,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.PERMISSION_DENIED,
    StatusCode.UNAUTHENTICATED,
    StatusCode.UNIMPLEMENTED,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.ABORTED,
}
FAILED = {StatusCode.INVALID_ARGUMENT, StatusCode.OUT_OF_RANGE, StatusCode.DATA_LOSS}


@pytest.mark.guarantee("WK5")
@pytest.mark.parametrize("status", [one for one in StatusCode if one is not StatusCode.OK], ids=lambda one: one.name)
@pytest.mark.parametrize("method", [SEND, POLL], ids=["send", "poll"])
async def test_one_answer_of_each_status(autojump_clock: MockClock, method: CoreMethod, status: StatusCode) -> None:
    world = World()
    row = world.public(1)
    world.core.overrides[method].append(status)
    async with world.running():
        await world.until_settled()
    if status in FAILED:
        assert row.status == "failed"
        assert row.last_error is not None
        assert status.name in row.last_error
    else:
        assert row.status == "completed", row.last_error
        assert row.error_counter == (status is StatusCode.INTERNAL)


@pytest.mark.guarantee("WK5", "QU5")
@pytest.mark.parametrize("status", sorted(TRIED_AGAIN), ids=lambda one: one.name)
@pytest.mark.parametrize("method", [SEND, POLL], ids=["send", "poll"])
async def test_an_outage_of_ten_minutes_fails_nothing(
    autojump_clock: MockClock, method: CoreMethod, status: StatusCode
) -> None:
    world = World(decryption_time_budget=86_400.0, db_fast_event_polling=300.0)
    rows = [world.public(number) for number in range(1, 6)]
    world.core.always[method] = status
    async with world.running():
        await trio.sleep(600.0)
        assert {row.status for row in rows} <= {"pending", "under_process"}
        assert {row.error_counter for row in rows} == {0}
        del world.core.always[method]
        healed = trio.current_time()
        await world.until_settled()
        assert trio.current_time() - healed < 45.0
    assert {row.status for row in rows} == {"completed"}


@pytest.mark.guarantee("QU5")
async def test_an_unreachable_core_fails_nothing_however_long_it_takes(autojump_clock: MockClock) -> None:
    world = World(decryption_time_budget=60.0, db_fast_event_polling=300.0)
    row = world.public(1)
    world.core.down = True
    async with world.running():
        await trio.sleep(7200.0)
        assert row.status in ("pending", "under_process")
        assert row.last_error is not None
        assert "UNAVAILABLE" in row.last_error
        world.core.down = False
        await world.until_settled()
    assert row.status == "completed"


@pytest.mark.guarantee("QU5")
@pytest.mark.parametrize("method", [SEND, POLL], ids=["send", "poll"])
async def test_internal_counts_and_three_of_them_take_a_minute(autojump_clock: MockClock, method: CoreMethod) -> None:
    world = World()
    row = world.public(1)
    world.core.always[method] = StatusCode.INTERNAL
    began = trio.current_time()
    async with world.running():
        await world.until_settled()
        assert 60.0 <= trio.current_time() - began <= 200.0
    assert row.status == "failed"
    assert row.error_counter == 3
    assert row.last_error is not None
    assert "max_decryption_attempts" in row.last_error
    assert "INTERNAL" in row.last_error


@pytest.mark.guarantee("QU5")
async def test_the_first_retries_come_after_two_and_eight_seconds(autojump_clock: MockClock) -> None:
    world = World()
    world.public(1)
    world.core.always[SEND] = StatusCode.INTERNAL
    moments: list[float] = []
    original = world.core.call

    async def noting(shard: Any, method: CoreMethod, request: Any, *, deadline: float) -> Any:
        if method is SEND:
            moments.append(trio.current_time())
        return await original(shard, method, request, deadline=deadline)

    world.core.call = noting  # type: ignore[method-assign]
    async with world.running():
        await world.until_settled()
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert 2.0 <= pauses[0] <= 2.5
    assert 8.0 <= pauses[1] <= 8.5
    assert 30.0 <= pauses[2] <= 30.6


async def test_a_busy_core_is_asked_again_without_fetching_again(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1)
    world.core.overrides[SEND].extend([StatusCode.RESOURCE_EXHAUSTED] * 3)
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert row.attempts == 1
    assert len(world.blobs.gets) == 1


@pytest.mark.guarantee("WK5")
async def test_a_burnt_id_is_said_to_be_one(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1)
    world.core.latency = 1e9
    world.core.overrides[SEND].extend([StatusCode.NOT_FOUND, StatusCode.ALREADY_EXISTS])
    world.core.entries[world.core.shards[0].endpoint, Kind.PUBLIC_DECRYPTION, row.id] = _never()
    async with world.running():
        await world.until(lambda: row.last_error is not None and "burnt" in row.last_error)
        assert any("burnt" in alert.words for alert in world.health.alerts)
        polled = world.core.count(POLL)
        await trio.sleep(600.0)
        assert world.core.count(POLL) - polled <= 8
        assert row.status in ("pending", "under_process")
    assert world.metrics.value("kms_connector_burnt_ids", LABEL) >= 1


def _never() -> Any:
    from worker_world import Entry

    return Entry(float("inf"), None)


async def test_a_refusal_that_burnt_nothing_is_forgotten(autojump_clock: MockClock) -> None:
    """NOT_FOUND before the id was registered: the next send is OK, and a long computation is not called burnt."""
    world = World()
    row = world.public(1)
    world.core.latency = 200.0
    world.core.overrides[SEND].append(StatusCode.NOT_FOUND)
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert world.health.alerts == ()


# ---------------------------------------------------------------------------------------------------------------------
# Keys, and requests that others finished


async def test_nothing_is_sent_before_the_core_holds_the_key(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1)
    world.core.keys.clear()
    async with world.running():
        await trio.sleep(120.0)
        assert world.core.count(SEND) == 0
        assert row.last_error is not None
        assert "does not hold key:1" in row.last_error
        world.core.keys.add(f"{KEY_ID:064x}")
        await world.until_settled(60.0)
    assert row.status == "completed"
    assert row.error_counter == 0


@pytest.mark.parametrize("status", [StatusCode.UNIMPLEMENTED, StatusCode.UNAVAILABLE, StatusCode.INTERNAL])
async def test_a_core_that_does_not_say_which_keys_it_holds_is_sent_to(
    autojump_clock: MockClock, status: StatusCode
) -> None:
    world = World()
    row = world.public(1)
    world.core.always[CoreMethod.GET_KEY_MATERIAL_AVAILABILITY] = status
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert row.attempts == 1


async def test_the_availability_of_a_key_is_asked_once_per_shard(autojump_clock: MockClock) -> None:
    world = World(shards=2)
    for number in range(1, 101):
        world.public(number)
    async with world.running():
        await world.until_settled()
    assert world.core.count(CoreMethod.GET_KEY_MATERIAL_AVAILABILITY) == 2


async def test_the_registry_of_keys_is_obeyed(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1)
    world.store.allowances[KEY_ID] = KeyAllowance.NOTHING
    async with world.running():
        await trio.sleep(100.0)
        assert world.core.count(SEND) == 0
        assert row.last_error is not None
        assert "registry of keys allows nothing" in row.last_error
        world.store.allowances[KEY_ID] = KeyAllowance.DECRYPTION_ONLY
        await world.until_settled()
    assert row.status == "completed"


async def test_an_old_request_that_others_finished_is_completed_and_not_sent(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1, block_number=50)
    world.gateway.true_views.add(IS_DECRYPTION_DONE.encode(row.id))
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert row.fields is None
    assert row.note is not None
    assert "isDecryptionDone" in row.note
    assert world.core.count(SEND) == 0
    assert world.metrics.value("kms_connector_already_finished", LABEL) == 1


@pytest.mark.parametrize("method", [SEND, POLL], ids=["send", "poll"])
async def test_internal_for_a_request_that_others_finished_is_no_failure(
    autojump_clock: MockClock, method: CoreMethod
) -> None:
    world = World()
    row = world.public(1)
    world.core.always[method] = StatusCode.INTERNAL
    async with world.running():
        await world.until(lambda: row.error_counter == 1)
        world.gateway.true_views.add(IS_DECRYPTION_DONE.encode(row.id))
        await world.until_settled()
    assert row.status == "completed"
    assert row.note is not None


# ---------------------------------------------------------------------------------------------------------------------
# Results (WK6)


def _other_id(reply: kms.PublicDecryptionResponse) -> kms.PublicDecryptionResponse:
    assert reply.payload is not None
    reply.payload.request_id = kms.RequestId(request_id="01" + "f" * 62)
    return reply


@pytest.mark.guarantee("WK6", "QU5")
async def test_a_rejected_result_is_kept_counted_and_never_stored(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1)
    world.core.overrides[POLL].extend([_other_id] * 100)
    async with world.running():
        await world.until_settled()
    assert row.status == "failed"
    assert row.fields is None
    assert row.error_counter == 3
    assert row.last_error is not None
    assert "rejected: the request id" in row.last_error
    assert world.store.rejected[0].kind is Kind.PUBLIC_DECRYPTION
    assert world.store.rejected[0].raw
    assert world.core.count(SEND) == 1, "it is polled for again, not sent again"


@pytest.mark.guarantee("WK6")
async def test_a_result_of_another_signer_is_rejected_when_one_is_configured(autojump_clock: MockClock) -> None:
    world = World(kms_signer_address=USER)
    row = world.public(1)
    async with world.running():
        await world.until(lambda: bool(world.store.rejected))
    assert row.fields is None
    assert "signed by" in world.store.rejected[0].reason


# ---------------------------------------------------------------------------------------------------------------------
# Ciphertexts (WK2)


@pytest.mark.guarantee("WK2")
@pytest.mark.parametrize("fault", list(BlobFault), ids=lambda one: one.name)
async def test_a_bucket_with_a_fault_is_passed_over(autojump_clock: MockClock, fault: BlobFault) -> None:
    world = World()
    rows = [world.public(number) for number in range(1, 9)]
    world.blobs.faults[BUCKET_1] = fault
    async with world.running():
        await world.until_settled()
    assert {row.status for row in rows} == {"completed"}
    assert {row.attempts for row in rows} == {1}
