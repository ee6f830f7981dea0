"""Every cell of design.md's table "What an answer of the Core means", written out a second time by hand."""

import pytest

from kmsd.core.status import BURNING, NOT_USABLE, TABLE, Phase, Verdict, is_burnt, refusal, verdict
from kmsd.operations.table import Family
from kmsd.ports import StatusCode

# status: (decryption send, ceremony send, decryption poll, ceremony poll)
EXPECTED = {
    "OK": ("SENT", "SENT", "RESULT", "RESULT"),
    "ALREADY_EXISTS": ("SENT", "SENT", "POLL_AGAIN", "POLL_AGAIN"),
    "RESOURCE_EXHAUSTED": ("BUSY", "BUSY", "BUSY", "BUSY"),
    "ABORTED": ("BUSY", "REFUSED", "RESEND", "ABORTED_FAIL"),
    "UNAVAILABLE": ("RETRY", "RETRY", "POLL_AGAIN", "POLL_AGAIN"),
    "DEADLINE_EXCEEDED": ("RETRY", "RETRY", "POLL_AGAIN", "POLL_AGAIN"),
    "UNKNOWN": ("RETRY", "RETRY", "POLL_AGAIN", "POLL_AGAIN"),
    "CANCELLED": ("RETRY", "RETRY", "POLL_AGAIN", "POLL_AGAIN"),
    "NOT_FOUND": ("REFUSED", "REFUSED", "RESEND", "RESEND"),
    "INTERNAL": ("COUNT_ATTEMPT", "SLOW_RETRY_ALERT", "COUNT_ATTEMPT", "SLOW_RETRY_ALERT"),
    "FAILED_PRECONDITION": ("PAUSE_SHARD", "PAUSE_SHARD", "PAUSE_SHARD", "PAUSE_SHARD"),
    "PERMISSION_DENIED": ("PAUSE_SHARD", "PAUSE_SHARD", "PAUSE_SHARD", "PAUSE_SHARD"),
    "UNAUTHENTICATED": ("PAUSE_SHARD", "PAUSE_SHARD", "PAUSE_SHARD", "PAUSE_SHARD"),
    "UNIMPLEMENTED": ("PAUSE_SHARD", "PAUSE_SHARD", "PAUSE_SHARD", "PAUSE_SHARD"),
    "INVALID_ARGUMENT": ("FAIL", "SLOW_RETRY_ALERT", "FAIL", "SLOW_RETRY_ALERT"),
    "OUT_OF_RANGE": ("FAIL", "SLOW_RETRY_ALERT", "FAIL", "SLOW_RETRY_ALERT"),
    "DATA_LOSS": ("FAIL", "SLOW_RETRY_ALERT", "FAIL", "SLOW_RETRY_ALERT"),
}
COLUMNS = (
    (Phase.SEND, Family.DECRYPTION),
    (Phase.SEND, Family.CEREMONY),
    (Phase.POLL, Family.DECRYPTION),
    (Phase.POLL, Family.CEREMONY),
)


@pytest.mark.guarantee("WK5")
@pytest.mark.parametrize(
    ("phase", "family", "status", "expected"),
    [
        pytest.param(phase, family, StatusCode[status], Verdict[cells[column]], id=f"{phase}-{family}-{status}")
        for status, cells in EXPECTED.items()
        for column, (phase, family) in enumerate(COLUMNS)
    ],
)
def test_cell(phase: Phase, family: Family, status: StatusCode, expected: Verdict) -> None:
    assert verdict(phase, family, status) is expected


def test_table_is_total() -> None:
    assert set(TABLE) == {(phase, family, status) for phase in Phase for family in Family for status in StatusCode}
    assert {status.name for status in StatusCode} == set(EXPECTED)


@pytest.mark.guarantee("QU5")
@pytest.mark.parametrize("status", list(StatusCode))
def test_no_ceremony_fails_by_itself_except_an_abort(status: StatusCode) -> None:
    fatal = {Verdict.FAIL, Verdict.COUNT_ATTEMPT, Verdict.ABORTED_FAIL}
    assert verdict(Phase.SEND, Family.CEREMONY, status) not in fatal
    assert (verdict(Phase.POLL, Family.CEREMONY, status) in fatal) == (status is StatusCode.ABORTED)


def test_not_usable() -> None:
    assert {status.name for status in NOT_USABLE} == {
        "FAILED_PRECONDITION",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    }


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("status", list(StatusCode))
def test_refusals_to_remember(status: StatusCode, family: Family) -> None:
    burns = status.name in ("NOT_FOUND", "ABORTED", "INVALID_ARGUMENT", "INTERNAL")
    assert (status in BURNING) == burns
    store_full = family is Family.DECRYPTION and status is StatusCode.ABORTED
    assert refusal(Phase.SEND, family, status) == (status.name if burns and not store_full else None)
    assert refusal(Phase.POLL, family, status) is None


def test_burnt_needs_an_earlier_refusal() -> None:
    assert is_burnt(StatusCode.UNAVAILABLE, "NOT_FOUND")
    assert is_burnt(StatusCode.ALREADY_EXISTS, "ABORTED")
    assert not is_burnt(StatusCode.UNAVAILABLE, None)
    assert not is_burnt(StatusCode.NOT_FOUND, "NOT_FOUND")
