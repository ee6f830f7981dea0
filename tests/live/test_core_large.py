"""Messages of nearly 100 MiB: memory, patience of everybody else, and one at a time (WK4)."""

import json
import subprocess
import sys
from pathlib import Path

import core_asking as ask
import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.testing

from kmsd.core.client import open_core
from kmsd.core.endpoints import parse_shards
from kmsd.ports import CoreAnswer, CoreMethod, Shard, StatusCode
from kmsd.sandbox.core_double_process import running_double

MIB = 1 << 20
CLIENT = Path(__file__).with_name("core_large_client.py")


async def _measure(endpoint: str, *arguments: str) -> dict[str, float | str]:
    finished = await trio.run_process(
        [sys.executable, str(CLIENT), endpoint, *arguments], capture_stdout=True, stdin=subprocess.DEVNULL
    )
    measured: dict[str, float | str] = json.loads(finished.stdout)
    return measured


@pytest.mark.guarantee("WK4")
async def test_a_request_of_96_mib_is_not_copied_and_blocks_nobody(record_property: pytest.FixtureRequest) -> None:
    async with running_double("--key", ask.KEY_TEXT) as double:
        measured = await _measure(double.endpoint, str(96 * MIB))
    record_property("measured", measured)  # type: ignore[operator]
    assert measured["status"] == "OK"
    assert float(measured["extra_bytes"]) < 16 * MIB
    assert float(measured["longest_gap"]) < 0.1


@pytest.mark.guarantee("WK4")
async def test_a_reply_of_96_mib_is_read(record_property: pytest.FixtureRequest) -> None:
    async with running_double("--key", ask.KEY_TEXT) as double:
        await double.fault(method="GetPublicDecryptionResult", result="huge")
        measured = await _measure(double.endpoint, "0", "reply")
    record_property("measured", measured)  # type: ignore[operator]
    assert measured["status"] == "OK"
    assert float(measured["extra_bytes"]) < 2.6 * 96 * MIB


async def test_small_sends_go_on_beside_a_large_one() -> None:
    async with running_double("--key", ask.KEY_TEXT) as double, open_core(parse_shards((double.endpoint,))) as core:
        shard = core.shards[0]
        large_done = trio.Event()
        small = 0

        async def large() -> None:
            request = ask.public(1, ciphertexts=ask.ciphertexts(40 * MIB))
            answer = await core.call(shard, CoreMethod.PUBLIC_DECRYPT, request, deadline=60)
            assert answer.status is StatusCode.OK
            large_done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(large)
            while not large_done.is_set():
                answer = await core.call(shard, CoreMethod.PUBLIC_DECRYPT, ask.public(100 + small), deadline=60)
                assert answer.status is StatusCode.OK
                small += 1
        assert small >= 5


async def test_large_requests_leave_one_at_a_time() -> None:
    """A peer that takes no bytes sees one large request and the small ones; the second waits within its deadline."""
    seen: list[int] = []

    async def peer(stream: trio.SocketStream) -> None:
        server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        server.initiate_connection()
        await stream.send_all(server.data_to_send())
        try:
            async for data in stream:
                for event in server.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        seen.append(0)
                    elif isinstance(event, h2.events.DataReceived):
                        seen[-1] += len(event.data or b"")
                await stream.send_all(server.data_to_send())
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, peer, listeners)
        port = listeners[0].socket.getsockname()[1]
        async with open_core((Shard(0, f"http://127.0.0.1:{port}"),)) as core:
            answers: list[CoreAnswer] = []
            large = ask.public(1, ciphertexts=ask.ciphertexts(10 * MIB))

            async def send(deadline: float) -> None:
                answers.append(await core.call(core.shards[0], CoreMethod.PUBLIC_DECRYPT, large, deadline=deadline))

            async with trio.open_nursery() as sends:
                for deadline in (1.5, 1.0, 1.0):
                    sends.start_soon(send, deadline)
                await trio.testing.wait_all_tasks_blocked(0.2)
                assert len(seen) == 1
                assert 0 < seen[0] <= 65_535
        assert [answer.status for answer in answers] == [StatusCode.DEADLINE_EXCEEDED] * 3
        nursery.cancel_scope.cancel()


async def test_large_requests_all_arrive() -> None:
    async with running_double("--key", ask.KEY_TEXT) as double, open_core(parse_shards((double.endpoint,))) as core:
        statuses: list[StatusCode] = []
        request = ask.public(1, ciphertexts=ask.ciphertexts(10 * MIB))

        async def send() -> None:
            answer = await core.call(core.shards[0], CoreMethod.PUBLIC_DECRYPT, request, deadline=30)
            statuses.append(answer.status)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send)
        assert sorted(statuses) == [StatusCode.OK, StatusCode.ALREADY_EXISTS, StatusCode.ALREADY_EXISTS]


async def test_a_request_above_the_limit_is_not_even_sent() -> None:
    async with running_double("--key", ask.KEY_TEXT) as double, open_core(parse_shards((double.endpoint,))) as core:
        request = ask.public(1, ciphertexts=ask.ciphertexts(52 * MIB))
        answer = await core.call(core.shards[0], CoreMethod.PUBLIC_DECRYPT, request, deadline=10)
        assert answer.status is StatusCode.OUT_OF_RANGE
        assert (await double.stats())["calls"] == {}
