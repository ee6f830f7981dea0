"""`kmsd`, `kmsd start`: run the daemon."""

import sys

import click

from kmsd.commands.options import Shared, common, settings_for


@click.command()
@click.option("--once", is_flag=True, help="Serve everything up to the head of now, print a summary, exit.")
@click.option("--from-block", type=click.IntRange(min=0), metavar="N", help="With --once: replay from block N.")
@common
def start(config: str | None, as_json: bool, once: bool, from_block: int | None) -> None:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends it at once.

    With --once: read up to the head of now, work until nothing can proceed, print what was done; exit 0 when all is
    done, 1 when something failed, 3 when something is left.
    """
    sys.exit(run(Shared(config, as_json), once=once, from_block=from_block))


def run(shared: Shared, *, once: bool, from_block: int | None) -> int:
    """Load, configure logs, run; the exit status."""
    if from_block is not None and not once:
        raise click.UsageError("--from-block needs --once; to go back with a running daemon use `kmsd rewind`")
    loaded = settings_for(shared.config, shared.as_json, None)
    from kmsd.observe import logs

    logs.configure(loaded.settings.log_format, loaded.settings.log_level)
    from kmsd.nursery import Options, main

    return main(loaded.settings, Options(once=once, from_block=from_block, json=shared.as_json))
