"""Questions of commands to the database: one short-lived store, errors as words."""

import getpass
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import asyncpg
import trio
import trio_asyncio

from kmsd.commands.options import EXIT_NO, EXIT_UNAVAILABLE, refuse
from kmsd.config import Settings
from kmsd.configuring.load import EXIT_STATUS
from kmsd.ports import DependencyDown
from kmsd.store.migrations import DatabaseRefused
from kmsd.store.postgres import PostgresStore, open_store

T = TypeVar("T")

NOT_MIGRATED = "the database has no tables of kmsd (or older ones): run kmsd migrate, or start kmsd once"


MISSING = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedObjectError,  # a type
)


class NotMigrated(Exception):
    """A table, column, function or type is missing."""


def ask(settings: Settings, question: Callable[[PostgresStore], Awaitable[T]]) -> T:
    """The answer of `question` over a store. Raises DependencyDown, DatabaseRefused, NotMigrated."""

    async def over_store() -> T:
        name = f"command {sys.argv[1] if sys.argv[1:] else ''}"
        async with open_store(settings.database_url, instance_name=name, pool_size=1) as store:
            return await question(store)

    return trio.run(_in_loop, over_store)


def answer(settings: Settings, question: Callable[[PostgresStore], Awaitable[T]], as_json: bool) -> T:
    """As `ask`; an error ends the command with words: 69 when the database is down, else 1 or 78."""
    with _refusing(as_json):
        return ask(settings, question)


def answering(work: Callable[[], Awaitable[T]], as_json: bool) -> T:
    """As `answer` for work that opens its own connections."""
    with _refusing(as_json):
        return trio.run(_in_loop, work)


@contextmanager
def _refusing(as_json: bool) -> Iterator[None]:
    try:
        yield
    except DependencyDown as down:
        refuse(down_words(down), as_json, EXIT_UNAVAILABLE)
    except NotMigrated:
        refuse(NOT_MIGRATED, as_json, EXIT_NO)
    except DatabaseRefused as refused:
        refuse(str(refused), as_json, EXIT_STATUS)


def down_words(down: DependencyDown) -> str:
    """An outage with its remedy."""
    return f"{down.name}: {down.detail}; is it running, and is its address right?"


def operator_name() -> str:
    """Who is recorded as having done something: the user behind sudo, at this machine."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


async def _in_loop(work: Callable[[], Awaitable[T]]) -> T:
    result: list[T] = []
    try:
        async with trio_asyncio.open_loop() as loop:
            # Its default handler ends the loop on any asyncio error that nobody retrieved.
            loop.set_exception_handler(lambda loop, context: None)
            result.append(await work())
    except BaseException as error:
        raise _single(error) from None
    return result[0]


def _single(error: BaseException) -> BaseException:
    """The first error of a group of groups; a missing table or column by its meaning."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MISSING):
        return NotMigrated()
    return error
