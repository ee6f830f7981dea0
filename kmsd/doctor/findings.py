"""What the doctor finds."""

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import trio

from kmsd import redact
from kmsd.ports import DependencyDown


class Verdict(StrEnum):
    """OK, WARNING: works, but somebody should look; ERROR: kmsd cannot do its job so; UNKNOWN: could not be asked."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


class Finding(NamedTuple):
    """One line: what was looked at, how it is, in words, and what to do (empty when well)."""

    subject: str
    verdict: Verdict
    words: str
    remedy: str = ""


def ok(subject: str, words: str) -> Finding:
    """A finding that all is well."""
    return Finding(subject, Verdict.OK, words)


def warning(subject: str, words: str, remedy: str) -> Finding:
    """A finding that somebody should look at."""
    return Finding(subject, Verdict.WARNING, words, remedy)


def error(subject: str, words: str, remedy: str) -> Finding:
    """A finding that stops the daemon from doing its job."""
    return Finding(subject, Verdict.ERROR, words, remedy)


Examination = Callable[[], Awaitable[Sequence[Finding]]]


async def guarded(subject: str, examination: Examination, deadline: float) -> Sequence[Finding]:
    """The examination's findings; an outage, a deadline or a surprise is a finding itself, without secrets."""
    try:
        with trio.fail_after(deadline):
            return await examination()
    except DependencyDown as down:
        return [error(subject, redact.KNOWN(down.detail), "Start it, or correct its address in the configuration.")]
    except trio.TooSlowError:
        words = f"no answer within {deadline:.0f} s"
        return [error(subject, words, "Start it, or correct its address in the configuration.")]
    except Exception as raised:
        surprise: BaseException = raised
        while isinstance(surprise, BaseExceptionGroup):
            surprise = surprise.exceptions[0]
        words = redact.KNOWN(f"{type(surprise).__name__}: {surprise}")
        return [Finding(subject, Verdict.UNKNOWN, words, "Unexpected; report it.")]
