"""HPACK for a connection on which the same few header lists go to and fro.

Once every field of a list stands in the dynamic table, its block is the same bytes each time and changes nothing on
either side; then it need be worked out only once. About a tenth of a call's cost (docs/performance.md).
"""

from collections.abc import Iterable
from typing import Any

from hpack import Decoder, Encoder

MAX_BLOCKS = 64
"""Blocks remembered each way: one for each method and deadline, and for each kind of reply."""


class RepeatingEncoder(Encoder):
    """An HPACK encoder of pairs of bytes that remembers its blocks as long as its dynamic table stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[tuple[Any, ...], bytes] = {}

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        """The block of `headers`."""
        key = tuple(headers)
        known = self._blocks.get(key)
        if known is not None and not self.header_table.resized:
            return known
        resized, before = self.header_table.resized, tuple(self.header_table.dynamic_entries)
        block: bytes = super().encode(key, huffman)
        if resized or tuple(self.header_table.dynamic_entries) != before:
            self._blocks.clear()
        elif len(self._blocks) < MAX_BLOCKS:
            self._blocks[key] = block
        return block


class RepeatingDecoder(Decoder):
    """An HPACK decoder that remembers blocks as long as its dynamic table stays as it is."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self._blocks: dict[tuple[bytes, bool], list[Any]] = {}

    def decode(self, data: bytes, raw: bool = False) -> list[Any]:
        """The headers of a block. Raises HPACKError."""
        key = bytes(data), raw
        known = self._blocks.get(key)
        if known is not None:
            return list(known)
        table = self.header_table
        before = (table.maxsize, tuple(table.dynamic_entries))
        headers = list(super().decode(data, raw))
        if (table.maxsize, tuple(table.dynamic_entries)) != before:
            self._blocks.clear()
        elif len(self._blocks) < MAX_BLOCKS:
            self._blocks[key] = headers
        return list(headers)
