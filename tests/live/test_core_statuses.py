"""Every status of the table over real gRPC, said by a real Core double, and what the client makes of it (WK5)."""

from collections.abc import AsyncIterator

import core_asking as ask
import pytest
import trio

from kmsd.core import requests
from kmsd.core.client import GrpcCore, open_core
from kmsd.core.endpoints import parse_shards
from kmsd.core.status import TABLE, Phase, Verdict, verdict
from kmsd.operations.table import Family
from kmsd.ports import CoreAnswer, CoreMethod, StatusCode
from kmsd.sandbox.core_double_process import RunningDouble, running_double

pytestmark = pytest.mark.guarantee("WK5")

CALLS = {
    (Phase.SEND, Family.DECRYPTION): (CoreMethod.PUBLIC_DECRYPT, ask.public(1)),
    (Phase.POLL, Family.DECRYPTION): (CoreMethod.GET_USER_DECRYPTION_RESULT, requests.poll(ask.user_id(1))),
    (Phase.SEND, Family.CEREMONY): (CoreMethod.KEY_GEN, requests.key_gen(ask.KEY, 3 << 248 | 1, ask.KMS_GENERATION)),
    (Phase.POLL, Family.CEREMONY): (CoreMethod.GET_CRS_GEN_RESULT, requests.poll(5 << 248 | 1)),
}


@pytest.fixture
async def double() -> AsyncIterator[RunningDouble]:
    async with running_double("--key", ask.KEY_TEXT, "--long-poll", "0.2") as running:
        yield running


@pytest.fixture
async def core(double: RunningDouble) -> AsyncIterator[GrpcCore]:
    async with open_core(parse_shards((double.endpoint,))) as opened:
        yield opened


async def _call(core: GrpcCore, method: CoreMethod, request: object, deadline: float = 10.0) -> CoreAnswer:
    return await core.call(core.shards[0], method, request, deadline=deadline)  # type: ignore[arg-type]


async def _nothing_open(double: RunningDouble) -> None:
    with trio.fail_after(10):
        while (await double.stats())["open_calls"]:  # noqa: ASYNC110  # another process can only be asked
            await trio.sleep(0.01)


async def test_every_cell_over_the_wire(double: RunningDouble, core: GrpcCore) -> None:
    """The double says each status in each phase of each family; the client hands it on, with no message unless OK."""
    for (phase, family, status), expected in TABLE.items():
        if status is StatusCode.OK or expected is Verdict.PAUSE_SHARD:
            continue  # OK: below; pauses: test_unusable_core_is_paused
        method, request = CALLS[phase, family]
        await double.fault(method=method.value, status=status.name)
        answer = await _call(core, method, request)
        assert (answer.status, answer.message) == (status, None)
        assert verdict(phase, family, answer.status) is expected


@pytest.mark.parametrize("status", ["FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"])
async def test_unusable_core_is_paused_for_that_operation_alone(
    double: RunningDouble, core: GrpcCore, status: str
) -> None:
    await double.fault(method="PublicDecrypt", status=status, count=-1)
    answer = await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1))
    assert answer.status.name == status
    calls = (await double.stats())["calls"]["PublicDecrypt"]
    for method, request in (
        (CoreMethod.PUBLIC_DECRYPT, ask.public(2)),
        (CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, requests.poll(ask.public_id(1))),
    ):
        answer = await _call(core, method, request)
        assert answer.status is StatusCode.UNAVAILABLE  # blames nobody: RETRY or POLL_AGAIN
        assert status in answer.detail
    assert (await double.stats())["calls"]["PublicDecrypt"] == calls  # and is not asked
    assert status in core.states()[0].paused[CoreMethod.PUBLIC_DECRYPT]
    assert (await _call(core, CoreMethod.USER_DECRYPT, ask.user(1))).status is StatusCode.OK
    assert (await core.health(core.shards[0])).status is StatusCode.OK


async def test_a_paused_core_is_used_again_by_itself(
    double: RunningDouble, core: GrpcCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsd.core.failover.PAUSE_FIRST", 0.05)
    await double.fault(method="PublicDecrypt", status="UNAUTHENTICATED", count=2)
    assert (await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1))).status is StatusCode.UNAUTHENTICATED
    with trio.fail_after(10):
        while (answer := await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1))).status is not StatusCode.OK:
            assert answer.status in (StatusCode.UNAVAILABLE, StatusCode.UNAUTHENTICATED)
            await trio.sleep(0.01)
    assert core.states()[0].paused == {}


async def test_a_question_that_is_unimplemented_pauses_nothing(double: RunningDouble, core: GrpcCore) -> None:
    await double.fault(method="GetKeyMaterialAvailability", status="UNIMPLEMENTED")
    assert (await core.key_availability(core.shards[0])).status is StatusCode.UNIMPLEMENTED
    answer = await core.key_availability(core.shards[0])
    assert answer.message.fhe_key_ids == [ask.KEY_TEXT]


async def test_send_and_result(double: RunningDouble, core: GrpcCore) -> None:
    assert (await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(7))).status is StatusCode.OK
    answer = await _call(core, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, requests.poll(ask.public_id(7)))
    result = ask.check_public(answer.message, 7, double.signer)
    assert result.fields["decrypted_result"] == (5).to_bytes(32, "big") + (6).to_bytes(32, "big")
    assert (await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(7))).status is StatusCode.ALREADY_EXISTS
    again = await _call(core, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, requests.poll(ask.public_id(7)))
    assert again.message == answer.message

    assert (await _call(core, CoreMethod.USER_DECRYPT, ask.user(7))).status is StatusCode.OK
    answer = await _call(core, CoreMethod.GET_USER_DECRYPTION_RESULT, requests.poll(ask.user_id(7)))
    ask.check_user(answer.message, double.signer)


async def test_a_long_poll_blocks_and_then_says_unavailable(double: RunningDouble, core: GrpcCore) -> None:
    await double.settings(latency_ms=60_000)
    assert (await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1))).status is StatusCode.OK
    began = trio.current_time()
    answer = await _call(core, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, requests.poll(ask.public_id(1)))
    assert answer.status is StatusCode.UNAVAILABLE
    assert trio.current_time() - began >= 0.2


async def test_a_poll_returns_as_soon_as_the_result_is_there(double: RunningDouble, core: GrpcCore) -> None:
    await double.settings(latency_ms=300, long_poll=30)
    assert (await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1))).status is StatusCode.OK
    began = trio.current_time()
    answer = await _call(core, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, requests.poll(ask.public_id(1)), 40)
    assert answer.status is StatusCode.OK
    assert trio.current_time() - began < 5


@pytest.mark.guarantee("WK3")
@pytest.mark.parametrize("method", ["PublicDecrypt", "GetPublicDecryptionResult", "Check"])
async def test_a_core_that_never_answers_meets_the_deadline(double: RunningDouble, core: GrpcCore, method: str) -> None:
    await double.fault(method=method, hang=True)
    with trio.fail_after(30.0):
        answer = await _call(core, CoreMethod(method), ask.public(1), 0.3)
    assert answer.status is StatusCode.DEADLINE_EXCEEDED
    await _nothing_open(double)  # the stream was reset at the Core


async def test_a_cancelled_call_is_reset_at_the_core(double: RunningDouble, core: GrpcCore) -> None:
    await double.fault(method="PublicDecrypt", hang=True)
    with trio.move_on_after(0.2) as scope:
        await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1), 60)
    assert scope.cancelled_caught
    await _nothing_open(double)
    assert (await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(2))).status is StatusCode.OK


async def test_a_lost_reply_of_a_send_is_found_as_already_exists(double: RunningDouble, core: GrpcCore) -> None:
    await double.fault(method="PublicDecrypt", hang=True, perform=True)
    assert (await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1), 0.3)).status is StatusCode.DEADLINE_EXCEEDED
    assert (await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1))).status is StatusCode.ALREADY_EXISTS


async def test_an_undecodable_reply_is_internal(double: RunningDouble, core: GrpcCore) -> None:
    assert (await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1))).status is StatusCode.OK
    await double.fault(method="GetPublicDecryptionResult", result="garbage")
    answer = await _call(core, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, requests.poll(ask.public_id(1)))
    assert answer.status is StatusCode.INTERNAL


async def test_nobody_listens() -> None:
    async with open_core(parse_shards(("http://127.0.0.1:1",))) as core:
        answer = await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1))
        assert answer.status is StatusCode.UNAVAILABLE
        assert "cannot connect" in answer.detail


async def test_busy_shrinks_the_window_and_acceptance_opens_it(double: RunningDouble, core: GrpcCore) -> None:
    window = core.window(core.shards[0])
    await double.fault(method="PublicDecrypt", status="RESOURCE_EXHAUSTED")
    await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(1))
    assert (window.limit, window.busy_answers) == (32, 1)
    await double.fault(method="UserDecrypt", status="ABORTED")  # its store is full
    await _call(core, CoreMethod.USER_DECRYPT, ask.user(1))
    assert window.limit == 16
    await double.fault(method="GetUserDecryptionResult", status="RESOURCE_EXHAUSTED")
    await _call(core, CoreMethod.GET_USER_DECRYPTION_RESULT, requests.poll(ask.user_id(1)))
    assert window.limit == 8
    await double.fault(method="KeyGenPreproc", status="RESOURCE_EXHAUSTED")  # ceremonies say nothing about it
    await _call(core, CoreMethod.KEY_GEN_PREPROC, requests.key_gen_preproc(3 << 248 | 1, 0, ask.KMS_GENERATION))
    assert window.limit == 8

    async def decrypt(number: int) -> None:
        async with window.slot():
            await _call(core, CoreMethod.PUBLIC_DECRYPT, ask.public(number))

    async with trio.open_nursery() as nursery:
        for number in range(100, 200):
            nursery.start_soon(decrypt, number)
    assert window.limit > 8
