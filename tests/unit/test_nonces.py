"""The lane's state: windows, holes, watching, replacement order."""

from typing import Any

import pytest

from kmsd.chain.nonces import MAX_REPLACEMENTS, REORG_DEPTH, RESEND_AFTER, SMALLEST_WINDOW, LaneState, Window
from kmsd.operations.kinds import Kind
from kmsd.ports import JournalEntry, TxState


def entry(nonce: int, attempt: int = 0, key: int | None = None, **more: Any) -> JournalEntry:
    return JournalEntry(
        nonce=nonce,
        attempt=attempt,
        kind=Kind.USER_DECRYPTION if key is not None else None,
        id=key,
        calldata_hash=b"",
        raw=b"raw",
        tx_hash=bytes((nonce, attempt)) + bytes(30),
        gas_limit=10,
        max_fee_per_gas=3,
        max_priority_fee_per_gas=1,
        **more,
    )


@pytest.mark.guarantee("TX2")
def test_window_grows_while_it_is_used_up_and_halves_when_pressed() -> None:
    window = Window(1024)
    assert window.size == SMALLEST_WINDOW
    window.mined(10, 10)
    assert window.size == SMALLEST_WINDOW, "no reason to grow"
    for expected in (256, 1024, 1024):
        window.mined(window.size, window.size)
        assert window.size == expected
    for expected in (512, 256, 128, 64, 64):
        window.pressed()
        assert window.size == expected
    for expected in (128, 256):
        window.mined(window.size, window.size)
        assert window.size == expected
    assert Window(10).size == 10


def test_journal_at_start_gives_flights_watched_and_next_nonce() -> None:
    state = LaneState()
    entries = [
        entry(7, 0, 1, state=TxState.MINED, block_number=5, block_hash=b"b"),
        entry(8, 1, 2),
        entry(8, 0, 2),
        entry(9, 0, 3),
    ]
    state.adopt(entries, 11)
    assert sorted(state.flights) == [8, 9]
    assert state.flights[8].last.attempt == 1
    assert state.unsent == {8, 9}
    assert list(state.watched) == [7]
    assert state.watched[7].mined.raw == b""
    assert state.next_nonce == 12
    assert state.carried() == [(Kind.USER_DECRYPTION, 2), (Kind.USER_DECRYPTION, 3)]


def test_filler_keeps_the_response_that_waits_for_it() -> None:
    state = LaneState()
    state.adopt([entry(3, 0, 5), entry(3, 1)], 3)
    assert state.flights[3].key == (Kind.USER_DECRYPTION, 5)
    assert state.flights[3].is_filler


def test_holes_are_nonces_that_nothing_of_ours_occupies() -> None:
    state = LaneState()
    state.adopt([entry(5, 0, 1), entry(8, 0, 2), entry(6, 0, 3, state=TxState.MINED, block_number=1)], 8)
    assert state.holes(3) == [3, 4, 7]
    assert state.holes(6) == [7]
    assert state.holes(9) == []
    assert LaneState().holes(0) == []


def test_only_old_transactions_at_the_head_of_the_line_are_replaced() -> None:
    state = LaneState()
    state.add([entry(n, 0, n) for n in range(200)])
    for nonce in range(200):
        state.sent(nonce, 0, 0.0 if nonce < 150 else 50.0)
    assert not state.overdue(29.0, 30.0)
    assert [f.nonce for f in state.overdue(60.0, 30.0)] == list(range(MAX_REPLACEMENTS))
    state.replace(entry(0, 1, 0))
    assert next(f.nonce for f in state.overdue(60.0, 30.0)) == 1
    state.sent(0, 1, 61.0)
    assert not state.overdue(62.0, 30.0), "the head of the line is young again"


def test_an_answer_about_an_older_attempt_does_not_count_for_the_newer() -> None:
    state = LaneState()
    state.add([entry(0, 0, 1)])
    state.replace(entry(0, 1, 1))
    state.sent(0, 0, 1.0)
    assert state.flights[0].sent_at is None
    assert state.unsent == {0}


def test_mined_nonces_are_watched_until_deep_with_all_their_attempts() -> None:
    state = LaneState()
    state.add([entry(0, 0, 1), entry(1, 0, 2)])
    state.replace(entry(0, 1, 1))
    state.mined(entry(0, 0, 1, state=TxState.MINED, block_number=10, block_hash=b"x"))
    assert sorted(state.flights) == [1]
    assert [e.attempt for e in state.watched[0].others] == [1]
    sentinel = state.sentinel()
    assert sentinel is not None
    assert sentinel.nonce == 0
    assert not state.deep(10 + REORG_DEPTH - 1, 10)
    assert [landed.mined.nonce for landed in state.deep(10 + REORG_DEPTH, 10)] == [0]
    state.fell_out([entry(0, 0, 1), entry(0, 1, 1)])
    assert sorted(state.flights) == [0, 1]
    assert state.flights[0].last.attempt == 1
    assert not state.watched


def test_stale_bytes_are_offered_again_after_a_while() -> None:
    state = LaneState()
    state.add([entry(0, 0, 1), entry(1, 0, 2)])
    state.sent(0, 0, 0.0)
    assert state.to_send(10)[0].nonce == 1
    assert state.stale(RESEND_AFTER) == []
    assert state.stale(RESEND_AFTER + 0.1) == [0]
    state.resend([0, 77])
    assert [f.nonce for f in state.to_send(10)] == [0, 1]
