"""`make guarantees`: every promise of docs/guarantees.md with its tests and how they ended when they last ran.

Exits 1 when a claimed promise has no passing test or a failing one. Results come from the runs of pytest so far
(`guarantee_plugin.py`); run `make test` to have them all.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from guarantee_plugin import RESULTS, promises

CLAIMED = (
    *("EV1", "EV2", "EV3", "EV4", "EV5", "EV6", "EV7", "EV8"),
    *("QU1", "QU2", "QU3", "QU4", "QU5", "QU6", "QU7", "QU8", "QU9"),
    *("WK1", "WK2", "WK3", "WK4", "WK5", "WK6"),
    *("TX1", "TX2", "TX3", "TX4", "TX5", "TX6", "TX7"),
    *("PR1", "PR2", "PR3", "PR4", "PR5", "PR6", "PR7"),
)
"""Promises that must be proven. An id joins once its tests were seen to fail with the promise broken; none leaves."""


class Proof(NamedTuple):
    """A test, its number of cases, the worst outcome among them, and when the oldest of them last ran (UTC)."""

    test: str
    cases: int
    outcome: str
    at: str


def proofs(results: Mapping[str, Any], guarantee: str) -> list[Proof]:
    """The tests that carry an id; the cases of a parametrized test are one."""
    cases: dict[str, list[Mapping[str, Any]]] = {}
    for node, result in sorted(results.items()):
        if guarantee in result["guarantees"]:
            cases.setdefault(node.partition("[")[0], []).append(result)
    return [
        Proof(
            test,
            len(runs),
            next((run["outcome"] for run in runs if run["outcome"] != "passed"), "passed"),
            min(run["at"] for run in runs),
        )
        for test, runs in cases.items()
    ]


def verdict(tests: Sequence[Proof]) -> str:
    """What is known of a promise: "proven", "FAILED", "skipped" (no test ran) or "no test"."""
    outcomes = {proof.outcome for proof in tests}
    if not outcomes:
        return "no test"
    if "failed" in outcomes:
        return "FAILED"
    return "proven" if "passed" in outcomes else "skipped"


def report(known: Mapping[str, str], results: Mapping[str, Any], claimed: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lines to print, and the claimed ids that are not proven."""
    lines: list[str] = []
    verdicts: dict[str, str] = {}
    for guarantee, promise in known.items():
        tests = proofs(results, guarantee)
        verdicts[guarantee] = verdict(tests)
        lines.append(f"{guarantee}  {verdicts[guarantee]:8} {promise.partition('. ')[0].partition(': ')[0]}")
        for test in tests:
            cases = f" ({test.cases} cases)" if test.cases > 1 else ""
            lines.append(f"       {test.outcome:7} {test.at}  {test.test}{cases}")
    counts = [f"{list(verdicts.values()).count(word)} {word}" for word in ("proven", "no test", "skipped", "FAILED")]
    lines.append(f"{len(verdicts)} promises: {', '.join(counts)}; {len(claimed)} claimed")
    return lines, [guarantee for guarantee in claimed if verdicts.get(guarantee) != "proven"]


def main() -> int:
    """Prints the report; 1 if a claim is not proven."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    lines, broken = report(promises(), results, CLAIMED)
    print("\n".join(lines))
    if broken:
        print(f"claimed but not proven: {', '.join(broken)} (make test runs their tests)", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
