"""Progress of long work, on a terminal's stderr; nowhere else, so that scripts read only answers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar of `total` steps (None: nobody knows how many) that is gone with the block; call what it yields at each."""
    if not sys.stderr.isatty() or total in (0, 1):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
    counted = [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()] if total is not None else []
    with Progress(*columns, *counted, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=total)
        yield lambda: bar.advance(task)
