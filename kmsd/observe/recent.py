"""The last warnings and errors of the log, for the status page: as written, without secrets, bounded."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from kmsd import redact

MAX_LINES = 50
"""Different lines remembered; past it the one that was said longest ago is forgotten."""
MAX_WORDS = 400
"""Characters kept of a line."""


class Recent(logging.Handler):
    """Remembers records from WARNING on. Equal words about the same operation are one line with a count."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: OrderedDict[tuple[str, str, str], dict[str, Any]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """Remember the record. Never raises."""
        try:
            words = redact.KNOWN(record.getMessage())
        except (TypeError, ValueError, KeyError):
            words = redact.KNOWN(str(record.msg))
        facts = record.__dict__
        detail = facts.get("words") or facts.get("detail") or ""
        if detail:
            words = f"{words}: {redact.KNOWN(str(detail))}"
        if record.exc_info and record.exc_info[1] is not None:
            words = f"{words}: {type(record.exc_info[1]).__name__}: {redact.KNOWN(str(record.exc_info[1]))}"
        subject = str(facts.get("id", ""))
        key = (record.levelname, words, subject)
        line = self._lines.pop(key, None) or {"count": 0, "first": record.created}
        line |= {
            "at": record.created,
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("kmsd."),
            "words": words[:MAX_WORDS],
            "id": subject,
            "count": line["count"] + 1,
        }
        self._lines[key] = line
        if len(self._lines) > MAX_LINES:
            self._lines.popitem(last=False)

    def lines(self) -> Sequence[Mapping[str, Any]]:
        """What is remembered, newest first; instants are Unix seconds."""
        self.acquire()
        try:
            return [dict(line) for line in reversed(self._lines.values())]
        finally:
            self.release()


RECENT = Recent()
"""The process's; `logs.configure` attaches it."""
