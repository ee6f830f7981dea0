"""Logs of the sandbox's chains, as the codecs read them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from kmsd.sandbox.rpc import RpcClient
from kmsd.wire.v0_11 import events


class ChainLog(NamedTuple):
    """A log and where it stands. `topics` have 32 bytes, `address` has 20."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    transaction_hash: bytes
    log_index: int


def parse_log(plain: dict[str, Any]) -> ChainLog:
    """A log from its JSON."""
    return ChainLog(
        bytes.fromhex(plain["address"][2:]),
        tuple(bytes.fromhex(topic[2:]) for topic in plain["topics"]),
        bytes.fromhex(plain["data"][2:]),
        int(plain["blockNumber"], 16),
        bytes.fromhex(plain["transactionHash"][2:]),
        int(plain["logIndex"], 16),
    )


def get_logs(
    rpc: RpcClient, addresses: Sequence[bytes], first: int, last: int, topics: Sequence[bytes] = ()
) -> list[ChainLog]:
    """The logs of contracts in a range of blocks, both ends included, oldest first; with one of `topics`, if given."""
    query: dict[str, Any] = {
        "address": ["0x" + address.hex() for address in addresses],
        "fromBlock": hex(first),
        "toBlock": hex(last),
    }
    if topics:
        query["topics"] = [["0x" + topic.hex() for topic in topics]]
    return [parse_log(plain) for plain in rpc.call("eth_getLogs", query)]


def records(receipts: Iterable[dict[str, Any]]) -> Iterator[Any]:
    """The known events in receipts, decoded, in order; logs of other contracts are left out."""
    for receipt in receipts:
        for plain in receipt["logs"]:
            log = parse_log(plain)
            if log.topics and log.topics[0] in events.BY_TOPIC:
                yield events.decode(log)
