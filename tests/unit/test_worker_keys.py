"""What the worker makes of the registry of keys: what is forbidden waits or fails in words, activation follows the
chain, and a new or adopted daemon refuses nothing.
"""

from typing import Any

import pytest
import trio
from trio.testing import MockClock
from worker_world import KEY_ID, World

from kmsd.operations.key_states import SETTABLE, STATES, KeyState, objection
from kmsd.ports import CoreMethod, KeyAllowance
from kmsd.wire import ids
from kmsd.wire.v0_11 import views
from kmsd.wire.v0_11.structs import KeyDigest, KeyType

SEND = CoreMethod.PUBLIC_DECRYPT


def registered(state: str, reason: str) -> dict[str, Any]:
    """A row of the registry that an operator decided on."""
    return {
        "kind": "key",
        "id": f"{KEY_ID:064x}",
        "state": state,
        "by_operator": True,
        "changed_by": "ann@vault",
        "reason": reason,
    }


def contract_gives_materials(world: World) -> None:
    """The contract knows the key as generated and activated."""
    materials = views.KeyMaterials(("https://vault",), (KeyDigest(KeyType.SERVER, b"\1" * 32),))
    for node in (world.gateway, world.gateway_two):
        node.returns[views.GET_KEY_MATERIALS.encode(KEY_ID)] = views.GET_KEY_MATERIALS.encode_return(materials)


async def test_a_destroyed_key_lets_decryptions_wait_in_words(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1)
    world.store.allowances[KEY_ID] = KeyAllowance.NOTHING
    world.store.registry = [registered("destroyed", "shares were lost")]
    async with world.running():
        await world.until(lambda: row.last_error is not None)
        assert row.status == "pending"
        assert row.last_error == (
            f"the registry of keys allows nothing under {ids.short(KEY_ID)}, which is destroyed (set by ann@vault: "
            "shares were lost); see kmsd keys"
        )
        assert world.core.count(SEND) == 0


@pytest.mark.guarantee("QU8")
async def test_or_fail_at_once_as_the_operator_chose(autojump_clock: MockClock) -> None:
    world = World(forbidden_key="fail")
    row = world.public(1)
    world.store.allowances[KEY_ID] = KeyAllowance.NOTHING
    world.store.registry = [registered("destroyed", "shares were lost")]
    async with world.running():
        await world.until(lambda: row.status == "failed")
    assert "destroyed (set by ann@vault: shares were lost)" in str(row.last_error)
    assert world.metrics.value("kms_connector_failures", "public_decryption", "key refused") == 1
    assert world.core.count(SEND) == 0


@pytest.mark.parametrize("state", [state for state in KeyState if STATES[state].allows is not KeyAllowance.NOTHING])
async def test_states_that_allow_decryption(autojump_clock: MockClock, state: KeyState) -> None:
    world = World(forbidden_key="fail")
    row = world.public(1)
    world.store.allowances[KEY_ID] = STATES[state].allows
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"


async def test_a_key_that_the_contract_gives_is_active_for_an_adopted_daemon(autojump_clock: MockClock) -> None:
    """Its keygen is in our tables, its activation was before our first block."""
    world = World()
    row = world.public(1)
    world.store.allowances[KEY_ID] = KeyAllowance.NOTHING
    world.store.generated.add(KEY_ID)
    contract_gives_materials(world)
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert world.store.activated == {KEY_ID: "the contract gives its materials (getKeyMaterials)"}


async def test_an_operators_decision_is_not_undone_by_the_contract(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1)
    world.store.allowances[KEY_ID] = KeyAllowance.NOTHING
    contract_gives_materials(world)
    async with world.running():
        await world.until(lambda: row.last_error is not None)
        await trio.sleep(60.0)
        assert row.status == "pending"
        assert world.core.count(SEND) == 0


async def test_a_key_that_nobody_knows_is_taken_as_active_with_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    for number in range(1, 51):
        world.public(number)
    async with world.running():
        await world.until_settled()
    assert all(row.status == "completed" for row in world.rows())
    warnings = [record for record in caplog.records if "taken as active" in record.getMessage()]
    assert len(warnings) == 1
    assert world.store.activated == {}


async def test_a_gateway_that_is_away_does_not_forbid_anything(autojump_clock: MockClock) -> None:
    """A key that the registry allows needs no word of the contract."""
    world = World()
    row = world.public(1)
    for node in (world.gateway, world.gateway_two):
        node.returns[views.GET_KEY_MATERIALS.encode(KEY_ID)] = b"nonsense"
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"


def test_the_table_of_states_is_that_of_sp_800_57() -> None:
    assert set(STATES) == set(KeyState)
    assert set(SETTABLE) == set(KeyState) - {KeyState.PRE_ACTIVATION}
    assert STATES[KeyState.DESTROYED].leads_to == ()
    for state, rule in STATES.items():
        assert state not in rule.leads_to
        assert KeyState.PRE_ACTIVATION not in rule.leads_to  # nothing leads back to before its activation
        if state is not KeyState.SUSPENDED:
            assert KeyState.ACTIVE not in rule.leads_to  # only a suspension can be lifted
        for later in rule.leads_to:
            assert objection(state, later) is None
    assert "follows the chain" in str(objection(KeyState.PRE_ACTIVATION, KeyState.ACTIVE))
    assert "already" in str(objection(KeyState.ACTIVE, KeyState.ACTIVE))
    assert "never left" in str(objection(KeyState.DESTROYED, KeyState.ACTIVE))
    assert "compromised, destroyed" in str(objection(KeyState.DEACTIVATED, KeyState.ACTIVE))
    allowing = {state for state, rule in STATES.items() if rule.allows is KeyAllowance.DECRYPTION_ONLY}
    assert allowing == {KeyState.SUSPENDED, KeyState.DEACTIVATED, KeyState.COMPROMISED}
