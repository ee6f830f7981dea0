"""The pace of retries after an outage: it ends when the outage does, not half a minute later (QU5)."""

import pytest

from kmsd.operations.retry import Again, Limits, Progress, Reason, judge
from kmsd.operations.table import Family

LIMITS = Limits(attempts=3, time_budget=86_400.0)
OUTAGES = (Reason.HOST_CHAIN, Reason.GATEWAY, Reason.CORE_UNREACHABLE, Reason.CIPHERTEXT, Reason.DATABASE)


@pytest.mark.guarantee("QU5")
@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("reason", OUTAGES)
def test_after_an_outage_of_any_length_work_goes_on_within_seconds(family: Family, reason: Reason) -> None:
    for tries in range(40):
        progress = Progress(tries=tries, counted=0, budget_age=1e9)
        verdict = judge(family, reason, outage=True, progress=progress, limits=LIMITS, chance=0.999)
        assert isinstance(verdict, Again)
        assert not verdict.counts
        assert 2.0 <= verdict.delay <= 7.0


@pytest.mark.guarantee("QU5")
def test_what_is_no_outage_is_tried_at_its_own_pace() -> None:
    progress = Progress(tries=9, counted=0, budget_age=0.0)
    delays = [
        judge(Family.DECRYPTION, reason, outage=False, progress=progress, limits=LIMITS, chance=0.0)
        for reason in (Reason.CIPHERTEXT, Reason.BURNT, Reason.CORE_NOT_READY)
    ]
    assert [verdict.delay for verdict in delays if isinstance(verdict, Again)] == [30.0, 300.0, 8.0]
