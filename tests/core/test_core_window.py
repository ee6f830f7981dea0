"""The window: additive increase, multiplicative decrease, first come first served."""

import pytest
import trio
import trio.testing

from kmsd.core.window import START, Aimd, Window


def test_starts_at_64_and_doubles_each_round_until_busy() -> None:
    aimd = Aimd(maximum=1000)
    assert aimd.size == START == 64
    for _ in range(64):
        aimd.accepted(in_flight=aimd.size)
    assert aimd.size == 128


def test_never_above_the_maximum_nor_below_one() -> None:
    aimd = Aimd(maximum=70)
    for _ in range(1000):
        aimd.accepted(in_flight=aimd.size)
    assert aimd.size == 70
    for second in range(20):
        aimd.busy(began=second, now=second + 0.5)
    assert aimd.size == 1
    assert Aimd(maximum=3).size == 3
    with pytest.raises(ValueError, match="at least 1"):
        Aimd(maximum=0)


def test_one_cut_a_round() -> None:
    aimd = Aimd(maximum=1000)
    assert aimd.busy(began=1.0, now=2.0)
    assert aimd.size == 32
    for _ in range(50):  # answers to calls that were under way when the limit was cut
        assert not aimd.busy(began=1.5, now=2.1)
    assert aimd.size == 32
    assert aimd.busy(began=2.0, now=2.5)
    assert aimd.size == 16


def test_grows_by_one_a_round_after_busy() -> None:
    aimd = Aimd(maximum=1000)
    aimd.busy(began=0.0, now=1.0)
    for _ in range(33):
        aimd.accepted(in_flight=32)
    assert aimd.size == 33


def test_an_unused_window_does_not_grow() -> None:
    aimd = Aimd(maximum=1000)
    for _ in range(500):
        aimd.accepted(in_flight=10)
    assert aimd.size == START


async def test_slots_are_given_in_order_of_arrival() -> None:
    window = Window(maximum=1)
    order: list[int] = []

    async def take(number: int) -> None:
        async with window.slot():
            order.append(number)
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(take, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == [0, 1, 2, 3, 4]
    assert window.in_flight == 0


async def test_a_cut_holds_back_new_slots_until_enough_are_free(autojump_clock: trio.testing.MockClock) -> None:
    window = Window(maximum=1000)
    taken = 0
    release = trio.Event()

    async def take() -> None:
        nonlocal taken
        async with window.slot():
            taken += 1
            await release.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        assert taken == START
        assert window.waiting == 100 - START
        await trio.sleep(1)
        window.busy(began=trio.current_time())
        assert (window.limit, window.in_flight, window.busy_answers) == (32, START, 1)
        release.set()
    assert taken == 100


async def test_cancelled_waiters_leave_no_trace() -> None:
    window = Window(maximum=1)
    async with window.slot():
        with trio.move_on_after(0):
            async with window.slot():
                raise AssertionError("two slots of one")
    assert window.in_flight == 0
    async with window.slot():
        pass
