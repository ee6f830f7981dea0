"""How a flow ends: with a record for the store, or with an exception that one table turns into one.

A flow returns `Answered` or `Finished`. Everything else that can happen to it is raised, as a `Setback` or as an
exception of the room where it happened, and becomes `TryAgain` or `Failed` in `conclude` (QU5, QU8).
"""

from collections.abc import Callable

import attrs

from kmsd.blobs.ciphertexts import CiphertextMissing
from kmsd.chain.access import HostChainMissing, Malformed, NotAllowed, NotYet
from kmsd.chain.views import ViewRefused
from kmsd.core.results import ResultRejected
from kmsd.operations.retry import Again, GiveUp, Limits, Progress, Reason, judge
from kmsd.operations.table import OPERATIONS
from kmsd.ports import (
    Answered,
    Claimed,
    DependencyDown,
    Failed,
    Finished,
    Lease,
    StatusCode,
    TryAgain,
)
from kmsd.wire.errors import WireError

Outcome = Answered | Finished | TryAgain | Failed

MAX_WORDS = 500
"""Characters of `last_error`."""
UNSERVED_PAUSE = 60.0
"""Seconds between tries of a request whose host chain is not configured: only the operator ends that."""


class Setback(Exception):
    """A flow did not get on. `reason` decides what follows, `words` are for the operator.

    `outage`: something it needs was down. `status` is the Core's, where it was one that said so. The other fields go
    into `TryAgain` as they are; `delay` in seconds, None for the pace of the reason.
    """

    def __init__(
        self,
        reason: Reason,
        words: str,
        *,
        outage: bool = False,
        clear_sent: bool = False,
        mark_sent: bool = False,
        refusal: str | None = None,
        core_shard: str | None = None,
        delay: float | None = None,
        status: StatusCode | None = None,
    ) -> None:
        super().__init__(words)
        self.reason = reason
        self.words = words
        self.outage = outage
        self.clear_sent = clear_sent
        self.mark_sent = mark_sent
        self.refusal = refusal
        self.core_shard = core_shard
        self.delay = delay
        self.status = status


class LeaseLost(Exception):
    """The row is no longer ours (another owner has it, or it was withdrawn): stop without writing anything."""


DEPENDENCIES: tuple[tuple[str, Reason], ...] = (
    ("database", Reason.DATABASE),
    ("core", Reason.CORE_UNREACHABLE),
    ("bucket", Reason.CIPHERTEXT),
    ("host", Reason.HOST_CHAIN),
)
"""Which reason a dependency that is down means, by how its name begins; any other is a node of the Gateway."""


def _down(error: DependencyDown) -> Setback:
    reason = next((reason for prefix, reason in DEPENDENCIES if error.name.startswith(prefix)), Reason.GATEWAY)
    return Setback(reason, str(error), outage=True)


SETBACKS: tuple[tuple[type[Exception], Callable[..., Setback]], ...] = (
    (Setback, lambda error: error),
    (Malformed, lambda error: Setback(Reason.MALFORMED, error.words)),
    (NotAllowed, lambda error: Setback(Reason.ACCESS_DENIED, error.words)),
    (NotYet, lambda error: Setback(Reason.NOT_VISIBLE, error.words)),
    (HostChainMissing, lambda error: Setback(Reason.HOST_CHAIN, error.words, outage=True, delay=UNSERVED_PAUSE)),
    (CiphertextMissing, lambda error: Setback(Reason.CIPHERTEXT, error.words, outage=error.outage)),
    (ResultRejected, lambda error: Setback(Reason.RESULT_REJECTED, f"the Core's result was rejected: {error.reason}")),
    (DependencyDown, _down),
    (ViewRefused, lambda error: Setback(Reason.GATEWAY, str(error), outage=True)),
    (WireError, lambda error: Setback(Reason.MALFORMED, str(error))),
    (Exception, lambda error: Setback(Reason.UNEXPECTED, f"unexpected: {type(error).__name__}: {error}")),
)
"""What each exception of a flow means; the first row that fits holds."""


def setback_of(error: Exception) -> Setback:
    """The setback that an exception of a flow means. Total."""
    return next(make(error) for kind, make in SETBACKS if isinstance(error, kind))


@attrs.frozen
class Conclusion:
    """The record to write, and the reason for the metrics: of a give-up the one that it was given up for."""

    outcome: TryAgain | Failed
    reason: Reason


def conclude(row: Claimed, setback: Setback, limits: Limits, chance: float) -> Conclusion:
    """What becomes of `row` after `setback`; `chance` in [0, 1) spreads the pause."""
    lease = lease_of(row)
    progress = Progress(tries_before(row), row.error_counter, row.budget_age)
    verdict = judge(
        OPERATIONS[row.kind].family,
        setback.reason,
        outage=setback.outage,
        progress=progress,
        limits=limits,
        chance=chance,
    )
    words = setback.words[:MAX_WORDS]
    if isinstance(verdict, GiveUp):
        return Conclusion(Failed(lease, _last_words(verdict.reason, words, limits), verdict.counts), verdict.reason)
    assert isinstance(verdict, Again)
    outcome = TryAgain(
        lease,
        delay=verdict.delay if setback.delay is None else setback.delay,
        last_error=words,
        counted=verdict.counts,
        clear_sent=setback.clear_sent,
        mark_sent=setback.mark_sent,
        refusal=setback.refusal,
        core_shard=setback.core_shard,
    )
    return Conclusion(outcome, setback.reason)


def _last_words(reason: Reason, words: str, limits: Limits) -> str:
    if reason is Reason.ATTEMPTS:
        return f"given up after {limits.attempts} answers (max_decryption_attempts), the last: {words}"
    if reason is Reason.TIME_BUDGET:
        return f"given up after {limits.time_budget:.0f} s (decryption_time_budget), the last: {words}"
    return words


def tries_before(row: Claimed) -> int:
    """Earlier tries at the row: a claim counts the one that it begins."""
    return max(0, row.attempts - 1)


def lease_of(row: Claimed) -> Lease:
    """Names the row and the lease that we hold on it."""
    return Lease(row.kind, row.id, row.lease)
