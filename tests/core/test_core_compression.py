"""Header blocks that are remembered are those that would be worked out anew, whatever happens to the tables."""

import random

import pytest
from hpack import Decoder, Encoder

from kmsd.core.compression import MAX_BLOCKS, RepeatingDecoder, RepeatingEncoder


def _lists(rng: random.Random) -> list[list[tuple[bytes, bytes]]]:
    return [
        [(b":method", b"POST"), (b":path", b"/%d" % number), *((b"x-%d" % rng.randrange(9), b"v" * rng.randrange(40)),)]
        for number in range(12)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_blocks_are_those_of_a_plain_encoder(seed: int) -> None:
    rng = random.Random(seed)
    lists = _lists(rng)
    ours, plain, reader, plain_reader = RepeatingEncoder(), Encoder(), RepeatingDecoder(65536), Decoder(65536)
    for _ in range(400):
        if rng.random() < 0.02:
            size = rng.choice((0, 100, 300, 4096))
            ours.header_table_size = plain.header_table_size = size
        headers = rng.choice(lists)
        block = ours.encode(headers)
        assert block == plain.encode(headers)
        assert [tuple(one) for one in reader.decode(block, raw=True)] == headers
        plain_reader.decode(block, raw=True)
        assert reader.header_table.dynamic_entries == plain_reader.header_table.dynamic_entries


def test_memory_is_bounded_and_a_reader_cannot_spoil_it() -> None:
    encoder, decoder = RepeatingEncoder(), RepeatingDecoder(65536)
    encoder.header_table_size = 0
    for number in range(4 * MAX_BLOCKS):
        block = encoder.encode([(b"x", b"%d" % number)])
        decoder.decode(block).append(("x", "spoilt"))
        assert decoder.decode(block) == [("x", str(number))]
    assert len(encoder._blocks) <= MAX_BLOCKS
    assert len(decoder._blocks) <= MAX_BLOCKS
