"""Range planning: never a skipped block, never above the allowed head, always progress."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.chain.ranges import MANY_LOGS, BlockRange, Span, next_range

heights = st.integers(0, 10**9)
spans = st.integers(1, 5_000)
overlaps = st.integers(0, 20)
confirmations = st.integers(0, 100)


@pytest.mark.parametrize(
    ("cursor", "head", "confirmations", "span", "overlap", "expected"),
    [
        (10, 10, 0, 100, 2, None),
        (10, 9, 0, 100, 2, None),
        (10, 11, 0, 100, 2, (9, 11)),
        (10, 11, 0, 100, 0, (11, 11)),
        (10, 12, 2, 100, 2, None),
        (10, 14, 2, 100, 2, (9, 12)),
        (10, 10_000, 0, 100, 2, (9, 110)),
        (10, 10_000, 0, 1, 2, (11, 11)),
        (10, 10_000, 0, 2, 2, (10, 12)),
        (-1, 0, 0, 100, 2, (0, 0)),
        (0, 5, 0, 100, 2, (0, 5)),
    ],
)
def test_table(
    cursor: int, head: int, confirmations: int, span: int, overlap: int, expected: tuple[int, int] | None
) -> None:
    found = next_range(cursor, head, confirmations=confirmations, span=span, overlap=overlap)
    assert found == (expected and BlockRange(*expected))


@given(cursor=st.integers(-1, 10**9), head=heights, conf=confirmations, span=spans, overlap=overlaps)
def test_one_range(cursor: int, head: int, conf: int, span: int, overlap: int) -> None:
    found = next_range(cursor, head, confirmations=conf, span=span, overlap=overlap)
    if head - conf <= cursor:
        assert found is None
        return
    assert found is not None
    assert 0 <= found.first <= cursor + 1, "no block is skipped"
    assert cursor < found.last <= head - conf, "progress, and not above the confirmed head"
    assert found.last - cursor <= span
    assert cursor + 1 - found.first <= overlap
    if span == 1:
        assert found.first == found.last, "a span of one is one block"


@pytest.mark.guarantee("EV1")
@given(data=st.data(), conf=st.integers(0, 5), overlap=overlaps, limit=st.integers(1, 50))
def test_reading_a_growing_chain_covers_every_block_once_it_ends(
    data: st.DataObject, conf: int, overlap: int, limit: int
) -> None:
    """Whatever heads are shown (they may go back) and whatever ranges fail, the union of what was read has no hole."""
    start = data.draw(st.integers(-1, 30))
    cursor, span, read = start, Span.of(limit), set[int]()
    top = start
    for _ in range(data.draw(st.integers(1, 40))):
        head = data.draw(st.integers(0, 120))
        blocks = next_range(cursor, head, confirmations=conf, span=span.size, overlap=overlap)
        if blocks is None:
            continue
        if data.draw(st.booleans()):
            span = span.shrunk()
            continue
        read |= set(range(blocks.first, blocks.last + 1))
        span = span.after(blocks.last - cursor, data.draw(st.integers(0, 2 * MANY_LOGS)))
        cursor = blocks.last
        top = max(top, head - conf)
        assert 1 <= span.size <= limit
    assert set(range(start + 1, cursor + 1)) <= read
    assert cursor <= top


@given(limit=st.integers(1, 100_000))
def test_span_shrinks_to_one_block_and_grows_back(limit: int) -> None:
    span = Span.of(limit)
    for _ in range(20):
        span = span.shrunk()
    assert span.size == 1
    for _ in range(200):
        span = span.after(span.size, 0)
    assert span.size == limit


def test_span_does_not_grow_from_a_range_that_did_not_fill_it() -> None:
    span = Span(1000, 10)
    assert span.after(1, 0) == span
    assert span.after(10, 0).size == 11


@given(size=st.integers(1, 5000), blocks=st.integers(1, 5000), logs=st.integers(MANY_LOGS + 1, 10**6))
def test_span_of_dense_blocks_aims_at_the_target(size: int, blocks: int, logs: int) -> None:
    found = Span(5000, size).after(min(size, blocks), logs)
    assert found.size <= size
    assert found.size == 1 or found.size * logs / min(size, blocks) <= MANY_LOGS
