"""A block header's `logsBloom`: may this block hold logs that we want? (Yellow Paper, section 4.3)

A filter says *certainly not* or *perhaps*. kmsd uses it only to be woken less often (decisions.md 37), never to skip
a block: some chains leave the filter empty.
"""

from collections.abc import Iterable

from kmsd.wire.keccak import keccak256

SIZE = 256
"""Bytes of a filter."""


def bits(item: bytes) -> int:
    """The three bits that an address or topic sets, as a mask over the filter read as a big-endian number."""
    digest = keccak256(item)
    mask = 0
    for start in (0, 2, 4):
        mask |= 1 << (int.from_bytes(digest[start : start + 2], "big") & 2047)
    return mask


class Interest:
    """The logs of one contract with one of several first topics."""

    def __init__(self, address: bytes, topics: Iterable[bytes]) -> None:
        contract = bits(address)
        self._masks = tuple(contract | bits(topic) for topic in topics)

    def may_be_in(self, logs_bloom: bytes | None) -> bool:
        """False when the block certainly holds none of the logs; True without a filter."""
        if logs_bloom is None:
            return True
        present = int.from_bytes(logs_bloom, "big")
        return any(present & mask == mask for mask in self._masks)
