"""Wake-ups coalesce, and losing one costs only a timeout."""

import trio
import trio.testing

from kmsd.operations.kinds import Kind
from kmsd.wakeups import WakeUp, WakeUps


async def test_many_rings_are_one_and_none_is_lost_while_nobody_waits() -> None:
    wake_up = WakeUp()
    for _ in range(100):
        wake_up.ring()
    assert await wake_up.wait(0)
    assert not await wake_up.wait(0)


async def test_a_ring_wakes_a_waiter() -> None:
    wake_up, woken = WakeUp(), []

    async def wait() -> None:
        woken.append(await wake_up.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        wake_up.ring()
    assert woken == [True]


async def test_kinds_without_response_ignore_response_rings() -> None:
    wake_ups = WakeUps()
    wake_ups.ring(Kind.PRSS_INIT, is_response=True)
    wake_ups.ring(Kind.KEYGEN, is_response=True)
    assert await wake_ups.responses[Kind.KEYGEN].wait(0)
    assert not await wake_ups.requests[Kind.PRSS_INIT].wait(0)
    assert Kind.PRSS_INIT not in wake_ups.responses
