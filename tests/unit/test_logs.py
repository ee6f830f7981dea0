"""Logs: JSON and text, no secrets, no payloads, no floods, no chatter of libraries."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from kmsd import redact
from kmsd.observe import logs

SECRET = "log-secret-4711-abcdef"


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root, own = logging.getLogger(), logging.getLogger("kmsd")
    before = (list(root.handlers), root.level, own.level, sys.excepthook, logging.raiseExceptions)
    redact.KNOWN.add(SECRET)
    yield
    root.handlers[:], level, own_level, sys.excepthook, logging.raiseExceptions = before
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(False)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def written(log_format: str = "json", level: str = "info", stream: io.StringIO | None = None) -> io.StringIO:
    out = stream or io.StringIO()
    logs.configure(log_format, level, stream=out, environment={})
    return out


def test_json_lines() -> None:
    out = written()
    logging.getLogger("kmsd.worker").info(
        "stored", extra={"id": 1 << 248, "tx_hash": b"\1" * 32, "kind": "keygen", "n": 3}
    )
    (line,) = out.getvalue().splitlines()
    record = json.loads(line)
    assert record["level"] == "info"
    assert record["logger"] == "kmsd.worker"
    assert record["message"] == "stored"
    assert record["id"] == hex(1 << 248)
    assert record["tx_hash"] == "0x" + "01" * 32
    assert (record["kind"], record["n"]) == ("keygen", 3)
    assert record["time"].endswith("Z")


def test_text_lines_escape_control_characters() -> None:
    out = written("text")
    logging.getLogger("kmsd.core").warning("said %s", "a\nb\x1b[31m", extra={"detail": "c\rd"})
    assert out.getvalue().count("\n") == 1
    assert "a\\nb\\x1b[31m" in out.getvalue()
    assert "detail=c\\rd" in out.getvalue()


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    terminal = Terminal()
    written("auto", stream=terminal)
    logging.getLogger("kmsd.x").error("words")
    assert terminal.getvalue().startswith("\x1b[31m")
    pipe = written("auto")
    logging.getLogger("kmsd.x").error("words")
    json.loads(pipe.getvalue())


@pytest.mark.guarantee("PR4")
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_secrets_never_reach_a_log(log_format: str) -> None:
    out = written(log_format, "debug")
    log = logging.getLogger("kmsd.x")
    log.info("key %s", SECRET)
    log.info("words", extra={"url": f"https://u:pw@h/{SECRET}", "list": [SECRET], "map": {"a": SECRET}})
    try:
        raise ValueError(f"bad {SECRET}")
    except ValueError:
        log.exception("failed with %s", f"postgresql://u:{SECRET}@h/db")
    sys.excepthook(RuntimeError, RuntimeError(f"end {SECRET}"), None)
    text = out.getvalue()
    assert SECRET not in text
    assert "pw@" not in text
    assert "ValueError" in text
    assert "RuntimeError" in text


def test_payloads_are_counted_not_shown() -> None:
    out = written()
    logging.getLogger("kmsd.x").info(
        "request", extra={"body": b"\7" * 100_000, "words": "z" * 10_000, "many": [1] * 99}
    )
    record = json.loads(out.getvalue())
    assert record["body"] == "<100000 bytes>"
    assert len(record["words"]) < 600
    assert len(record["many"]) == 21


def test_libraries_are_silent_below_warning() -> None:
    out = written(level="debug")
    logging.getLogger("httpx").info("HTTP Request: POST https://rpc.example.org/v3/key")
    logging.getLogger("hpack").debug("headers")
    logging.getLogger("kmsd.x").debug("ours")
    logging.getLogger("asyncio").warning("theirs")
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ["ours", "theirs"]


def test_repeats_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    out = written()
    log = logging.getLogger("kmsd.x")
    for _ in range(10):
        log.warning("the same")
    for number in range(10):
        log.info("stored", extra={"id": number})
    assert len(out.getvalue().splitlines()) == 3 + 10
    assert logs.suppressed_lines() == 7
    now = logging.time.time
    monkeypatch.setattr(logging.time, "time", lambda: now() + logs.PERIOD + 1)
    if hasattr(logging.time, "time_ns"):
        now_ns = logging.time.time_ns
        monkeypatch.setattr(logging.time, "time_ns", lambda: now_ns() + int((logs.PERIOD + 1) * 1e9))
    log.warning("the same")
    assert json.loads(out.getvalue().splitlines()[-1])["repeats"] == 7


def test_remembered_lines_are_bounded() -> None:
    repeats = logs.Repeats()
    for number in range(logs.MAX_KEYS + 100):
        repeats.filter(logging.makeLogRecord({"msg": f"line {number}"}))
    assert len(repeats._seen) == logs.MAX_KEYS


def test_a_broken_record_does_not_raise() -> None:
    out = written()
    logging.getLogger("kmsd.x").info("%d things", "not a number")
    logging.getLogger("kmsd.x").info("after")
    assert "after" in out.getvalue()
