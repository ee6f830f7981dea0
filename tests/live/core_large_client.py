"""Sends one request with a ciphertext of argv[2] bytes to the Core at argv[1], and says what that took, as JSON.

A process of its own, so that its peak memory is that of the one call. With "reply" as argv[3] a huge reply is read.
"""

import gc
import json
import sys
import time
from pathlib import Path

import core_asking as ask
import trio

from kmsd.core import requests
from kmsd.core.client import open_core
from kmsd.core.endpoints import parse_shards
from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.ports import CoreMethod
from kmsd.sandbox.ciphertexts import fake_ciphertext


def _memory(name: str) -> int:
    """VmRSS or VmHWM (the peak) of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(name)


def _forget_the_peak() -> int:
    """Begin a new peak at what is resident now, and return that."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


async def main(endpoint: str, size: int, with_reply: bool) -> None:
    longest = 0.0

    async def tick() -> None:
        """The longest time for which no other task got its turn: what `/liveness` would feel."""
        nonlocal longest
        while True:
            began = time.perf_counter()
            await trio.sleep(0.002)
            longest = max(longest, time.perf_counter() - began - 0.002)

    async with open_core(parse_shards((endpoint,))) as core, trio.open_nursery() as nursery:
        shard = core.shards[0]
        await core.health(shard)
        before = _forget_the_peak()
        nursery.start_soon(tick)
        began = time.perf_counter()
        if with_reply:
            await core.call(shard, CoreMethod.PUBLIC_DECRYPT, ask.public(1), deadline=60)
            poll = requests.poll(ask.public_id(1))
            answer = await core.call(shard, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, poll, deadline=60)
        else:
            handle = ask.HANDLES[0]
            body = fake_ciphertext(handle, 5, size)
            before = _forget_the_peak()
            request = ask.public(1, ciphertexts=[requests.Ciphertext(handle, body, CiphertextFormat.BigCompressed)])
            longest = 0.0
            answer = await core.call(shard, CoreMethod.PUBLIC_DECRYPT, request, deadline=60)
        seconds = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    report = {
        "status": answer.status.name,
        "seconds": round(seconds, 3),
        "extra_bytes": _memory("VmHWM") - before,
        "longest_gap": round(longest, 4),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3)
