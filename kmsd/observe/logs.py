"""Structured logs: one line per event, JSON for machines or text for people, no payloads, no secrets (guarantee PR4).

Rooms log with the standard library: words in the message, facts in `extra`. What is written:

* only kmsd's own loggers from `log_level` on; of everybody else (httpx logs URLs with their keys) only warnings;
* every text passes the redactor; bytes are shown as hexadecimal up to 32 and as a count beyond; long values are cut;
* the same line again and again is written three times in half a minute, and then counted (`repeats`).
"""

import json
import logging
import os
import re
import sys
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from kmsd import redact
from kmsd.observe.recent import RECENT

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

MAX_VALUE = 500
"""Characters of one value."""
MAX_TRACE = 8_000
"""Characters of a traceback; its end is kept."""
WHOLE_BYTES = 32
"""Byte strings up to here are shown: ids, hashes, addresses. Longer ones are payloads."""
LARGEST_JSON_INT = 2**53
"""Larger integers are written as hexadecimal text: readers of JSON lose their digits, and they are ids."""

REPEATS, PERIOD = 3, 30.0
"""Equal lines written within PERIOD seconds; further ones are counted."""
MAX_KEYS = 2_000
"""Different lines remembered for that."""

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}


def configure(
    log_format: str = "auto",
    log_level: str = "info",
    *,
    stream: TextIO | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Send all logs of the process to `stream` (default stderr), replacing what was configured before."""
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    is_terminal = out.isatty()
    as_json = log_format == "json" or (log_format == "auto" and not is_terminal)
    colours = is_terminal and "NO_COLOR" not in environment
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter(colours=colours))
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler, RECENT]
    root.setLevel(logging.WARNING)
    logging.getLogger("kmsd").setLevel(LEVELS[log_level])
    logging.captureWarnings(True)
    logging.raiseExceptions = False
    sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("kmsd").critical("kmsd ends with an unexpected error", exc_info=(kind, error, trace))


class Repeats(logging.Filter):
    """Lets the same line (logger, level, words, operation) pass REPEATS times in PERIOD seconds.

    The next one that passes says in `repeats` how many did not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.suppressed = 0
        self._seen: OrderedDict[tuple[Any, ...], list[float]] = OrderedDict()  # first instant, passed, held back

    def filter(self, record: logging.LogRecord) -> bool:
        """May the record be written?"""
        key = (record.name, record.levelno, message_of(record), str(record.__dict__.get("id")))
        seen = self._seen.get(key)
        if seen is None or record.created - seen[0] >= PERIOD:
            if seen is not None and seen[2]:
                record.repeats = int(seen[2])
            self._seen[key] = [record.created, 1, 0]
            self._seen.move_to_end(key)
            if len(self._seen) > MAX_KEYS:
                self._seen.popitem(last=False)
            return True
        if seen[1] < REPEATS:
            seen[1] += 1
            return True
        seen[2] += 1
        self.suppressed += 1
        return False


def suppressed_lines() -> int:
    """Repeated lines that were counted instead of written, since logs were configured."""
    filters = [one for handler in logging.getLogger().handlers for one in handler.filters]
    return sum(one.suppressed for one in filters if isinstance(one, Repeats))


def message_of(record: logging.LogRecord) -> str:
    """The message; one whose arguments do not fit its format is shown unformatted instead of lost."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """The `extra` of a record as JSON values, without secrets and payloads."""
    return {
        name: plain(value)
        for name, value in record.__dict__.items()
        if name not in _STANDARD and not name.startswith("_")
    }


def plain(value: Any) -> Any:
    """One value as it may be shown."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if abs(value) < LARGEST_JSON_INT else hex(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "0x" + bytes(value).hex() if len(value) <= WHOLE_BYTES else f"<{len(value)} bytes>"
    if isinstance(value, (list, tuple, set, frozenset)):
        shown = [plain(item) for item in list(value)[:20]]
        return shown if len(value) <= 20 else [*shown, f"… {len(value)} in all"]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in list(value.items())[:20]}
    return _cut(redact.KNOWN(str(value)), MAX_VALUE)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + f"… ({len(text)} characters)"


def _trace(record: logging.LogRecord) -> str:
    """The traceback of a record, redacted, its end kept when it is long; empty when there is none."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    text = redact.KNOWN("".join(traceback.format_exception(*record.exc_info)))
    return text if len(text) <= MAX_TRACE else "…" + text[-MAX_TRACE:]


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the facts, the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _instant(record.created).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(redact.KNOWN(message_of(record)), MAX_TRACE),
        }
        for name, value in facts(record).items():
            line.setdefault(name, value)
        if trace := _trace(record):
            line["exception"] = trace
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """`12:00:01.123 warning worker  words  key=value`; control characters of whatever came from outside are escaped."""

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """The line, followed by the traceback if any."""
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        name = record.name.removeprefix("kmsd.")
        words = _visible(_cut(redact.KNOWN(message_of(record)), MAX_TRACE))
        extra = "".join(f"  {key}={_visible(_compact(value))}" for key, value in facts(record).items())
        line = f"{when} {record.levelname.lower():<8} {name:<12} {words}{extra}"
        colour = _COLOURS.get(record.levelno) if self._colours else None
        if colour:
            line = f"\x1b[{colour}m{line}\x1b[0m"
        trace = _trace(record)
        return line + ("\n" + "\n".join(map(_visible, trace.splitlines())) if trace else "")


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _visible(text: str) -> str:
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
