"""`make sim-mutants`: how many seeds it takes to find each deliberate bug; each is hunted in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from .mutants import MUTANTS, TESTS, infect


def hunt_one(name: str, seeds: int, first: int) -> int:
    """Run seeds of a world with this mutant until one goes wrong; prints which and how. 1 if none does."""
    infect(name)
    from .plan import draw  # after the infection
    from .simulation import simulate

    for seed in range(first, first + seeds):
        try:
            wrong = simulate(draw(seed)).wrong
        except Exception as error:  # whatever breaks was found
            wrong = f"{type(error).__name__}: {error}"
        if wrong is not None:
            print(f"{seed - first + 1}\t{seed}\t{wrong[:150]}")
            return 0
    print(f"{seeds}\t-\tnot found")
    return 1


def hunt(names: Sequence[str], seeds: int, first: int, processes: int) -> int:
    """All mutants; 1 if one was not found."""
    environment = os.environ | {"PYTHONPATH": str(TESTS)}

    def child(name: str) -> tuple[str, int, str, float]:
        began = time.monotonic()
        command = [sys.executable, "-m", "sim", "mutant", name, "--seeds", str(seeds), "--first", str(first)]
        done = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False)
        words = done.stdout.strip().splitlines()[-1:] or done.stderr.strip().splitlines()[-1:]
        return name, done.returncode, words[0] if words else "no word", time.monotonic() - began

    lost = 0
    with ThreadPoolExecutor(processes) as pool:
        for name, status, words, seconds in pool.map(child, names):
            lost += status != 0
            print(
                f"{'found' if status == 0 else 'LOST '}  {MUTANTS[name].breaks:16} {name:45} {words}  {seconds:.0f} s",
                flush=True,
            )
    print(f"{len(names) - lost} of {len(names)} mutants found within {seeds} seeds each")
    return 1 if lost else 0
