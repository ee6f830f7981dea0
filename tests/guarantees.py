"""Prints every guarantee with its tests and their last result: `make guarantees`.

The promises come from docs/guarantees.md, the results from the last runs (`guarantee_plugin`). Ids in
tests/guarantees.closed are claimed to be proven: without a passing test, or with a failing one, the exit status is 1.
"""

import json
import re
import sys
from pathlib import Path

from guarantee_plugin import RESULTS, ROOT

_ROW = re.compile(r"^\|\s*([A-Z]{2}\d{1,2})\s*\|\s*(.*?)\s*\|\s*$", re.MULTILINE)
_SIGNS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}
_WIDTH = 72


def promises() -> dict[str, str]:
    """Every id and its first sentence, in the order of the document."""
    text = (ROOT / "docs" / "guarantees.md").read_text()
    return {found[1]: re.split(r"(?<=[.:;]) ", found[2])[0] for found in _ROW.finditer(text)}


def claimed() -> set[str]:
    """The ids that must have passing tests."""
    path = Path(__file__).with_name("guarantees.closed")
    lines = (line.split("#")[0] for line in path.read_text().splitlines())
    return {word for line in lines for word in line.split()}


def main() -> int:
    """Prints the table; 1 if a claimed guarantee is not proven or a test names an unknown one."""
    known = promises()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    proofs: dict[str, list[tuple[str, str]]] = {guarantee: [] for guarantee in known}
    unknown = set()
    for node, result in results.items():
        for guarantee in result["guarantees"]:
            if guarantee in proofs:
                proofs[guarantee].append((node, result["outcome"]))
            else:
                unknown.add((guarantee, node))
    unproven = []
    for guarantee, tests in proofs.items():
        print(f"{guarantee:5} {known[guarantee][:_WIDTH]}")
        for node, outcome in sorted(tests):
            print(f"      {_SIGNS[outcome]:8} {node}")
        if not tests:
            print("      -        no test")
        outcomes = {outcome for _, outcome in tests}
        if guarantee in claimed() and ("failed" in outcomes or "passed" not in outcomes):
            unproven.append(guarantee)
    for guarantee, node in sorted(unknown):
        print(f"unknown guarantee {guarantee} in {node}")
    for guarantee in sorted(claimed() - known.keys()):
        print(f"unknown guarantee {guarantee} in tests/guarantees.closed")
    proven = sum(any(outcome == "passed" for _, outcome in tests) for tests in proofs.values())
    print(f"\n{proven} of {len(proofs)} guarantees have a passing test; {len(claimed())} are claimed as proven")
    if unproven:
        print(f"claimed but not proven: {', '.join(unproven)}")
    return 1 if unproven or unknown or claimed() - known.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
