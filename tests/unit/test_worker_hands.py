"""Rows leased to us that no statement will ever bring into our hands: which they are, and which only look so (QU1)."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from store_world import event_of, request_id

from kmsd.operations.kinds import Kind
from kmsd.ports import Claimed, DependencyDown
from kmsd.working.hands import Hands

PUBLIC = Kind.PUBLIC_DECRYPTION
Key = tuple[Kind, int]


def row(number: int) -> Claimed:
    """A public decryption leased to us."""
    return Claimed(
        kind=PUBLIC,
        id=request_id(PUBLIC, number),
        event=event_of(PUBLIC, number),
        tx_hash=None,
        block_number=1,
        block_hash=bytes(32),
        log_index=0,
        already_sent=False,
        error_counter=0,
        attempts=1,
        core_shard=None,
        refusal=None,
        budget_age=0.0,
        created_at=0.0,
        otlp_context=b"",
        lease=7,
    )


def key(one: Claimed) -> Key:
    """What names it."""
    return one.kind, one.id


class Statement:
    """One statement that leases rows: open until `ends`, and then its rows arrive, or its answer is lost."""

    def __init__(self, hands: Hands, rows: Sequence[Claimed], *, lost: bool = False) -> None:
        self._hands, self._rows, self._lost = hands, rows, lost
        self.ends = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until its answer."""
        try:
            with self._hands.leasing():
                task_status.started()
                await self.ends.wait()
                if self._lost:
                    raise DependencyDown("database", "connection lost")
                self._hands.take(self._rows)
        except DependencyDown:
            pass


@pytest.fixture
def hands() -> Hands:
    """With room for ten of a kind, serving."""
    hands = Hands(10)
    hands.open(lambda row: None)
    return hands


async def look(hands: Hands, *found: Claimed) -> list[Key]:
    """What a look finds to be leased in vain, where the database says that `found` are ours."""

    async def leased() -> list[Key]:
        return [key(one) for one in found]

    return list(await hands.leased_in_vain(leased))


@pytest.mark.guarantee("QU1")
async def test_a_lease_of_a_lost_answer_is_found_and_rings_at_once(hands: Hands, nursery: trio.Nursery) -> None:
    lost = Statement(hands, [row(1)], lost=True)
    await nursery.start(lost.run)
    assert not await hands.in_doubt.wait(0.0)
    lost.ends.set()
    await trio.testing.wait_all_tasks_blocked()
    assert await hands.in_doubt.wait(0.0)
    assert await look(hands, row(1)) == [key(row(1))]


@pytest.mark.guarantee("QU1")
async def test_rows_in_hand_and_rows_on_their_way_stay(hands: Hands, nursery: trio.Nursery) -> None:
    """Two statements are open when the database is asked: one brings its row afterwards, the other's answer is lost."""
    hands.take([row(1)])
    arriving, lost = Statement(hands, [row(2)]), Statement(hands, [row(3)], lost=True)
    for statement in (arriving, lost):
        await nursery.start(statement.run)
    found: list[Key] = []

    async def looking() -> None:
        found.extend(await look(hands, row(1), row(2), row(3)))

    async with trio.open_nursery() as looks:
        looks.start_soon(looking)
        await trio.testing.wait_all_tasks_blocked()
        assert not found  # both are waited for
        arriving.ends.set()
        await trio.testing.wait_all_tasks_blocked()
        lost.ends.set()
    assert found == [key(row(3))]


@pytest.mark.guarantee("QU1")
async def test_a_row_that_comes_and_goes_during_the_look_stays(hands: Hands, nursery: trio.Nursery) -> None:
    """It was ours, ended, and may have been claimed again since: nothing can be said about it."""
    first, second = row(1), row(2)
    quick = Statement(hands, [second])
    await nursery.start(quick.run)
    hands.take([first])

    async def leased() -> list[Key]:
        hands.let_go(first)
        quick.ends.set()
        await trio.testing.wait_all_tasks_blocked()
        hands.let_go(second)
        return [key(row(1)), key(row(2))]

    assert list(await hands.leased_in_vain(leased)) == []
    assert await look(hands, row(1)) == [key(row(1))]  # the next look finds what is then still there


async def test_a_look_that_fails_leaves_nothing_behind(hands: Hands) -> None:
    async def leased() -> list[Key]:
        raise DependencyDown("database", "gone")

    with pytest.raises(DependencyDown):
        await hands.leased_in_vain(leased)
    assert await look(hands, row(1)) == [key(row(1))]
