"""What the parts of the store share: the connections, and marking which items of a batch applied."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.store.connections import Database

Item = TypeVar("Item")


class Part:
    """A part of the store over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database


def by_kind(items: Sequence[Item], kind_of: Callable[[Item], Kind]) -> dict[Kind, list[int]]:
    """Indexes of `items` by kind, in the order of the operations' table, so that locks are taken in one order."""
    grouped: dict[Kind, list[int]] = {kind: [] for kind in OPERATIONS}
    for index, item in enumerate(items):
        grouped[kind_of(item)].append(index)
    return {kind: indexes for kind, indexes in grouped.items() if indexes}


def mark(applied: list[bool], indexes: Sequence[int], rows: Iterable[Any]) -> list[int]:
    """Set `applied` where `rows` (ordinals from 1 into `indexes`) say so; the indexes that did not apply."""
    for row in rows:
        applied[indexes[row[0] - 1]] = True
    return [index for index in indexes if not applied[index]]
