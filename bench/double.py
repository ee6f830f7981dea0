"""`python -m bench.double --events N`: a light node whose first blocks hold N public decryption requests.

It takes any transaction and does nothing with it, so it limits a listener or a sender less than a real node. What it
is, and what it keeps to: `kmsd/sandbox/node_double.py`. Prints its URL and port as JSON.
"""

import argparse
import json

import trio

from kmsd.chain.transactions import Transaction, assemble, signing_digest
from kmsd.sandbox.handles import make_handle
from kmsd.sandbox.node_double import ChainDouble
from kmsd.sandbox.node_double_contracts import EmittedLog, Execution
from kmsd.sandbox.node_double_server import NodeDoubleServer
from kmsd.wire.ids import IdType
from kmsd.wire.keccak import keccak256
from kmsd.wire.signatures import sign
from kmsd.wire.v0_11 import events
from kmsd.wire.v0_11.structs import SnsMaterial

PER_TRANSACTION = 100
"""Requests of one transaction."""
FULL_BLOCK = 3_000_000
"""Gas of a block with ten such transactions: the double reckons 300,000 for each."""
ASKER = keccak256(b"bench asker")


class Asked:
    """The contracts: a transaction of 8 bytes asks for that many public decryptions, every other call does nothing."""

    def __init__(self, decryption: bytes, host_chain_id: int) -> None:
        self._decryption, self._host_chain_id = decryption, host_chain_id
        self._made = 0

    def __call__(self, sender: bytes, to: bytes, data: bytes, gas: int | None) -> Execution:
        if gas is None or len(data) != 8:
            return Execution(gas=100_000)
        return Execution(gas=100_000, logs=tuple(self._request() for _ in range(int.from_bytes(data, "big"))))

    def _request(self) -> EmittedLog:
        self._made += 1
        handle = make_handle(self._made, self._host_chain_id, 5)
        material = SnsMaterial(handle, (4 << 248) + 1, keccak256(handle), (bytes(20),))
        record = events.PublicDecryptionRequest((IdType.PUBLIC_DECRYPTION << 248) + self._made, (material,), b"\0")
        topics, data = events.encode(record)
        return EmittedLog(self._decryption, topics, data)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="bench.double", description=__doc__)
    parser.add_argument("--chain-id", type=int, required=True)
    parser.add_argument("--host-chain-id", type=int, default=1)
    parser.add_argument("--decryption", type=bytes.fromhex, default=bytes(20), help="address in hex digits")
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between blocks")
    parser.add_argument("--held", action="store_true", help="no blocks before double_setInterval")
    options = parser.parse_args()
    chain = ChainDouble(options.chain_id, contracts=Asked(options.decryption, options.host_chain_id))
    if options.events:
        chain.block_gas_limit = FULL_BLOCK
    for number, start in enumerate(range(0, options.events, PER_TRANSACTION)):
        chain.take(_asking(options.chain_id, number, min(PER_TRANSACTION, options.events - start)))
    trio.run(_serve, NodeDoubleServer(chain, None if options.held else options.interval))


def _asking(chain_id: int, nonce: int, count: int) -> bytes:
    fee = 10**12
    transaction = Transaction(chain_id, nonce, 1, fee, 1_000_000, bytes(20), 0, count.to_bytes(8, "big"))
    payload = transaction.payload()
    return assemble(payload, sign(signing_digest(payload), ASKER))


async def _serve(server: NodeDoubleServer) -> None:
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(server.run)
        print(json.dumps({"url": url, "port": int(url.rpartition(":")[2])}), flush=True)


if __name__ == "__main__":
    main()
