"""`kmsd list`: requests and responses by state."""

import time
from typing import TYPE_CHECKING

import click

from kmsd.commands.identify import kind_named, kind_option, name
from kmsd.commands.options import common, print_json, say, settings_for

if TYPE_CHECKING:
    from kmsd.config import Settings

STATES = ("pending", "under_process", "failed", "completed")


@click.command("list")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="State; may be given several times.  [failed]"
)
@kind_option
@click.option("--responses/--requests", "responses", default=None, help="Only responses, or only requests; else both.")
@click.option("--diverging", is_flag=True, help="Instead: our answers that differ from what the committee agreed on.")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="Most rows, newest first."
)
@common
def list_rows(
    config: str | None,
    as_json: bool,
    states: tuple[str, ...],
    kind_name: str | None,
    responses: bool | None,
    diverging: bool,
    limit: int,
) -> None:
    """List requests and responses in a state, newest first, with their age, tries and last error.

    `kmsd show ID` tells the story of one.
    """
    from kmsd.commands.database import answer
    from kmsd.store.operator import View
    from kmsd.store.postgres import PostgresStore

    settings = settings_for(config, as_json, ("database_url",)).settings
    kind = kind_named(kind_name)
    if diverging:
        _list_diverging(settings, as_json, limit)
        return

    async def work(store: PostgresStore) -> list[View]:
        return list(await store.rows(states or ("failed",), kind=kind, is_response=responses, limit=limit))

    rows = answer(settings, work, as_json)
    if as_json:
        print_json({"ok": True, "rows": rows})
        return
    from kmsd.commands.status_view import duration
    from kmsd.operations.kinds import Kind

    now = time.time()
    for row in rows:
        what = name(Kind(row["kind"]), int(row["id"], 16)) + (" response" if row["is_response"] else "")
        words = row["last_error"] or ""
        age = duration(now - row["created_at"])
        say(f"{what:<24} {row['status']:<13} {age:>8} old  {row['attempts']:>3} tries  {words}")
    if not rows:
        say(f"none {' or '.join(states or ('failed',))}")
    elif len(rows) == limit:
        say(f"… the newest {limit}; --limit shows more")


def _list_diverging(settings: "Settings", as_json: bool, limit: int) -> None:
    """A Core with a wrong key gives signed, wrong answers without any error; here is where the chain showed it."""
    from kmsd.commands.database import answer
    from kmsd.commands.show import instant
    from kmsd.operations.kinds import Kind
    from kmsd.store.operator import View
    from kmsd.store.postgres import PostgresStore

    async def work(store: PostgresStore) -> list[View]:
        return list(await store.divergences(limit=limit))

    rows = answer(settings, work, as_json)
    if as_json:
        print_json({"ok": not rows, "diverging": rows})
        return
    for row in rows:
        what = name(Kind(row["kind"]), int(row["id"], 16))
        say(f"{what:<24} ours {_short(row['ours'])}, agreed {_short(row['theirs'])}, {instant(row['found_at'])}")
    if not rows:
        say("every answer of ours that the chain could be compared with is the committee's")


def _short(value: str) -> str:
    return value if len(value) <= 24 else f"{value[:18]}… ({len(value) // 2 - 1} bytes)"
