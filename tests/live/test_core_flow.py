"""Decryptions by the hundred through windows, as a worker sends them: a busy Core slows us, fails nothing (WK5)."""

import core_asking as ask
import pytest
import trio

from kmsd.core import requests
from kmsd.core.client import GrpcCore, open_core
from kmsd.core.endpoints import parse_shards
from kmsd.core.status import Phase, Verdict, verdict
from kmsd.operations.table import Family
from kmsd.ports import CoreMethod
from kmsd.sandbox.core_double_process import running_double

pytestmark = pytest.mark.guarantee("WK5")


async def _serve(core: GrpcCore, number: int, seen: dict[Verdict, int]) -> None:
    """One decryption from send to checked result, with the verdicts of the table and nothing else."""
    shard = core.shards[number % len(core.shards)]
    pause = 0.02
    async with core.window(shard).slot():
        sent = False
        while True:
            phase = Phase.POLL if sent else Phase.SEND
            if sent:
                method, request = CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, requests.poll(ask.public_id(number))
            else:
                method, request = CoreMethod.PUBLIC_DECRYPT, ask.public(number)
            answer = await core.call(shard, method, request, deadline=20)
            found = verdict(phase, Family.DECRYPTION, answer.status)
            seen[found] = seen.get(found, 0) + 1
            match found:
                case Verdict.SENT:
                    sent = True
                case Verdict.RESULT:
                    ask.check_public(answer.message, number, None)
                    return
                case Verdict.BUSY | Verdict.RETRY:
                    await trio.sleep(pause)
                    pause = min(1.0, pause * 2)
                case Verdict.RESEND:
                    sent = False
                case Verdict.POLL_AGAIN:
                    await trio.sleep(0.02)
                case _:
                    raise AssertionError(f"{found} for {answer}")


async def test_a_core_with_little_room() -> None:
    """It takes 30 at a time; 600 come at once. The window finds its size; all are served, few are told to wait."""
    options = ("--key", ask.KEY_TEXT, "--latency-ms", "30", "--rate-tokens", "30")
    seen: dict[Verdict, int] = {}
    async with running_double(*options) as double, open_core(parse_shards((double.endpoint,))) as core:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(600):
                    nursery.start_soon(_serve, core, number, seen)
        window = core.window(core.shards[0])
        assert window.limit <= 64
        assert window.busy_answers == seen[Verdict.BUSY]
        stats = await double.stats()
    assert seen[Verdict.RESULT] == 600
    assert seen[Verdict.BUSY] < 600
    assert stats["tokens_held"] == 0


async def test_a_core_whose_store_is_full() -> None:
    options = ("--key", ask.KEY_TEXT, "--latency-ms", "30", "--dec-capacity", "40", "--min-dec-cache", "5")
    seen: dict[Verdict, int] = {}
    async with running_double(*options) as double, open_core(parse_shards((double.endpoint,))) as core:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(300):
                    nursery.start_soon(_serve, core, number, seen)
    assert seen[Verdict.RESULT] == 300


async def test_a_core_that_restarts_in_the_middle() -> None:
    """Killed with 300 in flight and started again: it forgot them, they are sent again, all are served."""
    options = ("--key", ask.KEY_TEXT, "--latency-ms", "50")
    seen: dict[Verdict, int] = {}
    async with running_double(*options) as double:
        port = str(double.port)
        async with open_core(parse_shards((double.endpoint,))) as core, trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(_serve, core, number, seen)
            with trio.fail_after(20):
                while seen.get(Verdict.RESULT, 0) < 50:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await double.kill()
            again = await nursery.start(_again, (*options, "--port", port))
            with trio.fail_after(60):
                while seen[Verdict.RESULT] < 300:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            again.cancel()
    assert seen[Verdict.RETRY] + seen.get(Verdict.POLL_AGAIN, 0) > 0


async def _again(options: tuple[str, ...], task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        async with running_double(*options):
            task_status.started(scope)
            await trio.sleep_forever()


async def test_two_shards_with_one_of_them_busy() -> None:
    """Each has its own window: the idle one is not slowed by its neighbour."""
    options = ("--key", ask.KEY_TEXT, "--latency-ms", "10")
    seen: dict[Verdict, int] = {}
    async with (
        running_double(*options, "--rate-tokens", "4") as busy,
        running_double(*options) as idle,
        open_core(parse_shards((busy.endpoint, idle.endpoint))) as core,
    ):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(_serve, core, number, seen)
        states = core.states()
    assert states[0].busy_answers > 0
    assert states[1].busy_answers == 0
    assert states[0].window < states[1].window
    assert seen[Verdict.RESULT] == 200
