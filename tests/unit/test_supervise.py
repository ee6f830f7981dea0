"""Supervision: what restarts, what adds up to an exit, what ends the daemon at once."""

import pytest
import trio
import trio.testing

from kmsd.ports import DependencyDown
from kmsd.supervise import FAILURE_PERIOD, LONGEST_WAIT, MAX_FAILURES, Fatal, find_fatal, restart_delay, supervise


class EvenEntropy:
    """No jitter: always a half."""

    def random(self) -> float:
        return 0.5

    def token(self, size: int) -> bytes:
        return bytes(size)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time that jumps when every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.mark.guarantee("PR2")
async def test_dependencies_that_are_down_never_add_up_to_an_exit(autojump_clock: object) -> None:
    runs = 0

    async def sibling() -> None:
        nonlocal runs
        runs += 1
        if runs <= 200:
            raise DependencyDown("database", "connection refused")

    await supervise("listener", sibling, EvenEntropy())
    assert runs == 201


@pytest.mark.guarantee("PR2")
async def test_groups_of_nothing_but_dependencies_count_as_dependencies(autojump_clock: object) -> None:
    runs = 0

    async def sibling() -> None:
        nonlocal runs
        runs += 1
        if runs <= 20:
            down = DependencyDown("gateway node main", "timeout")
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [down, down]), down])

    await supervise("listener", sibling, EvenEntropy())
    assert runs == 21


@pytest.mark.guarantee("PR2")
async def test_unexpected_exceptions_end_the_daemon_after_some_with_one_line(autojump_clock: object) -> None:
    runs = 0

    async def sibling() -> None:
        nonlocal runs
        runs += 1
        raise KeyError("surprise")

    with pytest.raises(Fatal, match="worker failed 5 times in 600 s, last: KeyError: 'surprise'"):
        await supervise("worker", sibling, EvenEntropy())
    assert runs == MAX_FAILURES


async def test_unexpected_exceptions_far_apart_do_not_add_up(autojump_clock: object) -> None:
    runs = 0

    async def sibling() -> None:
        nonlocal runs
        runs += 1
        if runs <= 3 * MAX_FAILURES:
            await trio.sleep(FAILURE_PERIOD / (MAX_FAILURES - 1))
            raise KeyError("rare")

    await supervise("worker", sibling, EvenEntropy())
    assert runs == 3 * MAX_FAILURES + 1


async def test_fatal_passes_at_once_also_out_of_groups() -> None:
    async def sibling() -> None:
        raise ExceptionGroup("nursery", [ValueError("noise"), Fatal("another network's database", 78)])

    with pytest.raises(Fatal) as caught:
        await supervise("listener", sibling, EvenEntropy())
    assert caught.value.exit_status == 78


async def test_cancellation_passes() -> None:
    with trio.move_on_after(0) as scope:
        await supervise("listener", trio.sleep_forever, EvenEntropy())
    assert scope.cancelled_caught


def test_restarts_back_off_to_half_a_minute() -> None:
    delays = [restart_delay(failures, EvenEntropy()) for failures in (1, 2, 3, 100)]
    assert delays == [0.375, 0.75, 1.5, 22.5]


def test_no_fatal_is_found_where_there_is_none() -> None:
    assert find_fatal(ExceptionGroup("x", [ValueError()])) is None


@pytest.mark.guarantee("PR2")
async def test_who_waits_for_a_dependency_is_never_more_than_seconds_late(autojump_clock: object) -> None:
    """However long the outage, its end is noticed within LONGEST_WAIT."""
    tries: list[float] = []

    async def sibling() -> None:
        tries.append(trio.current_time())
        if tries[-1] < 600.0:
            raise DependencyDown("database", "away")

    await supervise("gc", sibling, EvenEntropy())
    assert tries[-1] - 600.0 <= LONGEST_WAIT
    assert len(tries) > 100
