"""What the status page is fed with, its policy, and its memory of rates, latencies and errors. Chromium looks at it in
`tests/operator`.
"""

import json
import logging
import re
from typing import Any

import pytest

from kmsd import redact
from kmsd.observe import overview, page
from kmsd.observe.board import Board
from kmsd.observe.health import Health
from kmsd.observe.health_checks import View
from kmsd.observe.history import POINTS, STEP, WINDOW, History, quantile
from kmsd.observe.metrics import Metrics
from kmsd.observe.recent import MAX_LINES, RECENT, Recent

HEARD = "kms_connector_gw_listener_event_received_counter"
LATENCY = "kms_connector_worker_decryption_latency_seconds"


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        """Unix seconds."""
        return self.at


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.5),
        ([0, 10, 0, 0], 0.5, 1.5),
        ([0, 10, 0, 0], 0.99, 1.99),
        ([5, 5, 0, 0], 0.5, 1.0),
        ([0, 0, 0, 7], 0.5, 4.0),  # beyond the last bound: at least that
        ([50, 0, 0, 50], 0.95, 4.0),
    ],
)
def test_quantiles_are_read_off_the_buckets(counts: list[int], q: float, expected: float | None) -> None:
    found = quantile((1.0, 2.0, 4.0), counts, q)
    assert found == (None if expected is None else pytest.approx(expected))


def test_rates_and_latencies_of_a_window() -> None:
    metrics, clock = Metrics(), Clock()
    history = History(metrics, clock)
    metrics.inc(HEARD, "public_decryption_request", by=10)
    metrics.inc(HEARD, "keygen_request", by=5)
    for _ in range(100):
        metrics.observe(LATENCY, 0.03, "public_decryption_request")
    clock.at += STEP
    history.sample()
    clock.at += 2 * STEP  # the loop was late: still events per second
    metrics.inc(HEARD, "keygen_request", by=10)
    history.sample()
    found = history.document()
    assert found["rates"]["heard"] == [3.0, 1.0]
    assert found["rates"]["failed"] == [0.0, 0.0]
    p50 = found["latencies"]["answer"]["p50"]
    assert all(0.01 <= value <= 0.05 for value in p50)
    for _ in range(WINDOW):
        clock.at += STEP
        history.sample()
    assert history.document()["latencies"]["answer"]["p50"][-1] is None  # the window has passed over them


def test_what_it_remembers_is_bounded() -> None:
    metrics, clock = Metrics(), Clock()
    history = History(metrics, clock)
    for _ in range(POINTS + 20):
        clock.at += STEP
        history.sample()
    assert len(history.document()["rates"]["heard"]) == POINTS
    recent = Recent()
    for number in range(MAX_LINES + 20):
        recent.handle(
            logging.makeLogRecord(
                {"name": "kmsd.x", "msg": "line %d", "args": (number,), "levelno": 40, "levelname": "ERROR"}
            )
        )
    assert len(recent.lines()) == MAX_LINES
    assert recent.lines()[0]["words"] == f"line {MAX_LINES + 19}"


def test_stages_of_decryptions_are_told() -> None:
    metrics, clock = Metrics(), Clock()
    history = History(metrics, clock)
    metrics.observe("kms_connector_stage_seconds", 0.2, "fetch", "user_decryption")
    metrics.observe("kms_connector_stage_seconds", 0.2, "check", "keygen")
    history.sample()
    (stage,) = history.document()["stages"]
    assert (stage["stage"], stage["kind"], stage["observations"]) == ("fetch", "user_decryption", 1)
    assert 0.1 <= stage["p50"] <= stage["p99"] <= 0.25


def test_equal_lines_are_counted_and_have_no_secret() -> None:
    redact.KNOWN.add("page-secret-0815")
    recent = Recent()
    logger = logging.Logger("kmsd.worker")
    logger.addHandler(recent)
    for _ in range(3):
        logger.error("failed with %s", "page-secret-0815", extra={"id": "pub:1", "words": "key page-secret-0815"})
    logger.info("not remembered")
    try:
        raise ValueError("page-secret-0815")
    except ValueError:
        logger.exception("odd")
    logger.warning("bad %d format", "x")
    words = [line["words"] for line in recent.lines()]
    assert words == ["bad %d format", "odd: ValueError: ***", "failed with ***: key ***"]
    assert recent.lines()[-1] | {"at": 0, "first": 0} == {
        "at": 0,
        "first": 0,
        "count": 3,
        "id": "pub:1",
        "level": "error",
        "logger": "worker",
        "words": "failed with ***: key ***",
    }


def _view() -> View:
    return View(Health(Clock()), Metrics(), ("listener", "worker", "sender", "gc"))


@pytest.mark.guarantee("PR4")
def test_the_document_is_complete_and_has_no_secret() -> None:
    redact.KNOWN.add("overview-secret-4711")
    view, board = _view(), Board()
    key = {"kind": "key", "id": f"{4 << 248 | 1:064x}", "state": "active", "reason": "x overview-secret-4711"}
    board.keys, board.keys_at = [key], view.health.now()
    view.health.fault("bucket http://overview-secret-4711", "overview-secret-4711")
    view.metrics.inc("kms_connector_core_window", "overview-secret-4711", by=2.0**60)
    RECENT.handle(
        logging.makeLogRecord({"name": "kmsd.x", "msg": "overview-secret-4711", "levelno": 40, "levelname": "ERROR"})
    )
    document = overview.document(view, board, History(view.metrics, view.health))
    assert "overview-secret-4711" not in json.dumps(document)
    assert document["keys"][0]["name"] == "key:1"
    assert document["keys_age_seconds"] == 0
    for name in overview.SHOWN:
        assert name in document["metrics"], name


def test_the_page_names_only_metrics_that_it_is_fed_with() -> None:
    """A metric that the script reads and nobody sends would be shown as 0 for ever."""
    script = page.HTML.decode().partition("<script>")[2]
    read: set[str] = set()
    for found in re.finditer(r"\bm\.(?:one|all|at|sum|most)\(\"(\w+)\"", script):
        read.add(found[1])
    assert read <= set(overview.SHOWN), read - set(overview.SHOWN)
    assert len(read) > 20


def _policy() -> dict[str, Any]:
    parts = dict(page.HEADERS)["Content-Security-Policy"].split("; ")
    return {name: values for name, _, values in (part.partition(" ") for part in parts)}


def test_the_policy_allows_what_the_page_contains_and_nothing_else() -> None:
    policy = _policy()
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"].count("sha256-") == policy["style-src"].count("sha256-") == 1
    assert "unsafe" not in str(policy)
    assert page.policy(page.HTML.replace(b"use strict", b"use strycht")) != page.policy(page.HTML)


def test_the_page_is_self_contained_and_never_makes_markup_of_data() -> None:
    text = page.HTML.decode()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert "@import" not in text
    assert " style=" not in text  # the policy would refuse it
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser", " onclick="):
        assert way not in text
