"""Seeds of the simulated world that run with every `make test`; `make sim` runs as many as one likes.

`KMSD_SIM_SEEDS` changes how many. The corpus holds plans that once showed a bug of kmsd.
"""

import os

import pytest

from .corpus import PLANS
from .plan import Plan, draw
from .simulation import simulate

COUNT = int(os.environ.get("KMSD_SIM_SEEDS", "60"))
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_seeds(part: int) -> None:
    for seed in range(part, COUNT, PARTS):
        _must_go_well(draw(seed), f"seed {seed}")


@pytest.mark.parametrize("words", sorted(PLANS))
def test_plans_that_once_went_wrong(words: str) -> None:
    _must_go_well(PLANS[words], words)


def _must_go_well(plan: Plan, words: str) -> None:
    result = simulate(plan)
    assert result.wrong is None, f"{words}: {result.wrong}\nreplay: python -m sim replay --plan '{plan.dumps()}'"
