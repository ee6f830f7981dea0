"""The pace at which a throttled signer is asked against a service with a quota, in virtual time."""

import math

import pytest
import trio
from trio.testing import MockClock

from kmsd.chain.wallet_aws_pace import LEAST, Pace

CALLERS = 16
LATENCY = 0.02


class Service:
    """Serves `quota` calls a second, `burst` of them at once, and throttles the others."""

    def __init__(self, quota: float, burst: float) -> None:
        self.quota, self.burst = quota, burst
        self._tokens, self._filled_at = burst, 0.0
        self.served = self.throttled = 0

    async def call(self) -> bool:
        now = trio.current_time()
        self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.quota)
        self._filled_at = now
        granted = self._tokens >= 1.0
        self._tokens -= granted
        self.served += granted
        self.throttled += not granted
        await trio.sleep(LATENCY)
        return granted


async def ask(pace: Pace, service: Service, seconds: float) -> None:
    """Callers side by side that have always something to ask."""

    async def caller() -> None:
        while True:
            await pace.turn()
            asked_at = trio.current_time()
            if await service.call():
                pace.answered()
            else:
                pace.throttled(asked_at)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(caller)


@pytest.mark.parametrize(("quota", "burst"), [(8.0, 5.0), (50.0, 5.0), (300.0, 50.0)])
async def test_nearly_the_whole_quota_is_used_and_little_is_throttled(
    quota: float, burst: float, autojump_clock: MockClock
) -> None:
    pace, service = Pace(), Service(quota, burst)
    await ask(pace, service, 15.0)  # finding it out
    service.served = service.throttled = 0
    await ask(pace, service, 20.0)
    assert service.served > 0.9 * 20 * quota
    assert service.throttled < 0.1 * service.served


async def test_a_larger_quota_is_found_within_seconds(autojump_clock: MockClock) -> None:
    pace, service = Pace(), Service(10.0, 5.0)
    await ask(pace, service, 20.0)
    service.quota = 400.0
    await ask(pace, service, 15.0)
    assert pace.rate > 300.0


async def test_without_throttling_there_is_no_pace(autojump_clock: MockClock) -> None:
    pace = Pace()
    for _ in range(100):
        await pace.turn()
        pace.answered()
    assert trio.current_time() == 0.0
    assert pace.rate == math.inf


async def test_a_service_that_grants_nothing_is_asked_now_and_then(autojump_clock: MockClock) -> None:
    pace, service = Pace(), Service(0.0, 0.0)
    await ask(pace, service, 30.0)
    assert pace.rate == LEAST
    assert service.throttled < 30 * LEAST + CALLERS * 2


async def test_calls_that_were_under_way_at_once_slow_down_once(autojump_clock: MockClock) -> None:
    pace = Pace()
    for _ in range(100):
        await trio.sleep(0.01)
        pace.answered()
    asked_at = trio.current_time()
    await trio.sleep(LATENCY)
    for _ in range(CALLERS):
        pace.throttled(asked_at)
    assert 80 < pace.rate < 100
