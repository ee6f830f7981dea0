"""One line of the log for each change of state of an operation: what, on which chain, which try, how long it took."""

import logging
from typing import Any

import pytest
import sender_world
import worker_world
from trio.testing import MockClock

from kmsd.operations.kinds import Kind
from kmsd.ports import CoreMethod, KeyAllowance, StatusCode

FACTS = {"kind", "id", "chain", "attempt", "seconds"}


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[dict[str, Any]]:
    """The facts of the lines that say just that."""
    return [record.__dict__ for record in caplog.records if record.getMessage() == words]


async def test_of_requests(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kmsd")
    world = worker_world.World(forbidden_key="fail")
    world.public(1)
    async with world.running():
        world.core.overrides[CoreMethod.PUBLIC_DECRYPT].append(StatusCode.RESOURCE_EXHAUSTED)
        await world.until_settled()
        (answered,) = lines(caplog, "answered")
        assert answered.keys() >= FACTS
        assert (answered["kind"], answered["id"]) == ("public_decryption", "pub:1")
        assert answered["chain"] == world.settings.gateway_chain_id
    failing = worker_world.World(forbidden_key="fail")
    failing.store.allowances[worker_world.KEY_ID] = KeyAllowance.NOTHING
    row = failing.public(2)
    async with failing.running():
        await failing.until(lambda: row.status == "failed")
    (failed,) = lines(caplog, "failed")
    assert FACTS | {"reason", "words"} <= failed.keys()
    assert failed["levelno"] == logging.ERROR
    again = lines(caplog, "to be tried again")
    assert all(FACTS | {"reason", "words", "delay"} <= line.keys() for line in again)


async def test_of_responses(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kmsd")
    world = sender_world.World()
    world.store.add(Kind.PUBLIC_DECRYPTION, 1 << 248 | 1)
    async with world.running():
        await world.until(world.all_completed)
    (accepted,) = lines(caplog, "accepted")
    assert FACTS | {"tx"} <= accepted.keys()
    assert accepted["id"] == "pub:1"
    assert accepted["seconds"] > 0
    for stage in ("sign", "confirm"):
        assert world.metrics.values["kms_connector_stage_seconds", stage, "public_decryption"] == 1
