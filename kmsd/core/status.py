"""What an answer of the Core means: the table of design.md as data. The only input is the status code; no text of an
error is ever parsed (decisions.md 13).
"""

from enum import StrEnum

from kmsd.operations.table import Family
from kmsd.ports import StatusCode


class Phase(StrEnum):
    """A request is sent, then its result is polled for."""

    SEND = "send"
    POLL = "poll"


class Verdict(StrEnum):
    """What to do about an answer. Only COUNT_ATTEMPT and FAIL blame the request itself."""

    SENT = "sent"
    """The Core has the request: store `already_sent`, release the payload, go on to poll."""
    RESULT = "result"
    """The reply is the result: check it and store it."""
    BUSY = "busy"
    """The Core is full: shrink the window (`kmsd.core.window`), wait. Not an error."""
    RETRY = "retry"
    """The send met an unreachable or slow Core: back off and send again. Not an error of the request."""
    POLL_AGAIN = "poll again"
    """Not ready or unreachable: poll again. Not an error."""
    REFUSED = "refused"
    """A refusal that may have burnt the id: store the status name as `refusal`, back off, send again, alert."""
    RESEND = "resend"
    """The Core does not know the request (any more): clear `already_sent` and send again."""
    COUNT_ATTEMPT = "count attempt"
    """Counts towards `max_decryption_attempts`; back off. On a poll: see decisions.md 18, then send again."""
    SLOW_RETRY_ALERT = "slow retry and alert"
    """A ceremony met a fault that may be for good: alert, try again slowly, the operator decides."""
    FAIL = "fail"
    """The request is refused for good: fail it with the Core's words."""
    ABORTED_FAIL = "aborted by the Core"
    """A ceremony was aborted: fail it with the words "aborted by the Core"."""
    PAUSE_SHARD = "pause shard"
    """The Core is not usable: the client pauses it and resumes by itself; back off, blame no request, alert."""


_EITHER_FAMILY = {
    Phase.SEND: {
        StatusCode.OK: Verdict.SENT,
        StatusCode.ALREADY_EXISTS: Verdict.SENT,
        StatusCode.RESOURCE_EXHAUSTED: Verdict.BUSY,
        StatusCode.UNAVAILABLE: Verdict.RETRY,
        StatusCode.DEADLINE_EXCEEDED: Verdict.RETRY,
        StatusCode.UNKNOWN: Verdict.RETRY,
        StatusCode.CANCELLED: Verdict.RETRY,
        StatusCode.NOT_FOUND: Verdict.REFUSED,
        StatusCode.FAILED_PRECONDITION: Verdict.PAUSE_SHARD,
        StatusCode.PERMISSION_DENIED: Verdict.PAUSE_SHARD,
        StatusCode.UNAUTHENTICATED: Verdict.PAUSE_SHARD,
        StatusCode.UNIMPLEMENTED: Verdict.PAUSE_SHARD,
    },
    Phase.POLL: {
        StatusCode.OK: Verdict.RESULT,
        StatusCode.ALREADY_EXISTS: Verdict.POLL_AGAIN,
        StatusCode.RESOURCE_EXHAUSTED: Verdict.BUSY,
        StatusCode.UNAVAILABLE: Verdict.POLL_AGAIN,
        StatusCode.DEADLINE_EXCEEDED: Verdict.POLL_AGAIN,
        StatusCode.UNKNOWN: Verdict.POLL_AGAIN,
        StatusCode.CANCELLED: Verdict.POLL_AGAIN,
        StatusCode.NOT_FOUND: Verdict.RESEND,
        StatusCode.FAILED_PRECONDITION: Verdict.PAUSE_SHARD,
        StatusCode.PERMISSION_DENIED: Verdict.PAUSE_SHARD,
        StatusCode.UNAUTHENTICATED: Verdict.PAUSE_SHARD,
        StatusCode.UNIMPLEMENTED: Verdict.PAUSE_SHARD,
    },
}

_BY_FAMILY = {
    (Phase.SEND, Family.DECRYPTION): {
        StatusCode.ABORTED: Verdict.BUSY,  # its store is full
        StatusCode.INTERNAL: Verdict.COUNT_ATTEMPT,
        StatusCode.INVALID_ARGUMENT: Verdict.FAIL,
        StatusCode.OUT_OF_RANGE: Verdict.FAIL,
        StatusCode.DATA_LOSS: Verdict.FAIL,
    },
    (Phase.POLL, Family.DECRYPTION): {
        StatusCode.ABORTED: Verdict.RESEND,
        StatusCode.INTERNAL: Verdict.COUNT_ATTEMPT,
        StatusCode.INVALID_ARGUMENT: Verdict.FAIL,
        StatusCode.OUT_OF_RANGE: Verdict.FAIL,
        StatusCode.DATA_LOSS: Verdict.FAIL,
    },
    (Phase.SEND, Family.CEREMONY): {
        StatusCode.ABORTED: Verdict.REFUSED,  # a refused launch
        StatusCode.INTERNAL: Verdict.SLOW_RETRY_ALERT,
        StatusCode.INVALID_ARGUMENT: Verdict.SLOW_RETRY_ALERT,
        StatusCode.OUT_OF_RANGE: Verdict.SLOW_RETRY_ALERT,
        StatusCode.DATA_LOSS: Verdict.SLOW_RETRY_ALERT,
    },
    (Phase.POLL, Family.CEREMONY): {
        StatusCode.ABORTED: Verdict.ABORTED_FAIL,
        StatusCode.INTERNAL: Verdict.SLOW_RETRY_ALERT,
        StatusCode.INVALID_ARGUMENT: Verdict.SLOW_RETRY_ALERT,
        StatusCode.OUT_OF_RANGE: Verdict.SLOW_RETRY_ALERT,
        StatusCode.DATA_LOSS: Verdict.SLOW_RETRY_ALERT,
    },
}

TABLE: dict[tuple[Phase, Family, StatusCode], Verdict] = {
    (phase, family, status): verdict
    for (phase, family), cells in _BY_FAMILY.items()
    for status, verdict in (_EITHER_FAMILY[phase] | cells).items()
}

NOT_USABLE = frozenset(status for (_, _, status), verdict in TABLE.items() if verdict is Verdict.PAUSE_SHARD)
"""Statuses that pause a shard, whatever was asked."""

BURNING = frozenset(
    {StatusCode.NOT_FOUND, StatusCode.ABORTED, StatusCode.INVALID_ARGUMENT, StatusCode.INTERNAL},
)
"""Refusals of a send after which v0.13.0-rc.1 may hold the id burnt (decisions.md 13): stored with the row."""


def verdict(phase: Phase, family: Family, status: StatusCode) -> Verdict:
    """The cell of the table. Total: every status has a verdict in both phases and for both families."""
    return TABLE[phase, family, status]


def refusal(phase: Phase, family: Family, status: StatusCode) -> str | None:
    """The status name to remember with the row when a send was refused in a way that may burn its id, else None.

    ABORTED for a decryption is a full store, checked before the id is registered: nothing is burnt.
    """
    burns = phase is Phase.SEND and status in BURNING and TABLE[phase, family, status] is not Verdict.BUSY
    return status.name if burns else None


def is_burnt(status: StatusCode, stored_refusal: str | None) -> bool:
    """True when a poll's `status` after an earlier refused send shows a burnt id: it is not ready and never will be.

    The caller polls slowly, alerts, and says so in `last_error` (decisions.md 13). For ALREADY_EXISTS on a later send
    the same holds.
    """
    return stored_refusal is not None and status in (StatusCode.UNAVAILABLE, StatusCode.ALREADY_EXISTS)
