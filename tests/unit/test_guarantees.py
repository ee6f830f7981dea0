"""The book-keeping behind `make guarantees`: what is recorded, what is forgotten, what is refused, what fails."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import guarantees
import pytest

TESTS = Path(__file__).resolve().parents[1]

SUITE = """
import pytest

@pytest.mark.guarantee("EV1", "EV2")
def test_one():
    pass

@pytest.mark.guarantee("EV1")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_many(n):
    assert n != BAD

@pytest.mark.guarantee("QU1")
@pytest.mark.xfail(reason="one day", strict=False)
def test_wish():
    assert False

def test_proves_nothing():
    pass
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = guarantee(id)\n")
    (tmp_path / "test_suite.py").write_text(SUITE.replace("BAD", "2"))
    return tmp_path


def run(suite: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Runs pytest in the suite; its status, its output and what is recorded afterwards."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:trio", "-p", "guarantee_plugin", *options],
        cwd=suite,
        env=os.environ | {"PYTHONPATH": str(TESTS), "KMSD_CACHE": str(suite)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    recorded = suite / "guarantees.json"
    return done.returncode, done.stdout + done.stderr, json.loads(recorded.read_text()) if recorded.exists() else {}


def test_outcomes_are_recorded_with_their_ids(suite: Path) -> None:
    _, _, recorded = run(suite)
    assert {node: (entry["guarantees"], entry["outcome"]) for node, entry in recorded.items()} == {
        "test_suite.py::test_one": (["EV1", "EV2"], "passed"),
        "test_suite.py::test_many[1]": (["EV1"], "passed"),
        "test_suite.py::test_many[2]": (["EV1"], "failed"),
        "test_suite.py::test_many[3]": (["EV1"], "passed"),
        "test_suite.py::test_wish": (["QU1"], "failed"),
    }


def test_runs_are_merged_and_what_is_gone_is_forgotten(suite: Path) -> None:
    run(suite)
    (suite / "test_suite.py").write_text(SUITE.replace("BAD", "3"))
    _, _, recorded = run(suite, "-k", "many")
    assert recorded["test_suite.py::test_one"]["outcome"] == "passed"
    assert recorded["test_suite.py::test_many[2]"]["outcome"] == "passed"
    assert recorded["test_suite.py::test_many[3]"]["outcome"] == "failed"
    (suite / "test_suite.py").write_text(SUITE.replace("test_one", "test_other").replace("[1, 2, 3]", "[1]"))
    _, _, recorded = run(suite)
    assert sorted(node.partition("::")[2] for node in recorded) == ["test_many[1]", "test_other", "test_wish"]


def test_an_unknown_id_stops_the_run(suite: Path) -> None:
    (suite / "test_suite.py").write_text(SUITE.replace('"EV2"', '"EV99"'))
    status, output, recorded = run(suite)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "EV99" in output
    assert not recorded


def results(**outcomes: str) -> dict[str, Any]:
    return {
        f"test.py::{name}": {"guarantees": ["EV1"], "outcome": outcome, "at": "2026-01-02T03:04Z"}
        for name, outcome in outcomes.items()
    }


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ({}, "no test"),
        ({"a": "passed"}, "proven"),
        ({"a": "passed", "b": "failed"}, "FAILED"),
        ({"a": "passed", "b": "skipped"}, "proven"),
        ({"a": "skipped"}, "skipped"),
    ],
)
def test_a_claim_needs_a_passing_test_and_no_failing_one(outcomes: dict[str, str], verdict: str) -> None:
    known = {"EV1": "Events commit with their cursor. More words.", "EV2": "Another."}
    lines, broken = guarantees.report(known, results(**outcomes), ["EV1"])
    assert lines[0].split("  ")[1].strip() == verdict
    assert broken == ([] if verdict == "proven" else ["EV1"])
    assert f"{lines[-1]}".startswith("2 promises:")


def test_cases_of_one_test_are_one_line(suite: Path) -> None:
    _, _, recorded = run(suite)
    lines, _ = guarantees.report({"EV1": "A promise."}, recorded, [])
    (many,) = (line for line in lines if "test_many" in line)
    assert "failed" in many
    assert "(3 cases)" in many


def test_the_document_has_every_promise_and_claims_only_those() -> None:
    known = guarantees.promises()
    counts = {"EV": 8, "QU": 9, "WK": 6, "TX": 7, "PR": 7}
    assert list(known) == [f"{kind}{number + 1}" for kind, count in counts.items() for number in range(count)]
    assert set(guarantees.CLAIMED) <= known.keys()
