"""The crash suite's table in the document: put in once, replaced in its place, added up."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "crash"))
import crash_table
from crash_table import HEADING, Tally, in_order, markdown, replaced

DOCUMENT = "# Promises\n\ntext\n\n# Weaknesses\n\nmore\n"


def tally(fault: str, group: str, *recoveries: float, lost: int = 0) -> Tally:
    return Tally(fault, group, len(recoveries), 20 * len(recoveries), lost, 0, list(recoveries), [3.0], "2026-01-02")


def test_the_section_is_added_and_then_replaced_where_it_stands() -> None:
    section = markdown([tally("SIGKILL", "kills", 2.0, 4.0)], "one machine")
    once = replaced(DOCUMENT, section)
    assert once.startswith(DOCUMENT.rstrip("\n"))
    assert once.count(HEADING) == 1
    again = replaced(once, markdown([tally("SIGKILL", "kills", 9.0)], "one machine"))
    assert again.count(HEADING) == 1
    assert "9.0 s" in again
    assert "4.0 s" not in again
    before_weaknesses = f"# Promises\n\n{section}\n# Weaknesses\n\nmore\n"
    assert replaced(before_weaknesses, section) == before_weaknesses


def test_rows_and_sums() -> None:
    text = markdown([tally("a fault", "x", 2.0, 4.0, 9.0), tally("another", "x", 1.0, lost=2)], "one machine")
    assert "| a fault | 3 | 60 | 0 | 0 | 4.0 s | 9.0 s |" in text
    assert "| **all** | **4** | **80** | **2** | **0** | **3.0 s** | **9.0 s** |" in text
    assert "Last run 2026-01-02, one machine. Load average meanwhile: 3." in text


def test_rounds_of_one_run_add_up_and_a_new_run_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_table, "RESULTS", tmp_path / "crash.json")
    crash_table.record("x", "fault", 20, 0, 0, 1.0)
    assert crash_table.load() == {}  # the short form leaves no trace
    monkeypatch.setattr(crash_table, "RECORDING", True)
    for run, seconds in (("1", 1.0), ("1", 2.0), ("2", 5.0), ("2", 6.0)):
        monkeypatch.setenv("KMSD_CRASH_RUN", run)
        crash_table.record("x", "fault", 20, 0, 0, seconds)
    crash_table.record("y", "other", 1, 0, 0, 1.0)
    first, other = in_order(crash_table.load())
    assert (first.rounds, first.events, first.recoveries) == (2, 40, [5.0, 6.0])
    assert other.fault == "other"
