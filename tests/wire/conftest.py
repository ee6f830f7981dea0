"""How long a fuzz test runs: briefly in the normal suite, for its share of KMSD_FUZZ_SECONDS under `make fuzz`."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from wire_strategies import Fuzz


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    """See `Fuzz`."""
    total = float(os.environ.get("KMSD_FUZZ_SECONDS", "0"))
    share = total / max(1, sum(item.get_closest_marker("fuzz") is not None for item in request.session.items))

    def run(strategy: SearchStrategy[Any], check: Callable[[Any], None]) -> None:
        limits = settings(
            max_examples=200 if share else 100,
            deadline=None,
            derandomize=not share,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        end = time.monotonic() + share
        examples = 0

        def counted(value: Any) -> None:
            nonlocal examples
            if not share or time.monotonic() < end:
                examples += 1
                check(value)

        while True:
            limits(given(strategy)(counted))()
            if time.monotonic() >= end:
                break
        if share:
            print(f"{request.node.name}: {examples} examples in {share:.0f} s")

    return run
