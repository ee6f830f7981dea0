"""The crash suite's results: a row for each fault, kept in the cache folder, and their table in docs/guarantees.md.

`python tests/crash/crash_table.py [WORDS]` writes the table of the last runs into the document; WORDS say more about
the machine.
"""

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "guarantees.md"
RESULTS = Path(os.environ.get("KMSD_CACHE") or ROOT / ".cache") / "crash.json"
RECORDING = False
"""Whether rounds are kept: the short form leaves the long form's results alone."""
HEADING = "# Crash suite\n"


@attrs.define
class Tally:
    """One kind of fault over its rounds. `recoveries` are seconds from the end of the fault until all was done,
    `loads` the machine's load averages (one minute) at these moments.
    """

    fault: str
    group: str
    rounds: int = 0
    events: int = 0
    lost: int = 0
    doubled: int = 0
    recoveries: list[float] = attrs.field(factory=list)
    loads: list[float] = attrs.field(factory=list)
    at: str = ""


def start_recording() -> None:
    """Keep the rounds from now on."""
    global RECORDING
    RECORDING = True


def record(group: str, fault: str, events: int, lost: int, doubled: int, recovery: float) -> None:
    """Adds one round to this run's tally of the fault; the first round of a run replaces what an earlier one left.

    Processes with the same KMSD_CRASH_RUN are one run.
    """
    if not RECORDING:
        return
    known = load()
    run = os.environ.get("KMSD_CRASH_RUN") or str(os.getpid())
    kept = known.get(fault)
    tally = Tally(**kept["tally"]) if kept is not None and kept["run"] == run else Tally(fault, group)
    tally.rounds += 1
    tally.events += events
    tally.lost += lost
    tally.doubled += doubled
    tally.recoveries.append(round(recovery, 2))
    tally.loads.append(round(os.getloadavg()[0], 1))
    tally.at = datetime.now(UTC).date().isoformat()
    known[fault] = {"run": run, "tally": attrs.asdict(tally)}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(known, indent=1))
    part.replace(RESULTS)


def load() -> dict[str, Any]:
    """What earlier runs left."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def markdown(tallies: Sequence[Tally], machine: str) -> str:
    """The section of the document."""
    lines = [
        HEADING,
        "`make crash` runs the daemon as a process, with a real Postgres, two anvil chains, a Core double and buckets,",
        "breaks something under load, heals it, waits until every request of the chain is at its end, and audits: the",
        "whole chain against all tables. *Lost* is a request that is not stored, or ended without an answer on chain",
        "and without a failure in words; *doubled* one with two mined transactions of ours. *Recovery* is the time",
        "from the end of the fault (or the start of the killed daemon's successor) until everything is done, its start",
        "included.",
        "",
        f"Last run {max((one.at for one in tallies), default='never')}, {machine}. {_busy(tallies)}",
        "",
        "| fault | rounds | events | lost | doubled | recovery, median | longest |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in tallies:
        median, longest = statistics.median(one.recoveries), max(one.recoveries)
        lines.append(
            f"| {one.fault} | {one.rounds} | {one.events} | {one.lost} | {one.doubled} | {median:.1f} s "
            f"| {longest:.1f} s |"
        )
    rounds, events = sum(one.rounds for one in tallies), sum(one.events for one in tallies)
    lost, doubled = sum(one.lost for one in tallies), sum(one.doubled for one in tallies)
    times = [seconds for one in tallies for seconds in one.recoveries] or [0.0]
    lines.append(
        f"| **all** | **{rounds}** | **{events}** | **{lost}** | **{doubled}** | **{statistics.median(times):.1f} s** "
        f"| **{max(times):.1f} s** |"
    )
    return "\n".join(lines) + "\n"


def _busy(tallies: Sequence[Tally]) -> str:
    loads = [load for one in tallies for load in one.loads]
    return f"Load average meanwhile: {statistics.median(loads):.0f}." if loads else ""


def in_order(known: Mapping[str, Any]) -> list[Tally]:
    """The tallies by group, then in the order in which they were first recorded."""
    tallies = [Tally(**entry["tally"]) for entry in known.values()]
    groups = list(dict.fromkeys(one.group for one in tallies))
    return sorted(tallies, key=lambda one: groups.index(one.group))


def replaced(document: str, section: str) -> str:
    """The document with this section in the place of the old one, or at its end."""
    before, _, rest = document.partition(HEADING)
    _, heading, after = rest.partition("\n# ")
    return before.rstrip("\n") + "\n\n" + section + (heading + after if heading else "")


def main() -> int:
    """Writes the section; 1 when there is nothing to write."""
    known = load()
    if not known:
        print("no results: run make crash first", file=sys.stderr)
        return 1
    machine = f"{os.cpu_count()} shared cores, {platform.system()}, Python {platform.python_version()}"
    machine += "".join(f", {words}" for words in sys.argv[1:])
    DOCUMENT.write_text(replaced(DOCUMENT.read_text(), markdown(in_order(known), machine)))
    print(f"{DOCUMENT.relative_to(ROOT)}: {len(known)} faults")
    return 0


if __name__ == "__main__":
    sys.exit(main())
