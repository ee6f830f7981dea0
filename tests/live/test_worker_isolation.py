"""Ten thousand stuck decryptions, and a key ceremony that goes through all the same (QU4); real Postgres, real gRPC."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from store_world import hear
from worker_world import KEY_ID, SIGNER_KEY, Clock, World, material, public_event, user_event

from kmsd.core.client import open_core
from kmsd.core.endpoints import parse_shards
from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import Arrival, CoreMethod
from kmsd.sandbox.core_double_process import running_double
from kmsd.store.postgres import PostgresStore
from kmsd.wire.v0_11 import events, views

OF_EACH_KIND = 5000
OPTIONS = ("--key", f"{KEY_ID:064x}", "--latency-ms", "1e9", "--ceremony-ms", "50", "--signing-key", SIGNER_KEY.hex())
STUCK_AT_CORE = 200
"""Decryptions that must be open at the Core before the ceremony begins: far more than one connection's calls."""


def _arrival(kind: Kind, request_id: int, event: Any, block: int) -> Arrival:
    return Arrival(
        kind=kind,
        id=request_id,
        event=event,
        content_hash=events.content_hash(event),
        tx_hash=request_id.to_bytes(32, "big"),
        block_number=block,
        block_hash=block.to_bytes(32, "big"),
        log_index=request_id % 2**32,
        otlp_context=bytes(8),
        created_at=Clock().now(),
    )


@pytest.mark.guarantee("QU4")
async def test_a_keygen_goes_through_beside_ten_thousand_stuck_decryptions(
    store: PostgresStore,
    sql: Callable[[str], str],
    eventually: Callable[..., Awaitable[Any]],
    record_property: Callable[[str, object], None],
) -> None:
    """Half of them never get a result from the Core, the other half no answer from the Gateway's nodes.

    How long the ceremony takes is reported, not asserted; the aim is 5 s.
    """
    async with running_double(*OPTIONS) as double, open_core(parse_shards((double.endpoint,))) as core:
        world = World(store=store, core=core, key_management_polling=5.0)
        found, body = material(1)
        world.put(found, body)
        world.host.true_views.add(views.IS_ALLOWED_FOR_DECRYPTION.encode(found.ct_handle))
        at_core_for_ever, without_gateway = [], []
        for number in range(1, OF_EACH_KIND + 1):
            public, user = public_event(number, [found]), user_event(number, [found])
            at_core_for_ever.append(_arrival(Kind.PUBLIC_DECRYPTION, public.decryption_id, public, 101))
            without_gateway.append(_arrival(Kind.USER_DECRYPTION, user.decryption_id, user, 102))
        await hear(store, _arrival(Kind.PRSS_INIT, 1, events.PrssInit(), 100), stream=Stream.KEY_MANAGEMENT)
        await hear(store, *at_core_for_ever)

        async with world.running():

            async def at_core() -> int:
                return int((await double.stats())["calls"].get(CoreMethod.GET_PUBLIC_DECRYPTION_RESULT.value, 0))

            async def enough() -> bool:
                return await at_core() >= STUCK_AT_CORE

            done = "SELECT status FROM prss_init"
            await eventually(lambda: sql(done).strip() == "completed", seconds=60, what="the Core's initialisation")
            await eventually(enough, seconds=120, what=f"{STUCK_AT_CORE} decryptions that wait for the Core")
            world.gateway.latency = world.gateway_two.latency = 1e6
            await hear(store, *without_gateway)
            world.wakeups.ring(Kind.USER_DECRYPTION, is_response=False)
            await eventually(lambda: not world.health.is_up("gateway"), seconds=60, what="user decryptions that ask")
            prep = events.PrepKeygenRequest(3 << 248 | 9, 0, 1)
            keygen = events.KeygenRequest(prep.prep_keygen_id, 4 << 248 | 9)
            began = trio.current_time()
            ceremony = (
                _arrival(Kind.PREP_KEYGEN, prep.prep_keygen_id, prep, 103),
                _arrival(Kind.KEYGEN, keygen.key_id, keygen, 104),
            )
            await hear(store, *ceremony, stream=Stream.KEY_MANAGEMENT)
            world.wakeups.ring(Kind.PREP_KEYGEN, is_response=False)
            await eventually(
                lambda: sql("SELECT status FROM keygen_requests").strip() == "completed", seconds=60, what="the keygen"
            )
            record_property("keygen_seconds", round(trio.current_time() - began, 2))
            assert await at_core() >= STUCK_AT_CORE
        assert sql("SELECT count(*) FROM keygen_responses").strip() == "1"
        done = "SELECT count(*) FROM {} WHERE status NOT IN ('pending', 'under_process')"
        for table in ("public_decryption_requests", "user_decryption_requests"):
            assert sql(done.format(table)).strip() == "0", "all of them are still stuck"
