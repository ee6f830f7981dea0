"""Coalescers under a mock clock: batching, errors, bounds."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from kmsd.coalesce import Coalescer


class Recorder:
    """Answers doubled numbers and remembers the batches; holds them while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = trio.Event()
        self.gate.set()

    async def flush(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        await self.gate.wait()
        return [ValueError("odd") if item % 2 else item * 2 for item in items]


async def _ask(coalescer: Coalescer[int, int], item: int, answers: dict[int, object]) -> None:
    try:
        answers[item] = await coalescer.ask(item)
    except Exception as error:
        answers[item] = error


async def test_one_batch_answers_many_tasks_and_an_error_of_one_reaches_one(autojump_clock: object) -> None:
    recorder, answers = Recorder(), dict[int, object]()
    coalescer = Coalescer[int, int](recorder.flush, max_batch=100, linger=0.005)
    async with trio.open_nursery() as outer:
        outer.start_soon(coalescer.run)
        async with trio.open_nursery() as asking:
            for item in range(10):
                asking.start_soon(_ask, coalescer, item, answers)
        outer.cancel_scope.cancel()
    assert len(recorder.batches) == 1
    assert sorted(recorder.batches[0]) == list(range(10))
    assert [answers[item] for item in (0, 2, 4)] == [0, 4, 8]
    assert isinstance(answers[3], ValueError)


async def test_an_error_of_the_batch_reaches_every_waiter_and_the_next_batch_works(autojump_clock: object) -> None:
    answers: dict[int, object] = {}
    calls = 0

    async def flush(items: Sequence[int]) -> Sequence[int | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("gone")
        return list(items)

    coalescer = Coalescer[int, int](flush, max_batch=10)
    async with trio.open_nursery() as outer:
        outer.start_soon(coalescer.run)
        async with trio.open_nursery() as asking:
            for item in range(3):
                asking.start_soon(_ask, coalescer, item, answers)
        assert all(isinstance(answers[item], OSError) for item in range(3))
        await _ask(coalescer, 7, answers)
        outer.cancel_scope.cancel()
    assert answers[7] == 7


async def test_a_wrong_number_of_answers_is_an_error_of_everyone(autojump_clock: object) -> None:
    async def flush(items: Sequence[int]) -> Sequence[int | Exception]:
        return [1]

    coalescer = Coalescer[int, int](flush, max_batch=10, linger=0.01)
    answers: dict[int, object] = {}
    async with trio.open_nursery() as outer:
        outer.start_soon(coalescer.run)
        async with trio.open_nursery() as asking:
            asking.start_soon(_ask, coalescer, 1, answers)
            asking.start_soon(_ask, coalescer, 2, answers)
        outer.cancel_scope.cancel()
    assert all(isinstance(answer, RuntimeError) for answer in answers.values())


async def test_batches_are_bounded_and_run_side_by_side_up_to_the_concurrency(autojump_clock: object) -> None:
    recorder, answers = Recorder(), dict[int, object]()
    recorder.gate = trio.Event()
    coalescer = Coalescer[int, int](recorder.flush, max_batch=4, concurrency=2)
    async with trio.open_nursery() as outer:
        outer.start_soon(coalescer.run)
        async with trio.open_nursery() as asking:
            for item in range(0, 40, 2):
                asking.start_soon(_ask, coalescer, item, answers)
            await trio.testing.wait_all_tasks_blocked()
            assert [len(batch) for batch in recorder.batches] == [4, 4]
            recorder.gate.set()
        outer.cancel_scope.cancel()
    assert max(len(batch) for batch in recorder.batches) == 4
    assert answers == {item: item * 2 for item in range(0, 40, 2)}


async def test_a_cancelled_waiter_is_not_asked_for(autojump_clock: object) -> None:
    recorder = Recorder()
    coalescer = Coalescer[int, int](recorder.flush, max_batch=10, linger=1.0)
    answers: dict[int, object] = {}
    async with trio.open_nursery() as outer:
        outer.start_soon(coalescer.run)
        async with trio.open_nursery() as asking:
            asking.start_soon(_ask, coalescer, 2, answers)
            with trio.move_on_after(0.1):
                await coalescer.ask(4)
        outer.cancel_scope.cancel()
    assert recorder.batches == [[2]]


async def test_room_is_bounded(autojump_clock: object) -> None:
    recorder = Recorder()
    coalescer = Coalescer[int, int](recorder.flush, max_batch=10, capacity=3)
    answers: dict[int, object] = {}
    async with trio.open_nursery() as asking:
        for item in range(0, 12, 2):
            asking.start_soon(_ask, coalescer, item, answers)
        await trio.testing.wait_all_tasks_blocked()
        assert len(coalescer) == 3
        asking.cancel_scope.cancel()


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time that jumps when every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)
