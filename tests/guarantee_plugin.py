"""Remembers which tests prove which guarantee, and how they ended, for `make guarantees`.

A test says `@pytest.mark.guarantee("EV1")`, with as many ids as it proves. Results of all runs are merged into one
file of the cache folder, with the time of the run; a test that no longer exists, or no longer carries the id, is
forgotten when its file is collected again. An id that docs/guarantees.md does not know stops the run.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "guarantees.md"
RESULTS = Path(os.environ.get("KMSD_CACHE") or ROOT / ".cache") / "guarantees.json"

_ROW = re.compile(r"^\| ([A-Z]{2}\d{1,2}) \| (.+?) \|$", re.MULTILINE)
_WORST = ("failed", "skipped", "passed")


def promises() -> dict[str, str]:
    """Id → promise, in the order of the document. Raises ValueError for an id that stands twice."""
    rows = _ROW.findall(DOCUMENT.read_text())
    found = dict(rows)
    if len(found) != len(rows):
        raise ValueError(f"an id stands twice in {DOCUMENT.name}")
    return found


def _ids(item: pytest.Item) -> list[str]:
    return [str(argument) for mark in item.iter_markers("guarantee") for argument in mark.args]


class Recorder:
    """Collects the outcomes of a run."""

    def __init__(self) -> None:
        self._known = promises()
        self._claims: dict[str, list[str]] = {}
        self._outcomes: dict[str, str] = {}
        self._files: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Before any deselection by -k or -m of other plugins counts: what each file's tests claim."""
        for item in items:
            self._files.add(item.nodeid.split("::")[0])
            if claimed := _ids(item):
                self._claims[item.nodeid] = claimed
                if unknown := [guarantee for guarantee in claimed if guarantee not in self._known]:
                    raise pytest.UsageError(f"{item.nodeid}: {DOCUMENT.name} has no {', '.join(unknown)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst phase is the test's outcome; an expected failure is a failure of the proof."""
        outcome = "failed" if hasattr(report, "wasxfail") else report.outcome
        known = self._outcomes.get(report.nodeid, "passed")
        self._outcomes[report.nodeid] = min(known, outcome, key=_WORST.index)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Merges this run into the file."""
        if session.config.option.collectonly or not self._outcomes:
            return
        root = session.config.rootpath
        now = datetime.now(UTC).isoformat(timespec="minutes")[:16] + "Z"
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with _exclusively(RESULTS.with_suffix(".lock")):
            known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            partial = bool(session.config.option.keyword or session.config.option.markexpr) or any(
                "::" in argument for argument in session.config.args
            )
            for node in list(known):
                file = node.split("::")[0]
                if not (root / file).exists() or (file in self._files and not partial and node not in self._claims):
                    del known[node]
            for node, claimed in self._claims.items():
                if node in self._outcomes:
                    known[node] = {"guarantees": claimed, "outcome": self._outcomes[node], "at": now}
            part = RESULTS.with_suffix(".part")
            part.write_text(json.dumps(known, indent=1, sort_keys=True))
            part.replace(RESULTS)


@contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Registers the recorder."""
    config.pluginmanager.register(Recorder(), "kmsd-guarantees")
