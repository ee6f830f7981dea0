"""`python -m bench.pieces`: the pieces of one public decryption, each measured by itself in CPU microseconds.

What a piece takes in the daemon depends on what its neighbours do to the caches; here each is done many times in
batches like a busy daemon's, and the best batch counts. So small steps can be told from noise, on a shared machine too.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from kmsd.blobs.download import HttpBlobs
from kmsd.chain.transactions import Transaction, assemble, signing_digest
from kmsd.config import Settings
from kmsd.core import requests, results
from kmsd.core.client import open_core
from kmsd.core.endpoints import parse_shards
from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.core.requests import Ciphertext
from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.ports import CoreAnswer, CoreMethod, Log, StatusCode
from kmsd.sandbox.buckets_process import Buckets
from kmsd.sandbox.core_double_process import running_double
from kmsd.sandbox.handles import ciphertext, clear_value, make_handle
from kmsd.wire.eip712 import Domain
from kmsd.wire.ids import IdType
from kmsd.wire.keccak import keccak256
from kmsd.wire.signatures import sign
from kmsd.wire.v0_11 import events
from kmsd.wire.v0_11.calls import RESPONSES
from kmsd.wire.v0_11.structs import SnsMaterial

BATCH, BATCHES = 60, 12
KEY = 4 << 248 | 1
DOMAIN = Domain("Decryption", "1", 31337, b"\x11" * 20)
HANDLE = make_handle(1, 12345)

Once = Callable[[int], Awaitable[object]]


async def best_us(once: Once, *, at_once: int = 20) -> float:
    """CPU microseconds of this process for one `once(number)`, the best of BATCHES batches, `at_once` side by side."""
    numbers = iter(range(1, BATCH * BATCHES + 1))
    times: list[float] = []

    async def some(count: int) -> None:
        for _ in range(count):
            await once(next(numbers))

    for _ in range(BATCHES):
        began = time.process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(some, BATCH // at_once)
        times.append((time.process_time() - began) / BATCH)
    return round(1e6 * min(times), 1)


async def measure(size: int) -> dict[str, float]:
    """The pieces for ciphertexts of `size` bytes."""
    body = ciphertext(HANDLE, size)
    found: dict[str, float] = {"keccak of the ciphertext": await best_us(_plain(lambda: keccak256(body)))}
    found |= await _download(size)
    found |= await _core(body)
    found |= await _wire()
    return found


async def _download(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, Buckets(Path(folder)) as buckets:
        digest = buckets.add_ciphertext(HANDLE, clear_value(HANDLE), size)
        url = f"{buckets.url_of('bucket-1')}/{digest.hex()}"
        blobs = HttpBlobs(Settings("postgresql://unused", allow_private_buckets=True))

        async def get(_: int) -> None:
            blob = await blobs.get(url, max_bytes=size, patience=10)
            assert blob.keccak == digest

        figure = await best_us(get)
        await blobs.close()
    return {"GET with its keccak": figure}


async def _core(body: bytes) -> dict[str, float]:
    answers: dict[int, CoreAnswer] = {}
    part = Ciphertext(HANDLE, body, CiphertextFormat.BigCompressed)
    options = ("--latency-ms", "0", "--key", f"{KEY:064x}")
    async with running_double(*options) as double, open_core(parse_shards((double.endpoint,))) as core:
        shard = core.shards[0]

        async def send(number: int) -> None:
            request = requests.public_decryption(_id(number), [part], KEY, DOMAIN, b"")
            answer = await core.call(shard, CoreMethod.PUBLIC_DECRYPT, request, deadline=20)
            assert answer.status is StatusCode.OK, answer

        async def poll(number: int) -> None:
            request = requests.poll(_id(number))
            answers[number] = await core.call(shard, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, request, deadline=20)
            assert answers[number].status is StatusCode.OK, answers[number]

        found = {"Core: send": await best_us(send), "Core: poll": await best_us(poll)}

    def check(number: int) -> None:
        results.public_decryption(
            answers[number].message,
            request_id=_id(number),
            handles=[HANDLE],
            extra_data=b"",
            domain=DOMAIN,
            expected_signer=None,
        )

    async def check_one(number: int) -> None:
        check(number)

    return found | {"check of the result": await best_us(check_one)}


async def _wire() -> dict[str, float]:
    record = events.PublicDecryptionRequest(_id(1), (SnsMaterial(HANDLE, KEY, bytes(32), (bytes(20),)),), b"\0")
    topics, data = events.encode(record)
    log = Log(bytes(20), topics, data, 1, bytes(32), bytes(32), 0)
    response = OPERATIONS[Kind.PUBLIC_DECRYPTION].response
    assert response is not None
    encode = RESPONSES[response.function].encode
    found = {
        "event: decode": await best_us(_plain(lambda: events.decode(log))),
        "answer: encode": await best_us(_plain(lambda: encode(_id(1), bytes(32), bytes(65), b"\0"))),
    }
    key = keccak256(b"bench")

    def transaction() -> bytes:
        payload = Transaction(31337, 7, 1, 10**9, 300_000, bytes(20), 0, bytes(420)).payload()
        return assemble(payload, sign(signing_digest(payload), key))

    return found | {"transaction: sign": await best_us(_plain(transaction))}


def _plain(work: Callable[[], object]) -> Once:
    async def once(_: int) -> None:
        work()

    return once


def _id(number: int) -> int:
    return (IdType.PUBLIC_DECRYPTION << 248) + number


def main() -> None:
    """Measure and print, the last line as JSON."""
    parser = argparse.ArgumentParser(prog="bench.pieces", description=__doc__)
    parser.add_argument("--size", type=int, default=98_844, help="bytes of a ciphertext")
    size = parser.parse_args().size
    found = trio.run(measure, size)
    for name, figure in found.items():
        print(f"{name:<28} {figure:8.0f} µs")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
