"""`make sim`: many seeds over all processors, and one command that repeats what a failure did.

python -m sim run --seeds 1000 --first 0      seeds, two or more processes, a summary; 1 if one failed
python -m sim replay --seed 17                one seed, told line by line
python -m sim replay --plan '{"seed":17,…}'   a plan, as a failure prints it
python -m sim shrink --seed 17                the least plan that still goes wrong
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator

from .hunt import hunt
from .mutants import MUTANTS
from .plan import Plan, draw, loads

COMMAND = "PYTHONPATH=tests .venv/bin/python -m sim"


def _one(seed: int) -> tuple[int, str | None, int, float]:
    from .simulation import simulate

    result = simulate(draw(seed))
    return seed, result.wrong, result.calls, result.seconds


def _run(first: int, seeds: int, processes: int, seconds: float, keep_going: bool) -> int:
    began = time.monotonic()
    done = calls = 0
    virtual = 0.0
    failures: list[tuple[int, str]] = []
    for seed, wrong, count, passed in _results(range(first, first + seeds), processes):
        done, calls, virtual = done + 1, calls + count, virtual + passed
        if wrong is not None:
            failures.append((seed, wrong))
            print(f"seed {seed}: {wrong}\n    {COMMAND} replay --seed {seed}", flush=True)
            if not keep_going:
                break
        if seconds and time.monotonic() - began > seconds:
            break
    spent = time.monotonic() - began
    print(
        f"{done} seeds from {first} in {spent:.0f} s ({spent / max(1, done):.2f} s each), {virtual / 3600:.1f} virtual "
        f"hours, {calls} calls of ports: {len(failures)} failed"
    )
    if failures and not keep_going:
        from .shrink import shrink

        seed, _ = failures[0]
        plan, wrong = shrink(draw(seed))
        print(f"the least plan that goes wrong: {wrong}\n    {COMMAND} replay --plan '{plan.dumps()}'")
    return 1 if failures else 0


def _results(seeds: range, processes: int) -> Iterator[tuple[int, str | None, int, float]]:
    if processes == 1:
        yield from map(_one, seeds)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(_one, seeds, chunksize=4)


def _replay(plan: Plan) -> int:
    from .simulation import simulate

    print(plan.dumps())
    result = simulate(plan, keep_trace=True)
    print("\n".join(result.lines or ()))
    print(f"digest {result.digest}; {result.wrong or 'nothing wrong'}")
    return 1 if result.wrong else 0


def main() -> int:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="sim", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "replay", "shrink", "mutants"))
    parser.add_argument("names", nargs="*", help="mutants; none: all of them")
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so many seconds")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", type=loads)
    options = parser.parse_intermixed_args()
    if options.command == "run":
        return _run(options.first, options.seeds, options.processes, options.seconds, options.keep_going)
    if options.command == "mutants":
        return hunt(options.names or sorted(MUTANTS), options.seeds, options.first, options.processes, options.seconds)
    plan = options.plan or draw(options.seed)
    if options.command == "replay":
        return _replay(plan)
    from .shrink import shrink

    least, wrong = shrink(plan)
    print(f"{wrong}\n    {COMMAND} replay --plan '{least.dumps()}'")
    return 1 if wrong else 0
