"""Makes a plan that goes wrong as small as it can be and still go wrong in the same way (delta debugging)."""

from collections.abc import Iterator, Sequence

import attrs

from .plan import Ask, Fault, Plan
from .simulation import simulate

TRIES = 120
"""Worlds that are run at most."""


def shrink(plan: Plan) -> tuple[Plan, str | None]:
    """The least plan found, and what goes wrong in it; None when `plan` itself goes well."""
    wrong = simulate(plan).wrong
    if wrong is None:
        return plan, None
    tries = 0
    smaller = True
    while smaller and tries < TRIES:
        smaller = False
        for candidate in _smaller(plan):
            tries += 1
            result = simulate(candidate)
            if result.wrong is not None and kind_of(result.wrong) == kind_of(wrong):
                plan, wrong, smaller = candidate, result.wrong, True
                break
            if tries >= TRIES:
                break
    return plan, wrong


def kind_of(wrong: str) -> str:
    """Which promise was broken: two failures are the same if this is."""
    return wrong.partition(":")[0].partition(" ")[0]


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with less in them, those with much less first."""
    for faults in _fewer(plan.faults):
        yield attrs.evolve(plan, faults=faults)
    for asks in _fewer(plan.asks):
        yield attrs.evolve(plan, asks=asks)
    simple: dict[str, object] = {
        "daemons": 1,
        "shards": 1,
        "nodes": 1,
        "remote_wallet": False,
        "pushes": False,
        "nitro": False,
        "confirmations": 0,
    }
    for name, value in simple.items():
        if getattr(plan, name) != value:
            yield attrs.evolve(plan, **{name: value})


def _fewer(items: Sequence[Ask] | Sequence[Fault]) -> Iterator[tuple[object, ...]]:
    """Without half of the items, a quarter, …, one."""
    size = len(items)
    part = size
    while part >= 1:
        for start in range(0, size, part):
            yield tuple(items[:start]) + tuple(items[start + part :])
        part //= 2
