"""When to try again and when to give up: pure (decisions.md 5, guarantee QU5).

A reason says whether an answer counts against the request, whether the time budget may be judged after it, and at what
pace to come back. Outages, busy and not-ready never count and never fail anything.
"""

from enum import StrEnum

import attrs

from kmsd.operations.table import Family


class Reason(StrEnum):
    """Why a request did not get on: the label `reason` of the metrics, and a row of RULES."""

    ACCESS_DENIED = "access denied"
    MALFORMED = "malformed"
    NOT_VISIBLE = "not visible"
    HOST_CHAIN = "host chain"
    GATEWAY = "gateway"
    CIPHERTEXT = "ciphertext"
    CORE_BUSY = "core busy"
    CORE_UNREACHABLE = "core unreachable"
    CORE_UNUSABLE = "core unusable"
    CORE_NOT_READY = "core not ready"
    CORE_REFUSED = "core refused"
    CORE_INTERNAL = "core internal"
    CORE_REJECTED = "core rejected"
    CORE_FORGOT = "core forgot"
    CORE_ABORTED = "core aborted"
    BURNT = "burnt"
    KEY_NOT_THERE = "key not there"
    KEY_NOT_ALLOWED = "key not allowed"
    KEY_REFUSED = "key refused"
    PREPARATION = "preparation"
    RESULT_REJECTED = "result rejected"
    DATABASE = "database"
    UNEXPECTED = "unexpected"
    ATTEMPTS = "attempts"
    TIME_BUDGET = "time budget"


@attrs.frozen
class Pace:
    """Pauses between tries in seconds: `first`, then `factor` times as long each time, at most `longest`."""

    first: float
    factor: float
    longest: float

    def delay(self, tries: int, chance: float) -> float:
        """The pause after `tries` earlier tries; `chance` in [0, 1) spreads it by up to a quarter."""
        exponent = min(tries, 32)
        return min(self.longest, self.first * self.factor**exponent) * (1.0 + chance / 4.0)


STEADY = Pace(2.0, 4.0, 30.0)
"""Retries after 2 and 8 s, then every 30: other parties' Cores wait about a minute for ours."""
OUTAGE = Pace(2.0, 1.5, 5.0)
"""While something that the request needs is down: it goes on within 7 s of the end of the outage, however long that
was."""
SLOW = Pace(30.0, 2.0, 300.0)
"""For what most likely needs an operator."""
SOON = Pace(1.0, 2.0, 8.0)
"""For what is merely not ready."""

COUNT_INTERVAL = 30.0
"""Seconds of budget between two answers that count, so that three of them span a minute however fast they come."""


@attrs.frozen
class Rule:
    """What follows from a reason. `fatal`: the request is given up at once (key management too)."""

    pace: Pace = STEADY
    counts: bool = False
    judged: bool = False
    fatal: bool = False


RULES: dict[Reason, Rule] = {
    Reason.ACCESS_DENIED: Rule(counts=True, judged=True),
    Reason.MALFORMED: Rule(fatal=True),
    Reason.NOT_VISIBLE: Rule(judged=True),
    Reason.HOST_CHAIN: Rule(),
    Reason.GATEWAY: Rule(),
    Reason.CIPHERTEXT: Rule(judged=True),
    Reason.CORE_BUSY: Rule(pace=SOON),
    Reason.CORE_UNREACHABLE: Rule(),
    Reason.CORE_UNUSABLE: Rule(),
    Reason.CORE_NOT_READY: Rule(pace=SOON, judged=True),
    Reason.CORE_REFUSED: Rule(judged=True),
    Reason.CORE_INTERNAL: Rule(counts=True, judged=True),
    Reason.CORE_REJECTED: Rule(fatal=True),
    Reason.CORE_FORGOT: Rule(judged=True),
    Reason.CORE_ABORTED: Rule(fatal=True),
    Reason.BURNT: Rule(pace=SLOW, judged=True),
    Reason.KEY_NOT_THERE: Rule(judged=True),
    Reason.KEY_NOT_ALLOWED: Rule(pace=SLOW, judged=True),
    Reason.KEY_REFUSED: Rule(fatal=True),
    Reason.PREPARATION: Rule(pace=SOON),
    Reason.RESULT_REJECTED: Rule(counts=True, judged=True),
    Reason.DATABASE: Rule(),
    Reason.UNEXPECTED: Rule(pace=SLOW, judged=True),
    Reason.ATTEMPTS: Rule(fatal=True),
    Reason.TIME_BUDGET: Rule(fatal=True),
}

SLOW_FOR_CEREMONIES = frozenset(
    {Reason.CORE_INTERNAL, Reason.CORE_REFUSED, Reason.RESULT_REJECTED, Reason.ACCESS_DENIED, Reason.CORE_ABORTED}
)
"""Reasons after which a ceremony most likely needs an operator: it is tried again slowly, for ever."""


@attrs.frozen
class Limits:
    """`max_decryption_attempts` and `decryption_time_budget` (seconds)."""

    attempts: int
    time_budget: float


@attrs.frozen
class Progress:
    """What a row has behind it: tries, answers that counted, and seconds of its time budget."""

    tries: int
    counted: int
    budget_age: float


@attrs.frozen
class Again:
    """Try again after `delay` seconds; `counts`: the answer counts against the request."""

    delay: float
    counts: bool


@attrs.frozen
class GiveUp:
    """Fail it. `reason` is why: the reason itself, or a spent budget; `counts` as in Again."""

    reason: Reason
    counts: bool


def judge(
    family: Family, reason: Reason, *, outage: bool, progress: Progress, limits: Limits, chance: float
) -> Again | GiveUp:
    """What becomes of a request that did not get on for `reason`.

    `outage`: something that it needs was down, so the time budget is not judged, and the pace is that of outages.
    Ceremonies have no budget at all.
    """
    rule = RULES[reason]
    if rule.fatal:
        return GiveUp(reason, counts=False)
    # A Core that answers and cannot be used needs its operator: there is no end of an outage to be early for.
    pace = OUTAGE if outage and reason is not Reason.CORE_UNUSABLE else rule.pace
    if family is Family.CEREMONY:
        pace = SLOW if reason in SLOW_FOR_CEREMONIES else pace
        return Again(pace.delay(progress.tries, chance), counts=False)
    counts = rule.counts and progress.budget_age >= progress.counted * COUNT_INTERVAL
    if counts and progress.counted + 1 >= limits.attempts:
        return GiveUp(Reason.ATTEMPTS, counts=True)
    if rule.judged and not outage and progress.budget_age >= limits.time_budget:
        return GiveUp(Reason.TIME_BUDGET, counts)
    return Again(pace.delay(progress.tries, chance), counts)
