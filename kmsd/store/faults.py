"""What an error of the database means: away, to be repeated, or a defect of ours. Classified here and nowhere else.

Classes of SQLSTATE are those of the PostgreSQL manual, appendix A.
"""

import asyncio
import ssl
from enum import Enum

import asyncpg
import trio


class Fault(Enum):
    """What to do after an error."""

    DOWN = "down"  # the database could not be asked: DependencyDown, the caller waits
    REPEAT = "repeat"  # the transaction lost against another one: the same again, at once
    DEFECT = "defect"  # neither: an error of this program, or of an operator's hand in the schema


_DOWN_CLASSES = frozenset({"08", "28", "3D", "53", "57", "58", "XX"})
"""Connection, authorisation, no such database, resources, operator's intervention, system and internal errors."""

_DOWN_STATES = frozenset({"25006", "25P03", "55P03", "55006"})
"""Read-only (a stand-by), idle in transaction too long, lock not available, object in use."""

_REPEAT_STATES = frozenset({"40001", "40P01"})
"""Serialization failure, deadlock."""

_TRANSPORT = (OSError, EOFError, TimeoutError, asyncio.TimeoutError, ssl.SSLError, trio.TooSlowError)


def classify(error: BaseException) -> Fault:
    """What `error` of a verb means."""
    if isinstance(error, asyncpg.exceptions.InvalidCachedStatementError | asyncpg.exceptions.OutdatedSchemaCacheError):
        return Fault.REPEAT
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state in _REPEAT_STATES:
            return Fault.REPEAT
        return Fault.DOWN if state[:2] in _DOWN_CLASSES or state in _DOWN_STATES else Fault.DEFECT
    if isinstance(error, _TRANSPORT):
        return Fault.DOWN
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, asyncpg.exceptions.DataError):
        # "connection is closed", "another operation is in progress": the connection is of no use.
        return Fault.DOWN if "closed" in str(error) or "in progress" in str(error) else Fault.DEFECT
    if isinstance(error, asyncpg.InternalClientError):
        return Fault.DOWN
    return Fault.DEFECT


def is_deadline(error: BaseException) -> bool:
    """True when the database was asked and gave no answer in time: our own deadline, or its statement_timeout."""
    return isinstance(error, trio.TooSlowError | TimeoutError | asyncpg.QueryCanceledError)


def words_of(error: BaseException) -> str:
    """One line that says what happened, without secrets: asyncpg's messages hold no password."""
    if isinstance(error, trio.TooSlowError | TimeoutError | asyncio.TimeoutError):
        return "no answer within the deadline"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    text = str(error).strip().split("\n")[0]
    return text or type(error).__name__
