"""`make sim-mutants`: how many seeds it takes to find each deliberate bug.

Each is hunted in a child of its own, forked after everything else was imported, which then imports kmsd and the world
anew, with the bug in one module.
"""

import multiprocessing
import sys
import time
from collections.abc import Sequence

from .mutants import MUTANTS, infect

KEPT = ("kmsd.core.pb", "sim.hunt", "sim.mutants", "sim.runner", "sim.__main__")
"""Modules that are not imported anew: generated messages may be registered only once."""
Found = tuple[str, int | None, str, float]
"""Mutant, the seed that found it (None: none did), what went wrong, seconds that it took."""


def hunt_one(name: str, seeds: int, first: int, seconds: float) -> Found:
    """Run seeds of a world with this mutant until one goes wrong."""
    for module in list(sys.modules):
        if module.startswith(("kmsd", "sim.")) and not module.startswith(KEPT):
            del sys.modules[module]
    infect(name)
    from .plan import draw
    from .simulation import simulate

    began = time.monotonic()
    needs = MUTANTS[name].needs
    for seed in range(first, first + seeds):
        plan = draw(seed)
        if needs and not any(fault.what.startswith(tuple(needs)) for fault in plan.faults):
            continue
        try:
            wrong = simulate(plan).wrong
        except Exception as error:  # whatever breaks was found
            wrong = f"{type(error).__name__}: {error}"
        if wrong is not None:
            return name, seed, wrong, time.monotonic() - began
        if seconds and time.monotonic() - began > seconds:
            return name, None, f"not found by seed {seed}: out of time", time.monotonic() - began
    return name, None, "not found", time.monotonic() - began


def hunt(names: Sequence[str], seeds: int, first: int, processes: int, seconds: float) -> int:
    """All mutants, at most `seconds` each (0: as long as it takes); 1 if one was not found."""
    from . import simulation  # noqa: F401  # imported once for all children

    lost = 0
    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1) as pool:
        tasks = [pool.apply_async(hunt_one, (name, seeds, first, seconds)) for name in names]
        for task in tasks:
            name, seed, wrong, spent = task.get()
            lost += seed is None
            verdict = "LOST " if seed is None else f"found in {seed - first + 1} seeds"
            print(f"{verdict:18}  {MUTANTS[name].breaks:16} {name:43} {wrong[:110]}  {spent:.0f} s", flush=True)
    print(f"{len(names) - lost} of {len(names)} mutants found within {seeds} seeds each")
    return 1 if lost else 0
