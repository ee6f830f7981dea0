"""The table of places is the code's: every `failpoint(…)` stands in it, and nothing else does."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsd.failpoints import PLACES

ROOT = Path(__file__).resolve().parents[2]


def marked() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Where each `failpoint(…)` of the code stands, and a pattern of the names that it may pass."""
    for path in sorted((ROOT / "kmsd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                (name,) = node.args
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                if isinstance(name, ast.Constant):
                    yield where, re.compile(re.escape(name.value))
                else:
                    assert isinstance(name, ast.JoinedStr), where
                    parts = (re.escape(p.value) if isinstance(p, ast.Constant) else r"\w+" for p in name.values)
                    yield where, re.compile("".join(parts))


def test_every_place_of_the_code_is_in_the_table_and_the_other_way_round() -> None:
    places = dict(marked())
    unknown = [where for where, names in places.items() if not any(map(names.fullmatch, PLACES))]
    assert not unknown, "these places are not in kmsd/failpoints.py, so the crash suite does not kill there"
    gone = [name for name in PLACES if not any(names.fullmatch(name) for names in places.values())]
    assert not gone, "these places are in the table and nowhere in the code"


def verbs_of(path: str) -> set[str]:
    """What the code passes as `verb` to the places with a verb in their name."""
    found = re.findall(r'self\._queue\("(\w+)"', (ROOT / path).read_text())
    return set(found)


def test_every_verb_that_writes_a_change_of_state_has_its_two_places() -> None:
    verbs = verbs_of("kmsd/operations/transitions.py")
    assert len(verbs) >= 5
    assert {f"worker.{when}_{verb}" for verb in verbs for when in ("before", "after")} <= PLACES.keys()


@pytest.mark.parametrize(
    ("setting", "ending"),
    [("sender.signed", -9), ("sender.signed:2", -9), ("sender.signed:3", 0), ("", 0), ("sender.sined", 1)],
)
def test_the_nth_passage_kills_and_an_unknown_place_is_refused(setting: str, ending: int) -> None:
    program = "from kmsd.failpoints import failpoint\nfor _ in range(2):\n  failpoint('sender.signed')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"KMSD_FAILPOINT": setting},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ending, done.stderr
    assert ("there is no place sender.sined" in done.stderr) is (ending == 1)
