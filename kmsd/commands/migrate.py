"""`kmsd migrate`: the database's schema."""

import sys

import click

from kmsd.commands.options import EXIT_NO, common, print_json, say, settings_for
from kmsd.commands.progress import progress


@click.command()
@click.option("--check", is_flag=True, help="Only say what is missing; exit 1 when something is.")
@common
def migrate(config: str | None, as_json: bool, check: bool) -> None:
    """Bring the database's schema up to date; a database of the Rust connector (v0.11) is adopted in place.

    Runs under a lock and is recorded; running it twice changes nothing. The daemon does the same at its start. Exit 69
    when the database is down, 78 when it must not be touched (another network's, a newer kmsd's).
    """
    from kmsd.commands.database import answering
    from kmsd.store import migrations

    settings = settings_for(config, as_json, ("database_url",)).settings
    url = settings.database_url

    async def work() -> tuple[migrations.Status, migrations.Status]:
        before = await migrations.status(url)
        if not check:
            with progress(f"applying {len(before.pending)} migrations"):
                await migrations.migrate(url)
        return before, before if check else await migrations.status(url)

    before, after = answering(work, as_json)
    names = [f"{migration.version:04d} {migration.name}" for migration in before.pending]
    if as_json:
        print_json(
            {"ok": not after.pending, "was_pending": names, "applied": list(after.applied), "adopted": after.adopted}
        )
    elif not names:
        say("the schema is up to date")
    else:
        say(("missing: " if check else "applied: ") + ", ".join(names))
        if before.adopted and not check:
            say("the database was made by the Rust connector and is adopted; its binaries still run on it")
    sys.exit(EXIT_NO if after.pending else 0)
