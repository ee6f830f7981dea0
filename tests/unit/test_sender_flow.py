"""The sender in a simulated world: delivery, windows, replacements, reorganisations, faults."""

import pytest
from sender_world import PUBLIC_BASE, World
from trio.testing import MockClock

from kmsd.operations.kinds import Kind
from kmsd.sandbox.node_double import Rules


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.mark.parametrize("rules", list(Rules))
async def test_every_waiting_response_lands_once(rules: Rules, autojump_clock: MockClock) -> None:
    world = World(rules)
    for i in range(300):
        world.store.add(Kind.PUBLIC_DECRYPTION, PUBLIC_BASE + i)
    async with world.running():
        await world.until(world.all_completed)
    world.check_votes(300)
    world.check_one_calldata_per_nonce()
    assert world.chain.nonces[world.wallet.address] == 300
