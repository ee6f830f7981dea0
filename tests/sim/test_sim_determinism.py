"""One seed, one run: the same trace in every process; and a canary for the private names of trio that this needs."""

import os
import subprocess
import sys
from pathlib import Path

import trio
from trio._core import _run

from .plan import draw, loads
from .simulation import simulate
from .world.determinism import now, run

TESTS = Path(__file__).parents[1]
SEED = 23
PROGRAM = (
    "from sim.plan import draw; from sim.simulation import simulate; r = simulate(draw({seed})); "
    "print(r.digest, r.calls, r.wrong)"
)


def _elsewhere(hash_seed: str) -> str:
    """The digest of the seed's trace in a process of its own."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", PROGRAM.format(seed=SEED)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout


def test_same_seed_same_trace_in_other_processes() -> None:
    here = simulate(draw(SEED))
    words = f"{here.digest} {here.calls} {here.wrong}\n"
    assert here.calls > 200
    assert [_elsewhere("1"), _elsewhere("2")] == [words, words]


def test_same_seed_same_trace_again_and_another_seed_another() -> None:
    first, again, other = (simulate(draw(seed)).digest for seed in (SEED, SEED, SEED + 1))
    assert first == again
    assert first != other


def test_plans_survive_json() -> None:
    for seed in range(50):
        assert loads(draw(seed).dumps()) == draw(seed)


def test_the_private_names_of_trio_are_there() -> None:
    assert hasattr(_run._r, "seed")
    assert _run._ALLOW_DETERMINISTIC_SCHEDULING in (True, False)

    order: list[int] = []

    async def note(number: int) -> None:
        await trio.sleep(1.0)
        order.append(number)

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(note, number)
        return now()

    began = run(main, 1)
    first, order = order, []
    run(main, 1)
    second, order = order, []
    run(main, 2)
    assert began == 1_700_000_001.0
    assert first == second
    assert first != order
